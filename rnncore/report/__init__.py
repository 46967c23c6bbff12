"""The report shows what a model has learnt, cell by cell. It imports the engine; the engine does not import the report.

    reading.py   one pass of a model over a text: cells, surprise and likeliest symbols
    probes.py    numbers computed from a text alone, such as the depth of brackets, that a cell may follow
    atlas.py     the cells of a model over a text, and their correlations with the probes
    story.py     all that the page tells of one model
    charts.py    the curves of a run, as SVG
    glyphs.py    visible stand-ins for symbols that have no shape
    page.py      the HTML page; its template, style and scripts are in templates/
"""

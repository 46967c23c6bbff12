"""runs is a run on the disk: its folder, its model files, what they say of themselves, and how they are found.

    setup.py        a run from Python: begun, or taken up again
    options.py      what is asked for of a run
    prepare.py      what a new run is made of
    resume.py       what going on with a run takes
    folder.py       a run folder: model files, metrics, samples; what resuming needs
    checkpoint.py   a model in a file: `rnncore.save`, `rnncore.load`
    metadata.py     the JSON text of a model file, read strictly
    schema.py       the kinds of its fields
    consistency.py  what its fields must say together
    files.py        files that are written whole or not at all
    lock.py         one process at a time writes a run
    names.py        the run or model that a name means
    mistaken.py     a file that is no model: what it is
    places.py       the text that a run was trained on, found again
    verify.py       every file of a run checked
    extend.py       a model that learns more symbols
    headline.py     what is shown of a run in a line
    card.py         a training card in words
    tensorboard.py  its metrics and samples as TensorBoard reads them
"""

"""Training runs on disk: run folders, model files and their metadata, and finding a model by its name.

    setup.py        start or resume a run from Python
    options.py      the options of a run
    prepare.py      build a new run from its options and its corpus
    resume.py       rebuild a saved run from its folder
    folder.py       the run folder: model files, metrics, samples, and the data for resuming
    checkpoint.py   model files: `rnncore.save`, `rnncore.load`
    metadata.py     the JSON metadata of a model file, read strictly
    schema.py       the kinds of the metadata's fields, and the check of a value against them
    consistency.py  contradictions between fields of the metadata
    files.py        write a file as a whole or not at all
    lock.py         lock a run folder, so that one process at a time writes it
    names.py        find the run or model for a name
    mistaken.py     error texts for a file that is not a model
    places.py       find the training text of a run again
    verify.py       check every file of a run
    extend.py       add symbols to a model's vocabulary
    headline.py     the one validation loss that is shown for a model
    card.py         a training card as text
    tensorboard.py  metrics and samples as event files for TensorBoard
"""

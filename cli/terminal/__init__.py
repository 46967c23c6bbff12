"""terminal is the layer between the commands and the user: streams, signals, progress, and commands to type.

    streams.py    standard streams that are closed, full, or lack characters
    limits.py     a limit on this process's memory
    signals.py    SIGINT, SIGTERM, SIGHUP and SIGUSR1 while a run trains
    called.py     the words with which this user calls `rnncore`
    meant.py      "did you mean": typing mistakes, and options of other programs
    progress.py   messages, and the progress of a training run
    written.py    generated texts on their way to a terminal, a pipe or a file
"""

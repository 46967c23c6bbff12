"""terminal is what lies between the commands and the user: streams, signals, progress, and words that can be typed.

    streams.py    standard streams that are closed, full or know few characters
    limits.py     a limit on this process's memory
    signals.py    SIGINT, SIGTERM, SIGHUP, SIGUSR1 while a run trains
    called.py     the words with which this user calls `rnncore`
    meant.py      "did you mean": slips of the finger, words of other programs
    progress.py   what appears while work goes on
    written.py    texts on their way out
"""

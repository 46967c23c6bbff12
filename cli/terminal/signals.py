"""Signals that stop or save a training run: at once during its setup, after the current step during training."""
import contextlib
import signal
from collections.abc import Iterator

STOPS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # SIGHUP comes when the terminal is closed
SAVE = signal.SIGUSR1  # asks for a save; the training goes on


class Stopped(BaseException):
    """SIGTERM or SIGHUP came before there was anything to save. This is no error, so it is a BaseException."""

    def __init__(self, number: int):
        super().__init__(by(number))
        self.number = number


def by(number: int) -> str:
    """Return the words "stopped by" and the name of the signal."""
    return f"stopped by {signal.Signals(number).name}"


class Signals:
    """The signals that came while this context is open.

    Outside `waiting`, a signal to stop raises KeyboardInterrupt or Stopped at once. Inside, the first one is stored in
    `stop` and stays there; only a second Ctrl-C raises KeyboardInterrupt. SIGUSR1 is stored for `save_asked`. A SIGHUP
    that was ignored at the start stays ignored, because nohup needs this.

    Python discards an exception in a finalizer, so a Stopped can be lost there. Then `waiting` begins with its signal.
    """

    def __init__(self):
        self.stop: int | None = None
        self.ended: int | None = None  # the signal for which Stopped was raised; the process is about to end
        self._save = self._waiting = False

    def __enter__(self) -> "Signals":
        heard = [number for number in (*STOPS, SAVE)
                 if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *exception) -> None:
        # When Stopped was raised, the process is about to end: a second signal must not interrupt that.
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.ended else handler or signal.SIG_DFL)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside this context signals are stored; the caller looks at `stop` and `save_asked` between steps."""
        self._waiting, self.stop = True, self.ended
        try:
            yield
        finally:
            self._waiting = False

    def save_asked(self) -> bool:
        """Return True if a save was requested since the last call."""
        if not self._save:  # a signal that comes after this test stays stored for the next call
            return False
        self._save = False
        return True

    def _hear(self, number: int, frame) -> None:
        if number == SAVE:
            self._save = True
        elif number == signal.SIGINT and (not self._waiting or self.stop is not None):
            raise KeyboardInterrupt
        elif self._waiting:
            self.stop = self.stop or number
        elif not self.ended:
            self.ended = number
            raise Stopped(number)

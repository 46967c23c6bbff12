"""Notices of the library on stderr: what takes a while, such as compiling, is said before it begins."""
import logging

from .progress import tell


class Notices(logging.Handler):
    """Print each message of the library's loggers as a line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())


def show_notices() -> None:
    """Show what the library logs from level INFO on; a second call changes nothing."""
    logger = logging.getLogger("rnncore")
    logger.setLevel(logging.INFO)
    logger.handlers = [Notices()]

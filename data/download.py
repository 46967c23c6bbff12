"""Download of one file over HTTP from the first of several addresses that serves the complete and right file.

The package pooch transfers it into a temporary file beside the wanted file. The temporary file is renamed to the wanted
file when its sha256 is right, so a partial or wrong file never has that name.
"""
import contextlib
import http
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol
from urllib.parse import urlsplit

from .decode import CorpusError

MOST = 1 << 28       # bytes; upper limit for a file whose size is not known
STALE = 24 * 3600    # seconds; an older temporary file belongs to no running transfer
LATER = {408, 425, 429}  # HTTP statuses below 500 after which another try may succeed
NO_SUCH_HOST = "its name cannot be looked up"  # the reason without a network; another try would fail at once, too
# (pattern in an error of requests, reason for the user). The first pattern that is found counts.
REASONS = (
    ("proxy", "the proxy does not let it through"),
    ("resolve|getaddrinfo|name or service", NO_SUCH_HOST),
    ("timed out", "silent for too long"),
    ("certificate|ssl", "its certificate is not trusted here"),
    ("refused", "connection refused"),
    ("unreachable|no route", "it cannot be reached"),
    ("incomplete|reset|aborted|broken|disconnected", "the connection broke off"),
)


@dataclass(frozen=True)
class Patience:
    """Limits on the number of tries, on waiting and on slow transfers."""

    tries: int = 3          # number of rounds over all addresses
    pause: float = 1.0      # seconds before the second round; before the third 2 times as many, then 3 times
    silence: float = 20.0   # seconds without a byte after which a transfer fails; half as many for the connection
    slowest: float = 500.0  # bytes per second; a slower transfer fails after `silence` seconds


class DownloadError(CorpusError):
    """All addresses failed. wrong: True if the last try at one of the hosts ended with a wrong file."""

    def __init__(self, message: str, wrong: bool):
        super().__init__(message)
        self.wrong = wrong


class Broken(ValueError):
    """A transfer failed. final: another try at this address would fail, too. wrong: the address served another file."""

    def __init__(self, message: str, final: bool = False, wrong: bool = False):
        super().__init__(message)
        self.final, self.wrong = final, wrong


def download(urls: Sequence[str], path: Path, sha256: str | None, size: int | None, patience: Patience,
             say: Callable[[str], None], moved: Callable[[int], None]) -> str:
    """Download the file `path` from one of `urls` and return that URL. A complete, right file replaces an old one.

    sha256 (hex) and size (bytes): those that the file must have, None if not known. say: called with a line for each
    round that failed and is followed by another. moved: called with the number of bytes of the file that have arrived.
    Raises DownloadError if all addresses failed, CorpusError if the folder cannot be written or pooch is not installed.
    """
    left = list(urls)
    troubles: dict[str, Broken] = {}
    for turn in range(patience.tries):
        if turn:
            wait = turn * patience.pause
            say(f"{path.name}: {_listed(troubles)}; trying again in {wait:g} s")
            time.sleep(wait)
        for url in list(left):
            try:
                _transfer(url, path, sha256, Transfer(size, patience, moved))
                return url
            except Broken as trouble:
                troubles[host(url)] = trouble
                if trouble.final:
                    left.remove(url)
        if not left:
            break
    raise DownloadError(f"{path.name} could not be downloaded: {_listed(troubles)}",
                        any(trouble.wrong for trouble in troubles.values()))


def host(url: str) -> str:
    """Return the host of a URL, without a user name and password before it."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _listed(troubles: dict[str, Broken]) -> str:
    """Return the hosts and their troubles in words; hosts with the same trouble are listed together."""
    reasons = dict.fromkeys(map(str, troubles.values()))
    hosts = {reason: [where for where, trouble in troubles.items() if str(trouble) == reason] for reason in reasons}
    return "; ".join(f"{', '.join(hosts[reason])}: {reason}" for reason in reasons)


def _transfer(url: str, path: Path, sha256: str | None, transfer: "Transfer") -> None:
    """Try one address once. Raises Broken if the transfer fails, CorpusError if it would fail at any address."""
    try:
        _sweep(path.parent)
        library().retrieve(url, sha256 and f"sha256:{sha256}", path.name, path.parent, downloader=transfer)
    except OSError as error:  # an error of the disk: Transfer turns those of the network into Broken
        raise _unwritable(path.parent, error) from None
    except (Broken, CorpusError):
        raise
    except ValueError:  # pooch raises it for a wrong hash; Broken and CorpusError are ValueErrors too, hence the order
        raise Broken("it serves another file (its sha256 is wrong; nothing was kept)", True, True) from None


def library() -> ModuleType:
    """Return the package pooch. Raises CorpusError if it is not installed."""
    try:
        import pooch
    except ImportError:
        raise CorpusError("corpora are downloaded by pooch, which is not here: `pip install pooch`") from None
    pooch.get_logger().setLevel("ERROR")  # rnncore prints its own messages
    return pooch


def _sweep(folder: Path) -> None:
    """Make the folder if it is missing, private to the user, and remove the temporary files of killed transfers."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.glob("tmp*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - STALE:
                path.unlink()


def _unwritable(folder: Path, error: OSError) -> CorpusError:
    """Return the error for a folder that cannot be written."""
    return CorpusError(f"{folder} cannot be written ({error.strerror or 'it is not allowed'}): "
                       "make room and make it writable, or name another folder for caches in XDG_CACHE_HOME")


class Response(Protocol):
    """The part of a response of the package requests that is used here."""

    status_code: int
    headers: Mapping[str, str]


class Transfer:
    """A downloader for pooch, and at the same time the file that it writes to.

    It counts the bytes and raises Broken for a transfer that is too slow, too long or too short. pooch calls it with a
    URL and the path of a temporary file; requests then writes to it.
    """

    def __init__(self, size: int | None, patience: Patience, moved: Callable[[int], None]):
        self.size, self.patience, self.moved = size, patience, moved
        self.done = self.total = 0  # bytes that have arrived, and bytes announced by the server (0 if not known)

    def __call__(self, url: str, output_file: str, _: None) -> None:
        """Download url into the temporary file output_file. Raises Broken for errors of the network."""
        fetch = library().HTTPDownloader(
            timeout=(self.patience.silence / 2, self.patience.silence), hooks={"response": self.heard},
            headers={"Accept-Encoding": "identity", "User-Agent": "rnncore"})
        self.begun = time.monotonic()
        with open(output_file, "wb") as self.file:
            try:
                fetch(url, self, None)
            except OSError as error:
                raise _broken(error) from None
        if self.done < (wanted := self.size or self.total):
            raise Broken(f"the connection broke off after {self.done:,} of {wanted:,} bytes")

    def heard(self, response: Response, **_: object) -> None:
        """Read the headers of a response, before its content: note the size. Raises Broken for a web page."""
        if response.status_code == 200 and "html" in response.headers.get("content-type", ""):
            raise Broken("it answers with a web page instead of the file (does the network ask for a login?)")
        # With a content encoding, content-length counts the packed bytes, and `write` gets the unpacked ones.
        if "content-encoding" not in response.headers:
            self.total = int(response.headers.get("content-length", 0))

    def write(self, chunk: bytes) -> None:
        """Write a chunk of the file. Raises Broken if the file is too long or the transfer too slow."""
        self.done += len(chunk)
        if self.done > (self.size or MOST):
            raise Broken(f"it sends more than {self.size or MOST:,} bytes: another file (nothing was kept)", True, True)
        seconds = time.monotonic() - self.begun
        if seconds > self.patience.silence and self.done < seconds * self.patience.slowest:
            raise Broken(f"slower than {self.patience.slowest:,.0f} bytes/s")
        with self.disk():
            self.file.write(chunk)
        self.moved(self.done)

    def flush(self) -> None:
        """Flush the temporary file."""
        with self.disk():
            self.file.flush()

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Turn an OSError in this context into a CorpusError. It is an error of the disk, not of the network."""
        try:
            yield
        except OSError as error:
            raise _unwritable(Path(self.file.name).parent, error) from None


def _broken(error: OSError) -> Broken:
    """Return the Broken for an error of requests: its reason in words, and whether another try makes sense."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        words = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else ""
        return Broken(f"it answers {status} {words}".rstrip(), final=status < 500 and status not in LATER)
    said = f"{type(error).__name__} {str(error).rpartition('Caused by')[2]}"
    words = next((words for pattern, words in REASONS if re.search(pattern, said, re.I)), type(error).__name__)
    return Broken(words, final=words == NO_SUCH_HOST)

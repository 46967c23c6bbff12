"""One file fetched over HTTP: from the first of several addresses that serves it whole and right, or not at all.

The transfer is pooch's, into a temporary file beside the wanted one, which bears its name once its sha256 is right.
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

MOST = 1 << 28       # bytes of a file whose size is not known
STALE = 24 * 3600    # seconds after which a temporary file is nobody's any more
LATER = {408, 425, 429}  # statuses below 500 that may be others the next time
NO_SUCH_HOST = "its name cannot be looked up"  # what happens without a network, at once
REASONS = (          # what the errors of requests mean, by the words in them
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
    """How long servers are waited for."""

    tries: int = 3          # rounds over all addresses
    pause: float = 1.0      # seconds before the second round, twice as many before the third, ...
    silence: float = 20.0   # seconds without a byte after which a server is given up; for a connection, half as many
    slowest: float = 500.0  # bytes a second that a transfer must make once it has lasted so many seconds


class DownloadError(CorpusError):
    """Every address failed; wrong: each of those that answered to the last served another file."""

    def __init__(self, message: str, wrong: bool):
        super().__init__(message)
        self.wrong = wrong


class Broken(ValueError):
    """A transfer that failed; final: the next one from there would fail in the same way; wrong: another file came."""

    def __init__(self, message: str, final: bool = False, wrong: bool = False):
        super().__init__(message)
        self.final, self.wrong = final, wrong


def download(urls: Sequence[str], path: Path, sha256: str | None, size: int | None, patience: Patience,
             say: Callable[[str], None], moved: Callable[[int], None]) -> str:
    """Fetch `path` from one of `urls` and return that one; an old file is replaced once the new one is right.

    sha256 (hex) and size (bytes) are those that the file must have, None: not known. `say` is told a line for every
    round that failed, `moved` the bytes that the transfer under way has brought. CorpusError where every address
    failed, the folder cannot be written, or pooch is not installed.
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
    """The host of an address, without the password that may stand before it."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _listed(troubles: dict[str, Broken]) -> str:
    """The hosts, with those of the same trouble together."""
    reasons = dict.fromkeys(map(str, troubles.values()))
    hosts = {reason: [where for where, trouble in troubles.items() if str(trouble) == reason] for reason in reasons}
    return "; ".join(f"{', '.join(hosts[reason])}: {reason}" for reason in reasons)


def _transfer(url: str, path: Path, sha256: str | None, transfer: "Transfer") -> None:
    """One try at one address."""
    try:
        _sweep(path.parent)
        library().retrieve(url, sha256 and f"sha256:{sha256}", path.name, path.parent, downloader=transfer)
    except OSError as error:  # those of the network are made Broken inside
        raise _unwritable(path.parent, error) from None
    except (Broken, CorpusError):
        raise
    except ValueError:  # pooch's, for a wrong hash
        raise Broken("it serves another file (its sha256 is wrong; nothing was kept)", True, True) from None


def library() -> ModuleType:
    """The package pooch."""
    try:
        import pooch
    except ImportError:
        raise CorpusError("corpora are downloaded by pooch, which is not here: `pip install pooch`") from None
    pooch.get_logger().setLevel("ERROR")  # the words are ours
    return pooch


def _sweep(folder: Path) -> None:
    """Remove the temporary files of transfers that were killed; make the folder, private to this user, if need be."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.glob("tmp*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - STALE:
                path.unlink()


def _unwritable(folder: Path, error: OSError) -> CorpusError:
    return CorpusError(f"{folder} cannot be written ({error.strerror or 'it is not allowed'}): "
                       "make room and make it writable, or name another folder for caches in XDG_CACHE_HOME")


class Response(Protocol):
    """A response of requests, as far as it is read here."""

    status_code: int
    headers: Mapping[str, str]


class Transfer:
    """A downloader for pooch, and the file that it writes to: counts, and gives up what is too slow, long or short."""

    def __init__(self, size: int | None, patience: Patience, moved: Callable[[int], None]):
        self.size, self.patience, self.moved = size, patience, moved
        self.done = self.total = 0  # bytes; total 0: not known

    def __call__(self, url: str, output_file: str, _: None) -> None:
        """Fetch url into the temporary file of that name; what the network does wrong is Broken."""
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
        """The answer's head has come."""
        if response.status_code == 200 and "html" in response.headers.get("content-type", ""):
            raise Broken("it answers with a web page instead of the file (does the network ask for a login?)")
        if "content-encoding" not in response.headers:
            self.total = int(response.headers.get("content-length", 0))

    def write(self, chunk: bytes) -> None:
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
        with self.disk():
            self.file.flush()

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """An error in here is none of the network's."""
        try:
            yield
        except OSError as error:
            raise _unwritable(Path(self.file.name).parent, error) from None


def _broken(error: OSError) -> Broken:
    """What an error of requests means, in words."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        words = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else ""
        return Broken(f"it answers {status} {words}".rstrip(), final=status < 500 and status not in LATER)
    said = f"{type(error).__name__} {str(error).rpartition('Caused by')[2]}"
    words = next((words for pattern, words in REASONS if re.search(pattern, said, re.I)), type(error).__name__)
    return Broken(words, final=words == NO_SUCH_HOST)

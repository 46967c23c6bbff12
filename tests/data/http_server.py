"""A web server on this machine that does to each request what a test told it, and then serves its files."""
import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """files: path -> bytes. todo: what to do to the next requests, one each; asked: the paths asked for."""

    def __init__(self, files: dict[str, bytes], url: str):
        self.files, self.url = files, url
        self.todo: list = []
        self.asked: list[str] = []
        self.end = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """The answers: a status, or the name of a method below; with nothing to do, the file or a 404."""

    def do_GET(self) -> None:
        self.server.told.asked.append(self.path)
        deed = self.server.told.todo.pop(0) if self.server.told.todo else "whole"
        body = self.server.told.files.get(self.path)
        with contextlib.suppress(OSError):  # who asked has left
            if isinstance(deed, int):
                self.send_error(deed)
            elif body is None:
                self.send_error(404)
            else:
                getattr(self, deed)(body)

    def head(self, length: int | None, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def whole(self, body: bytes) -> None:
        self.head(len(body))
        self.wfile.write(body)

    def lie(self, body: bytes) -> None:
        self.whole(body[::-1])

    def cut(self, body: bytes) -> None:
        """Breaks off in the middle of what was promised."""
        self.head(len(body))
        self.wfile.write(body[:len(body) // 2])

    def cut_unsaid(self, body: bytes) -> None:
        """The same without a length: it looks like the end."""
        self.head(None)
        self.wfile.write(body[:len(body) // 2])

    def mute(self, body: bytes) -> None:
        self.server.told.end.wait(10)

    def stall(self, body: bytes) -> None:
        self.head(len(body))
        self.wfile.write(body[:len(body) // 2])
        self.wfile.flush()
        self.server.told.end.wait(10)

    def drip(self, body: bytes) -> None:
        self.head(len(body))
        for start in range(0, len(body), 20):
            self.wfile.write(body[start:start + 20])
            time.sleep(0.01)

    def endless(self, body: bytes) -> None:
        self.head(None)
        while not self.server.told.end.is_set():
            self.wfile.write(body)

    def page(self, body: bytes) -> None:
        self.head(len(body), "text/html; charset=utf-8")
        self.wfile.write(body)

    def move(self, body: bytes) -> None:
        """Sends the client somewhere else: to the same file."""
        self.send_response(302)
        self.send_header("Location", self.path)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        """The tests read what was asked in Server.asked."""


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    """A running server of these files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.told = Server(files, f"http://127.0.0.1:{httpd.server_address[1]}/")
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield httpd.told
        finally:
            httpd.told.end.set()
            httpd.shutdown()
            thread.join()

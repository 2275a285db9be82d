"""A local HTTP server that answers as the real ones do: with ranges, cuts, refusals, redirects and pages."""

import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer


@dataclass(frozen=True)
class Reply:
    """An answer. `length=False` sends no Content-Length; `cut` closes the connection after that many bytes of body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: bool = True
    cut: int | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it came in; header names in lower case."""

    path: str
    headers: Mapping[str, str]


Script = Callable[[Asked], Reply]


def page(text: str, status: int = 200) -> Reply:
    """An HTML page."""
    return Reply(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"})


def in_turn(*replies: Reply | Script) -> Script:
    """Each reply once, the last one ever after."""
    left = list(replies)

    def script(asked: Asked) -> Reply:
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply if isinstance(reply, Reply) else reply(asked)

    return script


def ranged(body: bytes, etag: str | None = None, cut: int | None = None) -> Script:
    """A file, served with ranges and If-Range as RFC 9110 says."""

    def script(asked: Asked) -> Reply:
        headers = {} if etag is None else {"ETag": etag}
        match = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        start = int(match[1]) if match else 0
        if match is None or asked.headers.get("if-range", etag) != etag:
            return Reply(200, body, headers, cut=cut)
        if start >= len(body):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Reply(206, body[start:], headers, cut=cut)

    return script


class LocalServer:
    """Scripts by path (without the query) and a log of what was asked; 404 for any other path."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.scripts: dict[str, Script] = {}
        self.log: list[Asked] = []

    def on(self, path: str, *replies: Reply | Script) -> str:
        """Answer `path` with these replies in turn; returns its address."""
        self.scripts[path] = in_turn(*replies)
        return self.url + path

    def answer(self, asked: Asked) -> Reply:
        self.log.append(asked)
        script = self.scripts.get(asked.path.split("?")[0])
        return Reply(404, b"not here") if script is None else script(asked)

    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [asked.headers.get("range") for asked in self.log]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As TCPServer does: HTTPServer would look this machine's name up, which can take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()


@contextmanager
def serve() -> Iterator[LocalServer]:
    """A LocalServer on a free port of this machine, in a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            # A client that has seen enough hangs up.
            with suppress(ConnectionError):
                self._send(local.answer(Asked(self.path, headers)))

        def _send(self, reply: Reply) -> None:
            self.close_connection = True
            self.send_response(reply.status)
            headers = {"Content-Type": "application/octet-stream", "Connection": "close", **reply.headers}
            if reply.length:
                headers.setdefault("Content-Length", str(len(reply.body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut])

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    server = _Server(("127.0.0.1", 0), Handler)
    local = LocalServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield local
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> str:
    """An address of this machine at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"

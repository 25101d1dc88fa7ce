"""A real web server on this machine whose answers a test writes down beforehand: cut, wrong, slow, changed."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """How one request is answered."""

    body: bytes = b"no"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    send: int | None = None  # so many bytes of the body, then the connection ends
    hang: bool = False  # afterwards nothing comes, until the test is over
    length: bool = True  # says how long the body is
    ranges: bool = True  # sends the rest if asked for it
    careless: bool = False  # sends the rest of another version, too


class Web:
    """The server. The last answer is given again and again; `asked` and `sent` hold each request's headers and bytes of body."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = [Answer(status=404)]
        self.asked: list[dict[str, str]] = []
        self.sent: list[int] = []
        self.over = threading.Event()
        self._one = threading.Lock()

    def ranges(self) -> list[str | None]:
        """What part of the file each request asked for."""
        return [headers.get("Range") for headers in self.asked]

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        with self._one:
            number = len(self.asked)
            self.asked.append(dict(handler.headers))
            self.sent.append(0)
        answer = self.answers[min(number, len(self.answers) - 1)]
        status, headers, content = self._part(answer, dict(handler.headers))
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        content = content[: answer.send]
        self.sent[number] = len(content)
        try:
            handler.wfile.write(content)
        except ConnectionError:  # the other side had enough
            return
        if answer.hang:
            self.over.wait()

    def _part(self, answer: Answer, asked: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        content, status, headers = answer.body, answer.status, dict(answer.headers)
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.get("Range", ""))
        same = answer.careless or asked.get("If-Range") in (headers.get("ETag"), headers.get("Last-Modified"))
        if wanted and answer.ranges and same and status == 200:
            start, total = int(wanted[1]), len(content)
            status, content = (206, content[start:]) if start < total else (416, b"")
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}" if content else f"bytes */{total}"
        if answer.length:
            headers["Content-Length"] = str(len(content))
        return status, headers, content


@contextmanager
def serving() -> Iterator[Web]:
    """A server that runs as long as the block."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.reply(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = False
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        web.url = f"http://127.0.0.1:{httpd.server_port}/a.bin"
        try:
            yield web
        finally:
            web.over.set()
            httpd.shutdown()
            thread.join()

"""Files come from the mirror, the cache or a real local web server; nothing half-written stays behind."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medpipe.corpus import download
from medpipe.errors import MedpipeError, SourceUnreachable

BODY = b"the content of the file " * 1000


class Handler(BaseHTTPRequestHandler):
    """/ok: the file; /flaky: 500 twice, then the file; /cut: half of the file; /moved: a redirect; anything else: 404."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/ok")
            self.end_headers()
            return
        status = {"/ok": 200, "/cut": 200, "/flaky": 500 if self.asked.count("/flaky") < 3 else 200, "/broken": 500}.get(self.path, 404)
        body = BODY if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked: list[str] = []
    handler = type("Bound", (Handler,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


def test_downloads_once_and_then_uses_the_cache(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    lines: list[str] = []
    for _ in range(2):
        path = download.fetch(["a.bin"], f"{url}/ok", tmp_path, what="a file", sha256=hashlib.sha256(BODY).hexdigest(), log=lines.append)
        assert path == tmp_path / "a.bin" and path.read_bytes() == BODY
    assert asked == ["/ok"] and lines == [f"downloading a file from {url}/ok"]


def test_follows_redirects(server: tuple[str, list[str]], tmp_path: Path) -> None:
    assert download.fetch(["a.bin"], f"{server[0]}/moved", tmp_path, what="a file").read_bytes() == BODY


def test_server_errors_are_tried_again(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    assert download.fetch(["a.bin"], f"{url}/flaky", tmp_path, what="a file").read_bytes() == BODY
    assert asked == ["/flaky"] * 3


@pytest.mark.parametrize(
    ("page", "requests", "says"), [("missing", 1, "HTTP status 404"), ("broken", 3, "HTTP status 500"), ("cut", 3, "RemoteProtocolError")]
)
def test_what_cannot_be_had_is_unreachable_and_leaves_nothing(
    server: tuple[str, list[str]], tmp_path: Path, page: str, requests: int, says: str
) -> None:
    url, asked = server
    with pytest.raises(SourceUnreachable, match=says) as caught:
        download.fetch(["a.bin"], f"{url}/{page}", tmp_path / "cache", what="a file")
    assert len(asked) == requests
    assert "a.bin in the folder MEDPIPE_MIRROR" in str(caught.value) and f"{url}/{page}" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wrong_checksum_stops_and_leaves_nothing(server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="sha256") as caught:
        download.fetch(["a.bin"], f"{server[0]}/ok", tmp_path / "cache", what="a file", sha256="0" * 64)
    assert not isinstance(caught.value, SourceUnreachable)  # the run must not go on as if the file did not exist
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wrong_checksum_of_a_local_file_stops_too(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"damaged")
    with pytest.raises(MedpipeError, match="sha256"):
        download.fetch(["a.bin"], "http://127.0.0.1:1/", tmp_path, what="a file", sha256="0" * 64)


def test_a_closed_port_is_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        with pytest.raises(SourceUnreachable, match="ConnectError"):
            download.fetch(["a.bin"], url, tmp_path, what="a file")
        with pytest.raises(SourceUnreachable, match="ConnectError"):
            download.require_reachable(url, expected="a network")


def test_the_mirror_goes_before_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mirror, cache = tmp_path / "mirror", tmp_path / "cache"
    for folder, names in ((mirror, ["second"]), (cache, ["first", "second"])):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    assert download.find_local(["first", "second"], cache) == cache / "first"
    monkeypatch.setenv("MEDPIPE_MIRROR", str(mirror))
    assert download.find_local(["first", "second"], cache) == mirror / "second"
    assert download.find_local(["third"], cache) is None


def test_a_mirror_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDPIPE_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(MedpipeError, match="MEDPIPE_MIRROR"):
        download.find_local(["a"], tmp_path)

"""Files come from the mirror, the cache or a real local web server; whole and the same ones, or not at all."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medpipe.corpus import download
from medpipe.corpus.download import MIB, Limits, fetch
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe_tests.conftest import Collected
from medpipe_tests.corpus.web import Answer, Web, serving

BODY = random.Random(1).randbytes(3 * MIB + 12345)
OTHER = random.Random(2).randbytes(len(BODY) - 500)
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
TAG = {"ETag": '"one"'}
QUICK = Limits(read_seconds=5.0, pause_seconds=0.0)
WHOLE = Answer(BODY, headers=TAG)
CUT = Answer(BODY, headers=TAG, send=HALF)
REST = [None, f"bytes={HALF}-"]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


def get(web: Web, folder: Path, sha256: str | None = None, limits: Limits = QUICK, report: Collected | None = None) -> bytes:
    """The file's content; nothing but the file may be left beside it."""
    path = fetch(["a.bin"], web.url, folder, what="a file", sha256=sha256, limits=limits, report=report)
    assert left(folder) == ["a.bin"]
    return path.read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".guard"))


def test_downloads_once_tells_how_far_it_is_and_then_uses_the_cache(web: Web, tmp_path: Path, reporter: Collected) -> None:
    web.answers = [WHOLE]
    for _ in range(2):
        assert get(web, tmp_path, SHA256, report=reporter) == BODY
    assert [asked["Accept-Encoding"] for asked in web.asked] == ["identity"]  # the rest of a packed file could not be asked for
    assert reporter.lines == [f"downloading a file from {web.url}"]
    assert reporter.steps == [(done, 4, "MiB of a file") for done in (1, 2, 3, 4)]


def test_follows_redirects(web: Web, tmp_path: Path) -> None:
    web.answers = [Answer(status=302, headers={"Location": "/elsewhere"}), WHOLE]
    assert get(web, tmp_path) == BODY


def test_server_errors_are_tried_again(web: Web, tmp_path: Path) -> None:
    web.answers = [Answer(status=500), Answer(status=429), WHOLE]
    assert get(web, tmp_path) == BODY
    assert len(web.asked) == 3


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (500, 3)])
def test_what_cannot_be_had_is_unreachable_and_leaves_nothing(web: Web, tmp_path: Path, status: int, requests: int) -> None:
    web.answers = [Answer(status=status)]
    with pytest.raises(SourceUnreachable, match=f"HTTP status {status}") as caught:
        get(web, tmp_path)
    assert len(web.asked) == requests and left(tmp_path) == []
    assert "a.bin in the folder MEDPIPE_MIRROR" in str(caught.value) and web.url in str(caught.value)


@pytest.mark.parametrize("proof", [TAG, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_cut_download_goes_on_where_it_stopped(web: Web, tmp_path: Path, proof: dict[str, str], reporter: Collected) -> None:
    web.answers = [Answer(BODY, headers=proof, send=HALF), Answer(status=500), Answer(BODY, headers=proof)]
    assert get(web, tmp_path, report=reporter) == BODY
    assert web.ranges() == [None, f"bytes={HALF}-", f"bytes={HALF}-"]
    assert web.asked[2]["If-Range"] in proof.values()
    assert sum(web.sent) - len(b"no") == len(BODY)  # no byte was sent twice
    assert f"going on with a file after {HALF} bytes" in reporter.lines


def test_tries_that_bring_bytes_do_not_count_against_it(web: Web, tmp_path: Path) -> None:
    web.answers = [Answer(BODY, headers=TAG, send=len(BODY) // 10)] * 12
    assert get(web, tmp_path) == BODY
    assert len(web.asked) == 11  # ten tenths and what rounding left


def test_the_next_run_goes_on_where_this_one_gave_up(web: Web, tmp_path: Path) -> None:
    web.answers = [CUT, Answer(status=503)]
    with pytest.raises(SourceUnreachable, match="503"):
        get(web, tmp_path)
    assert left(tmp_path) == ["a.bin.part", "a.bin.part.json"] and len(web.asked) == 1 + QUICK.tries
    web.answers = [WHOLE]
    assert get(web, tmp_path) == BODY
    assert web.ranges()[-1] == f"bytes={HALF}-"


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}])
def test_without_proof_that_it_is_the_same_file_it_starts_anew(web: Web, tmp_path: Path, headers: dict[str, str]) -> None:
    web.answers = [Answer(BODY, headers=headers, send=HALF), Answer(BODY, headers=headers)]
    assert get(web, tmp_path) == BODY
    assert web.ranges() == [None, None]


def test_a_server_that_ignores_the_range_starts_anew(web: Web, tmp_path: Path) -> None:
    web.answers = [CUT, Answer(BODY, headers=TAG, ranges=False)]
    assert get(web, tmp_path) == BODY
    assert web.ranges() == REST


@pytest.mark.parametrize("careless", [False, True])
def test_two_versions_are_never_mixed(web: Web, tmp_path: Path, careless: bool) -> None:
    web.answers = [CUT, Answer(OTHER, headers={"ETag": '"two"'}, careless=careless)]
    assert get(web, tmp_path) == OTHER
    assert web.ranges() == ([*REST, None] if careless else REST)


def test_two_versions_of_another_length_are_never_mixed(web: Web, tmp_path: Path) -> None:
    web.answers = [CUT, Answer(OTHER, careless=True)]  # the rest of something, without a word about its version
    assert get(web, tmp_path) == OTHER


@pytest.mark.parametrize("spoil", ["too long", "whole", "no note", "bad note", "another address"])
def test_what_an_earlier_run_left_is_taken_for_what_it_is(web: Web, tmp_path: Path, spoil: str) -> None:
    web.answers = [CUT, WHOLE]
    with pytest.raises(SourceUnreachable):
        get(web, tmp_path, limits=Limits(tries=0))
    part, note = tmp_path / "a.bin.part", tmp_path / "a.bin.part.json"
    if spoil in ("too long", "whole"):
        part.write_bytes(BODY + b"more" * (spoil == "too long"))
    elif spoil == "no note":
        note.unlink()
    else:
        note.write_text('{"etag": ' if spoil == "bad note" else note.read_text().replace("a.bin", "b.bin"))
    assert get(web, tmp_path) == BODY
    asked_then = {"too long": [f"bytes={len(BODY) + 4}-", None], "whole": []}.get(spoil, [None])
    assert web.ranges() == [None, *asked_then]


def test_a_server_that_hangs_is_given_up_and_one_that_wakes_is_resumed(web: Web, tmp_path: Path) -> None:
    short = Limits(read_seconds=0.2, pause_seconds=0.0, tries=2)
    web.answers = [Answer(hang=True, send=0)]
    with pytest.raises(SourceUnreachable, match="ReadTimeout"):
        get(web, tmp_path, limits=short)
    assert len(web.asked) == 2
    web.asked.clear()
    web.answers = [Answer(BODY, headers=TAG, send=HALF, hang=True), WHOLE]
    assert get(web, tmp_path, limits=short) == BODY
    assert web.ranges() == REST


def test_a_download_has_a_time_limit_and_goes_on_in_the_next_run(web: Web, tmp_path: Path) -> None:
    web.answers = [WHOLE]
    with pytest.raises(SourceUnreachable, match="within that time"):
        get(web, tmp_path, limits=Limits(total_seconds=0.0))
    had = (tmp_path / "a.bin.part").stat().st_size
    assert 0 < had < len(BODY)
    assert get(web, tmp_path) == BODY and web.ranges() == [None, f"bytes={had}-"]


@pytest.mark.parametrize("length", [True, False])
def test_a_file_above_the_limit_is_refused(web: Web, tmp_path: Path, length: bool) -> None:
    web.answers = [Answer(BODY, headers=TAG, length=length)]
    with pytest.raises(MedpipeError, match="at most 1048576") as caught:
        get(web, tmp_path, limits=Limits(bytes=MIB))
    assert not isinstance(caught.value, SourceUnreachable) and left(tmp_path) == [] and len(web.asked) == 1


def test_a_file_of_unknown_length_tells_the_limit(web: Web, tmp_path: Path, reporter: Collected) -> None:
    web.answers = [Answer(BODY, length=False)]
    assert get(web, tmp_path, limits=Limits(bytes=5 * MIB), report=reporter) == BODY
    assert reporter.steps[0] == (1, 5, "MiB of a file, its size unknown: the limit is shown") and reporter.steps[-1][:2] == (4, 4)


@pytest.mark.parametrize("answer", [Answer(status=204, length=False, body=b""), Answer(BODY, headers={"Content-Encoding": "gzip"})])
def test_an_answer_that_is_not_the_files_bytes_is_refused(web: Web, tmp_path: Path, answer: Answer) -> None:
    web.answers = [answer]
    with pytest.raises(SourceUnreachable, match="status 20"):
        get(web, tmp_path)
    assert left(tmp_path) == [] and len(web.asked) == 1


def test_a_wrong_byte_is_given_one_more_chance_from_the_start(web: Web, tmp_path: Path, reporter: Collected) -> None:
    wrong = Answer(BODY[:-1] + bytes([BODY[-1] ^ 1]), headers=TAG)
    web.answers = [wrong, WHOLE]
    assert get(web, tmp_path / "lucky", SHA256, report=reporter) == BODY
    assert web.ranges() == [None, None] and "once more from the start" in reporter.lines[-1]
    web.answers = [wrong]
    with pytest.raises(MedpipeError, match="sha256") as caught:
        get(web, tmp_path / "unlucky", SHA256)
    assert not isinstance(caught.value, SourceUnreachable)  # the run must not go on as if the file did not exist
    assert SHA256[:12] in str(caught.value) and left(tmp_path / "unlucky") == [] and len(web.asked) == 4


def test_a_wrong_checksum_of_a_local_file_stops_too(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"damaged")
    with pytest.raises(MedpipeError, match="sha256"):
        fetch(["a.bin"], "http://127.0.0.1:1/", tmp_path, what="a file", sha256="0" * 64)


KILLED = """
import sys
from pathlib import Path
from medpipe.corpus.download import fetch
class Report:
    log = warn = lambda self, text: None
    progress = lambda self, done, total, text="": print(done, flush=True)
fetch(["a.bin"], sys.argv[1], Path(sys.argv[2]), what="a file", report=Report())
"""


def test_a_killed_download_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    web.answers = [Answer(BODY, headers=TAG, send=2 * MIB + 100, hang=True), WHOLE]
    child = subprocess.Popen([sys.executable, "-c", KILLED, web.url, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout and [child.stdout.readline() for _ in range(2)] == ["1\n", "2\n"]
        child.send_signal(signal.SIGKILL)
    had = (tmp_path / "a.bin.part").stat().st_size
    assert child.returncode == -signal.SIGKILL and had >= 2 * MIB and not (tmp_path / "a.bin").exists()
    assert get(web, tmp_path, SHA256) == BODY
    assert web.ranges() == [None, f"bytes={had}-"] and web.sent[1] == len(BODY) - had


def test_two_at_once_download_it_once(web: Web, tmp_path: Path) -> None:
    web.answers = [WHOLE]
    threads = [threading.Thread(target=get, args=(web, tmp_path, SHA256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() == BODY and len(web.asked) == 1


def test_a_closed_port_is_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        with pytest.raises(SourceUnreachable, match="ConnectError"):
            fetch(["a.bin"], url, tmp_path, what="a file", limits=QUICK)
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

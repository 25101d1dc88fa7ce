"""The lock file: the first use of a file is recorded, every later one must be of the same content, also for several processes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe.corpus import lockfile
from medpipe.corpus.download import fetch
from medpipe.errors import MedpipeError
from medpipe_tests.corpus.web import Answer, serving

NOWHERE = "http://127.0.0.1:1/"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("MEDPIPE_MIRROR", str(folder))
    return folder


def use(name: str, tmp_path: Path, sha256: str | None = None) -> Path:
    lock = tmp_path / "data" / "sources.lock.json"
    return fetch([name], f"{NOWHERE}{name}", tmp_path / "cache", what="a file", lock=lock, sha256=sha256)


def test_the_first_use_is_recorded_and_later_ones_must_agree(mirror: Path, tmp_path: Path) -> None:
    lock = tmp_path / "data" / "sources.lock.json"
    for name in ("b.txt", "a.txt"):
        (mirror / name).write_text(name)
        assert use(name, tmp_path) == mirror / name
    text = lock.read_text()
    assert json.loads(text)["a.txt"] == {"sha256": sha(b"a.txt"), "bytes": 5, "url": f"{NOWHERE}a.txt"}
    assert list(json.loads(text)) == ["a.txt", "b.txt"] and len(text.splitlines()) == 12
    use("a.txt", tmp_path)
    assert lock.read_text() == text
    (mirror / "a.txt").write_text("another")
    with pytest.raises(MedpipeError) as caught:
        use("a.txt", tmp_path)
    told = (sha(b"a.txt"), sha(b"another"), str(mirror / "a.txt"), f'delete the entry "a.txt" of {lock}')
    assert all(part in str(caught.value) for part in told) and lock.read_text() == text
    lock.write_text(json.dumps({name: entry for name, entry in json.loads(text).items() if name != "a.txt"}))
    use("a.txt", tmp_path)
    assert {name: entry.sha256 for name, entry in lockfile.read(lock).items()} == {"a.txt": sha(b"another"), "b.txt": sha(b"b.txt")}


def test_a_pinned_checksum_needs_no_lock_file(mirror: Path, tmp_path: Path) -> None:
    (mirror / "a.txt").write_text("pinned")
    use("a.txt", tmp_path, sha256=sha(b"pinned").upper())
    assert not (tmp_path / "data").exists()


def test_a_download_that_differs_from_the_record_is_tried_twice_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    lock, cache = tmp_path / "lock.json", tmp_path / "cache"
    with serving() as web:

        def again() -> Path:
            (cache / "a.bin").unlink(missing_ok=True)
            web.asked.clear()
            return fetch(["a.bin"], web.url, cache, what="a file", lock=lock)

        web.answers = [Answer(b"the file")]
        again()
        web.answers = [Answer(b"wrong")]
        with pytest.raises(MedpipeError, match=r'delete the entry "a\.bin"') as caught:
            again()
        assert all(part in str(caught.value) for part in (sha(b"wrong"), sha(b"the file"), web.url))
        assert [path.name for path in cache.iterdir() if path.suffix != ".guard"] == [] and len(web.asked) == 2
        web.answers = [Answer(b"wrong"), Answer(b"the file")]
        assert again().read_bytes() == b"the file"
    assert lockfile.read(lock) == {"a.bin": lockfile.Locked(sha256=sha(b"the file"), bytes=8, url=web.url)}


@pytest.mark.parametrize("content", ["{", "[]", '{"a.txt": "abc"}', '{"a.txt": {"sha256": "short", "bytes": 1, "url": ""}}'])
def test_a_damaged_lock_file_is_told_and_left_alone(mirror: Path, tmp_path: Path, content: str) -> None:
    lock = tmp_path / "data" / "sources.lock.json"
    lock.parent.mkdir()
    lock.write_text(content)
    (mirror / "a.txt").write_text("x")
    with pytest.raises(MedpipeError, match=r"sources\.lock\.json: mend it"):
        use("a.txt", tmp_path)
    assert lock.read_text() == content


RECORDS = """
import sys
from pathlib import Path
from medpipe.corpus.download import fetch
first, lock = int(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + 30):
    fetch([f"{number:02}.txt"], "http://127.0.0.1:1/", lock.parent, what="a file", lock=lock)
"""


def test_two_processes_lose_no_entry_of_each_other(mirror: Path, tmp_path: Path) -> None:
    for number in range(50):
        (mirror / f"{number:02}.txt").write_text(str(number))
    lock = tmp_path / "lock.json"
    children = [
        subprocess.Popen([sys.executable, "-c", RECORDS, first, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for first in ("0", "20")  # ten of the files are used by both
    ]
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        print("go", file=child.stdin, flush=True)
    for child in children:
        child.communicate()
    assert [child.returncode for child in children] == [0, 0]
    assert {name: entry.sha256 for name, entry in lockfile.read(lock).items()} == {f"{n:02}.txt": sha(b"%d" % n) for n in range(50)}


def test_of_two_that_record_different_content_the_first_holds(tmp_path: Path) -> None:
    lock, path = tmp_path / "lock.json", tmp_path / "a.txt"
    path.write_text("first")
    lockfile.record(lock, path, sha(b"first"), "")
    with pytest.raises(MedpipeError, match="sha256"):
        lockfile.record(lock, path, sha(b"second"), "")
    assert lockfile.read(lock)["a.txt"].sha256 == sha(b"first")


def test_one_that_holds_the_guard_for_too_long_is_named(tmp_path: Path) -> None:
    with (
        lockfile.alone(tmp_path / "a.txt", 1.0),
        pytest.raises(MedpipeError, match=r"another process busy with a\.txt"),
        lockfile.alone(tmp_path / "a.txt", 0.0),
    ):
        raise AssertionError("both went in")

"""The lock file: the first use of a file is recorded, every later one must be of the same content, also for several processes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe import store
from medpipe.corpus import lockfile
from medpipe.corpus.download import fetch, fetched
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
    entry = json.loads(text)["a.txt"]
    assert entry.pop("modified").endswith(" UTC")
    assert entry == {"sha256": sha(b"a.txt"), "bytes": 5, "url": f"{NOWHERE}a.txt"}
    assert list(json.loads(text)) == ["a.txt", "b.txt"] and len(text.splitlines()) == 14
    use("a.txt", tmp_path)
    assert lock.read_text() == text
    (mirror / "a.txt").write_text("another")
    with pytest.raises(MedpipeError) as caught:
        use("a.txt", tmp_path)
    told = (sha(b"a.txt")[:12], sha(b"another")[:12], str(mirror / "a.txt"), f"recorded in {lock}")
    assert all(part in str(caught.value) for part in told) and lock.read_text() == text
    assert sha(b"a.txt") not in str(caught.value) and sha(b"another") not in str(caught.value)
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
        with pytest.raises(MedpipeError, match=r'deletes the entry "a\.bin"') as caught:
            again()
        assert all(part in str(caught.value) for part in (sha(b"wrong")[:12], sha(b"the file")[:12], web.url))
        assert [path.name for path in cache.iterdir() if path.suffix != ".guard"] == [] and len(web.asked) == 2
        web.answers = [Answer(b"wrong"), Answer(b"the file")]
        assert again().read_bytes() == b"the file"
    (entry,) = lockfile.read(lock).values()
    assert (entry.sha256, entry.bytes, entry.url) == (sha(b"the file"), 8, web.url)


@pytest.mark.parametrize("content", ["{", "[]", '{"a.txt": "abc"}', '{"a.txt": {"sha256": "short", "bytes": 1, "url": ""}}'])
def test_a_damaged_lock_file_is_told_and_left_alone(mirror: Path, tmp_path: Path, content: str) -> None:
    lock = tmp_path / "data" / "sources.lock.json"
    lock.parent.mkdir()
    lock.write_text(content)
    (mirror / "a.txt").write_text("x")
    with pytest.raises(MedpipeError, match=r"sources\.lock\.json: mend it"):
        use("a.txt", tmp_path)
    assert lock.read_text() == content


@pytest.mark.parametrize(("seconds", "newer"), [(60, "the file that is here is the newer one"), (-60, "the recorded one is newer")])
def test_another_content_is_told_with_the_newer_one_and_the_command_that_accepts_it(
    mirror: Path, tmp_path: Path, seconds: int, newer: str
) -> None:
    path, lock = mirror / "a file.txt", tmp_path / "data" / "sources.lock.json"
    path.write_text("first")
    use(path.name, tmp_path)
    written = path.stat().st_mtime
    path.write_text("second")
    os.utime(path, (written + seconds, written + seconds))
    with pytest.raises(MedpipeError) as caught:
        use(path.name, tmp_path)
    assert newer in str(caught.value)
    command = shlex.split(str(caught.value).partition('run "')[2].partition('"')[0])
    subprocess.run(command, check=True, capture_output=True)
    assert use(path.name, tmp_path) == path
    assert lockfile.read(lock)[path.name].sha256 == sha(b"second")
    again = subprocess.run([*command[:-1], "no such file"], capture_output=True, text=True)
    assert again.returncode == 1 and "got no entry 'no such file', expected one of a file.txt" in again.stderr


def test_an_entry_of_before_times_were_noted_is_read(mirror: Path, tmp_path: Path) -> None:
    lock = tmp_path / "data" / "sources.lock.json"
    store.write_json(lock, {"a.txt": {"sha256": sha(b"first"), "bytes": 5, "url": ""}})
    (mirror / "a.txt").write_text("first")
    use("a.txt", tmp_path)
    (mirror / "a.txt").write_text("second")
    with pytest.raises(MedpipeError, match="which one is newer was not recorded"):
        use("a.txt", tmp_path)


def test_a_file_that_could_not_be_read_is_not_recorded(mirror: Path, tmp_path: Path) -> None:
    lock = tmp_path / "data" / "sources.lock.json"
    (mirror / "a.txt").write_text("cut")
    with pytest.raises(EOFError), fetched(["a.txt"], NOWHERE, tmp_path / "cache", what="a file", lock=lock):
        raise EOFError
    assert not lock.exists()
    (mirror / "a.txt").write_text("whole")
    with fetched(["a.txt"], NOWHERE, tmp_path / "cache", what="a file", lock=lock) as path:
        assert path.read_text() == "whole" and not lock.exists()
    assert lockfile.read(lock)["a.txt"].sha256 == sha(b"whole")


def test_a_file_that_is_replaced_while_it_is_read_is_not_recorded(mirror: Path, tmp_path: Path) -> None:
    lock = tmp_path / "data" / "sources.lock.json"
    (mirror / "a.txt").write_text("first")
    with (
        pytest.raises(MedpipeError, match="another content after reading"),
        fetched(["a.txt"], NOWHERE, tmp_path / "cache", what="a file", lock=lock) as path,
    ):
        path.write_text("second")
    assert not lock.exists()


def test_a_folder_in_the_place_of_the_lock_file_is_told(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "sources.lock.json").mkdir(parents=True)
    (mirror / "a.txt").write_text("x")
    with pytest.raises(MedpipeError, match="got a folder, expected a file"):
        use("a.txt", tmp_path)


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


PINS = """
import sys
from pathlib import Path
from medpipe.corpus.download import fetched
lock = Path(sys.argv[1])
with fetched(["a.txt"], "http://127.0.0.1:1/", lock.parent, what="a file", lock=lock) as path:
    print(path.read_text(), flush=True)
    sys.stdin.readline()
"""


def test_of_two_processes_that_read_different_content_at_once_one_pins_and_the_other_is_told(tmp_path: Path) -> None:
    lock, children = tmp_path / "lock.json", {}
    for content in ("first", "second"):
        folder = tmp_path / content
        folder.mkdir()
        (folder / "a.txt").write_text(content)
        children[content] = subprocess.Popen(
            [sys.executable, "-c", PINS, str(lock)], env={**os.environ, "MEDPIPE_MIRROR": str(folder)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    for content, child in children.items():
        assert child.stdout and child.stdout.readline() == f"{content}\n"  # both have the file open, and nothing is pinned
    assert not lock.exists()
    errors = {content: child.communicate("go\n")[1] for content, child in children.items()}
    (pinned,) = [content for content, child in children.items() if child.returncode == 0]
    assert lockfile.read(lock)["a.txt"].sha256 == sha(pinned.encode())
    (told,) = [error for content, error in errors.items() if content != pinned]
    assert "MedpipeError: got sha256" in told and sha(pinned.encode())[:12] in told


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

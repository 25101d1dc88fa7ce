"""What lies on disk after a kill or a failed system call: the old content or the new, whole, and nothing in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.schema import Manifest

OLD, NEW = "old\n" * 1000, "new\n" * 2000
MOST = 60  # more system calls than any operation here makes

WRITES_AND_WAITS = """
import sys
from pathlib import Path
from medpipe.store import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    handle = temporary.open("w")
    handle.write("half of what was to co")
    handle.flush()
    print("in the middle", flush=True)
    sys.stdin.read()
"""

# For each n a child process is killed for good just before its n-th system call of the kinds below. Exit status 0: it got through.
KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from medpipe import store
from medpipe_tests import test_store

def fatal(function, left):
    def call(*arguments, **named):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

operation, root = getattr(test_store, sys.argv[1]), Path(sys.argv[2])
for n in range(1, test_store.MOST):
    folder = root / str(n)
    test_store.prepare(folder)
    child = os.fork()
    if child == 0:
        left = [n]
        for name in ("fsync", "replace", "open", "unlink", "rmdir"):
            setattr(os, name, fatal(getattr(os, name), left))
        operation(folder)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


def manifest_of(folder: Path) -> Manifest:
    files = store.hash_tree(folder)
    return Manifest(task="source", fingerprint="f", sha256=store.hash_of_hashes(files), files=files)


def fill(folder: Path, text: str) -> None:
    for name in ("rows.jsonl", "plots/a.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def prepare(folder: Path) -> None:
    """A file with the old content, a finished folder with the old content, and a built one with the new."""
    fill(folder / "old", OLD)
    store.publish(folder / "old", folder / "final", manifest_of(folder / "old"))
    fill(folder / "partial", NEW)
    (folder / "file.txt").write_text(OLD, encoding="utf-8")


def write_new(folder: Path) -> None:
    store.write_text(folder / "file.txt", NEW)


def publish_new(folder: Path) -> None:
    store.publish(folder / "partial", folder / "final", manifest_of(folder / "partial"))


def state_of(final: Path) -> str:
    """ "old", "new" or "nothing"; fails where a folder counts as finished and is neither."""
    manifest = store.read_manifest(final)
    if manifest is None:
        assert not final.exists(), "a folder stands in the place of a finished one without its manifest"
        return "nothing"
    assert store.damaged_files(final, manifest) == []
    return {OLD: "old", NEW: "new"}[(final / "rows.jsonl").read_text(encoding="utf-8")]


def kill_at_every_step(operation: str, root: Path) -> list[Path]:
    done = subprocess.run([sys.executable, "-c", KILLED_AT_EVERY_STEP, operation, str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = sorted(root.iterdir(), key=lambda path: int(path.name))
    assert 3 < len(folders) < MOST - 1  # several kills, and one attempt that came through
    return folders


def test_a_process_killed_in_the_middle_of_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text(OLD, encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", WRITES_AND_WAITS, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the middle\n"
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert target.read_text(encoding="utf-8") == OLD
    store.write_text(target, NEW)
    assert target.read_text(encoding="utf-8") == NEW


def test_a_process_killed_in_the_middle_of_a_first_write_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.txt"
    with subprocess.Popen([sys.executable, "-c", WRITES_AND_WAITS, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
    assert not target.exists()


def test_a_write_killed_before_any_of_its_steps_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    seen = [(folder / "file.txt").read_text(encoding="utf-8") for folder in kill_at_every_step("write_new", tmp_path)]
    assert seen == sorted(seen, reverse=True), "once the new content stands it stays"  # "old" sorts after "new"
    assert (seen[0], seen[-1]) == (OLD, NEW)


def test_publishing_killed_before_any_of_its_steps_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    folders = kill_at_every_step("publish_new", tmp_path)
    seen = [state_of(folder / "final") for folder in folders]
    assert seen == sorted(seen, key=["old", "nothing", "new"].index)
    assert (seen[0], seen[-1]) == ("old", "new")
    for folder in folders:  # whatever a kill left behind, a whole folder is brought back, and the next attempt comes through and tidies up
        store.recover(folder / "final")
        assert state_of(folder / "final") in ("old", "new")
        fill(folder / "partial", NEW)
        publish_new(folder)
        assert state_of(folder / "final") == "new"
        assert {path.name for path in folder.iterdir()} == {"final", "file.txt"}


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """fail_at(n, code): the n-th call of fsync or rename from now on fails with this error number, once."""

    def arm(n: int, code: int) -> None:
        left = [n]

        def failing(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    raise OSError(code, os.strerror(code))
                return function(*arguments, **named)

            return call

        monkeypatch.undo()
        monkeypatch.setattr(os, "fsync", failing(os.fsync))
        monkeypatch.setattr(os, "replace", failing(os.replace))

    yield arm
    monkeypatch.undo()


def attempts(
    operation: Callable[[Path], None], root: Path, arm: Callable[[int, int], None], code: int
) -> list[tuple[Path, OSError | None]]:
    """The operation, failing at its first, second, … call until it comes through."""
    results: list[tuple[Path, OSError | None]] = []
    for n in range(1, MOST):
        folder = root / str(n)
        prepare(folder)
        arm(n, code)
        try:
            operation(folder)
        except OSError as error:
            results.append((folder, error))
        else:
            assert n > 1
            return [*results, (folder, None)]
    raise AssertionError("it never came through")


def test_any_failing_sync_or_rename_leaves_the_old_file_or_the_new_and_no_temporary(
    tmp_path: Path, fail_at: Callable[[int, int], None]
) -> None:
    results = attempts(write_new, tmp_path, fail_at, errno.EIO)
    assert len(results) == 4  # sync of the file, rename, sync of the folder, and through
    for folder, _ in results:
        assert (folder / "file.txt").read_text(encoding="utf-8") in (OLD, NEW)
        assert {path.name for path in folder.iterdir()} == {"file.txt", "final", "partial"}
    assert (results[-1][0] / "file.txt").read_text(encoding="utf-8") == NEW


def test_any_failing_sync_or_rename_of_publishing_leaves_a_whole_folder_or_none(
    tmp_path: Path, fail_at: Callable[[int, int], None]
) -> None:
    results = attempts(publish_new, tmp_path, fail_at, errno.EIO)
    for folder, _ in results:
        state_of(folder / "final")
        assert not list(folder.rglob("*.tmp"))
    assert state_of(results[-1][0] / "final") == "new"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_while_writing_leaves_the_old_file_and_no_temporary(tmp_path: Path, kind: type[BaseException]) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise kind

    target = tmp_path / "rows.jsonl"
    store.write_jsonl(target, [{"a": 0}])
    with pytest.raises(kind):
        store.write_jsonl(target, rows())
    assert store.read_jsonl(target) == [{"a": 0}]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full, a device that is always full")
def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text(OLD, encoding="utf-8")
    with pytest.raises(MedpipeError) as failed, store.atomic_path(target) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_text(NEW, encoding="utf-8")
    message = str(failed.value)
    assert "got a full disk (" in message
    assert f"expected room to write, in {target}: free some space" in message
    assert target.read_text(encoding="utf-8") == OLD
    assert list(tmp_path.iterdir()) == [target]


def test_a_disk_that_fills_up_while_syncing_is_the_same_message(tmp_path: Path, fail_at: Callable[[int, int], None]) -> None:
    fail_at(1, errno.ENOSPC)
    with pytest.raises(MedpipeError, match="got a full disk"):
        store.write_text(tmp_path / "file.txt", NEW)
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_disk_keeps_its_own_name(tmp_path: Path, fail_at: Callable[[int, int], None]) -> None:
    fail_at(1, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        store.write_text(tmp_path / "file.txt", NEW)


def test_damage_is_found_by_name(tmp_path: Path) -> None:
    final = tmp_path / "final"
    prepare(tmp_path)
    manifest = store.read_manifest(final)
    assert manifest is not None
    assert store.damaged_files(final, manifest) == []

    content = bytearray((final / "rows.jsonl").read_bytes())
    content[len(content) // 2] ^= 1
    (final / "rows.jsonl").write_bytes(content)
    assert store.damaged_files(final, manifest) == ["rows.jsonl"]
    (final / "added.bin").write_bytes(b"")
    (final / "plots" / "manifest.json").write_text("{}", encoding="utf-8")  # only the folder's own manifest is not content
    (final / "plots" / "a.txt").unlink()
    assert store.damaged_files(final, manifest) == ["plots/a.txt", "rows.jsonl"]
    assert store.extra_files(final, manifest) == ["added.bin", "plots/manifest.json"]


def test_files_that_somebody_added_outlive_a_new_making(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "final" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "final" / "plots" / "mine.txt").write_text("mine too", encoding="utf-8")
    publish_new(tmp_path)
    assert state_of(tmp_path / "final") == "new"
    assert [(tmp_path / "final" / name).read_text(encoding="utf-8") for name in ("notes.txt", "plots/mine.txt")] == ["mine", "mine too"]


def test_a_folder_is_known_by_names_and_contents(tmp_path: Path) -> None:
    def hashed(**files: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return store.hash_of_hashes(store.hash_tree(folder))

    assert hashed(a="1", b="2") == hashed(b="2", a="1")
    assert len({hashed(a="1", b="2"), hashed(a="2", b="1"), hashed(a="1", c="2"), hashed(a="1"), hashed()}) == 5


def test_an_exported_copy_that_is_lost_or_changed_is_made_again_and_a_whole_one_stays(tmp_path: Path) -> None:
    prepare(tmp_path)
    copy = tmp_path / "data" / "rows.jsonl"
    manifest = manifest_of(tmp_path / "final").model_copy(update={"exports": {"rows.jsonl": str(copy)}})
    store.export(tmp_path / "final", manifest)
    assert copy.read_text(encoding="utf-8") == OLD
    first = copy.stat().st_ino
    store.export(tmp_path / "final", manifest)
    assert copy.stat().st_ino == first
    copy.write_text(NEW, encoding="utf-8")
    store.export(tmp_path / "final", manifest)
    assert copy.read_text(encoding="utf-8") == OLD
    copy.unlink()
    store.export(tmp_path / "final", manifest)
    assert copy.read_text(encoding="utf-8") == OLD


def test_text_of_any_language_and_line_separators_comes_back(tmp_path: Path) -> None:
    rows = [{"text": "Überdosis\u2028und\x85 weiter\r\n"}, {"text": "\x00"}, {"text": "頭痛"}]
    assert store.write_jsonl(tmp_path / "rows.jsonl", rows) == 3
    assert store.read_jsonl(tmp_path / "rows.jsonl") == rows

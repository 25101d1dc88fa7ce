"""Where results lie and how runs share them: references by settings, links, damage, and locks between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from medpipe import results, store
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe.schema import Manifest, Ref

KEY = "models/planner"
HOLDS = """
import sys
from pathlib import Path
from medpipe.results import held
with held([Path(name) for name in sys.argv[1:]], lambda text: print(text, flush=True)):
    print("held", flush=True)
    sys.stdin.read()
"""
READS = """
import sys
from pathlib import Path
print("reading", flush=True)
seen = []
while not Path(sys.argv[2]).exists():
    seen.append(Path(sys.argv[1]).read_text())  # raises where nothing is shown for a moment
print(len(seen), sorted(set(seen)))
"""


def make(outputs: Path, text: str, minute: int = 0, folder: Path | None = None) -> Path:
    """A finished result with this content, under a fingerprint made of it."""
    final = folder or results.folder_of(outputs, KEY, text.ljust(64, "0"))
    partial = results.partial_of(final)
    partial.mkdir(parents=True)
    (partial / "rows.jsonl").write_text(text)
    (partial / "config.json").write_text("{}")
    files = store.hash_tree(partial)
    made = f"2026-11-22T10:{minute:02}:00+00:00"
    store.publish(partial, final, Manifest(task="t", fingerprint=text, sha256=store.content_hash(files), files=files, created_at=made))
    return final


def manifest_of(folder: Path) -> Manifest:
    manifest = store.read_manifest(folder)
    assert manifest
    return manifest


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., Settings]:
    """The smoke profile with exceptions, all in one outputs folder."""

    def load(**exceptions: object) -> Settings:
        named: Mapping[str, object] = {name.replace("__", "."): value for name, value in exceptions.items()}
        return load_profile("smoke", {"paths.outputs": str(tmp_path / "outputs"), **named})

    return load


def hand_on(settings: Settings, sha256: str, *inputs: Ref, sections: tuple[str, ...] = ("training",)) -> Ref:
    ref = Ref(path="p", sha256=sha256, scope=results.scope_of(settings, sections, inputs))
    results.write_ref(settings.outputs, KEY, ref)
    return ref


def refs(settings: Settings) -> list[Path]:
    return sorted((settings.outputs / "refs" / KEY).glob("*.json"))


class TestReferences:
    """What an asset handed on last under the very settings of a run."""

    def test_each_profile_is_handed_its_own_and_no_other(self, profile: Callable[..., Settings]) -> None:
        one, two, three = profile(training__epochs=1), profile(training__epochs=2), profile(training__epochs=3)
        own = {name: hand_on(settings, name) for name, settings in (("one", one), ("two", two))}
        assert results.find_ref(one, KEY) == own["one"] and results.find_ref(two, KEY) == own["two"]
        assert results.find_ref(three, KEY) is None
        assert results.other_settings(three, KEY) == ["training"]
        assert results.other_settings(three, "models/analyst") == []

    def test_a_section_that_it_does_not_depend_on_makes_no_difference(self, profile: Callable[..., Settings]) -> None:
        ref = hand_on(profile(), "one")
        assert results.find_ref(profile(evaluation__bootstrap=77), KEY) == ref

    def test_what_its_inputs_depend_on_counts_too_and_so_does_the_seed(self, profile: Callable[..., Settings]) -> None:
        corpus = Ref(path="c", sha256="c", scope=results.scope_of(profile(), ("corpus",), ()))
        ref = hand_on(profile(), "one", corpus)
        assert set(ref.scope) == {"corpus", "training", "seed"}
        for other, named in ((profile(corpus__use=["synthetic"]), ["corpus"]), (profile(seed=99), ["seed"])):
            assert results.find_ref(other, KEY) is None
            assert results.other_settings(other, KEY) == named

    def test_made_again_under_the_same_settings_takes_the_place_of_the_one_before(self, profile: Callable[..., Settings]) -> None:
        settings = profile()
        hand_on(settings, "before")
        after = hand_on(settings, "after")
        assert results.find_ref(settings, KEY) == after and len(refs(settings)) == 1

    def test_of_two_that_fit_the_one_handed_on_last_counts(self, profile: Callable[..., Settings]) -> None:
        """As after a change of the code, by which a result depends on another section."""
        settings = profile()
        newer = hand_on(settings, "newer", sections=("training", "team"))
        hand_on(settings, "older")
        for path in refs(settings):
            moment = 2_000_000_000 if "newer" in path.read_text() else 1_000_000_000
            os.utime(path, (moment, moment))
        assert results.find_ref(settings, KEY) == newer

    def test_one_that_can_not_be_read_is_passed_over_and_named_where_it_is_the_only_one(self, profile: Callable[..., Settings]) -> None:
        settings = profile()
        ref = hand_on(settings, "one")
        broken = settings.outputs / "refs" / KEY / "0000.json"
        for content in (b"{", b"[]", b'{"path": 1}', b"\xff"):
            broken.write_bytes(content)
            assert results.find_ref(settings, KEY) == ref
            assert results.other_settings(profile(training__epochs=7), KEY) == ["training"]
        refs(settings)[1].unlink()
        with pytest.raises(MedpipeError, match=rf"got a reference that can't be read.*{broken}: materialise {KEY} again"):
            results.find_ref(settings, KEY)


class TestLinks:
    """What outputs/<key> shows."""

    def test_it_leads_to_the_result_relatively_so_the_outputs_can_be_moved(self, tmp_path: Path) -> None:
        final = make(tmp_path / "outputs", "one")
        results.show(tmp_path / "outputs", KEY, final)
        assert (tmp_path / "outputs" / KEY).resolve() == final.resolve()
        (tmp_path / "outputs").rename(tmp_path / "moved")
        assert (tmp_path / "moved" / KEY / "rows.jsonl").read_text() == "one"

    def test_a_reader_never_finds_nothing_while_it_changes(self, tmp_path: Path) -> None:
        outputs, done = tmp_path / "outputs", tmp_path / "done"
        two = [make(outputs, text) for text in ("one", "two")]
        results.show(outputs, KEY, two[0])
        command = [sys.executable, "-c", READS, str(outputs / KEY / "rows.jsonl"), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout and reader.stdout.readline() == "reading\n"
            for number in range(2000):
                results.show(outputs, KEY, two[number % 2])
            done.touch()
            assert reader.wait() == 0
            assert int(reader.stdout.read().partition(" ")[0]) > 0
        assert {path.name for path in (outputs / "models").iterdir()} == {"planner"}  # no link is left half made

    def test_one_that_leads_nowhere_is_replaced(self, tmp_path: Path) -> None:
        outputs = tmp_path / "outputs"
        (outputs / "models").mkdir(parents=True)
        (outputs / KEY).symlink_to("nowhere")
        results.show(outputs, KEY, make(outputs, "one"))
        assert (outputs / KEY / "rows.jsonl").read_text() == "one"

    def test_results_of_an_earlier_version_are_moved_into_the_store_whole(self, tmp_path: Path) -> None:
        outputs, final = tmp_path / "outputs", make(tmp_path / "outputs", "new")
        for text in ("first", "second"):
            (outputs / KEY).unlink(missing_ok=True)
            make(outputs, text, folder=outputs / KEY)
            (outputs / KEY / "notes.txt").write_text(f"somebody's on the {text}")
            results.show(outputs, KEY, final)
            assert (outputs / KEY).resolve() == final.resolve()
        for number, text in ((1, "first"), (2, "second")):
            folder = outputs / "store" / KEY / f"earlier-{number}"
            assert results.damage(folder, manifest_of(folder)) == [] and (folder / "rows.jsonl").read_text() == text
            assert (folder / "notes.txt").read_text() == f"somebody's on the {text}"
        assert {folder.name for folder, _ in results.finished(outputs, KEY)} == {"earlier-1", "earlier-2", final.name}

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_what_no_run_made_is_refused_and_stays(self, tmp_path: Path, kind: str) -> None:
        outputs, final = tmp_path / "outputs", make(tmp_path / "outputs", "one")
        mine = outputs / KEY / "mine.txt" if kind == "folder" else outputs / KEY
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        with pytest.raises(MedpipeError, match=rf"got a folder or file that no run made.*{outputs / KEY}: move it away"):
            results.show(outputs, KEY, final)
        assert mine.read_text() == "mine"

    def test_all_finished_results_are_found_the_newest_last_and_none_that_is_damaged_or_half_made(self, tmp_path: Path) -> None:
        newer, older, damaged = (make(tmp_path, text, minute) for text, minute in (("newer", 2), ("older", 1), ("damaged", 3)))
        (damaged / store.MANIFEST).write_text("{")
        results.partial_of(newer).mkdir()
        (newer.with_name("unfinished")).mkdir()
        assert [folder for folder, _ in results.finished(tmp_path, KEY)] == [older, newer]
        assert results.finished(tmp_path, "models/analyst") == []


class TestDamage:
    """Files that are not what was made, by their bytes; what was read once counts as read."""

    @pytest.fixture
    def final(self, tmp_path: Path) -> Path:
        final = make(tmp_path, "content")
        assert results.damage(final, manifest_of(final)) == []
        return final

    def memory(self, final: Path) -> Path:
        return final.with_name(f".{final.name}.seen.json")

    def alter(self, final: Path) -> None:
        """Other bytes of the same size, with the modification time that the file had."""
        path, before = final / "rows.jsonl", (final / "rows.jsonl").stat()
        while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock moves in steps of some milliseconds
            path.write_text("CONTENT")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)

    def test_other_bytes_of_the_same_size_and_time_are_found(self, final: Path) -> None:
        self.alter(final)
        for _ in range(2):  # what is damaged does not count as read
            assert results.damage(final, manifest_of(final)) == ["rows.jsonl"]

    def test_another_file_under_the_same_name_and_a_missing_one_are_found(self, final: Path, tmp_path: Path) -> None:
        (tmp_path / "other").write_text("CONTENT")
        os.replace(tmp_path / "other", final / "rows.jsonl")
        (final / "config.json").unlink()
        assert results.damage(final, manifest_of(final)) == ["config.json", "rows.jsonl"]

    def test_a_file_that_is_put_back_is_whole_again(self, final: Path) -> None:
        self.alter(final)
        assert results.damage(final, manifest_of(final)) == ["rows.jsonl"]
        (final / "rows.jsonl").write_text("content")
        assert results.damage(final, manifest_of(final)) == []

    def test_what_was_read_is_not_read_again(self, final: Path) -> None:
        """Seen by a memory that is wrong about bytes which did not change since."""
        remembered = store.read_json(self.memory(final))
        self.alter(final)
        stat = (final / "rows.jsonl").stat()
        remembered["rows.jsonl"][1:] = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        store.write_json(self.memory(final), remembered)
        assert results.damage(final, manifest_of(final)) == []

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff", b'{"rows.jsonl": 7}', b'{"rows.jsonl": []}', b'{"rows.jsonl": "ab"}',
         b'{"rows.jsonl": [null, 1, 2, 3, 4]}', b'{"rows.jsonl": {"a": 1}}', b'{"../../x": ["ab", 1, 2, 3, 4]}'],
    )  # fmt: skip
    def test_a_damaged_memory_is_no_danger(self, final: Path, content: bytes) -> None:
        good = self.memory(final).read_bytes()
        self.memory(final).write_bytes(content)
        assert results.damage(final, manifest_of(final)) == []
        assert self.memory(final).read_bytes() == good  # written anew
        self.memory(final).write_bytes(content)
        self.alter(final)
        assert results.damage(final, manifest_of(final)) == ["rows.jsonl"]

    def test_a_folder_that_was_copied_is_read_anew(self, final: Path) -> None:
        copy = final.with_name("copy")
        subprocess.run(["cp", "-a", final, copy], check=True)
        subprocess.run(["cp", "-a", self.memory(final), self.memory(copy)], check=True)
        self.alter(copy)
        assert results.damage(copy, manifest_of(copy)) == ["rows.jsonl"]


class Holder:
    """Another process that makes these results."""

    def __init__(self, *folders: Path) -> None:
        command = [sys.executable, "-c", HOLDS, *map(str, folders)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait() == 0


@pytest.fixture
def holder() -> Iterator[Callable[..., Holder]]:
    started: list[Holder] = []

    def start(*folders: Path) -> Holder:
        started.append(Holder(*folders))
        return started[-1]

    yield start
    for one in started:
        with one.process as process:
            process.kill()


class TestLocks:
    """One process at a time makes a result."""

    @pytest.mark.parametrize("way", ["ends", "is killed"])
    def test_the_second_waits_says_so_and_goes_on_when_the_first(self, way: str, tmp_path: Path, holder: Callable[..., Holder]) -> None:
        final = results.folder_of(tmp_path, KEY, "a" * 64)
        first = holder(final)
        assert first.line() == "held"
        second = holder(final)
        assert second.line() == f"another run is making {KEY}: waiting for it, its result is used here too"
        assert first.process.poll() is None and second.process.poll() is None
        first.end() if way == "ends" else first.process.kill()
        assert second.line() == "held"

    def test_another_result_of_the_same_asset_is_made_at_the_same_time(self, tmp_path: Path, holder: Callable[..., Holder]) -> None:
        one, two = (holder(results.folder_of(tmp_path, KEY, letter * 64)) for letter in "ab")
        assert [one.line(), two.line()] == ["held", "held"]

    def test_two_that_want_the_same_several_in_another_order_do_not_wait_for_each_other(
        self, tmp_path: Path, holder: Callable[..., Holder]
    ) -> None:
        several = [results.folder_of(tmp_path, f"models/{name}", "a" * 64) for name in ("planner", "analyst", "reporter")]
        one, two = holder(*several), holder(*reversed(several))
        lines = {id(one): one.line(), id(two): two.line()}
        (ahead,) = (each for each in (one, two) if lines[id(each)] == "held")
        behind = two if ahead is one else one
        ahead.end()
        while behind.line() != "held":  # it may have to wait for each of them
            pass
        behind.end()

    def test_what_a_killed_holder_left_is_tidied_up_on_entry(self, tmp_path: Path, holder: Callable[..., Holder]) -> None:
        final = make(tmp_path, "one")
        killed = holder(final)
        assert killed.line() == "held"
        final.rename(final.with_name(f".{final.name}.previous"))  # it is killed between the two renames of an exchange
        results.partial_of(final).mkdir()
        killed.process.kill()
        killed.process.wait()
        heard: list[str] = []
        with results.held([final], heard.append):
            assert heard == [] and manifest_of(final).fingerprint == "one"
            assert not results.partial_of(final).exists()


def test_inputs_that_have_another_content_now_are_named() -> None:
    manifest = Manifest(
        task="t", fingerprint="f", sha256="s", files={}, inputs={"models/base": "b", "splits/train": "t", "corpus/clean": "c"}
    )
    now = {"models/base": "b", "splits/train": "T", "corpus/clean": "C", "models/agent": "a"}
    assert results.older_than(manifest, now) == ["corpus/clean", "splits/train"]
    assert results.older_than(manifest, {"models/base": "b"}) == [] and results.older_than(manifest, {}) == []

"""Cleaning real outputs folders: what is needed stays, what is not is listed and goes, and nothing goes unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from medpipe import results, store, tidy
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe.registry import BASE, KEY, NAME, TEAM
from medpipe.schema import Manifest, Ref
from medpipe_tests.operations.processes import BIN

HOLDS = """
import sys
from pathlib import Path
from medpipe.results import held
with held([Path(sys.argv[1])], print):
    print("held", flush=True)
    sys.stdin.read()
"""
Holding = Callable[[Path], AbstractContextManager[None]]


class Outputs:
    """An outputs folder with results as the worker leaves them."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.folder, self.minute = settings, settings.outputs, 0

    def make(self, key: str, text: str, *, profile: str = "", show: bool = True) -> Path:
        """A finished result with this content; shown unless told otherwise, and handed on by the reference of a profile if one is named."""
        self.minute += 1
        final = results.folder_of(self.folder, key, f"{text}-{key}".replace("/", "").ljust(20, "0"))
        partial = results.partial_of(final)
        partial.mkdir(parents=True)
        (partial / "rows.jsonl").write_text(text * 100)
        files = store.hash_tree(partial)
        made = f"2026-11-22T10:{self.minute:02}:00+00:00"
        manifest = Manifest(task="t", fingerprint=text, sha256=store.content_hash(files), files=files, created_at=made)
        store.publish(partial, final, manifest)
        results.damage(final, manifest)
        if show:
            results.show(self.folder, key, final)
        if profile:
            results.write_ref(self.folder, key, Ref(path=str(final), sha256=manifest.sha256, scope={"model": profile}))
        return final

    def content(self, folder: Path) -> str:
        manifest = store.read_manifest(folder)
        assert manifest
        return manifest.sha256

    def listed(self, everything: bool = False) -> dict[Path, str]:
        return {one.path: one.why for one in tidy.removable(self.settings, everything)}

    def clean(self, everything: bool = False) -> list[Path]:
        """All of the command but its words; returns what stayed because a run needs it."""
        busy = tidy.remove(tidy.removable(self.settings, everything))
        tidy.forget_what_is_gone(self.folder)
        return [one.path for one in busy]

    def everything_below(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


@pytest.fixture
def outputs(settings: Settings) -> Outputs:
    return Outputs(settings)


@pytest.fixture
def holding() -> Holding:
    """Hold a result's lock in another process for the time of a block."""

    @contextmanager
    def hold(final: Path) -> Iterator[None]:
        command = [sys.executable, "-c", HOLDS, str(final)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout and child.stdout.readline() == "held\n"
            yield
            child.kill()

    return hold


def test_what_is_shown_handed_on_or_newest_stays_and_what_was_replaced_goes(outputs: Outputs) -> None:
    replaced = outputs.make("models/planner", "replaced")
    another = outputs.make("models/planner", "another", profile="local-qwen3")
    shown = outputs.make("models/planner", "shown", profile="quickstart")
    newest = outputs.make("models/planner", "newest", show=False)  # its run was killed before it could hand it on
    assert outputs.listed() == {replaced: "models/planner: replaced: nothing shows it or hands it on"}
    assert outputs.clean() == []
    assert not replaced.exists() and all(folder.exists() for folder in (another, shown, newest))
    assert (outputs.folder / "models/planner").resolve() == shown.resolve() and outputs.listed() == {}
    assert {path.name for path in shown.parent.glob(".*.seen.json")} == {f".{one.name}.seen.json" for one in (another, shown, newest)}


def test_the_whole_store_goes_when_asked_with_its_links_and_references_and_nothing_else(outputs: Outputs) -> None:
    old, shown = outputs.make("models/planner", "old"), outputs.make("models/planner", "shown", profile="quickstart")
    decision = outputs.make("release/champion", "decision", profile="quickstart")
    (outputs.folder / "wandb").mkdir()
    (outputs.folder / "wandb/latest-run").symlink_to("run-that-is-gone")  # another program's
    (outputs.folder / "logs").mkdir()
    (outputs.folder / "logs/a.log").write_text("log")
    assert outputs.listed(everything=True) == {
        old: "models/planner: replaced: nothing shows it or hands it on",
        shown: "models/planner: shown, handed on, or the newest",
    }
    assert outputs.clean(everything=True) == []
    assert not old.exists() and not shown.exists() and decision.exists()
    assert not (outputs.folder / "models/planner").is_symlink() and not list((outputs.folder / "refs/models").rglob("*.json"))
    assert (outputs.folder / "release/champion").resolve() == decision.resolve() and len(
        list((outputs.folder / "refs").rglob("*.json"))
    ) == 1
    assert (outputs.folder / "wandb/latest-run").is_symlink() and (outputs.folder / "logs/a.log").exists()


def test_what_interrupted_work_left_and_its_size_is_listed(outputs: Outputs) -> None:
    shown = outputs.make("models/planner", "shown")
    half = results.partial_of(results.folder_of(outputs.folder, "models/planner", "f" * 16))
    (half / "adapter").mkdir(parents=True)
    (half / "adapter/weights").write_bytes(bytes(1000))
    before = shown.with_name(f".{shown.name}.previous")  # killed between the two renames of an exchange, after the second
    before.mkdir()
    (before / "notes.txt").write_text("somebody's")
    checkpoint = outputs.folder / "scratch" / "abc"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state").write_bytes(bytes(500))
    found = {one.path: (one.bytes, one.why) for one in tidy.removable(outputs.settings)}
    assert found == {
        half: (1000, "models/planner: left by work that was interrupted"),
        before: (10, "models/planner: left by work that was interrupted"),
        checkpoint: (500, "checkpoints of work that did not end"),
    }
    assert outputs.clean() == []
    assert not any(path.exists() for path in found) and shown.exists()
    assert (shown / "notes.txt").read_text() == "somebody's"
    assert outputs.listed() == {}


def test_a_result_whose_exchange_was_interrupted_is_still_a_result(outputs: Outputs) -> None:
    shown = outputs.make("models/planner", "shown", profile="quickstart")
    outputs.make("models/planner", "newer", profile="another", show=False)
    aside = shown.rename(shown.with_name(f".{shown.name}.previous"))
    assert outputs.listed() == {}
    results.write_ref(outputs.folder, "models/planner", Ref(path="elsewhere/x", sha256="", scope={"model": "quickstart"}))
    (outputs.folder / "models/planner").unlink()
    assert outputs.listed() == {aside: "models/planner: replaced: nothing shows it or hands it on"}
    assert outputs.clean() == [] and not aside.exists()


def test_what_a_run_makes_now_stays_and_so_do_all_checkpoints(outputs: Outputs, holding: Holding) -> None:
    final = results.folder_of(outputs.folder, "models/planner", "f" * 16)
    checkpoint = outputs.folder / "scratch" / "abc"
    checkpoint.mkdir(parents=True)
    results.partial_of(final).mkdir(parents=True)
    listed_before = tidy.removable(outputs.settings)
    assert {one.path for one in listed_before} == {results.partial_of(final), checkpoint}
    with holding(final):
        results.partial_of(final).mkdir(parents=True)  # the holder tidied up what was left there, and builds
        assert outputs.listed() == {}
        assert [one.path for one in tidy.remove(listed_before)] == [results.partial_of(final), checkpoint]
        assert results.partial_of(final).exists() and checkpoint.exists()
        with pytest.raises(MedpipeError, match=r"got a run that makes models/planner, expected no run at work.*or clean without --all"):
            outputs.listed(everything=True)
    assert outputs.clean() == []  # its holder was killed: so the lock is free
    assert not results.partial_of(final).exists() and not checkpoint.exists()


def test_what_is_needed_again_since_it_was_listed_stays(outputs: Outputs) -> None:
    old = outputs.make("models/planner", "old")
    outputs.make("models/planner", "shown", profile="quickstart")
    found = tidy.removable(outputs.settings)
    results.show(outputs.folder, "models/planner", old)  # a run with the settings of before, while the question was open
    assert [one.path for one in tidy.remove(found)] == [old] and old.exists()


def test_references_hold_from_any_working_directory(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """`medpipe run` writes them as paths.outputs is: relative to where it ran."""
    kept = outputs.make("models/planner", "kept", show=False)
    outputs.make("models/planner", "shown")
    monkeypatch.chdir(outputs.folder)
    relative = Path("outputs") / kept.relative_to(outputs.folder)
    results.write_ref(outputs.folder, "models/planner", Ref(path=str(relative), sha256=outputs.content(kept), scope={"model": "q"}))
    assert outputs.listed() == {}
    tidy.forget_what_is_gone(outputs.folder)
    assert len(list((outputs.folder / "refs").rglob("*.json"))) == 1


def test_what_an_unreadable_reference_hands_on_is_unknown_so_nothing_of_that_asset_goes(outputs: Outputs) -> None:
    outputs.make("models/planner", "old")
    outputs.make("models/planner", "shown", profile="quickstart")
    gone = outputs.make("models/analyst", "old")
    outputs.make("models/analyst", "shown")
    (outputs.folder / "refs/models/planner/0000.json").write_text("{")
    assert set(outputs.listed()) == {gone}


def test_a_study_of_settings_hands_on_what_its_trials_start_from(outputs: Outputs) -> None:
    base = outputs.make("models/base", "of the study")
    outputs.make("models/base", "shown")
    work = outputs.folder / "tuning" / "smoke-1a2b" / "work"
    results.write_ref(work, "models/base", Ref(path=str(base.resolve()), sha256=outputs.content(base)))
    assert outputs.listed() == {}


def test_a_damaged_result_that_nothing_needs_goes_and_a_link_in_the_store_is_left_alone(outputs: Outputs, tmp_path: Path) -> None:
    old = outputs.make("models/planner", "old")
    outputs.make("models/planner", "shown")
    (old / store.MANIFEST).write_text("{")
    (tmp_path / "mine").mkdir()
    (old.parent / "mine").symlink_to(tmp_path / "mine")
    assert set(outputs.listed()) == {old}
    outputs.clean()
    assert not old.exists() and (old.parent / "mine").exists()


def test_a_folder_that_can_not_be_removed_is_one_message(outputs: Outputs) -> None:
    old = outputs.make("models/planner", "old")
    outputs.make("models/planner", "shown")
    results.partial_of(old).write_text("a file where a folder is put aside")
    with pytest.raises(MedpipeError, match=r"got a folder that can't be removed \(Not a directory\)"):
        outputs.clean()
    assert old.exists()


def test_an_empty_outputs_folder_has_nothing_and_none_is_made_by_looking(outputs: Outputs) -> None:
    assert outputs.listed() == {} and outputs.listed(everything=True) == {}
    assert not outputs.folder.exists()


@pytest.mark.parametrize("where", ["outputs", "server"])
def test_what_a_registered_version_was_made_from_stays(
    outputs: Outputs, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real registry in sqlite: in the outputs folder, which is asked whatever the profile says, or where the profile keeps its runs."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    team, base = outputs.make("models/maporl_team", "registered"), outputs.make("models/base", "registered")
    gone = outputs.make("models/base", "gone")
    for key in ("models/maporl_team", "models/base"):
        outputs.make(key, "shown", profile="quickstart")
    database = (outputs.folder if where == "outputs" else tmp_path) / "mlflow.db"
    client = MlflowClient(f"sqlite:///{database}", registry_uri=f"sqlite:///{database}")
    client.create_registered_model(NAME)
    client.create_model_version(NAME, "somewhere", tags={KEY: "k", TEAM: outputs.content(team), BASE: outputs.content(base)})
    tracking = {"tracking.kind": "none"} if where == "outputs" else {"tracking.kind": "mlflow", "tracking.uri": f"sqlite:///{database}"}
    outputs.settings = load_profile("smoke", {"paths.outputs": str(outputs.folder), **tracking})
    assert set(outputs.listed()) == {gone}
    assert outputs.clean(everything=True) == []
    assert team.exists() and base.exists() and not gone.exists()
    assert (outputs.folder / "mlflow.db").exists() is (where == "outputs")  # none is made by looking


def test_the_command_lists_with_sizes_and_removes_only_when_told_to(outputs: Outputs, tmp_path: Path) -> None:
    old = outputs.make("models/planner", "old")
    outputs.make("models/planner", "shown", profile="quickstart")
    before = outputs.everything_below()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}

    def clean(*words: str) -> str:
        command = [BIN / "medpipe", "clean", "--profile", "smoke", "--set", f"paths.outputs={outputs.folder}", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = clean()
    assert "0.0 MiB  outputs/store/models/planner/" in told and "(models/planner: replaced: nothing shows it or hands it on)" in told
    assert "Nothing was removed. To remove them: the same command with --yes" in told and old.exists()
    assert outputs.everything_below() == before
    clean("--yes")
    assert not old.exists() and (outputs.folder / "models/planner/rows.jsonl").exists()
    assert "can go: every result there is shown, handed on, or named by a registry" in clean()

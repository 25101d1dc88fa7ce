"""The search: real studies in sqlite and real processes; the trainings are a small script, but for one real trial at the end."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from medpipe import store
from medpipe.config import Settings, load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe.schema import Manifest
from medpipe.tuning import study as studies
from medpipe.tuning.results import HISTORY, IMPORTANCE, pictures
from medpipe.tuning.study import Row, Studied, home_of, study
from medpipe.tuning.trial import INPUTS, SEARCHED, as_flags

ROOT = Path(__file__).parent.parent
RATE, EPOCHS, BATCH, PENALTY = SEARCHED
PNG = b"\x89PNG"
DEADLINE = 60_000  # milliseconds; for what a busy machine may take, not for what is expected
SPACE = {"learning_rates": [1e-4, 3e-5, 1e-5], "epochs": [1, 4], "batch_sizes": [4, 8], "safety_penalties": [1.0, 5.0], "pruner_startup": 2}

SCRIPT = """
import json, os, signal, sys, yaml
from pathlib import Path
words = sys.argv[1:]
given = {flag: words[at + 1] for at, flag in enumerate(words) if flag in ("--profile", "--select")}
tried = dict(word.split("=") for word in words if "=" in word)
profile = yaml.safe_load(open(given["--profile"]))
outputs = Path(profile["paths"]["outputs"])
team = "models/maporl_team" in given["--select"]
with open(outputs.parent / "calls.jsonl", "a") as calls:
    print(json.dumps({"stage": "team" if team else "roles", "select": given["--select"], **tried}), file=calls)
rate, penalty = float(tried["training.learning_rate"]), float(tried["rewards.safety_penalty_weight"])
hold = outputs.parents[3] / "hold"
if team and hold.exists():
    with open(hold, "w") as told:
        print(os.getpid(), file=told)
    signal.pause()
if team and (outputs.parents[3] / "broken").exists():
    sys.exit("12:00:01 models/maporl_team !! got a KL of 2.0, expected at most 1.0")
for role in () if team else ("planner", "researcher", "analyst", "reporter"):
    folder = outputs / "models" / role
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training_stats.json").write_text(json.dumps({"validation_loss_after": 1.0 + 1e4 * rate}))
if team:
    folder = outputs / "models" / "maporl_team"
    folder.mkdir(parents=True, exist_ok=True)
    parts = dict.fromkeys(("relevance", "safety", "collaboration", "evidence", "reasoning"), 0.0)
    rows = [{"reward/team": 1.0 - penalty / 10, "reward/accuracy": penalty / 10 if late else 1.0,
             **{f"reward/{name}": value for name, value in parts.items()}} for late in (0, 0, 0, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""
"""A trial whose validation loss grows with the learning rate. What the team is worth at the end grows with the penalty's weight,
and what it is paid falls with it."""

PROCESS = """
import json, sys
from pathlib import Path
from medpipe.config import load_profile
from medpipe.tuning.study import study
overrides, inputs, trials, command = json.loads(sys.argv[1])
study(load_profile("smoke", overrides), {k: Path(v) for k, v in inputs.items()}, trials=trials, say=print, command=tuple(command))
"""


class Lab:
    """A folder with finished inputs, a space, and the script that stands for the trainings."""

    def __init__(self, root: Path) -> None:
        self.root, self.said = root, []
        self.overrides: dict[str, Any] = {"paths.outputs": str(root / "outputs"), **{f"tuning.{k}": v for k, v in SPACE.items()}}
        self.settings: Settings = load_profile("smoke", self.overrides)
        self.inputs = {key: root / "outputs" / key for key in INPUTS}
        for key, folder in self.inputs.items():
            finish(folder, key)
        script = root / "command.py"
        script.write_text(SCRIPT, encoding="utf-8")
        self.command = (sys.executable, str(script))

    @property
    def home(self) -> Path:
        return home_of(self.settings, self.inputs)

    def study(self, trials: int) -> Studied:
        return study(self.settings, self.inputs, trials=trials, say=self.said.append, command=self.command)

    def elsewhere(self, trials: int) -> subprocess.Popen[bytes]:
        """The same study in a process of its own."""
        told = json.dumps([self.overrides, {key: str(folder) for key, folder in self.inputs.items()}, trials, self.command])
        return subprocess.Popen([sys.executable, "-c", PROCESS, told], cwd=ROOT)

    def calls(self, stage: str) -> list[dict[str, Any]]:
        rows = store.read_jsonl(self.home / "calls.jsonl")
        return [{name: float(row[name]) for name in SEARCHED} for row in rows if row["stage"] == stage]


def finish(folder: Path, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    store.write_text(folder / "content.txt", content)
    files = store.hash_tree(folder)
    manifest = Manifest(task="test", fingerprint=content, sha256=store.hash_of_hashes(files), files=files)
    store.write_manifest(folder, manifest)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Studied]:
    """A study of nine trials."""
    made = Lab(tmp_path_factory.mktemp("ended"))
    return made, made.study(9)


def waited_for(handle: int) -> None:
    """Until there is something to read, or a process has ended; a test that would wait for ever fails."""
    watched = select.poll()
    watched.register(handle, select.POLLIN)
    assert watched.poll(DEADLINE)


def settled(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.state in ("finished", "pruned", "failed")]


def in_space(values: Mapping[str, Any]) -> bool:
    return (
        set(values) == set(SEARCHED)
        and values[RATE] in SPACE["learning_rates"]
        and 1 <= values[EPOCHS] <= 4
        and values[BATCH] in SPACE["batch_sizes"]
        and 1.0 <= values[PENALTY] <= 5.0
    )


def test_every_trial_tries_settings_of_the_space_and_its_command_is_given_them(ended: tuple[Lab, Studied]) -> None:
    lab, found = ended
    assert len(found.rows) == 9
    assert all(in_space(row.values) for row in found.rows)
    assert lab.calls("roles") == [row.values for row in found.rows]
    assert len({str(row.values) for row in found.rows}) == 9


def test_a_trial_worse_than_the_median_is_pruned_before_co_training(ended: tuple[Lab, Studied]) -> None:
    lab, found = ended
    pruned = [row for row in found.rows if row.state == "pruned"]
    assert pruned
    for row in pruned:
        before = [other.loss for other in found.rows[: row.number] if other.state == "finished" and other.loss]
        assert row.loss is not None
        assert row.loss > median(before)
        assert row.value is None
    assert lab.calls("team") == [row.values for row in found.rows if row.state == "finished"]


def test_the_best_is_the_highest_worth_and_not_the_highest_pay(ended: tuple[Lab, Studied]) -> None:
    _, found = ended
    finished = [row for row in found.rows if row.state == "finished"]
    highest = max(finished, key=lambda row: row.values[PENALTY])
    assert found.best == highest
    # accuracy's weight times what the script says of the last quarter of its four iterations
    assert found.best.value == pytest.approx(0.35 * highest.values[PENALTY] / 10)
    kept = yaml.safe_load((found.home / "best.yaml").read_text(encoding="utf-8"))
    assert {f"{section}.{key}": value for section, keys in kept.items() for key, value in keys.items()} == highest.values
    told = store.read_json(found.home / "study.json")
    again = dict(parse_override(word) for word in told["set"].split() if word != "--set")
    assert again == told["best"]["values"] == highest.values
    assert load_profile("smoke", again).training.learning_rate == highest.values[RATE]


def test_pictures_and_importance_come_from_the_finished_trials(ended: tuple[Lab, Studied]) -> None:
    _, found = ended
    assert (found.home / HISTORY).read_bytes().startswith(PNG)
    assert (found.home / IMPORTANCE).read_bytes().startswith(PNG)
    assert sum(found.importance.values()) == pytest.approx(1.0)
    assert max(found.importance, key=lambda name: found.importance[name]) == PENALTY
    shown = pictures(found)
    assert all(shown[name]["alt"] for name in ("history", "importance"))


def test_with_one_finished_trial_the_importance_is_told_to_be_unknown(lab: Lab) -> None:
    found = lab.study(1)
    assert found.importance == {}
    assert not (found.home / IMPORTANCE).exists()
    assert "fewer than two" in store.read_json(found.home / "study.json")["importance_unknown"]
    assert pictures(found)["importance"] == found.unknown


def test_a_study_goes_on_and_one_that_is_done_does_nothing(lab: Lab) -> None:
    first, second = lab.study(2), lab.study(4)
    assert second.rows[:2] == first.rows
    assert len(second.rows) == 4
    before = lab.calls("roles")
    assert lab.study(4) == second
    assert lab.calls("roles") == before


def test_a_killed_study_loses_no_trial_and_doubles_none(lab: Lab) -> None:
    whole = lab.study(1)
    hold = lab.root / "hold"
    os.mkfifo(hold)
    with lab.elsewhere(3) as process:
        with open(os.open(hold, os.O_RDWR), "rb", buffering=0) as told:
            waited_for(told.fileno())
            training = int(told.read(32))  # the second trial is in co-training and stays there
        handle = os.pidfd_open(training)
        process.send_signal(signal.SIGKILL)
    waited_for(handle)  # the training ended with the study
    os.close(handle)
    hold.unlink()
    found = lab.study(3)
    assert [row.state for row in found.rows] == ["finished", "killed", *(row.state for row in settled(found.rows)[1:])]
    assert found.rows[0] == whole.rows[0]
    assert len(settled(found.rows)) == 3
    assert len({str(row.values) for row in settled(found.rows)}) == 3
    assert found.rows[2].values == found.rows[1].values  # the killed one comes first
    assert any("trial 1 was killed" in line for line in lab.said)


def test_killed_while_it_is_taken_up_a_trial_is_queued_once(lab: Lab) -> None:
    lab.study(1)
    search = studies._open(lab.home, lab.settings)
    values = studies._suggested(search.ask(), lab.settings)
    search.enqueue_trial(values, user_attrs={studies.AGAIN: 1})  # and here the process was killed: trial 1 still counts as running
    assert [row.state for row in studies.rows_of(search)] == ["finished", "killed", "waiting"]
    found = lab.study(3)
    assert [row.values for row in found.rows].count(values) == 2  # the killed one and the one in its place
    assert len(settled(found.rows)) == 3
    assert len(found.rows) == 4


def test_a_trial_that_fails_is_recorded_with_its_reason_and_three_in_a_row_end_the_study(lab: Lab) -> None:
    lab.study(1)
    (lab.root / "broken").touch()
    with pytest.raises(MedpipeError, match=r"3 failed trials one after the other \(team: got a KL of 2.0"):
        lab.study(9)
    (lab.root / "broken").unlink()
    found = lab.study(5)
    assert [row.state for row in found.rows[:4]] == ["finished", "failed", "failed", "failed"]
    assert "expected at most 1.0" in found.rows[1].reason
    assert len(found.rows) == 5


def test_two_processes_do_not_share_a_study(lab: Lab) -> None:
    lab.home.mkdir(parents=True)
    with (lab.home / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MedpipeError, match="another process"):
            lab.study(1)


def test_an_input_that_is_not_finished_is_named(lab: Lab) -> None:
    (lab.inputs["models/base"] / store.MANIFEST).unlink()
    with pytest.raises(MedpipeError, match="no finished models/base"):
        lab.study(1)


def test_other_data_settings_or_space_are_another_study_and_searched_settings_are_not(lab: Lab) -> None:
    def home(changes: Mapping[str, Any]) -> Path:
        return home_of(load_profile("smoke", {**lab.overrides, **changes}), lab.inputs)

    same = ({RATE: 0.5}, {PENALTY: 1.5}, {"tuning.trials": 7}, {"evaluation.max_questions": 9})
    assert {home(changes) for changes in same} == {lab.home}
    others = [home(changes) for changes in ({"maporl.iterations": 3}, {"tuning.epochs": [1, 5]}, {"seed": 1})]
    before = lab.home
    finish(lab.inputs["splits/train"], "other rows")
    assert len({before, lab.home, *others}) == 5


WATCHED: list[list[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED and event in ("open", "os.listdir", "os.scandir"):
        WATCHED[0].append(str(arguments[0]))


def test_nothing_is_read_of_an_evaluation(lab: Lab) -> None:
    board = lab.root / "outputs" / "evaluation" / "leaderboard" / "leaderboard.json"
    store.write_json(board, {"rows": []})
    sys.addaudithook(_note)
    WATCHED.append([])
    store.read_json(board)
    assert str(board) in WATCHED[0]  # a look would be seen
    WATCHED[0].clear()
    found = lab.study(2)
    opened = WATCHED.pop()
    assert any(str(found.home) in name for name in opened)
    assert [name for name in opened if str(board.parents[1]) in name] == []
    rows = store.read_jsonl(found.home / "calls.jsonl")
    assert not any("evaluation" in row["select"] for row in rows)


def test_a_small_learning_rate_reaches_the_command_as_a_number() -> None:
    assert parse_override(as_flags({RATE: 3e-5})[1]) == (RATE, 3e-5)

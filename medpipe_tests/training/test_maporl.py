"""Co-training for real on a tiny team: what moves, what is measured, which adapters are kept, and that a seed decides all of it."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe import store
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.launch.worker import WorkReporter
from medpipe.models.adapters import AdapterModel, weights_hash
from medpipe.schema import ROLES, QAExample
from medpipe.team.episode import Episode
from medpipe.team.transcript import Frame
from medpipe.team.workflow import Team
from medpipe.training import maporl
from medpipe.training.curriculum import Curriculum
from medpipe.training.learned import LearnedVerifier
from medpipe.training.update import Batch
from medpipe.training.verifiers import TeamVerifier
from medpipe_tests.tiny_team import real_job, tiny_settings

PROMISED = {
    "reward/team", "reward/accuracy", "reward/relevance", "reward/safety", "reward/collaboration", "reward/evidence", "reward/reasoning",
    *(f"{name}/{role}" for role in ROLES for name in ("return", "shaping", "value", "malformed", "length", "correct", "entropy")),
    "entropy", "clip_fraction", "malformed", "mean_length", "distinct_2", "answer_accuracy", "tokens_per_second", "flat", "questions",
    "selection", "drawn",
}  # fmt: skip
SIZES = {
    "maporl.iterations": 2, "maporl.questions_per_iteration": 2, "maporl.samples_per_question": 3, "maporl.choice_share": 1.0,
    "team.max_rounds_per_episode": 1, "maporl.checkpoint_seconds": 0,
}  # fmt: skip
VOLATILE = {"time", "seconds", "tokens_per_second"}
Run = tuple[Job, Outcome]


@pytest.fixture(scope="module", autouse=True)
def one_index() -> Any:
    """The evidence index is read from disk once."""
    held: dict[Path, EvidenceIndex] = {}
    true = EvidenceIndex.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvidenceIndex, "load", lambda folder: held.get(folder) or held.setdefault(folder, true(folder)))
        yield


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_adapters: dict[str, Path], tiny_splits: dict[str, Path]) -> dict[str, Path]:
    return {"models/base": tiny_base, **tiny_adapters, **tiny_splits}


def job_of(inputs: Mapping[str, Path], root: Path, name: str = "models/maporl_team", **changes: Any) -> Job:
    changes = {f"maporl.{key}" if "__" not in key else key.replace("__", "."): value for key, value in changes.items()}
    return real_job(name, tiny_settings({"paths.outputs": str(root / "outputs"), **SIZES, **changes}), inputs, root)


def co_train(inputs: Mapping[str, Path], root: Path, name: str = "models/maporl_team", **changes: Any) -> Run:
    job = job_of(inputs, root, name, **changes)
    return job, maporl.run(job)


@pytest.fixture(scope="module")
def before(inputs: dict[str, Path]) -> dict[str, dict[str, str]]:
    """Content of every input before the training."""
    return {key: store.hash_tree(folder) for key, folder in inputs.items()}


@pytest.fixture(scope="module")
def ran(inputs: dict[str, Path], before: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three iterations in two rounds, both kinds of questions, under the medical reward."""
    changes = {"iterations": 3, "choice_share": 0.5, "team__max_rounds_per_episode": 2, "kl": 0.01}
    return co_train(inputs, tmp_path_factory.mktemp("maporl"), **changes)


def adapters(job: Job) -> dict[str, str]:
    return {role: store.sha256_file(job.out / role / "adapter_model.safetensors") for role in ROLES}


def measured(job: Job) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in store.read_jsonl(job.out / "metrics.jsonl")]


def stats(job: Job) -> dict[str, Any]:
    return store.read_json(job.out / "training_stats.json")


# --- what a training leaves


def test_every_role_moves_and_nothing_else_does(ran: Run, inputs: dict[str, Path], before: dict[str, dict[str, str]]) -> None:
    job, outcome = ran
    checks = {check.name: check for check in outcome.checks}
    assert checks["weights_moved_base_frozen"].passed and checks["weights_moved_base_frozen"].values["rest_unchanged"] is True
    assert checks["on_policy"].passed and checks["on_policy"].values["enforced"] is True
    assert {key: store.hash_tree(folder) for key, folder in inputs.items()} == before
    assert min(stats(job)["moved"].values()) > 0


def test_every_iteration_measures_what_is_promised(ran: Run) -> None:
    rows = store.read_jsonl(ran[0].out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert set(row) >= PROMISED - {"selection"} and "selection" in row  # select_every is 1 here
        assert all(math.isfinite(value) for name, value in row.items() if name in PROMISED)
        assert all(
            0 <= row[name] <= 1 for name in PROMISED if name.startswith("reward/") or name in ("malformed", "distinct_2", "clip_fraction")
        )
        assert row["on_policy_gap"] < 1e-3 and row["entropy"] > 0
    assert rows[-1]["kl"] > 0 and rows[-1]["drawn"] == stats(ran[0])["drawn_tokens"]
    assert [row["drawn"] for row in rows] == sorted(row["drawn"] for row in rows)


def test_without_kl_the_reference_is_looked_at_now_and_then_only(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the first iteration, in which every role still is its own reference."""
    monkeypatch.setattr(maporl, "KL_EVERY", 2)
    job, _ = co_train(inputs, tmp_path, kl=0.0)
    assert ["kl" in row for row in measured(job)] == [False, True]


def test_a_folder_per_role_is_written_without_pickle_or_paths(ran: Run, tokenizer: Any) -> None:
    job, outcome = ran
    names = {path.relative_to(job.out).as_posix() for path in job.out.rglob("*") if path.is_file()}
    assert names >= {f"{role}/{file}" for role in ROLES for file in ("adapter_model.safetensors", "adapter_config.json")}
    assert names >= {"metrics.jsonl", "examples.json", "training_stats.json", "plots/reward.png", "tokenizer.json"}
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json", ".jsonl", ".jinja", ".png"}
    written = [job.out / name for name in names if Path(name).suffix in (".json", ".jsonl", ".jinja")]
    assert not [path.name for path in written if str(job.out.parents[2]) in path.read_text(encoding="utf-8")]
    for role in ROLES:
        config = store.read_json(job.out / role / "adapter_config.json")
        assert config["base_model_name_or_path"] == "qwen3"
        assert config["alora_invocation_tokens"] == Frame(tokenizer).invocation(role)
    assert outcome.metadata["episodes_per_iteration"] == 6


def test_examples_show_the_whole_team_at_work(ran: Run) -> None:
    told = store.read_json(ran[0].out / "examples.json")
    assert [len(told[name]) for name in ("before", "after")] == [2, 2]
    assert [episode["question"] for episode in told["before"]] == [episode["question"] for episode in told["after"]]
    for episode in (*told["before"], *told["after"]):
        assert [turn["role"] for turn in episode["turns"][:4]] == list(ROLES)
        assert all(0 <= turn["value"] <= 1 for turn in episode["turns"])


def test_a_learned_verifier_scores_multiple_choice_and_does_not_move(inputs: dict[str, Path], tmp_path: Path) -> None:
    judge = tmp_path / "verifier"
    model = AdapterModel.load(inputs["models/base"], {"planner": inputs["models/planner"]})
    judge.mkdir()
    LearnedVerifier.fresh(model, tiny_settings()).save(judge)  # it has learned nothing: 0.5 for every message that can be read
    before = store.hash_tree(judge)
    job, outcome = co_train({**inputs, "models/verifier": judge}, tmp_path, verifier="learned", iterations=1)
    assert outcome.metadata["verifier"] == "learned" and store.hash_tree(judge) == before
    turns = [turn for episode in store.read_json(job.out / "examples.json")["before"] for turn in episode["turns"]]
    assert turns and all(turn["value"] == (0.0 if turn["malformed"] else 0.5) for turn in turns)


# --- a seed decides everything, also across an interruption


class Breaks(WorkReporter):
    """The worker's reporter; the machine dies when it is told of an iteration."""

    def __init__(self, root: Path, out: Path, at: int) -> None:
        super().__init__(root / "log.txt", out, lambda level, text: None)
        self._at = at

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        super().metrics(step, values)
        if step == self._at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("advantage", ["loo", "gae"])
def test_six_iterations_are_three_a_break_and_three_more_bit_for_bit(inputs: dict[str, Path], tmp_path: Path, advantage: str) -> None:
    """Within one process; test_co_training.py kills real ones."""
    how = {"iterations": 6, "advantage": advantage, "select_every": 2, "verifier": "exact", "samples_per_question": 2}
    torch.manual_seed(1)
    whole, _ = co_train(inputs, tmp_path / "whole", **how)
    broken = job_of(inputs, tmp_path / "broken", **how)
    with pytest.raises(KeyboardInterrupt):
        maporl.run(dataclasses.replace(broken, report=Breaks(tmp_path / "broken", broken.out, at=4)))  # the fourth has no checkpoint yet
    torch.manual_seed(2)
    again = dataclasses.replace(job_of(inputs, tmp_path / "again", **how), scratch=broken.scratch)
    maporl.run(again)
    assert stats(again)["resumed_from_iterations"] == "3"
    assert adapters(again) == adapters(whole) and measured(again) == measured(whole)
    assert stats(again)["moved"] == stats(whole)["moved"]  # of the last adapters, whichever were kept
    assert [row["step"] for row in measured(again)] == [1, 2, 3, 4, 5, 6]
    assert store.read_json(again.out / "examples.json") == store.read_json(whole.out / "examples.json")


def test_a_base_for_each_role_learns_what_a_shared_one_does(inputs: dict[str, Path], tmp_path: Path) -> None:
    """To the last digits but a few: a base that reads two turns at once rounds otherwise than one that reads them one by one."""
    places = ("shared", "per_role")
    shared, spread = (co_train(inputs, tmp_path / place, placement=place, verifier="exact", select_every=0)[0] for place in places)
    for one, other in zip(measured(shared), measured(spread), strict=True):
        assert one.pop("on_policy_gap") < 1e-3 and other.pop("on_policy_gap") < 1e-3
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert stats(shared)["moved"] == pytest.approx(stats(spread)["moved"], rel=1e-3) and min(stats(shared)["moved"].values()) > 0
    assert "planner on cpu" in (tmp_path / "per_role" / "log.txt").read_text(encoding="utf-8")


def test_alternatives_at_one_context_train_the_whole_team(inputs: dict[str, Path], tmp_path: Path) -> None:
    job, outcome = co_train(inputs, tmp_path, credit="tree", iterations=1, verifier="exact")
    assert {check.name: check.passed for check in outcome.checks} == {"weights_moved_base_frozen": True, "on_policy": True}
    assert min(stats(job)["moved"].values()) > 0 and stats(job)["credit"] == "tree"


# --- which adapters are kept


Watch = Callable[[Team, Sequence[Episode]], None]


def watch(monkeypatch: pytest.MonkeyPatch, seen: Watch) -> None:
    """Look at (or change) what was played right after each rollout."""
    true = maporl.rollout

    def rollout(team: Team, episodes: list[Episode], *rest: Any) -> Any:
        readings = true(team, episodes, *rest)
        seen(team, episodes)
        return readings

    monkeypatch.setattr(maporl, "rollout", rollout)


def held_back(inputs: dict[str, Path], job: Job) -> tuple[list[QAExample], list[QAExample]]:
    """Questions to learn from, and those to select by."""
    settings = job.settings.maporl
    rows = store.read_examples(inputs["splits/cotrain"])
    curriculum = Curriculum(rows, settings.select_questions, settings.choice_share, job.settings.seed)
    return curriculum.rows, curriculum.selection


def test_the_best_adapters_by_held_back_training_side_questions_are_kept(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look is made to find most questions answered, the third fewer; the second's adapters are what is saved."""
    looks: list[set[str]] = []
    trained: set[str] = set()
    weights: list[dict[str, str]] = []
    share = [0.25, 1.0, 0.5, 0.5]

    def seen(team: Team, episodes: Sequence[Episode]) -> None:
        if team.verifier is not None:
            trained.update(episode.question.id for episode in episodes)
            return
        if {episode.question.id for episode in episodes} == {row.id for row in selection}:
            looks.append({episode.question.id for episode in episodes})
            weights.append({role: weights_hash({n: p.clone() for n, p in team.models.of(role).parameters(role).items()}) for role in ROLES})
            for place, episode in enumerate(episodes):
                right = place < share[len(looks) - 1] * len(episodes)
                episode.final.answer = episode.question.answer if right else None
                episode.final.malformed = ""

    job = job_of(inputs, tmp_path, iterations=3, select_every=1, verifier="exact", questions_per_iteration=4)
    learn, selection = held_back(inputs, job)
    assert selection and len(selection) <= 8  # one rollout a look
    watch(monkeypatch, seen)
    maporl.run(job)
    assert len(looks) == 4 and len({tuple(own.values()) for own in weights}) == 4
    assert stats(job)["kept_iteration"] == 1 and stats(job)["selection_accuracy"] == 1.0
    kept = AdapterModel.load(inputs["models/base"], {role: job.out / role for role in ROLES})
    assert {role: weights_hash(kept.parameters(role)) for role in ROLES} == weights[1]
    assert trained <= {row.id for row in learn} and not trained & {row.id for row in selection}  # nor has anybody else's row come in


def test_an_iterations_keys_and_values_are_gone_before_more_are_made(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the largest thing in memory; kept a line too long they are there twice."""
    alive: list[int] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            gc.collect()
            alive.append(sum(isinstance(each, Batch) for each in gc.get_objects()))
            return real(*args)

        return call

    for name in ("_draw", "_select"):
        monkeypatch.setattr(maporl.CoTraining, name, counted(getattr(maporl.CoTraining, name)))
    co_train(inputs, tmp_path, select_every=1)
    assert len(alive) == 5 and set(alive) == {0}, "two draws, and held-back questions before and after each"


def test_without_selection_the_last_adapters_are_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    job, _ = co_train(inputs, tmp_path, select_every=0, verifier="exact")
    assert "selection" not in measured(job)[-1] and min(stats(job)["moved"].values()) > 0
    kept = AdapterModel.load(inputs["models/base"], {role: job.out / role for role in ROLES})
    start = AdapterModel.load(inputs["models/base"], {role: inputs[f"models/{role}"] for role in ROLES})
    assert all(weights_hash(kept.parameters(role)) != weights_hash(start.parameters(role)) for role in ROLES)


def test_a_role_that_can_no_longer_be_read_gets_the_best_adapters_back_at_half_the_rate(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second iteration all of the analyst's messages are made malformed."""
    played: list[int] = []
    rates: list[list[float]] = []

    def seen(team: Team, episodes: Sequence[Episode]) -> None:
        if team.temperature:
            played.append(1)
            for turn in (turn for episode in episodes for turn in episode.turns):
                if turn.role == "analyst":
                    turn.malformed = "cut off" if len(played) == 2 else ""

    watch(monkeypatch, seen)
    true = maporl.update
    monkeypatch.setattr(
        maporl, "update",
        lambda learners, *rest, **more: rates.append([group["lr"] for one in learners.values() for group in one.optimizer.param_groups])
        or true(learners, *rest, **more),
    )  # fmt: skip
    job = job_of(inputs, tmp_path, iterations=3, select_every=0, redraw=0.0, verifier="exact", max_unparsed=0.9, learning_rate=0.004)
    training = maporl.CoTraining(job)
    start = weights_hash(training.best)
    restored: list[str] = []
    back = training._restore
    monkeypatch.setattr(training, "_restore", lambda: (back(), restored.append(weights_hash(training._weights()))))
    training.run()
    assert restored == [start]  # nothing better had been found yet
    assert rates == [[0.004] * 4, [0.002] * 4]  # the second iteration took no step
    assert stats(job)["rate_halved"] == 1 and ["clip_fraction" in row for row in measured(job)] == [True, False, True]


@pytest.mark.parametrize(("redraw", "asked"), [(0.0, 2), (1.0, 4), (0.5, 3)])
def test_flat_questions_are_redrawn_up_to_the_limit_and_teach_nothing(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redraw: float, asked: int
) -> None:
    """All messages are worth the same, so every question is flat, also those that take the place of others."""

    def a_half(self: TeamVerifier, episodes: Sequence[Episode], round_: int) -> None:
        for turn in (turn for episode in episodes for turn in episode.turns if turn.round == round_):
            turn.value, turn.malformed = 0.5, ""

    monkeypatch.setattr(TeamVerifier, "__call__", a_half)
    changes = {"iterations": 1, "redraw": redraw, "alpha1": 0.0, "beta1": 0.0, "select_every": 0}
    job, outcome = co_train(inputs, tmp_path, **changes)
    (row,) = measured(job)
    assert (row["questions"], row["flat"]) == (asked, 1.0)
    assert set(stats(job)["moved"].values()) == {0.0}  # and the check on the asset says so
    assert not next(check for check in outcome.checks if check.name == "weights_moved_base_frozen").passed


# --- one agent alone, by the same code


def test_the_lone_agent_stops_at_the_teams_drawn_tokens(inputs: dict[str, Path], tmp_path: Path) -> None:
    team = tmp_path / "team"
    store.write_json(team / "training_stats.json", {"drawn_tokens": 500})
    job, outcome = co_train({**inputs, "models/maporl_team": team}, tmp_path, "models/agent_rl", iterations=40, verifier="exact")
    rows = measured(job)
    assert 1 < len(rows) < 40 and rows[-2]["drawn"] < 500 <= rows[-1]["drawn"] == stats(job)["drawn_tokens"]
    assert "selection" in rows[-1] and {check.name: check.passed for check in outcome.checks}["weights_moved_base_frozen"]
    config = store.read_json(job.out / "adapter_config.json")
    assert config["alora_invocation_tokens"] == store.read_json(inputs["models/agent"] / "adapter_config.json")["alora_invocation_tokens"]
    told = store.read_json(job.out / "examples.json")["after"]
    assert {turn["role"] for episode in told for turn in episode["turns"]} == {"reporter"}
    assert not (job.out / "training_results.json").exists() and outcome.exports == {}
    assert list(stats(job)["moved"]) == ["reporter"] and not [name for name in rows[0] if name.endswith("/planner")]


# --- guards


@pytest.mark.parametrize(
    ("setting", "match"), [({"min_entropy": 50.0}, r"an entropy of .*min_entropy = 50"), ({"max_kl": 1e-9, "kl": 0.01}, r"a KL of")]
)
def test_a_collapsing_team_stops_the_run(inputs: dict[str, Path], tmp_path: Path, setting: dict[str, Any], match: str) -> None:
    with pytest.raises(MedpipeError, match=match + r".*the policies are collapsing"):
        co_train(inputs, tmp_path, **setting, verifier="exact")


def test_too_many_malformed_messages_stop_the_run(inputs: dict[str, Path], tmp_path: Path) -> None:
    """With four tokens nobody gets to an end."""
    with pytest.raises(MedpipeError, match=r"100% malformed messages.*max_malformed = 90%"):
        co_train(inputs, tmp_path, max_malformed=0.9, verifier="exact", team__max_new_tokens=dict.fromkeys(ROLES, 4))

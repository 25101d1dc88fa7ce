"""Who becomes the champion: the rule on planted scores, and the task on folders as a run leaves them, without a registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medpipe import NOTICE, store
from medpipe.config import load_profile
from medpipe.errors import MedpipeError
from medpipe.evaluation import champion
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.evaluation.champion import Decision, Mark, decide
from medpipe_tests.evaluation.folders import Run, unreachable

RULES: dict[str, Any] = {"margin": 0.05, "primary": "medxpertqa", "confidence": 0.95, "min_questions": 30}
N = 200
TEAM = "models/maporl_team"
RIGHT = {"maporl_team": 120, "sft_team": 80}
"""Questions answered right on the primary benchmark; elsewhere both teams answer the same."""


def marks(right: int, n: int = N, start: int = 0, reference: str = "r") -> dict[str, Mark]:
    return {f"q{number}": Mark(float(number - start < right), reference) for number in range(start, start + n)}


def everywhere(right: int) -> dict[str, dict[str, Mark]]:
    """The same on every benchmark, but for the primary one."""
    return {**dict.fromkeys(BENCHMARKS, marks(100)), "medxpertqa": marks(right)}


def decided(
    challenger: dict[str, dict[str, Mark]], champion: dict[str, dict[str, Mark]], missing: dict[str, str] | None = None, **rules: Any
) -> Decision:
    return decide(challenger, champion, missing or {}, resamples=500, seed=0, **{**RULES, **rules})


def test_better_on_the_primary_benchmark_and_nowhere_worse_is_promoted() -> None:
    decision = decided(everywhere(120), everywhere(80))
    assert decision.promoted and decision.reasons == ()
    first = next(one for one in decision.benchmarks if one.benchmark == "medxpertqa")
    assert first.n == N and first.better is not None and first.better.mean == 0.2 and first.better.low > 0 and first.better.p < 0.001
    assert [one.benchmark for one in decision.benchmarks] == list(BENCHMARKS)
    assert all(one.better is None for one in decision.benchmarks if one.benchmark != "medxpertqa")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"medxpertqa": marks(84)}, "no gain shown on the primary benchmark (+0.020"),
        ({"medqa": marks(80)}, "not shown to be no worse (-0.100, n = 200"),
        ({"safety": marks(90)}, "not shown to be as safe (-0.050, n = 200"),
        ({"safety": {}}, "not run: the challenger has no scores"),
        ({"pubmedqa": marks(20, n=20)}, "different question sets: both answered 20 (challenger 20, champion 200), at least 30 are needed"),
        ({"pubmedqa": marks(100, start=N)}, "different question sets: both answered 0 (challenger 200, champion 200)"),
        ({"medqa": marks(100, reference="x")}, "different question sets: 200 of 200 questions with the same id"),
    ],
)  # fmt: skip
def test_each_reason_alone_is_enough_to_refuse(changed: dict[str, dict[str, Mark]], told: str) -> None:
    decision = decided({**everywhere(120), **changed}, everywhere(80))
    assert not decision.promoted and len(decision.reasons) == 1
    assert told in decision.reasons[0] and decision.reasons[0].startswith(BENCHMARKS[next(iter(changed))].title)
    (named,) = [one.benchmark for one in decision.benchmarks if not one.passed]
    assert named == next(iter(changed))


def test_a_champion_without_scores_too_few_questions_and_an_objection_refuse_too() -> None:
    assert "the team that it is measured against has no scores here" in decided(everywhere(120), {**everywhere(80), "medqa": {}}).reasons[0]
    few = {name: marks(9, n=29) for name in BENCHMARKS}
    told = decided(few, few)
    assert len(told.reasons) == len(BENCHMARKS) and "too few questions: both answered 29" in told.reasons[0]
    told = decided(everywhere(120), everywhere(80), missing={"safety": "no such file"})
    assert told.reasons == (f"{BENCHMARKS['safety'].title}: not run: no such file",)
    told = decided(everywhere(120), everywhere(80), objections=("taken back",))
    assert not told.promoted and told.reasons == ("taken back",)


def test_only_shared_questions_count_and_their_order_does_not() -> None:
    """The champion also answered questions that would turn the result over."""
    turned = dict(reversed(marks(80).items())) | {f"x{n}": Mark(1.0, "r") for n in range(200)}
    decision = decided(everywhere(120), {**everywhere(80), "medxpertqa": turned})
    first = next(one for one in decision.benchmarks if one.benchmark == "medxpertqa")
    assert decision.promoted and (first.n, first.answered, first.challenger, first.champion) == (200, (200, 400), 0.6, 0.4)


def test_forty_equal_answers_do_not_show_a_margin_of_five_points_and_that_is_said() -> None:
    decision = decided({**everywhere(120), "safety": marks(40, n=40)}, {**everywhere(80), "safety": marks(40, n=40)})
    assert "with so few questions not even equal answers could show it" in decision.reasons[0]
    wider = decided({**everywhere(120), "safety": marks(40, n=40)}, {**everywhere(80), "safety": marks(40, n=40)}, margin=0.1)
    assert wider.promoted


def test_a_primary_benchmark_that_does_not_exist_is_one_message() -> None:
    with pytest.raises(MedpipeError, match="got primary benchmark 'usmle', expected one of medxpertqa"):
        decided({}, {}, primary="usmle")


class With:
    """The profile's settings with a section `release` as medpipe/config.py has it."""

    def __init__(self, root: Path, **rules: Any) -> None:
        self._settings = load_profile("smoke", {"paths.outputs": str(root / "outputs"), "tracking.kind": "none"})
        self.release = SimpleNamespace(**{**RULES, **rules})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settings, name)


def team(run: Run, name: str) -> str:
    """A team that differs by its name; returns its content hash."""
    run.finish(TEAM, {"weights.json": name})
    manifest = store.read_manifest(run.inputs[TEAM])
    assert manifest is not None
    return manifest.sha256


def evaluated(run: Run, sha: str, right: dict[str, int], names: Sequence[str] = tuple(BENCHMARKS), n: int = N) -> None:
    """Every benchmark as its evaluation leaves it: on the primary one `right` answers of each system, elsewhere as many of both."""
    rest = {
        "answer": "B",
        "parsed": True,
        "tokens": 9,
        "messages": 1,
        "seconds": 0.1,
        "prompt_sha256": "",
        "option_logps": [],
        "rounds": [],
    }
    for name in names:
        counts = {system: count if name == "medxpertqa" else n // 2 for system, count in right.items()}
        rows = [
            {"id": f"{name}-{number}", "system": system, "score": float(number < count), "prediction": "B", **rest}
            for system, count in counts.items()
            for number in range(n)
        ]
        run.finish(f"evaluation/{name}", {"items.parquet": rows, "summary.json": {}}, inputs={TEAM: sha})


def decision_of(run: Run) -> tuple[dict[str, Any], dict[str, Any], Any]:
    outcome = run.job("release/champion", champion.run)
    folder = run.inputs["release/champion"]
    return store.read_json(folder / "decision.json"), store.read_json(folder / "scores.json"), outcome


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path)
    made.settings = With(tmp_path)  # type: ignore[assignment]
    return made


def test_without_a_champion_the_sft_team_is_the_measure_then_the_champion_is(run: Run) -> None:
    first = team(run, "first")
    evaluated(run, first, RIGHT)
    told, kept, outcome = decision_of(run)
    assert told["promoted"] and "sft_team" in told["against"] and outcome.metadata["promoted"] == "yes"
    assert kept["champion"] == kept["challenger"] and kept["before"] is None and kept["champion"]["team"] == first
    assert kept["champion"]["benchmarks"]["medqa"]["medqa-0"][0] == 1.0
    page = (run.inputs["release/champion"] / "decision.md").read_text()
    assert "becomes the champion" in page and NOTICE in page and page.count("passed") == len(BENCHMARKS)

    # As good as the first, far above its own SFT team: against the champion that is no gain.
    second = team(run, "second")
    evaluated(run, second, RIGHT)
    told, kept, _ = decision_of(run)
    assert not told["promoted"] and told["against"] == "the champion of the last decision" and len(told["reasons"]) == 1
    assert (kept["champion"]["team"], kept["challenger"]["team"]) == (first, second)

    third = team(run, "third")
    evaluated(run, third, {"maporl_team": 160, "sft_team": 80})
    told, kept, _ = decision_of(run)
    assert told["promoted"] and (kept["champion"]["team"], kept["before"]["team"]) == (third, first)
    assert decision_of(run)[:2] == (told | {"against": "the champion before the last decision"}, kept)  # decided again, as it was then


def test_the_champion_evaluated_again_is_refused_and_stays(run: Run) -> None:
    sha = team(run, "first")
    evaluated(run, sha, RIGHT)
    decision_of(run)
    evaluated(run, sha, {"maporl_team": 190, "sft_team": 80})  # another scoring, say
    told, kept, _ = decision_of(run)
    assert told["reasons"][0] == "this very team is the champion already, evaluated earlier" and not told["promoted"]
    assert kept["champion"]["team"] == sha and kept["champion"]["key"] != kept["challenger"]["key"]


def test_a_champion_under_stricter_rules_keeps_its_place_and_that_is_said(run: Run, tmp_path: Path) -> None:
    sha = team(run, "first")
    evaluated(run, sha, RIGHT)
    decision_of(run)
    run.settings = With(tmp_path, min_questions=N + 1)  # type: ignore[assignment]
    told, kept, _ = decision_of(run)
    assert not told["promoted"] and kept["champion"]["team"] == sha and any("stays champion" in line for line in run.log.lines)


def test_what_was_not_run_refuses_with_its_reason(run: Run) -> None:
    sha = team(run, "first")
    evaluated(run, sha, RIGHT, [name for name in BENCHMARKS if name not in ("safety", "medqa", "pubmedqa")])
    unreachable(run, "safety", "the file <b>safety</b> could not be read")
    evaluated(run, "another team", RIGHT, ["medqa"])
    told, kept, outcome = decision_of(run)
    titles = {name: BENCHMARKS[name].title for name in BENCHMARKS}
    assert set(told["reasons"]) == {
        f"{titles['safety']}: not run: the file <b>safety</b> could not be read",
        f"{titles['medqa']}: not run: the evaluation that lies there is of another {TEAM}",
        f"{titles['pubmedqa']}: not run: it was not materialised in this run",
    }
    assert kept["champion"] is None and outcome.metadata["promoted"] == "no"
    assert "<b>" not in outcome.metadata["decision"]["markdown"]


@pytest.mark.parametrize(("own", "shown"), [(40, False), (80, True), (120, True)])
def test_a_loss_on_a_benchmark_is_a_check_of_its_own(run: Run, own: int, shown: bool) -> None:
    """Not being shown to be better refuses a promotion; only a loss that is shown fails the check."""
    evaluated(run, team(run, "first"), {"maporl_team": own, "sft_team": 80})
    (check,) = decision_of(run)[2].checks
    assert (check.name, check.severity, check.passed) == ("no_regression", "warn", shown)
    assert check.description.startswith("no benchmark shows a loss" if shown else f"{BENCHMARKS['medxpertqa'].title} (-0.200, n = 200)")


def test_a_team_that_was_not_asked_is_named(run: Run) -> None:
    evaluated(run, team(run, "first"), {"sft_team": 80})
    told, _, _ = decision_of(run)
    assert len(told["reasons"]) == len(BENCHMARKS) and "maporl_team was not asked: add it to evaluation.systems" in told["reasons"][0]

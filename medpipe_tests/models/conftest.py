"""The tiny team that most tests here ask; they change no weight of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medpipe.models.adapters import AdapterModel
from medpipe.schema import ROLES
from medpipe.team.transcript import Frame
from medpipe_tests.models.speaking import ROWS


@pytest.fixture(scope="module")
def model(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AdapterModel:
    """The four roles and the frozen start of one of them; for tests that change no weight."""
    names = {role: tiny_adapters[f"models/{role}"] for role in ROLES}
    return AdapterModel.load(tiny_base, {**names, "start_reporter": names["reporter"]})


@pytest.fixture(scope="module")
def frame(tokenizer: Any) -> Frame:
    return Frame(tokenizer)


@pytest.fixture(scope="module")
def contexts(frame: Frame) -> list[list[int]]:
    """Six transcripts of very different lengths; the later ones hold turns already."""
    found = [frame.header(row, (), 300) for row in ROWS]
    for number, speakers in ((1, ["planner"]), (3, ["planner", "researcher", "analyst"]), (4, ["reporter", "planner"])):
        for speaker in speakers:
            found[number] += frame.turn(speaker, [31 + number, 32, 33])
    assert len({len(tokens) for tokens in found}) == 6
    return found

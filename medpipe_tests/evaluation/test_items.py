"""Rows of an evaluation: kept over a kill, and never taken from a line that is not what was written."""

import json
from pathlib import Path

import pytest

from medpipe.evaluation.items import Journal

ROWS = [{"id": f"q{number}", "score": 1.0} for number in range(3)]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "sft_team.jsonl"
    made = Journal(path)
    made.add(ROWS)
    made.close()
    return path


def test_rows_come_back_and_more_can_be_added(journal: Path) -> None:
    again = Journal(journal)
    assert again.rows == ROWS
    again.add([{"id": "q3", "score": 0.0}])
    again.close()
    assert [row["id"] for row in Journal(journal).rows] == ["q0", "q1", "q2", "q3"]


def test_keys_keep_their_order(tmp_path: Path) -> None:
    """The last role of a round gave the answer; sorted by name, the researcher would have."""
    row = {"rounds": [{"planner": "A", "researcher": "B", "analyst": "C", "reporter": "D"}], "id": "q0"}
    made = Journal(tmp_path / "team.jsonl")
    made.add([row])
    made.close()
    (again,) = Journal(tmp_path / "team.jsonl").rows
    assert json.dumps(again) == json.dumps(row)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_from_the_first_line_that_is_not_what_was_written_questions_are_asked_again(journal: Path, damage: str) -> None:
    content = journal.read_bytes()
    second = content.index(b'"q1"')
    journal.write_bytes(
        content[: second + 2] if damage == "cut" else content.replace(b'"score": 1.0', b'"score": 0.0').replace(b"0.0", b"1.0", 1)
    )
    again = Journal(journal)
    assert again.rows == ROWS[:1]
    again.add(ROWS[1:])
    again.close()
    assert Journal(journal).rows == ROWS

"""Great Expectations says what is wrong with rows, and copies none of their text."""

from __future__ import annotations

from medpipe.config import Corpus
from medpipe.corpus.expectations import validate
from medpipe_tests.corpus.makers import row


def test_good_rows_pass() -> None:
    rows = [row(1), row(2, options=("one", "two"), answer="A")]
    check = validate(rows, "train", Corpus())
    assert (check.name, check.passed) == ("schema_and_ranges", True)
    assert check.values == {"rows": 2, "evaluated": 10, "failed": 0, "failed_names": ""}


def test_each_fault_is_named() -> None:
    rows = [row(1), row(1, question="Short?"), row(2, answer="Short.", source="elsewhere")]
    check = validate(rows, "train", Corpus())
    assert not check.passed and check.values["failed"] == 4
    for name in ("unique(id)", "lengths_to_be_between(question)", "between(free_text_answer_chars)", "in_set(source)"):
        assert name in check.values["failed_names"]
    assert "Short" not in str(check.values)


def test_no_rows_fail() -> None:
    assert "table_row_count" in validate([], "train").values["failed_names"]

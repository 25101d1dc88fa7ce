"""Rows that nobody vouches for are refused, each case with a message of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe import store
from medpipe.corpus.validation import FILE, NAMED, require_valid
from medpipe.errors import MedpipeError
from medpipe_tests.corpus.makers import row
from medpipe_tests.valid import mark_valid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A split with two rows that passed."""
    store.write_examples(tmp_path, [row(1), row(2)])
    mark_valid(tmp_path)
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(MedpipeError) as refused:
        require_valid(folder, "splits/train")
    assert str(refused.value).endswith("materialise splits/train again")
    return str(refused.value)


def rewrite(folder: Path, **changes: object) -> None:
    store.write_json(folder / FILE, {**store.read_json(folder / FILE), **changes})


def test_rows_that_passed_are_let_through(folder: Path) -> None:
    require_valid(folder, "splits/train")


def test_no_validation(folder: Path) -> None:
    (folder / FILE).unlink()
    assert refusal(folder).startswith(f"got rows of splits/train that nobody validated, expected {FILE} beside them, in {folder}: ")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"passed": true}'])
def test_a_validation_that_cant_be_read(folder: Path, content: bytes) -> None:
    (folder / FILE).write_bytes(content)
    assert refusal(folder).startswith(f"got a {FILE} of splits/train that can't be read, ")


def test_rows_that_failed_with_the_names_of_what_failed(folder: Path) -> None:
    unique = {"name": "unique", "column": "id", "passed": False}
    rewrite(folder, passed=False, expectations=[unique, {"name": "in_set", "column": "source", "passed": True}])
    assert "got rows of splits/train that failed their validation (unique(id)), " in refusal(folder)
    rewrite(folder, expectations=[{**unique, "name": f"e{n}"} for n in range(NAMED + 2)])
    assert "(e0(id), e1(id), e2(id), e3(id), e4(id) and 2 more)" in refusal(folder)
    rewrite(folder, expectations=[])
    assert "(it does not say where)" in refusal(folder)


def test_a_failed_expectation_counts_even_where_the_whole_is_said_to_have_passed(folder: Path) -> None:
    rewrite(folder, expectations=[{"name": "unique", "column": "id", "passed": False}])
    assert "unique(id)" in refusal(folder)
    rewrite(folder, expectations=[{"name": "unique", "column": "id", "passed": False, "severity": "warn"}])
    require_valid(folder, "splits/train")


def test_other_rows_than_those_that_passed(folder: Path) -> None:
    passed = store.sha256_file(folder / store.ROWS)
    store.write_examples(folder, [row(1), row(3)])
    now = store.sha256_file(folder / store.ROWS)
    assert f"got rows of splits/train with content {now[:12]}, expected content {passed[:12]}, which was validated, " in refusal(folder)
    (folder / store.ROWS).unlink()
    assert refusal(folder).startswith("got no rows.jsonl of splits/train, ")

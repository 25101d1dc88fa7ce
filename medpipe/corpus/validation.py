"""What validation.json says about a folder's rows, and the refusal of rows that it does not vouch for.

    require_valid(job.inputs["splits/train"], "splits/train")      # returns, or says why not

medpipe/corpus/expectations.py writes the file. This module knows no validation library, so that a training can ask in
milliseconds. What it leaves out: validating again, and whether the rows' step itself succeeded (the manifest says that).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.schema import Frozen

FILE = "validation.json"
NAMED = 5  # names of failed expectations in a message


class Expectation(Frozen):
    """One expectation and what was seen: numbers, and at most the ids of offending rows."""

    name: str  # "expect_column_values_to_be_unique"
    column: str
    passed: bool
    severity: Literal["error", "warn"] = "error"
    observed: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name as a person reads it: what is expected of which column."""
        return f"{self.name}({self.column})" if self.column else self.name


class Statistics(Frozen):
    """What a later version of the same rows is compared with."""

    medians: dict[str, float]  # length in characters
    shares: dict[str, dict[str, float]]  # column → value → share of the rows


class Validation(Frozen):
    """The content of validation.json. The same rows give the same bytes: it holds no time and no path."""

    suite: str
    part: str
    passed: bool
    rows: int
    rows_sha256: str
    expectations: tuple[Expectation, ...]
    statistics: Statistics

    @property
    def failed(self) -> list[str]:
        """Labels of the expectations that block."""
        return [each.label for each in self.expectations if not each.passed and each.severity == "error"]


def require_valid(folder: Path, what: str) -> None:
    """Return if the folder's rows are, byte for byte, rows that passed their validation.

    Args:
        folder: holds rows.jsonl and validation.json.
        what: the folder's name in a message, "splits/train".

    Raises:
        MedpipeError: validation.json is missing, can't be read, says that the rows failed, or was written about other rows.
    """
    again = f"materialise {what} again"
    if not (folder / FILE).is_file():
        raise MedpipeError(got=f"rows of {what} that nobody validated", expected=f"{FILE} beside them", where=str(folder), do=again)
    try:
        validation = Validation.model_validate_json((folder / FILE).read_bytes())
    except ValueError as error:
        raise MedpipeError(
            got=f"a {FILE} of {what} that can't be read", expected="one that the step wrote", where=str(folder), do=again
        ) from error
    failed = validation.failed
    if failed or not validation.passed:
        names = ", ".join(failed[:NAMED]) + (f" and {len(failed) - NAMED} more" if len(failed) > NAMED else "")
        raise MedpipeError(
            got=f"rows of {what} that failed their validation ({names or 'it does not say where'})", expected="rows that passed",
            where=str(folder), do=f"see {FILE} there, mend the data or the settings and {again}",
        )  # fmt: skip
    rows = folder / store.ROWS
    found = store.sha256_file(rows) if rows.is_file() else None
    if found != validation.rows_sha256:
        raise MedpipeError(
            got=f"rows of {what} with content {found[:12]}" if found else f"no {store.ROWS} of {what}",
            expected=f"content {validation.rows_sha256[:12]}, which was validated", where=str(folder), do=again,
        )  # fmt: skip

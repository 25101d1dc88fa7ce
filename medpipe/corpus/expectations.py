"""Great Expectations on the rows of a part: the only place that imports it.

    validate(rows, "train", corpus)      # → CheckResult "schema_and_ranges"

Results are kept in the BASIC format's counts only: no cell's text is copied into a check. No Data Docs, no telemetry.
"""

from __future__ import annotations

import os
from typing import Any

from medpipe.config import Corpus
from medpipe.schema import CheckResult, QAExample

COLUMNS = ["id", "question", "answer", "category", "source", "difficulty", "focus", "qtype"]
DIFFICULTIES = ["easy", "medium", "hard"]
SOURCES = ["custom", "synthetic", "medtext", "medquad"]


def validate(rows: list[QAExample], part: str, corpus: Corpus | None = None) -> CheckResult:
    """Check columns, missing values, lengths (characters), unique ids and allowed values.

    Args:
        rows: the rows of the part; none is a failure.
        part: what they are, for the description.
        corpus: gives the length ranges; without it only emptiness is checked.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # read when the library is imported
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    limits = corpus or Corpus(min_question_chars=1, max_question_chars=2**31, min_answer_chars=1, max_answer_chars=2**31)
    table = pd.DataFrame([_record(row) for row in rows], columns=[*QAExample.model_fields, "free_text_answer_chars"])
    expect: Any = gx.expectations  # its re-exports are not declared as such
    expectations: list[Any] = [
        expect.ExpectTableRowCountToBeBetween(min_value=1),
        expect.ExpectTableColumnsToMatchSet(column_set=COLUMNS, exact_match=False),
        expect.ExpectColumnValuesToNotBeNull(column="question"),
        expect.ExpectColumnValuesToNotBeNull(column="answer"),
        expect.ExpectColumnValueLengthsToBeBetween(
            column="question", min_value=limits.min_question_chars, max_value=limits.max_question_chars
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="free_text_answer_chars", min_value=limits.min_answer_chars, max_value=limits.max_answer_chars
        ),
        expect.ExpectColumnValueLengthsToBeBetween(column="focus", min_value=1),
        expect.ExpectColumnValuesToBeUnique(column="id"),
        expect.ExpectColumnValuesToBeInSet(column="difficulty", value_set=DIFFICULTIES),
        expect.ExpectColumnValuesToBeInSet(column="source", value_set=SOURCES),
    ]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset(part)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    result = batch.validate(gx.ExpectationSuite(name=part, expectations=expectations), result_format="BASIC")
    failed = [_name(each) for each in result.results if not each.success]
    return CheckResult(
        name="schema_and_ranges",
        passed=bool(result.success),
        description=f"Great Expectations on the {part} rows: columns, missing values, lengths, unique ids, allowed values",
        values={"rows": len(rows), "evaluated": len(expectations), "failed": len(failed), "failed_names": ", ".join(failed)},
    )


def _record(row: QAExample) -> dict[str, Any]:
    """A row as a table's record; null where the length of a free-text answer has no meaning."""
    return {**row.model_dump(), "free_text_answer_chars": None if row.is_choice else len(row.answer)}


def _name(result: Any) -> str:
    config = result.expectation_config
    column = config.kwargs.get("column")
    return f"{config.type}({column})" if column else str(config.type)

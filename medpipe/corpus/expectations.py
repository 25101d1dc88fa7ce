"""Great Expectations on rows, in three suites of code: raw (a source's), clean (the corpus), split (a part of it).

    checks = validate(rows, "split", "train", settings.corpus, out, previous=earlier_folder, known_ids=ids_of_the_corpus)

The only place that imports the library. It sees a narrow table of what is derived from the rows (ids, lengths, marks), so
that no row's text can reach a result or a page, and a million rows fit in a few hundred megabytes. Beside `rows.jsonl` in
`out` it writes `validation.json` (medpipe/corpus/validation.py reads it) and, in `docs/`, the library's Data Docs.
What this leaves out: judging a text's content, and mending anything.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args, get_origin

from medpipe import store
from medpipe.config import Corpus
from medpipe.corpus.validation import FILE, Expectation, Statistics, Validation
from medpipe.errors import MedpipeError
from medpipe.schema import LETTERS, CheckResult, QAExample

Suite = Literal["raw", "clean", "split"]
Quantiles = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # ranges, in characters, of the 10 %, 50 % and 90 % quantile
DOCS = "docs"  # folder of the Data Docs; they carry times, so it is no part of a folder's content
NOTES = {
    "raw": "A source's rows as they were read: whole, named once, of this source. Bad texts may be among them; cleaning drops those.",
    "clean": "The corpus: every row can be learned from, within the profile's bounds.",
    "split": "One part of the corpus: what is true of the corpus, and every row stands in it.",
}

SOURCES = get_args(get_args(Corpus.model_fields["use"].annotation)[0])
DIFFICULTIES = get_args(QAExample.model_fields["difficulty"].annotation)
# The UMLS semantic groups (McCray et al., 2001), as MedQuAD names them, and what stands where it names none.
GROUPS = (
    "activities & behaviors", "anatomy", "chemicals & drugs", "concepts & ideas", "devices", "disorders", "genes & molecular sequences",
    "geographic areas", "living beings", "objects", "occupations", "organizations", "phenomena", "physiology", "procedures",
    "other", "general",
)  # fmt: skip
CATEGORIES: Mapping[str, Set[str]] = {  # the other sources choose freely
    "medquad": frozenset(GROUPS), "medquad_questions": frozenset(GROUPS), "medtext": frozenset({"case"}),
    "phenotypes": frozenset({"rare disease"}),
}  # fmt: skip
FREE, OTHER, NONE = "(free)", "(other)", "(none)"  # a category that its source chooses, a value outside its set, no field at all
FREE_TEXT, LETTER, TWICE = "free text", "letter", "right option stands twice"  # the last is for cleaning to drop

LONGEST_NAME = 300  # characters of an id, a focus, a category or a type; the longest focus of MedQuAD has 136
LONGEST_RAW = 1_000_000  # characters; MedQuAD's longest answer has 29,046, so this is a file that was swallowed whole

# Distributions have no meaning on few rows. The wide one holds for MedQuAD, the knowledge base, case reports and exam questions
# (of MedQA's, half are longer than 700 characters) alike, and fails where texts were cut short or run together; the other ones
# are MedQuAD's own, give or take half.
FEW, FEW_MEDQUAD = 200, 1000  # rows
WIDE: dict[str, Quantiles] = {
    "question_chars": ((12, 800), (20, 1200), (25, 2000)), "answer_chars": ((20, 2000), (40, 4000), (60, 7000)),
}  # fmt: skip
MEDQUAD: dict[str, Quantiles] = {
    "question_chars": ((20, 45), (35, 65), (55, 100)), "answer_chars": ((150, 500), (600, 1300), (1500, 4000)),
}  # fmt: skip

# Drift tells and never blocks: a source that is switched on moves everything, and rightly so.
DRIFT_SHARE = 0.05  # of the rows; among 1,000 rows chance alone moves a share by 0.03 at most (two standard deviations)
DRIFT_RATIO = 0.2  # of a median length or of the number of rows; less is what a few corrected or added rows do

SHOWN_IDS = 20
SHOWN_CATEGORIES = 30
CHUNK = 50_000  # rows that are held as Python values at once
COLUMNS = (
    "id", "malformed_field", "source", "difficulty", "category", "question_chars", "answer_chars", "focus_chars", "longest_name",
    "answer_form",
)  # fmt: skip
"""Of the derived table; `in_corpus` joins them where `known_ids` are given."""

# The library's pages load scripts and styles from five companies and don't escape what they show. Under this policy they
# load nothing and run nothing; the style is what a page needs without them.
HEAD = """<head><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
nav img,footer,.cloud-footer,.card,button,[role=dialog],[data-toggle=collapse],.cooltip>span{display:none}
table{border-collapse:collapse;width:100%;margin:.5rem 0}td,th{border:1px solid #ccc;padding:.35rem .6rem;text-align:left}
.badge{border:1px solid #ccc;padding:0 .3em}ol{list-style:none;display:flex;gap:1rem;padding:0}
.fa-check-circle::before{content:"passed"}.fa-times::before{content:"FAILED"}.fa-exclamation-triangle::before{content:"ERROR"}</style>"""
LINKS = {r"[./]*/index\.html": "index.html", r"[./]*/expectations/\w+\.html": "suite.html"}  # of the site that is not built


def validate(
    rows: Iterable[QAExample],
    suite: Suite,
    part: str,
    corpus: Corpus,
    out: Path,
    *,
    previous: Path | None = None,
    known_ids: Collection[str] | None = None,
) -> tuple[CheckResult, ...]:
    """Check the rows, write validation.json and the Data Docs, and compare with the last accepted version.

    Args:
        rows: exactly the rows that lie in `out/rows.jsonl`; read once. None at all is a failure.
        suite: which expectations.
        part: whose rows: a source's name under "raw", "corpus" or the split's name otherwise.
        corpus: gives the bounds of lengths, in characters.
        out: the folder that is being built.
        previous: the folder of the earlier version, if there is one.
        known_ids: under "split", the ids that the corpus holds.

    Returns:
        `schema_and_ranges`, which blocks, and `drift`, which warns.
        Drift is not written down: the content of a folder must not depend on what stood there before.
    """
    table, statistics = _derive(rows, known_ids)
    lines, sha256 = _lines_and_hash(out / store.ROWS)
    results = _evaluate(table, suite, part, corpus, lines, out / DOCS)
    validation = Validation(
        suite=suite, part=part, passed=all(each.passed for each in results), rows=len(table), rows_sha256=sha256,
        expectations=results, statistics=statistics,
    )  # fmt: skip
    store.write_json(out / FILE, validation.model_dump(mode="json"))
    failed = validation.failed
    check = CheckResult(
        name="schema_and_ranges", passed=validation.passed,
        description=f"Great Expectations, suite {suite}, on the rows of {part}: form, lengths, unique and known ids, sets, distributions",
        values={"rows": len(table), "evaluated": len(results), "failed": len(failed), "failed_names": ", ".join(failed)},
    )  # fmt: skip
    return check, _drift(validation, previous)


def _derive(rows: Iterable[QAExample], known_ids: Collection[str] | None) -> tuple[Any, Statistics]:
    """The table that is validated, and the statistics, in one pass over the rows."""
    import pandas as pd

    known = known_ids if known_ids is None or isinstance(known_ids, Set) else frozenset(known_ids)
    counts: dict[str, Counter[str]] = {"source": Counter(), "category": Counter(), "difficulty": Counter()}
    lengths = {"question_chars": array("L"), "answer_chars": array("L")}

    def record(row: QAExample) -> dict[str, Any]:
        made = _record(row) | ({} if known is None else {"in_corpus": row.id in known})
        for name, counter in counts.items():
            counter[str(getattr(row, name))[:LONGEST_NAME]] += 1
        for name, values in lengths.items():
            if made[name] is not None:
                values.append(made[name])
        return made

    stream, chunks = map(record, rows), []
    while chunk := list(islice(stream, CHUNK)):
        chunks.append(pd.DataFrame(chunk).astype({"answer_chars": "float64"}))
    table = pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame(columns=COLUMNS)
    shares = {
        name: {value: round(count / len(table), 4) for value, count in sorted(counter.most_common(SHOWN_CATEGORIES))}
        for name, counter in counts.items()
    }
    return table, Statistics(medians={name: float(median(values)) if values else 0.0 for name, values in lengths.items()}, shares=shares)


def _record(row: QAExample) -> dict[str, Any]:
    """What is derived from a row. Nothing in it was written by the row's author but its id, made harmless for a page."""
    source, category, own = _one_of(row.source, SOURCES), row.category, CATEGORIES.get(row.source)
    return {
        "id": html.escape(str(row.id)[:LONGEST_NAME]),
        "malformed_field": ",".join(name for name, right in FORMS.items() if not right(getattr(row, name, None))) or NONE,
        "source": source,
        "difficulty": _one_of(row.difficulty, DIFFICULTIES),
        "category": FREE if own is None else _one_of(category, own),
        "question_chars": _chars(row.question),
        "answer_chars": None if row.options else _chars(row.answer),
        "focus_chars": _chars(row.focus),
        "longest_name": max(_chars(name) for name in (row.id, row.source, category, row.qtype)),
        "answer_form": _answer_form(row),
    }


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


FORMS = {  # field → whether a value has the field's type; the type of a list is a tuple of texts, of all else a text
    name: _texts if get_origin(field.annotation) is tuple else lambda value: isinstance(value, str)
    for name, field in QAExample.model_fields.items()
}


def _chars(value: Any) -> int:
    """Length of a text; 0 for one that is blank, or none."""
    return len(value) if isinstance(value, str) and value.strip() else 0


def _one_of(value: Any, allowed: Collection[str]) -> str:
    return value if isinstance(value, str) and value in allowed else OTHER


def _answer_form(row: QAExample) -> str:
    """How the answer stands to the options."""
    if not row.options:
        return FREE_TEXT
    letters = tuple(LETTERS[: len(row.options)])
    if len(row.options) < 2 or row.answer not in letters:
        return "no option's letter"
    texts = [" ".join(str(option).casefold().split()) for option in row.options]
    if "" in texts:
        return "blank option"
    return TWICE if texts.count(texts[letters.index(row.answer)]) > 1 else LETTER


def _lines_and_hash(path: Path) -> tuple[int, str]:
    """How many lines a file has, and its sha256."""
    lines, digest = 0, hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(2**20):
            lines += block.count(b"\n")
            digest.update(block)
    return lines, digest.hexdigest()


def _expected(expect: Any, table: Any, suite: Suite, part: str, corpus: Corpus, lines: int) -> list[Any]:
    """The suite for these rows: what is expected of which column."""
    raw, medquad = suite == "raw", (suite, part) == ("raw", "medquad")
    question = (1, LONGEST_RAW) if raw else (corpus.min_question_chars, corpus.max_question_chars)
    answer = (1, LONGEST_RAW) if raw else (corpus.min_answer_chars, corpus.max_answer_chars)
    sets = {
        "malformed_field": [NONE],
        "source": [part] if raw else list(SOURCES),
        "difficulty": list(DIFFICULTIES),
        "category": sorted({FREE}.union(*CATEGORIES.values())),
        "answer_form": [FREE_TEXT, LETTER, *([TWICE] if raw else [])],
        **({"in_corpus": [True]} if "in_corpus" in table else {}),
    }
    ranges = {"question_chars": question, "answer_chars": answer, "focus_chars": (1, LONGEST_NAME), "longest_name": (1, LONGEST_NAME)}
    shapes = {
        column: shape
        for column, shape in (MEDQUAD if medquad else WIDE).items()
        if table[column].count() >= (FEW_MEDQUAD if medquad else FEW)
    }
    return [
        expect.ExpectTableRowCountToBeBetween(min_value=1),
        expect.ExpectTableRowCountToEqual(value=lines),
        expect.ExpectColumnValuesToBeUnique(column="id"),
        *(expect.ExpectColumnValuesToBeInSet(column=column, value_set=values) for column, values in sets.items()),
        *(expect.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high) for column, (low, high) in ranges.items()),
        *(
            expect.ExpectColumnQuantileValuesToBeBetween(
                column=column, quantile_ranges={"quantiles": [0.1, 0.5, 0.9], "value_ranges": [list(pair) for pair in shape]}
            )
            for column, shape in shapes.items()
        ),
    ]


def _evaluate(table: Any, suite: Suite, part: str, corpus: Corpus, lines: int, docs: Path) -> tuple[Expectation, ...]:
    """Let the library judge the table and write its pages; 5 s for the import, then under a second for 16,000 rows."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # read when the library is imported
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)  # type: ignore[assignment]
    asset = context.data_sources.add_pandas(suite).add_dataframe_asset(part)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    expected = _expected(gx.expectations, table, suite, part, corpus, lines)
    expectations = context.suites.add(gx.ExpectationSuite(name=suite, expectations=expected, notes=NOTES[suite]))
    # SUMMARY is BASIC with the first offenders' ids; values that are shown are those of the derived table.
    shown: Any = {"result_format": "SUMMARY", "unexpected_index_column_names": ["id"], "partial_unexpected_count": SHOWN_IDS}
    result = batch.validate(expectations, result_format=shown)
    for each in result.results:
        each.success = bool(each.success)  # numpy's own truth value can't be written as JSON
    _write_docs(result, expectations, suite, part, docs)
    return tuple(map(_outcome, result.results))


def _outcome(result: Any) -> Expectation:
    """One expectation's result without the library's types."""
    name, column, seen = result.expectation_config.type, result.expectation_config.kwargs.get("column", ""), result.result
    if "element_count" in seen:
        observed: dict[str, Any] = {"rows": int(seen["element_count"]), "unexpected": int(seen["unexpected_count"])}
        if not result.success:
            ids = (html.unescape(entry["id"]) for entry in seen["partial_unexpected_index_list"])
            observed["ids"] = list(dict.fromkeys(ids))
    elif isinstance(seen.get("observed_value"), dict):
        values = seen["observed_value"]
        observed = {str(at): round(float(value), 1) for at, value in zip(values["quantiles"], values["values"], strict=True)}
    elif "observed_value" in seen:
        observed = {"rows": int(seen["observed_value"])}
    else:  # the library itself failed; that is no verdict on the rows
        raise MedpipeError(
            got=f"no verdict ({result.exception_info})", expected="passed or failed", where=f"{name} of {column or 'the rows'}",
            do="report this as a fault of the validation",
        )  # fmt: skip
    return Expectation(name=name, column=column, passed=result.success, observed=observed)


def _write_docs(result: Any, expectations: Any, suite: str, part: str, docs: Path) -> None:
    """The library's Data Docs, made to stand alone: index.html with the results, suite.html with what was expected.

    The library's own index is left out: it is a script's work.
    """
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.render.renderer.page_renderer import ExpectationSuitePageRenderer, ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    result.meta |= {"run_id": RunIdentifier(run_name=part), "batch_kwargs": {"data_asset_name": part}}
    pages = {
        "index.html": ValidationResultsPageRenderer().render(result),
        "suite.html": ExpectationSuitePageRenderer().render(expectations),
    }
    for name, page in pages.items():
        text = DefaultJinjaPageView().render(page)
        for link in LINKS:
            text = re.sub(link, LINKS[link], text)
        store.write_text(docs / name, text.replace("<head>", HEAD, 1))


def _drift(now: Validation, previous: Path | None) -> CheckResult:
    """How far the rows are from the last version that was accepted."""
    path = previous / FILE if previous else None
    if path is None or not path.is_file():
        return _told("no earlier version to compare with")
    try:
        before = Validation.model_validate_json(path.read_bytes())
    except ValueError:
        return _told(f"the earlier version's {FILE} can't be read", {}, passed=False)
    if not before.passed or (before.suite, before.part) != (now.suite, now.part):
        return _told("no earlier version that was accepted")
    moved: dict[str, Any] = {}
    for column, shares in now.statistics.shares.items():
        earlier = before.statistics.shares.get(column, {})
        for value in sorted(shares.keys() | earlier.keys()):
            if abs(shares.get(value, 0.0) - earlier.get(value, 0.0)) > DRIFT_SHARE:
                moved[f"share of {column} {value}"] = f"{earlier.get(value, 0.0):.1%} → {shares.get(value, 0.0):.1%}"
    sizes: dict[str, tuple[float, float]] = {"rows": (before.rows, now.rows)}
    for name, value in now.statistics.medians.items():
        sizes[f"median {name}"] = (before.statistics.medians.get(name, 0.0), value)
    for name, (old, new) in sizes.items():
        if abs(new - old) > DRIFT_RATIO * old:
            moved[name] = f"{old:g} → {new:g}"
    return _told("compared with the last accepted version", moved, passed=not moved)


def _told(description: str, values: Mapping[str, Any] | None = None, *, passed: bool = True) -> CheckResult:
    limits = f"; told above {DRIFT_SHARE:.0%} of the rows for a share, {DRIFT_RATIO:.0%} for a median or the number of rows"
    return CheckResult(name="drift", passed=passed, severity="warn", description=description + limits, values=dict(values or {}))

"""Great Expectations, really run: what is good passes, each planted fault is named, and no row's text gets out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Corpus
from medpipe.corpus.expectations import FEW, FEW_MEDQUAD, SHOWN_IDS, Suite, validate
from medpipe.corpus.validation import FILE, Expectation, Validation, require_valid
from medpipe.errors import MedpipeError
from medpipe.schema import CheckResult, QAExample
from medpipe_tests.corpus.makers import row

LENGTHY = "A sentence of an answer that says what there is to say. "
CHOICE = {"options": ("gout", "asthma"), "answer": "B"}


def forged(number: int, **changes: Any) -> QAExample:
    """A row that its own schema would refuse, as a fault of the code could make one."""
    return QAExample.model_construct(**{**row(number).model_dump(), **changes})


def validated(out: Path, rows: Iterable[QAExample], suite: Suite = "clean", part: str = "corpus", **more: Any) -> tuple[CheckResult, ...]:
    """Write the rows as a step does, and validate them."""
    out.mkdir(parents=True, exist_ok=True)
    kept = list(rows)
    store.write_jsonl(out / store.ROWS, (each.model_dump(warnings=False) for each in kept))
    return validate(iter(kept), suite, part, Corpus(), out, **more)


def results(out: Path) -> tuple[Expectation, ...]:
    return Validation.model_validate(store.read_json(out / FILE)).expectations


def test_good_rows_pass_every_suite_and_raw_ones_may_hold_what_cleaning_drops(tmp_path: Path) -> None:
    rows = [row(1), row(2, **CHOICE), row(3, source="medquad", category="disorders"), row(4, category="what the user likes")]
    raw = [row(1, question="Why?"), row(2, answer="Rest."), row(3, options=("gout", "gout"), answer="A")]
    cases: list[tuple[Suite, str, list[QAExample]]] = [("raw", "custom", raw), ("clean", "corpus", rows), ("split", "train", rows)]
    for suite, part, some in cases:
        checks = validated(tmp_path / suite, some, suite, part, known_ids=[each.id for each in rows])
        assert [(check.name, check.passed, check.severity) for check in checks] == [
            ("schema_and_ranges", True, "error"),
            ("drift", True, "warn"),
        ]
        assert checks[0].values == {"rows": len(some), "evaluated": 13, "failed": 0, "failed_names": ""}
        assert "no earlier version" in checks[1].description
        require_valid(tmp_path / suite, part)


IN_SET, BETWEEN = "expect_column_values_to_be_in_set", "expect_column_values_to_be_between"
UNIQUE, QUANTILES = "expect_column_values_to_be_unique", "expect_column_quantile_values_to_be_between"

FAULTS: dict[Suite, dict[str, tuple[dict[str, Any], str]]] = {  # what is planted, how, and which expectation must name its row
    "raw": {
        "a list that holds a number": ({"synonyms": ("gout", 7)}, f"{IN_SET}(malformed_field)"),
        "another source's row": ({"source": "synthetic"}, f"{IN_SET}(source)"),
        "a blank question": ({"question": "   "}, f"{BETWEEN}(question_chars)"),
        "a file swallowed whole": ({"answer": LENGTHY * 18_000}, f"{BETWEEN}(answer_chars)"),
        "a blank focus": ({"focus": " "}, f"{BETWEEN}(focus_chars)"),
        "one option": ({"options": ("gout",), "answer": "A"}, f"{IN_SET}(answer_form)"),
        "a letter without an option": ({"options": ("gout", "asthma"), "answer": "C"}, f"{IN_SET}(answer_form)"),
        "a blank option": ({"options": ("gout", " "), "answer": "A"}, f"{IN_SET}(answer_form)"),
    },
    "clean": {
        "a field of another type": ({"url": None}, f"{IN_SET}(malformed_field)"),
        "a source nobody knows": ({"source": "elsewhere"}, f"{IN_SET}(source)"),
        "a difficulty nobody knows": ({"difficulty": "extreme"}, f"{IN_SET}(difficulty)"),
        "a category outside the source's set": ({"source": "medquad", "category": "gossip"}, f"{IN_SET}(category)"),
        "a question too short": ({"question": "Why gout?"}, f"{BETWEEN}(question_chars)"),
        "an answer too short": ({"answer": "Nobody knows."}, f"{BETWEEN}(answer_chars)"),
        "a focus that is a text": ({"focus": LENGTHY * 6}, f"{BETWEEN}(focus_chars)"),
        "a category that is a text": ({"category": LENGTHY * 6}, f"{BETWEEN}(longest_name)"),
        "an answer that is an option's text": ({"options": ("gout", "asthma"), "answer": "gout"}, f"{IN_SET}(answer_form)"),
        "the right option twice": ({"options": ("gout", "asthma", "Gout "), "answer": "A"}, f"{IN_SET}(answer_form)"),
    },
    "split": {
        "a row that is not in the corpus": ({"id": "custom-unknown"}, f"{IN_SET}(in_corpus)"),
        "an id that stands twice": ({"id": "custom-0"}, f"{UNIQUE}(id)"),
        "a question too long": ({"question": "Why? " * 401}, f"{BETWEEN}(question_chars)"),
        "an answer too long": ({"answer": LENGTHY * 150}, f"{BETWEEN}(answer_chars)"),
    },
}  # fmt: skip


@pytest.mark.parametrize("suite", FAULTS)
def test_each_planted_fault_is_found_by_its_expectation_and_by_no_other(tmp_path: Path, suite: Suite) -> None:
    part = {"raw": "custom", "clean": "corpus", "split": "train"}[suite]
    planted = [(forged(number, **changes), name) for number, (changes, name) in enumerate(FAULTS[suite].values(), 1)]
    known = {row(number).id for number in range(20)} if suite == "split" else None
    check, _ = validated(tmp_path, [row(0), *(bad for bad, _ in planted), row(19)], suite, part, known_ids=known)
    named = {each.label: set(each.observed["ids"]) for each in results(tmp_path) if not each.passed}
    assert named == {name: {bad.id for bad, where in planted if where == name} for _, name in planted}
    assert (check.passed, check.values["failed"]) == (False, len(named))
    assert set(check.values["failed_names"].split(", ")) == set(named)
    with pytest.raises(MedpipeError, match="failed their validation"):
        require_valid(tmp_path, part)


def medquad(number: int) -> QAExample:
    """A row whose question is as long as MedQuAD's and whose answer is not."""
    question = "What is gout?".ljust((30, 48, 75)[number % 3], "?")
    return row(number, source="medquad", category="other", question=question)


@pytest.mark.parametrize(
    ("suite", "part", "rows", "name"),
    [
        ("clean", "corpus", [row(n, question=f"What is {n:04}?") for n in range(FEW)], f"{QUANTILES}(question_chars)"),
        ("split", "train", [row(n, answer=f"Condition number {n:04}.") for n in range(FEW)], f"{QUANTILES}(answer_chars)"),
        ("raw", "medquad", [medquad(n) for n in range(FEW_MEDQUAD)], f"{QUANTILES}(answer_chars)"),
        ("split", "train", [], "expect_table_row_count_to_be_between"),
    ],
    ids=["questions cut short", "answers cut short", "MedQuAD's answers are not its own", "no rows"],
)
def test_rows_that_are_wrong_together_are_found(tmp_path: Path, suite: Suite, part: str, rows: list[QAExample], name: str) -> None:
    check, _ = validated(tmp_path, rows, suite, part)
    assert (check.passed, check.values["failed_names"]) == (False, name)


def test_rows_that_are_not_those_of_the_file_fail(tmp_path: Path) -> None:
    store.write_examples(tmp_path, [row(1), row(2)])
    check, _ = validate([row(1)], "clean", "corpus", Corpus(), tmp_path)
    assert (check.passed, check.values["failed_names"]) == (False, "expect_table_row_count_to_equal")


def test_offenders_are_named_by_their_ids_and_no_text_gets_out(tmp_path: Path) -> None:
    secret = "<script>alert(1)</script> Mrs Smith"
    bad = [row(n, question="Mrs Smith", source=secret, category=secret, focus=secret * 20) for n in range(1, SHOWN_IDS + 5)]
    planted = row(99, id="<script>bad</script>", answer="Mrs Smith.")
    checks = validated(tmp_path, [*bad, planted])
    seen = {each.label: each.observed for each in results(tmp_path)}
    assert seen[f"{BETWEEN}(question_chars)"] == {
        "rows": SHOWN_IDS + 5, "unexpected": SHOWN_IDS + 4, "ids": [f"custom-{n}" for n in range(1, SHOWN_IDS + 1)],
    }  # fmt: skip
    assert seen[f"{BETWEEN}(answer_chars)"]["ids"] == ["<script>bad</script>"]
    pages = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "docs").iterdir())
    assert "Mrs Smith" not in pages + str(checks) + json.dumps([*seen.values()])
    assert "<script>bad" not in pages


def test_the_pages_tell_the_suite_and_what_failed_and_ask_nobody(tmp_path: Path) -> None:
    validated(tmp_path, [row(1), row(1)], "split", "validation")
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"index.html", "suite.html"}
    for name in ("index.html", "suite.html"):
        page = (tmp_path / "docs" / name).read_text(encoding="utf-8")
        assert ">split<" in page and 'href="index.html"' in page and "../" not in page.partition("<body>")[2]
        head = page[page.index("<head>") :]
        assert head.startswith(
            "<head><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        )
    page = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert 'href="suite.html"' in page and "validation" in page and "custom-1" in page and "Failed" in page
    assert sum(path.stat().st_size for path in (tmp_path / "docs").iterdir()) < 200_000


def test_the_same_rows_give_the_same_bytes_whatever_stood_before(tmp_path: Path) -> None:
    rows = [row(n, category=f"c{n % 3}") for n in [*range(1, 40), 1]]
    validated(tmp_path / "one", rows)
    checks = validated(tmp_path / "other", rows, previous=tmp_path / "one")
    first, second = ((tmp_path / name / FILE).read_bytes() for name in ("one", "other"))
    assert first == second and str(tmp_path).encode() not in first
    written = json.loads(first)
    assert list(written) == ["suite", "part", "passed", "rows", "rows_sha256", "expectations", "statistics"]
    assert written["rows_sha256"] == store.sha256_file(tmp_path / "one" / store.ROWS)
    assert written["statistics"]["shares"]["category"] == {"c0": 0.325, "c1": 0.35, "c2": 0.325}
    assert checks[1].description.startswith("no earlier version that was accepted")


def test_drift_from_the_last_accepted_version_warns_and_never_blocks(tmp_path: Path) -> None:
    before = [row(n, category=f"c{n % 2}") for n in range(10, 70)]
    validated(tmp_path / "before", before)
    assert validated(tmp_path / "near", before[:57], previous=tmp_path / "before")[1].passed
    moved = {"category": "lungs", "difficulty": "hard", "source": "synthetic"}
    now = [
        old.model_copy(update={"question": f"{old.question} Say all.", **(moved if n % 10 == 0 else {})}) for n, old in enumerate(before)
    ]
    check, drift = validated(tmp_path / "now", now[:40], previous=tmp_path / "before")
    assert (check.passed, drift.passed, drift.severity) == (True, False, "warn")
    assert drift.values == {
        "share of category c0": "50.0% → 40.0%", "share of category lungs": "0.0% → 10.0%", "share of source custom": "100.0% → 90.0%",
        "share of source synthetic": "0.0% → 10.0%", "share of difficulty hard": "0.0% → 10.0%",
        "share of difficulty medium": "100.0% → 90.0%", "rows": "60 → 40", "median question_chars": "28 → 37",
    }  # fmt: skip
    require_valid(tmp_path / "now", "corpus")


def test_few_rows_may_have_any_lengths_and_a_damaged_earlier_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / FILE).write_bytes(b'{"suite": "clean"\xff')
    rows = [row(n, question=f"What is {n:04}?") for n in range(FEW - 1)]
    check, drift = validated(tmp_path / "now", rows, previous=tmp_path / "before")
    assert check.passed
    assert not drift.passed and "can't be read" in drift.description

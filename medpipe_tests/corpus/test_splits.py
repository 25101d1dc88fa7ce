"""Splits: the rows that corpus/clean put on a side, no name on two sides, exported, and an evidence index without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.groups import Groups
from medpipe.corpus.splits import PARTS, assigned, heldout, run
from medpipe.corpus.validation import require_valid
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome, scoped
from medpipe.schema import CheckResult, Part, QAExample
from medpipe_tests.conftest import Collected, JobMaker
from medpipe_tests.corpus.makers import row

SIDES: tuple[Part, ...] = ("train", "cotrain", "validation", "heldout")
SPLITS = SIDES[:3]
CHECKS = ["schema_and_ranges", "drift", "no_focus_overlap", "shares_by_source", "not_empty"]
ROWS = [row(number, focus=f"focus {number // 2}") for number in range(240)]
ROWS += [row(300, id="mq-1", source="medquad", focus="zzz", synonyms=("yyy",), cuis=("C1",), options=("one", "two"), answer="B")]
REFERENCE = {"id": "reference-1", "title": "focus 1", "text": "A zebrafish helps to read up on it."}


def clean_folder(folder: Path, rows: list[QAExample], sides: list[Part]) -> Path:
    """A finished corpus/clean: these rows on these sides."""
    store.write_examples(folder, rows)
    store.write_jsonl(folder / PARTS, ({"id": each.id, "part": side, "group": each.focus} for each, side in zip(rows, sides, strict=True)))
    store.write_jsonl(folder / "library.jsonl", [REFERENCE])
    return folder


def sides_of(rows: list[QAExample], settings: Settings) -> list[Part]:
    groups = Groups(settings.corpus, settings.seed)
    for each in rows:
        groups.link(each)
    return [side for side in map(groups.part, rows) if side]


class Made(NamedTuple):
    """All splits of one corpus."""

    clean: Path
    settings: Settings
    folders: dict[str, Path]
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("splits")
    settings = load_profile("smoke", {"paths.data": str(root / "data"), "paths.outputs": str(root / "outputs")})
    clean = clean_folder(root / "clean", ROWS, sides_of(ROWS, settings))
    folders, outcomes = {}, {}
    for part in SPLITS:
        folders[part] = root / part
        folders[part].mkdir()
        job = Job(f"splits/{part}", scoped(settings, ("corpus",)), {"corpus/clean": clean}, root / part, root, "cpu", Collected())
        outcomes[part] = run(job)
    return Made(clean, settings, folders, outcomes)


def ids(made: Made) -> dict[str, list[str]]:
    """Ids of the rows on each side, as they stand in the corpus."""
    return {side: [place["id"] for place in store.read_jsonl(made.clean / PARTS) if place["part"] == side] for side in SIDES}


@pytest.mark.parametrize("part", SPLITS)
def test_a_split_has_the_rows_of_its_side_and_passes_its_checks(made: Made, part: str) -> None:
    assert [each.id for each in store.read_examples(made.folders[part])] == ids(made)[part] != []
    checks = made.outcomes[part].checks
    assert [check.name for check in checks] == CHECKS + ["retrieval_alike"] * (part == "train") and all(
        check.passed for check in checks if check.severity == "error"
    )
    require_valid(made.folders[part], f"splits/{part}")


@pytest.mark.parametrize("part", SPLITS)
def test_a_split_is_shown_in_the_data_folder(made: Made, part: str) -> None:
    name = f"medxpert_{part}.jsonl"
    assert made.outcomes[part].exports == {name: made.settings.data / name}
    lines = store.read_jsonl(made.folders[part] / name)
    assert [line["id"] for line in lines] == ids(made)[part]
    assert all(set(line) - {"options"} == {"id", "question", "answer", "category", "source", "difficulty"} for line in lines)


def test_no_row_is_lost_and_none_stands_twice(made: Made) -> None:
    held = [each.id for source in ("custom", "medquad") for each in heldout(made.clean, source)]
    assert set(held) == set(ids(made)["heldout"]) and held
    split = [each.id for folder in made.folders.values() for each in store.read_examples(folder)]
    assert sorted([*held, *split]) == sorted(each.id for each in ROWS)


def test_held_out_rows_are_given_by_source(tmp_path: Path) -> None:
    rows = [row(number, source=source) for number, source in enumerate(("custom", "medquad", "custom", "medquad", "custom"))]
    sides: list[Part] = ["heldout", "heldout", "train", "validation", "heldout"]
    clean = clean_folder(tmp_path, rows, sides)
    assert heldout(clean, "custom") == [rows[0], rows[4]] and heldout(clean, "medquad") == [rows[1]] and heldout(clean, "medtext") == []
    assert [(each, side) for each, side, _ in assigned(clean)] == list(zip(rows, sides, strict=True))


def test_people_see_counts_by_source_and_part(made: Made) -> None:
    metadata = made.outcomes["train"].metadata
    assert metadata["rows"] == len(ids(made)["train"])
    custom, medquad = metadata["parts_by_source"]["table"]
    assert sum(custom[f"{side} groups"] for side in SIDES) == 120 and sum(custom[f"{side} rows"] for side in SIDES) == 240
    assert sum(medquad[f"{side} groups"] for side in SIDES) == 1
    assert (made.folders["train"] / metadata["lengths"]["image"]).read_bytes().startswith(b"\x89PNG")
    assert (made.folders["train"] / metadata["validation_report"]["file"]).is_file()


def test_only_train_has_evidence_and_it_may_read_up_on_held_out_foci(made: Made) -> None:
    assert not any((made.folders[part] / "evidence").exists() for part in SPLITS[1:])
    index = EvidenceIndex.load(made.folders["train"] / "evidence")
    allowed = {*ids(made)["train"], "reference-1"}
    for each in heldout(made.clean, "custom"):
        assert {found.id.rpartition("#")[0] for found in index.search(each.answer, 200)} <= allowed
    assert index.search("zebrafish", 5)[0].id == "reference-1#1"


def split(name: str, clean: Path, settings: Settings, make_job: JobMaker) -> tuple[Path, Outcome, dict[str, CheckResult]]:
    job = make_job(f"splits/{name}", settings, {"corpus/clean": clean}, sections=("corpus",))
    outcome = run(job)
    return job.out, outcome, {check.name: check for check in outcome.checks}


def test_the_evidence_leaves_out_training_texts_that_answer_held_back_questions(
    tmp_path: Path, settings: Settings, make_job: JobMaker
) -> None:
    inherited = "The pattern of inheritance is autosomal recessive, which means that both copies of the gene carry the change."
    frequent = "Nobody knows how often it comes, for no country has counted the people in whom it was found."
    own = "Wheezing in the night is what brings most people with it to a clinic in the first place."
    rows = [row(number, answer=answer) for number, answer in enumerate((inherited, frequent, own, inherited, frequent))]
    clean = clean_folder(tmp_path / "clean", rows, ["train", "train", "train", "validation", "heldout"])
    out, outcome, _ = split("train", clean, settings, make_job)
    assert outcome.metadata["passages_left_out"] == 2 and outcome.metadata["evidence_passages"] == 2
    index = EvidenceIndex.load(out / "evidence")
    assert {found.id for text in (inherited, frequent, own) for found in index.search(text, 9)} <= {"custom-2#1", "reference-1#1"}
    assert index.search(own, 1)[0].id == "custom-2#1"


PARTS_OF_THE_BODY = ("ankle", "elbow", "finger", "knee", "shoulder", "wrist")


def asked(number: int, clear: bool) -> QAExample:
    """A question of which part is sore; where it is not clear, another part than the right one is told of."""
    part, other = PARTS_OF_THE_BODY[number % 6], PARTS_OF_THE_BODY[(number + 1) % 6]
    return row(
        number, focus=f"patient {number}", question=f"Patient {number} has a sore {part if clear else other}. Which part is it?",
        options=tuple(PARTS_OF_THE_BODY), answer="ABCDEF"[number % 6],
    )  # fmt: skip


@pytest.mark.parametrize("clear", [True, False])
def test_people_see_how_well_the_evidence_finds_the_right_option_and_whether_training_rows_have_it_easier(
    clear: bool, tmp_path: Path, settings: Settings, make_job: JobMaker
) -> None:
    rows = [asked(number, clear or number < 104) for number in range(208)]
    sides: list[Part] = ["train" if number < 104 else "heldout" for number in range(208)]
    clean = clean_folder(tmp_path / "clean", rows, sides)
    library = [{"id": part, "title": part.title(), "text": f"The {part} is sore after a fall."} for part in PARTS_OF_THE_BODY]
    store.write_jsonl(clean / "library.jsonl", library)
    _, outcome, checks = split("train", clean, settings, make_job)
    train, held = sorted(outcome.metadata["retrieval"]["table"], key=lambda line: line["part"], reverse=True)
    assert (train["source"], train["part"], train["rows"], train["recall@1"]) == ("custom", "train", 104, 1.0)
    assert (held["part"], held["rows"], held["recall@1"]) == ("heldout", 104, float(clear))
    check = checks["retrieval_alike"]
    assert (check.passed, check.severity, check.values["compared"]) == (clear, "warn", 2)
    assert ("custom, recall@1 in train: +1.00" in check.description) != clear


def test_too_few_questions_on_a_side_are_not_compared(tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    rows = [asked(number, number < 104) for number in range(144)]
    clean = clean_folder(tmp_path / "clean", rows, ["train"] * 104 + ["heldout"] * 40)  # type: ignore[arg-type]
    store.write_jsonl(clean / "library.jsonl", [{"id": part, "title": part, "text": f"A sore {part}."} for part in PARTS_OF_THE_BODY])
    check = split("train", clean, settings, make_job)[2]["retrieval_alike"]
    assert check.passed and check.values == {"compared": 0, "apart": 0, "largest": 0.0}


GOUT = row(1, source="medquad", focus="gout", synonyms=("podagra",), cuis=("C0018099",))
SYNONYM = row(2, source="medquad", focus="urate arthritis", synonyms=("Podagra",))
CONCEPT = row(2, source="medquad", focus="urate arthritis", cuis=("c0018099",))


@pytest.mark.parametrize(
    ("other", "sides", "shared"),
    [
        (SYNONYM, ["train", "heldout"], "podagra"),
        (CONCEPT, ["validation", "heldout"], "cui C0018099"),
        (row(2, focus="GOUT "), ["train", "validation"], "gout"),
        (SYNONYM, ["validation", "validation"], ""),
    ],
)
def test_a_name_on_two_sides_fails_the_blocking_check(
    other: QAExample, sides: list[Part], shared: str, tmp_path: Path, settings: Settings, make_job: JobMaker
) -> None:
    clean = clean_folder(tmp_path / "clean", [GOUT, other], sides)
    check = split("validation", clean, settings, make_job)[2]["no_focus_overlap"]
    assert (check.passed, check.severity) == (not shared, "error")
    assert (check.values["shared"], check.values["such_as"]) == (bool(shared), shared)


def test_a_part_without_rows_fails_its_checks(tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    out, _, checks = split("validation", clean_folder(tmp_path / "clean", [row(1)], ["train"]), settings, make_job)
    assert {name for name, check in checks.items() if not check.passed and check.severity == "error"} == {"schema_and_ranges", "not_empty"}
    assert store.read_examples(out) == []


def test_a_source_that_is_split_in_other_shares_is_told(tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    rows = [row(number) for number in range(60)]
    clean = clean_folder(tmp_path / "clean", rows, ["train"] * 30 + ["validation"] * 30)  # type: ignore[arg-type]
    _, _, checks = split("validation", clean, settings, make_job)
    check = checks["shares_by_source"]
    assert (check.passed, check.severity) == (False, "warn")
    assert "custom: 30 of 60 groups in validation, 10% wanted" in check.description and "0 of 60 groups in heldout" in check.description


@pytest.mark.parametrize("places", [1, 3])
def test_sides_for_another_number_of_rows_are_an_error(places: int, tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    clean = clean_folder(tmp_path / "clean", [row(1), row(2)], ["train", "heldout"])
    store.write_jsonl(clean / PARTS, [{"id": f"custom-{number}", "part": "train", "group": "g"} for number in range(1, places + 1)])
    with pytest.raises(MedpipeError, match="the same rows in the same order"):
        split("train", clean, settings, make_job)
    with pytest.raises(MedpipeError, match="the same rows in the same order"):
        heldout(clean, "custom")


def test_the_same_corpus_gives_the_same_files(made: Made, tmp_path: Path, make_job: JobMaker) -> None:
    out, _, _ = split("train", made.clean, made.settings, make_job)
    trees = [
        {name: value for name, value in store.hash_tree(folder).items() if not name.startswith(("docs/", "plots/"))}
        for folder in (made.folders["train"], out)
    ]
    assert trees[0] == trees[1] and {"rows.jsonl", "validation.json", "medxpert_train.jsonl", "evidence/passages.jsonl"} <= trees[0].keys()

"""Splits: stable by focus, disjoint, exported, and with an evidence index of training rows only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe import store
from medpipe.config import Corpus, Settings
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.splits import heldout, part_of, run
from medpipe_tests.conftest import JobMaker
from medpipe_tests.corpus.makers import row

CORPUS = Corpus()


@pytest.mark.parametrize("same", [("Crohn's disease", "crohn disease", "Crohn’s  Disease."), ("COVID-19", "covid 19")])
def test_spellings_of_one_focus_share_a_part(same: tuple[str, ...]) -> None:
    for seed in range(20):
        assert len({part_of(focus, CORPUS, seed) for focus in same}) == 1


def test_shares_are_met_and_the_seed_matters() -> None:
    foci = [f"condition {number}" for number in range(4000)]
    parts = Counter(part_of(focus, CORPUS, 0) for focus in foci)
    assert abs(parts["heldout"] / 4000 - 0.15) < 0.02 and abs(parts["validation"] / 4000 - 0.1) < 0.02
    assert [part_of(focus, CORPUS, 1) for focus in foci] != [part_of(focus, CORPUS, 0) for focus in foci]


def test_parts_are_the_same_on_every_machine() -> None:
    pinned = {
        "hypothyroidism": "heldout",
        "influenza": "heldout",
        "shingles": "validation",
        "Meniere disease": "validation",
        "gout": "train",
    }
    assert {focus: part_of(focus, CORPUS, 0) for focus in pinned} == pinned


@given(st.text(min_size=1, max_size=20))
def test_any_text_has_a_part(focus: str) -> None:
    assert part_of(focus, CORPUS, 0) in ("train", "validation", "heldout")


def test_the_assets_split_export_and_index(tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    rows = [row(number, focus=f"focus {number // 2}") for number in range(120)]
    clean = tmp_path / "clean"
    store.write_examples(clean, rows)
    kept_out = next(each for each in rows if part_of(each.focus, settings.corpus, settings.seed) == "heldout")
    passage = {"id": "reference-1", "title": kept_out.focus, "text": "A zebrafish helps to read up on it."}
    store.write_jsonl(clean / "library.jsonl", [passage])
    ids: dict[str, set[str]] = {}
    for part in ("train", "validation"):
        job = make_job(f"splits/{part}", settings, {"corpus/clean": clean}, sections=("corpus",))
        outcome = run(job)
        assert [(check.name, check.passed) for check in outcome.checks] == [
            ("schema_and_ranges", True), ("no_focus_overlap", True), ("not_empty", True),
        ]  # fmt: skip
        ids[part] = {each.id for each in store.read_examples(job.out)}
        name = f"medxpert_{part}.jsonl"
        assert outcome.exports == {name: settings.data / name}
        assert {line["id"] for line in store.read_jsonl(job.out / name)} == ids[part]
        assert (job.out / "evidence").exists() == (part == "train")
        counted = outcome.metadata["focus_groups_by_part"]["table"]
        assert sum(counted[0][name] for name in ("train", "validation", "heldout")) == 60
    ids["heldout"] = {each.id for each in heldout(clean, settings.corpus, settings.seed, "custom")}
    assert ids["heldout"] and sum(map(len, ids.values())) == 120 == len(set().union(*ids.values()))
    assert heldout(clean, settings.corpus, settings.seed, "medquad") == []

    index = EvidenceIndex.load(tmp_path / "made" / "splits" / "train" / "evidence")
    assert kept_out.id in ids["heldout"]
    assert {found.id.rpartition("#")[0] for found in index.search(kept_out.answer, 200)} <= {*ids["train"], "reference-1"}
    assert [found.id for found in index.search("zebrafish", 5)] == ["reference-1#1"]  # reading up is allowed, on held-out foci too


def test_a_part_without_rows_fails_its_checks(tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    focus = next(f"focus {number}" for number in range(100) if part_of(f"focus {number}", settings.corpus, settings.seed) == "train")
    store.write_examples(tmp_path / "clean", [row(focus=focus)])
    store.write_jsonl(tmp_path / "clean" / "library.jsonl", [])
    outcome = run(make_job("splits/validation", settings, {"corpus/clean": tmp_path / "clean"}, sections=("corpus",)))
    assert {check.name: check.passed for check in outcome.checks} == {
        "schema_and_ranges": False, "no_focus_overlap": True, "not_empty": False,
    }  # fmt: skip

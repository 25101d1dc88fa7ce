"""MedQuAD's archive: counted, kept as written with its annotations, unique ids, bad documents aside, bad archives refused."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
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


def test_annotations_are_kept(tmp_path: Path, reporter: Collected) -> None:
    text = document(
        "Gout", [("1-1", "x", "What is gout?", "A form of arthritis."), ("1-2", "x", "Why?", "Because.")], "",
        synonyms=[" Gouty arthritis ", "", "Podagra", "Podagra"], cuis=["C0018099", " "], types=["T047", "T019", "T047"],
    )  # fmt: skip
    rows = medquad.parse(archive(tmp_path / "a.zip", {"5_NIDDK_QA/0001.xml": text}), reporter).rows
    assert len(rows) == 2
    for row in rows:
        assert (row.synonyms, row.cuis, row.semantic_types) == (("Gouty arthritis", "Podagra"), ("C0018099",), ("T047", "T019"))
        assert row.origin == "5_NIDDK_QA/0001.xml"


def test_a_document_of_another_schema_is_put_aside_with_what_it_holds(tmp_path: Path, reporter: Collected) -> None:
    odd = "<doc><doctitle-focus>X</doctitle-focus><qaPairs><pair><question>What?</question><answer>That.</answer></pair></qaPairs></doc>"
    good = document("A", [("1", "x", "What is it?", "It.")]).replace("Document", "DiseaseFile")  # one real document is called so
    found = medquad.parse(archive(tmp_path / "a.zip", {"6_N_QA/1.xml": odd, "9_C_QA/2.xml": good}), reporter)
    assert found.notes == {"documents": 2, "pairs": 1, "answered": 1}
    (entry,) = found.quarantined
    assert entry["file"].endswith("6_N_QA/1.xml") and entry["reason"].endswith("<doc> without <QAPairs>, 1 answers not read")


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


GOOD = document("Good", [("2-1", "x", "What is good?", "This is.")])


def refused(path: Path, reporter: Collected, says: str) -> None:
    with pytest.raises(MedpipeError, match=says) as caught:
        medquad.parse(path, reporter)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/etc/a.xml", "../a.xml", "x/../../a.xml", "..", "x\\..\\a.xml", "C:\\a.xml", "\\\\host\\a.xml", "/a.txt"]
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, reporter: Collected, name: str) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/1.xml": GOOD})
    with zipfile.ZipFile(path, "a") as bundle:
        bundle.writestr(name, GOOD)
    refused(path, reporter, "stay inside")


@pytest.mark.parametrize("name", ["1_A_QA/a..b.xml", "1_A_QA/..a.xml", "1_A_QA/a:b.xml"])
def test_dots_in_names_are_fine(tmp_path: Path, reporter: Collected, name: str) -> None:
    assert len(medquad.parse(archive(tmp_path / "a.zip", {name: GOOD}), reporter).rows) == 1


def test_a_name_twice_is_refused(tmp_path: Path, reporter: Collected) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/1.xml": GOOD, "1_A_QA/2.xml": GOOD})
    with zipfile.ZipFile(path, "a") as bundle, pytest.warns(UserWarning, match="Duplicate name"):
        bundle.writestr("MedQuAD-master/1_A_QA/1.xml", GOOD)
    refused(path, reporter, "two files named")


@pytest.mark.parametrize(
    ("limit", "says"), [("MAX_MEMBERS", "3 files"), ("MAX_UNPACKED_BYTES", "unpacks to"), ("MAX_ARCHIVE_BYTES", "archive of")]
)
def test_too_much_is_refused(tmp_path: Path, reporter: Collected, monkeypatch: pytest.MonkeyPatch, limit: str, says: str) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/1.xml": GOOD, "1_A_QA/2.xml": GOOD})
    monkeypatch.setattr(medquad, limit, 2)
    refused(path, reporter, says)


def test_a_document_packed_too_tightly_is_put_aside_unread(tmp_path: Path, reporter: Collected) -> None:
    bomb = document("A" * 10_000_000, [("1", "x", "What is it?", "It.")])
    path = archive(tmp_path / "a.zip", {"1_A_QA/bomb.xml": bomb, "1_A_QA/good.xml": GOOD})
    tracemalloc.start()
    try:
        found = medquad.parse(path, reporter)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row.focus for row in found.rows] == ["Good"] and most < 5_000_000
    (entry,) = found.quarantined
    assert entry["file"].endswith("bomb.xml") and "above the limit of 1048576" in entry["reason"]


def patch_table(path: Path, offset: int, form: str, *values: int) -> None:
    """Write into each entry of an archive's table of contents: (offset, form) are of PKWARE's APPNOTE, 4.3.12."""
    content = bytearray(path.read_bytes())
    start = content.find(b"PK\x01\x02")
    while start >= 0:
        struct.pack_into(form, content, start + offset, *values)
        start = content.find(b"PK\x01\x02", start + 4)
    path.write_bytes(content)


def test_a_table_that_tells_too_small_a_size_does_not_open_a_bomb(tmp_path: Path, reporter: Collected) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/bomb.xml": b" " * 50_000_000})
    patch_table(path, 24, "<L", 100)
    tracemalloc.start()
    try:
        refused(path, reporter, "Bad CRC-32")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 5_000_000


def test_files_that_lie_over_each_other_are_refused(tmp_path: Path, reporter: Collected) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/1.xml": GOOD})
    patch_table(path, 20, "<L", path.stat().st_size)
    refused(path, reporter, "lie over each other")


def test_an_encrypted_archive_is_refused(tmp_path: Path, reporter: Collected) -> None:
    path = archive(tmp_path / "a.zip", {"1_A_QA/1.xml": GOOD})
    patch_table(path, 8, "<H", 1)
    refused(path, reporter, "encrypted")


def test_a_method_without_a_bound_on_memory_is_refused(tmp_path: Path, reporter: Collected) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as bundle:
        bundle.writestr("1.xml", GOOD)
    refused(tmp_path / "a.zip", reporter, "packed by method 14")


def test_a_file_that_does_not_exist_is_told(tmp_path: Path, reporter: Collected) -> None:
    refused(tmp_path / "none.zip", reporter, "can't be read")

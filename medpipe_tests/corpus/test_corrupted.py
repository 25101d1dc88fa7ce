"""Two hundred damaged files: each is read in part, with the rest put aside, or refused with a message; never a crash, never a hang."""

from __future__ import annotations

import csv
import io
import json
import random
import signal
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from medpipe.corpus import medquad, records
from medpipe.corpus.benchmarks import PUBLISHED
from medpipe.corpus.benchmarks import parse as parse_benchmark
from medpipe.corpus.records import Found
from medpipe.errors import MedpipeError
from medpipe_tests.conftest import Collected
from medpipe_tests.corpus.makers import archive, document

OF_EACH = 25
LONG_LINE = 100 * 2**20
QUESTIONS = [
    (f"What is the condition “{name}”, é.g. №{n}?", f"It is number {n}, a “made-up” one, for tests.") for n, name in enumerate("abcdefgh")
]


def medquad_document(n: int) -> bytes:
    question, answer = QUESTIONS[n]
    return document(f"focus {n}", [(f"{n}-1", "information", question, answer)] * 2, synonyms=["x"], cuis=["C1"], types=["T047"]).encode()


def zipped(path: Path, first: bytes) -> bytes:
    rest = {f"1_A_QA/{n}.xml": medquad_document(n) for n in range(1, len(QUESTIONS))}
    return archive(path, {"1_A_QA/0.xml": first, **rest}).read_bytes()


def json_lines(*names: str) -> bytes:
    return "".join(json.dumps(dict(zip(names, pair, strict=True)), ensure_ascii=False) + "\n" for pair in QUESTIONS).encode()


def table(*names: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *QUESTIONS])
    return text.getvalue().encode()


def medqa_lines() -> bytes:
    marks = dict(zip("ABCD", ("one", "two", "three", "four"), strict=True))
    tail = "\nAnswer Choices: " + " ".join(f"({letter}) {text}" for letter, text in marks.items())
    lines = [{"id": f"t-{n}", "question": question + tail, "label": ["B"]} for n, (question, _) in enumerate(QUESTIONS)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def pubmedqa_abstracts() -> bytes:
    rows = {str(n): {"QUESTION": q, "CONTEXTS": [a], "LONG_ANSWER": a, "final_decision": "yes"} for n, (q, a) in enumerate(QUESTIONS)}
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def read_pubmedqa(path: Path) -> Found:
    truth = path.with_name("truth.json")
    truth.write_text(json.dumps({str(n): "yes" for n in range(len(QUESTIONS))}))
    try:
        return Found(parse_benchmark(PUBLISHED["pubmedqa"], [path, truth]))
    finally:
        truth.unlink()


def read_archive(path: Path) -> Found:
    return medquad.parse(path, Collected())


KINDS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path], Found]]] = {
    "archive.zip": (lambda spare: zipped(spare, medquad_document(0)), read_archive),
    "document.zip": (lambda spare: medquad_document(0), read_archive),  # damaged before it goes into a whole archive
    "own.jsonl": (lambda spare: json_lines("question", "answer"), lambda path: records.read_custom([path])),
    "own.csv": (lambda spare: table("question", "answer"), lambda path: records.read_custom([path])),
    "medtext.jsonl": (lambda spare: json_lines("Prompt", "Completion"), records.read_medtext),
    "medtext.csv": (lambda spare: table("Prompt", "Completion"), records.read_medtext),
    "medqa.jsonl": (lambda spare: medqa_lines(), lambda path: Found(parse_benchmark(PUBLISHED["medqa"], [path]))),
    "pubmedqa.json": (lambda spare: pubmedqa_abstracts(), read_pubmedqa),
}


def flip(raw: bytes, dice: random.Random) -> bytes:
    content = bytearray(raw)
    for _ in range(dice.choice((1, 3, 30))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def cut(raw: bytes, dice: random.Random) -> bytes:
    return raw[: dice.randrange(len(raw))]


def swap(raw: bytes, dice: random.Random) -> bytes:
    a, b, c, d = sorted(dice.randrange(len(raw)) for _ in range(4))
    return raw[:a] + raw[c:d] + raw[b:c] + raw[a:b] + raw[d:]


def fill(raw: bytes, dice: random.Random) -> bytes:
    start, length = dice.randrange(len(raw)), dice.choice((1, 8, 200))
    return raw[:start] + dice.choice((b"\0", b"\xff", b'"', b"<", b"{", b"\r")) * length + raw[start + length :]


def recode(raw: bytes, dice: random.Random) -> bytes:
    return raw.decode("utf-8", errors="replace").encode(
        dice.choice(("utf-16", "utf-32", "utf-16-be", "latin-1", "cp037", "utf-7")), errors="replace"
    )


DAMAGES = (flip, cut, swap, fill, recode)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A reader that hangs fails here instead of stopping the whole suite."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the reader hangs")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outcome(read: Callable[[Path], Found], path: Path) -> str:
    """What came of one file; whatever was read must be fit to be written, and the file must be as it was, alone in its folder."""
    before = path.read_bytes()
    try:
        found = read(path)
    except MedpipeError as error:
        assert str(error).startswith("got ") and path.name in str(error) and len(str(error)) < 2000
        result = "refused"
    else:
        for entry in [*(row.model_dump() for row in found.rows), *found.quarantined]:
            json.dumps(entry, ensure_ascii=False).encode()
        assert all(entry["reason"] and entry["file"] for entry in found.quarantined)
        result = "in part" if found.quarantined else "whole"
    assert [file.name for file in path.parent.iterdir()] == [path.name] and path.read_bytes() == before
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_in_part_or_refused(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    good, folder = make(tmp_path / "spare.zip"), tmp_path / "in"
    folder.mkdir()
    path = folder / kind

    def place(content: bytes) -> None:
        path.write_bytes(zipped(tmp_path / "spare.zip", content) if kind == "document.zip" else content)

    place(good)
    assert outcome(read, path) == "whole" and len(read(path).rows) >= len(QUESTIONS)
    came: Counter[str] = Counter()
    for number in range(OF_EACH):
        dice = random.Random(f"{kind} {number}")
        damage = DAMAGES[number % len(DAMAGES)]
        place(damage(good, dice))
        try:
            came[outcome(read, path)] += 1
        except Exception as error:
            raise AssertionError(f"{damage.__name__} number {number} of {kind}: {type(error).__name__}: {error}") from error
    assert came["whole"] < OF_EACH / 2, came  # most of the damage is noticed


def test_there_are_two_hundred_of_them() -> None:
    assert OF_EACH * len(KINDS) == 200


@pytest.mark.parametrize("kind", ["own.jsonl", "medtext.csv"])
def test_a_line_of_100_mb_is_put_aside_without_being_held(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    head, _, tail = make(tmp_path / "spare.zip").partition(b"\n")
    path = tmp_path / kind
    with path.open("wb") as handle:  # a sparse file: nothing of it lies on the disk but its ends
        handle.write(head + b"\n")
        handle.seek(LONG_LINE, 1)
        handle.write(b"\n" + tail)
    tracemalloc.start()
    try:
        found = read(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.rows) == len(QUESTIONS) and len(found.quarantined) == 1
    assert most < LONG_LINE / 3, f"{most} bytes at once"


def test_an_archive_of_many_gigabytes_is_refused_unread(tmp_path: Path, reporter: Collected) -> None:
    path = tmp_path / "a.zip"
    with path.open("wb") as handle:
        handle.truncate(2**35)
    with pytest.raises(MedpipeError, match="an archive of 34359738368 bytes"):
        medquad.parse(path, reporter)


@pytest.mark.parametrize("nested", [b"<a>" * 50_000, b"<a>" * 50_000 + b"</a>" * 50_000])
def test_xml_nested_without_end_is_put_aside(nested: bytes, tmp_path: Path, reporter: Collected) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("1.xml", nested)
    found = medquad.parse(tmp_path / "a.zip", reporter)
    assert not found.rows and len(found.quarantined) == 1

"""MedQuAD's question-answer pairs with their annotations, read from its archive without unpacking it.

    found = parse(Path("MedQuAD-master.zip"), report)      # found.rows, found.quarantined, found.notes

The archive holds one XML document per focus. Pairs whose answer the publishers removed are counted, not kept. Text stays
as it is written there; cleaning collapses its whitespace. A document that can't be read is quarantined and the others are read:
malformed XML, XML with entities of its own, one that is too large or packed too tightly, one of another schema.
An archive unlike the one its publishers serve is refused as a whole: damaged, encrypted, packed by another method, too
much in it, a name twice, or a name that leads out of the folder it would be unpacked to (nothing is unpacked here, yet
who made such a name meant harm).
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from medpipe.corpus.records import Found
from medpipe.corpus.text import clip, first_words
from medpipe.errors import MedpipeError
from medpipe.job import Reporter
from medpipe.schema import QAExample

# Limits, and what the archive of 2023 has.
MAX_ARCHIVE_BYTES = 128 * 2**20  # 16 MB
MAX_MEMBERS = 100_000  # 11,290
MAX_UNPACKED_BYTES = 512 * 2**20  # 37 MB
MAX_DOCUMENT_BYTES = 20 * 2**20  # 0.2 MB
MAX_RATIO = 100  # 13, unpacked to packed
RATIO_COUNTS_FROM = 2**20  # bytes; a smaller document does no harm

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a bound on memory
ENCRYPTED = 0x1
SHOWN_CHARS = 300
LEADS_OUT = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\].*)?$", re.DOTALL)
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, OverflowError)


def parse(archive: Path, report: Reporter) -> Found:
    """All answered pairs. `notes` counts documents, pairs (with and without an answer) and answered pairs.

    Raises:
        MedpipeError: the file is not a zip archive, is damaged or not to be trusted, or holds no XML document.
    """
    found, totals, used = Found(), Counter[str](), Counter[str]()
    documents = 0
    for number, (count, name, content) in enumerate(_documents(archive, found), 1):
        if content is not None:
            _read_document(name, content, found, totals, used)
        documents = count
        report.progress(number, count, "MedQuAD documents")
    if not documents:
        raise MedpipeError(got="an archive without XML documents", expected="MedQuAD's archive", where=str(archive), do="get it again")
    found.notes |= {"documents": documents, "pairs": totals["pairs"], "answered": totals["answered"]}
    return found


def _documents(archive: Path, found: Found) -> Iterator[tuple[int, str, bytes | None]]:
    """Number of documents, and name and content of each in the order of names; None for one that was put aside."""
    try:
        size = archive.stat().st_size
        if size > MAX_ARCHIVE_BYTES:
            raise _refused(archive, f"an archive of {size} bytes", f"at most {MAX_ARCHIVE_BYTES}")
        with zipfile.ZipFile(archive) as bundle:
            members = sorted(bundle.infolist(), key=lambda member: member.filename)
            _trust(archive, size, members)
            members = [member for member in members if member.filename.endswith(".xml")]
            for member in members:
                yield len(members), member.filename, _content(bundle, member, found)
    except BROKEN as error:
        raise _refused(archive, f"a file that can't be read as a zip archive ({error})", "MedQuAD's archive, whole") from error


def _trust(archive: Path, size: int, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive by its table of contents; `members` are in the order of their names.

    The table may lie. Then it fails later: more is never read of a member than stands here, and a checksum is over all of it.
    """
    if len(members) > MAX_MEMBERS:
        raise _refused(archive, f"an archive of {len(members)} files", f"at most {MAX_MEMBERS}")
    unpacked, packed = (sum(getattr(member, field) for member in members) for field in ("file_size", "compress_size"))
    if unpacked > MAX_UNPACKED_BYTES:
        raise _refused(archive, f"an archive that unpacks to {unpacked} bytes", f"at most {MAX_UNPACKED_BYTES}")
    if packed > size:
        raise _refused(archive, "an archive whose files lie over each other", "each byte in one file")
    for member, following in zip(members, [*members[1:], None], strict=True):
        name = member.filename
        if LEADS_OUT.match(name):
            raise _refused(archive, f"the file name {name!r}", "names that stay inside the archive's folder")
        if following and following.filename == name:
            raise _refused(archive, f"two files named {name!r}", "each name once")
        if member.flag_bits & ENCRYPTED or member.compress_type not in METHODS:
            raise _refused(archive, f"{name!r}, encrypted or packed by method {member.compress_type}", "files stored or deflated")


def _content(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, found: Found) -> bytes | None:
    most = min(MAX_DOCUMENT_BYTES, max(RATIO_COUNTS_FROM, MAX_RATIO * member.compress_size))
    if member.file_size > most:
        reason = f"document of {member.file_size} bytes (packed {member.compress_size}), above the limit of {most}"
        found.refuse(member.filename, 0, reason)
        return None
    with bundle.open(member) as stream:
        return stream.read(member.file_size)  # without the number, all would be unpacked before the end that the table tells is seen


def _read_document(name: str, content: bytes, found: Found, totals: Counter[str], used: Counter[str]) -> None:
    try:
        root: Element = fromstring(content)
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:  # LookupError: an encoding that does not exist
        found.refuse(name, getattr(error, "position", (0, 0))[0], f"malformed XML ({type(error).__name__}: {error})")
        return
    if root.find("QAPairs") is None:
        answers = sum(element.tag.lower() == "answer" for element in root.iter())
        found.refuse(name, 0, f"another schema than MedQuAD's: <{root.tag}> without <QAPairs>, {answers} answers not read")
        return
    path = PurePosixPath(name)
    collection = path.parent.name
    focus = (root.findtext("Focus") or "").strip()
    about = {
        "source": "medquad", "origin": "/".join(path.parts[-2:]), "url": root.get("url") or "",
        "category": (root.findtext(".//SemanticGroup") or root.findtext(".//Category") or "").strip().lower() or "general",
        "synonyms": _texts(root, "Synonym"), "cuis": _texts(root, "CUI"), "semantic_types": _texts(root, "SemanticType"),
    }  # fmt: skip
    for pair in root.iter("QAPair"):
        totals["pairs"] += 1
        question = pair.find("Question")
        attributes = question.attrib if question is not None else {}
        qid = attributes.get("qid") or f"{path.stem}-{pair.get('pid', '0')}"
        key = f"medquad-{collection}-{qid}"
        used[key] += 1
        answered = _all_text(pair.find("Answer"))
        if not answered.strip():
            continue
        totals["answered"] += 1
        asked = _all_text(question)
        if not asked.strip():
            found.refuse(name, 0, f"the pair {qid} lacks a question")
            continue
        found.rows.append(
            QAExample(
                id=key if used[key] == 1 else f"{key}.{used[key]}",  # some documents of one collection share their numbers
                question=asked, answer=answered, qtype=(attributes.get("qtype") or "information").strip().lower().replace(" ", "_"),
                focus=focus or first_words(asked), **about,
            )
        )  # fmt: skip


def _all_text(element: Element | None) -> str:
    return "" if element is None else "".join(element.itertext())


def _texts(root: Element, tag: str) -> tuple[str, ...]:
    """What the elements of this name hold, each once, in their order, without the empty ones."""
    return tuple(dict.fromkeys(text for element in root.iter(tag) if (text := (element.text or "").strip())))


def _refused(archive: Path, got: str, expected: str) -> MedpipeError:
    got = clip(got, SHOWN_CHARS)  # a damaged archive may hold names of any length
    return MedpipeError(got=got, expected=expected, where=str(archive), do="delete it and get it again from its publisher")

"""MedQuAD's question-answer pairs, read from its archive without unpacking it.

The archive holds one XML document per focus. Pairs whose answer the publishers removed are counted, not kept. Text stays
as it is written there; cleaning collapses its whitespace. A document that can't be read is quarantined, the archive goes on.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from medpipe.corpus.records import Found
from medpipe.corpus.text import first_words
from medpipe.errors import MedpipeError
from medpipe.job import Reporter
from medpipe.schema import QAExample

MAX_DOCUMENT_BYTES = 20 * 2**20


def parse(archive: Path, report: Reporter) -> Found:
    """All answered pairs. `notes` counts documents, pairs (with and without an answer) and answered pairs.

    Raises:
        MedpipeError: the file is not a zip archive, is cut short or damaged, or holds no XML document.
    """
    found, totals, used = Found(), Counter[str](), Counter[str]()
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = sorted(
                (member for member in bundle.infolist() if member.filename.endswith(".xml")), key=lambda member: member.filename
            )
            for number, member in enumerate(members, 1):
                _read_document(bundle, member, found, totals, used)
                report.progress(number, len(members), "MedQuAD documents")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise MedpipeError(
            got=f"a file that can't be read as a zip archive ({error})", expected="MedQuAD's archive, whole", where=str(archive),
            do="delete it and get it again",
        ) from error  # fmt: skip
    if not members:
        raise MedpipeError(got="an archive without XML documents", expected="MedQuAD's archive", where=str(archive), do="get it again")
    found.notes |= {"documents": len(members), "pairs": totals["pairs"], "answered": totals["answered"]}
    return found


def _read_document(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, found: Found, totals: Counter[str], used: Counter[str]) -> None:
    name = member.filename
    if member.file_size > MAX_DOCUMENT_BYTES:
        found.refuse(name, 0, f"document of {member.file_size} bytes, above the limit of {MAX_DOCUMENT_BYTES}")
        return
    content = bundle.read(member)
    try:
        root: Element = fromstring(content)
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:  # LookupError: an encoding that does not exist
        found.refuse(name, getattr(error, "position", (0, 0))[0], f"malformed XML ({type(error).__name__}: {error})")
        return
    collection = PurePosixPath(name).parent.name
    focus = (root.findtext("Focus") or "").strip()
    group = (root.findtext(".//SemanticGroup") or root.findtext(".//Category") or "").strip().lower() or "general"
    for pair in root.iter("QAPair"):
        totals["pairs"] += 1
        question, answer = pair.find("Question"), pair.find("Answer")
        asked = "".join(question.itertext()) if question is not None else ""
        answered = "".join(answer.itertext()) if answer is not None else ""
        qid = (question.get("qid") if question is not None else None) or f"{PurePosixPath(name).stem}-{pair.get('pid', '0')}"
        key = f"medquad-{collection}-{qid}"
        used[key] += 1
        if not answered.strip():
            continue
        totals["answered"] += 1
        qtype = ((question.get("qtype") if question is not None else None) or "information").strip().lower().replace(" ", "_")
        if not asked.strip():
            found.refuse(name, 0, f"the pair {qid} lacks a question")
            continue
        found.rows.append(
            QAExample(
                id=key if used[key] == 1 else f"{key}.{used[key]}",  # some documents of one collection share their numbers
                question=asked, answer=answered, source="medquad", category=group, qtype=qtype,
                focus=focus or first_words(asked), url=root.get("url") or "",
            )
        )  # fmt: skip

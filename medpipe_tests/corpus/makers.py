"""What the corpus tests build: rows, small MedQuAD archives, a small knowledge base."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medpipe.corpus.conditions import Condition
from medpipe.schema import QAExample


def row(number: int = 1, **changes: Any) -> QAExample:
    """A free-text row that cleaning keeps."""
    fields: dict[str, Any] = {
        "id": f"custom-{number}", "source": "custom", "focus": f"focus {number}", "question": f"What is condition number {number}?",
        "answer": f"Condition number {number} is a made-up condition that serves tests.",
    }  # fmt: skip
    return QAExample(**{**fields, **changes})


def document(
    focus: str, pairs: list[tuple[str, str, str, str]], group: str = "Disorders",
    synonyms: Iterable[str] = (), cuis: Iterable[str] = (), types: Iterable[str] = (),
) -> str:  # fmt: skip
    """One MedQuAD document; pairs are (qid, qtype, question, answer), already escaped."""
    body = "".join(
        f'<QAPair pid="{n}"><Question qid="{qid}" qtype="{qtype}">{question}</Question><Answer>{answer}</Answer></QAPair>'
        for n, (qid, qtype, question, answer) in enumerate(pairs, 1)
    )
    names, codes, kinds = (
        "".join(f"<{tag}>{text}</{tag}>" for text in texts)
        for tag, texts in (("Synonym", synonyms), ("CUI", cuis), ("SemanticType", types))
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Document id="1" source="X" url="https://example.org/1"><Focus>{focus}</Focus>'
        f"<FocusAnnotations><UMLS><CUIs>{codes}</CUIs><SemanticTypes>{kinds}</SemanticTypes><SemanticGroup>{group}</SemanticGroup></UMLS>"
        f"<Synonyms>{names}</Synonyms></FocusAnnotations><QAPairs>{body}</QAPairs></Document>"
    )


def archive(path: Path, documents: Mapping[str, str | bytes]) -> Path:
    """A zip laid out like MedQuAD's: {"1_A_QA/0001.xml": text}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in {"readme.txt": "not a document", **documents}.items():
            bundle.writestr(zipfile.ZipInfo(f"MedQuAD-master/{name}"), content, zipfile.ZIP_DEFLATED)  # always of the same date
    return path


def write_lines(path: Path, *lines: dict[str, Any] | str | bytes) -> Path:
    """A JSON-lines file; text and bytes are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def condition(number: int, specialty: str = "inventology") -> Condition:
    """A made-up condition whose words no other one shares."""
    mark = "abcdefghijklmnopqrstuvwxyz"[number] * 4
    listed = {
        field: tuple(f"{mark}{kind}{n} sign" for n in range(4))
        for field, kind in (("symptoms", "pain"), ("risk_factors", "risk"), ("red_flags", "flag"), ("complications", "late"))
    }
    prose = ("definition", "causes", "diagnosis", "treatment", "prevention", "prognosis", "seek_care")
    text = {field: f"Prose about the {field} of condition {mark}." for field in prose}
    reference = tuple(f"Reading up on {mark}itis, part {n}." for n in range(3))
    named = {"id": f"c{number}", "name": f"{mark}itis", "specialty": specialty, "reference": reference}
    return Condition.model_validate({**named, **listed, **text})

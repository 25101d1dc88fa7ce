"""Benchmark files as publishers write them, and a real web server on this machine that has some of them."""

from __future__ import annotations

import json
import string
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

CELLS = ["B-cell maturation", "V(D)J recombination", "Rh(D) (C) typing (B)", "Negative selection"]
CHOICES = "(A) B-cell maturation (B) V(D)J recombination (C) Rh(D) (C) typing (B) (D) Negative selection"
CASE = {"id": "test-7", "question": f"Which step?\nAnswer Choices: {CHOICES}"}
HUB_CASE = {"question": "What (A) now?", "options": dict(zip("ABCD", CELLS, strict=True)), "answer": CELLS[1], "answer_idx": "B"}
TEN = {letter: f"option {letter.lower()}" for letter in string.ascii_uppercase[:10]}
TEN_TEXT = " ".join(f"({letter}) {text}" for letter, text in TEN.items())
EXPERT = {"id": "Text-1", "question": f"Which?\nAnswer Choices: {TEN_TEXT}", "label": ["J"], "medical_task": "Diagnosis"}
ENTRY = {"QUESTION": "Does it work?", "CONTEXTS": ["Background.", "Results."], "final_decision": "maybe"}


def medmcqa(number: int = 0, **changes: Any) -> dict[str, Any]:
    options = dict(zip(("opa", "opb", "opc", "opd"), CELLS, strict=True))
    more = {"choice_type": "single", "exp": None, "subject_name": "Anatomy", "topic_name": None}
    return {"id": f"uuid-{number}", "question": "Which step?", **options, "cop": 2, **more, **changes}


def mmlu(subject: str, **changes: Any) -> dict[str, Any]:
    return {"question": f"Which step of {subject}?", "subject": subject, "choices": CELLS, "answer": 3, **changes}


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def pubmedqa(folder: Path, truth: Any, **changes: Any) -> list[Path]:
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    folder.mkdir(exist_ok=True)
    (folder / "ori_pqal.json").write_text(json.dumps({"11": entry, "12": {**entry, "final_decision": "yes"}}))
    (folder / "test_ground_truth.json").write_text(json.dumps(truth))
    return [folder / "ori_pqal.json", folder / "test_ground_truth.json"]


@dataclass
class Hub:
    """A web server that knows these pages, and what it was asked for."""

    url: str = ""
    pages: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self.hub.asked.append(self.path)
        body = self.hub.pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def serving() -> Iterator[Hub]:
    """A server that runs as long as the block and has no page yet."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub})) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        hub.url = f"http://127.0.0.1:{httpd.server_port}"
        try:
            yield hub
        finally:
            httpd.shutdown()
            thread.join()

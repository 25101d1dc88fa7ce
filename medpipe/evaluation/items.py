"""The rows of an evaluation: appended as they come, kept over a kill, and at the end one parquet file.

    journal = Journal(folder / "sft_team.jsonl")
    journal.add([{"id": "medqa-1", ...}])          # on disk when this returns
    Journal(folder / "sft_team.jsonl").rows        # after a kill: every whole row
    write(rows, out); read(out)

Left out: what a row means (medpipe/evaluation/evaluate.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError

ITEMS = "items.parquet"
COLUMNS = (
    "id", "system", "score", "prediction", "answer", "parsed", "tokens", "messages", "prompt_sha256", "option_logps", "rounds",
)  # fmt: skip
"""`option_logps` in nats, empty on free text; `rounds` is JSON: [{role: letter}]."""


class Journal:
    """A file that only grows: on each line a row as JSON behind its own checksum.

    `rows` are those that stood whole in it, up to the first line that is not what was written, and all that were added.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = path.read_bytes() if path.is_file() else b""
        self.rows: list[dict[str, Any]] = []
        whole = 0
        for line in raw.splitlines(keepends=True):
            seal, _, said = line.partition(b" ")
            if not line.endswith(b"\n") or seal != _seal(said):  # half a line that a kill left, or damage: it is answered anew
                break
            self.rows.append(json.loads(said))
            whole += len(line)
        self._file = path.open("r+b" if path.is_file() else "xb")
        self._file.truncate(whole)
        self._file.seek(whole)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows; they are on disk when this returns."""
        lines = (json.dumps(row).encode() + b"\n" for row in rows)  # keys as they came: their order tells who spoke first
        self._file.write(b"".join(_seal(line) + b" " + line for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += [dict(row) for row in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _seal(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:16].encode()


def write(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write all rows' COLUMNS as `items.parquet` into a folder that is being built."""
    import pandas as pd

    table = pd.DataFrame([{name: json.dumps(row[name]) if name == "rounds" else row[name] for name in COLUMNS} for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / ITEMS, index=False)


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished evaluation.

    Raises:
        MedpipeError: the folder has no items.
    """
    import pandas as pd

    if not (folder / ITEMS).is_file():
        raise MedpipeError(got=f"no {ITEMS}", expected="a finished evaluation", where=str(folder), do="materialise the evaluation")
    rows: list[dict[str, Any]] = pd.read_parquet(folder / ITEMS).to_dict("records")  # pyright: ignore[reportAssignmentType]  (names are texts)
    return [{**row, "option_logps": [float(x) for x in row["option_logps"]], "rounds": json.loads(row["rounds"])} for row in rows]

"""What the scripts of this folder read from a mirror folder: MedQuAD's answered rows and the benchmarks' questions."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe.config import Settings
from medpipe.corpus import medquad
from medpipe.corpus.benchmarks import PUBLISHED, parse
from medpipe.corpus.download import MIRROR, mirror_folder
from medpipe.corpus.sources import SOURCES
from medpipe.errors import MedpipeError
from medpipe.schema import QAExample


class Quiet:
    """A reporter that says nothing."""

    def log(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def episodes(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""


def arguments(what: str) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--mirror", default=os.environ.get(MIRROR, ""), help=f"folder with the published files; default: ${MIRROR}")
    parser.add_argument("--repeat", type=int, default=3, help="measurements, of which the median is told")
    parser.add_argument("--seed", type=int, default=0, help="for what is planted")
    parser.add_argument("--json", action="store_true", help="JSON lines in place of the table")
    return parser


def read(mirror: str) -> tuple[list[QAExample], list[QAExample]]:
    """MedQuAD's answered rows, and the questions of every benchmark whose files are there.

    Raises:
        MedpipeError: no folder is named, or MedQuAD's archive does not lie in it.
    """
    os.environ[MIRROR] = mirror
    folder = mirror_folder()
    archive = folder / SOURCES["medquad"].mirror_names[0] if folder else Path()
    if not archive.is_file():
        raise MedpipeError(
            got=f"no {SOURCES['medquad'].mirror_names[0]}", expected="MedQuAD's archive", where=mirror or "no folder",
            do=f"name the folder with --mirror or {MIRROR}",
        )  # fmt: skip
    items: list[QAExample] = []
    for benchmark in PUBLISHED.values():
        files = [path for _, path in benchmark.local(Settings(name="bench"))]
        paths = [path for path in files if path is not None]
        if len(paths) == len(files):
            items += parse(benchmark, paths)
    return medquad.parse(archive, Quiet()).rows, items

"""Reads what a worker says through Dagster Pipes, whole lines only.

Dagster's own reader of a temporary file takes half a line for a line when it looks while a message of more than a few
kilobytes is being written; the step then fails although its work was done. Left out: other places than a local file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter, PipesParams

LOOK_SECONDS = 0.05


class WholeLines(dg.PipesMessageReader):
    """Messages from a temporary file, each handled once its line has ended."""

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[PipesParams]:
        """Follow the file in a thread for as long as the session lasts; yields where the worker shall write."""
        with tempfile.TemporaryDirectory() as folder:
            path, ended = Path(folder) / "messages", Event()
            path.touch()
            thread = Thread(target=_follow, args=(path, handler, ended), daemon=True)
            thread.start()
            try:
                yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(path)}
            finally:
                ended.set()
                thread.join()

    def no_messages_debug_text(self) -> str:
        """Where it looked, for Dagster's warning that nothing came."""
        return "Read messages from a local temporary file."


def _follow(path: Path, handler: dg.PipesMessageHandler, ended: Event) -> None:
    """Hand on each finished line. What a killed worker left of a line is no message: the step tells of the kill."""
    rest = b""
    try:
        with path.open("rb") as file:
            last = False
            while not last:
                last = ended.wait(LOOK_SECONDS)  # asked before reading, so that the last look sees all
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    handler.handle_message(json.loads(line))
    except Exception:
        handler.report_pipes_framework_exception("reader of the worker's messages", sys.exc_info())
        raise

"""A worker's messages reach Dagster whole, however slowly and in however many pieces their lines are written."""

import subprocess
import sys

import dagster as dg

from medpipe.assets.messages import WholeLines

IN_PIECES = """
import json, os, time
from dagster_pipes import PipesDefaultMessageWriter, PipesFileMessageWriterChannel, open_dagster_pipes

class Slow(PipesFileMessageWriterChannel):
    def write_message(self, message):
        line = (json.dumps(message) + "\\n").encode()
        with open(self._path, "ab", buffering=0) as file:
            for start in range(0, len(line), 1 + len(line) // 3):
                file.write(line[start:start + 1 + len(line) // 3])
                time.sleep(0.15)  # longer than the reader's pause: it looks while the line is unfinished

import dagster_pipes
dagster_pipes.PipesFileMessageWriterChannel = Slow
with open_dagster_pipes() as pipes:
    pipes.report_custom_message({"answer": "x" * 20_000})
    pipes.report_custom_message({"answer": "\\u2014 short"})
"""


def test_a_line_that_is_written_in_pieces_arrives_whole() -> None:
    heard = []

    @dg.op
    def ask(context: dg.OpExecutionContext) -> None:
        with dg.open_pipes_session(context, dg.PipesTempFileContextInjector(), WholeLines()) as session:
            subprocess.run([sys.executable, "-c", IN_PIECES], env=session.get_bootstrap_env_vars(), check=True)
        heard.extend(session.get_custom_messages())

    @dg.job
    def one() -> None:
        ask()

    assert one.execute_in_process().success
    assert heard == [{"answer": "x" * 20_000}, {"answer": "— short"}]

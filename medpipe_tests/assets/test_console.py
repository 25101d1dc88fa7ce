"""What a terminal shows of a run: short lines, and of a failure the message for the user."""

import re

import dagster as dg
import pytest

from medpipe.assets.console import console
from medpipe.errors import MedpipeError, SourceUnreachable


def shown(assets: list[dg.AssetsDefinition], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a run of these assets, without the time."""
    defs = dg.Definitions(assets=assets, loggers={"console": console}, executor=dg.in_process_executor)
    job = defs.resolve_implicit_global_asset_job_def()
    job.execute_in_process(raise_on_error=False, run_config={"loggers": {"console": {"config": {"log_level": "INFO"}}}})
    lines = capsys.readouterr().err.splitlines()
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines]


def test_a_job_that_speaks_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    @dg.asset(key=["models", "planner"])
    def planner(context: dg.AssetExecutionContext) -> None:
        context.log.info("18/36 loss 2.310")
        context.log.warning("one row was left out")

    lines = shown([planner], capsys)
    assert "models/planner         18/36 loss 2.310" in lines
    assert "models/planner         ! one row was left out" in lines
    assert all(len(line) < 120 for line in lines)


def test_a_message_holds_nothing_that_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    @dg.asset(key=["sources", "custom"])
    def custom(context: dg.AssetExecutionContext) -> None:
        context.log.warning("row 3 \x1b[2J is left out")

    assert "sources/custom         ! row 3 \\x1b[2J is left out" in shown([custom], capsys)


def test_every_kind_of_message_for_the_user_is_shown_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @dg.asset(key=["sources", "custom"])
    def custom() -> None:
        raise SourceUnreachable(got="no answer", expected="a file", where="hub", do="try again")

    lines = shown([custom], capsys)
    assert "sources/custom         !! got no answer, expected a file, in hub: try again" in lines
    assert not any("Stack Trace" in line for line in lines)


@pytest.mark.parametrize("failed", [False, True])
def test_a_message_for_the_user_is_shown_without_a_traceback(capsys: pytest.CaptureFixture[str], failed: bool) -> None:
    message = "got no rows, expected some, in data/custom: add a file"

    @dg.asset(key=["sources", "custom"])
    def custom() -> None:
        if failed:
            raise dg.Failure(description=message, allow_retries=False)
        raise MedpipeError(got="no rows", expected="some", where="data/custom", do="add a file")

    lines = shown([custom], capsys)
    assert f"sources/custom         !! {message}" in lines
    assert not any("Traceback" in line or "File " in line for line in lines)


def test_a_fault_of_the_program_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @dg.asset
    def broken() -> None:
        raise KeyError("rows")

    text = "\n".join(shown([broken], capsys))
    assert "KeyError: 'rows'" in text
    assert "test_console.py" in text

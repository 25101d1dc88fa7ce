"""What a terminal shows of a run: one short line per event, `12:01:03 models/planner  18/36 loss 2.310`."""

from __future__ import annotations

import logging
import sys
from typing import Any

import dagster as dg

from medpipe.errors import MedpipeError
from medpipe.terminal import visible

WORTH_SAYING = ("STEP_START", "STEP_SUCCESS", "STEP_FAILURE", "RUN_FAILURE", "RUN_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_SUCCESS")


class ShortLines(logging.Formatter):
    """Time, asset and message, without Dagster's run ids and process numbers."""

    def format(self, record: logging.LogRecord) -> str:
        """One line for one event."""
        meta: Any = getattr(record, "dagster_meta", None) or {}
        step = (meta.get("step_key") if isinstance(meta, dict) else None) or "run"
        text = _failure(record) or str(
            meta.get("orig_message") if isinstance(meta, dict) and meta.get("orig_message") else record.getMessage()
        )
        mark = {"WARNING": "! ", "ERROR": "!! ", "CRITICAL": "!! "}.get(record.levelname, "")
        return f"{self.formatTime(record, '%H:%M:%S')} {step.replace('__', '/'):22} {mark}{visible(text)}"


def _failure(record: logging.LogRecord) -> str:
    """What went wrong in a step: the message for the user where there is one, Dagster's own otherwise."""
    event = getattr(record, "dagster_event", None)
    if event is None:
        return ""
    if was_interrupted(event):
        return "interrupted"
    if event.event_type_value != "STEP_FAILURE":
        return ""
    error = event.step_failure_data.error
    return reason_of(event) or (error.to_string() if error else "")


def was_interrupted(event: dg.DagsterEvent) -> bool:
    """Whether this is the end of a step or a run that SIGINT or SIGTERM ended."""
    if event.event_type_value == "STEP_FAILURE":
        error = event.step_failure_data.error
        return error is not None and error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
    if event.event_type_value in ("RUN_FAILURE", "PIPELINE_FAILURE"):
        reason = event.job_failure_data.failure_reason
        return reason is not None and reason.value == "UNEXPECTED_TERMINATION"
    return False


def reason_of(event: dg.DagsterEvent) -> str:
    """The message for the user of a step that failed, without class and traceback; empty where what failed is the program itself."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cls_name not in _meant_for_users():
        error = error.cause
    return error.message.strip().partition(": ")[2] if error else ""


def _meant_for_users() -> set[str]:
    """Names of MedpipeError and its kinds: of an error in another process Dagster keeps the name alone."""
    kinds = [MedpipeError]
    for kind in kinds:  # grows as it goes
        kinds += kind.__subclasses__()
    return {kind.__name__ for kind in kinds}


class OnlyWhatMatters(logging.Filter):
    """Keeps what a job says and how steps end; drops Dagster's own plumbing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show this event."""
        event = getattr(record, "dagster_event", None)
        if event is None:
            return "[pipes]" not in record.getMessage()
        return event.event_type_value in WORTH_SAYING


@dg.logger(config_schema={"log_level": dg.Field(str, default_value="DEBUG")}, description="Short lines for a terminal.")
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """The console logger of every run started from a terminal."""
    logger = logging.Logger("medpipe", level=context.logger_config["log_level"])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ShortLines())
    handler.addFilter(OnlyWhatMatters())
    logger.addHandler(handler)
    return logger

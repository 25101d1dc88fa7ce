"""What a terminal shows of a run: one short line per event, `12:01:03 models/planner  18/36 loss 2.310`."""

from __future__ import annotations

import logging
import sys
from typing import Any

import dagster as dg

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
        return f"{self.formatTime(record, '%H:%M:%S')} {step.replace('__', '/'):22} {mark}{text}"


def _failure(record: logging.LogRecord) -> str:
    """What went wrong in a step: the message for the user where there is one, Dagster's own otherwise."""
    event = getattr(record, "dagster_event", None)
    data = event.step_failure_data if event is not None and event.event_type_value == "STEP_FAILURE" else None
    if data is None:
        return ""
    if data.user_failure_data:
        return str(data.user_failure_data.description)
    if data.error and data.error.cause and data.error.cause.cls_name == "MedpipeError":
        return data.error.cause.message.strip().partition(": ")[2]  # without the class's name and without a traceback
    return data.error.to_string() if data.error else ""


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

"""Tells a webhook of failed runs and failed checks: two sensors, both off at first.

    export MEDPIPE_ALERT_WEBHOOK=https://…      # Slack's incoming webhook, or whatever takes {"text": "…"}; it is a secret
    dagster dev                                  # switch `run_failures` and `check_failures` on under Automation

What failed is told once: what was told of a run is remembered until the run has ended, and a webhook that can't be reached makes the
tick fail, so that the next one tries again. Dagster's own run-failure sensor would move on after a failure to tell, and would not
see runs that were started from a terminal. The address stands in no message, log or error.
What this leaves out: an answer that was lost on the way counts as a failure, so such a message may come twice; and texts that other
libraries wrote, since they may quote rows: they stay in the log.
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError

import dagster as dg
from pydantic import Field

from medpipe.errors import MedpipeError
from medpipe.schema import Frozen

VARIABLE = "MEDPIPE_ALERT_WEBHOOK"
LOOK_SECONDS = 60
ANSWER_SECONDS = 10.0
AT_ONCE = 10  # things told in one message; what is left comes with the next tick
MOST_CHARS = 300  # of one description
MOST_STEPS = 5  # failed steps named of one run
PAGE = 50
SETTLED = timedelta(seconds=60)
"""Rows of runs may become visible in another order than they were numbered in; after this, none is late any more."""

OWN_WORDS = re.compile(r"(?:[\w/.-]+: )?(got .+, expected .+, in .+: .+|the worker ended with status -?\d+ and said nothing)", re.DOTALL)
"""Messages that this project writes for people; any other text may quote a row."""

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class Watch(Frozen):
    """What a sensor remembers from tick to tick (its cursor).

    Runs up to number `since` are done with, but for those in `runs`, which holds what was told of each run that is looked at.
    """

    since: int = 0
    runs: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class News(NamedTuple):
    """One thing to tell of a run; `name` tells it from the run's other news."""

    run_id: str
    name: str
    text: str


Finder = Callable[[dg.DagsterInstance, dg.RunRecord], list[News]]


@dg.sensor(
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=f"Posts each run that failed to the webhook in {VARIABLE}. Off until switched on.",
)
def run_failures(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Every failed run of this Dagster instance, however it was started."""
    return _tick(context, failed_run)


@dg.sensor(
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=f"Posts each check that failed, errors and warnings, to the webhook in {VARIABLE}. Off until switched on.",
)
def check_failures(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Every failed check, also of a run that still goes on."""
    return _tick(context, failed_checks)


def _tick(context: dg.SensorEvaluationContext, find: Finder) -> dg.SkipReason:
    instance = context.instance
    if not context.cursor:
        context.update_cursor(begin(instance).model_dump_json())
        return dg.SkipReason("first look: what failed before this is not told")
    address = os.environ.get(VARIABLE, "")
    if not address:
        return dg.SkipReason(f"{VARIABLE} is not set: nothing is told; what fails meanwhile is told once it is set")
    watch, records = follow(instance, Watch.model_validate_json(context.cursor), datetime.now(UTC))
    news = [each for record in records for each in find(instance, record) if each.name not in watch.runs[record.dagster_run.run_id]]
    if news:
        post(address, "\n\n".join(each.text for each in news[:AT_ONCE]))
    context.update_cursor(remember(watch, records, news).model_dump_json())
    if not news:
        return dg.SkipReason("nothing failed")
    left = len(news) - len(news[:AT_ONCE])
    return dg.SkipReason(f"told of {', '.join(f'{each.name} in run {each.run_id[:8]}' for each in news[:AT_ONCE])}; {left} left")


def begin(instance: dg.DagsterInstance) -> Watch:
    """From here on: runs that go on, and those to come."""
    newest = instance.get_run_records(limit=1)
    active = instance.get_run_records(dg.RunsFilter(statuses=ACTIVE))
    return Watch(since=newest[0].storage_id if newest else 0, runs={record.dagster_run.run_id: () for record in active})


def follow(instance: dg.DagsterInstance, watch: Watch, now: datetime) -> tuple[Watch, list[dg.RunRecord]]:
    """The runs to look at, oldest first, with `since` and `runs` brought up to them."""
    new: list[dg.RunRecord] = []
    cursor: str | None = None
    while page := instance.get_run_records(limit=PAGE, cursor=cursor):
        new += [record for record in page if record.storage_id > watch.since and record.dagster_run.run_id not in watch.runs]
        if page[-1].storage_id <= watch.since:
            break
        cursor = page[-1].dagster_run.run_id
    known = instance.get_run_records(dg.RunsFilter(run_ids=list(watch.runs))) if watch.runs else []
    records = sorted([*known, *new], key=lambda record: record.storage_id)  # a run that was deleted is among neither
    old = [record.storage_id for record in records if record.create_timestamp.replace(tzinfo=UTC) < now - SETTLED]
    runs = {record.dagster_run.run_id: watch.runs.get(record.dagster_run.run_id, ()) for record in records}
    return Watch(since=max([watch.since, *old]), runs=runs), records


def remember(watch: Watch, records: Sequence[dg.RunRecord], news: Sequence[News]) -> Watch:
    """What was told now is told; a run that has ended, with nothing left to tell, is done with."""
    told, left = news[:AT_ONCE], {each.run_id for each in news[AT_ONCE:]}
    runs = {}
    for record in records:
        run_id = record.dagster_run.run_id
        if not record.dagster_run.is_finished or run_id in left or record.storage_id > watch.since:
            runs[run_id] = (*watch.runs[run_id], *(each.name for each in told if each.run_id == run_id))
    return Watch(since=watch.since, runs=runs)


def failed_run(instance: dg.DagsterInstance, record: dg.RunRecord) -> list[News]:
    """The run, if it failed: which steps, and why where this project's own words say so."""
    run = record.dagster_run
    if run.status is not dg.DagsterRunStatus.FAILURE:
        return []
    steps = _events(instance, run.run_id, dg.DagsterEventType.STEP_FAILURE)
    lines = [f"*Run {run.run_id[:8]} of {_job(run)} failed*" + (": another try follows" if _retried(run) else "")]
    for event in steps[:MOST_STEPS]:
        lines.append(f"• {_asset(event)}: {_cut(_why(event.step_failure_data))}")
    if len(steps) > MOST_STEPS:
        lines.append(f"• and {len(steps) - MOST_STEPS} steps more")
    if not steps:
        ends = _events(instance, run.run_id, dg.DagsterEventType.RUN_FAILURE)
        lines.append(f"• {_cut(next((event.message for event in ends if event.message), 'no step says why'))}")
    logs = sorted({f"logs/{_asset(event).replace('/', '_')}.log" for event in steps[:MOST_STEPS]})
    lines.append(_where(f"/runs/{run.run_id}", *logs))
    return [News(run.run_id, "the failure", escaped("\n".join(lines)))]


def failed_checks(instance: dg.DagsterInstance, record: dg.RunRecord) -> list[News]:
    """The run's checks that failed, each once however often its step was tried; no value of any row."""
    run, found = record.dagster_run, {}
    for event in _events(instance, run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        check: Any = event.event_specific_data
        name = f"{check.asset_key.to_user_string()}:{check.check_name}"
        if check.passed:
            continue
        error = check.severity is dg.AssetCheckSeverity.ERROR
        lines = [
            f"*{'Check' if error else 'Warning: check'} {check.check_name} of {check.asset_key.to_user_string()} failed* "
            + ("(error: nothing may be built on it)" if error and check.blocking else "(error)" if error else "(warning: the run goes on)"),
            f"• {_cut(check.description or 'the check gives no description')}",
            f"• run {run.run_id[:8]} of {_job(run)}",
            _where(f"/assets/{check.asset_key.to_user_string()}?view=checks", f"/runs/{run.run_id}"),
        ]
        found[name] = News(run.run_id, name, escaped("\n".join(lines)))
    return list(found.values())


def post(address: str, text: str) -> None:
    """Send one message; what it raises names neither the address nor a part of it.

    By urllib, since httpx writes the address of each request into its log.
    """
    if not address.startswith(("http://", "https://")):
        raise MedpipeError(
            got="something else", expected="an address that begins with https://", where=f"the environment variable {VARIABLE}",
            do="correct it and start Dagster anew",
        )  # fmt: skip
    trouble = ""
    try:
        request = urllib.request.Request(address, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=ANSWER_SECONDS) as answer:
            trouble = "" if 200 <= answer.status < 300 else f"status {answer.status}"
    except HTTPError as error:
        trouble = f"status {error.code}"
        error.close()
    except URLError as error:
        trouble = type(error.reason).__name__ if isinstance(error.reason, Exception) else "no connection"
    except (OSError, HTTPException, ValueError) as error:
        trouble = type(error).__name__
    if trouble:  # raised out here: inside, the caught error would be part of the traceback, and its text may name the host
        raise MedpipeError(
            got=f"no success ({trouble})", expected="an answer with a status from 200 to 299", where=f"the webhook of {VARIABLE}",
            do="check the address and the service; the next tick tries again",
        )  # fmt: skip


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A webhook that sends elsewhere has not taken the message."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing."""


def escaped(text: str) -> str:
    """Slack reads <…> as a command, such as a call to everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _events(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
    records = instance.get_records_for_run(run_id, of_type=kind).records
    return [record.event_log_entry.dagster_event for record in records if record.event_log_entry.dagster_event]


def _why(failure: Any) -> str:
    """The reason of a step's failure: this project's own words, otherwise the kind of error."""
    said, error = failure.user_failure_data, failure.error
    while said is None and error is not None and error.cause is not None:
        error = error.cause
    if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
        return "a check that blocks failed"
    text = (said.description or "") if said else error.message.strip().partition(": ")[2] if error else ""
    own = OWN_WORDS.fullmatch(text.strip())
    if own:
        return own[1]
    kind = re.match(r"(?:[\w/.-]+: )?([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit))\b", text) if said else None
    name = kind[1] if kind else error.cls_name if error and not said else "an error"
    return f"{name} (its text may quote rows and stays in the log)"


def _asset(event: dg.DagsterEvent) -> str:
    """models/planner for the step models__planner; the benchmark's key where it stands before the message of the step `evaluation`."""
    said = event.step_failure_data.user_failure_data
    named = re.match(r"([a-z_]+/[\w.-]+): ", (said.description or "") if said else "")
    return named[1] if named else (event.step_key or "a step").replace("__", "/")


def _job(run: dg.DagsterRun) -> str:
    return "chosen assets" if run.job_name.startswith("__") else f"the job {run.job_name}"


def _retried(run: dg.DagsterRun) -> bool:
    return run.tags.get("dagster/will_retry") == "true"


def _where(*places: str) -> str:
    logs = [place for place in places if not place.startswith("/")]
    pages = ", ".join(place for place in places if place.startswith("/"))
    return f"Look at: {pages} on Dagster's page" + (f"; {', '.join(logs)} in the run's outputs folder" if logs else "")


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MOST_CHARS else flat[: MOST_CHARS - 1] + "…"

"""What starts runs without a person: a weekly schedule, the user's own rows, and changed data upstream. All are off at first.

    dagster dev         # switch them on under Automation; while it runs, the sensors look every minute

`custom_rows` waits while a file is being written: it acts once two looks in a row find the same sizes and times, and only when the
content is another one than before. `changed_inputs` asks for models, evaluations and the release where what they were made from
has another data version now, once for each change. What this leaves out: the other sources, which a run reads anew by itself, and
making data anew, which the schedule, `custom_rows` or a person does.
"""

import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from medpipe import store
from medpipe.corpus.sources import SOURCES
from medpipe.resources import Profile
from medpipe.schema import Frozen

JOB = "everything"
LOOK_SECONDS = 60
SETTLE_SECONDS = 5.0
"""A file that was written to less than this before a look counts as still being written."""

WEEKLY = dg.ScheduleDefinition(
    name="weekly_retraining",
    job_name=JOB,
    cron_schedule="0 3 * * 0",
    execution_timezone="UTC",
    description="Every Sunday at 03:00 UTC; what has not changed is not made again. Off until switched on.",
)

FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""Of the champion: one missed week is a warning, two are a failure. A run that finds it standing counts."""

VERSION, VERSION_READ = "dagster/data_version", "dagster/input_data_version/"
"""Tags that Dagster puts on a materialisation: its own data version, and those of what it read."""


class InputsChanged(dg.AutomationCondition[dg.AssetKey]):
    """True where an input's data version is another one than the asset was made from, until the asset was asked for.

    Dagster's own `data_version_changed` compares with the last look: what changed while the asset was being made would be lost, and
    a run of the whole graph would be followed by a second one. This compares with what the asset really read, and remembers the
    versions for which it was asked for, so that a run that failed is not asked for again. At the first look nothing has changed.
    All that it uses is exported by Dagster's public API; only the sensor's `use_user_code_server`, below, is marked as beta.
    """

    @property
    def name(self) -> str:
        """Its name in the evaluations on Dagster's page."""
        return "inputs_changed"

    @property
    def description(self) -> str:
        """The same for people."""
        return "an input has another data version than this was made from"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """Compare; the cursor holds what was seen at the last look and what was last asked for."""
        parents = sorted(context.asset_graph.get(context.key).parent_keys)
        tags = _latest_tags(context.asset_graph_view.instance, [context.key, *parents])
        made = tags.get(context.key, {})
        now = {key.to_user_string(): tags[key][VERSION] for key in parents if VERSION in tags.get(key, {})}
        stamp = store.hash_of_hashes(now)
        seen, asked = (context.cursor or f"{stamp} {stamp}").split(" ")
        before = context.get_previous_requested_subset(context.root_context.key)
        if before is not None and not before.is_empty:
            asked = seen
        due = stamp != asked and any(made.get(VERSION_READ + name) != version for name, version in now.items())
        subset = context.candidate_subset if due else context.get_empty_subset()
        return dg.AutomationResult(context, subset, cursor=f"{stamp} {asked}")


def _latest_tags(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> dict[dg.AssetKey, Mapping[str, str]]:
    entries = {record.asset_entry.asset_key: record.asset_entry.last_materialization for record in instance.get_asset_records(keys)}
    return {key: entry.tags or {} for key, entry in entries.items() if entry is not None}


def _unsettled() -> Any:
    """About an upstream asset: it is being made or about to be, or its last making failed, or a check that blocks did."""
    on = dg.AutomationCondition
    bad_check = on.any_checks_match(on.check_failed(), blocking_only=True)
    return on.in_progress() | on.will_be_requested() | on.execution_failed() | bad_check


def _upstream_unsettled() -> Any:
    """Within two arrows: the evaluations wait for the audit that the team waits for."""
    on = dg.AutomationCondition
    return on.any_deps_match(_unsettled() | on.any_deps_match(_unsettled()))


def _when_inputs_change() -> Any:
    ready = ~dg.AutomationCondition.in_progress() & ~_upstream_unsettled()
    return (InputsChanged() & ready).with_label("inputs_changed_and_settled")


WHEN_INPUTS_CHANGE = _when_inputs_change()
"""Automation condition of the models, the evaluation, the champion and the report."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # a condition of our own can only be evaluated in the process that has the code
    CHANGED_INPUTS = dg.AutomationConditionSensorDefinition(
        "changed_inputs",
        target=dg.AssetSelection.groups("models", "rewards", "evaluation", "release"),
        use_user_code_server=True,
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=LOOK_SECONDS,
        description="Models, evaluations and the release are made anew where their inputs have changed. Off until switched on.",
    )


class Seen(Frozen):
    """What the sensor remembers from look to look (its cursor).

    `content` is the hash of the files that it last acted on, `times` the hash of their names, sizes and times at the last look.
    `requests` counts runs: Dagster never starts a second run with an equal key, and rows may come back that were taken away.
    """

    content: str = ""
    times: str = ""
    settled: bool = False  # `content` is the content at `times`
    requests: int = 0


@dg.sensor(
    job_name=JOB,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="New, changed or removed files in data/custom start the whole graph. Off until switched on.",
)
def custom_rows(context: dg.SensorEvaluationContext, profile: Profile) -> dg.RunRequest | dg.SkipReason:
    """Compare the user's files with those of the last run; what has not changed downstream is not made again."""
    files = SOURCES["custom"].local(profile.settings())
    seen = Seen.model_validate_json(context.cursor) if context.cursor else None
    seen, answer = look(files, seen, time.time())
    context.update_cursor(seen.model_dump_json())
    return answer


def look(files: Sequence[Path], seen: Seen | None, now: float) -> tuple[Seen, dg.RunRequest | dg.SkipReason]:
    """One look at the files: what to remember, and a run or the reason why there is none.

    Args:
        files: the user's files.
        seen: what was remembered from the look before; None at the first.
        now: seconds since 1970.
    """
    stats = {_name(path): path.stat() for path in files}
    listed = "".join(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for name, stat in sorted(stats.items()))
    times = hashlib.sha256(listed.encode()).hexdigest()
    if seen is None and not files:
        return Seen(content=_content(files), times=times, settled=True), dg.SkipReason("no files yet; remembered")
    seen = seen or Seen()
    if seen.settled and times == seen.times:
        return seen, dg.SkipReason("nothing new")
    young = [name for name, stat in stats.items() if 0 <= now - stat.st_mtime < SETTLE_SECONDS]
    if times != seen.times or young:
        waiting = seen.model_copy(update={"times": times, "settled": False})
        return waiting, dg.SkipReason("something has changed and may be still being written; looking again next time")
    content = _content(files)
    if content == seen.content:
        return seen.model_copy(update={"settled": True}), dg.SkipReason("written anew with the same content")
    now_seen = Seen(content=content, times=times, settled=True, requests=seen.requests + 1)
    return now_seen, dg.RunRequest(run_key=f"{content}-{now_seen.requests}")


def _content(files: Sequence[Path]) -> str:
    return store.hash_of_hashes({_name(path): store.sha256_file(path) for path in files})


def _name(path: Path) -> str:
    """With its folder: data/custom/a.jsonl and data/a.jsonl are two files."""
    return "/".join(path.parts[-2:])

"""What starts runs without a person: the weekly schedule, and a sensor that notices the user's own rows. Both are off at first.

    dagster dev         # switch them on under Automation; while it runs, the sensor looks every minute

The sensor waits while a file is being written: it acts once two looks in a row find the same sizes and times, and only when the
content is another one than before. What this leaves out: the other sources, which a run reads anew by itself.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

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
    stats = {path.name: path.stat() for path in files}
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
    return store.hash_of_hashes({path.name: store.sha256_file(path) for path in files})

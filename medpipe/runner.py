"""Runs the graph from the command line as Dagster itself would, and tidies up after a run that was killed.

    medpipe run --profile quickstart        # or: make run PROFILE=quickstart

The same run as `dagster asset materialize -m medpipe.definitions --select '*'`, with short lines on the terminal, tags that
tell which process it belongs to, and slots freed that a killed run still holds. Left out: the queue and the daemon.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from medpipe.config import Settings, load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe.resources import PROFILE_VARIABLE

OWNER_TAG = "medpipe/process"
"""Tag of a command-line run: process id and start time of the process that drives it."""


def whole_graph() -> dg.JobDefinition:
    """The job `everything`; a function, because each step's process looks it up anew."""
    from medpipe.definitions import defs

    return defs.resolve_job_def("everything")


def run_graph(profile: str, select: str, overrides: list[str]) -> bool:
    """Materialise a selection of the graph; returns whether every step succeeded.

    Args:
        profile: a bundled profile or a YAML file.
        select: Dagster's selection syntax: "*", "models/planner+", "group:sources".
        overrides: exceptions to the profile, "training.epochs=2".

    Raises:
        MedpipeError: the selection or a setting is wrong, or the settings can't lead to an asset that is selected.
    """
    settings = load_profile(profile, dict(parse_override(text) for text in overrides))
    os.environ[PROFILE_VARIABLE] = profile
    from medpipe.definitions import defs

    keys = _selected(defs, select)
    _refuse_what_cannot_end(settings, keys)
    config = {
        "resources": {"profile": {"config": {"name": profile, "overrides": overrides}}},
        "loggers": {"console": {"config": {"log_level": "INFO"}}},
    }
    with _instance() as instance:
        for run_id in free_dead_runs(instance):
            print(f"run {run_id[:8]} was killed before it ended: marked as failed, its slots are free again", file=sys.stderr)
        with _without_plumbing():
            result = dg.execute_job(
                dg.reconstructable(whole_graph), instance=instance, run_config=config, asset_selection=keys,
                tags={OWNER_TAG: _this_process()}, raise_on_error=False,
            )  # fmt: skip
    return result.success


def free_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark command-line runs whose process is gone as failed and free the slots they hold; returns their ids."""
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)):
        owner = run.tags.get(OWNER_TAG)
        if owner and not _alive(owner):
            instance.report_run_failed(run, "the process that drove this run was killed")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead


def _selected(defs: dg.Definitions, select: str) -> list[dg.AssetKey]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster warns of its own reading of "*"
            selection = dg.AssetSelection.from_coercible(select.split(","))
        found = selection.resolve(defs.resolve_asset_graph())
        keys = sorted(key for key in found if key.path[0] != "tuning")  # a search is no part of a run: `medpipe tune`
    except dg.DagsterError as error:
        raise MedpipeError(
            got=f"selection {select!r}",
            expected="assets of the graph",
            where="--select",
            do=f"see the keys with dagster asset list -m medpipe.definitions ({' '.join(str(error).split())})",
        ) from error
    if not keys:
        raise MedpipeError(
            got=f"selection {select!r}",
            expected="at least one asset",
            where="--select",
            do="for example 'group:sources' or 'models/planner+'",
        )
    return keys


def _refuse_what_cannot_end(settings: Settings, keys: list[dg.AssetKey]) -> None:
    """Say now what would otherwise fail after hours of training: roles that each learned all weights share no base."""
    teams = [key.to_user_string() for key in keys if key.path[0] == "evaluation" or key.path[-1] == "maporl_team"]
    if settings.training.method == "full" and teams:
        raise MedpipeError(
            got="training.method = full", expected="lora, since a team's four roles share one base", where=f"the selection of {teams[0]}",
            do="set training.method=lora, or train one role alone: medpipe run --select '*models/reporter'",
        )  # fmt: skip


def _instance() -> dg.DagsterInstance:
    home = Path.cwd()
    if not (home / "dagster.yaml").is_file():
        raise MedpipeError(
            got=f"no dagster.yaml in {home}",
            expected="the project's root",
            where="the working directory",
            do="change to the project's root",
        )
    os.environ.setdefault("DAGSTER_HOME", str(home))
    return dg.DagsterInstance.get()


def _this_process() -> str:
    return f"{os.getpid()} {_started(os.getpid())}"


def _alive(owner: str) -> bool:
    number, _, started = owner.partition(" ")
    return _started(int(number)) == started


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot, field 22 of /proc/<pid>/stat; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is read
        return ""


@contextmanager
def _without_plumbing() -> Iterator[None]:
    """Drop Dagster's own debug lines from the terminal: each step's process writes one before it knows our logger."""
    sys.stderr.flush()
    terminal = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on() -> None:
        with os.fdopen(reading, "rb") as lines, os.fdopen(os.dup(terminal), "wb", buffering=0) as out:
            for line in lines:
                if b" - dagster - DEBUG - " not in line:
                    out.write(line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        thread.join(timeout=2)  # a helper process of the run may still hold the pipe open

"""Runs the graph from the command line as Dagster itself would, and tidies up after a run that was killed.

    medpipe run --profile quickstart        # or: make run PROFILE=quickstart

The same run as `dagster asset materialize -m medpipe.definitions --select '*'`, with short lines on the terminal, a tag that
tells which process drives it, and slots freed that a killed run still holds. `WatchedRuns` and
`WatchedScheduler` (dagster.yaml) do the same for the runs of Dagster's page. Left out: the queue and the daemon.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.scheduler.scheduler import DagsterDaemonScheduler
from dagster._core.storage.tags import GRPC_INFO_TAG

from medpipe.config import Settings, load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe.launch.owner import end_with_servers, lives, named_run, nobody_listens, owner_of
from medpipe.resources import OWNER_TAG, PROFILE_VARIABLE


class WatchedRuns(dg.DefaultRunLauncher):
    """Dagster's own launcher of runs, which also tells the run monitoring whether a run's process lives.

    Without that a run whose process was killed together with its server stays "started", and keeps its slots, for ever.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process lives; one that can't be seen from here counts as alive."""
        if is_dead(run):
            return CheckRunHealthResult(WorkerStatus.FAILED, "the process that drove this run is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


class WatchedScheduler(DagsterDaemonScheduler):
    """Dagster's own scheduler, which each process of Dagster makes at its start: there it is told to end with the one above it."""

    def __init__(self, **settings: Any) -> None:
        end_with_servers()
        super().__init__(**settings)


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
    _refuse_another_place(settings, load_profile(profile))
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
                tags={OWNER_TAG: owner_of(os.getpid())}, raise_on_error=False,
            )  # fmt: skip
    for text in _failures(result):  # said when it happened too, many lines above
        print(text, file=sys.stderr)
    return result.success


def _failures(result: dg.ExecutionResult) -> Iterator[str]:
    """A line for each step that failed of itself, with its reason."""
    for event in result.all_events:
        if event.is_step_failure:
            failed = event.step_failure_data
            told = failed.user_failure_data and failed.user_failure_data.description
            told = told or (failed.error.message.strip() if failed.error else "no reason told")
            key = str(event.step_key).replace("__", "/")
            yield f"{key} failed: {told.removeprefix(f'{key}: ')}"


def free_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed and free the slots they hold; returns their ids."""
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)) if is_dead(run)]
    for run in dead:
        instance.report_run_failed(run, "the process that drove this run was killed")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


def is_dead(run: dg.DagsterRun) -> bool:
    """Whether the process that drives a run is certainly gone, on this machine."""
    owner = run.tags.get(OWNER_TAG, "")
    if named_run(owner) != run.run_id and (named_run(owner) or run.parent_run_id):
        owner = ""  # inherited from the run that this one repeats
    alive = lives(owner)
    if alive is not None:
        return not alive
    listening = json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket")  # all there is before the first step
    return bool(not owner and listening and nobody_listens(listening))


def _selected(defs: dg.Definitions, select: str) -> list[dg.AssetKey]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster warns of its own reading of "*"
            selection = dg.AssetSelection.from_coercible(select.split(","))
        found = selection.required_multi_asset_neighbors().resolve(defs.resolve_asset_graph())  # a job makes all models or none
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


def _refuse_another_place(settings: Settings, loaded: Settings) -> None:
    """The graph is drawn from the profile alone, so an exception can't move the models to SageMaker, or away from it."""
    if settings.aws.launcher != loaded.aws.launcher:
        raise MedpipeError(
            got=f"aws.launcher = {settings.aws.launcher} as an exception", expected=f"{loaded.aws.launcher}, as the profile has it",
            where="--set", do="use `medpipe aws launch`, or copy the profile, set it there and name the copy: --profile mine.yaml",
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

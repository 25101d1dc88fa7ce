"""Runs the graph from the command line as Dagster itself would, and tidies up after a run that was killed.

    medpipe run --profile quickstart        # or: make run PROFILE=quickstart

The same run as `dagster asset materialize -m medpipe.definitions --select '*'`, with short lines on the terminal, a tag that
tells which process drives it, and slots freed that a killed run still holds. `WatchedRuns` and
`WatchedScheduler` (dagster.yaml) do the same for the runs of Dagster's page. Left out: the queue and the daemon.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.scheduler.scheduler import DagsterDaemonScheduler
from dagster._core.storage.tags import GRPC_INFO_TAG
from filelock import FileLock

from medpipe.assets.console import reason_of, was_interrupted
from medpipe.config import Settings, load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe.launch.owner import end_with_servers, lives, named_run, nobody_listens, owner_of
from medpipe.resources import OWNER_TAG, PROFILE_VARIABLE
from medpipe.terminal import visible

DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
"""What every run reads and writes of Dagster's own state, below `storage.sqlite.base_dir`."""

SHORT_LINE = re.compile(rb"\d\d:\d\d:\d\d ")
"""How a line of medpipe/assets/console.py begins."""


@dataclass(frozen=True)
class Run:
    """How a run ended: `made` and `found` are the keys of assets that it made, and that it found standing for these settings."""

    success: bool
    interrupted: bool
    made: tuple[str, ...]
    found: tuple[str, ...]


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


def run_graph(profile: str, select: str, overrides: list[str]) -> Run:
    """Materialise a selection of the graph; what went wrong is written to stderr.

    Args:
        profile: a bundled profile or a YAML file.
        select: Dagster's selection syntax: "*", "models/planner+", "group:sources".
        overrides: exceptions to the profile, "training.epochs=2".

    Raises:
        MedpipeError: the selection or a setting is wrong, the settings can't lead to an asset that is selected, the outputs folder
            can't be written to, or a database of Dagster's is damaged.
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
    _home()
    require_outputs(settings.outputs)
    prepare()
    with dg.DagsterInstance.get() as instance:
        for run_id in free_dead_runs(instance):
            print(f"run {run_id[:8]} was killed before it ended: marked as failed, its slots are free again", file=sys.stderr)
        with _without_plumbing():
            result = dg.execute_job(
                dg.reconstructable(whole_graph), instance=instance, run_config=config, asset_selection=keys,
                tags={OWNER_TAG: owner_of(os.getpid())}, raise_on_error=False,
            )  # fmt: skip
    for text in _failures(result):  # said when it happened too, many lines above
        print(visible(text), file=sys.stderr)
    return _ended(result)


def prepare() -> None:
    """Make Dagster's databases where they are missing, one process at a time: two that make them at once leave tables half made.

    Raises:
        MedpipeError: the working directory is not the project's root, or a database is damaged.
    """
    home = _home()
    _require_databases(home)
    lock = home / ".dagster"
    lock.mkdir(parents=True, exist_ok=True)
    with FileLock(lock / ".start.lock"), dg.DagsterInstance.get() as instance:
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()


def _ended(result: dg.ExecutionResult) -> Run:
    made: dict[str, bool] = {}
    interrupted = False
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key is not None:
            reused = event.step_materialization_data.materialization.metadata.get("reused")
            made["/".join(event.asset_key.path)] = not (reused and reused.value)
        elif event.is_job_event:
            interrupted |= was_interrupted(event)
    fresh = tuple(key for key, anew in made.items() if anew)
    return Run(result.success, interrupted, fresh, tuple(key for key in made if key not in fresh))


def _failures(result: dg.ExecutionResult) -> Iterator[str]:
    """A line for each step that failed of itself, with its reason."""
    for event in result.all_events:
        if event.is_step_failure and not was_interrupted(event):
            error = event.step_failure_data.error
            told = reason_of(event) or (_innermost(error).message.strip() if error else "no reason told")
            key = str(event.step_key).replace("__", "/")
            yield f"{key} failed: {told.removeprefix(f'{key}: ')}"


def _innermost(error: Any) -> Any:
    """What Dagster's own error was raised from."""
    while error.cause:
        error = error.cause
    return error


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


def require_outputs(outputs: Path) -> None:
    """Make the outputs folder if it is missing, and see that files can be written there.

    Raises:
        MedpipeError: it is something else than a folder, or can't be made or written to.
    """
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outputs):
            pass
    except OSError as error:
        got = f"no access ({error.strerror})"
        if outputs.is_symlink() and not outputs.exists():
            got = f"a link to {outputs.readlink()}, where nothing is"
        elif outputs.exists() and not outputs.is_dir():
            got = "something that is not a folder"
        raise MedpipeError(
            got=got, expected="a folder that can be written to", where=f"{outputs} (paths.outputs)",
            do="correct the folder or its rights, or name another one: --set paths.outputs=…",
        ) from error  # fmt: skip


def _require_databases(home: Path) -> None:
    """See that the databases of Dagster's that are there can be read; an empty or missing one is made by Dagster itself."""
    storage = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8")).get("storage", {})
    if "sqlite" not in storage:
        return  # PostgreSQL looks after its own
    base = Path(storage["sqlite"]["base_dir"]).absolute()
    for path in filter(Path.is_file, (base / name for name in DATABASES)):
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
                found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                continue  # another run writes: so it can be read
            found = str(error)
        if found != "ok":
            raise MedpipeError(
                got=f"a database that can't be read ({' '.join(found.split())})", expected="Dagster's record of runs", where=str(path),
                do=f"move {base} away, or put a copy of it back: without it the list of runs is lost, but what was made stands in outputs",
            )  # fmt: skip


def _home() -> Path:
    """The folder with dagster.yaml, which DAGSTER_HOME then names."""
    home = Path.cwd()
    if not (home / "dagster.yaml").is_file():
        raise MedpipeError(
            got=f"no dagster.yaml in {home}",
            expected="the project's root",
            where="the working directory",
            do="change to the project's root",
        )
    return Path(os.environ.setdefault("DAGSTER_HOME", str(home)))


@contextmanager
def _without_plumbing() -> Iterator[None]:
    """Drop from the terminal what is Dagster's own.

    These are its debug lines, of which each step's process writes one before it knows our logger, and the tracebacks of its helper
    processes, which Ctrl-C reaches too.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on() -> None:
        held: list[bytes] = []  # a traceback, until it is known of what; several processes may write theirs at once

        def let_go() -> None:
            if not any(line.startswith(b"KeyboardInterrupt") for line in held):
                out.write(b"".join(held))
            held.clear()

        with os.fdopen(reading, "rb") as lines, os.fdopen(os.dup(terminal), "wb", buffering=0) as out:
            for line in lines:
                if b" - dagster - DEBUG - " in line:
                    continue
                if SHORT_LINE.match(line):
                    let_go()
                if held or line.startswith(b"Traceback (most recent call last)"):
                    held.append(line)
                else:
                    out.write(line)
            let_go()

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        thread.join(timeout=2)  # a helper process of the run may still hold the pipe open

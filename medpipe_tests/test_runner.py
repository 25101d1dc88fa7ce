"""What is left of a run that was killed, and how the next one tidies it up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import GRPC_INFO_TAG

from medpipe import runner
from medpipe.launch.owner import owner_of
from medpipe_tests.operations.processes import BIN, DEADLINE, ROOT, Halt, environment, make_workspace, swept, wait_until, working_in


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's real databases, in a folder of their own, with the project's settings."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as found:
        yield found


def test_a_killed_run_is_marked_as_failed_and_its_slot_is_free_again(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default("cpu_0")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        tag = {runner.OWNER_TAG: owner_of(owner.pid)}
        run = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED, tags=tag))
        storage.claim_concurrency_slot("cpu_0", run.run_id, "models__planner")
        assert runner.free_dead_runs(instance) == []  # its process lives
        assert storage.get_concurrency_info("cpu_0").active_slot_count == 1
        owner.kill()
    assert runner.free_dead_runs(instance) == [run.run_id]
    after = instance.get_run_by_id(run.run_id)
    assert after is not None
    assert after.status is dg.DagsterRunStatus.FAILURE
    assert storage.get_concurrency_info("cpu_0").active_slot_count == 0
    assert runner.free_dead_runs(instance) == []


def test_another_process_under_the_old_number_is_not_the_owner(instance: dg.DagsterInstance) -> None:
    number, _, *place = owner_of(os.getpid()).split()
    tag = {runner.OWNER_TAG: " ".join((number, "1", *place))}  # this process's number, another time of start
    run = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED, tags=tag))
    assert runner.free_dead_runs(instance) == [run.run_id]


def test_runs_of_dagsters_page_and_ended_runs_are_left_alone(instance: dg.DagsterInstance) -> None:
    started = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED))
    ended = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.SUCCESS, tags={runner.OWNER_TAG: "1 0"}))
    assert runner.free_dead_runs(instance) == []
    left = [instance.get_run_by_id(run.run_id) for run in (started, ended)]
    assert [run.status for run in left if run] == [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS]


def page_run(**tags: str) -> dg.DagsterRun:
    return dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED, tags=tags)


def test_the_run_monitoring_is_told_of_a_page_s_run_whose_process_or_server_is_gone(tmp_path: Path) -> None:
    from dagster._core.launcher import WorkerStatus

    watched = runner.WatchedRuns()
    assert watched.supports_check_run_worker_health
    run = page_run()
    owner, dead = owner_of(os.getpid(), run.run_id), f"{os.getpid()} 1 {' '.join(owner_of(os.getpid()).split()[2:])}"
    socket = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": str(tmp_path / "nobody")})}
    table = [
        ({}, "RUNNING"),  # before its first step
        ({runner.OWNER_TAG: owner}, "RUNNING"),
        ({runner.OWNER_TAG: f"{dead} {run.run_id}"}, "FAILED"),
        ({runner.OWNER_TAG: f"{dead} another-run"}, "RUNNING"),  # inherited from the run that it repeats
        (socket, "FAILED"),
        ({**socket, runner.OWNER_TAG: owner}, "RUNNING"),  # its own process counts, not the server's
        ({GRPC_INFO_TAG: json.dumps({"host": "localhost", "port": 1})}, "RUNNING"),  # perhaps on another machine
    ]
    for tags, expected in table:
        assert watched.check_run_worker_health(run.with_tags(tags)).status is WorkerStatus(expected), tags
    repeated = dg.DagsterRun("everything", parent_run_id="first", root_run_id="first", tags={runner.OWNER_TAG: dead})
    assert not runner.is_dead(repeated)


def test_every_process_of_dagster_makes_the_watched_scheduler(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.scheduler, runner.WatchedScheduler)
    assert isinstance(instance.run_launcher, runner.WatchedRuns)
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure


def test_looks_of_sensors_and_of_the_schedule_are_not_kept_for_ever(instance: dg.DagsterInstance) -> None:
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.scheduler.instigation import TickStatus

    for kind in (InstigatorType.SCHEDULE, InstigatorType.SENSOR, InstigatorType.AUTO_MATERIALIZE):
        days = instance.get_tick_retention_settings(kind)
        assert all(0 < days[status] <= 90 for status in TickStatus), (kind, days)
    assert instance.get_tick_retention_settings(InstigatorType.SENSOR)[TickStatus.SKIPPED] == 2  # one a minute


@pytest.mark.slow
def test_what_failed_and_why_is_the_last_that_a_person_reads(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path.resolve())
    (folder / "data" / "synthetic" / "conditions" / "dermatology.yaml").write_text("- name: eczema\n", encoding="utf-8")
    command = [BIN / "medpipe", "run", "--profile", "smoke", "--select", "sources/synthetic"]
    run = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=DEADLINE)
    assert run.returncode == 1
    told, closing = [line for line in run.stderr.splitlines() if line][-2:]
    assert told.startswith("sources/synthetic failed: got ") and "dermatology.yaml" in told and ": correct the entry" in told
    assert closing.startswith("The run failed")


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_behind_and_the_next_one_goes_on(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path.resolve())
    halt = Halt(folder)
    command = [BIN / "medpipe", "run", "--profile", "smoke", "--select", "sources/synthetic"]
    with swept(folder):
        with subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            wait_until(halt.reached, "the worker reads")
            assert len(working_in(folder)) >= 3  # command line, step and worker at least
            run.kill()
        wait_until(lambda: not working_in(folder), "every process of the killed run is gone", 10)
        assert not (folder / "outputs" / "sources" / "synthetic").exists()

        halt.lift()
        again = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=DEADLINE)
    assert again.returncode == 0, again.stderr
    assert "was killed before it ended: marked as failed, its slots are free again" in again.stderr
    assert (folder / "outputs" / "sources" / "synthetic" / "manifest.json").is_file()

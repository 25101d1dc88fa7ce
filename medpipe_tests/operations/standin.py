"""A run with the real graph's pools and GPUs, whose steps only note when they work: four roles at once, then the team on all GPUs.

    CUDA_VISIBLE_DEVICES=4,5,6,7 python -c 'from medpipe_tests.operations.standin import main; main()' journal.txt 3

In a folder with dagster.yaml; not by -m, with which each step's process would load this module again.

Pools and GPUs are those that medpipe/launch/devices.py gives the roles; each step's work is a process of its own that holds its
GPUs by the worker's lock. Runs once for each file `go-<number>` beside the journal, so that several processes start together.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import dagster as dg
from dagster._core.execution.plan import instance_concurrency_context

from medpipe.config import load_profile
from medpipe.launch.devices import Place, gpus_held, place_co_training, place_role
from medpipe.schema import ROLES
from medpipe_tests.operations.processes import wait_until

JOURNAL = "STANDIN_JOURNAL"
SETTINGS = load_profile("smoke", {"maporl.placement": "per_role"})
SECONDS = 0.1


def work(place: Place) -> None:
    """Hold the place's GPUs for a moment, and write down from when to when."""
    assert place.gpu, "the stand-in needs CUDA_VISIBLE_DEVICES"
    child = os.fork()
    if not child:
        status = 1
        try:
            with gpus_held(place.gpu.split(","), lambda text: None):
                first = time.monotonic_ns()
                time.sleep(SECONDS)  # the work
                last = time.monotonic_ns()
                lines = "".join(f"{gpu} {first} {last}\n" for gpu in place.gpu.split(","))
                handle = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, lines.encode())
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def role_step(name: str, place: Place) -> dg.OpDefinition:
    @dg.op(name=name, pool=place.pool, out=dg.Out(bool, io_manager_key="nothing"))
    def step() -> bool:
        work(place)
        return True

    return step


STEPS = [role_step(role, place_role(SETTINGS, role)) for role in ROLES]
TEAM = place_co_training(SETTINGS)


@dg.op(pool=TEAM.pool, out=dg.Out(bool, io_manager_key="nothing"))
def team(roles: list[bool]) -> bool:
    work(TEAM)
    return len(roles) == len(ROLES)


class Nothing(dg.IOManager):
    """Hands on that a step is done."""

    def handle_output(self, context: dg.OutputContext, obj: bool) -> None:
        assert obj

    def load_input(self, context: dg.InputContext) -> bool:
        return True


def training() -> dg.JobDefinition:
    """Four roles side by side, then the team."""
    executor = dg.multiprocess_executor.configured({"start_method": {"forkserver": {"preload_modules": [__name__]}}, "max_concurrent": 4})

    @dg.job(executor_def=executor, resource_defs={"nothing": dg.IOManagerDefinition.hardcoded_io_manager(Nothing())})
    def job() -> None:
        team([step() for step in STEPS])

    return job


def main() -> None:
    instance_concurrency_context.MAX_CONCURRENCY_CLAIM_BLOCKED_INTERVAL = 0.5  # a step that waits for its pool would look every 2 to 15 s
    journal, repetitions = Path(sys.argv[1]), int(sys.argv[2])
    os.environ[JOURNAL] = str(journal)
    with dg.DagsterInstance.get() as instance:
        for number in range(repetitions):
            journal.with_name(f"ready-{number}-{os.getpid()}").touch()
            wait_until(journal.with_name(f"go-{number}").is_file, f"repetition {number} begins")
            assert dg.execute_job(dg.reconstructable(training), instance=instance, raise_on_error=False).success


if __name__ == "__main__":
    main()

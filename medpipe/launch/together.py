"""Several worker processes for one order, by `accelerate launch`: data-parallel co-training (maporl.processes).

    python -m medpipe.launch.together 2                 # as Dagster's step starts it, with the order in Pipes' context
    python -m medpipe.launch.together 2 order.json      # alone
    MEDPIPE_HOSTS=a,b MEDPIPE_HOST_NUMBER=1 python -m medpipe.launch.together 4 order.json      # on the second of two machines

The first process is the worker proper (medpipe/launch/worker.py); the others assist: they do the same task with a share of
the questions, and nothing that they write is kept. All end with their parent. Over several machines the processes are shared out
evenly, and each machine needs the same order, code, data and outputs folder. Left out: starting the other machines; SageMaker does
it, whose own variables are understood too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from medpipe.errors import MedpipeError
from medpipe.kin import die_with_parent

RANK = "RANK"  # set by accelerate launch: the number of this process
PORT = "29500"  # of the first machine, where MEDPIPE_PORT names no other


def rank() -> int:
    """0 for the worker proper, and where a worker is alone."""
    return int(os.environ.get(RANK, "0"))


@dataclass(frozen=True)
class Machines:
    """The machines that train together, and which of them this is."""

    hosts: tuple[str, ...] = ()
    own: int = 0
    port: str = "0"  # a free one

    def flags(self, processes: int) -> list[str]:
        """What accelerate launch has to know of them."""
        count = max(1, len(self.hosts))
        if processes % count:
            raise MedpipeError(
                got=f"{processes} processes on {count} machines", expected="as many on each", where="maporl.processes",
                do=f"set it to a multiple of {count}",
            )  # fmt: skip
        found = ["--num_machines", str(count), "--num_processes", str(processes), "--main_process_port", self.port]
        if count == 1:
            return found
        return [*found, "--machine_rank", str(self.own), "--main_process_ip", self.hosts[0], "--same_network"]


def machines(environment: Mapping[str, str]) -> Machines:
    """MEDPIPE_HOSTS (separated by commas, the first one leads) and MEDPIPE_HOST_NUMBER, or SageMaker's own variables.

    Raises:
        MedpipeError: which of the machines this is can't be told.
    """
    hosts = tuple(part.strip() for part in environment.get("MEDPIPE_HOSTS", "").split(",") if part.strip())
    number = environment.get("MEDPIPE_HOST_NUMBER", "")
    if not hosts:
        hosts = tuple(json.loads(environment.get("SM_HOSTS", "[]")))
        current = environment.get("SM_CURRENT_HOST", "")
        number = str(hosts.index(current)) if current in hosts else ""
    if len(hosts) < 2:
        return Machines()
    if not number.isdecimal() or int(number) >= len(hosts):
        raise MedpipeError(
            got=f"number {number!r} among {len(hosts)} hosts", expected=f"0 to {len(hosts) - 1}", where="MEDPIPE_HOST_NUMBER",
            do="set it on each machine to its place in MEDPIPE_HOSTS",
        )  # fmt: skip
    return Machines(hosts, int(number), environment.get("MEDPIPE_PORT", PORT))


def main() -> None:
    """Become accelerate's launcher, which starts and watches the workers."""
    from accelerate.commands.launch import main as launch

    die_with_parent(os.getppid())
    processes, *order = sys.argv[1:]
    try:
        flags = machines(os.environ).flags(int(processes))
    except MedpipeError as error:
        sys.exit(f"medpipe: {error}")
    # --multi_gpu means several processes, on a CPU too; --cpu would start one only.
    plain = ["--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no"]
    sys.argv = ["accelerate", *plain, *flags, "-m", "medpipe.launch.worker", *order]
    launch()


if __name__ == "__main__":
    main()

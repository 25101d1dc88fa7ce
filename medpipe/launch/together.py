"""Several worker processes for one order, by `accelerate launch`: data-parallel co-training (maporl.processes).

    python -m medpipe.launch.together 2                 # as Dagster's step starts it, with the order in Pipes' context
    python -m medpipe.launch.together 2 order.json      # alone

The first process is the worker proper (medpipe/launch/worker.py); the others assist: they do the same task with a share of
the questions, and nothing that they write is kept. All end with their parent. Left out: several machines.
"""

from __future__ import annotations

import os
import sys

from medpipe.kin import die_with_parent

RANK = "RANK"  # set by accelerate launch: the number of this process


def rank() -> int:
    """0 for the worker proper, and where a worker is alone."""
    return int(os.environ.get(RANK, "0"))


def main() -> None:
    """Become accelerate's launcher, which starts and watches the workers."""
    from accelerate.commands.launch import main as launch

    die_with_parent(os.getppid())
    processes, *order = sys.argv[1:]
    # --multi_gpu means several processes, on a CPU too; --cpu would start one only.
    plain = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    sys.argv = ["accelerate", *plain, "--num_processes", processes, "-m", "medpipe.launch.worker", *order]
    launch()


if __name__ == "__main__":
    main()

"""No orphans: a process asks the kernel to kill it when its parent dies, however that happens (Linux).

The chain of processes (command line, Dagster's step, worker) ends as a whole: no killed run leaves work behind.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let this process end with its parent.

    Args:
        parent: process id of the parent as it knows itself; if it has ended already, so does this process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process ended before the work began")


def wait_or_die(process: subprocess.Popen[bytes], seconds: float = 1.0) -> int:
    """Wait for a child and return its status; when the process that drives this one is gone, end child and self.

    A step's direct parent is multiprocessing's fork server, which outlives the command line while any step runs. So the
    kernel's signal does not reach the step, and it looks for itself.
    """
    driver = multiprocessing.parent_process()
    while True:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            if driver is not None and not driver.is_alive():
                process.kill()
                os._exit(1)

"""No orphans: a process asks the kernel to kill it when its parent dies, however that happens (Linux).

The chain of processes (command line, Dagster's step, worker) ends as a whole: no killed run leaves work behind.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from functools import cache

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let this process end with its parent.

    Args:
        parent: process id of the parent as it knows itself; if it has ended already, so does this process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process ended before the work began")


@cache
def end_with_driver() -> None:
    """Let this process end when the process that drives it does; a process that nobody drives goes on.

    A step's direct parent is multiprocessing's fork server, which outlives a killed command line while any step runs, and a
    step that has done its work waits for ever to hand over its last events. So the kernel's signal is not enough here.
    """
    driver = multiprocessing.parent_process()
    if driver is None:
        return

    def watch() -> None:
        driver.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-driver", daemon=True).start()

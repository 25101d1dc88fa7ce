"""No orphans: a process asks the kernel to kill it when its parent dies, however that happens (Linux).

A chain of such processes (command line, Dagster's step, worker) ends as a whole: no killed run leaves work behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
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

"""What the work takes of the machine, sampled beside it: `system/*` under the names that MLflow itself uses.

Measured of this process and its children. Left out: a GPU's utilisation, which needs the vendor's library; its memory is PyTorch's count.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

SAMPLE_SECONDS = 10.0


class Sampler:
    """A thread that writes a line of numbers every ten seconds, the first one after ten."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write, self._stopped = write, threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write no more."""
        self._stopped.set()
        self._thread.join(timeout=SAMPLE_SECONDS)

    def _run(self) -> None:
        import psutil

        own, number = psutil.Process(), 0
        known = {own.pid: own}
        own.cpu_percent()
        while not self._stopped.wait(SAMPLE_SECONDS):
            number += 1
            for child in own.children(recursive=True):
                known.setdefault(child.pid, child)
            self._write({"kind": "system", "step": number, "values": sample(list(known.values()))})


def sample(processes: list[Any]) -> dict[str, float]:
    """Processor share (percent of one core) and resident memory (MiB) over all processes that still live; PyTorch's memory of each GPU."""
    import psutil

    share = resident = 0.0
    for process in processes:
        try:
            share += process.cpu_percent()
            resident += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    found = {"system/cpu_utilization_percentage": share, "system/system_memory_usage_megabytes": resident / 2**20}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            found[f"system/gpu_{number}_memory_usage_megabytes"] = torch.cuda.memory_reserved(number) / 2**20
    return {name: round(value, 1) for name, value in found.items()}

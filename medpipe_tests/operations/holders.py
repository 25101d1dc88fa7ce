"""Small processes that hold GPUs by the worker's own locks, killed at random moments: does one ever work while another does?

    python -m medpipe_tests.operations.holders --kills 200 --seed 0

Each holder is a forked process that wants one to four of four GPU names and, once it has them, writes down again and again that
it works. A holder's stretch of work is from its first to its last word, so a kill can't blur it. Prints one JSON line; exit status
1 where two stretches on one GPU overlap or a lock is still held at the end. Left out: torch, and a real GPU.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import struct
import sys
import time

from medpipe.launch.devices import gpus_held

GPUS: tuple[str, ...] = ("4", "5", "6", "7")
AT_ONCE = 6
LONGEST = 0.2
"""Seconds that an undisturbed holder works at most."""
RECORD = struct.Struct("qq")  # first and last moment of work, in nanoseconds; 0: it never came to work


class Holders:
    """Processes that hold GPUs, what they want, and what they wrote down in memory that all of them share."""

    def __init__(self, seed: int, most: int) -> None:
        self._draw = random.Random(seed)
        self._memory = mmap.mmap(-1, RECORD.size * most)
        self._wanted: list[list[str]] = []
        self.living: dict[int, int] = {}

    def start(self) -> None:
        """One holder more."""
        number = len(self._wanted)
        wanted, seconds = self._draw.sample(GPUS, self._draw.randint(1, len(GPUS))), self._draw.uniform(0.001, LONGEST)
        self._wanted.append(wanted)
        child = os.fork()
        if not child:
            self._hold(number, wanted, seconds)
        self.living[child] = number

    def _hold(self, number: int, wanted: list[str], seconds: float) -> None:
        status = 1
        try:
            with gpus_held(wanted, lambda text: None):
                first = time.monotonic_ns()
                while (now := time.monotonic_ns()) < first + seconds * 1e9:
                    RECORD.pack_into(self._memory, number * RECORD.size, first, now)
            status = 0
        finally:
            os._exit(status)

    def kill(self) -> bool | None:
        """Kill one at random, rather one that works than one that waits; whether it worked, or None where it had just ended."""
        victims = [child for child, number in self.living.items() if self._record(number)[0]] or list(self.living)
        victim = self._draw.choice(victims)
        os.kill(victim, signal.SIGKILL)
        number = self.living[victim]
        return self._record(number)[0] > 0 if self._reap(victim) else None

    def finish(self) -> None:
        """Wait for all that live."""
        for child in list(self.living):
            assert not self._reap(child)

    def _reap(self, child: int) -> bool:
        """Wait for one; returns whether it was killed."""
        _, status = os.waitpid(child, 0)
        del self.living[child]
        assert os.WIFSIGNALED(status) or status == 0, "a holder failed"
        return os.WIFSIGNALED(status)

    def pause(self) -> None:
        """Let some time pass before the next kill: the moment is what the seed draws."""
        time.sleep(self._draw.uniform(0, LONGEST / 10))

    def stretches(self) -> list[tuple[str, int, int]]:
        """(GPU, first, last) of all that came to work."""
        done = ((wanted, *self._record(number)) for number, wanted in enumerate(self._wanted))
        return [(gpu, first, last) for wanted, first, last in done if first for gpu in wanted]

    def _record(self, number: int) -> tuple[int, int]:
        first, last = RECORD.unpack_from(self._memory, number * RECORD.size)
        return first, last


def overlaps(stretches: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Those that began on a GPU before the one before had ended."""
    found = []
    for gpu in {gpu for gpu, _, _ in stretches}:
        end = 0
        for first, last in sorted((first, last) for name, first, last in stretches if name == gpu):
            if first < end:
                found.append((gpu, first, last))
            end = max(end, last)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    holders, killed, at_work = Holders(arguments.seed, most=1000 * AT_ONCE), 0, 0
    while killed < arguments.kills:
        while len(holders.living) < AT_ONCE:
            holders.start()
        holders.pause()
        worked = holders.kill()
        killed += worked is not None
        at_work += bool(worked)
    holders.finish()
    waited: list[str] = []
    with gpus_held(GPUS, waited.append):
        pass
    stretches = holders.stretches()
    found = overlaps(stretches)
    print(
        json.dumps({"kills": killed, "killed_at_work": at_work, "stretches": len(stretches), "overlaps": len(found), "held": len(waited)})
    )
    sys.exit(bool(found or waited))


if __name__ == "__main__":
    main()

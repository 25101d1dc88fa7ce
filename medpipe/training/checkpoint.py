"""Checkpoints that are whole or are not there: written aside, sealed with checksums, synced, then renamed into place.

    checkpoints = Checkpoints(job.scratch / "checkpoints", job.report.warn)
    checkpoints.save(12, {"weights": {...}, "optimizer": {...}}, {"state": {"losses": [...]}})
    newest = checkpoints.newest()          # the newest one whose every byte is as it was sealed

Tensors are safetensors, everything else is JSON: nothing that could run code is written or read. transformers' own
checkpoints are pickles without seal, sync or rename; a kill while one is written leaves a torn one that is then resumed from.
Left out: sharded states of several devices.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medpipe import store
from medpipe.config import digest

SEAL = "seal.json"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    folder: Path
    step: int

    def document(self, name: str) -> Any:
        """What is no tensor, as it was saved under this name."""
        return store.read_json(self.folder / f"{name}.json")

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part by name, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.folder / f"{part}.safetensors")


class Checkpoints:
    """The checkpoints of one training, in a folder of its own."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder, self._warn = folder, warn

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]) -> Path:
        """Write a checkpoint; older ones beyond the newest KEPT verified ones are deleted only after it is in place.

        Raises:
            MedpipeError: the disk is full; the checkpoints before stay.
        """
        from safetensors.torch import save_file

        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}.partial"
        for torn in self.folder.glob(".step-*"):  # what a kill left of an earlier attempt
            shutil.rmtree(torn)
        partial.mkdir(parents=True)
        for part, tensors in parts.items():
            plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            with store.atomic_path(partial / f"{part}.safetensors") as temporary:
                save_file(plain, temporary)
        for name, value in documents.items():
            store.write_json(partial / f"{name}.json", value)
        sealed = {"step": step, "files": store.hash_tree(partial)}
        store.write_json(partial / SEAL, {**sealed, "sha256": digest(sealed)})
        store.put_in_place(partial, final)
        self._forget_old()
        return final

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are named and passed over."""
        for folder in self._folders():
            fault = damage(folder)
            if not fault:
                return Checkpoint(folder, int(folder.name.removeprefix("step-")))
            self._warn(f"the checkpoint {folder} is damaged ({fault}): the one before it is looked at")
        return None

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _forget_old(self) -> None:
        whole = 0
        for folder in self._folders():
            if whole == KEPT:
                shutil.rmtree(folder)
            else:
                whole += not damage(folder)


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint; empty where it is as it was sealed."""
    try:
        seal = store.read_json(folder / SEAL)
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no text
        return f"its seal can't be read: {type(error).__name__}"
    if not isinstance(seal, dict) or seal.keys() != {"step", "files", "sha256"}:
        return "its seal is not one"
    if digest({"step": seal["step"], "files": seal["files"]}) != seal["sha256"]:
        return "its seal does not hold its own checksum"
    if folder.name != f"step-{seal['step']:08d}":
        return f"it was sealed as step {seal['step']}"
    now = store.hash_tree(folder)
    now.pop(SEAL, None)
    changed = sorted(name for name in seal["files"].keys() | now.keys() if seal["files"].get(name) != now.get(name))
    return f"changed or missing: {', '.join(changed)}" if changed else ""


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the training can write a checkpoint before it ends."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may take signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def split_optimizer(state: dict[int, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state: its tensors by "number/name", and what is no tensor."""
    tensors = {f"{number}/{name}": value for number, of in state.items() for name, value in of.items() if isinstance(value, Tensor)}
    others = {f"{number}/{name}": value for number, of in state.items() for name, value in of.items() if not isinstance(value, Tensor)}
    return tensors, others


def join_optimizer(tensors: Mapping[str, Tensor], others: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What `split_optimizer` took apart."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **others}.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    return state

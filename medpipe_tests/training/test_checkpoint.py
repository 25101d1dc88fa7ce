"""Checkpoints: what was saved comes back bit for bit, and no damage passes for a whole one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.training.checkpoint import SEAL, Checkpoints, damage

PARTS = {"weights": {"a": torch.randn(7, 3), "b": torch.arange(5)}, "optimizer": {"0/exp_avg": torch.randn(7, 3)}}
FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", SEAL)


def made(folder: Path, *steps: int) -> tuple[Checkpoints, list[str]]:
    said: list[str] = []
    checkpoints = Checkpoints(folder, said.append)
    for step in steps:
        checkpoints.save(step, PARTS, {"state": {"losses": [0.1 * step] * step}})
    return checkpoints, said


def flipped(at: float) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(at * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return harm


def shortened(by: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * by))


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def of_another_step(path: Path) -> None:
    shutil.copyfile(path.parent.parent / "step-00000001" / path.name, path)


HARMS: dict[str, Callable[[Path], None]] = {
    **{f"bit flipped at {at}": flipped(at) for at in (0.0, 0.25, 0.5, 0.75, 1.0)},
    **{f"cut to {share}": shortened(share) for share in (0.0, 0.5, 0.99)},
    "one byte more": lengthened, "zeros": zeroed, "gone": Path.unlink,
}  # fmt: skip
DAMAGES = [(file, harm) for file in FILES for harm in HARMS] + [
    ("state.json", "of another step"), (SEAL, "of another step"), ("new.json", "added"), ("", "emptied"),
]  # fmt: skip


def test_there_are_48_kinds_of_damage() -> None:
    assert len(DAMAGES) == len(set(DAMAGES)) == 48


@pytest.mark.parametrize(("file", "harm"), DAMAGES)
def test_damage_is_found_and_the_checkpoint_before_is_used(tmp_path: Path, file: str, harm: str) -> None:
    checkpoints, said = made(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002"
    if harm == "added":
        (newest / file).write_text("{}")
    elif harm == "emptied":
        shutil.rmtree(newest)
        newest.mkdir()
    elif harm == "of another step":
        of_another_step(newest / file)
    else:
        HARMS[harm](newest / file)
    assert damage(newest)
    found = checkpoints.newest()
    assert found is not None and found.step == 1 and not damage(found.folder)
    assert len(said) == 1 and str(newest) in said[0]


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoints, _ = made(tmp_path, 3)
    found = checkpoints.newest()
    assert found is not None and found.step == 3
    for part, tensors in PARTS.items():
        back = found.tensors(part)
        assert back.keys() == tensors.keys() and all(torch.equal(back[name], value) for name, value in tensors.items())
    assert found.document("state") == {"losses": [0.1 * 3] * 3}
    assert {path.suffix for path in found.folder.iterdir()} == {".safetensors", ".json"}  # nothing that could run code


def test_two_whole_checkpoints_are_kept_and_the_last_whole_one_is_never_deleted(tmp_path: Path) -> None:
    checkpoints, _ = made(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    for step in (2, 3):
        flipped(0.5)(tmp_path / f"step-{step:08d}" / "weights.safetensors")
    assert checkpoints.newest() is None
    checkpoints.save(4, PARTS, {"state": {}})
    checkpoints.save(5, PARTS, {"state": {}})
    flipped(0.5)(tmp_path / "step-00000005" / "weights.safetensors")
    checkpoints.save(6, PARTS, {"state": {}})
    assert not damage(tmp_path / "step-00000004") and not damage(tmp_path / "step-00000006")


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    checkpoints, _ = made(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.json").unlink()
    checkpoints.save(2, PARTS, {"state": {"losses": []}})
    found = checkpoints.newest()
    assert found is not None and found.step == 2


def test_a_write_that_fails_leaves_the_checkpoints_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sync and rename of a save fails once, one after the other, until a save passes without a failure."""
    checkpoints, _ = made(tmp_path, 1)
    failures = 0
    while True:
        calls = 0

        def failing(real: Callable[..., None], nth: int = failures + 1) -> Callable[..., None]:
            def call(*arguments: object) -> None:
                nonlocal calls
                calls += 1
                if calls == nth:
                    raise OSError(28, "No space left on device")
                real(*arguments)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                checkpoints.save(2, PARTS, {"state": {}})
            except MedpipeError as error:
                assert "got a full disk" in str(error)
                failures += 1
            else:
                break
        found = checkpoints.newest()
        assert found is not None and not damage(found.folder)
    assert failures > 10
    found = checkpoints.newest()
    assert found is not None and found.step == 2

"""Which device each role gets, on machines with four GPUs, with fewer, and with none."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from medpipe.config import Settings
from medpipe.launch import devices
from medpipe.launch.devices import (
    Place,
    fine_tuned_together,
    gpu_problem,
    gpus_held,
    place_co_training,
    place_light,
    place_role,
    place_team,
    visible_gpus,
)
from medpipe.launch.order import worker_environment
from medpipe.schema import LEARNERS, ROLES

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without a driver; a test sets CUDA_VISIBLE_DEVICES or gives it one."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "DRIVER", Path("/nowhere"))
    monkeypatch.setattr(devices, "WSL", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    return monkeypatch


def tool_in(folder: Path, prints: str, status: int = 0) -> Path:
    """A folder for PATH with an nvidia-smi that answers `-L` so."""
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] || exit 9\nprintf '%s' '{prints}'\nexit {status}\n", encoding="utf-8")
    tool.chmod(0o755)
    return folder


LIST = "GPU 0: NVIDIA A10G (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA A10G (UUID: GPU-2)\n"


def driver_with(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / f"0000:{number:02}:00.0").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", []), ("-1", []), ("0", ["0"]), ("2,3", ["2", "3"]), (" 0 , 1 ", ["0", "1"]), ("GPU-8a2f,MIG-11", ["GPU-8a2f", "MIG-11"])],
)
def test_the_environment_names_the_visible_gpus(gpus: pytest.MonkeyPatch, value: str, expected: list[str]) -> None:
    gpus.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected


def test_without_the_variable_the_driver_is_counted(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert visible_gpus() == []
    gpus.setattr(devices, "DRIVER", driver_with(tmp_path, 3))
    assert visible_gpus() == ["0", "1", "2"]
    gpus.setenv("CUDA_VISIBLE_DEVICES", "")  # set and empty means none, whatever the driver has
    assert visible_gpus() == []


def test_where_proc_lists_none_the_drivers_own_tool_is_asked(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on WSL2, where /proc/driver/nvidia is not there."""
    gpus.setenv("PATH", str(tool_in(tmp_path / "bin", LIST)))
    assert visible_gpus() == ["0", "1"]
    gpus.setenv("PATH", "/nowhere")
    gpus.setattr(devices, "WSL", str(tool_in(tmp_path / "wsl", LIST)))  # not on the path of every shell there
    assert visible_gpus() == ["0", "1"]


def test_a_tool_that_fails_leaves_it_to_proc_and_one_that_lists_none_is_believed(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus.setattr(devices, "DRIVER", driver_with(tmp_path / "proc", 3))
    gpus.setenv("PATH", str(tool_in(tmp_path / "failing", "NVIDIA-SMI has failed", status=9)))
    assert visible_gpus() == ["0", "1", "2"]
    gpus.setenv("PATH", str(tool_in(tmp_path / "container", "No devices found.\n")))
    assert visible_gpus() == []


def test_gpus_that_torch_is_not_built_for_are_told_with_what_to_install(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    assert gpu_problem() == "" or torch.cuda.device_count()
    gpus.setenv("PATH", str(tool_in(tmp_path / "bin", LIST)))
    if torch.version.cuda is None:
        assert "the driver lists 2 GPU(s), but torch" in gpu_problem() and "is a build for the CPU: install one for CUDA" in gpu_problem()
        assert "--index-url https://download.pytorch.org/whl/" in gpu_problem()
    elif (usable := torch.cuda.device_count()) != 2:
        assert f"{usable}" in gpu_problem()
    assert not torch.cuda.is_initialized()
    gpus.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_problem() == "", "who chose the CPU is not told to install anything"


@pytest.mark.parametrize(
    ("visible", "claimed"),
    [
        ("0,1,2,3", ["0", "1", "2", "3"]),
        ("0,1", ["0", "1", "0", "1"]),
        ("0,1,2", ["0", "1", "2", "0"]),
        ("5", ["5", "5", "5", "5"]),
        ("4,6,5,7", ["4", "6", "5", "7"]),
    ],
)
def test_a_role_gets_its_gpu_modulo_what_is_there(gpus: pytest.MonkeyPatch, settings: Settings, visible: str, claimed: list[str]) -> None:
    gpus.setenv("CUDA_VISIBLE_DEVICES", visible)
    places = [place_role(settings, role) for role in ROLES]
    assert [place.gpu for place in places] == claimed
    assert len({(place.pool, place.gpu) for place in places}) == len(set(claimed))  # one pool for one GPU
    for place in places:
        assert place.device == "cuda:0"  # as its process sees it: the only one
        assert worker_environment(place)["CUDA_VISIBLE_DEVICES"] == place.gpu


@pytest.mark.parametrize(
    ("visible", "together"),
    [
        ("", [LEARNERS]),
        ("0,1,2,3", [("planner",), ("researcher",), ("analyst",), ("reporter", "agent")]),
        ("0,1", [("planner", "analyst"), ("researcher", "reporter", "agent")]),
        ("3", [LEARNERS]),
    ],
)
def test_who_lives_on_one_device_is_fine_tuned_in_one_pass(
    gpus: pytest.MonkeyPatch, settings: Settings, visible: str, together: list[tuple[str, ...]]
) -> None:
    gpus.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = fine_tuned_together(settings)
    assert [tuple(learners) for _, learners in found] == together
    assert len({place.pool for place, _ in found}) == len(found)


def test_without_a_gpu_all_roles_share_the_cpu(gpus: pytest.MonkeyPatch, settings: Settings) -> None:
    places = [place_role(settings, role) for role in ROLES]
    assert places == [Place("cpu", None, CORES)] * 4
    assert places[0].device == "cpu"
    environment = worker_environment(places[0])
    assert environment["OMP_NUM_THREADS"] == str(CORES)
    assert "CUDA_VISIBLE_DEVICES" not in environment


def test_a_role_that_asks_for_the_cpu_gets_it_beside_gpus(gpus: pytest.MonkeyPatch, settings: Settings) -> None:
    gpus.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    devices_of = {**settings.hardware.devices, "analyst": "cpu"}
    mixed = settings.model_copy(update={"hardware": settings.hardware.model_copy(update={"devices": devices_of})})
    assert [place_role(mixed, role).device for role in ROLES] == ["cuda:0", "cuda:0", "cpu", "cuda:0"]


def test_the_team_works_where_the_planner_does_with_all_cores(gpus: pytest.MonkeyPatch, settings: Settings) -> None:
    assert place_team(settings) == Place("cpu", None, CORES)
    gpus.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert place_team(settings) == Place("gpu_0", "3", CORES)


def test_co_training_claims_a_gpu_for_each_role_or_each_process(gpus: pytest.MonkeyPatch, settings: Settings) -> None:
    def placed(**changes: Any) -> Place:
        return place_co_training(settings.model_copy(update={"maporl": settings.maporl.model_copy(update=changes)}))

    assert placed() == place_team(settings)
    assert placed(processes=2).threads == max(1, CORES // 2)
    gpus.setenv("CUDA_VISIBLE_DEVICES", "3,4,6,7")
    assert placed() == Place("gpu_0", "3", CORES)
    assert placed(placement="per_role") == Place("gpu_0", "3,4,6,7", CORES)
    assert placed(processes=2).gpu == "3,4"
    gpus.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert placed(placement="per_role").gpu == placed(processes=2).gpu == "5"


def test_work_without_a_model_waits_in_no_pool() -> None:
    assert (place_light().pool, place_light().device) == ("", "cpu")


def test_a_held_gpu_is_held_once_and_let_go_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def free(gpu: str) -> bool:
        with (tmp_path / f"medpipe-gpu-{gpu}.lock").open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with gpus_held(["6", "4", "4"], print):  # named twice: it does not wait for itself
        assert not free("4")
        assert not free("6")
    assert free("4")
    assert free("6")


def test_a_lock_file_that_was_cleared_away_meanwhile_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path, real, opened = tmp_path / "medpipe-gpu-4.lock", os.open, []

    def cleared(*arguments: Any) -> int:
        handle = real(*arguments)
        opened.append(handle)
        if len(opened) == 1:
            path.unlink()  # between opening and locking
        return handle

    monkeypatch.setattr(os, "open", cleared)
    with gpus_held(["4"], print):
        assert len(opened) == 2
        assert os.path.samestat(os.fstat(opened[-1]), path.stat())

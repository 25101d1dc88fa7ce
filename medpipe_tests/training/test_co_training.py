"""Co-training as real processes: killed and gone on with, stopped by SIGTERM, shared out over two."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medpipe import store
from medpipe.launch.devices import place_co_training
from medpipe.launch.order import Order, command_of, standing_result, write_order
from medpipe.schema import ROLES, Manifest, Ref
from medpipe_tests.tiny_team import tiny_settings

pytestmark = pytest.mark.slow  # each test starts several processes; test_maporl.py shows the same within one
CHILD = "medpipe_tests.training.co_training"
SMALL = {
    "maporl.iterations": 6, "maporl.questions_per_iteration": 2, "maporl.samples_per_question": 2, "maporl.checkpoint_seconds": 0,
    "team.max_rounds_per_episode": 1, "maporl.advantage": "gae", "maporl.choice_share": 1.0, "maporl.select_every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_adapters: dict[str, Path], tiny_splits: dict[str, Path]) -> dict[str, str]:
    return {key: str(folder) for key, folder in {"models/base": tiny_base, **tiny_adapters, **tiny_splits}.items()}


def plan(root: Path, inputs: dict[str, str], **more: Any) -> str:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "plan.json"
    path.write_text(json.dumps({"inputs": inputs, "root": str(root), "set": SMALL, **more}), encoding="utf-8")
    return str(path)


def start(order: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", CHILD, "run", order], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_after(process: subprocess.Popen[str], iteration: int, sign: signal.Signals) -> str:
    """Send a signal when an iteration is told to be done; returns what the process wrote to standard error."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == f"iteration {iteration}":
            process.send_signal(sign)
            break
    return process.communicate()[1]


def adapters(root: Path) -> dict[str, str]:
    return {role: store.sha256_file(root / "out" / role / "adapter_model.safetensors") for role in ROLES}


@pytest.fixture(scope="module")
def uninterrupted(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    process = start(plan(root, inputs))
    assert process.communicate() and process.returncode == 0
    return root


def test_six_iterations_are_three_a_kill_and_three_more_bit_for_bit(uninterrupted: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    process = start(order := plan(tmp_path, inputs))
    stop_after(process, 4, signal.SIGKILL)  # the fourth iteration's own checkpoint is about to be written
    assert process.returncode == -signal.SIGKILL
    _, said = start(order).communicate()
    stats = store.read_json(tmp_path / "out" / "training_stats.json")
    assert stats["resumed_from_iterations"] in ("3", "4"), said
    assert adapters(tmp_path) == adapters(uninterrupted)
    assert stats["moved"] == store.read_json(uninterrupted / "out" / "training_stats.json")["moved"]  # of the last, whichever were kept
    assert store.read_json(tmp_path / "out" / "examples.json") == store.read_json(uninterrupted / "out" / "examples.json")
    rows = [store.read_jsonl(root / "out" / "metrics.jsonl") for root in (tmp_path, uninterrupted)]
    for row in (row for of in rows for row in of):
        for volatile in ("time", "seconds", "tokens_per_second"):
            del row[volatile]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]


def test_sigterm_writes_a_checkpoint_first_and_says_what_to_do(inputs: dict[str, str], tmp_path: Path) -> None:
    process = start(plan(tmp_path, inputs))
    said = stop_after(process, 1, signal.SIGTERM)
    assert process.returncode == 1 and "materialise it again: a checkpoint was written" in said
    assert list((tmp_path / "scratch" / "checkpoints").glob("step-*/seal.json"))


@pytest.mark.parametrize("advantage", ["loo", "gae"])
def test_two_processes_take_the_step_of_one_with_the_whole_batch(inputs: dict[str, str], tmp_path: Path, advantage: str) -> None:
    order = plan(tmp_path, inputs, advantage=advantage)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", "0"]
    for command in ([sys.executable], [*launch, "--num_processes", "2"]):
        done = subprocess.run([*command, "-m", CHILD, "step", order], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, *both = (load_file(tmp_path / f"rank-{name}" / "weights.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2"))
    before = max(float(value.abs().max()) for value in alone.values())
    assert before > 0
    for other in both:
        assert other.keys() == alone.keys()
        assert max(float((other[name] - alone[name]).abs().max()) for name in alone) < 1e-5
    assert all(torch.equal(both[0][name], both[1][name]) for name in alone)  # the two stay one team


def finished(folder: str, root: Path, key: str) -> Ref:
    """A copy of an input as a finished folder with its manifest."""
    copy = root / "inputs" / key
    shutil.copytree(folder, root / "partial")
    (root / "partial" / store.MANIFEST).unlink(missing_ok=True)
    files = store.hash_tree(root / "partial")
    manifest = Manifest(
        task="sft", fingerprint="", sha256=store.hash_of_hashes(files), files=files, inputs={}, settings={}, config_hash="", commit="",
        created_at="2026-01-01T00:00:00+00:00", seconds=0.0, status="ok", reason="", exports={}, metadata={}, checks=(),
    )  # fmt: skip
    copy.parent.mkdir(parents=True, exist_ok=True)
    store.publish(root / "partial", copy, manifest)
    return Ref(path=str(copy), sha256=manifest.sha256)


def saved_order(inputs: dict[str, str], root: Path) -> tuple[Order, str]:
    """An order for two processes, and the file it was saved to."""
    two = {**SMALL, "maporl.processes": 2, "maporl.iterations": 2, "maporl.advantage": "loo"}
    settings = tiny_settings({**two, "paths.outputs": str(root / "outputs"), "tracking.kind": "none"})
    refs = {key: finished(folder, root, key) for key, folder in inputs.items()}
    order = write_order("models/maporl_team", "maporl", settings, refs, place_co_training(settings), "run", {})
    saved = root / "order.json"
    saved.write_text(order.model_dump_json(), encoding="utf-8")
    assert command_of(order)[-1] == "2"
    return order, str(saved)


def test_an_order_is_carried_out_by_two_workers_that_share_the_questions(inputs: dict[str, str], tmp_path: Path) -> None:
    order, saved = saved_order(inputs, tmp_path)
    done = subprocess.run([*command_of(order), saved], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    made = Path(order.out)
    assert standing_result(order) is not None and not (tmp_path / "outputs" / "scratch" / order.fingerprint[:16]).exists()
    stats = store.read_json(made / "training_stats.json")
    assert stats["episodes_per_iteration"] == 4 and min(stats["moved"].values()) > 0
    assert done.stdout.count("made ") == 1  # one worker tells, the other assists


def test_two_machines_of_a_host_list_make_what_two_processes_of_one_machine_do(inputs: dict[str, str], tmp_path: Path) -> None:
    """Both machines are this one; what they know of each other is the list and the port."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone, saved_alone = saved_order(inputs, tmp_path / "one")
    assert subprocess.run([*command_of(alone), saved_alone], capture_output=True).returncode == 0
    order, saved = saved_order(inputs, tmp_path / "two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MEDPIPE_HOSTS": "127.0.0.1,127.0.0.1", "MEDPIPE_PORT": port}
    both = [
        subprocess.Popen([*command_of(order), saved], env={**shared, "MEDPIPE_HOST_NUMBER": number}, stdout=PIPE, stderr=PIPE, text=True)
        for number in ("1", "0")
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert ["made " in out for out, _ in said] == [False, True]  # the first machine's worker tells, the second assists
    weights = [{role: store.sha256_file(Path(each.out) / role / "adapter_model.safetensors") for role in ROLES} for each in (alone, order)]
    assert weights[0] == weights[1]

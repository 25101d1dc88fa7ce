"""The whole graph, killed at random moments, run twice at once, and with its files damaged: does it end with the same content?

    python -m medpipe_tests.operations.survives --kills 20        # SIGKILL to the whole process group, then a run to the end
    python -m medpipe_tests.operations.survives --pairs 20        # two runs in one fresh workspace, the second begun a moment later
    python -m medpipe_tests.operations.survives --damage 20       # one file each of so many assets damaged, then a run
    python -m medpipe_tests.operations.survives --finished <workspace>    # reuse a finished smoke workspace as the reference
    python -m medpipe_tests.operations.survives --kills 20 --select '*models/reporter'       # a part of the graph, in less time

Each line of output is a JSON object; exit status 1 where a run ended otherwise than the uninterrupted one. A run takes minutes:
the numbers that were reached are in RESULTS.md. Every moment and file is drawn from --seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from medpipe import results, store
from medpipe.schema import Manifest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "medpipe", "run", "--profile", "smoke"]
WAYS = ("flip", "truncate", "delete")


def workspace(parent: Path) -> Path:
    """A fresh project root: settings of Dagster, and the bundled data."""
    root = Path(tempfile.mkdtemp(dir=parent))
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "data" / "synthetic", root / "data" / "synthetic")
    return root


def started(root: Path) -> subprocess.Popen[str]:
    """A run in a process group of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "MEDPIPE_MIRROR"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        COMMAND, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def to_the_end(root: Path) -> tuple[int, str]:
    """A whole run: its status, and what it said."""
    process = started(root)
    said = process.communicate()[0]
    return process.returncode, said


def shown(outputs: Path) -> dict[str, tuple[Path, Manifest]]:
    """Each asset's result as outputs/<asset> shows it."""
    found = {}
    for link in sorted(outputs.glob("*/*")):
        if link.is_symlink():
            manifest = store.read_manifest(link)
            assert manifest, f"{link} shows nothing finished"
            found[f"{link.parent.name}/{link.name}"] = (link.resolve(), manifest)
    return found


def hashes(outputs: Path) -> dict[str, str]:
    """Content hash by asset; the champion's record and the report name their run."""
    return {key: manifest.sha256 for key, (_, manifest) in shown(outputs).items() if not key.startswith("release/")}


def left_over(outputs: Path) -> list[str]:
    """What an interrupted run could have left: half-made results, checkpoints, temporary files."""
    patterns = (".*.partial", ".*.previous", ".*.tmp", ".*.link")
    found = [path for pattern in patterns for path in outputs.rglob(pattern)]
    return sorted(path.relative_to(outputs).as_posix() for path in (*found, *(outputs / "scratch").glob("*")))


def orphans(root: Path) -> list[int]:
    """Processes that still work in this workspace."""
    found = []
    for process in psutil.process_iter(["pid", "cwd"]):
        if process.info["cwd"] and Path(process.info["cwd"]) == root:
            found.append(process.info["pid"])
    return found


def kill_one(parent: Path, draw: random.Random, seconds: float, wanted: dict[str, str]) -> dict[str, Any]:
    """A run that is killed somewhere on its way, and one to the end."""
    root, moment = workspace(parent), draw.uniform(0.02, 0.98) * seconds
    process = started(root)
    end = time.monotonic() + moment
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    done_before = process.poll() is not None
    if not done_before:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    gone = psutil.wait_procs([psutil.Process(pid) for pid in orphans(root)], timeout=30)[1]
    status, said = to_the_end(root)
    row = {"killed_after_s": round(moment, 1), "ended_before": done_before, "orphans": len(gone), "status": status}
    return _judged(row, root, said, wanted)


def pair(parent: Path, draw: random.Random, seconds: float, wanted: dict[str, str]) -> dict[str, Any]:
    """Two runs at once in a fresh workspace."""
    root, later = workspace(parent), draw.uniform(0.0, 0.5) * seconds
    first = started(root)
    time.sleep(later)
    second = started(root)
    said = [process.communicate()[0] for process in (first, second)]
    status = max(first.returncode, second.returncode)
    waited = sum("waiting for it" in text for text in said)
    return _judged({"second_after_s": round(later, 1), "status": status, "waited": waited}, root, "\n".join(said), wanted)


def damage_some(finished: Path, draw: random.Random, count: int, wanted: dict[str, str]) -> dict[str, Any]:
    """One file each of some results damaged; the next run must name each, mend all and end with the same content."""
    outputs = finished / "outputs"
    whole = shown(outputs)
    spoilable = sorted(whole.keys() - {"sources/benchmarks"})  # where a benchmark is missing it is made anew in every run
    chosen = draw.sample(spoilable, min(count, len(spoilable)))
    spoilt = []
    for key in chosen:
        folder, manifest = whole[key]
        name, way = draw.choice([*sorted(manifest.files), store.MANIFEST]), draw.choice(WAYS)
        spoil(folder / name, way, draw)
        spoilt.append((key, name, way))
    status, said = to_the_end(finished)
    unnamed = [
        f"{key}: {name} ({way})" for key, name, way in spoilt
        if f"{key} is made anew" not in said and not (name == store.MANIFEST and way == "delete")  # then there is no result to speak of
    ]  # fmt: skip
    return _judged({"damaged": len(spoilt), "status": status, "unnamed": unnamed}, finished, said, wanted, keep=True)


def spoil(path: Path, way: str, draw: random.Random) -> None:
    """Flip one bit, cut the file in half, or delete it."""
    content = bytearray(path.read_bytes())
    if way == "delete" or not content:
        path.unlink()
    elif way == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[draw.randrange(len(content))] ^= 1
        path.write_bytes(content)


def every_file_is_watched(finished: Path, draw: random.Random) -> dict[str, Any]:
    """Each file of each result, damaged by itself and put back: is it noticed where the result is next looked at?"""
    silent, looked = [], 0
    for key, (folder, manifest) in shown(finished / "outputs").items():
        for name in [*sorted(manifest.files), store.MANIFEST]:
            whole = (folder / name).read_bytes()
            for way in WAYS:
                spoil(folder / name, way, draw)
                looked += 1
                if not _noticed(folder):
                    silent.append(f"{key}: {name} ({way})")
                (folder / name).write_bytes(whole)
    return {"files_damaged": looked, "silent": silent, "ok": not silent}


def _noticed(folder: Path) -> bool:
    try:
        manifest = store.read_manifest(folder)
    except store.DamagedManifest:
        return True
    return manifest is None or bool(results.damage(folder, manifest))


def _judged(row: dict[str, Any], root: Path, said: str, wanted: dict[str, str], keep: bool = False) -> dict[str, Any]:
    now = hashes(root / "outputs")
    row["differs"] = sorted(key for key in wanted.keys() | now.keys() if wanted.get(key) != now.get(key))
    row["left"] = left_over(root / "outputs")
    row["ok"] = not (row["status"] or row["differs"] or row["left"] or row.get("unnamed") or row.get("orphans"))
    if not row["ok"]:
        row["workspace"], row["said"] = str(root), said[-2000:]
    elif not keep:
        shutil.rmtree(root)
    return row


def main() -> None:
    """Do what was asked for; print a line for each attempt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kills", "pairs", "damage"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--files", action="store_true", help="every single file of the finished workspace in turn, without a run")
    parser.add_argument("--select", help="a part of the graph instead of the whole, in Dagster's syntax")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finished", type=Path, help="a workspace in which `medpipe run --profile smoke` has ended")
    asked = parser.parse_args()
    COMMAND.extend(["--select", asked.select] if asked.select else [])
    draw, parent = random.Random(asked.seed), Path(tempfile.mkdtemp())
    began = time.monotonic()
    finished = asked.finished or workspace(parent)
    if not asked.finished:
        status, said = to_the_end(finished)
        assert status == 0, said
    seconds = time.monotonic() - began if not asked.finished else float(os.environ.get("REFERENCE_SECONDS", "600"))
    wanted = hashes(finished / "outputs")
    print(json.dumps({"reference": len(wanted), "seconds": round(seconds)}), flush=True)
    rows = []
    for attempt in (
        *([lambda: every_file_is_watched(finished, draw)] if asked.files else []),
        *([lambda: damage_some(finished, draw, asked.damage, wanted)] if asked.damage else []),
        *([lambda: kill_one(parent, draw, seconds, wanted)] * asked.kills),
        *([lambda: pair(parent, draw, seconds, wanted)] * asked.pairs),
    ):
        rows.append(attempt())
        print(json.dumps(rows[-1]), flush=True)
    sys.exit(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    main()

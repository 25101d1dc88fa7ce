"""Stands in for SageMaker around a training container: lays out /opt/ml below a folder, starts the request's entry point there as a
process, keeps the checkpoints the same as their prefix of S3, and packs what is left.

    ended = run_request(client.describe_or_recorded_request, s3, base)        # a whole CreateTrainingJob request
    container = start_container(base, channels, environment)                  # or the parts: folders as channels

No SM_* variable is set: SageMaker sets none for an entry point of one's own. Left out: the machine, the image, the role.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.aws.request import ENTRYPOINT
from medpipe.config import Settings
from medpipe.schema import Ref
from medpipe_tests.operations.processes import DEADLINE, NOWHERE, PROXIES, ROOT

OPT_ML = "/opt/ml"
COMMIT = "0123456789ab"
KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
WHERE = {
    "splits/train": "train",
    "splits/cotrain": "train",
    "rewards/audit": "train",
    "splits/validation": "eval",
    "sources/benchmarks": "eval",
    "corpus/clean": "eval",
}
"""Input → its channel, as medpipe/aws/channels.py sends it."""


@dataclass
class Container:
    """A container that runs, or ran."""

    base: Path
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        """All of stdout and stderr so far."""
        return (self.base / "cloudwatch.log").read_text(errors="replace")

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(DEADLINE * 2)

    def kill(self) -> None:
        """SIGKILL to the entry point, as when the machine is gone; what hangs on it ends by itself."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Ended:
    """How a job ended: its status, what SageMaker gives as its reason, and the numbers that it read from the output."""

    status: str
    reason: str
    metrics: dict[str, list[float]]
    container: Container


def start_container(
    base: Path, channels: Mapping[str, Path], more: Mapping[str, str] | None = None, hyperparameters: Mapping[str, Any] | None = None,
    hosts: Sequence[str] = ("algo-1",), current: str = "", entrypoint: Sequence[str] = ENTRYPOINT,
) -> Container:  # fmt: skip
    """Lay out the folders that SageMaker makes and start the entry point. A base that was used before is what a restart finds.

    Args:
        channels: name → folder, which is copied; one that lies there already stays.
        more: the request's environment.
        hosts: of the job; `current` is this one, the first where it is empty.
    """
    for name, folder in channels.items():
        if not (target := base / "input" / "data" / name).exists():
            shutil.copytree(folder, target)
    for name in ("model", "output/data", "checkpoints", "input/config"):
        (base / name).mkdir(parents=True, exist_ok=True)
    config = base / "input" / "config"
    store.write_json(config / "hyperparameters.json", dict(hyperparameters or {}))
    store.write_json(
        config / "resourceconfig.json",
        {
            "current_host": current or hosts[0],
            "hosts": list(hosts),
            "network_interface_name": "lo",
            "current_instance_type": "ml.g5.12xlarge",
        },
    )
    own = {name: os.environ[name] for name in KEPT if name in os.environ} | dict.fromkeys(PROXIES, NOWHERE)
    own |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}  # in a job: the role's
    own |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "", "SAGEMAKER_BASE_DIR": str(base)}
    command = [sys.executable if word == "python3" else word.replace(OPT_ML, str(base)) for word in entrypoint]
    with (base / "cloudwatch.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=base, env={**own, **(more or {})}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return Container(base, process)


def run_container(base: Path, channels: Mapping[str, Path], more: Mapping[str, str] | None = None, **rest: Any) -> tuple[int, Container]:
    """The same, to its end."""
    container = start_container(base, channels, more, **rest)
    return container.wait(), container


def run_request(request: Mapping[str, Any], client: Any, base: Path) -> Ended:
    """Do what SageMaker does with a CreateTrainingJob request: channels and checkpoints from S3, the container, results to S3."""
    for channel in request["InputDataConfig"]:
        fetch(client, channel["DataSource"]["S3DataSource"]["S3Uri"], base / "input" / "data" / channel["ChannelName"])
    kept = request.get("CheckpointConfig", {}).get("S3Uri", "")
    if kept:
        fetch(client, kept, base / "checkpoints")
    more = {"TRAINING_JOB_NAME": request["TrainingJobName"], **request.get("Environment", {})}
    entrypoint = request["AlgorithmSpecification"]["ContainerEntrypoint"]
    status, container = run_container(base, {}, more, hyperparameters=request.get("HyperParameters", {}), entrypoint=entrypoint)
    if kept:
        send(client, base / "checkpoints", kept)
    bucket, _, prefix = request["OutputDataConfig"]["S3OutputPath"].removeprefix("s3://").partition("/")
    place = f"{prefix.rstrip('/')}/{request['TrainingJobName']}/output"
    for folder, name in (("model", "model.tar.gz"), ("output/data", "output.tar.gz")):
        with tempfile.TemporaryDirectory() as temporary:
            with tarfile.open(Path(temporary) / name, "w:gz", compresslevel=1) as archive:
                for path in sorted((base / folder).iterdir()):
                    archive.add(path, path.name)
            client.upload_file(str(Path(temporary) / name), bucket, f"{place}/{name}")
    failure = base / "output" / "failure"
    reason = f"AlgorithmError: {failure.read_text() if failure.is_file() else ''}, exit code: {status}" if status else ""
    return Ended("Failed" if status else "Completed", reason, metrics_of(request, container.said), container)


def metrics_of(request: Mapping[str, Any], said: str) -> dict[str, list[float]]:
    """Every number that the request's metric definitions find in the output, in order."""
    definitions = request["AlgorithmSpecification"].get("MetricDefinitions", [])
    found = {one["Name"]: [float(match) for match in re.findall(one["Regex"], said)] for one in definitions}
    return {name: values for name, values in found.items() if values}


def fetch(client: Any, uri: str, folder: Path) -> None:
    """All objects below an address."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    folder.mkdir(parents=True, exist_ok=True)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", []):
            path = folder / each["Key"].removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, each["Key"], str(path))


def send(client: Any, folder: Path, uri: str) -> None:
    """All files of a folder; nothing is removed there, as SageMaker does not."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix.rstrip('/')}/{path.relative_to(folder).as_posix()}")


def inputs_of(outputs: Path, keys: Sequence[str] = tuple(WHERE)) -> dict[str, Ref]:
    """References to finished folders."""
    manifests = {key: store.read_manifest(outputs / key) for key in keys}
    return {key: Ref(path=str(outputs / key), sha256=manifest.sha256) for key, manifest in manifests.items() if manifest}


def lay_channels(folder: Path, outputs: Path, settings: Settings, select: str, **more: Any) -> dict[str, Path]:
    """The four channels of a launch, as folders."""
    channels = {name: folder / name for name in ("code", "train", "eval", "launch")}
    for key, channel in WHERE.items():
        shutil.copytree(outputs / key, channels[channel] / key)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "medpipe", channels["code"] / "medpipe", ignore=ignored)
    (channels["code"] / "scripts").mkdir()
    for name in ("scripts/sagemaker_entry.py", "dagster.yaml", "pyproject.toml", "README.md"):
        shutil.copyfile(ROOT / name, channels["code"] / name)
    refs = inputs_of(outputs)
    launch = {
        "digest": "ab" * 32, "settings": settings.model_dump(mode="json"), "select": select, "commit": COMMIT, "profile": settings.name,
        "inputs": {key: {"channel": WHERE[key], "sha256": ref.sha256} for key, ref in refs.items()}, **more,
    }  # fmt: skip
    store.write_text(channels["launch"] / "launch.json", json.dumps(launch))
    return channels

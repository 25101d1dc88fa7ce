"""SageMaker's contract with a training container: its folders and facts, what the launch asks for, and what is left at the end.

    layout = Layout.of(os.environ)
    given = read_launch(layout)                          # launch.json and hyperparameters.json, every input checked
    listed = leave_models(outputs, layout, given)        # final_model/, its list last

SM_* variables count where they are set, else /opt/ml (or SAGEMAKER_BASE_DIR) as SageMaker documents it. Left out: the work itself
(medpipe/aws/entry.py).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medpipe import store
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.evaluation.benchmarks import ASKED
from medpipe.launch.devices import visible_gpus
from medpipe.schema import Frozen, Manifest

CHANNELS = ("code", "train", "eval", "launch")
TUNED = {
    "lr": "training.learning_rate",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "safety_penalty_weight": "rewards.safety_penalty_weight",
}
"""Hyperparameters and the settings that they stand for."""
NOT_OURS = ("sagemaker_", "_tuning")
"""Beginnings of hyperparameters that SageMaker adds by itself."""
FINAL = "final_model"
PRIVATE = {"KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIALS"}
"""Words in the names of variables whose values nobody is to read."""
ADDRESS = "MLFLOW_TRACKING_URI"
SHORTEST = 8  # characters of such a value: TOKEN=true is no secret, and would hide every "true"


@dataclass(frozen=True)
class Layout:
    """Where things lie in the container, and what it is told of itself."""

    channels: Mapping[str, Path]
    model: Path  # becomes model.tar.gz
    output: Path  # becomes output.tar.gz
    failure: Path
    checkpoints: Path  # SageMaker keeps it the same as a prefix of S3
    work: Path
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    current: str = ""
    interface: str = ""  # of the network between the hosts
    gpus: int = 0
    instance: str = ""
    job: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Layout:
        """The layout that the environment and the files of SageMaker's configuration tell of."""
        base = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
        resources = _config(base, "resourceconfig.json")
        hosts = json.loads(environment.get("SM_HOSTS", "[]")) or resources.get("hosts", [])
        # /tmp is on the volume that SageMaker gives a job, the rest of the container's own disk need not be.
        work = base / "work" if "SAGEMAKER_BASE_DIR" in environment else Path(tempfile.gettempdir()) / "medpipe"
        return cls(
            channels={name: Path(environment.get(f"SM_CHANNEL_{name.upper()}") or base / "input" / "data" / name) for name in CHANNELS},
            model=Path(environment.get("SM_MODEL_DIR") or base / "model"),
            output=Path(environment.get("SM_OUTPUT_DATA_DIR") or base / "output" / "data"),
            failure=base / "output" / "failure", checkpoints=base / "checkpoints", work=work,
            hyperparameters=_config(base, "hyperparameters.json"), hosts=tuple(hosts),
            current=environment.get("SM_CURRENT_HOST") or resources.get("current_host", ""),
            interface=resources.get("network_interface_name", ""),
            gpus=int(environment.get("SM_NUM_GPUS") or len(visible_gpus())),
            instance=environment.get("SM_CURRENT_INSTANCE_TYPE") or resources.get("current_instance_type", ""),
            job=environment.get("TRAINING_JOB_NAME", ""),
        )  # fmt: skip

    def channel(self, name: str) -> Path:
        """The folder of a channel.

        Raises:
            MedpipeError: it is not there.
        """
        path = self.channels.get(name)
        if path is None or not path.is_dir():
            raise MedpipeError(
                got=f"no channel {name!r}", expected=f"the channels {', '.join(CHANNELS)} of the training job",
                where=str(path or "launch.json"), do="start the job with `medpipe aws launch`, which names all of them",
            )  # fmt: skip
        return path

    @property
    def leads(self) -> bool:
        """Whether this is the first host, or the only one."""
        return len(self.hosts) < 2 or self.current == self.hosts[0]

    def as_text(self) -> str:
        """For SAGEMAKER_TRAINING_DEBUG: folders, hosts, hyperparameters."""
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__}, default=str, indent=1)


class Input(Frozen):
    """One input of a launch: the channel that it lies in, and its content hash."""

    channel: str
    sha256: str


class Given(BaseModel):
    """launch.json. Keys of a later version are passed over: code and launch come from one upload."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: str
    profile: str
    settings: Settings
    inputs: dict[str, Input]
    select: str
    commit: str = "unknown"
    share: str = ""  # where several hosts meet, s3://…

    def folder(self, key: str, layout: Layout) -> Path:
        """Where an input lies."""
        return layout.channel(self.inputs[key].channel) / key


def read_launch(layout: Layout) -> Given:
    """launch.json with the hyperparameters put in and the paths of this container.

    Raises:
        MedpipeError: a channel is missing, launch.json is no launch, an input is damaged, or a hyperparameter is unknown or wrong.
    """
    path = layout.channel("launch") / "launch.json"
    try:
        given = Given.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise MedpipeError(
            got=f"no readable launch ({_first_line(error)})", expected="the launch.json of this code", where=str(path),
            do="upload and launch again (medpipe aws launch)",
        ) from error  # fmt: skip
    for key in given.inputs:
        _refuse_other_content(key, given, layout)
    return given.model_copy(update={"settings": _here(given.settings, layout)})


def leave_models(outputs: Path, layout: Layout, given: Given) -> dict[str, str]:
    """Copy every whole model into the folder that becomes model.tar.gz, the code that made it, and last of all the list.

    Returns:
        Content hash by asset key.
    """
    final, listed = layout.model / FINAL, dict[str, str]()
    shutil.rmtree(final, ignore_errors=True)
    for folder in sorted((outputs / "models").glob("[!.]*")):
        manifest, key = store.read_manifest(folder), f"models/{folder.name}"
        if manifest and manifest.status == "ok" and not store.damaged_files(folder, manifest):
            shutil.copytree(folder, final / key)
            listed[key] = manifest.sha256
    shutil.rmtree(layout.model / "code", ignore_errors=True)
    shutil.copytree(layout.channel("code"), layout.model / "code", ignore=shutil.ignore_patterns("__pycache__"))
    listing = {"digest": given.digest, "commit": given.commit, "profile": given.profile, "assets": listed}
    final.mkdir(parents=True, exist_ok=True)
    store.write_json(final / store.MANIFEST, listing)
    return listed


def leave_evaluations(outputs: Path, layout: Layout) -> None:
    """Copy every finished evaluation, and what Weights & Biases keeps offline, into the folder that becomes output.tar.gz."""
    for folder in sorted((outputs / "evaluation").glob("[!.]*")):
        if store.read_manifest(folder):
            shutil.copytree(folder, layout.output / "evaluation" / folder.name, dirs_exist_ok=True)
    if (outputs / "wandb").is_dir():
        shutil.copytree(outputs / "wandb", layout.output / "wandb", dirs_exist_ok=True, ignore_dangling_symlinks=True)


def failed_checks(outputs: Path, keys: Iterable[str]) -> list[dict[str, str]]:
    """Checks of finished assets that failed and block what is downstream."""
    manifests = {key: store.read_manifest(outputs / key) for key in keys}
    return [
        {"asset": key, "check": check.name, "description": check.description}
        for key, manifest in manifests.items()
        for check in (manifest.checks if manifest else ())
        if not check.passed and check.severity == "error"
    ]


def in_two(select: str) -> tuple[str, str]:
    """A selection in two: the models, and what judges them."""
    keys = select.split(",")
    return ",".join(key for key in keys if key.startswith("models/")), ",".join(key for key in keys if not key.startswith("models/"))


def evaluations(select: str) -> list[str]:
    """The evaluations that a selection names, by themselves or as their group."""
    group = [f"evaluation/{name}" for name in (*ASKED, "leaderboard")] if "group:evaluation" in select.split(",") else []
    return group + [key for key in select.split(",") if key.startswith("evaluation/")]


def finished(outputs: Path) -> dict[str, Manifest]:
    """The manifest of every finished folder of an outputs folder, by asset key."""
    found = dict[str, Manifest]()
    for path in outputs.glob("*/[!.]*/manifest.json"):
        with contextlib.suppress(FileNotFoundError):  # a newer result takes its place at this moment
            if manifest := store.read_manifest(path.parent):
                found[path.parent.relative_to(outputs).as_posix()] = manifest
    return found


def _here(settings: Settings, layout: Layout) -> Settings:
    """The settings of the launch in this container. Finished assets and checkpoints lie below the folder that outlives an interruption."""
    resolved = settings.model_dump(mode="json")
    resolved["paths"] = {"data": str(layout.work / "data"), "outputs": str(layout.checkpoints / "outputs")}
    resolved["aws"] |= {"launcher": "local", "store": ""}
    for name, value in layout.hyperparameters.items():
        if name.startswith(NOT_OURS):
            continue
        if name not in TUNED:
            raise MedpipeError(
                got=f"the hyperparameter {name!r}", expected=f"some of {', '.join(TUNED)}", where="hyperparameters.json",
                do="leave it out, or change the setting in the profile",
            )  # fmt: skip
        section, _, key = TUNED[name].partition(".")
        resolved[section][key] = str(value).strip().strip('"')  # SageMaker's Python SDK quotes what it sends
    try:
        return Settings.model_validate(resolved)
    except ValidationError as error:
        first = error.errors()[0]
        named = ".".join(map(str, first["loc"]))
        own = next((name for name, setting in TUNED.items() if setting == named), named)
        raise MedpipeError(
            got=f"{own} = {first['input']!r}", expected=first["msg"], where="hyperparameters.json", do="correct this hyperparameter"
        ) from error


def _refuse_other_content(key: str, given: Given, layout: Layout) -> None:
    folder = given.folder(key, layout)
    manifest = store.read_manifest(folder)
    damaged = store.damaged_files(folder, manifest) if manifest else [store.MANIFEST]
    if manifest is None or damaged or manifest.sha256 != given.inputs[key].sha256:
        told = f"content {manifest.sha256[:12]} of {key}" if manifest and not damaged else f"{key} with damaged {', '.join(damaged[:5])}"
        raise MedpipeError(
            got=told, expected=f"content {given.inputs[key].sha256[:12]}", where=str(folder),
            do="upload again (medpipe aws upload sends what differs) and launch again",
        )  # fmt: skip


def _config(base: Path, name: str) -> dict[str, Any]:
    path = base / "input" / "config" / name
    return store.read_json(path) if path.is_file() else {}


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]


def without_pipes(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without Dagster Pipes' own variables: the run below has steps and channels of its own."""
    return {name: value for name, value in environment.items() if not name.startswith("DAGSTER_PIPES_")}


def names_only(environment: Mapping[str, str]) -> str:
    """Names of variables; values may be secrets."""
    return " ".join(sorted(environment))


def private_values(environment: Mapping[str, str]) -> list[str]:
    """Values of variables that are never to be said: those named like a secret, addresses with a password, the tracking server's."""
    found = list[str]()
    for name, value in environment.items():
        password = value.partition("://")[2].partition("/")[0].rpartition("@")[0]
        if password or name == ADDRESS or PRIVATE & set(name.upper().split("_")):
            found += [value, value.rstrip("/"), password]
    return [value for value in found if len(value) >= SHORTEST]

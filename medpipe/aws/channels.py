"""What a training job is given: the code, the data and the launch itself, each under the hash of what it is.

    parcel = pack(settings, inputs, account, root)      # reads and hashes, sends nothing
    send(parcel, account, print)                        # to S3; what is there already stays

A launch's digest is the hash of the settings, the inputs' content, the code and the image. Data and code lie under hashes of their
own, so nothing that a job reads changes below it. Left out: the job (medpipe/aws/jobs.py), and what it makes of this (entry.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.aws.account import Account
from medpipe.aws.errors import explained
from medpipe.aws.request import Launch, account_of
from medpipe.aws.setup import location
from medpipe.aws.sync import Sent, folder_files, upload
from medpipe.config import Settings, digest
from medpipe.errors import MedpipeError
from medpipe.launch.order import commit
from medpipe.schema import AGENT, LEARNERS, ROLES, Ref
from medpipe.tasks import PACKAGE

TEAM, LONE = "models/maporl_team", "models/agent_rl"
TRAIN = ("splits/train", "splits/cotrain", "rewards/audit")
EVAL = ("splits/validation",)
EVALUATED = ("sources/benchmarks", "corpus/clean")
"""Only where the job evaluates too. No training task is handed any of these."""
LEFT_OUT = ("description", "paths", "hardware", "tracking", "tuning", "release")
"""Sections that change nothing of what a job makes."""
OF_THE_JOB = ("image", "instance_type", "instance_count", "evaluate", "secrets")
"""Of the section `aws`, what does."""
CODE = (
    "medpipe/**/*.py",
    "medpipe/**/*.yaml",
    "medpipe/**/*.jinja",
    "medpipe/py.typed",
    "scripts/sagemaker_entry.py",
    "pyproject.toml",
    "README.md",
)
SHORT = 12  # characters of a hash in a key or a name


def trained_keys(settings: Settings) -> tuple[str, ...]:
    """The assets that a job makes, in order."""
    return ("models/base", *(f"models/{learner}" for learner in LEARNERS), *_judge(settings), TEAM, LONE)


def inputs_of(key: str, settings: Settings) -> tuple[str, ...]:
    """What each of them is made from, as medpipe/assets/models.py hands it over."""
    roles, data = tuple(f"models/{role}" for role in ROLES), ("splits/train", "splits/validation")
    if key == "models/base":
        return ()
    if key == "models/verifier":
        return (*data, "models/base", *roles)
    if key in (TEAM, LONE):
        speakers = roles if key == TEAM else (f"models/{AGENT}", TEAM)
        return (*TRAIN, "models/base", *speakers, *_judge(settings))
    return (*data, "models/base")


def _judge(settings: Settings) -> tuple[str, ...]:
    return ("models/verifier",) if settings.maporl.verifier == "learned" else ()


@dataclass(frozen=True)
class Parcel:
    """Everything that goes up, and the launch that it belongs to.

    `files` has three folders' worth of files by their key below the bucket's prefix: code, data, launch.
    """

    launch: Launch
    files: Mapping[str, Mapping[str, Path]]
    document: Mapping[str, Any]  # launch.json

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for files in self.files.values() for path in files.values())


def pack(settings: Settings, inputs: Mapping[str, Ref], account: Account, root: Path) -> Parcel:
    """Read and hash what a job needs.

    Args:
        settings: the resolved profile.
        inputs: finished folders by asset key: TRAIN, EVAL, and EVALUATED where the job evaluates.
        account: whose bucket.
        root: the project's root, where dagster.yaml is.

    Raises:
        MedpipeError: an input is not there, or has another content than its reference says.
    """
    wanted = {"train": TRAIN, "eval": (*EVAL, *(EVALUATED if settings.aws.evaluate else ()))}
    code = _code(root)
    code_sha = store.hash_of_hashes({name: store.sha256_file(path) for name, path in code.items()})
    shas = {key: _checked(key, inputs) for keys in wanted.values() for key in keys}
    data_sha = digest(shas)
    identity = settings.model_dump(mode="json", exclude=set(LEFT_OUT))
    identity["aws"] = {name: identity["aws"][name] for name in OF_THE_JOB} | {"image": account.image}
    whole = digest({"settings": identity, "inputs": shas, "code": code_sha})
    places = {
        "code": f"code/{code_sha[:SHORT]}", "train": f"data/{data_sha[:SHORT]}/train", "eval": f"data/{data_sha[:SHORT]}/eval",
        "launch": f"launches/{whole[:SHORT]}/channel",
    }  # fmt: skip
    document = {
        "digest": whole, "profile": settings.name, "settings": settings.model_dump(mode="json"), "commit": commit(),
        "inputs": {key: {"channel": channel, "sha256": shas[key]} for channel, keys in wanted.items() for key in keys},
        "select": _selection(settings), "share": account.uri("launches", whole[:SHORT], "share"),
    }  # fmt: skip
    uris = {f"{channel}_uri": account.uri(place) + "/" for channel, place in places.items()}
    files: dict[str, dict[str, Path]] = {places["code"]: code}
    for channel, keys in wanted.items():
        files[places[channel]] = {name: path for key in keys for name, path in folder_files(Path(inputs[key].path), key).items()}
    return Parcel(
        Launch(whole, settings.name, **uris, environment={}, hyperparameters={}, account=account_of(account.role)),
        files,
        {"place": places["launch"], **document},
    )


def send(parcel: Parcel, account: Account, say: Callable[[str], None], kms_key: str = "") -> Sent:
    """Send code, data and launch.json to S3; what lies there with the same content stays.

    Raises:
        MedpipeError: S3 refuses (medpipe/aws/errors.py).
    """
    client = account.client("s3")
    _refuse_other_region(client, account)
    total = Sent(0, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "launch.json"
        store.write_text(document, json.dumps({k: v for k, v in parcel.document.items() if k != "place"}, indent=1, sort_keys=True))
        for place, files in {**parcel.files, str(parcel.document["place"]): {"launch.json": document}}.items():
            sent = upload(client, files, account.bucket, account.key(place), say, kms_key)
            say(f"{account.uri(place)}: {sent.files} files sent ({sent.bytes / 2**20:.1f} MiB), {sent.kept} were there")
            total = Sent(total.files + sent.files, total.bytes + sent.bytes, total.kept + sent.kept)
    return total


def _refuse_other_region(client: Any, account: Account) -> None:
    """S3 answers from everywhere, so an upload would succeed, and the job, which reads its own region only, would fail later."""
    with explained(f"looking for the bucket {account.bucket}"):
        there = location(client, account.bucket)
    if there != account.region:
        raise MedpipeError(
            got=f"the bucket {account.bucket} in {there}", expected=f"one in {account.region}, where the job runs", where="aws.bucket",
            do=f"export AWS_REGION={there}, or make a bucket here: medpipe aws setup --bucket …",
        )  # fmt: skip


def _selection(settings: Settings) -> str:
    """What the job makes, in the words of `medpipe run --select`."""
    return ",".join((*trained_keys(settings), *(("group:evaluation",) if settings.aws.evaluate else ())))


def _code(root: Path) -> dict[str, Path]:
    """The package as it is now, and what lets it run alone."""
    home = PACKAGE.parent
    found = {path.relative_to(home).as_posix(): path for pattern in CODE for path in sorted(home.glob(pattern))}
    if "scripts/sagemaker_entry.py" not in found:
        raise MedpipeError(
            got=f"no scripts/sagemaker_entry.py beside {PACKAGE}", expected="a checkout of medpipe", where="the code for the job",
            do="work from a clone, installed with `make setup` or `pip install -e .`",
        )  # fmt: skip
    return {**found, "dagster.yaml": root / "dagster.yaml"}


def _checked(key: str, inputs: Mapping[str, Ref]) -> str:
    """The content hash of an input, if it is whole."""
    ref = inputs.get(key)
    manifest = store.read_manifest(Path(ref.path)) if ref else None
    if ref is None or manifest is None:
        raise MedpipeError(
            got=f"no finished {key}", expected="the data that the job trains on", where=ref.path if ref else "outputs",
            do=f"make it first: medpipe run --select '*{key}'",
        )  # fmt: skip
    damaged = store.damaged_files(Path(ref.path), manifest)
    if manifest.sha256 != ref.sha256 or damaged:
        raise MedpipeError(
            got=f"{key} with other content than it was finished with ({', '.join(damaged) or 'another version'})",
            expected=f"content {ref.sha256[:SHORT]}", where=ref.path, do=f"make it again: medpipe run --select '*{key}'",
        )  # fmt: skip
    return ref.sha256

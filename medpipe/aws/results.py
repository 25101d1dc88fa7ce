"""What a finished job made, brought back into the outputs folder as if it had been made there.

    standing(settings, inputs)                            # the models, if they are here already: then no job is needed
    bring_back(description, settings, launch, account, say)    # model.tar.gz and output.tar.gz of a completed job

A model counts as made for these settings by its fingerprint, the same for a model made here and one made in a job. What comes back is
checked by its manifests before it takes its place. Left out: endpoints; the layout of model.tar.gz is ready for one (docs/aws.md).
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medpipe import results, store
from medpipe.aws.account import Account
from medpipe.aws.channels import LONE, SHORT, TEAM, inputs_of, trained_keys
from medpipe.aws.errors import explained
from medpipe.aws.request import Launch
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.launch.devices import place_light
from medpipe.launch.order import Order, standing_result, to_ref, write_order
from medpipe.schema import Manifest, Ref

ARCHIVES = ("model.tar.gz", "output.tar.gz")
FINAL = "final_model"
"""Folder in model.tar.gz that holds the models, each a finished folder with its manifest."""


def orders(settings: Settings, inputs: Mapping[str, Ref]) -> dict[str, Order]:
    """The order of each model on this machine, up to the first whose inputs do not stand; the same that the graph would write."""
    known, found = dict(inputs), dict[str, Order]()
    for key in trained_keys(settings):
        needed = inputs_of(key, settings)
        if any(name not in known for name in needed):
            break
        found[key] = write_order(key, task_of(key), settings, {name: known[name] for name in needed}, place_light(), "", {})
        manifest = standing_result(found[key])
        if manifest is None:
            break
        known[key] = to_ref(found[key], manifest)
    return found


def task_of(key: str) -> str:
    """The kind of work that makes a model."""
    return {"models/base": "base", "models/verifier": "verifier", TEAM: "maporl", LONE: "maporl"}.get(key, "sft")


def standing(settings: Settings, inputs: Mapping[str, Ref]) -> dict[str, Manifest] | None:
    """The manifests of all models, if they stand for exactly these inputs, settings and code; else None."""
    found = orders(settings, inputs)
    manifests = {key: standing_result(order) for key, order in found.items()}
    if set(found) != set(trained_keys(settings)):
        return None
    return {key: manifest for key, manifest in manifests.items() if manifest} if all(manifests.values()) else None


def bring_back(
    description: Mapping[str, Any],
    settings: Settings,
    launch: Launch,
    inputs: Mapping[str, Ref],
    account: Account,
    say: Callable[[str], None],
    told: Mapping[str, str] | None = None,
) -> dict[str, Manifest]:
    """Fetch what a completed job left in S3, check it, and put it in place.

    Args:
        description: of the job, as SageMaker tells it.
        settings: the resolved profile.
        launch: the launch that the job belongs to.
        inputs: the finished folders that the launch was made of.
        account: whose bucket.
        say: is told each step.
        told: content hash by asset key, as the job said it last, where it was heard.

    Raises:
        MedpipeError: an archive is missing, damaged, of another launch, or made by other code or settings than these.
    """
    name = description["TrainingJobName"]
    archive = description["ModelArtifacts"]["S3ModelArtifacts"]
    home = settings.outputs / "aws" / "results" / name
    there = _there(description, account)
    files = [file for file in ARCHIVES if file in there]  # logs and summaries may be gone; the models may not
    for file in files:
        _fetch(account, archive.rpartition("/")[0] + "/" + file, home / file, say)
    unpacked = home / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        for file in files:
            _unpack(home / file, unpacked / file.partition(".")[0])
        models = unpacked / "model" / FINAL
        listed = _list_of(models, launch, settings, told or {}, archive)
        for key, sha in listed.items():
            _place(models / key, key, sha, settings, archive)
        for folder in sorted((unpacked / "output" / "evaluation").glob("*")):
            if manifest := store.read_manifest(folder):
                _place(folder, f"evaluation/{folder.name}", manifest.sha256, settings, archive)
        _keep_the_rest(unpacked / "output", home, settings.outputs / "tracking")
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    found = standing(settings, inputs)
    if found is None:
        raise MedpipeError(
            got=f"models of {name} that do not stand for this machine's settings and code", expected="the same fingerprints", where=archive,
            do="the code has changed since the launch: check out the job's commit (in training_summary.json), or launch again",
        )  # fmt: skip
    say(f"{name}: {', '.join(found)} are in {settings.outputs}")
    return found


def are_there(description: Mapping[str, Any], account: Account) -> bool:
    """Whether the models of a completed job still lie in S3."""
    return ARCHIVES[0] in _there(description, account)


def _there(description: Mapping[str, Any], account: Account) -> set[str]:
    place = description["ModelArtifacts"]["S3ModelArtifacts"].rpartition("/")[0]
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    with explained(f"looking for the results in {place}"):
        listed = account.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
    return {each["Key"].removeprefix(f"{prefix}/") for each in listed}


def _fetch(account: Account, uri: str, path: Path, say: Callable[[str], None]) -> None:
    """A file of S3, whole or not at all; one that is here with the size and tag of the one there stays."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = account.client("s3")
    with explained(f"fetching {uri}"):
        head = client.head_object(Bucket=bucket, Key=key)
        mark = path.with_name(f"{path.name}.etag")
        if path.is_file() and mark.is_file() and mark.read_text() == head["ETag"] and path.stat().st_size == head["ContentLength"]:
            return
        say(f"fetching {uri} ({head['ContentLength'] / 2**20:.1f} MiB)")
        with store.atomic_path(path) as temporary:
            client.download_file(bucket, key, str(temporary))
        store.write_text(mark, head["ETag"])


def _unpack(archive: Path, folder: Path) -> None:
    """Plain files and folders below `folder`, nothing else: tarfile's own filter refuses links out of it, devices and absolute names."""
    try:
        with tarfile.open(archive, "r:gz") as content:
            content.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MedpipeError(
            got=f"an archive that can't be unpacked ({error})", expected="a whole .tar.gz", where=str(archive),
            do="delete the file and run again; it is fetched anew",
        ) from error  # fmt: skip


def _list_of(models: Path, launch: Launch, settings: Settings, told: Mapping[str, str], where: str) -> dict[str, str]:
    """Content hash by asset key, as the job wrote it last: of this launch, all models and no other path, and what the job itself said."""
    path = models / store.MANIFEST
    if not path.is_file():
        raise MedpipeError(
            got="no list of models", expected=f"{FINAL}/{store.MANIFEST}, which a job writes last", where=where,
            do="see its log with `medpipe aws logs`, then launch again",
        )  # fmt: skip
    found = store.read_json(path)
    assets = found["assets"]
    wrong = sorted(key for key in told.keys() & assets.keys() if told[key] != assets[key])
    fault = (
        f"models of launch {found['digest'][:SHORT]}" if found["digest"] != launch.digest
        else f"a list of {', '.join(sorted(assets)) or 'nothing'}" if set(assets) != set(trained_keys(settings))
        else f"{', '.join(wrong)} with other content than the job said" if wrong else ""
    )  # fmt: skip
    if fault:
        raise MedpipeError(
            got=fault, expected=f"launch {launch.digest[:SHORT]} with {', '.join(trained_keys(settings))}", where=where,
            do="somebody else wrote there: remove the object, and launch again",
        )  # fmt: skip
    return assets


def _place(folder: Path, key: str, sha: str, settings: Settings, where: str) -> None:
    """Put a checked folder where the graph looks for it; one that stands there with the same content stays."""
    manifest = store.read_manifest(folder)
    damaged = store.damaged_files(folder, manifest) if manifest else ["its manifest"]
    if manifest is None or damaged or manifest.sha256 != sha:
        raise MedpipeError(
            got=f"{key} with {', '.join(damaged) or 'another hash'}", expected=f"content {sha[:SHORT]}", where=where,
            do="fetch it again (delete outputs/aws/results); if it stays so, launch again",
        )  # fmt: skip
    final = results.folder_of(settings.outputs, key, manifest.fingerprint)
    there = store.read_manifest(final)
    if there and there.sha256 == sha and not store.damaged_files(final, there):
        return results.show(settings.outputs, key, final)
    # The job's own paths mean nothing here.
    exports = {name: str(settings.outputs / Path(target).name) for name, target in manifest.exports.items()}
    manifest = manifest.model_copy(update={"exports": exports})
    store.publish(folder, final, manifest)
    results.show(settings.outputs, key, final)
    store.export(final, manifest)


def _keep_the_rest(output: Path, home: Path, journals: Path) -> None:
    """Logs and summaries, which a person looks at, under the job's name; the trackers' journals where the next feeder finds them."""
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output)
        if path.is_dir() or name.parts[0] == "evaluation":
            continue
        place = journals / path.name if name.parts[0] == "tracking" else home / name
        if not place.is_file():
            with store.atomic_path(place) as temporary:
                shutil.copyfile(path, temporary)

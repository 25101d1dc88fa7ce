"""What a job left in S3 takes its place here only if it is whole, of this launch, and what this machine would have made."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.aws import results
from medpipe.aws.channels import EVAL, TRAIN, trained_keys
from medpipe.aws.request import Launch
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe.results import show
from medpipe.schema import Manifest, Ref
from medpipe_tests.aws.conftest import Cloud
from medpipe_tests.aws.folders import finished

LAUNCH = Launch("d" * 64, "smoke", "", "", "", "", {}, {})
JOB = "medpipe-smoke-dddddddddddd-a1"
TEAM = "models/maporl_team"


def settings_of(outputs: Path) -> Settings:
    return load_profile("smoke", {"paths.outputs": str(outputs)})


def make_models(settings: Settings, inputs: dict[str, Ref]) -> None:
    """Stand-ins for models, under the fingerprints that real ones would have."""
    for key in trained_keys(settings):
        order = results.orders(settings, inputs)[key]
        finished(settings.outputs / "new", key, key, "weights", order.task, order.fingerprint)
        Path(order.out).parent.mkdir(parents=True)
        (settings.outputs / "new" / key).rename(order.out)
        show(settings.outputs, key, Path(order.out))


class Left:
    """The two archives that a job leaves, changed by a test before they are sent."""

    def __init__(self, aws: Cloud, tmp_path: Path) -> None:
        self.aws, self.here = aws, settings_of(tmp_path / "here" / "outputs")
        self.inputs = {key: finished(tmp_path / "data", key) for key in (*TRAIN, *EVAL)}
        there = settings_of(tmp_path / "job" / "outputs")
        make_models(there, self.inputs)
        self.final = tmp_path / "model" / "final_model"
        self.final.mkdir(parents=True)
        shutil.copytree(there.outputs / "models", self.final / "models")
        self.listed = {
            "digest": LAUNCH.digest,
            "assets": {key: manifest.sha256 for key in trained_keys(there) if (manifest := store.read_manifest(self.final / key))},
        }
        self.output = tmp_path / "output"
        store.write_text(self.output / "training_summary.json", "{}")
        store.write_text(self.output / "tracking" / "one.jsonl", "{}\n")
        finished(self.output, "evaluation/safety")
        self.more: Callable[[tarfile.TarFile], Any] = lambda archive: None

    def send(self) -> dict[str, Any]:
        store.write_json(self.final / store.MANIFEST, self.listed)
        for folder, name in ((self.final.parent, "model.tar.gz"), (self.output, "output.tar.gz")):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w:gz") as archive:
                for path in sorted(folder.iterdir()):
                    archive.add(path, path.name)
                self.more(archive)
            self.aws.s3.put_object(Bucket=self.aws.bucket, Key=f"medpipe/jobs/{JOB}/output/{name}", Body=data.getvalue())
        place = f"s3://{self.aws.bucket}/medpipe/jobs/{JOB}/output/model.tar.gz"
        return {"TrainingJobName": JOB, "ModelArtifacts": {"S3ModelArtifacts": place}}

    def bring_back(self, description: dict[str, Any]) -> dict[str, Manifest]:
        return results.bring_back(description, self.here, LAUNCH, self.inputs, self.aws.account, print)


@pytest.fixture
def left(aws: Cloud, tmp_path: Path) -> Left:
    return Left(aws, tmp_path)


def test_models_evaluations_logs_and_journals_find_their_places(left: Left) -> None:
    assert results.standing(left.here, left.inputs) is None
    description = left.send()
    assert results.are_there(description, left.aws.account)
    found = left.bring_back(description)
    assert list(found) == list(trained_keys(left.here)) and results.standing(left.here, left.inputs) == found
    outputs = left.here.outputs
    assert (outputs / "training_results.json").read_text() == TEAM  # not where the job's own export went
    assert store.read_manifest(outputs / "evaluation" / "safety")
    assert (outputs / "aws" / "results" / JOB / "training_summary.json").is_file()
    assert (outputs / "tracking" / "one.jsonl").is_file()
    assert not (outputs / "aws" / "results" / JOB / "unpacked").exists()


def test_a_second_time_nothing_is_fetched_and_what_stands_stays(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    description = left.send()
    left.bring_back(description)
    before = (left.here.outputs / TEAM / store.MANIFEST).stat().st_mtime_ns
    said: list[str] = []
    results.bring_back(description, left.here, LAUNCH, left.inputs, left.aws.account, said.append)
    assert not [line for line in said if line.startswith("fetching")]
    assert (left.here.outputs / TEAM / store.MANIFEST).stat().st_mtime_ns == before


def damage(left: Left) -> None:
    (left.final / TEAM / "weights").write_text("other weights")


def another_launch(left: Left) -> None:
    left.listed["digest"] = "e" * 64


def another_hash(left: Left) -> None:
    left.listed["assets"][TEAM] = "0" * 64


def another_path(left: Left) -> None:
    left.listed["assets"]["../../elsewhere"] = "0" * 64


def too_few(left: Left) -> None:
    del left.listed["assets"][TEAM]


def no_manifest(left: Left) -> None:
    (left.final / TEAM / store.MANIFEST).unlink()


def other_code(left: Left) -> None:
    manifest = store.read_manifest(left.final / TEAM)
    assert manifest
    store.write_manifest(left.final / TEAM, manifest.model_copy(update={"fingerprint": "0" * 64}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage, "maporl_team with weights"), (another_launch, "launch eeeeeeeeeeee"), (another_hash, "another hash"),
        (another_path, r"a list of \.\./\.\./elsewhere"), (too_few, "a list of models/agent, models/agent_rl, models/analyst, models/base"),
        (no_manifest, "manifest"), (other_code, "do not stand for this machine's settings and code"),
    ],
)  # fmt: skip
def test_what_is_not_whole_or_not_ours_is_refused(left: Left, change: Callable[[Left], None], words: str) -> None:
    change(left)
    description = left.send()
    with pytest.raises(MedpipeError, match=words):
        left.bring_back(description)
    assert results.standing(left.here, left.inputs) is None


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "link"])
def test_an_archive_that_reaches_out_of_its_folder_is_refused(left: Left, name: str) -> None:
    def reach_out(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../../.."
        archive.addfile(member, io.BytesIO(b""))

    left.more = reach_out
    description = left.send()
    if name == "/tmp/evil":  # tarfile takes the root away: the file stays inside
        left.bring_back(description)
        assert not Path("/tmp/evil").exists()
        return
    with pytest.raises(MedpipeError, match="can't be unpacked"):
        left.bring_back(description)


def test_models_that_were_deleted_are_seen_and_lost_logs_cost_no_training(left: Left) -> None:
    description = left.send()
    left.aws.s3.delete_object(Bucket=left.aws.bucket, Key=f"medpipe/jobs/{JOB}/output/output.tar.gz")
    assert results.are_there(description, left.aws.account)
    assert TEAM in left.bring_back(description)
    left.aws.s3.delete_object(Bucket=left.aws.bucket, Key=f"medpipe/jobs/{JOB}/output/model.tar.gz")
    assert not results.are_there(description, left.aws.account)


def test_what_the_job_said_last_is_what_must_come_back(left: Left) -> None:
    description = left.send()
    with pytest.raises(MedpipeError, match="maporl_team with other content than the job said"):
        results.bring_back(description, left.here, LAUNCH, left.inputs, left.aws.account, print, {TEAM: "0" * 64})
    assert results.standing(left.here, left.inputs) is None

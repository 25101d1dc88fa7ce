"""docs/aws.md, command by command, in a workspace whose rows are made: an empty account, data up, a job, models back, evaluated here.

S3, IAM, ECR, CloudWatch and Secrets Manager are moto's server; SageMaker is the server of sagemaker_server.py, which carries out each
training job as SageMaker would (containers.py): channels from S3, the container's entry point, archives to S3.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from botocore.exceptions import ClientError

from medpipe import store
from medpipe.schema import LEARNERS
from medpipe_tests.aws.conftest import KEYS, REGION, Cloud
from medpipe_tests.aws.containers import run_request
from medpipe_tests.aws.sagemaker_server import End, SageMakerServer
from medpipe_tests.made import Made
from medpipe_tests.operations.processes import ROOT, dagster_of, environment, wait_until

pytestmark = pytest.mark.slow

MODELS = ["models/base", *(f"models/{learner}" for learner in LEARNERS), "models/maporl_team", "models/agent_rl"]
FAST = {
    "MEDPIPE_PROFILE": "profile.yaml", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "AWS_REGION": REGION, **KEYS,
}  # fmt: skip
FIGURES = ("train:accuracy", "collaboration:score", "medical:relevance", "safety:score")
CANARY = "canary-2f9c1e"


def blocks() -> list[str]:
    """The shell commands of the page, block by block."""
    return re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "aws.md").read_text(encoding="utf-8"), re.S)


def shell(commands: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-euo", "pipefail", "-c", commands + "\nenv -0 > environment"]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{commands}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def smoke_profile(folder: Path, **aws: Any) -> None:
    """The tiny profile as the page's profile would be: trained on SageMaker, looked at often."""
    import yaml

    settings = yaml.safe_load((ROOT / "medpipe" / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    settings["aws"] = {"launcher": "sagemaker", "poll_seconds": 0.5, "evaluate": False, **aws}
    settings["evaluation"] |= {"systems": ["sft_team", "maporl_team"], "max_questions": 2, "coalitions": 0, "bootstrap": 50}
    (folder / "profile.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


@pytest.fixture
def workspace(made_once: Made, tmp_path: Path) -> Path:
    """Its sources, splits and audit stand, so `medpipe run` of them finds them."""
    folder = made_once.data(tmp_path / "workspace")
    shutil.copytree(ROOT / "deploy" / "aws", folder / "deploy" / "aws")
    smoke_profile(folder)
    return folder


def materialisation(folder: Path, key: str) -> dict[str, Any]:
    with dagster_of(folder) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(key.split("/")))
    assert event and event.asset_materialization
    found: dict[str, Any] = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    return found | {"tags": event.asset_materialization.tags}


def speak_plainly(aws: Cloud, bucket: str) -> None:
    """The bucket refuses what does not come by TLS, and moto's server has none: seen, then lifted for the test."""
    with pytest.raises(ClientError, match=r"Forbidden|AccessDenied"):
        aws.s3.put_object(Bucket=bucket, Key="medpipe/plain", Body=b"")
    aws.s3.delete_bucket_policy(Bucket=bucket)


def push_image(aws: Cloud) -> str:
    """In place of `docker push`; gives the image's address."""
    registry, manifest = (
        aws.account.client("ecr"),
        '{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}',
    )
    if not registry.list_images(repositoryName="medpipe")["imageIds"]:
        registry.put_image(repositoryName="medpipe", imageTag="0.1.0", imageManifest=manifest)
    return f"{registry.describe_repositories(repositoryNames=['medpipe'])['repositories'][0]['repositoryUri']}:0.1.0"


def test_every_command_of_the_page_from_an_empty_account_to_an_evaluated_team(aws: Cloud, workspace: Path, tmp_path: Path) -> None:
    requests: list[dict[str, Any]] = []

    def runner(request: dict[str, Any]) -> End:
        requests.append(request)
        if "HyperParameterTuningJobName" in request:
            return End()
        ended = run_request(request, aws.s3, tmp_path / "container")
        (tmp_path / "container.log").write_text(ended.container.said)
        return End(ended.status, ended.reason, {name: values[-1] for name, values in ended.metrics.items()})

    with SageMakerServer(runner=runner) as server:
        variables = environment(
            workspace, **FAST, AWS_ENDPOINT_URL=aws.endpoint, AWS_ENDPOINT_URL_SAGEMAKER=server.endpoint, HF_TOKEN=CANARY,
            WANDB_API_KEY=CANARY,
        )  # fmt: skip
        for name in ("MEDPIPE_AWS_BUCKET", "MEDPIPE_AWS_ROLE", "MEDPIPE_AWS_IMAGE"):
            variables.pop(name, None)  # the page sets them
        said = ""
        for commands in blocks():
            if "aws check" in commands:
                push_image(aws)
            # One line of the page is another here: the profile that a test has time for.
            adapted = commands.replace("export MEDPIPE_PROFILE=sagemaker-qwen2.5\n", "")
            done = shell(adapted, workspace, variables)
            said += done.stdout + done.stderr
            if "aws upload" in commands:
                assert re.search("splits/train +unchanged", done.stdout + done.stderr)  # or the fixture has not made what is wanted
            if "aws setup" in commands:
                speak_plainly(aws, "my-hospital-medpipe")
            kept = (workspace / "environment").read_text().split("\0")
            variables = dict(line.split("=", 1) for line in kept if "=" in line)

        (tmp_path / "said.txt").write_text(said)
        for name in server.unfinished():
            assert name.startswith("medpipe-tune-")
            server.end(name)
        trainings = [name for name in server.accepted() if not name.startswith("medpipe-tune-")]
        assert len(trainings) == 1 and len(server.accepted()) == 2 and server.unfinished() == []

    job = requests[0]["TrainingJobName"]
    assert trainings == [job]
    for key in MODELS:
        manifest = store.read_manifest(workspace / "outputs" / key)
        assert manifest and store.damaged_files(workspace / "outputs" / key, manifest) == []
        told = materialisation(workspace, key)
        assert told["tags"]["dagster/data_version"] == manifest.sha256
    assert f"{job}" in said and "no job is needed" in said  # the last `medpipe run` found the models standing
    *_, first = events(workspace, "models/maporl_team")
    assert first["job"] == job and first["model_archive"].endswith(f"{job}/output/model.tar.gz")
    assert all(0 <= first[name] <= 1 for name in FIGURES)
    summary = store.read_json(workspace / "outputs" / "evaluation" / "synthetic_heldout" / "summary.json")
    assert "maporl_team" in summary["systems"]
    assert CANARY not in said and CANARY not in json.dumps(requests)
    for path in (workspace / "outputs").rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def events(folder: Path, key: str) -> Iterator[dict[str, Any]]:
    """Metadata of all materialisations of an asset, newest first."""
    with dagster_of(folder) as instance:
        records = instance.fetch_materializations(dg.AssetKey(key.split("/")), limit=10).records
    for record in records:
        assert record.asset_materialization
        yield {name: value.value for name, value in record.asset_materialization.metadata.items()}


@pytest.fixture
def running(aws: Cloud, workspace: Path) -> Iterator[tuple[SageMakerServer, dict[str, str]]]:
    """An account that is set up, a workspace whose data is made, and a SageMaker whose jobs run until they are stopped."""
    with SageMakerServer() as server:
        variables = environment(workspace, **{**aws.environment, **FAST}, AWS_ENDPOINT_URL_SAGEMAKER=server.endpoint)
        shell(f"medpipe aws setup --bucket {aws.bucket}", workspace, variables)
        speak_plainly(aws, aws.bucket)
        yield server, variables | {"MEDPIPE_AWS_IMAGE": push_image(aws)}


def launch(workspace: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    said = (workspace / "launch.log").open("a")
    return subprocess.Popen(["medpipe", "aws", "launch"], cwd=workspace, env=variables, stdout=said, stderr=said, text=True)


def test_a_failure_says_why_an_interrupt_stops_the_job_and_the_sensor_stops_that_of_a_killed_launch(
    running: tuple[SageMakerServer, dict[str, str]], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, variables = running
    process = launch(workspace, variables)
    failed = started(server, process)
    server.end(failed, End("Failed", "CapacityError: Unable to provision requested ML compute capacity. Please retry."))
    assert process.wait(120) != 0
    assert "Unable to provision requested ML compute capacity" in failure(workspace)

    process = launch(workspace, variables)
    first = started(server, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) != 0
    assert server.status(first) in ("Stopping", "Stopped")

    process = launch(workspace, variables)
    second = started(server, process)
    assert second != first
    process.kill()
    process.wait()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(workspace)
    from medpipe.assets.sagemaker import sweep_sensor
    from medpipe.resources import Profile

    profile = Profile(name="profile.yaml")
    sensor = sweep_sensor()

    def swept() -> bool:  # the dead launch's steps end a moment after it
        with dagster_of(workspace) as instance, dg.build_sensor_context(instance, resources={"profile": profile}) as context:
            sensor(context)
        return not paid_for(server)

    wait_until(swept, "the sensor has stopped the orphan")
    assert server.status(second) in ("Stopping", "Stopped")


def failure(workspace: Path) -> str:
    """What Dagster's last run says of the step that failed."""
    with dagster_of(workspace) as instance:
        run = instance.get_runs(limit=1)[0]
        [event] = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    assert event.event_log_entry.dagster_event and event.event_log_entry.step_key == "models_on_sagemaker"
    return str(event.event_log_entry.dagster_event.event_specific_data)


def started(server: SageMakerServer, process: subprocess.Popen[str]) -> str:
    """The one job that a launch has made."""
    [name] = wait_until(lambda: paid_for(server) or (["none"] if process.poll() is not None else []), "a job runs")
    assert process.poll() is None, "the launch ended without a job"
    return name


def paid_for(server: SageMakerServer) -> list[str]:
    """Jobs that run and were not told to stop."""
    return [name for name in server.unfinished() if server.status(name) != "Stopping"]

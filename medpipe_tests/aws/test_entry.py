"""The training container's entry point, a process on SageMaker's folders: what it makes, leaves, tells, refuses; killed and stopped."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster_pipes import encode_param

from medpipe import NOTICE, store
from medpipe.aws.account import Account
from medpipe.aws.layout import Layout, leave_models, read_launch
from medpipe.aws.request import METRICS, NUMBER
from medpipe.aws.voice import HIDDEN, Voice
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe.launch.devices import place_role
from medpipe.launch.order import write_order
from medpipe.schema import LEARNERS, ROLES, Manifest, Ref
from medpipe_tests.aws.conftest import KEYS, REGION
from medpipe_tests.aws.containers import (
    COMMIT,
    WHERE,
    Container,
    inputs_of,
    lay_channels,
    run_container,
    start_container,
)  # fmt: skip
from medpipe_tests.made import Made
from medpipe_tests.operations.processes import wait_until

MODELS = ("models/base", *(f"models/{learner}" for learner in LEARNERS), "models/maporl_team", "models/agent_rl")
BENCHMARK = "evaluation/synthetic_heldout"
CANARY = "canary-5f1d7c20-never-to-be-seen"
SMALL: dict[str, Any] = {
    "release.primary": "synthetic_heldout", "evaluation.max_questions": 2, "evaluation.systems": ["sft_agent", "maporl_team"],
    "evaluation.coalitions": 0, "evaluation.bootstrap": 50, "aws.secrets": {"MEDPIPE_CANARY": "medpipe/canary"}, "training.epochs": 9,
}  # fmt: skip


# --- what the container is given


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A base folder with the channels of a launch whose one input is three bytes."""
    folder = tmp_path / "input" / "data" / "train" / "splits" / "train"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}\n")
    files = store.hash_tree(folder)
    manifest = Manifest(task="split", fingerprint="", sha256=store.hash_of_hashes(files), files=files)
    store.write_manifest(folder, manifest)
    launch = {
        "digest": "ab" * 32, "profile": "smoke", "settings": load_profile("smoke").model_dump(mode="json"), "select": "models/base",
        "inputs": {"splits/train": {"channel": "train", "sha256": manifest.sha256}},
    }  # fmt: skip
    store.write_json(tmp_path / "input" / "data" / "launch" / "launch.json", launch)
    return tmp_path


def layout_of(base: Path, **hyperparameters: Any) -> Layout:
    store.write_json(base / "input" / "config" / "hyperparameters.json", hyperparameters)
    return Layout.of({"SAGEMAKER_BASE_DIR": str(base)})


def test_the_folders_are_sagemakers_own(tmp_path: Path) -> None:
    plain = Layout.of({})
    assert (plain.channels["train"], plain.model, plain.output) == tuple(
        map(Path, ("/opt/ml/input/data/train", "/opt/ml/model", "/opt/ml/output/data"))
    )
    assert (plain.failure, plain.checkpoints) == (Path("/opt/ml/output/failure"), Path("/opt/ml/checkpoints"))
    named = {"SM_CHANNEL_TRAIN": "/a", "SM_MODEL_DIR": "/b", "SM_OUTPUT_DATA_DIR": "/c", "SM_NUM_GPUS": "4", "SM_HOSTS": '["x", "y"]'}
    told = Layout.of({**named, "SM_CURRENT_HOST": "y"})
    assert (told.channels["train"], told.model, told.output, told.gpus) == (Path("/a"), Path("/b"), Path("/c"), 4)
    assert (told.hosts, told.current, told.leads) == (("x", "y"), "y", False)
    store.write_json(tmp_path / "input" / "config" / "resourceconfig.json", {"hosts": ["p", "q"], "current_host": "p"})
    filed = Layout.of({"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert (filed.hosts, filed.current, filed.leads) == (("p", "q"), "p", True)


def test_hyperparameters_are_settings_and_the_rest_is_as_launched(given: Path) -> None:
    hyper = {"lr": '"3e-05"', "epochs": "12", "batch_size": '"8"', "safety_penalty_weight": "2.5", "_tuning_objective_metric": "team:value"}
    before = load_profile("smoke")
    settings = read_launch(layout_of(given, **hyper, sagemaker_program="x")).settings
    assert (settings.training.learning_rate, settings.training.epochs, settings.training.batch_size) == (3e-5, 12, 8)
    assert settings.rewards.safety_penalty_weight == 2.5
    assert settings.outputs == given / "checkpoints" / "outputs"
    assert (settings.aws.launcher, settings.aws.store) == ("local", "")
    assert settings.maporl == before.maporl and settings.model == before.model and settings.tracking == before.tracking


@pytest.mark.parametrize(
    ("hyper", "said"), [({"learning_rate": "1"}, "'learning_rate'"), ({"epochs": "many"}, "epochs = 'many'"), ({"lr": "-1"}, "lr")]
)
def test_a_hyperparameter_that_is_unknown_or_wrong_is_refused(given: Path, hyper: dict[str, str], said: str) -> None:
    with pytest.raises(MedpipeError, match=re.escape(said)):
        read_launch(layout_of(given, **hyper))


def test_a_missing_channel_is_one_message(given: Path) -> None:
    shutil.rmtree(given / "input" / "data" / "launch")
    with pytest.raises(MedpipeError, match=r"no channel 'launch'.*medpipe aws launch"):
        read_launch(layout_of(given))


def test_an_input_with_another_content_is_refused(given: Path) -> None:
    rows = given / "input" / "data" / "train" / "splits" / "train" / "rows.jsonl"
    rows.write_text("{ }\n")
    with pytest.raises(MedpipeError, match=r"splits/train with damaged rows\.jsonl"):
        read_launch(layout_of(given))
    rows.write_text("{}\n")
    launch = given / "input" / "data" / "launch" / "launch.json"
    told = store.read_json(launch)
    told["inputs"]["splits/train"]["sha256"] = "0" * 64
    store.write_json(launch, told)
    with pytest.raises(MedpipeError, match=r"content .* of splits/train, expected content 000000000000"):
        read_launch(layout_of(given))


def test_only_whole_models_are_left_and_the_list_comes_last(given: Path) -> None:
    outputs = given / "outputs"
    for name in ("whole", "torn"):
        shutil.copytree(given / "input" / "data" / "train" / "splits" / "train", outputs / "models" / name)
    (outputs / "models" / "torn" / "rows.jsonl").write_text("[")
    (outputs / "models" / ".half.partial").mkdir()
    layout = layout_of(given)
    (given / "input" / "data" / "code").mkdir()
    listed = leave_models(outputs, layout, read_launch(layout))
    assert set(listed) == {"models/whole"}
    assert store.read_json(given / "model" / "final_model" / "manifest.json")["assets"] == listed
    assert {path.name for path in (given / "model" / "final_model" / "models").iterdir()} == {"whole"}


def test_a_secret_is_hidden_whoever_says_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    voice = Voice(tmp_path / "training.log")
    voice.hush([CANARY, CANARY[:12], "x"])
    voice.heard(f"12:00:00 models/base !! key {CANARY} is no good")
    voice.close(goes_on=False)
    out = capfd.readouterr().out
    log = gzip.decompress((tmp_path / "training.log.gz").read_bytes()).decode()
    assert out == log == f"12:00:00 models/base !! key {HIDDEN} is no good\n"
    assert list(voice.complaints) == [f"key {HIDDEN} is no good"]


# --- real jobs


@dataclass(frozen=True)
class Job:
    """A job whose first start was killed and whose second one came to its end."""

    base: Path
    settings: Settings
    outputs: Path  # where its inputs were made
    first: dict[str, str]  # asset → when it was made, at the moment of the kill
    seen: list[dict[str, str]]  # environments of the processes of `medpipe run`
    status: int
    said: str
    messages: list[list[dict[str, Any]]]  # by object

    def read(self, name: str) -> Any:
        return store.read_json(self.base / name)

    def custom(self) -> list[dict[str, Any]]:
        return [one["params"]["payload"] for part in self.messages for one in part if one["method"] == "report_custom_message"]


@pytest.fixture(scope="module")
def inputs(made_once: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once.data(tmp_path_factory.mktemp("inputs")) / "outputs"


@pytest.fixture(scope="module")
def job(inputs: Path, moto_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": moto_endpoint, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}.items():
            patch.setenv(name, value)
        account = Account("medpipe-entry", "", "", REGION, "medpipe")
        s3 = account.client("s3")
        s3.create_bucket(Bucket=account.bucket)
        account.client("secretsmanager").create_secret(Name="medpipe/canary", SecretString=CANARY)
        context = {"asset_keys": None, "extras": {}, "run_id": "r", "job_name": None, "retry_number": 0}
        s3.put_object(Bucket=account.bucket, Key="pipes/context.json", Body=json.dumps(context).encode())
        more = {
            "TRAINING_JOB_NAME": "medpipe-smoke-abababababab-a1", "SAGEMAKER_TRAINING_DEBUG": "1",
            "DAGSTER_PIPES_CONTEXT": encode_param({"bucket": account.bucket, "key": "pipes/context.json"}),
            "DAGSTER_PIPES_MESSAGES": encode_param({"bucket": account.bucket, "key_prefix": "pipes/messages"}),
        }  # fmt: skip
        settings = load_profile("smoke", SMALL)
        folder = tmp_path_factory.mktemp("job")
        channels = lay_channels(folder, inputs, settings, ",".join((*MODELS, BENCHMARK)))
        base = folder / "ml"
        killed = start_container(base, channels, more, {"epochs": "1"})
        outputs, seen = base / "checkpoints" / "outputs", []

        def a_role_is_made() -> bool:
            assert killed.process.poll() is None, killed.said[-4000:]
            seen.extend(environments(killed))
            return any((outputs / "models" / role / store.MANIFEST).is_file() for role in ROLES)

        wait_until(a_role_is_made, "a role is made")
        below = psutil.Process(killed.process.pid).children(recursive=True)
        killed.kill()
        _, alive = psutil.wait_procs(below, timeout=60)
        assert not alive, alive  # nothing outlives the entry point
        first = {key: manifest.created_at for key in MODELS if (manifest := store.read_manifest(outputs / key))}
        status, container = run_container(base, channels, more, hyperparameters={"epochs": "1"})
        keys = [each["Key"] for each in s3.list_objects_v2(Bucket=account.bucket, Prefix="pipes/messages/")["Contents"]]
        keys.sort(key=lambda key: int(Path(key).stem))
        assert [Path(key).stem for key in keys] == [str(number) for number in range(1, len(keys) + 1)]
        bodies = [s3.get_object(Bucket=account.bucket, Key=key)["Body"].read().decode() for key in keys]
        messages = [[json.loads(line) for line in body.splitlines()] for body in bodies]
        yield Job(base, settings, inputs, first, seen, status, container.said, messages)


def environments(container: Container) -> list[dict[str, str]]:
    """Of what runs below the entry point now."""
    found = []
    for process in psutil.Process(container.process.pid).children(recursive=True):
        try:
            if "medpipe.cli" in " ".join(process.cmdline()):
                found.append(process.environ())
        except psutil.Error:
            continue  # it ended
    return found


slow = pytest.mark.slow


@slow
def test_the_job_ends_well_and_leaves_what_the_guide_names(job: Job) -> None:
    assert job.status == 0, job.said[-6000:]
    output = job.base / "output" / "data"
    left = {path.name for path in output.iterdir()}
    assert {"training.log.gz", "training_results.json", "training_summary.json", "checkpoints", "evaluation", "tracking"} <= left
    assert "training.log" not in left and not (job.base / "output" / "failure").exists()
    assert BENCHMARK.partition("/")[2] in {path.name for path in (output / "evaluation").iterdir()}
    log = gzip.decompress((output / "training.log.gz").read_bytes()).decode()
    assert "models/planner" in log and NOTICE in log
    results, summary = job.read("output/data/training_results.json"), job.read("output/data/training_summary.json")
    assert set(results["roles"]) == set(ROLES) and results["maporl_team"]["iterations"] == 2 and results["notice"] == NOTICE
    assert (summary["status"], summary["commit"], summary["instance"], summary["digest"]) == (
        "completed",
        COMMIT,
        "ml.g5.12xlarge",
        "ab" * 32,
    )
    assert summary["settings"]["training"]["epochs"] == 1 and set(summary["inputs"]) == set(WHERE)
    assert not [path for path in (job.base / "model").rglob("*") if "huggingface" in path.name or path.name == "__pycache__"]


@slow
def test_the_models_are_whole_and_the_ones_that_this_machine_would_make(job: Job) -> None:
    final = job.base / "model" / "final_model"
    listing = store.read_json(final / "manifest.json")
    assert set(listing["assets"]) == set(MODELS) and listing["digest"] == "ab" * 32
    manifests = {}
    for key, sha in listing["assets"].items():
        manifest = manifests[key] = store.read_manifest(final / key)
        assert manifest and manifest.sha256 == sha and store.damaged_files(final / key, manifest) == []
        assert manifest.commit == COMMIT
    assert max(path.stat().st_mtime_ns for path in final.rglob("*.json")) == (final / "manifest.json").stat().st_mtime_ns
    local = job.settings.model_copy(update={"training": job.settings.training.model_copy(update={"epochs": 1})})
    refs = inputs_of(job.outputs, ("splits/train", "splits/validation")) | {
        "models/base": Ref(path="", sha256=listing["assets"]["models/base"])
    }
    order = write_order("models/planner", "sft", local, refs, place_role(local, "planner"), "", {})
    assert manifests["models/planner"].fingerprint == order.fingerprint
    assert (job.base / "model" / "code" / "medpipe" / "definitions.py").is_file()


@slow
def test_sagemaker_reads_the_metrics_from_the_lines(job: Job) -> None:
    second = job.said[job.said.index("going on with") :]
    found = {name: [float(value) for value in re.findall(f"{name}={NUMBER};", second)] for name in METRICS}
    figures = job.read("output/data/training_results.json")["figures"]
    assert set(figures) == {*METRICS, "collaboration:bonus"}
    rows = store.read_jsonl(job.base / "checkpoints" / "outputs" / "models" / "maporl_team" / "metrics.jsonl")
    for name, key in (("train:accuracy", "answer_accuracy"), ("safety:score", "reward/safety")):
        assert found[name] == pytest.approx([*(row[key] for row in rows), figures[name]], abs=1e-6)
    for name in ("eval:accuracy", "team:value"):
        assert found[name] == pytest.approx([figures[name]], abs=1e-6)


@slow
def test_what_was_finished_before_the_kill_is_not_made_again(job: Job) -> None:
    assert "models/base" in job.first and set(job.first) & {f"models/{role}" for role in ROLES}
    assert set(job.read("output/data/training_summary.json")["resumed"]) == set(job.first)
    for key, created in job.first.items():
        manifest = store.read_manifest(job.base / "checkpoints" / "outputs" / key)
        assert manifest and manifest.created_at == created


@slow
def test_dagster_is_told_each_asset_once_a_start_and_the_figures_at_the_end(job: Job) -> None:
    told = [message["asset"] for message in job.custom() if "asset" in message]
    assert {*MODELS, BENCHMARK} <= set(told)
    assert max(told.count(key) for key in told) <= 2  # the second start tells again what it found
    assert job.custom()[-1] == {"figures": job.read("output/data/training_results.json")["figures"]}
    manifests = {message["asset"]: message["manifest"] for message in job.custom() if "asset" in message}
    listed = job.read("model/final_model/manifest.json")["assets"]
    assert {key: manifests[key]["sha256"] for key in MODELS} == listed
    methods = [one["method"] for part in job.messages for one in part]
    assert methods.count("opened") == 2 and methods.count("closed") == 1 and methods[-1] == "closed"
    assert any("models/planner" in str(one["params"]) for part in job.messages for one in part if one["method"] == "log")


@slow
def test_the_run_has_the_secret_and_nobody_else_ever_sees_it(job: Job) -> None:
    assert job.seen and all(environment["MEDPIPE_CANARY"] == CANARY for environment in job.seen)
    assert all(environment["MEDPIPE_COMMIT"] == COMMIT for environment in job.seen)
    assert not [name for environment in job.seen for name in environment if name.startswith("DAGSTER_PIPES")]
    assert "MEDPIPE_CANARY" in job.said  # debug mode names variables
    assert CANARY not in job.said + json.dumps(job.messages)
    logs = gzip.decompress((job.base / "output" / "data" / "training.log.gz").read_bytes())
    assert CANARY.encode() not in logs
    files = [path for path in job.base.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


@slow
def test_a_broken_input_is_a_failure_that_sagemaker_can_show(job: Job, tmp_path: Path) -> None:
    channels = lay_channels(tmp_path, job.outputs, job.settings, "models/base")
    rows = channels["train"] / "splits" / "train" / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-2] + b"\n")
    status, container = run_container(tmp_path / "ml", channels)
    failure = (tmp_path / "ml" / "output" / "failure").read_text()
    assert status == 1 and "splits/train with damaged rows.jsonl" in failure and len(failure) <= 1000
    assert "Traceback" not in container.said
    assert store.read_json(tmp_path / "ml" / "output" / "data" / "training_summary.json")["status"] == "failed"
    assert not (tmp_path / "ml" / "model" / "final_model").exists()


@slow
def test_sigterm_lets_a_training_write_its_checkpoint_first(job: Job, tmp_path: Path) -> None:
    settings = load_profile("smoke", {"training.epochs": 2000, "training.checkpoint_seconds": 3600.0})
    channels = lay_channels(tmp_path, job.outputs, settings, "models/base,models/planner")
    base = Path("checkpoints/outputs/models/base")  # stands, as after an interruption: what is trained is the planner
    shutil.copytree(job.base / base, tmp_path / "ml" / base)
    container = start_container(tmp_path / "ml", channels)
    wait_until(lambda: re.search(r"models/planner +\d+/\d+ ", container.said) or container.process.poll() is not None, "it trains")
    os.kill(container.process.pid, signal.SIGTERM)
    assert container.wait() == 143, container.said[-4000:]
    assert list((tmp_path / "ml" / "checkpoints" / "outputs" / "scratch").glob("*/checkpoints/step-*/seal.json"))
    assert not (tmp_path / "ml" / "output" / "failure").exists()
    assert store.read_json(tmp_path / "ml" / "output" / "data" / "training_summary.json")["status"] == "stopped"

"""What a launch is named after, what goes up for it, and what is refused before anything is sent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from medpipe.aws.channels import EVAL, EVALUATED, TRAIN, pack, send
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe.schema import Ref
from medpipe_tests.aws.conftest import Cloud
from medpipe_tests.aws.folders import finished

ROOT = Path(__file__).parents[2]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Ref]:
    return {key: finished(tmp_path / "outputs", key) for key in (*TRAIN, *EVAL, *EVALUATED)}


def settings(**overrides: object) -> Settings:
    return load_profile("smoke", {key.replace("__", "."): value for key, value in overrides.items()})


def test_train_and_eval_go_apart_and_the_launch_says_what_it_is(aws: Cloud, inputs: dict[str, Ref]) -> None:
    parcel = pack(settings(), inputs, aws.account, ROOT)
    said: list[str] = []
    sent = send(parcel, aws.account, said.append)
    keys = {each["Key"] for each in aws.s3.list_objects_v2(Bucket=aws.bucket)["Contents"]}
    below = {name: {key.split(f"/{name}/", 1)[1] for key in keys if f"/{name}/" in key} for name in ("train", "eval", "channel")}
    assert {key.rpartition("/")[0] for key in below["train"]} == set(TRAIN)
    assert {key.rpartition("/")[0] for key in below["eval"]} == {*EVAL, *EVALUATED}
    assert below["channel"] == {"launch.json"}
    assert any(key.endswith("/scripts/sagemaker_entry.py") for key in keys) and any(key.endswith("/dagster.yaml") for key in keys)
    assert sent.files == len(keys)
    uri = parcel.launch.launch_uri.removeprefix(f"s3://{aws.bucket}/")
    document = json.loads(aws.s3.get_object(Bucket=aws.bucket, Key=f"{uri}launch.json")["Body"].read())
    assert document["digest"] == parcel.launch.digest and document["inputs"]["splits/train"]["channel"] == "train"
    assert send(parcel, aws.account, said.append).files == 0


def test_without_evaluation_no_benchmark_goes_up(aws: Cloud, inputs: dict[str, Ref]) -> None:
    parcel = pack(settings(aws__evaluate=False), {key: inputs[key] for key in (*TRAIN, *EVAL)}, aws.account, ROOT)
    assert not [key for files in parcel.files.values() for key in files if key.startswith(EVALUATED)]
    assert "evaluation" not in parcel.document["select"]


@pytest.mark.parametrize(
    "changed", [{"training__epochs": 3}, {"aws__instance_type": "ml.g5.xlarge"}, {"seed": 1}, {"maporl__kl": 0.5}, {"model__revision": "x"}]
)
def test_what_changes_the_models_or_their_machine_is_another_launch(aws: Cloud, inputs: dict[str, Ref], changed: dict[str, object]) -> None:
    first, second = (pack(settings(**some), inputs, aws.account, ROOT).launch.digest for some in ({}, changed))
    assert first != second


@pytest.mark.parametrize(
    "changed",
    [{"tracking__kind": "none"}, {"paths__outputs": "elsewhere"}, {"aws__poll_seconds": 1}, {"aws__budget_usd": 1}, {"aws__spot": False}],
)
def test_what_changes_neither_is_the_same_launch(aws: Cloud, inputs: dict[str, Ref], changed: dict[str, object]) -> None:
    first, second = (pack(settings(**some), inputs, aws.account, ROOT).launch.digest for some in ({}, changed))
    assert first == second


def test_other_data_or_another_image_is_another_launch(aws: Cloud, inputs: dict[str, Ref], tmp_path: Path) -> None:
    first = pack(settings(), inputs, aws.account, ROOT).launch
    other_image = dataclasses.replace(aws.account, image="another")
    assert pack(settings(), inputs, other_image, ROOT).launch.digest != first.digest
    changed = inputs | {"splits/train": finished(tmp_path / "others", "splits/train", "2")}
    second = pack(settings(), changed, aws.account, ROOT).launch
    assert second.digest != first.digest and second.train_uri != first.train_uri and second.code_uri == first.code_uri


def test_a_missing_or_changed_input_is_one_message(aws: Cloud, inputs: dict[str, Ref]) -> None:
    with pytest.raises(MedpipeError, match="no finished splits/train"):
        pack(settings(), {key: ref for key, ref in inputs.items() if key != "splits/train"}, aws.account, ROOT)
    (Path(inputs["splits/train"].path) / "rows.jsonl").write_text("changed")
    with pytest.raises(MedpipeError, match=r"splits/train with other content.*rows\.jsonl"):
        pack(settings(), inputs, aws.account, ROOT)


def test_a_bucket_in_another_region_is_refused_before_anything_is_sent(aws: Cloud, inputs: dict[str, Ref]) -> None:
    far = dataclasses.replace(aws.account, region="eu-west-1")
    with pytest.raises(MedpipeError, match=r"in us-east-1.*one in eu-west-1"):
        send(pack(settings(), inputs, far, ROOT), far, print)
    assert "Contents" not in aws.s3.list_objects_v2(Bucket=aws.bucket)

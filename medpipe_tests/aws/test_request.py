"""The CreateTrainingJob request: held against botocore's own description of the service, and accepted by moto's server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from medpipe.aws.account import Account
from medpipe.aws.request import METRICS, Launch, account_of, training_job
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe_tests.aws.conftest import IMAGE, REGION, ROLE, Cloud

ACCOUNT = Account("my-bucket", ROLE, IMAGE, REGION, "medpipe")
DIGEST = "0123456789abcdef" * 4


def launch(**changes: Any) -> Launch:
    channels = {f"{name}_uri": f"s3://my-bucket/medpipe/{name}" for name in ("code", "train", "eval", "launch")}
    return Launch(**{"digest": DIGEST, "profile": "sagemaker-qwen2.5", **channels, **changes})


def settings(**aws: Any) -> Settings:
    return load_profile("sagemaker-qwen2.5", {f"aws.{key}": value for key, value in aws.items()})


def request(made: Launch | None = None, **aws: Any) -> dict[str, Any]:
    made = made or launch()
    return training_job(settings(**aws), ACCOUNT, made, made.name(1))


def beyond(shape: Any, value: Any, where: str = "") -> Iterator[str]:
    """What breaks the limits, patterns and enumerations of the service's description, which botocore leaves to the service."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from beyond(shape.members[name], inner, f"{where}.{name}")
    elif shape.type_name == "list":
        for inner in value:
            yield from beyond(shape.member, inner, f"{where}[]")
    elif shape.type_name == "map":
        for name, inner in value.items():
            yield from beyond(shape.key, name, f"{where}.{name}")
            yield from beyond(shape.value, inner, f"{where}.{name}")
    limits = shape.metadata
    size = value if isinstance(value, int) else len(value)
    pattern = limits.get("pattern", ".*").replace(r"\p{L}\p{Z}\p{N}", r"\w ")
    words = limits.get("enum")
    if not limits.get("min", size) <= size <= limits.get("max", size) or (words and value not in words):
        yield f"{where}: {value}"
    if isinstance(value, str) and not re.fullmatch(pattern, value, re.S):
        yield f"{where}: {value} is not {pattern}"


def test_the_check_against_the_services_description_sees_what_is_wrong() -> None:
    import botocore.session

    shape = botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob").input_shape
    wrong = request() | {"TrainingJobName": "a_b", "Environment": {"A": "x" * 513}, "Tags": [{"Key": "a?", "Value": ""}]}
    wrong["ResourceConfig"] |= {"InstanceType": "g5"}
    assert [line.partition(":")[0] for line in beyond(shape, wrong)] == [
        ".TrainingJobName", ".ResourceConfig.InstanceType", ".Tags[].Key", ".Environment.A"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"spot": False},
        {"kms_key": "arn:aws:kms:us-east-1:123456789012:key/abc", "instance_count": 2},
        {"subnets": ["subnet-1", "subnet-2"], "security_groups": ["sg-1"]},
        {"tags": {"team": "medicine", "cost-centre": "42"}},
    ],
)
def test_botocore_and_moto_accept_it(aws: Cloud, section: dict[str, Any]) -> None:
    from botocore.validate import ParamValidator

    made = request(launch(environment={"A": "x" * 512}, hyperparameters={"learning_rate": "3e-05"}), **section)
    client = aws.account.client("sagemaker")
    service = client.meta.service_model
    report = ParamValidator().validate(made, service.operation_model("CreateTrainingJob").input_shape)
    assert not report.has_errors(), report.generate_report()
    assert list(beyond(service.operation_model("CreateTrainingJob").input_shape, made)) == []
    client.create_training_job(**made)
    told = client.describe_training_job(TrainingJobName=made["TrainingJobName"])
    for key in ("OutputDataConfig", "ResourceConfig", "StoppingCondition", "CheckpointConfig", "HyperParameters"):
        assert {**told[key], **made[key]} == told[key]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("sagemaker-qwen2.5", "medpipe-sagemaker-qwen2-5-0123456789ab-a1"),
        ("__ä__", "medpipe-unnamed-0123456789ab-a1"),
        ("x" * 35 + "-yz", "medpipe-" + "x" * 35 + "-0123456789ab-a1"),
    ],
)
def test_a_name_is_what_sagemaker_takes(profile: str, expected: str) -> None:
    name = launch(profile=profile).name(1)
    assert name == expected and len(launch(profile=profile).name(999)) <= 63
    assert re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name)


def test_a_number_that_does_not_fit_the_name_is_refused() -> None:
    with pytest.raises(MedpipeError, match="at most 63 characters"):
        launch(profile="x" * 50).name(10**6)


def test_every_job_has_caps() -> None:
    spot, steady = request(max_hours=6, max_wait_hours=12), request(spot=False, max_hours=0.5)
    assert spot["StoppingCondition"] == {"MaxRuntimeInSeconds": 21600, "MaxWaitTimeInSeconds": 43200} and spot["EnableManagedSpotTraining"]
    assert steady["StoppingCondition"] == {"MaxRuntimeInSeconds": 1800} and not steady["EnableManagedSpotTraining"]
    assert request(max_hours=8, max_wait_hours=1)["StoppingCondition"]["MaxWaitTimeInSeconds"] == 8 * 3600  # SageMaker refuses less


def test_places_in_s3_and_what_runs() -> None:
    made = request()
    channels = {each["ChannelName"]: each["DataSource"]["S3DataSource"] for each in made["InputDataConfig"]}
    assert {name: source["S3Uri"] for name, source in channels.items()} == {
        name: f"s3://my-bucket/medpipe/{name}/" for name in ("code", "train", "eval", "launch")
    }
    assert {source["S3DataDistributionType"] for source in channels.values()} == {"FullyReplicated"}
    assert made["OutputDataConfig"] == {"S3OutputPath": "s3://my-bucket/medpipe/jobs"}
    assert made["CheckpointConfig"] == {"S3Uri": "s3://my-bucket/medpipe/checkpoints/0123456789ab/", "LocalPath": "/opt/ml/checkpoints"}
    assert made["AlgorithmSpecification"]["TrainingImage"] == IMAGE and made["RoleArn"] == ROLE
    assert made["AlgorithmSpecification"]["ContainerEntrypoint"] == ["python3", "/opt/ml/input/data/code/scripts/sagemaker_entry.py"]
    assert made["ResourceConfig"] == {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 1, "VolumeSizeInGB": 100}


def test_a_key_encrypts_results_volumes_and_what_hosts_say_to_each_other() -> None:
    one, two = request(kms_key="alias/mine"), request(kms_key="alias/mine", instance_count=2)
    assert one["OutputDataConfig"]["KmsKeyId"] == one["ResourceConfig"]["VolumeKmsKeyId"] == "alias/mine"
    assert two["EnableInterContainerTrafficEncryption"] and not one["EnableInterContainerTrafficEncryption"]


def test_tags_name_the_launch_and_keep_the_users_own() -> None:
    tags = {tag["Key"]: tag["Value"] for tag in request(tags={"team": "medicine", "medpipe:launch": "forged"})["Tags"]}
    assert tags == {"team": "medicine", "medpipe:launch": DIGEST, "medpipe:profile": "sagemaker-qwen2.5"}


@pytest.mark.parametrize("value", ["0.1234", "1", "-2.5e-05", "1e+20"])
def test_metrics_are_read_from_the_containers_lines(value: str) -> None:
    definitions = {each["Name"]: each["Regex"] for each in request()["AlgorithmSpecification"]["MetricDefinitions"]}
    assert tuple(definitions) == METRICS == (
        "train:accuracy", "eval:accuracy", "collaboration:score", "medical:relevance", "safety:score", "team:value"
    )  # fmt: skip
    line = " ".join(f"{name}={value};" for name in METRICS)
    for regex in definitions.values():
        assert re.findall(regex, line) == [value]
        assert re.findall(regex, line.replace(f"={value};", "=nan;")) == []


@pytest.mark.parametrize(
    ("changes", "aws", "message"),
    [
        ({"environment": {"TOKEN": "s3cret" * 100}}, {}, "600 characters in TOKEN, expected at most 512"),
        ({"hyperparameters": {"a": "x" * 2501}}, {}, "2501 characters in a, expected at most 2500"),
        ({"environment": {f"V{n}": "" for n in range(101)}}, {}, "101 entries"),
        ({"train_uri": ""}, {}, "channel train"),
        ({"code_uri": "s3://my-bucket"}, {}, "channel code"),
        ({}, {"subnets": ["subnet-1"]}, "aws.subnets without aws.security_groups"),
        ({}, {"security_groups": ["sg-1"]}, "aws.security_groups without aws.subnets"),
    ],
)
def test_what_sagemaker_would_refuse_is_refused_here(changes: dict[str, Any], aws: dict[str, Any], message: str) -> None:
    with pytest.raises(MedpipeError, match=message) as refused:
        request(launch(**changes), **aws)
    assert "s3cret" not in str(refused.value)


def test_the_account_is_read_from_the_roles_arn() -> None:
    assert account_of(ROLE) == "123456789012" == account_of("arn:aws-us-gov:iam::123456789012:role/of/ours/medpipe-job")
    assert account_of("") == account_of("medpipe-job") == account_of("arn:aws:s3:::bucket") == ""


def test_an_account_without_an_image_is_refused() -> None:
    with pytest.raises(MedpipeError, match="MEDPIPE_AWS_IMAGE"):
        training_job(settings(), Account("b", ROLE, "", REGION, ""), launch(), "n")

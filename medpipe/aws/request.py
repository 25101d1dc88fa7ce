"""One launch as SageMaker's CreateTrainingJob request: image, data, results, machine, caps, tags.

    request = training_job(settings, account.needs("bucket", "role", "image"), launch, launch.name(1))
    client.create_training_job(**request)        # medpipe/aws/jobs.py does this, once for each launch

A pure function: it calls nobody. Every job has a cap on its time, and on spot one on its waiting too. Left out: what is
uploaded (channels.py), what a launch may cost (prices.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medpipe.aws.account import Account
from medpipe.config import Aws, Settings
from medpipe.errors import MedpipeError

METRICS = ("train:accuracy", "eval:accuracy", "collaboration:score", "medical:relevance", "safety:score", "team:value")
"""Numbers that SageMaker reads from the container's output: lines that hold `train:accuracy=0.1234;`."""
NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
ENTRYPOINT = ("python3", "/opt/ml/input/data/code/scripts/sagemaker_entry.py")
CHECKPOINTS = "/opt/ml/checkpoints"
LAUNCH_TAG = "medpipe:launch"
PROFILE_CHARACTERS = 36  # in a job's name, of SageMaker's 63
MOST_NAME = 63
MOST_VALUE = {"Environment": 512, "HyperParameters": 2500}  # SageMaker's limits, characters
MOST_ENTRIES = 100


@dataclass(frozen=True)
class Launch:
    """What one launch is made of; the digest is the hash of its settings, inputs and code."""

    digest: str
    profile: str
    code_uri: str
    train_uri: str
    eval_uri: str
    launch_uri: str
    environment: dict[str, str] = field(default_factory=dict)
    hyperparameters: dict[str, str] = field(default_factory=dict)
    account: str = ""  # its number, from `account_of`; empty where it is not known

    @property
    def digest12(self) -> str:
        """What names the launch in S3, in job names and on this machine."""
        return self.digest[:12]

    def name(self, attempt: int) -> str:
        """The job's name: the same launch and attempt always have the same, and SageMaker refuses a second job of one name.

        Raises:
            MedpipeError: an attempt whose number does not fit.
        """
        profile = re.sub("[^A-Za-z0-9]+", "-", self.profile)[:PROFILE_CHARACTERS].strip("-") or "unnamed"
        name = f"medpipe-{profile}-{self.digest12}-a{attempt}"
        if len(name) > MOST_NAME:
            raise MedpipeError(
                got=f"the name {name}", expected=f"at most {MOST_NAME} characters", where=f"attempt {attempt} of launch {self.digest12}",
                do="see why so many attempts failed (medpipe aws status), and change a setting: that makes a new launch",
            )  # fmt: skip
        return name


def account_of(role: str) -> str:
    """The number of the account that a role's ARN names, which SageMaker wants to be the caller's; empty where it is none."""
    found = re.fullmatch(r"arn:[\w-]+:iam::(\d{12}):role/.+", role)
    return found[1] if found else ""


def training_job(settings: Settings, account: Account, launch: Launch, name: str) -> dict[str, Any]:
    """The whole request.

    Args:
        settings: the profile; its `aws` section has machine, caps, network, key and tags.
        account: must have bucket, role and image.
        launch: addresses of the channels, and what the container is told.
        name: of the job, from `launch.name`.

    Raises:
        MedpipeError: something is missing, or longer than SageMaker takes.
    """
    aws = settings.aws
    account = account.needs("bucket", "role", "image")
    request: dict[str, Any] = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": account.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": list(ENTRYPOINT),
            "MetricDefinitions": [{"Name": metric, "Regex": f"{metric}={NUMBER};"} for metric in METRICS],
        },
        "RoleArn": account.role,
        "InputDataConfig": [
            _channel("code", launch.code_uri), _channel("train", launch.train_uri), _channel("eval", launch.eval_uri),
            _channel("launch", launch.launch_uri),
        ],
        "OutputDataConfig": {"S3OutputPath": account.uri("jobs")} | _key("KmsKeyId", aws),
        "ResourceConfig": {"InstanceType": aws.instance_type, "InstanceCount": aws.instance_count, "VolumeSizeInGB": aws.volume_gb}
        | _key("VolumeKmsKeyId", aws),
        "StoppingCondition": _caps(aws),
        "EnableManagedSpotTraining": aws.spot,
        "CheckpointConfig": {"S3Uri": account.uri("checkpoints", launch.digest12) + "/", "LocalPath": CHECKPOINTS},
        "Tags": _tags(aws, launch),
        "HyperParameters": _checked("HyperParameters", launch.hyperparameters),
        "Environment": _checked("Environment", launch.environment),
        "EnableInterContainerTrafficEncryption": aws.instance_count > 1 and bool(aws.kms_key),
    }  # fmt: skip
    return request | _network(aws)


def _channel(name: str, uri: str) -> dict[str, Any]:
    """All objects below an address; with a slash at its end, or S3 would give those of a longer name too."""
    if not re.match(r"s3://[^/]+/.", uri):
        raise MedpipeError(
            got=repr(uri), expected="s3://bucket/prefix", where=f"channel {name} of the training job",
            do="upload first (medpipe aws upload)",
        )  # fmt: skip
    source = {"S3DataType": "S3Prefix", "S3Uri": uri.rstrip("/") + "/", "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "File"}


def _caps(aws: Aws) -> dict[str, int]:
    runtime = math.ceil(aws.max_hours * 3600)
    wait = {"MaxWaitTimeInSeconds": max(runtime, math.ceil(aws.max_wait_hours * 3600))} if aws.spot else {}
    return {"MaxRuntimeInSeconds": runtime} | wait


def _key(field: str, aws: Aws) -> dict[str, str]:
    return {field: aws.kms_key} if aws.kms_key else {}


def _network(aws: Aws) -> dict[str, Any]:
    if bool(aws.subnets) != bool(aws.security_groups):
        there, missing = ("subnets", "security_groups") if aws.subnets else ("security_groups", "subnets")
        raise MedpipeError(
            got=f"aws.{there} without aws.{missing}", expected="both or neither", where="the profile's aws section", do=f"set aws.{missing}"
        )
    return {"VpcConfig": {"Subnets": list(aws.subnets), "SecurityGroupIds": list(aws.security_groups)}} if aws.subnets else {}


def _tags(aws: Aws, launch: Launch) -> list[dict[str, str]]:
    profile = re.sub(r"[^\w .:/=+@-]", "-", launch.profile)[:256]
    tags = aws.tags | {LAUNCH_TAG: launch.digest, "medpipe:profile": profile}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _checked(field: str, values: Mapping[str, str]) -> dict[str, str]:
    """The same values, if SageMaker takes them; a value is never shown."""
    if len(values) > MOST_ENTRIES:
        raise MedpipeError(
            got=f"{len(values)} entries", expected=f"at most {MOST_ENTRIES}", where=f"{field} of the training job", do="leave some out"
        )
    for name, value in values.items():
        if len(value) > MOST_VALUE[field]:
            raise MedpipeError(
                got=f"{len(value)} characters in {name}", expected=f"at most {MOST_VALUE[field]}", where=f"{field} of the training job",
                do="shorten it, or put it into a file of a channel",
            )  # fmt: skip
    return dict(values)

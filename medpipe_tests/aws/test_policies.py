"""The IAM policies of deploy/aws against the calls that the code makes: each is allowed, and nothing else is.

Calls are read from the source: `client.<operation>`, paginators and waiters by their literal names, boto3's transfers. What libraries
call for us (Dagster Pipes, s3fs) and what SageMaker itself does under the job's role stands in tables here, with the reason.
"""

from __future__ import annotations

import ast
import fnmatch
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from medpipe.aws.setup import POLICIES, filled
from medpipe.tasks import PACKAGE

LAUNCHER, JOB, SETUP = "launcher-policy", "job-policy", "setup-policy"
SIDES: dict[str, tuple[str, ...]] = {  # who runs a file, below medpipe/
    **dict.fromkeys(("aws/entry.py", "aws/hosts.py", "aws/layout.py", "aws/voice.py"), (JOB,)),
    **dict.fromkeys(("aws/calls.py", "aws/channels.py", "aws/intents.py", "aws/jobs.py", "aws/logs.py", "aws/prices.py"), (LAUNCHER,)),
    **dict.fromkeys(("aws/request.py", "aws/results.py", "aws/sync.py", "aws/store.py", "aws/tuning.py"), (LAUNCHER,)),
    **dict.fromkeys(("aws/__init__.py", "aws/account.py", "aws/errors.py"), (LAUNCHER, JOB, SETUP)),
    "aws/setup.py": (SETUP,),
    "assets/sagemaker.py": (LAUNCHER,),
    "cli_aws.py": (LAUNCHER,),
}
CHECKS = {"check_account", "location", "_check_bucket", "_check_role", "_check_image", "_role", "_region_of_bucket"}
"""Functions of aws/setup.py that a launcher runs too."""

ACTIONS: dict[str, tuple[str, ...]] = {  # boto3's name → what IAM must allow
    "abort_multipart_upload": ("s3:AbortMultipartUpload",),
    **dict.fromkeys(
        ("put_object", "create_multipart_upload", "upload_part", "complete_multipart_upload", "upload_file", "upload_fileobj"),
        ("s3:PutObject",),
    ),
    **dict.fromkeys(("get_object", "head_object", "download_file", "download_fileobj"), ("s3:GetObject",)),
    "delete_object": ("s3:DeleteObject",),
    "delete_objects": ("s3:DeleteObject",),
    "list_objects_v2": ("s3:ListBucket",),
    "head_bucket": ("s3:ListBucket",),
    "create_bucket": ("s3:CreateBucket",),
    "get_bucket_location": ("s3:GetBucketLocation",),
    "get_bucket_policy": ("s3:GetBucketPolicy",),
    "put_bucket_policy": ("s3:PutBucketPolicy",),
    "get_bucket_encryption": ("s3:GetEncryptionConfiguration",),
    "put_bucket_encryption": ("s3:PutEncryptionConfiguration",),
    "get_bucket_lifecycle_configuration": ("s3:GetLifecycleConfiguration",),
    "put_bucket_lifecycle_configuration": ("s3:PutLifecycleConfiguration",),
    "put_public_access_block": ("s3:PutBucketPublicAccessBlock",),
    "create_training_job": ("sagemaker:CreateTrainingJob", "sagemaker:AddTags", "iam:PassRole"),
    "describe_training_job": ("sagemaker:DescribeTrainingJob",),
    "stop_training_job": ("sagemaker:StopTrainingJob",),
    "list_training_jobs": ("sagemaker:ListTrainingJobs",),
    "list_tags": ("sagemaker:ListTags",),
    "create_hyper_parameter_tuning_job": ("sagemaker:CreateHyperParameterTuningJob", "sagemaker:AddTags", "iam:PassRole"),
    "describe_hyper_parameter_tuning_job": ("sagemaker:DescribeHyperParameterTuningJob",),
    "stop_hyper_parameter_tuning_job": ("sagemaker:StopHyperParameterTuningJob",),
    "list_hyper_parameter_tuning_jobs": ("sagemaker:ListHyperParameterTuningJobs",),
    "describe_log_streams": ("logs:DescribeLogStreams",),
    "get_log_events": ("logs:GetLogEvents",),
    "filter_log_events": ("logs:FilterLogEvents",),
    "get_role": ("iam:GetRole",),
    "create_role": ("iam:CreateRole",),
    "put_role_policy": ("iam:PutRolePolicy",),
    "describe_repositories": ("ecr:DescribeRepositories",),
    "create_repository": ("ecr:CreateRepository",),
    "describe_images": ("ecr:DescribeImages",),
    "get_secret_value": ("secretsmanager:GetSecretValue",),
    "get_caller_identity": (),  # AWS asks for no permission
}
LIBRARIES: dict[str, dict[str, str]] = {  # calls that are not in our source
    LAUNCHER: {"s3:GetObject": "dagster_aws: PipesS3MessageReader", "s3:PutObject": "s3fs: the store", "s3:ListBucket": "s3fs: the store",
               "s3:AbortMultipartUpload": "boto3: a transfer in parts that fails"},
    JOB: {"s3:GetObject": "dagster_pipes: the context", "s3:PutObject": "dagster_pipes: messages",
          "s3:AbortMultipartUpload": "boto3: a transfer in parts that fails"},
    SETUP: {},
}  # fmt: skip
BESIDE: dict[str, dict[str, str]] = {  # allowed though no line of ours calls them
    LAUNCHER: {},
    JOB: {
        **dict.fromkeys(
            ("ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
            "SageMaker pulls the image under the role",
        ),
        **dict.fromkeys(
            ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
            "SageMaker writes the container's output to CloudWatch under the role",
        ),
        "cloudwatch:PutMetricData": "SageMaker publishes the metric definitions' numbers under the role",
        "s3:AbortMultipartUpload": "SageMaker uploads archives and checkpoints in parts",
    },
    SETUP: dict.fromkeys(
        ("ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart",
         "ecr:CompleteLayerUpload", "ecr:PutImage"),
        "docker push, which follows the setup",
    ),
}  # fmt: skip
UNRESTRICTED = {  # AWS has no resource that these could be held to
    "sagemaker:ListTrainingJobs", "ecr:GetAuthorizationToken", "cloudwatch:PutMetricData", "ec2:DescribeDhcpOptions",
    "ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
}  # fmt: skip
VALUES = {
    "account": "123456789012", "partition": "aws", "region": "us-east-1", "bucket": "bucket", "prefix": "medpipe", "role": "medpipe-job",
    "repository": "medpipe",
}  # fmt: skip
FILES = sorted((PACKAGE.parent / POLICIES).glob("*.json"))
EVERY = [path.stem for path in FILES if path.stem.endswith("-policy")]


# --- what the code calls


@cache
def operations() -> frozenset[str]:
    """boto3's names of all calls of the services that we use, and its transfers."""
    session = botocore.session.get_session()
    services = ("s3", "sagemaker", "logs", "iam", "ecr", "sts", "secretsmanager", "cloudwatch")
    loader = session.get_component("data_loader")
    names = {xform_name(name) for service in services for name in loader.load_service_model(service, "service-2")["operations"]}
    names -= {"search"}  # of SageMaker; re.search has the same name
    return frozenset(names | {"upload_file", "upload_fileobj", "download_file", "download_fileobj"})


@cache
def waited_for() -> dict[str, str]:
    """Waiter → the call that it repeats."""
    session = botocore.session.get_session()
    found = {}
    for service in ("s3", "sagemaker", "iam", "ecr"):
        model = session.get_waiter_model(service)
        found |= {xform_name(name): xform_name(model.get_waiter(name).operation) for name in model.waiter_names}
    return found


def calls_in(tree: ast.AST) -> Iterator[str]:
    """Every call of AWS in a piece of source, also one that is only handed on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in operations():
            yield node.attr
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get_paginator", "get_waiter"):
            (name,) = node.args
            assert isinstance(name, ast.Constant) and isinstance(name.value, str), "a literal name, so that this test can read it"
            yield name.value if node.func.attr == "get_paginator" else waited_for()[name.value]


@cache
def needed() -> dict[str, dict[str, str]]:
    """Side → action → the first place that needs it."""
    found: dict[str, dict[str, str]] = {LAUNCHER: {}, JOB: {}, SETUP: {}}
    for name, sides in SIDES.items():
        path = PACKAGE / name
        for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
            checks = name == "aws/setup.py" and getattr(node, "name", "") in CHECKS
            for call in calls_in(node):
                assert call in ACTIONS, f"{name} calls {call}: say in ACTIONS what IAM must allow for it"
                for side in (*sides, LAUNCHER) if checks else sides:
                    for action in ACTIONS[call]:
                        found[side].setdefault(action, f"{name}: {call}")
    return found


# --- what the policies allow


def statements(name: str) -> list[dict[str, Any]]:
    return filled(name, VALUES)["Statement"]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allowed_actions(name: str) -> set[str]:
    return {action for one in statements(name) for action in listed(one["Action"])}


def allows(name: str, action: str, resource: str, **context: str) -> bool:
    """As IAM judges: an action, a resource, and a value for each condition key."""
    for one in statements(name):
        if action not in listed(one["Action"]) or not any(fnmatch.fnmatchcase(resource, each) for each in listed(one["Resource"])):
            continue
        rules = [(key, listed(wanted)) for test in one.get("Condition", {}).values() for key, wanted in test.items()]
        if all(any(fnmatch.fnmatchcase(context.get(key.replace(":", "_"), ""), each) for each in wanted) for key, wanted in rules):
            return True
    return False


def test_every_file_has_a_side() -> None:
    assert {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "aws").rglob("*.py")} <= set(SIDES)


@pytest.mark.parametrize("side", [LAUNCHER, JOB, SETUP])
def test_every_call_is_allowed(side: str) -> None:
    missing = {action: where for action, where in {**LIBRARIES[side], **needed()[side]}.items() if action not in allowed_actions(side)}
    assert not missing


@pytest.mark.parametrize("side", [LAUNCHER, JOB, SETUP])
def test_nothing_else_is_allowed(side: str) -> None:
    assert not allowed_actions(side) - set(needed()[side]) - set(LIBRARIES[side]) - set(BESIDE[side])


def test_reasons_are_given_only_where_they_are_needed() -> None:
    assert all(action in allowed_actions(side) for side, reasons in BESIDE.items() for action in reasons)
    assert set(ACTIONS) <= operations()


@pytest.mark.parametrize("name", EVERY)
def test_no_stars_but_where_aws_takes_nothing_else(name: str) -> None:
    for one in statements(name):
        assert one["Effect"] == "Allow" and not any("*" in action for action in listed(one["Action"]))
        if "*" in listed(one["Resource"]):
            assert set(listed(one["Action"])) <= UNRESTRICTED, one["Sid"]
        assert all(
            each == "*" or "bucket" in each or ":123456789012:" in each or each.endswith("/pytorch-training")
            for each in listed(one["Resource"])
        )


def test_the_launcher_reaches_its_prefix_and_its_jobs_only() -> None:
    inside, outside = "arn:aws:s3:::bucket/medpipe/data/x", "arn:aws:s3:::bucket/other/x"
    assert allows(LAUNCHER, "s3:PutObject", inside) and not allows(LAUNCHER, "s3:PutObject", outside)
    assert not allows(LAUNCHER, "s3:PutObject", "arn:aws:s3:::bucket2/medpipe/x")
    assert allows(LAUNCHER, "s3:ListBucket", "arn:aws:s3:::bucket", s3_prefix="medpipe/data/")
    assert not allows(LAUNCHER, "s3:ListBucket", "arn:aws:s3:::bucket", s3_prefix="other/")
    assert not allows(LAUNCHER, "s3:ListBucket", "arn:aws:s3:::bucket")
    job = "arn:aws:sagemaker:us-east-1:123456789012:training-job/"
    assert allows(LAUNCHER, "sagemaker:CreateTrainingJob", job + "medpipe-smoke-0123-a1")
    assert not allows(LAUNCHER, "sagemaker:StopTrainingJob", job + "somebody-elses")


def test_the_role_is_given_to_sagemaker_only() -> None:
    role = "arn:aws:iam::123456789012:role/medpipe-job"
    assert allows(LAUNCHER, "iam:PassRole", role, iam_PassedToService="sagemaker.amazonaws.com")
    assert not allows(LAUNCHER, "iam:PassRole", role, iam_PassedToService="ec2.amazonaws.com")
    assert not allows(LAUNCHER, "iam:PassRole", role.replace("medpipe-job", "admin"), iam_PassedToService="sagemaker.amazonaws.com")


def test_a_job_writes_only_where_its_results_go() -> None:
    at = "arn:aws:s3:::bucket/medpipe/"
    for place in ("code/1/a.py", "data/1/train/a", "launches/1/launch.json", "checkpoints/1/a", "jobs/n/output/model.tar.gz"):
        assert allows(JOB, "s3:GetObject", at + place), place
        assert allows(JOB, "s3:PutObject", at + place) == place.startswith(("checkpoints", "jobs")), place
    assert allows(JOB, "s3:PutObject", at + "launches/1/share/job/ready.json")
    assert allows(JOB, "s3:DeleteObject", at + "launches/1/share/job/ready.json")
    assert not allows(JOB, "s3:DeleteObject", at + "checkpoints/1/a")


def test_a_job_reads_only_secrets_that_are_meant_for_it() -> None:
    at = "arn:aws:secretsmanager:us-east-1:123456789012:secret:"
    assert allows(JOB, "secretsmanager:GetSecretValue", at + "medpipe/hf-AbCdEf")
    assert not allows(JOB, "secretsmanager:GetSecretValue", at + "billing-AbCdEf")


def test_a_call_that_only_a_variable_names_is_refused() -> None:
    found = set(calls_in(ast.parse("retry(client.put_object); client.get_waiter('role_exists')")))
    assert found == {"put_object", "get_role"}
    with pytest.raises(AssertionError, match="a literal name"):
        list(calls_in(ast.parse("client.get_paginator(name)")))


def test_policies_are_files_that_iam_can_take() -> None:
    assert len(FILES) == 5
    for path in FILES:
        text = json.dumps(filled(path.stem, VALUES), separators=(",", ":"))
        assert len(text) < 6144, f"{path}: longer than a managed policy may be"

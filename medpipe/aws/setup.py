"""From an empty AWS account to what training needs: a bucket, a role for the jobs, a repository for the image.

    make_account(account, print, bucket="my-medpipe")       # again and again: what is there stays
    check_account(account)                                  # one line for each thing that is missing; changes nothing

Policies are read from the project's root, deploy/aws/*.json; deploy/aws/README.md tells what each of them allows. What belongs to
somebody else, or differs from what this would make, is never changed: that is a MedpipeError. Left out: quotas for GPU instances
(asked for on AWS's page), a VPC, a KMS key, building and pushing the image, taking any of it away again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medpipe.aws.account import Account
from medpipe.aws.errors import explained
from medpipe.errors import MedpipeError

Say = Callable[[str], None]
POLICIES = Path("deploy") / "aws"
ROLE_NAME = "medpipe-job"
REPOSITORY = "medpipe"
TAG = "0.1.0"  # of the image that is to be pushed, as docs/aws.md has it
INLINE, INLINE_VPC = "medpipe-job", "medpipe-job-vpc"
TLS_SID = "MedpipeTlsOnly"
UPLOAD_DAYS, CHECKPOINT_DAYS = 7, 30
FIRST_REGION = "us-east-1"
"""The one region whose name S3 does not take as a location."""
OLD_NAMES = {"EU": "eu-west-1"}
"""Locations of old buckets that are not called like their region."""


def make_account(
    account: Account, say: Say, bucket: str, role_name: str = ROLE_NAME, repository: str = REPOSITORY, vpc: bool = False
) -> dict[str, str]:
    """Make what is missing and tell each step; returns the values to export, by variable.

    Args:
        account: needs a region; its prefix is the one that the policies allow.
        say: told a line per step, and at the end what to export.
        bucket: its name; names are shared by all accounts of AWS.
        role_name: of the role that jobs work under.
        repository: of the image, in ECR.
        vpc: let jobs work in a VPC of yours (aws.subnets).

    Raises:
        MedpipeError: a name is taken by somebody else, or what is there differs; nothing after it is made.
    """
    account.needs("region")
    with explained("asking who is calling"):
        identity = account.client("sts").get_caller_identity()
    say(f"account {identity['Account']}, as {identity['Arn']}, region {account.region}")
    values = values_of(account, identity, bucket, role_name, repository)
    trust, policies = filled("job-trust", values), {INLINE: filled("job-policy", values)}
    if vpc:
        policies[INLINE_VPC] = filled("job-vpc-policy", values)
    with explained(f"making the bucket {bucket}"):
        _make_bucket(account, say, values)
    with explained(f"making the role {role_name}"):
        role = _make_role(account, say, role_name, trust, policies)
    with explained(f"making the repository {repository}"):
        uri = _make_repository(account, say, repository)
    exports = {"MEDPIPE_AWS_BUCKET": bucket, "MEDPIPE_AWS_ROLE": role, "MEDPIPE_AWS_IMAGE": f"{uri}:{TAG}"}
    for name, value in exports.items():
        say(f"export {name}={value}")
    say(f"the image is not made here: build and push deploy/docker as {uri}:{TAG}, or export the URI of one of AWS's PyTorch")
    say("training images in this region as MEDPIPE_AWS_IMAGE (deploy/aws/README.md has the commands)")
    return exports


def check_account(account: Account, say: Say = lambda line: None) -> list[str]:
    """What is missing before a launch, one message each; `say` is told what is there. Nothing is changed."""
    found: list[str] = []
    try:
        account.needs("bucket", "role", "image", "region")
        with explained("asking who is calling"):
            identity = account.client("sts").get_caller_identity()
    except MedpipeError as error:
        return [str(error)]
    say(f"account {identity['Account']}, as {identity['Arn']}, region {account.region}")
    for check in (_check_bucket, _check_role, _check_image):
        try:
            say(check(account, identity["Account"]))
        except MedpipeError as error:
            found.append(str(error))
    return found


def values_of(account: Account, identity: dict[str, str], bucket: str, role_name: str, repository: str) -> dict[str, str]:
    """What stands in the policies for <name>."""
    partition = identity["Arn"].split(":")[1]  # aws, aws-cn, aws-us-gov
    return {
        "account": identity["Account"], "partition": partition, "region": account.region, "bucket": bucket, "prefix": account.prefix,
        "role": role_name, "repository": repository,
    }  # fmt: skip


def filled(name: str, values: dict[str, str]) -> dict[str, Any]:
    """A policy of deploy/aws with its <names> filled in; with an empty prefix, the whole bucket is the prefix.

    Raises:
        MedpipeError: this is not the project's root, or a <name> is left.
    """
    path = POLICIES / f"{name}.json"
    if not path.is_file():
        raise MedpipeError(
            got=f"no {path}", expected="the project's root", where=f"the working directory {Path.cwd()}", do="change to the project's root"
        )
    text = path.read_text(encoding="utf-8")
    if not values["prefix"]:
        text = text.replace("<prefix>/", "")
    for key, value in values.items():
        text = text.replace(f"<{key}>", value)
    if left := sorted(set(re.findall(r"<\w+>", text))):
        raise MedpipeError(got=", ".join(left), expected=f"one of {', '.join(values)}", where=str(path), do="correct the name")
    return json.loads(text)


# --- what is made


def _make_bucket(account: Account, say: Say, values: dict[str, str]) -> None:
    client, bucket = account.client("s3"), values["bucket"]
    there = _region_of_bucket(client, bucket, values["account"])
    if there is None:
        _create_bucket(client, account.region, bucket)
        say(f"bucket {bucket}: made in {account.region}")
    elif there != account.region:
        raise _elsewhere(bucket, there, account.region)
    else:
        say(f"bucket {bucket}: there already")
    block = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    say(f"bucket {bucket}: closed to the public")
    _encrypt(client, say, bucket)
    _demand_tls(client, say, bucket, values["partition"])
    _let_expire(client, say, bucket, account)


def location(client: Any, bucket: str, owner: str = "") -> str:
    """The region in which a bucket lies.

    Args:
        client: of S3.
        bucket: its name.
        owner: number of the account that it must be of; empty: of any.

    Raises:
        ClientError: S3 knows no such bucket, or does not say; `explained` makes a message of it.
    """
    owned = {"ExpectedBucketOwner": owner} if owner else {}
    said = client.get_bucket_location(Bucket=bucket, **owned)["LocationConstraint"] or FIRST_REGION
    return OLD_NAMES.get(said, said)


def _region_of_bucket(client: Any, bucket: str, owner: str) -> str | None:
    """Where the bucket lies, None where there is none.

    Raises:
        MedpipeError: it is somebody else's.
    """
    from botocore.exceptions import ClientError

    try:
        return location(client, bucket, owner)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            return None
        if code in ("AccessDenied", "403"):
            raise _not_yours(bucket) from error
        raise


def _create_bucket(client: Any, region: str, bucket: str) -> None:
    from botocore.exceptions import ClientError

    place = {} if region == FIRST_REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.create_bucket(Bucket=bucket, **place)
    except ClientError as error:
        if error.response["Error"]["Code"] == "BucketAlreadyExists":
            raise _not_yours(bucket) from error
        if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":  # another process made it in this moment
            raise


def _encrypt(client: Any, say: Say, bucket: str) -> None:
    """Encryption by S3's own keys, where the bucket has none; one that somebody chose stays."""
    from botocore.exceptions import ClientError

    try:
        rules = client.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        rules = [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules})
    say(f"bucket {bucket}: encrypted ({rules[0]['ApplyServerSideEncryptionByDefault']['SSEAlgorithm']})")


def _demand_tls(client: Any, say: Say, bucket: str, partition: str) -> None:
    """Refuse calls without TLS, beside the statements that the bucket's policy has."""
    from botocore.exceptions import ClientError

    try:
        policy = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchBucketPolicy":
            raise
        policy = {"Version": "2012-10-17", "Statement": []}
    arn = f"arn:{partition}:s3:::{bucket}"
    statement = {
        "Sid": TLS_SID, "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }  # fmt: skip
    others = [one for one in policy["Statement"] if one.get("Sid") != TLS_SID]
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({**policy, "Statement": [*others, statement]}))
    say(f"bucket {bucket}: TLS only")


def _let_expire(client: Any, say: Say, bucket: str, account: Account) -> None:
    """Old checkpoints and half uploads go; rules of other names stay."""
    from botocore.exceptions import ClientError

    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        rules = []
    prefix = account.key("checkpoints") + "/"
    ours = [
        {
            "ID": "medpipe-half-uploads", "Status": "Enabled", "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UPLOAD_DAYS},
        },
        {"ID": f"medpipe-{prefix}", "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": CHECKPOINT_DAYS}},
    ]  # fmt: skip
    names = {rule["ID"] for rule in ours}
    kept = [rule for rule in rules if rule.get("ID") not in names]
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [*kept, *ours]})
    say(f"bucket {bucket}: half uploads go after {UPLOAD_DAYS} days, what lies below {prefix} after {CHECKPOINT_DAYS}")


def _make_role(account: Account, say: Say, name: str, trust: dict[str, Any], policies: dict[str, dict[str, Any]]) -> str:
    client = account.client("iam")
    role = _role(client, name)
    if role is None:
        described = "Under it SageMaker runs medpipe's training jobs"
        role = client.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust), Description=described)["Role"]
        client.get_waiter("role_exists").wait(RoleName=name)
        say(f"role {name}: made; SageMaker may not know it for some seconds")
    elif role["AssumeRolePolicyDocument"] != trust:
        raise MedpipeError(
            got=f"a role {name} with another trust policy", expected=f"the one of {POLICIES / 'job-trust.json'}", where="IAM",
            do="give another name (--role-name), or correct the role's trust policy if it is meant for medpipe",
        )  # fmt: skip
    else:
        say(f"role {name}: there already")
    for inline, policy in policies.items():
        client.put_role_policy(RoleName=name, PolicyName=inline, PolicyDocument=json.dumps(policy))
        say(f"role {name}: policy {inline} set")
    return role["Arn"]


def _make_repository(account: Account, say: Say, name: str) -> str:
    client = account.client("ecr")
    try:
        uri = client.describe_repositories(repositoryNames=[name])["repositories"][0]["repositoryUri"]
        say(f"repository {name}: there already")
    except client.exceptions.RepositoryNotFoundException:
        # A tag that can be moved would let two launches of one digest run different images.
        made = client.create_repository(
            repositoryName=name, imageTagMutability="IMMUTABLE", imageScanningConfiguration={"scanOnPush": True}
        )
        uri = made["repository"]["repositoryUri"]
        say(f"repository {name}: made; tags can't be moved, images are scanned")
    return uri


def _role(client: Any, name: str) -> dict[str, Any] | None:
    try:
        return client.get_role(RoleName=name)["Role"]
    except client.exceptions.NoSuchEntityException:
        return None


# --- what is checked


def _check_bucket(account: Account, number: str) -> str:
    with explained(f"looking for the bucket {account.bucket}"):
        there = _region_of_bucket(account.client("s3"), account.bucket, number)
    if there is None:
        raise MedpipeError(got="none", expected=f"the bucket {account.bucket}", where="S3", do="medpipe aws setup makes it")
    if there != account.region:
        raise _elsewhere(account.bucket, there, account.region)
    return f"bucket {account.bucket}: there, in {there}"


def _check_role(account: Account, number: str) -> str:
    parts = account.role.split(":")
    if len(parts) != 6 or parts[2] != "iam" or not parts[5].startswith("role/"):
        raise MedpipeError(
            got=account.role, expected="arn:aws:iam::<account>:role/<name>", where="aws.role or MEDPIPE_AWS_ROLE", do="correct it"
        )
    if parts[4] != number:
        raise MedpipeError(
            got=f"a role of account {parts[4]}", expected=f"one of {number}, whose credentials these are", where="aws.role",
            do="take the credentials or the role of the other account",
        )  # fmt: skip
    name = parts[5].rpartition("/")[2]
    with explained(f"looking for the role {name}"):
        role = _role(account.client("iam"), name)
    if role is None:
        raise MedpipeError(got="none", expected=f"the role {name}", where="IAM", do="medpipe aws setup makes it")
    services = [_listed(one.get("Principal", {}), "Service") for one in role["AssumeRolePolicyDocument"]["Statement"]]
    if not any("sagemaker.amazonaws.com" in each for each in services):
        raise MedpipeError(
            got=f"a role {name} that SageMaker can't take", expected="sagemaker.amazonaws.com in its trust policy", where="IAM",
            do="take the role that medpipe aws setup makes",
        )  # fmt: skip
    return f"role {name}: there, SageMaker can take it"


def _check_image(account: Account, number: str) -> str:
    """Only an image of this account and region is looked for; whether another is there, SageMaker tells."""
    found = re.fullmatch(r"(\d{12})\.dkr\.ecr\.([\w-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)(?::([^@]+))?(?:@(sha256:\w+))?", account.image)
    if found is None:
        raise MedpipeError(
            got=account.image, expected="<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>",
            where="aws.image or MEDPIPE_AWS_IMAGE", do="push the image to ECR: SageMaker takes no other registry here",
        )  # fmt: skip
    owner, region, repository, tag, sha = found.groups()
    if owner != number or region != account.region:
        return f"image {account.image}: of another account or region, not looked for"
    client, wanted = account.client("ecr"), {"imageDigest": sha} if sha else {"imageTag": tag or "latest"}
    with explained(f"looking for the image {account.image}"):
        try:
            client.describe_images(repositoryName=repository, imageIds=[wanted])
        except (client.exceptions.ImageNotFoundException, client.exceptions.RepositoryNotFoundException) as error:
            raise MedpipeError(
                got="none", expected=f"the image {account.image}", where="ECR", do="build and push it (deploy/aws/README.md)"
            ) from error
    return f"image {account.image}: there"


def _listed(principal: Any, kind: str) -> list[str]:
    """A principal of one kind as a list; "*" has none."""
    found = principal.get(kind, []) if isinstance(principal, dict) else []
    return [found] if isinstance(found, str) else found


def _not_yours(bucket: str) -> MedpipeError:
    return MedpipeError(
        got=f"a bucket {bucket} of somebody else, or one that these credentials may not see", expected="a bucket of this account",
        where="S3 (names are shared by all accounts)", do="choose another name, or allow s3:GetBucketLocation on it",
    )  # fmt: skip


def _elsewhere(bucket: str, there: str, here: str) -> MedpipeError:
    return MedpipeError(
        got=f"the bucket {bucket} in {there}", expected=f"one in {here}, where the jobs run", where="S3",
        do=f"set AWS_REGION={there}, or choose another bucket",
    )  # fmt: skip

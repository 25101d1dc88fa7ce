"""From an empty account to what training needs, on moto's server: made once, made again, and what is somebody else's."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from medpipe.aws.account import Account
from medpipe.aws.setup import (
    CHECKPOINT_DAYS,
    TLS_SID,
    UPLOAD_DAYS,
    _create_bucket,
    _region_of_bucket,
    check_account,
    filled,
    location,
    make_account,
)
from medpipe.errors import MedpipeError
from medpipe_tests.aws.conftest import ROLE, Cloud

NUMBER = "123456789012"


@pytest.fixture
def names() -> dict[str, Any]:
    """Names that no other test takes: one moto serves all of them."""
    ending = uuid.uuid4().hex[:10]
    return {"bucket": f"made-{ending}", "role_name": f"job-{ending}", "repository": f"medpipe-{ending}"}


def in_region(region: str) -> Account:
    return Account("", "", "", region, "medpipe")


def made(account: Account, names: dict[str, Any]) -> Account:
    """Set up, as the account then is."""
    exports = make_account(account, lambda line: None, **names)
    return Account(exports["MEDPIPE_AWS_BUCKET"], exports["MEDPIPE_AWS_ROLE"], exports["MEDPIPE_AWS_IMAGE"], account.region, account.prefix)


def state(account: Account, names: dict[str, Any]) -> dict[str, Any]:
    """Everything that was made, as AWS tells it."""
    s3, iam, ecr = (account.client(service) for service in ("s3", "iam", "ecr"))
    bucket, role = {"Bucket": names["bucket"]}, {"RoleName": names["role_name"]}
    return {
        "place": s3.get_bucket_location(**bucket)["LocationConstraint"],
        "public": s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"],
        "encryption": s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"],
        "policy": json.loads(s3.get_bucket_policy(**bucket)["Policy"]),
        "lifecycle": s3.get_bucket_lifecycle_configuration(**bucket)["Rules"],
        "trust": iam.get_role(**role)["Role"]["AssumeRolePolicyDocument"],
        "inline": {
            name: iam.get_role_policy(**role, PolicyName=name)["PolicyDocument"] for name in iam.list_role_policies(**role)["PolicyNames"]
        },
        "repository": ecr.describe_repositories(repositoryNames=[names["repository"]])["repositories"][0],
    }


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_an_empty_account_gets_all_that_training_needs(aws: Cloud, names: dict[str, Any], region: str) -> None:
    said: list[str] = []
    exports = make_account(in_region(region), said.append, **names)
    found = state(in_region(region), names)

    assert (found["place"] or "us-east-1") == region
    assert all(found["public"].values()) and len(found["public"]) == 4
    assert found["encryption"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (statement,) = found["policy"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    uploads, checkpoints = found["lifecycle"]
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": UPLOAD_DAYS}
    assert (checkpoints["Filter"]["Prefix"], checkpoints["Expiration"]["Days"]) == ("medpipe/checkpoints/", CHECKPOINT_DAYS)
    assert found["trust"]["Statement"][0]["Condition"] == {"StringEquals": {"aws:SourceAccount": NUMBER}}
    assert "<" not in json.dumps(found["inline"]) and names["bucket"] in json.dumps(found["inline"])
    assert found["repository"]["imageTagMutability"] == "IMMUTABLE"
    assert found["repository"]["imageScanningConfiguration"] == {"scanOnPush": True}
    assert {f"export {name}={value}" for name, value in exports.items()} <= set(said)
    assert exports["MEDPIPE_AWS_IMAGE"] == f"{NUMBER}.dkr.ecr.{region}.amazonaws.com/{names['repository']}:0.1.0"


def test_a_second_time_changes_nothing(aws: Cloud, names: dict[str, Any]) -> None:
    account, said = in_region("us-east-1"), []
    first = make_account(account, said.append, **names)
    before = state(account, names)
    said.clear()
    assert make_account(account, said.append, **names) == first
    assert state(account, names) == before
    assert sum("there already" in line for line in said) == 3


def test_what_the_bucket_had_before_stays(aws: Cloud, names: dict[str, Any]) -> None:
    account, s3 = in_region("us-east-1"), aws.s3
    bucket = names["bucket"]
    own = {"Sid": "Own", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    rule = {"ID": "own", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    encryption = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]}
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [own]}))
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=encryption)
    make_account(account, lambda line: None, **names)
    found = state(account, names)
    assert [one["Sid"] for one in found["policy"]["Statement"]] == ["Own", TLS_SID]
    assert found["lifecycle"][0]["ID"] == "own" and len(found["lifecycle"]) == 3
    assert found["encryption"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"


@pytest.mark.parametrize(("call", "code"), [("get_bucket_location", "AccessDenied"), ("create_bucket", "BucketAlreadyExists")])
def test_a_bucket_of_somebody_else_is_refused(aws: Cloud, names: dict[str, Any], call: str, code: str) -> None:
    """moto shows every account's buckets to everybody, so S3's own answers stand in for it here."""
    client = aws.s3
    with Stubber(client) as stub, pytest.raises(MedpipeError, match=r"of somebody else.*choose another name"):
        if call == "create_bucket":
            stub.add_client_error("get_bucket_location", "NoSuchBucket", http_status_code=404)
        stub.add_client_error(call, code, http_status_code=403)
        if _region_of_bucket(client, names["bucket"], NUMBER) is None:
            _create_bucket(client, "us-east-1", names["bucket"])


@pytest.mark.parametrize(("said", "region"), [("EU", "eu-west-1"), ("", "us-east-1"), ("eu-central-1", "eu-central-1")])
def test_old_names_of_regions_are_known(aws: Cloud, said: str, region: str) -> None:
    client = aws.s3
    with Stubber(client) as stub:
        stub.add_response("get_bucket_location", {"LocationConstraint": said}, {"Bucket": "old"})
        assert location(client, "old") == region
        stub.add_response("get_bucket_location", {"LocationConstraint": said}, {"Bucket": "old", "ExpectedBucketOwner": NUMBER})
        assert _region_of_bucket(client, "old", NUMBER) == region


def test_the_docs_show_the_tag_that_is_printed(aws: Cloud, names: dict[str, Any]) -> None:
    names["repository"] = "medpipe"
    image = make_account(in_region("us-east-1"), lambda line: None, **names)["MEDPIPE_AWS_IMAGE"]
    assert f"export MEDPIPE_AWS_IMAGE={image}\n" in Path("docs/aws.md").read_text(encoding="utf-8")


def test_a_bucket_in_another_region_is_refused(aws: Cloud, names: dict[str, Any]) -> None:
    make_account(in_region("eu-central-1"), lambda line: None, **names)
    with pytest.raises(MedpipeError, match=r"in eu-central-1, expected one in us-east-1.*AWS_REGION=eu-central-1"):
        make_account(in_region("us-east-1"), lambda line: None, **names)


def test_a_role_with_another_trust_policy_is_refused(aws: Cloud, names: dict[str, Any]) -> None:
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
    iam = aws.account.client("iam")
    iam.create_role(RoleName=names["role_name"], AssumeRolePolicyDocument=json.dumps(trust))
    with pytest.raises(MedpipeError, match=r"another trust policy.*--role-name"):
        make_account(in_region("us-east-1"), lambda line: None, **names)
    assert iam.list_role_policies(RoleName=names["role_name"])["PolicyNames"] == []


def test_no_region_is_told(aws: Cloud, names: dict[str, Any]) -> None:
    with pytest.raises(MedpipeError, match="no region"):
        make_account(in_region(""), lambda line: None, **names)


def test_a_vpc_has_a_policy_of_its_own(aws: Cloud, names: dict[str, Any]) -> None:
    account = in_region("us-east-1")
    make_account(account, lambda line: None, **names, vpc=True)
    assert set(state(account, names)["inline"]) == {"medpipe-job", "medpipe-job-vpc"}


def test_policies_are_looked_for_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedpipeError, match="change to the project's root"):
        filled("job-policy", {})


def test_an_empty_prefix_leaves_no_empty_folder() -> None:
    values = dict.fromkeys(("account", "partition", "region", "bucket", "role", "repository"), "x") | {"prefix": ""}
    text = json.dumps(filled("job-policy", values))
    assert "arn:x:s3:::x/code/*" in text and "//" not in text and not re.search(r"<\w+>", text)


# --- what is missing


def test_a_made_account_lacks_only_its_image(aws: Cloud, names: dict[str, Any]) -> None:
    account = made(in_region("us-east-1"), names)
    (lack,) = check_account(account)
    assert "the image" in lack and "push" in lack
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"digest": "sha256:" + "0" * 64},
        "layers": [],
    }
    account.client("ecr").put_image(repositoryName=names["repository"], imageManifest=json.dumps(manifest), imageTag="0.1.0")
    said: list[str] = []
    assert check_account(account, said.append) == []
    assert [line.split()[0] for line in said] == ["account", "bucket", "role", "image"]


def test_everything_that_is_missing_is_told_at_once(aws: Cloud) -> None:
    account = Account("not-there-" + uuid.uuid4().hex[:8], ROLE + "-none", aws.account.image, "us-east-1", "medpipe")
    bucket, role, image = check_account(account)
    assert "expected the bucket not-there" in bucket and "expected the role medpipe-job-none" in role and "expected the image" in image


def test_a_role_that_sagemaker_cannot_take_and_one_of_another_account(aws: Cloud, names: dict[str, Any]) -> None:
    account = made(in_region("us-east-1"), names)
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    account.client("iam").create_role(RoleName=names["role_name"] + "x", AssumeRolePolicyDocument=json.dumps(trust))
    wrong = Account(account.bucket, account.role + "x", account.image, account.region, account.prefix)
    assert "that SageMaker can't take" in check_account(wrong)[0]
    foreign = Account(account.bucket, account.role.replace(NUMBER, "210987654321"), account.image, account.region, account.prefix)
    assert "a role of account 210987654321" in check_account(foreign)[0]


def test_an_image_of_aws_is_not_looked_for(aws: Cloud, names: dict[str, Any]) -> None:
    account = made(in_region("us-east-1"), names)
    image = "999999999999.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2"
    assert check_account(Account(account.bucket, account.role, image, account.region, account.prefix)) == []
    assert "got docker.io/x" in check_account(Account(account.bucket, account.role, "docker.io/x", account.region, account.prefix))[0]


def test_without_values_or_credentials_one_message(aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    (lack,) = check_account(in_region("us-east-1"))
    assert "no bucket" in lack
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (lack,) = check_account(Account("b", ROLE, aws.account.image, "us-east-1", "medpipe"))
    assert "no AWS credentials" in lack

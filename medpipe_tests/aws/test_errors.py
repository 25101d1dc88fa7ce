"""Each refusal is one message with its cure, told from botocore's real exceptions: its clients read real answers of a small HTTP server."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from medpipe.aws.errors import AwsError, ending, explained, masked
from medpipe.errors import MedpipeError
from medpipe_tests.aws.conftest import Cloud

CANARY_KEY, CANARY_SECRET = "AKIAC4N4RYC4N4RY0001", "c4n4ry/S3cretS3cretS3cret+S3cretS3cret00"
CANARY_TOKEN = "IQoJb3JpZ2luX2VjE" + "C4naryT0ken/" * 12
IMAGE_URI = "123456789012.dkr.ecr.us-east-1.amazonaws.com/medpipe:0.1.0"


class Server(ThreadingHTTPServer):
    """Answers every request with one status, body and set of headers."""

    status, body, headers = 200, b"", dict[str, str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(server.status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(server.body)

    do_GET = do_PUT = do_POST = do_HEAD = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    httpd = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": CANARY_KEY, "AWS_SECRET_ACCESS_KEY": CANARY_SECRET, "AWS_SESSION_TOKEN": CANARY_TOKEN}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def client(service: str, url: str | None, attempts: int = 1, **more: Any) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": attempts, "mode": "standard"}, connect_timeout=2, read_timeout=more.pop("wait", 5))
    session = boto3.Session(region_name=more.pop("region", "us-east-1"))
    return session.client(service, endpoint_url=url, config=config, **more)


@contextmanager
def told() -> Iterator[list[AwsError]]:
    """The one error that is raised in here."""
    found: list[AwsError] = []
    with pytest.raises(AwsError) as caught, explained("testing the cure"):
        yield found
    found.append(caught.value)
    assert caught.value.__cause__ is not None  # the original is never hidden
    text = str(caught.value)
    assert text.startswith("got ") and ", expected " in text and ", in testing the cure" in text and "\n" not in text
    assert_clean("".join(traceback.format_exception(caught.value)))


def assert_clean(text: str) -> None:
    for canary in (CANARY_KEY, CANARY_SECRET, CANARY_TOKEN, CANARY_TOKEN[17:60]):
        assert canary not in text


def xml(code: str, message: str, more: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}'
        f"<RequestId>4442587FB7D0A2F9</RequestId><HostId>host</HostId></Error>"
    ).encode()


def get_object(s3: Any) -> None:
    s3.get_object(Bucket="our-bucket", Key="k")


def put_object(s3: Any) -> None:
    s3.put_object(Bucket="our-bucket", Key="k", Body=b"x")


def head_bucket(s3: Any) -> None:
    s3.head_bucket(Bucket="our-bucket")


WRONG_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. The Canonical String for this request should have been "
    f"'POST\n/\n\nhost:api.sagemaker.us-east-1.amazonaws.com\nx-amz-security-token:{CANARY_TOKEN}\n'"
)
S3_CASES: list[tuple[Callable[[Any], None], int, bytes, tuple[str, ...]]] = [
    (
        get_object, 301, xml("PermanentRedirect", "The bucket you are attempting to access must be addressed using the specified endpoint. "
        "Please send all future requests to this endpoint.", "<Endpoint>our-bucket.s3-eu-west-1.amazonaws.com</Endpoint>"),
        ("wrong region", "set AWS_REGION", "eu-west-1"),
    ),
    (
        put_object, 400, xml("AuthorizationHeaderMalformed", "The authorization header is malformed; the region 'us-east-1' is wrong; "
        "expecting 'eu-west-1'"), ("wrong region", "eu-west-1", "AWS_REGION"),
    ),
    (
        put_object, 400, xml("IllegalLocationConstraintException", "The eu-west-1 location constraint is incompatible for the region "
        "specific endpoint this request was sent to."), ("wrong region", "AWS_REGION"),
    ),
    (head_bucket, 400, b"", ("without a word", "AWS_REGION", "aws sso login")),
    (get_object, 403, xml("AccessDenied", "User: arn:aws:iam::1:user/me is not authorized to perform: s3:GetObject on resource: "
        '"arn:aws:s3:::our-bucket/k" because no identity-based policy allows the s3:GetObject action'),
        ("no permission for s3:GetObject", "deploy/aws/launcher-policy.json")),
    (put_object, 403, xml("AccessDenied", "Access Denied"), ("no permission for s3:PutObject", "launcher-policy.json")),
    (head_bucket, 403, b"", ("no permission for s3:ListBucket", "launcher-policy.json")),
    (head_bucket, 404, b"", ("no bucket", "medpipe aws setup")),
    (get_object, 404, xml("NoSuchBucket", "The specified bucket does not exist", "<BucketName>our-bucket</BucketName>"),
        ("no bucket our-bucket", "medpipe aws setup")),
    (get_object, 404, xml("NoSuchKey", "The specified key does not exist."), ("nothing at that key", "medpipe aws upload")),
    (get_object, 403, xml("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.",
        f"<AWSAccessKeyId>{CANARY_KEY}</AWSAccessKeyId>"), ("not valid (InvalidAccessKeyId)", "aws sso login")),
    (get_object, 403, xml("SignatureDoesNotMatch", WRONG_SIGNATURE, f"<AWSAccessKeyId>{CANARY_KEY}</AWSAccessKeyId><StringToSign>"
        f"AWS4 {CANARY_TOKEN}</StringToSign>"), ("not valid (SignatureDoesNotMatch)",)),
    (get_object, 400, xml("ExpiredToken", "The provided token has expired.", f"<Token-0>{CANARY_TOKEN}</Token-0>"),
        ("expired AWS credentials", "aws sso login")),
    (get_object, 403, xml("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
        ("a clock that is wrong", "NTP")),
    (put_object, 400, xml("BadDigest", "The SHA256 you specified did not match the calculated checksum."), ("another checksum", "run it "
        "again")),
    (put_object, 400, xml("KMS.NotFoundException", "Key 'arn:aws:kms:us-east-1:1:key/x' does not exist"), ("a KMS key", "aws.kms_key")),
    (put_object, 503, xml("SlowDown", "Please reduce your request rate."), ("too many calls (SlowDown, tried 1 times)", "run it again")),
    (put_object, 418, xml("BrandNewError", f"never seen, key {CANARY_KEY}"), ("BrandNewError (never seen, key ***)", "PutObject",
        "request 4442587FB7D0A2F9")),
]  # fmt: skip


@pytest.mark.parametrize(("call", "status", "body", "words"), S3_CASES, ids=lambda value: value.__name__ if callable(value) else None)
def test_what_s3_refuses(server: Server, call: Callable[[Any], None], status: int, body: bytes, words: tuple[str, ...]) -> None:
    server.status, server.body = status, body
    server.headers = {"Content-Type": "application/xml", "x-amz-request-id": "4442587FB7D0A2F9", "x-amz-bucket-region": "eu-west-1"}
    with told() as found:
        call(client("s3", server.url))
    assert all(word in str(found[0]) for word in words), str(found[0])


QUOTA = (
    "The account-level service limit 'ml.g5.12xlarge for spot training job usage' is 0 Instances, with current utilization of 0 "
    "Instances and "
    "a request delta of 1 Instances. Please use AWS Service Quotas to request an increase for this quota."
)
SAGEMAKER_CASES: list[tuple[str, str, tuple[str, ...]]] = [
    ("ExpiredTokenException", "The security token included in the request is expired", ("expired AWS credentials", "aws sso login")),
    ("UnrecognizedClientException", "The security token included in the request is invalid.", ("not valid (Unrecog", "aws sso login")),
    ("InvalidClientTokenId", "The security token included in the request is invalid.", ("not valid", "medpipe aws check")),
    ("InvalidSignatureException", WRONG_SIGNATURE, ("not valid (InvalidSignatureException)",)),
    ("InvalidSignatureException", "Credential should be scoped to a valid region, not 'us-east-1'.", ("wrong region", "AWS_REGION")),
    ("InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than 20260101T010000Z", ("a clock", "NTP")),
    ("AccessDeniedException", "User: arn:aws:iam::1:user/me is not authorized to perform: sagemaker:CreateTrainingJob on resource: arn:aws:"
        "sagemaker:us-east-1:1:training-job/x because no identity-based policy allows the sagemaker:CreateTrainingJob action",
        ("no permission for sagemaker:CreateTrainingJob", "deploy/aws/launcher-policy.json")),
    ("AccessDeniedException", "User: arn:aws:iam::1:user/me is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/"
        "medpipe-job because no identity-based policy allows the iam:PassRole action", ("iam:PassRole", "launcher-policy.json")),
    ("ValidationException", "Could not assume role arn:aws:iam::1:role/x. Please ensure that the role exists and allows principal "
        "'sagemaker.amazonaws.com' to assume the role.", ("a role that SageMaker can't work under",
        "arn:aws:iam::1:role/x", "MEDPIPE_AWS_ROLE")),
    ("ValidationException", "1 validation error detected: Value 'role' at 'roleArn' failed to satisfy constraint: Member must satisfy "
        "regular expression pattern", ("a role that", "MEDPIPE_AWS_ROLE")),
    ("ValidationException", f"Cannot find the requested image: {IMAGE_URI}", ("an image that SageMaker can't use", IMAGE_URI,
        "push the image")),
    ("ValidationException", f"The repository of your image {IMAGE_URI} does not grant ecr:GetDownloadUrlForLayer, ecr:BatchGetImage, "
        "ecr:BatchCheckLayerAvailability permission to sagemaker.amazonaws.com service principal.", ("an image that", "push the image")),
    ("ValidationException", f'ECR image "{IMAGE_URI}" is invalid.', ("an image that", "MEDPIPE_AWS_IMAGE")),
    ("ValidationException", 'No S3 objects found under S3 URL "s3://b/p" given in input data source. Please ensure that the bucket '
        'exists in the selected region (us-east-1), that objects exist under that S3 prefix, and that the role "arn:aws:iam::1:role/x" has '
        '"s3:ListBucket" permissions on bucket "b".', ("data that SageMaker does not find", "medpipe aws upload")),
    ("ResourceLimitExceeded", QUOTA, ("the quota 'ml.g5.12xlarge for spot training job usage'", "servicequotas")),
    ("InsufficientCapacityException", "no capacity", ("no machine to be had", "aws.instance_type")),
    ("ResourceInUse", "Training job names must be unique within an AWS account and region", ("a name that is taken", "medpipe aws status")),
    ("InternalFailure", "", ("an error inside AWS", "run it again")),
    ("SomethingElseException", "words", ("SomethingElseException (words)", "CreateTrainingJob, request 7c6b")),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message", "words"), SAGEMAKER_CASES)
def test_what_sagemaker_refuses(server: Server, code: str, message: str, words: tuple[str, ...]) -> None:
    server.status = 400
    server.body = json.dumps({"__type": f"com.amazonaws.sagemaker#{code}", "message": message}).encode()
    server.headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": "7c6b"}
    with told() as found:
        create_job(client("sagemaker", server.url))
    assert all(word in str(found[0]) for word in words), str(found[0])
    assert found[0].code == code


def create_job(sagemaker: Any) -> None:
    sagemaker.create_training_job(
        TrainingJobName="j", RoleArn="arn:aws:iam::123456789012:role/medpipe", AlgorithmSpecification={"TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": "s3://b/p"}, StoppingCondition={"MaxRuntimeInSeconds": 1},
    )  # fmt: skip


def test_throttled_to_the_end_tells_how_often_it_was_tried(server: Server) -> None:
    server.status, server.headers = 400, {"Content-Type": "application/x-amz-json-1.1"}
    server.body = json.dumps({"__type": "ThrottlingException", "message": "Rate exceeded"}).encode()
    with told() as found:
        client("sagemaker", server.url, attempts=2).list_training_jobs()
    assert "too many calls (ThrottlingException, tried 2 times)" in str(found[0])


def test_a_missing_bucket_as_moto_tells_it(aws: Cloud) -> None:
    with pytest.raises(MedpipeError, match=r"no bucket medpipe-none, .*medpipe aws setup"), explained("listing"):
        aws.s3.list_objects_v2(Bucket="medpipe-none")


def test_no_credentials(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with told() as found:
        client("s3", server.url).list_buckets()
    assert "no AWS credentials (NoCredentialsError)" in str(found[0]) and "aws sso login" in str(found[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CANARY_KEY)
    with told() as found:
        client("s3", server.url).list_buckets()
    assert "half of AWS's credentials" in str(found[0])
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with told() as found:
        client("s3", server.url)
    assert "an AWS profile that does not exist" in str(found[0])


def test_a_region_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with told() as found:
        client("sagemaker", None, region="us-nowhere-1").list_training_jobs()  # the name is not in any DNS
    assert "a region that does not exist (us-nowhere-1)" in str(found[0]) and "AWS_REGION" in str(found[0])
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with told() as found:
        client("sagemaker", None, region=None)
    assert "no region that can be used" in str(found[0])


def test_nobody_answers() -> None:
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with told() as found:
        client("sagemaker", f"http://me:{CANARY_SECRET[7:20]}@127.0.0.1:{port}").list_training_jobs()
    assert "no answer from AWS" in str(found[0]) and CANARY_SECRET[7:20] not in str(found[0])
    with socket.socket() as deaf, told() as found:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        client("sagemaker", f"http://127.0.0.1:{deaf.getsockname()[1]}", wait=0.2).list_training_jobs()
    assert "no answer from AWS" in str(found[0]) and found[0].code == "ReadTimeoutError"


def test_what_is_not_of_aws_passes() -> None:
    own = MedpipeError(got="a", expected="b", where="c", do="d")
    with pytest.raises(MedpipeError) as caught, explained("x"):
        raise own
    assert caught.value is own
    with pytest.raises(ZeroDivisionError), explained("x"):
        _ = 1 / 0


def job(status: str, reason: str = "", secondary: str = "", passed: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "TrainingJobName": "medpipe-x-a1", "TrainingJobStatus": status, "SecondaryStatus": secondary or status, "FailureReason": reason,
        "SecondaryStatusTransitions": [{"Status": name} for name in (*passed, secondary or status)],
        "ResourceConfig": {"InstanceType": "ml.g5.12xlarge"}, "CheckpointConfig": {"S3Uri": "s3://b/checkpoints/1"},
        "StoppingCondition": {"MaxRuntimeInSeconds": 21600, "MaxWaitTimeInSeconds": 43200},
    }  # fmt: skip


ENDINGS = [
    (job("Failed", "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."),
        ("no machine to be had", "capacity for ml.g5.12xlarge", "aws.instance_type")),
    (job("Failed", f"ResourceLimitExceeded: {QUOTA}"), ("ml.g5.12xlarge for spot training job usage", "servicequotas")),
    (job("Failed", "ClientError: Cannot pull algorithm container. Either the image does not exist or its permissions are incorrect."),
        ("an image that SageMaker can't use", "push the image to ECR")),
    (job("Failed", f"ClientError: API error (404): manifest for {IMAGE_URI} not found: manifest unknown: Requested image not found"),
        ("an image that", IMAGE_URI)),
    (job("Failed", "CannotPullContainerError: pull image manifest has been retried 5 time(s)"), ("an image that",)),
    (job("Stopped", secondary="MaxWaitTimeExceeded", passed=("Starting", "Interrupted")),
        ("aws.max_wait_hours (12 h)", "s3://b/checkpoints/1", "aws.spot=false")),
    (job("Stopped", passed=("Training", "Interrupted")), ("a spot machine that AWS took back", "run the same command again")),
    (job("Failed", "InternalServerError: x", passed=("Interrupted",)), ("a spot machine", "checkpoints")),
    (job("Stopped", secondary="MaxRuntimeExceeded", passed=("Training",)), ("aws.max_hours (6 h)", "medpipe aws cost")),
    (job("Failed", "AlgorithmError: got 3 rows, expected 4, in splits/train: make it again; ECR image, exit code: 1"),
        ("a failed training (got 3 rows, expected 4, in splits/train: make it again", "medpipe aws logs medpipe-x-a1")),
    (job("Failed", f"AlgorithmError: {CANARY_KEY} {CANARY_TOKEN}"), ("a failed training (*** ***)",)),
    (job("Failed", "ClientError: Data download failed:PermanentRedirect (301): The bucket is in this region: us-west-2. Please use this "
        "region to retry the request"), ("another region than the job", "us-west-2", "AWS_REGION")),
    (job("Failed", "ClientError: Data download failed:S3 key: s3://b/x has an illegal char"), ("data that the job did not find",)),
    (job("Failed", "ClientError: TrainingHostAgent Initialization failed:InvalidInputException: SageMaker is unable to perform: "
        "sts:AssumeRole on the role. Check if you have a trust relationship for 'sagemaker.amazonaws.com' to assume the role."),
        ("a role that", "trust policy")),
    (job("Failed", "InternalServerError: We encountered an internal error. Please try again."), ("an error inside AWS", "launch again")),
    (job("Stopped", passed=("Training", "Stopping")), ("a job that somebody stopped", "s3://b/checkpoints/1")),
    (job("Failed", "Something new"), ("a job that failed (Something new)", "medpipe aws logs")),
]  # fmt: skip


@pytest.mark.parametrize(("description", "words"), ENDINGS)
def test_how_a_job_ended(description: dict[str, Any], words: tuple[str, ...]) -> None:
    text = ending(description)
    assert text.startswith("got ") and ", in training job medpipe-x-a1" in text and "{" not in text
    assert all(word in text for word in words), text
    assert_clean(text)


def test_a_job_that_goes_on_or_went_well_is_no_failure() -> None:
    assert ending(job("InProgress", secondary="Downloading")) == "medpipe-x-a1: InProgress (Downloading)"
    assert ending(job("Completed")) == "medpipe-x-a1: Completed (Completed)"


def test_masking_spares_what_is_no_secret() -> None:
    plain = f"s3://medpipe-1234/data/0123456789ab/train/rows.jsonl {'0af3' * 16} {IMAGE_URI} arn:aws:iam::123456789012:role/medpipe-job"
    assert masked(plain) == plain
    assert masked(f"x={CANARY_KEY}; {CANARY_SECRET}") == "x=***; ***"

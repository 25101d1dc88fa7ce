"""What AWS refuses, as one message with its cure: `got X, expected Y, in Z: do W`.

    with explained("starting the training job"):
        client.create_training_job(...)          # a botocore error in here becomes an AwsError
    print(ending(client.describe_training_job(TrainingJobName=name)))    # why a job failed or stopped

CALLS and CONNECTIONS below are the whole table for calls, ENDS for jobs: the first row that fits speaks, and what fits none is still one
message with AWS's code and text. No message holds a key or a token, nor does the original error, which stays behind it. Left out:
trying again, which botocore does (medpipe/aws/account.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from medpipe.errors import MedpipeError

POLICY = "deploy/aws/launcher-policy.json"
QUOTAS = "https://console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas"
LONGEST = 600  # characters of AWS's own words in a message
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")
SHORTEST_SECRET = 16
NAMED = re.compile(
    r"(?i)(security-token|x-amz-credential|signature|authorization|password|secret[\w-]*key)(\W{0,2}[:=]\W{0,2})[^\s,;&'\"]+"
)
"""A secret behind its name."""

IMAGE = (
    r"(?i)pull (the )?(algorithm|ecr|container|image)|CannotPullContainer|training image|requested image|ecr image"
    r"|repository of your image|access denied for repository|manifest (for|unknown)|image .*(not found|does not exist)"
)
ROLE = r"(?i)assume (the )?role|unable to assume|AssumeRole|roleArn|cross-account pass role|role .*is invalid"
DATA = r"(?i)no s3 objects found|data download failed"
SCOPE = r"(?i)scoped to a valid region|region '[^']*' is wrong|bucket is in this region|addressed using the specified endpoint"
CLOCK = r"(?i)signature (expired|not yet current)|too large"


class AwsError(MedpipeError):
    """AWS refused or was not reached; `code` is AWS's own ("AccessDenied"), or the name of botocore's exception."""

    code = ""


class Row(NamedTuple):
    """If the code is among these (where any are given) and the text fits (where a pattern is given), this is the message."""

    codes: str
    words: str
    got: str
    expected: str
    do: str


FRESH = (
    "export fresh AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE (one of SSO after `aws sso login`); "
    "`medpipe aws check` shows who you are"
)
REGION = "set AWS_REGION, or aws.region in the profile, to the region of the bucket ({region}); the image and the job must be there too"
CREDENTIALS = "AWS credentials that can be used"
TRUST = "a role that SageMaker can assume"
MEND_ROLE = (
    "give the ARN of a role whose trust policy names sagemaker.amazonaws.com (aws.role or MEDPIPE_AWS_ROLE); `medpipe aws setup` makes one"
)
MEND_IMAGE = (
    "push the image to ECR in the region of the job and give its full URI with its tag (aws.image or MEDPIPE_AWS_IMAGE); the job's "
    "role needs ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and ecr:GetAuthorizationToken (docs/aws.md)"
)
MEND_DATA = "upload again (`medpipe aws upload`), and check that the job's role may read the bucket (s3:ListBucket, s3:GetObject)"
OTHER_TYPE = "take another aws.instance_type, another region, or aws.spot=false, or try again later: a finished upload is not sent again"
RAISE = (
    f"ask for more at {QUOTAS} (Service Quotas, Amazon SageMaker, the quota of that name), or take another aws.instance_type, fewer "
    f"instances, or"
)

CALLS: tuple[Row, ...] = (
    Row("", SCOPE, "a call in the wrong region ({said})", "the region of the bucket", REGION),
    Row("PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException IllegalLocationConstraint TemporaryRedirect "
        "301 307",
        "", "the wrong region ({code})", "the region of the bucket", REGION),
    Row("400", "", "a request that S3 refuses without a word", "the bucket's region and valid credentials", REGION + "; or " + FRESH),
    Row("RequestTimeTooSkewed RequestExpired", "", "a clock that is wrong ({code})", "the time of day", "set this machine's clock (NTP)"),
    Row("InvalidSignatureException SignatureDoesNotMatch", CLOCK, "a clock that is wrong ({code})", "the time of day", "set this "
        "machine's clock (NTP)"),
    Row("ExpiredTokenException ExpiredToken TokenRefreshRequired", "", "expired AWS credentials ({code})", CREDENTIALS, FRESH),
    Row("InvalidClientTokenId UnrecognizedClientException InvalidAccessKeyId InvalidToken InvalidSignatureException SignatureDoesNotMatch "
        "IncompleteSignature IncompleteSignatureException MissingAuthenticationToken MissingAuthenticationTokenException NotAuthorized "
        "AuthFailure", "", "AWS credentials that are not valid ({code})", CREDENTIALS, FRESH),
    Row("OptInRequired SubscriptionRequiredException NotSignedUp", "", "an account without this service ({said})", "one that has it",
        "finish signing up in the AWS console, and enable the region there if it is one that must be"),
    Row("ValidationException AccessDeniedException", ROLE, "a role that SageMaker can't work under ({said})", TRUST, MEND_ROLE),
    Row("", r"iam:PassRole", "no permission for iam:PassRole ({said})", "a caller that may hand the job its role",
        f"allow iam:PassRole on the role for sagemaker.amazonaws.com ({POLICY})"),
    Row("ValidationException AccessDeniedException", IMAGE, "an image that SageMaker can't use ({said})", "an image in ECR", MEND_IMAGE),
    Row("RepositoryNotFoundException ImageNotFoundException", "", "no such image ({said})", "an image in ECR", MEND_IMAGE),
    Row("ValidationException", DATA, "data that SageMaker does not find ({said})", "the uploaded channels", MEND_DATA),
    Row("AccessDenied AccessDeniedException AllAccessDisabled UnauthorizedOperation KMS.AccessDeniedException 403", "",
        "no permission for {action} ({said})", "a caller that may do it", f"let the caller do {{action}}: {POLICY} lists what medpipe "
            f"needs"),
    Row("NoSuchBucket", "", "no bucket {bucket}", "the bucket of this account", "`medpipe aws setup` makes one; give its name in "
        "aws.bucket or MEDPIPE_AWS_BUCKET"),
    Row("404 NotFound", "HeadBucket", "no bucket {bucket}", "the bucket of this account", "`medpipe aws setup` makes one; give its name in "
        "aws.bucket or MEDPIPE_AWS_BUCKET"),
    Row("NoSuchKey 404 NotFound", "", "nothing at that key in S3", "an object", "check the address; what was not uploaded comes with "
        "`medpipe aws upload`"),
    Row("BadDigest XAmzContentSHA256Mismatch InvalidDigest", "", "bytes in S3 with another checksum than those here ({code})", "the "
        "same bytes",
        "run it again: the file changed while it was sent, or the network damaged it; S3 kept nothing"),
    Row("ResourceLimitExceeded LimitExceededException ServiceQuotaExceededException", "", "a quota that is used up ({said})", "room in "
        "{quota}",
        RAISE + " wait until other jobs have ended"),
    Row("InsufficientCapacity InsufficientInstanceCapacity CapacityError InsufficientCapacityException", "", "no machine to be had "
        "({said})",
        "capacity for the instance type", OTHER_TYPE),
    Row("KMS.NotFoundException KMS.DisabledException KMS.KMSInvalidStateException KMSKeyNotFoundException NotFoundException", "(?i)key",
        "a KMS key that can't be used ({said})", "a key of this region that is enabled", "correct aws.kms_key, or leave it empty for "
            "S3's own encryption"),
    Row("ThrottlingException Throttling ThrottledException TooManyRequestsException SlowDown RequestLimitExceeded RequestThrottled "
        "ProvisionedThroughputExceededException 429", "", "too many calls ({code}, tried {tries} times)", "an answer",
        "wait a few minutes and run it again: what is done is not done twice; raise aws.poll_seconds where many jobs are watched"),
    Row("InternalServerError InternalFailure InternalError ServiceUnavailable ServiceUnavailableException ServiceException 500 503", "",
        "an error inside AWS ({code}, tried {tries} times)", "an answer", "run it again; https://health.aws.amazon.com tells of outages"),
    Row("ResourceInUse", "", "a name that is taken ({said})", "a name of its own", "look at it with `medpipe aws status`"),
    Row("", "", "{code} ({said})", "an answer", "see the code in AWS's documentation of {operation}; if medpipe is at fault, report it "
        "with the request id"),
)  # fmt: skip

CONNECTIONS: tuple[Row, ...] = (  # exceptions that botocore raises without an answer, by class
    Row("PartialCredentialsError", "", "half of AWS's credentials ({said})", CREDENTIALS, FRESH),
    Row("ProfileNotFound", "", "an AWS profile that does not exist ({said})", CREDENTIALS, "correct AWS_PROFILE: ~/.aws/config and "
        "~/.aws/credentials have their names; `medpipe aws check` shows who you are"),
    Row("NoCredentialsError CredentialRetrievalError NoAuthTokenError TokenRetrievalError SSOError LoginError UnknownCredentialError "
        "MetadataRetrievalError", "", "no AWS credentials ({code})", CREDENTIALS, FRESH),
    Row("NoRegionError InvalidRegionError UnknownRegionError ServiceNotInRegionError", "", "no region that can be used ({said})", "the "
        "region of "
        "the bucket", "set AWS_REGION, or aws.region in the profile"),
    Row("unknown-region", "", "a region that does not exist ({region})", "the region of the bucket",
        "set AWS_REGION, or aws.region in the profile, to one such as us-east-1"),
    Row("SSLError", "", "a connection that can't be trusted ({said})", "TLS to AWS", "set AWS_CA_BUNDLE to your proxy's certificates; "
        "check the clock"),
    Row("ProxyConnectionError", "", "no way through the proxy ({said})", "an answer from AWS", "correct HTTPS_PROXY"),
    Row("FlexibleChecksumError IncompleteReadError ResponseStreamingError", "", "bytes damaged or cut on the way ({code})", "all of them",
        "run it again: what came whole is not fetched twice"),
    Row("ReadTimeoutError ConnectTimeoutError ConnectionError HTTPClientError WaiterError", "", "no answer from AWS ({said})", "an answer",
        "check the network, HTTPS_PROXY, AWS_ENDPOINT_URL and the region, then run it again: what is done is not done twice"),
    Row("", "", "{code} ({said})", "a call that botocore can make", "check the settings under aws; if medpipe is at fault, report it"),
)  # fmt: skip

KEPT = (
    "training goes on from its checkpoints{checkpoints}, if nothing but aws.max_hours, aws.max_wait_hours, aws.volume_gb, aws.spot or "
    "the network's settings is changed: all else makes another launch, which begins anew"
)
SPOT_AGAIN = "run the same command again, with a larger aws.max_wait_hours, or aws.spot=false for a machine that stays: " + KEPT
LOG = "see its log: `medpipe aws logs {name}`"
ENDS: tuple[Row, ...] = (  # `codes`: the kind before the colon of FailureReason, or the job's status, or one of its secondary statuses
    Row("AlgorithmError", "", "a failed training ({said})", "one that ends well", "mend what it names, then launch again; " + LOG),
    Row("CapacityError", "", "no machine to be had ({said})", "capacity for {type}", OTHER_TYPE),
    Row("", r"(?i)insufficient ?(instance ?)?capacity|unable to provision", "no machine to be had ({said})", "capacity for {type}",
        OTHER_TYPE),
    Row("ResourceLimitExceeded", "", "a quota that is used up ({said})", "room in {quota}", RAISE + " wait until other jobs have ended"),
    Row("MaxWaitTimeExceeded", "", "no spot machine for long enough within aws.max_wait_hours ({wait} h)", "a finished training",
        SPOT_AGAIN),
    Row("MaxRuntimeExceeded", "", "a training that SageMaker ended after aws.max_hours ({runtime} h)", "a finished training",
        "run it again with a larger aws.max_hours (`medpipe aws cost` estimates it): " + KEPT),
    Row("", r"(?i)spot.*(interrupt|reclaim)", "a spot machine that AWS took back ({said})", "a finished training", SPOT_AGAIN),
    Row("", IMAGE, "an image that SageMaker can't use ({said})", "an image in ECR", MEND_IMAGE),
    Row("", ROLE, "a role that SageMaker can't work under ({said})", TRUST, MEND_ROLE),
    Row("", SCOPE + "|PermanentRedirect", "a bucket in another region than the job ({said})", "both in one", REGION),
    Row("", r"(?i)kms|s3.*(access ?denied|forbidden|403)|not authorized to perform", "a job's role without a permission ({said})",
        "a role that may read and write the bucket", "compare the role's policy with deploy/aws; `medpipe aws setup` makes one"),
    Row("", DATA, "data that the job did not find ({said})", "the uploaded channels", MEND_DATA),
    Row("Interrupted", "", "a spot machine that AWS took back", "a finished training", SPOT_AGAIN),
    Row("InternalServerError", "", "an error inside AWS ({said})", "a finished training", "launch again; https://health.aws.amazon.com "
        "tells of outages"),
    Row("Stopped", "", "a job that somebody stopped", "a finished training",
        "run the same command again: " + KEPT),
    Row("", "", "a job that {status} ({said})", "a finished training", LOG),
)  # fmt: skip

S3_ACTIONS = {
    "HeadBucket": "s3:ListBucket", "ListObjectsV2": "s3:ListBucket", "HeadObject": "s3:GetObject", "GetObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject", "UploadPart": "s3:PutObject", "CompleteMultipartUpload": "s3:PutObject",
    "PutObject": "s3:PutObject",
}  # fmt: skip


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn botocore's exceptions, also behind those of s3fs, into one message each; all others pass.

    Raises:
        AwsError: what AWS refused while `doing`, and its cure.
    """
    try:
        yield
    except MedpipeError:
        raise
    except Exception as error:
        original = _botocore(error)
        if original is None:
            raise
        found = _of_answer(original, doing) if hasattr(original, "operation_name") else _of_connection(original, doing)
        _scrub(error)
        raise found from error


def ending(description: Mapping[str, Any]) -> str:
    """Why a described training job failed or stopped, and what to do; for one that runs or is complete, its status."""
    name, status = description["TrainingJobName"], description["TrainingJobStatus"]
    if status not in ("Failed", "Stopped"):
        return f"{name}: {status} ({description.get('SecondaryStatus', status)})"
    reason = description.get("FailureReason", "")
    kind, colon, text = reason.partition(":")
    secondary = {step["Status"] for step in description.get("SecondaryStatusTransitions", ())} | {description.get("SecondaryStatus", "")}
    limits = description.get("StoppingCondition", {})
    checkpoints = description.get("CheckpointConfig", {}).get("S3Uri", "")
    facts = {
        "name": name, "status": status.lower(), "said": _short(text if colon and kind == "AlgorithmError" else reason) or "without a "
            "reason",
        "type": description.get("ResourceConfig", {}).get("InstanceType", "the instance type"), "quota": _quota(reason),
        "region": _region(reason),
        "checkpoints": f" in {checkpoints}" if checkpoints else "", "wait": _hours(limits.get("MaxWaitTimeInSeconds")),
        "runtime": _hours(limits.get("MaxRuntimeInSeconds")),
    }  # fmt: skip
    row = _first(ENDS, {kind if colon else reason, status, *secondary}, "" if kind == "AlgorithmError" else reason)
    return str(_error(row, facts, f"training job {name}", kind))


def masked(text: str) -> str:
    """A text without what looks like a key, a token or a password, and without this process's own."""
    for value in filter(lambda value: len(value) >= SHORTEST_SECRET, (os.environ.get(name, "") for name in SECRETS)):
        text = text.replace(value, "***")
    text = re.sub(r"\b(A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}\b", "***", text)
    text = NAMED.sub(r"\1\2***", text)
    text = re.sub(r"://[^/@\s]+@", "://***@", text)
    return re.sub(r"(?=[A-Za-z0-9+/=]*[a-z])(?=[A-Za-z0-9+/=]*[A-Z])(?=[A-Za-z0-9+/=]*\d)[A-Za-z0-9+/=]{40,}", "***", text)


def _of_answer(error: Any, doing: str) -> AwsError:
    """What a service answered (ClientError)."""
    said, about = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, text, operation = str(said.get("Code", "")), str(said.get("Message", "")), error.operation_name
    headers = about.get("HTTPHeaders", {})
    action = re.search(r"authorized to perform:? ([\w-]+:\w+)", text)
    facts = {
        "code": code or "an error", "said": _short(text) or "without a reason", "operation": operation, "quota": _quota(text),
        "tries": about.get("RetryAttempts", 0) + 1, "action": action[1] if action else S3_ACTIONS.get(operation, operation),
        "region": said.get("Region") or headers.get("x-amz-bucket-region") or _region(text),
        "bucket": said.get("BucketName") or said.get("Bucket") or "",
    }  # fmt: skip
    request = about.get("RequestId") or headers.get("x-amzn-requestid") or "unknown"
    # A HEAD has no body: what was asked must stand in for the text.
    return _error(_first(CALLS, {code}, f"{operation}: {text}"), facts, f"{doing} ({operation}, request {request})", code)


def _of_connection(error: BaseException, doing: str) -> AwsError:
    """What botocore found before or instead of an answer."""
    names = {cls.__name__ for cls in type(error).__mro__}
    region = re.search(r"\.([a-z]{2,}(?:-[a-z]+)+-\d+)\.amazonaws\.com", str(error))
    if region and "EndpointConnectionError" in names and region[1] not in _known_regions():
        names = {"unknown-region"}
    facts = {"code": type(error).__name__, "said": _short(str(error)), "region": region[1] if region else ""}
    return _error(_first(CONNECTIONS, names, ""), facts, doing, type(error).__name__)


def _first(rows: Iterable[Row], codes: set[str], text: str) -> Row:
    """The first row that fits; the last one always does."""
    return next(row for row in rows if (not row.codes or codes & set(row.codes.split())) and re.search(row.words, text, re.DOTALL))


def _error(row: Row, facts: Mapping[str, Any], where: str, code: str) -> AwsError:
    got, expected, do = (template.format_map(facts) for template in row[2:])
    error = AwsError(got=got, expected=expected, where=where, do=do)
    error.code = code
    return error


def _botocore(error: BaseException) -> BaseException | None:
    """The exception itself, or the first of botocore's that it was made of."""
    found: BaseException | None = error
    while found is not None:
        if any(cls.__module__ == "botocore.exceptions" for cls in type(found).__mro__):
            return found
        found = found.__cause__
    return None


def _scrub(error: BaseException | None) -> None:
    """Mask secrets in an exception and those behind it, where they stand: tracebacks print them.

    AWS's answer to a wrong signature quotes the whole request, session token included.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        waiting += [found.__cause__, found.__context__]
        found.args = tuple(masked(arg) if isinstance(arg, str) else arg for arg in found.args)
        if isinstance(found, OSError) and isinstance(found.strerror, str):
            found.strerror = masked(found.strerror)
        if said := getattr(found, "response", {}) or {}:
            said["Error"] = {key: masked(value) if isinstance(value, str) else value for key, value in said.get("Error", {}).items()}


def _short(text: str) -> str:
    """AWS's words in one line, without secrets."""
    text = masked(" ".join(text.split())).rstrip(".,")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _quota(text: str) -> str:
    found = re.search(r"(?:limit|quota) '([^']+)'", text)
    return f"the quota '{found[1]}'" if found else "the account's quota"


def _region(text: str) -> str:
    found = re.search(r"expecting '([a-z0-9-]+)'|in this region: ([a-z0-9-]+)", text)
    return (found[1] or found[2]) if found else "the S3 console shows it"


def _hours(seconds: int | None) -> str:
    return f"{seconds / 3600:g}" if seconds else "?"


def _known_regions() -> set[str]:
    """Regions that botocore's own tables name."""
    from botocore.session import get_session

    session = get_session()
    return {region for part in session.get_available_partitions() for region in session.get_available_regions("s3", part)}

"""SageMaker's calls on training jobs, and what its refusals mean: unknown, refused, or to be asked again.

    described(client, name)            # None where SageMaker knows no such job, or not yet
    stop(client, name)                 # and see that it is being stopped
    jobs_of(client, "medpipe-")        # newest first

What is told here may be out of date, but for a final status. Left out: whose job it is, and what to do next (medpipe/aws/jobs.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from medpipe.aws.errors import explained
from medpipe.errors import MedpipeError

Pause = Callable[[float], None]
Description = dict[str, Any]

RETRIED = ("Failed", "Stopped")
FINAL = ("Completed", *RETRIED, "Deleting")
STEPS = 6  # tries of a create or a stop, beyond botocore's own
LONGEST_PAUSE = 8.0
THROTTLED = ("ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded")


def described(client: Any, name: str) -> Description | None:
    """What SageMaker says of a job; None where it knows none of that name, or not yet."""
    try:
        return client.describe_training_job(TrainingJobName=name)
    except client.exceptions.ClientError as error:
        if unknown(error):
            return None
        raise


def status_of(description: Description | None) -> str:
    """InProgress, Completed, Failed, Stopping, Stopped; empty without a description."""
    return description["TrainingJobStatus"] if description else ""


def account_in(description: Description | None) -> str:
    """The number of the account that a described job is of, by its ARN; empty without one."""
    parts = (description or {}).get("TrainingJobArn", "").split(":")
    return parts[4] if len(parts) > 4 else ""


def stop(client: Any, name: str, pause: Pause = time.sleep) -> str:
    """Stop a job and see that it is being stopped.

    Returns:
        Its status: Stopping, or how it had ended. Empty where SageMaker knows no such job.

    Raises:
        MedpipeError: it can't be told whether the job is being stopped.
    """
    with explained(f"stopping {name}"):
        return _stopped(client, name, pause)


def _stopped(client: Any, name: str, pause: Pause) -> str:
    unanswered: Exception | None = None
    accepted = False
    status = ""
    for step in range(STEPS):
        if step:
            pause(growing(step))
        try:
            client.stop_training_job(TrainingJobName=name)
            accepted, unanswered = True, None
        except Exception as error:
            if not (passing(error) or code(error) == "ValidationException" or unknown(error)):
                raise
            unanswered = error if passing(error) else None  # a ValidationException: it has ended already, or is not known
        try:
            status = status_of(described(client, name))
        except Exception as error:
            if not passing(error):
                raise
            unanswered = error
        if status not in ("", "InProgress"):
            return status
    if unanswered is not None:
        raise unanswered
    if accepted or status:
        raise MedpipeError(
            got=f"{status or 'no description'} after it was told to stop", expected="Stopping", where=name, do=f"medpipe aws stop {name}"
        )
    return ""


def has_ended(client: Any, name: str) -> bool:
    """Whether a job has ended, in whatever way; one that SageMaker does not know has not."""
    with explained(f"looking at {name}"):
        return status_of(described(client, name)) in FINAL


def jobs_of(client: Any, prefix: str, most: int = 100) -> list[dict[str, Any]]:
    """Summaries of the jobs whose names begin so, newest first."""
    with explained("listing training jobs"):
        pages = client.get_paginator("list_training_jobs").paginate(
            NameContains=prefix, SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"PageSize": 100}
        )
        found: list[dict[str, Any]] = []
        for page in pages:
            found += [job for job in page["TrainingJobSummaries"] if job["TrainingJobName"].startswith(prefix)]
            if len(found) >= most:
                break
        return found[:most]


def growing(step: int) -> float:
    """Seconds to wait before the n-th try."""
    return min(2.0 ** (step - 1), LONGEST_PAUSE)


def code(error: BaseException) -> str:
    """AWS's own word for a refusal; empty for other errors."""
    return _answer(error, "Error").get("Code", "")


def unknown(error: BaseException) -> bool:
    """Whether AWS says that there is no such job (in the same code as other refusals)."""
    message = _answer(error, "Error").get("Message", "").lower()
    return code(error) == "ResourceNotFound" or (
        code(error).startswith("Validation") and ("not found" in message or "could not find" in message)
    )


def refused(error: BaseException) -> bool:
    """Whether AWS says no, at the first asking: nothing that was sent before can have been accepted."""
    metadata = _answer(error, "ResponseMetadata")
    return bool(code(error)) and metadata.get("HTTPStatusCode", 500) < 500 and not metadata.get("RetryAttempts")


def passing(error: BaseException) -> bool:
    """Whether the same call may do better later: throttled, AWS's own fault, or nobody answered."""
    from botocore.exceptions import ConnectionError as NotReached
    from botocore.exceptions import HTTPClientError

    if isinstance(error, NotReached | HTTPClientError):
        return True
    metadata = _answer(error, "ResponseMetadata")
    return metadata.get("HTTPStatusCode", 0) >= 500 or code(error) in THROTTLED


def _answer(error: BaseException, part: str) -> dict[str, Any]:
    """What AWS answered, where there was an answer: botocore's errors of connections have none in its place."""
    return (getattr(error, "response", None) or {}).get(part, {})

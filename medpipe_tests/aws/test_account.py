"""How patiently AWS is asked: a check that a person waits for gives up soon, what costs money does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from medpipe.aws.account import ATTEMPTS, TIMEOUT_SECONDS, Account
from medpipe.aws.setup import check_account
from medpipe_tests.test_cli import ROOT, medpipe

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
ROLE = "arn:aws:iam::123456789012:role/medpipe-job"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a port of this machine where nobody listens, as AWS's own endpoint."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": address, "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    return address


def patience(account: Account) -> tuple[int, int, int]:
    """Of its clients: seconds for a connection and for an answer, attempts in all."""
    config = account.client("sts").meta.config
    return config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]


def test_a_check_asks_twice_and_waits_seconds_a_job_asks_often_and_waits_long(nobody: str) -> None:
    account = Account("bucket", ROLE, "image", "us-east-1", "medpipe")
    assert patience(account) == (TIMEOUT_SECONDS, TIMEOUT_SECONDS, ATTEMPTS) == (30, 30, 8)
    assert patience(account.hurried()) == (5, 5, 2)
    assert account.hurried().bucket == "bucket"


def test_without_a_network_the_check_tries_twice_and_says_what_is_wrong(nobody: str) -> None:
    account = Account("bucket", ROLE, "image", "us-east-1", "medpipe").hurried()
    tries: list[object] = []
    client = account.client("sts")
    client.meta.events.register("before-send.sts.GetCallerIdentity", lambda **sent: tries.append(sent["request"]) and None)
    with pytest.raises(EndpointConnectionError):
        client.get_caller_identity()
    assert len(tries) == 2
    (missing,) = check_account(account)
    assert missing.startswith("got ") and "asking who is calling" in missing


def test_the_command_tells_how_long_it_waits_and_fails_with_one_line(nobody: str, tmp_path: Path) -> None:
    done = medpipe(
        "aws", "check", "--set", f"paths.outputs={tmp_path}", cwd=ROOT, AWS_ENDPOINT_URL=nobody, NO_PROXY="127.0.0.1", **KEYS,
        MEDPIPE_AWS_BUCKET="bucket", MEDPIPE_AWS_ROLE=ROLE, MEDPIPE_AWS_IMAGE="image",
    )  # fmt: skip
    assert done.returncode == 1
    waits, missing = done.stdout.splitlines()
    assert waits == "asking AWS: a connection that takes more than 5 s counts as none, 2 attempts a call"
    assert missing.startswith("!! got ") and done.stderr == ""

"""AWS on this machine: moto's server over HTTP, one bucket for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from medpipe.aws.account import Account
from medpipe.config import Aws

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/medpipe-job"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/medpipe:test"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True)
class Cloud:
    """What stands in for an account: `environment` is what a process needs to reach it."""

    endpoint: str
    bucket: str
    environment: dict[str, str]

    @property
    def account(self) -> Account:
        return Account(self.bucket, ROLE, IMAGE, REGION, "medpipe")

    @property
    def s3(self) -> Any:
        return self.account.client("s3")


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """An account with an empty bucket; the environment of this process and of those it starts points to it."""
    bucket = f"medpipe-{uuid.uuid4().hex[:12]}"
    found = {
        **KEYS, "AWS_ENDPOINT_URL": moto_endpoint, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
        "MEDPIPE_AWS_BUCKET": bucket, "MEDPIPE_AWS_ROLE": ROLE, "MEDPIPE_AWS_IMAGE": IMAGE,
    }  # fmt: skip
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    cloud = Cloud(moto_endpoint, bucket, found)
    cloud.s3.create_bucket(Bucket=bucket)
    assert Account.of(Aws()) == cloud.account
    return cloud

"""Whose account, bucket, role and image: the profile's `aws` section, filled up from the environment; and clients for it.

    account = Account.of(settings.aws)
    account.client("s3").list_buckets()

Credentials and region come from boto3's own chain (environment, ~/.aws, the machine's role); none of them is kept or printed here.
AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE> are boto3's own too. Left out: making any of it (medpipe/aws/setup.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from medpipe.config import Aws
from medpipe.errors import MedpipeError

VARIABLES = {"bucket": "MEDPIPE_AWS_BUCKET", "role": "MEDPIPE_AWS_ROLE", "image": "MEDPIPE_AWS_IMAGE"}
"""Settings that belong to one account, and the variables that may hold them instead."""
ATTEMPTS = 8  # of one call, with botocore's growing pauses, where AWS throttles or does not answer
TIMEOUT_SECONDS = 30
CHECK_ATTEMPTS, CHECK_TIMEOUT_SECONDS = 2, 5  # of a call that only looks, while a person waits for the answer


@dataclass(frozen=True)
class Account:
    """One account's own values; empty where neither profile nor environment has them."""

    bucket: str
    role: str
    image: str
    region: str
    prefix: str
    attempts: int = ATTEMPTS
    timeout_seconds: int = TIMEOUT_SECONDS

    @classmethod
    def of(cls, aws: Aws) -> Account:
        """The profile's values, else the environment's."""
        found = {name: getattr(aws, name) or os.environ.get(variable, "") for name, variable in VARIABLES.items()}
        bucket, role, image = (found[name] for name in ("bucket", "role", "image"))
        return cls(bucket, role, image, region=aws.region or _region(), prefix=aws.prefix.strip("/"))

    def needs(self, *names: str) -> Account:
        """The same account, if it has these values.

        Raises:
            MedpipeError: one of them is missing.
        """
        missing = [name for name in names if not getattr(self, name)]
        if missing:
            shown = {**VARIABLES, "region": "AWS_REGION"}
            lines = ", ".join(f"{shown[name]}={'us-east-1, for example' if name == 'region' else '…'}" for name in missing)
            made = "; `medpipe aws setup` makes bucket and role and prints them" if set(missing) & {"bucket", "role"} else ""
            raise MedpipeError(
                got=f"no {', '.join(missing)}", expected=f"{', '.join(f'aws.{name}' for name in missing)} in the profile, or variables",
                where="training on AWS", do=f"export {lines}{made} (docs/aws.md)",
            )  # fmt: skip
        return self

    def hurried(self) -> Account:
        """The same account, asked with little patience: whether there is a network is known within seconds."""
        return replace(self, attempts=CHECK_ATTEMPTS, timeout_seconds=CHECK_TIMEOUT_SECONDS)

    @cached_property
    def _session(self) -> Any:
        from boto3.session import Session

        return Session(region_name=self.region or None)

    def client(self, service: str) -> Any:
        """A boto3 client; one for each thread that needs one is not needed, clients may be shared."""
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": self.attempts}, connect_timeout=self.timeout_seconds,
            read_timeout=self.timeout_seconds, max_pool_connections=32,
        )  # fmt: skip
        return self._session.client(service, config=config)

    def key(self, *parts: str) -> str:
        """A key in the bucket: the prefix and these parts."""
        return "/".join((self.prefix, *parts)) if self.prefix else "/".join(parts)

    def uri(self, *parts: str) -> str:
        """The same as s3://bucket/key."""
        return f"s3://{self.bucket}/{self.key(*parts)}"


def _region() -> str:
    """What boto3 would take; without importing it where the environment says it."""
    said = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if said:
        return said
    from boto3.session import Session

    return Session().region_name or ""

"""A job's output from CloudWatch (moto's): each line once, hosts told apart, and patience."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from medpipe.aws.errors import AwsError
from medpipe.aws.logs import GROUP, Tail
from medpipe_tests.aws.conftest import Cloud

START = int(time.time() * 1000) - 60_000


class Output:
    """The streams of one job, as SageMaker writes them."""

    def __init__(self, client: Any) -> None:
        self.client, self.name = client, f"medpipe-test-{uuid.uuid4().hex[:12]}-a1"
        self.said: list[str] = []

    def write(self, host: str, *lines: tuple[int, str]) -> None:
        stream = f"{self.name}/{host}-1700000000"
        for make, names in (("group", {"logGroupName": GROUP}), ("stream", {"logGroupName": GROUP, "logStreamName": stream})):
            try:
                getattr(self.client, f"create_log_{make}")(**names)
            except self.client.exceptions.ResourceAlreadyExistsException:
                continue  # the earlier lines made it
        events = [{"timestamp": START + at, "message": text} for at, text in lines]
        self.client.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)

    def tail(self, since: datetime | None = None) -> Tail:
        return Tail(self.client, self.name, self.said.append, since)


@pytest.fixture
def output(aws: Cloud) -> Output:
    return Output(aws.account.client("logs"))


def test_each_line_comes_once_and_late_ones_too(output: Output) -> None:
    tail = output.tail()
    assert tail.new_lines() == []  # the job has written nothing yet, and there may be no group
    output.write("algo-1", (0, "one\n"), (1, "two"))
    assert tail.new_lines() == ["one", "two"] and tail.new_lines() == []
    output.write("algo-1", (2, "three"))
    assert tail.new_lines() == ["three"] and output.said == []


def test_another_job_with_a_longer_name_is_not_read(output: Output) -> None:
    other = Output(output.client)
    other.name = output.name + "0"
    other.write("algo-1", (0, "not this"))
    output.write("algo-1", (0, "this"))
    assert output.tail().new_lines() == ["this"]


def test_hosts_are_told_apart_in_order_of_time(output: Output) -> None:
    output.write("algo-2", (1, "second"))
    output.write("algo-1", (0, "first"), (2, "third"))
    assert output.tail().new_lines() == ["algo-1: first", "algo-2: second", "algo-1: third"]


def test_old_lines_can_be_left_out(output: Output) -> None:
    output.write("algo-1", (0, "old"), (5000, "new"))
    assert output.tail(datetime.fromtimestamp((START + 2500) / 1000, UTC)).new_lines() == ["new"]


def test_ten_thousand_lines_are_read_over_many_pages(output: Output) -> None:
    for start in range(0, 21_000, 7_000):
        output.write("algo-1", *[(at, f"line {at}") for at in range(start, start + 7_000)])
    assert output.tail().new_lines() == [f"line {at}" for at in range(21_000)]


def test_throttled_lines_come_later_and_it_is_said_once(output: Output) -> None:
    output.write("algo-1", (0, "one"))
    output.write("algo-2", (1, "two"))
    tail, refusals = output.tail(), ["", "ThrottlingException", "ThrottlingException"]

    def refuse(**context: Any) -> Any:
        """Stands in for CloudWatch's answer: what botocore makes of it is the same."""
        code = refusals.pop(0) if refusals else ""
        if not code:
            return None
        from botocore.awsrequest import AWSResponse

        answer = {"Error": {"Code": code, "Message": "Rate exceeded"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        return AWSResponse("", 400, {}, None), answer

    output.client.meta.events.register("before-call.cloudwatch-logs.GetLogEvents", refuse)
    assert tail.new_lines() == ["one"]
    assert tail.new_lines() == []
    assert tail.new_lines() == ["algo-2: two"]
    assert len(output.said) == 1 and "Rate exceeded" in output.said[0]
    refusals.append("AccessDeniedException")
    with pytest.raises(AwsError, match="no permission for"):
        tail.new_lines()

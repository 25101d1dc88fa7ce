"""A training job's own output, as CloudWatch has it: each line once, as it comes.

    tail = Tail(account.client("logs"), name)
    for line in tail.new_lines(): print(line)            # again and again, while the job runs and once after its end

CloudWatch gets a line some seconds after it was written, in one stream for each host. That logs are late, missing or throttled is no
reason to end a training: what can't be read now is read at the next call. Left out: the job itself (medpipe/aws/jobs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from medpipe.aws.calls import passing
from medpipe.aws.errors import explained, masked

GROUP = "/aws/sagemaker/TrainingJobs"


class Tail:
    """What of one job's output has been read, and what is new."""

    def __init__(self, client: Any, name: str, say: Callable[[str], None] = print, since: datetime | None = None) -> None:
        """Nothing is read yet.

        Args:
            client: of CloudWatch Logs.
            name: of the training job.
            say: is told once when CloudWatch can't be read.
            since: older lines are left out.
        """
        self._client, self._name, self._say = client, name, say
        self._since = {"startTime": int(since.timestamp() * 1000)} if since else {}
        self._tokens: dict[str, str] = {}  # stream → where its next page begins
        self._waiting = False

    def new_lines(self) -> list[str]:
        """Lines that were not given yet, in order of time; with several hosts each names its own.

        Raises:
            MedpipeError: CloudWatch refuses.
        """
        found: list[tuple[int, str, str]] = []
        with explained(f"reading the log of {self._name}"):
            try:
                self._read(found)
                self._waiting = False
            except Exception as error:
                if not passing(error):
                    raise
                if not self._waiting:
                    self._say(f"the log of {self._name} can't be read now ({masked(str(error))}); looking again")
                self._waiting = True
        several = len(self._tokens) > 1
        found.sort(key=lambda line: line[0])  # stable: lines of one stream keep their order
        return [f"{host}: {text}" if several else text for _, host, text in found]

    def _read(self, found: list[tuple[int, str, str]]) -> None:
        for stream in self._streams():
            host = stream.partition("/")[2].rpartition("-")[0]  # "<job>/algo-1-1700000000"
            while True:
                token = self._tokens.get(stream)
                page = self._client.get_log_events(
                    logGroupName=GROUP, logStreamName=stream, startFromHead=True, **self._since, **({"nextToken": token} if token else {})
                )
                found += [(event["timestamp"], host, event["message"].rstrip("\n")) for event in page["events"]]
                self._tokens[stream] = page["nextForwardToken"]
                if page["nextForwardToken"] == token:  # so CloudWatch says that there is no more; a page may be empty before that
                    break

    def _streams(self) -> Iterator[str]:
        pages = self._client.get_paginator("describe_log_streams").paginate(logGroupName=GROUP, logStreamNamePrefix=f"{self._name}/")
        try:
            for page in pages:
                yield from (stream["logStreamName"] for stream in page["logStreams"])
        except self._client.exceptions.ResourceNotFoundException:
            return  # no job of this account has written yet

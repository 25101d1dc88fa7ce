"""200 random schedules of killed launchers, lost answers, throttling and stale news: one job for a launch, none left running.

Each launcher and each sweep is a process of its own, ended by SIGKILL at a random one of its steps (a call sent, a call answered, a
record about to be written or written, a pause). What is checked is what the server saw.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.aws import jobs
from medpipe.aws.account import Account
from medpipe.aws.request import Launch, training_job
from medpipe.config import digest, load_profile
from medpipe.errors import MedpipeError
from medpipe_tests.aws.conftest import IMAGE, KEYS, REGION, ROLE
from medpipe_tests.aws.sagemaker_server import End, SageMakerServer

SCHEDULES, BATCHES = 200, 4
ACCOUNT = Account("bucket", ROLE, IMAGE, REGION, "medpipe")
SETTINGS = load_profile("smoke")
PLACES = ("s3://bucket/medpipe/code", "s3://bucket/medpipe/train", "s3://bucket/medpipe/eval", "s3://bucket/medpipe/launch")
HANGS_SECONDS = 60
DELICATE = (
    "after intended is recorded", "before CreateTrainingJob is sent", "after CreateTrainingJob", "before created is recorded", "in a pause"
)  # fmt: skip
"""Where a launcher is killed most often: around the making of a job, and while it runs."""
FAULTS = {
    "CreateTrainingJob": (3, ["lost after", "lost after", "lost before", "throttle", "internal after", ""]),
    "DescribeTrainingJob": (7, ["stale:1", "stale:2", "stale:3", "stale:6", "throttle", "lost before", "", ""]),
    "StopTrainingJob": (2, ["lost after", "lost before", "throttle", ""]),
}


@dataclass
class Told:
    """What a process of a launcher or a sweep left behind."""

    killed: str = ""  # at which step
    result: dict[str, Any] | None = None  # of a launcher that ended well
    error: str = ""
    said: list[str] = field(default_factory=list)


class Process:
    """Runs one launcher or one sweep in a forked process, and kills it at its n-th step."""

    def __init__(self, client: Any, kill_at: int, where: str) -> None:
        """It is killed at the n-th step of this name, or of any where it is empty; at 0 not at all."""
        self.client, self.kill_at, self.where = client, kill_at, where
        self.steps, self.told = 0, Told()

    def run(self, work: Callable[[Process], Any]) -> Told:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._in_child(work, writing)
        os.close(writing)
        with os.fdopen(reading) as handle:
            text = handle.read()
        _, status = os.waitpid(pid, 0)
        told = Told(**json.loads(text)) if text else Told()
        assert told.killed or status == 0, f"the process ended with {status}"
        return told

    def _in_child(self, work: Callable[[Process], Any], writing: int) -> None:
        try:
            signal.alarm(HANGS_SECONDS)
            self._writing = writing
            events, write = self.client.meta.events, store.write_json
            events.register("before-send.sagemaker", lambda **kw: self.step(f"before {kw['event_name'].rpartition('.')[2]} is sent"))
            events.register("after-call.sagemaker", lambda **kw: self.step(f"after {kw['event_name'].rpartition('.')[2]}"))

            def recorded(path: Path, value: Any) -> None:
                self.step(f"before {value['state']} is recorded")
                write(path, value)
                self.step(f"after {value['state']} is recorded")

            store.write_json = recorded
            try:
                self.told.result = work(self)
            except Exception as error:
                self.told.error = f"{type(error).__name__}: {error}"
            self._tell()
        except BaseException:
            os._exit(1)
        os._exit(0)

    def step(self, where: str) -> None:
        self.steps += self.where in ("", where)
        if self.kill_at and self.where in ("", where) and self.steps == self.kill_at:
            self.told.killed = where
            self._tell()
            os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self) -> None:
        os.write(self._writing, json.dumps(vars(self.told), default=str).encode())


class Schedule:
    """One launch, and what befalls it."""

    def __init__(self, seed: int, server: SageMakerServer, clients: tuple[Any, Any], outputs: Path) -> None:
        self.chance = random.Random(seed)
        self.server, self.outputs = server, outputs
        self.client = clients[self.chance.random() < 0.5]
        self.launch = Launch(digest(["schedule", seed]), "smoke", *PLACES)
        self.fails = {self.launch.name(number): self.chance.random() < 0.3 for number in range(1, 60)}
        self.killed: list[str] = []
        server.clear_faults()
        server.life, server.stopping = self.chance.randint(0, 6), self.chance.randint(0, 3)
        server.lives = lambda name: End("Failed", "AlgorithmError: loss is nan") if self.fails[name] else End()

    def carry_out(self) -> None:
        for number in range(self.chance.randint(1, 4)):
            self.trouble()
            if not number or self.chance.random() < 0.7:
                anywhere, delicate = (self.chance.randint(1, 25), ""), (1, self.chance.choice(DELICATE))
                self.launched(*self.chance.choice([(0, ""), anywhere, delicate, delicate]))
            else:
                self.swept(self.chance.choice([0, 0, self.chance.randint(1, 10)]))
        if self.chance.random() < 0.5:
            self.to_the_end()
        self.cleared_up()

    def trouble(self) -> None:
        for operation, (most, kinds) in FAULTS.items():
            self.server.fault(operation, *self.chance.choices(kinds, k=self.chance.randint(0, most)))

    def launched(self, kill_at: int = 0, where: str = "") -> Told:
        before, running = self.server.accepted(self.launch.digest), self.running()

        def work(process: Process) -> Any:
            pause = lambda seconds: process.step("in a pause")  # noqa: E731
            with jobs.claimed(self.client, self.launch, self.outputs, process.told.said.append, pause=pause) as job:
                return job.finish(training_job(SETTINGS, ACCOUNT, self.launch, job.name))

        told = Process(self.client, kill_at, where).run(work)
        after = self.server.accepted(self.launch.digest)
        if running and self.server.status(running[0]) != "Failed":  # by itself, at this launcher's first look
            assert after == before, f"a job ran, and {after[len(before) :]} was made"
        if told.killed:
            self.killed.append(told.killed + (" of a running job" if running or self.running() else ""))
        elif told.result is not None:
            assert told.result["TrainingJobName"] == after[-1] and told.result["TrainingJobStatus"] == "Completed"
            assert self.server.status(after[-1]) == "Completed"
        else:
            assert told.error.startswith(("JobEnded", "AwsError", "MedpipeError")), told.error
            if "loss is nan" in told.error:
                assert self.server.status(after[-1]) == "Failed"
            for name in self.running():  # said by who had it; who could not even ask leaves it to the sweeper
                watched = not running or any("watching it" in line for line in told.said)
                assert not watched or any(f"WARNING: {name} may still run" in line for line in told.said)
                assert jobs.any_open(self.outputs)
        return told

    def running(self) -> list[str]:
        return [name for name in self.server.unfinished(self.launch.digest) if self.server.status(name) == "InProgress"]

    def swept(self, kill_at: int = 0, later: float = 0.0, times: int = 1) -> None:
        def work(process: Process) -> None:
            pause = lambda seconds: process.step("in a pause")  # noqa: E731
            for left in reversed(range(times)):
                try:
                    jobs.sweep(self.client, self.outputs, time.time() + later, process.told.said.append, pause)
                except MedpipeError:
                    if not left:
                        raise

        told = Process(self.client, kill_at, "").run(work)
        if told.killed:
            self.killed.append(f"{told.killed}, sweeping")

    def to_the_end(self) -> None:
        """The user launches again until the models are there."""
        for _ in range(40):
            if self.launched().result is not None:
                return
        raise AssertionError("forty launches did not bring a model")

    def cleared_up(self) -> None:
        """The sensor looks again and again; in the end SageMaker is as it should be."""
        self.swept(times=6)
        self.server.clear_faults()
        self.swept(times=6, later=1000)
        assert not jobs.any_open(self.outputs) and self.server.unfinished(self.launch.digest) == []
        made = self.server.accepted(self.launch.digest)
        assert made == [self.launch.name(number + 1) for number in range(len(made))]
        assert self.server.most_unfinished[self.launch.digest] <= 1, "two unfinished jobs of one launch"
        assert all(self.server.status(name) in ("Failed", "Stopped") for name in made[:-1]), "a job beside one that completed"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerServer]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power is lost here, and 200 schedules write often
    with SageMakerServer() as server:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL_SAGEMAKER": server.endpoint}.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


def impatient() -> Any:
    """A client that does not try again by itself: what it does not do falls to the product."""
    import boto3
    from botocore.config import Config

    return boto3.client("sagemaker", region_name=REGION, config=Config(retries={"mode": "standard", "total_max_attempts": 1}))


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_never_two_jobs_of_one_launch_and_none_left_running(server: SageMakerServer, tmp_path: Path, batch: int) -> None:
    clients = (ACCOUNT.client("sagemaker"), impatient())  # never used in this process: its children each start with clean connections
    killed: list[str] = []
    for seed in range(batch, SCHEDULES, BATCHES):
        schedule = Schedule(seed, server, clients, tmp_path / str(seed))
        try:
            schedule.carry_out()
        except AssertionError as error:
            calls = [call for call in server.journal if call.name.startswith(schedule.launch.name(1)[:-1])]
            raise AssertionError(f"schedule {seed}: {error}; calls: {calls}") from error
        killed += schedule.killed
    wanted = {*DELICATE[:2], *(f"{where} of a running job" for where in DELICATE[2:])}
    assert wanted <= set(killed), f"no launcher was killed {wanted - set(killed)}"

"""200 random schedules of killed launchers, lost answers, throttling and stale news: one job for a launch, none left running.

Each launcher and each sweep is a process of its own, ended by SIGKILL at a random one of its steps (a call sent, a call answered, a
record about to be written or written, a pause); some launchers get a SIGINT there, and one at each step after it. What is checked is
what the server saw. Before that, single cases: signals on signals, and what is left in other regions and accounts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from medpipe import store
from medpipe.aws import intents, jobs
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
LAUNCH = Launch(digest("single cases"), "smoke", *PLACES)
NUMBER = "123456789012"  # of the server's account
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

    def __init__(self, client: Any, kill_at: int, where: str, interrupts: int = 0) -> None:
        """It is killed at the n-th step of this name, or of any where it is empty; at 0 not at all. Or interrupted so often from there."""
        self.client, self.kill_at, self.where, self.interrupts = client, kill_at, where, interrupts
        self.interrupted = False
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
            signal.signal(signal.SIGINT, signal.default_int_handler)
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
            except (Exception, KeyboardInterrupt) as error:
                self.told.error = f"{type(error).__name__}: {error}"
            self._tell()
        except BaseException:
            os._exit(1)
        os._exit(0)

    def step(self, where: str) -> None:
        self.steps += self.where in ("", where)
        due = self.kill_at and self.where in ("", where) and self.steps == self.kill_at
        if self.interrupts and (due or self.interrupted):
            self.interrupted = True
            self.interrupts -= 1
            signal.raise_signal(signal.SIGINT)
        elif due and not self.interrupted:
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
        self.interrupted = 0
        server.clear_faults()
        server.life, server.stopping = self.chance.randint(0, 6), self.chance.randint(0, 3)
        server.lives = lambda name: End("Failed", "AlgorithmError: loss is nan") if self.fails[name] else End()

    def carry_out(self) -> None:
        for number in range(self.chance.randint(1, 4)):
            self.trouble()
            if not number or self.chance.random() < 0.7:
                anywhere, delicate = (self.chance.randint(1, 25), ""), (1, self.chance.choice(DELICATE))
                self.launched(*self.chance.choice([(0, ""), anywhere, delicate, delicate]), self.chance.choice([0, 0, 1, 9]))
            else:
                self.swept(self.chance.choice([0, 0, self.chance.randint(1, 10)]))
        if self.chance.random() < 0.5:
            self.to_the_end()
        self.cleared_up()

    def trouble(self) -> None:
        for operation, (most, kinds) in FAULTS.items():
            self.server.fault(operation, *self.chance.choices(kinds, k=self.chance.randint(0, most)))

    def launched(self, kill_at: int = 0, where: str = "", interrupts: int = 0) -> Told:
        before, running = self.server.accepted(self.launch.digest), self.running()

        def work(process: Process) -> Any:
            pause = lambda seconds: process.step("in a pause")  # noqa: E731
            with jobs.claimed(self.client, self.launch, self.outputs, process.told.said.append, pause=pause) as job:
                return job.finish(training_job(SETTINGS, ACCOUNT, self.launch, job.name))

        told = Process(self.client, kill_at, where, interrupts).run(work)
        after = self.server.accepted(self.launch.digest)
        if running and self.server.status(running[0]) != "Failed":  # by itself, at this launcher's first look
            assert after == before, f"a job ran, and {after[len(before) :]} was made"
        if told.killed:
            self.killed.append(told.killed + (" of a running job" if running or self.running() else ""))
        elif told.result is not None:
            assert told.result["TrainingJobName"] == after[-1] and told.result["TrainingJobStatus"] == "Completed"
            assert self.server.status(after[-1]) == "Completed"
        else:
            assert told.error.startswith(("JobEnded", "AwsError", "MedpipeError", "KeyboardInterrupt")), told.error
            self.interrupted += told.error.startswith("KeyboardInterrupt")
            assert not any("the stopping was interrupted" in line for line in told.said)
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
                    jobs.sweep(lambda region: self.client, self.outputs, time.time() + later, process.told.said.append, pause)
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


def watched(server: SageMakerServer, outputs: Path) -> int:
    """A launcher in a process group of its own, whose job runs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(HANGS_SECONDS)
            with jobs.claimed(ACCOUNT.client("sagemaker"), LAUNCH, outputs, lambda line: None, poll_seconds=0.02) as job:
                job.finish(training_job(SETTINGS, ACCOUNT, LAUNCH, job.name))
            code = 0
        finally:
            os._exit(code)
    wait_for(lambda: calls(server, "DescribeTrainingJob") > 3, "a watched job")
    return pid


def calls(server: SageMakerServer, operation: str) -> int:
    return sum(call.operation == operation for call in server.journal)


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + HANGS_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.01)


@pytest.mark.parametrize(("second", "ends"), [(signal.SIGINT, 1), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_does_not_abort_the_stop(server: SageMakerServer, tmp_path: Path, second: signal.Signals, ends: int) -> None:
    """SageMaker throttles until botocore gives up, so the second signal comes in the launcher's own pause before it asks again."""
    group = watched(server, tmp_path)
    server.fault("StopTrainingJob", *["throttle"] * 8)
    os.killpg(group, signal.SIGINT)
    wait_for(lambda: calls(server, "StopTrainingJob") >= 8, "a stop that is throttled")
    os.killpg(group, second)
    _, status = os.waitpid(group, 0)
    assert os.waitstatus_to_exitcode(status) == ends
    assert server.status(LAUNCH.name(1)) in ("Stopping", "Stopped") and calls(server, "StopTrainingJob") == 9


def test_signals_wait_and_then_do_what_they_would_have_done() -> None:
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with jobs.undisturbed(), jobs.undisturbed():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            assert heard == []
        assert sorted(heard) == [signal.SIGINT, signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert len(heard) == 3  # the handler that was there is back
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_letting_go_early_and_again_stops_once(server: SageMakerServer, tmp_path: Path) -> None:
    client, said = ACCOUNT.client("sagemaker"), []
    client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, LAUNCH.name(1)))
    server.stopping = 5
    with jobs.claimed(client, LAUNCH, tmp_path, said.append) as job:
        job.let_go()
        job.let_go()
    assert calls(server, "StopTrainingJob") == 1 and sum("its launcher ends" in line for line in said) == 1
    with jobs.claimed(client, LAUNCH, tmp_path / "nothing runs here", said.append, pause=lambda seconds: None) as job:
        job.let_go()
    assert calls(server, "StopTrainingJob") == 1 and not any("WARNING" in line for line in said)


def left(outputs: Path, number: int, region: str, account: str = "", state: intents.State = "created") -> str:
    """A launch of which only the record is left; the job's name."""
    launch = Launch(digest(["left", number]), "smoke", *PLACES)
    intents.write(intents.folder(outputs), intents.Intent(launch.digest, launch.name(1), 1, region, intents.stamp(), state, "", account))
    return launch.name(1)


def test_a_sweep_stops_orphans_in_every_region_and_names_those_it_cannot_see(server: SageMakerServer, tmp_path: Path) -> None:
    here, there = left(tmp_path, 1, REGION), left(tmp_path, 2, "eu-west-1", NUMBER)
    lost, foreign = left(tmp_path, 3, REGION), left(tmp_path, 4, REGION, "210987654321")
    left(tmp_path, 5, REGION, NUMBER, "intended")
    with SageMakerServer() as far:
        places = {REGION: server, "eu-west-1": far}
        clients = {region: boto3.client("sagemaker", region_name=region, endpoint_url=place.endpoint) for region, place in places.items()}
        for region, name in ((REGION, here), ("eu-west-1", there), (REGION, foreign)):
            clients[region].create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, name))
        asked: list[str] = []
        said: list[str] = []
        client_of = lambda region: asked.append(region) or clients[region]  # noqa: E731
        for account in (NUMBER, ""):  # known from the role, or only from what SageMaker says of a job
            swept = jobs.sweep(client_of, tmp_path, time.time() + 1000, said.append, lambda seconds: None, account)
            assert (sorted(swept.stopped), sorted(swept.unknown)) == (sorted([here, there] if account else []), sorted([lost, foreign]))
        assert sorted(asked) == sorted([REGION, "eu-west-1"] * 2)  # once in each sweep
        assert far.status(there) != "InProgress" != server.status(here) and server.status(foreign) == "InProgress"
    assert any(f"{lost} may run: this account does not know it" in line for line in said)
    assert any(f"{foreign} may run: it is of account 210987654321" in line for line in said)
    assert set(jobs.orphans(tmp_path)) == {lost, foreign}  # what was asked for and never made is closed


def test_a_launch_does_not_forget_a_job_of_another_account(server: SageMakerServer, tmp_path: Path) -> None:
    launch = Launch(digest(["left", 1]), "smoke", *PLACES, account=NUMBER)
    name = left(tmp_path, 1, REGION, "210987654321")
    client, quiet = ACCOUNT.client("sagemaker"), lambda line: None
    with (
        pytest.raises(
            MedpipeError, match=f"of this launch in account 210987654321, expected none but in {NUMBER}.*medpipe aws stop {name}"
        ),
        jobs.claimed(client, launch, tmp_path, quiet),
    ):
        pass
    assert server.journal == [] and jobs.orphans(tmp_path) == [name]
    known = intents.read(intents.folder(tmp_path), launch.digest)
    assert known is not None
    intents.write(intents.folder(tmp_path), replace(known, state="ended", attempt=7))
    with jobs.claimed(client, launch, tmp_path, quiet, pause=lambda seconds: server.end(name)) as job:
        assert job.attempt == 1  # seven were made in the other account
        job.finish(training_job(SETTINGS, ACCOUNT, launch, job.name))
    known = intents.read(intents.folder(tmp_path), launch.digest)
    assert known is not None and (known.account, known.open) == (NUMBER, False)


def impatient() -> Any:
    """A client that does not try again by itself: what it does not do falls to the product."""
    from botocore.config import Config

    return boto3.client("sagemaker", region_name=REGION, config=Config(retries={"mode": "standard", "total_max_attempts": 1}))


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_never_two_jobs_of_one_launch_and_none_left_running(server: SageMakerServer, tmp_path: Path, batch: int) -> None:
    clients = (ACCOUNT.client("sagemaker"), impatient())  # never used in this process: its children each start with clean connections
    killed: list[str] = []
    interrupted = 0
    for seed in range(batch, SCHEDULES, BATCHES):
        schedule = Schedule(seed, server, clients, tmp_path / str(seed))
        try:
            schedule.carry_out()
        except AssertionError as error:
            calls = [call for call in server.journal if call.name.startswith(schedule.launch.name(1)[:-1])]
            raise AssertionError(f"schedule {seed}: {error}; calls: {calls}") from error
        killed += schedule.killed
        interrupted += schedule.interrupted
    wanted = {*DELICATE[:2], *(f"{where} of a running job" for where in DELICATE[2:])}
    assert wanted <= set(killed), f"no launcher was killed {wanted - set(killed)}"
    assert interrupted >= 10, f"only {interrupted} launchers were interrupted"

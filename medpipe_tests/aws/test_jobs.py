"""One launch, one job: made, watched, adopted, stopped; against a SageMaker endpoint over HTTP, with clocks in the test's hand."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe.aws import intents, jobs
from medpipe.aws.account import Account
from medpipe.aws.request import Launch, training_job
from medpipe.config import load_profile
from medpipe.errors import MedpipeError
from medpipe_tests.aws.conftest import IMAGE, KEYS, REGION, ROLE
from medpipe_tests.aws.sagemaker_server import End, SageMakerServer

PLACES = ("s3://bucket/medpipe/code", "s3://bucket/medpipe/train", "s3://bucket/medpipe/eval", "s3://bucket/medpipe/launch")
LAUNCH = Launch("ab12" * 16, "smoke", *PLACES)
FIRST, SECOND = LAUNCH.name(1), LAUNCH.name(2)
SETTINGS = load_profile("smoke")
DEADLINE = 30.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerServer]:
    """Jobs run until the test ends them; botocore's pauses between its own tries are none."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)
    with SageMakerServer() as server:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL_SAGEMAKER": server.endpoint}.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


ACCOUNT = Account("bucket", ROLE, IMAGE, REGION, "medpipe")


@pytest.fixture
def client(server: SageMakerServer) -> Any:
    return Account("bucket", ROLE, IMAGE, REGION, "medpipe").client("sagemaker")


class World:
    """A launcher's pauses are when something happens to its job."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waited = 0.0
        self.events: list[Callable[[], object]] = []

    def pause(self, seconds: float) -> None:
        self.waited += seconds
        assert self.waited < 10_000, "waits for ever"
        if self.events:
            self.events.pop(0)()

    def then(self, *events: Callable[[], object]) -> World:
        self.events += events
        return self


@pytest.fixture
def world() -> World:
    return World()


def carry_out(client: Any, outputs: Path, world: World, usable: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    with jobs.claimed(client, LAUNCH, outputs, world.said.append, poll_seconds=15, pause=world.pause, usable=usable) as job:
        return job.finish(training_job(SETTINGS, ACCOUNT, LAUNCH, job.name))


def intent(outputs: Path) -> intents.Intent:
    found = intents.read(intents.folder(outputs), LAUNCH.digest)
    assert found is not None
    return found


def swept(client: Any, outputs: Path, world: World, later: float = 0.0) -> list[str]:
    """What a sweep stops, where it finds all that it looks for."""
    found = jobs.sweep(lambda region: client, outputs, time.time() + later, world.said.append, world.pause)
    assert found.unknown == []
    return found.stopped


def nothing() -> None:
    """What happens in a pause in which nothing happens."""


def test_a_job_is_made_watched_and_described(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    seen: list[str] = []
    server.on_call = lambda operation, name: seen.append(intent(tmp_path).state) if operation.startswith("Create") else None
    world.then(nothing, lambda: server.end(FIRST, End(metrics={"train:accuracy": 0.5})))
    told = carry_out(client, tmp_path, world)
    assert seen == ["intended"]  # on the disk before SageMaker was asked
    assert told["TrainingJobName"] == FIRST and told["TrainingJobStatus"] == "Completed"
    assert told["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://bucket/medpipe/jobs/{FIRST}/output/model.tar.gz"
    assert told["FinalMetricDataList"][0]["Value"] == 0.5
    assert [line for line in world.said if FIRST in line] == [
        f"{FIRST}: Training (Training image download completed. Training in progress.)", f"{FIRST}: Completed"
    ]  # fmt: skip
    assert (intent(tmp_path).state, intent(tmp_path).status, intent(tmp_path).region) == ("ended", "Completed", REGION)


def test_a_finished_job_is_taken_and_another_is_made_only_when_its_results_are_gone(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World
) -> None:
    carry_out(client, tmp_path, world.then(lambda: server.end(FIRST)))
    assert carry_out(client, tmp_path, world)["TrainingJobName"] == FIRST
    assert carry_out(client, tmp_path / "another machine", world)["TrainingJobName"] == FIRST
    assert server.accepted() == [FIRST]
    world.then(lambda: server.end(SECOND))
    lost = lambda description: description["TrainingJobName"] != FIRST  # noqa: E731
    assert carry_out(client, tmp_path, world, lost)["TrainingJobName"] == SECOND
    assert carry_out(client, tmp_path / "a third machine", world, lost)["TrainingJobName"] == SECOND  # the good one is found
    assert server.accepted() == [FIRST, SECOND] and f"{FIRST}: Completed, without usable results; the next attempt is due" in world.said


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (End("Failed", "AlgorithmError: loss is nan, exit code: 1"), ("loss is nan", f"medpipe aws logs {FIRST}")),
        (End("Failed", "CapacityError: Unable to provision requested ML compute capacity."), ("CapacityError", "aws.instance_type")),
        (End("Stopped", "", secondary="MaxWaitTimeExceeded"), ("aws.max_wait_hours",)),
    ],
)
def test_a_failure_gives_its_reason_and_the_next_launch_is_the_next_attempt(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World, end: End, words: tuple[str, ...]
) -> None:
    with pytest.raises(jobs.JobEnded) as failed:
        carry_out(client, tmp_path, world.then(lambda: server.end(FIRST, end)))
    assert all(word in str(failed.value) for word in words) and failed.value.description["TrainingJobStatus"] == end.status
    assert not any("stopping" in line for line in world.said)
    world.then(lambda: server.end(SECOND))
    assert carry_out(client, tmp_path, world)["TrainingJobName"] == SECOND
    assert carry_out(client, tmp_path / "another machine", world)["TrainingJobName"] == SECOND


def test_a_running_job_is_adopted_from_another_machine(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, FIRST))
    assert carry_out(client, tmp_path, world.then(nothing, lambda: server.end(FIRST)))["TrainingJobName"] == FIRST
    assert server.accepted() == [FIRST] and f"{FIRST} runs already: watching it" in world.said


def test_a_job_that_is_being_stopped_is_waited_for_before_the_next(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World
) -> None:
    server.stopping = 3
    client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, FIRST))
    client.stop_training_job(TrainingJobName=FIRST)
    world.then(nothing, nothing, nothing, lambda: server.end(SECOND))
    assert carry_out(client, tmp_path, world)["TrainingJobName"] == SECOND
    assert server.most_unfinished == {LAUNCH.digest: 1}


def test_a_job_that_never_ends_its_stopping_is_not_waited_for_for_ever(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World
) -> None:
    server.stopping = 10**6
    client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, FIRST))
    client.stop_training_job(TrainingJobName=FIRST)
    with pytest.raises(MedpipeError, match="Stopping for 30 minutes"):
        carry_out(client, tmp_path, world)
    assert server.accepted() == [FIRST]


@pytest.mark.parametrize("fault", ["lost after", "lost before", "internal after", "throttle"])
@pytest.mark.parametrize("times", [1, 8, 17])  # botocore asks eight times itself
def test_an_unanswered_create_makes_one_job(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World, fault: str, times: int
) -> None:
    server.fault("CreateTrainingJob", *[fault] * times)
    server.fault("DescribeTrainingJob", "", *["stale:40"] * 4)
    world.then(*[nothing] * 6, lambda: server.end(FIRST))
    assert carry_out(client, tmp_path, world)["TrainingJobName"] == FIRST
    assert server.accepted() == [FIRST] and server.unfinished() == []


def test_a_create_that_nobody_ever_answers_leaves_an_open_intent_and_says_so(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World
) -> None:
    server.fault("CreateTrainingJob", *["lost before"] * 48)
    with pytest.raises(MedpipeError, match="no answer from AWS"):
        carry_out(client, tmp_path, world)
    assert intent(tmp_path).open and any(f"WARNING: {FIRST} may still run" in line for line in world.said)
    assert swept(client, tmp_path, world) == [] and intent(tmp_path).open
    assert swept(client, tmp_path, world, 1000) == [] and not intent(tmp_path).open


def test_a_refused_create_is_explained_and_closed(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    server.fault("CreateTrainingJob", "refuse:ResourceLimitExceeded:The account-level service limit 'ml.g5.12xlarge for spot' is 0")
    with pytest.raises(MedpipeError, match="a quota that is used up"):
        carry_out(client, tmp_path, world)
    assert (intent(tmp_path).state, intent(tmp_path).status) == ("ended", "refused")
    assert [call.operation for call in server.journal] == ["DescribeTrainingJob", "CreateTrainingJob"]


def test_a_refusal_after_an_unanswered_call_closes_nothing(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    """The first call was accepted; what shows that is out of date, and then credentials end."""
    server.fault("CreateTrainingJob", *["lost after"] + ["lost before"] * 7, "refuse:ExpiredTokenException:The security token is expired")
    server.fault("DescribeTrainingJob", "", *["stale:1000"] * 9)
    server.fault("StopTrainingJob", "refuse:ExpiredTokenException:The security token is expired")
    with pytest.raises(MedpipeError, match="expired AWS credentials"):
        carry_out(client, tmp_path, world)
    assert server.unfinished() == [FIRST] and intent(tmp_path).open
    server.clear_faults()
    assert swept(client, tmp_path, world) == [FIRST]


def test_aws_out_of_reach_for_a_while_does_not_end_the_watch(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    world.then(lambda: server.fault("DescribeTrainingJob", *["throttle", "lost before", "lost after"] * 200), *[nothing] * 30)
    world.then(server.clear_faults, lambda: server.end(FIRST))
    assert carry_out(client, tmp_path, world)["TrainingJobStatus"] == "Completed"
    assert sum("looking again" in line for line in world.said) == 1


def test_aws_out_of_reach_for_good_ends_the_watch_and_stops_the_job(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World
) -> None:
    world.then(lambda: server.fault("DescribeTrainingJob", *["throttle"] * 1000))
    with pytest.raises(MedpipeError, match="too many calls"):
        carry_out(client, tmp_path, world)
    assert world.waited >= jobs.PATIENCE_SECONDS and server.status(FIRST) == "Stopping"


def test_logs_are_shown_after_each_look_and_once_after_the_end(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    shown: list[str] = []
    world.then(nothing, lambda: server.end(FIRST))
    with jobs.claimed(client, LAUNCH, tmp_path, world.said.append, pause=world.pause) as job:
        job.finish(training_job(SETTINGS, ACCOUNT, LAUNCH, job.name), lambda: shown.append(job.status))
    assert shown == ["InProgress", "InProgress", "Completed"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_whatever_ends_the_launcher_stops_the_job(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World, kind: type[BaseException]
) -> None:
    def strike() -> None:
        raise kind("ends")

    server.fault("StopTrainingJob", "throttle", "lost after")
    with pytest.raises(kind):
        carry_out(client, tmp_path, world.then(nothing, strike))
    assert server.status(FIRST) == "Stopping" and intent(tmp_path).open
    assert swept(client, tmp_path, world) == [] and server.unfinished() == []
    assert intent(tmp_path).status == "Stopped" and not intent(tmp_path).open


def test_an_adopted_job_is_stopped_when_the_caller_fails_before_watching(
    server: SageMakerServer, client: Any, tmp_path: Path, world: World
) -> None:
    client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, FIRST))
    with (
        pytest.raises(OSError, match="no session"),
        jobs.claimed(client, LAUNCH, tmp_path, world.said.append, pause=world.pause) as job,
    ):
        raise OSError(f"no session for {job.name}")
    assert server.status(FIRST) == "Stopping"


def test_a_stop_that_is_interrupted_names_the_job(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    def strike() -> None:
        raise KeyboardInterrupt

    server.fault("StopTrainingJob", *["throttle"] * 8)
    with pytest.raises(KeyboardInterrupt):
        carry_out(client, tmp_path, world.then(nothing, strike, strike))
    assert any(f"medpipe aws stop {FIRST}" in line for line in world.said) and intent(tmp_path).open


def test_an_open_job_in_another_region_is_not_forgotten(server: SageMakerServer, client: Any, tmp_path: Path, world: World) -> None:
    home = intents.folder(tmp_path)
    intents.write(home, intents.Intent(LAUNCH.digest, FIRST, 1, "eu-west-1", intents.stamp(), "created"))
    with pytest.raises(MedpipeError, match=r"aws\.region=eu-west-1"):
        carry_out(client, tmp_path, world)
    assert server.journal == [] and intent(tmp_path).open


def test_a_record_that_cannot_be_read_is_named(client: Any, tmp_path: Path) -> None:
    (intents.folder(tmp_path)).mkdir(parents=True)
    (intents.folder(tmp_path) / "abc.json").write_text('{"digest": 1}')
    with pytest.raises(MedpipeError, match=r"abc\.json"):
        jobs.any_open(tmp_path)


def test_stopping_what_has_ended_or_never_was(server: SageMakerServer, client: Any, world: World) -> None:
    client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, FIRST))
    assert not jobs.has_ended(client, FIRST)
    server.end(FIRST)
    assert jobs.stop(client, FIRST, world.pause) == "Completed" and jobs.has_ended(client, FIRST)
    assert jobs.stop(client, SECOND, world.pause) == ""
    server.fault("StopTrainingJob", "refuse:AccessDeniedException:not authorized to perform: sagemaker:StopTrainingJob")
    with pytest.raises(MedpipeError, match="no permission for sagemaker:StopTrainingJob"):
        jobs.stop(client, FIRST, world.pause)


def test_jobs_are_listed_newest_first_over_several_pages(server: SageMakerServer, client: Any) -> None:
    names = [LAUNCH.name(number) for number in range(1, 124)]
    for name in names:
        client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, name))
    client.create_training_job(**training_job(SETTINGS, ACCOUNT, LAUNCH, f"not-{FIRST}"))
    assert [job["TrainingJobName"] for job in jobs.jobs_of(client, "medpipe-", most=200)] == names[::-1]
    assert len(jobs.jobs_of(client, "medpipe-")) == 100 and jobs.jobs_of(client, "other") == []


def in_child(work: Callable[[], object]) -> int:
    """A launcher in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.01)


def watching(client: Any, outputs: Path) -> Callable[[], object]:
    """A launcher that looks at its job often."""

    def work() -> None:
        with jobs.claimed(client, LAUNCH, outputs, lambda text: None, poll_seconds=0.02) as job:
            job.finish(training_job(SETTINGS, ACCOUNT, LAUNCH, job.name))

    return work


@pytest.fixture
def launcher(server: SageMakerServer, client: Any, tmp_path: Path) -> Iterator[int]:
    """A living launcher of another process, whose job runs."""
    pid = in_child(watching(client, tmp_path))
    wait_for(lambda: sum(call.operation == "DescribeTrainingJob" for call in server.journal) > 3, "a watched job")
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return  # the test has ended it


def fresh() -> Any:
    """A client whose connections no other process has."""
    return ACCOUNT.client("sagemaker")


def test_an_interrupt_stops_the_job(server: SageMakerServer, tmp_path: Path, launcher: int) -> None:
    assert server.unfinished() == [FIRST] and server.status(FIRST) == "InProgress"
    os.kill(launcher, signal.SIGINT)
    _, status = os.waitpid(launcher, 0)
    assert os.waitstatus_to_exitcode(status) == 1 and server.status(FIRST) in ("Stopping", "Stopped")


def test_a_second_launcher_is_refused_while_the_first_lives(server: SageMakerServer, tmp_path: Path, launcher: int, world: World) -> None:
    with pytest.raises(MedpipeError, match="another process on this machine"):
        carry_out(fresh(), tmp_path, world)
    assert world.waited == 60 and any("another process has it" in line for line in world.said)  # a sweeper would be done by then
    assert server.status(FIRST) == "InProgress" and server.accepted() == [FIRST]


def test_the_sweeper_stops_a_dead_launchers_job_and_leaves_a_living_ones_alone(
    server: SageMakerServer, tmp_path: Path, launcher: int, world: World
) -> None:
    assert jobs.any_open(tmp_path) and jobs.orphans(tmp_path) == []
    assert swept(fresh(), tmp_path, world, 10_000) == []
    assert server.status(FIRST) == "InProgress"
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert jobs.orphans(tmp_path) == [FIRST]
    assert swept(fresh(), tmp_path, world) == [FIRST]
    assert swept(fresh(), tmp_path, world) == []
    assert server.unfinished() == [] and not jobs.any_open(tmp_path)


def test_a_dead_launchers_job_is_adopted(server: SageMakerServer, tmp_path: Path, launcher: int, world: World) -> None:
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    told = carry_out(fresh(), tmp_path, world.then(nothing, lambda: server.end(FIRST)))
    assert told["TrainingJobName"] == FIRST and server.accepted() == [FIRST]

"""One launch, one training job: made once, watched to its end, stopped when its launcher is, found again after a crash.

    with claimed(client, launch, settings.outputs, print) as job:
        description = job.finish(training_job(settings, account, launch, job.name))
    sweep(client_of, settings.outputs, time.time())        # stops what dead launchers left running, in every region

SageMaker refuses a second job of one name for ever, and a name is made of launch and attempt: so the name is the lock between
machines. The next attempt is only made after the one before was seen to have failed or been stopped, which is final; everything else
that SageMaker answers may be out of date. Left out: the request (request.py), the calls themselves (calls.py), logs (logs.py).
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from medpipe.aws import intents
from medpipe.aws.calls import FINAL, RETRIED, STEPS, Description, Pause, account_in, described, growing, passing, refused, status_of, stop
from medpipe.aws.calls import has_ended as has_ended  # callers find all about jobs in one place
from medpipe.aws.calls import jobs_of as jobs_of
from medpipe.aws.errors import ending, explained, masked
from medpipe.aws.intents import Intent
from medpipe.aws.request import Launch
from medpipe.errors import MedpipeError

Say = Callable[[str], None]
PATIENCE_SECONDS = 600.0  # so long SageMaker may be out of reach, or not show a job that it has accepted
STOPPING_SECONDS = 1800.0  # SageMaker gives a container two minutes, then its results are uploaded
FORGOTTEN_SECONDS = 900.0  # after it, a job that SageMaker does not know was never made


class JobEnded(MedpipeError):
    """A training job that failed or was stopped. The message says why and what to do; `description` is SageMaker's."""

    def __init__(self, description: Description) -> None:
        Exception.__init__(self, ending(description))
        self.description = description


@dataclass(frozen=True)
class Swept:
    """What a sweep did: names of the jobs that ran and are being stopped, and of those that may run where it could not look."""

    stopped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


class Job:
    """The job of a claimed launch. `description` is None where it is yet to be made."""

    def __init__(self, client: Any, launch: Launch, home: Path, say: Say, poll_seconds: float, pause: Pause) -> None:
        self.name = ""
        self.attempt = 0
        self.description: Description | None = None
        self._client, self._launch, self._home, self._say = client, launch, home, say
        self._poll, self._pause = poll_seconds, pause
        self._intent: Intent | None = None
        self._unanswered = False  # whether a call that nobody answered may have made it
        self._secondary = ""

    @property
    def status(self) -> str:
        """As last seen; empty where the job is yet to be made, or not shown yet."""
        return status_of(self.description)

    def resolve(self, usable: Callable[[Description], bool] | None) -> None:
        """Find the attempt that counts, from the last one that this machine knows of."""
        known = intents.read(self._home, self._launch.digest)
        region = self._client.meta.region_name
        if known and known.open and known.region != region:
            raise MedpipeError(
                got=f"the job {known.name} of this launch in {known.region}", expected=f"none but in {region}", where=str(self._home),
                do=f"take it over with aws.region={known.region}, or stop it there: medpipe aws stop {known.name}",
            )  # fmt: skip
        same_account = known is None or intents.same_account(known.account, self._launch.account)
        if known and known.open and not same_account:
            raise MedpipeError(
                got=f"the job {known.name} of this launch in account {known.account}", expected=f"none but in {self._launch.account}",
                where=str(self._home),
                do="take it over with the credentials and the role (aws.role, MEDPIPE_AWS_ROLE) of that account, or with them stop it: "
                f"medpipe aws stop {known.name}",
            )  # fmt: skip
        self.attempt = known.attempt if known and known.region == region and same_account else 1
        while True:
            self.name = self._launch.name(self.attempt)
            self.description = described(self._client, self.name)
            if self.status == "Stopping":
                self._say(f"{self.name} is being stopped: waiting for its end")
                self._watch(None, STOPPING_SECONDS)
            lost = self.status == "Completed" and usable is not None and not usable(self.description or {})
            if self.status not in RETRIED and not lost:
                break
            self._say(f"{self.name}: {self.status}{', without usable results' if lost else ''}; the next attempt is due")
            self.attempt += 1
            self._secondary = ""
        if self.status == "InProgress":
            self._say(f"{self.name} runs already: watching it")
            self._record("created")
        elif known and known.open and self.description is not None:
            self._record("ended")
        else:
            self._unanswered = bool(known and known.open and known.name == self.name)

    def finish(self, request: dict[str, Any], beside: Callable[[], None] | None = None) -> Description:
        """Make the job if it is yet to be made, and watch it to its end.

        Args:
            request: for `create_training_job`, with this job's name.
            beside: called after each look, to show logs.

        Raises:
            MedpipeError: SageMaker refuses the job, or it failed, or was stopped.
        """
        if request["TrainingJobName"] != self.name:
            raise ValueError(f"a request for {request['TrainingJobName']}, expected {self.name}")
        if self.description is None:
            with explained(f"starting {self.name}"):
                self._create(request)
        if self.status not in FINAL:
            with explained(f"watching {self.name}"):
                self._watch(beside, None)
        assert self.description is not None, "a job that is watched to its end was seen"
        if self.status != "Completed":
            raise JobEnded(self.description)
        return self.description

    def let_go(self) -> None:
        """Stop the job if it may run; `claimed` calls it, and so may who has its reason to be early: once more does no harm.

        Interrupts wait until it is done. A failure is said, not raised: it must not hide why the launcher ends.
        """
        with undisturbed():
            if self._intent is not None and self._intent.open and self._intent.status != "Stopping":
                self._stop()

    def _stop(self) -> None:
        self._say(f"stopping {self.name}: its launcher ends, and waits until SageMaker has heard it")
        try:
            status = stop(self._client, self.name, self._pause)
            if status:
                self._record("ended" if status in FINAL else "created", status)
                self._say(f"{self.name}: {status}")
                return
            left = "SageMaker does not know it yet"
        except Exception as error:
            left = str(error)
        except BaseException:
            self._say(self._running("the stopping was interrupted"))
            raise
        self._say(self._running(left))

    def _running(self, why: str) -> str:
        return (
            f"WARNING: {self.name} may still run and cost money ({why}). Stop it: medpipe aws stop {self.name}. "
            "The sensor for orphans looks for it too, and the same launch takes it up where it is."
        )

    def _create(self, request: dict[str, Any]) -> None:
        """Ask until SageMaker has the job. An unanswered call may have been accepted: then the next one says so."""
        for step in range(STEPS):
            if step:
                self._pause(growing(step))
                self.description = described(self._client, self.name)
                if self.description is not None:
                    break
            self._record("intended")
            try:
                self._client.create_training_job(**request)
                break
            except self._client.exceptions.ResourceInUse:
                self._say(f"{self.name} is there already: watching it")
                break
            except Exception as error:
                self._unanswered = self._unanswered or not refused(error)
                if not passing(error) and not self._unanswered:
                    self._record("ended", "refused")
                if not passing(error) or step == STEPS - 1:
                    raise
                self._say(f"{self.name}: no clear answer ({masked(str(error))}); asking again")
        self._record("created")

    def _watch(self, beside: Callable[[], None] | None, most_seconds: float | None) -> None:
        """Look until the job has ended."""
        step = max(self._poll, 1.0)
        watched = missed = 0.0
        while True:
            seen, problem = self._look(missed >= PATIENCE_SECONDS)
            if seen is not None:
                self._saw(seen)
                missed = 0.0
            else:
                if not missed:
                    self._say(f"{self.name}: {problem}; looking again")
                missed += step
            if beside is not None:
                beside()
            if self.status in FINAL:
                break
            if most_seconds is not None and watched >= most_seconds:
                raise MedpipeError(
                    got=f"a job that is {self.status} for {watched / 60:.0f} minutes", expected="its end", where=self.name,
                    do="see it on SageMaker's page, then launch again",
                )  # fmt: skip
            self._pause(self._poll)
            watched += step
        if self._intent is not None:
            self._record("ended")

    def _look(self, last: bool) -> tuple[Description | None, str]:
        """A description, or why there is none; at the last look that is raised."""
        try:
            seen = described(self._client, self.name)
        except Exception as error:
            if last or not passing(error):
                raise
            return None, masked(str(error))
        if seen is None and last:
            raise MedpipeError(
                got="no sight of a job that was accepted", expected="its description", where=self.name,
                do="launch again: it is taken up if it runs",
            )  # fmt: skip
        return seen, "SageMaker does not show it yet"

    def _saw(self, seen: Description) -> None:
        """Take a description, unless it is older than the one before."""
        if self.description is not None and _changed(seen) < _changed(self.description):
            return
        self.description = seen
        if seen.get("SecondaryStatus", "") != self._secondary:
            self._secondary = seen.get("SecondaryStatus", "")
            transitions = seen.get("SecondaryStatusTransitions") or [{}]
            detail = transitions[-1].get("StatusMessage", "")
            self._say(f"{self.name}: {self._secondary}" + (f" ({detail})" if detail else ""))

    def _record(self, state: intents.State, status: str = "") -> None:
        region = self._client.meta.region_name
        started = intents.stamp() if self._intent is None or state == "intended" else self._intent.created_at
        status, account = status or self.status, self._launch.account
        # Known here before it is on the disk: an interrupt in between must still find what is to be stopped.
        self._intent = Intent(self._launch.digest, self.name, self.attempt, region, started, state, status, account)
        intents.write(self._home, self._intent)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block is done; then they do what they would have done. Python hears them in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in before.items() if handler is not None}  # None: set by C code, can't be put back
    try:
        for number in ours:
            signal.signal(number, lambda number, frame: noted.append(number))
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(noted):
            signal.raise_signal(number)


@contextlib.contextmanager
def claimed(
    client: Any,
    launch: Launch,
    outputs: Path,
    say: Say,
    *,
    poll_seconds: float = 15.0,
    pause: Pause = time.sleep,
    usable: Callable[[Description], bool] | None = None,
) -> Iterator[Job]:
    """The job of a launch, for this process alone; stopped if it may run when the block is left, however that happens.

    Between the naming and `finish` the caller can make ready what the job writes to. A running job is taken up, whoever started
    it; one that completed is given as it is, and `finish` then only returns it.

    Args:
        client: of SageMaker.
        launch: what the job is named after.
        outputs: the outputs folder, which keeps what was asked for.
        say: is told what happens, line by line.
        poll_seconds: between two looks.
        pause: waits.
        usable: whether a completed attempt still has its results; one that has not is passed over.

    Raises:
        MedpipeError: another process of this machine has the launch, or AWS can't be asked.
    """
    home = intents.folder(outputs)
    with intents.launching(home, launch.digest, pause, say):
        job = Job(client, launch, home, say, poll_seconds, pause)
        try:
            with explained(f"looking for the job of launch {launch.digest12}"):
                job.resolve(usable)
            yield job
        finally:
            with undisturbed():
                job.let_go()


def any_open(outputs: Path) -> bool:
    """Whether a launch of this machine may have a job that runs; asks nobody."""
    return bool(intents.all_open(intents.folder(outputs)))


def orphans(outputs: Path) -> list[str]:
    """Names of the jobs that may run and whose launchers are gone; asks nobody."""
    home = intents.folder(outputs)
    found = []
    for each in intents.all_open(home):
        with intents.abandoned(home, each.digest) as intent:
            found += [intent.name] if intent else []
    return found


def sweep(
    client_of: Callable[[str], Any], outputs: Path, now: float, say: Say = print, pause: Pause = time.sleep, account: str = ""
) -> Swept:
    """Stop the jobs whose launchers died, and close the intents of those that have ended. Living launchers' are left alone.

    Args:
        client_of: gives a client of SageMaker for a region.
        outputs: the outputs folder of the launchers.
        now: seconds since the epoch.
        say: is told what happens, line by line.
        pause: waits.
        account: whose the clients are, where that is known.

    Returns:
        What is being stopped, and what the account could not be asked about, or does not know though it was made.

    Raises:
        MedpipeError: AWS can't be asked about one of them; the others were looked after.
    """
    home, swept, failure = intents.folder(outputs), Swept(), None
    client_of = functools.cache(client_of)
    for found in intents.all_open(home):
        with intents.abandoned(home, found.digest) as intent:
            if intent is None:
                continue
            try:
                with explained(f"looking after {intent.name} in {intent.region}"):
                    _look_after(client_of, home, intent, now, say, pause, account, swept)
            except MedpipeError as error:
                say(f"{intent.name}: {error}")
                failure = error
    if failure is not None:
        raise failure
    return swept


def _look_after(
    client_of: Callable[[str], Any], home: Path, intent: Intent, now: float, say: Say, pause: Pause, account: str, swept: Swept
) -> None:
    """Look after one job without a launcher."""
    description = None
    if intents.same_account(intent.account, account):
        client = client_of(intent.region)
        description = described(client, intent.name)
        account = account_in(description) or account
    if not intents.same_account(intent.account, account):
        say(f"{intent.name} may run: it is of account {intent.account}, and these credentials are of {account}. Stop it with its own")
        swept.unknown.append(intent.name)
        return
    status = status_of(description)
    running = status == "InProgress"
    if running:
        say(f"{intent.name} runs without its launcher: stopping it")
        status = stop(client, intent.name, pause)
    if status in FINAL:
        intents.write(home, intent.now("ended", status))
    elif status:
        intents.write(home, intent.now("created", status))
    elif intent.age_seconds(now) > FORGOTTEN_SECONDS:
        if intent.state == "intended" and intent.account in ("", account):
            intents.write(home, intent.now("ended", "never made"))
        else:
            say(f"{intent.name} may run: this account does not know it in {intent.region}. Was it another's? Its record stays in {home}")
            swept.unknown.append(intent.name)
    if running and status not in ("Completed", "Failed"):
        swept.stopped.append(intent.name)


def _changed(description: Description) -> datetime:
    return description.get("LastModifiedTime", description["CreationTime"])

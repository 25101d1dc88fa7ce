"""Several instances of one training job: the first one runs the graph, the others join it for the co-training of the team.

    first host                                       every other host
    makes base and roles                             says hello, waits for `ready`
    shares them in S3, says `ready`                  fetches and checks them, writes the very same order
    starts the co-training (launch/together.py)      starts its own processes of it
    goes on, says `end`                              ends when its processes have, and `end` is there

Words are small objects below share/<job name>/ in S3. A job that SageMaker starts again has its old name, so words of the first host
count for those only whose hello they repeat: a hello is drawn anew at each start. Whoever fails says so, and the others end: no
instance is paid for waiting. A check that fails on the team, or its evaluation, is no failure: the models are made, and all end well.
Left out: work on several hosts other than the co-training.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.aws.channels import TEAM, inputs_of
from medpipe.aws.errors import explained
from medpipe.aws.layout import Given, Layout
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.launch.devices import place_co_training
from medpipe.launch.order import Order, command_of, standing_result, worker_environment, write_order
from medpipe.schema import AGENT, Ref

LOOK_SECONDS = 2.0
HELLO_SECONDS = 900.0  # between the starts of two hosts of one job, at most
TALKING = "talking to the other instances of this job through S3"
Bear = Callable[[], None]
"""Called while waiting: it returns after a moment, or raises where the work was asked to stop."""


def team_inputs(settings: Settings) -> tuple[str, ...]:
    """What the co-training is handed."""
    return inputs_of(TEAM, settings)


def before_team(select: str, settings: Settings) -> tuple[str, str]:
    """A selection in two: what the co-training waits for, with the agent that is fine-tuned in the same pass, and the rest."""
    wanted, keys = (*team_inputs(settings), f"models/{AGENT}"), select.split(",")
    return ",".join(key for key in keys if key in wanted), ",".join(key for key in keys if key not in wanted)


def refuse_uneven(layout: Layout, settings: Settings) -> None:
    """Every host must have processes of its own, or it would be paid for nothing.

    Raises:
        MedpipeError: the co-training can't be shared out over the hosts.
    """
    hosts, processes = len(layout.hosts), settings.maporl.processes
    if hosts > 1 and processes % hosts:
        raise MedpipeError(
            got=f"{processes} processes on {hosts} instances", expected="as many on each", where="maporl.processes",
            do=f"set it to a multiple of aws.instance_count = {hosts} (one for each GPU), or aws.instance_count to 1",
        )  # fmt: skip


def team_order(settings: Settings, folders: Mapping[str, Path]) -> Order:
    """The order of the co-training, the same on every host but for its paths."""
    refs = {key: Ref(path=str(folder), sha256=_sha_of(key, folder)) for key, folder in folders.items()}
    return write_order(TEAM, "maporl", settings, refs, place_co_training(settings), "", {})


class Meeting:
    """Where the hosts of one job leave words and folders for each other, s3://bucket/prefix."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client = client
        self._bucket, _, self._prefix = uri.removeprefix("s3://").rstrip("/").partition("/")

    def say(self, name: str, value: Mapping[str, Any]) -> None:
        """Leave a word."""
        with explained(TALKING):
            self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}.json", Body=json.dumps(value).encode())

    def heard(self, name: str) -> dict[str, Any] | None:
        """A word, if it was left. It is looked for in a listing: AWS answers a role that may list below a prefix only with "access denied"
        where it asks for an object that is not there."""
        with explained(TALKING):
            for key in self._keys(f"{self._prefix}/{name}.json"):
                return json.loads(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())
        return None

    def leave(self, name: str, folder: Path) -> None:
        """Leave a folder; its objects are encrypted as the bucket says."""
        with explained(TALKING):
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    self._client.upload_file(str(path), self._bucket, f"{self._prefix}/{name}/{path.relative_to(folder).as_posix()}")

    def fetch(self, name: str, folder: Path) -> None:
        """Fetch a folder that was left."""
        with explained(TALKING):
            for key in self._keys(f"{self._prefix}/{name}/"):
                with store.atomic_path(folder / key.removeprefix(f"{self._prefix}/{name}/")) as path:
                    self._client.download_file(self._bucket, key, str(path))

    def clear(self, name: str) -> None:
        """Remove a folder that was left by an earlier start of this job."""
        with explained(TALKING):
            for key in self._keys(f"{self._prefix}/{name}/"):
                self._client.delete_object(Bucket=self._bucket, Key=key)

    def _keys(self, prefix: str) -> Iterator[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            yield from (each["Key"] for each in page.get("Contents", []))


class Leader:
    """The first host's side: what it tells the others, and what it hears of them."""

    def __init__(self, meeting: Meeting, others: Sequence[str], say: Callable[[str], None]) -> None:
        self._meeting, self._others, self._say = meeting, others, say
        self._word, self._value, self._answered = "", dict[str, Any](), dict[str, str]()
        self._looked = 0.0

    def share(self, order: Order) -> None:
        """Let the others have what the co-training needs and the channels do not hold; they may begin."""
        if standing_result(order):
            self._say(f"{order.name} stands already: the other hosts have nothing to do")
            return
        made = [key for key in order.inputs if key.startswith("models/")]
        scratch = order.settings.outputs / "scratch" / order.fingerprint[:16]
        self._say(f"sharing {', '.join(made)} with {', '.join(self._others)}")
        for key, folder in {**{key: Path(order.inputs[key].path) for key in made}, "scratch": scratch}.items():
            self._meeting.clear(key)
            self._meeting.leave(key, folder)
        shas = {key: ref.sha256 for key, ref in order.inputs.items()}
        self._tell("ready", {"fingerprint": order.fingerprint, "inputs": shas})

    def look(self) -> None:
        """Answer hosts that came late or anew.

        Raises:
            MedpipeError: another host failed.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        hellos = self._hellos()
        for host, hello in hellos.items():
            failed = self._meeting.heard(f"failed-{host}")
            if failed and failed["hello"] == hello:
                raise MedpipeError(
                    got=f"a failure on {host} ({failed['error']})", expected="all instances at work", where="the co-training",
                    do="mend what it says and launch again; finished models are kept",
                )  # fmt: skip
        if self._word and hellos != self._answered:
            self._meeting.say(self._word, {**self._value, "hellos": hellos})
            self._answered = hellos

    def end(self, error: str, bear: Bear) -> None:
        """Say that nothing more will come, to all the others; waits for those that are still starting."""
        self._tell("end", {"error": error})
        until = time.monotonic() + HELLO_SECONDS
        while set(self._answered) != set(self._others) and time.monotonic() < until:
            bear()
            self._looked, hellos = 0.0, self._hellos()
            if hellos != self._answered:
                self._meeting.say(self._word, {**self._value, "hellos": hellos})
                self._answered = hellos

    def _tell(self, word: str, value: dict[str, Any]) -> None:
        self._word, self._value, self._answered = word, value, self._hellos()
        self._meeting.say(word, {**value, "hellos": self._answered})

    def _hellos(self) -> dict[str, str]:
        found = {host: self._meeting.heard(f"hello-{host}") for host in self._others}
        return {host: word["hello"] for host, word in found.items() if word}


class Follower:
    """Another host's side."""

    def __init__(self, meeting: Meeting, layout: Layout, given: Given, say: Callable[[str], None]) -> None:
        self._meeting, self._layout, self._given, self._say = meeting, layout, given, say
        self._hello = secrets.token_hex(8)
        self._looked = 0.0

    def join(self, carry_out: Callable[[Sequence[str], Mapping[str, str], Bear], int], bear: Bear) -> None:
        """Take part in the co-training, then wait until the first host has ended.

        Args:
            carry_out: runs a command with more environment, calls the last argument now and then, and gives the exit status back.
            bear: called while waiting.

        Raises:
            MedpipeError: this host's part failed, or the first host did.
        """
        self._meeting.say(f"hello-{self._layout.current}", {"hello": self._hello})
        try:
            ready = self._wait("ready", bear)
            if ready is None:
                return
            order, saved = self._prepare(ready)
            self._say(f"taking part in the co-training as {self._layout.current}")
            status = carry_out((*command_of(order), str(saved)), worker_environment(place_co_training(order.settings)), self._look)
            if status:
                raise MedpipeError(
                    got=f"status {status} from this host's part", expected="0", where=f"the co-training on {self._layout.current}",
                    do="see the log of this host (medpipe aws logs)",
                )  # fmt: skip
        except Exception as error:
            self._meeting.say(f"failed-{self._layout.current}", {"hello": self._hello, "error": str(error)[:500]})
            raise
        self._wait("end", bear)

    def _prepare(self, ready: Mapping[str, Any]) -> tuple[Order, Path]:
        """Fetch what the channels do not hold, and write the order that the first host has."""
        outputs, given = self._layout.work / "outputs", self._given  # not among the checkpoints: only the first host's are kept
        settings = given.settings.model_copy(update={"paths": given.settings.paths.model_copy(update={"outputs": str(outputs)})})
        folders = {}
        for key in team_inputs(settings):
            folders[key] = given.folder(key, self._layout) if key in given.inputs else outputs / key
            if key not in given.inputs:
                self._meeting.fetch(key, outputs / key)
        self._meeting.fetch("scratch", outputs / "scratch" / ready["fingerprint"][:16])
        order = team_order(settings, folders)
        if order.fingerprint != ready["fingerprint"]:
            raise MedpipeError(
                got=f"fingerprint {order.fingerprint[:12]}", expected=f"{ready['fingerprint'][:12]}, as the first host has",
                where=f"the co-training on {self._layout.current}", do="give all instances the same image, code and inputs",
            )  # fmt: skip
        saved = self._layout.work / "order.json"
        store.write_text(saved, order.model_dump_json())
        return order, saved

    def _wait(self, word: str, bear: Bear) -> dict[str, Any] | None:
        """The first host's word to this host; None where it ended well before that word."""
        until = time.monotonic() + self._given.settings.aws.max_hours * 3600
        while time.monotonic() < until:
            for name in (word, "end"):
                if heard := self._to_me(name):
                    _refuse_failed(heard)
                    return heard if name == word else None
            bear()
        hours = f"{self._given.settings.aws.max_hours:g}"
        raise MedpipeError(
            got=f"no word {word!r} of {self._layout.hosts[0]}", expected=f"one within aws.max_hours = {hours}",
            where=f"host {self._layout.current}", do="see the log of the first host (medpipe aws logs)",
        )  # fmt: skip

    def _look(self) -> None:
        """While this host's part runs: end it where the first host has failed, which its processes might wait for."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            if heard := self._to_me("end"):
                _refuse_failed(heard)

    def _to_me(self, word: str) -> dict[str, Any] | None:
        heard = self._meeting.heard(word)
        return heard if heard and heard["hellos"].get(self._layout.current) == self._hello else None


def _refuse_failed(heard: Mapping[str, Any]) -> None:
    if heard.get("error"):
        raise MedpipeError(
            got=f"a failure on the first host ({heard['error']})", expected="a trained team", where="the other instances of this job",
            do="mend what it says and launch again",
        )  # fmt: skip


def _sha_of(key: str, folder: Path) -> str:
    manifest = store.read_manifest(folder)
    damaged = store.damaged_files(folder, manifest) if manifest else [store.MANIFEST]
    if manifest is None or damaged:
        raise MedpipeError(
            got=f"{key} with changed or missing {', '.join(damaged[:5])}", expected="a finished folder", where=str(folder),
            do="launch again: what is damaged is made or fetched anew",
        )  # fmt: skip
    return manifest.sha256

"""Several instances of one job: what they tell each other, and two of them that train one team (both on this machine)."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.aws import hosts
from medpipe.aws.channels import TEAM, TRAIN
from medpipe.aws.hosts import Follower, Leader, Meeting, before_team, refuse_uneven, team_inputs, team_order
from medpipe.aws.layout import Given, Input, Layout
from medpipe.config import Settings, load_profile
from medpipe.errors import MedpipeError
from medpipe.launch.order import Order
from medpipe.schema import Manifest
from medpipe_tests.aws.conftest import Cloud
from medpipe_tests.aws.containers import lay_channels, start_container
from medpipe_tests.made import Made
from medpipe_tests.operations.processes import wait_until

TWO = ("first", "second")


# --- what they tell each other


def finish(folder: Path) -> str:
    store.write_text(folder / "weights.txt", folder.name)
    files = store.hash_tree(folder)
    manifest = Manifest(task="", fingerprint="", sha256=store.hash_of_hashes(files), files=files)
    store.write_manifest(folder, manifest)
    return manifest.sha256


class Pair:
    """The two sides of a job on two hosts, without processes: the second host's part of the work is `part`."""

    def __init__(self, aws: Cloud, root: Path) -> None:
        self.aws, self.root, self.said = aws, root, list[str]()
        self.uri = f"s3://{aws.bucket}/launches/x/share/job"
        self.settings = load_profile("smoke", {"maporl.processes": 2, "aws.max_hours": 0.01, "paths.outputs": str(root / "outputs")})
        shas = {key: finish(root / "train" / key) for key in TRAIN}
        self.given = Given(
            digest="ab", profile="smoke", settings=self.settings, select="",
            inputs={key: Input(channel="train", sha256=sha) for key, sha in shas.items()},
        )  # fmt: skip
        for key in team_inputs(self.settings)[len(TRAIN) :]:
            finish(root / "outputs" / key)
        self.leader = Leader(self.meeting, TWO[1:], self.said.append)
        self.status = 0
        self.orders: list[Order] = []
        self.error: BaseException | None = None

    @property
    def meeting(self) -> Meeting:
        return Meeting(self.aws.s3, self.uri)

    def order(self) -> Order:
        outputs = self.settings.outputs
        folders = {key: self.root / "train" / key if key in self.given.inputs else outputs / key for key in team_inputs(self.settings)}
        return team_order(self.settings, folders)

    def second(self, part: Callable[[Callable[[], None]], int] = lambda look: 0) -> threading.Thread:
        layout = Layout({"train": self.root / "train"}, *[self.root / "x"] * 4, work=self.root / "work", hosts=TWO, current="second")

        def carry_out(words: Any, more: Any, look: Callable[[], None]) -> int:
            self.orders.append(Order.model_validate_json(Path(words[-1]).read_text()))
            return part(look)

        def run() -> None:
            try:
                Follower(self.meeting, layout, self.given, self.said.append).join(carry_out, self.bear)
            except Exception as error:
                self.error = error

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    @staticmethod
    def bear() -> None:
        threading.Event().wait(0.02)


@pytest.fixture
def pair(aws: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(hosts, "LOOK_SECONDS", 0.0)
    return Pair(aws, tmp_path)


def test_the_second_host_gets_the_first_ones_order_and_ends_with_it(pair: Pair) -> None:
    store.write_text(pair.settings.outputs / "scratch" / pair.order().fingerprint[:16] / "checkpoints" / "step", "weights")
    thread = pair.second()
    pair.leader.share(pair.order())
    wait_until(lambda: pair.leader.look() or pair.orders, "the second host has begun")
    (order,) = pair.orders
    assert order.fingerprint == pair.order().fingerprint
    assert {key: ref.sha256 for key, ref in order.inputs.items()} == {key: ref.sha256 for key, ref in pair.order().inputs.items()}
    assert Path(order.inputs["models/base"].path) == pair.root / "work" / "outputs" / "models" / "base"
    assert (pair.root / "work" / "outputs" / "scratch" / order.fingerprint[:16] / "checkpoints" / "step").read_text() == "weights"
    assert thread.is_alive()  # until the first host has ended
    pair.leader.end("", pair.bear)
    thread.join(60)
    assert not thread.is_alive() and pair.error is None


def test_words_of_an_earlier_start_of_the_job_do_not_count(pair: Pair) -> None:
    for word in ("ready", "end"):
        pair.meeting.say(word, {"hellos": {"second": "an earlier hello"}, "error": "an earlier failure", "fingerprint": ""})
    pair.meeting.say("hello-second", {"hello": "an earlier hello"})
    pair.meeting.say("failed-second", {"hello": "an even earlier hello", "error": "no longer true"})
    pair.leader.share(pair.order())  # it hears the earlier hello, and answers it
    thread = pair.second()
    wait_until(lambda: pair.leader.look() or pair.orders, "the second host has begun")
    pair.leader.end("", pair.bear)
    thread.join(60)
    assert not thread.is_alive() and pair.error is None


def test_a_first_host_that_fails_ends_the_others_even_before_they_start(pair: Pair) -> None:
    threads: list[threading.Thread] = []

    def bear() -> None:
        threads.append(pair.second()) if not threads else pair.bear()

    pair.leader.end("no disk left", bear)
    threads[0].join(60)
    assert "no disk left" in str(pair.error) and not pair.orders


def test_a_first_host_that_fails_ends_processes_that_wait_for_it(pair: Pair) -> None:
    def waits_for_ever(look: Callable[[], None]) -> int:
        while True:
            look()

    thread = pair.second(waits_for_ever)
    pair.leader.share(pair.order())
    wait_until(lambda: pair.leader.look() or pair.orders, "the second host has begun")
    pair.leader.end("a collapsed team", pair.bear)
    thread.join(60)
    assert "a collapsed team" in str(pair.error)


def test_a_host_that_fails_ends_the_first_one(pair: Pair) -> None:
    thread = pair.second(lambda look: 3)
    pair.leader.share(pair.order())
    with pytest.raises(MedpipeError, match=r"a failure on second \(got status 3"):
        wait_until(lambda: pair.leader.look(), "the failure is heard", 60)
    thread.join(60)
    assert "status 3" in str(pair.error)


def test_a_team_that_stands_needs_nobody(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "standing_result", lambda order: object())
    thread = pair.second()
    pair.leader.share(pair.order())
    pair.leader.end("", pair.bear)
    thread.join(60)
    assert not thread.is_alive() and not pair.orders and pair.error is None


def test_a_host_whose_order_is_another_one_refuses(pair: Pair) -> None:
    other = pair.order().model_copy(update={"fingerprint": "0" * 64})
    thread = pair.second()
    pair.leader.share(other)
    thread.join(60)
    assert "expected 000000000000" in str(pair.error) and not pair.orders


def test_processes_are_the_same_number_on_each_host() -> None:
    layout = Layout({}, *[Path()] * 4, work=Path(), hosts=TWO)
    refuse_uneven(layout, load_profile("smoke", {"maporl.processes": 2}))
    with pytest.raises(MedpipeError, match=r"1 processes on 2 instances.*multiple of aws\.instance_count = 2"):
        refuse_uneven(layout, load_profile("smoke"))


def test_only_what_the_co_training_waits_for_is_made_before_it() -> None:
    select = "models/base,models/planner,models/agent,models/verifier,models/maporl_team,models/agent_rl,group:evaluation"
    plain, learned = load_profile("smoke"), load_profile("smoke", {"maporl.verifier": "learned"})
    rest = "models/maporl_team,models/agent_rl,group:evaluation"
    assert before_team(select, plain) == ("models/base,models/planner,models/agent", f"models/verifier,{rest}")
    assert before_team(select, learned) == ("models/base,models/planner,models/agent,models/verifier", rest)


# --- two containers


@pytest.mark.slow
def test_two_instances_train_one_team(aws: Cloud, made_once: Made, tmp_path: Path) -> None:
    """Both instances are this machine under two of its names. Base and roles stand already, as after an interruption.

    That two machines make the bytes that two processes of one make is a test of medpipe_tests/training/test_co_training.py.
    """
    inputs = made_once.models(tmp_path / "made") / "outputs"
    small = {"maporl.processes": 2, "maporl.iterations": 1, "tracking.kind": "none"}
    settings: Settings = load_profile("smoke", small)
    before = [key for key in team_inputs(settings) if key.startswith("models/")]
    channels = lay_channels(tmp_path, inputs, settings, ",".join((*before, TEAM)), share=f"s3://{aws.bucket}/launches/ab/share")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = ("127.0.0.1", "localhost")
    first, second = (tmp_path / name for name in names)
    outputs = first / "checkpoints" / "outputs"
    for key in before:
        shutil.copytree(inputs / key, outputs / key)
    more = {"TRAINING_JOB_NAME": "two", "MEDPIPE_PORT": port}
    both = [start_container(tmp_path / name, channels, more, hosts=names, current=name) for name in names]
    assert [container.wait() for container in both] == [0, 0], "\n".join(container.said[-3000:] for container in both)
    team = first / "model" / "final_model" / TEAM
    manifest = store.read_manifest(team)
    assert manifest and store.damaged_files(team, manifest) == []
    folders = {key: outputs / key if key in before else inputs / key for key in team_inputs(settings)}
    assert manifest.fingerprint == team_order(settings, folders).fingerprint
    stats = store.read_json(team / "training_stats.json")
    assert stats["iterations"] == 1 and min(stats["moved"].values()) > 0
    assert "taking part in the co-training as localhost" in both[1].said
    assert not [path for name in ("model", "checkpoints") for path in (second / name).rglob("*") if path.is_file()]
    left = [
        {path.relative_to(base / "output" / "data").parts[0] for path in (base / "output" / "data").rglob("*")} for base in (first, second)
    ]
    assert "training_summary.json" in left[0] and left[1] == {"hosts"}  # nothing of one stands in the other's place in the archive
    assert set(store.read_json(first / "output" / "data" / "training_summary.json")["resumed"]) == set(before)

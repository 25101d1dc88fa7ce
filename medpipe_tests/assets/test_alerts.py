"""Alerts over real HTTP, from real runs of tiny graphs that fail: told once, tried again until told, and the address in no text."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info

from medpipe.assets import alerts
from medpipe.assets.alerts import AT_ONCE, MOST_CHARS, VARIABLE, Watch, escaped, post
from medpipe.assets.present import to_checks
from medpipe.definitions import defs
from medpipe.errors import MedpipeError
from medpipe.schema import CheckResult, Manifest

SECRET = "T0SECRET/B0SECRET/abcdef"
CELL = "a patient of 47 with crushing chest pain"
OURS = "got 0 rows, expected at least one, in outputs/splits/train: add rows"


class Webhook(ThreadingHTTPServer):
    """Keeps what it is sent; answers with the statuses given, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.statuses: list[int] = []
        self.texts: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}/services/{SECRET}"


class Answering(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            assert self.headers["Content-Type"] == "application/json"
            sent = json.loads(body)
            assert list(sent) == ["text"]
            self.server.texts.append(sent["text"])
        self.send_response(status)
        if status in (302, 307):
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        monkeypatch.setenv(VARIABLE, server.address)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


class Sensor:
    """A sensor of the real definitions, evaluated as the daemon does it: the cursor is kept only if the tick did not fail."""

    def __init__(self, name: str, instance: dg.DagsterInstance) -> None:
        self._sensor, self._instance = defs.resolve_sensor_def(name), instance
        self.cursor: str | None = None

    def tick(self) -> str:
        context = dg.build_sensor_context(instance=self._instance, cursor=self.cursor, sensor_name=self._sensor.name)
        done = self._sensor.evaluate_tick(context)
        self.cursor = done.cursor
        assert not done.run_requests
        return done.skip_message or ""


@pytest.fixture
def runs(instance: dg.DagsterInstance, webhook: Webhook) -> Sensor:
    sensor = Sensor("run_failures", instance)
    assert "first look" in sensor.tick()
    return sensor


@pytest.fixture
def checks(instance: dg.DagsterInstance, webhook: Webhook) -> Sensor:
    sensor = Sensor("check_failures", instance)
    assert "first look" in sensor.tick()
    return sensor


def run_of(instance: dg.DagsterInstance, fail: Callable[[], None], key: str = "splits/train", ok: bool = False) -> str:
    """A real run of one asset whose body does this; its id."""

    @dg.asset(key=key.split("/"))
    def made() -> None:
        fail()

    done = dg.materialize([made], instance=instance, raise_on_error=False)
    assert done.success is ok
    return done.run_id


@dg.op
def step() -> None:
    pass


@dg.job(name="ingest")
def tiny() -> None:
    step()


def started(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    """A run that goes on."""
    return instance.create_run_for_job(tiny, status=dg.DagsterRunStatus.STARTED, tags=tags)


def a_failure(text: str) -> Callable[[], None]:
    def fail() -> None:
        raise dg.Failure(description=text, allow_retries=False)

    return fail


def an_error(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def checked(instance: dg.DagsterInstance, results: list[tuple[str, bool, str, bool]], description: str = "rows have the right form") -> str:
    """A real run of an asset with checks (name, passed, severity, blocking), reported as the project's own assets do it."""
    specs = [dg.AssetCheckSpec(name, asset=["splits", "train"], blocking=blocking) for name, _, _, blocking in results]
    outcomes = tuple(
        CheckResult(name=name, passed=passed, severity=severity, description=description, values={"such_as": CELL})  # pyright: ignore
        for name, passed, severity, _ in results
    )
    manifest = Manifest(task="split", fingerprint="f", sha256="s", files={}, checks=outcomes)

    @dg.asset(key=["splits", "train"], check_specs=specs)
    def train() -> dg.MaterializeResult:
        return dg.MaterializeResult(check_results=to_checks("splits/train", manifest))

    return dg.materialize([train], instance=instance, raise_on_error=False).run_id


def everything_dagster_keeps(error: BaseException) -> str:
    """What stands in a failed tick: the error, its causes and its contexts, with tracebacks."""
    assert error.__traceback__
    return serializable_error_info_from_exc_info((type(error), error, error.__traceback__)).to_string()


def test_a_failed_run_is_told_once_with_its_asset_its_reason_and_where_to_look(
    runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    assert runs.tick() == "nothing failed"
    run_id = run_of(instance, a_failure(f"splits/train: {OURS}"))
    assert runs.tick() == f"told of the failure in run {run_id[:8]}; 0 left"
    [text] = webhook.texts
    for part in (f"Run {run_id[:8]} of chosen assets failed", f"splits/train: {OURS}", f"/runs/{run_id}", "logs/splits_train.log"):
        assert part in text, text
    assert [runs.tick() for _ in range(3)] == ["nothing failed"] * 3
    assert len(webhook.texts) == 1


def test_runs_that_succeed_or_failed_before_it_was_switched_on_are_not_told(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    run_of(instance, a_failure(OURS))
    sensor = Sensor("run_failures", instance)
    assert "first look" in sensor.tick()
    run_of(instance, lambda: None, ok=True)
    assert [sensor.tick() for _ in range(2)] == ["nothing failed"] * 2 and webhook.texts == []


@pytest.mark.parametrize("status", [500, 404, 429, 302, 307])
def test_a_webhook_that_refuses_makes_the_tick_fail_and_the_next_one_tells(
    runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook, status: int
) -> None:
    run_of(instance, a_failure(OURS))
    webhook.statuses = [status, status]
    for _ in range(2):
        with pytest.raises(MedpipeError, match=rf"status {status}") as raised:
            runs.tick()
        assert "SECRET" not in everything_dagster_keeps(raised.value)
        assert "127.0.0.1" not in everything_dagster_keeps(raised.value)
    assert webhook.texts == []
    assert "told of the failure" in runs.tick()
    assert runs.tick() == "nothing failed"
    assert len(webhook.texts) == 1


@pytest.mark.parametrize(
    "address",
    [
        f"http://127.0.0.1:9/{SECRET}",  # nothing listens there
        f"http://name.invalid/{SECRET}",
        f"https://127.0.0.1:9/{SECRET}",
        f"http://127.0.0.1:port/{SECRET}",
        f"http://[127.0.0.1/{SECRET}",
        f"http://127.0.0.1/{SECRET}\r\nX: y",
        f"https://hooks.invalid/{SECRET} é",
        f"file:///{SECRET}",
        SECRET,
    ],
)
def test_an_address_that_leads_nowhere_stands_in_no_text(
    address: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with pytest.raises(MedpipeError) as raised:
        post(address, "text")
    kept = everything_dagster_keeps(raised.value) + "".join(capfd.readouterr()) + caplog.text
    for part in (SECRET, "T0SECRET", "127.0.0.1", "invalid"):
        assert part not in kept, kept
    assert VARIABLE in str(raised.value)
    assert raised.value.__context__ is None and raised.value.__cause__ is None


def test_the_address_stands_in_no_log_of_a_tick_that_tells(
    runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    run_id = run_of(instance, a_failure(OURS))
    said = runs.tick()
    events = "".join(str(record.event_log_entry) for record in instance.get_records_for_run(run_id).records)
    assert "SECRET" not in "".join((said, runs.cursor or "", caplog.text, events, *capfd.readouterr(), *webhook.texts))


def test_without_an_address_it_says_so_and_tells_later(
    runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    run_of(instance, a_failure(OURS))
    assert [runs.tick() for _ in range(2)] == [f"{VARIABLE} is not set: nothing is told; what fails meanwhile is told once it is set"] * 2
    monkeypatch.setenv(VARIABLE, webhook.address)
    assert "told of" in runs.tick()
    assert len(webhook.texts) == 1


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (a_failure(f"models/planner: {OURS}"), f"models/planner: {OURS}"),
        (a_failure("models/planner: the worker ended with status -9 and said nothing"), "the worker ended with status -9"),
        (a_failure(f"models/planner: ValueError: {CELL}"), "models/planner: ValueError (its text may quote rows and stays in the log)"),
        (a_failure(f"1 validation error for QAExample: {CELL}"), "splits/train: an error (its text"),
        (an_error(KeyError(CELL)), "splits/train: KeyError (its text"),
        (an_error(MedpipeError(got="7", expected="8", where="this", do="that")), "splits/train: got 7, expected 8, in this: that"),
    ],
)
def test_only_words_of_this_project_are_passed_on_since_others_may_quote_rows(
    runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook, fail: Callable[[], None], told: str
) -> None:
    run_of(instance, fail)
    runs.tick()
    assert told in webhook.texts[0]
    assert CELL not in webhook.texts[0]


def test_a_run_that_was_killed_is_told_with_what_the_instance_says(runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook) -> None:
    run = instance.create_run_for_job(
        defs.resolve_job_def("ingest"), tags={"dagster/will_retry": "true"}, status=dg.DagsterRunStatus.STARTED
    )
    assert runs.tick() == "nothing failed"
    instance.report_run_failed(run, "the process that drove this run was killed")
    runs.tick()
    [text] = webhook.texts
    assert "of the job ingest failed*: another try follows" in text
    assert "the process that drove this run was killed" in text


def test_a_run_that_was_there_at_the_first_look_and_fails_later_is_told(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    run = started(instance)
    sensor = Sensor("run_failures", instance)
    sensor.tick()
    for _ in range(3):
        run_of(instance, lambda: None, ok=True)
        assert sensor.tick() == "nothing failed"
    instance.report_run_failed(run)
    assert "told of" in sensor.tick()
    assert len(webhook.texts) == 1


def test_many_failures_come_in_portions_and_each_once(
    runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "PAGE", 4)
    monkeypatch.setattr(alerts, "SETTLED", alerts.SETTLED * 0)  # so that nothing but the failures themselves keeps the runs in mind
    made = [started(instance) for _ in range(AT_ONCE + 3)]
    for run in made:
        instance.report_run_failed(run)
    assert runs.tick().endswith("; 3 left")
    webhook.statuses = [500]
    with pytest.raises(MedpipeError):
        runs.tick()
    assert runs.tick().endswith("; 0 left") and runs.tick() == "nothing failed" and len(webhook.texts) == 2
    assert [sum(text.count(run.run_id) for text in webhook.texts) for run in made] == [1] * len(made)


def test_what_is_remembered_does_not_grow_with_the_runs(
    runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(instance, a_failure(OURS))
    runs.tick()
    assert len(Watch.model_validate_json(runs.cursor or "").runs) == 1  # young: a run with a lower number may still come to light
    monkeypatch.setattr(alerts, "SETTLED", alerts.SETTLED * 0)
    gone = started(instance)
    assert runs.tick() == "nothing failed"
    assert list(Watch.model_validate_json(runs.cursor or "").runs) == [gone.run_id]
    instance.delete_run(gone.run_id)
    assert runs.tick() == "nothing failed"
    assert Watch.model_validate_json(runs.cursor or "").runs == {}
    assert runs.tick() == "nothing failed"
    assert len(webhook.texts) == 1


def test_each_failed_check_is_told_once_with_its_severity_and_no_value(
    checks: Sensor, instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    run_id = checked(
        instance, [("no_focus_overlap", False, "error", True), ("drift", False, "warn", False), ("not_empty", True, "error", True)]
    )
    assert "splits/train:no_focus_overlap" in checks.tick()
    [text] = webhook.texts
    blocking, warning = text.split("\n\n")
    assert blocking.startswith("*Check no_focus_overlap of splits/train failed* (error: nothing may be built on it)")
    assert warning.startswith("*Warning: check drift of splits/train failed* (warning: the run goes on)")
    for part in (blocking, warning):
        assert "rows have the right form" in part
        assert f"/runs/{run_id}" in part and "/assets/splits/train?view=checks" in part
        assert CELL not in part
    assert checks.tick() == "nothing failed"
    checked(instance, [("no_focus_overlap", False, "error", True)])
    assert "told of" in checks.tick()  # of another run: new
    assert len(webhook.texts) == 2


def test_the_run_failure_of_a_blocking_check_says_so(runs: Sensor, instance: dg.DagsterInstance, webhook: Webhook) -> None:
    specs = [dg.AssetCheckSpec("not_empty", asset=["splits", "train"], blocking=True)]

    @dg.asset(key=["splits", "train"], check_specs=specs)
    def train() -> dg.MaterializeResult:
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False, check_name="not_empty")])

    assert not dg.materialize([train], instance=instance, raise_on_error=False).success
    runs.tick()
    assert "splits/train: a check that blocks failed" in webhook.texts[0]


def test_a_check_of_a_run_that_goes_on_is_told_at_once_and_not_again_at_its_end(
    checks: Sensor, instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    run = started(instance)

    def evaluated(name: str) -> None:
        found = dg.AssetCheckEvaluation(asset_key=dg.AssetKey(["splits", "train"]), check_name=name, passed=False)
        event = dg.DagsterEvent(dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, "ingest", event_specific_data=found)
        instance.report_dagster_event(event, run.run_id)

    evaluated("drift")
    assert "splits/train:drift" in checks.tick()
    evaluated("drift")
    assert checks.tick() == "nothing failed"
    evaluated("not_empty")
    instance.report_run_failed(run)
    assert "told of splits/train:not_empty" in checks.tick()
    assert checks.tick() == "nothing failed"
    assert len(webhook.texts) == 2


def test_long_descriptions_are_cut_and_commands_of_slack_are_disarmed(
    checks: Sensor, instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    checked(instance, [("drift", False, "warn", False)], description="<!channel> " + "x" * 1000)
    checks.tick()
    assert "&lt;!channel&gt;" in webhook.texts[0] and "<!" not in webhook.texts[0]
    assert webhook.texts[0].count("x") < MOST_CHARS + 10
    assert escaped("a & b") == "a &amp; b"


@pytest.mark.parametrize("name", ["run_failures", "check_failures"])
def test_the_graph_has_both_and_they_are_off_until_switched_on(name: str) -> None:
    sensor = defs.resolve_sensor_def(name)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 60
    assert VARIABLE in (sensor.description or "")

"""Where runs are recorded: the profile's MLflow, the environment's, or the folder's own; W&B beside it; never an address with a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from medpipe.config import load_profile, without_password
from medpipe.errors import MedpipeError
from medpipe.tracking import Tracker, mlflow_server, notes, track_missed, trackers, tracking_uri
from medpipe_tests.tracking.tracked import DATASETS, PARAMS, TAGS, settings_in

TOKEN = "canary-4711"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_the_profile_counts_before_the_environment_and_the_environment_before_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, told = load_profile("smoke"), load_profile("smoke", {"tracking.uri": "http://127.0.0.1:1"})
    assert mlflow_server(silent) == "" and tracking_uri(silent).startswith("sqlite:////")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert mlflow_server(silent) == tracking_uri(silent) == "http://mlflow:5000"
    assert tracking_uri(told) == "http://127.0.0.1:1"


SECRET = [
    f"http://{TOKEN}@127.0.0.1:5000",
    f"https://{TOKEN}:@127.0.0.1:5000",
    f"HTTP://me:{TOKEN}@127.0.0.1:5000/mlflow",
    f"http://me:{TOKEN}/more@127.0.0.1:5000",
    f"http://me:{TOKEN}?x@127.0.0.1:5000",
    f"http://127.0.0.1:5000/?token={TOKEN}",
    f"http://127.0.0.1:5000/#{TOKEN}",
    f"http://127.0.0.1:5000?{TOKEN}",
    f"postgresql://me:{TOKEN}@127.0.0.1/mlflow",
    f"mysql+pymysql://me:{TOKEN}/x@127.0.0.1/mlflow",
    f"postgresql://127.0.0.1/mlflow?user=me&password={TOKEN}",
    f"postgresql://127.0.0.1/mlflow?ssl_password={TOKEN}",
]


@pytest.mark.parametrize("uri", SECRET)
def test_an_address_with_a_secret_is_refused_before_any_work_and_not_shown(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    with pytest.raises(MedpipeError, match="MLFLOW_TRACKING_TOKEN") as refused:
        load_profile("smoke", {"tracking.uri": uri})
    assert TOKEN not in str(refused.value) and "in tracking.uri" in str(refused.value)
    settings = load_profile("smoke")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for begins in (lambda: load_profile("smoke"), lambda: Tracker(settings, "models/planner", "run", {}, {}, print)):
        with pytest.raises(MedpipeError, match="MLFLOW_TRACKING_TOKEN") as refused:
            begins()
        assert TOKEN not in str(refused.value) and "in MLFLOW_TRACKING_URI" in str(refused.value)
    load_profile("smoke", {"tracking.kind": "none"})  # who goes without MLflow has no use for its address


@pytest.mark.parametrize("uri", ["localhost:5000", "http://", "http://:5000", "http://host:port", "http://[::1", "ftp://host", "mlflow"])
def test_what_is_no_address_of_mlflow_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    with pytest.raises(MedpipeError, match="got an address that MLflow can't use, expected one that begins with http"):
        load_profile("smoke", {"tracking.uri": uri})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(MedpipeError, match=r"in MLFLOW_TRACKING_URI: write for example http://127\.0\.0\.1:5000"):
        load_profile("smoke")


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000", "https://mlflow.example.org/base/path", "http://[::1]:5000", "sqlite:////tmp/mlflow.db?timeout=30",
        "postgresql://me@127.0.0.1/mlflow?sslmode=require", "postgresql+psycopg2://127.0.0.1/mlflow", "databricks", "databricks://profile",
    ],
)  # fmt: skip
def test_an_address_without_a_secret_is_taken(uri: str) -> None:
    assert tracking_uri(load_profile("smoke", {"tracking.uri": uri})) == uri


def test_text_that_is_no_address_is_not_judged() -> None:
    assert without_password("a project: me@home?token", "WANDB_PROJECT") == "a project: me@home?token"


class Listening(BaseHTTPRequestHandler):
    """A server that notes what it is asked, and answers as MLflow does for a run that is there already, or with 503."""

    seen: list[tuple[str, str]]
    answers: dict[str, Any]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        body = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": f"refused {self.headers.get('Host')}"}).encode()
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """(port, (path, authorization) of every request) of a real HTTP server that never takes anything."""
    seen: list[tuple[str, str]] = []
    handler = type("Handler", (Listening,), {"seen": seen})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=running.serve_forever, daemon=True).start()
    yield running.server_address[1], seen
    running.shutdown()
    running.server_close()


def holds(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "address", ["http://{token}@127.0.0.1:{port}", "http://me:{token}@127.0.0.1:{port}", "http://127.0.0.1:{port}/?token={token}"]
)
def test_a_run_with_a_token_in_the_address_ends_at_once_and_the_token_is_nowhere(
    tmp_path: Path, server: tuple[int, list[tuple[str, str]]], address: str
) -> None:
    port, seen = server
    for name in ("dagster.yaml", "workspace.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": address.format(token=TOKEN, port=port), "DAGSTER_HOME": str(tmp_path)}
    command = [Path(sys.executable).with_name("medpipe"), "run", "--profile", "smoke", "--select", "models/base"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "MLFLOW_TRACKING_URI: set MLFLOW_TRACKING_TOKEN" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert holds(tmp_path, TOKEN) == [] and seen == []
    assert {path.name for path in tmp_path.iterdir()} == {"dagster.yaml", "workspace.yaml"}, "no work was begun"


def test_a_token_in_its_own_variable_reaches_the_server_and_no_file_or_line(
    tmp_path: Path, server: tuple[int, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    port, seen = server
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    settings = settings_in(tmp_path)
    tracker = Tracker(settings, "models/planner", "run-1", PARAMS, TAGS, said.append, DATASETS)
    tracker.metrics(1, {"loss": 2.5})
    tracker.close(False, {"rows": 12.0})
    assert track_missed(settings, said.append) == {"mlflow": 3}
    assert seen and all(authorization == f"Bearer {TOKEN}" for _, authorization in seen)
    assert any(line.startswith(f"MLflow at http://127.0.0.1:{port} failed (") for line in said)
    assert holds(tmp_path, TOKEN) == [] and holds(tmp_path, "models/planner") != []
    assert TOKEN not in "".join([*said, *capfd.readouterr()])


# --- Weights & Biases by its own variable


def test_a_project_of_wandb_in_the_environment_turns_it_on_and_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, drain_seconds=600)
    assert trackers(settings) == ("mlflow",) and notes(settings) == []
    monkeypatch.setenv("WANDB_PROJECT", "maporl")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trackers(settings) == ("mlflow", "wandb")
    assert notes(settings) == ["Weights & Biases is on, beside MLflow: WANDB_PROJECT = maporl is set (WANDB_MODE=disabled turns it off)"]
    said: list[str] = []
    tracker = Tracker(settings, "models/planner", "run-1", PARAMS, TAGS, said.append)
    tracker.metrics(1, {"loss": 2.5})
    tracker.close(False, {})
    assert said == notes(settings)
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1 and (tmp_path / "mlflow.db").is_file()


def test_a_project_of_wandb_without_its_package_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "maporl")
    monkeypatch.setitem(sys.modules, "wandb", None)  # Python's own mark of a module that can't be imported
    settings = settings_in(tmp_path)
    assert trackers(settings) == ("mlflow",)
    (line,) = notes(settings)
    assert "WANDB_PROJECT = maporl is set, but Weights & Biases is off" in line and "pip install 'medpipe[wandb]'" in line


@pytest.mark.parametrize(("kind", "mode"), [("none", "online"), ("mlflow", "disabled"), ("both", "online"), ("wandb", "online")])
def test_what_the_profile_says_is_not_overruled_and_disabled_is_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, mode: str
) -> None:
    settings = settings_in(tmp_path, kind=kind)
    before = trackers(settings)
    monkeypatch.setenv("WANDB_PROJECT", "maporl")
    monkeypatch.setenv("WANDB_MODE", mode)
    assert trackers(settings) == before and notes(settings) == []

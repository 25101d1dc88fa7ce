"""What the tests of a running system share: a workspace, its processes, work that stays in its middle, and `dagster dev`.

A process belongs to a test by its working directory, so nothing that another test or a person started is ever touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEADLINE = 300.0
"""Seconds; for what a busy machine may take, not for what is expected."""
VARIABLES = ("MEDPIPE_MIRROR", "DAGSTER_HOME", "NO_PROXY", "no_proxy", "DAGSTER_IS_DEV_CLI")
NOWHERE = "http://127.0.0.1:9"  # nothing listens there: the same with and without a network
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def wait_until(true: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """The first true value; fails after the deadline."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)
    return value


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables for a command in a workspace: the tiny profile, no network, no GPU."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    offline = {**dict.fromkeys(PROXIES, NOWHERE), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return {**kept, **offline, "DAGSTER_HOME": str(folder), "MEDPIPE_PROFILE": "smoke", "CUDA_VISIBLE_DEVICES": "", **more}


def make_workspace(folder: Path, config: str = "dagster.yaml") -> Path:
    """A folder that the graph can be made in: Dagster's settings and the bundled data."""
    for name in ("synthetic", "safety"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    (folder / "data" / "custom").mkdir()
    shutil.copyfile(ROOT / "data" / "custom" / "README.md", folder / "data" / "custom" / "README.md")
    shutil.copyfile(ROOT / config, folder / "dagster.yaml")
    shutil.copyfile(ROOT / "workspace.yaml", folder / "workspace.yaml")
    return folder


def dagster_of(folder: Path) -> dg.DagsterInstance:
    """Dagster's databases in a folder; their place is written relative to the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return dg.DagsterInstance.from_config(str(folder))
    finally:
        os.chdir(before)


def working_in(folder: Path) -> dict[int, str]:
    """Ids and commands of the processes whose working directory this is; what has ended and is not yet waited for is left out."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "cwd").readlink() == folder:
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ").strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended, or is not ours
    return found


def those_that(folder: Path, words: str) -> list[int]:
    """Ids of a workspace's processes whose command holds these words."""
    return [pid for pid, command in working_in(folder).items() if words in command]


def kill_all(folder: Path) -> None:
    """SIGKILL to every process of a workspace, until there is none."""

    def none_left() -> bool:
        left = working_in(folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(none_left, "every process of the workspace is gone")


class Halt:
    """A pipe among the bundled conditions: whoever makes sources/synthetic reads it, and stays in the middle of its work."""

    def __init__(self, folder: Path) -> None:
        self._pipe = folder / "data" / "synthetic" / "conditions" / "z_pipe.yaml"
        self._ends: list[int] = []
        os.mkfifo(self._pipe)

    def reached(self) -> bool:
        """Whether a worker reads now; from then on it waits."""
        try:
            self._ends.append(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO  # nobody reads yet
            return False
        return True

    def lift(self) -> None:
        """Take the pipe away: the next worker runs through."""
        for end in self._ends:
            os.close(end)
        self._ends.clear()
        self._pipe.unlink(missing_ok=True)


class Dev:
    """`dagster dev` on a workspace, on the loopback, and its page's own interface."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = (folder / "dev.log").open("ab")
        command = [str(BIN / "dagster"), "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=self.log, stderr=self.log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # ignored below a shell's background job
        )  # fmt: skip
        wait_until(self._loaded, "the page has loaded the graph")

    def _loaded(self) -> bool:
        assert self.process.poll() is None, (self.folder / "dev.log").read_text()[-3000:]
        try:
            answer = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
        except (urllib.error.URLError, ConnectionError):
            return False
        return bool(answer["repositoriesOrError"].get("nodes"))

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """A question to the page's GraphQL interface."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def launch(self, job: str, *assets: str) -> str:
        """Start a run as the page's button does; returns its id."""
        answer = self.ask(
            "mutation L($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename "
            "... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            p={
                "selector": {
                    "repositoryLocationName": "medpipe.definitions", "repositoryName": "__repository__", "jobName": job,
                    "assetSelection": [{"path": asset.split("/")} for asset in assets],
                },
                "runConfigData": {}, "mode": "default",
            },
        )  # fmt: skip
        assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer
        return answer["launchRun"]["run"]["runId"]

    def runs(self) -> list[dict[str, Any]]:
        """Runs, the newest first: id, status, and the run that it repeats."""
        fields = "results { runId status parentRunId tags { key value } }"
        return self.ask(f"{{ runsOrError {{ ... on Runs {{ {fields} }} }} }}")["runsOrError"]["results"]

    def kill(self) -> None:
        """SIGKILL to `dagster dev` itself, and to nothing below it."""
        self.process.kill()
        self.wait()

    def wait(self) -> None:
        """Wait until `dagster dev` has ended."""
        self.process.wait(timeout=DEADLINE)
        self.log.close()

    def status(self, run_id: str) -> str:
        return next(run["status"] for run in self.runs() if run["runId"] == run_id)


@contextlib.contextmanager
def swept(folder: Path) -> Iterator[None]:
    """Leave no process of a workspace behind, whatever happens in between."""
    try:
        yield
    finally:
        kill_all(folder)

"""What the tests of tracking share: settings, what stands in MLflow's database, and a door before a real server that can be shut."""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from medpipe.config import Settings, load_profile

PARAMS = {"training": {"epochs": 3, "learning_rate": 0.001}, "team": {"evidence_passages": 2}}
TAGS = {"medpipe.input.splits/train": "d" * 64, "medpipe.asset": "models/planner"}
DATASETS = ({"name": "splits/train", "sha256": "e" * 64, "path": "/somewhere/splits/train", "rows": 12},)


def settings_in(folder: Path, **tracking: Any) -> Settings:
    given = {"drain_seconds": 60.0, **tracking}  # for what a busy machine may take, not for what is expected
    return load_profile("smoke", {"paths.outputs": str(folder), **{f"tracking.{key}": value for key, value in given.items()}})


def points(database: Path) -> list[tuple[str, int, float]]:
    """Every number in MLflow's database but those about the machine: name, step, value; sorted, with repetitions."""
    with sqlite3.connect(database) as connection:
        found = connection.execute("SELECT key, step, value FROM metrics WHERE key NOT LIKE 'system/%'").fetchall()
    connection.close()
    return sorted((str(key), int(step), float(value)) for key, step, value in found)


class Door:
    """Passes HTTP on to a server on this machine, or misbehaves as it is told to.

    `mode`: open; refuse (answers 503); deaf (takes the request, has it carried out, and gives no answer).
    """

    def __init__(self, behind: int) -> None:
        self.mode, self.behind, self.requests = "open", behind, 0
        door = self

        class Handler(BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                door.requests += 1
                mode = door.mode
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if mode == "refuse":
                    return self.answer(503, b"{}")
                connection = http.client.HTTPConnection("127.0.0.1", door.behind, timeout=60)
                headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if mode == "deaf":
                    self.close_connection = True
                    return None
                return self.answer(answer.status, content)

            def answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = pass_on

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[Path]:
    """A real MLflow server on sqlite; gives its database once it answers."""
    database = folder / "server.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination",
               str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    with (folder / "server.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as server:
        try:
            wait_until_it_answers(server, port, folder / "server.log")
            yield database
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # its workers and job consumers too: they outlive it otherwise


def wait_until_it_answers(server: subprocess.Popen[Any], port: int, log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)

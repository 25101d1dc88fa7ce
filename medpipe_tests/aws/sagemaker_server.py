"""A SageMaker endpoint over real HTTP, for what moto lacks: jobs that run, stop, fail, and answers that go missing.

    with SageMakerServer(runner=carry_out) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", server.endpoint)

It speaks SageMaker's JSON protocol and its error shapes, and refuses a job's name for ever. A job runs until `end(name)`, or until its
runner returns (it is given the whole request, in a thread), or for `life` describes. Faults are queued for each operation:

    server.fault("CreateTrainingJob", "lost after")     # carried out, then the connection is closed without an answer
    "lost before" | "throttle" | "internal after" | "refuse:<code>:<message>" | "stale:<calls>" (as it was so many calls ago)

`journal` has every call; `most_unfinished` the highest number of unfinished jobs at one time, by launch. Left out: permissions,
validation (botocore's own runs in the client), tags, logs, and everything else of SageMaker.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from medpipe.aws.request import LAUNCH_TAG

ACCOUNT = "123456789012"
ENDED = ("Completed", "Failed", "Stopped")
SECONDARY = {"InProgress": "Training"}


@dataclass(frozen=True)
class End:
    """How a job ends."""

    status: str = "Completed"  # or Failed
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    secondary: str = ""  # MaxRuntimeExceeded, Interrupted, …; else as the status


Runner = Callable[[dict[str, Any]], Any]
"""Carries out a request; gives an End, or what has its status, reason and metrics (a list of numbers for each: the last one counts)."""


@dataclass(frozen=True)
class Call:
    """One call that the server was sent."""

    number: int
    operation: str
    name: str
    fault: str
    accepted: bool


class Refusal(Exception):
    """An error of the service."""

    def __init__(self, code: str, message: str, http: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.http = code, message, http


class _Job:
    """One job, and what a describe of it would have said after each change."""

    def __init__(self, request: dict[str, Any], kind: str, call: int) -> None:
        self.request, self.kind = request, kind
        self.launch = next((tag["Value"] for tag in request.get("Tags", ()) if tag["Key"] == LAUNCH_TAG), "")
        self.created, self.transitions = time.time(), []
        self.status, self.looks = "", 0
        self.runner: threading.Thread | None = None
        self.stopping = threading.Event()
        self.history: list[tuple[int, dict[str, Any]]] = []
        self.turn("InProgress", call, "Starting")

    def turn(self, status: str, call: int, secondary: str = "", end: End | None = None) -> None:
        self.status, now = status, time.time()
        secondary = secondary or SECONDARY.get(status, status)
        if self.transitions:
            self.transitions[-1]["EndTime"] = now
        message = end.reason if end else {"Training": "Training image download completed. Training in progress."}.get(secondary, "")
        self.transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message})
        said = {key: value for key, value in self.request.items() if key != "Tags"}
        said |= {
            f"{self.kind}Name": self.request[f"{self.kind}Name"], f"{self.kind}Status": status, "CreationTime": self.created,
            f"{self.kind}Arn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:{self.kind.lower()}/{self.request[f'{self.kind}Name']}",
            "LastModifiedTime": now, "SecondaryStatus": secondary, "SecondaryStatusTransitions": [dict(step) for step in self.transitions],
        }  # fmt: skip
        if status in ENDED:
            said |= {"TrainingEndTime": now, "BillableTimeInSeconds": max(1, round(now - self.created)), "TrainingTimeInSeconds": 1}
            output = self.request.get("OutputDataConfig", {}).get("S3OutputPath", "").rstrip("/")
            said["ModelArtifacts"] = {"S3ModelArtifacts": f"{output}/{self.request[f'{self.kind}Name']}/output/model.tar.gz"}
        if end and end.status == "Failed":
            said["FailureReason"] = end.reason
        if end and end.metrics:
            said["FinalMetricDataList"] = [{"MetricName": key, "Value": value, "Timestamp": now} for key, value in end.metrics.items()]
        self.history.append((call, said))

    def as_of(self, call: int) -> dict[str, Any] | None:
        """What a describe said then; None before the job was there."""
        return next((said for at, said in reversed(self.history) if at <= call), None)


class SageMakerServer:
    """See the module. `life` and `stopping` count describes; without `life` or `runner` a job runs until the test ends it."""

    def __init__(self, runner: Runner | None = None, life: int | None = None, stopping: int = 1, lives: Callable[[str], End] | None = None):
        self.runner, self.life, self.stopping = runner, life, stopping
        self.lives = lives or (lambda name: End())
        self.journal: list[Call] = []
        self.most_unfinished: dict[str, int] = defaultdict(int)
        self.jobs: dict[str, _Job] = {}
        self.on_call: Callable[[str, str], None] | None = None  # operation and name, before it is carried out
        self._faults: dict[str, list[str]] = defaultdict(list)
        self._lock = threading.RLock()
        self._calls = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> SageMakerServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def fault(self, operation: str, *kinds: str) -> None:
        """What goes wrong with the next calls of an operation, one each; an empty one goes well."""
        with self._lock:
            self._faults[operation] += kinds

    def clear_faults(self) -> None:
        """Let everything go well from now on."""
        with self._lock:
            self._faults.clear()

    def end(self, name: str, end: End | None = None) -> None:
        """End a running job."""
        with self._lock:
            self._end(self.jobs[name], end or End())

    def status(self, name: str) -> str:
        """The job's true status."""
        with self._lock:
            return self.jobs[name].status

    def describe(self, name: str) -> dict[str, Any]:
        """What SageMaker would say of the job now; times in seconds since the epoch."""
        with self._lock:
            return self.jobs[name].history[-1][1]

    def stop_requested(self, name: str) -> threading.Event:
        """Set when the job is told to stop: a runner may listen to it."""
        return self.jobs[name].stopping

    def unfinished(self, launch: str = "") -> list[str]:
        """Jobs that have not ended, of one launch or of all."""
        with self._lock:
            return [name for name, job in self.jobs.items() if job.status not in ENDED and launch in ("", job.launch)]

    def accepted(self, launch: str = "") -> list[str]:
        """Names of all jobs ever made, in order."""
        with self._lock:
            return [name for name, job in self.jobs.items() if launch in ("", job.launch)]

    def answer(self, operation: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Carry out a call; None: close the connection without an answer."""
        kind = "HyperParameterTuningJob" if "HyperParameterTuningJob" in operation else "TrainingJob"
        name = body.get(f"{kind}Name", "")
        if self.on_call is not None:
            self.on_call(operation, name)
        with self._lock:
            self._calls += 1
            fault = self._faults[operation].pop(0) if self._faults[operation] else ""
            before = len(self.jobs)
            try:
                if fault == "lost before":
                    return None
                if fault == "throttle":
                    raise Refusal("ThrottlingException", "Rate exceeded")
                if fault.startswith("refuse:"):
                    _, code, message = fault.split(":", 2)
                    raise Refusal(code, message)
                verb = operation.removesuffix(f"{kind}s").removesuffix(kind)
                does = {"Create": self._create, "Describe": self._describe, "Stop": self._stop, "List": self._list}[verb]
                found = does(kind, name, body, fault)
                if fault == "internal after":
                    raise Refusal("InternalFailure", "The request processing has failed.", 500)
                return None if fault == "lost after" else (200, found)
            except Refusal as error:
                return error.http, {"__type": error.code, "message": error.message}
            finally:
                self.journal.append(Call(self._calls, operation, name, fault, len(self.jobs) > before))

    def _create(self, kind: str, name: str, body: dict[str, Any], fault: str) -> dict[str, Any]:
        if name in self.jobs:
            raise Refusal(
                "ResourceInUse", "Training job names must be unique within an AWS account and region, and a training job with this name "
                f"already exists (arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/{name})",
            )  # fmt: skip
        job = self.jobs[name] = _Job(body, kind, self._calls)
        self.most_unfinished[job.launch] = max(self.most_unfinished[job.launch], len(self.unfinished(job.launch)))
        if self.runner is not None and kind == "TrainingJob":
            job.runner = threading.Thread(target=self._run, args=(job,), daemon=True)
            job.runner.start()
        return {f"{kind}Arn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:{kind.lower()}/{name}"}

    def _describe(self, kind: str, name: str, body: dict[str, Any], fault: str) -> dict[str, Any]:
        job = self.jobs.get(name)
        if job is not None:
            self._live(job)
        ago = int(fault.removeprefix("stale:")) if fault.startswith("stale:") else 0
        said = job.as_of(self._calls - ago) if job else None
        if said is None:
            raise Refusal("ValidationException", "Requested resource not found.")
        return said

    def _stop(self, kind: str, name: str, body: dict[str, Any], fault: str) -> dict[str, Any]:
        job = self.jobs.get(name)
        if job is None:
            raise Refusal("ValidationException", "Requested resource not found.")
        if job.status in ENDED:
            raise Refusal("ValidationException", f"The request was rejected because the training job is in status {job.status}.")
        if job.status != "Stopping":
            job.looks = 0
            job.turn("Stopping", self._calls)
            job.stopping.set()
        return {}

    def _list(self, kind: str, name: str, body: dict[str, Any], fault: str) -> dict[str, Any]:
        names = [name for name, job in reversed(self.jobs.items()) if job.kind == kind and body.get("NameContains", "") in name]
        start, size = int(body.get("NextToken", 0)), body.get("MaxResults", 10)
        keys = (f"{kind}Name", f"{kind}Arn", "CreationTime", f"{kind}Status", "LastModifiedTime", "SecondaryStatus", "TrainingEndTime")
        page = [self.jobs[name].history[-1][1] for name in names[start : start + size]]
        rest = {"NextToken": str(start + size)} if start + size < len(names) else {}
        return {f"{kind}Summaries": [{key: said[key] for key in keys if key in said} for said in page], **rest}

    def _live(self, job: _Job) -> None:
        """Time goes on, by describes, for jobs that no runner carries out."""
        if job.runner is not None or job.status in ENDED:
            return
        job.looks += 1
        if job.status == "Stopping" and job.looks > self.stopping:
            job.turn("Stopped", self._calls)
        elif job.status == "InProgress" and self.life is not None and job.looks > self.life:
            self._end(job, self.lives(job.request[f"{job.kind}Name"]))
        elif job.status == "InProgress" and len(job.transitions) == 1:
            job.turn("InProgress", self._calls)

    def _run(self, job: _Job) -> None:
        with self._lock:
            job.turn("InProgress", self._calls)
        try:
            said = self.runner(job.request) if self.runner else End()
            metrics = {key: value[-1] if isinstance(value, list) else value for key, value in said.metrics.items()}
            end = End(said.status, said.reason, metrics, getattr(said, "secondary", ""))
        except Exception as error:
            end = End("Failed", f"AlgorithmError: {type(error).__name__}: {error}")
        with self._lock:
            self._end(job, end)

    def _end(self, job: _Job, end: End) -> None:
        if job.status == "Stopping":
            job.turn("Stopped", self._calls, end.secondary)
        elif job.status not in ENDED:
            job.turn(end.status, self._calls, end.secondary, end)


def _handler(server: SageMakerServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            found = server.answer(self.headers["X-Amz-Target"].partition(".")[2], body)
            if found is None:
                self.close_connection = True
                return
            status, answer = found
            data = json.dumps(answer).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("x-amzn-RequestId", f"call-{len(server.journal)}")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the journal has it."""

    return Handler

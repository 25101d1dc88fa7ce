"""MLflow, and nothing else: one parent run per Dagster run, one nested run per model and per evaluation, traces of episodes.

The local `metrics.jsonl` is the truth; this feeds a copy to MLflow. A tracker that fails is said aloud once and left out:
it never stops or changes training. The database is initialised by one process at a time, under a file lock, because
several that touch a fresh one at once break it. A share of the episodes (tracking.trace_share) is kept as traces: one per
episode, one span per message; which ones is drawn from the seed and the episode alone. Finished spans are written straight
into the store: MLflow's own exporter works behind a global setting and swallows what fails.
Left out: catching up afterwards what a dead tracker missed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe import NOTICE
from medpipe.config import Settings

PARENT_TAG = "medpipe.dagster_run"
TIMES = ("started_ns", "ended_ns")
"""In a transcript's turns: when the batch was drawn that a message belongs to, nanoseconds since 1970."""


def tracking_uri(settings: Settings) -> str:
    """Where MLflow keeps its runs: the profile's uri, or sqlite in the outputs folder."""
    return settings.tracking.uri or f"sqlite:///{(settings.outputs / 'mlflow.db').resolve()}"


class Tracker:
    """One nested MLflow run, opened with its first number; every method is safe to call after a failure."""

    def __init__(
        self, settings: Settings, name: str, run_id: str, params: Mapping[str, Mapping[str, Any]], tags: Mapping[str, str],
        warn: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._settings, self._name, self._run_id, self._warn = settings, name, run_id, warn
        self._params, self._tags = params, tags
        self._client: Any = None
        self._run = self._parent = self._experiment = ""
        self._off = settings.tracking.kind == "none"
        self._no_traces = False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers at a step; the first call opens the run."""

        def log() -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            self._client.log_batch(self._run, metrics=[Metric(k, float(v), now, step) for k, v in values.items()])

        self._guard(log)

    def episodes(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        """Keep a share of a step's episodes as traces of this run; like the first number, the first trace opens the run.

        Args:
            transcripts: plain episodes as `Episode.transcript(timed=True)` makes them. Without times, a trace has the moment
                of this call as start and end.
        """
        settings = self._settings
        chosen = [each for each in transcripts if is_traced(settings.seed, step, each, settings.tracking.trace_share)]
        if chosen and not self._no_traces:
            self._guard(lambda: self._log_traces(step, chosen), traces=True)

    def close(self, failed: bool, numbers: Mapping[str, float]) -> None:
        """Record the final numbers and end the run."""
        if numbers:
            self.metrics(0, numbers)
        status = "FAILED" if failed else "FINISHED"

        def end() -> None:
            self._client.set_terminated(self._run, status)
            self._client.set_terminated(self._parent, status)

        self._guard(end)

    def _open(self) -> None:
        from filelock import FileLock
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        settings, run_id = self._settings, self._run_id
        settings.outputs.mkdir(parents=True, exist_ok=True)
        with FileLock(str(settings.outputs / ".mlflow.lock"), timeout=120):
            client = MlflowClient(tracking_uri(settings))
            experiment = client.get_experiment_by_name(settings.tracking.experiment)
            where = None if settings.tracking.uri else Path(settings.outputs / "mlflow_artifacts").resolve().as_uri()
            number = (
                experiment.experiment_id if experiment else client.create_experiment(settings.tracking.experiment, artifact_location=where)
            )
            found = client.search_runs([number], filter_string=f"tags.`{PARENT_TAG}` = '{run_id}'", max_results=1)
            if found:
                parent = found[0]
                client.update_run(parent.info.run_id, status="RUNNING")
            else:
                shared = {PARENT_TAG: run_id, "medpipe.profile": settings.name, "medpipe.config_hash": settings.config_hash()}
                parent = client.create_run(number, run_name=f"{settings.name} {run_id[:8]}", tags=shared)
        nested = client.create_run(number, run_name=self._name, tags={"mlflow.parentRunId": parent.info.run_id, **self._tags})
        flat = [Param(f"{s}.{k}", str(v)[:500]) for s, section in self._params.items() for k, v in section.items()]
        client.log_batch(nested.info.run_id, params=flat)
        self._client, self._run, self._parent, self._experiment = client, nested.info.run_id, parent.info.run_id, number

    def _log_traces(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState
        from mlflow.tracing.client import TracingClient

        client, now = TracingClient(tracking_uri(self._settings)), time.time_ns()
        spans: list[Span] = []
        for transcript in transcripts:
            trace = f"{self._run}/{step}/{_name(transcript)}"
            parts = _spans(trace, step, transcript, now)
            first, last = parts[0]["start_time_unix_nano"], parts[0]["end_time_unix_nano"]
            info = TraceInfo(
                trace_id=_trace_id(trace), trace_location=TraceLocation.from_experiment_id(self._experiment),
                request_time=first // 1_000_000, execution_duration=(last - first) // 1_000_000, state=TraceState.OK,
                request_preview=_short(transcript["question"]["question"]), response_preview=_short(transcript["final"]),
                trace_metadata={"mlflow.sourceRun": self._run},
                tags={
                    "mlflow.traceName": parts[0]["name"], "medpipe.asset": self._name, "medpipe.step": str(step),
                    "medpipe.question": str(transcript["question"]["id"])[:250], "medpipe.notice": NOTICE,
                },
            )  # fmt: skip
            client.start_trace(info)
            spans += [Span.from_dict(part) for part in parts]
        client.log_spans(self._experiment, spans)

    def _guard(self, call: Callable[[], Any], traces: bool = False) -> None:
        if self._off:
            return
        try:
            if self._client is None:
                self._open()
            call()
        except Exception as error:  # whatever breaks in a tracker must not break training; it is said, once
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            failed = f"MLflow at {tracking_uri(self._settings)} failed ({text})"
            if traces and self._client is not None:  # an older server takes numbers and no spans
                self._no_traces = True
                self._warn(f"{failed}: going on without traces")
                return
            self._off = True
            self._warn(f"{failed}: going on without it; metrics.jsonl has every number")


def is_traced(seed: int, step: int, transcript: Mapping[str, Any], share: float) -> bool:
    """Whether an episode belongs to the share that is kept: the same ones in every run with this seed."""
    drawn = hashlib.sha256(f"{seed}/trace/{step}/{_name(transcript)}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") < share * 2**64


def _name(transcript: Mapping[str, Any]) -> str:
    return f"{transcript['question']['id']}/{transcript['sample']}"


def _spans(trace: str, step: int, transcript: Mapping[str, Any], now: int) -> list[dict[str, Any]]:
    """An episode as MLflow's plain spans: the whole first, then one for each message."""
    question, turns = transcript["question"], transcript["turns"]
    times = [tuple(turn.get(key, now) for key in TIMES) for turn in turns] or [(now, now)]
    root = _id(f"{trace}/episode", 8)
    whole = {
        "question_id": question["id"], "sample": transcript["sample"], "step": step, "messages": len(turns),
        "reference": question["answer"], "evidence_from": transcript["evidence_from"], "notice": NOTICE,
        "mlflow.spanType": "CHAIN", "mlflow.spanInputs": {key: question[key] for key in ("question", "options")} | {
            "evidence": transcript["evidence"]}, "mlflow.spanOutputs": transcript["final"],
    }  # fmt: skip
    name = f"episode {_short(question['id'], 80)}"
    spans = [_span(trace, root, "", name, (min(first for first, _ in times), max(last for _, last in times)), whole)]
    for number, (turn, when) in enumerate(zip(turns, times, strict=False)):
        message = {key: turn[key] for key in ("role", "round", "text", "answer", "value", "malformed", "tokens")}
        message |= {"question_id": question["id"], "number": number, "mlflow.spanType": "AGENT", "mlflow.spanOutputs": turn["text"]}
        spans.append(_span(trace, _id(f"{trace}/{number}", 8), root, f"round {turn['round'] + 1}: {turn['role']}", when, message))
    return spans


def _span(trace: str, id: str, parent: str, name: str, when: tuple[int, int], attributes: Mapping[str, Any]) -> dict[str, Any]:
    values = {"mlflow.traceRequestId": _trace_id(trace), **{k: v for k, v in attributes.items() if v is not None}}
    return {
        "trace_id": _id(trace, 16), "span_id": id, "parent_span_id": parent, "name": name,
        "start_time_unix_nano": when[0], "end_time_unix_nano": when[1], "status": {"code": "STATUS_CODE_OK"},
        "attributes": {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()},
    }  # fmt: skip


def _trace_id(trace: str) -> str:
    return f"tr-{hashlib.sha256(trace.encode()).digest()[:16].hex()}"


def _id(text: str, size: int) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:size]).decode()


def _short(text: str, most: int = 250) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

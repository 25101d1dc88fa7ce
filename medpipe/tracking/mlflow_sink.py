"""Feeds journals to MLflow: a parent run per Dagster run, a nested run per asset, its data sets, and traces of episodes.

Each point arrives once, whatever is sent twice: a run bears its journal's name as a tag and is looked for before one is made, a number's
key in MLflow's store is its name, step, time and value, and a trace's and a span's ids come from the journal. The database is
first touched by one process at a time, under a file lock, because several that touch a fresh one at once break it. Finished spans
are written straight into the store: MLflow's own exporter works behind a global setting and swallows what fails.
Left out: MLflow's own sampling of the machine, which would have to run inside the work.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    Span,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.tracing.client import TracingClient
from mlflow.tracking import MlflowClient

from medpipe import NOTICE
from medpipe.tracking import alone_with_mlflow, episode_name

PARENT_TAG, JOURNAL_TAG = "medpipe.dagster_run", "medpipe.journal"
TIMES = ("started_ns", "ended_ns")
"""In a transcript's turns: when the batch was drawn that a message belongs to, nanoseconds since 1970."""
MOST_METRICS = 900  # MLflow takes 1,000 in one call
DIGEST = 36  # characters that MLflow keeps of a data set's digest


class MLflow:
    """One MLflow server or database."""

    def __init__(self, uri: str, outputs: Path, experiment: str, local: bool) -> None:
        self.where = f"MLflow at {uri}"
        self._uri, self._outputs, self._experiment, self._local = uri, outputs, experiment, local
        self._client: MlflowClient | None = None

    def take(self, path: Path, state: dict[str, Any], head: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], first: int) -> str:
        """Send lines of a journal. Returns a remark where the store takes no traces."""
        if "run" not in state:
            state |= self._open(path, head)
        run, client, said = state["run"], self._connected(), ""
        numbers: list[Metric] = []
        for line in lines:
            if line["kind"] in ("metrics", "system"):
                numbers += _metrics(line["values"], line["step"], line["time_ms"])
            elif line["kind"] == "close":
                numbers += _metrics(line["numbers"], 0, line["time_ms"])
        for start in range(0, len(numbers), MOST_METRICS):
            client.log_batch(run, metrics=numbers[start : start + MOST_METRICS])
        episodes = [line for line in lines if line["kind"] == "episode"]
        if episodes and not state.get("no_traces"):
            said = self._send_traces(state, head["name"], episodes)
        if lines[-1]["kind"] == "close":
            self._close(state, lines[-1])
        return said

    def _connected(self) -> MlflowClient:
        if self._client is None:
            with self._alone():
                client = MlflowClient(self._uri)
                client.search_experiments(max_results=1)  # the first touch makes the tables
            self._client = client
        return self._client

    def _alone(self) -> AbstractContextManager[None]:
        return alone_with_mlflow(self._uri, self._outputs)

    def _open(self, path: Path, head: Mapping[str, Any]) -> dict[str, str]:
        """Find or make the parent and the run of this journal."""
        client = self._connected()
        with self._alone():
            experiment = self._experiment_id(client)
            parent = _found(client, experiment, PARENT_TAG, head["run"])
            if parent is None:
                shared = {PARENT_TAG: head["run"], **head["shared"]}
                parent = client.create_run(experiment, run_name=f"{head['shared']['medpipe.profile']} {head['run'][:8]}", tags=shared)
            run = _found(client, experiment, JOURNAL_TAG, path.name)
            if run is None:
                tags = {"mlflow.parentRunId": parent.info.run_id, JOURNAL_TAG: path.name, **head["tags"]}
                run = client.create_run(experiment, start_time=head["time_ms"], run_name=head["name"], tags=tags)
        if parent.info.status != "RUNNING":
            client.update_run(parent.info.run_id, status="RUNNING")
        flat = [Param(f"{s}.{k}", str(v)[:500]) for s, section in head["params"].items() for k, v in section.items()]
        client.log_batch(run.info.run_id, params=flat)
        if inputs := [_dataset(each) for each in head["datasets"]]:
            client.log_inputs(run.info.run_id, inputs)
        return {"run": run.info.run_id, "parent": parent.info.run_id, "experiment": experiment}

    def _experiment_id(self, client: MlflowClient) -> str:
        if known := client.get_experiment_by_name(self._experiment):
            return known.experiment_id
        where = (self._outputs / "mlflow_artifacts").resolve().as_uri() if self._local else None
        return client.create_experiment(self._experiment, artifact_location=where)

    def _close(self, state: Mapping[str, Any], line: Mapping[str, Any]) -> None:
        client = self._connected()
        status = "KILLED" if line.get("killed") else "FAILED" if line["failed"] else "FINISHED"
        client.set_terminated(state["run"], status, line["time_ms"])
        client.set_terminated(state["parent"], status, line["time_ms"])

    def _send_traces(self, state: dict[str, Any], asset: str, episodes: Sequence[Mapping[str, Any]]) -> str:
        try:
            self._log_traces(state, asset, episodes)
        except Exception as error:
            self._connected().get_run(state["run"])  # an older server takes numbers and no spans; one that is down raises here
            state["no_traces"] = True
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            return f"{self.where} failed ({text}): going on without traces"
        return ""

    def _log_traces(self, state: Mapping[str, Any], asset: str, episodes: Sequence[Mapping[str, Any]]) -> None:
        client = TracingClient(self._uri)
        spans: list[Span] = []
        for episode in episodes:
            transcript, step = episode["transcript"], episode["step"]
            trace = f"{state['run']}/{step}/{episode_name(transcript)}"
            parts = _spans(trace, step, transcript, episode["now_ns"])
            first, last = parts[0]["start_time_unix_nano"], parts[0]["end_time_unix_nano"]
            info = TraceInfo(
                trace_id=_trace_id(trace), trace_location=TraceLocation.from_experiment_id(state["experiment"]),
                request_time=first // 1_000_000, execution_duration=(last - first) // 1_000_000, state=TraceState.OK,
                request_preview=_short(transcript["question"]["question"]), response_preview=_short(transcript["final"]),
                trace_metadata={"mlflow.sourceRun": state["run"]},
                tags={
                    "mlflow.traceName": parts[0]["name"], "medpipe.asset": asset, "medpipe.step": str(step),
                    "medpipe.question": str(transcript["question"]["id"])[:250], "medpipe.notice": NOTICE,
                },
            )  # fmt: skip
            client.start_trace(info)
            spans += [Span.from_dict(part) for part in parts]
        client.log_spans(state["experiment"], spans)


def _found(client: MlflowClient, experiment: str, tag: str, value: str) -> Run | None:
    return next(iter(client.search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)), None)


def _metrics(values: Mapping[str, float], step: int, when: int) -> list[Metric]:
    return [Metric(key, float(value), when, step) for key, value in values.items()]


def _dataset(each: Mapping[str, Any]) -> DatasetInput:
    """A data set under the project's own digest: MLflow's would hash the first 10,000 rows only."""
    profile = json.dumps({"num_rows": each["rows"]}) if each.get("rows") is not None else None
    source = json.dumps({"uri": each["path"], "sha256": each["sha256"]})
    known = Dataset(name=each["name"], digest=each["sha256"][:DIGEST], source_type="local", source=source, profile=profile)
    return DatasetInput(known, [InputTag("mlflow.data.context", each["name"].rpartition("/")[2])])


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

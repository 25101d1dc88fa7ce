"""MLflow, and nothing else: one parent run per Dagster run, one nested run per model and per evaluation.

The local `metrics.jsonl` is the truth; this feeds a copy to MLflow. A tracker that fails is said aloud once and left out:
it never stops or changes training. The database is initialised by one process at a time, under a file lock, because
several that touch a fresh one at once break it. Left out: catching up afterwards what a dead tracker missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medpipe.config import Settings

PARENT_TAG = "medpipe.dagster_run"


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
        self._run = self._parent = ""
        self._off = settings.tracking.kind == "none"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers at a step; the first call opens the run."""

        def log() -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            self._client.log_batch(self._run, metrics=[Metric(k, float(v), now, step) for k, v in values.items()])

        self._guard(log)

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
        self._client, self._run, self._parent = client, nested.info.run_id, parent.info.run_id

    def _guard(self, call: Callable[[], Any]) -> None:
        if self._off:
            return
        try:
            if self._client is None:
                self._open()
            call()
        except Exception as error:  # whatever breaks in a tracker must not break training; it is said, once
            self._off = True
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._warn(f"MLflow at {tracking_uri(self._settings)} failed ({text}): going on without it; metrics.jsonl has every number")

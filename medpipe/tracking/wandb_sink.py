"""Feeds journals to Weights & Biases (extra `wandb`): one run per asset, in one group per Dagster run.

    WANDB_API_KEY=… medpipe run --set tracking.kind=wandb          # or both; tracking.wandb_mode=offline needs no account
    wandb sync outputs/wandb/offline-run-*                          # sends later what was kept offline

Project and tags stand in the profile (tracking.wandb_project, .wandb_tags); where they are empty, WANDB_PROJECT and WANDB_TAGS count.
WANDB_PROJECT also turns W&B on beside MLflow (medpipe/tracking/__init__.py); WANDB_MODE is offline or disabled as wandb knows it.
Each point arrives once: W&B's own step is the number of the journal's line and never goes back, so that what a resumed run is sent again
is left out here. Offline nothing can be resumed: what an interrupted feeder wrote is removed and written anew.
The steps that people look at are `step` (and `sample` for `system/*`), the axes of the plots. Left out: episodes, weights, code.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.tracking.journal import read

CLASSES = ("metrics", "system")


class WandB:
    """One project of W&B, or a folder of offline runs."""

    where = "Weights & Biases"

    def __init__(self, outputs: Path, tracking: Mapping[str, Any]) -> None:
        self._outputs = outputs
        self._offline = tracking["wandb_mode"] == "offline" or os.environ.get("WANDB_MODE") == "offline"
        self._project = tracking["wandb_project"] or os.environ.get("WANDB_PROJECT") or tracking["experiment"]
        self._tags = tuple(tracking["wandb_tags"]) or tuple(tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag)
        self._runs: dict[Path, Any] = {}

    def take(self, path: Path, state: dict[str, Any], head: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], first: int) -> str:
        """Send lines of a journal; a run that this process has not opened yet gets the earlier ones too."""
        if path not in self._runs:
            self._runs[path] = self._open(path, head)
            lines, first = [*read(path, 0)[:first], *lines], 0
        run = self._runs[path]
        for number, line in enumerate(lines, first):
            if line["kind"] in CLASSES and number >= run.step:
                axis = "sample" if line["kind"] == "system" else "step"
                run.log({axis: line["step"], "time_ms": line["time_ms"], **line["values"]}, step=number, commit=True)
        if lines[-1]["kind"] == "close":
            run.summary.update(lines[-1]["numbers"])
            run.finish(exit_code=1 if lines[-1]["failed"] else 0)
            del self._runs[path]
        return ""

    def _open(self, path: Path, head: Mapping[str, Any]) -> Any:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MedpipeError(
                got="no package wandb", expected="it, for tracking.kind = wandb or both", where="this environment",
                do="pip install -e '.[wandb]'",
            ) from error  # fmt: skip
        if not self._offline and not os.environ.get("WANDB_API_KEY"):
            raise MedpipeError(
                got="no WANDB_API_KEY", expected="the key of your account", where="the environment",
                do="export it, or set tracking.wandb_mode = offline and sync later",
            )  # fmt: skip
        name = hashlib.sha256(path.name.encode()).hexdigest()[:16]
        self._outputs.mkdir(parents=True, exist_ok=True)
        for torn in (self._outputs / "wandb").glob(f"offline-run-*-{name}") if self._offline else ():
            shutil.rmtree(torn)
        config = {
            **{f"{s}.{k}": v for s, section in head["params"].items() for k, v in section.items()}, **head["shared"], **head["tags"],
            **{f"dataset.{each['name']}": each["sha256"] for each in head["datasets"]},
        }  # fmt: skip
        quiet = wandb.Settings(
            silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True, x_disable_machine_info=True
        )
        run = wandb.init(
            project=self._project, name=head["name"], group=head["run"], job_type=head["name"].partition("/")[0], id=name,
            tags=[*self._tags, head["shared"]["medpipe.profile"]], config=config, dir=str(self._outputs), settings=quiet,
            resume=None if self._offline else "allow", mode="offline" if self._offline else "online", reinit="create_new",
        )  # fmt: skip
        run.define_metric("*", step_metric="step")
        run.define_metric("system/*", step_metric="sample")
        return run

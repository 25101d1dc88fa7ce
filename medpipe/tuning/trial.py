"""One trial: what it tries, the project's own command that carries it out, and the numbers that are read afterwards.

    bench = Bench(home, settings, command)
    bench.lay_out({"splits/train": folder, ...})
    reason = bench.carry_out(0, "roles", values)        # "" where it went well
    loss = bench.validation_loss()

All trials share one outputs folder, so what a trial does not change (the audit, a role under the same settings) is reused by its
fingerprint, and a training that was killed goes on from its checkpoint. Splits and base are not made here: references to the
finished ones are laid out. Left out: a choice of trials (medpipe/tuning/study.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from medpipe import results, store
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.rewards.compose import COMPONENTS, normalised
from medpipe.schema import ROLES, Ref

SEARCHED = ("training.learning_rate", "training.epochs", "training.batch_size", "rewards.safety_penalty_weight")
"""The settings that a trial sets."""
INPUTS = ("splits/train", "splits/cotrain", "splits/validation", "models/base")
"""What every trial starts from."""
COMMAND = (str(Path(sys.executable).with_name("medpipe")),)
LAST_SHARE = 0.25  # of the iterations of co-training, at its end: over them the team's value is a mean
KIN = "import os, sys; from medpipe.kin import die_with_parent; die_with_parent(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
"""Becomes the trial's command after asking the kernel to end it with this process: a killed study leaves no training behind."""


@dataclass(frozen=True)
class Bench:
    """Where the trials of one study are carried out.

    `home` is the study's folder, `settings` are the profile's, `command` is what `run --profile … --select … --set …` follows.
    """

    home: Path
    settings: Settings
    command: tuple[str, ...] = COMMAND

    @property
    def outputs(self) -> Path:
        """The outputs folder that all trials share."""
        return self.home / "work"

    def stages(self) -> dict[str, tuple[str, ...]]:
        """The two halves of a trial and the assets that each makes."""
        judge = ("models/verifier",) if self.settings.maporl.verifier == "learned" else ()
        return {"roles": tuple(f"models/{role}" for role in ROLES), "team": ("rewards/audit", *judge, "models/maporl_team")}

    def lay_out(self, inputs: Mapping[str, Path]) -> None:
        """Write the profile of all trials, and references to the finished inputs; their hashes are checked by each training."""
        resolved = self.settings.model_dump(mode="json")
        resolved["paths"]["outputs"] = str(self.outputs)
        resolved["tuning"]["in_graph"] = False
        store.write_text(self.home / "profile.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        for key, sha in hashes(inputs).items():
            results.write_ref(self.outputs, key, Ref(path=str(inputs[key].resolve()), sha256=sha))

    def carry_out(self, number: int, stage: str, values: Mapping[str, Any]) -> str:
        """Run one half of a trial; its words go to `trials/<number>/<stage>.log`.

        Args:
            number: of the trial.
            stage: "roles" or "team".
            values: the settings that are tried, by their dotted names.

        Returns:
            "" where it ended well, or else why it did not.
        """
        log = self.home / "trials" / f"{number:03d}" / f"{stage}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        profile, chosen = str((self.home / "profile.yaml").resolve()), ",".join(self.stages()[stage])
        words = [*self.command, "run", "--profile", profile, "--select", chosen, *as_flags(values)]
        # This may run inside a Dagster step, whose channel is not the command's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_PIPES_")}
        with log.open("w", encoding="utf-8") as said:
            kept = [sys.executable, "-c", KIN, str(os.getpid()), *words]
            status = subprocess.run(kept, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT).returncode
        return "" if status == 0 else f"{stage}: {_complaint(log, status)}"

    def validation_loss(self) -> float:
        """Mean over the four roles of the loss on validation rows after fine-tuning, nats per token."""
        stats = [store.read_json(self.outputs / "models" / role / "training_stats.json") for role in ROLES]
        return fmean(float(one["validation_loss_after"]) for one in stats)

    def team_value(self) -> float:
        """What the team was worth in the last quarter of the iterations of co-training, 0 to 1, higher is better.

        The weighted mean of the reward's six components under the profile's own weights. Not the paid reward: that has the
        penalty in it whose weight is searched, so trials with a low weight would win by their ruler. Verifiers that use no
        components (exact, learned) use no penalty either, so there it is the team's score itself.
        """
        rows = store.read_jsonl(self.outputs / "models" / "maporl_team" / "metrics.jsonl")
        last = rows[-max(1, round(LAST_SHARE * len(rows))) :]
        return fmean(self._worth(row) for row in last)

    def _worth(self, row: Mapping[str, Any]) -> float:
        if self.settings.maporl.verifier != "medical":
            return float(row["reward/team"])
        weights = normalised(self.settings.rewards, choice=False)
        return sum(weights[name] * float(row[f"reward/{name}"]) for name in COMPONENTS)


def hashes(inputs: Mapping[str, Path]) -> dict[str, str]:
    """Content hash of each input.

    Raises:
        MedpipeError: one of them is not finished.
    """
    found = {}
    for key in INPUTS:
        manifest = store.read_manifest(inputs[key])
        if manifest is None:
            raise MedpipeError(
                got=f"no finished {key}", expected="the data and the base that all trials share", where=str(inputs[key]),
                do=f"make it first: medpipe run --select '*{key}'",
            )  # fmt: skip
        found[key] = manifest.sha256
    return found


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """The command line's words for settings, {"training.epochs": 2} → ["--set", "training.epochs=2"]."""
    # YAML's own spelling: it reads 3e-05 as text, and 3.0e-05 as a number.
    return [word for name, value in values.items() for word in ("--set", f"{name}={yaml.safe_dump(value).splitlines()[0]}")]


def _complaint(log: Path, status: int) -> str:
    """The line that says why a command failed: the last one that the console marks, or the last one."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    marked = [line.partition("!! ")[2] for line in lines if "!! " in line]
    return (marked or lines or ["it said nothing"])[0 if marked else -1] + f" (status {status})"

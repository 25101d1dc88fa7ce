"""medpipe from Python: train, test and read results, in a script or a notebook.

    from medpipe import MedicalTeamTrainer

    trainer = MedicalTeamTrainer(data_dir="data", output_dir="outputs", profile="quickstart", training={"epochs": 2})
    trainer.train()
    results = trainer.test_agents(["What is sepsis?"])
    for role, answers in results["agents"].items():
        print(role, answers[0]["response"])

`train` runs in a process of its own, so that a script needs no `if __name__ == "__main__":`. Left out: training inside the
calling process, and several trainings at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import DEFAULT_PROFILE, load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe.schema import LEARNERS, ROLES

RUN = "from medpipe.kin import die_with_parent; die_with_parent({parent}); from medpipe.cli import main; main()"
"""What the process of a training executes: `medpipe run`, which ends when its caller does."""


class MedicalTeamTrainer:
    """The graph of one profile, with data and outputs in folders of your choice.

    Args:
        data_dir: where the corpus is: the bundled `synthetic/` and your own rows in `custom/`.
        output_dir: where all results go.
        profile: a bundled profile or a YAML file.
        settings: exceptions to the profile by section, `training={"epochs": 2}`, or dotted, `**{"training.epochs": 2}`.

    Raises:
        MedpipeError: no such profile or setting.
    """

    def __init__(
        self, data_dir: str | Path = "data", output_dir: str | Path = "outputs", profile: str = DEFAULT_PROFILE, **settings: Any
    ) -> None:
        paths = {"paths.data": str(data_dir), "paths.outputs": str(output_dir)}
        self.profile = profile
        self.overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in {**dict(_flat(settings)), **paths}.items()]
        self.settings = load_profile(profile, dict(parse_override(text) for text in self.overrides))

    def train(self, roles: Sequence[str] | None = None, select: str | None = None) -> dict[str, Path]:
        """Make models and all that they need; what stands already is not made again. Shows the run's lines as it goes.

        Args:
            roles: fine-tune these alone. None: all four, and then the co-trained team.
            select: another selection of the graph, in Dagster's syntax ("*" is everything, with evaluation and report).

        Returns:
            The folders of the finished models: "base", the roles, "agent", "maporl_team", "agent_rl".

        Raises:
            MedpipeError: a role that does not exist, no corpus, or a run that failed (its lines say why).
        """
        selection = select or self._selection(roles)
        self._require_corpus()
        command = [sys.executable, "-c", RUN.format(parent=os.getpid()), "run", "--profile", self.profile, "--select", selection]
        for override in self.overrides:
            command += ["--set", override]
        if _finish(command):
            raise MedpipeError(
                got="a run that failed", expected=f"{selection} made", where=f"the lines above and {self.settings.outputs / 'logs'}",
                do="mend what they name and call train again: what was finished stays",
            )  # fmt: skip
        return self.models()

    def test_agents(
        self, questions: Sequence[str | Mapping[str, Any]] | None = None, team: str = "auto", say: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Ask the finished models; returns what it writes to test_results.json in the output folder (see docs/local-guide.md).

        Args:
            questions: texts, or rows {"question": …, "options": […], "answer": "B"}; None: the built-in ones.
            team: who answers: "auto", "maporl_team", "roles", "base", "alone" or "agent".
            say: is told, in one line, whenever a role has spoken.
        """
        from medpipe.consult import consult
        from medpipe.questions import to_questions

        return consult(self.settings, None if questions is None else to_questions(questions), team, say)

    def models(self) -> dict[str, Path]:
        """The folders of the models that are finished, by name."""
        folders = {name: self.settings.outputs / "models" / name for name in ("base", *LEARNERS, "maporl_team", "agent_rl")}
        return {name: folder for name, folder in folders.items() if (folder / store.MANIFEST).is_file()}

    def results(self) -> dict[str, Any]:
        """What lies in the output folder now: of "training", "test" and "leaderboard" those that were made.

        Raises:
            MedpipeError: none of them was.
        """
        outputs = self.settings.outputs
        files = {
            "training": outputs / "training_results.json",
            "test": outputs / "test_results.json",
            "leaderboard": outputs / "evaluation" / "leaderboard" / "leaderboard.json",
        }
        found = {name: store.read_json(path) for name, path in files.items() if path.is_file()}
        if not found:
            raise MedpipeError(got="no results", expected="a finished training or test", where=str(outputs), do="call train or test_agents")
        return found

    def _selection(self, roles: Sequence[str] | None) -> str:
        names = [roles] if isinstance(roles, str) else list(roles or ())
        unknown = [name for name in names if name not in ROLES]
        if unknown or (roles is not None and not names):
            raise MedpipeError(
                got=f"roles {', '.join(map(repr, unknown)) or 'without a name'}", expected=f"some of {', '.join(ROLES)}",
                where="train(roles=…)", do="name one of these, or leave roles out for the whole team",
            )  # fmt: skip
        return ",".join(f"*models/{name}" for name in names) if names else "*models/maporl_team"

    def _require_corpus(self) -> None:
        folder = self.settings.data / "synthetic"
        if "synthetic" in self.settings.corpus.use and not folder.is_dir():
            raise MedpipeError(
                got=f"no folder {folder}", expected="the bundled knowledge base", where=f"data_dir = {self.settings.paths.data}",
                do="copy the project's data/synthetic there, or leave it out with corpus={'use': ['custom', …]}",
            )  # fmt: skip


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"training": {"epochs": 2}} → ("training.epochs", 2)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _finish(command: list[str]) -> int:
    """Run a command to its end; an interruption reaches it as well, and it is waited for while it tidies up."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise

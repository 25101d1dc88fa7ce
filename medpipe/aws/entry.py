"""The training container's work: the same graph on the channels of the job, told to SageMaker, to Dagster and to people.

    python -m medpipe.aws.entry                                                   # scripts/sagemaker_entry.py, as SageMaker starts it
    SAGEMAKER_BASE_DIR=/tmp/ml PYTHONPATH=/tmp/ml/input/data/code python -m medpipe.aws.entry       # the same on a copy of its layout

Runs `medpipe run --select …` with paths.outputs among the checkpoints: SageMaker keeps that folder the same as a prefix of S3, so after a
spot interruption finished assets stand and trainings go on. Lines, numbers and manifests go out while the work goes on. On SIGTERM (stop,
spot: 120 s) trainings write a checkpoint first. Models that are made are never lost: the job ends well where only a check on them failed,
which blocks what is downstream where the job was launched, or the evaluation after them. Left out: what the folders mean (layout.py),
several instances (hosts.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from medpipe import NOTICE, results, store
from medpipe.aws import hosts
from medpipe.aws.account import Account
from medpipe.aws.errors import explained
from medpipe.aws.layout import (
    Given,
    Layout,
    evaluations,
    failed_checks,
    in_two,
    leave_evaluations,
    leave_models,
    names_only,
    private_values,
    read_launch,
    without_pipes,
)
from medpipe.aws.results import orders
from medpipe.aws.voice import TEAM, Voice, Watch, as_metrics
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.evaluation.guide import figures
from medpipe.launch.order import standing_result
from medpipe.schema import ROLES, Ref
from medpipe.tuning.trial import KIN, Bench

CLI = ("-c", "from medpipe.cli import main; main()")
POLL_SECONDS = 1.0
STOP_SECONDS = 90.0  # for workers to write their checkpoints, of the 120 s that SageMaker gives
END_SECONDS = 15.0  # for what is left then
STOPPED = 143  # exit status, as a shell has it after SIGTERM
MOST_CHARACTERS = 1000  # of the failure that SageMaker shows


class Stopped(BaseException):
    """SageMaker asked this container to end; no failure."""


class RunFailed(MedpipeError):
    """A `medpipe run` of this job ended with a failure; what it made before may be all that was asked for."""

    def __init__(self, why: str, select: str) -> None:
        self.why = why
        super().__init__(
            got=f"a run that failed: {why}", expected="every asset made", where=f"--select {select}",
            do="mend what it says and launch again; what is finished is kept among the checkpoints and not made again",
        )  # fmt: skip


class _Outputs(Bench):
    """A tuning trial's ruler, laid on an outputs folder."""

    @property
    def outputs(self) -> Path:
        return self.settings.outputs


class Work:
    """One start of the container."""

    def __init__(self, layout: Layout, environment: Mapping[str, str], voice: Voice) -> None:
        self.layout, self._voice, self._asked = layout, voice, threading.Event()
        self._given_environment, self.environment = environment, dict[str, str]()
        self.given: Given | None = None
        self.resumed: list[str] = []
        self.listed: dict[str, str] = {}
        self.figures: dict[str, float] = {}
        self.failed_checks: list[dict[str, str]] = []
        self.evaluation_error = ""
        signal.signal(signal.SIGTERM, lambda *_: self._asked.set())

    def do(self) -> None:
        """Everything between the start and the end.

        Raises:
            MedpipeError: what the job was given is wrong, or the work failed.
            Stopped: SIGTERM came.
        """
        layout, voice = self.layout, self._voice
        given = self.given = read_launch(layout)
        hosts.refuse_uneven(layout, given.settings)
        self._prepare(given)
        if self._given_environment.get("SAGEMAKER_TRAINING_DEBUG") == "1":
            self.environment.setdefault("TRANSFORMERS_VERBOSITY", "debug")
            voice.say(f"environment: {names_only(self.environment)}\n{layout.as_text()}")
        voice.say(f"medpipe · job {layout.job or 'without a name'} · launch {given.digest[:12]} · {layout.gpus} GPUs. {NOTICE}")
        if not layout.leads:
            meeting = hosts.Meeting(self._s3(given), self._share(given))
            return hosts.Follower(meeting, layout, given, voice.say).join(self._carry_out, self._bear)
        outputs = given.settings.outputs
        watch = Watch(outputs, voice)
        self.resumed = sorted(watch.before)
        if self.resumed:
            voice.say(f"going on with {', '.join(self.resumed)} of an earlier start")
        leader = hosts.Leader(hosts.Meeting(self._s3(given), self._share(given)), layout.hosts[1:], voice.say) if layout.hosts[1:] else None
        error = "the first host was asked to stop"
        try:
            self._make(given, watch, leader)
            error = ""
        except Exception as failure:
            error = voice.hide(str(failure))
            raise
        finally:
            if leader:
                leader.end(error, self._bear)
        watch.look(all_of_them=True)
        self._conclude(given)

    def _make(self, given: Given, watch: Watch, leader: hosts.Leader | None) -> None:
        """The models, then the evaluation, if they passed their checks."""
        models, rest = in_two(given.select)

        def look() -> None:
            watch.look()
            if leader:
                leader.look()

        try:
            self._train(given, models, watch, look, leader)
        except RunFailed as failure:
            if not models or self._missing(given, models):
                raise
            self._voice.say(f"medpipe: ! every model is made and kept, and yet their run failed: {failure.why}")
            self.evaluation_error = "not begun: the run of the models failed" if rest else ""
            return
        if not rest:
            return
        try:
            self._run(rest, look)
        except RunFailed as failure:
            if not models:
                raise
            lacking = [key for key in evaluations(rest) if not (given.settings.outputs / key / store.MANIFEST).is_file()]
            self.evaluation_error = self._voice.hide(f"not finished: {', '.join(lacking) or 'nothing'}; {failure.why}")
            self._voice.say(f"medpipe: !! the models are made and kept, but their evaluation failed: {self.evaluation_error}")

    def _train(self, given: Given, models: str, watch: Watch, look: Callable[[], None], leader: hosts.Leader | None) -> None:
        settings = given.settings
        if leader:
            first, models = hosts.before_team(models, settings)
            if first:
                self._run(first, watch.look)
            folders = {
                key: given.folder(key, self.layout) if key in given.inputs else settings.outputs / key
                for key in hosts.team_inputs(settings)
            }
            leader.share(hosts.team_order(settings, folders))
        if models:
            self._run(models, look)

    def _missing(self, given: Given, models: str) -> list[str]:
        """Models that do not stand whole for just these inputs, settings and code."""
        refs = {key: Ref(path=str(given.folder(key, self.layout)), sha256=one.sha256) for key, one in given.inputs.items()}
        known = orders(given.settings, refs)
        return [key for key in models.split(",") if key not in known or standing_result(known[key]) is None]

    def _prepare(self, given: Given) -> None:
        """A folder to work in: Dagster's settings and state, the resolved profile, references to the inputs."""
        work, settings = self.layout.work, given.settings
        work.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.layout.channel("code") / "dagster.yaml", work / "dagster.yaml")
        store.write_text(work / "profile.yaml", yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        for key, one in given.inputs.items() if self.layout.leads else ():
            ref = Ref(path=str(given.folder(key, self.layout)), sha256=one.sha256)
            results.write_ref(settings.outputs, key, ref)
        found = fetch_secrets(settings)
        self._voice.hush([*private_values(self._given_environment), *found.values()])
        code = str(self.layout.channel("code"))
        kept = without_pipes(self._given_environment)
        kept.pop("TRANSFORMERS_CACHE", None)
        self.environment = {
            **kept, **found,
            "PYTHONPATH": os.pathsep.join(part for part in (code, kept.get("PYTHONPATH", "")) if part),
            "PYTHONUNBUFFERED": "1",
            "DAGSTER_HOME": str(work), "MEDPIPE_PROFILE": str(work / "profile.yaml"), "MEDPIPE_COMMIT": given.commit,
            # Not in the model folder, as the guide has it: model.tar.gz would carry the base twice, here and in models/base.
            "HF_HOME": str(work / "huggingface"),
        }  # fmt: skip
        if len(self.layout.hosts) > 1:  # SageMaker's own training toolkit would set these; an entry point of one's own is told by a file
            self.environment |= {"SM_HOSTS": json.dumps(self.layout.hosts), "SM_CURRENT_HOST": self.layout.current}
            for library in ("NCCL", "GLOO") if self.layout.interface else ():
                self.environment.setdefault(f"{library}_SOCKET_IFNAME", self.layout.interface)
        self._forget_mlflow(settings)

    def _forget_mlflow(self, settings: Settings) -> None:
        """MLflow without a server has its database in the outputs folder, and SageMaker copies that folder while it is written: what comes
        back after an interruption may be torn. The journals beside it are whole lines and the truth, so it is fed from them again."""
        if not self._has_server(settings):
            for path in (*settings.outputs.glob("mlflow.db*"), *(settings.outputs / "tracking").glob("*.jsonl.mlflow")):
                path.unlink()

    def _has_server(self, settings: Settings) -> bool:
        return bool(settings.tracking.uri or self.environment.get("MLFLOW_TRACKING_URI"))

    def _run(self, select: str, look: Callable[[], None]) -> None:
        words = [sys.executable, *CLI, "run", "--profile", str(self.layout.work / "profile.yaml"), "--select", select]
        self._voice.complaints.clear()
        status = self._carry_out(words, {}, look)
        look()
        if status and self._asked.is_set():  # it may have failed because the machine is being taken away
            raise Stopped
        if status:
            raise RunFailed(" · ".join(self._voice.complaints) or f"status {status}, and it said nothing", select)

    def _carry_out(self, words: Sequence[str], more: Mapping[str, str], look: Callable[[], None]) -> int:
        """Run a command that ends with this process, and pass on what it says."""
        process = subprocess.Popen(
            [sys.executable, "-c", KIN, str(os.getpid()), *words], cwd=self.layout.work, env={**self.environment, **more},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        assert process.stdout
        reader = threading.Thread(
            target=lambda out: [self._voice.heard(line.rstrip("\n")) for line in out], args=(process.stdout,), daemon=True
        )
        reader.start()
        try:
            while process.poll() is None:
                if self._asked.is_set():
                    self._voice.say("asked to stop (SIGTERM): waiting for checkpoints")
                    raise Stopped
                look()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        finally:
            end(process)
            reader.join(timeout=END_SECONDS)  # a helper process of the run may still hold the pipe open
        return process.returncode

    def _bear(self) -> None:
        """Wait a moment."""
        if self._asked.wait(POLL_SECONDS):
            raise Stopped

    def _s3(self, given: Given) -> Any:
        return Account.of(given.settings.aws).client("s3")

    def _share(self, given: Given) -> str:
        if not given.share:
            raise MedpipeError(
                got="no place in S3 where the hosts meet", expected="share in launch.json", where="the channel launch", do="launch again"
            )
        return f"{given.share.rstrip('/')}/{self.layout.job or 'job'}"

    def _conclude(self, given: Given) -> None:
        """The figures, and everything that is left for who looks at the results."""
        settings, layout = given.settings, self.layout
        outputs, found = settings.outputs, figures(settings.outputs, settings.release.primary)
        value = {"team:value": _Outputs(outputs, settings).team_value()} if (outputs / TEAM / store.MANIFEST).is_file() else {}
        self.figures = {**found, **value}
        if self.figures:
            self._voice.say(as_metrics(self.figures))
        self.listed = leave_models(outputs, layout, given)
        self.failed_checks = failed_checks(outputs, self.listed)
        for one in self.failed_checks:
            told = f"{one['asset']} did not pass its check {one['check']} ({one['description']})"
            self._voice.say(f"medpipe: ! {told}; it blocks what is downstream where this job was launched")
        leave_evaluations(outputs, layout)
        stats = {name: outputs / "models" / name / "training_stats.json" for name in (*ROLES, TEAM.name)}
        made = {name: store.read_json(path) for name, path in stats.items() if path.is_file()}
        roles = {role: made[role] for role in ROLES if role in made}
        told = {"figures": self.figures, "roles": roles, TEAM.name: made.get(TEAM.name), "notice": NOTICE}
        store.write_json(layout.output / "training_results.json", told)
        self._voice.tell({"figures": self.figures})

    def leave_words(self, status: int, error: str, seconds: float) -> None:
        """The summary and the trackers' journals, however it ended."""
        layout, given = self.layout, self.given
        summary: dict[str, Any] = {
            "status": {0: "completed", STOPPED: "stopped"}.get(status, "failed"), "error": error, "job": layout.job,
            "seconds": round(seconds, 1), "instance": layout.instance, "gpus": layout.gpus, "hosts": list(layout.hosts),
            "host": layout.current, "hyperparameters": dict(layout.hyperparameters), "resumed": self.resumed, "figures": self.figures,
            "assets": self.listed, "failed_checks": self.failed_checks, "evaluation_error": self.evaluation_error, "notice": NOTICE,
        }  # fmt: skip
        if given:
            summary |= {
                "profile": given.profile, "digest": given.digest, "commit": given.commit, "select": given.select,
                "inputs": {key: one.sha256 for key, one in given.inputs.items()}, "config_hash": given.settings.config_hash(),
                "settings": given.settings.model_dump(mode="json"),
            }  # fmt: skip
            self._leave_journals(given.settings)
        store.write_json(layout.output / "training_summary.json", self._voice.hidden(summary))
        store.write_text(
            layout.output / "checkpoints" / "README.txt",
            f"Checkpoints are not in this archive: SageMaker keeps {layout.checkpoints} the same as the prefix of S3 that the job's\n"
            "CheckpointConfig names (…/checkpoints/<launch>/). Below outputs/ there are the finished assets, below outputs/scratch/\n"
            "the checkpoints of trainings that have not ended.\n",
        )

    def _leave_journals(self, settings: Settings) -> None:
        """The journals of outputs/tracking, for `medpipe track` on the machine that launched. How far a tracker was fed is left with them
        only where that tracker is one that the machine can see too: a database that ends with this container does not count."""
        seen = (*(["mlflow"] if self._has_server(settings) else []), *(["wandb"] if settings.tracking.wandb_mode == "online" else []))
        for pattern in ("*.jsonl", *(f"*.jsonl.{tracker}" for tracker in seen)):
            for path in (settings.outputs / "tracking").glob(pattern):
                with store.atomic_path(self.layout.output / "tracking" / path.name) as temporary:
                    shutil.copyfile(path, temporary)


def fetch_secrets(settings: Settings) -> dict[str, str]:
    """The values of settings.aws.secrets, from Secrets Manager under the job's role."""
    found = {}
    for variable, secret in settings.aws.secrets.items():
        with explained(f"reading the secret {secret!r} for {variable} (aws.secrets)"):
            answer = Account.of(settings.aws).client("secretsmanager").get_secret_value(SecretId=secret)
        if "SecretString" not in answer:
            raise MedpipeError(
                got="bytes", expected="a text", where=f"the secret {secret!r}", do="store it as plaintext in Secrets Manager"
            )
        found[variable] = answer["SecretString"]
    return found


def end(process: subprocess.Popen[str]) -> None:
    """End a run and everything below it: first the workers, which write their checkpoints, then the rest."""
    if process.poll() is not None:
        return
    workers = []
    for below in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "medpipe.launch.worker" in below.cmdline():
                below.terminate()
                workers.append(below)
    psutil.wait_procs(workers, timeout=STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)  # as Ctrl-C: Dagster records the end of the run
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    """Do the job; a failure is left where SageMaker looks for it."""
    started, layout = time.monotonic(), Layout.of(os.environ)
    if not layout.leads:  # SageMaker packs the folders of all hosts into one archive
        layout = replace(layout, output=layout.output / "hosts" / layout.current)
    voice = Voice(layout.output / "training.log")
    voice.hush(private_values(os.environ))
    work = Work(layout, os.environ, voice)
    status, error = 0, ""
    try:
        if layout.leads and "DAGSTER_PIPES_CONTEXT" in os.environ:
            voice.open_pipes()
        work.do()
    except Stopped:
        status = STOPPED
    except MedpipeError as failure:
        status, error = 1, voice.hide(str(failure))
    except Exception as failure:
        status, error = 1, voice.hide(f"{type(failure).__name__}: {failure}")
        voice.say(traceback.format_exc())
    try:
        if error:
            voice.say(f"medpipe: !! {error}")
            voice.tell({"error": error})
            layout.failure.parent.mkdir(parents=True, exist_ok=True)
            store.write_text(layout.failure, error[:MOST_CHARACTERS])
        work.leave_words(status, error, time.monotonic() - started)
    finally:  # a full disk, say: Dagster hears the end all the same
        voice.close(goes_on=status == STOPPED)
    sys.exit(status)


if __name__ == "__main__":
    main()

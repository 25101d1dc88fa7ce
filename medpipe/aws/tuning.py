"""SageMaker's own search over the guide's space: one tuning job that starts training jobs, several at once.

    request = tuning_job(of_trials(settings), account, launch, tuning_name(settings, launch, 20, 2), trials=20, parallel=2)
    tune(client, request, home, print);  best(client, name)

As `medpipe tune` (docs/tuning.md) it never looks at a benchmark: the goal is `team:value`, what the team's answers were worth in
the last quarter of co-training, by the reward's components. A benchmark that chose the settings could not judge them afterwards, so
trials do not evaluate and are given no benchmark (`of_trials`). A search needs no launcher: it goes on by itself, ends by its caps, and no
sweep stops it. Left out: pruning, and going on with an ended search; one that failed or was stopped is begun anew (`next_attempt`).

A tuning job takes no entry point for the container. AWS's images are told the script by two hyperparameters; an own image is
started with the argument `train`, which deploy/docker/start knows. It has no place for checkpoints here either: trials share one
address, and no trial may find another's. An interrupted trial on spot begins anew.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.aws import prices
from medpipe.aws.account import Account
from medpipe.aws.calls import RETRIED, refused, unknown
from medpipe.aws.errors import explained
from medpipe.aws.request import Launch, training_job
from medpipe.config import Settings, digest
from medpipe.errors import MedpipeError

OBJECTIVE = "team:value"
SEARCHED: dict[str, tuple[str, Callable[[str], float]]] = {
    "lr": ("training.learning_rate", float),
    "epochs": ("training.epochs", int),
    "batch_size": ("training.batch_size", int),
    "safety_penalty_weight": ("rewards.safety_penalty_weight", float),
}
"""The guide's names → the settings they stand for."""
SCRIPT = {"sagemaker_submit_directory": "/opt/ml/input/data/code", "sagemaker_program": "scripts/sagemaker_entry.py"}
"""What AWS's images run in place of an entry point: the folder, and the script in it."""
ONE_JOB = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")
"""Variables that name the messages of one job; trials at once would write over each other's."""
NAMED = "medpipe-tune-"
MOST_NAME = 32  # SageMaker's limit for tuning jobs
MOST_VARIABLES = 48
ENDED = ("Completed", "Failed", "Stopped")
STOP_SECONDS = 900.0  # a stop that has not ended by then is told as a failure


@dataclass(frozen=True)
class Best:
    """The best finished trial: its training job, its settings by our names, and its team value."""

    job: str
    values: dict[str, float]
    value: float

    @property
    def flags(self) -> str:
        """The same settings on a command line."""
        return " ".join(f"--set {name}={value:g}" for name, value in self.values.items())


@dataclass(frozen=True)
class Standing:
    """How far a tuning job is: its status, trials by theirs, the best so far, and why it failed."""

    name: str
    status: str
    trials: Mapping[str, int]
    best: Best | None
    reason: str

    def lines(self) -> list[str]:
        """The same, to be printed."""
        counts = ", ".join(f"{count} {state}" for state, count in self.trials.items()) or "no trial yet"
        told = [f"{self.name}: {self.status}, {counts}"] + ([self.reason] if self.reason else [])
        return [*told, f"best so far: {self.best.value:.4f} by {self.best.job}: {self.best.flags}"] if self.best else told

    @property
    def ended(self) -> bool:
        """Whether it starts no more trials and none of them runs."""
        return self.status in ENDED


def of_trials(settings: Settings) -> Settings:
    """The same settings for a search: no trial evaluates, so the channels need no benchmark."""
    return settings.model_copy(update={"aws": settings.aws.model_copy(update={"evaluate": False})})


def ranges(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """The space of the section `tuning` in SageMaker's words: everything is a string there."""
    space = settings.tuning
    (few, many), (low, high) = space.epochs, space.safety_penalties
    return {
        "CategoricalParameterRanges": [
            {"Name": "lr", "Values": [f"{rate:g}" for rate in space.learning_rates]},
            {"Name": "batch_size", "Values": [str(size) for size in space.batch_sizes]},
        ],
        "IntegerParameterRanges": [{"Name": "epochs", "MinValue": str(few), "MaxValue": str(many), "ScalingType": "Linear"}],
        "ContinuousParameterRanges": [
            {"Name": "safety_penalty_weight", "MinValue": f"{low:g}", "MaxValue": f"{high:g}", "ScalingType": "Linear"}
        ],
    }


def tuning_name(settings: Settings, launch: Launch, trials: int, parallel: int, attempt: int = 1) -> str:
    """The job's name: the same search always has the same. Its hash is over the launch, the space, trials and seed."""
    identity = {"launch": launch.digest, "space": ranges(settings), "trials": trials, "parallel": parallel, "seed": settings.seed}
    return f"{NAMED}{digest(identity)[:12]}-a{attempt}"


def is_search(name: str) -> bool:
    """Whether a name is a search's; its trials' begin with it, and go on."""
    return re.fullmatch(rf"{NAMED}[0-9a-f]{{12}}-a\d+", name) is not None


def next_attempt(client: Any, settings: Settings, launch: Launch, trials: int, parallel: int, say: Callable[[str], None]) -> str:
    """The name to start or take up: of the first attempt that neither failed nor was stopped."""
    attempt = 1
    while True:
        name = tuning_name(settings, launch, trials, parallel, attempt)
        with explained(f"looking for the tuning job {name}"):
            found = _described(client, name) or {}
        if found.get("HyperParameterTuningJobStatus", "") not in RETRIED:
            return name
        say(f"tuning job {name}: {found['HyperParameterTuningJobStatus']}; the next attempt is due")
        attempt += 1


def tuning_job(settings: Settings, account: Account, launch: Launch, name: str, trials: int, parallel: int) -> dict[str, Any]:
    """The whole CreateHyperParameterTuningJob request; a pure function.

    Args:
        settings: the profile as `of_trials` gives it; its section `tuning` is the space.
        account: must have bucket, role and image.
        launch: what each trial is given; made of the same settings.
        name: from `tuning_name`.
        trials: training jobs in all.
        parallel: of them at once; the search learns only from those that have ended.

    Raises:
        MedpipeError: the trials would evaluate, or a number or name does not fit.
    """
    _fitting(settings, name, trials, parallel)
    job = training_job(settings, account, launch, name)
    each = job["StoppingCondition"]
    longest = max(each.values())
    definition: dict[str, Any] = {
        "StaticHyperParameters": {key: value for key, value in job["HyperParameters"].items() if key not in SEARCHED}
        | {key: json.dumps(value) for key, value in SCRIPT.items()},
        "AlgorithmSpecification": {
            key: job["AlgorithmSpecification"][key] for key in ("TrainingImage", "TrainingInputMode", "MetricDefinitions")
        },
        "Environment": _variables(job.get("Environment", {})),
    }
    same = (
        "RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition", "EnableManagedSpotTraining",
        "EnableInterContainerTrafficEncryption", "EnableNetworkIsolation", "VpcConfig", "RetryStrategy",
    )  # fmt: skip
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": OBJECTIVE},
            "ResourceLimits": {
                "MaxNumberOfTrainingJobs": trials,
                "MaxParallelTrainingJobs": parallel,
                "MaxRuntimeInSeconds": math.ceil(trials / parallel) * longest,
            },
            "ParameterRanges": ranges(settings),
            "TrainingJobEarlyStoppingType": "Off",
            "RandomSeed": settings.seed,
        },
        "TrainingJobDefinition": definition | {key: job[key] for key in same if key in job},
        "Tags": job["Tags"],
    }


def tune(client: Any, request: Mapping[str, Any], home: Path, say: Callable[[str], None]) -> Standing:
    """Start the search, or find the one that was started before; the intent is on disk before SageMaker is asked.

    Args:
        client: of SageMaker.
        request: from `tuning_job`.
        home: folder of the record, `<name>.json`.
        say: told a line per event.
    """
    from botocore.exceptions import ClientError

    name = request["HyperParameterTuningJobName"]
    record = home / f"{name}.json"
    home.mkdir(parents=True, exist_ok=True)
    asked = {"name": name, "request": digest(request), "region": client.meta.region_name}
    store.write_json(record, {**asked, "state": "asked"})
    with explained(f"starting the tuning job {name}"):
        found = _described(client, name)
        if found is None:
            try:
                client.create_hyper_parameter_tuning_job(**request)
                say(f"tuning job {name}: started, {_told(request)}")
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceInUse":
                    if refused(error):
                        store.write_json(record, {**asked, "state": "refused"})
                    raise
                say(f"tuning job {name}: it was accepted before, taken up")
            found = _described(client, name) or {}
        else:
            say(f"tuning job {name}: there already ({found['HyperParameterTuningJobStatus']}), taken up")
    store.write_json(record, {**asked, "state": "started", "arn": found.get("HyperParameterTuningJobArn", "")})
    return _standing(name, found)


def search(settings: Settings, account: Account, launch: Launch, trials: int, parallel: int, say: Callable[[str], None]) -> list[str]:
    """Start a search, or find it again, and tell how far it is and what it may still cost; its record lies in outputs/aws/tuning.

    It goes on without this process, and no sweep stops it: `medpipe aws stop` does.
    """
    client = account.client("sagemaker")
    name = next_attempt(client, settings, launch, trials, parallel, say)
    request = tuning_job(settings, account, launch, name, trials, parallel)
    now = tune(client, request, _home(settings.outputs), say)
    if now.ended:
        return now.lines()
    hours = request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxRuntimeInSeconds"] / 3600
    free = settings.aws.model_copy(update={"budget_usd": prices.UNLIMITED})  # what may be spent was asked before
    most = prices.refuse_above_budget(free, jobs=trials)
    return [
        *now.lines(),
        f"it goes on by itself, whether or not this machine runs, until all trials have ended, for {hours:g} h at most; "
        f"how far it is: medpipe aws status; stop it: medpipe aws stop {name}; at most {most}",
    ]


def open_searches(client: Any, outputs: Path) -> list[str]:
    """What to print of the searches that this machine started and that have not ended; those in other regions are named only."""
    told, here = [], client.meta.region_name
    for record in sorted(_home(outputs).glob(f"{NAMED}*.json")):
        known = store.read_json(record)
        name, region = known["name"], known.get("region", here)
        if known["state"] in ("ended", "refused"):
            continue
        if region != here:
            told.append(f"{name}: in {region}, not looked at from {here}")
            continue
        with explained(f"asking for the tuning job {name}"):
            found = _described(client, name)
        now = _standing(name, found or {})
        if found is None:
            told.append(f"{name}: asked for, and this account does not know it (its record: {record})")
        elif now.ended:
            store.write_json(record, {**known, "state": "ended"})
        else:
            told += now.lines()
    return told


def status(client: Any, name: str) -> Standing:
    """How far a tuning job is.

    Raises:
        MedpipeError: there is none of this name.
    """
    with explained(f"asking for the tuning job {name}"):
        found = _described(client, name)
    if found is None:
        raise MedpipeError(
            got=f"no tuning job {name}", expected="one that was started", where="SageMaker in this region", do="check name and region"
        )
    return _standing(name, found)


def best(client: Any, name: str) -> Best:
    """The best finished trial of a search, which may still run.

    Raises:
        MedpipeError: no trial has finished with a value.
    """
    now = status(client, name)
    if now.best is None:
        raise MedpipeError(
            got=f"no finished trial ({now.status}{': ' + now.reason if now.reason else ''})", expected=f"one that told {OBJECTIVE}",
            where=f"the tuning job {name}", do="wait for it, or read a trial's log: medpipe aws logs",
        )  # fmt: skip
    return now.best


def stop(client: Any, name: str, say: Callable[[str], None], poll_seconds: float = 15.0, patience: float = STOP_SECONDS) -> Standing:
    """Stop a search and all its trials, and wait until SageMaker says that they stand.

    Raises:
        MedpipeError: it still runs after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    now = status(client, name)
    if not now.ended:
        with explained(f"stopping the tuning job {name}"):
            client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        say(f"tuning job {name}: asked to stop")
    while not (now := status(client, name)).ended:
        if time.monotonic() > deadline:
            raise MedpipeError(
                got=f"{now.status} after {patience:,.0f} s", expected="Stopped", where=f"the tuning job {name}",
                do="stop it on SageMaker's page: it is still paid for",
            )  # fmt: skip
        time.sleep(poll_seconds)
    say(f"tuning job {name}: {now.status}")
    return now


def _fitting(settings: Settings, name: str, trials: int, parallel: int) -> None:
    if settings.aws.evaluate:
        raise MedpipeError(
            got="aws.evaluate = true", expected="false", where="a search for settings",
            do="take of_trials(settings): a benchmark that chose the settings could not judge them",
        )  # fmt: skip
    if not 1 <= parallel <= trials:
        raise MedpipeError(
            got=f"{trials} trials, {parallel} at once", expected="at least one, and no more at once than in all",
            where=f"the tuning job {name}", do="correct --trials and --parallel",
        )  # fmt: skip
    if len(name) > MOST_NAME:
        raise MedpipeError(
            got=f"{len(name)} characters in {name}", expected=f"at most {MOST_NAME}", where="a tuning job's name", do="use tuning_name"
        )


def _variables(given: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in given.items() if key not in ONE_JOB}
    if len(kept) > MOST_VARIABLES:
        raise MedpipeError(
            got=f"{len(kept)} variables", expected=f"at most {MOST_VARIABLES}", where="Environment of the tuning job", do="leave some out"
        )
    return kept


def _home(outputs: Path) -> Path:
    return outputs / "aws" / "tuning"


def _described(client: Any, name: str) -> dict[str, Any] | None:
    """What SageMaker knows of the job, None where it has no such job."""
    from botocore.exceptions import ClientError

    try:
        return client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    except ClientError as error:
        if unknown(error):
            return None
        raise


def _standing(name: str, found: Mapping[str, Any]) -> Standing:
    counts = {key: value for key, value in found.get("TrainingJobStatusCounters", {}).items() if value}
    return Standing(name, found.get("HyperParameterTuningJobStatus", "InProgress"), counts, _best(found), found.get("FailureReason", ""))


def _best(found: Mapping[str, Any]) -> Best | None:
    summary = found.get("BestTrainingJob", {})
    metric = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
    if metric is None:
        return None
    tuned = {key: value.strip('"') for key, value in summary["TunedHyperParameters"].items() if key in SEARCHED}
    values = {SEARCHED[key][0]: SEARCHED[key][1](value) for key, value in tuned.items()}
    return Best(summary["TrainingJobName"], values, metric["Value"])


def _told(request: Mapping[str, Any]) -> str:
    limits = request["HyperParameterTuningJobConfig"]["ResourceLimits"]
    return f"{limits['MaxNumberOfTrainingJobs']} trials, {limits['MaxParallelTrainingJobs']} at once"

"""A hyperparameter search over the SageMaker guide's space, by Optuna; it never looks at a benchmark.

    medpipe tune --profile smoke --trials 2                                            # from the command line
    study(settings, {key: outputs / key for key in INPUTS}, trials=2, say=print)       # from Python, on what is finished

A trial fine-tunes the four roles, tells their validation loss, and goes on to co-training unless that loss is worse than the
median of the finished trials (docs/tuning.md). The study lies in `outputs/tuning/<profile>-<hash>/study.db`: run again, it goes
on, also after SIGKILL. Another space, other settings, data or code are another study. Left out: several trials at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medpipe.config import Settings, digest
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.tasks import TASKS
from medpipe.tuning.results import FILES, pictures, write_results
from medpipe.tuning.trial import COMMAND, SEARCHED, Bench, as_flags, hashes

if TYPE_CHECKING:
    import optuna

SECTIONS = ("model", "training", "team", "rewards", "maporl", "hardware", "tracking", "tuning")
"""Settings that the trainings of a trial read."""
DECIDE = ("model", "training", "team", "rewards", "maporl")
"""Those of them that a trial's numbers hang on."""
IN_A_ROW = 3  # so many failed trials one after the other: it is not the settings that are tried
AGAIN, REASON = "again", "reason"
"""What a trial may carry: the number of the killed one whose place it takes; why it failed."""
State = Literal["finished", "pruned", "failed", "killed", "waiting", "running"]


@dataclass(frozen=True)
class Row:
    """One trial. `loss` is in nats per token, `value` in 0 to 1; each is None where the trial never came so far."""

    number: int
    state: State
    values: dict[str, Any]
    loss: float | None
    value: float | None
    reason: str


@dataclass(frozen=True)
class Studied:
    """What a study has found: its folder, all trials in order, the best finished one, and each setting's importance.

    `importance` sums to 1; it is empty where `unknown` says why it can't be told.
    """

    home: Path
    rows: list[Row]
    best: Row
    importance: dict[str, float]
    unknown: str


def run(job: Job) -> Outcome:
    """Carry out the study of the job's settings on the job's inputs; see `study`."""
    named = {section: getattr(job.settings, section) for section in SECTIONS}
    settings = Settings(name=job.settings.name, seed=job.settings.seed, paths=job.settings.paths, **named)
    found = study(settings, job.inputs, trials=settings.tuning.trials, say=job.report.log)
    for name in FILES:
        if (found.home / name).is_file():
            (job.out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.home / name, job.out / name)
    told = {"trials": len(found.rows), "best value": found.best.value, "folder": str(found.home)}
    return Outcome({**told, "best": {"table": [found.best.values]}, **pictures(found)})


def study(
    settings: Settings, inputs: Mapping[str, Path], *, trials: int, say: Callable[[str], None], command: tuple[str, ...] = COMMAND
) -> Studied:
    """Go on with the study of these settings until it has `trials` settled trials: finished, pruned or failed by themselves.

    Args:
        settings: the profile; what a trial does not set comes from here, the space from its section `tuning`.
        inputs: finished folders of INPUTS.
        trials: of the whole study, those of earlier calls among them.
        say: told a line per event.
        command: what carries out `run --profile … --select … --set …`.

    Raises:
        MedpipeError: an input is not finished, another process works on the study, no trial finished, or three failed in a row.
    """
    home = home_of(settings, inputs)
    bench = Bench(home, settings, command)
    with _alone(home):
        bench.lay_out(inputs)
        search = _open(home, settings)
        _take_up(search, say)
        while len(_settled(rows_of(search))) < trials:
            _one(search, bench, say)
            _stop_where_all_fail(rows_of(search), home)
        found = _found(search, home, settings.seed)
        write_results(found, settings)
    say(f"best of {len(_settled(found.rows))}: trial {found.best.number} with {found.best.value:.4f}: " + _told(found.best.values))
    return found


def home_of(settings: Settings, inputs: Mapping[str, Path]) -> Path:
    """The study's folder, named after the profile and a hash of all that its numbers hang on but the number of trials."""
    chosen = {section: getattr(settings, section).model_dump(mode="json") for section in DECIDE}
    for name in SEARCHED:
        section, _, key = name.partition(".")
        del chosen[section][key]
    space = settings.tuning.model_dump(mode="json", include={"learning_rates", "epochs", "batch_sizes", "safety_penalties"})
    code = [TASKS[key].version() for key in ("tuning", "sft", "audit", "verifier", "maporl")]
    identity = {"seed": settings.seed, "settings": chosen, "space": space, "inputs": hashes(inputs), "code": code}
    return settings.outputs / "tuning" / f"{settings.name}-{digest(identity)[:8]}"


def rows_of(search: optuna.Study) -> list[Row]:
    """All trials of a study as plain rows."""
    frozen = search.get_trials(deepcopy=False)
    replaced = {trial.user_attrs[AGAIN] for trial in frozen if AGAIN in trial.user_attrs}
    states: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting", "RUNNING": "running"}
    return [
        Row(
            trial.number,
            "killed" if trial.number in replaced else states[trial.state.name],
            _tried(trial),
            -trial.intermediate_values[0] if trial.intermediate_values else None,
            trial.value if trial.state.name == "COMPLETE" else None,
            trial.user_attrs.get(REASON, ""),
        )
        for trial in frozen
    ]


def _one(search: optuna.Study, bench: Bench, say: Callable[[str], None]) -> None:
    """Carry out one trial, from what is tried to its end."""
    from optuna.trial import TrialState

    search.sampler = _sampler(bench.settings.seed + len(search.get_trials(deepcopy=False)))
    trial = search.ask()
    values = _suggested(trial, bench.settings)
    say(f"trial {trial.number}: {_told(values)}")
    reason = bench.carry_out(trial.number, "roles", values)
    if not reason:
        loss = bench.validation_loss()
        trial.report(-loss, 0)  # the study is to be maximised, so are its intermediate values
        if trial.should_prune():
            search.tell(trial, state=TrialState.PRUNED)
            say(f"trial {trial.number}: validation loss {loss:.4f}, worse than the median: no co-training")
            return
        say(f"trial {trial.number}: validation loss {loss:.4f}, on to co-training")
        reason = bench.carry_out(trial.number, "team", values)
    if reason:
        trial.set_user_attr(REASON, reason)
        search.tell(trial, state=TrialState.FAIL)
        say(f"trial {trial.number} failed: {reason}")
        return
    value = bench.team_value()
    search.tell(trial, value)
    say(f"trial {trial.number}: team value {value:.4f}")


def _suggested(trial: optuna.Trial, settings: Settings) -> dict[str, Any]:
    space = settings.tuning
    rate, epochs, batch, penalty = SEARCHED
    return {
        rate: trial.suggest_categorical(rate, list(space.learning_rates)),
        epochs: trial.suggest_int(epochs, *space.epochs),
        batch: trial.suggest_categorical(batch, list(space.batch_sizes)),
        penalty: trial.suggest_float(penalty, *space.safety_penalties),
    }


def _open(home: Path, settings: Settings) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the study tells its own lines
    pruner = optuna.pruners.MedianPruner(n_startup_trials=settings.tuning.pruner_startup)
    storage = f"sqlite:///{(home / 'study.db').resolve()}"
    return optuna.create_study(storage=storage, study_name=home.name, direction="maximize", pruner=pruner, load_if_exists=True)


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    """A fresh one for each trial: its draws hang on the seed and the trials so far, not on where a process began."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def _take_up(search: optuna.Study, say: Callable[[str], None]) -> None:
    """Put trials that a dead process left running back into the queue, then mark them as failed.

    The study's lock is held, so whatever runs is dead. The queue comes first: killed between the two, a trial is found in the
    queue already and is neither lost nor doubled.
    """
    from optuna.trial import TrialState

    frozen = search.get_trials(deepcopy=False)
    replaced = {trial.user_attrs[AGAIN] for trial in frozen if AGAIN in trial.user_attrs}
    for trial in frozen:
        if trial.state == TrialState.RUNNING:
            if trial.number not in replaced:
                search.enqueue_trial(_tried(trial), user_attrs={AGAIN: trial.number})
            search.tell(trial.number, state=TrialState.FAIL)
            say(f"trial {trial.number} was killed before it ended: it is carried out again")


def _tried(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """What a trial tries; one that waits, or was killed before it drew all, has the rest from the queue."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _settled(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.state in ("finished", "pruned", "failed")]


def _stop_where_all_fail(rows: list[Row], home: Path) -> None:
    last = _settled(rows)[-IN_A_ROW:]
    if len(last) == IN_A_ROW and all(row.state == "failed" for row in last):
        raise MedpipeError(
            got=f"{IN_A_ROW} failed trials one after the other ({last[-1].reason})", expected="trainings that end",
            where=str(home / "trials"), do="read the newest log there, mend the cause, and run the study again: it goes on",
        )  # fmt: skip


def _found(search: optuna.Study, home: Path, seed: int) -> Studied:
    rows = rows_of(search)
    finished = [row for row in rows if row.value is not None]
    if not finished:
        raise MedpipeError(
            got=f"{len(_settled(rows))} trials, none of which finished", expected="at least one", where=str(home),
            do="read the logs in its folder trials, or ask for more trials",
        )  # fmt: skip
    best = max(finished, key=lambda row: (row.value or 0.0, -row.number))
    if len(finished) < 2:
        return Studied(home, rows, best, {}, "fewer than two finished trials: no setting's importance can be told")
    if len({row.value for row in finished}) == 1:
        return Studied(home, rows, best, {}, "all finished trials have the same value: no setting's importance can be told")
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    importance = get_param_importances(search, evaluator=FanovaImportanceEvaluator(seed=seed))
    return Studied(home, rows, best, {name: float(share) for name, share in importance.items()}, "")


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(word for word in as_flags(values) if word != "--set")


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the study's lock, which the kernel lets go however this process ends."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MedpipeError(
                got="another process that works on this study", expected="one at a time", where=str(home), do="wait for it, or end it"
            ) from error
        yield

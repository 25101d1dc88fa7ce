"""Does the co-trained team become the champion? Decided by rules that were fixed before the scores were seen.

    from medpipe.evaluation.champion import decide

    decide(challenger, champion, missing={}, margin=0.05, primary="medxpertqa", confidence=0.95, min_questions=60,
           resamples=2000, seed=0).promoted

Work of the asset release/champion. Both teams are compared on the questions that both answered, matched by id: the challenger must be
not worse on every benchmark (one-sided, by the margin), the safety set among them, and better on the primary one. Whatever is missing
is a reason to refuse: a benchmark that was not run shows nothing. All conditions must hold at once, so no correction for asking
several is needed (an intersection-union test: R. L. Berger, Technometrics 24 (1982) 295). Where MLflow is on, the team is registered
(medpipe/registry.py); without it the champion is the one of this folder's last decision. Where there is no champion yet, the
challenger is measured against the fine-tuned team of the same run. Left out: a correction for challenger after challenger on the
same questions, and running the old champion again on a benchmark that it never answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from medpipe import NOTICE, registry, store
from medpipe.config import Settings, digest
from medpipe.errors import MedpipeError
from medpipe.evaluation import items
from medpipe.evaluation.benchmarks import BENCHMARKS, Benchmark
from medpipe.evaluation.comparisons import Comparison, NotWorse, compare, not_worse
from medpipe.job import Job, Outcome
from medpipe.schema import CheckResult

CHALLENGER, BASELINE, SAFETY = "maporl_team", "sft_team", "safety"
TEAM = "models/maporl_team"


class Mark(NamedTuple):
    """One question's score, and what it was scored against (a hash of the reference answer)."""

    score: float
    reference: str


Marks = Mapping[str, Mapping[str, Mark]]
"""Benchmark → question's id → mark."""


@dataclass(frozen=True)
class Verdict:
    """One benchmark: numbers over the n questions that both answered, and what stands in the way (nothing: passed)."""

    benchmark: str
    title: str
    n: int
    answered: tuple[int, int]  # questions that the challenger answered, and the champion
    challenger: float | None  # means in the benchmark's own unit; None where n is 0
    champion: float | None
    not_worse: NotWorse | None
    better: Comparison | None  # on the primary benchmark only
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether this benchmark speaks for the challenger."""
        return not self.reasons


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes the champion, and for each benchmark why or why not."""

    promoted: bool
    benchmarks: tuple[Verdict, ...]
    objections: tuple[str, ...]  # reasons that no benchmark has to do with

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that stands in the way, a line each."""
        return (*self.objections, *(f"{one.title}: {reason}" for one in self.benchmarks for reason in one.reasons))


def decide(
    challenger: Marks, champion: Marks, missing: Mapping[str, str], *, margin: float, primary: str, confidence: float, min_questions: int,
    resamples: int, seed: int, objections: Sequence[str] = (), benchmarks: Mapping[str, Benchmark] = BENCHMARKS,
) -> Decision:  # fmt: skip
    """Decide by the scores of two teams.

    Args:
        missing: benchmark → why the challenger has no scores there.
        margin: the largest loss that would not matter, in the scores' unit (0.05: five points), above 0.
        primary: the benchmark on which the challenger must be better: exact test and paired interval both say so.
        confidence: of the one-sided bounds and of the paired interval, above 0.5.
        min_questions: fewer questions that both answered settle nothing.
        resamples, seed: of the bootstrap and the sign-flip test.
        objections: other reasons to refuse.
        benchmarks: all that have to be passed.

    Raises:
        MedpipeError: `primary` is none of the benchmarks, or what `not_worse` and `compare` raise.
    """
    if primary not in benchmarks:
        raise MedpipeError(
            got=f"primary benchmark {primary!r}",
            expected=f"one of {', '.join(benchmarks)}",
            where="release.primary",
            do="name one of these",
        )
    told = []
    for name, benchmark in benchmarks.items():
        own, other = challenger.get(name, {}), champion.get(name, {})
        shared = [id for id in own if id in other]
        a, b = [own[id].score for id in shared], [other[id].score for id in shared]
        odd = sum(own[id].reference != other[id].reference for id in shared)
        checked = better = None
        reasons = _uncomparable(len(own), len(other), len(shared), odd, missing.get(name, ""), min_questions)
        if not reasons:
            checked = not_worse(a, b, margin, resamples, confidence, seed, benchmark.binary)
            if not checked.shown:
                reasons.append(_worse(checked, confidence, name == SAFETY, benchmark.binary))
            if name == primary:
                (better,) = compare(
                    {"challenger": a, "champion": b}, [("challenger", "champion")], resamples, confidence, seed, binary=benchmark.binary
                )
                if not (better.significant and better.low > 0):
                    reasons.append(
                        f"no gain shown on the primary benchmark ({better.mean:+.3f}, {confidence:.0%} interval {better.low:+.3f} to "
                        f"{better.high:+.3f}, p = {better.p:.2g}, n = {better.n})"
                    )
        means = (fmean(a), fmean(b)) if shared else (None, None)
        told.append(Verdict(name, benchmark.title, len(shared), (len(own), len(other)), *means, checked, better, tuple(reasons)))
    return Decision(not objections and all(one.passed for one in told), tuple(told), tuple(objections))


def _uncomparable(own: int, other: int, shared: int, odd: int, missing: str, least: int) -> list[str]:
    """Why nothing can be said about a benchmark; empty where it can."""
    if missing or not own:
        return [f"not run: {missing or 'the challenger has no scores'}"]
    if not other:
        return [f"nothing to compare with: the team that it is measured against has no scores here (the challenger has {own})"]
    if odd:
        return [f"different question sets: {odd} of {shared} questions with the same id have another reference answer"]
    if shared < least:
        kind = "too few questions" if own == other == shared else "different question sets"
        return [f"{kind}: both answered {shared} (challenger {own}, champion {other}), at least {least} are needed"]
    return []


def _worse(checked: NotWorse, confidence: float, safety: bool, binary: bool) -> str:
    loss = f"it may be up to {-checked.bound:.3f} worse, the margin is {checked.margin:g}"
    what = f"not shown to be {'as safe' if safety else 'no worse'} ({checked.mean:+.3f}, n = {checked.n}; at {confidence:.0%} {loss})"
    equal = [1.0] * checked.n
    if binary and not not_worse(equal, equal, checked.margin, 1, confidence, 0, True).shown:
        what += "; with so few questions not even equal answers could show it"
    return what


def run(job: Job) -> Outcome:
    """Decide on the co-trained team that lies there; where MLflow is on, register it and move the aliases."""
    settings, release = job.settings, job.settings.release
    manifest = store.read_manifest(job.inputs[TEAM])
    if manifest is None:
        raise MedpipeError(got=f"no finished {TEAM}", expected="a team", where=str(job.inputs[TEAM]), do=f"materialise {TEAM}")
    rows, missing = _read(job.inputs, manifest.sha256)
    own, without = _marks(rows, CHALLENGER)
    challenger = _record(manifest.sha256, own)
    tracked = settings.tracking.kind in ("mlflow", "both")
    standing = (_registered if tracked else _on_disk)(job, challenger)
    against = _from_json(standing.against["benchmarks"]) if standing.against else _marks(rows, BASELINE)[0]
    name = standing.name or f"the fine-tuned team of the same run ({BASELINE}), since there is no champion before it"
    decision = decide(
        own, against, {**missing, **without}, margin=release.margin, primary=release.primary, confidence=release.confidence,
        min_questions=release.min_questions, resamples=settings.evaluation.bootstrap, seed=settings.seed, objections=standing.objections,
    )  # fmt: skip
    text, version = markdown(decision, name), ""
    if tracked:
        registered = registry.register(settings, job.inputs, challenger["key"], challenger, sentence(decision, name))
        version = registered.number
        if decision.promoted:
            registry.promote(settings, registered)
    told = {"promoted": decision.promoted, "against": name, "version": version, "reasons": list(decision.reasons)}
    store.write_json(job.out / "decision.json", {**told, "benchmarks": [asdict(one) for one in decision.benchmarks], "notice": NOTICE})
    store.write_text(job.out / "decision.md", text)
    champion, before = (challenger, standing.against) if decision.promoted else (standing.champion, standing.before)
    store.write_json(job.out / "scores.json", {"champion": champion, "before": before, "challenger": challenger, "notice": NOTICE})
    if champion == challenger and not decision.promoted:
        job.report.warn("this team was promoted earlier and stays champion until another is promoted, or `medpipe rollback`")
    job.report.log(sentence(decision, name))
    metadata = {"promoted": "yes" if decision.promoted else "no", "against": name, "version": version or "not registered (MLflow is off)"}
    told = {**metadata, "decision": {"markdown": text}, "reasons": "; ".join(decision.reasons) or "none against it"}
    return Outcome(told, checks=(_no_regression(own, against, settings),))


def _no_regression(challenger: Marks, champion: Marks, settings: Settings) -> CheckResult:
    """Whether the team is shown to be worse than the champion anywhere: the exact test and the interval must both say so."""
    worse = []
    for name, benchmark in BENCHMARKS.items():
        own, other = challenger.get(name, {}), champion.get(name, {})
        shared = [id for id in own if id in other and own[id].reference == other[id].reference]
        if shared:
            scores = {"challenger": [own[id].score for id in shared], "champion": [other[id].score for id in shared]}
            (found,) = compare(
                scores, [("challenger", "champion")], settings.evaluation.bootstrap, settings.release.confidence, settings.seed,
                binary=benchmark.binary,
            )  # fmt: skip
            worse += [f"{benchmark.title} ({found.mean:+.3f}, n = {found.n})"] if found.significant and found.high < 0 else []
    text = "; ".join(worse) or "no benchmark shows a loss"
    return CheckResult(name="no_regression", passed=not worse, severity="warn", description=text)


def sentence(decision: Decision, against: str) -> str:
    """The decision in one line."""
    if decision.promoted:
        return f"The co-trained team becomes the champion, measured against {against}."
    first, more = decision.reasons[0], len(decision.reasons) - 1
    return f"The co-trained team does not become the champion, measured against {against}: {first}" + (
        f" (and {more} more)" if more else ""
    )


def markdown(decision: Decision, against: str) -> str:
    """The decision as a page: the line, a row per benchmark, the reasons, the notice."""
    lines = [sentence(decision, against), "", "| benchmark | questions | challenger | champion | difference | bound | verdict |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in decision.benchmarks:
        means = [f"{mean:.3f}" if mean is not None else "–" for mean in (one.challenger, one.champion)]
        checked = [f"{one.not_worse.mean:+.3f}", f"{one.not_worse.bound:+.3f}"] if one.not_worse else ["–", "–"]
        lines.append("| " + " | ".join([one.title, str(one.n), *means, *checked, "passed" if one.passed else "in the way"]) + " |")
    lines += ["", *(f"- {_plain(reason)}" for reason in decision.reasons)]
    return "\n".join([*lines, "", NOTICE, ""])


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


class _Standing(NamedTuple):
    """Who is champion, and whom the challenger is measured against: records as `_record` makes them, None for nobody.

    The two differ where the challenger is champion by this very evaluation (a run that was killed after the promotion, or changed
    rules): it is decided on again as it was then, against the champion before it.
    """

    champion: Any
    before: Any
    against: Any
    name: str  # of `against`; empty where that is nobody
    objections: tuple[str, ...] = ()


def _registered(job: Job, challenger: Mapping[str, Any]) -> _Standing:
    settings = job.settings
    known = {one.number: one for one in registry.versions(settings)}
    holder = against = registry.champion(settings)
    objections = [
        f"version {one.number} holds this team and was taken back by hand: only a person can make it champion again (on MLflow's page)"
        for one in known.values()
        if one.rolled_back and one.team == challenger["team"] and one != holder
    ][-1:]
    if holder and holder.key == challenger["key"]:
        against = known.get(holder.before)
    elif holder and holder.team == challenger["team"]:
        objections.append(f"this very team is the champion already (version {holder.number}, evaluated earlier)")
    champion, before = (registry.scores(settings, one) if one else None for one in (holder, known.get(holder.before) if holder else None))
    name = f"champion version {against.number}" if against else ""
    return _Standing(champion, before, before if against is not holder else champion, name, tuple(objections))


def _on_disk(job: Job, challenger: Mapping[str, Any]) -> _Standing:
    """The same without MLflow: from the last decision in this outputs folder."""
    last = job.settings.outputs / job.name / "scores.json"
    found = store.read_json(last) if last.is_file() else {"champion": None, "before": None}
    holder, before = found["champion"], found["before"]
    if holder and holder["key"] == challenger["key"]:
        return _Standing(holder, before, before, "the champion before the last decision" if before else "")
    same = holder and holder["team"] == challenger["team"]
    objections = ("this very team is the champion already, evaluated earlier",) if same else ()
    return _Standing(holder, before, holder, "the champion of the last decision" if holder else "", objections)


def _read(inputs: Mapping[str, Path], team: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """The rows of each benchmark that was run on this team, and why there are none of the others."""
    rows: dict[str, list[dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    for name in BENCHMARKS:
        folder = inputs.get(f"evaluation/{name}")
        manifest = store.read_manifest(folder) if folder else None
        if folder is None or manifest is None:
            missing[name] = "it was not materialised in this run"
        elif manifest.status != "ok":
            missing[name] = manifest.reason
        elif manifest.inputs.get(TEAM) != team:
            missing[name] = f"the evaluation that lies there is of another {TEAM}"
        else:
            rows[name] = items.read(folder)
    return rows, missing


def _marks(rows: Mapping[str, Sequence[Mapping[str, Any]]], system: str) -> tuple[Marks, dict[str, str]]:
    """One system's marks, and the benchmarks on which it was not asked."""
    found = {name: {row["id"]: _mark(row) for row in own if row["system"] == system} for name, own in rows.items()}
    return {name: own for name, own in found.items() if own}, {
        name: f"{system} was not asked: add it to evaluation.systems" for name, own in found.items() if not own
    }


def _mark(row: Mapping[str, Any]) -> Mark:
    return Mark(float(row["score"]), hashlib.sha256(str(row["answer"]).encode()).hexdigest()[:12])


def _record(team: str, marks: Marks) -> dict[str, Any]:
    """What is kept of a team: its content hash, its marks, and a key over both."""
    plain = {name: {id: list(mark) for id, mark in own.items()} for name, own in marks.items()}
    return {"key": digest([team, plain]), "team": team, "benchmarks": plain}


def _from_json(benchmarks: Mapping[str, Mapping[str, Sequence[Any]]]) -> Marks:
    return {name: {id: Mark(float(score), str(reference)) for id, (score, reference) in own.items()} for name, own in benchmarks.items()}

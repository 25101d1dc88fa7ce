"""One benchmark, many systems (medpipe/evaluation/systems.py), the same questions.

Made alone with `dagster asset materialize -m medpipe.definitions --select evaluation/synthetic_heldout`. It goes batch by batch of
questions and within a batch system by system, so that what the systems share is computed once. Each system's answers to a batch are on
disk before the next is asked, so an evaluation that was killed goes on where it stood. Multiple choice is right or wrong, an answer to
the safety set passes its rules or not, other free text is scored by the accuracy component of the medical reward (semantic similarity
behind gates). A message whose own words settle on no answer is counted (`n_unparsed`). Left out: one number over several benchmarks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, cast

from medpipe import store
from medpipe.config import BenchmarkName
from medpipe.corpus.benchmarks import PUBLISHED
from medpipe.errors import SourceUnreachable
from medpipe.evaluation import benchmarks, items, safety_set, shapley
from medpipe.evaluation.calibration import ece, option_probabilities
from medpipe.evaluation.comparisons import compare
from medpipe.evaluation.harness import write_layout
from medpipe.evaluation.labels import COMPARED
from medpipe.evaluation.statistics import bootstrap_mean, wilson
from medpipe.evaluation.systems import COALITIONS, SYSTEMS, Answered, Bench, System, answer
from medpipe.job import Job, Outcome
from medpipe.schema import LETTERS, ROLES, CheckResult, QAExample

FIELDS = ("category", "qtype", "difficulty")
"""The questions' own fields, by which scores are broken down where a field tells at least two kinds apart."""
BLANKETS = ("I cannot help with that. Please see a doctor.", "Please call emergency services or a crisis line right now.")
LEARNED = ("splits/train", "splits/cotrain")
"""What fine-tuning and co-training have seen."""
MEASURED = ("above_chance", "answers_parsed")
"""Checks of what was measured; a benchmark that can't be had has nothing to check."""
TRAINED = ("one_agent_with_evidence", "one_agent_rl", "sft_team", "maporl_team")
MOST_UNREAD = 0.05
KEPT = 10  # transcripts of a benchmark
MANY = 40  # kinds, above which a field is no breakdown
Judge = Callable[[Sequence[QAExample], Sequence[str]], list[float]]


def run(job: Job) -> Outcome:
    """Run the systems on the benchmark named by the job; a benchmark that can't be had is reported, never replaced."""
    name, settings = job.name.partition("/")[2], job.settings.evaluation
    try:
        rows = benchmarks.load(name, job.inputs)
    except SourceUnreachable as error:
        job.report.warn(f"not run: {error}")
        lacking = CheckResult(name="available", passed=False, severity="warn", description=str(error))
        checks = (lacking, *(CheckResult(name=name, passed=True, severity="warn", description="not run") for name in MEASURED))
        return Outcome(status="unreachable", reason=str(error), checks=checks)
    benchmark = benchmarks.ASKED[name]
    if not rows:
        return _nobody_asked(job, benchmark)
    questions = benchmarks.choose(rows, settings.limits.get(cast(BenchmarkName, name), settings.max_questions), job.settings.seed)
    choice = benchmark.kind == "choice"
    job.report.log(f"{benchmark.title}: {len(questions)} of {len(rows)} questions, {len(settings.systems)} systems, on {job.device}")
    judge = judge_of(benchmark, job)
    few = min(settings.coalitions, len(questions)) if choice else 0
    plan = {name: Asked(SYSTEMS[name], len(questions)) for name in settings.systems}
    plan |= {part_name(roles): Asked(system, few) for roles, system in COALITIONS.items() if few}
    bench = Bench(job, questions, [one.system for one in plan.values()])
    answered = ask(bench, plan, judge)
    found = {system: answered[system] for system in settings.systems}
    systems: dict[str, dict[str, Any]] = {}
    for system, own in found.items():
        systems[system] = summarise(own, benchmark.binary, job)
        mean, low, high = (systems[system][key] for key in ("mean", "low", "high"))
        job.report.log(f"{system}: {benchmark.metric} {mean:.3f} [{low:.3f}, {high:.3f}]")
    chance, note = _chance(questions, judge, benchmark)
    scores = {system: [row["score"] for row in own] for system, own in found.items()}
    pairs = [pair for pair in COMPARED if pair[0] in scores and pair[1] in scores]
    told = compare(scores, pairs, settings.bootstrap, settings.confidence, job.settings.seed, binary=benchmark.binary)
    differences = [asdict(one) for one in told]
    summary = {
        "benchmark": name, "title": benchmark.title, "kind": benchmark.kind, "metric": benchmark.metric, "n": len(questions),
        "chance": chance, "chance_note": note,
        "overlap_with_training": benchmarks.overlap(rows, [row for key in LEARNED for row in store.read_examples(job.inputs[key])]),
        "systems": systems, "differences": differences,
        "by_field": {system: by_field(own, questions, benchmark.binary, job) for system, own in found.items()},
        "shapley": values_of_roles(questions[:few], answered, job) if few else [],
    }  # fmt: skip
    store.write_json(job.out / "summary.json", summary)
    items.write([row for own in found.values() for row in own], job.out)
    store.write_json(job.out / "transcripts.json", chosen(found))
    write_layout(job, name, questions, found)
    seconds = {system: round(sum(row["seconds"] for row in own), 2) for system, own in found.items()}
    store.write_json(job.out / "timings.json", {"seconds": seconds})  # not with the scores: the same scores must have the same hash
    table = [{"system": system, **numbers, "seconds": seconds[system]} for system, numbers in systems.items()]
    metadata = {"n": len(questions), "chance": chance, "systems": {"table": table}, "differences": {"table": differences}}
    return Outcome(metadata | ({"shapley": {"table": summary["shapley"]}} if summary["shapley"] else {}), checks=_checks(systems, chance))


def _nobody_asked(job: Job, benchmark: benchmarks.Benchmark) -> Outcome:
    """The result where the user named no file with such questions: finished and empty, so that it stands and fails nothing."""
    told = "no file in paths.own_benchmarks has such questions: nobody was asked"
    store.write_json(
        job.out / "summary.json",
        {
            "benchmark": benchmark.name, "title": benchmark.title, "kind": benchmark.kind, "metric": benchmark.metric, "n": 0,
            "chance": None, "chance_note": "", "overlap_with_training": 0, "systems": {}, "differences": [], "by_field": {}, "shapley": [],
        },
    )  # fmt: skip
    items.write([], job.out)
    store.write_json(job.out / "transcripts.json", [])
    job.report.log(told)
    checks = (CheckResult(name=name, passed=True, severity="warn", description=told) for name in ("available", *MEASURED))
    return Outcome({"n": 0, "asked": told}, tuple(checks))


def _checks(systems: Mapping[str, Mapping[str, Any]], chance: float) -> tuple[CheckResult, ...]:
    """Whether the numbers are worth reading: a trained system above chance, and answers that could be read. Neither blocks."""
    trained = {name: numbers for name, numbers in systems.items() if name in TRAINED}
    best = max(trained, key=lambda name: trained[name]["mean"], default="")
    low = trained[best]["low"] if best else 0.0
    unread = {name: numbers["n_unparsed"] / numbers["n"] for name, numbers in systems.items() if numbers["n"]}
    worst = max(unread, key=lambda name: unread[name], default="")
    return (
        CheckResult(name="available", passed=True, severity="warn", description="the benchmark could be had"),
        CheckResult(
            name="above_chance", passed=not best or low > chance, severity="warn", values={"system": best, "low": low, "chance": chance},
            description=f"{best}: the interval begins at {low:.3f}, chance is {chance:.3f}" if best else "no trained system was asked",
        ),
        CheckResult(
            name="answers_parsed", passed=not worst or unread[worst] <= MOST_UNREAD, severity="warn", values=unread,
            description=f"{worst}: {unread[worst]:.1%} settle on no answer" if worst else "nobody was asked",
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A system and how many of the questions it gets, the first ones."""

    system: System
    count: int


def part_name(roles: frozenset[str]) -> str:
    """The name of a part of the team, for its file."""
    return "only_" + "_".join(role for role in ROLES if role in roles)


def ask(bench: Bench, plan: Mapping[str, Asked], judge: Judge) -> dict[str, list[dict[str, Any]]]:
    """Each system's rows, in the order of its questions; what an earlier, interrupted attempt answered is not asked again."""
    journals = {name: items.Journal(bench.job.scratch / "items" / f"{name}.jsonl") for name in plan}
    done = {name: {row["id"] for row in journal.rows} for name, journal in journals.items()}
    total, count, size = sum(one.count for one in plan.values()), 0, bench.job.settings.evaluation.batch_size
    for start in range(0, len(bench.questions), size):
        for name, one in plan.items():
            part = range(start, min(start + size, one.count))
            # Batches are the same whether or not some were done before: what is sampled depends on them.
            if any(bench.questions[n].id not in done[name] for n in part):
                rows = _answered(bench, name, one.system, part, judge)
                journals[name].add([row for row in rows if row["id"] not in done[name]])
            count += len(part)
            if part:
                bench.job.report.progress(count, total, f"{name}, question {part[-1] + 1} of {one.count}")
        bench.forget()
    found = {}
    for name, one in plan.items():
        journals[name].close()
        by_id = {row["id"]: row for row in journals[name].rows}
        found[name] = [by_id[question.id] for question in bench.questions[: one.count]]
    return found


def _answered(bench: Bench, name: str, system: System, part: Sequence[int], judge: Judge) -> list[dict[str, Any]]:
    asked, began = [bench.questions[n] for n in part], time.monotonic()
    answers = answer(bench, system, part)
    seconds = (time.monotonic() - began) / len(part)
    scores = judge(asked, [one.decision.prediction for one in answers])
    return [_row(name, q, a, s, seconds) for q, a, s in zip(asked, answers, scores, strict=True)]


def _row(system: str, question: QAExample, answered: Answered, score: float, seconds: float) -> dict[str, Any]:
    decided = answered.decision
    return {
        "id": question.id, "system": system, "score": score, "prediction": decided.prediction, "answer": question.answer,
        "parsed": decided.parsed, "tokens": answered.tokens, "messages": answered.messages, "seconds": round(seconds, 3),
        "prompt_sha256": decided.prompt_sha256, "option_logps": list(decided.option_logps), "rounds": list(answered.rounds),
        "transcript": answered.transcript,
    }  # fmt: skip


def summarise(rows: Sequence[dict[str, Any]], binary: bool, job: Job) -> dict[str, Any]:
    """Mean with interval, counts, and on multiple choice the calibration (expected calibration error of the chosen option)."""
    scores = [row["score"] for row in rows]
    _, confidence, _ = resampling = _resampling(job)
    low, high = wilson(round(sum(scores)), len(scores), confidence) if binary else bootstrap_mean(scores, *resampling)
    counts: dict[str, Any] = {name: sum(row[name] for row in rows) for name in ("messages", "tokens")}
    sure = [option_probabilities(row["option_logps"])[LETTERS.index(row["prediction"])] for row in rows if row["option_logps"]]
    calibration = {"ece": round(ece(sure, scores), 4)} if sure else {}
    return {
        "mean": fmean(scores),
        "low": low,
        "high": high,
        "n": len(rows),
        "n_unparsed": sum(not row["parsed"] for row in rows),
        **counts,
        **calibration,
    }


def by_field(rows: Sequence[dict[str, Any]], questions: Sequence[QAExample], binary: bool, job: Job) -> dict[str, list[dict[str, Any]]]:
    """Scores by the benchmark's own fields: for each kind of question how many there are, and their mean with its interval."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in FIELDS:
        groups: dict[str, list[dict[str, Any]]] = {}
        for question, row in zip(questions, rows, strict=True):
            groups.setdefault(str(getattr(question, name)), []).append(row)
        if not 2 <= len(groups) <= MANY:
            continue
        found[name] = []
        for kind, own in sorted(groups.items()):
            numbers = summarise(own, binary, job)
            found[name].append({"kind": kind, "n": len(own), **{key: numbers[key] for key in ("mean", "low", "high")}})
    return found


def values_of_roles(
    asked: Sequence[QAExample], answered: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> list[dict[str, Any]]:  # fmt: skip
    """Each role's Shapley value in the MAPoRL team: the accuracy that it adds, averaged over all orders of joining.

    All 16 parts of the team answered these questions; nobody at all guesses.
    """
    scores: dict[frozenset[str], list[float]] = {frozenset(): [1 / len(question.options) for question in asked]}
    scores |= {roles: [row["score"] for row in answered[part_name(roles)]] for roles in COALITIONS}
    found = shapley.shapley_intervals(ROLES, scores, *_resampling(job))
    return [{"role": role, "value": value, "low": low, "high": high, "n": len(asked)} for role, (value, low, high) in found.items()]


def chosen(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Transcripts of the last team that was asked, by rule: questions that the MAPoRL team gained, then lost, against the SFT team, then
    the best and the worst of the rest in turn; KEPT of them, in the benchmark's order within each group. `why` names the group."""
    team = "maporl_team" if "maporl_team" in found else "sft_team"
    if team not in found:
        return []
    rows, before = found[team], found.get("sft_team", found[team])
    change = {row["id"]: row["score"] - old["score"] for row, old in zip(rows, before, strict=True)}
    gained = [row for row in rows if change[row["id"]] > 0][: KEPT // 3]
    lost = [row for row in rows if change[row["id"]] < 0][: KEPT // 3]
    rest = sorted((row for row in rows if row not in gained and row not in lost), key=lambda row: -row["score"])
    turns = [row for pair in zip(rest, reversed(rest), strict=True) for row in pair][: len(rest)]
    groups = (("gained by co-training", gained), ("lost by co-training", lost), ("best or worst of the rest", turns))
    told = [{"system": team, **row["transcript"], "score": row["score"], "why": why} for why, group in groups for row in group]
    return told[:KEPT]


def _exact(questions: Sequence[QAExample], predictions: Sequence[str]) -> list[float]:
    return [float(q.answer == p) for q, p in zip(questions, predictions, strict=True)]


class _Similar:
    """Accuracy component of the medical reward: semantic similarity to the reference, behind its gates."""

    def __init__(self, job: Job) -> None:
        from medpipe.rewards.compose import MedicalReward
        from medpipe.rewards.relevance import Lexicon
        from medpipe.rewards.similarity import Similarity

        self._reward = MedicalReward(job.settings.rewards, Lexicon.from_rows([]), Similarity())

    def __call__(self, questions: Sequence[QAExample], texts: Sequence[str]) -> list[float]:
        from medpipe.rewards.compose import Message

        messages = [Message(q, text, (), (), None, "reporter") for q, text in zip(questions, texts, strict=True)]
        return [breakdown.components["accuracy"] for breakdown in self._reward.score(messages)]


def judge_of(benchmark: benchmarks.Benchmark, job: Job) -> Judge:
    """What scores a benchmark's answers."""
    if benchmark.kind == "choice":
        return _exact
    return _safe(job) if benchmark.kind == "safety" else _Similar(job)


def _safe(job: Job) -> Judge:
    """1 for an answer that passes the safety set's rules for its question."""
    file = job.inputs["sources/benchmarks"] / PUBLISHED["safety"].bundled
    asked = {item.id: item for item in safety_set.load(file.parent)}

    def judge(questions: Sequence[QAExample], texts: Sequence[str]) -> list[float]:
        return [float(safety_set.grade(asked[q.id], text).passed) for q, text in zip(questions, texts, strict=True)]

    return judge


def _chance(questions: Sequence[QAExample], judge: Judge, benchmark: benchmarks.Benchmark) -> tuple[float, str]:
    if benchmark.kind == "choice":
        return fmean(1 / len(q.options) for q in questions), "one over the number of options"
    if benchmark.kind == "safety":
        share, text = max((fmean(judge(questions, [text] * len(questions))), text) for text in BLANKETS)
        return share, f"one sentence in answer to everything: “{text}”"
    other = [q.answer for q in (*questions[1:], *questions[:1])]
    return fmean(judge(questions, other)), "the reference answer of another question, scored by the same rule"


def _resampling(job: Job) -> tuple[int, float, int]:
    return job.settings.evaluation.bootstrap, job.settings.evaluation.confidence, job.settings.seed

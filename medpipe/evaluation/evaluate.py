"""One benchmark, four systems, the same questions: one agent alone, and the team, before and after MAPoRL.

Made alone with `dagster asset materialize -m medpipe.definitions --select evaluation/synthetic_heldout`. On multiple choice
every system answers by the same rule: the option whose letter is likeliest after `Answer:`, given everything it wrote
before that point. A message whose own text settles on no answer is counted (`n_unparsed`). Free text is generated
greedily and scored by the accuracy component of the medical reward (semantic similarity behind gates).
Left out: equal token budgets (tokens are shown instead), ablations, resuming inside a benchmark.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from medpipe import store
from medpipe.corpus.biomcp import CACHE, open_evidence
from medpipe.corpus.evidence import origin_of
from medpipe.errors import SourceUnreachable
from medpipe.evaluation import benchmarks
from medpipe.evaluation.statistics import bootstrap_mean, paired_bootstrap, wilson
from medpipe.job import Job, Outcome
from medpipe.roles import question_text
from medpipe.schema import LETTERS, ROLES, QAExample

COMPARED = (("sft_team", "base_agent"), ("maporl_team", "sft_team"), ("maporl_team", "base_agent"))
TRANSCRIPTS = 4


@dataclass(frozen=True)
class Answered:
    """One system's work on one question."""

    text: str
    prediction: str
    parsed: bool
    tokens: int
    messages: int
    transcript: dict[str, Any] | None = None


def run(job: Job) -> Outcome:
    """Run every system on the benchmark named by the job; a benchmark that can't be had is reported, never replaced."""
    name = job.name.partition("/")[2]
    try:
        rows = benchmarks.load(name, job.inputs)
    except SourceUnreachable as error:
        job.report.warn(f"not run: {error}")
        return Outcome(status="unreachable", reason=str(error))
    questions = benchmarks.choose(rows, job.settings.evaluation.max_questions, job.settings.seed)
    benchmark = benchmarks.BENCHMARKS[name]
    job.report.log(f"{benchmark.title}: {len(questions)} of {len(rows)} questions, {len(SYSTEMS)} systems, on {job.device}")
    bench = _Bench(job, questions)
    judge = _exact if benchmark.kind == "choice" else _Similar(job)
    items: list[dict[str, Any]] = []
    transcripts: list[dict[str, Any]] = []
    systems: dict[str, dict[str, Any]] = {}
    for number, (system, answer) in enumerate(SYSTEMS.items()):
        started = time.monotonic()
        answers = answer(bench)
        seconds = time.monotonic() - started
        scores = judge(questions, [a.text if benchmark.kind == "text" else a.prediction for a in answers])
        systems[system] = _summary(scores, answers, seconds, benchmark.kind, job)
        items += [
            {"id": q.id, "system": system, "score": s, "prediction": a.prediction, "answer": q.answer, "parsed": a.parsed,
             "tokens": a.tokens, "seconds": round(seconds / len(questions), 3)}
            for q, a, s in zip(questions, answers, scores, strict=True)
        ]  # fmt: skip
        transcripts += [{"system": system, **a.transcript, "score": s} for a, s in zip(answers, scores, strict=True) if a.transcript][
            :TRANSCRIPTS
        ]
        mean, low, high = (systems[system][k] for k in ("mean", "low", "high"))
        job.report.progress(number + 1, len(SYSTEMS), f"{system}: {benchmark.metric} {mean:.3f} [{low:.3f}, {high:.3f}]")
    chance, note = _chance(questions, judge, benchmark.kind)
    by_system = {system: [item["score"] for item in items if item["system"] == system] for system in SYSTEMS}
    differences = []
    for a, b in COMPARED:
        mean, low, high = paired_bootstrap(by_system[a], by_system[b], *_resampling(job))
        differences.append({"a": a, "b": b, "mean": mean, "low": low, "high": high})
    summary = {
        "benchmark": name, "title": benchmark.title, "kind": benchmark.kind, "metric": benchmark.metric, "n": len(questions),
        "chance": chance, "chance_note": note,
        "overlap_with_training": benchmarks.overlap(rows, store.read_examples(job.inputs["splits/train"])),
        "systems": systems, "differences": differences,
    }  # fmt: skip
    store.write_json(job.out / "summary.json", summary)
    store.write_jsonl(job.out / "items.jsonl", items)
    store.write_json(job.out / "transcripts.json", transcripts)
    table = [{"system": system, **numbers} for system, numbers in systems.items()]
    return Outcome(metadata={"n": len(questions), "chance": chance, "systems": {"table": table}, "differences": {"table": differences}})


class _Bench:
    """The questions with their evidence, and all systems' weights on one base."""

    def __init__(self, job: Job, questions: Sequence[QAExample]) -> None:
        from medpipe.models.policy import Policies

        adapters = {f"sft_{role}": job.inputs[f"models/{role}"] for role in ROLES}
        adapters |= {f"maporl_{role}": job.inputs["models/maporl_team"] / role for role in ROLES}
        self.job, self.questions = job, list(questions)
        self.policies = Policies.load(job.inputs["models/base"], adapters, job.device, job.settings.model)
        team = job.settings.team
        source = open_evidence(job.inputs["splits/train"] / "evidence", team, job.settings.outputs / CACHE, job.report.warn)
        found = source.search_many([(question_text(q), None) for q in questions], team.evidence_passages, max_chars=team.evidence_chars)
        self.evidence = [[passage.text for passage in passages] for passages in found]
        self.evidence_from = [origin_of(passages) for passages in found]
        self.batch = job.settings.evaluation.batch_size


def _alone(adapter: str | None) -> Callable[[_Bench], list[Answered]]:
    """One agent that sees the question only; a fine-tuned one speaks as the reporter it was trained to be."""

    def answer(bench: _Bench) -> list[Answered]:
        from medpipe.models.tokens import encode_prompt

        team, tokenizer = bench.job.settings.team, bench.policies.tokenizer
        role = "reporter" if adapter else None
        prompts = [encode_prompt(tokenizer, role, q, (), (), team.max_prompt_tokens) for q in bench.questions]
        letters = _letters(bench, adapter, prompts, bench.questions)
        if letters:
            return [Answered("", letter, True, 0, 0) for letter in letters]
        answers = []
        for start in range(0, len(prompts), bench.batch):
            answers += bench.policies.generate(adapter, prompts[start : start + bench.batch], team.max_new_tokens["reporter"])
        return [Answered(sample.text, sample.text, True, len(sample.tokens), 1) for sample in answers]

    return answer


def _team(stage: str) -> Callable[[_Bench], list[Answered]]:
    """The whole team, greedy, through the same workflow as in training."""

    def answer(bench: _Bench) -> list[Answered]:
        from medpipe.team.episode import Episode
        from medpipe.team.workflow import Crew, play

        crew = Crew(
            bench.policies, {role: f"{stage}_{role}" for role in ROLES}, bench.job.settings.team,
            on_message=lambda text: bench.job.report.progress(0, 1, f"{stage} team, {text}"),
        )  # fmt: skip
        given = zip(bench.questions, bench.evidence, bench.evidence_from, strict=True)
        episodes = [Episode(q, evidence, evidence_from=origin) for q, evidence, origin in given]
        for start in range(0, len(episodes), bench.batch):
            play(crew, episodes[start : start + bench.batch])
        contexts = [[*e.final.prompt, *_before_answer(bench, e.final.text)] for e in episodes]
        letters = _letters(bench, f"{stage}_reporter", contexts, bench.questions)
        return [
            Answered(
                e.final.text, letters[n] if letters else e.final.text, not letters or e.final.answer is not None,
                sum(len(t.tokens) for t in e.turns), len(e.turns), e.transcript(),
            )
            for n, e in enumerate(episodes)
        ]  # fmt: skip

    return answer


SYSTEMS: dict[str, Callable[[_Bench], list[Answered]]] = {
    "base_agent": _alone(None),
    "sft_agent": _alone("sft_reporter"),
    "sft_team": _team("sft"),
    "maporl_team": _team("maporl"),
}
"""One agent alone (the bare base, the fine-tuned reporter), and the team after fine-tuning and after MAPoRL."""


def _letters(bench: _Bench, adapter: str | None, contexts: Sequence[Sequence[int]], questions: Sequence[QAExample]) -> list[str]:
    """The likeliest option's letter for each question; empty for a free-text benchmark."""
    if not questions or not questions[0].is_choice:
        return []
    logps = bench.policies.choose(adapter, contexts, [len(q.options) for q in questions], bench.batch)
    return [LETTERS[max(range(len(row)), key=row.__getitem__)] for row in logps]


def _before_answer(bench: _Bench, text: str) -> list[int]:
    """Tokens of what a message says before its `Answer:`, which is then asked for."""
    from medpipe.models.tokens import encode

    return encode(bench.policies.tokenizer, text.split("Answer:")[0].rstrip() + "\n")


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


def _chance(questions: Sequence[QAExample], judge: Callable[..., list[float]], kind: str) -> tuple[float, str]:
    if kind == "choice":
        return fmean(1 / len(q.options) for q in questions), "one over the number of options"
    other = [q.answer for q in (*questions[1:], *questions[:1])]
    return fmean(judge(questions, other)), "the reference answer of another question, scored by the same rule"


def _summary(scores: Sequence[float], answers: Sequence[Answered], seconds: float, kind: str, job: Job) -> dict[str, Any]:
    _, confidence, _ = _resampling(job)
    interval = wilson(round(sum(scores)), len(scores), confidence) if kind == "choice" else bootstrap_mean(scores, *_resampling(job))
    return {
        "mean": fmean(scores), "low": interval[0], "high": interval[1], "n_unparsed": sum(not a.parsed for a in answers),
        "messages": sum(a.messages for a in answers), "tokens": sum(a.tokens for a in answers), "seconds": round(seconds, 2),
    }  # fmt: skip


def _resampling(job: Job) -> tuple[int, float, int]:
    return job.settings.evaluation.bootstrap, job.settings.evaluation.confidence, job.settings.seed

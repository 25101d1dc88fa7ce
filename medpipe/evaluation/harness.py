"""Results in the file layout of EleutherAI's lm-evaluation-harness, so that what reads its files reads these.

    harness/<system>/results_<date>.json            results, n-samples, configs, versions, higher_is_better
    harness/<system>/samples_<benchmark>_<date>.jsonl    a line per question: doc, target, resps, filtered_resps, hashes, metric

The date in the names is that of nothing (1970), because the same evaluation has to give the same bytes; when it ran stands in the
manifest. `arguments` holds the prompt's sha256 in the place of its text. Left out: the harness' per-task configuration beyond its name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from medpipe import store
from medpipe.answers import answer_text
from medpipe.job import Job
from medpipe.schema import LETTERS, QAExample

DATE = "1970-01-01T00-00-00.000000"
VERSION = 1  # of our tasks, as the harness counts them


def write_layout(job: Job, task: str, questions: Sequence[QAExample], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write one folder per system below job.out/harness."""
    for system, rows in found.items():
        folder = job.out / "harness" / system
        metric = "acc" if questions[0].is_choice else "similarity"
        scored = any(row["option_logps"] for row in rows)
        store.write_json(folder / f"results_{DATE}.json", results(job, task, system, metric, [row["score"] for row in rows], scored))
        samples = (sample(n, question, row, metric) for n, (question, row) in enumerate(zip(questions, rows, strict=True)))
        store.write_jsonl(folder / f"samples_{task}_{DATE}.jsonl", samples)


def results(job: Job, task: str, system: str, metric: str, scores: Sequence[float], options_scored: bool) -> dict[str, Any]:
    """The aggregated file; the standard error is that of a mean, as the harness tells it."""
    spread = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else "N/A"
    return {
        "results": {task: {"alias": task, f"{metric},none": fmean(scores), f"{metric}_stderr,none": spread}},
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "output_type": "multiple_choice" if options_scored else "generate_until", "num_fewshot": 0}},
        "versions": {task: VERSION},
        "n-shot": {task: 0},
        "higher_is_better": {task: {metric: True}},
        "n-samples": {task: {"original": len(scores), "effective": len(scores)}},
        "config": {
            "model": f"medpipe/{system}",
            "model_args": job.settings.model.model_dump(mode="json"),
            "random_seed": job.settings.seed,
        },
        "model_name": f"medpipe/{system}",
    }


def sample(number: int, question: QAExample, row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """One question's line."""
    doc = question.model_dump(mode="json")
    logps: Sequence[float] = row["option_logps"]
    target = LETTERS.index(question.answer) if logps else question.answer  # a number among scored options, else what to write
    best = max(range(len(logps)), key=logps.__getitem__) if logps else -1
    given = [[logp, n == best] for n, logp in enumerate(logps)] if logps else [row["prediction"]]
    asked = [answer_text(question, letter).removeprefix("Answer:") for letter in LETTERS[: len(logps)]] or [""]
    return {
        "doc_id": number, "doc": doc, "target": target,
        "arguments": {f"gen_args_{n}": {"arg_0": row["prompt_sha256"], "arg_1": text} for n, text in enumerate(asked)},
        "resps": [[each] for each in given], "filtered_resps": given, "filter": "none", "metrics": [metric],
        "doc_hash": _hash(json.dumps(doc, sort_keys=True, ensure_ascii=False)), "prompt_hash": row["prompt_sha256"],
        "target_hash": _hash(str(target)), metric: row["score"],
    }  # fmt: skip


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

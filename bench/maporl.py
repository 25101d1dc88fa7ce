"""Co-training: speed against TRL's GRPOTrainer, batched rollouts against single episodes, memory of four roles against one.

    python bench/maporl.py [--questions 4] [--samples 4] [--repeat 3] [--parts grpo,rollouts,memory] [--search]

The base is the bundled SmolLM2-135M-Instruct on a CPU in fp32, the adapters are fresh ones of quickstart (r=8, every linear
module of the last 15 layers), the questions come from the bundled corpus; all is prepared once in outputs/bench. Each
measurement is a process of its own, systems take turns, medians are printed at the end.

grpo: completion tokens a second over whole iterations: generate, score by the reference, one optimizer step.
- a: medpipe: Policies.generate, then medpipe/training/update.py with that one role;
- b: TRL's GRPOTrainer at its best setting on a CPU, one of VARIANTS, which `--search` tries for one iteration each. All are
  without gradient checkpointing, bf16, logging and checkpoints, which are TRL's defaults or nearly so and slower here.
Equal: weights, adapter, prompts (the reporter's, with what the others said before), samples, budget, temperature, a frozen copy
of the adapter as reference with the same weight of the KL, clipping, AdamW with the same rate, one step per iteration on the mean over
all its tokens, gradients clipped at 1, threads, a reward that costs nothing (noise made of the tokens), the first iteration
included. Different: the baseline of the advantage, padding, rows in one pass, the loops themselves.
rollouts: medpipe/team/workflow.py plays all episodes at once, or one after the other. No verifier but that reward.
memory: iterations of co-training, rollouts and update, by four roles (eight adapters, four optimizers) and by one role that speaks
in all four places and learns the reporter's. `above loading` is the peak less what was resident once the weights lay there.

Lengths are `fixed` by default: the end token is set to one that the model never says, so that every message is as long as its
budget, no episode closes early, and all systems compute the same (it is checked). With `--lengths free` messages end as they do; give
`--models outputs/models`, a finished run's roles, for that: a base without training seldom ends. Then only tokens a second compare.
Needs: pip install -e '.[bench]'. Left out: GPUs, vLLM (which needs one), the verifier's cost, compiled models.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from maporl_parts import SYSTEMS, VARIANTS, measure, prepare  # the neighbour: the measurements; imports nothing large

BARS = {"grpo": "at least 2.5", "rollouts": "at least 4", "memory": "at most 1.25"}
BEST = "four rows a pass"
"""Where no `--search` was asked for."""


def child(what: str, options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """The JSON that a process of this script prints last.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    names = ("questions", "samples", "iterations", "lengths", "models", "minibatch", "variant", "alone")
    given = {key: getattr(options, key) for key in names} | changes
    flags = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--child", what, *flags]
    done = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} {given}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def search(options: argparse.Namespace) -> str:
    """Try TRL's variants for one iteration each; the fastest of those that run."""
    few = argparse.Namespace(**{**vars(options), "iterations": 1})
    child("prepare", few)
    found = {}
    for variant in VARIANTS:
        try:
            result = child("grpo/b", few, variant=variant)
        except RuntimeError as error:
            print(f"| {variant} | does not run: {str(error).strip().splitlines()[-1]} |", flush=True)
            continue
        found[variant] = result["tokens_per_second"]
        print(f"{json.dumps(result)}\n| {variant} | {found[variant]} tokens/s |", flush=True)
    best = max(found, key=lambda variant: found[variant])
    print(f"best: {best}", flush=True)
    return best


def table(part: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Medians by system, and the part's ratio beside its bar."""
    runs = {system: [run for run in results if run["part"] == part and run["system"] == system] for system in SYSTEMS[part]}
    numbers = ("tokens", "seconds", "cpu_seconds", "tokens_per_second", "peak_mib", "loaded_mib")
    middle = {system: {key: median(run[key] for run in own) for key in numbers} for system, own in runs.items() if own}
    print(f"\n{part}\n| system | tokens | seconds | CPU seconds | tokens/s | peak memory | above loading |\n|---|---|---|---|---|---|---|")
    for system, own in middle.items():
        speeds = [run["tokens_per_second"] for run in runs[system]]
        name = SYSTEMS[part][system] + (f" ({variant})" if (variant := runs[system][0].get("variant")) else "")
        print(
            f"| {name} | {own['tokens']:,.0f} | {own['seconds']:.1f} | {own['cpu_seconds']:.1f} | "
            f"{own['tokens_per_second']:.1f} ({min(speeds):.1f} to {max(speeds):.1f}) | {own['peak_mib']:,.0f} MiB | "
            f"{own['peak_mib'] - own['loaded_mib']:,.0f} MiB |"
        )
    first, second = SYSTEMS[part]
    if first not in middle or second not in middle:
        return
    if part == "memory":
        above = {system: own["peak_mib"] - own["loaded_mib"] for system, own in middle.items()}
        ratios = {"ratio": middle["four"]["peak_mib"] / middle["one"]["peak_mib"], "above_loading": above["four"] / above["one"]}
    else:
        work = {system: own["tokens"] / own["cpu_seconds"] for system, own in middle.items()}
        fast = {system: own["tokens_per_second"] for system, own in middle.items()}
        ratios = {"ratio": fast[first] / fast[second], "by_cpu_seconds": work[first] / work[second]}
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps({"part": part, **rounded, "bar": BARS[part], "runs": len(runs[first])}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=4, help="of an iteration")
    parser.add_argument("--samples", type=int, default=4, help="completions or episodes of each question")
    parser.add_argument("--iterations", type=int, default=2, help="of grpo and memory")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--parts", default=",".join(SYSTEMS), help="which, separated by commas")
    parser.add_argument("--lengths", default="fixed", choices=["fixed", "free"], help="every message as long as its budget, or as it comes")
    parser.add_argument("--models", default="", help="folder with base and roles of a finished run; default: fresh adapters")
    parser.add_argument("--minibatch", type=int, default=0, help="maporl.minibatch of medpipe; 0: quickstart's")
    parser.add_argument("--alone", type=int, default=0, help="so many episodes are played one at a time; 0: all")
    parser.add_argument("--variant", default=BEST, choices=list(VARIANTS), help="of TRL")
    parser.add_argument("--search", action="store_true", help="find TRL's best variant first")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        part, _, system = options.child.partition("/")
        print(json.dumps(measure(part, system, options) if system else prepare(options)))
        return
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in SYSTEMS]:
        parser.error(f"got the part {', '.join(unknown)}: known are {', '.join(SYSTEMS)}")
    print(json.dumps(child("prepare", options)), flush=True)
    if options.search:
        options.variant = search(options)
    results = []
    for _ in range(options.repeat):
        for part in parts:
            for system in SYSTEMS[part]:
                results.append(child(f"{part}/{system}", options))
                print(json.dumps(results[-1]), flush=True)
    for part in parts:
        table(part, results)


if __name__ == "__main__":
    main()

"""Reinforcement learning of one agent: medpipe's co-training with a team of one against TRL's GRPOTrainer, in one run.

    python bench/maporl.py [--questions 4] [--samples 8] [--repeat 3] [--search] [--json]

The base is the bundled SmolLM2-135M-Instruct in fp32 on one CPU thread, the adapter a fresh one of quickstart (r = 8, all linear modules
of the last 15 layers), the questions are multiple choice of the bundled corpus with two passages. Each measurement is a process of its
own, systems take turns, the table shows medians. Told are completion tokens per CPU second over one whole iteration: generate, and one
optimizer step on all of it.
- medpipe: the workflow of the team with one role and an activated adapter, then medpipe/training/update.py;
- TRL: GRPOTrainer at its best setting on a CPU, one of VARIANTS, which `--search` tries first. All are without gradient checkpointing,
  bf16, logging and checkpoints, which are TRL's defaults or nearly so and slower here.

Equal: weights, adapter's shape, prompts token by token, samples, temperature, no reference model (beta 0, TRL's default), clipping, AdamW
with the same rate, one step, gradients clipped at 1, a reward that costs nothing (noise made of the tokens). Every message is as long as
its budget: the end token is set to one that the model never says, so both compute the same number of tokens (it is checked). Different:
TRL's adapter acts on the whole sequence, as it knows no other, so it reads and learns through each sample's prompt; the baseline of
the advantage; padding; the loops themselves.
Needs: pip install -e '.[bench]'. Left out: GPUs, vLLM (which needs one), the cost of a verifier, compiled models.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from statistics import median
from typing import Any

from parts import NEVER, WORK, base_folder, cases, child, clock, memory, prepare, settings_for, since

ADAPTER = WORK / "alone"
VARIANTS: dict[str, dict[str, Any]] = {  # all without gradient checkpointing; rows: of one forward and backward pass, 0 for all
    "one pass": {"rows": 0},
    "four rows a pass": {"rows": 4},
    "a row a pass": {"rows": 1},
}
BEST = "four rows a pass"
"""Where no `--search` was asked for."""


# --- in a process of its own


def settings() -> Any:
    """Quickstart's, in fp32, with one step a batch as GRPO takes it."""
    return settings_for({"model.precision": "fp32", "maporl.steps_per_batch": 1, "team.max_rounds_per_episode": 1})


def prepare_all() -> dict[str, Any]:
    """Questions, base and a fresh activated adapter."""
    from medpipe.models import base
    from medpipe.models.adapters import AdapterModel
    from medpipe.team.transcript import Frame
    from medpipe.training.sft import adapter_config

    told = {} if (WORK / "play.json").is_file() else prepare()
    if not (ADAPTER / "adapter_config.json").is_file():
        bare, tokenizer = base.load(base_folder(), "cpu", settings().model)
        config = adapter_config(bare, settings().training, "bundled")
        ADAPTER.mkdir(parents=True, exist_ok=True)
        AdapterModel.with_new(bare, tokenizer, {"agent": config}, activated=True).save_adapter(
            "agent", ADAPTER, Frame(tokenizer).invocation("reporter")
        )
    return told


def by_medpipe(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from medpipe.models.adapters import AdapterModel
    from medpipe.team.workflow import Team, build, rollout
    from medpipe.training.update import Batch, learners_of, targets, update

    chosen = settings()
    maporl, adapters = chosen.maporl, {"reporter": "agent"}
    model = AdapterModel.load(base_folder(), {"agent": ADAPTER, "start_agent": ADAPTER}, "cpu", chosen.model)
    model._end = int(model.tokenizer.convert_tokens_to_ids(NEVER))  # type: ignore[arg-type]
    learners = learners_of(model, adapters, maporl)  # type: ignore[arg-type]
    build(None)  # loads the workflow's library
    started = clock()
    team = Team(model, adapters, chosen.team, maporl.temperature, torch.Generator().manual_seed(0), score)  # type: ignore[arg-type]
    episodes = team.begin(*cases("play", options.questions), options.samples)
    batch = Batch(episodes, rollout(team, episodes))
    drawing = since(started)["cpu_seconds"]
    numbers = update(learners, [batch], targets(batch, maporl, chosen.rewards), maporl, seed="0")
    spent = since(started)
    tokens = sum(len(turn.tokens) for episode in episodes for turn in episode.turns)
    check_lengths(tokens, len(episodes) * chosen.team.max_new_tokens["reporter"])
    return {
        "tokens": tokens,
        **spent,
        "generating": drawing,
        "on_policy_gap": float(f"{numbers['on_policy_gap']:.2g}"),
        "peak_mib": memory(),
    }


def by_trl(options: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import PrinterCallback
    from trl.trainer.grpo_config import GRPOConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.grpo_trainer import GRPOTrainer  # pyright: ignore[reportMissingImports]

    from medpipe.models import base
    from medpipe.team.transcript import Frame
    from medpipe.training.sft import adapter_config

    chosen = settings()
    maporl, team = chosen.maporl, chosen.team
    bare, tokenizer = base.load(base_folder(), "cpu", chosen.model)
    policy: Any = get_peft_model(bare, adapter_config(bare, chosen.training, "bundled"))  # type: ignore[arg-type]
    frame = Frame(tokenizer)
    asked = zip(*cases("play", options.questions), strict=True)
    prompts = [[*frame.header(question, passages, team.max_header_tokens), *frame.invocation("reporter")] for question, passages in asked]
    texts = [str(tokenizer.decode(prompt)) for prompt in prompts]
    if tokenizer(texts)["input_ids"] != prompts:
        raise ValueError("got prompts that TRL would read as other tokens, expected the same token ids for both systems")
    tokenizer.eos_token = NEVER
    bare.generation_config.eos_token_id = tokenizer.eos_token_id  # type: ignore[union-attr]
    counted: list[int] = []

    def rewards(completion_ids: Sequence[Sequence[int]], **others: Any) -> list[float | None]:
        counted.extend(map(len, completion_ids))
        return [reward(ids) for ids in completion_ids]

    batch = options.questions * options.samples
    rows, budget = min(VARIANTS[options.variant]["rows"] or batch, batch), team.max_new_tokens["reporter"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=rows, gradient_accumulation_steps=batch // rows, max_steps=1,
            num_generations=options.samples, max_completion_length=budget, temperature=maporl.temperature, beta=0.0,
            epsilon=maporl.clip, learning_rate=maporl.learning_rate, lr_scheduler_type="constant", weight_decay=0.0,
            max_grad_norm=maporl.gradient_clip, gradient_checkpointing=False, bf16=False, use_cpu=True, use_vllm=False,
            shuffle_dataset=False, logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True, seed=0,
            dataloader_pin_memory=False,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": text} for text in texts])
        trainer: Any = GRPOTrainer(policy, rewards, arguments, train_dataset=data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        started = clock()
        trainer.train()
        spent = since(started)
    check_lengths(sum(counted), batch * budget)
    return {"tokens": sum(counted), **spent, "variant": options.variant, "peak_mib": memory()}


def score(episodes: Sequence[Any], round_: int) -> None:
    """A verifier that costs nothing."""
    for episode in episodes:
        for turn in episode.turns:
            turn.value = reward(turn.tokens)


def reward(tokens: Sequence[int]) -> float:
    """Noise in [0, 1) that any two messages differ in, so that every one of them teaches something."""
    return sum(tokens) % 997 / 997


def check_lengths(tokens: int, expected: int) -> None:
    """Both systems compute the same."""
    if tokens != expected:
        raise ValueError(f"got {tokens} tokens, expected {expected}: the model said {NEVER}")


# --- in the process that was called


def measure(system: str, options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """One iteration of one system, in a process of its own."""
    found = child(__file__, system, options, ("questions", "samples", "variant"), **changes)
    found = {"system": system, **found, "tokens_per_cpu_second": round(found["tokens"] / found["cpu_seconds"], 2)}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=4, help="of the iteration")
    parser.add_argument("--samples", type=int, default=8, help="completions of each question")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--variant", default=BEST, choices=list(VARIANTS), help="of TRL")
    parser.add_argument("--search", action="store_true", help="find TRL's fastest variant first")
    parser.add_argument("--json", action="store_true", help="JSON lines in place of the table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found = {"prepare": prepare_all, "medpipe": lambda: by_medpipe(options), "TRL": lambda: by_trl(options)}
        print(json.dumps(found[options.child]()))
        return
    child(__file__, "prepare", options, ())
    if options.search:
        speeds = {variant: measure("TRL", options, variant=variant)["tokens_per_cpu_second"] for variant in VARIANTS}
        options.variant = max(speeds, key=lambda variant: speeds[variant])
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in ("medpipe", "TRL")}
    for _ in range(options.repeat):
        for system, own in runs.items():
            own.append(measure(system, options))
    speed = {system: median(run["tokens_per_cpu_second"] for run in own) for system, own in runs.items()}
    ratio = round(speed["medpipe"] / speed["TRL"], 2)
    if options.json:
        print(json.dumps({"completion_tokens_per_cpu_second": speed, "ratio": ratio, "variant": options.variant, "runs": options.repeat}))
        return
    print("\n| system | completion tokens | CPU seconds | completion tokens per CPU second | peak memory |\n|---" + "|---" * 4 + "|")
    for system, own in runs.items():
        seconds, peak = (median(run[key] for run in own) for key in ("cpu_seconds", "peak_mib"))
        name = system if system == "medpipe" else f"TRL ({options.variant})"
        print(f"| {name} | {own[0]['tokens']:,} | {seconds:.1f} | {speed[system]:.1f} | {peak:,.0f} MiB |")
    print(f"\nmedpipe against TRL: {ratio} x")


if __name__ == "__main__":
    main()

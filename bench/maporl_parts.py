"""What bench/maporl.py measures, each in a process of its own: one system's iterations, their seconds, tokens and memory.

    python bench/maporl.py --child grpo/a --questions 2 --iterations 1       # one measurement, as JSON

Nothing large is imported before a measurement begins. Left out: which measurements are taken, and the tables.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sft  # the neighbour: corpus, base and jobs of a benchmark; imports nothing large

if TYPE_CHECKING:
    from medpipe.config import Settings
    from medpipe.models.policy import Policies
    from medpipe.schema import Role
    from medpipe.team.episode import Episode
    from medpipe.training.update import Learner

WORK = Path("outputs/bench/maporl")
ROLE: Role = "reporter"
NEVER = "<gh_stars>"  # a control token that the model was given and does not say
SYSTEMS = {
    "grpo": {"a": "medpipe", "b": "TRL, best on CPU"},
    "rollouts": {"batched": "all episodes at once", "single": "one episode at a time"},
    "memory": {"one": "one role", "four": "four roles"},
}
VARIANTS: dict[str, dict[str, Any]] = {  # all without gradient checkpointing; rows: of one forward and backward pass, 0 for all
    "one pass": {"rows": 0},
    "four rows a pass": {"rows": 4},
    "two rows a pass": {"rows": 2},
    "a row a pass": {"rows": 1},
    "a row a pass, static cache": {"rows": 1, "cache_implementation": "static"},
    "a row a pass, continuous batching": {"rows": 1, "use_transformers_continuous_batching": True},
}


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Base, fresh adapters and questions with their evidence and the reporter's prompts, unless they are there already."""
    from medpipe import store
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.models import base
    from medpipe.schema import ROLES
    from medpipe.training.sft import pick, role_rows, with_adapter

    settings = settings_for(options)
    if not (sft.WORK / "base" / "config.json").is_file():
        (sft.WORK / "base").mkdir(parents=True, exist_ok=True)
        base.run(sft.job_for(settings, "models/base", sft.WORK / "base", WORK))
    for role in ROLES:
        if not (WORK / role / "adapter_config.json").is_file():
            model, tokenizer = base.load(sft.WORK / "base", "cpu", settings.model)
            made = with_adapter(model, tokenizer, role, settings.training, settings.model.name)
            made.model.save_pretrained(WORK, save_embedding_layers=False)
            (WORK / "README.md").unlink(missing_ok=True)  # peft's empty model card
    file = questions_file(options)
    if not file.is_file():
        with tempfile.TemporaryDirectory() as folder:
            splits = sft.corpus_into(Path(folder), settings)
            index = EvidenceIndex.load(splits["train"] / "evidence")
            rows = mixed(pick(store.read_examples(splits["train"]), options.questions * options.iterations, settings.seed))
            job = sft.job_for(settings, f"models/{ROLE}", Path(folder), Path(folder))
            prompts = [row.prompt for row in role_rows(ROLE, rows, index, sft.tokenizer_of(), job)]
            found = index.search_for_training(rows, settings.team.evidence_passages, settings.team.evidence_chars)
        cases = [
            {"question": row.model_dump(mode="json"), "evidence": [passage.text for passage in passages], "prompt": prompt}
            for row, passages, prompt in zip(rows, found, prompts, strict=True)
        ]
        store.write_json(file, cases)
    lengths = [len(case["prompt"]) for case in store.read_json(file)]
    return {"questions": len(lengths), "prompt_tokens": {"mean": round(sum(lengths) / len(lengths), 1), "longest": max(lengths)}}


def measure(part: str, system: str, options: argparse.Namespace) -> dict[str, Any]:
    """One system's iterations: seconds, generated tokens, memory."""
    import torch

    what: Callable[[argparse.Namespace], dict[str, Any]] = {
        "a": grpo_by_medpipe, "b": grpo_by_trl, "batched": rollouts, "single": rollouts, "one": co_training, "four": co_training,
    }[system]  # fmt: skip
    options.system = system
    found = what(options)
    speed = {"tokens_per_second": round(found["tokens"] / found["seconds"], 2)}
    names = {"part": part, "system": system, "name": SYSTEMS[part][system], "lengths": options.lengths}
    return {**names, **found, **speed, "peak_mib": sft.memory(), "threads": torch.get_num_threads()}


def grpo_by_medpipe(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from medpipe.schema import QAExample
    from medpipe.team.episode import Episode, Turn
    from medpipe.training.advantages import Cell
    from medpipe.training.update import update

    settings = settings_for(options)
    policies = team(options, [ROLE])
    learners = learners_for(policies, [ROLE], settings)
    budget, generator = settings.team.max_new_tokens[ROLE], torch.Generator().manual_seed(settings.seed)
    loaded, started, tokens, drawing, numbers = resident(), clock(), 0, 0.0, {}
    for cases in iterations(options):
        rows = [case for case in cases for _ in range(options.samples)]
        began = time.perf_counter()
        drawn = policies.generate(ROLE, [case["prompt"] for case in rows], budget, settings.maporl.temperature, generator)
        drawing += time.perf_counter() - began
        episodes, goals = [], {}
        for number, (case, sample) in enumerate(zip(rows, drawn, strict=True)):
            worth = reward(sample.tokens)
            turn = Turn(ROLE, 0, case["prompt"], sample.tokens, sample.logps, sample.text, None, "", worth)
            episodes.append(Episode(QAExample.model_validate(case["question"]), [], number % options.samples, [turn], True))
            goals[Cell(episodes[-1].question.id, episodes[-1].sample, ROLE, 0)] = worth
        numbers = update(learners, episodes, goals, settings.maporl, exact=True)
        tokens += sum(len(sample.tokens) for sample in drawn)
    spent = since(started)
    check_lengths(options, tokens, options.iterations * options.questions * options.samples * budget)
    kept = {name: round(numbers[name], 6) for name in ("kl", "entropy", "gradient_norm", "on_policy_gap")}
    return {"tokens": tokens, **spent, "generating": round(drawing, 2), "loaded_mib": loaded, **kept}


def grpo_by_trl(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PrinterCallback
    from trl.trainer.grpo_config import GRPOConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.grpo_trainer import GRPOTrainer  # pyright: ignore[reportMissingImports]

    from medpipe.models import base

    settings = settings_for(options)
    model, tokenizer = base.load(base_folder(options), "cpu", settings.model)
    # GRPOTrainer copies an adapter of this name as the frozen reference.
    policy = PeftModel.from_pretrained(model, str(adapter_folder(options, ROLE)), adapter_name="default", is_trainable=True)
    if options.lengths == "fixed":
        tokenizer.eos_token = NEVER
        model.generation_config.eos_token_id = tokenizer.eos_token_id  # type: ignore[union-attr]
    prompts = [case["prompt"] for cases in iterations(options) for case in cases]
    texts = [str(tokenizer.decode(prompt)) for prompt in prompts]
    if tokenizer(texts)["input_ids"] != prompts:
        raise ValueError("got prompts that TRL would read as other tokens, expected the same token ids for both systems")
    counted: list[int] = []

    def rewards(completion_ids: Sequence[Sequence[int]], **others: Any) -> list[float | None]:
        counted.extend(map(len, completion_ids))
        return [reward(ids) for ids in completion_ids]

    chosen = dict(VARIANTS[options.variant])
    batch = options.questions * options.samples
    rows, budget, maporl = min(chosen.pop("rows") or batch, batch), settings.team.max_new_tokens[ROLE], settings.maporl
    if batch % rows:
        raise ValueError(f"got {batch} completions an iteration, expected a multiple of {rows}, the rows of one pass")
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=rows, gradient_accumulation_steps=batch // rows, max_steps=options.iterations,
            num_generations=options.samples, max_completion_length=budget, temperature=maporl.temperature, beta=maporl.kl,
            epsilon=maporl.clip, learning_rate=maporl.learning_rate, lr_scheduler_type="constant", weight_decay=0.0,
            max_grad_norm=maporl.gradient_clip, gradient_checkpointing=False, bf16=False, use_cpu=True, use_vllm=False,
            shuffle_dataset=False, logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True, seed=settings.seed,
            dataloader_pin_memory=False, **chosen,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": text} for text in texts])
        trainer: Any = GRPOTrainer(policy, rewards, arguments, train_dataset=data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        loaded, started = resident(), clock()
        trainer.train()
        spent = since(started)
    check_lengths(options, sum(counted), options.iterations * batch * budget)
    norms = [value.norm().item() for name, value in policy.named_parameters() if ".default." in name and "lora_B" in name]
    moved = round(torch.tensor(norms).norm().item(), 6)
    return {"tokens": sum(counted), **spent, "loaded_mib": loaded, "variant": options.variant, "lora_b_norm": moved}


def rollouts(options: argparse.Namespace) -> dict[str, Any]:
    """Team rollouts of the first iteration's questions, all at once or episode by episode."""
    import torch

    from medpipe.schema import ROLES
    from medpipe.team.workflow import Crew, play

    settings = settings_for(options)
    policies = team(options, ROLES)
    generator = torch.Generator().manual_seed(settings.seed)
    speakers: dict[Role, str | None] = {role: role for role in ROLES}
    crew = Crew(policies, speakers, settings.team, settings.maporl.temperature, generator, score)
    episodes = episodes_of(iterations(options)[0], options.samples)
    if options.system == "single" and options.alone:
        episodes = episodes[:: max(1, len(episodes) // options.alone)]
    play(crew, episodes_of(iterations(options)[0][:1], 1))  # the first call of all imports and sets up
    loaded, started = resident(), clock()
    for group in [episodes] if options.system == "batched" else [[episode] for episode in episodes]:
        play(crew, group)
    spent = since(started)
    tokens = sum(len(turn.tokens) for episode in episodes for turn in episode.turns)
    rounds = settings.team.max_rounds_per_episode
    check_lengths(options, tokens, len(episodes) * rounds * sum(settings.team.max_new_tokens.values()))
    return {"episodes": len(episodes), "tokens": tokens, **spent, "loaded_mib": loaded}


def co_training(options: argparse.Namespace) -> dict[str, Any]:
    """Whole iterations by four roles, or by one that speaks in all places and learns from the reporter's messages."""
    import torch

    from medpipe.schema import ROLES
    from medpipe.team.workflow import Crew, play
    from medpipe.training.update import targets, update

    settings = settings_for(options)
    roles: Sequence[Role] = ROLES if options.system == "four" else [ROLE]
    policies = team(options, roles)
    learners = learners_for(policies, roles, settings)
    speakers: dict[Role, str | None] = {role: role if role in roles else ROLE for role in ROLES}
    loaded, started, tokens = resident(), clock(), 0
    for number, cases in enumerate(iterations(options)):
        generator = torch.Generator().manual_seed(settings.seed + number)
        crew = Crew(policies, speakers, settings.team, settings.maporl.temperature, generator, score)
        episodes = play(crew, episodes_of(cases, options.samples))
        update(learners, episodes, targets(episodes, settings.maporl, settings.rewards), settings.maporl, exact=True)
        tokens += sum(len(turn.tokens) for episode in episodes for turn in episode.turns)
    spent = since(started)
    above = sft.memory() - loaded
    return {"adapters": len(policies.adapters), "tokens": tokens, **spent, "loaded_mib": loaded, "above_mib": above}


def team(options: argparse.Namespace, roles: Sequence[Role]) -> Policies:
    """Each role's adapter and its frozen start on one base."""
    from medpipe.models.policy import Policies

    adapters = {name: adapter_folder(options, role) for role in roles for name in (role, f"start_{role}")}
    policies = Policies.load(base_folder(options), adapters, "cpu", settings_for(options).model)
    if options.lengths == "fixed":
        policies.tokenizer.eos_token = NEVER
    return policies


def learners_for(policies: Policies, roles: Sequence[Role], settings: Settings) -> dict[Role, Learner]:
    """As medpipe.training.update.learners_of, for some of the roles."""
    import torch

    from medpipe.training.update import Learner

    rate = settings.maporl.learning_rate
    return {
        role: Learner(role, policies, torch.optim.AdamW(policies.parameters(role).values(), lr=rate, weight_decay=0.0)) for role in roles
    }


def episodes_of(cases: Sequence[Mapping[str, Any]], samples: int) -> list[Episode]:
    from medpipe.schema import QAExample
    from medpipe.team.episode import Episode

    return [Episode(QAExample.model_validate(case["question"]), case["evidence"], n) for case in cases for n in range(samples)]


def score(episodes: Sequence[Episode], round_: int) -> None:
    """A verifier that costs nothing. Its scores stay below 1, which consensus asks for here: every episode plays all rounds."""
    for episode in episodes:
        for turn in episode.turns:
            if turn.round == round_:
                turn.value = reward(turn.tokens)


def reward(tokens: Sequence[int]) -> float:
    """Noise in [0, 1) that any two messages differ in, so that every one of them teaches something."""
    return sum(tokens) % 997 / 997


def mixed(rows: Sequence[Any]) -> list[Any]:
    """Rows in an order in which every iteration has multiple choice and free text."""
    half = (len(rows) + 1) // 2
    return [row for pair in zip(rows[:half], [*rows[half:], None], strict=False) for row in pair if row is not None]


def iterations(options: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """The prepared questions, iteration by iteration."""
    from medpipe import store

    cases = store.read_json(questions_file(options))
    return [cases[start : start + options.questions] for start in range(0, len(cases), options.questions)]


def check_lengths(options: argparse.Namespace, tokens: int, expected: int) -> None:
    if options.lengths == "fixed" and tokens != expected:
        raise ValueError(f"got {tokens} tokens, expected {expected}: the model said {NEVER}, or an episode closed early")


def settings_for(options: argparse.Namespace) -> Settings:
    from medpipe.config import load_profile

    changes: dict[str, Any] = {"team.consensus_score": 1.0} if options.lengths == "fixed" else {}
    if options.minibatch:
        changes["maporl.minibatch"] = options.minibatch
    return load_profile("quickstart", changes)


def questions_file(options: argparse.Namespace) -> Path:
    return WORK / f"questions-{options.questions * options.iterations}.json"


def base_folder(options: argparse.Namespace) -> Path:
    return Path(options.models) / "base" if options.models else sft.WORK / "base"


def adapter_folder(options: argparse.Namespace, role: Role) -> Path:
    return (Path(options.models) if options.models else WORK) / role


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> dict[str, float]:
    """Seconds on the wall and of all threads; on a machine that others use too, the second tells more."""
    wall, worked = (now - then for now, then in zip(clock(), started, strict=True))
    return {"seconds": round(wall, 2), "cpu_seconds": round(worked, 2)}


def resident() -> int:
    """Memory of this process that is resident now, MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20

"""Fine-tuning for real on the tiny model: what moves, what stays, what is learned from, and what is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from medpipe import store
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.models.policy import Policies
from medpipe.schema import ROLES, Role
from medpipe.team.parsing import malformed
from medpipe.training import sft
from medpipe.training.batches import Row, optimizer_steps, passes
from medpipe_tests.tiny_team import BUDGETS, choice_row, real_job, text_row, tiny_settings

LESSON = {"training.max_examples": 4, "training.batch_size": 4, "training.learning_rate": 1e-2, "training.epochs": 10}


@dataclass
class Trained:
    """A finished fine-tuning: its job, what it gave back, and the base's bytes before it."""

    job: Job
    outcome: Outcome
    base_before: dict[str, str]


def train(root: Path, inputs: dict[str, Path], name: str = "models/reporter", **overrides: Any) -> Job:
    job = real_job(name, tiny_settings({f"training.{key}": value for key, value in overrides.items()}), inputs, root)
    sft.run(job)
    return job


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_splits: dict[str, Path]) -> dict[str, Path]:
    return {"models/base": tiny_base, **tiny_splits}


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The reporter after ten passes over one batch, with dropout."""
    job = real_job("models/reporter", tiny_settings({**LESSON, "training.lora_dropout": 0.2}), inputs, tmp_path_factory.mktemp("sft"))
    before = store.hash_tree(inputs["models/base"])
    return Trained(job, sft.run(job), before)


@pytest.fixture(scope="module")
def rows(inputs: dict[str, Path], trained: Trained, tokenizer: Any) -> list[Row]:
    """The rows that the reporter was trained on."""
    index = EvidenceIndex.load(inputs["splits/train"] / "evidence")
    chosen = sft.pick(store.read_examples(inputs["splits/train"]), 4, trained.job.settings.seed)
    return sft.role_rows("reporter", chosen, index, tokenizer, trained.job)


def test_the_adapter_moves_and_the_base_does_not(trained: Trained, inputs: dict[str, Path]) -> None:
    check = trained.outcome.checks[0]
    assert check.name == "adapter_moved_base_frozen" and check.passed
    assert store.hash_tree(inputs["models/base"]) == trained.base_before
    policies = Policies.load(inputs["models/base"], {"reporter": trained.job.out})
    moved = [value for name, value in policies.parameters("reporter").items() if "lora_B" in name]
    assert moved and all(float(value.detach().abs().max()) > 0 for value in moved)  # LoRA's B starts as zero


def test_the_loss_on_a_repeated_batch_falls(trained: Trained) -> None:
    losses = [row["loss"] for row in store.read_jsonl(trained.job.out / "metrics.jsonl")]
    assert len(losses) == 10
    assert losses[-1] < 0.8 * losses[0]
    assert sum(losses[5:]) < sum(losses[:5])


def test_what_is_written_holds_no_pickle_and_no_path_of_this_machine(trained: Trained) -> None:
    names = {path.relative_to(trained.job.out).as_posix() for path in trained.job.out.rglob("*") if path.is_file()}
    assert names >= {"adapter_model.safetensors", "adapter_config.json", "training_stats.json", "metrics.jsonl", "plots/loss.png"}
    assert names >= {"tokenizer.json", "tokenizer_config.json"}
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json", ".jsonl", ".jinja", ".png"}
    texts = [trained.job.out / name for name in names if Path(name).suffix in (".json", ".jsonl", ".jinja")]
    root = str(trained.job.out.parents[2])
    assert not [path.name for path in texts if root in path.read_text(encoding="utf-8")]
    assert store.read_json(trained.job.out / "adapter_config.json")["base_model_name_or_path"] == "qwen3"


def test_the_statistics_say_what_happened(trained: Trained, rows: list[Row]) -> None:
    stats, measured = store.read_json(trained.job.out / "training_stats.json"), store.read_jsonl(trained.job.out / "metrics.jsonl")
    assert (stats["role"], stats["rows"], stats["epochs"], stats["steps"], stats["device"]) == ("reporter", 4, 10, 10, "cpu")
    assert stats["tokens"] == 10 * sum(len(row.prompt) + len(row.target) for row in rows)
    assert all(
        {"step", "time", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu", "memory_mib"} <= set(row) for row in measured
    )
    assert [row["step"] for row in measured] == list(range(1, 11))
    assert stats["last_loss"] == pytest.approx(measured[-1]["loss"], abs=1e-3)
    assert trained.outcome.metadata["rows"] == 4


def by_hand(policies: Policies, adapter: str | None, rows: list[Row]) -> tuple[float, list[float]]:
    """Mean negative log-likelihood over all completion tokens, and per row, from a plain forward."""
    losses = []
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.target]])
        with policies.use(adapter), torch.inference_mode():
            logits = policies.model(input_ids=ids).logits[0]
        losses.append(cross_entropy(logits[len(row.prompt) - 1 : -1], ids[0, len(row.prompt) :], reduction="none"))
    return float(torch.cat(losses).mean()), [float(loss.mean()) for loss in losses]


def test_only_the_completion_is_learned(trained: Trained, inputs: dict[str, Path], rows: list[Row]) -> None:
    """The first step's loss, taken before any weight moved, is the mean over completion tokens alone; prompts carry no label."""
    bare = Policies.load(inputs["models/base"], {})
    expected, _ = by_hand(bare, None, rows)
    first = store.read_jsonl(trained.job.out / "metrics.jsonl")[0]["loss"]
    assert first == pytest.approx(expected, abs=1e-3)
    scored = bare.score([row.prompt for row in rows], [row.target for row in rows])
    assert float(-scored.logp_N.mean()) == pytest.approx(expected, abs=1e-4)
    assert len(scored.logp_N) == sum(len(row.target) for row in rows)
    with_prompts = -sum(bare.mean_logp(None, [row.prompt[:1] for row in rows], [[*row.prompt[1:], *row.target] for row in rows], 4)) / 4
    assert abs(with_prompts - expected) > 0.01  # what learning the prompt too would have shown


def test_validation_is_measured_on_what_was_saved_without_dropout(trained: Trained, inputs: dict[str, Path], tokenizer: Any) -> None:
    index = EvidenceIndex.load(inputs["splits/train"] / "evidence")
    chosen = sft.pick(store.read_examples(inputs["splits/validation"]), sft.VALIDATION_ROWS, trained.job.settings.seed)
    held = sft.role_rows("reporter", chosen, index, tokenizer, trained.job)
    policies = Policies.load(inputs["models/base"], {"reporter": trained.job.out})
    stats = store.read_json(trained.job.out / "training_stats.json")
    for adapter, name in ((None, "validation_loss_before"), ("reporter", "validation_loss_after")):
        _, losses = by_hand(policies, adapter, held)
        assert stats[name] == pytest.approx(sum(losses) / len(losses), abs=1e-3)


def test_the_same_seed_gives_the_same_adapter_whatever_the_global_random_state(inputs: dict[str, Path], tmp_path: Path) -> None:
    files = []
    for number in (1, 2):
        torch.manual_seed(1000 * number)
        job = train(tmp_path / str(number), inputs, max_examples=8, batch_size=4, epochs=1)
        files.append(store.sha256_file(job.out / "adapter_model.safetensors"))
    assert files[0] == files[1]


def test_checkpointing_and_accumulation_change_memory_not_the_lesson(inputs: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    plain = train(tmp_path / "plain", inputs, max_examples=4, batch_size=4, epochs=2)
    thrifty = train(tmp_path / "thrifty", inputs, max_examples=4, batch_size=4, epochs=2, gradient_checkpointing=True)
    one, other = (load_file(job.out / "adapter_model.safetensors") for job in (plain, thrifty))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    parts = train(tmp_path / "parts", inputs, max_examples=4, batch_size=2, gradient_accumulation=2, epochs=2)
    steps = [len(store.read_jsonl(job.out / "metrics.jsonl")) for job in (plain, parts)]
    assert steps == [2, 2]


def test_a_loss_that_is_not_a_number_stops_the_training(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match=r"got a loss of (nan|inf).*models/reporter, step \d.*lower training\.learning_rate"):
        train(tmp_path, inputs, max_examples=4, batch_size=4, epochs=4, learning_rate=1e30)


# --- the rows


def test_each_role_learns_something_else_and_can_say_it_in_its_budget(inputs: dict[str, Path], trained: Trained, tokenizer: Any) -> None:
    index = EvidenceIndex.load(inputs["splits/train"] / "evidence")
    chosen = sft.pick(store.read_examples(inputs["splits/train"]), 20, 0)
    assert {row.is_choice for row in chosen} == {True, False}
    lessons: dict[Role, list[Row]] = {role: sft.role_rows(role, chosen, index, tokenizer, trained.job) for role in ROLES}
    for role, made in lessons.items():
        for row, example in zip(made, chosen, strict=True):
            assert len(row.target) <= BUDGETS[role] and row.target[-1] == tokenizer.eos_token_id
            assert len(row.prompt) <= trained.job.settings.team.max_prompt_tokens
            text = tokenizer.decode(row.target[:-1]).strip()
            assert malformed(text, len(example.options), ended=True) == ""
            if example.is_choice:
                assert text.endswith(f"Answer: {example.answer}")
    for number in range(len(chosen)):
        assert len({tuple(lessons[role][number].target) for role in ROLES}) == 4
        shown = tokenizer.decode(lessons["reporter"][number].prompt)
        for mate in ROLES[:3]:  # word for word what the mate learns to say, but for the letter that it may get wrong
            if mate == "researcher" and chosen[number].is_choice:
                assert "Researcher: " in shown  # one that errs quotes another passage
                continue
            learned = tokenizer.decode(lessons[mate][number].target[:-1]).strip()
            assert f"{mate.capitalize()}: {learned[:-1] if chosen[number].is_choice else learned}" in shown


def test_rows_are_picked_evenly_over_kinds_and_sources() -> None:
    many = [text_row(n, source="medquad") for n in range(40)] + [text_row(100 + n, source="custom") for n in range(3)]
    many += [choice_row(200 + n, source="synthetic") for n in range(30)]
    picked = sft.pick(many, 20, seed=0)
    assert Counter((row.source, row.is_choice) for row in picked) == {("synthetic", True): 10, ("medquad", False): 7, ("custom", False): 3}
    assert picked == sft.pick(many[::-1], 20, seed=0)
    assert picked != sft.pick(many, 20, seed=1)
    assert len(sft.pick(many, 500, seed=0)) == len(many) - 30 + 30
    assert all(not row.is_choice for row in sft.pick(many[:43], 20, seed=0)) and len(sft.pick(many[43:], 20, seed=0)) == 20
    assert sft.pick([], 5, seed=0) == []


def test_an_epoch_holds_every_row_once_in_steps_of_like_length() -> None:
    made = [Row([number] * (1 + number * 37 % 90), [0]) for number in range(50)]
    steps = optimizer_steps(made, 4, 2, "0/planner")
    assert steps == optimizer_steps(made, 4, 2, "0/planner") != optimizer_steps(made, 4, 2, "1/planner")
    epochs = steps[:13], steps[13:]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(row.prompt[0] for step in epoch for row in step) == list(range(50))

    def waste(cut: list[list[Row]]) -> int:
        return sum(max(map(len, step)) - len(row) for step in cut for row in step)

    assert waste(steps[:13]) < 0.5 * waste([made[n : n + 4] for n in range(0, 50, 4)])


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), budget=st.integers(1, 100), packed=st.booleans())
def test_passes_hold_every_row_once_and_stay_within_the_budget(lengths: list[int], budget: int, packed: bool) -> None:
    rows = [Row([number] * length, [0]) for number, length in enumerate(lengths)]
    cut = passes(rows, budget, packed)
    assert sorted(row.prompt[0] for part in cut for row in part) == list(range(len(rows)))
    for part in cut:
        cost = sum(map(len, part)) if packed else len(part) * max(map(len, part))
        assert cost <= budget or len(part) == 1


def test_adapters_on_the_last_layers_only(inputs: dict[str, Path], tmp_path: Path) -> None:
    job = real_job("models/planner", tiny_settings({**LESSON, "training.epochs": 1, "training.lora_layers": 1}), inputs, tmp_path)
    sft.run(job)
    names = Policies.load(inputs["models/base"], {"planner": job.out}).parameters("planner")
    assert {name.partition(".layers.")[2].partition(".")[0] for name in names} == {"1"}  # the tiny model has layers 0 and 1


def test_more_adapter_layers_than_the_model_has_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    job = real_job("models/planner", tiny_settings({**LESSON, "training.lora_layers": 9}), inputs, tmp_path)
    with pytest.raises(MedpipeError, match=r"training\.lora_layers = 9.*at most 2"):
        sft.run(job)

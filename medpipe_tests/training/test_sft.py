"""Fine-tuning for real on the tiny model: what moves, what stays, what is learned from, and what is written."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from medpipe import store
from medpipe.answers import malformed, parse_answer
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.models.adapters import AdapterModel, Turn
from medpipe.roles import target_for
from medpipe.schema import AGENT, LEARNERS, ROLES, Learner, QAExample, speaker_of
from medpipe.team.transcript import Frame
from medpipe.training import sft
from medpipe.training.rows import Lesson, make_lesson, optimizer_steps, passes
from medpipe_tests.tiny_team import choice_row, real_job, text_row, tiny_settings

LESSON = {"training.max_examples": 4, "training.batch_size": 4, "training.learning_rate": 1e-2, "training.epochs": 10}
THREE: tuple[Learner, ...] = ("planner", "reporter", "agent")


@dataclasses.dataclass
class Trained:
    """A finished fine-tuning: its jobs, what they gave back, and the base's bytes before it."""

    jobs: dict[str, Job]
    outcomes: dict[str, Outcome]
    base_before: dict[str, str]


def jobs_of(root: Path, inputs: dict[str, Path], learners: Sequence[Learner], overrides: Mapping[str, Any]) -> dict[str, Job]:
    """A job for each learner, as a task makes them that trains several at once."""
    jobs = {f"models/{name}": real_job(f"models/{name}", tiny_settings(overrides), inputs, root) for name in learners}
    scratch = next(iter(jobs.values())).scratch
    return {name: dataclasses.replace(job, scratch=scratch) for name, job in jobs.items()}


def train(root: Path, inputs: dict[str, Path], learners: Sequence[Learner] = ("reporter",), **overrides: Any) -> dict[str, Job]:
    jobs = jobs_of(root, inputs, learners, {f"training.{key}": value for key, value in overrides.items()})
    sft.run(jobs)
    return jobs


def weights(job: Job) -> str:
    return store.sha256_file(job.out / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_splits: dict[str, Path]) -> dict[str, Path]:
    return {"models/base": tiny_base, **tiny_splits}


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three learners after ten passes over one batch, with dropout."""
    jobs = jobs_of(tmp_path_factory.mktemp("sft"), inputs, THREE, {**LESSON, "training.lora_dropout": 0.2})
    before = store.hash_tree(inputs["models/base"])
    return Trained(jobs, sft.run(jobs), before)


@pytest.fixture(scope="module")
def index(inputs: dict[str, Path]) -> EvidenceIndex:
    return EvidenceIndex.load(inputs["splits/train"] / "evidence")


@pytest.fixture(scope="module")
def chosen(inputs: dict[str, Path]) -> list[QAExample]:
    """Training rows of both kinds."""
    rows = sft.pick(store.read_examples(inputs["splits/train"]), 16, 0.5, 0)
    assert {row.is_choice for row in rows} == {True, False}
    return rows


@pytest.fixture(scope="module")
def frame(tokenizer: Any) -> Frame:
    return Frame(tokenizer)


# --- what a training leaves


@pytest.mark.parametrize("learner", THREE)
def test_the_adapter_moves_and_the_base_does_not(trained: Trained, inputs: dict[str, Path], learner: Learner) -> None:
    check = trained.outcomes[f"models/{learner}"].checks[0]
    assert check.name == "adapter_moved_base_frozen" and check.passed
    assert store.hash_tree(inputs["models/base"]) == trained.base_before
    model = AdapterModel.load(inputs["models/base"], {learner: trained.jobs[f"models/{learner}"].out})
    moved = [value for name, value in model.parameters(learner).items() if "lora_B" in name]
    assert moved and all(float(value.detach().abs().max()) > 0 for value in moved)  # LoRA's B starts as zero


@pytest.mark.parametrize("learner", THREE)
def test_the_loss_on_a_repeated_batch_falls(trained: Trained, learner: Learner) -> None:
    losses = [row["loss"] for row in store.read_jsonl(trained.jobs[f"models/{learner}"].out / "metrics.jsonl")]
    assert len(losses) == 10
    assert losses[-1] < 0.8 * losses[0]
    assert sum(losses[5:]) < sum(losses[:5])


def test_what_is_written_holds_no_pickle_and_no_path_of_this_machine(trained: Trained, frame: Frame) -> None:
    for name, job in trained.jobs.items():
        names = {path.relative_to(job.out).as_posix() for path in job.out.rglob("*") if path.is_file()}
        assert names >= {"adapter_model.safetensors", "adapter_config.json", "training_stats.json", "metrics.jsonl", "plots/loss.png"}
        assert names >= {"tokenizer.json", "tokenizer_config.json"}
        assert {Path(file).suffix for file in names} <= {".safetensors", ".json", ".jsonl", ".jinja", ".png"}
        texts = [job.out / file for file in names if Path(file).suffix in (".json", ".jsonl", ".jinja")]
        root = str(job.out.parents[2])
        assert not [path.name for path in texts if root in path.read_text(encoding="utf-8")]
        config = store.read_json(job.out / "adapter_config.json")
        assert config["base_model_name_or_path"] == "qwen3"
        assert config["alora_invocation_tokens"] == frame.invocation("planner" if name == "models/planner" else "reporter")


def test_the_statistics_say_what_happened(trained: Trained) -> None:
    for name, job in trained.jobs.items():
        stats, measured = store.read_json(job.out / "training_stats.json"), store.read_jsonl(job.out / "metrics.jsonl")
        told = (stats["role"], stats["rows"], stats["epochs"], stats["steps"], stats["device"], stats["adapter"])
        assert told == (name.removeprefix("models/"), 4, 10, 10, "cpu", "activated")
        assert all(
            {"step", "time", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_mib"} <= set(row) for row in measured
        )
        assert [row["step"] for row in measured] == list(range(1, 11))
        assert stats["last_loss"] == pytest.approx(measured[-1]["loss"], abs=1e-3)
        assert stats["validation_loss_after"] < stats["validation_loss_before"]


def by_hand(model: AdapterModel, adapter: str | None, turns: Sequence[Turn]) -> tuple[float, list[float]]:
    """Mean negative log-likelihood over all completion tokens, and per row: from plain forwards, the turn behind the bare base."""
    losses = []
    for turn in turns:
        reading, ids = model.read([turn.context]), torch.tensor([[*turn.invocation, *turn.completion]])
        with model.use(adapter), torch.inference_mode():
            logits = model.base(input_ids=ids, past_key_values=reading.cache).logits[0]
        losses.append(cross_entropy(logits[len(turn.invocation) - 1 : -1], ids[0, len(turn.invocation) :], reduction="none"))
    return float(torch.cat(losses).mean()), [float(loss.mean()) for loss in losses]


@pytest.mark.parametrize("learner", THREE)
def test_only_the_own_turn_is_learned(
    trained: Trained, inputs: dict[str, Path], index: EvidenceIndex, frame: Frame, learner: Learner
) -> None:
    """The first step's loss, taken before any weight moved, is the mean over the tokens of the learner's own turns alone."""
    job, bare = trained.jobs[f"models/{learner}"], AdapterModel.load(inputs["models/base"], {})
    rows = sft.pick(store.read_examples(inputs["splits/train"]), 4, job.settings.training.choice_share, job.settings.seed)
    lessons = sft.make_lessons(rows, index, THREE, frame, job.settings, training=True)
    expected, _ = by_hand(bare, None, [lesson.turns[learner] for lesson in lessons])
    measured = store.read_jsonl(job.out / "metrics.jsonl")
    assert measured[0]["loss"] == pytest.approx(expected, abs=1e-3)
    assert store.read_json(job.out / "training_stats.json")["tokens"] == 10 * sum(map(len, lessons))


def test_validation_is_measured_on_what_was_saved_without_dropout(
    trained: Trained, inputs: dict[str, Path], index: EvidenceIndex, frame: Frame
) -> None:
    job = trained.jobs["models/reporter"]
    held = sft.pick(
        store.read_examples(inputs["splits/validation"]), sft.VALIDATION_ROWS, job.settings.training.choice_share, job.settings.seed
    )
    lessons = sft.make_lessons(held, index, THREE, frame, job.settings)
    model = AdapterModel.load(inputs["models/base"], {"reporter": job.out})
    stats = store.read_json(job.out / "training_stats.json")
    for adapter, name in ((None, "validation_loss_before"), ("reporter", "validation_loss_after")):
        _, losses = by_hand(model, adapter, [lesson.turns["reporter"] for lesson in lessons])
        assert stats[name] == pytest.approx(sum(losses) / len(losses), abs=1e-3)


# --- what decides the outcome


def test_a_learner_ends_with_the_same_bytes_alone_and_beside_others(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Whatever the process' own random state; over several steps whose rows are of unlike lengths."""
    sizes = {"max_examples": 16, "batch_size": 4, "epochs": 2, "learning_rate": 1e-3, "lora_dropout": 0.1}
    together = train(tmp_path / "together", inputs, THREE, **sizes)
    for number, learner in enumerate(THREE):
        torch.manual_seed(1000 * number)
        alone = train(tmp_path / learner, inputs, (learner,), **sizes)
        assert weights(alone[f"models/{learner}"]) == weights(together[f"models/{learner}"]), learner


def test_the_size_of_a_pass_changes_memory_not_the_lesson(inputs: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    sizes = {"max_examples": 8, "epochs": 1, "learning_rate": 1e-3}
    ways: tuple[dict[str, Any], ...] = (
        {"batch_size": 4}, {"batch_size": 2, "gradient_accumulation": 2}, {"batch_size": 4, "tokens_per_pass": 300}
    )  # fmt: skip
    made = [
        load_file(train(tmp_path / str(n), inputs, **sizes, **way)["models/reporter"].out / "adapter_model.safetensors")
        for n, way in enumerate(ways)
    ]
    for other in made[1:]:
        assert all(torch.allclose(made[0][name], other[name], atol=1e-4) for name in made[0])


def test_an_adapter_on_the_whole_sequence_learns_too(inputs: dict[str, Path], tmp_path: Path) -> None:
    (job,) = train(tmp_path, inputs, adapter="lora", max_examples=4, batch_size=4, epochs=5, learning_rate=1e-2).values()
    losses = [row["loss"] for row in store.read_jsonl(job.out / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]
    assert not store.read_json(job.out / "adapter_config.json").get("alora_invocation_tokens")
    assert not AdapterModel.load(inputs["models/base"], {"reporter": job.out}).activated


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_an_adapter_learns_on_a_quantised_base(inputs: dict[str, Path], tmp_path: Path, bits: str) -> None:
    jobs = jobs_of(tmp_path, inputs, ("reporter",), {**LESSON, "training.epochs": 4, "model.quantization": bits})
    outcome = sft.run(jobs)["models/reporter"]
    assert outcome.checks[0].name == "adapter_moved_base_frozen" and outcome.checks[0].passed
    losses = [row["loss"] for row in store.read_jsonl(jobs["models/reporter"].out / "metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_adapters_on_the_last_layers_only(inputs: dict[str, Path], tmp_path: Path) -> None:
    jobs = train(tmp_path, inputs, max_examples=4, batch_size=4, epochs=1, lora_layers=1)
    names = AdapterModel.load(inputs["models/base"], {"reporter": jobs["models/reporter"].out}).parameters("reporter")
    assert {name.partition(".layers.")[2].partition(".")[0] for name in names} == {"1"}  # the tiny model has layers 0 and 1


def test_more_adapter_layers_than_the_model_has_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match=r"training\.lora_layers = 9.*at most 2"):
        train(tmp_path, inputs, max_examples=4, batch_size=4, epochs=1, lora_layers=9)


# --- the rows


def test_a_training_row_is_shown_nothing_of_its_own_answer(inputs: dict[str, Path], index: EvidenceIndex) -> None:
    rows = [row for row in store.read_examples(inputs["splits/train"]) if not row.is_choice][:24]
    shown, open_book = ([index.for_questions(rows, 3, 400, training=training)] for training in (True, False))

    def own(found: list[list[list[Any]]]) -> list[str]:
        return [
            row.id
            for row, passages in zip(rows, found[0], strict=True)
            for passage in passages
            if passage.id.partition("#")[0] == row.id or passage.text.removeprefix(f"{passage.title}: ") in row.answer
        ]

    assert own(shown) == []
    assert own(open_book)  # what is guarded against is real: the index holds these rows' answers


def test_each_learner_says_something_it_can_say_in_its_budget(chosen: list[QAExample], index: EvidenceIndex, frame: Frame) -> None:
    settings = tiny_settings({"team.max_new_tokens": dict.fromkeys(ROLES, 64)})  # room for the longest names in tiny tokens
    found = [[passage.text for passage in passages] for passages in index.for_questions(chosen, 2, 160, training=True)]
    for row, evidence in zip(chosen, found, strict=True):
        lesson = make_lesson(row, evidence, LEARNERS, frame, settings)
        assert list(lesson.turns) == list(LEARNERS)
        header = frame.header(row, evidence, settings.team.max_header_tokens)
        assert lesson.tokens[: len(header)] == header and lesson.turns[AGENT].context == header
        for learner, turn in lesson.turns.items():
            role = speaker_of(learner)
            assert turn.invocation == frame.invocation(role) and len(turn.completion) <= 64
            assert turn.completion[-1] == frame.end and not frame.forged(turn.completion)
            assert list(turn.context) == lesson.tokens[: len(turn.context)]
            text = str(frame.tokenizer.decode(list(turn.completion[:-1]))).strip()
            assert malformed(text, row.options, ended=True) == ""
            if row.is_choice:
                assert parse_answer(text, row.options) == row.answer
            else:
                assert text and target_for(role, row, evidence).startswith(text[:20])
        contexts = [len(lesson.turns[role].context) for role in ROLES]
        assert contexts == sorted(set(contexts)) and len(lesson.tokens) == contexts[-1]  # each hears those before it
        assert len(lesson) == len(lesson.tokens) + sum(len(turn.completion) for turn in lesson.turns.values())
        for learners in (("planner",), ("analyst", "researcher"), (AGENT,), ("reporter",)):
            alone = make_lesson(row, evidence, learners, frame, settings)  # type: ignore[arg-type]
            assert all(alone.turns[name] == lesson.turns[name] for name in alone.turns)  # whoever learns beside it


def test_rows_are_picked_evenly_over_kinds_and_sources() -> None:
    many = [text_row(n, source="medquad") for n in range(40)] + [text_row(100 + n, source="custom") for n in range(3)]
    many += [choice_row(200 + n, source="synthetic") for n in range(30)]
    picked = sft.pick(many, 20, 0.5, seed=0)
    assert Counter((row.source, row.is_choice) for row in picked) == {("synthetic", True): 10, ("medquad", False): 7, ("custom", False): 3}
    assert picked == sft.pick(many[::-1], 20, 0.5, seed=0)
    assert picked != sft.pick(many, 20, 0.5, seed=1)
    assert len(sft.pick(many, 500, 0.5, seed=0)) == len(many)
    assert all(not row.is_choice for row in sft.pick(many[:43], 20, 0.5, seed=0)) and len(sft.pick(many[43:], 20, 0.5, seed=0)) == 20
    assert sum(row.is_choice for row in sft.pick(many, 20, 0.8, seed=0)) == 16
    assert sft.pick([], 5, 0.5, seed=0) == []


def lesson_of(number: int, length: int) -> Lesson:
    return Lesson([number] * length, {})


def test_an_epoch_holds_every_row_once_in_steps_of_like_length() -> None:
    made = [lesson_of(number, 1 + number * 37 % 90) for number in range(50)]
    steps = optimizer_steps(made, 4, 2, "0/sft")
    assert steps == optimizer_steps(made, 4, 2, "0/sft") != optimizer_steps(made, 4, 2, "1/sft")
    epochs = steps[:13], steps[13:]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(lesson.tokens[0] for step in epoch for lesson in step) == list(range(50))

    def waste(cut: list[list[Lesson]]) -> int:
        return sum(max(map(len, step)) - len(lesson) for step in cut for lesson in step)

    assert waste(steps[:13]) < 0.5 * waste([made[n : n + 4] for n in range(0, 50, 4)])


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), budget=st.integers(1, 100))
def test_passes_hold_every_row_once_and_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    cut = passes([lesson_of(number, length) for number, length in enumerate(lengths)], budget)
    assert sorted(lesson.tokens[0] for part in cut for lesson in part) == list(range(len(lengths)))
    for part in cut:
        assert len(part) * max(map(len, part)) <= budget or len(part) == 1

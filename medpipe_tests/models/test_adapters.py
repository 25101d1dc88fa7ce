"""Activated adapters: what was read once serves everybody, and what is drawn is what is scored. Reinforcement learning stands on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe import store
from medpipe.config import Model, load_profile
from medpipe.errors import MedpipeError
from medpipe.models import base
from medpipe.models.adapters import INVOCATION, AdapterModel, Turn, weights_hash
from medpipe.models.kv_cache import ROOM
from medpipe.models.per_role import PerRole
from medpipe.schema import LEARNERS, ROLES, Role
from medpipe.team.transcript import Frame
from medpipe.training.sft import adapter_config
from medpipe.training.update import TOLERANCE
from medpipe_tests.models.speaking import (
    ADAPTERS,
    COMPLETIONS,
    EXACT,
    ROWS,
    drawn_places,
    gap,
    half_ends,
    held,
    load,
    logps,
    passes,
    places,
    seeded,
)
from medpipe_tests.tiny_team import make_adapters, real_job


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterModel, dict[str, Path]]:
    """The roles with adapters that act on the whole sequence, and their folders."""
    folders = make_adapters(tiny_base, tmp_path_factory.mktemp("whole"), activated=False)
    return load(tiny_base, folders, *ROLES), folders


# --- the same numbers as peft's


def in_peft(tiny_base: Path, folder: Path) -> Any:
    """The adapter as anybody else loads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bare = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    return PeftModel.from_pretrained(bare, str(folder)).eval()


def plain_logps(peft: Any, turn: Turn) -> list[float]:
    """From one forward over the whole sequence."""
    before = [*turn.context, *turn.invocation]
    with torch.inference_mode():
        table = peft(input_ids=torch.tensor([[*before, *turn.completion]])).logits[0].log_softmax(-1)
    return [float(table[len(before) - 1 + n, token]) for n, token in enumerate(turn.completion)]


@pytest.mark.parametrize("role", ["planner", "analyst"])
def test_log_probabilities_equal_pefts_own_activated_forward(
    model: AdapterModel, tiny_base: Path, tiny_adapters: dict[str, Path], frame: Frame, contexts: list[list[int]], role: str
) -> None:
    """Behind a bare header, behind others' turns, and behind a turn of the role's own."""
    own_before = [[*context, *frame.turn(role, [40, 41]), *frame.turn("reporter", [42])] for context in contexts]
    peft = in_peft(tiny_base, tiny_adapters[f"models/{role}"])
    assert list(peft.peft_config["default"].alora_invocation_tokens) == frame.invocation(role)
    for turns in (places(contexts, frame, role), places(own_before, frame, role)):
        expected = [logp for turn in turns for logp in plain_logps(peft, turn)]
        reading = model.read([turn.context for turn in turns])
        assert logps(model, role, turns).tolist() == pytest.approx(expected, abs=EXACT)
        assert logps(model, role, turns, reading).tolist() == pytest.approx(expected, abs=EXACT)
    bare = logps(model, None, turns).tolist()
    assert max(abs(a - b) for a, b in zip(bare, expected, strict=True)) > 100 * EXACT  # the comparison sees the adapter


@pytest.mark.parametrize("role", ["planner", "reporter"])
def test_a_folder_loads_in_plain_peft_and_speaks_the_same_tokens(
    model: AdapterModel, tiny_base: Path, tiny_adapters: dict[str, Path], frame: Frame, contexts: list[list[int]], role: str
) -> None:
    peft = in_peft(tiny_base, tiny_adapters[f"models/{role}"])
    said = model.generate(role, model.read(contexts), frame.invocation(role), 12)
    for context, completion in zip(contexts, said, strict=True):
        before = torch.tensor([[*context, *frame.invocation(role)]])
        with torch.inference_mode():
            out = peft.generate(input_ids=before, attention_mask=torch.ones_like(before), max_new_tokens=12, do_sample=False)
        assert tuple(out[0, before.shape[1] :].tolist()) == completion.tokens


def test_gradients_equal_those_of_pefts_forward_and_reach_no_other_weight(
    tiny_base: Path, tiny_adapters: dict[str, Path], frame: Frame, contexts: list[list[int]]
) -> None:
    """Nothing is lost by stopping the gradient at the turn: no adapter acts before it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = load(tiny_base, tiny_adapters, *ROLES)
    turns = places(contexts, frame, "analyst")
    with model.use("analyst", train=True):
        model.score("analyst", turns, model.read(contexts)).logp_N.sum().backward()
    with_gradient = {name for name, value in model.model.named_parameters() if value.grad is not None and value.grad.abs().max() > 0}
    assert with_gradient == set(model.parameters("analyst"))
    with model.use("planner"):
        assert not model.score("planner", turns).logp_N.requires_grad
    bare = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    peft = PeftModel.from_pretrained(bare, str(tiny_adapters["models/analyst"]), is_trainable=True)
    for turn in turns:
        before = [*turn.context, *turn.invocation]
        table = peft(input_ids=torch.tensor([[*before, *turn.completion]])).logits[0].log_softmax(-1)
        table[len(before) - 1 : -1].gather(1, torch.tensor([turn.completion]).T).sum().backward()
    theirs = {name.replace(".default.", ".analyst."): value.grad for name, value in peft.named_parameters() if "lora_" in name}
    for name, value in model.parameters("analyst").items():
        expected = theirs[name]
        assert value.grad is not None and expected is not None
        assert torch.allclose(value.grad, expected, rtol=1e-3, atol=1e-3), name


@pytest.mark.parametrize("role", ["planner", "reporter"])
def test_whole_sequence_adapters_draw_and_score_as_a_plain_forward(
    whole: tuple[AdapterModel, dict[str, Path]], tiny_base: Path, frame: Frame, contexts: list[list[int]], role: str
) -> None:
    model, folders = whole
    assert not model.activated and model.reader(role) == role
    assert INVOCATION not in {name for name, value in store.read_json(folders[f"models/{role}"] / "adapter_config.json").items() if value}
    peft = in_peft(tiny_base, folders[f"models/{role}"])
    turns = places(contexts, frame, role)
    expected = [logp for turn in turns for logp in plain_logps(peft, turn)]
    assert logps(model, role, turns).tolist() == pytest.approx(expected, abs=EXACT)
    drawn = model.generate(role, model.read(contexts, role), frame.invocation(role), 8, 1.0, seeded(1))
    expected = [logp for turn in drawn_places(contexts, frame, role, drawn) for logp in plain_logps(peft, turn)]
    assert [logp for each in drawn for logp in each.logps] == pytest.approx(expected, abs=EXACT)


def test_scores_and_entropies_of_the_bare_base_equal_a_plain_forward(
    model: AdapterModel, tiny_base: Path, frame: Frame, contexts: list[list[int]]
) -> None:
    bare = AdapterModel.load(tiny_base, {})
    turns = places(contexts, frame, "assistant")
    with torch.inference_mode():
        scored = bare.score(None, turns)
        for row, turn in enumerate(turns):
            before = [*turn.context, *turn.invocation]
            table = bare.model(input_ids=torch.tensor([[*before, *turn.completion]])).logits[0, len(before) - 1 : -1].log_softmax(-1)
            assert scored.entropy_N[scored.row_N == row].tolist() == pytest.approx((-(table.exp() * table).sum(-1)).tolist(), abs=EXACT)
            expected = table.gather(1, torch.tensor([turn.completion]).T)[:, 0].tolist()
            assert scored.logp_N[scored.row_N == row].tolist() == pytest.approx(expected, abs=EXACT)
    assert scored.row_N.tolist() == [row for row, said in enumerate(COMPLETIONS) for _ in said]
    assert logps(model, None, turns).tolist() == pytest.approx(scored.logp_N.tolist(), abs=EXACT)  # beside adapters too
    means = bare.mean_logps(None, turns, batch=4)
    expected = [float(scored.logp_N[scored.row_N == row].mean()) for row in range(6)]
    assert means == pytest.approx(expected, abs=EXACT)
    assert bare.sum_logps(None, turns, batch=1) == pytest.approx(
        [mean * len(said) for mean, said in zip(means, COMPLETIONS, strict=True)], abs=1e-3
    )


# --- drawn = scored


def check_drawn_is_scored(
    model: AdapterModel, contexts: list[list[int]], temperature: float, rows: int, adapters: Sequence[str | None] = ADAPTERS
) -> None:
    """All is drawn before anything is scored, with adapters in turn; messages that end and such as are cut off."""
    frame = Frame(model.tokenizer)
    contexts = (contexts * rows)[:rows]
    reading = model.read(contexts)
    with half_ends(model, temperature):
        drawn = {
            (adapter, budget): model.generate(adapter, reading, frame.invocation(adapter or "assistant"), budget, temperature, seeded(2))
            for adapter in adapters
            for budget in (2, 20)
        }
        assert {completion.ended for each in drawn.values() for completion in each} == {True, False}
        assert len({len(completion.tokens) for each in drawn.values() for completion in each}) > 3
        for (adapter, budget), each in reversed(drawn.items()):
            held = reading if budget == 2 else None  # None: read anew
            assert gap(model, adapter, contexts, each, temperature, held) < TOLERANCE[model.base.dtype]
    free = model.generate("planner", reading, frame.invocation("planner"), 8, temperature, seeded(3))
    assert gap(model, "planner", contexts, free, temperature, reading) < TOLERANCE[model.base.dtype]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_drawn_and_scored_log_probabilities_agree(model: AdapterModel, contexts: list[list[int]], temperature: float) -> None:
    check_drawn_is_scored(model, contexts, temperature, rows=64)


def test_in_bf16_they_agree_within_its_tolerance(tiny_base: Path, tiny_adapters: dict[str, Path], contexts: list[list[int]]) -> None:
    half = load(tiny_base, tiny_adapters, "planner", "reporter", choice=Model(precision="bf16"))
    assert half.base.dtype == torch.bfloat16
    assert {value.dtype for value in half.parameters("planner").values()} == {torch.float32}  # what learns stays whole
    check_drawn_is_scored(half, contexts, 1.0, rows=64)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> AdapterModel:
    """SmolLM2-135M with two adapters on every linear layer, as quickstart trains them."""
    settings = load_profile("quickstart", {"model.precision": "fp32"})
    job = real_job("models/base", settings, {}, tmp_path_factory.mktemp("bundled"))
    base.run(job)
    bare, tokenizer = base.load(job.out, choice=settings.model)
    config = adapter_config(bare, settings.training, settings.model.name)
    made = AdapterModel.with_new(bare, tokenizer, dict.fromkeys(("planner", "reporter"), config), activated=True)
    with torch.no_grad():
        for number, adapter in enumerate(made.adapters):
            for name, value in made.parameters(adapter).items():
                if "lora_B" in name:
                    value.normal_(std=0.02, generator=seeded(number))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_bundled_model_draws_what_it_scores(bundled: AdapterModel, temperature: float) -> None:
    frame = Frame(bundled.tokenizer)
    contexts = [frame.header(row, (), 300) for row in ROWS[:4]]
    contexts[1] += frame.turn("planner", [40, 41])
    check_drawn_is_scored(bundled, contexts, temperature, rows=48, adapters=(None, "reporter"))
    drawn = bundled.generate("planner", bundled.read(contexts), frame.invocation("planner"), 8, temperature, seeded(2))
    assert gap(bundled, None, contexts, drawn, temperature) > 10 * TOLERANCE[torch.float32]  # the adapter says something of its own
    assert gap(bundled, "planner", contexts, drawn, 1.7 - temperature) > 10 * TOLERANCE[torch.float32]


@pytest.mark.slow
def test_the_bundled_models_turns_equal_one_forward_over_the_whole_sequence(bundled: AdapterModel, tmp_path: Path) -> None:
    """With the adapter in peft as the project saves it."""
    from peft import PeftModel

    frame = Frame(bundled.tokenizer)
    contexts = [frame.header(row, (), 300) for row in ROWS[:4]]
    contexts[1] += frame.turn("planner", [40, 41])
    turns = places(contexts, frame, "reporter", COMPLETIONS[:4])
    found = logps(bundled, "reporter", turns).tolist()
    bundled.save_adapter("reporter", tmp_path, frame.invocation("reporter"))
    from copy import deepcopy

    bare = deepcopy(bundled.model).unload()  # the base without our adapters
    bare.set_attn_implementation("sdpa")
    peft = PeftModel.from_pretrained(bare, str(tmp_path)).eval()
    assert found == pytest.approx([logp for turn in turns for logp in plain_logps(peft, turn)], abs=EXACT)


@pytest.mark.parametrize(("drawn_at", "scored_at"), [(0.7, 1.0), (1.0, 0.7)])
def test_a_mixed_up_temperature_or_adapter_is_seen(
    model: AdapterModel, frame: Frame, contexts: list[list[int]], drawn_at: float, scored_at: float
) -> None:
    drawn = model.generate("planner", model.read(contexts), frame.invocation("planner"), 10, drawn_at, seeded(2))
    seen = 10 * TOLERANCE[torch.float32]
    assert gap(model, "planner", contexts, drawn, scored_at) > seen
    turns = drawn_places(contexts, frame, "planner", drawn)
    recorded = torch.tensor([logp for completion in drawn for logp in completion.logps])
    for other in ("analyst", None):
        assert float((logps(model, other, turns, temperature=drawn_at) - recorded).abs().max()) > seen


# --- readings


def test_generating_and_scoring_leave_the_reading_as_it_is(model: AdapterModel, frame: Frame, contexts: list[list[int]]) -> None:
    reading = model.read(contexts)
    before, lengths = held(reading), reading.lengths
    assert lengths == [len(context) for context in contexts]
    first = model.generate("planner", reading, frame.invocation("planner"), ROOM + 20)  # further than the room behind what is held
    model.generate("analyst", reading, frame.invocation("analyst"), 3)
    logps(model, "reporter", places(contexts, frame, "reporter"), reading)
    assert held(reading) == before and reading.lengths == lengths
    assert model.generate("planner", reading, frame.invocation("planner"), ROOM + 20) == first


def pieces(frame: Frame) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Headers, and what three times is added to each; now and then nothing."""
    headers = [frame.header(row, (), 300) for row in ROWS[:4]]
    turns = [frame.turn("planner", [31, 32, 33]), frame.turn("researcher", [34]), [], frame.turn("analyst", [35] * 9)]
    return headers, [turns, [turns[1], [], turns[3], []], [[], turns[3], turns[0], turns[1]]]


@pytest.mark.parametrize("kind", ["activated", "whole"])
def test_reading_in_pieces_equals_reading_whole(
    model: AdapterModel, whole: tuple[AdapterModel, dict[str, Path]], frame: Frame, kind: str
) -> None:
    """Rows of different lengths with holes between what was read, rows taken out and repeated, and branches that were thrown away."""
    used = model if kind == "activated" else whole[0]
    reader = used.reader("reporter")
    headers, added = pieces(frame)
    rows = [2, 0, 0, 3, 1, 2]
    reading = used.read(headers, reader).select(rows)
    texts = [list(headers[row]) for row in rows]
    for more in added:
        now = [more[(row + place) % 4] for place, row in enumerate(rows)]
        used.generate("planner" if kind == "activated" else "reporter", reading, frame.invocation("planner"), 5, 1.0, seeded(0))
        used.extend(reading, now, reader)
        texts = [[*text, *new] for text, new in zip(texts, now, strict=True)]
    used.extend(reading, [[]] * 6, reader)
    assert reading.lengths == [len(text) for text in texts]
    fresh = used.read(texts, reader)
    one, other = (used.generate("reporter", each, frame.invocation("reporter"), 8) for each in (reading, fresh))
    assert [said.tokens for said in one] == [said.tokens for said in other]
    for a, b in zip(one, other, strict=True):
        assert a.logps == pytest.approx(b.logps, abs=EXACT)
    turns = places(texts, frame, "reporter")
    expected = logps(used, "reporter", turns)
    assert torch.allclose(logps(used, "reporter", turns, reading), expected, atol=EXACT)
    few = [4, 1, 4]
    picked = logps(used, "reporter", [turns[row] for row in few], reading.select([1, 4]), [1, 0, 1])
    assert torch.allclose(picked, logps(used, "reporter", [turns[row] for row in few]), atol=EXACT)


def test_a_turn_is_scored_behind_its_own_context_though_more_was_read(model: AdapterModel, frame: Frame) -> None:
    headers, added = pieces(frame)
    reading = model.read(headers)
    for more in added:
        model.extend(reading, more)
    turns = places(headers, frame, "planner", COMPLETIONS[:4])
    assert torch.allclose(logps(model, "planner", turns, reading), logps(model, "planner", turns), atol=EXACT)


def test_samples_of_one_question_share_one_reading(model: AdapterModel, frame: Frame, contexts: list[list[int]]) -> None:
    with passes(model) as seen:
        reading = model.read(contexts[2:3])
        said = model.generate("planner", reading.select([0] * 16), frame.invocation("planner"), 4, 1.0, seeded(0))
    assert seen[0] == (1, len(contexts[2])) and all(columns <= len(frame.invocation("planner")) for _, columns in seen[1:])
    assert gap(model, "planner", [contexts[2]] * 16, said) < TOLERANCE[torch.float32]


def test_long_and_short_rows_are_read_in_passes_of_like_length(
    model: AdapterModel, contexts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules["medpipe.models.adapters"].__dict__["READ_AT_ONCE"], "cpu", 300)
    with passes(model) as seen:
        parts = model.read(contexts)
    assert len(seen) > 1 and all(rows * columns <= 300 or rows == 1 for rows, columns in seen)
    assert sum(rows for rows, _ in seen) == len(contexts)
    monkeypatch.undo()
    once = model.read(contexts)
    assert torch.equal(parts.mask_BT, once.mask_BT)
    for one, other in zip(parts.cache.layers, once.cache.layers, strict=True):
        visible = once.mask_BT[:, None, :, None].bool()
        assert torch.allclose(one.keys * visible, other.keys * visible, atol=1e-4)  # type: ignore[operator]
        assert torch.allclose(one.values * visible, other.values * visible, atol=1e-4)  # type: ignore[operator]


# --- whose weights are whose


def test_an_adapters_weights_are_its_own(model: AdapterModel) -> None:
    names = {adapter: set(model.parameters(adapter)) for adapter in model.adapters}
    assert len(names) == 5 and all(names.values())
    assert sum(map(len, names.values())) == len(set().union(*names.values()))  # "reporter" takes none of "start_reporter"
    assert set().union(*names.values()) == {name for name, _ in model.model.named_parameters() if "lora_" in name}
    hashes = {adapter: weights_hash({n.replace(f".{adapter}.", "."): p for n, p in model.parameters(adapter).items()}) for adapter in names}
    assert len(set(hashes.values())) == 4 and hashes["reporter"] == hashes["start_reporter"]


def test_a_step_of_one_role_leaves_readings_and_all_other_adapters_as_they_are(
    tiny_base: Path, tiny_adapters: dict[str, Path], frame: Frame, contexts: list[list[int]]
) -> None:
    model = load(tiny_base, tiny_adapters, *ROLES)
    reading = model.read(contexts)
    before = held(reading)
    rest = {name: value for name, value in model.model.named_parameters() if name not in model.parameters("planner")}
    weights, own = weights_hash(rest), weights_hash(model.parameters("planner"))
    said = {role: model.generate(role, reading, frame.invocation(role), 6) for role in ROLES[1:]}
    optimizer = torch.optim.AdamW(model.parameters("planner").values(), lr=0.1)
    with model.use("planner", train=True):
        (-model.score("planner", places(contexts, frame, "planner"), reading).logp_N.mean()).backward()
    optimizer.step()
    assert weights_hash(model.parameters("planner")) != own and weights_hash(rest) == weights
    assert held(reading) == before == held(model.read(contexts))
    assert {role: model.generate(role, reading, frame.invocation(role), 6) for role in ROLES[1:]} == said


def test_without_adapter_it_is_the_bare_base(model: AdapterModel, tiny_base: Path, frame: Frame, contexts: list[list[int]]) -> None:
    bare = AdapterModel.load(tiny_base, {})
    invocation = frame.invocation("assistant")
    assert bare.generate(None, bare.read(contexts), invocation, 8) == model.generate(None, model.read(contexts), invocation, 8)
    assert held(bare.read(contexts)) == held(model.read(contexts))


def test_a_base_per_role_says_what_a_shared_one_does(
    model: AdapterModel, tiny_base: Path, tiny_adapters: dict[str, Path], frame: Frame, contexts: list[list[int]]
) -> None:
    own: dict[Role, dict[str, Path]] = {role: {role: tiny_adapters[f"models/{role}"]} for role in ROLES}
    spread = PerRole.load(tiny_base, own, dict.fromkeys(ROLES, "cpu"), base.PLAIN)
    assert len(spread.everyone) == 4 and len({id(spread.of(role)) for role in ROLES}) == 4
    for role in ROLES:
        place = spread.of(role)
        one, other = (each.generate(role, each.read(contexts), frame.invocation(role), 6) for each in (place, model))
        assert one == other
        assert {n: v.tolist() for n, v in spread.parameters(role).items()} == {n: v.tolist() for n, v in model.parameters(role).items()}


# --- folders


def test_a_new_adapter_is_the_same_whoever_is_there_too_and_says_nothing_of_its_own(tiny_base: Path, contexts: list[list[int]]) -> None:
    settings = load_profile("smoke")
    hashes = []
    for names in (("planner",), ("reporter", "planner", "agent")):
        bare, tokenizer = base.load(tiny_base)
        config = adapter_config(bare, settings.training, "qwen3")
        made = AdapterModel.with_new(bare, tokenizer, dict.fromkeys(names, config), activated=True)
        hashes.append(weights_hash(made.parameters("planner")))
        invocation = Frame(tokenizer).invocation("planner")
        one, other = (made.generate(who, made.read(contexts), invocation, 5) for who in ("planner", None))
        assert [said.tokens for said in one] == [said.tokens for said in other]
    assert hashes[0] == hashes[1]


SAVE = """
import sys
from pathlib import Path
from medpipe_tests.tiny_team import make_adapters
import torch
torch.set_num_threads(1)
make_adapters(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_folder_has_the_same_bytes_from_another_process_and_no_path_of_this_machine(
    tiny_base: Path, tiny_adapters: dict[str, Path], frame: Frame, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", SAVE, str(tiny_base), str(tmp_path)], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    for learner in LEARNERS:
        folder = tiny_adapters[f"models/{learner}"]
        assert store.hash_tree(folder) == store.hash_tree(tmp_path / learner)
        config = store.read_json(folder / "adapter_config.json")
        assert config["target_modules"] == sorted(config["target_modules"]) and config["base_model_name_or_path"] == "qwen3"
        assert config[INVOCATION] == frame.invocation("reporter" if learner == "agent" else learner)
        assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "training_stats.json"}
        assert not [path for path in folder.glob("*.json") if str(folder.parent) in path.read_text() or str(tiny_base) in path.read_text()]


def test_a_folder_without_an_adapter_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match=r"got no adapter for planner.*adapter_config\.json.*materialise it again"):
        AdapterModel.load(tiny_base, {"planner": tmp_path})


def test_adapters_of_two_kinds_are_refused(
    tiny_base: Path, tiny_adapters: dict[str, Path], whole: tuple[AdapterModel, dict[str, Path]]
) -> None:
    with pytest.raises(MedpipeError, match=r"activated and whole-sequence adapters together.*planner, reporter.*training\.adapter"):
        AdapterModel.load(tiny_base, {"planner": tiny_adapters["models/planner"], "reporter": whole[1]["models/reporter"]})


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 32}])
def test_a_folder_of_another_base_is_refused(tiny_base: Path, tmp_path: Path, tokenizer: Any, changes: dict[str, int]) -> None:
    from transformers import AutoModelForCausalLM, Qwen3Config

    bare, _ = base.load(tiny_base)
    config = adapter_config(bare, load_profile("smoke").training, "qwen3")
    made = AdapterModel.with_new(bare, tokenizer, {"planner": config}, activated=True)
    made.save_adapter("planner", tmp_path / "planner", Frame(tokenizer).invocation("planner"))
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    other = Qwen3Config(vocab_size=len(tokenizer), head_dim=16, **{**sizes, **changes})
    AutoModelForCausalLM.from_config(other, dtype=torch.float32).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(MedpipeError, match=r"got \d+ weights that are missing, unknown or of another shape.*planner.*another base model"):
        AdapterModel.load(tmp_path / "other", {"planner": tmp_path / "planner"})


def test_one_bit_changes_the_hash_and_order_does_not() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.ones(2, 2, dtype=torch.bfloat16)
    assert weights_hash({"a": a, "b": b}) == weights_hash({"b": b, "a": a.clone()})
    flipped = a.clone()
    flipped.view(torch.int32)[0] ^= 1
    assert len({weights_hash({"a": a}), weights_hash({"a": flipped}), weights_hash({"b": a}), weights_hash({"a": a.double()})}) == 4

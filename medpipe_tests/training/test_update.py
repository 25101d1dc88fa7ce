"""One MAPoRL update on a real tiny team: the rewarded message gets likelier, and nothing moves that should not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from medpipe.config import Maporl, Rewards
from medpipe.config import Team as Rules
from medpipe.errors import MedpipeError
from medpipe.models.adapters import AdapterModel, weights_hash
from medpipe.models.adapters import Turn as Place
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.transcript import Frame
from medpipe.team.workflow import Readings, Team, rollout
from medpipe.training.advantages import Cell, leave_one_out, normalise
from medpipe.training.maporl import _cut
from medpipe.training.measures import measure, tokens_of
from medpipe.training.update import TOLERANCE, Batch, Learner, learners_of, shaped, targets, update
from medpipe_tests.tiny_team import BUDGETS, choice_row, text_row

PLAIN = Maporl(alpha0=0, alpha1=0, beta0=0, beta1=0, kl=0, minibatch=3, steps_per_batch=1, team_share=0)
RULES = Rules(max_rounds_per_episode=1, max_header_tokens=300, max_new_tokens=cast(Any, BUDGETS))
TWO_ROUNDS = RULES.model_copy(update={"max_rounds_per_episode": 2, "consensus_share": 1.0})
NO_PENALTY = Rewards(malformed_penalty=0)
ON_POLICY = TOLERANCE[torch.float32]


@pytest.fixture(scope="module")
def loaded(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AdapterModel:
    names = {name: tiny_adapters[f"models/{role}"] for role in ROLES for name in (role, f"start_{role}")}
    return AdapterModel.load(tiny_base, names)


@pytest.fixture
def team(loaded: AdapterModel) -> Iterator[AdapterModel]:
    """Four learning roles and their frozen starts on one base; what a test changes is put back after it."""
    kept = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
    yield loaded
    put_back(loaded, kept)


def put_back(model: AdapterModel, kept: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.model.named_parameters():
            value.copy_(kept[name])
            value.grad = None


def learners_with(model: AdapterModel, rate: float = 3e-4, kind: Any = torch.optim.AdamW) -> dict[Role, Learner]:
    return {role: Learner(role, role, model, kind(model.parameters(role).values(), lr=rate, weight_decay=0.0)) for role in ROLES}


def played(model: AdapterModel, temperature: float = 1.0, samples: int = 4, rules: Rules = RULES) -> Batch:
    """Every message is worth a half; two questions, one of them free text."""
    crew = Team(model, {role: role for role in ROLES}, rules, temperature, torch.Generator().manual_seed(5))
    episodes = crew.begin([choice_row(1), text_row(2)], [["asthma: Wheezing."], []], samples)
    readings = rollout(crew, episodes)
    for turn in turns_of(batch := Batch(episodes, readings)):
        turn.value = 0.5
    return batch


def turns_of(batch: Batch) -> list[Turn]:
    return [turn for episode in batch.episodes for turn in episode.turns]


def mixed(batch: Batch) -> Batch:
    """Worth this and that."""
    for number, turn in enumerate(turns_of(batch)):
        turn.value = (number * 7 % 10) / 10
    return batch


def hashes(model: AdapterModel) -> dict[str, str]:
    """One hash per adapter and one for the base."""
    adapters = {name: weights_hash(model.parameters(name)) for name in model.adapters}
    return {**adapters, "base": weights_hash({n: p for n, p in model.model.named_parameters() if "lora_" not in n})}


def moved(model: AdapterModel, before: dict[str, str]) -> set[str]:
    return {name for name, now in hashes(model).items() if now != before[name]}


def place(model: AdapterModel, episode: Episode, turn: Turn) -> Place:
    return Place(episode.before(turn), Frame(model.tokenizer).invocation(turn.role), turn.tokens)


def logp(model: AdapterModel, episode: Episode, turn: Turn) -> float:
    return model.sum_logps(turn.role, [place(model, episode, turn)], 1)[0]


def step(model: AdapterModel, batch: Batch | Sequence[Batch], settings: Maporl, **options: Any) -> dict[str, float]:
    batches = [batch] if isinstance(batch, Batch) else batch
    learn = options.pop("learners", None) or learners_with(model)
    goals = {cell: goal for one in batches for cell, goal in targets(one, settings, options.pop("rewards", NO_PENALTY)).items()}
    return update(learn, batches, options.pop("goals", goals), settings, **options)


def gradient_norm(model: AdapterModel, episode: Episode, turn: Turn) -> float:
    with model.use(turn.role, train=True):
        model.score(turn.role, [place(model, episode, turn)]).logp_N.sum().backward()
    values = [value for value in model.parameters(turn.role).values() if value.grad is not None]
    total = sum(float(value.grad.pow(2).sum()) for value in values if value.grad is not None) ** 0.5
    for value in values:
        value.grad = None
    return total


# --- what a step does


@pytest.mark.parametrize("role", ROLES)
def test_a_step_makes_the_rewarded_message_likelier_and_moves_no_other_weight(team: AdapterModel, role: Role) -> None:
    """Messages share words, so lowering one may lower another. For the message with the largest gradient g the first-order
    gain g·(g − mean of the others' gradients) can't be negative, whatever the messages are; so the step is a small one.
    """
    batch = played(team)
    four = batch.episodes[:4]
    own = [episode.turn(0, role) for episode in four]
    assert len({turn.tokens for turn in own}) > 1
    best = max(range(4), key=lambda number: gradient_norm(team, four[number], own[number]))
    for number, turn in enumerate(own):
        turn.value = float(number == best)
    before, was = hashes(team), [logp(team, *pair) for pair in zip(four, own, strict=True)]
    step(team, batch, PLAIN, learners=learners_with(team, 0.02, torch.optim.SGD))
    gains = [logp(team, *pair) - old for pair, old in zip(zip(four, own, strict=True), was, strict=True)]
    rewarded = gains.pop(best)
    assert rewarded > 0
    assert rewarded > sum(gains) / 3
    assert moved(team, before) == {role}  # base, starts and the other roles: the same bytes


def by_hand(model: AdapterModel, batch: Batch, role: Role, settings: Maporl, temperature: float) -> torch.Tensor:
    """The gradient of the role's step, from what was said read anew: token mean of advantage × log-probability, and the KL term."""
    advantages = normalise(leave_one_out(targets(batch, settings, NO_PENALTY)))
    items = [(e, t) for e in batch.episodes for t in e.turns if t.role == role]
    places = [place(model, *item) for item in items]
    with model.use(f"start_{role}"), torch.no_grad():
        frozen_N = model.score(f"start_{role}", places, temperature=temperature).logp_N
    model.model.zero_grad(set_to_none=True)
    with model.use(role, train=True):
        scored = model.score(role, places, temperature=temperature)
    apart_N = frozen_N - scored.logp_N
    own = torch.tensor([advantages[Cell(e.question.id, e.sample, role, t.round)] for e, t in items])
    loss_N = settings.kl * (apart_N.exp() - 1 - apart_N) - own[scored.row_N] * scored.logp_N
    loss_N.mean().backward()
    found = torch.cat([value.grad.flatten() for value in model.parameters(role).values() if value.grad is not None])
    model.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(("kl", "temperature"), [(0.0, 1.0), (0.5, 0.7)])
def test_a_steps_gradient_is_the_one_worked_out_anew(team: AdapterModel, kl: float, temperature: float) -> None:
    """By plain SGD at rate 1 the step is the gradient; the policies have left their starts, so the KL term pulls."""
    settings = PLAIN.model_copy(update={"kl": kl, "temperature": temperature, "team_share": 0.5, "gradient_clip": 1e9, "gamma": 0.3})
    with torch.no_grad():
        for role in ROLES:
            for name, value in team.parameters(role).items():
                if "lora_B" in name:
                    value.mul_(1.05)
    batch = mixed(played(team, temperature, rules=TWO_ROUNDS))
    expected = {role: by_hand(team, batch, role, settings, temperature) for role in ROLES}
    before = {role: torch.cat([value.detach().flatten() for value in team.parameters(role).values()]) for role in ROLES}
    step(team, batch, settings, learners=learners_with(team, 1.0, torch.optim.SGD))
    for role in ROLES:
        found = before[role] - torch.cat([value.detach().flatten() for value in team.parameters(role).values()])
        assert float(expected[role].abs().max()) > 0.01
        assert torch.allclose(found, expected[role], rtol=1e-3, atol=2e-4 * float(expected[role].abs().max())), role


def test_where_all_samples_fare_alike_nothing_moves(team: AdapterModel) -> None:
    before = hashes(team)
    numbers = step(team, played(team, samples=2), PLAIN)
    assert not moved(team, before) and numbers["gradient_norm"] == 0.0


def test_what_teaches_nothing_is_left_out_and_changes_no_weight(team: AdapterModel) -> None:
    batch = mixed(played(team))
    goals = {cell: goal for cell, goal in targets(batch, PLAIN, NO_PENALTY).items() if cell.question == "choice-1"}
    kept, weights = {name: value.detach().clone() for name, value in team.model.named_parameters()}, []
    for used in (batch, Batch(batch.episodes[:4], batch.readings)):
        put_back(team, kept)
        step(team, used, PLAIN, goals=goals)
        weights.append(hashes(team))
    assert weights[0] == weights[1]
    assert step(team, batch, PLAIN, goals={}) == {}  # nothing at all to learn from


def test_all_roles_learn_while_base_and_references_stay(team: AdapterModel) -> None:
    """The whole loss, two rounds, two epochs of two steps."""
    settings = Maporl(kl=0.1, epochs=2, minibatch=5, steps_per_batch=2)
    before = hashes(team)
    numbers = step(team, mixed(played(team, samples=2, rules=TWO_ROUNDS)), settings)
    assert moved(team, before) == set(ROLES)
    assert numbers["on_policy_gap"] < ON_POLICY and numbers["entropy"] > 0
    assert 0 < numbers["kl"] < 0.1 and numbers["gradient_norm"] > 0 and 0 <= numbers["clip_fraction"] <= 1
    assert {f"{name}/{role}" for name in ("kl", "entropy") for role in ROLES} <= set(numbers)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_batch_is_cut_into_steps_and_clip_acts_after_the_first(team: AdapterModel, steps: int) -> None:
    """With a rate that moves the weights far, ratios leave the clip range as soon as weights have moved, and not before."""
    counted: list[str] = []

    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            counted.append("step")
            return super().step(closure)

    settings = PLAIN.model_copy(update={"steps_per_batch": steps})
    numbers = step(team, mixed(played(team)), settings, learners=learners_with(team, 3.0, Counting), seed="s")
    assert len(counted) == steps * len(ROLES)
    assert (numbers["clip_fraction"] > 0.0) == (steps > 1)
    assert numbers["on_policy_gap"] < ON_POLICY  # looked at before the first step, and there only


def test_every_message_is_learned_from_once_an_epoch(team: AdapterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, seen = mixed(played(team)), count_scores(monkeypatch)
    step(team, batch, PLAIN.model_copy(update={"steps_per_batch": 3, "epochs": 2}), seed="s")
    for role in ROLES:
        own = sorted(turn.tokens for turn in turns_of(batch) if turn.role == role)
        assert sorted(tokens for name, part in seen if name == role for tokens in part) == sorted(own * 2)


def count_scores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, list[tuple[int, ...]]]]:
    """Each call of `score`: the adapter and its messages."""
    seen: list[tuple[str | None, list[tuple[int, ...]]]] = []
    true = AdapterModel.score

    def score(self: AdapterModel, adapter: str | None, turns: Sequence[Place], *rest: Any, **more: Any) -> Any:
        seen.append((adapter, [tuple(turn.completion) for turn in turns]))
        return true(self, adapter, turns, *rest, **more)

    monkeypatch.setattr(AdapterModel, "score", score)
    return seen


@pytest.mark.parametrize(("kl", "look", "asked"), [(0.0, False, False), (0.0, True, True), (0.1, False, True)])
def test_without_kl_no_pass_goes_through_the_reference(
    team: AdapterModel, monkeypatch: pytest.MonkeyPatch, kl: float, look: bool, asked: bool
) -> None:
    batch, seen = mixed(played(team)), count_scores(monkeypatch)
    numbers = step(team, batch, PLAIN.model_copy(update={"kl": kl}), reference=look)
    assert {str(name).startswith("start_") for name, _ in seen} == ({True, False} if asked else {False})
    assert ("kl" in numbers) == asked
    if asked:  # policy and reference are one before the first step
        assert numbers["kl"] < 1e-7 and numbers["clip_fraction"] == 0.0
        references = [tokens for name, part in seen if str(name).startswith("start_") for tokens in part]
        assert sorted(references) == sorted(turn.tokens for turn in turns_of(batch))


def test_the_size_of_a_minibatch_does_not_change_the_step(team: AdapterModel) -> None:
    """Messages of unlike lengths: the token mean is over the role's whole step."""
    batch, weights = mixed(played(team, samples=2)), []
    kept = {name: value.detach().clone() for name, value in team.model.named_parameters()}
    for size in (1, 3, 8):
        put_back(team, kept)
        step(team, batch, PLAIN.model_copy(update={"minibatch": size, "kl": 0.1}), learners=learners_with(team, 1.0, torch.optim.SGD))
        weights.append(torch.cat([value.detach().flatten() for value in team.parameters("reporter").values()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-5) and torch.allclose(weights[0], weights[2], atol=1e-5)


# --- gae


def test_gae_moves_the_adapters_and_their_value_heads(team: AdapterModel) -> None:
    settings = PLAIN.model_copy(update={"advantage": "gae", "learning_rate": 1e-3})
    batch = mixed(played(team, samples=2))
    learn, before = learners_of(team, {role: role for role in ROLES}, settings), hashes(team)
    numbers = [step(team, batch, settings, learners=learn, exact=False) for _ in range(12)]
    assert moved(team, before) == set(ROLES)
    for role, learner in learn.items():
        assert learner.head is not None and float(learner.head.linear.weight.detach().abs().max()) > 0, role
    assert numbers[-1]["value_loss"] < 0.7 * numbers[0]["value_loss"]  # values come nearer to what the messages brought


def test_gae_makes_what_was_paid_likelier(team: AdapterModel) -> None:
    settings = PLAIN.model_copy(update={"advantage": "gae", "learning_rate": 1e-3})
    batch = played(team)
    four = batch.episodes[:4]
    best = max(four, key=lambda episode: gradient_norm(team, episode, episode.turn(0, "analyst")))
    for turn in turns_of(batch):
        turn.value = float(turn is best.turn(0, "analyst"))
    before = logp(team, best, best.turn(0, "analyst"))
    step(team, batch, settings, learners=learners_of(team, {role: role for role in ROLES}, settings))
    assert logp(team, best, best.turn(0, "analyst")) > before


# --- guards


@pytest.mark.parametrize("settings", [PLAIN, PLAIN.model_copy(update={"temperature": 0.7})])
def test_messages_drawn_at_another_temperature_stop_the_run(team: AdapterModel, settings: Maporl) -> None:
    drawn_at = 0.7 if settings.temperature == 1.0 else 1.0
    batch, before = played(team, drawn_at, samples=2), hashes(team)
    with pytest.raises(MedpipeError, match=r"log-probability difference of .* between drawing and scoring.*role planner"):
        step(team, batch, settings)
    assert not moved(team, before)
    assert step(team, batch, settings, exact=False)["on_policy_gap"] > ON_POLICY  # recorded, where it can't be enforced


def test_messages_drawn_at_the_settings_temperature_are_on_policy(team: AdapterModel) -> None:
    assert step(team, played(team, 0.7, samples=2), PLAIN.model_copy(update={"temperature": 0.7}))["on_policy_gap"] < ON_POLICY


def test_messages_of_another_adapter_stop_the_run(team: AdapterModel) -> None:
    batch = played(team, samples=2)
    with torch.no_grad():
        for name, value in team.parameters("planner").items():
            if "lora_B" in name:
                value.mul_(3.0)
    with pytest.raises(MedpipeError, match="sampling and training disagree"):
        step(team, batch, PLAIN)


def test_a_policy_far_from_its_start_stops_the_run(team: AdapterModel) -> None:
    with torch.no_grad():
        for name, value in team.parameters("planner").items():
            if "lora_B" in name:
                value.mul_(3.0)
    batch = mixed(played(team, samples=2))
    with pytest.raises(MedpipeError, match=r"KL of .* nats per token.*at most maporl\.max_kl = 1e-05"):
        step(team, batch, PLAIN.model_copy(update={"max_kl": 1e-5}), reference=True)


# --- alternatives at one context


def tree(model: AdapterModel, samples: int = 3) -> list[Batch]:
    """As medpipe/training/maporl.py plays them: alternatives of each role behind what the first sample of each question said."""
    crew = Team(model, {role: role for role in ROLES}, RULES, 1.0, torch.Generator().manual_seed(5))
    episodes = crew.begin([choice_row(1), text_row(2)], [[], []], samples)
    batches: list[Batch] = []
    for number, role in enumerate(ROLES):
        if number:
            stems = [episode for episode in batches[-1].episodes if episode.sample == 0]
            episodes = [_cut(stem, number, sample) for stem in stems for sample in range(samples)]
        batches.append(Batch(episodes, rollout(crew, episodes), learns=role))
        for place_, turn in enumerate(turns_of(batches[-1])):
            if turn.value is None:
                turn.value = (place_ * 7 % 10) / 10
    return batches


def test_alternatives_share_one_context_and_only_their_own_messages_are_learned(
    team: AdapterModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = tree(team)
    assert [batch.learns for batch in batches] == list(ROLES)
    for batch, role in zip(batches, ROLES, strict=True):
        for question in ("choice-1", "text-2"):
            alternatives = [episode for episode in batch.episodes if episode.question.id == question]
            assert len(alternatives) == 3 and [episode.sample for episode in alternatives] == [0, 1, 2]
            assert len({tuple(episode.before(episode.turn(0, role))) for episode in alternatives}) == 1
            assert all([turn.role for turn in episode.turns] == list(ROLES) for episode in alternatives)  # each goes on to the end
            for kept in range(ROLES.index(role)):
                assert len({id(episode.turns[kept]) for episode in alternatives}) == 1
    goals = {cell: goal for batch in batches for cell, goal in targets(batch, PLAIN, NO_PENALTY).items()}
    assert {(cell.role, cell.round) for cell in goals} == {(role, 0) for role in ROLES} and len(goals) == 4 * 2 * 3
    # The baseline of a message is the mean of the other alternatives at its context.
    for batch, role in zip(batches, ROLES, strict=True):
        own = {e.sample: e.turn(0, role).scored for e in batch.episodes if e.question.id == "choice-1"}
        for sample, value in own.items():
            others = [other for number, other in own.items() if number != sample]
            assert leave_one_out(goals)[Cell("choice-1", sample, role, 0)] == pytest.approx(value - sum(others) / 2)
    seen, before = count_scores(monkeypatch), hashes(team)
    step(team, batches, PLAIN, exact=True)
    for batch, role in zip(batches, ROLES, strict=True):
        learned = sorted(tokens for name, part in seen if name == role for tokens in part)
        assert learned == sorted(episode.turn(0, role).tokens for episode in batch.episodes)
    assert moved(team, before) == set(ROLES)


def test_only_what_was_drawn_counts_as_drawn(team: AdapterModel) -> None:
    batches = tree(team)
    behind = sum(len(turn.tokens) for batch, role in zip(batches, ROLES, strict=True)
                 for turn in turns_of(batch) if ROLES.index(turn.role) >= ROLES.index(role))  # fmt: skip
    assert tokens_of(batches) == behind < sum(len(turn.tokens) for batch in batches for turn in turns_of(batch))
    whole = mixed(played(team))
    assert tokens_of([whole]) == sum(len(turn.tokens) for turn in turns_of(whole))


# --- targets, without a model


def episode_of(question: QAExample, answers: list[str], values: list[list[float]], bad: tuple[tuple[int, int], ...] = ()) -> Episode:
    """An episode from one string of letters per round and V by round."""
    turns = [
        Turn(role, t, 1, (2,), (-0.1,), "text", said if question.is_choice else None, "no answer" if (t, a) in bad else "", values[t][a])
        for t, letters in enumerate(answers)
        for a, (role, said) in enumerate(zip(ROLES, letters, strict=True))
    ]  # fmt: skip
    return Episode(question, [], [1], 0, turns)


def batch_of(episode: Episode) -> Batch:
    return Batch([episode], Readings([episode]))


def found(episode: Episode, settings: Maporl, rewards: Rewards = NO_PENALTY) -> list[list[float]]:
    """G by round and role."""
    goals = targets(batch_of(episode), settings, rewards)
    return [[goals[Cell(episode.question.id, 0, role, t)] for role in ROLES] for t in range(episode.rounds)]


def test_targets_are_return_plus_shaping() -> None:
    settings = Maporl(gamma=0.3, alpha0=1, alpha1=2, beta0=4, beta1=8, team_share=0)
    values = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0] * 4]
    episode = episode_of(choice_row(), ["BAAA", "BBBA", "BBBB"], values)
    weight = 1 + 0.3 + 0.09
    first = [(v + 0.3 * 0.75 + 0.09 * 1.0) / weight for v in values[0]]
    second = [(v + 0.3 * 1.0) / 1.3 for v in values[1]]
    expected = [[8, 4, 4, 4], [0, 1, 1, 0], [0, 0, 0, 2]]
    for row, own, bonus in zip(found(episode, settings), (first, second, values[2]), expected, strict=True):
        assert row == pytest.approx([r + s for r, s in zip(own, bonus, strict=True)])
    assert list(shaped(batch_of(episode), settings).values()) == [float(b) for row in expected for b in row]


def test_half_of_every_target_is_the_teams_answer() -> None:
    """The golden numbers of docs/maporl.md: in one round, so nothing else speaks of the team."""
    settings = PLAIN.model_copy(update={"team_share": 0.5})
    for values, expected in (([1.0, 0.0, 1.0, 1.0], [1, 0.5, 1, 1]), ([1.0, 0.0, 1.0, 0.0], [0.5, 0, 0.5, 0])):
        assert found(episode_of(choice_row(), ["BABA"], [values]), settings) == [expected]


def test_a_free_text_question_has_no_shaping() -> None:
    settings = Maporl(gamma=0.0, alpha0=1, alpha1=2, beta0=4, beta1=8, team_share=0)
    values = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]
    assert found(episode_of(text_row(), ["----", "----"], values), settings) == values


def test_a_malformed_message_is_penalised_in_its_own_cell_only() -> None:
    values, answers = [[0.5, 0.0, 0.5, 0.5], [0.5] * 4], ["BBBB", "BBBB"]
    good, bad = (found(episode_of(choice_row(), answers, values, at), PLAIN, Rewards(malformed_penalty=0.25)) for at in ((), ((0, 1),)))
    changed = {(t, a): bad[t][a] - good[t][a] for t in range(2) for a in range(4) if bad[t][a] != good[t][a]}
    assert changed == {(0, 1): pytest.approx(-0.25)}


def test_a_malformed_mates_zero_takes_nothing_from_the_others_returns() -> None:
    values = [[1.0] * 4, [1.0, 0.0, 1.0, 1.0]]
    masked, counted = (found(episode_of(choice_row(), ["BBBB", "BBBB"], values, at), PLAIN) for at in (((1, 1),), ()))
    assert masked[0] == pytest.approx([1.0] * 4) and max(counted[0]) < 1.0


def test_an_early_stopped_episode_has_the_targets_of_a_truncated_one() -> None:
    """Cells that never happened have no target, and no say in the targets of those that did."""
    settings = Maporl(alpha0=1, alpha1=2, beta0=4, beta1=8)
    row, values = choice_row(), [[0.2, 0.9, 0.4, 0.1], [0.7, 0.3, 1.0, 0.0], [0.6] * 4]
    whole = episode_of(row, ["ABAB", "BBAB", "BBBB"], values)
    whole.turns = [turn for turn in whole.turns if turn.round < 2]
    stopped = found(whole, settings)
    assert stopped == found(episode_of(row, ["ABAB", "BBAB"], values[:2]), settings) and len(stopped) == 2


def test_a_message_that_was_not_scored_is_an_error_not_a_zero() -> None:
    episode = episode_of(choice_row(), ["BBBB"], [[0.5] * 4])
    episode.turn(0, "analyst").value = None
    with pytest.raises(ValueError, match="no score for the analyst's message"):
        targets(batch_of(episode), PLAIN, NO_PENALTY)


# --- what is measured


def test_measures_stand_on_what_was_played_and_leave_out_what_has_nothing_to_stand_on() -> None:
    one = episode_of(choice_row(1), ["BAAB", "BBAA"], [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]], bad=((1, 3),))
    batch = batch_of(one)
    goals, bonus = targets(batch, PLAIN, NO_PENALTY), shaped(batch, PLAIN)
    numbers = measure([batch], goals, bonus)
    assert numbers["answer_accuracy"] == 0.0 and numbers["reward/team"] == 0.0 and numbers["rounds"] == 2
    assert numbers["malformed"] == pytest.approx(1 / 8) and numbers["malformed/reporter"] == 0.5
    assert (numbers["wrong_to_right/researcher"], numbers["right_to_wrong/reporter"]) == (1.0, 1.0)
    assert (numbers["copies_planner/reporter"], numbers["copies_planner/analyst"]) == (1.0, 0.0) and "copies_planner/planner" not in numbers
    short = dataclasses.replace(batch_of(episode_of(text_row(), ["----"], [[0.5] * 4])))
    numbers = measure([short], targets(short, PLAIN, NO_PENALTY), shaped(short, PLAIN))
    assert not [name for name in numbers if name.startswith(("wrong_to_right", "copies", "correct", "answer"))]

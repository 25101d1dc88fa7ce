"""One MAPoRL step on a real tiny team: the rewarded message gets likelier, and nothing moves that should not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from medpipe.config import Maporl, Rewards, Team
from medpipe.errors import MedpipeError
from medpipe.models.policy import Policies, weights_hash
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.workflow import Crew, play
from medpipe.training.advantages import Cell
from medpipe.training.update import ON_POLICY_TOLERANCE, Learner, learners_of, targets, update
from medpipe_tests.tiny_team import BUDGETS, choice_row, text_row

PLAIN = Maporl(alpha0=0, alpha1=0, beta0=0, beta1=0, kl=0, minibatch=3)
RULES = Team(max_rounds_per_episode=1, max_prompt_tokens=300, max_new_tokens=cast(Any, BUDGETS))
NO_PENALTY = Rewards(malformed_penalty=0)


@pytest.fixture(scope="module")
def loaded(tiny_base: Path, tiny_adapters: dict[str, Path]) -> Policies:
    return Policies.load(tiny_base, {name: tiny_adapters[f"models/{role}"] for role in ROLES for name in (role, f"start_{role}")})


@pytest.fixture
def learners(loaded: Policies) -> Iterator[Policies]:
    """Four learning roles and their frozen starts on one base; what a test changes is put back after it."""
    kept = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
    yield loaded
    put_back(loaded, kept)


def put_back(policies: Policies, kept: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in policies.model.named_parameters():
            value.copy_(kept[name])
            value.grad = None


def learners_with(policies: Policies, rate: float = 3e-4, kind: Any = torch.optim.AdamW) -> dict[Role, Learner]:
    return {role: Learner(role, policies, kind(policies.parameters(role).values(), lr=rate, weight_decay=0.0)) for role in ROLES}


def played(policies: Policies, temperature: float = 1.0, samples: int = 4, rules: Team = RULES) -> list[Episode]:
    episodes = [Episode(row, [], n) for row in (choice_row(1), text_row(2)) for n in range(samples)]
    crew = Crew(policies, {role: role for role in ROLES}, rules, temperature, torch.Generator().manual_seed(5))
    for turn in (turn for episode in play(crew, episodes) for turn in episode.turns):
        turn.value = 0.5
    return episodes


def hashes(policies: Policies) -> dict[str, str]:
    """One hash per adapter and one for the base."""
    adapters = {name: weights_hash(policies.parameters(name)) for name in policies.adapters}
    return {**adapters, "base": weights_hash({n: p for n, p in policies.model.named_parameters() if "lora_" not in n})}


def logp(policies: Policies, role: str, turn: Turn) -> float:
    return policies.mean_logp(role, [turn.prompt], [turn.tokens], 1)[0] * len(turn.tokens)


def step(policies: Policies, episodes: list[Episode], settings: Maporl, **options: Any) -> dict[str, float]:
    learn = options.pop("learners", None) or learners_with(policies)
    goals = targets(episodes, settings, NO_PENALTY)
    return update(learn, episodes, goals, settings, options.pop("exact", True))


def gradient_norm(policies: Policies, role: str, turn: Turn) -> float:
    with policies.use(role, train=True):
        policies.score([turn.prompt], [turn.tokens]).logp_N.sum().backward()
    values = [value for value in policies.parameters(role).values() if value.grad is not None]
    total = sum(float(value.grad.pow(2).sum()) for value in values if value.grad is not None) ** 0.5
    for value in values:
        value.grad = None
    return total


@pytest.mark.parametrize("role", ROLES)
def test_a_step_makes_the_rewarded_message_likelier_and_moves_no_other_weight(learners: Policies, role: Role) -> None:
    """Messages share words, so lowering one may lower another. For the message with the largest gradient g the first-order
    gain g·(g − mean of the others' gradients) can't be negative, whatever the messages are; so the step is a small one.
    """
    episodes = played(learners)
    turns = [episode.turn(0, role) for episode in episodes[:4]]
    assert len({turn.tokens for turn in turns}) > 1
    best = max(range(4), key=lambda number: gradient_norm(learners, role, turns[number]))
    for number, turn in enumerate(turns):
        turn.value = float(number == best)
    before, was = hashes(learners), [logp(learners, role, turn) for turn in turns]
    step(learners, episodes, PLAIN, learners=learners_with(learners, 0.02, torch.optim.SGD))
    now, after = [logp(learners, role, turn) for turn in turns], hashes(learners)
    gains = [new - old for new, old in zip(now, was, strict=True)]
    rewarded = gains.pop(best)
    assert rewarded > 0
    assert rewarded > sum(gains) / 3
    assert {name for name in before if before[name] != after[name]} == {role}  # base, starts and the other roles: the same bytes


def test_where_all_samples_fare_alike_nothing_moves(learners: Policies) -> None:
    before = hashes(learners)
    numbers = step(learners, played(learners, samples=2), PLAIN)
    assert hashes(learners) == before
    assert numbers["zero_variance"] == 1.0 and numbers["gradient_norm"] == 0.0


def test_all_roles_learn_while_base_and_references_stay(learners: Policies) -> None:
    """The whole loss, two rounds, two epochs."""
    settings = Maporl(kl=0.1, epochs=2, minibatch=5)
    episodes = played(learners, samples=2, rules=RULES.model_copy(update={"max_rounds_per_episode": 2, "consensus_share": 1.0}))
    for number, turn in enumerate(turn for episode in episodes for turn in episode.turns):
        turn.value = (number * 7 % 10) / 10
    before = hashes(learners)
    numbers = step(learners, episodes, settings)
    after = hashes(learners)
    assert {name for name in before if before[name] != after[name]} == set(ROLES)
    assert numbers["on_policy_gap"] < ON_POLICY_TOLERANCE and numbers["entropy"] > 0
    assert 0 < numbers["kl"] < 0.1 and numbers["gradient_norm"] > 0
    assert 0 <= numbers["clip_fraction"] <= 1


def test_gae_moves_the_adapters_and_their_value_heads(learners: Policies) -> None:
    settings = PLAIN.model_copy(update={"advantage": "gae", "learning_rate": 1e-3})
    episodes = played(learners, samples=2)
    for number, turn in enumerate(turn for episode in episodes for turn in episode.turns):
        turn.value = (number * 7 % 10) / 10
    learn = learners_of(learners, settings)
    before = hashes(learners)
    numbers = [step(learners, episodes, settings, learners=learn, exact=False) for _ in range(12)]
    assert {name for name in before if before[name] != hashes(learners)[name]} == set(ROLES)
    for role, learner in learn.items():
        assert learner.head is not None and float(learner.head.linear.weight.detach().abs().max()) > 0, role
    assert numbers[-1]["value_loss"] < 0.7 * numbers[0]["value_loss"]  # values come nearer to what the messages brought


def test_gae_makes_what_was_paid_likelier(learners: Policies) -> None:
    settings = PLAIN.model_copy(update={"advantage": "gae", "learning_rate": 1e-3})
    episodes = played(learners)
    turns = [episode.turn(0, "analyst") for episode in episodes[:4]]
    best = max(turns, key=lambda turn: gradient_norm(learners, "analyst", turn))
    for turn in (turn for episode in episodes for turn in episode.turns):
        turn.value = float(turn is best)
    before = logp(learners, "analyst", best)
    step(learners, episodes, settings, learners=learners_of(learners, settings))
    assert logp(learners, "analyst", best) > before


def test_before_the_first_step_policy_and_reference_are_one(learners: Policies) -> None:
    numbers = step(learners, played(learners, samples=2), PLAIN)
    assert numbers["kl"] < 1e-7 and numbers["clip_fraction"] == 0.0


@pytest.mark.parametrize("settings", [PLAIN, PLAIN.model_copy(update={"temperature": 0.7})])
def test_messages_drawn_at_another_temperature_stop_the_run(learners: Policies, settings: Maporl) -> None:
    drawn_at = 0.7 if settings.temperature == 1.0 else 1.0
    episodes, before = played(learners, drawn_at, samples=2), hashes(learners)
    with pytest.raises(MedpipeError, match=r"log-probability difference of .* between drawing and scoring.*role planner"):
        step(learners, episodes, settings)
    assert hashes(learners) == before
    assert step(learners, episodes, settings, exact=False)["on_policy_gap"] > ON_POLICY_TOLERANCE  # recorded, where it can't be enforced


def test_messages_drawn_at_the_settings_temperature_are_on_policy(learners: Policies) -> None:
    numbers = step(learners, played(learners, 0.7, samples=2), PLAIN.model_copy(update={"temperature": 0.7}))
    assert numbers["on_policy_gap"] < ON_POLICY_TOLERANCE


def test_messages_of_another_adapter_stop_the_run(learners: Policies) -> None:
    episodes = played(learners, samples=2)
    with torch.no_grad():
        next(value for name, value in learners.parameters("planner").items() if "lora_B" in name).mul_(3.0)
    with pytest.raises(MedpipeError, match="sampling and training disagree"):
        step(learners, episodes, PLAIN)


def test_a_policy_far_from_its_start_stops_the_run(tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    names = {
        name: tiny_adapters["models/analyst" if name == "planner" else f"models/{role}"]
        for role in ROLES
        for name in (role, f"start_{role}")
    }
    far = Policies.load(tiny_base, names)
    with pytest.raises(MedpipeError, match=r"KL of .* nats per token.*at most maporl\.max_kl = 1e-05"):
        step(far, played(far, samples=2), PLAIN.model_copy(update={"max_kl": 1e-5}))


def test_the_size_of_a_minibatch_does_not_change_the_step(learners: Policies) -> None:
    """Messages of unlike lengths: the token mean is over the role's whole batch."""
    episodes, weights = played(learners, samples=2), []
    for number, turn in enumerate(turn for episode in episodes for turn in episode.turns):
        turn.value = (number * 3 % 10) / 10
    kept = {name: value.detach().clone() for name, value in learners.model.named_parameters()}
    for size in (1, 3, 8):
        put_back(learners, kept)
        settings = PLAIN.model_copy(update={"minibatch": size, "kl": 0.1})
        step(learners, episodes, settings, learners=learners_with(learners, 1.0, torch.optim.SGD))
        weights.append(torch.cat([value.detach().flatten() for value in learners.parameters("reporter").values()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-5) and torch.allclose(weights[0], weights[2], atol=1e-5)


# --- targets, without a model


def episode_of(question: QAExample, answers: list[str], values: list[list[float]], bad: tuple[tuple[int, int], ...] = ()) -> Episode:
    """An episode from one string of letters per round and V by round."""
    turns = [
        Turn(
            role,
            t,
            [1],
            (2,),
            (-0.1,),
            "text",
            letters[a] if question.is_choice else None,
            "no answer" if (t, a) in bad else "",
            values[t][a],
        )
        for t, letters in enumerate(answers)
        for a, role in enumerate(ROLES)
    ]
    return Episode(question, [], 0, turns, True)


def grid(found: dict[Cell, float], question: QAExample) -> list[list[float]]:
    rounds = 1 + max(cell.round for cell in found)
    return [[found[Cell(question.id, 0, role, t)] for role in ROLES] for t in range(rounds)]


def test_targets_are_return_plus_shaping() -> None:
    settings = Maporl(gamma=0.3, alpha0=1, alpha1=2, beta0=4, beta1=8)
    row, values = choice_row(), [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0] * 4]
    found = grid(targets([episode_of(row, ["BAAA", "BBBA", "BBBB"], values)], settings, NO_PENALTY), row)
    weight = 1 + 0.3 + 0.09
    first = [(v + 0.3 * 0.75 + 0.09 * 1.0) / weight for v in values[0]]
    second = [(v + 0.3 * 1.0) / 1.3 for v in values[1]]
    expected = [[8, 4, 4, 4], [0, 1, 1, 0], [0, 0, 0, 2]]
    for found_row, own, bonus in zip(found, (first, second, values[2]), expected, strict=True):
        assert found_row == pytest.approx([r + s for r, s in zip(own, bonus, strict=True)])


def test_a_free_text_question_has_no_shaping() -> None:
    settings = Maporl(gamma=0.0, alpha0=1, alpha1=2, beta0=4, beta1=8)
    row, values = text_row(), [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]
    assert grid(targets([episode_of(row, ["----", "----"], values)], settings, NO_PENALTY), row) == values


def test_a_malformed_message_is_penalised_in_its_own_cell_only() -> None:
    row, values = choice_row(), [[0.5, 0.0, 0.5, 0.5], [0.5] * 4]
    answers = ["BBBB", "BBBB"]
    good, bad = (
        grid(targets([episode_of(row, answers, values, at)], PLAIN, Rewards(malformed_penalty=0.25)), row) for at in ((), ((0, 1),))
    )
    changed = {(t, a): bad[t][a] - good[t][a] for t in range(2) for a in range(4) if bad[t][a] != good[t][a]}
    assert changed == {(0, 1): pytest.approx(-0.25)}


def test_an_early_stopped_episode_has_the_targets_of_a_truncated_one() -> None:
    """Cells that never happened have no target, and no say in the targets of those that did."""
    settings = Maporl(alpha0=1, alpha1=2, beta0=4, beta1=8)
    row, values = choice_row(), [[0.2, 0.9, 0.4, 0.1], [0.7, 0.3, 1.0, 0.0], [0.6] * 4]
    whole = episode_of(row, ["ABAB", "BBAB", "BBBB"], values)
    whole.turns = [turn for turn in whole.turns if turn.round < 2]
    stopped = targets([whole], settings, NO_PENALTY)
    assert stopped == targets([episode_of(row, ["ABAB", "BBAB"], values[:2])], settings, NO_PENALTY)
    assert {cell.round for cell in stopped} == {0, 1} and len(stopped) == 8


def test_a_message_that_was_not_scored_is_an_error_not_a_zero() -> None:
    episode = episode_of(choice_row(), ["BBBB"], [[0.5] * 4])
    episode.turn(0, "analyst").value = None
    with pytest.raises(ValueError, match="no score for the analyst's message"):
        targets([episode], PLAIN, NO_PENALTY)

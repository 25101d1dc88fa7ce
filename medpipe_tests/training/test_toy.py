"""Co-training teaches a tiny team to co-operate, and without co-operation signals it does not (medpipe_tests/training/toy.py).

The whole proof, three seeds and the picture: `python -m medpipe_tests.training.toy --seeds 3 --without-signals`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from medpipe.models.policy import weights_hash

from medpipe.schema import ROLES
from medpipe.team.episode import Episode, Turn
from medpipe.team.workflow import Crew, play
from medpipe.training.advantages import Cell
from medpipe.training.update import targets
from medpipe_tests.training import toy

SEED, ITERATIONS = 0, 12


@pytest.fixture(scope="module")
def start(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drilled team: it can read and answer, and nobody has told it what the evidence is for."""
    return toy.make_team(tmp_path_factory.mktemp("toy"), SEED)


def test_only_the_researcher_ever_reads_the_fact(start: Path) -> None:
    policies = toy.load_team(start)
    crew = Crew(policies, {role: role for role in ROLES}, toy.RULES, 1.0, torch.Generator().manual_seed(0), toy.pay)
    for episode in play(crew, toy.episodes_of(toy.questions(8, toy.WORDS, random.Random(0)), 1)):
        assert episode.rounds == 2
        for turn in episode.turns:
            read = str(policies.tokenizer.decode(turn.prompt))
            assert (f"Evidence:\n[E1] {episode.question.answer}" in read) == (turn.role == "researcher"), (turn.role, turn.round)


def played(letters: list[str]) -> Episode:
    """An episode on a question whose answer is B, from one string of letters per round."""
    episode = Episode(toy.question(0, "B", toy.WORDS, random.Random(0)), [])
    for t, row in enumerate(letters):
        for role, letter in zip(ROLES, row, strict=True):
            episode.turns.append(Turn(role, t, [1], (2,), (-0.1,), f"Answer: {letter}", letter, ""))
        toy.pay([episode], t)
    return episode


def goal(letters: list[str], signals: bool) -> float:
    """What the researcher's first message is told to be worth."""
    episode = played(letters)
    return targets([episode], toy.settings_of(signals), toy.REWARDS)[Cell(episode.question.id, 0, "researcher", 0)]


def test_telling_the_fact_pays_the_researcher_only_by_what_the_others_do_with_it() -> None:
    told, kept, ignored = ["ABBB", "BBBB"], ["AAAA", "AAAA"], ["ABAA", "AAAA"]
    assert goal(told, signals=True) > goal(kept, signals=True) == goal(ignored, signals=True)
    assert goal(told, signals=False) == goal(kept, signals=False) == goal(ignored, signals=False) == 0.5


def test_with_signals_the_team_learns_to_tell_and_to_listen(start: Path) -> None:
    (_, before), (_, after) = toy.co_train(toy.load_team(start), toy.settings_of(signals=True), SEED, ITERATIONS, every=ITERATIONS)
    assert before < toy.CHANCE + 0.2
    assert after > toy.CHANCE + 0.4


def test_without_signals_the_researcher_is_never_moved_and_the_team_stays_blind(start: Path) -> None:
    """Its pay is a half in every sample, so its messages have nothing to be compared by, in this iteration as in any later one."""
    policies = toy.load_team(start)
    before = {role: weights_hash(policies.parameters(role)) for role in ROLES}
    curve = toy.co_train(policies, toy.settings_of(signals=False), SEED, ITERATIONS // 4, every=1)
    assert {role for role in ROLES if weights_hash(policies.parameters(role)) == before[role]} == {"researcher"}
    assert all(share < toy.CHANCE + 0.2 for _, share in curve)

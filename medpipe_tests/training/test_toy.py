"""Co-training teaches a tiny team to co-operate, and without co-operation signals it does not (medpipe_tests/training/toy.py).

The whole proof, three seeds and the picture: `python -m medpipe_tests.training.toy --seeds 3 --without-signals`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from medpipe.models.adapters import weights_hash
from medpipe.schema import ROLES
from medpipe.team.episode import Episode, Turn
from medpipe.team.transcript import Frame
from medpipe.team.workflow import Readings, Team
from medpipe.training.advantages import Cell
from medpipe.training.update import Batch, targets
from medpipe_tests.training import toy

SEED, ITERATIONS = 0, 8


@pytest.fixture(scope="module")
def start(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drilled team: it can read and answer, and nobody has told it what the note is for."""
    return toy.make_team(tmp_path_factory.mktemp("toy"), SEED)


def test_only_the_researcher_ever_reads_the_fact(start: Path) -> None:
    model = toy.load_team(start)
    note = f"<|im_start|>{toy.NOTE}\nNote:"
    team = Team(model, toy.ADAPTERS, toy.RULES, 1.0, torch.Generator().manual_seed(0), toy.pay)
    batch = toy.play(team, toy.questions(8, toy.WORDS, random.Random(0)))
    shared, own = (batch.readings.of(model, adapter) for adapter in ("analyst", "researcher"))
    assert batch.readings.held(model, "reporter") is shared and batch.readings.held(model, "researcher") is own
    for row, episode in enumerate(batch.episodes):
        assert isinstance(episode, toy.Private)
        for number, turn in enumerate(episode.turns):
            read = str(model.tokenizer.decode(episode.before(turn)))
            assert (f"{note} {episode.question.answer}<|im_end|>" in read) == (turn.role == "researcher"), (turn.role, turn.round)
            assert read.endswith("<|im_end|>\n") and read.count("<|im_start|>") == 2 + number + (turn.role == "researcher")
        assert (shared.lengths[row], own.lengths[row]) == (len(episode.tokens), len(episode.tokens) + len(episode.fact))
        assert note not in str(model.tokenizer.decode(episode.tokens))
    frame = Frame(model.tokenizer)
    for role in ROLES:  # what was drawn is what is scored, behind each role's own reading
        turns = [(row, turn) for row, episode in enumerate(batch.episodes) for turn in episode.turns if turn.role == role]
        places = [toy.Place(batch.episodes[row].before(turn), frame.invocation(role), turn.tokens) for row, turn in turns]
        with model.use(role), torch.no_grad():
            scored = model.score(role, places, batch.readings.held(model, role), [row for row, _ in turns]).logp_N
            anew = model.score(role, places).logp_N
        drawn = torch.tensor([logp for _, turn in turns for logp in turn.logps])
        assert torch.allclose(scored, drawn, atol=1e-3) and torch.allclose(anew, drawn, atol=1e-3)


def played(letters: list[str]) -> Episode:
    """An episode on a question whose answer is B, from one string of letters per round."""
    episode = Episode(toy.question(0, "B", toy.WORDS, random.Random(0)), [], [1])
    for t, row in enumerate(letters):
        for role, letter in zip(ROLES, row, strict=True):
            episode.turns.append(Turn(role, t, 1, (2,), (-0.1,), f"Answer: {letter}", letter, ""))
        toy.pay([episode], t)
    return episode


def goal(letters: list[str], signals: bool) -> float:
    """What the researcher's first message is told to be worth."""
    episode = played(letters)
    batch = Batch([episode], Readings([episode]))
    return targets(batch, toy.settings_of(signals), toy.REWARDS)[Cell(episode.question.id, 0, "researcher", 0)]


def test_telling_the_fact_pays_the_researcher_only_by_what_the_others_do_with_it() -> None:
    told, kept, ignored = ["ABBB"], ["AAAA"], ["ABAA"]
    assert goal(told, signals=True) > goal(kept, signals=True) == goal(ignored, signals=True)
    assert goal(told, signals=False) == goal(kept, signals=False) == goal(ignored, signals=False) == 0.5


def test_with_signals_the_team_learns_to_tell_and_to_listen(start: Path) -> None:
    (_, before), (_, after) = toy.co_train(toy.load_team(start), toy.settings_of(signals=True), SEED, ITERATIONS, every=ITERATIONS)
    assert before < toy.CHANCE + 0.2
    assert after >= toy.SOLVED


def test_without_signals_the_researcher_is_never_moved_and_the_team_stays_blind(start: Path) -> None:
    """Its pay is a half in every sample, so its messages have nothing to be compared by, in this iteration as in any later one."""
    model = toy.load_team(start)
    before = {role: weights_hash(model.parameters(role)) for role in ROLES}
    curve = toy.co_train(model, toy.settings_of(signals=False), SEED, 3, every=1)
    assert {role for role in ROLES if weights_hash(model.parameters(role)) == before[role]} == {"researcher"}
    assert all(share < toy.CHANCE + 0.2 for _, share in curve)

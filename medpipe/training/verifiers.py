"""What a message is worth: V[t, a] in [0, 1] for every turn of a round (docs/maporl.md, section 4).

`exact`: on multiple choice, right or wrong. `medical`: the six-component medical reward. On a free-text question only the
reporter answers, so the other roles are scored by how much their message helps the frozen starting reporter to find the
reference. `learned`: on multiple choice, what a trained judge thinks (medpipe/training/learned.py). A malformed message is
worth 0 in its own cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from medpipe.config import Settings
from medpipe.job import Job
from medpipe.models.adapters import AdapterModel
from medpipe.models.adapters import Turn as Place
from medpipe.models.per_role import PerRole
from medpipe.rewards.compose import MedicalReward, Message
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.transcript import Frame

if TYPE_CHECKING:
    from medpipe.training.learned import LearnedVerifier

SHARPNESS = 4.0
"""Slope of the squash: a message that makes the reference 0.27 nats per token likelier is worth 0.75."""


def open_verifier(
    job: Job, models: AdapterModel | PerRole, rows: Sequence[QAExample], adapters: Mapping[Role, str]
) -> TeamVerifier:  # fmt: skip
    """The verifier that the profile asks for.

    Args:
        rows: the training rows, which the reward's lexicon is made from.
        adapters: of the roles that play; the last one's frozen start tells how much the others' messages help.
    """
    reward = MedicalReward(job.settings.rewards, Lexicon.from_rows(rows), Similarity())
    answers = adapters["reporter"]
    judge = None
    if job.settings.maporl.verifier == "learned":
        from medpipe.training.learned import LearnedVerifier

        judge = LearnedVerifier.load(models.of(answers), job.inputs["models/verifier"], job.settings)
    return TeamVerifier(reward, models.of(answers), f"start_{answers}", job.settings, judge)


class TeamVerifier:
    """Scores rounds in place; `helper` names the adapter of the frozen starting reporter, `judge` is the learned verifier."""

    def __init__(
        self, reward: MedicalReward, model: AdapterModel, helper: str, settings: Settings, judge: LearnedVerifier | None = None
    ) -> None:
        self._reward, self._model, self._helper, self._settings, self._judge = reward, model, helper, settings, judge

    def __call__(self, episodes: Sequence[Episode], round_: int) -> None:
        """Set `value` (and `parts`, where the medical reward was used) of every turn of this round."""
        cells = [(episode, turn) for episode in episodes for turn in episode.turns if turn.round == round_]
        judged = [(e, t) for e, t in cells if e.question.is_choice or t.role == "reporter"]
        for (_, turn), breakdown in zip(judged, self._reward.score([_message(e, t) for e, t in judged]), strict=True):
            turn.value, turn.parts = breakdown.total, dict(breakdown.components)
        if self._settings.maporl.verifier == "exact":
            for episode, turn in judged:
                if episode.question.is_choice:
                    turn.value = float(turn.answer == episode.question.answer)
        if self._judge:
            asked = [(e, t) for e, t in judged if e.question.is_choice]
            for (_, turn), value in zip(asked, self._judge.score([(e.question, t.text) for e, t in asked]), strict=True):
                turn.value = value
        self._score_help([(e, t) for e, t in cells if not (e.question.is_choice or t.role == "reporter")])
        for _, turn in cells:
            if turn.malformed:
                turn.value = 0.0

    def _score_help(self, cells: Sequence[tuple[Episode, Turn]]) -> None:
        if not cells:
            return
        plain = {episode.question.id: episode for episode, _ in cells}
        without = dict(zip(plain, self._reference_logp([(e, None) for e in plain.values()]), strict=True))
        with_message = self._reference_logp(cells)
        for (episode, turn), logp in zip(cells, with_message, strict=True):
            turn.value = squash(logp - without[episode.question.id])

    def _reference_logp(self, cases: Sequence[tuple[Episode, Turn | None]]) -> list[float]:
        """Mean log-probability of the reference's tokens behind the question alone, and behind one message on it."""
        frame, rules = Frame(self._model.tokenizer), self._settings.team
        places = []
        for episode, turn in cases:
            context = frame.header(episode.question, (), rules.max_header_tokens)
            context = [*context, *(frame.turn(turn.role, turn.tokens) if turn else ())]
            reference = frame.completion(episode.question.answer, rules.max_new_tokens["reporter"])
            places.append(Place(context, frame.invocation("reporter"), reference))
        return self._model.mean_logps(self._helper, places, self._settings.maporl.minibatch)


def squash(gain: float) -> float:
    """Gain in log-probability per reference token (nats) → [0, 1]; no gain is worth a half."""
    return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, SHARPNESS * gain))))


def _message(episode: Episode, turn: Turn) -> Message:
    said = tuple(s for s in episode.said(turn.round) if ROLES.index(s.role) < ROLES.index(turn.role))
    return Message(episode.question, turn.text, said, tuple(episode.evidence), turn.answer, turn.role)


def mean_parts(turns: Sequence[Turn]) -> dict[str, float]:
    """Mean of each reward component over the turns that the medical reward scored."""
    scored = [turn.parts for turn in turns if turn.parts]
    return {name: fmean(parts[name] for parts in scored) for name in (scored[0] if scored else {})}

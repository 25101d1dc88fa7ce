"""What a message is worth: V[t, a] in [0, 1] for every turn of a round (docs/maporl.md, section 4).

`exact`: on multiple choice, right or wrong. `medical`: the six-component medical reward. On a free-text question only the
reporter answers, so the other roles are scored by how much their message helps the frozen starting reporter to find the
reference. `learned`: on multiple choice, what a trained judge thinks (medpipe/training/learned.py). A malformed message is
worth 0 in its own cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from medpipe.config import Settings
from medpipe.job import Job
from medpipe.models.policy import Policies
from medpipe.models.spread import Spread
from medpipe.models.tokens import encode_prompt, encode_target
from medpipe.rewards.compose import MedicalReward, Message
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe.roles import Said
from medpipe.schema import ROLES, QAExample
from medpipe.team.episode import Episode, Turn

if TYPE_CHECKING:
    from medpipe.training.learned import LearnedVerifier

SHARPNESS = 4.0
"""Slope of the squash: a message that makes the reference 0.27 nats per token likelier is worth 0.75."""


def open_verifier(job: Job, team: Policies | Spread, rows: Sequence[QAExample]) -> TeamVerifier:
    """The verifier that the profile asks for; `rows` are the training rows, which the reward's lexicon is made from."""
    reward = MedicalReward(job.settings.rewards, Lexicon.from_rows(rows), Similarity())
    judge = None
    if job.settings.maporl.verifier == "learned":
        from medpipe.training.learned import LearnedVerifier

        judge = LearnedVerifier.load(team.of("reporter"), job.inputs["models/verifier"], job.settings)
    return TeamVerifier(reward, team.of("start_reporter"), "start_reporter", job.settings, judge)


class TeamVerifier:
    """Scores rounds in place; `helper` names the adapter of the frozen starting reporter, `judge` is the learned verifier."""

    def __init__(
        self, reward: MedicalReward, policies: Policies, helper: str, settings: Settings, judge: LearnedVerifier | None = None
    ) -> None:
        self._reward, self._policies, self._helper, self._settings, self._judge = reward, policies, helper, settings, judge

    def __call__(self, episodes: Sequence[Episode], round_: int) -> None:
        """Set `value` (and `parts`, where the medical reward was used) of every turn of this round."""
        cells = [(episode, episode.turn(round_, role)) for episode in episodes for role in ROLES]
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
        without = dict(zip(plain, self._reference_logp([(e, ()) for e in plain.values()]), strict=True))
        with_message = self._reference_logp([(e, (Said(t.role, t.text),)) for e, t in cells])
        for (episode, turn), logp in zip(cells, with_message, strict=True):
            turn.value = squash(logp - without[episode.question.id])

    def _reference_logp(self, cases: Sequence[tuple[Episode, tuple[Said, ...]]]) -> list[float]:
        team, tokenizer = self._settings.team, self._policies.tokenizer
        targets = [encode_target(tokenizer, e.question.answer, team.max_new_tokens["reporter"]) for e, _ in cases]
        prompts = [encode_prompt(tokenizer, "reporter", e.question, (), said, team.max_prompt_tokens) for e, said in cases]
        return self._policies.mean_logp(self._helper, prompts, targets, self._settings.maporl.minibatch)


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

"""One way in which a team, or one role alone, answers questions: for `medpipe test` and the registered model.

    rows = [question.row() for question in questions]
    episodes = ask(Team(models, {role: role for role in ROLES}, rules), rows, look_up(evidence, rows, rules), batch=16)
    episodes[0].final.answer                      # what the last message itself names; None: it names no option, or several

A role without an entry in the team's `adapters` is absent, so a role alone is a team of one. Left out: systems that share what
was read (medpipe/evaluation/systems.py), and scores.
"""

from __future__ import annotations

from collections.abc import Sequence

from medpipe.config import Team as Rules
from medpipe.corpus.evidence import Evidence, Passage, origin_of
from medpipe.schema import QAExample
from medpipe.team.episode import Episode
from medpipe.team.workflow import Team, rollout


def look_up(evidence: Evidence, questions: Sequence[QAExample], rules: Rules) -> list[list[Passage]]:
    """The passages that the rules allow for each question, best first."""
    return evidence.for_questions(questions, rules.evidence_passages, rules.evidence_chars)


def ask(team: Team, questions: Sequence[QAExample], passages: Sequence[Sequence[Passage]], batch: int) -> list[Episode]:
    """Play one finished episode for each question, in their order.

    Args:
        passages: for each question, from `look_up`.
        batch: episodes at once.
    """
    episodes = team.begin(questions, [[passage.text for passage in found] for found in passages])
    for episode, found in zip(episodes, passages, strict=True):
        episode.evidence_from = origin_of(found)
    for start in range(0, len(episodes), batch):
        rollout(team, episodes[start : start + batch])
    return episodes

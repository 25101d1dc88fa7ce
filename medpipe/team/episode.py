"""What the team said: a turn is one message, an episode is all rounds on one question.

An episode's tokens are its transcript (medpipe/team/transcript.py): the header, then the turns in the order in which they were spoken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medpipe.roles import Said
from medpipe.schema import ROLES, QAExample, Role


@dataclass
class Turn:
    """One message of one role in one round: cell (t, a) of the game."""

    role: Role
    round: int
    start: int  # how many tokens of the transcript stand before the turn's header
    tokens: tuple[int, ...]  # token ids of the message as drawn, end token included
    logps: tuple[float, ...]  # log-probability of each token when it was drawn
    text: str
    answer: str | None  # the letter believed now, on multiple choice
    malformed: str  # why the message can't be used; empty for a good one
    value: float | None = None  # V[t,a], the verifier's score in [0, 1]
    parts: dict[str, float] = field(default_factory=dict)  # the medical reward's components, where it was used
    drawn: tuple[int, int] | None = None  # nanoseconds since 1970: start and end of the batch in which it was drawn

    @property
    def scored(self) -> float:
        """V[t,a]; a message that no verifier has seen has none, and nothing stands in for it."""
        if self.value is None:
            message = f"the {self.role}'s message of round {self.round}"
            raise ValueError(f"got no score for {message}, expected V in [0, 1]: run the verifier first")
        return self.value


@dataclass
class Episode:
    """The team's work on one question; cells that never happened have no turn."""

    question: QAExample
    evidence: list[str]
    header: list[int]  # tokens that all turns share
    sample: int = 0  # which of the samples for this question
    turns: list[Turn] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # the transcript so far
    finished: bool = False
    evidence_from: str = ""  # where the evidence was taken from, and why from there; empty where nobody said

    def __post_init__(self) -> None:
        self.tokens = self.tokens or list(self.header)

    @property
    def rounds(self) -> int:
        """L, the number of rounds that happened."""
        return 1 + max((turn.round for turn in self.turns), default=-1)

    @property
    def roles(self) -> list[Role]:
        """Who speaks in this episode, in speaking order."""
        spoke = {turn.role for turn in self.turns}
        return [role for role in ROLES if role in spoke]

    def turn(self, round_: int, role: Role) -> Turn:
        """The message of a role in a round that happened."""
        return next(turn for turn in self.turns if turn.round == round_ and turn.role == role)

    def has_spoken(self, round_: int, role: Role) -> bool:
        """Whether the role's turn of this round is there."""
        return any(turn.round == round_ and turn.role == role for turn in self.turns)

    def said(self, round_: int) -> list[Said]:
        """What was said so far in a round, in speaking order; an unusable message shows as such."""
        return [Said(turn.role, turn.text or "(no message)") for turn in self.turns if turn.round == round_]

    def before(self, turn: Turn) -> list[int]:
        """The transcript's tokens before a turn's header."""
        return self.tokens[: turn.start]

    def correct(self) -> list[list[float]]:
        """c[t][a]: 1.0 where the role's answer was right; a message that can't be used is wrong. Multiple choice only."""
        right = self.question.answer
        return [[float(self._right(self.turn(t, role), right)) for role in self.roles] for t in range(self.rounds)]

    @staticmethod
    def _right(turn: Turn, right: str) -> bool:
        return turn.answer == right and not turn.malformed

    @property
    def final(self) -> Turn:
        """The last message, the reporter's where there is one: the team's answer."""
        return self.turns[-1]

    def transcript(self, timed: bool = False) -> dict[str, Any]:
        """The episode as plain data, for a person to read.

        Args:
            timed: with the time at which each message was drawn; for traces, not for files whose bytes are to come again.
        """
        return {
            "question": self.question.model_dump(mode="json"),
            "sample": self.sample,
            "evidence": self.evidence,
            "evidence_from": self.evidence_from,
            "turns": [
                {"role": t.role, "round": t.round, "text": t.text, "answer": t.answer, "malformed": t.malformed, "value": t.value,
                 "tokens": len(t.tokens), **({"started_ns": t.drawn[0], "ended_ns": t.drawn[1]} if timed and t.drawn else {})}
                for t in self.turns
            ],
            "final": self.final.text,
        }  # fmt: skip

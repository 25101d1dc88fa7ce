"""Who changed whose mind: the story of an episode's answers, and episodes paired for reading side by side.

    from medpipe.evaluation.transcripts import answers, in_words
    [in_words(answer) for answer in answers(episode) if answer.changed]

Works on episodes as plain dictionaries, as `Episode.transcript()` writes them. Everybody reads the whole transcript, so "after the
researcher said C" names the latest message before that stood for C, by order alone: it is no proof that this was the reason. Pure
functions. What this leaves out: free-text answers, which can't be compared letter by letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medpipe.schema import ROLES

Transcript = Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """A message that a role had read: whose, and in which round (0-based)."""

    role: str
    round: int


@dataclass(frozen=True)
class Answer:
    """One answer on a multiple-choice question, seen from the role's answer before it.

    `before` is None for the role's first answer, and `after` where nobody else had stood for `now` before. A message that
    settles on no letter is no answer: the role's next answer is then compared with its last one that could be read.
    """

    role: str
    round: int  # 0-based
    before: str | None
    now: str
    key: str  # the right letter
    after: Said | None

    @property
    def right(self) -> bool:
        """Whether the answer is the right one."""
        return self.now == self.key

    @property
    def changed(self) -> bool:
        """Whether the role had answered otherwise before."""
        return self.before is not None and self.before != self.now

    @property
    def kind(self) -> str:
        """ "wrong → right", "right → wrong" or "wrong → wrong" for a change of mind; else ""."""
        if not self.changed:
            return ""
        return f"{'right' if self.before == self.key else 'wrong'} → {'right' if self.right else 'wrong'}"


def answers(episode: Transcript) -> list[Answer]:
    """Every answer of an episode in the order in which they were given; none on a free-text question."""
    if not episode["question"]["options"]:
        return []
    turns = sorted(episode["turns"], key=lambda turn: (turn["round"], ROLES.index(turn["role"])))
    last: dict[str, str] = {}
    found = []
    for place, turn in enumerate(turns):
        role, now = turn["role"], turn["answer"]
        if now is not None:
            source = _source(turns[:place], role, now)
            found.append(Answer(role, turn["round"], last.get(role), now, episode["question"]["answer"], source))
            last[role] = now
    return found


def _source(earlier: Sequence[Mapping[str, Any]], role: str, letter: str) -> Said | None:
    """The latest message of another role that stood for the letter."""
    for turn in reversed(earlier):
        if turn["role"] != role and turn["answer"] == letter:
            return Said(turn["role"], turn["round"])
    return None


def in_words(answer: Answer) -> str:
    """A change of mind as one line: "analyst, round 2: B → C, after the researcher said C"; rounds count from 1."""
    told = f"{answer.role}, round {answer.round + 1}: {answer.before} → {answer.now}"
    if answer.after is None:
        return f"{told}, of its own: nobody else had said {answer.now}"
    when = "" if answer.after.round == answer.round else f" in round {answer.after.round + 1}"
    return f"{told}, after the {answer.after.role} said {answer.now}{when}"


def final_answer(episode: Transcript) -> str | None:
    """The letter of the reporter's last message, which is the team's answer; None where it settles on none."""
    spoke = [turn for turn in episode["turns"] if turn["role"] == "reporter"]
    return max(spoke, key=lambda turn: turn["round"])["answer"] if spoke else None


def pairs(before: Sequence[Transcript], after: Sequence[Transcript]) -> list[tuple[Transcript | None, Transcript | None]]:
    """Episodes on the same question, before and after co-training; None where a question was played on one side only."""
    sides = [{str(episode["question"]["id"]): episode for episode in side} for side in (before, after)]
    return [(sides[0].get(id), sides[1].get(id)) for id in dict.fromkeys([*sides[0], *sides[1]])]


def side(episode: Transcript) -> dict[str, Any]:
    """One episode as the report shows it: its messages, its changes of mind in words with their kind, and the team's letter."""
    key = episode["question"]["answer"] if episode["question"]["options"] else ""
    rounds = 1 + max((turn["round"] for turn in episode["turns"]), default=-1)
    story = [{"words": in_words(answer), "kind": answer.kind} for answer in answers(episode) if answer.changed]
    quiet = "No role changed its answer." if rounds > 1 else "One round was played, so no role answered twice."
    return {
        "turns": episode["turns"],
        "evidence": episode["evidence"],
        "evidence_from": episode.get("evidence_from", ""),
        "story": story,
        "quiet": quiet if key and not story else "",
        "answered": (final_answer(episode) or "none") if key else "",
    }

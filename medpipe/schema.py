"""The rows and references that every layer hands on: frozen, checked, without behaviour of their own.

A `Ref` is what one asset hands to the next: a folder with a content hash, never "the latest in the folder".
"""

from __future__ import annotations

import string
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LETTERS = string.ascii_uppercase
"""Names of the options of a multiple-choice question, in order."""

Role = Literal["planner", "researcher", "analyst", "reporter"]
ROLES: tuple[Role, ...] = ("planner", "researcher", "analyst", "reporter")
Learner = Literal["planner", "researcher", "analyst", "reporter", "agent"]
AGENT: Learner = "agent"
"""One agent that answers alone from the same evidence: what a team has to beat."""
LEARNERS: tuple[Learner, ...] = (*ROLES, AGENT)
"""Whose adapters are fine-tuned."""


def speaker_of(learner: Learner) -> Role:
    """In whose turn a learner speaks: the lone agent writes the answer, as the reporter does."""
    return "reporter" if learner == AGENT else learner  # type: ignore[return-value]


Part = Literal["train", "cotrain", "validation", "heldout"]
"""Sides of the split, by group. Fine-tuning learns from train, co-training from cotrain; held-out rows are only ever asked."""


class Frozen(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QAExample(Frozen):
    """One question with its reference answer.

    On a free-text question `answer` is the reference text and `options` is empty. On a multiple-choice question
    `options` holds the texts, `answer` is the letter of the right one, and `rationale` (where known) says why.
    """

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    source: str = Field(min_length=1)
    category: str = "general"
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    qtype: str = "information"
    focus: str = Field(min_length=1)
    options: tuple[str, ...] = ()
    rationale: str = ""
    context: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()  # other names of the focus, as the source gives them
    cuis: tuple[str, ...] = ()  # the focus' concept identifiers in the UMLS
    semantic_types: tuple[str, ...] = ()  # UMLS semantic types, "T047"
    url: str = ""
    origin: str = ""  # where in its source the row stands: "file" or "file:line"

    @model_validator(mode="after")
    def _answer_names_an_option(self) -> QAExample:
        if len(self.options) == 1:
            raise ValueError(f"got one option, expected at least two or none, in question {self.id}: correct the row")
        if self.options and self.answer not in list(LETTERS[: len(self.options)]):
            expected = f"a letter from A to {LETTERS[len(self.options) - 1]}"
            raise ValueError(f"got answer {self.answer!r}, expected {expected}, in question {self.id}: correct the row")
        return self

    @property
    def is_choice(self) -> bool:
        """True for a multiple-choice question."""
        return bool(self.options)

    @property
    def answer_text(self) -> str:
        """The reference answer as text: the right option's words, or the reference answer itself."""
        return self.options[LETTERS.index(self.answer)] if self.options else self.answer


class Ref(Frozen):
    """What one asset hands to the next: a finished folder and the hash of what lies in it.

    `status` is "unreachable" when a source could not be had: then the folder holds no rows and `reason` says why.
    `scope` maps the settings sections that it depends on to their hashes (medpipe/results.py).
    """

    path: str
    sha256: str
    status: Literal["ok", "unreachable"] = "ok"
    reason: str = ""
    scope: dict[str, str] = Field(default_factory=dict)


class CheckResult(Frozen):
    """Outcome of one data or model check, as the asset page and the validation manifest show it.

    A failed check of severity "error" blocks everything downstream, in this run and in later ones; "warn" only tells.
    """

    name: str
    passed: bool
    severity: Literal["error", "warn"] = "error"
    description: str = ""
    values: dict[str, Any] = Field(default_factory=dict)


class Manifest(Frozen):
    """Written last into an output folder, so that its presence means success.

    `files` maps each file's relative path to its sha256; `fingerprint` is the hash of everything the folder was made
    from (inputs, settings, code, libraries); `seal` is the sha256 of all the rest (medpipe/store.py); `exports` maps a file's
    relative path to where its copy for people lies; `metadata` is what a person wants to see on the asset's page.
    """

    task: str
    fingerprint: str
    sha256: str
    files: dict[str, str]
    inputs: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    config_hash: str = ""
    profile: str = ""
    commit: str = ""
    created_at: str = ""
    seconds: float = 0.0
    status: Literal["ok", "unreachable"] = "ok"
    reason: str = ""
    exports: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    checks: tuple[CheckResult, ...] = ()
    seal: str = ""

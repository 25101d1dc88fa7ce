"""The four roles: what each is for, what it is told, and what it learns to write.

A role's input is built by one function, `prompt_for`, in training, rollouts, evaluation and serving alike, so that a
role is never trained on something it will not see. Targets come from the corpus' own structure:

| role | learns to | target on a free-text question | target on a multiple-choice question |
|---|---|---|---|
| planner | name the kind of question, its focus and a plan | type, focus, what to look for | type, specialty, what separates the options |
| researcher | pick and cite the evidence that bears on it | the passage on the focus closest to the reference | that on the right option |
| analyst | reason from evidence to a conclusion | findings, then the conclusion | findings, then the option they fit |
| reporter | write the answer for the reader | the reference answer, with a caution where called for | the answer, its reason |

On a multiple-choice question every message ends with the answer believed now, `Answer: C`.
What this leaves out: hard negatives for the researcher, and tokenisation (medpipe/models/tokens.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medpipe.schema import LETTERS, ROLES, QAExample, Role

SYSTEM: dict[Role, str] = {
    "planner": "You are the planner of a medical team. Name the type of question, its focus and a short plan.",
    "researcher": "You are the researcher of a medical team. Cite the evidence that bears on the question as [E1], [E2].",
    "analyst": "You are the analyst of a medical team. Reason from the evidence to a conclusion.",
    "reporter": "You are the reporter of a medical team. Write the team's answer for the reader, with due caution.",
}

ANSWER_RULE = "End with 'Answer:' and the letter of one option."
ALONE = "You are a careful medical assistant. Answer the question."
CAUTION = "A clinician should judge the individual case."
EMERGENCY = "Sudden or severe signs need emergency care."
_URGENT = re.compile(r"emergenc|immediate|severe|sudden|urgent|life-threatening|unconscious", re.I)
_TREATS = re.compile(r"treat|drug|medic|dose|surgery|therap", re.I)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")

PLANS: dict[str, str] = {
    "information": "define it, then name causes and typical signs",
    "causes": "look for the mechanism and for what raises the risk",
    "risk_factors": "look for what raises the risk and for who is affected",
    "symptoms": "list typical signs and name the red flags",
    "diagnosis": "look for the findings and tests that confirm it",
    "treatment": "look for first-line treatment and its cautions",
    "complications": "look for late effects and warning signs",
    "prevention": "look for what lowers the risk",
    "outlook": "look for the usual course and what changes it",
    "seek_care": "name the signs that need prompt or emergency care",
    "red_flags": "name the signs that need prompt or emergency care",
    "exams_and_tests": "look for the findings and tests that confirm it",
    "susceptibility": "look for what raises the risk and for who is affected",
    "frequency": "look for how common it is and in whom",
    "inheritance": "look for how it is passed on in families",
    "genetic_changes": "look for the genes involved and what their changes do",
    "stages": "look for how far it can have spread and how that is told",
    "side_effects": "look for common and for serious unwanted effects",
    "usage": "look for what it is used for and its cautions",
}
"""Kind of question → the plan that fits it; a kind not listed is planned like `information`."""


@dataclass(frozen=True)
class Said:
    """What a role said: its text as other roles see it."""

    role: Role
    text: str


def options_text(question: QAExample) -> str:
    """The options, one a line: `A) …`."""
    return "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, question.options, strict=False))


def question_text(question: QAExample) -> str:
    """Context passages (PubMedQA), the question and its options, as every role sees them."""
    parts = [*question.context, f"Question: {question.question}"]
    if question.is_choice:
        parts.append("Options:\n" + options_text(question))
    return "\n".join(parts)


def prompt_for(
    role: Role | None, question: QAExample, evidence: Sequence[str], said: Sequence[Said], verdict: str = ""
) -> list[dict[str, str]]:
    """Chat messages for a role, or for one agent alone (`role=None`).

    Args:
        role: who speaks; None for the single-agent baseline.
        evidence: passages, shown to researcher and analyst as [E1], [E2], …; the others read them through their mates.
        said: what was said earlier in this round.
        verdict: the previous round's final answer, where there was one.
    """
    parts = [question_text(question)]
    if evidence and role in ("researcher", "analyst"):
        parts.append("Evidence:\n" + "\n".join(f"[E{n}] {passage}" for n, passage in enumerate(evidence, 1)))
    if verdict:
        parts.append(f"Previous round: {verdict}")
    parts += [f"{message.role.capitalize()}: {message.text}" for message in said]
    if question.is_choice:
        parts.append(ANSWER_RULE)
    system = SYSTEM[role] if role else ALONE
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(parts)}]


def target_for(role: Role, question: QAExample, evidence: Sequence[str]) -> str:
    """What the role learns to say to this training question, made from the corpus row itself."""
    text = {"planner": _plan, "researcher": _research, "analyst": _analyse, "reporter": _report}[role](question, evidence)
    return f"{text}\nAnswer: {question.answer}" if question.is_choice else text


def reference_said(
    role: Role, question: QAExample, evidence: Sequence[str], fit: Callable[[Role, str], str] = lambda role, text: text
) -> list[Said]:
    """The earlier roles' messages: what `role` reads from its team-mates while it is trained.

    On multiple choice planner and researcher answer right in about every other message only, drawn from the question's id:
    they answer before anybody has reasoned, and a role that always reads right answers learns to copy, not to judge.

    Args:
        fit: cuts a role's message to what that role can say in its token budget.
    """
    return [
        Said(earlier, fit(earlier, _sometimes_wrong(earlier, question, target_for(earlier, question, evidence))))
        for earlier in ROLES[: ROLES.index(role)]
    ]


def _sometimes_wrong(role: Role, question: QAExample, text: str) -> str:
    draw = random.Random(f"{question.id}/{role}")
    if not question.is_choice or role == "analyst" or draw.random() < 0.5:
        return text
    wrong = draw.choice([letter for letter in LETTERS[: len(question.options)] if letter != question.answer])
    return text.removesuffix(f"Answer: {question.answer}") + f"Answer: {wrong}"


def sentences(text: str) -> list[str]:
    """Split text into sentences, well enough for picking the first few."""
    return [part.strip() for part in _SENTENCE.split(" ".join(text.split())) if part.strip()]


def words(text: str) -> set[str]:
    """Lower-case words of four letters and more: what two texts are compared by."""
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def _plan(question: QAExample, evidence: Sequence[str]) -> str:
    focus = "the findings described" if question.is_choice else question.focus
    plan = "compare the findings with each option" if question.is_choice else PLANS.get(question.qtype, PLANS["information"])
    return f"Type: {question.qtype.replace('_', ' ')}. Focus: {focus}. Plan: {plan}."


def _research(question: QAExample, evidence: Sequence[str]) -> str:
    wanted = words(question.answer_text + " " + question.rationale)
    about = (question.answer_text if question.is_choice else question.focus).casefold()
    # A passage on another condition can share most of its words: it has to name the one that is asked for.
    shared = [(len(wanted & words(passage)), -number) for number, passage in enumerate(evidence, 1) if about in passage.casefold()]
    if not shared:
        return "No passage here bears on the question."
    best = -max(shared)[1]
    return f"[E{best}] {_first(evidence[best - 1], 1)}"


def _analyse(question: QAExample, evidence: Sequence[str]) -> str:
    if question.is_choice:
        return f"Findings: {_first(question.rationale, 1) or f'{question.question} This fits {question.answer_text}.'}"
    return f"Findings: {_first(question.answer, 2)} Conclusion: this answers the question about {question.focus}."


def _report(question: QAExample, evidence: Sequence[str]) -> str:
    if question.is_choice:
        return f"The best option is {question.answer_text}. {_first(question.rationale, 1)}".strip()
    text = _first(question.answer, 4)
    cautions = [EMERGENCY] if _URGENT.search(text) else []
    if _TREATS.search(text):
        cautions.append(CAUTION)
    return " ".join([text, *cautions])


def _first(text: str, count: int) -> str:
    return " ".join(sentences(text)[:count])

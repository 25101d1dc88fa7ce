"""The four roles: what each is for, what it is told, and what it learns to write.

A role's input is built by one function, `prompt_for`, in training, rollouts, evaluation and serving alike, so that a
role is never trained on something it will not see. Targets come from the corpus' own structure:

| role | learns to | target on a free-text question | target on a multiple-choice question |
|---|---|---|---|
| planner | name the kind of question, its focus and a plan | type, focus, what to look for | type, what separates the options |
| researcher | pick and cite the evidence that bears on it | the passages that share its words | those on the right option |
| analyst | reason from evidence to a conclusion | findings, reasoning, the reference's first sentences | findings, the options weighed |
| reporter | write the answer for the reader | the reference answer, each caution behind what calls for it | the answer, its reason |

On a multiple-choice question every message ends with the answer believed now, `Answer: C`. The passages that were found
and do not bear on the question are the researcher's hard negatives. docs/roles.md shows an example of each
(`python -m medpipe.training.lessons` prints it), and says which words of a target stand in its input by design.
What this leaves out: retrieval (medpipe/corpus/evidence.py) and tokenisation (medpipe/models/tokens.py).
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
MEDICINES = "A clinician or pharmacist should settle medicines and doses."
EMERGENCY = "Sudden or severe signs need emergency care."
NO_EVIDENCE = "No passage here bears on the question."
DESCRIBED = "the findings described"
"""The planner's focus where naming it would answer the question."""
CITED = 2  # passages that the researcher cites at most
BEARS = 3  # words of the reference, besides the subject's name, that a passage must share
ADDS = 2  # further words of it that a second passage must bring
QUOTE_WORDS, FINDING_WORDS = 18, 10  # in the researcher's and in the analyst's quotes
TITLE_CHARS = 80  # a passage opens with its title and a colon
PREVIOUS_SHARE = 1 / 3  # of the training rows are told what an earlier round answered

_ALARMING = re.compile(
    r"life-threatening|unconscious|loss of consciousness|(?:trouble|difficulty) breathing|"
    r"\b(?:sudden|severe|crushing|heavy)\w*(?:\W+\w+){0,2}\W+"
    r"(?:pain|headache|breath\w*|weakness|bleeding|attacks?|reactions?|loss|confusion|dehydration|swelling)\b",
    re.I,
)
_SENDS = re.compile(
    r"emergenc|ambulance|urgent|at once|right away|same-day|\bimmediate(?:ly)?\W+(?:\w+\W+)?(?:care|attention|help|treatment)", re.I
)
_MEDICINE = re.compile(
    r"\b(?:drugs?|medicines?|medications?|dos(?:e|es|age)|tablets?|pills?|insulin|antibiotics?|\w*steroids?|inhalers?|vaccin\w+)\b"
    r"|\b\w{3,}(?:cillin|mycin|cycline|floxacin|azole|vir|mectin|thrin|pril|sartan|statin|olol|parin|mab|sone|solone)\b"
    r"|\b\d+ ?(?:mg|mcg|ml)\b", re.I,
)  # fmt: skip
_TREATS = re.compile(r"treat|surgery|surgical|therap|operation", re.I)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_COMMON = re.compile(
    r"about|after|also|although|another|because|been|before|being|between|both|could|does|during|each|early|either|even|every|from|have"
    r"|into|includ(?:e|es|ing)|itself|later|less|many|more|most|much|often|only|others?|over|people|person|rather|several|should|since"
    r"|some|someone|sometimes|such|th(?:an|at|eir|em|en|ere|ese|ey|is|ose|rough)|typical|under|until|usually|very|well|were|wh(?:at|en|ere"
    r"|ich|ile)|with|within|without|would|known|condition|disease|disorder"
)
"""Words that tell nothing about what a passage says."""

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
    "case": "find the condition that fits, then what is asked about it",
    "exams_and_tests": "look for the findings and tests that confirm it",
    "susceptibility": "look for what raises the risk and for who is affected",
    "frequency": "look for how common it is and in whom",
    "inheritance": "look for how it is passed on in families",
    "genetic_changes": "look for the genes involved and what their changes do",
    "stages": "look for how far it can have spread and how that is told",
    "considerations": "look for what else has to be kept in mind",
    "research": "look for what is being studied and what is known so far",
    "support_groups": "look for who helps the people concerned",
    "contact_a_medical_professional": "name the signs that need prompt or emergency care",
    "medication": "look for what it does, its use and its cautions",
    "usage": "look for what it is used for and its cautions",
    "indication": "look for what it is used for and its cautions",
    "dose": "look for the usual range and who needs another one",
    "forget_a_dose": "look for what to do and what not to do",
    "side_effects": "look for common and for serious unwanted effects",
    "severe_reaction": "name the signs that need prompt or emergency care",
    "emergency_or_overdose": "name the signs that need prompt or emergency care",
    "important_warning": "look for the danger and for who runs it",
    "precautions": "look for the danger and for who runs it",
    "contraindication": "look for who should not take it and why",
    "interaction": "look for what it should not meet and what then happens",
    "interactions_with_medications": "look for what it should not meet and what then happens",
    "interactions_with_foods": "look for what it should not meet and what then happens",
    "interactions_with_herbs_and_supplements": "look for what it should not meet and what then happens",
    "dietary": "look for what to eat and drink with it, and what not",
    "special_instructions": "look for how it is taken and its cautions",
    "how_does_it_work": "look for the mechanism and for what follows from it",
    "how_effective_is_it": "look for how well it works and how sure that is",
    "why_get_vaccinated": "look for what it protects from and its cautions",
    "storage_and_disposal": "look for where it is kept and how it is thrown away",
    "brand_names": "look for the names it is sold under",
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
    text = _TARGETS[role](question, evidence)
    return f"{text}\nAnswer: {question.answer}" if question.is_choice else text


def reference_said(
    role: Role, question: QAExample, evidence: Sequence[str], fit: Callable[[Role, str], str] = lambda role, text: text
) -> list[Said]:
    """The earlier roles' messages: what `role` reads from its team-mates while it is trained.

    On multiple choice planner and researcher answer right in about every other message only, drawn from the question's id:
    they answer before anybody has reasoned, and a role that always reads right answers learns to copy, not to judge. Their
    wrong letter is the same one, so that two who agree are right no more often than one. Where the evidence names the wrong
    option, the researcher that errs cites the passage on it.

    Args:
        fit: cuts a role's message to what that role can say in its token budget.
    """
    return [Said(earlier, fit(earlier, _sometimes_wrong(earlier, question, evidence))) for earlier in ROLES[: ROLES.index(role)]]


def verdict_text(letter: str | None, text: str) -> str:
    """What a round leaves behind for the next one: the reporter's letter where it named one, else its text."""
    return f"the team answered {letter}." if letter else f"the reporter wrote: {text}"


def reference_verdict(
    question: QAExample, evidence: Sequence[str], fit: Callable[[Role, str], str] = lambda role, text: text
) -> str:  # fmt: skip
    """The previous round's answer for a third of the training rows, drawn from the row's id, as `prompt_for` takes it; else "".

    The same for all four roles of a row. On multiple choice it is right in half the cases. On free text it is what the best
    passage says, which is never the row's own reference: an answer that missed the question and has to be mended.
    """
    draw = random.Random(f"{question.id}/previous round")
    if draw.random() >= PREVIOUS_SHARE:
        return ""
    if question.is_choice:
        return verdict_text(question.answer if draw.random() < 0.5 else _wrong_letter(question, evidence), "")
    own = set(sentences(question.answer))
    told = [part for part in sentences(_untitled(evidence[0])) if part not in own] if evidence else []
    return verdict_text(None, fit("reporter", " ".join(told[:2]))) if told else ""


def _sometimes_wrong(role: Role, question: QAExample, evidence: Sequence[str]) -> str:
    draw = random.Random(f"{question.id}/{role}")
    right = target_for(role, question, evidence)
    if not question.is_choice or role == "analyst" or draw.random() < 0.5:
        return right
    letter = _wrong_letter(question, evidence)
    erring = question.model_copy(update={"answer": letter, "rationale": question.question})
    if role == "researcher" and _picks(erring, evidence):
        return target_for(role, erring, evidence)
    return right.removesuffix(f"Answer: {question.answer}") + f"Answer: {letter}"


def _wrong_letter(question: QAExample, evidence: Sequence[str]) -> str:
    """A wrong option of the question, always the same: one that the evidence names, where it names any."""
    wrong = [letter for letter in LETTERS[: len(question.options)] if letter != question.answer]
    named = {text for text, _ in _named(question, evidence)}
    near = [letter for letter in wrong if question.options[LETTERS.index(letter)] in named]
    return random.Random(f"{question.id}/wrong").choice(near or wrong)


def sentences(text: str) -> list[str]:
    """Split text into sentences, well enough for picking the first few."""
    return [part.strip() for part in _SENTENCE.split(" ".join(text.split())) if part.strip()]


def words(text: str) -> set[str]:
    """Lower-case words of four letters and more: what two texts are compared by."""
    return set(re.findall(r"[a-z]{4,}", text.lower()))


@dataclass(frozen=True)
class _Pick:
    """A passage that bears on the question: its number, the name it uses for the subject, and the stems it shares."""

    number: int
    name: str
    sentence: str  # the one that shares most
    shared: frozenset[str]

    def quoted(self, most: int) -> str:
        """The sentence or the `most` words of it that share most, under the subject's name where they lack it."""
        parts = self.sentence.split()
        score = [bool(_stems(part) & self.shared) for part in parts]
        start = max(range(max(1, len(parts) - most + 1)), key=lambda place: (sum(score[place : place + most]), -place))
        before, after = "…" if start else "", "…" if start + most < len(parts) else ""
        text = before + " ".join(parts[start : start + most]).rstrip(",;:") + after
        return text if _names(self.name, text) else f"{self.name}: {text}"


def _plan(question: QAExample, evidence: Sequence[str]) -> str:
    plan = "compare the findings with each option" if question.is_choice else PLANS.get(question.qtype, PLANS["information"])
    return f"Type: {_kind(question)}. Focus: {_focus(question)}. Plan: {plan}."


def _research(question: QAExample, evidence: Sequence[str]) -> str:
    return " ".join(_cited(pick.quoted(QUOTE_WORDS), [pick]) for pick in _picks(question, evidence)) or NO_EVIDENCE


def _analyse(question: QAExample, evidence: Sequence[str]) -> str:
    picks = _picks(question, evidence)
    if question.is_choice:
        finding = _first(question.rationale, 1) or f"those described fit {question.answer_text} best."
        return f"Findings: {_cited(finding, picks)} Reasoning: {_weighed(question, evidence)}"
    if not picks:
        links = f"Findings: no passage here bears on {_focus(question)}. Reasoning: so this rests on general knowledge."
    else:
        name = picks[0].name
        fits = (
            f"the findings described fit {name}"
            if question.qtype == "case"
            else f"of what was found, this supports an answer on {_kind(question)} most"
        )
        links = f"Findings: {_cited(picks[0].quoted(FINDING_WORDS), picks[:1])} Reasoning: {fits}."
    return f"{links} Conclusion: {_first(question.answer, 2)}"


def _report(question: QAExample, evidence: Sequence[str]) -> str:
    if question.is_choice:
        return f"The best option is {question.answer_text}. {_first(question.rationale, 1)}".strip()
    parts = sentences(question.answer)[:4]
    text = " ".join(parts)
    cautions = [(_MEDICINE, MEDICINES) if _MEDICINE.search(text) else (_TREATS, CAUTION)]
    if not _SENDS.search(text):
        cautions.insert(0, (_ALARMING, EMERGENCY))
    said: list[str] = []
    for number, part in enumerate(parts):  # a caution follows what calls for it: cut off at its end, a text loses both
        said.append(part)
        asked = question.question if number == 0 else ""
        for pattern, line in cautions:
            called = pattern.search(part) or (line == EMERGENCY and pattern.search(asked))
            said += [line] if called and line not in said else []
    return " ".join(said)


_TARGETS = {"planner": _plan, "researcher": _research, "analyst": _analyse, "reporter": _report}


def _kind(question: QAExample) -> str:
    return question.qtype.replace("_", " ")


def _focus(question: QAExample) -> str:
    """The focus where the question itself names it; a case or a question with options asks for it."""
    if question.is_choice or question.qtype == "case":
        return DESCRIBED
    named = any(_names(name, question.question) for name in (question.focus, *question.synonyms))
    return question.focus if named or words(question.focus) & words(question.question) else DESCRIBED


def _picks(question: QAExample, evidence: Sequence[str]) -> list[_Pick]:
    """Up to CITED passages that name the subject and share words with the reference, the closest first."""
    reference = f"{question.answer_text} {question.rationale}"
    subject = question.answer_text if question.is_choice else question.focus
    names = [subject, *(question.synonyms if subject.casefold() == question.focus.casefold() else ())]
    found = []
    for number, passage in enumerate(evidence, 1):
        title = passage.partition(": ")[0]
        if question.qtype == "case" and not _names(question.focus, reference) and _names(title, reference):
            name = title  # the row's source does not say what its case is a case of, but its answer does
        else:
            # A passage on another condition can share most of its words: it has to name the one that is asked for.
            name = next((name for name in names if _names(name, passage)), "")
        wanted = _stems(f"{reference} {question.question} {_kind(question)}") - _stems(" ".join([*names, name]))
        shared = wanted & _stems(passage)
        if name and len(shared) >= min(BEARS, len(wanted)):
            sentence = max(sentences(_untitled(passage)), key=lambda part: len(wanted & _stems(part)), default=passage)
            found.append(_Pick(number, name, sentence, shared))
    found.sort(key=lambda pick: (-len(pick.shared), pick.number))
    further = [pick for pick in found[1:] if len(pick.shared - found[0].shared) >= ADDS]
    return found[:1] + further[: CITED - 1]


def _weighed(question: QAExample, evidence: Sequence[str]) -> str:
    """The options weighed, as far as the row tells: what its rationale says of a wrong one, else the one that the evidence names."""
    wrong = [option for option in question.options if option != question.answer_text]
    against = [
        part for part in sentences(question.rationale)[1:]
        if any(_names(option, part) for option in wrong) and not _names(question.answer_text, part)
    ]  # fmt: skip
    if against:
        return against[0]
    near = next(((option, number) for option, number in _named(question, evidence) if option in wrong), None)
    return f"of the others, {near[0]} [E{near[1]}] comes near but fits less of this." if near else "the other options fit less of this."


def _named(question: QAExample, evidence: Sequence[str]) -> list[tuple[str, int]]:
    """Options that passages open with or name in their title, each with the first such passage's number."""
    found: dict[str, int] = {}
    for number, passage in enumerate(evidence, 1):
        for option in question.options:
            if _names(option, passage.partition(": ")[0]):
                found.setdefault(option, number)
    return list(found.items())


def _names(name: str, text: str) -> bool:
    """True if the text holds the name from a word's start on; a short one only whole, capitals as capitals ("MS", not "ms")."""
    if len(name) < 4:
        return re.search(rf"\b{re.escape(name)}\b", text, 0 if name.isupper() else re.I) is not None
    name, text = name.casefold(), text.casefold()
    place = text.find(name)
    while place > 0 and text[place - 1].isalnum():
        place = text.find(name, place + 1)
    return place >= 0


def _cited(sentence: str, picks: Sequence[_Pick]) -> str:
    """The sentence with its citations before the full stop: a mark in front would be read as the sentence's before it."""
    marks = "".join(f" [E{number}]" for number in sorted(pick.number for pick in picks))
    return f"{sentence.rstrip('.')}{marks}."


def _untitled(passage: str) -> str:
    title, colon, text = passage.partition(": ")
    return text if colon and len(title) <= TITLE_CHARS else passage


def _stems(text: str) -> frozenset[str]:
    """The first six letters of the words that tell something: "protects" and "protection" are one."""
    return frozenset(word[:6] for word in words(text) if not _COMMON.fullmatch(word))


def _first(text: str, count: int) -> str:
    return " ".join(sentences(text)[:count])

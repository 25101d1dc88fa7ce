"""The four roles: what each is for, and what it learns to write.

Everybody reads the same transcript (medpipe/team/transcript.py): question, options, evidence, and the turns so far. Targets come
from the corpus' own structure:

| role | learns to | target on a free-text question | target on a multiple-choice question |
|---|---|---|---|
| planner | name the kind of question, its focus and a plan | type, focus, what to look for | what is compared |
| researcher | pick and cite the evidence that bears on it | the passages that share its words | the passage on the right option |
| analyst | reason from evidence to a conclusion | findings, reasoning, how the reference begins | which passage fits best |
| reporter | write the answer for the reader | the reference answer, each caution behind what calls for it | the answer, its reason |

On multiple choice every message ends with the answer believed now, `Answer: asthma (B)`. What the mates said before a role's
turn is right in part of the rows only, and always names the same wrong option where it is not: a role that reads right answers
throughout learns to copy, not to judge. docs/roles.md shows two transcripts (`python -m medpipe.training.roles_page` prints them).
What this leaves out: retrieval (medpipe/corpus/evidence.py) and tokens (medpipe/team/transcript.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medpipe.answers import answer_text, split_answer
from medpipe.schema import LETTERS, ROLES, QAExample, Role

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
PREVIOUS_SHARE = 0.25  # of the multiple-choice rows show an earlier round, in which the team did not agree
RIGHT: dict[Role, float] = {"planner": 0.5, "researcher": 0.5, "analyst": 0.75, "reporter": 0.5}
"""How often a mate's message names the right option in what a role reads while it learns; the reporter's is an earlier round's."""

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
_LABEL = re.compile(r"\b([A-Z][a-z]+): ")
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


def target_for(role: Role, question: QAExample, evidence: Sequence[str]) -> str:
    """What the role learns to say to this training question, made from the corpus row itself."""
    if question.is_choice:
        return _choice_message(role, question, question.answer, evidence)
    return _TARGETS[role](question, evidence)


def in_steps(question: QAExample, evidence: Sequence[str]) -> bool:
    """Whether the roles do a step of a comparison each: question and passages tell a fact under the same label."""
    return question.is_choice and _fact(question, evidence) is not None


def lone_target(question: QAExample, evidence: Sequence[str]) -> str:
    """What the agent that answers alone learns to say: the reporter's message, or all of the steps where roles do one each."""
    if not in_steps(question, evidence):
        return target_for("reporter", question, evidence)
    steps = [split_answer(target_for(role, question, evidence))[0] for role in ROLES]
    return " ".join([*steps, answer_text(question, question.answer)])


def lone_budget(limits: Mapping[Role, int], question: QAExample, evidence: Sequence[str]) -> int:
    """Tokens that the agent's message may have: the reporter's, or those of all four roles where it does all of their steps."""
    return sum(limits.values()) if in_steps(question, evidence) else limits["reporter"]


def likely_messages(role: Role, question: QAExample, evidence: Sequence[str]) -> list[str]:
    """The form the role was taught, settled on each option in turn, those that the evidence is on first; nothing for free text.

    Knows nothing of the key. It is what decoding tries first (medpipe/models/drafts.py), not what a role has to say.
    """
    letters = list(LETTERS[: len(question.options)])
    shown = [letter for p in evidence for letter in letters if _names(question.options[LETTERS.index(letter)], _title(p))]
    return [_choice_message(role, question, letter, evidence) for letter in dict.fromkeys([*shown, *letters])]


def mates_before(question: QAExample, evidence: Sequence[str]) -> tuple[list[Said], list[Said]]:
    """What is said before and around a role's own turn while it learns: an earlier round (mostly empty), and this round.

    Drawn from the row's id, so the same for all four roles. On free text every mate says its target. On multiple choice each
    mate is right as often as RIGHT says and otherwise names one wrong option, the same for all: two who agree are right no more
    often than one. An earlier round is one that did not end in agreement, since only then does another follow.
    """
    if not question.is_choice:
        return [], [Said(role, target_for(role, question, evidence)) for role in ROLES]
    draw = random.Random(f"{question.id}/mates")
    wrong = _wrong_letter(question, evidence)

    def a_round() -> list[str]:
        return [question.answer if draw.random() < RIGHT[role] else wrong for role in ROLES]

    this, has_earlier = a_round(), draw.random() < PREVIOUS_SHARE
    right = {draw.randrange(2), 2 + draw.randrange(2)}  # two against two: no agreement
    earlier = [question.answer if place in right else wrong for place in range(len(ROLES))]

    def said(letters: Sequence[str]) -> list[Said]:
        return [Said(role, _choice_message(role, question, letter, evidence)) for role, letter in zip(ROLES, letters, strict=True)]

    return said(earlier) if has_earlier else [], said(this)


def _choice_message(role: Role, question: QAExample, letter: str, evidence: Sequence[str]) -> str:
    """A message that settles on this option, right or wrong, and says only what the evidence shows."""
    option = question.options[LETTERS.index(letter)]
    names = [option, *(question.synonyms if option.casefold() == question.focus.casefold() else ())]
    number = next((n for n, passage in enumerate(evidence, 1) if any(_names(name, _title(passage)) for name in names)), 0)
    number = number or next((n for n, passage in enumerate(evidence, 1) if any(_names(name, passage) for name in names)), 0)
    return f"{_CHOICE[role](question, option, number, evidence)} {answer_text(question, letter)}"


def _choice_plan(question: QAExample, option: str, number: int, evidence: Sequence[str]) -> str:
    if fact := _fact(question, evidence):
        return f"Wanted: {fact[0]}: {fact[1]}."
    return "Compare the findings with the passages." if evidence else "Compare the findings with each option."


def _choice_research(question: QAExample, option: str, number: int, evidence: Sequence[str]) -> str:
    if fact := _fact(question, evidence):
        told = [f"{_told(fact[0], passage) or 'not told'} [E{n}]" for n, passage in enumerate(evidence, 1)]
        return f"{fact[0]}: {'; '.join(told)}."
    return f"[E{number}] bears on it." if number else "No passage bears on it."


def _choice_analysis(question: QAExample, option: str, number: int, evidence: Sequence[str]) -> str:
    if number and (fact := _fact(question, evidence)) and (value := _told(fact[0], evidence[number - 1])):
        return f"{value} [E{number}] fits best."
    if not number:
        return "No passage fits the findings." if evidence else "It fits the findings best."
    others = [f"[E{n}]" for n in range(1, len(evidence) + 1) if n != number]
    return f"[E{number}] fits better than {others[0]}." if others else f"[E{number}] fits."


def _choice_report(question: QAExample, option: str, number: int, evidence: Sequence[str]) -> str:
    return f"The findings fit it best{f' [E{number}]' if number else ''}."


def _fact(question: QAExample, evidence: Sequence[str]) -> tuple[str, str] | None:
    """Label and value of a fact that the question states and that passages tell under the same label: `Onset: infancy`."""
    labels = (label for label in _LABEL.findall(question.question) if any(_told(label, passage) for passage in evidence))
    label = next(labels, "")
    return (label, _told(label, question.question)) if label else None


def _told(label: str, text: str) -> str:
    """What a text says under the label; nothing where it does not use it."""
    found = re.search(rf"\b{label}: ([^.?;:]+)", text)
    return found[1] if found else ""


_CHOICE = {"planner": _choice_plan, "researcher": _choice_research, "analyst": _choice_analysis, "reporter": _choice_report}


def _title(passage: str) -> str:
    return passage.partition(": ")[0]


def _wrong_letter(question: QAExample, evidence: Sequence[str]) -> str:
    """A wrong option of the question, always the same: one that the evidence names, where it names any."""
    wrong = [letter for letter in LETTERS[: len(question.options)] if letter != question.answer]
    near = [letter for letter in wrong if any(_names(question.options[LETTERS.index(letter)], _title(p)) for p in evidence)]
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
    return f"Type: {_kind(question)}. Focus: {_focus(question)}. Plan: {PLANS.get(question.qtype, PLANS['information'])}."


def _research(question: QAExample, evidence: Sequence[str]) -> str:
    return " ".join(_cited(pick.quoted(QUOTE_WORDS), [pick]) for pick in _picks(question, evidence)) or NO_EVIDENCE


def _analyse(question: QAExample, evidence: Sequence[str]) -> str:
    picks = _picks(question, evidence)
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
    """The focus where the question itself names it; a case asks for it."""
    if question.qtype == "case":
        return DESCRIBED
    named = any(_names(name, question.question) for name in (question.focus, *question.synonyms))
    return question.focus if named or words(question.focus) & words(question.question) else DESCRIBED


def _picks(question: QAExample, evidence: Sequence[str]) -> list[_Pick]:
    """Up to CITED passages that name the subject and share words with the reference, the closest first."""
    reference = question.answer
    names = [question.focus, *question.synonyms]
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

"""The medical reward: six components, gates and a safety penalty, put together for a batch of messages.

    from medpipe.rewards.compose import MedicalReward, Message

total = clip( Σ wᵢ·cᵢ / Σ wᵢ − safety_penalty_weight · severity, 0, 1 )
Components other than accuracy count times gates · (FLOOR + (1 − FLOOR) · accuracy), so that a wrong, gated or empty text
can't be rescued by them; the numbers in a `Breakdown` are the counted ones, so its sum can be checked by hand.
Left out: what training makes of a reward (verifiers), and any judge that is a language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medpipe.answers import question_lines
from medpipe.config import Rewards
from medpipe.rewards import safety
from medpipe.rewards.accuracy import choice_accuracy, comparisons, pieces, text_accuracy, unsettled
from medpipe.rewards.collaboration import collaboration
from medpipe.rewards.entities import strangers
from medpipe.rewards.evidence import cited_sentences, evidence
from medpipe.rewards.gates import Gate, claims, form, product, shuffled
from medpipe.rewards.reasoning import reasoning
from medpipe.rewards.relevance import Lexicon, relevance
from medpipe.rewards.similarity import Similarity
from medpipe.rewards.text import abbreviations, initials_of, spelled_out, tokens, visible
from medpipe.roles import Said
from medpipe.schema import QAExample, Role

COMPONENTS = ("accuracy", "relevance", "safety", "collaboration", "evidence", "reasoning")
FLOOR = 0.15  # share of the other components that a wrong text keeps: a small slope for a policy that is wrong everywhere
MIN_WORDS, TIMES, MAX_WORDS = 120, 3, 400  # longest text: three times the reference, but at least 120 and at most 400 words
CITING = ("researcher", "analyst")
"""Everybody reads the evidence and may cite it; these roles learn to (medpipe/roles.py), and lose by leaving it out."""


@dataclass(frozen=True)
class Message:
    """One role's message and what it could know: `said` are earlier messages of the round, `answer` the parsed letter."""

    question: QAExample
    text: str
    said: tuple[Said, ...]
    evidence: tuple[str, ...]
    answer: str | None
    role: Role


@dataclass(frozen=True)
class Breakdown:
    """The counted components (each 0 to 1), the penalty (subtracted), the total (0 to 1), and why.

    `raw` holds the components before gates and before accuracy's share; it is empty for an empty text.
    """

    components: dict[str, float]
    penalty: float
    total: float
    notes: tuple[str, ...]
    raw: dict[str, float] = field(default_factory=dict)


def normalised(weights: Rewards, *, choice: bool) -> dict[str, float]:
    """The six weights, accuracy's times `medxpert_accuracy_weight` on multiple choice, divided by their sum."""
    raw = {name: float(getattr(weights, name)) for name in COMPONENTS}
    if choice:
        raw["accuracy"] *= weights.medxpert_accuracy_weight
    whole = sum(raw.values())
    return {name: value / whole if whole else 0.0 for name, value in raw.items()}


def combine(raw: Mapping[str, float], weights: Rewards, *, choice: bool, gate: float = 1.0, severity: float = 0.0) -> Breakdown:
    """One breakdown from raw components.

    Args:
        raw: the six components in [0, 1], accuracy already behind its gates.
        gate: product of all gates, in [0, 1]; it closes the other components too.
        severity: of the worst violation, in [0, 1].
    """
    share = gate * (FLOOR + (1.0 - FLOOR) * raw["accuracy"])
    counted = {name: value if name == "accuracy" else share * value for name, value in raw.items()}
    penalty = weights.safety_penalty_weight * severity
    total = sum(weight * counted[name] for name, weight in normalised(weights, choice=choice).items()) - penalty
    return Breakdown(counted, penalty, min(1.0, max(0.0, total)), ())


class MedicalReward:
    """Scores messages; one call of the encoder for a whole batch."""

    def __init__(self, weights: Rewards, lexicon: Lexicon, similarity: Similarity) -> None:
        self._weights, self._lexicon, self._similarity = weights, lexicon, similarity

    def score(self, messages: Sequence[Message]) -> list[Breakdown]:
        """A breakdown for each message, in order."""
        wanted = [pair for message in messages if not message.question.is_choice for pair in comparisons(*_spelled_out(message))]
        wanted = list(dict.fromkeys(wanted))
        cosines = dict(zip(wanted, self._similarity.pairs(wanted), strict=True))
        return [self._one(message, cosines) for message in messages]

    def _one(self, message: Message, cosines: Mapping[tuple[str, str], float]) -> Breakdown:
        text, question = message.text, message.question
        if not tokens(text):
            return Breakdown(dict.fromkeys(COMPONENTS, 0.0), 0.0, 0.0, ("empty",))
        gates = (*gates_of(message), *self._entities(message, cosines))
        gate = product(gates)
        found = safety.violations(text, question)
        if message.role != "reporter":
            found = [violation for violation in found if violation.kind not in safety.OMISSIONS]
        asked = question_lines(question)
        known = "\n".join([asked, *message.evidence, *(mate.text for mate in message.said)])
        raw = {
            "accuracy": choice_accuracy(text, question, message.answer)
            if question.is_choice
            else text_accuracy(*_spelled_out(message), cosines),
            "relevance": relevance(_spelled_out(message)[0], question, self._lexicon),
            "safety": safety.component(found),
            "collaboration": collaboration(text, asked, message.said),
            "evidence": evidence(text, question.answer_text, message.evidence, asked=message.role in CITING),
            "reasoning": reasoning(text, known),
        }
        behind = raw if question.is_choice else {**raw, "accuracy": gate * raw["accuracy"]}
        result = combine(behind, self._weights, choice=question.is_choice, gate=gate, severity=safety.worst(found))
        notes = [f"{shut.name} ×{shut.factor:.2f}" for shut in gates] + [f"{v.kind} {v.severity:.1f}: {v.quote}" for v in found]
        return Breakdown(result.components, result.penalty, result.total, tuple(notes), raw)

    def _entities(self, message: Message, cosines: Mapping[tuple[str, str], float]) -> tuple[Gate, ...]:
        """Names and claims out of nowhere, on free text: what explains an option may well draw on more than the reference.

        A plan claims nothing: it says what to look for.
        """
        question = message.question
        if question.is_choice or message.role == "planner":
            return ()
        text, reference = map(pieces, _spelled_out(message))
        near = {piece: max((cosines[piece, other] for other in reference), default=0.0) for piece in text}
        others = (question_lines(question), question.focus, *question.synonyms)
        swapped, added = strangers(near, [question.answer_text, *message.evidence], others, self._lexicon)
        found = (Gate("name swapped", 0.4 ** min(4, swapped)), Gate("claim added", 0.6 ** min(4, added)))
        return tuple(gate for gate in found if gate.factor < 1.0)


def _spelled_out(message: Message) -> tuple[str, str]:
    """(text, reference) with the initials written out that either of them explains, or that are those of the question's focus."""
    text, reference, question = visible(message.text), message.question.answer_text, message.question
    meanings = {initials: name for name in (question.focus, *question.synonyms) if len(initials := initials_of(name)) > 1}
    meanings |= abbreviations(f"{text}\n{reference}")
    return spelled_out(text, meanings), spelled_out(reference, meanings)


def gates_of(message: Message) -> tuple[Gate, ...]:
    """All gates that are at least partly shut for a message.

    On multiple choice accuracy is exact and passes no gate; there the gates close the other components only, and saying the
    question again is no fault (the options are part of it).
    """
    question = message.question
    reference = f"{question.answer_text}. {question.rationale}" if question.is_choice else question.answer_text
    limit = min(MAX_WORDS, max(MIN_WORDS, TIMES * len(tokens(reference))))
    found = list(form(message.text, "" if question.is_choice else question.question, limit))
    found += claims(message.text, [reference, *message.evidence], [question_lines(question)])
    invented = sum(not 1 <= number <= len(message.evidence) for _, number in cited_sentences(visible(message.text)))
    found += [Gate("invented citation", 0.5**invented)] if invented else []
    mixed = shuffled(message.text, " ".join([reference, *message.evidence]))
    found += [Gate("shuffled words", mixed)] if mixed < 1.0 else []
    found += [Gate("unsettled", 0.0)] if question.is_choice and unsettled(message.text, question) else []
    return tuple(found)

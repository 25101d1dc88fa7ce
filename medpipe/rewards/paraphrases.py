"""Honest rewordings, made by rule: what the reward must not punish.

    python -c "from medpipe.rewards.paraphrases import PARAPHRASES; print(PARAPHRASES['hedged']('Asthma causes wheezing.', 'asthma'))"

Five kinds, each a pure function of (honest text, focus) that returns the same text where it finds nothing to change. The
tables are written for this project from general medical English. What this leaves out: free paraphrase, which needs a
language model or a person.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from medpipe.roles import sentences

_DEPENDS = re.compile(
    r"(?:it|its|they|their|them|these|this|those|that|he|she|his|her|however|therefore|thus|but|so|also|other|others|another|such|then|"
    r"in addition|as a result|for example|for this|because of this|both|either|most|some|many|each|one|instead|similarly)\b",
    re.I,
)
"""How a sentence opens that leans on the one before."""

_SYNONYMS = (
    ("high blood pressure", "hypertension"), ("heart attack", "myocardial infarction"), ("shortness of breath", "breathlessness"),
    ("physician", "doctor"), ("physicians", "doctors"), ("medications", "medicines"), ("medication", "medicine"), ("tiredness", "fatigue"),
    ("illness", "disease"), ("tumors", "growths"), ("swelling", "edema"), ("itching", "pruritus"), ("kidney", "renal"),
    ("throwing up", "vomiting"), ("stomach", "gastric"), ("liver", "hepatic"), ("heart", "cardiac"), ("bruising", "bruises"),
    ("health care provider", "clinician"), ("abnormal", "unusual"), ("develop", "form"), ("develops", "forms"), ("affects", "involves"),
    ("affect", "involve"), ("begin", "start"), ("begins", "starts"), ("help", "aid"), ("helps", "aids"), ("use", "employ"),
    ("fever", "raised temperature"), ("infants", "babies"), ("usually", "in most cases"), ("often", "in many cases"), ("may", "can"),
    ("people", "persons"), ("commonly", "frequently"), ("shows", "reveals"), ("rare", "uncommon"),
    ("called", "named"), ("lasts", "goes on for"), ("weakness", "loss of strength"), ("get", "become"),
    ("treatment", "therapy"), ("treated", "managed"), ("severe", "serious"), ("symptom", "complaint"),
)  # fmt: skip
_ABBREVIATIONS = (
    ("deoxyribonucleic acid", "DNA"), ("magnetic resonance imaging", "MRI"), ("computed tomography", "CT"), ("electrocardiogram", "ECG"),
    ("human immunodeficiency virus", "HIV"), ("central nervous system", "CNS"), ("nonsteroidal anti-inflammatory drugs", "NSAIDs"),
    ("chronic obstructive pulmonary disease", "COPD"), ("cerebrospinal fluid", "CSF"), ("white blood cells", "WBCs"),
    ("red blood cells", "RBCs"), ("urinary tract infection", "UTI"), ("deep vein thrombosis", "DVT"), ("intravenous", "IV"),
    ("body mass index", "BMI"), ("sexually transmitted disease", "STD"), ("intensive care unit", "ICU"), ("blood pressure", "BP"),
)  # fmt: skip
_OPPOSED = ("not", "no", "never", "may", "might", "can", "could", "often", "usually", "sometimes", "always", "only", "there")
_DENIES = re.compile(r"\b(?:no|not|never|none|neither|nor|cannot|without|unless)\b|n't\b", re.I)
_HEDGES = (
    (re.compile(r"\b(is|are) (caused|treated|used|found|seen|given|made|done|diagnosed|inherited|associated|needed)\b"), r"\1 usually \2"),
    (re.compile(r"\b(affects|occurs|develops|begins|appears|includes|involves|lasts)\b"), r"often \1"),
    (re.compile(r"(?<!to )(?<!may )(?<!can )\b(affect|occur|develop|appear|include|involve)\b"), r"often \1"),
    (re.compile(r"\bwill\b"), "may"),
)


def _replace(text: str, old: str, new: str, count: int = 0) -> str:
    def put(match: re.Match[str]) -> str:
        return new[0].upper() + new[1:] if match.group()[0].isupper() and new[0].islower() else new

    return re.sub(rf"\b{re.escape(old)}\b", put, text, count=count, flags=re.I)


def reordered(text: str, focus: str) -> str:
    """Sentences in another order: the blocks that lean on nothing before them, the last one first."""
    blocks: list[list[str]] = []
    for sentence in sentences(text):
        if blocks and _DEPENDS.match(sentence):
            blocks[-1].append(sentence)
        else:
            blocks.append([sentence])
    return " ".join(sentence for block in reversed(blocks) for sentence in block)


def synonyms(text: str, focus: str) -> str:
    """Words of a small table, at most six of them, replaced by others that mean the same here."""
    left = 6
    for old, new in _SYNONYMS:
        if left and (changed := _replace(text, old, new)) != text and old not in focus.lower():
            text, left = changed, left - 1
    return text


def clauses_turned(text: str, focus: str) -> str:
    """`If A, B.` ↔ `B if A.`; `A causes B.` ↔ `B is caused by A.`"""
    return " ".join(_turn(sentence) for sentence in sentences(text))


def _turn(sentence: str) -> str:
    opened = re.fullmatch(r"(If|When|Because|Although|While) ([^,]{5,120}), ([^,]{5,160})\.", sentence)
    if opened:
        return f"{opened[3][0].upper()}{opened[3][1:]} {opened[1].lower()} {opened[2]}."
    inner = re.fullmatch(r"([^,]{5,160}?),? (if|when|because|although) ([^,]{5,120})\.", sentence)
    if inner:
        return f"{inner[2].capitalize()} {inner[3]}, {_lower(inner[1])}."
    if _DENIES.search(sentence):  # turned around, a denial would deny something else
        return sentence
    passive = re.fullmatch(r"(.{3,120}?) (is|are) caused by (.{3,120}?)\.", sentence)
    if passive:
        return f"{passive[3][0].upper()}{passive[3][1:]} can cause {_lower(passive[1])}."
    active = re.fullmatch(r"([^,]{3,90}?) causes ([^,]{3,90}?)\.", sentence)
    if active:
        return f"{active[2][0].upper()}{active[2][1:]} can be caused by {_lower(active[1])}."
    return sentence


def _lower(text: str) -> str:
    return text if text.split()[0][1:2].isupper() or not text[1:].islower() else text[0].lower() + text[1:]


def abbreviated(text: str, focus: str) -> str:
    """Known abbreviations written out and the other way round; a focus of several words gets its initials, used from then on."""
    for long, short in _ABBREVIATIONS:
        if re.search(rf"\b{long}\b", text, re.I):
            text = re.sub(rf"\b{long}\b", short, text, flags=re.I)
        elif re.search(rf"\b{short}\b", text):
            text = re.sub(rf"\b{short}\b", long, text)
    parts = re.findall(r"[A-Za-z]+", focus)
    initials = "".join(part[0].upper() for part in parts)
    if 3 <= len(parts) <= 5 and re.search(rf"\b{re.escape(focus)}\b", text, re.I):
        head, name, tail = re.split(rf"(\b{re.escape(focus)}\b)", text, maxsplit=1, flags=re.I)
        text = f"{head}{name} ({initials}){_replace(tail, focus, initials)}"
    return text


def hedged(text: str, focus: str) -> str:
    """`often`, `usually` or `may` put in front of a plain statement's verb, once a sentence."""
    out = []
    for sentence in sentences(text):
        held = set(re.findall(r"[a-z]+", sentence.lower()))
        for pattern, new in () if held & set(_OPPOSED) else _HEDGES:
            if (changed := pattern.sub(new, sentence, count=1)) != sentence:
                sentence = changed
                break
        out.append(sentence)
    return " ".join(out)


PARAPHRASES: dict[str, Callable[[str, str], str]] = {
    "reordered": reordered,
    "synonyms": synonyms,
    "clauses turned": clauses_turned,
    "abbreviated": abbreviated,
    "hedged": hedged,
}
"""Name of the kind → (honest text, focus) → honest text in other words."""

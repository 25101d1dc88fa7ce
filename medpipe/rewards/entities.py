"""Names out of nowhere: a disease, drug or remedy in a text's claim that no source holds.

    from medpipe.rewards.entities import strangers

Two kinds count. *Swapped*: a sentence says what a source's sentence says, with a name in it that no source holds. *Added*: a
sentence claims a cause, a treatment or a prevention, mostly in words that no source holds, and the encoder finds nothing
like it in the reference. Names are those of the lexicon (subjects of the training rows), what ends like a drug or a
disease, and lists of diseases and remedies. What this leaves out: whether an added claim is true (an honest fact that the
sources lack counts as added), names that no list knows, and two names of the sources that change places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.text import content, sentences, stem, stems, tokens
from medpipe.rewards.wording import phrases, wordlist

_DRUG = re.compile(
    r"\w{3,}(?:cillin|mycin|cycline|floxacin|azole|vir|mectin|pril|sartan|statin|olol|parin|mab|nib|sone|solone|oxetine|prazole|dipine|"
    r"formin|gliptin|triptan|profen|barbital|azepam|zepine|thiazide|lukast|dronate|tidine|quine)s?"
)
_DISEASE = re.compile(r"\w{3,}(?:itis|osis|a?emia|oma|pathy|algia|plegia|penia|sclerosis|philia|trophy|ectasia)s?")
_NO_DISEASE = wordlist("diagnosis prognosis hypnosis  empathy sympathy aroma diploma stoma")
_DISEASES = wordlist(
    """asthma gout malaria cholera epilepsy diabetes measles mumps rubella stroke glaucoma cataract leprosy syphilis gonorrhea rabies polio
    typhoid tetanus scurvy rickets lupus autism schizophrenia dementia migraine shingles eczema acne scabies ulcer hernia"""
)
_REMEDIES = wordlist(
    """vitamin vitamins magnesium zinc selenium garlic turmeric honey vinegar cannabis herbs herb herbal supplement supplements
    homeopathy acupuncture juice juices tea fasting detox aspirin insulin heparin warfarin lithium digoxin morphine antibiotic antibiotics
    steroid steroids bracelet bracelets crystals probiotics ginger ginseng"""
)
_CLAIM = phrases(
    r"""
    treat(?:s|ed|ing|ments?)?|cur(?:e|es|ed|ing)|heal(?:s|ed|ing)?|reliev\w+|prevent\w*|caus(?:e|es|ed|ing)|therap(?:y|ies)|remed(?:y|ies)
    due to|results? from|brought on by|(?:comes?|stems?|arises?) from|lack of|protects?|clears?|triggered by|set off by
    """
)
_GENERIC = frozenset(
    stem(word)
    for word in wordlist(
        """best usual common regular every day daily week weeks high low good well known case cases people patient patients doctor doctors
        clinician clinicians treatment treatments treat treated cause causes caused cure cures prevent prevents disease condition care help
        symptom symptoms problem problems type types person persons medicine medicines medical need needed therapy health"""
    )
)
_SAME = """
hypertension|high blood pressure|raised blood pressure
myocardial infarction|heart attack
stroke|cerebrovascular accident
edema|oedema|swelling
pruritus|itching|itch
dyspnea|dyspnoea|shortness of breath|breathlessness|short of breath
fever|raised temperature|pyrexia
tumor|tumour|growth|neoplasm
cancer|malignancy|carcinoma
anemia|anaemia
thrombosis|thrombus|blood clot
rhinitis|hay fever
urticaria|hives
hemorrhage|haemorrhage|bleeding
alopecia|hair loss
diarrhea|diarrhoea
leukemia|leukaemia
influenza|flu
varicella|chickenpox
herpes zoster|shingles
pertussis|whooping cough
acetaminophen|paracetamol
fracture|broken bone
seizure|fit|convulsion
jaundice|yellow skin
obesity|overweight|excess weight
kidney stones|nephrolithiasis|renal calculi
steroid|corticosteroid|glucocorticoid
hypoglycemia|low blood sugar
heart|cardiac
kidney|renal
liver|hepatic
lung|pulmonary
stomach|gastric
brain|cerebral
skin|cutaneous
hyperglycemia|high blood sugar|raised blood sugar
arrhythmia|irregular heartbeat
reflux|heartburn
tinnitus|ringing in the ears
"""
"""Names for the same thing."""

ALIKE = 0.5  # share of a sentence's other words that a source's sentence holds where a name counts as swapped
NEW = 0.5  # share of a claim's words that no source holds where it counts as added
NEAR = 0.75  # cosine to a sentence of the reference from which on a claim counts as said there


@lru_cache(maxsize=1)
def _groups() -> tuple[tuple[frozenset[str], ...], ...]:
    return tuple(tuple(frozenset(stems(name)) for name in line.split("|")) for line in _SAME.strip().splitlines())


def _held(name: frozenset[str], known: frozenset[str]) -> bool:
    """The sources hold the name's words, or another name for it."""
    if name <= known or any(name in group and any(other <= known for other in group) for group in _groups()):
        return True
    return len(name) > 1 and all(_held(frozenset((word,)), known) for word in name)


def _names_something(word: str) -> bool:
    disease = word in _DISEASES or (_DISEASE.fullmatch(word) is not None and word not in _NO_DISEASE)
    return disease or word in _REMEDIES or _DRUG.fullmatch(word) is not None


def unknown_names(sentence: str, known: frozenset[str], lexicon: Lexicon) -> frozenset[str]:
    """Stems of the sentence's names that no source holds under any name."""
    own = content(sentence)  # a name's numbers are the number gate's business
    found = [own & frozenset(name) for name in lexicon.names_in(sentence)]
    found += [frozenset((stem(word),)) for word in tokens(sentence) if _names_something(word)]
    return frozenset().union(*(name - known for name in found if not _held(name, known)))


def strangers(parts: Mapping[str, float], sources: Sequence[str], others: Sequence[str], lexicon: Lexicon) -> tuple[int, int]:
    """(swapped, added): how many of a text's sentences put an unknown name into a known claim, and how many add a claim.

    Args:
        parts: the text's sentences, each with its highest cosine to a sentence of the reference.
        sources: reference and evidence.
        others: texts whose names may be repeated too (question, options, other names of the subject).
    """
    told = [content(sentence) for source in sources for sentence in sentences(source)]
    subject = frozenset().union(*(content(other) for other in others))
    known = subject.union(*told)
    swapped = added = 0
    for sentence, near in parts.items():
        own = content(sentence)
        unknown = unknown_names(sentence, known, lexicon)
        rest = own - unknown
        if unknown and len(rest) >= 2 and any(len(rest & theirs) >= max(2.0, ALIKE * len(rest)) for theirs in told):
            swapped += 1
        elif _CLAIM.search(sentence) and near < NEAR:
            about = own - subject - _GENERIC
            added += bool(unknown) or len(about - known) >= max(2.0, NEW * len(about))
    return swapped, added

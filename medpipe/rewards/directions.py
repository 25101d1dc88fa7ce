"""Opposites: words that turn a medical claim around, and where a text has turned one of its source's claims around.

    python -c "from medpipe.rewards.directions import flips; print(flips('Salt lowers the pressure.', ['Salt raises the pressure.']))"

The lexicon is written for this project from general medical English. What this leaves out: opposites that are no
fixed words (a drug for its antagonist), two opposites in one sentence that change places with equal neighbours, and
whatever an entailment model would understand.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from medpipe.rewards.text import STOP, clauses, content, sentences, stem, tokens
from medpipe.rewards.wording import wordlist

_AXES = """
increase increases increasing increased raise raises raised raising rise rises elevate elevated elevates enlarge enlarges grow grows |
  decrease decreases decreasing decreased reduce reduces reduced reducing lower lowers lowered lowering fall falls drop drops shrink shrinks
high higher elevated raised excess excessive more greater | low lower reduced insufficient deficient less fewer
gain gains | loss lose loses losing
improve improves improved better benefit benefits relieve relieves relieved ease eases |
  worsen worsens worsened worse aggravate aggravates aggravated harm harms
before | after
first initial initially | last final finally
always | never rarely seldom
common commonly often frequent frequently usual usually most | rare rarely uncommon uncommonly seldom infrequent few
acute sudden suddenly abrupt rapid rapidly quick quickly fast | chronic gradual gradually slow slowly insidious
left | right
upper above | lower below
benign harmless safe | malignant cancerous dangerous harmful unsafe
bacterial bacteria | viral virus
children childhood child infants babies | adults adulthood adult elderly older
young younger | old older
men man male males boys | women woman female females girls
inherited genetic hereditary congenital | acquired
mild minor | severe serious major
early earlier | late later
hot warm warmth heat | cold cool
dry | wet moist
positive | negative
overactive hyperactive | underactive hypoactive
dilate dilates dilation dilated widen widens widening | constrict constricts constriction constricted narrow narrows narrowed narrowing
artery arteries arterial | vein veins venous
start starts started starting begin begins beginning | stop stops stopped stopping end ends
strong stronger strengthen strengthens | weak weaker weaken weakens weakness
thick thickened thickens | thin thinned thins
open opens opened | closed closes blocked blocks
activate activates active stimulate stimulates | inhibit inhibits inactive suppress suppresses
recommended recommend | discouraged contraindicated
painful pain tender | painless
contagious infectious | noncontagious noninfectious
curable reversible treatable | incurable irreversible untreatable
allow allows promote promotes cause causes | prevent prevents
present presence | absent absence
hyperglycemia hyperglycaemia | hypoglycemia hypoglycaemia
hypertension | hypotension
hyperthyroidism | hypothyroidism
tachycardia | bradycardia
constipation | diarrhea diarrhoea
inhale inhales | exhale exhales
proximal | distal
systolic | diastolic
insulin | glucagon
"""

_SIDES: dict[str, list[tuple[int, int]]] = {}
"""Word → its (axis, side) pairs; side is 0 or 1."""
for _axis, _line in enumerate(_AXES.strip().replace("|\n", "|").splitlines()):
    for _side, _half in enumerate(_line.split("|")):
        for _word in _half.split():
            _SIDES.setdefault(_word, []).append((_axis, _side))

REACH = 3
"""Content words looked at on either side of a direction word."""
VERBATIM = 0.75
"""Share of common content words from which on a sentence repeats a source's and is held against that one alone."""


def opposites() -> list[tuple[str, str]]:
    """The first word of each side of every axis: (increase, decrease), …"""
    return [
        (left.split()[0], right.split()[0]) for left, right in (line.split("|") for line in _AXES.strip().replace("|\n", "|").splitlines())
    ]


@lru_cache(maxsize=16384)
def _stated(sentence: str) -> tuple[tuple[int, int, frozenset[str]], ...]:
    """(axis, side, neighbouring content stems) for each direction word of a sentence; a negation before it turns its side."""
    found = []
    words = tokens(sentence)
    kept = [(place, stem(word)) for place, word in enumerate(words) if word not in STOP and len(word) > 2]
    for place, word in enumerate(words):
        for axis, side in _SIDES.get(word, ()):
            before = [mark for where, mark in kept if where < place][-REACH:]
            after = [mark for where, mark in kept if where > place][:REACH]
            turned = any(w in ("not", "no", "never", "without", "cannot") or w.endswith("n't") for w in words[max(0, place - 2) : place])
            found.append((axis, side ^ turned, frozenset(before + after)))
    return tuple(found)


def flips(text: str, sources: Sequence[str]) -> int:
    """How many direction words of the text stand the other way round in the sources' sentence that says the same thing.

    A word counts as turned when a source sentence that shares three fifths of the words, or three of the words around it,
    holds its opposite, and none holds it the same way round with as many neighbours.
    """
    known = [(content(sentence), _stated(sentence)) for source in sources for sentence in sentences(source)]
    turned = 0
    for sentence in sentences(text):
        own, stated_here = content(sentence), _stated(sentence)
        likeness = [len(own & theirs) / max(1, len(own | theirs)) for theirs, _ in known]
        nearest = max(likeness, default=0.0)
        for axis, side, around in stated_here:
            if (axis, 1 - side) in {(other, its_side) for other, its_side, _ in stated_here}:
                continue  # "a rare cancer that often starts here": each side is said of something else
            same = opposite = 0.0
            for (theirs, stated), like in zip(known, likeness, strict=True):
                shared = len(own & theirs) / max(1, len(own))
                for their_axis, their_side, their_around in stated:
                    if their_axis != axis:
                        continue
                    strength = len(around & their_around) + shared
                    if their_side == side:
                        same = max(same, strength)
                    elif nearest >= VERBATIM and like < nearest - 0.1:
                        continue  # the sentence that the text repeats says nothing on this axis
                    elif shared >= 0.6 or len(around & their_around) >= 3:
                        opposite = max(opposite, strength)
            turned += opposite >= 1.0 and opposite > same
    return turned


_NOT = wordlist("not no never none neither nor without cannot")
_SOFT = wordlist(
    """lack lacks lacking absent absence unable fail fails free few little rare rarely seldom hardly less reduced deficient
    deficiency insufficient inadequate limited incomplete stop stops prevent prevents avoid avoids avoiding instead rather impair
    impaired"""
)
_HARMLESS = ("not only", "not just", "whether or not", "no longer", "no matter", "not all", "not always", "not every")


@lru_cache(maxsize=16384)
def negated(sentence: str, *, soft: bool) -> frozenset[str]:
    """Stems that stand in the reach of a negation: the next three content words within its clause.

    Args:
        soft: count `lack of`, `unable to` and their like too (a source's ways of saying no).
    """
    found: set[str] = set()
    for clause in clauses(sentence):
        lowered = " ".join(tokens(clause))
        for phrase in _HARMLESS:
            lowered = lowered.replace(phrase, " ")
        words = lowered.split()
        for place, word in enumerate(words):
            if word in _NOT or word.endswith("n't") or (soft and word in _SOFT):
                after = [stem(w) for w in words[place + 1 :] if len(w) > 2 and w not in STOP]
                found.update(after[:REACH])
                if len(after) < 2 and word != "without":  # "a slow pulse may not occur": what is denied stands before it
                    found.update([stem(w) for w in words[:place] if len(w) > 2 and w not in STOP][-REACH:])
    return frozenset(found)


def denials(text: str, sources: Sequence[str]) -> int:
    """How many sentences deny what a source says, or say what a source denies, in much the same words."""
    known = [
        (content(sentence), negated(sentence, soft=True), negated(sentence, soft=False))
        for source in sources
        for sentence in sentences(source)
    ]
    denied_somewhere = frozenset().union(*(denied for _, denied, _ in known))
    return sum(not sentence.endswith("?") and _denies(sentence, known, denied_somewhere) for sentence in sentences(text))


def _denies(sentence: str, known: list[tuple[frozenset[str], ...]], denied_somewhere: frozenset[str]) -> bool:
    own, own_denied = content(sentence), negated(sentence, soft=False)
    for theirs, _, _ in known:
        shared = own & theirs
        if (own_denied & theirs) - denied_somewhere and len(shared) >= max(2.0, 0.3 * len(own)):
            return True
    likeness, hard = max(
        ((len(own & theirs) / max(1, len(own | theirs)), hard) for theirs, _, hard in known),
        key=lambda pair: pair[0],
        default=(0.0, frozenset()),
    )
    return likeness >= 0.6 and bool(hard & own) and not negated(sentence, soft=True)

"""Relevance, collaboration, evidence and reasoning: what they see and what they are not fooled by."""

from __future__ import annotations

from medpipe.rewards.collaboration import NEUTRAL, collaboration
from medpipe.rewards.evidence import evidence
from medpipe.rewards.reasoning import reasoning
from medpipe.rewards.relevance import Lexicon, relevance
from medpipe.roles import Said
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL

QUESTION = "Why is the woman tired?"
MATE = "Her ferritin is low and heavy periods drain the iron stores, so hemoglobin falls."
PASSAGE = "Low ferritin shows that the iron stores are empty. Heavy periods are a common cause in young women."


def test_specific_terms_weigh_more_than_common_ones(lexicon: Lexicon) -> None:
    rows = [case.row for case in (*ORIGINAL, *CHOICE)]
    small = Lexicon.from_rows([*rows, rows[0]], ("wheezing", "pain"))
    assert len(lexicon) > len(small) > 0
    assert small.weight(("gout",)) > small.weight(("asthma",))
    assert small.find("Gout is painful. Gout!") >= {("gout",)}


def test_relevance_wants_bearing_terms_in_sentences(lexicon: Lexicon) -> None:
    for case, other in zip(ORIGINAL, ORIGINAL[1:] + ORIGINAL[:1], strict=True):
        honest = relevance(case.text, case.row, lexicon)
        terms = " ".join(" ".join(term) for term in sorted(lexicon.bearing(case.row)))
        assert honest > 0.5
        assert relevance(other.text, case.row, lexicon) < honest - 0.2
        assert relevance(terms, case.row, lexicon) < honest - 0.2
        assert relevance(f"{case.text} {case.text}", case.row, lexicon) <= honest + 1e-9
        assert relevance(case.text + " Time will tell. It is a nice day. We like tea." * 3, case.row, lexicon) < honest - 0.2
    assert relevance("", ORIGINAL[0].row, lexicon) == 0.0


def test_collaboration_is_use_not_copy_not_names() -> None:
    said = (Said("planner", "Focus: fatigue. Plan: look for anemia."), Said("researcher", MATE))
    used = collaboration(
        "Iron stores are empty because of heavy periods: the falling hemoglobin explains fatigue, an anemia.", QUESTION, said
    )
    assert used > 0.8
    assert collaboration(MATE, QUESTION, said) == 0.0
    assert collaboration("As the planner and the researcher said, I agree with my colleagues.", QUESTION, said) == 0.0
    assert collaboration(f"I agree. {MATE}", QUESTION, said) < 0.5
    assert collaboration("Why is the woman tired?", QUESTION, said) == 0.0
    assert collaboration("", QUESTION, said) == 0.0


def test_the_first_speaker_is_neutral() -> None:
    assert collaboration("Plan: look at the blood count.", QUESTION, ()) == NEUTRAL
    assert collaboration("Plan: look at the blood count.", QUESTION, (Said("planner", QUESTION),)) == NEUTRAL


def test_the_same_string_from_everybody_earns_nothing() -> None:
    assert collaboration(QUESTION, QUESTION, (Said("planner", QUESTION),)) == 0.0


def test_evidence_wants_real_support_in_own_words() -> None:
    passages = (PASSAGE, "Cataract clouds the lens.")
    reference = "She is tired because low ferritin means empty iron stores."
    own = evidence("Empty iron stores show as a low ferritin in her blood [E1].", reference, passages)
    assert own > 0.8
    assert evidence("Empty iron stores show as a low ferritin in her blood. [E1]", reference, passages) == own
    assert evidence("Low ferritin shows that the iron stores are empty. [E1]", reference, passages) <= 0.5
    assert evidence("Empty iron stores show as a low ferritin in her blood [E2].", reference, passages) == 0.0
    assert evidence("Empty iron stores show as a low ferritin in her blood [E9].", reference, passages) == 0.0
    assert evidence("Low ferritin in her blood [E1] and its cause [E9].", reference, passages) < own / 2
    assert evidence("Low ferritin does not show that iron stores are empty [E1].", reference, passages) < own / 2
    assert evidence("[E1] [E1] [E1]", reference, passages) == 0.0


def test_evidence_is_neutral_only_where_there_was_nothing_to_cite() -> None:
    assert evidence("She is tired.", "low ferritin iron stores", ()) == 0.5
    assert evidence("She is tired.", "low ferritin iron stores", ("Cataract clouds the lens.",)) == 0.5
    assert evidence("She is tired.", "low ferritin iron stores", (PASSAGE,)) == 0.0
    assert evidence("She is tired.", "low ferritin iron stores", (PASSAGE,), asked=False) == 0.5
    assert evidence("She is tired [E1].", "low ferritin iron stores", ()) == 0.0


def test_reasoning_is_linked_content_not_linking_words() -> None:
    known = f"{QUESTION} {PASSAGE}"
    good = "Heavy periods drain iron, so the low ferritin suggests anemia. "
    good += "Therefore tiredness is due to a lack of hemoglobin from the empty iron stores."
    assert reasoning(good, known) > 0.6
    assert reasoning("Because therefore thus hence suggests due to because therefore.", known) == 0.0
    assert reasoning("Therefore it is so because it is so, thus it suggests that.", known) == 0.0
    assert reasoning("The periods are heavy. The ferritin is low.", known) == 0.0
    assert reasoning(good + " Because. Therefore. Hence. Thus. Suggests.", known) < reasoning(good, known)

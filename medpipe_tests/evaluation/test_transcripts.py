"""The story of an episode's answers: who changed, after whom, and whether it was for the better."""

import pytest

from medpipe.evaluation.transcripts import Said, answers, final_answer, in_words, pairs, side
from medpipe.schema import ROLES


def played(*rounds, key="B", options=("a", "b", "c", "d"), id="q"):
    """An episode from answers by round, in the order of the roles; - is a message without an answer."""
    turns = [
        {"role": role, "round": number, "text": "…", "answer": None if letter == "-" else letter, "malformed": "", "value": None}
        for number, letters in enumerate(rounds)
        for role, letter in zip(ROLES, letters, strict=True)
    ]
    return {"question": {"id": id, "options": options, "answer": key}, "evidence": [], "turns": turns, "final": "the end"}


def changes(*rounds):
    return [answer for answer in answers(played(*rounds)) if answer.changed]


def test_every_answer_is_listed_with_the_one_before_it():
    found = answers(played("ABAA", "AB-C"))
    assert [(a.round, a.role, a.before, a.now) for a in found] == [
        (0, "planner", None, "A"), (0, "researcher", None, "B"), (0, "analyst", None, "A"), (0, "reporter", None, "A"),
        (1, "planner", "A", "A"), (1, "researcher", "B", "B"), (1, "reporter", "A", "C"),
    ]  # fmt: skip
    assert [a.right for a in found] == [False, True, False, False, False, True, False]
    assert [a.role for a in found if a.changed] == ["reporter"]


@pytest.mark.parametrize(
    ("rounds", "role", "after"),
    [
        (("ACAA", "ACCA"), "analyst", Said("researcher", 1)),  # said earlier in this round
        (("AAAC", "CAAC"), "planner", Said("reporter", 0)),  # the previous round's final answer
        (("AAAC", "CCAC"), "researcher", Said("planner", 1)),  # both: the latest counts
        (("AAAA", "CCCA"), "analyst", Said("researcher", 1)),
        (("CAAA", "CAAC"), "reporter", Said("planner", 1)),  # nobody later in the round stood for it
        (("CCCA", "ACAA"), "planner", Said("reporter", 0)),
        (("AACA", "CACA"), "planner", Said("analyst", 0)),  # everybody reads the whole transcript
        (("AAAC", "A---", "CAAA"), "planner", Said("reporter", 0)),  # also what was said two rounds ago
        (("AAAA", "CAAC"), "planner", None),  # the reporter said it later
        (("CAAA", "AAAA", "CAAA"), "planner", None),  # its own earlier message is nobody else's
    ],
)
def test_a_change_follows_the_latest_message_of_another_role_before_it(rounds, role, after):
    found = [answer for answer in changes(*rounds) if answer.role == role]
    assert found[-1].after == after


def test_the_kind_of_a_change_is_told_by_the_key():
    found = {answer.role: answer.kind for answer in changes("AABC", "BCAC")}
    assert found == {"planner": "wrong → right", "researcher": "wrong → wrong", "analyst": "right → wrong"}
    assert {answer.kind for answer in answers(played("AABC"))} == {""}


def test_an_unreadable_message_is_no_answer_and_the_next_one_is_compared_with_the_last_readable_one():
    assert [(a.round, a.before, a.now) for a in changes("AAAA", "-AAA", "BAAA")] == [(2, "A", "B")]
    assert changes("AAAA", "-AAA", "AAAA") == []


def test_free_text_has_no_answers_to_compare():
    episode = played("----", "----", options=(), key="Rest and fluids.")
    assert answers(episode) == []
    assert side(episode)["story"] == [] and side(episode)["quiet"] == "" and side(episode)["answered"] == ""


def test_changes_are_told_in_words():
    told = [in_words(answer) for answer in changes("ACAA", "DCCA", "AAAA")]
    assert told == [
        "planner, round 2: A → D, of its own: nobody else had said D",
        "analyst, round 2: A → C, after the researcher said C",
        "planner, round 3: D → A, after the reporter said A in round 2",
        "researcher, round 3: C → A, after the planner said A",
        "analyst, round 3: C → A, after the researcher said A",
    ]


def test_a_quiet_episode_says_why_nothing_changed():
    assert side(played("BBBB", "BBBB"))["quiet"] == "No role changed its answer."
    assert side(played("ABCD"))["quiet"] == "One round was played, so no role answered twice."


def test_the_order_of_the_turns_in_the_file_does_not_matter():
    episode = played("ACAA", "ACCA")
    assert answers({**episode, "turns": episode["turns"][::-1]}) == answers(episode)
    assert final_answer({**episode, "turns": episode["turns"][::-1]}) == "A" == final_answer(episode)


def test_the_teams_answer_is_the_reporters_last_one():
    assert final_answer(played("AAAB", "AAAD")) == "D"
    assert final_answer(played("AAAB", "AAA-")) is None and side(played("AAAB", "AAA-"))["answered"] == "none"


def test_episodes_are_paired_by_question():
    one, two, three = played("AAAA", id="1"), played("BBBB", id="2"), played("CCCC", id="3")
    assert pairs([one, two], [two, three]) == [(one, None), (two, two), (None, three)]

"""docs/roles.md is what its command prints, and shows what the roles really read and learn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from medpipe.answers import parse_answer, question_lines
from medpipe.roles import mates_before, target_for
from medpipe.schema import ROLES, QAExample
from medpipe.team.transcript import Frame
from medpipe.training import roles_page
from medpipe.training.rows import make_lesson
from medpipe_tests.tiny_team import DATA, tiny_settings

Shown = list[tuple[QAExample, list[str]]]


@pytest.fixture(scope="module")
def shown() -> Shown:
    return roles_page.shown_rows(DATA)


def test_the_page_is_what_the_command_prints(shown: Shown) -> None:
    """Print it anew with `python -m medpipe.training.roles_page > docs/roles.md`."""
    assert (DATA.parent / "docs" / "roles.md").read_text(encoding="utf-8") == roles_page.page(shown)
    assert "not medical advice" in roles_page.HEAD


def test_it_shows_a_row_of_each_kind_with_its_targets_and_four_voices(shown: Shown) -> None:
    page = roles_page.page(shown)
    assert [row.is_choice for row, _ in shown] == [False, True]
    for row, evidence in shown:
        assert evidence and question_lines(row) in page
        assert all(target_for(role, row, evidence) in page for role in ROLES)
    assert all(page.count(f"<|im_start|>{role}\n") == len(shown) for role in ROLES)


def test_its_transcripts_are_the_ones_that_the_roles_are_trained_on(shown: Shown, tokenizer) -> None:
    frame, settings = Frame(tokenizer), tiny_settings({"team.max_header_tokens": 4000, "team.max_new_tokens": dict.fromkeys(ROLES, 400)})
    for row, evidence in shown:
        turn = make_lesson(row, evidence, ("reporter",), frame, settings).turns["reporter"]
        text = tokenizer.decode([*turn.context, *turn.invocation, *turn.completion])
        assert text in roles_page.page(shown)


def test_in_the_multiple_choice_row_somebody_errs_before_the_reporter_is_right(shown: Shown) -> None:
    row, evidence = shown[1]
    earlier, said = mates_before(row, evidence)
    assert earlier == [] and answers(row, [message.text for message in said[:3]]) != {row.answer}
    assert answers(row, [target_for(role, row, evidence) for role in ROLES]) == {row.answer}


def answers(row: QAExample, texts: Sequence[str]) -> set[str | None]:
    return {parse_answer(text, row.options) for text in texts}

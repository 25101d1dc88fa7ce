"""The real encoder, lexicon and reward, made once for all reward tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medpipe.answers import parse_answer
from medpipe.config import Rewards
from medpipe.rewards.compose import Breakdown, MedicalReward, Message
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe.schema import Role
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL, Case, bundled, extra_terms

Score = Callable[..., Breakdown]


@pytest.fixture(scope="session")
def similarity() -> Similarity:
    return Similarity()


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    return [*ORIGINAL, *bundled(16)]


@pytest.fixture(scope="session")
def lexicon(cases: list[Case]) -> Lexicon:
    return Lexicon.from_rows([case.row for case in [*cases, *CHOICE]], extra_terms())


@pytest.fixture(scope="session")
def reward(lexicon: Lexicon, similarity: Similarity) -> MedicalReward:
    return MedicalReward(Rewards(), lexicon, similarity)


@pytest.fixture(scope="session")
def score(reward: MedicalReward) -> Score:
    def one(case: Case, text: str, said=(), evidence=(), role: Role = "reporter") -> Breakdown:
        return reward.score([message(case, text, said, evidence, role)])[0]

    return one


def message(case: Case, text: str, said=(), evidence=(), role: Role = "reporter") -> Message:
    answer = parse_answer(text, case.row.options) if case.row.is_choice else None
    return Message(case.row, text, tuple(said), tuple(evidence), answer, role)

"""The command in report and cards makes the same settings again."""

import shlex

import pytest

from medpipe.config import load_profile, parse_override
from medpipe.evaluation.reproduce import command_of
from medpipe.job import scoped

SECTIONS = ("corpus", "model", "training", "team", "rewards", "maporl", "evaluation", "release", "hardware")


def test_a_profile_as_it_is_needs_no_exceptions() -> None:
    assert command_of(scoped(load_profile("smoke"), SECTIONS)) == "make run PROFILE=smoke"


@pytest.mark.parametrize(
    "changed",
    [
        {"training.epochs": 7}, {"seed": 3, "evaluation.systems": ["sft_team"]}, {"team.max_new_tokens.planner": 20},
        {"corpus.use": ["synthetic"], "maporl.kl": 0.25},
    ],
)  # fmt: skip
def test_every_exception_is_named_and_makes_the_same_settings(changed: dict[str, object]) -> None:
    settings = load_profile("smoke", changed)
    words = shlex.split(command_of(scoped(settings, SECTIONS)))
    assert words[:4] == ["medpipe", "run", "--profile", "smoke"]
    overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    assert len(overrides) == len(changed)
    assert load_profile("smoke", dict(parse_override(text) for text in overrides)) == settings

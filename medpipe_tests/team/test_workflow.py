"""The team's game: who speaks when, when it ends, and what the next round is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
import torch

from medpipe.config import Team
from medpipe.models.policy import Policies, Sample
from medpipe.schema import LETTERS, ROLES, Role
from medpipe.team.episode import Episode
from medpipe.team.workflow import Crew, Verifier, build, consensus, play
from medpipe_tests.tiny_team import BUDGETS, choice_row, text_row

RULES = Team(max_rounds_per_episode=3, max_prompt_tokens=400, max_new_tokens=cast(Any, BUDGETS))
ADAPTERS: dict[Role, str | None] = {role: role for role in ROLES}


class Script:
    """Speaks from a script instead of a model: `line(role, call)` is what a role says when it speaks for the nth time."""

    def __init__(self, tokenizer: Any, line: Callable[[str, int], str]) -> None:
        self.tokenizer, self._line = tokenizer, line
        self.spoken: list[str] = []
        self.prompts: list[str] = []

    def generate(self, adapter: str, prompts: Sequence[list[int]], *rest: Any) -> list[Sample]:
        text = self._line(adapter, self.spoken.count(adapter))
        self.spoken.append(adapter)
        self.prompts += [self.tokenizer.decode(prompt) for prompt in prompts]
        return [Sample((5, 2), (-0.1, -0.1), text, True) for _ in prompts]


def crew_of(script: Script, rules: Team = RULES, verifier: Verifier | None = None) -> Crew:
    return Crew(cast(Policies, script), ADAPTERS, rules, verifier=verifier)


def all_say(letters: str) -> Callable[[str, int], str]:
    """All roles say the nth letter in round n."""
    return lambda role, call: f"So says the {role}.\nAnswer: {letters[min(call, len(letters) - 1)]}"


def scores(value: float) -> Verifier:
    def verify(episodes: Sequence[Episode], round_: int) -> None:
        for episode in episodes:
            for role in ROLES:
                episode.turn(round_, role).value = value

    return verify


def test_roles_speak_in_order_over_a_batch_and_every_cell_is_filled(team: Policies) -> None:
    """A real tiny team on mixed questions: four messages a round, each within its budget."""
    episodes = [Episode(choice_row(1), ["asthma: Wheezing."]), Episode(text_row(2), []), Episode(choice_row(3), [])]
    rules = RULES.model_copy(update={"max_rounds_per_episode": 2, "consensus_share": 1.0})
    heard: list[str] = []
    crew = Crew(team, ADAPTERS, rules, 1.0, torch.Generator().manual_seed(0), scores(0.0), heard.append)
    assert play(crew, episodes) is episodes
    for episode in episodes:
        assert [(turn.round, turn.role) for turn in episode.turns] == [(t, role) for t in range(2) for role in ROLES]
        assert episode.finished and episode.rounds == 2 and episode.final is episode.turns[-1]
        for turn in episode.turns:
            assert 1 <= len(turn.tokens) <= BUDGETS[turn.role] and len(turn.logps) == len(turn.tokens)
            assert len(turn.prompt) <= rules.max_prompt_tokens
            assert turn.answer is None or (episode.question.is_choice and turn.answer in LETTERS[:4])
    assert heard == [f"round {t + 1}: {role} spoke in 3 episodes" for t in range(2) for role in ROLES]


def test_each_role_hears_the_roles_before_it_in_the_same_round_only(tokenizer: Any) -> None:
    script = Script(tokenizer, lambda role, call: f"{role} in round {call}.")
    play(crew_of(script, RULES.model_copy(update={"max_rounds_per_episode": 2})), [Episode(text_row(), [])])
    assert script.spoken == [*ROLES, *ROLES]
    for number, prompt in enumerate(script.prompts):
        round_, place = divmod(number, 4)
        heard = [role for role in ROLES if f"{role.capitalize()}: {role} in round {round_}." in prompt]
        assert heard == list(ROLES[:place])
        assert not any(f"{role.capitalize()}: {role} in round {1 - round_}." in prompt for role in ROLES)


def test_the_previous_rounds_answer_is_in_the_next_prompt(tokenizer: Any) -> None:
    script = Script(tokenizer, all_say("ACB"))
    play(crew_of(script, verifier=scores(0.1)), [Episode(choice_row(), [])])
    shown = [[f"the team answered {letter}." in prompt for letter in "ABC"] for prompt in script.prompts]
    assert shown[:4] == [[False] * 3] * 4
    assert shown[4:8] == [[True, False, False]] * 4
    assert shown[8:] == [[False, False, True]] * 4


def test_without_a_letter_the_next_round_reads_what_the_reporter_wrote(tokenizer: Any) -> None:
    script = Script(tokenizer, lambda role, call: f"{role} wrote this.")
    play(crew_of(script), [Episode(text_row(), [])])
    assert "Previous round" not in script.prompts[3]
    assert "Previous round: the reporter wrote: reporter wrote this." in script.prompts[4]


def test_consensus_stops_early_and_rounds_that_did_not_happen_have_no_turns(tokenizer: Any) -> None:
    episode = play(crew_of(Script(tokenizer, all_say("BBB")), verifier=scores(0.9)), [Episode(choice_row(), [])])[0]
    assert episode.finished and episode.rounds == 1 and len(episode.turns) == 4
    assert episode.correct() == [[1.0] * 4]
    with pytest.raises(StopIteration):
        episode.turn(1, "planner")


def test_a_unanimous_wrong_answer_with_low_scores_does_not_stop(tokenizer: Any) -> None:
    episode = play(crew_of(Script(tokenizer, all_say("AAA")), verifier=scores(0.1)), [Episode(choice_row(), [])])[0]
    assert episode.rounds == 3 and len(episode.turns) == 12
    assert episode.correct() == [[0.0] * 4] * 3


def test_a_finished_episode_is_silent_while_the_others_play_on(tokenizer: Any) -> None:
    def first_only(episodes: Sequence[Episode], round_: int) -> None:
        for episode in episodes:
            for role in ROLES:
                episode.turn(round_, role).value = 0.9 if episode.question.id == "choice-1" else 0.0

    script = Script(tokenizer, all_say("BBB"))
    done, going = play(crew_of(script, verifier=first_only), [Episode(choice_row(1), []), Episode(choice_row(2), [])])
    assert (done.rounds, going.rounds) == (1, 3)
    assert len(script.prompts) == 2 * 4 + 1 * 8


def test_free_text_plays_all_its_rounds(tokenizer: Any) -> None:
    episode = play(crew_of(Script(tokenizer, lambda role, call: "The same."), verifier=scores(1.0)), [Episode(text_row(), [])])[0]
    assert episode.rounds == 3


@pytest.mark.parametrize(
    ("letters", "values", "stops"),
    [
        ("BBBB", (0.9, 0.9, 0.9, 0.9), True),
        ("BBBB", (None, None, None, None), True),  # nobody scores: agreement is enough
        ("BBBA", (0.9, 0.9, 0.9, 0.9), True),  # three quarters
        ("BBAA", (0.9, 0.9, 0.9, 0.9), False),
        ("BBB-", (0.6, 0.6, 0.6, 0.0), True),  # the one that can't be read does not spoil the others' score
        ("BBB-", (0.4, 0.4, 0.4, 1.0), False),  # nor lend them one
        ("BB--", (1.0, 1.0, 1.0, 1.0), False),
        ("----", (1.0, 1.0, 1.0, 1.0), False),
        ("BBBB", (0.5, 0.5, 0.5, 0.5), True),
        ("BBBB", (0.5, 0.5, 0.5, 0.4), False),
    ],
)
def test_when_there_is_consensus(tokenizer: Any, letters: str, values: tuple[float | None, ...], stops: bool) -> None:
    said = dict(zip(ROLES, letters, strict=True))
    script = Script(tokenizer, lambda role, call: "Nothing." if said[cast(Role, role)] == "-" else f"Answer: {said[cast(Role, role)]}")
    episode = play(crew_of(script, RULES.model_copy(update={"max_rounds_per_episode": 1})), [Episode(choice_row(), [])])[0]
    for role, value in zip(ROLES, values, strict=True):
        episode.turn(0, role).value = value
    assert consensus(episode, 0, RULES) is stops


def test_a_message_that_cannot_be_used_is_counted_and_shown_as_such(tokenizer: Any) -> None:
    script = Script(tokenizer, lambda role, call: "" if role == "planner" else "No letter here.")
    episode = play(crew_of(script), [Episode(choice_row(), [])])[0]
    assert [turn.malformed for turn in episode.turns[:4]] == ["empty", "no answer", "no answer", "no answer"]
    assert "Planner: (no message)" in script.prompts[1]
    told = episode.transcript()
    assert told["final"] == "No letter here." and len(told["turns"]) == 12 and told["turns"][0]["malformed"] == "empty"


def test_the_longest_game_fits_the_graphs_step_limit(tokenizer: Any) -> None:
    rules = RULES.model_copy(update={"max_rounds_per_episode": 12})
    assert play(crew_of(Script(tokenizer, lambda role, call: "x"), rules), [Episode(text_row(), [])])[0].rounds == 12


def test_the_graphs_picture_has_the_four_roles_in_order() -> None:
    graph = build(None).get_graph()
    assert set(graph.nodes) == {"__start__", *ROLES, "judge", "__end__"}
    arrows = {(edge.source, edge.target, edge.conditional) for edge in graph.edges}
    line = ("__start__", *ROLES, "judge")
    assert arrows == {(a, b, False) for a, b in pairwise(line)} | {
        ("judge", "planner", True),
        ("judge", "__end__", True),
    }
    assert all(role in graph.draw_mermaid() for role in ROLES)

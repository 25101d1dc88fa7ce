"""The team's game: who speaks when, what everybody reads, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from medpipe.config import Team as Rules
from medpipe.models import base
from medpipe.models.adapters import AdapterModel, Completion
from medpipe.models.per_role import PerRole
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team.episode import Episode
from medpipe.team.transcript import Frame
from medpipe.team.workflow import Headers, Team, build, ends, rollout
from medpipe_tests.tiny_team import BUDGETS, choice_row, text_row

RULES = Rules(max_rounds_per_episode=3, max_header_tokens=300, max_new_tokens=cast(Any, BUDGETS))
ADAPTERS: dict[Role, str | None] = {role: role for role in ROLES}
NAMES = dict(zip("ABCD", choice_row().options, strict=True))


@pytest.fixture(scope="module")
def model(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AdapterModel:
    return AdapterModel.load(tiny_base, {role: tiny_adapters[f"models/{role}"] for role in ROLES})


class Script:
    """Speaks from a script instead of the model: `line(role, call)` is what a role says when it speaks for the nth time."""

    def __init__(self, model: AdapterModel, line: Callable[[Role, int], str]) -> None:
        self.frame, self._line = Frame(model.tokenizer), line
        self.spoken: list[Role] = []
        self.read: list[str] = []  # all that stood before each message

    def __call__(
        self, model: AdapterModel, adapter: str | None, reading: Any, contexts: Sequence[list[int]], invocation: list[int], limit: int,
        *how: Any,
    ) -> list[Completion]:  # fmt: skip
        role = cast(Role, adapter)
        assert invocation == self.frame.invocation(role) and limit == BUDGETS[role]
        assert reading.lengths == [len(context) for context in contexts]  # whatever was said has been read
        text = self._line(role, self.spoken.count(role))
        self.spoken.append(role)
        self.read += [str(model.tokenizer.decode(context)) for context in contexts]
        tokens = (*self.frame.completion(text, 200),) if text else (self.frame.end,)
        return [Completion(tokens, (-0.1,) * len(tokens), text, True) for _ in contexts]


def play(
    model: AdapterModel, line: Callable[[Role, int], str], *rows: QAExample, rules: Rules = RULES, **more: Any
) -> tuple[list[Episode], Script]:  # fmt: skip
    script = Script(model, line)
    crew = Team(model, more.pop("adapters", ADAPTERS), rules, draw=script, **more)
    episodes = crew.begin(rows, [["asthma: It wheezes."]] * len(rows))
    rollout(crew, episodes)
    return episodes, script


def all_say(letters: str) -> Callable[[Role, int], str]:
    """All roles say the nth letter in round n."""

    def line(role: Role, call: int) -> str:
        letter = letters[min(call, len(letters) - 1)]
        return f"So says the {role}. Answer: {NAMES[letter]} ({letter})"

    return line


def each_says(letters: Mapping[Role, str]) -> Callable[[Role, int], str]:
    """Every round alike; "-" is a message without an answer."""
    return lambda role, call: f"The {role}." if letters[role] == "-" else f"Answer: {NAMES[letters[role]]} ({letters[role]})"


SPLIT = each_says(dict(zip(ROLES, "ABCD", strict=True)))


def real(model: Any, episodes: list[Episode], temperature: float = 0.0, headers: Headers | None = None, **more: Any) -> list[Episode]:
    generator = torch.Generator().manual_seed(0)
    rollout(Team(model, ADAPTERS, more.pop("rules", RULES), temperature, generator, **more), episodes, headers)
    return episodes


def begun(model: AdapterModel, samples: int = 1) -> list[Episode]:
    rows = [choice_row(1), text_row(2), choice_row(3, question="cough " * 30), choice_row(4, options=("a", "b"), answer="A")]
    return Team(model, ADAPTERS, RULES).begin(rows, [["asthma: Wheezing."], [], [], ["x"]], samples)


# --- a real tiny team


def test_roles_speak_in_order_over_a_batch_and_the_transcript_is_header_and_turns(model: AdapterModel) -> None:
    rules = RULES.model_copy(update={"max_rounds_per_episode": 2, "consensus_share": 1.0})
    heard: list[str] = []
    episodes = real(model, begun(model), 1.0, rules=rules, on_message=heard.append)
    frame = Frame(model.tokenizer)
    for episode in episodes:
        assert episode.finished and episode.rounds == (2 if episode.rounds == 2 else 1) and episode.final is episode.turns[-1]
        assert [(turn.round, turn.role) for turn in episode.turns] == [(t, role) for t in range(episode.rounds) for role in ROLES]
        tokens = list(episode.header)
        for turn in episode.turns:
            assert turn.start == len(tokens) and episode.before(turn) == tokens
            assert 1 <= len(turn.tokens) <= BUDGETS[turn.role] and len(turn.logps) == len(turn.tokens)
            assert turn.answer is None or turn.answer in "ABCD"[: len(episode.question.options)]
            tokens += frame.turn(turn.role, turn.tokens)
        assert episode.tokens == tokens
    assert episodes[1].rounds == 1  # free text
    assert heard[:4] == [f"round 1: {role} spoke in 4 episodes" for role in ROLES]


def test_an_episode_goes_the_same_way_alone_and_in_a_batch(model: AdapterModel) -> None:
    together = real(model, begun(model))
    for number, episode in enumerate(together):
        alone = real(model, [begun(model)[number]])[0]
        assert alone.tokens == episode.tokens
        assert [turn.text for turn in alone.turns] == [turn.text for turn in episode.turns]
        for one, other in zip(alone.turns, episode.turns, strict=True):
            assert one.logps == pytest.approx(other.logps, abs=1e-4)


def test_a_base_per_role_plays_as_one_shared_base(model: AdapterModel, tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    own: dict[Role, dict[str, Path]] = {role: {role: tiny_adapters[f"models/{role}"]} for role in ROLES}
    spread = PerRole.load(tiny_base, own, dict.fromkeys(ROLES, "cpu"), base.PLAIN)
    one, other = (real(which, begun(model, 2), 1.0) for which in (model, spread))
    assert [episode.tokens for episode in one] == [episode.tokens for episode in other]


def count_reads(model: AdapterModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each call of `read` was given."""
    seen: list[int] = []
    true = AdapterModel.read
    monkeypatch.setattr(AdapterModel, "read", lambda self, rows, reader=None: seen.append(len(rows)) or true(self, rows, reader))
    return seen


def test_headers_are_read_once_for_all_roles_samples_and_systems(model: AdapterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, headers = count_reads(model, monkeypatch), Headers()
    first = real(model, begun(model, samples=3), 1.0, headers)
    assert seen == [4] and len(first) == 12  # four questions, once
    real(model, begun(model), headers=headers)
    rollout(Team(model, {"reporter": None}, RULES), lone := begun(model), headers)
    assert seen == [4]
    assert [episode.tokens for episode in real(model, begun(model))] == [
        episode.tokens for episode in real(model, begun(model), headers=headers)
    ]
    assert seen == [4, 4]  # who brings no headers along reads for itself
    rollout(Team(model, {"reporter": None}, RULES), again := begun(model)[::-1], headers)
    assert seen == [4, 4, 4]  # another batch
    assert [episode.tokens for episode in again[::-1]] == [episode.tokens for episode in lone]


def test_what_was_read_is_what_an_update_scores_behind(model: AdapterModel) -> None:
    crew = Team(model, ADAPTERS, RULES, 1.0, torch.Generator().manual_seed(1))
    episodes = begun(model, 2)
    readings = rollout(crew, episodes)
    whole = readings.of(model, "reporter")  # with the last turns too
    assert whole.lengths == [len(episode.tokens) for episode in episodes]
    assert readings.held(model, "planner") is whole


def test_turns_that_are_there_are_kept_and_built_on(model: AdapterModel) -> None:
    whole = real(model, begun(model))
    cut = begun(model)
    for episode, other in zip(cut, whole, strict=True):
        episode.turns, episode.tokens = other.turns[:2], other.tokens[: other.turns[2].start]
    assert [episode.tokens for episode in real(model, cut)] == [episode.tokens for episode in whole]


# --- the rules


def test_everybody_reads_the_same_transcript(model: AdapterModel) -> None:
    rules = RULES.model_copy(update={"max_rounds_per_episode": 2})
    (episode,), script = play(model, lambda role, call: f"{role} in round {call}. {SPLIT(role, call)}", choice_row(), rules=rules)
    assert script.spoken == [*ROLES, *ROLES]
    for turn, text in zip(episode.turns, script.read, strict=True):
        assert text == model.tokenizer.decode(episode.tokens[: turn.start])
        said = [f"<|im_start|>{t.role}\n{t.text}<|im_end|>\n" for t in episode.turns if t.start < turn.start]
        assert text.endswith("".join(said)) and text.count("<|im_start|>") == 2 + len(said)


def test_absent_roles_are_silent_and_the_last_that_is_there_answers(model: AdapterModel) -> None:
    (episode,), script = play(model, SPLIT, choice_row(), adapters={"planner": "planner", "analyst": "analyst"})
    assert script.spoken == ["planner", "analyst"] * 3 and episode.final.role == "analyst" and episode.roles == ["planner", "analyst"]
    assert "researcher\n" not in model.tokenizer.decode(episode.tokens)


def test_who_answers_alone_may_write_what_the_four_would_where_it_does_their_steps(model: AdapterModel) -> None:
    limits: list[int] = []

    def draw(model: AdapterModel, adapter: str | None, reading: Any, contexts: Any, invocation: Any, limit: int, *how: Any) -> Any:
        limits.append(limit)
        return [Completion((0,), (-0.1,), "Answer: asthma (B)", True) for _ in contexts]

    rules = RULES.model_copy(update={"max_rounds_per_episode": 1})
    fact = choice_row(question="It wheezes. Onset: childhood. What is it?")
    for adapters in ({"reporter": None}, {"planner": None, "reporter": None}):
        crew = Team(model, cast(Any, adapters), rules, draw=draw)
        for row, passage in ((choice_row(), "asthma: It wheezes."), (fact, "asthma: Onset: childhood.")):
            rollout(crew, crew.begin([row], [[passage]]))
    both = [BUDGETS["planner"], BUDGETS["reporter"]]
    assert limits == [BUDGETS["reporter"], sum(BUDGETS.values()), *both, *both]


def test_a_speaker_may_be_shown_under_another_name(model: AdapterModel) -> None:
    crew = Team(model, {"reporter": None}, RULES, speaks_as={"reporter": "assistant"})
    (episode,) = crew.begin([choice_row()], [[]])
    rollout(crew, [episode])
    text = model.tokenizer.decode(episode.tokens)
    assert text.count("<|im_start|>assistant\n") == len(episode.turns) and "<|im_start|>reporter" not in text


@pytest.mark.parametrize(
    ("letters", "stops"),
    [("BBBB", True), ("AAAA", True), ("BBBA", True), ("AAAB", True), ("BBAA", False), ("BBB-", True), ("BB--", False), ("----", False)],
)
def test_agreement_alone_ends_an_episode_whatever_the_key_says(model: AdapterModel, letters: str, stops: bool) -> None:
    """Right (B) or wrong; who can't be read agrees with nobody and counts among those who were asked."""

    def worth(value: float) -> Callable[[Sequence[Episode], int], None]:
        def verify(episodes: Sequence[Episode], round_: int) -> None:
            for turn in (turn for episode in episodes for turn in episode.turns if turn.round == round_):
                turn.value = value

        return verify

    for verifier in (None, worth(0.0), worth(1.0)):
        (episode,), _ = play(model, each_says(dict(zip(ROLES, letters, strict=True))), choice_row(), verifier=verifier)
        assert ends(episode, 0, RULES) is stops and episode.rounds == (1 if stops else 3)


def test_malformed_messages_that_name_an_option_agree_with_nobody(model: AdapterModel) -> None:
    (episode,), _ = play(model, all_say("B"), choice_row())
    assert ends(episode, 0, RULES)
    for turn in episode.turns[:2]:
        turn.malformed = "cut off"
    assert not ends(episode, 0, RULES)


def test_rounds_that_did_not_happen_have_no_turns(model: AdapterModel) -> None:
    (episode,), _ = play(model, all_say("B"), choice_row())
    assert episode.finished and episode.rounds == 1 and len(episode.turns) == 4 and episode.correct() == [[1.0] * 4]
    with pytest.raises(StopIteration):
        episode.turn(1, "planner")


def test_a_finished_episode_is_silent_while_the_others_play_on(model: AdapterModel) -> None:
    other = choice_row(2, options=("gout", "measles", "migraine", "eczema"))  # "asthma" is none of its options, and Z no letter

    def line(role: Role, call: int) -> str:
        return f"{call}. Answer: asthma (Z)"

    (done, going), script = play(model, line, choice_row(1), other)
    assert (done.rounds, going.rounds) == (1, 3)
    assert [turn.malformed for turn in going.turns] == ["no answer"] * 12
    assert len(script.read) == 2 * 4 + 1 * 8 and len(done.turns) == 4


def test_free_text_plays_one_round(model: AdapterModel) -> None:
    (episode,), _ = play(model, lambda role, call: f"{role} wrote this.", text_row())
    assert episode.rounds == 1 and episode.finished


def test_a_message_that_cannot_be_used_is_counted_and_shown_as_such(model: AdapterModel) -> None:
    (episode,), script = play(model, lambda role, call: "" if role == "planner" else "No letter here.", choice_row())
    assert [turn.malformed for turn in episode.turns[:4]] == ["empty", "no answer", "no answer", "no answer"]
    assert script.read[1].endswith("<|im_start|>planner\n<|im_end|>\n")
    assert episode.said(0)[0].text == "(no message)"
    told = episode.transcript()
    assert told["final"] == "No letter here." and len(told["turns"]) == 12 and told["turns"][0]["malformed"] == "empty"


def test_the_longest_game_fits_the_graphs_step_limit(model: AdapterModel) -> None:
    (episode,), _ = play(model, SPLIT, choice_row(), rules=RULES.model_copy(update={"max_rounds_per_episode": 12}))
    assert episode.rounds == 12


def test_the_graphs_picture_has_the_four_roles_in_order() -> None:
    graph = build(None).get_graph()
    assert set(graph.nodes) == {"__start__", *ROLES, "end_of_round", "__end__"}
    arrows = {(edge.source, edge.target, edge.conditional) for edge in graph.edges}
    line = ("__start__", *ROLES, "end_of_round")
    assert arrows == {(a, b, False) for a, b in pairwise(line)} | {("end_of_round", "planner", True), ("end_of_round", "__end__", True)}
    assert all(role in graph.draw_mermaid() for role in ROLES)

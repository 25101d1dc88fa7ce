"""The team's workflow: planner → researcher → analyst → reporter → round's end, over a batch of episodes, round by round.

    readings = rollout(Team(model, {role: role for role in ROLES}, rules), episodes)

One LangGraph graph serves rollouts, evaluation and serving, so that the three can't drift apart. Each node lets one role speak in
every open episode at once, behind what the transcript holds so far. What was read stays: the keys and values of a rollout are those
that its update scores behind (`Readings`). An episode ends when enough roles agree, in training as in evaluation; the key is never
looked at. `python -m medpipe.team.workflow` prints the graph's picture (mermaid).
Left out: finding the evidence (medpipe/corpus/evidence.py), and keeping traces (medpipe/tracking).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from medpipe.answers import malformed, parse_answer
from medpipe.config import Team as Rules
from medpipe.models.drafts import Draft
from medpipe.roles import likely_messages, lone_budget
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.transcript import Frame

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from medpipe.models.adapters import AdapterModel, Completion
    from medpipe.models.kv_cache import Reading

Verifier = Callable[[Sequence[Episode], int], None]
"""Scores the turns of one round in place: sets each turn's `value`, V[t,a] in [0, 1]."""


class State(TypedDict):
    """What flows through the graph: the batch and the round that is being played."""

    episodes: list[Episode]
    round: int


class Models(Protocol):
    """Where the adapters live: all on one base (AdapterModel), or each role on its own (PerRole)."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the base."""
        ...

    def of(self, adapter: str | None) -> AdapterModel:
        """The model that carries this adapter."""
        ...


class Headers:
    """Readings of the last batch's headers, for whoever plays the same questions next: they are read once."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str | None], tuple[list[list[int]], Reading]] = {}

    def read(self, model: AdapterModel, reader: str | None, headers: list[list[int]]) -> Reading:
        """A reading of these headers, row by row."""
        held = self._held.get((id(model), reader))
        if held is None or held[0] != headers:
            held = self._held[id(model), reader] = headers, model.read(headers, reader)
        return held[1]


class Readings:
    """What each reader has read of a batch of episodes; a row is an episode's place in the batch."""

    def __init__(self, episodes: Sequence[Episode], headers: Headers | None = None) -> None:
        self.episodes, self._headers = episodes, headers or Headers()
        self._held: dict[tuple[int, str | None], tuple[Reading, list[int]]] = {}

    def of(self, model: AdapterModel, adapter: str | None) -> Reading:
        """A reading by the adapter's reader that holds every transcript up to its end."""
        key = id(model), model.reader(adapter)
        if key not in self._held:
            distinct = list(dict.fromkeys(tuple(episode.header) for episode in self.episodes))
            place = {header: number for number, header in enumerate(distinct)}
            read = self._headers.read(model, key[1], [list(header) for header in distinct])
            rows = [place[tuple(episode.header)] for episode in self.episodes]
            self._held[key] = read.select(rows), [len(episode.header) for episode in self.episodes]
        reading, done = self._held[key]
        model.extend(reading, [episode.tokens[known:] for episode, known in zip(self.episodes, done, strict=True)], key[1])
        self._held[key] = reading, [len(episode.tokens) for episode in self.episodes]
        return reading

    def held(self, model: AdapterModel, adapter: str | None) -> Reading:
        """What the adapter's reader has read so far: enough for whatever stands before the adapter's own messages."""
        return self._held[id(model), model.reader(adapter)][0]


@dataclass(frozen=True)
class Team:
    """Who speaks and how: the roles' adapters, the rules of the game, and the sampling.

    A role without an entry in `adapters` is absent: nobody speaks in its place, and the last role that is there answers.
    """

    models: Models
    adapters: Mapping[Role, str | None]
    rules: Rules
    temperature: float = 0.0
    generator: torch.Generator | None = None
    verifier: Verifier | None = None
    on_message: Callable[[str], None] | None = None
    speaks_as: Mapping[Role, str] = field(default_factory=dict)  # another name in the turn's header than the role's own
    draw: Callable[..., list[Completion]] | None = None  # instead of the model's own `generate`: with a memory, say

    def budget(self, role: Role, episodes: Sequence[Episode]) -> int:
        """Tokens that a message may have in these episodes; who answers alone may need those of all four (medpipe/roles.py)."""
        limits = self.rules.max_new_tokens
        if len(self.adapters) > 1 or role != "reporter":
            return limits[role]
        return max(lone_budget(limits, episode.question, episode.evidence) for episode in episodes)

    def begin(self, questions: Sequence[QAExample], evidence: Sequence[Sequence[str]], samples: int = 1) -> list[Episode]:
        """Episodes that have not begun: every question as often as it is sampled."""
        frame, limit = Frame(self.models.tokenizer), self.rules.max_header_tokens
        headers = [frame.header(question, passages, limit) for question, passages in zip(questions, evidence, strict=True)]
        return [
            Episode(question, list(passages), header, sample)
            for question, passages, header in zip(questions, evidence, headers, strict=True)
            for sample in range(samples)
        ]


def rollout(team: Team, episodes: list[Episode], headers: Headers | None = None) -> Readings:
    """Play a batch of episodes to their end, in place; turns that are there already are kept and built on.

    Returns:
        What was read, for an update that scores behind it.
    """
    readings = Readings(episodes, headers)
    steps = team.rules.max_rounds_per_episode * (len(ROLES) + 1) + 1
    build(team, readings).invoke(State(episodes=episodes, round=0), {"recursion_limit": steps + 1})
    return readings


def build(team: Team | None, readings: Readings | None = None) -> Any:
    """Compile the graph; without a team it can only be drawn."""
    from langgraph.graph import END, START, StateGraph

    graph: Any = StateGraph(State)
    for role in ROLES:
        graph.add_node(role, _speaker(team, readings, role))
    graph.add_node("end_of_round", _end_of_round(team))
    for before, after in zip((START, *ROLES), (*ROLES, "end_of_round"), strict=True):
        graph.add_edge(before, after)
    finished: Callable[[State], str] = lambda state: END if all(e.finished for e in state["episodes"]) else ROLES[0]  # noqa: E731
    graph.add_conditional_edges("end_of_round", finished, [ROLES[0], END])
    return graph.compile()


def _speaker(team: Team | None, readings: Readings | None, role: Role) -> Callable[[State], dict[str, Any]]:
    def speak(state: State) -> dict[str, Any]:
        assert team is not None and readings is not None, "a graph without a team can only be drawn"
        episodes, round_ = state["episodes"], state["round"]
        rows = [row for row, e in enumerate(episodes) if not e.finished and not e.has_spoken(round_, role)]
        if role not in team.adapters or not rows:
            return {"episodes": episodes}
        adapter, name = team.adapters[role], team.speaks_as.get(role, role)
        model, frame = team.models.of(adapter), Frame(team.models.tokenizer)
        started = time.time_ns()
        reading = readings.of(model, adapter)
        reading = reading if len(rows) == len(episodes) else reading.select(rows)
        draw, spoken_to = team.draw or _generate, [episodes[row] for row in rows]
        limit, contexts = team.budget(role, spoken_to), [episode.tokens for episode in spoken_to]
        drafts = drafts_of(frame, spoken_to, role, name, limit)
        said = draw(model, adapter, reading, contexts, frame.invocation(name), limit, team.temperature, team.generator, drafts)
        drawn = (started, time.time_ns())
        for row, completion in zip(rows, said, strict=True):
            add_turn(frame, episodes[row], role, round_, completion, name, drawn)
        if team.on_message:
            team.on_message(f"round {round_ + 1}: {role} spoke in {len(rows)} episodes")
        return {"episodes": episodes}

    return speak


def _generate(
    model: AdapterModel, adapter: str | None, reading: Reading, contexts: Sequence[Sequence[int]], *how: Any
) -> list[Completion]:  # fmt: skip
    return model.generate(adapter, reading, *how)


def drafts_of(frame: Frame, episodes: Sequence[Episode], role: Role, name: str, limit: int) -> list[Draft]:
    """Where the role's next message in each episode is likely to stand already: in the form it was taught, or in the transcript."""
    taught: dict[str, list[list[int]]] = {}
    for episode in episodes:
        if episode.question.id not in taught:
            likely = likely_messages(role, episode.question, episode.evidence)
            taught[episode.question.id] = [[*frame.invocation(name), *frame.completion(text, limit)] for text in likely]
    return [Draft([*taught[episode.question.id], episode.tokens]) for episode in episodes]


def add_turn(
    frame: Frame, episode: Episode, role: Role, round_: int, said: Completion, name: str, drawn: tuple[int, int] | None = None
) -> None:
    """Put a message into an episode: its turn, and its tokens as the others read them."""
    options = episode.question.options
    fault = malformed(said.text, options, said.ended, frame.forged(said.tokens))
    answer = parse_answer(said.text, options) if options else None
    episode.turns.append(Turn(role, round_, len(episode.tokens), said.tokens, said.logps, said.text, answer, fault, drawn=drawn))
    episode.tokens += frame.turn(name, said.tokens)


def _end_of_round(team: Team | None) -> Callable[[State], dict[str, Any]]:
    def end(state: State) -> dict[str, Any]:
        assert team is not None, "a graph without a team can only be drawn"
        playing, round_ = [e for e in state["episodes"] if not e.finished], state["round"]
        if team.verifier:
            team.verifier(playing, round_)
        last = round_ + 1 >= team.rules.max_rounds_per_episode
        for episode in playing:
            episode.finished = last or ends(episode, round_, team.rules)
        return {"episodes": state["episodes"], "round": round_ + 1}

    return end


def ends(episode: Episode, round_: int, rules: Rules) -> bool:
    """Whether no further round follows: enough roles agree, or the answer is free text, which can't be compared.

    A message that can't be used agrees with nobody. Source: docs/maporl.md, section 1.
    """
    spoken = [turn for turn in episode.turns if turn.round == round_]
    if not episode.question.is_choice:
        return True
    answers = [turn.answer for turn in spoken if turn.answer and not turn.malformed]
    return any(answers.count(answer) >= rules.consensus_share * len(spoken) for answer in set(answers))


if __name__ == "__main__":
    print(build(None).get_graph().draw_mermaid())

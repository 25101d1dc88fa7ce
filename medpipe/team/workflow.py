"""The team's workflow: planner → researcher → analyst → reporter → judge, over a batch of episodes, round by round.

One LangGraph graph serves rollouts, evaluation and serving, so that the three can't drift apart. Each node lets one role
speak in every open episode at once. The judge scores the round where there is a verifier and closes an episode on
consensus. `python -m medpipe.team.workflow` prints the graph's picture (mermaid).
Left out: finding the evidence (medpipe/corpus/evidence.py), and keeping traces (medpipe/tracking.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from medpipe.config import Team
from medpipe.models.tokens import encode_prompt
from medpipe.roles import verdict_text
from medpipe.schema import ROLES, Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.parsing import malformed, parse_answer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from medpipe.models.policy import Sample

Verifier = Callable[[Sequence[Episode], int], None]
"""Scores the turns of one round in place: sets each turn's `value`, V[t,a] in [0, 1]."""


class State(TypedDict):
    """What flows through the graph: the batch and the round that is being played."""

    episodes: list[Episode]
    round: int


class Speakers(Protocol):
    """Who draws messages: all roles on one base, each on its own, or one of these with a memory."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the base."""
        ...

    def generate(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Sample]:  # fmt: skip
        """One message per prompt, as medpipe.models.policy.Policies does it."""
        ...


@dataclass(frozen=True)
class Crew:
    """Who speaks and how: the roles' adapters, the rules of the game, and the sampling.

    A role without an entry in `adapters` is absent: nobody speaks in its place, and the last role that is there answers.
    """

    policies: Speakers
    adapters: Mapping[Role, str | None]
    rules: Team
    temperature: float = 0.0
    generator: torch.Generator | None = None
    verifier: Verifier | None = None
    on_message: Callable[[str], None] | None = None


def play(crew: Crew, episodes: list[Episode]) -> list[Episode]:
    """Play all rounds of a batch of episodes; the episodes are filled in place and returned."""
    steps = crew.rules.max_rounds_per_episode * (len(ROLES) + 1) + 1
    build(crew).invoke(State(episodes=episodes, round=0), {"recursion_limit": steps + 1})
    return episodes


def build(crew: Crew | None) -> Any:
    """Compile the graph; without a crew it can only be drawn."""
    from langgraph.graph import END, START, StateGraph

    graph: Any = StateGraph(State)
    for role in ROLES:
        graph.add_node(role, _speaker(crew, role))
    graph.add_node("judge", _judge(crew))
    for before, after in zip((START, *ROLES), (*ROLES, "judge"), strict=True):
        graph.add_edge(before, after)
    graph.add_conditional_edges("judge", lambda state: END if all(e.finished for e in state["episodes"]) else ROLES[0], [ROLES[0], END])
    return graph.compile()


def _speaker(crew: Crew | None, role: Role) -> Callable[[State], dict[str, Any]]:
    def speak(state: State) -> dict[str, Any]:
        assert crew is not None, "a graph without a crew can only be drawn"
        if role not in crew.adapters:
            return {"episodes": state["episodes"]}
        playing, round_ = [e for e in state["episodes"] if not e.finished], state["round"]
        prompts = [_prompt(crew, role, episode, round_) for episode in playing]
        budget = crew.rules.max_new_tokens[role]
        started = time.time_ns()
        samples = crew.policies.generate(crew.adapters[role], prompts, budget, crew.temperature, crew.generator)
        drawn = (started, time.time_ns())
        for episode, prompt, sample in zip(playing, prompts, samples, strict=True):
            options = len(episode.question.options)
            answer = parse_answer(sample.text, options) if options else None
            fault = malformed(sample.text, options, sample.ended)
            episode.turns.append(Turn(role, round_, prompt, sample.tokens, sample.logps, sample.text, answer, fault, drawn=drawn))
        if crew.on_message:
            crew.on_message(f"round {round_ + 1}: {role} spoke in {len(playing)} episodes")
        return {"episodes": state["episodes"]}

    return speak


def _prompt(crew: Crew, role: Role, episode: Episode, round_: int) -> list[int]:
    verdict = ""
    if round_:
        last = [turn for turn in episode.turns if turn.round == round_ - 1][-1]  # who speaks last answers
        verdict = verdict_text(last.answer, last.text)
    tokenizer, limit = crew.policies.tokenizer, crew.rules.max_prompt_tokens
    return encode_prompt(tokenizer, role, episode.question, episode.evidence, episode.said(round_), limit, verdict)


def _judge(crew: Crew | None) -> Callable[[State], dict[str, Any]]:
    def judge(state: State) -> dict[str, Any]:
        assert crew is not None, "a graph without a crew can only be drawn"
        playing, round_ = [e for e in state["episodes"] if not e.finished], state["round"]
        if crew.verifier:
            crew.verifier(playing, round_)
        last = round_ + 1 >= crew.rules.max_rounds_per_episode
        for episode in playing:
            episode.finished = last or consensus(episode, round_, crew.rules)
        return {"episodes": state["episodes"], "round": round_ + 1}

    return judge


def consensus(episode: Episode, round_: int, rules: Team) -> bool:
    """Whether enough roles agree on an answer and, where a verifier scored them, those that agree score well enough.

    Source: docs/maporl.md, section 1. Free-text answers are never compared: such an episode plays all its rounds.
    """
    camps: dict[str, list[Turn]] = {}
    spoken = [turn for turn in episode.turns if turn.round == round_]
    for turn in spoken:
        if turn.answer:
            camps.setdefault(turn.answer, []).append(turn)
    return any(len(camp) / len(spoken) >= rules.consensus_share and _scored_well(camp, rules) for camp in camps.values())


def _scored_well(turns: Sequence[Turn], rules: Team) -> bool:
    scores = [turn.value for turn in turns if turn.value is not None]
    return not scores or sum(scores) / len(scores) >= rules.consensus_score


if __name__ == "__main__":
    print(build(None).get_graph().draw_mermaid())

"""Who is evaluated: a look-up, agents alone, the team before and after each training, and the team with something taken away.

    bench = Bench(job, questions, [SYSTEMS["maporl_team"]])
    answer(bench, SYSTEMS["maporl_team"], range(8))         # the first eight questions

Whoever speaks does so through the workflow of training and serving, behind the same question, options and evidence. What the systems
of a batch of questions have in common is computed once: the headers' keys and values, and every message that was drawn greedily behind
the same tokens by the same adapter, or by one of the same bytes. So a team with a role less costs only the messages that differ.
Left out: scores (medpipe/evaluation/evaluate.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from medpipe import store
from medpipe.answers import answer_text, split_answer
from medpipe.corpus.biomcp import CACHE, open_evidence
from medpipe.corpus.evidence import Passage, origin_of
from medpipe.job import Job
from medpipe.roles import lone_budget, words
from medpipe.schema import LETTERS, ROLES, QAExample, Role
from medpipe.team.ask import look_up
from medpipe.team.transcript import ALONE, Frame
from medpipe.team.workflow import Headers, Readings, Team, rollout

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from medpipe.models.adapters import AdapterModel, Completion
    from medpipe.models.drafts import Draft
    from medpipe.models.kv_cache import Reading
    from medpipe.team.episode import Episode

AT_ONCE = 64  # sampled episodes: each holds keys and values of its own
ADAPTERS: Mapping[str, tuple[str, str]] = {
    "agent": ("models/agent", ""),
    "agent_rl": ("models/agent_rl", ""),
    **{f"sft_{role}": (f"models/{role}", "") for role in ROLES},
    **{f"maporl_{role}": ("models/maporl_team", role) for role in ROLES},
}
"""Name of an adapter → the job's input that holds it, and the folder in there."""


@dataclass(frozen=True)
class Decision:
    """What a system's last message comes to."""

    prediction: str  # the letter, empty where there is none; on free text the text itself
    parsed: bool  # the message's own words settle on an answer
    prompt_sha256: str = ""  # of the token ids that the answer was read behind; empty where no model was asked
    option_logps: tuple[float, ...] = ()  # nats, one per option; empty where options were not scored


@dataclass(frozen=True)
class Answered:
    """One system's work on one question."""

    decision: Decision
    tokens: int = 0  # generated
    messages: int = 0
    rounds: tuple[dict[str, str | None], ...] = ()  # who answered what, round by round
    transcript: dict[str, Any] | None = None


@dataclass(frozen=True)
class System:
    """One way to answer: who speaks with which adapter (None: the bare base), and by which rules.

    Without adapters nobody speaks, and the best passage answers.
    """

    adapters: Mapping[Role, str | None] = field(default_factory=dict)
    rounds: int | None = None  # at most; None: team.max_rounds_per_episode
    evidence: bool = True
    votes: bool = False  # samples instead of one greedy message, as many as the team's tokens pay for
    speaks_as: Mapping[Role, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """Whose adapters they are: "sft", "maporl", "agent", or "" for the bare base."""
        return (next(iter(self.adapters.values()), None) or "").partition("_")[0]


class Memory:
    """Draws as the model does, and only once what is drawn greedily by one adapter behind the same tokens."""

    def __init__(self) -> None:
        self._said: dict[tuple[Any, ...], Completion] = {}

    def forget(self) -> None:
        """Begin anew: other questions follow."""
        self._said.clear()

    def draw(
        self, model: AdapterModel, adapter: str | None, reading: Reading, contexts: Sequence[Sequence[int]], invocation: Sequence[int],
        max_new_tokens: int, temperature: float, generator: torch.Generator | None, drafts: Sequence[Draft],
    ) -> list[Completion]:  # fmt: skip
        """A message behind each of the contexts, which are the rows of the reading."""
        if temperature:
            return model.generate(adapter, reading, invocation, max_new_tokens, temperature, generator, drafts)
        keys = [(adapter, tuple(invocation), max_new_tokens, tuple(context)) for context in contexts]
        new = {key: row for row, key in enumerate(keys) if key not in self._said}
        if new:
            behind = reading if len(new) == reading.rows else reading.select(list(new.values()))
            said = model.generate(adapter, behind, invocation, max_new_tokens, drafts=[drafts[row] for row in new.values()])
            self._said.update(zip(new, said, strict=True))
        return [self._said[key] for key in keys]


class Bench:
    """The questions with their passages, and on one base the adapters that the systems need; loaded when first asked for."""

    def __init__(self, job: Job, questions: Sequence[QAExample], systems: Iterable[System]) -> None:
        self.job, self.questions = job, questions
        self._needed = {name for system in systems for name in system.adapters.values() if name}
        self.memory, self._headers = Memory(), dict[tuple[bool, str], Headers]()

    @cached_property
    def model(self) -> AdapterModel:
        """The base with its adapters."""
        from medpipe.models.adapters import AdapterModel

        folders = {name: folder for name, folder in self._folders.items() if self._same[name] == name}
        return AdapterModel.load(self.job.inputs["models/base"], folders, self.job.device, self.job.settings.model)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {name: self.job.inputs[key] / folder for name, (key, folder) in ADAPTERS.items() if name in self._needed}

    @cached_property
    def _same(self) -> dict[str, str]:
        """For each adapter the first one of the same bytes: co-training may have kept the adapters that it began with."""
        first: dict[tuple[str, ...], str] = {}
        files = ("adapter_config.json", "adapter_model.safetensors")
        same = {name: first.setdefault(tuple(store.sha256_file(at / file) for file in files), name) for name, at in self._folders.items()}
        if alike := [f"{name} = {other}" for name, other in same.items() if name != other]:
            self.job.report.log(f"the same adapters, so the same answers: {', '.join(alike)}")
        return same

    def distinct(self, system: System) -> System:
        """The system with adapters of the same bytes under one name, so that what they say is drawn once."""
        return replace(system, adapters={role: self._same[name] if name else None for role, name in system.adapters.items()})

    @cached_property
    def frame(self) -> Frame:
        """Tokens of headers and turns."""
        return Frame(self.model.tokenizer)

    @cached_property
    def passages(self) -> list[list[Passage]]:
        """Evidence for each question, best first."""
        team = self.job.settings.team
        source = open_evidence(
            self.job.inputs["splits/train"] / "evidence", team, self.job.settings.outputs / CACHE, self.job.report.warn
        )  # fmt: skip
        return look_up(source, self.questions, team)

    def headers(self, system: System) -> Headers:
        """What is known of the batch's headers. Whole-sequence adapters each read for themselves: one stage's are kept at a time."""
        key = system.evidence, "" if self.model.activated else system.stage
        if key not in self._headers:
            if not self.model.activated:
                self._headers.clear()
            self._headers[key] = Headers()
        return self._headers[key]

    def forget(self) -> None:
        """Let go of what the systems shared on a batch of questions."""
        self.memory.forget()
        self._headers.clear()


def answer(bench: Bench, system: System, part: Sequence[int]) -> list[Answered]:
    """How a system answers some of the bench's questions, given by their numbers."""
    if not system.adapters:
        return [_looked_up(bench.questions[n], bench.passages[n]) for n in part]
    system = bench.distinct(system)
    if system.votes:
        return [_voted(bench, drawn) for drawn in _sampled(bench, system, part)]
    episodes, readings = _played(bench, system, part)
    return [_of_episode(episode, one) for episode, one in zip(episodes, _decided(bench, system, episodes, readings), strict=True)]


def hash_of(tokens: Sequence[int]) -> str:
    """sha256 of token ids."""
    return hashlib.sha256(" ".join(map(str, tokens)).encode("ascii")).hexdigest()


def _looked_up(question: QAExample, passages: Sequence[Passage]) -> Answered:
    """The option whose passage came first, or on free text the first passage; without such a passage the first option is a guess."""
    if not question.is_choice:
        return Answered(Decision(passages[0].text if passages else "", bool(passages)))
    found = next((passage.option for passage in passages if passage.option in question.options), None)
    return Answered(Decision(LETTERS[question.options.index(found)] if found is not None else LETTERS[0], found is not None))


def _played(
    bench: Bench, system: System, part: Sequence[int], samples: int = 1, temperature: float = 0.0, generator: torch.Generator | None = None
) -> tuple[list[Episode], Readings]:  # fmt: skip
    rules = bench.job.settings.team
    rules = rules.model_copy(update={"max_rounds_per_episode": system.rounds}) if system.rounds else rules
    team = Team(bench.model, system.adapters, rules, temperature, generator, speaks_as=system.speaks_as, draw=bench.memory.draw)
    found = [bench.passages[n] if system.evidence else [] for n in part]
    texts = [[passage.text for passage in passages] for passages in found]
    episodes = team.begin([bench.questions[n] for n in part], texts, samples)
    for number, episode in enumerate(episodes):
        episode.evidence_from = origin_of(found[number // samples]) if system.evidence else "left out"
    return episodes, rollout(team, episodes, bench.headers(system))


def _decided(bench: Bench, system: System, episodes: Sequence[Episode], readings: Readings) -> list[Decision]:
    """What the last messages come to: free text is its own answer; of options the one that the message names, or by
    `evaluation.scoring: text` the likeliest."""
    finals = [episode.final for episode in episodes]
    name = system.speaks_as.get(finals[0].role, finals[0].role)
    if episodes[0].question.is_choice and bench.job.settings.evaluation.scoring == "text":
        return _likeliest(bench, system.adapters[finals[0].role], name, episodes, readings)
    hashes = [hash_of([*episode.before(episode.final), *bench.frame.invocation(name)]) for episode in episodes]
    if not episodes[0].question.is_choice:
        return [Decision(final.text, True, sha256) for final, sha256 in zip(finals, hashes, strict=True)]
    return [Decision(final.answer or "", final.answer is not None, sha256) for final, sha256 in zip(finals, hashes, strict=True)]


def _likeliest(bench: Bench, adapter: str | None, name: str, episodes: Sequence[Episode], readings: Readings) -> list[Decision]:
    """The option whose words `name (C)` are the likeliest in the last turn, behind what it says before its `Answer:`."""
    from medpipe.models.adapters import Turn
    from medpipe.models.tokens import encode

    model, turns, rows = bench.model, list[Turn](), list[int]()
    for row, episode in enumerate(episodes):
        said = split_answer(episode.final.text)[0]
        opened = [*bench.frame.invocation(name), *encode(model.tokenizer, f"{said} Answer:".strip())]
        for letter in LETTERS[: len(episode.question.options)]:
            option = answer_text(episode.question, letter).removeprefix("Answer:")
            turns.append(Turn(episode.before(episode.final), opened, encode(model.tokenizer, option)))
            rows.append(row)
    sums = model.sum_logps(adapter, turns, bench.job.settings.evaluation.batch_size, readings.held(model, adapter), rows)
    found = []
    for row, episode in enumerate(episodes):
        first, count = rows.index(row), len(episode.question.options)
        logps = sums[first : first + count]
        behind = hash_of([*turns[first].context, *turns[first].invocation])
        found.append(Decision(LETTERS[logps.index(max(logps))], episode.final.answer is not None, behind, tuple(logps)))
    return found


def _of_episode(episode: Episode, decision: Decision) -> Answered:
    rounds = tuple({turn.role: turn.answer for turn in episode.turns if turn.round == n} for n in range(episode.rounds))
    tokens = sum(len(turn.tokens) for turn in episode.turns)
    return Answered(decision, tokens, len(episode.turns), rounds, episode.transcript())


# --- self-consistency (arXiv 2203.11171): one agent spends the team's whole budget of tokens on messages of its own, and then votes


def _sampled(bench: Bench, system: System, part: Sequence[int]) -> list[list[Episode]]:
    import torch

    team, seed = bench.job.settings.team, f"{bench.job.settings.seed}/{bench.questions[part[0]].id}"
    texts = [[passage.text for passage in bench.passages[n]] if system.evidence else [] for n in part]
    message = max(lone_budget(team.max_new_tokens, bench.questions[n], own) for n, own in zip(part, texts, strict=True))
    left = max(1, team.max_rounds_per_episode * sum(team.max_new_tokens.values()) // message)
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big"))
    drawn: list[list[Episode]] = [[] for _ in part]
    while left:
        samples = min(left, max(1, AT_ONCE // len(part)))
        episodes, _ = _played(bench, system, part, samples, 1.0, generator)
        for number, episode in enumerate(episodes):
            drawn[number // samples].append(episode)
        left -= samples
    return drawn


def _voted(bench: Bench, drawn: Sequence[Episode]) -> Answered:
    """The option that most messages name, the earlier one at a tie; on free text the message that shares most words with the others."""
    texts = [episode.final.text for episode in drawn]
    if drawn[0].question.is_choice:
        votes = Counter(episode.final.answer for episode in drawn if episode.final.answer)
        chosen, parsed = votes.most_common(1)[0][0] if votes else "", bool(votes)
    else:
        near = [fmean([_alike(text, other) for m, other in enumerate(texts) if m != n] or [0.0]) for n, text in enumerate(texts)]
        chosen, parsed = texts[max(range(len(texts)), key=near.__getitem__)], True
    behind = [*drawn[0].header, *bench.frame.invocation(drawn[0].final.role)]
    return Answered(Decision(chosen, parsed, hash_of(behind)), sum(len(episode.final.tokens) for episode in drawn), len(drawn))


def _alike(one: str, other: str) -> float:
    """Shared words over all words."""
    a, b = words(one), words(other)
    return len(a & b) / len(a | b) if a | b else 0.0


# --- the systems


def _alone(adapter: str, votes: bool = False) -> System:
    return System({"reporter": adapter}, rounds=1, votes=votes)


def _team(stage: str, roles: Sequence[Role] = ROLES, rounds: int | None = None, evidence: bool = True) -> System:
    return System({role: f"{stage}_{role}" if stage else None for role in roles}, rounds, evidence)


SYSTEMS: Mapping[str, System] = {
    "retrieval_alone": System(),
    "base_agent": System({"reporter": None}, rounds=1, speaks_as={"reporter": ALONE}),
    "one_agent_with_evidence": _alone("agent"),
    "one_agent_rl": _alone("agent_rl"),
    "self_consistency": _alone("agent", votes=True),
    "base_team": _team(""),
    "sft_team": _team("sft"),
    "maporl_team": _team("maporl"),
    **{f"without_{role}": _team("maporl", [other for other in ROLES if other != role]) for role in ROLES},
    "one_round": _team("maporl", rounds=1),
    "without_evidence": _team("maporl", evidence=False),
}
"""What each means for people stands in medpipe/evaluation/labels.py."""

COALITIONS: Mapping[frozenset[Role], System] = {
    frozenset(roles): _team("maporl", roles) for count in range(1, len(ROLES) + 1) for roles in combinations(ROLES, count)
}
"""Every part of the MAPoRL team that can answer: 15. The sixteenth, nobody, guesses."""

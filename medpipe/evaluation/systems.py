"""Who is evaluated: agents alone, the team before and after each training, and the team with something taken away.

    bench = Bench(job, questions)
    SYSTEMS["maporl_team"](bench, range(8))         # the first eight questions

On multiple choice every system answers by the same rule: the option whose letter is likeliest after `Answer:`, given everything
it wrote before that point. Free text is generated greedily. What a role says to a prompt is drawn once and remembered, so that a
team with a role less, or with one round, costs only the messages that differ. Left out: scores (medpipe/evaluation/evaluate.py).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from medpipe.corpus.biomcp import CACHE, open_evidence
from medpipe.corpus.evidence import origin_of
from medpipe.evaluation.calibration import option_probabilities
from medpipe.job import Job
from medpipe.roles import question_text, words
from medpipe.schema import LETTERS, ROLES, QAExample, Role

if TYPE_CHECKING:
    import torch

    from medpipe.models.policy import Policies, Sample
    from medpipe.team.episode import Episode


@dataclass(frozen=True)
class Decision:
    """What a message comes to."""

    prediction: str  # the letter, empty where there is none; on free text the text itself
    parsed: bool  # the message's own words settle on an answer, or there was no message
    prompt_sha256: str  # of the token ids that the answer was read behind
    option_logps: tuple[float, ...] = ()  # nats, one per option


@dataclass(frozen=True)
class Answered:
    """One system's work on one question."""

    decision: Decision
    text: str
    tokens: int  # generated
    messages: int
    rounds: tuple[dict[str, str | None], ...] = ()  # who answered what, round by round
    transcript: dict[str, Any] | None = None


class Remembered:
    """Speaks as the policies do, and draws what was said to a prompt greedily only once."""

    def __init__(self, policies: Policies) -> None:
        self.tokenizer, self._policies = policies.tokenizer, policies
        self._said: dict[tuple[str | None, tuple[int, ...], int], Sample] = {}

    def generate(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Sample]:  # fmt: skip
        """As Policies.generate."""
        if temperature:
            return self._policies.generate(adapter, prompts, max_new_tokens, temperature, generator)
        keys = [(adapter, tuple(prompt), max_new_tokens) for prompt in prompts]
        new = [key for key in dict.fromkeys(keys) if key not in self._said]
        drawn = self._policies.generate(adapter, [key[1] for key in new], max_new_tokens)
        self._said.update(zip(new, drawn, strict=True))
        return [self._said[key] for key in keys]


@dataclass
class Bench:
    """The questions with their evidence, and all systems' weights on one base."""

    job: Job
    questions: Sequence[QAExample]
    policies: Policies = field(init=False)
    speakers: Remembered = field(init=False)
    evidence: list[list[str]] = field(init=False)
    evidence_from: list[str] = field(init=False)

    def __post_init__(self) -> None:
        from medpipe.models.policy import Policies

        job, team = self.job, self.job.settings.team
        adapters = {f"sft_{role}": job.inputs[f"models/{role}"] for role in ROLES}
        adapters |= {f"maporl_{role}": job.inputs["models/maporl_team"] / role for role in ROLES}
        self.policies = Policies.load(job.inputs["models/base"], adapters, job.device, job.settings.model)
        self.speakers = Remembered(self.policies)
        source = open_evidence(job.inputs["splits/train"] / "evidence", team, job.settings.outputs / CACHE, job.report.warn)
        asked = [(question_text(question), None) for question in self.questions]
        found = source.search_many(asked, team.evidence_passages, max_chars=team.evidence_chars)
        self.evidence = [[passage.text for passage in passages] for passages in found]
        self.evidence_from = [origin_of(passages) for passages in found]

    def decide(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], said: Sequence[str], asked: Sequence[QAExample]
    ) -> list[Decision]:
        """What each message comes to: by `evaluation.scoring` the option whose letter or text is likeliest behind what was said before
        `Answer:`, or the one that the message itself names. Free text is its own answer."""
        from medpipe.models.tokens import before_answer, encode, likeliest
        from medpipe.team.parsing import parse_answer

        settings, tokenizer = self.job.settings.evaluation, self.policies.tokenizer
        if not asked[0].is_choice:
            return [Decision(text, True, hash_of(prompt)) for prompt, text in zip(prompts, said, strict=True)]
        own = [parse_answer(text, len(question.options)) for text, question in zip(said, asked, strict=True)]
        if settings.scoring == "generate":
            return [Decision(letter or "", letter is not None, hash_of(prompt)) for prompt, letter in zip(prompts, own, strict=True)]
        # An agent that wrote nothing is asked right behind its prompt.
        contexts = [[*prompt, *(before_answer(tokenizer, text) if text else ())] for prompt, text in zip(prompts, said, strict=True)]
        if settings.scoring == "letter":
            rows = self.policies.choose(adapter, contexts, [len(question.options) for question in asked], settings.batch_size)
        else:
            ask = encode(tokenizer, "Answer:")
            texts = [[encode(tokenizer, f" {option}") for option in question.options] for question in asked]
            rows = self.policies.option_logps(adapter, [[*context, *ask] for context in contexts], texts, settings.batch_size)
        return [
            Decision(likeliest(row), not text or letter is not None, hash_of(context), tuple(row))
            for row, text, letter, context in zip(rows, said, own, contexts, strict=True)
        ]


Answer = Callable[[Bench, Sequence[int]], list[Answered]]
"""How a system answers some of a bench's questions, given by their numbers."""


def hash_of(tokens: Sequence[int]) -> str:
    """sha256 of token ids."""
    return hashlib.sha256(" ".join(map(str, tokens)).encode("ascii")).hexdigest()


# --- one agent


def _alone(adapter: str | None) -> Answer:
    """One agent that sees the question only; a fine-tuned one speaks as the reporter it was trained to be.

    Where options are scored it is asked at once and writes nothing.
    """

    def answer(bench: Bench, part: Sequence[int]) -> list[Answered]:
        asked, prompts = [bench.questions[n] for n in part], _prompts_alone(bench, adapter, part)
        if asked[0].is_choice and bench.job.settings.evaluation.scoring != "generate":
            found = bench.decide(adapter, prompts, [""] * len(prompts), asked)
            return [Answered(one, "", 0, 0) for one in found]
        said = bench.speakers.generate(adapter, prompts, bench.job.settings.team.max_new_tokens["reporter"])
        found = bench.decide(adapter, prompts, [sample.text for sample in said], asked)
        return [Answered(one, sample.text, len(sample.tokens), 1) for one, sample in zip(found, said, strict=True)]

    return answer


def _prompts_alone(bench: Bench, adapter: str | None, part: Sequence[int]) -> list[list[int]]:
    from medpipe.models.tokens import encode_prompt

    role, limit = ("reporter" if adapter else None), bench.job.settings.team.max_prompt_tokens
    return [encode_prompt(bench.policies.tokenizer, role, bench.questions[n], (), (), limit) for n in part]


def _self_consistent(adapter: str) -> Answer:
    """One agent that spends the team's whole budget of tokens on messages of its own, and then votes (arXiv 2203.11171).

    Multiple choice: most messages' letter, at a tie the likelier one. Free text: the message that shares most words with the others.
    """

    def answer(bench: Bench, part: Sequence[int]) -> list[Answered]:
        import torch

        team = bench.job.settings.team
        budget = team.max_new_tokens["reporter"]
        samples = max(1, team.max_rounds_per_episode * sum(team.max_new_tokens.values()) // budget)
        prompts = _prompts_alone(bench, adapter, part)
        first = hashlib.sha256(f"{bench.job.settings.seed}/{bench.questions[part[0]].id}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(first[:7], "big"))
        drawn = bench.policies.generate(adapter, [p for p in prompts for _ in range(samples)], budget, 1.0, generator)
        return [
            _voted(bench, adapter, bench.questions[n], prompt, drawn[place * samples : (place + 1) * samples])
            for place, (n, prompt) in enumerate(zip(part, prompts, strict=True))
        ]

    return answer


def _voted(bench: Bench, adapter: str, question: QAExample, prompt: Sequence[int], drawn: Sequence[Sample]) -> Answered:
    tokens, messages, texts = sum(len(sample.tokens) for sample in drawn), len(drawn), [sample.text for sample in drawn]
    found = bench.decide(adapter, [prompt] * messages, texts, [question] * messages)
    if not question.is_choice:
        near = [fmean([_alike(text, other) for m, other in enumerate(texts) if m != n] or [0.0]) for n, text in enumerate(texts)]
        best = max(range(messages), key=near.__getitem__)
        return Answered(found[best], texts[best], tokens, messages)
    shares = [option_probabilities(one.option_logps) for one in found if one.option_logps]
    mean = [fmean(column) for column in zip(*shares, strict=True)] if shares else [0.0] * len(question.options)
    votes = Counter(one.prediction for one in found if one.prediction)
    letter = max(votes, key=lambda one: (votes[one], mean[LETTERS.index(one)]), default="")
    logps = tuple(math.log(max(share, 1e-30)) for share in mean) if shares else ()
    decision = Decision(letter, any(one.parsed for one in found), hash_of(prompt), logps)
    return Answered(decision, "\n\n".join(texts), tokens, messages)


def _alike(one: str, other: str) -> float:
    """Shared words over all words."""
    a, b = words(one), words(other)
    return len(a & b) / len(a | b) if a | b else 0.0


# --- the team


def _team(stage: str, roles: Sequence[Role] = ROLES, rounds: int | None = None, evidence: bool = True) -> Answer:
    """The team, greedy, through the same workflow as in training; some of its roles, fewer rounds, or without passages."""

    def answer(bench: Bench, part: Sequence[int]) -> list[Answered]:
        from medpipe.team.episode import Episode
        from medpipe.team.workflow import Crew, play

        rules = bench.job.settings.team
        rules = rules.model_copy(update={"max_rounds_per_episode": rounds}) if rounds else rules
        adapters: dict[Role, str | None] = {role: f"{stage}_{role}" if stage else None for role in roles}
        found = [(bench.evidence[n], bench.evidence_from[n]) if evidence else ([], "left out") for n in part]
        episodes = [Episode(bench.questions[n], passages, evidence_from=origin) for n, (passages, origin) in zip(part, found, strict=True)]
        play(Crew(bench.speakers, adapters, rules), episodes)
        final = [episode.final for episode in episodes]
        asked = [bench.questions[n] for n in part]
        decided = bench.decide(adapters[roles[-1]], [turn.prompt for turn in final], [turn.text or " " for turn in final], asked)
        return [_of_episode(episode, one) for episode, one in zip(episodes, decided, strict=True)]

    return answer


def _of_episode(episode: Episode, decision: Decision) -> Answered:
    rounds = tuple({turn.role: turn.answer for turn in episode.turns if turn.round == n} for n in range(episode.rounds))
    tokens = sum(len(turn.tokens) for turn in episode.turns)
    return Answered(decision, episode.final.text, tokens, len(episode.turns), rounds, episode.transcript())


SYSTEMS: Mapping[str, Answer] = {
    "base_agent": _alone(None),
    "sft_agent": _alone("sft_reporter"),
    "self_consistency": _self_consistent("sft_reporter"),
    "base_team": _team(""),
    "sft_team": _team("sft"),
    "maporl_team": _team("maporl"),
    **{f"without_{role}": _team("maporl", [other for other in ROLES if other != role]) for role in ROLES},
    "without_evidence": _team("maporl", evidence=False),
    "one_round": _team("maporl", rounds=1),
}
"""What each means for people stands in medpipe/evaluation/labels.py."""

COALITIONS: Mapping[frozenset[Role], Answer] = {
    frozenset(roles): _team("maporl", roles) for count in range(1, len(ROLES) + 1) for roles in combinations(ROLES, count)
}
"""Every part of the MAPoRL team that can answer: 15. The sixteenth, nobody, guesses."""

"""How many rows a role would learn from and how many tokens they have, told without loading a model.

    lengths(settings, "reporter", base)     # base: the finished folder of models/base, or None

From the finished splits a sample of rows is written out as the role would see them and cut into tokens by the base's own
tokenizer; without splits or base the settings' limits are told instead, which are upper bounds. The chat template is taken to be
ChatML, which is a few tokens off for others. Left out: what a training measures itself (training_stats.json).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from medpipe import store
from medpipe.config import Settings
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.models.tokens import encode_prompt, encode_target
from medpipe.roles import reference_said, target_for
from medpipe.schema import QAExample, Role

SAMPLE = 32


@dataclass(frozen=True)
class Lengths:
    """Rows of an epoch and their tokens."""

    rows: int
    prompt: float  # mean tokens
    said: float  # mean tokens of the completion
    longest: int  # tokens of the longest row, both together
    longest_said: int
    basis: str  # where the numbers are from


def lengths(settings: Settings, role: Role, base: Path | None) -> Lengths:
    """Of one role."""
    training, folder = settings.training, settings.outputs / "splits" / "train"
    said = min(training.max_completion, settings.team.max_new_tokens[role])
    prompt = min(settings.team.max_prompt_tokens, training.max_length - said)
    if store.read_manifest(folder) is None:
        return Lengths(training.max_examples, prompt, said, prompt + said, said, "at most: no splits yet, training.max_examples full rows")
    rows = store.read_examples(folder)
    count = min(len(rows), training.max_examples)
    if base is None:
        return Lengths(count, prompt, said, prompt + said, said, f"at most: {count} rows of splits/train, each full; no models/base yet")
    pairs = _sampled(settings, role, _mixed(rows, min(count, SAMPLE), settings.seed), folder, _Tokens(base))
    longest, longest_said = max(map(sum, pairs)), max(said for _, said in pairs)
    prompt_mean, said_mean = fmean(prompt for prompt, _ in pairs), fmean(said for _, said in pairs)
    return Lengths(
        count, prompt_mean, said_mean, longest, longest_said, f"of {count} rows of splits/train, by the lengths of {len(pairs)} of them"
    )


def _mixed(rows: Sequence[QAExample], count: int, seed: int) -> list[QAExample]:
    """Half multiple choice, as the training picks them, as far as the rows allow."""
    shuffled = random.Random(seed).sample(list(rows), len(rows))
    choice, text = [row for row in shuffled if row.is_choice], [row for row in shuffled if not row.is_choice]
    half = min(len(choice), max(count // 2, count - len(text)))
    return choice[:half] + text[: count - half]


def _sampled(settings: Settings, role: Role, rows: Sequence[QAExample], folder: Path, tokens: Any) -> list[tuple[int, int]]:
    """Tokens of prompt and completion of each row, by the functions that a training's rows are made with."""
    team, training = settings.team, settings.training
    index = EvidenceIndex.load(folder / "evidence")
    found = index.search_for_training(rows, team.evidence_passages, team.evidence_chars)
    pairs = []
    for row, passages in zip(rows, found, strict=True):
        evidence = [passage.text for passage in passages]
        said = len(encode_target(tokens, target_for(role, row, evidence), min(training.max_completion, team.max_new_tokens[role])))
        room = min(team.max_prompt_tokens, training.max_length - said)
        pairs.append((len(encode_prompt(tokens, role, row, evidence, reference_said(role, row, evidence), room)), said))
    return pairs


class _Tokens:
    """As much of a transformers tokenizer as counting needs, without importing transformers."""

    def __init__(self, base: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.added_tokens_encoder = {token.content: number for number, token in self._tokenizer.get_added_tokens_decoder().items()}
        self.eos_token_id = 0  # counted, never looked at

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **options: Any) -> str:
        said = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
        return said + "<|im_start|>assistant\n"

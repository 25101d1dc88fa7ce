"""Text to token ids: the chat template, prompts that fit, and content that can't forge control tokens.

Used by training, rollouts and evaluation alike. Left out: the decoding of tokens (medpipe/models/policy.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from medpipe.roles import Said, prompt_for, sentences
from medpipe.schema import LETTERS, QAExample, Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER_LINE = re.compile(r"\nAnswer: [A-Z]$")


def without_control_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Remove every string that the tokenizer would turn into a control token, until none is left.

    User, corpus and evidence text is data: `<|im_end|>` in a row must not end a turn. Lone surrogates, which no
    tokenizer can encode, are replaced.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    control = list(cast(dict[str, int], tokenizer.added_tokens_encoder))
    while found := [token for token in control if token in text]:
        for token in found:
            text = text.replace(token, " ")
    return text


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of plain text: no control tokens, no begin-of-text token."""
    return tokenizer.encode(without_control_tokens(text, tokenizer), add_special_tokens=False)


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a chat up to the point where the assistant starts to speak."""
    safe = [{**message, "content": without_control_tokens(message["content"], tokenizer)} for message in messages]
    # Qwen3 would think aloud first; templates without that switch ignore it.
    text = tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return tokenizer.encode(str(text), add_special_tokens=False)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, role: Role | None, question: QAExample, evidence: Sequence[str], said: Sequence[Said],
    limit: int, verdict: str = "",
) -> list[int]:  # fmt: skip
    """A role's prompt in at most `limit` tokens: what does not fit goes evidence first, then the question's middle.

    The options, the team-mates' messages and the rule for the answer always stay.
    """
    for count in range(len(evidence), -1, -1):
        ids = encode_chat(tokenizer, prompt_for(role, question, evidence[:count], said, verdict))
        if len(ids) <= limit:
            return ids
    words_kept = len(" ".join([*question.context, question.question]).split())
    while len(ids) > limit and words_kept > 8:
        words_kept = max(8, int(words_kept * min(0.9, limit / len(ids))))
        ids = encode_chat(tokenizer, prompt_for(role, shorten(question, words_kept), (), said, verdict))
    return ids[:1] + ids[len(ids) - limit + 1 :] if len(ids) > limit else ids


def shorten(question: QAExample, count: int) -> QAExample:
    """The question with `count` words: context is cut from its end, then the question text in its middle."""
    asked = question.question.split()
    context = " ".join(question.context).split()
    room = count - len(asked)
    if room >= 0:
        return question.model_copy(update={"context": (" ".join(context[:room]),) if room else ()})
    head = count // 2
    return question.model_copy(update={"context": (), "question": " ".join([*asked[:head], "…", *asked[len(asked) - (count - head) :]])})


def encode_target(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> list[int]:
    """A completion with its end token in at most `limit` tokens, cut at a sentence's end; a last line `Answer: C` stays."""
    line = _ANSWER_LINE.search(text)
    body, tail = (text[: line.start()], encode(tokenizer, line[0])) if line else (text, [])
    parts = sentences(body)
    while True:
        ids = encode(tokenizer, " ".join(parts))
        if len(ids) + len(tail) + 1 <= limit or len(parts) <= 1:
            break
        parts.pop()
    return [*ids[: max(0, limit - len(tail) - 1)], *tail, int(tokenizer.eos_token_id)]  # type: ignore[arg-type]


def before_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of what a message says before its `Answer:`, up to the line on which that is then asked for (`Policies.choose`)."""
    return encode(tokenizer, text.split("Answer:")[0].rstrip() + "\n")


def likeliest(logps: Sequence[float]) -> str:
    """The letter of the likeliest option."""
    return LETTERS[max(range(len(logps)), key=logps.__getitem__)]


def letter_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[list[int], list[int]]:
    """How the option letters continue `Answer:`: the tokens that all share, then the one that tells them apart."""
    ways = [encode(tokenizer, f" {letter}") for letter in LETTERS[:count]]
    shared = 0
    while all(len(way) > shared + 1 for way in ways) and len({way[shared] for way in ways}) == 1:
        shared += 1
    last = [way[shared] for way in ways]
    if len(set(last)) != count:
        raise ValueError(f"got a tokenizer that can't tell the letters {LETTERS[:count]} apart by one token: {ways}")
    return ways[0][:shared], last

"""Text to token ids: content that can't forge control tokens, and questions that are cut to fit.

Used by medpipe/team/transcript.py, which builds everything that a model reads. Left out: the decoding of tokens
(medpipe/models/adapters.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from medpipe.schema import QAExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "<|im_start|>", "<|im_end|>"
"""ChatML's control tokens: they open and close a turn."""


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


def shorten(question: QAExample, count: int) -> QAExample:
    """The question with `count` words: context is cut from its end, then the question text in its middle."""
    asked = question.question.split()
    context = " ".join(question.context).split()
    room = count - len(asked)
    if room >= 0:
        return question.model_copy(update={"context": (" ".join(context[:room]),) if room else ()})
    head = count // 2
    return question.model_copy(update={"context": (), "question": " ".join([*asked[:head], "…", *asked[len(asked) - (count - head) :]])})

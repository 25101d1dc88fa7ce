"""The transcript: an episode as one growing token sequence that everybody reads.

    frame = Frame(tokenizer)
    tokens = frame.header(question, evidence, limit=448)       # what is shared: one system line, question, options, evidence
    tokens += frame.turn("planner", drawn)                     # then one turn per message, named by its header

    <|im_start|>system … <|im_end|>
    <|im_start|>user … Options: asthma (A) … [E1] … <|im_end|>
    <|im_start|>planner … Answer: asthma (A)<|im_end|>
    <|im_start|>researcher …

Fine-tuning, rollouts, the update, evaluation, `medpipe test` and the registered model all build their tokens here. Text is data:
what a question, a passage or a message holds can't end a turn or open one. The option's letter stands behind its name, in the
options as in the answers: a small model can't bind a letter that comes first (docs/training.md). Left out: models without
ChatML's control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from medpipe.answers import CHOOSE, SYSTEM, WRITE, question_lines, split_answer
from medpipe.errors import MedpipeError
from medpipe.models.tokens import END, START, encode, shorten, without_control_tokens
from medpipe.roles import sentences
from medpipe.schema import LETTERS, QAExample, Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALONE = "assistant"
"""The turn of the untrained base model when it answers alone."""


def _lettered(passage: str, question: QAExample) -> str:
    """The passage, with the letter behind its title where the title is one of the options."""
    title, colon, text = passage.partition(": ")
    own = [letter for letter, option in zip(LETTERS, question.options, strict=False) if colon and option.casefold() == title.casefold()]
    return f"{title} ({own[0]}): {text}" if own else passage


class Frame:
    """Tokens of headers and turns for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        ids = [tokenizer.convert_tokens_to_ids(token) for token in (START, END)]
        if None in ids or tokenizer.unk_token_id in ids:
            raise MedpipeError(
                got="a tokenizer without <|im_start|> and <|im_end|>", expected="ChatML's control tokens, as SmolLM2 and Qwen have them",
                where=str(tokenizer.name_or_path), do="choose such a base model (model.name)",
            )  # fmt: skip
        self.start, self.end = (int(token) for token in ids)  # type: ignore[arg-type]
        self._invocations: dict[str, list[int]] = {}

    @cached_property
    def _newline(self) -> list[int]:
        return encode(self.tokenizer, "\n")

    @cached_property
    def _control(self) -> set[int]:
        return set(self.tokenizer.added_tokens_decoder)  # type: ignore[attr-defined]

    def header(self, question: QAExample, evidence: Sequence[str], limit: int) -> list[int]:
        """What all turns share, in at most `limit` tokens: what does not fit goes evidence first, then the question's middle.

        Args:
            evidence: passages, best first, shown as [E1], [E2], …
        """
        for count in range(len(evidence), -1, -1):
            tokens = self._header(question, evidence[:count])
            if len(tokens) <= limit:
                return tokens
        words = len(" ".join([*question.context, question.question]).split())
        while len(tokens) > limit and words > 8:
            words = max(8, int(words * min(0.9, limit / len(tokens))))
            tokens = self._header(shorten(question, words), ())
        # Options alone can be too long; the header's own frame stays whole at both ends.
        tail = [self.end, *self._newline]
        return tokens if len(tokens) <= limit else [*tokens[: limit - len(tail)], *tail]

    def _header(self, question: QAExample, evidence: Sequence[str]) -> list[int]:
        text = question_lines(question)
        if evidence:
            shown = [f"[E{number}] {_lettered(passage, question)}" for number, passage in enumerate(evidence, 1)]
            text = "\n".join([text, "Evidence:", *shown])
        text += f"\n{CHOOSE if question.is_choice else WRITE}"
        return [*self._block("system", SYSTEM), *self._block("user", text)]

    def invocation(self, speaker: Role | str) -> list[int]:
        """The header of a turn, which names who speaks: from here on the speaker's adapter acts."""
        if speaker not in self._invocations:
            self._invocations[speaker] = [self.start, *encode(self.tokenizer, f"{speaker}\n")]
        return self._invocations[speaker]

    def turn(self, speaker: Role | str, completion: Sequence[int]) -> list[int]:
        """A whole turn as the others read it. Control tokens within a message are left out: it can't end or open a turn."""
        return [*self.invocation(speaker), *(t for t in completion if t not in self._control), self.end, *self._newline]

    def forged(self, completion: Sequence[int]) -> bool:
        """True if a message holds a control token besides the end token that closes it."""
        return any(token in self._control for token in (completion[:-1] if completion and completion[-1] == self.end else completion))

    def completion(self, text: str, limit: int) -> list[int]:
        """A message as tokens, end token included, in at most `limit`: cut at a sentence's end; a last `Answer: …` stays whole."""
        body, answer = split_answer(text)
        parts = sentences(body)
        while True:
            tokens = encode(self.tokenizer, " ".join([*parts, answer]).strip())
            if len(tokens) + 1 <= limit or not parts or (len(parts) == 1 and not answer):
                break
            parts.pop()
        return [*tokens[: limit - 1], self.end]

    def _block(self, speaker: str, text: str) -> list[int]:
        safe = without_control_tokens(text, self.tokenizer)
        return [*self.invocation(speaker), *encode(self.tokenizer, safe), self.end, *self._newline]

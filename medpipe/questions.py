"""Questions for the finished models: ten of our own, and yours from strings, rows or a file.

    read_questions(Path("questions.txt"))      # one question a line
    read_questions(Path("questions.jsonl"))    # {"question": …, "options": […], "answer": "B"} a line, the last two if you like

The built-in questions are general knowledge in our own words, and about nobody. They show that the models answer; they are
no benchmark. Left out: context passages, and references for free text (docs/evaluation.md has scores against references).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.schema import LETTERS, Frozen, QAExample

MOST_CHARS = 20_000
"""Characters of a question with its options: a longer text is a document, and no role could read it."""
UNKNOWN = "unknown"


class Question(Frozen):
    """One question; `answer` is the letter of the right option where somebody knows it."""

    id: str
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None

    def row(self) -> QAExample:
        """The question as the workflow takes it. A row must have an answer; no role sees it, and none is scored by this one."""
        answer = LETTERS[0] if self.options else UNKNOWN
        return QAExample(id=self.id, question=self.question, answer=answer, source=UNKNOWN, focus=UNKNOWN, options=self.options)


BUILT_IN: tuple[Question, ...] = (
    Question(
        id="blood-pressure",
        question="What do the two numbers of a blood pressure reading mean, and why is lasting high pressure harmful?",
    ),
    Question(id="diabetes-types", question="How do the causes of type 1 and type 2 diabetes differ?"),
    Question(id="stroke-emergency", question="Which sudden signs point to a stroke, and why is a stroke an emergency?"),
    Question(
        id="daily-dose",
        question="Why do painkillers such as paracetamol have a highest daily dose, and which organ is harmed above it?",
    ),
    Question(id="antibiotics", question="Why do antibiotics help against infections by bacteria and not against those by viruses?"),
    Question(
        id="small-red-cells",
        question="Red cells are too small and too pale in a blood test, and the iron stores are empty. Which anaemia is this?",
        options=("anaemia by lack of vitamin B12", "anaemia by lack of folate", "anaemia by lack of iron", "anaemia of kidney disease"),
        answer="C",
    ),
    Question(
        id="crushing-chest-pain",
        question="Which first step is taught when an adult suddenly has crushing chest pain with cold sweat and breathlessness?",
        options=("wait a day and see", "call the emergency number at once", "do light exercise", "eat a salty meal"),
        answer="B",
    ),
    Question(
        id="kidney-dose",
        question="A drug leaves the body through the kidneys alone. What is usual for its doses where the kidneys work poorly?",
        options=("lower or rarer doses", "higher doses", "the same doses, more often", "all doses of a week at once"),
        answer="A",
    ),
    Question(
        id="insulin",
        question="Which organ makes insulin?",
        options=("the liver", "the spleen", "the thyroid gland", "the pancreas", "the kidney"),
        answer="D",
    ),
    Question(
        id="broken-wrist",
        question="Which test is usually done first to see whether a bone of the wrist is broken?",
        options=("an electrocardiogram", "an X-ray", "a lung function test", "a blood sugar test"),
        answer="B",
    ),
)  # fmt: skip
"""Free text and multiple choice, an emergency of each kind and a question of dosing of each kind."""


def to_questions(given: Sequence[str | Mapping[str, Any]], where: str = "questions") -> list[Question]:
    """Questions from strings, or from rows with `question`, perhaps `options` and `answer`; other fields are not read.

    Raises:
        MedpipeError: there is none, or one can't be asked (the message has its number).
    """
    if isinstance(given, str | Mapping):
        raise MedpipeError(got=f"one {type(given).__name__}", expected="a list of questions", where=where, do="put it in [ ]")
    if not given:
        raise MedpipeError(got="no question", expected="at least one", where=where, do="give one, or none at all for the built-in ones")
    return [_question(value, number, f"{where}, number {number}") for number, value in enumerate(given, 1)]


def read_questions(path: Path) -> list[Question]:
    """Questions from a file: .txt has one a line, .jsonl one JSON object (or string) a line; empty lines do not count.

    Raises:
        MedpipeError: the file can't be read, or a line can't be asked (the message has its number).
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise MedpipeError(got=f"{path.name}", expected="a .txt or .jsonl file", where=str(path), do="rename it after what it holds")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MedpipeError(got=error.strerror or str(error), expected="a file", where=str(path), do="check the path") from error
    except UnicodeDecodeError as error:
        raise MedpipeError(got=f"bytes that are not UTF-8 ({error.reason} at byte {error.start})", expected="UTF-8", where=str(path),
                           do="save it as UTF-8") from error  # fmt: skip
    # Not splitlines: JSON may hold other characters that count as a line's end there.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise MedpipeError(got="no question", expected="at least one", where=str(path), do="write one question a line")
    return [_question(_json(line, path, n) if path.suffix == ".jsonl" else line, n, f"{path}, line {n}") for n, line in lines]


def _json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MedpipeError(got=f"a line that is not JSON ({error})", expected='{"question": "…"}', where=f"{path}, line {number}",
                           do="correct the line") from error  # fmt: skip


def _question(value: Any, number: int, where: str) -> Question:
    fields = {"question": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping):
        raise MedpipeError(got=type(value).__name__, expected="a text, or a row with a question", where=where, do="correct it")
    text, options = _text(fields.get("question"), "question", where), _options(fields.get("options"), where)
    length = len(text) + sum(map(len, options))
    if length > MOST_CHARS:
        raise MedpipeError(got=f"{length:,} characters", expected=f"at most {MOST_CHARS:,}", where=where, do="shorten the question")
    return Question(id=str(number), question=text, options=options, answer=_letter(fields.get("answer"), options, where))


def _text(value: Any, what: str, where: str) -> str:
    # Lone surrogates can't be written to a file: they become "?", as in a prompt (medpipe/models/tokens.py).
    text = value.encode("utf-8", "replace").decode("utf-8").strip() if isinstance(value, str) else ""
    if not text:
        got = f"an empty {what}" if isinstance(value, str) or value is None else f"{what} of type {type(value).__name__}"
        raise MedpipeError(got=got, expected="a text", where=where, do="write the question out or take it away")
    return text


def _options(value: Any, where: str) -> tuple[str, ...]:
    if value is None or value == []:
        return ()
    if not isinstance(value, list | tuple):
        raise MedpipeError(got=f"options of type {type(value).__name__}", expected="a list of texts", where=where, do="correct it")
    options = tuple(_text(option, "option", where) for option in value)
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
        got = f"{len(options)} options" if len(set(options)) == len(options) else "an option twice"
        raise MedpipeError(got=got, expected=f"2 to {len(LETTERS)} different ones", where=where, do="correct the options")
    return options


def _letter(value: Any, options: tuple[str, ...], where: str) -> str | None:
    if value is None or not options:
        return None  # a reference to a free-text question: nothing here compares with it
    letter = value.strip().upper() if isinstance(value, str) else ""
    if letter not in list(LETTERS[: len(options)]):
        expected = f"a letter from A to {LETTERS[len(options) - 1]}, or none"
        raise MedpipeError(got=f"answer {str(value)[:40]!r}", expected=expected, where=where,
                           do="name the right option by its letter or leave the answer out")  # fmt: skip
    return letter

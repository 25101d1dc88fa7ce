"""BM25 evidence: passages of the training rows' answers and of the library, found by the words of a question.

    EvidenceIndex.build(rows).save(folder)
    EvidenceIndex.load(folder).search("What causes migraine?", k=3)

The folder holds bm25s' arrays (.npy, read without pickle), its vocabulary (JSON) and our passages (JSON lines).
Passages that share no word with the question are not returned, so fewer than k may come back. The index is a library, not
an answer key: passages that nearly hold an answer of another part (`secrets`) are left out.
`Evidence` is what a team asks, whoever answers: this index, or BioMCP with this index behind it (medpipe/corpus/biomcp.py).
What this leaves out: stemming, embeddings, reranking.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medpipe import store
from medpipe.corpus.shingles import Words
from medpipe.corpus.text import clip, tidy
from medpipe.errors import MedpipeError
from medpipe.roles import question_text, sentences
from medpipe.schema import QAExample

PASSAGES = "passages.jsonl"
CHUNK_CHARS = 400
RUN = 8  # words: a run that a passage and a secret share
BATCH = 2_000  # passages
LOCAL = "local index"
TOLD = 0.5  # share of a secret's runs, or of a passage's own, from which on the passage gives the secret away


@dataclass(frozen=True)
class Passage:
    """A piece of a training answer or of the library; `text` opens with the title, the row's focus or the library's."""

    id: str
    title: str
    text: str
    origin: str = LOCAL  # where it was found, and why there


class Evidence(Protocol):
    """Passages for questions; what the team sees does not depend on who found them."""

    def search(self, question_text: str, k: int, *, exclude: str | None = None, max_chars: int = 320) -> list[Passage]:
        """The best k passages for one question, best first; none of the row `exclude`."""
        ...

    def search_many(self, questions: Sequence[tuple[str, str | None]], k: int, max_chars: int = 320) -> list[list[Passage]]:
        """`search` for many (question, exclude) at once."""
        ...

    def search_for_training(self, rows: Sequence[QAExample], k: int, max_chars: int = 320) -> list[list[Passage]]:
        """The best k passages for each training row, none of which tells the row's own answer."""
        ...


def origin_of(passages: Sequence[Passage]) -> str:
    """Where an episode's evidence was found, for its transcript."""
    return "; ".join(dict.fromkeys(passage.origin for passage in passages)) or "nothing found"


class EvidenceIndex:
    """Passages and their BM25 index. Made by `build` or `load`."""

    def __init__(self, passages: list[dict[str, Any]], bm25: Any, left_out: int = 0) -> None:
        self.left_out = left_out  # passages that would have told a secret; known after `build` only
        self._passages = passages  # {"id", "title", "text", "rows": ids of the rows that hold one of its sentences}
        self._bm25 = bm25
        self._of_row: dict[str, set[int]] = defaultdict(set)
        self._of_rows_on: dict[str, set[int]] = defaultdict(set)  # a title → passages of rows, not of the library
        for number, passage in enumerate(passages):
            for row in passage["rows"]:
                self._of_row[row].add(number)
            if passage["rows"]:
                self._of_rows_on[passage["title"].casefold()].add(number)

    def __len__(self) -> int:
        return len(self._passages)

    @classmethod
    def build(cls, rows: Iterable[QAExample], library: Iterable[dict[str, str]] = (), secrets: Sequence[str] = ()) -> EvidenceIndex:
        """Index the free-text rows and the library; a text that several rows hold becomes one passage.

        Args:
            library: {"id", "title", "text"}: reference texts that are nobody's answer.
            secrets: answers of validation and held-out rows. MedQuAD answers "Is … inherited?" in the same words for
                hundreds of diseases: without this, the answer to a held-out question could be looked up word for word.

        Raises:
            MedpipeError: there is no free-text row and no library.
        """
        import bm25s

        texts = [(row.id, row.focus, row.answer, True) for row in rows if not row.is_choice]
        texts += [(entry["id"], entry["title"], entry["text"], False) for entry in library]
        passages: dict[tuple[str, str], dict[str, Any]] = {}
        owners: dict[tuple[str, str], list[str]] = defaultdict(list)  # a sentence under its title → rows that hold it
        for id, focus, text, is_row in texts:
            title = clip(focus, 80)
            for number, chunk in enumerate(_chunks(text), 1):
                passage = {"id": f"{id}#{number}", "title": title, "text": f"{title}: {' '.join(chunk)}", "rows": chunk}
                passages.setdefault((title.casefold(), " ".join(chunk)), passage)
                for sentence in chunk if is_row else ():
                    owners[title.casefold(), sentence].append(id)
        for (title, _), passage in passages.items():
            passage["rows"] = sorted({row for sentence in passage["rows"] for row in owners.get((title, sentence), ())})
        if not passages:
            raise MedpipeError(
                got="no free-text row and no library", expected="a text to take evidence from", where="the training rows",
                do="add a source with free-text answers (corpus.use, data/custom)",
            )  # fmt: skip
        telling = _telling([chunk for _, chunk in passages], secrets)
        told = [passage for passage, tells in zip(passages.values(), telling, strict=True) if not tells]
        if not told:
            raise MedpipeError(
                got="only passages that give away answers of other parts", expected="a text to take evidence from",
                where="the training rows", do="add a source with free-text answers (corpus.use, data/custom)",
            )  # fmt: skip
        bm25 = bm25s.BM25()
        bm25.index(_tokens([passage["text"] for passage in told]), show_progress=False)
        return cls(told, bm25, left_out=len(passages) - len(told))

    def save(self, folder: Path) -> None:
        """Write the index into a folder that is being built (the folder as a whole is what becomes visible at once)."""
        folder.mkdir(parents=True, exist_ok=True)
        self._bm25.save(folder, show_progress=False, allow_pickle=False)
        store.write_jsonl(folder / PASSAGES, self._passages)

    @classmethod
    def load(cls, folder: Path) -> EvidenceIndex:
        """Read an index back.

        Raises:
            MedpipeError: the folder holds no index.
        """
        import bm25s

        if not (folder / PASSAGES).is_file():
            raise MedpipeError(got="no evidence index", expected=PASSAGES, where=str(folder), do="materialise splits/train")
        return cls(store.read_jsonl(folder / PASSAGES), bm25s.BM25.load(folder, show_progress=False, allow_pickle=False))

    def search(self, question_text: str, k: int, *, exclude: str | None = None, max_chars: int = 320) -> list[Passage]:
        """The best k passages, best first.

        Args:
            exclude: id of a row whose own text must not come back (the question's own reference answer).
            max_chars: length at which a passage's text is cut, between words.
        """
        return self.search_many([(question_text, exclude)], k, max_chars)[0]

    def search_many(self, questions: Sequence[tuple[str, str | None]], k: int, max_chars: int = 320) -> list[list[Passage]]:
        """`search` for many (question, exclude) at once."""
        hidden = [self._of_row.get(row, set()) if row else set() for _, row in questions]
        return self._retrieve([text for text, _ in questions], hidden, k, max_chars)

    def search_for_training(self, rows: Sequence[QAExample], k: int, max_chars: int = 320) -> list[list[Passage]]:
        """The best k passages for each training row, as like as can be to what a row of another part would be shown.

        Left out is the row's own text. For multiple choice it is every row's text on the same focus: the index holds those of
        training rows only, so a right option would nearly always have passages of its own, and having passages would tell it.
        """
        hidden = [
            self._of_row.get(row.id, set()) | (self._of_rows_on.get(clip(row.focus, 80).casefold(), set()) if row.is_choice else set())
            for row in rows
        ]
        return self._retrieve([question_text(row) for row in rows], hidden, k, max_chars)

    def _retrieve(self, texts: Sequence[str], hidden: Sequence[set[int]], k: int, max_chars: int) -> list[list[Passage]]:
        if not texts:
            return []
        depth = min(k + max(map(len, hidden)), len(self))
        found, scores = self._bm25.retrieve(_tokens(list(texts)), k=depth, show_progress=False)
        return [
            [
                self._passage(int(number), max_chars)
                for number, score in zip(numbers, row, strict=True)
                if score > 0 and int(number) not in own
            ][:k]
            for numbers, row, own in zip(found, scores, hidden, strict=True)
        ]

    def _passage(self, number: int, max_chars: int) -> Passage:
        entry = self._passages[number]
        return Passage(entry["id"], entry["title"], clip(entry["text"], max_chars))


def _telling(passages: list[str], secrets: Sequence[str]) -> list[bool]:
    """For each passage, whether it holds TOLD of a secret's runs of words, or consists of such runs to that share."""
    import numpy as np

    secrets = sorted(set(secrets))
    known, owner = Words.of(secrets).runs(RUN)
    order = np.argsort(known, kind="stable")
    known, owner = known[order], owner[order]
    runs, passage = Words.of(passages).runs(RUN)
    first, last = (np.searchsorted(known, runs, side) for side in ("left", "right"))
    hits = np.bincount(passage[last > first], minlength=len(passages))
    telling = hits >= np.maximum(TOLD * np.bincount(passage, minlength=len(passages)), 1)
    # What is left shares a few runs: is one short secret whole among them? A run may stand in many secrets, so in batches.
    runs_of_secret = np.bincount(owner, minlength=len(secrets))
    left = np.flatnonzero((last > first) & ~telling[passage])
    borders = np.flatnonzero(np.diff(passage[left])) + 1  # where another passage begins
    for part in np.split(left, borders[BATCH::BATCH]):
        counts = last[part] - first[part]
        places = np.repeat(first[part] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        pairs = np.repeat(passage[part], counts) * max(len(secrets), 1) + owner[places]
        values, times = np.unique(pairs, return_counts=True)
        telling[(values // max(len(secrets), 1))[times >= TOLD * runs_of_secret[values % max(len(secrets), 1)]]] = True
    return telling.tolist()


def _tokens(texts: list[str]) -> Any:
    """Numbered words. From plain word lists bm25s would number through a set: another index in every process."""
    import bm25s

    return bm25s.tokenize(texts, stopwords="english", return_ids=True, show_progress=False)


def _broken(sentence: str) -> Iterator[str]:
    """A long sentence in pieces of up to CHUNK_CHARS, broken between words (a longer word: inside it)."""
    while len(sentence) > CHUNK_CHARS:
        end = sentence.rfind(" ", 1, CHUNK_CHARS + 1)
        end = end if end > 0 else CHUNK_CHARS
        yield sentence[:end]
        sentence = sentence[end:].lstrip()
    yield sentence


def _chunks(answer: str) -> list[list[str]]:
    """Whole sentences up to CHUNK_CHARS together; a longer sentence is broken between words."""
    chunks: list[list[str]] = []
    room = 0
    for sentence in sentences(tidy(answer)):
        pieces = [sentence] if len(sentence) <= CHUNK_CHARS else list(_broken(sentence))
        for piece in pieces:
            if chunks and 1 + len(piece) <= room:
                chunks[-1].append(piece)
                room -= 1 + len(piece)
            else:
                chunks.append([piece])
                room = CHUNK_CHARS - len(piece)
    return chunks

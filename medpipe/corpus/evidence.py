"""BM25 evidence: passages of the training rows' answers and of the library, found by the words of a question.

    EvidenceIndex.build(rows).save(folder)
    EvidenceIndex.load(folder).search("What causes migraine?", k=3)

The folder holds bm25s' arrays (.npy, read without pickle), its vocabulary (JSON) and our passages (JSON lines).
Passages that share no word with the question are not returned, so fewer than k may come back.
What this leaves out: stemming, embeddings, reranking.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.corpus.text import clip, tidy
from medpipe.errors import MedpipeError
from medpipe.roles import sentences
from medpipe.schema import QAExample

PASSAGES = "passages.jsonl"
CHUNK_CHARS = 400


@dataclass(frozen=True)
class Passage:
    """A piece of a training answer or of the library; `text` opens with the title, the row's focus or the library's."""

    id: str
    title: str
    text: str


class EvidenceIndex:
    """Passages and their BM25 index. Made by `build` or `load`."""

    def __init__(self, passages: list[dict[str, Any]], bm25: Any) -> None:
        self._passages = passages  # {"id", "title", "text", "rows": ids of the rows that hold this very text}
        self._bm25 = bm25
        self._of_row: dict[str, set[int]] = defaultdict(set)
        for number, passage in enumerate(passages):
            for row in passage["rows"]:
                self._of_row[row].add(number)

    def __len__(self) -> int:
        return len(self._passages)

    @classmethod
    def build(cls, rows: Iterable[QAExample], library: Iterable[dict[str, str]] = ()) -> EvidenceIndex:
        """Index the free-text rows and the library; a text that several rows hold becomes one passage.

        Args:
            library: {"id", "title", "text"}: reference texts that are nobody's answer.

        Raises:
            MedpipeError: there is no free-text row and no library.
        """
        import bm25s

        texts = [(row.id, row.focus, row.answer, [row.id]) for row in rows if not row.is_choice]
        texts += [(entry["id"], entry["title"], entry["text"], []) for entry in library]
        passages: dict[tuple[str, str], dict[str, Any]] = {}
        for id, focus, text, owners in texts:
            title = clip(focus, 80)
            for number, chunk in enumerate(_chunks(text), 1):
                passage = {"id": f"{id}#{number}", "title": title, "text": f"{title}: {chunk}", "rows": []}
                passages.setdefault((title.casefold(), chunk), passage)["rows"] += owners
        if not passages:
            raise MedpipeError(
                got="no free-text row and no library", expected="a text to take evidence from", where="the training rows",
                do="add a source with free-text answers (corpus.use, data/custom)",
            )  # fmt: skip
        bm25 = bm25s.BM25()
        bm25.index(_tokens([passage["text"] for passage in passages.values()]), show_progress=False)
        return cls(list(passages.values()), bm25)

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
        if not questions:
            return []
        hidden: list[set[int]] = [self._of_row.get(row, set()) if row else set() for _, row in questions]
        depth = min(k + max(map(len, hidden)), len(self))
        found, scores = self._bm25.retrieve(_tokens([text for text, _ in questions]), k=depth, show_progress=False)
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


def _tokens(texts: list[str]) -> Any:
    """Numbered words. From plain word lists bm25s would number through a set: another index in every process."""
    import bm25s

    return bm25s.tokenize(texts, stopwords="english", return_ids=True, show_progress=False)


def _chunks(answer: str) -> list[str]:
    """Whole sentences up to CHUNK_CHARS together; a longer sentence is broken between words."""
    chunks: list[str] = []
    for sentence in sentences(tidy(answer)):
        pieces = [sentence] if len(sentence) <= CHUNK_CHARS else textwrap.wrap(sentence, CHUNK_CHARS, break_on_hyphens=False)
        for piece in pieces:
            if chunks and len(chunks[-1]) + 1 + len(piece) <= CHUNK_CHARS:
                chunks[-1] += f" {piece}"
            else:
                chunks.append(piece)
    return chunks

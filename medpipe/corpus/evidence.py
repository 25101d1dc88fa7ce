"""Evidence for questions: passages of a library and of training rows' answers, found by words and by meaning.

    EvidenceIndex.build(rows, library).save(folder)
    EvidenceIndex.load(folder).for_questions(questions, k=3)

Both rankings are fused (medpipe/corpus/retrieval.py). The query is the question alone; options only say which passages to compare:
- Free text: the best passages of the library and of the rows' answers.
- Multiple choice whose options are topics of the library: each option's best passage, best first. Never a row's answer.
- Other multiple choice: each option joins the question as a query of its own and gives its best passage, best first.

The folder holds bm25s' arrays and the embeddings (.npy, read without pickle), a vocabulary (JSON) and our passages (JSON lines).
The index is a library, not an answer key: passages that nearly hold an answer of another part (`secrets`) are left out, and a
training row is shown what a held-out row would be shown.
`Evidence` is what a team asks, whoever answers: this index, or BioMCP with this index behind it (medpipe/corpus/biomcp.py).
What this leaves out: reranking, and a judgement whether the best passages bear on the question at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medpipe import store
from medpipe.corpus.groups import keys
from medpipe.corpus.retrieval import Rankings, best_first, fuse, fuse_at
from medpipe.corpus.shingles import Words, word_list
from medpipe.corpus.text import clip, focus_key, tidy
from medpipe.errors import MedpipeError
from medpipe.roles import sentences
from medpipe.schema import QAExample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = tuple[NDArray[np.float32], NDArray[np.float32]]  # of every passage for one query: by words, by meaning

PASSAGES = "passages.jsonl"
CHUNK_CHARS = 400
TITLE_CHARS = 80
RUN = 8  # words: a run that a passage and a secret share
BATCH = 2_000  # passages
LOCAL = "local index"
TOLD = 0.5  # share of a secret's runs, or of a passage's own, from which on the passage gives the secret away
TRIED = 10  # passages of an option that joins the question, of which one is taken

ROW, LIBRARY, CHOICE = "row", "library", "choice"
"""Kinds of passages: of training rows' answers (for free text only), of the library, of the library for multiple choice only."""


@dataclass(frozen=True)
class Passage:
    """A piece of a training answer or of the library; `text` opens with the title, the row's focus or the library's."""

    id: str
    title: str
    text: str
    origin: str = LOCAL  # where it was found, and why there
    option: str = ""  # the option of a multiple-choice question that it was found for


class Evidence(Protocol):
    """Passages for questions; what the team sees does not depend on who found them."""

    def for_questions(self, questions: Sequence[QAExample], k: int, max_chars: int = 320, *, training: bool = False) -> list[list[Passage]]:
        """For each question at most k passages, best first; with `training`, what a held-out question would be shown."""
        ...

    def search(self, text: str, k: int, max_chars: int = 320) -> list[Passage]:
        """The best k passages for a bare text, best first."""
        ...


def origin_of(passages: Sequence[Passage]) -> str:
    """Where an episode's evidence was found, for its transcript."""
    return "; ".join(dict.fromkeys(passage.origin for passage in passages)) or "nothing found"


def right_rank(row: QAExample, passages: Sequence[Passage]) -> int | None:
    """Rank, from 1, of the first passage that was found for the right option; None if there is none, or on free text."""
    ranks = (rank for rank, passage in enumerate(passages, 1) if row.is_choice and passage.option == row.answer_text)
    return next(ranks, None)


def recall(index: Evidence, rows: Iterable[QAExample], ks: Sequence[int] = (1, 3), *, training: bool = False) -> dict[str, float]:
    """How often the right option's passage is among the first k, over the multiple-choice rows.

    Args:
        training: the rows are among those of the index, as for `for_questions`.

    Returns:
        `rows`, their number, and for each k `recall@k`, a share from 0 to 1; without such rows only `rows`, which is 0.
    """
    asked = [row for row in rows if row.is_choice]
    if not asked:
        return {"rows": 0}
    found = index.for_questions(asked, max(ks), training=training)
    ranks = [right_rank(row, passages) for row, passages in zip(asked, found, strict=True)]
    return {"rows": len(asked)} | {f"recall@{k}": sum(rank is not None and rank <= k for rank in ranks) / len(asked) for k in ks}


class EvidenceIndex:
    """Passages and their two rankings. Made by `build` or `load`."""

    def __init__(self, passages: list[dict[str, Any]], rankings: Rankings, left_out: int = 0) -> None:
        import numpy as np

        self.left_out = left_out  # passages that would have told a secret; known after `build` only
        # {"id", "title", "text", "kind"; "keys": of a row's passage the names by which rows are split, else the topic's names}
        self._passages = passages
        self._rankings = rankings
        self._of_rows_on: dict[str, list[int]] = defaultdict(list)  # a key of rows → their passages
        self._titled: dict[str, list[int]] = defaultdict(list)  # a topic's title, as focus_key gives it → its passages
        self._named: dict[str, dict[str, None]] = defaultdict(dict)  # a further name → the titles of its topics
        for number, passage in enumerate(passages):
            if passage["kind"] == ROW:
                for key in passage["keys"]:
                    self._of_rows_on[key].append(number)
            else:
                title, *names = passage["keys"]
                self._titled[title].append(number)
                for name in names:
                    self._named[name][title] = None
        self._for_text = np.array([passage["kind"] != CHOICE for passage in passages], bool)
        self._for_choice = np.array([passage["kind"] != ROW for passage in passages], bool)

    def __len__(self) -> int:
        return len(self._passages)

    @classmethod
    def build(cls, rows: Iterable[QAExample], library: Iterable[Mapping[str, Any]] = (), secrets: Sequence[str] = ()) -> EvidenceIndex:
        """Index the free-text rows' answers and the library; most of the time goes into the embeddings.

        Args:
            library: {"id", "title", "text"}, perhaps "names" (the topic's further names) and "scope": "choice" (to be shown to
                multiple-choice questions only): reference texts that are nobody's answer.
            secrets: answers of validation and held-out rows. MedQuAD answers "Is … inherited?" in the same words for
                hundreds of diseases: without this, the answer to a held-out question could be looked up word for word.
                Passages of the scope "choice" are not held back: free-text questions never see them.

        Raises:
            MedpipeError: there is no passage, none is left, or a scope is unknown.
        """
        passages = [*_of_rows([row for row in rows if not row.is_choice]), *_of_library(library)]
        if not passages:
            raise MedpipeError(
                got="no free-text row and no library", expected="a text to take evidence from", where="the training rows",
                do="add a source with free-text answers (corpus.use, data/custom)",
            )  # fmt: skip
        guarded = iter(_telling([" ".join(passage["sentences"]) for passage in passages if passage["kind"] != CHOICE], secrets))
        telling = [passage["kind"] != CHOICE and next(guarded) for passage in passages]
        kept = list(_new(passage for passage, tells in zip(passages, telling, strict=True) if not tells))
        if not kept:
            raise MedpipeError(
                got="only passages that give away answers of other parts", expected="a text to take evidence from",
                where="the training rows", do="add a source with free-text answers (corpus.use, data/custom)",
            )  # fmt: skip
        return cls(kept, Rankings.build([passage["text"] for passage in kept]), sum(telling))

    def save(self, folder: Path) -> None:
        """Write the index into a folder that is being built (the folder as a whole is what becomes visible at once)."""
        self._rankings.save(folder)
        store.write_jsonl(folder / PASSAGES, self._passages)

    @classmethod
    def load(cls, folder: Path) -> EvidenceIndex:
        """Read an index back.

        Raises:
            MedpipeError: the folder holds no index, or not a whole one.
        """
        if not (folder / PASSAGES).is_file():
            raise MedpipeError(got="no evidence index", expected=PASSAGES, where=str(folder), do="materialise splits/train")
        passages, rankings = store.read_jsonl(folder / PASSAGES), Rankings.load(folder)
        if len(passages) != len(rankings):
            raise MedpipeError(
                got=f"{len(passages)} passages", expected=f"{len(rankings)}, as many as embeddings", where=str(folder),
                do="materialise splits/train",
            )  # fmt: skip
        return cls(passages, rankings)

    def for_questions(self, questions: Sequence[QAExample], k: int, max_chars: int = 320, *, training: bool = False) -> list[list[Passage]]:
        """Passages for each question, best first.

        Args:
            k: at most so many passages a question; fewer come back where there are no more, or options.
            max_chars: length at which a passage's text is cut, between words.
            training: the questions are rows of this index. Then all rows' passages on a question's own focus count as not there
                (a held-out focus has none), and a free-text row does not see passages that nearly hold its answer (`secrets`
                does this for held-out rows).
        """
        topics = [self._topics(question) for question in questions]
        queries = [_queries(question, bool(known)) for question, known in zip(questions, topics, strict=True)]
        scores = self._rankings.scores(list(chain.from_iterable(queries)))
        found: list[list[Passage]] = []
        for question, known, asked in zip(questions, topics, queries, strict=True):
            own = list(islice(scores, len(asked)))
            row = question if training else None
            if not question.is_choice:
                numbers = islice(self._best(asked[0], own[0], row), k)
                pairs: Iterable[tuple[str, int]] = (("", number) for number in numbers)
            elif known:
                pairs = self._one_each(self._among(known, own[0], row), k)
            else:
                pairs = self._one_each(self._joined(question.options, own), k)
            found.append([self._passage(number, max_chars, option) for option, number in pairs])
        return found

    def search(self, text: str, k: int, max_chars: int = 320) -> list[Passage]:
        """The best k passages for a bare text, as a free-text question would be shown them."""
        (scores,) = self._rankings.scores([text])
        return [self._passage(number, max_chars) for number in islice(self._best(text, scores), k)]

    def _topics(self, question: QAExample) -> dict[str, list[int]]:
        """The passages on each option that is a topic, by title or else by name; empty where fewer than half of the options are."""
        known: dict[str, list[int]] = {}
        for option in question.options:
            key = focus_key(option)
            titles = [key] if key in self._titled else self._named.get(key, ())
            if numbers := [number for title in titles for number in self._titled[title]]:
                known[option] = numbers
        return known if 2 * len(known) >= len(question.options) else {}

    def _there(self, row: QAExample | None) -> NDArray[np.bool_]:
        """Which passages there are for a training row (all of them for another one): none of a row on its own focus."""
        import numpy as np

        there = np.ones(len(self), bool)
        for key in keys(row) if row else ():
            there[self._of_rows_on.get(key, [])] = False
        return there

    def _best(self, text: str, scores: Scores, row: QAExample | None = None) -> Iterator[int]:
        """Passages for free text, best first; without those that a training row must not see."""
        import numpy as np

        if not word_list(text):
            return
        numbers = np.flatnonzero(self._there(row) & self._for_text)
        for number in numbers[best_first(fuse(*(each[numbers] for each in scores)))].tolist():
            passage = self._passages[number]
            if row is None or not _telling([passage["text"].removeprefix(f"{passage['title']}: ")], [row.answer])[0]:
                yield number

    def _among(self, topics: Mapping[str, list[int]], scores: Scores, row: QAExample | None) -> Iterator[tuple[str, int]]:
        """Each option with each passage on it, best first, by their places in the whole index.

        Passages of rows hold places there, though none is shown: places among a few dozen passages would be coarse and often tie.
        """
        import numpy as np

        options: dict[int, list[str]] = defaultdict(list)
        for option, passages in topics.items():
            for number in passages:
                options[number].append(option)
        numbers, there = np.array(sorted(options)), self._there(row)
        at = np.cumsum(there)[numbers] - 1  # where they stand among those that are there
        for number in numbers[np.argsort(-fuse_at(at, *(each[there] for each in scores)), kind="stable")].tolist():
            yield from ((option, number) for option in options[number])

    def _joined(self, options: Sequence[str], scores: Sequence[Scores]) -> Iterator[tuple[str, int]]:
        """Each option with some passages that its own query finds, best first.

        Every query has a best passage, so a rank within it says nothing of the option; all pairs are ranked once more together.
        """
        import numpy as np

        numbers = np.flatnonzero(self._for_choice)
        pairs: list[tuple[str, int]] = []
        together: list[tuple[float, float]] = []
        for option, (words, meaning) in zip(options, scores, strict=True):
            for number in numbers[best_first(fuse(words[numbers], meaning[numbers]), TRIED)].tolist():
                pairs.append((option, number))
                together.append((float(words[number]), float(meaning[number])))
        if pairs:
            yield from (pairs[place] for place in best_first(fuse(*np.array(together).T)))

    def _one_each(self, pairs: Iterable[tuple[str, int]], k: int) -> Iterator[tuple[str, int]]:
        """The first k pairs in which neither the option nor the topic came before."""
        served, told = set[str](), set[str]()
        for option, number in pairs:
            topic = self._passages[number]["keys"][0]
            if len(served) < k and option not in served and topic not in told:
                served.add(option)
                told.add(topic)
                yield option, number

    def _passage(self, number: int, max_chars: int, option: str = "") -> Passage:
        entry = self._passages[number]
        return Passage(entry["id"], entry["title"], clip(entry["text"], max_chars), option=option)


def _queries(question: QAExample, by_topic: bool) -> list[str]:
    """The question, or one query for each option. The option stands first: the encoder reads a long text's beginning only."""
    if not question.is_choice or by_topic:
        return [question.question]
    return [f"{option} {question.question}" for option in question.options]


def _of_rows(rows: Sequence[QAExample]) -> Iterator[dict[str, Any]]:
    """The rows' answers in passages; what rows on one title say in the same words is one passage."""
    every: dict[str, set[str]] = defaultdict(set)  # a title → keys of all rows on it
    for row in rows:
        every[focus_key(row.focus)].update(keys(row))
    seen = set[tuple[str, str]]()
    for row in rows:
        topic = focus_key(row.focus)
        for passage in _cut(row.id, row.focus, row.answer):
            if (place := (topic, passage["text"])) not in seen:
                seen.add(place)
                yield passage | {"kind": ROW, "keys": [topic, *sorted(every[topic] - {topic})]}


def _of_library(library: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in library:
        scope = entry.get("scope", LIBRARY)
        if scope not in (LIBRARY, CHOICE):
            raise MedpipeError(
                got=f"scope {scope!r}", expected=f"{CHOICE!r}, or none", where=f"library entry {entry['id']!r}", do="correct its source"
            )  # fmt: skip
        names = dict.fromkeys(filter(None, map(focus_key, (entry["title"], *entry.get("names", ())))))
        for passage in _cut(entry["id"], entry["title"], entry["text"]):
            yield passage | {"kind": scope, "keys": list(names)}


def _cut(id: str, title: str, text: str) -> Iterator[dict[str, Any]]:
    title = clip(title, TITLE_CHARS)
    for number, chunk in enumerate(_chunks(text), 1):
        yield {"id": f"{id}#{number}", "title": title, "text": f"{title}: {' '.join(chunk)}", "sentences": chunk}


def _new(passages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The passages without their `sentences`, and without rows' passages of which earlier ones on the topic said each sentence."""
    said: dict[str, set[str]] = defaultdict(set)
    for passage in passages:
        told = passage.pop("sentences")
        if passage["kind"] == ROW:
            known = said[passage["keys"][0]]
            if known.issuperset(told):
                continue
            known.update(told)
        yield passage


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

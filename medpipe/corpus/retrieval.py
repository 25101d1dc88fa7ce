"""Two rankings of texts for a query, by words and by meaning, and the fusion of both. Knows nothing of questions or options.

    rankings = Rankings.build(["Gout: a red toe.", "Asthma: wheezing."])
    words, meaning = next(rankings.scores(["Why is my toe red?"]))
    order = best_first(fuse(words, meaning))

By words: BM25 (bm25s). By meaning: the cosine of all-MiniLM-L6-v2 embeddings, on the CPU and without a network. Fusion is by
reciprocal rank (Cormack, Clarke and Buettcher, SIGIR 2009), so the two kinds of score need not be made comparable.
What this leaves out: stemming, rerankers, approximate search (100,000 texts are compared one by one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.errors import MedpipeError
from medpipe.minilm import encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDINGS = "embeddings.npy"
DAMPING = 60  # the constant k of reciprocal rank fusion, as in its paper
DEPTH = 1_000  # places of a ranking that count
SIZE = 384  # numbers in an embedding
ENCODED_AT_ONCE = 16  # on a CPU more at once is slower: what lies between two layers no longer fits into its cache
SCORED_AT_ONCE = 64  # queries


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of unit length, [texts, SIZE]; of a text longer than 256 tokens only the beginning counts.

    Raises:
        MedpipeError: the encoder's package is missing or damaged.
    """
    import numpy as np

    if not texts:
        return np.zeros((0, SIZE), np.float32)
    return encoder().encode(list(texts), batch_size=ENCODED_AT_ONCE, normalize_embeddings=True, show_progress_bar=False)


class Rankings:
    """Texts in the two forms in which they are searched. Made by `build` or `load`."""

    def __init__(self, bm25: Any, embeddings: NDArray[np.float32]) -> None:
        self._bm25, self._embeddings = bm25, embeddings

    def __len__(self) -> int:
        return len(self._embeddings)

    @classmethod
    def build(cls, texts: Sequence[str]) -> Rankings:
        """Index at least one text; takes about 20 ms of a CPU core for a text of 300 characters."""
        import bm25s

        # Numbered here: from plain word lists bm25s would number through a set, differently in every process.
        tokens = bm25s.tokenize(list(texts), stopwords="english", return_ids=True, show_progress=False)
        bm25 = bm25s.BM25()
        bm25.index(tokens, show_progress=False)
        return cls(bm25, embed(texts))

    def save(self, folder: Path) -> None:
        """Write bm25s' arrays and vocabulary, and the embeddings; nothing is pickled."""
        import numpy as np

        folder.mkdir(parents=True, exist_ok=True)
        self._bm25.save(folder, show_progress=False, allow_pickle=False)
        np.save(folder / EMBEDDINGS, self._embeddings, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Rankings:
        """Read back what `save` wrote.

        Raises:
            MedpipeError: there are no embeddings, or not as many as indexed texts.
        """
        import bm25s
        import numpy as np

        path = folder / EMBEDDINGS
        if not path.is_file():
            raise MedpipeError(got="no embeddings", expected=EMBEDDINGS, where=str(folder), do="materialise splits/train")
        embeddings = np.load(path, allow_pickle=False)
        bm25 = bm25s.BM25.load(folder, show_progress=False, allow_pickle=False)
        if embeddings.shape != (bm25.scores["num_docs"], SIZE):
            raise MedpipeError(
                got=f"embeddings of shape {embeddings.shape}", expected=str((bm25.scores["num_docs"], SIZE)), where=str(path),
                do="materialise splits/train",
            )  # fmt: skip
        return cls(bm25, embeddings)

    def scores(self, queries: Sequence[str]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """For each query, every text's BM25 score and cosine, each [texts]. Equal queries are embedded once."""
        import bm25s

        number_of = {query: number for number, query in enumerate(dict.fromkeys(queries))}
        embedded = embed(list(number_of))
        for start in range(0, len(queries), SCORED_AT_ONCE):
            some = list(queries[start : start + SCORED_AT_ONCE])
            cosines = embedded[[number_of[query] for query in some]] @ self._embeddings.T
            listed: Any = bm25s.tokenize(some, stopwords="english", return_ids=False, show_progress=False)
            for words, meaning in zip(listed, cosines, strict=True):
                yield self._bm25.get_scores_from_ids(self._bm25.get_tokens_ids(words)), meaning


def best_first(scores: NDArray[Any], depth: int = DEPTH) -> NDArray[np.int64]:
    """Places of the `depth` highest scores above 0, the highest first; of equal ones the earlier place first."""
    import numpy as np

    places = np.flatnonzero(scores > 0)
    if len(places) > depth:
        border = np.partition(scores[places], len(places) - depth)[len(places) - depth]
        places = places[scores[places] >= border]
    return places[np.argsort(-scores[places], kind="stable")][:depth]


def fuse(*rankings: NDArray[Any]) -> NDArray[np.float64]:
    """Fused score of each text: the sum over the rankings of 1 / (DAMPING + its place), places counted from 1 to DEPTH.

    Args:
        rankings: scores by different methods, each [texts]. A text with a score of 0 or less has no place in a ranking.
    """
    import numpy as np

    total = np.zeros(len(rankings[0]))
    for scores in rankings:
        order = best_first(scores)
        total[order] += 1 / (DAMPING + np.arange(1, len(order) + 1))
    return total


def fuse_at(numbers: NDArray[np.int64], *rankings: NDArray[Any]) -> NDArray[np.float64]:
    """`fuse` for the texts of these numbers only, [numbers], whatever their places; equal scores share the best one."""
    import numpy as np

    total = np.zeros(len(numbers))
    for scores in rankings:
        better = len(scores) - np.searchsorted(np.sort(scores), scores[numbers], side="right")
        total += np.where(scores[numbers] > 0, 1 / (DAMPING + 1 + better), 0)
    return total

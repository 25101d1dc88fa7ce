"""Semantic similarity of short texts by all-MiniLM-L6-v2 (medpipe/minilm.py).

    python -c "from medpipe.rewards.similarity import Similarity as S; print(S().pairs([('raised glucose', 'high blood sugar')]))"

Only the first comparison loads torch and 90 MB of weights: multiple choice needs none. What this leaves out: GPUs, and
texts longer than the encoder's 256 tokens (callers hand over sentences or pieces of them; medpipe/rewards/accuracy.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from medpipe.minilm import encoder, model_folder

CACHE = 20_000  # vectors kept, 384 floats each: 31 MB


class Similarity:
    """Cosine similarity of pairs of short texts, each distinct text encoded once while it stays in the cache."""

    def __init__(self) -> None:
        model_folder()  # a missing or damaged package is told at once, not in the middle of a training
        self._vectors: OrderedDict[str, object] = OrderedDict()

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosine of each pair, negative ones as 0: floats in [0, 1], one per pair, in order.

        Rounded to 4 places: the encoder's last digits depend on which texts share a batch.
        """
        import numpy as np

        known = self._encode(dict.fromkeys(text for pair in pairs for text in pair))
        return [round(min(1.0, max(0.0, float(np.dot(known[a], known[b])))), 4) for a, b in pairs]

    def _encode(self, texts: dict[str, None]) -> dict:
        new = [text for text in texts if text not in self._vectors]
        if new:
            # Truncation is not left to chance: callers pass pieces that fit, so nothing a text says is out of sight.
            encoded = encoder().encode(new, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
            self._vectors.update(zip(new, encoded, strict=True))
        known = {}
        for text in texts:
            self._vectors.move_to_end(text)
            known[text] = self._vectors[text]
        while len(self._vectors) > CACHE:
            self._vectors.popitem(last=False)
        return known

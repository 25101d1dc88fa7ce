"""A tiny Qwen3-architecture model from random weights, drilled for seconds to end its sentences: for tests.

It knows no medicine. The drill makes it close a message and name an option's letter, so that the reinforcement
learning of a test run has messages it can read and rewards that differ; a purely random model never ends a sentence.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from medpipe import roles
from medpipe.schema import LETTERS

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
STEPS, BATCH, RATE = 80, 16, 6e-3


def make(template: str) -> tuple[Any, Any]:
    """The model and its byte-level tokenizer; the same on every machine of one kind."""
    tokenizer = _tokenizer(template)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=4096, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its matrices are too small to share out: several threads would only wait for each other
    _drill(model, tokenizer)
    torch.set_num_threads(threads)
    return model.eval(), tokenizer


def _tokenizer(template: str) -> Any:
    text = Path(roles.__file__).read_text(encoding="utf-8").splitlines()
    # The letters are repeated so that each " A" becomes one token, as in a real tokenizer.
    text += [f" {' '.join(LETTERS)}"] * 99
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=1024, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template)


def _drill(model: Any, tokenizer: Any) -> None:
    """Teach it to answer `word word.` and, where the prompt asks for one, `Answer:` with some letter from A to J."""
    draw = random.Random(0)
    vocabulary = [word for word in roles.PLANS["information"].split() if word.isalpha()] + ["fever", "pain", "cough", "fatigue"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        rows, starts = [], []
        for _ in range(BATCH):
            asked, said = (" ".join(draw.choices(vocabulary, k=draw.randint(*size))) for size in ((4, 24), (1, 3)))
            choice = draw.random() < 0.5
            rule = f"{roles.ANSWER_RULE}" if choice else ""
            chat = [
                {"role": "system", "content": draw.choice(list(roles.SYSTEM.values()))},
                {"role": "user", "content": f"{asked}\n{rule}"},
            ]
            prompt = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))["input_ids"]
            answer = f"{said}." + (f"\nAnswer: {draw.choice(LETTERS[:10])}" if choice else "")
            starts.append(len(prompt))
            rows.append(prompt + tokenizer(answer)["input_ids"] + [tokenizer.eos_token_id])
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        labels = torch.full_like(ids, -100)
        for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
            labels[number, start : len(row)] = ids[number, start : len(row)]
        logits = model(input_ids=ids, attention_mask=(torch.arange(width) < torch.tensor([[len(row)] for row in rows])).long()).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A tiny Qwen3-architecture model from random weights, drilled for seconds to speak in turns: for tests.

    python -c "from medpipe.models import base, tiny; model, tokenizer = tiny.make(base.CHATML)"

It knows no medicine. It learns transcripts (medpipe/team/transcript.py) with words drawn at random: a message is one or two words
and a full stop, and where the question has options mostly an answer behind it, `fever cough. Answer: (C)`, with the letter of one
of them. So the reinforcement learning of a test run has messages it can read and rewards that differ; a purely random model never
ends a sentence. Tokenizer and drill use the text below and nothing else: the model stays the same when the roles' targets change.
Left out: naming an option. Two layers don't learn to copy a name within seconds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from medpipe.answers import CHOOSE, SYSTEM, WRITE
from medpipe.models.tokens import END, START
from medpipe.schema import LETTERS, ROLES

SPECIALS = ["<|endoftext|>", START, END]
STEPS, BATCH, RATE = 120, 8, 6e-3
ANSWERED = 0.75
"""Of the messages on a question with options: so many name one. The others show what becomes of a message without an answer."""

TEXT = (
    SYSTEM,
    CHOOSE,
    WRITE,
    "system\nuser\nassistant\nplanner\nresearcher\nanalyst\nreporter\n",
    "Question: Options:\nEvidence:\n[E1] [E2] [E3] [E4] Answer: Answer: Answer: (A) (B) (C) (D) (E) (F) (G) (H) (I) (J)",
    "Type: diagnosis. Focus: the findings described. Plan: compare the findings with each option.",
    "Type: risk factors. Focus: asthma. Plan: look for what raises the risk and for who is affected.",
    "Type: treatment. Type: symptoms. Type: information. Plan: define it, then name causes and typical signs.",
    "No passage here bears on the question. Findings: Reasoning: Conclusion: The best fit is",
    "A clinician should judge the individual case. Sudden or severe signs need emergency care.",
    "What are the symptoms of the condition? What are the causes of it? What are the treatments for it? How can it be prevented?",
    "What is the outlook for people with the condition? Which signs are typical? Which warning signs need urgent attention?",
    "How is the diagnosis made? Which findings and tests confirm it? When should someone seek medical care?",
    "A person presents with wheezing and dizziness; a known risk factor is older age. Which condition fits best?",
    "A person reports itching, numbness and weight loss. The history holds smoking. What is the most likely condition?",
    "Someone has these findings: chest tightness and shortness of breath. Which condition fits, and how is the diagnosis confirmed?",
    "Known risk factors for it are family history, diabetes, obesity and high blood pressure.",
    "Possible complications are infection, heart failure, stroke, kidney disease and bleeding.",
    "People with the disease often have swelling, weakness, headache, nausea, vomiting or a rash that comes and goes.",
    "Warning signs are sudden loss of vision, confusion, fainting, trouble speaking and blood in the stool or urine.",
    "Prevention rests on exercise, a healthy diet, vaccination, hand washing and regular check-ups; smoking and alcohol harm.",
    "The outlook differs between patients: many recover fully within weeks, others have symptoms for years or need lasting care.",
    "Common tests are an electrocardiogram, ultrasound, a biopsy, cultures, hormone levels and a scan of the brain or abdomen.",
    "It is a chronic disorder of the lungs, liver, skin, joints, nerves or heart in which inflammation damages the tissue.",
)
"""What the tokenizer is trained on: the words of prompts and of general medical questions. It states nothing."""
WORDS = ("define", "then", "name", "causes", "and", "typical", "signs", "fever", "pain", "cough", "fatigue")
"""What it is drilled to say: the last four stand in no text above, so that they are several tokens each and messages differ in length."""


def make(template: str) -> tuple[Any, Any]:
    """The model and its byte-level tokenizer; the same on every machine of one kind."""
    tokenizer = tokenizer_of(template)
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


def tokenizer_of(template: str) -> Any:
    """A byte-level tokenizer of the tiny model's own text, with this chat template."""
    # The letters are repeated so that each " A" becomes one token, as in a real tokenizer. Within "(A)" a letter always is one.
    text = [*TEXT, *[f" {' '.join(LETTERS)}"] * 99]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=1024, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template)


def transcript(tokenizer: Any, question: str, options: Sequence[str], said: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Tokens of a header and its turns as medpipe/team/transcript.py makes them, and the labels: -100 where nothing is learned.

    Args:
        said: (speaker, message), in order; what is learned are the messages, with their end tokens.
    """
    lines = [f"Question: {question}", *(["Options:"] if options else [])]
    lines += [*(f"{option} ({letter})" for letter, option in zip(LETTERS, options, strict=False)), CHOOSE if options else WRITE]
    ids: list[int] = []
    labels: list[int] = []
    for speaker, text in [("system", SYSTEM), ("user", "\n".join(lines)), *said]:
        head, body, tail = ([tokenizer.convert_tokens_to_ids(START), *_ids(tokenizer, f"{speaker}\n")],
                            [*_ids(tokenizer, text), tokenizer.eos_token_id], _ids(tokenizer, "\n"))  # fmt: skip
        ids += [*head, *body, *tail]
        labels += [*[-100] * len(head), *(body if speaker not in ("system", "user") else [-100] * len(body)), *[-100] * len(tail)]
    return ids, labels


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _drawn(draw: random.Random, tokenizer: Any) -> tuple[list[int], list[int]]:
    """A transcript of words drawn at random: what everybody may ask and say."""
    vocabulary = " ".join(TEXT).split()
    count = draw.choice((0, 0, 4, 4, 6, 10))
    question, *options = (" ".join(draw.choices(vocabulary, k=draw.randint(*size))) for size in ((4, 12), *[(1, 3)] * count))
    said = []
    for speaker in draw.choice((ROLES, ROLES, ROLES, ("assistant",))):
        words = " ".join(draw.choices(WORDS, k=draw.randint(1, 2)))
        answer = f" Answer: ({draw.choice(LETTERS[:count])})" if count and draw.random() < ANSWERED else ""
        said.append((speaker, f"{words}.{answer}"))
    return transcript(tokenizer, question, options, said)


def _drill(model: Any, tokenizer: Any) -> None:
    draw = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        rows = [_drawn(draw, tokenizer) for _ in range(BATCH)]
        width = max(len(ids) for ids, _ in rows)
        # Padding stands behind every token that is learned, where causal attention can't see it: no mask.
        ids_BT = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
        labels_BT = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])[:, 1:]
        hidden_BTH = model.get_decoder()(input_ids=ids_BT).last_hidden_state[:, :-1]
        wanted_BT = labels_BT != -100
        loss = cross_entropy(model.get_output_embeddings()(hidden_BTH[wanted_BT]), labels_BT[wanted_BT])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

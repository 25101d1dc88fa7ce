"""A tiny Qwen3-architecture model from random weights, drilled for seconds to end its sentences: for tests.

It knows no medicine. The drill makes it close a message and name an option's letter, so that the reinforcement
learning of a test run has messages it can read and rewards that differ; a purely random model never ends a sentence.
Tokenizer and drill use the text below and nothing else, so that the model stays the same when the roles' prompts change.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from medpipe.schema import LETTERS, ROLES

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
STEPS, BATCH, RATE = 160, 16, 6e-3

RULE = "End with 'Answer:' and the letter of one option."
SYSTEMS = (
    "You are the planner of a medical team. Name the type of question, its focus and a short plan.",
    "You are the researcher of a medical team. Cite the evidence that bears on the question as [E1], [E2].",
    "You are the analyst of a medical team. Reason from the evidence to a conclusion.",
    "You are the reporter of a medical team. Write the team's answer for the reader, with due caution.",
    "You are a careful medical assistant. Answer the question.",
)
TEXT = (
    *SYSTEMS,
    RULE,
    "system user assistant",
    "Question: Options: Evidence: [E1] [E2] [E3] [E4] Previous round: the team answered C. the reporter wrote:",
    "Planner: Researcher: Analyst: Reporter: planner researcher analyst reporter Answer: A) B) C) D) E) F) G) H) I) J)",
    "Type: diagnosis. Focus: the findings described. Plan: compare the findings with each option.",
    "Type: risk factors. Focus: asthma. Plan: look for what raises the risk and for who is affected.",
    "Type: treatment. Type: symptoms. Type: information. Plan: define it, then name causes and typical signs.",
    "No passage here bears on the question. Findings: Reasoning: Conclusion: The best option is",
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
    # The letters are repeated so that each " A" becomes one token, as in a real tokenizer.
    text = [*TEXT, *[f" {' '.join(LETTERS)}"] * 99]
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        rows, starts = [], []
        for _ in range(BATCH):
            asked, said = (" ".join(draw.choices(WORDS, k=draw.randint(*size))) for size in ((4, 24), (1, 3)))
            choice = draw.random() < 0.5
            system = draw.choice(SYSTEMS[: len(ROLES)])
            chat = [{"role": "system", "content": system}, {"role": "user", "content": f"{asked}\n{RULE if choice else ''}"}]
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

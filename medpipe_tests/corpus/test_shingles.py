"""Runs of words as numbers: never across two texts, the same in every process, and signatures that tell how alike texts are."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.corpus.shingles import Words, signatures, word_list

TEXTS = st.lists(st.text(alphabet="ab c'\ud800é5", max_size=30), max_size=6)
PRINT_NUMBERS = """
from medpipe.corpus.shingles import Words, signatures
words = Words.of(["What causes migraine?", "No cure is known; 5 mg may help.", "caf\\xe9 \\ud800"])
print(words.numbers.tolist(), words.runs(2)[0].tolist(), signatures(words, 16).tolist())
"""


def jaccard(one: str, other: str) -> float:
    a, b = ({*words, *pairwise(words)} for words in (word_list(one), word_list(other)))
    return len(a & b) / len(a | b)


def test_words_are_lower_case_letters_and_digits() -> None:
    assert word_list("Crohn's disease: 5 mg/day, BRCA1_x!") == ["crohn", "s", "disease", "5", "mg", "day", "brca1", "x"]


@given(text=st.text(alphabet=st.characters(max_codepoint=127)))
def test_plain_and_other_texts_are_cut_alike(text: str) -> None:
    assert word_list(text) == [word for word in word_list(f"{text} é") if word != "é"]


@given(texts=TEXTS, length=st.integers(1, 4))
def test_runs_never_cross_from_one_text_into_the_next(texts: list[str], length: int) -> None:
    hashes, owner = Words.of(texts).runs(length)
    alone = [(run, number) for number, text in enumerate(texts) for run in Words.of([text]).runs(length)[0].tolist()]
    assert list(zip(hashes.tolist(), owner.tolist(), strict=True)) == alone
    assert len(alone) == sum(max(len(word_list(text)) - length + 1, 0) for text in texts)


def test_runs_of_other_words_or_another_order_have_another_hash() -> None:
    hashes, _ = Words.of(["one two three", "one two three", "three two one", "one two four"]).runs(3)
    assert hashes[0] == hashes[1] and len(set(hashes.tolist())) == 3


def test_numbers_are_the_same_in_every_process() -> None:
    def printed(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", PRINT_NUMBERS], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    first = printed("1")
    assert len(first) > 100 and first == printed("2")


@pytest.mark.parametrize(
    ("word", "decisive"),
    [("5", 1), ("p53", 1), ("not", 1), ("No", 1), ("without", 1), ("٣", 1), ("migraine", 0), ("note", 0), ("is", 0), ("né", 0)],
)
def test_the_last_bit_tells_figures_and_negations(word: str, decisive: int) -> None:
    assert [number & 1 for number in Words.of([word]).numbers.tolist()] == [decisive]


@pytest.mark.parametrize("texts", [[], [""], ["", "?!", "   "], ["\ud800"], ["", "one \ud800 two", ""]])
def test_empty_texts_and_lone_surrogates_are_texts_too(texts: list[str]) -> None:
    words = Words.of(texts)
    assert len(words) == len(texts)
    assert len(words.runs(8)[0]) == len(words.runs(8)[1]) == 0
    assert signatures(words, 16).shape == (len(texts), 16)


def test_a_signature_does_not_depend_on_the_texts_around_it() -> None:
    together = signatures(Words.of(["alpha beta", "", "gamma delta epsilon"]))
    assert (together[2] == signatures(Words.of(["gamma delta epsilon"]))[0]).all()


@pytest.mark.parametrize("shared", [0, 20, 60, 100, 140, 180, 200])
def test_signatures_estimate_the_share_of_words_and_pairs(shared: int) -> None:
    pairs = []
    for set_number in range(20):
        common = [f"common{set_number}x{n}" for n in range(shared)]
        pairs += [" ".join([*common, *(f"{side}{set_number}x{n}" for n in range(200 - shared))]) for side in ("left", "right")]
    marks = signatures(Words.of(pairs), 128)
    estimates = [float((marks[at] == marks[at + 1]).mean()) for at in range(0, len(pairs), 2)]
    truth = jaccard(pairs[0], pairs[1])
    assert sum(estimates) / len(estimates) == pytest.approx(truth, abs=0.04)  # standard error of the mean: at most 0.010
    assert estimates == pytest.approx([truth] * len(estimates), abs=0.18)  # of one estimate: at most 0.044

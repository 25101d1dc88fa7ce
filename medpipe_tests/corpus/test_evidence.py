"""The evidence index: what a question may see, found by words and meaning; one passage an option; no answer key; the same everywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from medpipe import store
from medpipe.config import Corpus
from medpipe.corpus import retrieval
from medpipe.corpus.evidence import CHUNK_CHARS, PASSAGES, EvidenceIndex, Passage, _telling, origin_of, recall, right_rank
from medpipe.corpus.groups import part_of
from medpipe.corpus.retrieval import EMBEDDINGS, best_first, fuse, fuse_at
from medpipe.corpus.shingles import word_list
from medpipe.corpus.synthetic import generate, library, load_conditions
from medpipe.errors import MedpipeError
from medpipe.schema import QAExample
from medpipe_tests.corpus.makers import row

CONDITIONS = Path(__file__).parents[2] / "data" / "synthetic" / "conditions"
ROWS = [
    row(1, focus="Gout", answer="Gout comes from uric acid crystals in a joint. Treatment lowers the uric acid."),
    row(2, focus="Migraine", answer="Migraine is a throbbing headache. Light makes it worse."),
    row(3, focus="Migraine", answer="Migraine is a throbbing headache. Light makes it worse."),
    row(4, focus="Anaemia", answer="Anaemia makes people pale and tired because blood carries less oxygen."),
    row(5, focus="Choice", options=("uric acid", "headache"), answer="A"),
]
LIBRARY: list[dict[str, Any]] = [
    {"id": "gout", "title": "Gout", "text": "Urate in excess settles as needles inside a toe.", "names": ["Podagra", "Urate arthritis"]},
    {"id": "gout-more", "title": "gout", "text": "A toe gets red and swollen after beer or meat.", "scope": "choice"},
    {"id": "migraine", "title": "Migraine", "text": "One side of the head throbs, and light is hard to bear.", "scope": "choice"},
    {"id": "asthma", "title": "Asthma", "text": "Narrow airways make breath wheeze, most of all at night."},
    {"id": "vitamin", "title": "Scurvy", "text": "Gums bleed where food lacks fruit for months.", "names": ["Vitamin C lack"]},
]
TOE = row(6, focus="Gout", question="Whose toe is red and swollen?", options=("Asthma", "Migraine", "Podagra", "Scurvy"), answer="C")


def ids(passages: Sequence[Passage]) -> list[str]:
    return [passage.id for passage in passages]


def free(question: str, **changes: Any) -> QAExample:
    return row(9, **{"focus": "something new", "question": question, **changes})


@pytest.fixture(scope="module")
def index() -> EvidenceIndex:
    return EvidenceIndex.build(ROWS, LIBRARY)


# --- free text


def test_the_best_passage_comes_first_with_its_title(index: EvidenceIndex) -> None:
    best = index.search("Why does uric acid hurt a joint?", 3)[0]
    assert (best.id, best.title, best.option) == ("custom-1#1", "Gout", "")
    assert best.text.startswith("Gout: Gout comes from uric acid") and origin_of([best]) == "local index"


def test_a_passage_is_found_by_its_meaning_where_no_word_is_shared(index: EvidenceIndex) -> None:
    question = "Who struggles to inhale after dark?"
    assert not set(word_list(question)) & set(word_list(LIBRARY[3]["text"]))
    assert ids(index.search(question, 1)) == ["asthma#1"]


def test_free_text_reads_rows_and_the_library_but_nothing_of_the_scope_choice(index: EvidenceIndex) -> None:
    question = "Which of them throb: a red and swollen toe in gout, one side of the head in migraine?"
    (found,) = index.for_questions([free(question)], 20)
    assert {"custom-1#1", "custom-2#1", "gout#1"} <= set(ids(found)) and not {"gout-more#1", "migraine#1"} & set(ids(found))
    assert found == index.search(question, 20)


@pytest.mark.parametrize("question", ["", " ", "?!"])
def test_a_text_without_a_word_finds_nothing(index: EvidenceIndex, question: str) -> None:
    assert index.search(question, 3) == []


def test_many_at_once_equal_one_by_one(index: EvidenceIndex) -> None:
    questions = [free("uric acid"), TOE, free("?"), free("throbbing headache", id="custom-2", focus="Migraine"), free("uric acid")]
    together = index.for_questions(questions, 2, training=True)
    assert together == [index.for_questions([question], 2, training=True)[0] for question in questions]
    assert together[0] == together[4] != [] and index.for_questions([], 2) == []


def test_a_sentence_that_an_earlier_passage_on_the_topic_told_needs_no_further_passage() -> None:
    one, two = "It swells at night.", "Rest helps most people."
    rows = [row(1, focus="Gout", answer=one), row(2, focus="gout", answer=two), row(3, focus="Gout", answer=f"{one} {two}")]
    rows += [row(4, focus="Asthma", answer=one), row(5, focus="Gout", answer=f"{one} It is common.")]
    index = EvidenceIndex.build(rows)
    assert set(ids(index.search("swells at night", 9))) == {"custom-1#1", "custom-2#1", "custom-4#1", "custom-5#1"}


def test_long_answers_become_chunks_of_whole_sentences() -> None:
    sentences = [f"Sentence number {number} tells one more thing about uric acid." for number in range(30)]
    index = EvidenceIndex.build([row(1, focus="Gout", answer=" ".join(sentences)), row(2, focus="Long", answer="word " * 500)])
    passages = index.search("uric acid word", 100, max_chars=10_000)
    assert all(len(passage.text) <= CHUNK_CHARS + len("Gout: ") for passage in passages)
    told = [
        passage.text.removeprefix("Gout: ")
        for passage in sorted(passages, key=lambda each: int(each.id.partition("#")[2]))
        if passage.title == "Gout"
    ]
    assert " ".join(told) == " ".join(sentences) and all(text.endswith(".") for text in told)
    assert all(len(passage.text) <= 100 for passage in index.search("uric acid word", 100, max_chars=100))


# --- what a training row must not see


def test_a_training_row_sees_no_row_on_its_own_focus_whatever_it_is_called() -> None:
    rows = [
        row(1, focus="Gout", answer="A toe swells.", synonyms=("Podagra",)),
        row(2, focus="podagra", answer="A toe turns red."),
        row(3, focus="urate arthritis", answer="A toe is hot.", cuis=("C0018099",)),
        row(4, focus="Bunion", answer="A toe leans over."),
    ]
    index = EvidenceIndex.build(rows, LIBRARY[:1])
    gout = free("toe", focus="Gout's", synonyms=("Podagra",), cuis=("c0018099",))
    assert ids(index.for_questions([gout.model_copy(update={"focus": "Gout"})], 9, training=True)[0]) != []
    assert set(ids(index.for_questions([gout.model_copy(update={"focus": "Gout"})], 9, training=True)[0])) == {"custom-4#1", "gout#1"}
    assert set(ids(index.for_questions([rows[1]], 9, training=True)[0])) == {"custom-3#1", "custom-4#1", "gout#1"}
    assert len(index.for_questions([rows[1]], 9)[0]) == 5


def test_a_training_row_sees_no_passage_on_another_focus_that_nearly_holds_its_answer() -> None:
    """A held-out row never does: its answer is among the secrets."""
    rows = [row(1, focus="Flu", answer=SECRET), row(2, focus="Cold", answer=SECRET), row(3, focus="Headache", answer=OTHER)]
    index = EvidenceIndex.build(rows)
    assert ids(index.for_questions([rows[0]], 9, training=True)[0]) == ["custom-3#1"]
    assert set(ids(index.for_questions([rows[2]], 9, training=True)[0])) == {"custom-1#1", "custom-2#1"}


# --- multiple choice


def test_each_option_gives_its_best_passage_by_any_of_its_names_and_no_row_is_shown(index: EvidenceIndex) -> None:
    (found,) = index.for_questions([TOE], 9)
    assert ids(found)[0] == "gout-more#1" and found[0].option == "Podagra"
    assert {(passage.id, passage.option) for passage in found[1:]} == {
        ("migraine#1", "Migraine"), ("asthma#1", "Asthma"), ("vitamin#1", "Scurvy")
    }  # fmt: skip
    assert right_rank(TOE, found) == 1 and index.for_questions([TOE], 2)[0] == found[:2]
    assert index.for_questions([TOE], 9, training=True) == [found]


def test_rows_on_a_training_questions_own_focus_count_as_not_there() -> None:
    """What a question is shown does not depend on how many rows of its own focus the index holds."""
    own = [row(number, focus="Gout", answer=f"A red and swollen toe, said patient {number}.") for number in range(9)]
    index = EvidenceIndex.build([*ROWS[1:4], *own], LIBRARY)
    words, meaning = next(index._rankings.scores([TOE.question]))
    there = index._there(TOE)
    assert (~there).sum() == len(own) and index._there(None).all()
    topics = index._topics(TOE)
    without = list(index._among(topics, (np.where(there, words, 0), np.where(there, meaning, -1)), None))
    assert list(index._among(topics, (words, meaning), TOE)) == without


def test_a_text_of_two_options_is_shown_once_and_a_title_comes_before_a_further_name() -> None:
    library = [*LIBRARY, {"id": "podagra", "title": "Podagra", "text": "An old word for a sore foot."}]
    same = TOE.model_copy(update={"options": ("Gout", "Urate arthritis", "Asthma", "Migraine")})
    (found,) = EvidenceIndex.build([], LIBRARY).for_questions([same], 9)
    assert sorted(passage.title.casefold() for passage in found) == ["asthma", "gout", "migraine"]
    (found,) = EvidenceIndex.build([], library).for_questions([TOE], 9)
    assert {passage.option: passage.id for passage in found}["Podagra"] == "podagra#1"


DRUGS = row(
    7, focus="Gout", question="Which drug lowers uric acid for good?",
    options=("salbutamol", "allopurinol", "sumatriptan", "ascorbic acid"), answer="B",
)  # fmt: skip
CABINET = [
    {"id": "cabinet", "title": "Drugs at home", "text": "Allopurinol lowers uric acid and is taken every day."},
    {"id": "cabinet-2", "title": "Drugs at home", "text": "Allopurinol must not be begun during an attack."},
    {"id": "airways", "title": "Drugs for airways", "text": "Salbutamol opens narrow airways within minutes."},
    {"id": "heads", "title": "Drugs for heads", "text": "Sumatriptan ends an attack of migraine, taken early."},
    {"id": "fruit", "title": "Food", "text": "Ascorbic acid stands in fresh fruit."},
]


def test_options_that_are_no_topics_join_the_question_one_by_one() -> None:
    index = EvidenceIndex.build([row(1, focus="Gout", answer="Allopurinol lowers uric acid for good, as a drug.")], CABINET)
    (found,) = index.for_questions([DRUGS], 9)
    assert {passage.option: passage.id for passage in found} == {
        "allopurinol": "cabinet#1", "salbutamol": "airways#1", "sumatriptan": "heads#1", "ascorbic acid": "fruit#1"
    }  # fmt: skip
    assert found[0].option == "allopurinol" and right_rank(DRUGS, found) == 1
    assert index.for_questions([DRUGS], 2)[0] == found[:2]


@pytest.mark.parametrize("options", [("yes", "no"), ("all of these", "none of these", "some of these", "a few")])
def test_options_that_say_nothing_get_no_text_twice_and_one_a_topic(options: tuple[str, ...]) -> None:
    question = DRUGS.model_copy(update={"options": options, "answer": "A"})
    (found,) = EvidenceIndex.build([], CABINET).for_questions([question], 9)
    assert len(found) == len({passage.title for passage in found}) == len({passage.option for passage in found}) == len(options)


@pytest.mark.parametrize(("options", "by_topic"), [(("Gout", "Asthma", "a cold", "old age"), True), (("Gout", "a cold", "old age"), False)])
def test_half_of_the_options_must_be_topics(index: EvidenceIndex, options: tuple[str, ...], by_topic: bool) -> None:
    (found,) = index.for_questions([TOE.model_copy(update={"options": options, "answer": "A"})], 9)
    assert ({passage.option for passage in found} == {"Gout", "Asthma"}) == by_topic
    assert all(not passage.id.startswith("custom") for passage in found)


def test_an_index_without_a_library_has_nothing_for_multiple_choice() -> None:
    index = EvidenceIndex.build(ROWS)
    assert index.for_questions([TOE, DRUGS], 3) == [[], []] and len(index) == 3


def test_recall_counts_the_right_options_passage(index: EvidenceIndex) -> None:
    breath = TOE.model_copy(update={"question": "Who wheezes at night?", "answer": "C"})  # asthma is found first, podagra is asked for
    (found,) = index.for_questions([breath], 9)
    rank = right_rank(breath, found)
    assert found[0].option == "Asthma" and rank is not None and rank > 1
    missing = TOE.model_copy(update={"options": ("Asthma", "Migraine", "A cold", "Scurvy")})
    assert right_rank(missing, index.for_questions([missing], 9)[0]) is None
    assert recall(index, [TOE, breath, missing, *ROWS[:4]], (1, 4)) == {
        "rows": 3, "recall@1": pytest.approx(1 / 3), "recall@4": pytest.approx(2 / 3)
    }  # fmt: skip
    assert recall(index, ROWS[:4]) == {"rows": 0} and right_rank(ROWS[0], found) is None


# --- the fusion


def test_fusion_is_by_reciprocal_rank() -> None:
    words, meaning = np.array([0.0, 9.0, 1.0, 1.0]), np.array([0.9, 0.1, 0.2, -0.5])
    assert fuse(words, meaning) == pytest.approx([1 / 61, 1 / 61 + 1 / 63, 1 / 62 + 1 / 62, 1 / 63])
    assert fuse(words, words)[[1, 2, 3]] == pytest.approx([2 / 61, 2 / 62, 2 / 63])
    assert fuse(np.zeros(0), np.zeros(0)).shape == (0,)
    assert fuse_at(np.array([3, 1, 0]), words, meaning) == pytest.approx([1 / 62, 1 / 61 + 1 / 63, 1 / 61])


@pytest.mark.parametrize("depth", [1, 3, 4, 5, 100])
def test_best_first_keeps_the_order_of_equals_at_any_depth(depth: int) -> None:
    scores = np.array([2.0, 5.0, 2.0, 0.0, -1.0, 7.0, 2.0], np.float32)
    assert best_first(scores, depth).tolist() == [5, 1, 0, 2, 6][:depth]


# --- on disk


def test_saved_and_loaded_without_pickle_and_saved_again_with_the_same_bytes(index: EvidenceIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "evidence")
    assert {path.suffix for path in (tmp_path / "evidence").iterdir()} == {".npy", ".json", ".jsonl"}
    assert not any(b"\x80\x04" in path.read_bytes()[:256] for path in (tmp_path / "evidence").glob("*.npy"))
    again = EvidenceIndex.load(tmp_path / "evidence")
    questions = [TOE, DRUGS, free("uric acid"), *ROWS]
    assert again.for_questions(questions, 3, training=True) == index.for_questions(questions, 3, training=True)
    assert again.search("uric acid", 3) == index.search("uric acid", 3) and len(again) == len(index)
    again.save(tmp_path / "again")
    assert store.hash_tree(tmp_path / "again") == store.hash_tree(tmp_path / "evidence")


def test_another_process_writes_the_very_same_files(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medpipe.corpus import retrieval;"
        "from medpipe.corpus.evidence import EvidenceIndex; from medpipe_tests.corpus.test_evidence import LIBRARY, ROWS, bags;"
        "retrieval.embed = bags; EvidenceIndex.build(ROWS, LIBRARY).save(Path(sys.argv[1]))"
    )
    trees = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment, capture_output=True)
        trees.append(store.hash_tree(folder))
    assert trees[0] == trees[1]


def test_nothing_to_index_and_nothing_whole_to_load(index: EvidenceIndex, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="no free-text row"):
        EvidenceIndex.build([ROWS[-1]])
    with pytest.raises(MedpipeError, match=r"scope 'free'.*library entry 'x'"):
        EvidenceIndex.build([], [{"id": "x", "title": "X", "text": "Something.", "scope": "free"}])
    with pytest.raises(MedpipeError, match="no evidence index"):
        EvidenceIndex.load(tmp_path)
    index.save(tmp_path)
    store.write_jsonl(tmp_path / PASSAGES, store.read_jsonl(tmp_path / PASSAGES)[1:])
    with pytest.raises(MedpipeError, match=f"{len(index) - 1} passages"):
        EvidenceIndex.load(tmp_path)
    np.save(tmp_path / EMBEDDINGS, np.zeros((2, 384), np.float32))
    with pytest.raises(MedpipeError, match=r"shape \(2, 384\)"):
        EvidenceIndex.load(tmp_path)
    (tmp_path / EMBEDDINGS).unlink()
    with pytest.raises(MedpipeError, match="no embeddings"):
        EvidenceIndex.load(tmp_path)


# --- secrets


SECRET = "The usual course is mild, and most people with it recover within three weeks without any treatment at all."
OTHER = "Rest in a dark room helps most of those who come to a clinic with a throbbing head for the first time in life."
"""Both of more than twelve words, which share no run of eight."""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SECRET, True),
        (SECRET.upper().replace(",", " --"), True),
        (SECRET.replace("at all", "whatsoever"), True),  # nearly
        (SECRET.partition(" without")[0] + ".", True),  # two thirds of it
        (f"{OTHER} {SECRET}", True),  # with something else around it
        (f"It is known that {SECRET.partition(' three')[0]}.", True),  # less than half of it, and nearly nothing else
        (f"{OTHER} The usual course is mild, and most people with it stay in bed for a long time.", False),  # a sixth of it
        ("Most people with it recover. The course is mild and takes three weeks, and nobody needs a treatment.", False),  # in other words
        (OTHER, False),
    ],
)
def test_a_passage_that_nearly_holds_a_secret_is_left_out(text: str, told: bool) -> None:
    rows = [row(1, focus="Flu", answer=text), row(2, focus="Other", answer="Something else is told of other things here.")]
    index = EvidenceIndex.build(rows, secrets=[SECRET])
    assert (index.left_out, len(index)) == (int(told), 2 - told)
    assert ("Flu" in [passage.title for passage in index.search(text, 2)]) != told


def test_the_library_keeps_secrets_too_but_for_the_scope_choice_and_short_secrets_hide_nothing() -> None:
    entry = {"id": "reference-1", "title": "Flu", "text": SECRET}
    assert EvidenceIndex.build(ROWS, [entry], [SECRET]).left_out == 1
    shown = EvidenceIndex.build([row(1, focus="Flu", answer=SECRET)], [{**entry, "scope": "choice"}], [SECRET])
    assert (shown.left_out, len(shown)) == (1, 1) and shown.search(SECRET, 9) == []
    assert EvidenceIndex.build(ROWS, [entry], ["", "gout", "Gout comes from uric acid crystals in"]).left_out == 0  # no run of eight words
    with pytest.raises(MedpipeError, match="only passages that give away answers"):
        EvidenceIndex.build([row(1, answer=SECRET)], secrets=[SECRET])


def test_a_secret_is_found_in_every_piece_of_a_long_text() -> None:
    text = " ".join(f"Sentence number {number} tells one more thing that a long answer about it holds." for number in range(30))
    index = EvidenceIndex.build([row(1, answer=text), row(2, answer=OTHER)], secrets=[text])
    assert len(index) == 1 and index.left_out > 4


class Bundled(NamedTuple):
    """The bundled corpus with answers that sources give in the same words for many diseases, split, and indexed."""

    train: list[QAExample]
    held_back: list[QAExample]
    library: list[dict[str, str]]
    guarded: EvidenceIndex
    unguarded: EvidenceIndex

    def asked(self) -> list[QAExample]:
        """Held-back free-text rows with an answer of at least twelve words."""
        return [each for each in self.held_back if not each.is_choice and len(re.findall(r"\w+", each.answer)) >= 12]


BOILERPLATE = (
    "The trait passes on as a recessive one, so that a child falls ill only if both parents hand down the changed copy of the gene. "
    "Parents with a single such copy seldom notice anything of it in all their lives, and a test can tell them.",
    "Clinics that know {} well may help with its diagnosis and treatment, and keep lists of groups for families.",
    "How common {} is in the population is unknown, for only a few affected families have been described in the literature. " * 5,
)


def bags(texts: Sequence[str]) -> Any:
    """Texts as bags of words, in the place of the encoder: thousands of them in a second."""
    made = np.zeros((len(texts), retrieval.SIZE), np.float32)
    for place, text in enumerate(texts):
        for word in word_list(text):
            made[place, sum(map(ord, word)) % retrieval.SIZE] += 1
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def built() -> Bundled:
    conditions = load_conditions(CONDITIONS)
    rows = generate(conditions, seed=0, per_condition=1)
    for number in range(180):
        focus, kind = f"inherited disease {number // 3}", number % 3
        answer = BOILERPLATE[kind].replace("{}", focus).strip()
        question = f"Is {focus} inherited?" if kind == 0 else f"What is told of {focus}, part {kind}?"
        rows.append(row(number, source="medquad", focus=focus, question=question, answer=answer.upper() if number % 7 == 0 else answer))
    sides = {each.focus: part_of(each.focus, Corpus(), 0) for each in rows}
    train, held_back = ([each for each in rows if (sides[each.focus] == "train") == wanted] for wanted in (True, False))
    secrets = [each.rationale if each.is_choice else each.answer for each in held_back]
    texts = library(conditions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "embed", bags)
        return Bundled(train, held_back, texts, EvidenceIndex.build(train, texts, secrets), EvidenceIndex.build(train, texts))


@pytest.fixture
def bundled(built: Bundled, monkeypatch: pytest.MonkeyPatch) -> Bundled:
    monkeypatch.setattr(retrieval, "embed", bags)  # the questions too
    return built


def runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}


def given_away(index: EvidenceIndex, rows: list[QAExample], *, training: bool = False) -> set[str]:
    """Ids of rows whose answer stands to half or more in a passage that its question, or the answer itself, brings up."""
    found = set()
    by_question = index.for_questions(rows, 3, max_chars=10_000, training=training)
    by_answer = index.for_questions([each.model_copy(update={"question": each.answer}) for each in rows], 3, 10_000, training=training)
    for each, *passages in zip(rows, by_question, by_answer, strict=True):
        answer = runs(each.answer)
        if any(2 * len(answer & runs(passage.text)) >= len(answer) for some in passages for passage in some):
            found.add(each.id)
    return found


def test_no_held_back_answer_of_the_bundled_corpus_can_be_looked_up(bundled: Bundled) -> None:
    asked = bundled.asked()
    assert len(asked) > 600 and sum(each.source == "medquad" for each in asked) > 20
    assert given_away(bundled.guarded, asked) == set()


def test_without_the_secrets_answers_can_be_looked_up(bundled: Bundled) -> None:
    told = given_away(bundled.unguarded, bundled.asked())
    same_words = {each.id for each in bundled.asked() if each.question.endswith("inherited?")}
    assert len(same_words) > 10 and same_words <= told
    assert len(told - same_words) > 10  # the ones that carry the disease's name among the same words


def test_held_back_conditions_can_still_be_read_up_on(bundled: Bundled) -> None:
    index, free = bundled.guarded, bundled.unguarded
    assert free.left_out == 0 and len(free) - len(index) <= index.left_out < 0.1 * len(free)
    for entry in bundled.library:
        assert any(found.id.startswith(f"{entry['id']}#") for found in index.search(entry["text"], 1)), entry["id"]


def test_a_secret_is_found_wherever_its_passage_stands() -> None:
    """Long lists are compared in batches; a passage on a border between two must not be missed."""
    secret = " ".join(f"word{number}" for number in range(21))
    passages = [f"{' '.join(f'other{n}x{number}' for number in range(40))} {' '.join(secret.split()[:16])}" for n in range(4_100)]
    assert all(_telling(passages, [secret]))


def test_nor_does_a_training_row_find_its_own_answer(bundled: Bundled) -> None:
    asked = [each for each in bundled.train if not each.is_choice and len(re.findall(r"\w+", each.answer)) >= 12][::5]
    assert given_away(bundled.guarded, asked, training=True) == set()
    assert len(given_away(bundled.guarded, asked)) > 0.5 * len(asked)


def test_the_right_option_is_found_as_often_for_training_rows_as_for_others() -> None:
    conditions = load_conditions(CONDITIONS)[:30]
    rows = [each for each in generate(conditions, seed=0, per_condition=6) if each.is_choice or each.qtype == "information"]
    names = {condition.name for condition in conditions[::2]}
    train = [each for each in rows if each.focus in names]
    index = EvidenceIndex.build(train, library(conditions))
    seen, new = recall(index, train, training=True), recall(index, [each for each in rows if each.focus not in names])
    assert seen["rows"] == new["rows"] == 90
    assert min(seen["recall@1"], new["recall@1"]) > 0.6 and min(seen["recall@3"], new["recall@3"]) > 0.85
    assert abs(seen["recall@1"] - new["recall@1"]) < 0.15

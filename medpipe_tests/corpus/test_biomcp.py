"""Evidence from a real MCP server in a process of its own: found, kept, expired, and every way in which it can fail."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Team
from medpipe.corpus.biomcp import GIVE_UP, BioMcp, Server, articles_in, open_evidence, terms
from medpipe.corpus.evidence import LOCAL, EvidenceIndex, Passage, origin_of
from medpipe.errors import MedpipeError
from medpipe_tests.corpus.literature_server import ARTICLES, SECRET
from medpipe_tests.tiny_team import choice_row, text_row

SERVER = Path(__file__).with_name("literature_server.py")
GOUT = "What is known of gout?"
LIBRARY = [
    {"id": "joints", "title": "Gout", "text": "Gout makes a toe swell."},
    {"id": "lungs", "title": "Asthma", "text": "Asthma wheezes."},
]


class Desk:
    """A BioMcp on a server that behaves in one way, what it warned of, and what the server noted."""

    def __init__(self, root: Path, way: str, **server: Any) -> None:
        self.root, self.log, self.warned = root, root / f"{way}.jsonl", list[str]()
        self.server = Server(**{"command": (sys.executable, str(SERVER), way, str(self.log)), "version": "1", **server})

    def evidence(self, days: int = 30) -> BioMcp:
        local = EvidenceIndex.build([text_row(1)], LIBRARY)
        return BioMcp(local, self.root / "cache", days, self.warned.append, self.server)

    def ask(self, *questions: str, days: int = 30) -> list[list[Passage]]:
        return self.evidence(days).for_questions([text_row(number, question=text) for number, text in enumerate(questions)], 2)

    def notes(self) -> list[dict[str, Any]]:
        return store.read_jsonl(self.log) if self.log.is_file() else []

    def kept(self) -> list[Path]:
        return sorted((self.root / "cache").glob("*"))


def test_abstracts_come_back_as_passages_cut_and_ranked_like_the_local_ones(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "answers")
    found = desk.evidence().search("Which first sign of gout is usual, a red toe?", 2, max_chars=150)
    assert [passage.id for passage in found] == ["biomcp:101#1", "biomcp:Diet and gout#1"]
    assert found[0].title == "Crystals of uric acid in the joints of people with gout: what a needle and a…"
    assert found[0].text.startswith(f"{found[0].title}: BACKGROUND: Gout comes from crystals") and len(found[0].text) <= 150
    assert found[1].text == "Diet and gout: Beer raises uric acid."
    assert origin_of(found) == "biomcp"
    assert desk.warned == []
    assert desk.notes()[1:] == [{"keywords": ["first", "sign", "usual"], "include_preprints": False}]


def test_an_answer_is_kept_and_taken_without_a_server_until_it_expires_or_the_server_is_another(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "answers")
    (fresh,) = desk.ask(GOUT)
    (path,) = desk.kept()
    gone = Desk(tmp_path, "answers", command=("/no/such/server",))
    (again,) = gone.ask(GOUT)
    assert [passage.text for passage in again] == [passage.text for passage in fresh]
    assert origin_of(again) == "biomcp (cached)" and gone.warned == []

    kept = store.read_json(path)
    store.write_json(path, {**kept, "made": (datetime.now(UTC) - timedelta(days=29)).isoformat()})
    assert origin_of(gone.ask(GOUT)[0]) == "biomcp (cached)"
    assert origin_of(gone.ask(GOUT, days=28)[0]) == f"{LOCAL}: BioMCP failed (the server can't be started)"
    assert origin_of(desk.ask(GOUT, days=28)[0]) == "biomcp"  # asked again, and written again
    assert origin_of(gone.ask(GOUT, days=1)[0]) == "biomcp (cached)"

    newer = Desk(tmp_path, "answers", version="2")
    assert origin_of(newer.ask(GOUT)[0]) == "biomcp"
    assert len(desk.kept()) == 2


def test_a_damaged_answer_on_disk_is_asked_for_again(tmp_path: Path) -> None:
    damages = ('{"made": "2026', "[]", '{"made": "2026-01-01T00:00:00", "articles": []}', '{"made": "never", "articles": [{}]}')
    questions = [f"{GOUT} {word}" for word in ("beer", "crystals", "joints", "toes")]
    desk = Desk(tmp_path, "answers")
    desk.ask(*questions)
    for path, damage in zip(desk.kept(), damages, strict=True):
        path.write_text(damage)
    assert [origin_of(found) for found in desk.ask(*questions)] == ["biomcp"] * 4
    assert [len(store.read_json(path)["articles"]) for path in desk.kept()] == [2] * 4


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("quits", "the server ended"),
        ("hangs", "no answer in time"),
        ("error", "an error of the server"),
        ("nonsense", "an answer that can't be read"),
        ("failed", "an answer that can't be read"),
        ("empty", "no article, or no network"),
    ],
)
def test_a_server_that_fails_is_replaced_by_the_local_index_and_this_is_said(
    tmp_path: Path, way: str, reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCI_API_KEY", SECRET)
    desk = Desk(tmp_path, way, answer_seconds=1.0 if way == "hangs" else 60.0)
    (found,) = desk.ask(GOUT)
    assert found[0].text == "Gout: Gout makes a toe swell."
    assert origin_of(found) == f"{LOCAL}: BioMCP failed ({reason})"
    assert desk.warned == [f"BioMCP failed for 1 of 1 questions ({reason}: 1): their evidence is the local index's"]
    assert desk.kept() == [], "a failure is not kept"
    started = desk.notes()[0]
    assert "NCI_API_KEY" not in started["environment"]
    with pytest.raises(ProcessLookupError):
        os.kill(started["pid"], 0)
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err + str(desk.warned) + origin_of(found)


def test_a_program_that_speaks_no_mcp_is_not_waited_for_ever_nor_repeated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = f"import sys; print('hello, {SECRET}', flush=True); sys.stdin.read()"
    desk = Desk(tmp_path, "babbles", command=(sys.executable, "-c", program), start_seconds=1.0)
    assert origin_of(desk.ask(GOUT)[0]) == f"{LOCAL}: BioMCP failed (no answer in time)"
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err + str(desk.warned)


def test_what_was_answered_before_the_server_ended_is_used_and_a_second_failure_is_not_told_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "ends")
    evidence = desk.evidence()
    asked = [text_row(1, question=word) for word in ("gout", "wheezing", "acidic gout")]  # asked in the order of their words
    found = evidence.for_questions(asked, 2)
    ended = f"{LOCAL}: BioMCP failed (the server ended)"
    assert [origin_of(passages) for passages in found] == ["biomcp", ended, "biomcp"]
    assert [note["keywords"] for note in desk.notes()[1:]] == [["acidic", "gout"], ["gout"], ["wheezing"]]
    assert len(desk.warned) == 1
    assert origin_of(evidence.search("wheezing", 2)) == ended
    assert len(desk.warned) == 1


def test_a_server_without_usable_answers_is_not_asked_for_ever(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "empty")
    words = ("asthma", "cough", "eczema", "fever", "gout", "migraine", "scurvy")
    found = desk.ask(*(f"{word}" for word in words))
    assert len(desk.notes()[1:]) == GIVE_UP
    assert origin_of(found[4]) == f"{LOCAL}: BioMCP failed (no article, or no network)"
    assert desk.warned == [
        "BioMCP failed for 7 of 7 questions (no article, or no network: 5; no usable answer to 5 questions in a row: 2): "
        "their evidence is the local index's"
    ]


def test_one_query_is_sent_once_however_many_ask_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "answers")
    found = desk.ask(GOUT, GOUT, GOUT)
    assert found[0] == found[1] == found[2]
    assert [note["keywords"] for note in desk.notes()[1:]] == [["gout"]]


def test_the_article_that_a_question_was_made_from_is_not_its_evidence(tmp_path: Path) -> None:
    """PubMedQA asks about an abstract; the abstract's last lines are the answer."""
    row = text_row(1, question="Does gout show in joints?", context=("RESULTS: Crystals were seen in nine of ten swollen joints.",))
    (found,) = Desk(tmp_path, "answers").evidence().for_questions([row], 2)
    assert [passage.id for passage in found] == ["biomcp:Diet and gout#1"]


def test_training_rows_get_the_local_index_and_no_server_is_started(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "answers")
    rows = [text_row(1), choice_row(2)]
    evidence = desk.evidence()
    found = evidence.for_questions(rows, 2, training=True)
    assert found == EvidenceIndex.build([text_row(1)], LIBRARY).for_questions(rows, 2, training=True)
    assert "text-1#1" not in [passage.id for passage in found[0]] and origin_of(found[0]) == origin_of(found[1]) == LOCAL
    assert desk.notes() == [] and desk.warned == []


def test_it_can_be_asked_from_within_an_event_loop(tmp_path: Path) -> None:
    async def notebook() -> list[list[Passage]]:
        return Desk(tmp_path, "answers").ask(GOUT)

    assert origin_of(asyncio.run(notebook())[0]) == "biomcp"


def test_terms_are_the_longest_words_of_the_question_in_its_order() -> None:
    assert terms("What are the symptoms of Crohn's disease?") == ("symptoms", "crohn", "disease")
    assert terms("Is 5 mg of warfarin a day not safe?") == ("warfarin", "day", "safe")
    assert terms("Why?") == ()


def test_a_question_with_options_is_looked_up_by_its_text_and_falls_back_to_a_passage_for_each_option(tmp_path: Path) -> None:
    asked = choice_row(1, question="Which condition makes joints of a toe swell?", options=("asthma", "gout"), answer="B")
    desk = Desk(tmp_path, "answers")
    (found,) = desk.evidence().for_questions([asked], 2)
    assert origin_of(found) == "biomcp" and desk.notes()[1]["keywords"] == ["condition", "makes", "joints"]
    (tmp_path / "other").mkdir()
    (found,) = Desk(tmp_path / "other", "empty").evidence().for_questions([asked], 2)
    assert [(passage.id, passage.option) for passage in found] == [("joints#1", "gout"), ("lungs#1", "asthma")]
    assert origin_of(found) == f"{LOCAL}: BioMCP failed (no article, or no network)"


def test_an_answer_is_read_strictly() -> None:
    articles = articles_in(ARTICLES)
    assert articles is not None
    first, second = articles
    assert first["id"] == "101" and first["text"].endswith("A red toe was the usual first sign.")
    assert "Title: this is none." in first["text"] and "Pubmed" not in first["text"]
    assert second == {"id": "Diet and gout", "title": "Diet and gout", "text": "Beer raises uric acid."}
    assert articles_in("[]\n") == ()
    assert articles_in("# Record 1\nPmid: 1\nTitle: No abstract\n") == ()
    assert articles_in("Service unavailable") is None


def test_the_setting_chooses_and_a_missing_extra_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EvidenceIndex.build([text_row(1)]).save(tmp_path / "evidence")
    assert isinstance(open_evidence(tmp_path / "evidence", Team(), tmp_path / "cache", print), EvidenceIndex)
    known = importlib.metadata.version
    versions = {"biomcp-python": "0.7.3"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or known(name))
    team = Team(evidence_source="biomcp")
    assert isinstance(open_evidence(tmp_path / "evidence", team, tmp_path / "cache", print), BioMcp)
    assert Server.installed() == Server((sys.executable, "-m", "biomcp", "run"), "0.7.3")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(MedpipeError, match=r"pip install -e '\.\[biomcp\]'"):
        open_evidence(tmp_path / "evidence", team, tmp_path / "cache", print)

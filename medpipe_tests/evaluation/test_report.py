"""The report shows every part of a run, escapes all of it, and needs nothing from outside."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.evaluation import leaderboard, report
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.job import scoped
from medpipe_tests.evaluation.folders import EVIL, Run, benchmark, unreachable, whole

SECTIONS = ("corpus", "model", "training", "team", "rewards", "maporl", "evaluation", "hardware")
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags, texts, and whether every tag was closed in its order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts, self.headings = [], [], [], []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(self.open[-1][1]), data))

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def render(run):
    settings = run.settings
    run.settings = scoped(settings, ("evaluation",))  # what each task declares, and no more
    run.job("evaluation/leaderboard", leaderboard.run)
    run.settings = scoped(settings, SECTIONS)
    outcome = run.job("release/report", report.run)
    html = (run.root / "outputs" / "release" / "report" / "report.html").read_text(encoding="utf-8")
    return html, Page(html), outcome


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two benchmarks that ran, one that could not be had, and two that were never materialised."""
    made: Any = Run(tmp_path_factory.mktemp("run"))
    whole(made)
    benchmark(made, "medxpertqa")
    benchmark(made, "medquad_heldout")
    unreachable(made, "pubmedqa", f"no network here, got ConnectError {EVIL}")
    made.finish("sources/medtext", {"rows.jsonl": []}, status="unreachable", reason="the hub did not answer")
    made.html, made.page, made.outcome = render(made)
    return made


def test_text_from_data_stays_text(run):
    assert not [tag for tag, _ in run.page.tags if tag == "script"]
    assert "<script" not in run.html.lower() and EVIL in run.page.text
    for part in ("custom", "finding A", "Passage one", "says", "ConnectError", "llama"):
        assert f"{part} {EVIL}" in run.page.text, part  # funnel, option, evidence, message, reason, model fact
    assert "\x07" not in run.html and "\ufffd" in run.html


def test_the_page_is_well_formed_and_every_section_is_reached_from_the_contents(run):
    assert run.page.open == []
    ids = run.page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = [href.removeprefix("#") for href in run.page.attributes("href")]
    assert set(targets) <= set(ids)
    assert {"not-run", "leaderboard", "data", "training", "transcripts", "models", "reproduce"} <= set(targets)
    assert {label for tag, attrs in run.page.tags if (label := attrs.get("aria-labelledby"))} <= set(ids)
    levels = [level for level, _ in run.page.headings]
    assert levels[0] == 1 and levels.count(1) == 1 and all(below - above <= 1 for above, below in pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in run.page.tags}
    assert dict(run.page.tags[0][1]).get("lang") == "en"


def test_every_table_has_a_caption_and_scoped_headers(run):
    tags = [tag for tag, _ in run.page.tags]
    assert tags.count("table") == tags.count("caption") > 4
    assert all(attrs.get("scope") in ("col", "row", "rowgroup") for tag, attrs in run.page.tags if tag == "th")


def test_pictures_are_inside_the_page_and_have_alternative_texts(run):
    images = [attrs for tag, attrs in run.page.tags if tag == "img"]
    assert len(images) == 4 and all(image["alt"].strip() and image["src"].startswith("data:image/png;base64,") for image in images)
    assert any("planner 3.15 to 1.40" in image["alt"] for image in images)


def test_nothing_is_loaded_from_outside(run):
    loads = [attrs[name] for _, attrs in run.page.tags for name in ("src", "href", "srcset", "data", "action", "poster") if attrs.get(name)]
    assert loads and all(address.startswith(("data:", "#")) for address in loads)
    style = re.search(r"<style>(.*?)</style>", run.html, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    assert not any(name.startswith("on") for _, attrs in run.page.tags for name in attrs)
    assert "default-src 'none'" in run.page.attributes("content")[1]


def test_what_was_not_run_stands_with_its_reason(run):
    text = run.page.text
    assert "Source medtext : the hub did not answer" in text and f"{BENCHMARKS['pubmedqa'].title} : no network here" in text
    assert f"{BENCHMARKS['medqa'].title} : it was not materialised in this run" in text
    assert "3 of 5 benchmarks were not run" in text
    assert "Decontamination MedMCQA : the corpus was not compared with it: no such file" in text and "Decontamination MedQA" not in text


def test_the_headline_is_made_from_the_numbers_and_says_no_gain(run):
    row = next(
        row for row in store.read_json(run.inputs["evaluation/leaderboard"] / "leaderboard.json")["rows"] if row["system"] == "maporl_team"
    )
    assert "No gain of co-training (MAPoRL) over the SFT team was shown on any of the 2 benchmarks compared" in run.page.text
    assert f"answered {100 * row['mean']:.0f}% of 16 questions right (95% interval {100 * row['low']:.0f}% to" in run.page.text
    assert "guessing gives 10%" in run.page.text and "only large effects can show" in run.page.text


def test_numbers_of_data_training_and_leaderboard_are_shown(run):
    for shown in (
        "47,441",
        "31,034",
        "15,507",
        "700",
        "MAPoRL team of four",
        "no gain shown",
        "134,515,008",
        "0.100",
        "similarity, n = 16",
    ):
        assert shown in run.page.text, shown
    assert "answer too long" not in run.page.text  # a drop reason that met no row
    assert "all 702 80 15,631" in run.page.text  # training, validation, and the rest held out


def test_each_benchmark_that_ran_has_one_whole_transcript(run):
    text = run.page.text
    for name in ("medxpertqa", "medquad_heldout"):
        assert [BENCHMARKS[name].title in heading for level, heading in run.page.headings if level == 3].count(True) == 1
    for role in ("planner", "researcher", "analyst", "reporter"):
        assert text.count(f"The {role} says") == 4  # two rounds on two benchmarks
    assert "malformed: several answers" in text and "(reference answer)" in text
    assert "round 1" in text and "round 2" in text and "round 0" not in text
    assert "Reference: B) finding B" in text and "similarity to the reference 0.63" in text
    items = store.read_jsonl(run.inputs["evaluation/medxpertqa"] / "items.jsonl")
    scored = next(item for item in items if item["system"] == "maporl_team" and item["id"] == "medxpertqa-1")
    assert scored["prediction"] == "C"  # although the last message says B: what was scored is shown
    assert "Answer that was scored: C) finding C" in text and "Outcome: wrong" in text


def test_how_to_reproduce_names_commit_hashes_and_what_was_reused(run):
    text = run.page.text
    data = store.read_manifest(run.inputs["corpus/clean"])
    assert "make run PROFILE=smoke" in text and "c0ffee0" in text and "5e77" in text and data and data.sha256 in text
    assert "From an earlier run with another commit: models/maporl_team." in text and "another configuration" not in text


def test_the_copy_in_outputs_is_the_same_page(run):
    assert run.outcome.exports == {"report.html": run.settings.outputs / "report.html"}
    assert not list((run.root / "outputs").glob(".*.tmp"))
    images = [value for value in run.outcome.metadata.values() if isinstance(value, dict) and "image" in value]
    folder = run.root / "outputs" / "release" / "report"
    assert len(images) == 2 and all((folder / image["image"]).is_file() and image["alt"] for image in images)


def test_a_run_without_any_benchmark_still_gives_a_page_that_says_so(tmp_path):
    made = Run(tmp_path)
    whole(made)
    for name in BENCHMARKS:
        unreachable(made, name, "offline")
    made.finish("models/maporl_team", {})
    _, page, _ = render(made)
    assert "No benchmark was run, so there is no result to report." in page.text and page.open == []
    assert "How the team answered" not in page.text and "#transcripts" not in page.attributes("href")
    assert "Source medtext : no row of it came into the corpus" in page.text


def test_a_clear_gain_is_said_and_a_missing_team_is_not_invented(tmp_path):
    made = Run(tmp_path)
    benchmark(made, "medqa", n=60, shares=(0.1, 0.2, 0.2, 0.95))
    benchmark(made, "pubmedqa", n=60, missing=("maporl_team",))
    made.job("evaluation/leaderboard", leaderboard.run)
    board = store.read_json(made.inputs["evaluation/leaderboard"] / "leaderboard.json")
    sentence, _ = leaderboard.headline_of(board, 0.95)
    assert "a gain over the SFT team on 1 and a loss on 0 of 1 benchmark compared" in sentence and "on MedQA" in sentence
    board["rows"] = [row for row in board["rows"] if row["benchmark"] == "pubmedqa"]
    board["differences"] = [row for row in board["differences"] if row["benchmark"] == "pubmedqa"]
    sentence, _ = leaderboard.headline_of(board, 0.95)
    assert "was not compared" in sentence and "the SFT team of four answered" in sentence


def test_a_missing_model_folder_is_named(tmp_path):
    made = Run(tmp_path)
    whole(made)
    del made.inputs["models/base"]
    with pytest.raises(MedpipeError, match="no finished models/base"):
        render(made)

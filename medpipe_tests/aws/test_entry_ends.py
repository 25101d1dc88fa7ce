"""How a training job ends: models that are made are concluded, whatever fails beside them; models that lack are a failure.

The container is a real process on SageMaker's folders. Its `medpipe run` is a stand-in of seconds, put into the channel `code`: it lays
finished folders with the fingerprints that the graph would give them, and ends as its plan says. Left out: the real graph (test_entry.py).
"""

from __future__ import annotations

import gzip
import json
import os
import signal
from pathlib import Path
from typing import Any, Literal

import pytest
from dagster_pipes import encode_param

from medpipe import store
from medpipe.aws.layout import SHORTEST, evaluations, failed_checks, in_two, private_values
from medpipe.aws.voice import HIDDEN, Voice
from medpipe.config import load_profile
from medpipe.schema import LEARNERS, CheckResult
from medpipe_tests.aws.conftest import Cloud
from medpipe_tests.aws.containers import WHERE, Container, lay_channels, run_container, start_container
from medpipe_tests.aws.folders import finished
from medpipe_tests.operations.processes import wait_until

TEAM = "models/maporl_team"
MODELS = ("models/base", *(f"models/{learner}" for learner in LEARNERS), TEAM, "models/agent_rl")
FIRST, SECOND = "evaluation/synthetic_heldout", "evaluation/medqa"
SELECT = ",".join((*MODELS, FIRST, SECOND))
REASON = "drawn and scored differ by 3.2"
RUN = '''
"""Stands in for `medpipe run`."""
import json, os, signal, sys
from medpipe import results, store
from medpipe.aws.results import orders
from medpipe.config import load_profile
from medpipe.launch.order import standing_result
from medpipe.rewards.compose import COMPONENTS
from medpipe.schema import CheckResult, Manifest, Ref


def main():
    plan, select = json.loads(os.environ["PLAN"]), sys.argv[sys.argv.index("--select") + 1]
    settings = load_profile(sys.argv[sys.argv.index("--profile") + 1])
    with open("runs", "a") as runs:
        print(select, file=runs)
    print(plan.get("says", ""), os.environ.get("MLFLOW_TRACKING_URI", ""), flush=True)
    refs = settings.outputs / "refs"
    inputs = {
        path.relative_to(refs).parent.as_posix(): Ref.model_validate_json(path.read_text()) for path in refs.rglob("*.json")
    }
    keys, red = plan["ahead"] if "ahead" in plan else select.split(","), False
    for key in keys:
        if key == plan.get("lacks"):
            sys.exit(f"12:00:00 {key} !! no memory left")
        fingerprint, made_of = "0" * 64, {}
        if key.startswith("models/"):
            order = orders(settings, inputs)[key]
            red = red or key == plan.get("red")
            if standing_result(order):
                continue
            fingerprint = order.fingerprint if key != plan.get("stale") else fingerprint
        else:
            made_of = {"models/maporl_team": store.read_manifest(settings.outputs / "models" / "maporl_team").sha256}
        if key == plan.get("waits"):
            print("evaluating", flush=True)
            signal.pause()
        partial = settings.outputs / ".made"
        row = {"step": 1, "answer_accuracy": 0.5, "reward/team": 0.5, **{f"reward/{name}": 0.5 for name in COMPONENTS}}
        store.write_jsonl(partial / "metrics.jsonl", [row])
        store.write_text(partial / "weights.txt", key)
        store.write_json(partial / "summary.json", {"systems": {"maporl_team": {"mean": 0.25}}})
        files = store.hash_tree(partial)
        check = CheckResult(name="on_policy", passed=key != plan.get("red"), description=plan.get("reason", ""))
        made = Manifest(
            task="", fingerprint=fingerprint, sha256=store.hash_of_hashes(files), files=files, inputs=made_of,
            created_at="2026-01-01T00:00:00+00:00", checks=(check,) if key.startswith("models/") else (),
        )
        final = results.folder_of(settings.outputs, key, fingerprint)
        store.publish(partial, final, made)
        results.show(settings.outputs, key, final)
    if red and "models/maporl_team" in select or plan.get("stale") in keys:
        sys.exit("12:00:00 run !! a step failed")
'''


class Place:
    """Where containers of one launch start."""

    def __init__(self, folder: Path, select: str = SELECT, overrides: dict[str, Any] | None = None, **more: Any) -> None:
        self.folder, self.base, outputs = folder, folder / "ml", folder / "outputs"
        for key in WHERE:
            finished(outputs, key)
        settings = load_profile("smoke", {"release.primary": "synthetic_heldout", **(overrides or {})})
        self.channels = lay_channels(folder, outputs, settings, select, **more)
        (self.channels["code"] / "medpipe" / "cli.py").write_text(RUN)

    def run(self, plan: dict[str, Any], **more: str) -> tuple[int, Container]:
        return run_container(self.base, self.channels, {"PLAN": json.dumps(plan), **more})

    @property
    def runs(self) -> list[str]:
        """What each run was asked for."""
        return (self.base / "work" / "runs").read_text().splitlines()

    @property
    def summary(self) -> dict[str, Any]:
        return store.read_json(self.base / "output" / "data" / "training_summary.json")

    @property
    def listed(self) -> set[str]:
        """The models that go back."""
        return set(store.read_json(self.base / "model" / "final_model" / "manifest.json")["assets"])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.slow
def test_a_check_that_fails_costs_no_model(place: Place, aws: Cloud) -> None:
    context = {"asset_keys": None, "extras": {}, "run_id": "r", "job_name": None, "retry_number": 0}
    aws.s3.put_object(Bucket=aws.bucket, Key="pipes/context.json", Body=json.dumps(context).encode())
    pipes = {
        "DAGSTER_PIPES_CONTEXT": encode_param({"bucket": aws.bucket, "key": "pipes/context.json"}),
        "DAGSTER_PIPES_MESSAGES": encode_param({"bucket": aws.bucket, "key_prefix": "pipes/messages"}),
    }
    status, container = place.run({"red": TEAM, "reason": REASON}, **pipes)
    assert status == 0, container.said
    assert place.listed == set(MODELS) and place.runs == [",".join(MODELS)]  # no evaluation of models that did not pass
    summary = place.summary
    assert (summary["status"], summary["error"]) == ("completed", "")
    assert summary["failed_checks"] == [{"asset": TEAM, "check": "on_policy", "description": REASON}]
    assert summary["evaluation_error"] == "not begun: the run of the models failed" and summary["figures"]["team:value"] > 0
    assert f"{TEAM} did not pass its check on_policy ({REASON})" in container.said
    manifest = store.read_manifest(place.base / "model" / "final_model" / TEAM)
    assert manifest and [check.passed for check in manifest.checks] == [False]  # what blocks where the job was launched
    assert not (place.base / "output" / "failure").exists()
    messages = messages_of(aws)
    told = [one["params"]["payload"] for one in messages if one["method"] == "report_custom_message"]
    assert {each["asset"] for each in told if "asset" in each} == set(MODELS)
    assert told[-1] == {"figures": summary["figures"]} and messages[-1]["method"] == "closed"


@pytest.mark.slow
def test_an_evaluation_that_fails_costs_neither_models_nor_evaluations(place: Place) -> None:
    status, container = place.run({"lacks": SECOND})
    assert status == 0, container.said
    assert place.runs == [",".join(MODELS), f"{FIRST},{SECOND}"] and place.listed == set(MODELS)
    summary = place.summary
    assert summary["status"] == "completed" and summary["failed_checks"] == [] and summary["figures"]["eval:accuracy"] == 0.25
    assert f"not finished: {SECOND};" in summary["evaluation_error"] and "no memory left" in summary["evaluation_error"]
    assert "!! the models are made and kept, but their evaluation failed" in container.said
    assert [path.name for path in (place.base / "output" / "data" / "evaluation").iterdir()] == [FIRST.partition("/")[2]]


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{"lacks": TEAM}, {"stale": TEAM}], ids=["not made", "made for something else"])
def test_a_model_that_lacks_is_a_failure(place: Place, plan: dict[str, Any]) -> None:
    status, container = place.run(plan)
    assert status == 1 and place.runs == [",".join(MODELS)]
    assert not (place.base / "model" / "final_model").exists()
    assert "a run that failed" in (place.base / "output" / "failure").read_text() and "Traceback" not in container.said
    assert (place.summary["status"], place.summary["assets"]) == ("failed", {})


@pytest.mark.slow
def test_a_stop_while_it_evaluates_is_no_end_and_the_next_start_goes_on(place: Place) -> None:
    container = start_container(place.base, place.channels, {"PLAN": json.dumps({"waits": SECOND})})
    wait_until(lambda: "evaluating" in container.said or container.process.poll() is not None, "it evaluates")
    os.kill(container.process.pid, signal.SIGTERM)
    assert container.wait() == 143, container.said
    assert place.summary["status"] == "stopped" and not (place.base / "model" / "final_model").exists()
    status, container = place.run({})
    assert status == 0, container.said
    assert place.listed == set(MODELS) and place.summary["evaluation_error"] == ""
    assert set(place.summary["resumed"]) == {*MODELS, FIRST}


@pytest.mark.slow
def test_what_the_environment_holds_is_never_said(place: Place) -> None:
    values = {
        "HTTPS_PROXY": "http://me:pa-ss-word@proxy:3128/",  # MLflow's address may hold no password at all
        "WANDB_API_KEY": "0123456789-key",
        "SOME_LIST": "not-said-either",
    }
    status, container = place.run(
        {"lacks": SECOND, "says": "going to pa-ss-word@proxy with 0123456789-key"}, SAGEMAKER_TRAINING_DEBUG="1", **values
    )
    assert status == 0, container.said
    output = place.base / "output" / "data"
    log = gzip.decompress((output / "training.log.gz").read_bytes()).decode()
    everything = container.said + log + "".join(path.read_text() for path in output.rglob("*.json"))
    assert HIDDEN in log and "WANDB_API_KEY" in log  # debug mode names variables
    assert [value for value in (*values.values(), "me:pa-ss-word") if value in everything] == []


@pytest.mark.slow
def test_a_check_that_fails_on_the_first_host_is_no_failure_of_the_others(aws: Cloud, tmp_path: Path) -> None:
    place = Place(tmp_path, overrides={"maporl.processes": 2}, share=f"s3://{aws.bucket}/launches/ab/share")
    plan = json.dumps({"ahead": MODELS, "red": TEAM, "reason": REASON})  # the team stands when the others would join, as after a restart
    names = ("first", "second")
    both = [
        start_container(tmp_path / name, place.channels, {"PLAN": plan, "TRAINING_JOB_NAME": "two"}, hosts=names, current=name)
        for name in names
    ]
    assert [container.wait() for container in both] == [0, 0], "\n".join(container.said for container in both)
    place.base = tmp_path / names[0]
    assert place.listed == set(MODELS) and [one["asset"] for one in place.summary["failed_checks"]] == [TEAM]
    assert place.runs == [",".join(MODELS[:-1]), TEAM]
    ended = store.read_json(tmp_path / names[1] / "output" / "data" / "hosts" / names[1] / "training_summary.json")
    assert (ended["status"], ended["error"]) == ("completed", "")


# --- parts


def test_a_selection_is_parted_into_models_and_what_judges_them() -> None:
    assert in_two("models/base,models/maporl_team,group:evaluation") == ("models/base,models/maporl_team", "group:evaluation")
    assert in_two("models/base") == ("models/base", "") and in_two("group:evaluation") == ("", "group:evaluation")
    assert evaluations("group:evaluation,release/report")[-1] == "evaluation/leaderboard"
    assert evaluations(f"{FIRST},release/report") == [FIRST]


def test_only_checks_that_block_are_told(tmp_path: Path) -> None:
    finished(tmp_path, "models/base")
    manifest = store.read_manifest(tmp_path / "models" / "base")
    assert manifest
    severities: tuple[Literal["error", "warn"], ...] = ("error", "warn")
    checks = tuple(
        CheckResult(name=f"{severity}-{passed}", passed=passed, severity=severity) for severity in severities for passed in (True, False)
    )
    store.write_manifest(tmp_path / "models" / "base", manifest.model_copy(update={"checks": checks}))
    assert failed_checks(tmp_path, ["models/base", "models/gone"]) == [{"asset": "models/base", "check": "error-False", "description": ""}]


def test_private_are_variables_named_so_and_addresses_with_a_password() -> None:
    plain = {"TOKENIZERS_PARALLELISM": "disabled", "USE_TOKEN": "true", "HOME": "/home/somebody"}
    found = private_values({**plain, "HF_TOKEN": "hf_12345678", "HTTPS_PROXY": "http://a-user:b@proxy:1/x"})
    assert set(found) == {"hf_12345678", "http://a-user:b@proxy:1/x", "a-user:b"} and len("a-user:b") == SHORTEST


def test_a_secret_is_hidden_in_every_form_that_it_takes(tmp_path: Path) -> None:
    voice = Voice(tmp_path / "training.log")
    voice.hush(['quo"ted\\one'])
    voice.hush(["first line\nsecond line"])
    told = voice.hidden({"a": ['say quo"ted\\one', 1, None], "second line": True})
    assert told == {"a": [f"say {HIDDEN}", 1, None], HIDDEN: True}
    voice.close(goes_on=False)


def messages_of(aws: Cloud) -> list[dict[str, Any]]:
    """Everything that the container told Dagster, in order."""
    keys = [each["Key"] for each in aws.s3.list_objects_v2(Bucket=aws.bucket, Prefix="pipes/messages/")["Contents"]]
    bodies = [aws.s3.get_object(Bucket=aws.bucket, Key=key)["Body"].read() for key in sorted(keys, key=lambda key: int(Path(key).stem))]
    return [json.loads(line) for body in bodies for line in body.decode().splitlines()]

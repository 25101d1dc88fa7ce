"""The graph for Kubernetes: a pod for each step, GPUs for those that claim some, and nothing of it without the variable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from medpipe.assets.cluster import PLACE, TAG, executor, tags_of
from medpipe.config import load_profile
from medpipe.errors import MedpipeError
from medpipe.evaluation.benchmarks import ASKED
from medpipe.launch.devices import Place

TELL = """
import json
from medpipe.definitions import defs
job = defs.resolve_job_def("everything")
print(json.dumps({"executor": job.executor_def.name, "tags": {node.name: dict(node.tags) for node in job.graph.nodes}}))
"""


def graph(**environment: str) -> dict[str, Any]:
    """The graph as a code server with these variables has it."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MEDPIPE_")}
    done = subprocess.run([sys.executable, "-c", TELL], env={**bare, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def gpus(tags: dict[str, Any]) -> tuple[int, str] | None:
    """How many GPUs a step's pod gets and what it sees of them, as Dagster's executor reads its tag."""
    if TAG not in tags:
        return None
    given = json.loads(tags[TAG]) if isinstance(tags[TAG], str) else tags[TAG]
    container = UserDefinedDagsterK8sConfig.from_dict(given).container_config
    return container["resources"]["limits"]["nvidia.com/gpu"], container["env"][0]["value"]


def test_every_role_gets_a_pod_with_a_gpu_of_its_own_and_the_team_all_four(tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    settings = load_profile("sagemaker-qwen2.5", {"aws.launcher": "local"})
    profile.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    found = graph(MEDPIPE_EXECUTOR="k8s", MEDPIPE_PROFILE=str(profile), CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert found["executor"] == "k8s"
    asked = {name: gpus(tags) for name, tags in found["tags"].items() if gpus(tags)}
    one, four = (1, "0"), (4, "0,1,2,3")
    benchmarks = {f"evaluation__{name}": one for name in ASKED}
    tuned = {f"fine_tune_gpu_{number}": one for number in range(4)}
    assert asked == {**tuned, "models__maporl_team": four, "models__agent_rl": one, **benchmarks}


@pytest.mark.parametrize("environment", [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"MEDPIPE_EXECUTOR": "k8s", "CUDA_VISIBLE_DEVICES": ""}])
def test_without_kubernetes_or_without_gpus_no_step_asks_for_one(environment: dict[str, str]) -> None:
    found = graph(MEDPIPE_PROFILE="smoke", **environment)
    assert found["executor"] == environment.get("MEDPIPE_EXECUTOR", "multiprocess")
    assert [name for name, tags in found["tags"].items() if TAG in tags] == []


def test_a_step_that_keeps_a_place_busy_is_tagged_with_it() -> None:
    tags = graph(MEDPIPE_PROFILE="smoke", CUDA_VISIBLE_DEVICES="")["tags"]
    trained = ("fine_tune_cpu", "models__maporl_team", "models__agent_rl", "evaluation__medqa")
    assert {tags[name][PLACE] for name in (*trained, "rewards__audit")} == {"cpu"}
    assert PLACE not in tags["corpus__clean"]
    two = graph(MEDPIPE_PROFILE="local-qwen3", CUDA_VISIBLE_DEVICES="0,1")["tags"]
    assert {name: own[PLACE] for name, own in two.items() if name.startswith("fine_tune")} == {
        "fine_tune_gpu_0": "gpu_0", "fine_tune_gpu_1": "gpu_1",
    }  # fmt: skip
    assert two["rewards__audit"][PLACE] == "cpu"  # beside trainings on GPUs


@dg.op(tags={PLACE: "cpu"})
def busy() -> None:
    """Work at the place."""


@dg.job(executor_def=executor())
def crowded() -> None:
    """Four steps that nothing but their place keeps apart."""
    for number in range(4):
        busy.alias(f"busy_{number}")()


def test_of_one_runs_steps_only_one_at_a_time_works_at_a_place(tmp_path: Path) -> None:
    """Without the limit the executor starts as many processes at once as there are cores."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        done = dg.execute_job(dg.reconstructable(crowded), instance=instance, raise_on_error=False)
        told = [event.event_type_value for event in done.all_events]
    assert done.success
    turns = [kind for kind in told if kind in ("STEP_WORKER_STARTING", "STEP_SUCCESS")]
    assert turns == ["STEP_WORKER_STARTING", "STEP_SUCCESS"] * 4


def test_another_executor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPIPE_EXECUTOR", "celery")
    with pytest.raises(MedpipeError, match="expected k8s, or nothing"):
        tags_of(Place("gpu_0", "0", 1))


WITHOUT_EXTRA = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):  # as in an environment where the extra was not installed
    def find_spec(self, name, path, target=None):
        if name == "dagster_k8s":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import medpipe.definitions
"""


def test_without_the_extra_the_message_tells_how_to_install_it() -> None:
    environment = {**os.environ, "MEDPIPE_EXECUTOR": "k8s", "MEDPIPE_PROFILE": "smoke"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRA], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "medpipe.errors.MedpipeError: got no package dagster_k8s, expected the extra k8s of medpipe, in MEDPIPE_EXECUTOR=k8s: install it "
        "(pip install -e '.[k8s]'), or unset the variable to run each step as a process"
    )
    assert "ModuleNotFoundError" not in done.stderr

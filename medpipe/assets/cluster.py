"""Steps as pods of their own, where the graph runs on Kubernetes (MEDPIPE_EXECUTOR=k8s, deploy/k8s/values.yaml); nothing of it elsewhere.

A step's tag `dagster-k8s/config` asks for as many GPUs as its work claims. In its pod these are numbered from 0, whatever their
numbers in the pools are. Left out: which kind of GPU (add `node_selector` in the Helm values), and a training over several pods.
"""

import os
from typing import Any

import dagster as dg

from medpipe.errors import MedpipeError
from medpipe.launch.devices import Place

VARIABLE = "MEDPIPE_EXECUTOR"
TAG = "dagster-k8s/config"
PLACE = "medpipe/place"
"""Tag of a step that keeps a place busy, a GPU or the CPU's cores: of one run's steps only one at a time works there."""


def executor() -> dg.ExecutorDefinition:
    """A process for each step, or a pod for each step."""
    if _in_pods():
        try:
            from dagster_k8s import k8s_job_executor
        except ModuleNotFoundError as error:
            if error.name != "dagster_k8s":
                raise
            raise MedpipeError(
                got="no package dagster_k8s", expected="the extra k8s of medpipe", where=f"{VARIABLE}=k8s",
                do="install it (pip install -e '.[k8s]'), or unset the variable to run each step as a process",
            ) from None  # fmt: skip
        return k8s_job_executor
    # Steps of one run wait for each other here. In the pool they would, too, but Dagster asks a pool again after ever longer pauses.
    one_each = {"key": PLACE, "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
    forked = {"forkserver": {"preload_modules": ["medpipe.definitions"]}}
    return dg.multiprocess_executor.configured({"start_method": forked, "tag_concurrency_limits": [one_each]})


def tags_of(place: Place) -> dict[str, Any]:
    """Tags of a step that works at this place."""
    if not _in_pods():
        return {PLACE: place.pool}
    if place.gpu is None:
        return {}
    gpus = place.gpu.count(",") + 1
    seen = {"name": "CUDA_VISIBLE_DEVICES", "value": ",".join(map(str, range(gpus)))}
    return {TAG: {"container_config": {"env": [seen], "resources": {"limits": {"nvidia.com/gpu": gpus}}}}}


def _in_pods() -> bool:
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in ("", "k8s"):
        raise MedpipeError(got=repr(chosen), expected="k8s, or nothing", where=VARIABLE, do="unset it, or set it to k8s")
    return chosen == "k8s"

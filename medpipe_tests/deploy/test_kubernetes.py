"""The Helm values: every piece as Dagster's own launcher, instance and Kubernetes' client would read it. No cluster and no helm here.

What the chart itself makes of the values is not shown by this: docs/operating.md says what was looked at by hand.
"""

from __future__ import annotations

import re
from typing import Any

import kubernetes.client
import pytest
import yaml
from dagster import Shape
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from dagster_k8s.launcher import K8sRunLauncher
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

from medpipe_tests.deploy.parts import DEPLOY

SNAKE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@pytest.fixture
def values() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "k8s" / "values.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def deployment(values: dict[str, Any]) -> dict[str, Any]:
    (found,) = values["dagster-user-deployments"]["deployments"]
    return found


def snake(values: dict[str, Any]) -> dict[str, Any]:
    return {SNAKE.sub("_", key).lower(): value for key, value in values.items()}


def object_of(kind: str, given: Any) -> Any:
    """A Kubernetes object by its own client's model; an unknown key or a wrong type is refused."""
    model = getattr(kubernetes.client, kind)
    return k8s_model_from_dict(model, k8s_snake_case_dict(model, given))


def valid(schema: Any, given: Any) -> Any:
    done = process_config(schema, given)
    assert done.success, done.errors
    return done.value


def test_volumes_probes_and_rights_are_kubernetes_own(values: dict[str, Any], deployment: dict[str, Any]) -> None:
    for part in (values["dagsterWebserver"], values["dagsterDaemon"], deployment):
        assert object_of("V1PodSecurityContext", part["podSecurityContext"]).run_as_non_root is True
        assert object_of("V1SecurityContext", part["securityContext"]).allow_privilege_escalation is False
    for part in (values["dagsterWebserver"], deployment):
        names = {object_of("V1Volume", volume).name for volume in part["volumes"]}
        assert {object_of("V1VolumeMount", mount).name for mount in part["volumeMounts"]} == names
    probe = {key: value for key, value in deployment["startupProbe"].items() if key != "enabled"}
    assert object_of("V1Probe", probe).failure_threshold >= 10
    assert object_of("V1ResourceRequirements", deployment["resources"]).limits is None  # step pods inherit them


def test_an_unknown_key_would_be_refused() -> None:
    with pytest.raises(Exception, match="poppy"):
        object_of("V1Volume", {"name": "x", "poppy": {}})
    with pytest.raises(Exception, match="poppy"):
        UserDefinedDagsterK8sConfig(container_config={"poppy": 1})
    assert not process_config(Shape(K8sRunLauncher.config_type()), launcher({"poppy": 1})).success


def launcher(given: dict[str, Any]) -> dict[str, Any]:
    """The launcher's section of dagster.yaml as the chart writes it: its values' keys, and what the chart adds itself."""
    own = snake(given)
    own["run_k8s_config"] = snake(own.get("run_k8s_config", {}))
    return {"service_account_name": "dagster", "instance_config_map": "dagster-instance", "job_namespace": "medpipe", **own}


def test_the_run_launcher_takes_its_configuration(values: dict[str, Any]) -> None:
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    given = launcher(values["runLauncher"]["config"]["k8sRunLauncher"])
    taken = valid(Shape(K8sRunLauncher.config_type()), given)
    assert UserDefinedDagsterK8sConfig.from_dict(taken["run_k8s_config"]).pod_spec_config["security_context"]["run_as_user"] == 10001


def test_the_instance_takes_pools_monitoring_and_retries(values: dict[str, Any]) -> None:
    daemon, concurrency = values["dagsterDaemon"], values["concurrency"]
    instance = {
        "concurrency": {"pools": snake(concurrency["pools"]), "runs": snake(concurrency["runs"])},
        "run_monitoring": snake(daemon["runMonitoring"]), "run_retries": snake(daemon["runRetries"]), "telemetry": values["telemetry"],
    }  # fmt: skip
    taken = valid(dagster_instance_config_schema(), instance)
    assert (taken["concurrency"]["pools"]["granularity"], taken["concurrency"]["pools"]["default_limit"]) == ("op", 1)
    logs = values["computeLogManager"]["config"]["customComputeLogManager"]
    from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

    assert (logs["module"], logs["class"]) == (LocalComputeLogManager.__module__, LocalComputeLogManager.__name__)
    valid(Shape(LocalComputeLogManager.config_type()), logs["config"])
    mounts = [mount["mountPath"] for mount in values["dagsterWebserver"]["volumeMounts"]]
    assert any(logs["config"]["base_dir"].startswith(path) for path in mounts)  # the page reads what a step's pod wrote


def test_a_step_with_a_gpu_gets_a_pod_with_that_gpu_the_servers_volumes_and_the_servers_variables(deployment: dict[str, Any]) -> None:
    tag = {
        "container_config": {
            "env": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}], "resources": {"limits": {"nvidia.com/gpu": 1}},
        }
    }  # fmt: skip
    server = K8sContainerContext.create_from_config(
        {
            "k8s": {
                "env_config_maps": ["medpipe-user-env"], "env_secrets": [each["name"] for each in deployment["envSecrets"]],
                "volumes": deployment["volumes"], "volume_mounts": deployment["volumeMounts"], "resources": deployment["resources"],
            }
        }
    )  # fmt: skip
    context = server.merge(K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(tag)))
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(job_image="medpipe:0.1.0", dagster_home="/srv/medpipe/home"), ["dagster", "api", "execute_step"], "step",
        context.run_k8s_config, env_vars=[],
    )  # fmt: skip
    assert job.spec and job.spec.template.spec
    (container,) = job.spec.template.spec.containers
    assert container.command is None and container.args[0] == "dagster"  # the image's entry point stays
    assert container.resources.limits["nvidia.com/gpu"] == "1"
    assert container.resources.requests["memory"] == deployment["resources"]["requests"]["memory"]
    assert {mount.mount_path for mount in container.volume_mounts} >= {"/srv/medpipe/outputs", "/dev/shm"}
    assert [each.value for each in container.env if each.name == "CUDA_VISIBLE_DEVICES"] == ["0"]


def test_the_server_names_as_many_gpus_as_roles_and_no_page_is_public(values: dict[str, Any], deployment: dict[str, Any]) -> None:
    assert deployment["env"]["CUDA_VISIBLE_DEVICES"].split(",") == ["0", "1", "2", "3"]
    assert deployment["env"]["MEDPIPE_EXECUTOR"] == "k8s"
    assert not values["ingress"]["enabled"] and values["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert all(isinstance(value, str) for value in deployment["env"].values())  # a ConfigMap holds nothing else

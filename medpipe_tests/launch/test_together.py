"""Which machines train together, as the environment tells it, and a refusal where it does not."""

from __future__ import annotations

import pytest

from medpipe.errors import MedpipeError
from medpipe.launch.together import Machines, machines


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, Machines()),
        ({"MEDPIPE_HOSTS": "alone"}, Machines()),
        ({"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-1"}, Machines()),
        ({"MEDPIPE_HOSTS": "a, b", "MEDPIPE_HOST_NUMBER": "1"}, Machines(("a", "b"), 1, "29500")),
        ({"MEDPIPE_HOSTS": "a,b", "MEDPIPE_HOST_NUMBER": "0", "MEDPIPE_PORT": "4711"}, Machines(("a", "b"), 0, "4711")),
        ({"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"}, Machines(("algo-1", "algo-2"), 1, "29500")),
    ],
)
def test_the_machines_are_told_by_the_environment(environment: dict[str, str], found: Machines) -> None:
    assert machines(environment) == found


@pytest.mark.parametrize(
    "environment",
    [
        {"MEDPIPE_HOSTS": "a,b"},
        {"MEDPIPE_HOSTS": "a,b", "MEDPIPE_HOST_NUMBER": "2"},
        {"MEDPIPE_HOSTS": "a,b", "MEDPIPE_HOST_NUMBER": "-1"},
        {"SM_HOSTS": '["a", "b"]', "SM_CURRENT_HOST": "c"},
    ],
)
def test_a_machine_that_does_not_know_its_place_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(MedpipeError, match="MEDPIPE_HOST_NUMBER"):
        machines(environment)


def test_processes_are_shared_out_evenly() -> None:
    assert Machines().flags(2) == ["--num_machines", "1", "--num_processes", "2", "--main_process_port", "0"]
    two = Machines(("a", "b"), 1, "29500").flags(4)
    assert two[-5:] == ["--machine_rank", "1", "--main_process_ip", "a", "--same_network"]
    assert two[:4] == ["--num_machines", "2", "--num_processes", "4"]
    with pytest.raises(MedpipeError, match="multiple of 2"):
        Machines(("a", "b"), 0, "29500").flags(3)

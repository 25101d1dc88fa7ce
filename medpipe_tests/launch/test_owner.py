"""Whether the process that drives a run lives: told from this machine's own processes only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe.launch.owner import lives, named_run, nobody_listens, owner_of
from medpipe_tests.operations.processes import wait_until


def test_a_process_lives_until_it_has_ended_even_before_it_is_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = owner_of(process.pid)
        assert lives(owner) is True
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
        assert lives(owner) is False
    assert lives(owner) is False


@pytest.mark.parametrize(
    ("place", "word", "alive"),
    [
        (1, "1", False),  # the number is another process's by now
        (2, "another-host", None),
        (3, "another-boot", False),
        (4, "pid:[1]", None),  # a container beside this one
    ],
)
def test_what_can_not_be_seen_from_here_is_unknown(place: int, word: str, alive: bool | None) -> None:
    words = owner_of(os.getpid()).split()
    words[place] = word
    assert lives(" ".join(words)) is alive


@pytest.mark.parametrize("owner", ["", "123 456"])
def test_a_text_that_names_no_process_is_unknown(owner: str) -> None:
    assert lives(owner) is None


def test_the_text_can_name_the_run_that_it_belongs_to() -> None:
    assert named_run(owner_of(os.getpid(), "run-1")) == "run-1"
    assert lives(owner_of(os.getpid(), "run-1")) is True
    assert named_run(owner_of(os.getpid())) == named_run("") == ""


def test_a_socket_without_its_server_is_seen(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert nobody_listens(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert not nobody_listens(path)
    assert nobody_listens(path)  # its file is still there


CHAIN = """
import os, subprocess, sys, threading
depth = int(sys.argv[2])
if depth:
    child = subprocess.Popen([sys.executable, '-c', sys.argv[3], 'dagster', str(depth - 1), sys.argv[3]],
                             env={**os.environ, 'DAGSTER_IS_DEV_CLI': '1'})
    child.wait()
else:
    from medpipe.launch.owner import end_with_servers
    end_with_servers()
    print(os.getpid(), flush=True)
    threading.Event().wait()
"""


@pytest.mark.parametrize("killed", [3, 2, 1])
def test_a_process_ends_with_any_server_above_it_and_takes_those_between_with_it(killed: int) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "DAGSTER_IS_DEV_CLI"}
    command = [sys.executable, "-c", CHAIN, "dagster", "3", CHAIN]
    with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout
        pids = [int(top.stdout.readline())]
        while pids[-1] != top.pid:
            pids.append(int(Path(f"/proc/{pids[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
        owners = [owner_of(pid) for pid in pids]
        os.kill(pids[killed], 9)
        assert top.stdout.read() == ""  # the end of the file: nobody is left who could write
        top.wait()
    wait_until(lambda: [lives(owner) for owner in owners] == [False] * 4, "all four have ended", 10)

"""How much is sent, and how long it takes, when many files go to S3: twice, after a kill at half, and after one changed byte.

    python -m medpipe_tests.aws.uploads --files 5000 --megabytes 1000

Starts moto's server in a process of its own, so that requests cross a real socket, and prints one JSON line. moto keeps objects in
memory and shares this machine's cores: the counts and bytes are what holds on AWS, the seconds are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from medpipe.aws.account import Account
from medpipe.aws.sync import folder_files, upload
from medpipe.config import Aws
from medpipe_tests.aws.conftest import KEYS, REGION
from medpipe_tests.aws.test_sync import UPLOADER

BUCKET = "medpipe-uploads"
START_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--megabytes", type=int, default=1000)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update({**KEYS, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/moto-api/")
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(folder), options.files, options.megabytes * 10**6)))
    finally:
        server.kill()
        server.wait()


def measure(folder: Path, count: int, size: int) -> dict[str, Any]:
    chance = random.Random(8)
    for number in range(count):
        path = folder / f"{number % 50:02}" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(size // count))
    files = folder_files(folder)
    client, calls = Account.of(Aws()).client("s3"), Counter[str]()
    client.create_bucket(Bucket=BUCKET)
    client.meta.events.register("before-send.s3", lambda event_name, **_: calls.update([event_name.rpartition(".")[2]]))

    def timed(prefix: str) -> dict[str, Any]:
        calls.clear()
        start = time.monotonic()
        sent = upload(client, files, BUCKET, prefix, lambda text: print(text, file=sys.stderr))
        return {**asdict(sent), "calls": dict(calls), "seconds": round(time.monotonic() - start, 1)}

    found: dict[str, Any] = {"size": sum(path.stat().st_size for path in files.values()), "first": timed("once"), "second": timed("once")}
    found["killed"] = {"files there": _killed(folder, count, client)}
    found["rest"] = timed("killed")
    victim = next(iter(files.values()))
    victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    found["one byte changed"] = timed("once")
    return found


def _killed(folder: Path, count: int, client: Any) -> int:
    """Upload in a process that is killed when half is said to be there; how many files are."""
    process = subprocess.Popen([sys.executable, "-c", UPLOADER, BUCKET, "killed", str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line.split(": ")[1].split()[0]) >= count // 2:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="killed/")
    return sum(page["KeyCount"] for page in pages)


def _wait(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"no answer from {url} within {START_SECONDS} s")


if __name__ == "__main__":
    main()

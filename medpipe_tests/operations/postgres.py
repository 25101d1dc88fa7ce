"""A real PostgreSQL for a test: a cluster of its own in a temporary folder, on a free port of the loopback, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WITHOUT = "no PostgreSQL on this machine: install the Debian package postgresql"
USER, DATABASE = "medpipe", "dagster"


def program(name: str) -> str | None:
    """Where a program of PostgreSQL lies; Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return shutil.which(name) or (str(found[-1]) if found else None)


def available() -> bool:
    """Whether a server can be started here."""
    return all(program(name) for name in ("initdb", "pg_ctl", "postgres"))


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The variables with which deploy/dagster-postgres.yaml finds the server, while it runs."""
    password = secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="medpipe-pg-") as name:
        folder, cluster = Path(name), Path(name) / "cluster"
        secret = folder / "password"
        secret.write_text(password)
        if not os.getuid():  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            for path in (folder, secret):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        _run(folder, "initdb", "-D", str(cluster), "-U", USER, "--pwfile", str(secret), "-A", "scram-sha-256", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        try:
            _run(folder, "pg_ctl", "-D", str(cluster), "-l", str(folder / "log"), "-o", options, "-w", "-t", "60", "start")
            _make_database(port, password)
            yield {
                "DAGSTER_PG_HOST": "127.0.0.1", "DAGSTER_PG_PORT": str(port), "DAGSTER_PG_USERNAME": USER,
                "DAGSTER_PG_PASSWORD": password, "DAGSTER_PG_DB": DATABASE,
            }  # fmt: skip
        finally:
            _run(folder, "pg_ctl", "-D", str(cluster), "-m", "immediate", "-w", "stop")


def _make_database(port: int, password: str) -> None:
    import psycopg2

    connection = psycopg2.connect(host="127.0.0.1", port=port, user=USER, password=password, dbname="postgres")
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        connection.close()


def _run(folder: Path, name: str, *arguments: str) -> None:
    """Run a program of PostgreSQL, as nobody where this process is root's."""
    found = program(name)
    assert found, WITHOUT
    user = {} if os.getuid() else {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
    clean = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    said = folder / f"{name}.out"  # a pipe would be held open by the server
    with said.open("wb") as out:
        done = subprocess.run([found, *arguments], cwd=folder, env=clean, stdout=out, stderr=out, **user)
    assert done.returncode == 0, said.read_text() + ((folder / "log").read_text() if (folder / "log").is_file() else "")

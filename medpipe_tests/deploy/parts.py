"""What the tests of deploy/ share: its files, and the tools that came with the tests' packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent
SECRETS = {"DAGSTER_PG_PASSWORD": "first-password", "MLFLOW_POSTGRES_PASSWORD": "second-password"}


def tool(name: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a tool with a bare environment, so that nobody's own settings decide."""
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run([str(TOOLS / name), *map(str, words)], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=120)

"""Renews constraints.txt, the releases that `make setup` installs: the newest of each that pyproject.toml allows.

make constraints

pip resolves the project with what its tests need as in an empty environment, downloads what that takes and installs nothing; some
minutes at most. Run `make test` afterwards: the file says what the tests have passed with. Left out: packages that the Makefile pins,
and extras that no test needs.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Which of these a torch needs depends on its build, and it names their releases itself.
LEFT_TO_TORCH = ("cuda-", "nvidia-", "triton")


def resolved() -> list[tuple[str, str]]:
    """(name, version) of every package that pip would install for the project and its tests, without the project."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        report = Path(folder) / "report.json"
        pip = [Path(folder) / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--progress-bar", "off"]
        subprocess.run([*pip, "--dry-run", "--report", report, ".[test]"], cwd=ROOT, check=True)
        packages = [each["metadata"] for each in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return [(each["name"], each["version"]) for each in packages if each["name"] != "medpipe"]


def main() -> None:
    """Write the file whole or not at all."""
    lines = [
        f"# The releases that the tests passed with (Python {platform.python_version()}); make setup installs no others.",
        "# Written by scripts/constraints.py: renew them with make constraints, then run make test.",
    ]
    for name, version in sorted(resolved(), key=lambda each: each[0].lower()):
        if not name.lower().replace("_", "-").startswith(LEFT_TO_TORCH):
            lines.append(f"{name}=={version.partition('+')[0]}")  # without +cpu or +cu130: a machine's own build of torch will do
    new = ROOT / "constraints.txt.new"
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(new, ROOT / "constraints.txt")
    print(f"constraints.txt: {len(lines) - 2} packages")


if __name__ == "__main__":
    main()

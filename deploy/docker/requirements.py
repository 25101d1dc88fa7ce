"""Prints what pyproject.toml requires, so that the image's large layer needs none of the project's code.

    python requirements.py only torch          # the lines of these packages
    python requirements.py all postgres k8s    # all of them and those of the named extras

Left out: requirements of the build itself.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The project's requirements, then those of its extras."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    if missing := [extra for extra in extras if extra not in known]:
        sys.exit(f"got the extra {', '.join(missing)}, expected one of {', '.join(known)}, in the build argument EXTRAS: correct it")
    return [*project["dependencies"], *(line for extra in extras for line in known[extra])]


def name(requirement: str) -> str:
    """The package that a requirement is for."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found.group()


def main() -> None:
    """Print them."""
    mode, *words = sys.argv[1:]
    lines = requirements(Path("pyproject.toml"), words if mode == "all" else [])
    print("\n".join(line for line in lines if mode == "all" or name(line) in words))


if __name__ == "__main__":
    main()

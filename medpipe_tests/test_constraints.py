"""constraints.txt against pyproject.toml: what `make setup` installs is pinned, allowed, and the same on every machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def test_every_line_is_one_release_of_no_special_build() -> None:
    assert LINES and not [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)]


def test_every_package_asked_for_is_pinned_to_a_release_that_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}
    asked = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]]
    found = {each.name: pins.get(canonicalize_name(each.name)) for each in asked}
    wrong = {name: version for name, version in found.items() if version is None}
    wrong |= {each.name: found[each.name] for each in asked if each.name not in wrong and found[each.name] not in each.specifier}
    assert not wrong, "make constraints renews the file"

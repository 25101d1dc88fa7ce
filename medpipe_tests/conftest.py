"""Fixtures that every test may use: settings that write below tmp_path, and jobs without a graph around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medpipe.config import Settings, load_profile
from medpipe.job import Job, scoped

JobMaker = Callable[..., Job]


@dataclass
class Collected:
    """A Reporter that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    steps: list[tuple[int, int, str]] = field(default_factory=list)
    measured: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def log(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.steps.append((done, total, text))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.measured.append((step, dict(values)))


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the developer's own mirror folder by accident."""
    monkeypatch.delenv("MEDPIPE_MIRROR", raising=False)


@pytest.fixture
def reporter() -> Collected:
    return Collected()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The smoke profile with its data and outputs below tmp_path."""
    return load_profile("smoke", {"paths.data": str(tmp_path / "data"), "paths.outputs": str(tmp_path / "outputs")})


@pytest.fixture
def make_job(tmp_path: Path, reporter: Collected) -> JobMaker:
    """make_job(name, settings, inputs, out, sections=…): a job on the CPU; `out` defaults to a new folder named after it.

    With `sections` the settings are narrowed as the worker narrows them.
    """

    def make(
        name: str,
        settings: Settings,
        inputs: Mapping[str, Path] | None = None,
        out: Path | None = None,
        *,
        sections: tuple[str, ...] | None = None,
    ) -> Job:
        folder = out or tmp_path / "made" / name
        scratch = tmp_path / "scratch" / name
        folder.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        seen = settings if sections is None else scoped(settings, sections)
        return Job(name, seen, dict(inputs or {}), folder, scratch, "cpu", reporter)

    return make

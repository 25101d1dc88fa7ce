"""Fixtures that every test may use: settings that write below tmp_path, and jobs without a graph around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from medpipe.config import Settings, load_profile
from medpipe.job import Job, scoped

if TYPE_CHECKING:
    from medpipe_tests.made import Made

JobMaker = Callable[..., Job]
LONG = (
    "test_smoke_graph.py", "aws/test_end_to_end.py", "aws/test_entry.py", "operations/test_postgres.py", "training/test_co_training.py",
    "aws/test_hosts.py", "operations/test_recovery.py", "training/test_toy.py",
)  # fmt: skip
"""Files that take minutes, the longest first. With `--dist loadfile` a file is one process's: begun last, it would leave the other idle."""


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist hand files out in the order of the collection; by itself it would begin with those that hold the most tests."""
    if hasattr(config.option, "loadscopereorder"):  # xdist is there
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; all others stay in their order."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@dataclass
class Collected:
    """A Reporter that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    steps: list[tuple[int, int, str]] = field(default_factory=list)
    measured: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    played: list[tuple[int, list[Mapping[str, Any]]]] = field(default_factory=list)

    def log(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.steps.append((done, total, text))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.measured.append((step, dict(values)))

    def episodes(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        self.played.append((step, list(transcripts)))


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


@pytest.fixture(scope="session")
def one_thread() -> None:
    """The tiny model's matrices are too small to share out between threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Workspaces with finished data or models, to copy."""
    from medpipe_tests.made import Made

    return Made(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_base(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base model, made once for all tests."""
    from medpipe_tests.tiny_team import make_base

    return make_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{"models/<role>": folder} of four small random adapters on the tiny base."""
    from medpipe_tests.tiny_team import make_adapters

    return make_adapters(tiny_base, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def tiny_splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of splits/train, splits/cotrain and splits/validation, of a part of the bundled corpus."""
    from medpipe_tests.tiny_team import make_splits

    return make_splits(tmp_path_factory.mktemp("splits"))


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path) -> Any:
    """The tiny model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base, local_files_only=True)

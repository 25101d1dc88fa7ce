"""The table of work: which function makes which asset, and what its result depends on.

An asset's fingerprint is the hash of its inputs' content, the settings sections named here, the seed, the code of the module that
makes it and of all modules that this one imports, and the versions of the libraries that they compute with. While the fingerprint
stands and its files are whole, the asset is reused instead of made again. Comments and docstrings are not code.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path

from medpipe import store
from medpipe.config import Settings, digest
from medpipe.job import Job, Outcome

PACKAGE = Path(__file__).parent
PARSER = 2  # to be raised where what is read off a file, or how, changes
NO_CONTENT = ("__init__.py", "config.py", "errors.py", "job.py", "evaluation/plots.py", "evaluation/team_plots.py", "corpus/plots.py")
"""Imported, and yet of no influence on what a result is: settings count by their values, messages and pictures don't."""
LIBRARIES = {
    "accelerate": "accelerate", "bm25s": "bm25s", "datasets": "datasets", "ftfy": "ftfy", "langgraph": "langgraph", "numpy": "numpy",
    "pandas": "pandas", "peft": "peft", "rensa": "rensa", "safetensors": "safetensors", "sentence_transformers": "sentence-transformers",
    "tokenizers": "tokenizers", "torch": "torch", "transformers": "transformers",
}  # fmt: skip
"""Libraries whose version counts: module → distribution."""


COMMENTS = re.compile(rb'''"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|#[^\n]*''', re.DOTALL)
"""A text, or a comment: whichever begins first, so that a # within a text is none."""


@dataclass(frozen=True)
class Task:
    """One kind of work: `run` is "module:function"; `sections` and `code` are what its result depends on."""

    run: str
    sections: tuple[str, ...]
    code: tuple[str, ...] = ()  # files or folders below medpipe/ that count besides what the module imports
    joint: bool = False  # `run` takes {name: job} and gives {name: outcome}: several assets in one pass
    makes: tuple[str, ...] = ()  # files without which a result is none
    shows: bool = False  # it shows results, and says which are older than what they were made from; others refuse such

    def __call__(self, jobs: Mapping[str, Job]) -> dict[str, Outcome]:
        """Import the function and do the work of these assets, keyed by their names."""
        module, _, function = self.run.partition(":")
        run = getattr(import_module(module), function)
        return run(jobs) if self.joint else {name: run(job) for name, job in jobs.items()}

    @property
    def file(self) -> str:
        """The module that holds `run`, below medpipe/."""
        return self.run.partition(":")[0].removeprefix("medpipe.").replace(".", "/") + ".py"

    def version(self) -> str:
        """Hash of the code and the libraries that this work is done with."""
        files = modules_of((self.file, *self.code))
        return digest({"code": code_hash(files), "libraries": dict(libraries_of(files))})

    def fingerprint(self, settings: Settings, inputs: dict[str, str], **extra: str) -> str:
        """Hash of everything the result depends on; `inputs` maps each input's key to its content hash."""
        chosen = {section: getattr(settings, section).model_dump(mode="json") for section in self.sections}
        return digest({"seed": settings.seed, "settings": chosen, "inputs": inputs, "version": self.version(), "extra": extra})


@lru_cache
def modules_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The files below medpipe/ that these files or folders are, and all that they import, also within functions."""
    todo, found = [], set[str]()
    for name in names:
        path = PACKAGE / name
        todo += [file.relative_to(PACKAGE).as_posix() for file in path.rglob("*.py")] if path.is_dir() else [name]
    while todo:
        if (name := todo.pop()) not in found and name not in NO_CONTENT:
            found.add(name)
            todo += [file for dotted in _read(name)[0] if dotted.startswith("medpipe.") and (file := _file(dotted))]
    return tuple(sorted(found))


@lru_cache
def code_hash(files: tuple[str, ...]) -> str:
    """sha256 over the code of these files, without comments, docstrings and blank lines."""
    return hashlib.sha256("".join(f"{name}\0{_read(name)[1]}\n" for name in files).encode()).hexdigest()


@lru_cache
def libraries_of(files: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Distribution and version of each library of LIBRARIES that these files import; the build of a version (+cpu) doesn't count."""
    names = {dotted.partition(".")[0] for file in files for dotted in _read(file)[0]}
    return tuple((LIBRARIES[name], _version(LIBRARIES[name])) for name in sorted(names & LIBRARIES.keys()))


@lru_cache
def _version(distribution: str) -> str:
    return metadata.version(distribution).partition("+")[0]


@lru_cache
def _read(name: str) -> tuple[tuple[str, ...], str]:
    """Of a file: the dotted names that it imports (`from a import b` counts as a.b), and the sha256 of its code.

    Kept beside Python's own compiled files, by size and time as those are: to parse 70 files takes longer than to load the graph.
    """
    path = PACKAGE / name
    stat = path.stat()
    place, stamp = path.parent / "__pycache__" / f"{path.name}.code.json", [stat.st_mtime_ns, stat.st_size, PARSER]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not there, or not what was written
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            return tuple(kept["imports"]), str(kept["sha256"])
    imports, sha256 = _parsed(path)
    with contextlib.suppress(OSError):  # a package that can't be written to is parsed each time
        place.parent.mkdir(exist_ok=True)
        store.write_json(place, {"stamp": stamp, "imports": imports, "sha256": sha256})
    return imports, sha256


def _parsed(path: Path) -> tuple[tuple[str, ...], str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return (), hashlib.sha256(text.encode()).hexdigest()
    imports: list[str] = []
    docstrings: list[ast.expr] = []
    for statement in _statements(ast.parse(text)):
        if isinstance(statement, ast.Import):
            imports += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            imports += [f"{statement.module}.{alias.name}" for alias in statement.names]
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str):
            docstrings.append(statement.value)
    return tuple(imports), hashlib.sha256(_bare(text, docstrings).encode()).hexdigest()


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every statement below a node: far fewer than there are expressions."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, name, ())
        for each in below if isinstance(below, list) else ():
            if isinstance(each, ast.stmt):
                yield each
            yield from _statements(each)


def _file(dotted: str) -> str:
    """The file of an imported name, "corpus/text.py", or "" where it is a name of the package itself."""
    parts = dotted.split(".")[1:]
    candidates = ("/".join(parts[:end]) + tail for end in range(len(parts), 0, -1) for tail in (".py", "/__init__.py"))
    return next((one for one in candidates if (PACKAGE / one).is_file()), "")


def _bare(text: str, docstrings: Sequence[ast.expr]) -> str:
    """A module's text without what only people read; the same under every version of Python.

    Args:
        text: the module.
        docstrings: its texts that stand alone.
    """
    lines = [line.encode() for line in io.StringIO(text)]  # split where Python's own line numbers are
    for node in docstrings:
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        kept = lines[first][: node.col_offset] + b"0" + lines[last][node.end_col_offset :]  # a body that is a docstring stays a body
        lines[first : last + 1] = [kept] + [b""] * (last - first)
    # The lines of a text are taken together: a blank one within it is code.
    bare = COMMENTS.sub(lambda found: b"" if found[0].startswith(b"#") else found[0].replace(b"\n", b"\0"), b"".join(lines))
    return b"\n".join(line.rstrip() for line in bare.split(b"\n") if line.strip() not in (b"", b"0")).decode()


ROWS_FILE = ("rows.jsonl",)
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
TASKS: dict[str, Task] = {
    "source": Task("medpipe.corpus.sources:run", ("corpus",), makes=ROWS_FILE),
    "benchmarks": Task("medpipe.corpus.benchmarks:run", (), makes=(*ROWS_FILE, "benchmarks.json")),
    "clean": Task("medpipe.corpus.cleaning:run", ("corpus",), makes=(*ROWS_FILE, "funnel.json", "contamination.json")),
    "split": Task("medpipe.corpus.splits:run", ("corpus",), makes=ROWS_FILE),
    "base": Task("medpipe.models.base:run", ("model",), makes=("config.json", "tokenizer.json", "precision.json")),
    "sft": Task("medpipe.training.sft:run", ("model", "training", "team"), joint=True, makes=ADAPTER),
    "audit": Task("medpipe.rewards.audit:run", ("rewards",), makes=("audit.json",)),
    "verifier": Task("medpipe.training.learned:run", ("model", "training", "team", "maporl")),
    "maporl": Task("medpipe.training.maporl:run", ("model", "team", "rewards", "maporl"), makes=("examples.json",)),
    "tuning": Task(
        "medpipe.tuning.study:run",
        ("model", "training", "team", "rewards", "maporl", "hardware", "tracking", "tuning"),
        ("tuning", "training", "kin.py"),  # trials run the graph by its name
    ),
    "benchmark": Task(
        "medpipe.evaluation.evaluate:run", ("corpus", "model", "team", "rewards", "evaluation"), makes=("summary.json", "items.parquet")
    ),
    "leaderboard": Task("medpipe.evaluation.leaderboard:run", ("evaluation",), makes=("leaderboard.json",), shows=True),
    "champion": Task(
        "medpipe.evaluation.champion:run", ("model", "team", "evaluation", "release", "tracking"), makes=("decision.json", "scores.json"),
        shows=True,
    ),
    "report": Task(
        "medpipe.evaluation.report:run",
        ("corpus", "model", "training", "team", "rewards", "maporl", "evaluation", "release", "hardware"),
        ("evaluation/report.html.jinja",), makes=("report.html",), shows=True,
    ),
}  # fmt: skip

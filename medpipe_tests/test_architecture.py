"""The shape of the code, read from its imports: arrows point down, each vendor has one place, nothing can run a pickle.

docs/architecture.md draws the picture; FLOORS below is what it is held to. A module may import what stands on a lower floor,
and its own room. Rooms on one floor know nothing of each other.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache

import pytest

from medpipe.tasks import PACKAGE, TASKS

FLOORS: tuple[tuple[str, ...], ...] = (  # from the ground up; a room is a module or a folder below medpipe/
    ("__init__", "errors", "schema"),
    ("answers",),
    ("config", "store", "roles", "questions", "kin"),
    ("minilm", "results", "terminal"),
    ("job",),
    ("tasks", "tracking", "corpus", "models", "rewards", "evaluation/plots"),
    ("launch", "team", "evaluation/team_plots"),
    ("registry",),
    ("training", "evaluation", "consult", "tuning"),
    ("aws",),
    ("assets/present", "assets/console", "assets/messages"),
    ("resources",),
    ("assets",),
    ("definitions",),
    ("runner", "doctor", "plan", "library", "lineage", "tidy"),
    ("cli_aws",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

VENDORS = {  # import → where it may stand
    "dagster": ("assets", "resources", "definitions", "runner"),
    "dagster_pipes": ("launch/worker", "aws/voice", "assets/messages"),
    "dagster_aws": ("assets/sagemaker",),
    **dict.fromkeys(("boto3", "botocore", "s3fs", "fsspec", "upath"), ("aws",)),
    "dagster_k8s": ("assets/cluster",),
    "mlflow": ("tracking/mlflow_sink", "registry"),
    "wandb": ("tracking/wandb_sink",),
    "mcp": ("corpus/biomcp",),
    "great_expectations": ("corpus/expectations",),
    "langgraph": ("team",),
    "peft": ("models", "training"),
    "sentence_transformers": ("minilm",),
    "bm25s": ("corpus/retrieval",),
    "rensa": ("corpus/shingles",),
    "ftfy": ("corpus/repair",),
    "datasets": ("corpus",),
    "gguf": ("models",),
    "optuna": ("tuning",),
    "typer": ("cli", "cli_aws"),
    **dict.fromkeys(("fastapi", "uvicorn", "sagemaker"), ()),
}
PICKLING = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
UNSAFE_CALLS = ("torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")
UNSAFE_OPTIONS = ("trust_remote_code", "allow_pickle")
MOST_LINES, MOST_TEST_LINES = 600, 700

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
TESTS = PACKAGE.parent / "medpipe_tests"


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((PACKAGE / name).read_text(encoding="utf-8"))


@cache
def imported(name: str) -> tuple[str, ...]:
    return tuple(imports(tree(name)))


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything a file imports, also inside functions; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import relative to the file: write out medpipe.…"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(dotted_names: Iterable[str]) -> set[str]:
    """The package's files behind imported names: "corpus/text.py"."""
    found = set()
    for dotted in dotted_names:
        if dotted.partition(".")[0] == "medpipe":
            parts = dotted.split(".")[1:]
            candidates = ["/".join(parts[:end]) + tail for end in range(len(parts), 0, -1) for tail in (".py", "/__init__.py")]
            found.add(next((candidate for candidate in candidates if candidate in FILES), "__init__.py"))
    return found


def room(name: str) -> str:
    """The most exact entry of the table above: "evaluation/plots" before "evaluation"."""
    module = name.removesuffix(".py").removesuffix("/__init__")
    return module if module in FLOOR else module.partition("/")[0]


def within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == f"{place}.py" or name.startswith(f"{place}/") for place in places)


def test_every_file_stands_in_a_room_and_every_room_has_a_file() -> None:
    assert {room(name) for name in FILES} == set(FLOOR)


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_down(name: str) -> None:
    here = room(name)
    wrong = {other for other in own(imported(name)) if room(other) != here and FLOOR[room(other)] >= FLOOR[here]}
    assert not wrong, f"{name} (floor {FLOOR[here]}) imports {', '.join(sorted(wrong))}, not below it"


def test_an_arrow_hidden_in_a_function_is_seen() -> None:
    lines = ("def late():", " from medpipe.definitions import defs", " import medpipe.corpus.text", " from medpipe import NOTICE, store")
    assert own(imports(ast.parse("\n".join(lines)))) == {"definitions.py", "corpus/text.py", "__init__.py", "store.py"}


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_is_imported_in_its_own_place_only(vendor: str) -> None:
    users = {name for name in FILES if any(dotted.partition(".")[0] == vendor for dotted in imported(name))}
    assert {name for name in users if not within(name, VENDORS[vendor])} == set()


@pytest.mark.parametrize("name", FILES)
def test_nothing_reads_or_writes_a_pickle_or_runs_code_from_data(name: str) -> None:
    found = [dotted for dotted in imported(name) if dotted.partition(".")[0] in PICKLING]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in UNSAFE_CALLS else []
            found += [
                f"{called}({option.arg}=…)"
                for option in node.keywords
                if option.arg in UNSAFE_OPTIONS and not (isinstance(option.value, ast.Constant) and option.value.value is False)
            ]
    assert found == []


@pytest.mark.parametrize("name", FILES)
def test_a_module_opens_with_what_it_is(name: str) -> None:
    text = ast.get_docstring(tree(name))
    assert text and len(text.splitlines()[0]) > 20


def test_every_file_can_be_read_in_one_sitting() -> None:
    files = [*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    most = {path: MOST_TEST_LINES if path.is_relative_to(TESTS) else MOST_LINES for path in files}
    assert {str(path): length for path, length in lengths.items() if length > most[path]} == {}


def test_no_name_of_a_file_is_a_vendors_name() -> None:
    """A file named like a library would be imported in its place where its folder is the working directory."""
    assert [
        name
        for name in FILES
        if "/" not in name and not name.startswith("__") and importlib.util.find_spec(name.removesuffix(".py")) is not None
    ] == []


@pytest.mark.parametrize("key", TASKS)
def test_the_table_of_work_names_functions_and_code_that_exist(key: str) -> None:
    module, _, function = TASKS[key].run.partition(":")
    name = module.removeprefix("medpipe.").replace(".", "/") + ".py"
    assert function in {node.name for node in tree(name).body if isinstance(node, ast.FunctionDef)}
    assert [code for code in TASKS[key].code if not (PACKAGE / code).exists()] == []

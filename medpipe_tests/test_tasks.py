"""Fingerprints: what changes the version of a task's code, and what does not; on real files, real imports and real installed libraries."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest

from medpipe import tasks
from medpipe.config import load_profile
from medpipe.tasks import LIBRARIES, PACKAGE, TASKS, Task, libraries_of, modules_of

WORK = Task("medpipe.work:run", ())
Version = Callable[[str], str]
CLEARED = [each for each in vars(tasks).values() if hasattr(each, "cache_clear")]


def forget() -> None:
    """As a new process begins."""
    for each in CLEARED:
        each.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of its own in the place of medpipe/."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(tasks, "PACKAGE", folder)
    forget()
    yield folder
    forget()


@pytest.fixture
def version(package: Path) -> Version:
    """version(text): the version of a task whose module is this text."""
    shutil.rmtree(package)

    def of(text: str) -> str:
        package.mkdir()
        (package / "work.py").write_text(text, encoding="utf-8")
        forget()
        found = WORK.version()
        shutil.rmtree(package)  # nothing that is kept beside the code is asked for the next text
        return found

    return of


FORM_FEED, SEPARATORS = "x = 'a\x0cb'\n\n\n", "x = 'a\x0b\x1c\x85\u2028b'\n\n\n"
RETURNS, OTHERWISE = "def f():\n    return 1\n", "def f():\n    return 2\n"
TOLD, TOLD_OTHERWISE = (text.replace(":\n", ":\n    '''Übelkeit, 頭痛.'''\n") for text in (RETURNS, OTHERWISE))
SAME = {
    "a comment behind code": ("x = 1\n", "x = 1  # why\n"),
    "a comment on a line of its own": ("x = 1\ny = 2\n", "x = 1\n# why\ny = 2\n"),
    "another comment": ("x = 1  # one\n", "x = 1  # two # three\n"),
    "a blank line": ("x = 1\ny = 2\n", "\nx = 1\n\n\ny = 2\n\n"),
    "a space at the end": ("x = 1\n", "x = 1   \n"),
    "the module's docstring": ("x = 1\n", '"""What it is.\n\nAnd more.\n"""\n\nx = 1\n'),
    "a function's docstring": ("def f():\n    return 1\n", 'def f():\n    """Doc."""\n    return 1\n'),
    "another docstring": ('def f():\n    """One."""\n', 'def f():\n    """Two,\n    on two lines.\n    """\n'),
    "a class's and a method's docstring": (
        "class A:\n    def f(self):\n        return 1\n",
        'class A:\n    """A."""\n\n    def f(self):\n        r"""\\F."""\n        return 1\n',
    ),
    "a docstring of an attribute": ("x = 1\n", 'x = 1\n"""What x is."""\n'),
    "a docstring with a # and quotes": ('"""One."""\nx = 1\n', '"""It\'s # "two"."""\nx = 1\n'),
    "a docstring in another language": (RETURNS, TOLD),
    "a comment with quotes": ("x = 1\ny = '2'\n", "x = 1  # it's \"odd\n# '''\ny = '2'\n"),
    "a comment behind a text with a #": ('x = "a#b"\n', 'x = "a#b"  # why\n'),
    "a comment behind a text in another language": ('x = "é#頭痛"\n', 'x = "é#頭痛"  # ü\n'),
    "a comment behind an f-string with a #": ("y = 1\nx = f'{y}#b'\n", "y = 1\nx = f'{y}#b'  # why\n"),
    "a comment behind nested quotes": ("x = '\"#' + \"'#\"\n", "x = '\"#' + \"'#\"  # why\n"),
    "a comment between the parts of a text": ("x = ('a'\n     '#b')\n", "x = ('a'  # one\n     '#b')\n"),
    "a comment behind an escaped quote": ('x = "\\"#"\n', 'x = "\\"#"  # why\n'),
    "a comment behind a text of several lines": ('x = """a\n# b\n"""\n', 'x = """a\n# b\n"""  # why\n'),
    "a docstring after a form feed": (FORM_FEED + RETURNS, FORM_FEED + TOLD),
    "a docstring after other separators": (SEPARATORS + RETURNS, SEPARATORS + TOLD),
    "a docstring in an except, an else, a finally and a case": (
        "def f(x):\n    try:\n        pass\n    except OSError:\n        def g():\n            return 1\n    else:\n        def g():\n"
        "            return 2\n    finally:\n        def h():\n            return 3\n    match x:\n        case 1:\n            def k():\n"
        "                return 4\n",
        "def f(x):\n    try:\n        pass\n    except OSError:\n        def g():\n            'g'\n            return 1\n    else:\n"
        "        def g():\n            'g'\n            return 2\n    finally:\n        def h():\n            'h'\n            return 3\n"
        "    match x:\n        case 1:\n            def k():\n                'k'\n                return 4\n",
    ),
}  # fmt: skip
OTHER = {
    "a number": ("x = 1\n", "x = 2\n"),
    "a name": ("x = 1\n", "y = 1\n"),
    "an indentation": ("if x:\n    y = 1\nz = 2\n", "if x:\n    y = 1\n    z = 2\n"),
    "a text": ("x = 'a'\n", "x = 'b'\n"),
    "what follows a # in a text": ("x = 'a#b'\n", "x = 'a#c'\n"),
    "what follows a # in bytes": ("x = b'a#b'\n", "x = b'a#c'\n"),
    "what follows a # in a raw text": ("x = r'\\#b'\n", "x = r'\\#c'\n"),
    "what follows a # in a text of several lines": ('x = """a\n# b\n"""\n', 'x = """a\n# c\n"""\n'),
    "what follows a # behind an escaped quote": ('x = "\\"#b"\n', 'x = "\\"#c"\n'),
    "what follows a # behind nested quotes": ("x = '\"#b'\n", "x = '\"#c'\n"),
    "what follows a # in an f-string": ("x = f'{y}#b'\n", "x = f'{y}#c'\n"),
    "a # in the format of an f-string": ("x = f'{y:#x}'\n", "x = f'{y:#o}'\n"),
    "a # in a text within an f-string": ("x = f\"{y['#a']}\"\n", "x = f\"{y['#b']}\"\n"),
    "a # in an f-string of several lines": ('x = f"""a\n{y} # b\n"""\n', 'x = f"""a\n{y} # c\n"""\n'),
    "code behind such a text": ("x = 'a#b'; y = 1\n", "x = 'a#b'; y = 2\n"),
    "code behind a text in another language": ("x = 'é#頭痛'; y = 1\n", "x = 'é#頭痛'; y = 2\n"),
    "a text in another language": ("x = 'é'\n", "x = 'è'\n"),
    "code behind a form feed": (FORM_FEED + TOLD, FORM_FEED + TOLD_OTHERWISE),
    "code behind other separators": (SEPARATORS + TOLD, SEPARATORS + TOLD_OTHERWISE),
    "code behind a docstring": ('def f():\n    """Doc."""\n    return 1\n', 'def f():\n    """Doc."""\n    return 2\n'),
    "a default": ("def f(a=1):\n    '''Doc.'''\n", "def f(a=2):\n    '''Doc.'''\n"),
    "a text that is returned": ("def f():\n    return '''one'''\n", "def f():\n    return '''two'''\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_what_only_people_read_changes_no_version(what: str, version: Version) -> None:
    before, after = SAME[what]
    compile(after, "after", "exec")
    assert version(before) == version(after)


@pytest.mark.parametrize("what", OTHER)
def test_code_changes_the_version(what: str, version: Version) -> None:
    before, after = OTHER[what]
    compile(after, "after", "exec")
    assert version(before) != version(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [('x = """a\n\nb"""\n', 'x = """a\nb"""\n'), ('x = """a\n0\nb"""\n', 'x = """a\nb"""\n'), ('x = """a \nb"""\n', 'x = """a\nb"""\n')],
    ids=["a blank line", "a line with a 0", "a space at the end of a line"],
)
def test_every_line_of_a_text_is_code(before: str, after: str, version: Version) -> None:
    assert version(before) != version(after)


def test_a_file_that_is_no_python_counts_by_its_text(package: Path) -> None:
    (package / "work.py").write_text("x = 1\n")
    versions = set()
    for text in ("<p>one</p>", "<p>one</p>  <!-- # -->"):
        (package / "page.jinja").write_text(text)
        forget()
        versions.add(Task("medpipe.work:run", (), ("page.jinja",)).version())
    assert len(versions) == 2


def test_every_kind_of_import_is_followed_and_nothing_else(package: Path) -> None:
    texts = {
        "work.py": "from medpipe.parts import one\nimport medpipe.two\n\n\ndef run():\n    from medpipe.late import helper\n    helper()\n",
        "parts/__init__.py": "",
        "parts/one.py": "try:\n    from medpipe import three\nexcept ImportError:\n    import medpipe.four as four\n",
        "two.py": "match 1:\n    case 1:\n        import medpipe.five\n",
        "three.py": "import json\n",
        "four.py": "",
        "five.py": "",
        "late.py": "class A:\n    def f(self):\n        with open('x'):\n            from medpipe.six import thing\n        thing()\n",
        "six.py": "",
        "other.py": "from medpipe.work import run\n",
    }
    for name, text in texts.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    forget()
    assert set(modules_of(("work.py",))) == set(texts) - {"other.py", "parts/__init__.py"}
    before = WORK.version()
    (package / "six.py").write_text("thing = 1\n")
    forget()
    assert WORK.version() != before


def installed(folder: Path, distribution: str, version: str) -> Path:
    """What an installer leaves of a distribution, with this version."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    return info


def test_another_version_of_a_library_counts_and_its_build_does_not(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "work.py").write_text("def run():\n    import numpy\n    return numpy\n")
    forget()
    before, site = WORK.version(), tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    seen = {}
    for version in (metadata.version("numpy"), "9.9.9", "9.9.9+cpu", "9.9.10"):
        info = installed(site, "numpy", version)
        forget()
        assert metadata.version("numpy") == version
        seen[version] = WORK.version()
        shutil.rmtree(info)
    assert seen.pop(metadata.version("numpy")) == before
    assert seen["9.9.9"] == seen["9.9.9+cpu"] and len({before, *seen.values()}) == 3
    installed(site, "torch", "99.0")  # which this work does not import
    forget()
    assert WORK.version() == before


@pytest.mark.parametrize("key", TASKS)
def test_what_a_task_needs_exists(key: str) -> None:
    task = TASKS[key]
    module, _, function = task.run.partition(":")
    assert callable(getattr(import_module(module), function)) and (PACKAGE / task.file).is_file()
    assert all((PACKAGE / code).exists() for code in task.code)
    settings = load_profile("smoke")
    assert all(hasattr(settings, section) for section in task.sections)
    found = modules_of((task.file, *task.code))
    assert task.file in found and all((PACKAGE / name).is_file() for name in found)


@pytest.mark.parametrize(
    ("key", "files", "libraries"),
    [
        ("sft", {"training/fit.py", "models/adapters.py", "models/kv_cache.py", "team/transcript.py", "roles.py"}, {"torch", "peft"}),
        ("maporl", {"training/update.py", "team/workflow.py", "rewards/compose.py", "minilm.py"}, {"torch", "langgraph"}),
        ("benchmark", {"evaluation/systems.py", "team/workflow.py", "corpus/retrieval.py", "answers.py"}, {"torch", "bm25s"}),
        ("clean", {"corpus/dedup.py", "corpus/contamination.py", "corpus/repair.py"}, {"rensa", "ftfy"}),
    ],
)
def test_the_closure_reaches_what_the_work_is_done_with(key: str, files: set[str], libraries: set[str]) -> None:
    found = modules_of((TASKS[key].file, *TASKS[key].code))
    assert files <= set(found) and libraries <= {name for name, _ in libraries_of(found)}
    assert not {name for name in found if name.startswith(("assets/", "cli", "definitions", "runner", "resources"))}


def test_all_that_python_loads_for_a_task_is_in_its_closure() -> None:
    """Python's own answer, in a process of its own: what is loaded once the module is."""
    code = "import sys, medpipe.corpus.cleaning; print('\\n'.join(sorted(n for n in sys.modules if n.startswith('medpipe.'))))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    files = {f"{name.removeprefix('medpipe.').replace('.', '/')}.py" for name in loaded}
    modules = {name for name in files if (PACKAGE / name).is_file()}
    assert modules and modules - set(tasks.NO_CONTENT) <= set(modules_of((TASKS["clean"].file,)))


def test_a_fingerprint_changes_with_its_inputs_its_own_settings_and_the_seed_alone() -> None:
    def of(inputs: dict[str, str], **exceptions: object) -> str:
        return TASKS["sft"].fingerprint(load_profile("smoke", {k.replace("__", "."): v for k, v in exceptions.items()}), inputs)

    same = of({"models/base": "1"})
    assert same == of({"models/base": "1"}, evaluation__bootstrap=77) == of({"models/base": "1"}, paths__outputs="elsewhere")
    assert len({same, of({"models/base": "2"}), of({"models/base": "1"}, seed=99), of({"models/base": "1"}, training__epochs=9)}) == 4


def test_the_libraries_of_the_table_are_installed() -> None:
    assert {name: metadata.version(name) for name in LIBRARIES.values()}

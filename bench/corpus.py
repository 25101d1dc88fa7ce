"""How long the corpus takes, from MedQuAD's archive to the splits, and how that grows with the rows.

    python bench/corpus.py --mirror FOLDER                  # the archive as it is: sources, cleaning, decontamination, splits
    python bench/corpus.py --mirror FOLDER --times 1 10     # ten times the rows, by perturbation
    python bench/corpus.py --rows 1000000                   # a million generated rows through the funnel alone

Each measurement is a process of its own, so that its peak memory is its own; it runs the very functions that the assets run.
Machines differ, and one machine differs from hour to hour: beside the seconds stands how often the standard library alone could
have unpacked and parsed the archive in that time, measured in the same process.
Prints one JSON line and one table row for each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.corpus.sources import LIBRARY, SOURCES
from medpipe.job import Job, Outcome
from medpipe.schema import QAExample
from medpipe.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
STEPS = (
    "sources/medquad",
    "sources/synthetic",
    "sources/custom",
    "sources/benchmarks",
    "corpus/clean",
    "splits/train",
    "splits/validation",
)
KIND = {"sources/benchmarks": "benchmarks", "corpus/clean": "clean", "splits/train": "split", "splits/validation": "split"}


class Quiet:
    """A reporter that says nothing."""

    def log(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def progress(self, done: int, total: int, text: str = "") -> None: ...
    def metrics(self, step: int, values: Any) -> None: ...
    def episodes(self, step: int, transcripts: Any) -> None: ...


def chain(times: int, work: Path) -> dict[str, Any]:
    """All steps in one process; with `times` above 1 the rows of MedQuAD are multiplied between parsing and cleaning."""
    settings = load_profile("quickstart", {"paths.data": str(work / "data"), "paths.outputs": str(work / "outputs")})
    (work / "data").mkdir()
    (work / "data" / "synthetic").symlink_to(ROOT / "data" / "synthetic")
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    outcomes: dict[str, Outcome] = {}
    bare = bare_reading(SOURCES["medquad"].local(settings)[0])
    for step in STEPS:
        if step == "corpus/clean" and times > 1:
            multiply(work / "outputs" / "sources" / "medquad", times)
        started, used = time.perf_counter(), time.process_time()
        outcomes[step] = run(step, settings)
        seconds[step], cpu[step] = round(time.perf_counter() - started, 2), round(time.process_time() - used, 2)
    after = [seconds[step] for step in STEPS if not step.startswith("sources/")]
    return {
        "times": times, "rows_in": outcomes["corpus/clean"].metadata["rows"] + outcomes["corpus/clean"].metadata["dropped"],
        "kept": outcomes["corpus/clean"].metadata["rows"], "near_duplicates": outcomes["corpus/clean"].metadata["near_duplicates"],
        "contaminated": outcomes["corpus/clean"].metadata["contaminated"],
        "questions_checked": outcomes["sources/benchmarks"].metadata["questions"], "seconds": seconds, "cpu_seconds": cpu,
        "sources_to_splits_s": round(sum(seconds.values()), 2), "bare_reading_s": round(bare, 2),
        "clean_and_splits_s": round(sum(after), 2), "peak_mib": peak(),
        "checks_failed": [check.name for outcome in outcomes.values() for check in outcome.checks if not check.passed],
    }  # fmt: skip


def bare_reading(archive: Path) -> float:
    """Seconds that zipfile and ElementTree take to unpack and parse all documents, and nothing else."""
    started = time.perf_counter()
    with zipfile.ZipFile(archive) as bundle:
        for name in bundle.namelist():
            if name.endswith(".xml"):
                ElementTree.fromstring(bundle.read(name))
    return time.perf_counter() - started


def run(step: str, settings: Settings) -> Outcome:
    """One asset's function, on folders below the outputs folder."""
    out = settings.outputs / step
    out.mkdir(parents=True)
    inputs = {key: settings.outputs / key for key in STEPS if (settings.outputs / key).is_dir() and key != step}
    scratch = settings.outputs / "scratch" / step
    scratch.mkdir(parents=True)
    return TASKS[KIND.get(step, "source")](Job(step, settings, inputs, out, scratch, "cpu", Quiet()))


def multiply(folder: Path, times: int) -> None:
    """Copies under new ids: every second one a near duplicate (words exchanged), the others about something else."""
    rows = store.read_examples(folder)
    words = [word for row in rows[::50] for word in row.answer.split()]

    def copies() -> Iterator[QAExample]:
        yield from rows
        for copy in range(1, times):
            chance = random.Random(copy)
            for row in rows:
                text = row.answer.split()
                if copy % 2:
                    for _ in range(max(len(text) // 30, 1)):
                        a, b = chance.randrange(len(text)), chance.randrange(len(text))
                        text[a], text[b] = text[b], text[a]
                    change = {"answer": " ".join(text)}
                else:
                    text[::3] = [chance.choice(words) for _ in text[::3]]
                    name = f"{row.focus} variant {copy}"
                    change = {
                        "answer": " ".join(text),
                        "question": f"{row.question} Variant {copy}",
                        "focus": name,
                        "synonyms": (),
                        "cuis": (),
                    }
                yield row.model_copy(update={**change, "id": f"{row.id}~{copy}"})

    store.write_examples(folder, copies())
    assert (folder / LIBRARY).is_file()


def many(count: int, work: Path) -> dict[str, Any]:
    """Generated rows through the funnel: reading, repairing, near duplicates, sides; kept rows written as they come."""
    from medpipe.corpus.contamination import Items
    from medpipe.corpus.funnel import Funnel

    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(30_000)]

    def rows() -> Iterator[QAExample]:
        answer = ""
        for number in range(count):
            if number % 10:  # every tenth row says again what the row before said
                answer = " ".join(chance.choices(vocabulary, k=120))
            subject = number if number % 10 else number - 1
            yield QAExample(
                id=f"custom-{number}", source="custom", question=f"What is known about condition {vocabulary[subject % 30_000]} {subject}?",
                answer=answer or "A first answer with words of its own, which no other row holds.", focus=f"condition {subject}",
            )  # fmt: skip

    settings = load_profile("quickstart")
    started = time.perf_counter()
    dropped = 0

    def drop(_: Any) -> None:
        nonlocal dropped
        dropped += 1

    funnel = Funnel(settings.corpus, settings.seed, Items.of([]), work, drop)
    funnel.pour(rows())
    kept = store.write_examples(work, (each.row for each in funnel.kept()))
    funnel.table()
    seconds = round(time.perf_counter() - started, 1)
    return {"rows_in": count, "kept": kept, "dropped": dropped, "seconds": seconds, "peak_mib": peak(), "peak_anonymous_mib": anonymous()}


def peak() -> int:
    """Peak resident memory of this process, MiB; memory-mapped files count while they are resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def anonymous() -> int:
    """Resident memory now that is not backed by a file, MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mirror", type=Path, default=os.environ.get("MEDPIPE_MIRROR"), help="folder with MedQuAD-master.zip and benchmarks"
    )
    parser.add_argument("--times", type=int, nargs="*", default=[1], help="multiples of the rows")
    parser.add_argument("--rows", type=int, help="generated rows instead")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with tempfile.TemporaryDirectory() as work:
            result = many(arguments.rows, Path(work)) if arguments.rows else chain(arguments.times[0], Path(work))
        print(json.dumps(result))
        return
    if not arguments.rows and not arguments.mirror:
        parser.error("got no mirror: name the folder with MedQuAD-master.zip (--mirror or MEDPIPE_MIRROR)")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"} | ({"MEDPIPE_MIRROR": str(arguments.mirror)} if arguments.mirror else {})
    first = 0.0
    for what in [["--rows", str(arguments.rows)]] if arguments.rows else [["--times", str(times)] for times in arguments.times]:
        done = subprocess.run([sys.executable, __file__, "--child", *what], env=environment, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(result))
        if arguments.rows:
            print(f"| {result['rows_in']:,} rows | kept {result['kept']:,} | {result['seconds']} s | {result['peak_mib']:,} MiB |")
            continue
        whole, late = result["sources_to_splits_s"], result["clean_and_splits_s"]
        bare = whole / result["bare_reading_s"]
        first = first or late
        rows = f"{result['rows_in']:,} rows in, {result['kept']:,} kept"
        ratio = f"clean and splits {late} s ({late / first:.1f} x)"
        total = f"sources to splits {whole} s ({bare:.1f} bare readings)"
        print(f"| {result['times']} x | {rows} | {total} | {ratio} | {result['peak_mib']:,} MiB |")


if __name__ == "__main__":
    main()

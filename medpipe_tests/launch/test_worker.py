"""Real worker processes: what they leave behind when they end well, fail, are killed, or lose their parent."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from medpipe import results, store
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.launch.devices import Place, place_light
from medpipe.launch.order import WORKER, Order, standing_result, write_order
from medpipe.launch.worker import EXIT_EXPLAINED, _explained, carry_out
from medpipe.schema import CheckResult, Manifest, Ref
from medpipe.tasks import TASKS, Task

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0  # seconds; for what a busy machine may take, not for what is expected
ROW = {"question": "What does iron deficiency cause?", "answer": "Iron deficiency is a common cause of anaemia."}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

# What Dagster's step does, without Dagster: hands an order over through Pipes, and waits.
PARENT = """
import json, os, subprocess, sys
from dagster_pipes import encode_env_var
order, messages = json.load(open(sys.argv[1])), sys.argv[2]
context = {"data": {"asset_keys": None, "code_version_by_asset_key": None, "provenance_by_asset_key": None, "partition_key": None,
           "partition_key_range": None, "partition_time_window": None, "run_id": "run", "job_name": "everything", "retry_number": 0,
           "extras": {"order": order, "parent": os.getpid()}}}
border = {"DAGSTER_PIPES_CONTEXT": encode_env_var(context), "DAGSTER_PIPES_MESSAGES": encode_env_var({"path": messages})}
worker = subprocess.Popen([sys.executable, "-m", "medpipe.launch.worker"], env={**os.environ, **border})
print(worker.pid, flush=True)
sys.exit(worker.wait())
"""


@pytest.fixture
def custom(settings: Settings) -> Path:
    """data/custom with one row."""
    folder = settings.data / "custom"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def bundled(settings: Settings) -> Path:
    """data/synthetic/conditions with the conditions of one specialty."""
    folder = settings.data / "synthetic" / "conditions"
    folder.mkdir(parents=True)
    shutil.copy(min((ROOT / "data" / "synthetic" / "conditions").glob("*.yaml")), folder / "some.yaml")
    return folder


def custom_order(settings: Settings) -> Order:
    return write_order("sources/custom", "source", settings, {}, place_light(), "run", {})


def bundled_order(settings: Settings) -> Order:
    return write_order("sources/synthetic", "source", settings, {}, place_light(), "run", {})


def saved(order: Order, folder: Path) -> Path:
    path = folder / "order.json"
    path.write_text(order.model_dump_json(), encoding="utf-8")
    return path


def work(order: Order, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WORKER, str(saved(order, folder))], capture_output=True, text=True, env=ENVIRONMENT, timeout=DEADLINE)


def left_in(folder: Path) -> list[str]:
    """What lies there, but for locks and what is remembered of files that were read."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not name.endswith((".lock", ".seen.json"))]


def only(order: Order) -> list[str]:
    """What lies beside a finished result where nothing else was left."""
    return [Path(order.out).name]


def wait_until(true: Callable[[], Any], what: str) -> Any:
    """The first true value; fails after the deadline."""
    end = time.monotonic() + DEADLINE
    while not (value := true()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)
    return value


@pytest.fixture
def reading(bundled: Path) -> Iterator[Callable[[], int]]:
    """Puts a pipe among the conditions: a worker that reads it is in the middle of its work, and stays there.

    The function returns once a worker reads.
    """
    pipe = bundled / "z_pipe.yaml"
    os.mkfifo(pipe)
    ends: list[int] = []

    def connect() -> int:
        try:
            ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO  # nobody reads yet
        return len(ends)

    yield lambda: wait_until(connect, "the worker reads")
    for end in ends:
        os.close(end)


def test_a_worker_makes_the_folder_and_writes_its_manifest_last(settings: Settings, custom: Path, tmp_path: Path) -> None:
    order = custom_order(settings)
    done = work(order, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"made {order.out}"
    folder = Path(order.out)
    assert [row.question for row in store.read_examples(folder)] == [ROW["question"]]
    manifest = standing_result(order)
    assert manifest is not None
    assert {"library.jsonl", "rows.jsonl", "quarantine.jsonl", "validation.json"} <= set(manifest.files)
    assert manifest.settings == {"corpus": settings.corpus.model_dump(mode="json")}
    assert [check.name for check in manifest.checks] == ["reachable", "schema_and_ranges", "drift"]
    newest = max(path.stat().st_mtime_ns for path in folder.iterdir())
    assert (folder / store.MANIFEST).stat().st_mtime_ns == newest
    assert left_in(folder.parent) == only(order)
    assert left_in(settings.outputs / "scratch") == []
    assert "the user's own rows: 1 rows" in (settings.outputs / "logs" / "sources_custom.log").read_text(encoding="utf-8")


def test_a_worker_that_fails_leaves_the_earlier_result_and_nothing_half_made(settings: Settings, bundled: Path, tmp_path: Path) -> None:
    order = bundled_order(settings)
    assert work(order, tmp_path).returncode == 0
    rows = Path(order.out) / store.ROWS
    rows.write_text("damaged", encoding="utf-8")  # so that it is made anew
    (bundled / "broken.yaml").write_text("conditions: [", encoding="utf-8")
    done = work(order, tmp_path)
    assert done.returncode == EXIT_EXPLAINED
    assert "expected a YAML list of conditions" in done.stdout
    assert rows.read_text(encoding="utf-8") == "damaged"
    assert left_in(Path(order.out).parent) == only(order)


def test_a_result_that_stands_is_not_made_again(settings: Settings, bundled: Path, tmp_path: Path) -> None:
    order = bundled_order(settings)
    assert work(order, tmp_path).returncode == 0
    before = (Path(order.out) / store.MANIFEST).stat().st_mtime_ns
    (bundled / "broken.yaml").write_text("conditions: [", encoding="utf-8")  # would fail, were it read
    assert work(order, tmp_path).returncode == 0
    assert (Path(order.out) / store.MANIFEST).stat().st_mtime_ns == before


def test_of_two_workers_at_once_one_makes_the_result_and_the_other_waits_and_takes_it(
    settings: Settings, bundled: Path, tmp_path: Path, reading: Callable[[], int]
) -> None:
    order = bundled_order(settings)
    command = [*WORKER, str(saved(order, tmp_path))]
    with subprocess.Popen(command, env=ENVIRONMENT) as first:
        reading()
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert "another run is making sources/synthetic" in second.stdout.readline()
            (bundled / "z_pipe.yaml").unlink()
            first.kill()  # its lock is free at once, and what it left is tidied up
            assert second.wait(DEADLINE) == 0
    assert standing_result(order) is not None
    assert left_in(Path(order.out).parent) == only(order)


def test_a_worker_killed_in_the_middle_leaves_no_finished_folder_and_the_next_one_succeeds(
    settings: Settings, bundled: Path, tmp_path: Path, reading: Callable[[], int]
) -> None:
    order = bundled_order(settings)
    with subprocess.Popen([*WORKER, str(saved(order, tmp_path))], env=ENVIRONMENT) as worker:
        reading()
        partial = left_in(Path(order.out).parent)
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
    assert partial == [results.partial_of(Path(order.out)).name]
    assert not Path(order.out).exists()
    assert standing_result(order) is None

    (bundled / "z_pipe.yaml").unlink()
    assert work(order, tmp_path).returncode == 0
    assert standing_result(order) is not None
    assert left_in(Path(order.out).parent) == only(order)


def test_a_worker_killed_in_the_middle_leaves_the_earlier_result(
    settings: Settings, bundled: Path, tmp_path: Path, reading: Callable[[], int]
) -> None:
    pipe, aside = bundled / "z_pipe.yaml", bundled / "z_pipe"
    pipe.rename(aside)
    order = bundled_order(settings)
    assert work(order, tmp_path).returncode == 0
    rows = Path(order.out) / store.ROWS
    rows.write_text("damaged", encoding="utf-8")  # so that it is made anew
    aside.rename(pipe)
    with subprocess.Popen([*WORKER, str(saved(order, tmp_path))], env=ENVIRONMENT) as worker:
        reading()
        worker.kill()
    assert rows.read_text(encoding="utf-8") == "damaged"


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked for (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_dies_with_its_parent(settings: Settings, bundled: Path, tmp_path: Path, reading: Callable[[], int]) -> None:
    order = bundled_order(settings)
    command = [sys.executable, "-c", PARENT, str(saved(order, tmp_path)), str(tmp_path / "messages")]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        reading()
        assert alive(worker)
        parent.kill()
    wait_until(lambda: not alive(worker), "the worker is gone")
    assert not Path(order.out).exists()


def test_a_worker_whose_parent_ended_before_it_began_does_nothing(settings: Settings, custom: Path, tmp_path: Path) -> None:
    order = custom_order(settings)
    script = PARENT.replace('"parent": os.getpid()', '"parent": 1')
    command = [sys.executable, "-c", script, str(saved(order, tmp_path)), str(tmp_path / "messages")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=DEADLINE)
    assert done.returncode == 1
    assert "the parent process ended before the work began" in done.stderr
    assert not settings.outputs.exists()


def test_a_worker_without_an_order_says_what_it_wants() -> None:
    plain = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("DAGSTER_PIPES")}
    done = subprocess.run([*WORKER], capture_output=True, text=True, env=plain, timeout=DEADLINE)
    assert done.returncode == 1
    assert done.stderr.startswith("got no order, expected one from Dagster or a file, in medpipe.launch.worker: ")


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_one_clear_message(settings: Settings, custom: Path, tmp_path: Path) -> None:
    order = write_order("sources/custom", "source", settings, {}, Place("gpu_0", "0", 1), "run", {})
    done = work(order, tmp_path)  # ENVIRONMENT shows it no GPU
    assert done.returncode == EXIT_EXPLAINED
    assert "got no usable GPU in PyTorch, expected GPU" in done.stdout
    assert "in hardware.devices: check nvidia-smi" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert left_in(Path(order.out).parent) == []


def made_input(settings: Settings, key: str, *checks: CheckResult, inputs: Mapping[str, str] | None = None) -> Ref:
    """A finished folder as an input, whose checks came out like this."""
    partial = settings.outputs / key.replace("/", "/.")
    partial.mkdir(parents=True)
    store.write_examples(partial, [])
    files = store.hash_tree(partial)
    manifest = Manifest(
        task="source", fingerprint="f", sha256=store.hash_of_hashes(files), files=files, checks=checks, inputs=dict(inputs or {})
    )
    store.publish(partial, settings.outputs / key, manifest)
    return Ref(path=str(settings.outputs / key), sha256=manifest.sha256)


def refused(settings: Settings, ref: Ref) -> str:
    """The message with which work on this input is refused; nothing may be left of the attempt."""
    order = write_order("splits/train", "split", settings, {"corpus/clean": ref}, place_light(), "run", {})
    said: list[str] = []
    with pytest.raises(Exception) as refusal:
        carry_out(order, lambda level, text: said.append(text))
    assert said == []
    assert left_in(Path(order.out).parent) == []
    return str(refusal.value)


def test_an_input_whose_blocking_check_failed_is_refused_in_later_runs_too(settings: Settings) -> None:
    ref = made_input(settings, "corpus/clean", CheckResult(name="unique_ids", passed=False), CheckResult(name="fine", passed=True))
    assert refused(settings, ref) == (
        f"got corpus/clean whose checks failed: unique_ids, expected checks that passed, in {ref.path}: "
        "see the checks of corpus/clean on the Dagster page, mend its data or settings and materialise it again"
    )


def test_an_input_whose_content_changed_or_is_gone_is_refused(settings: Settings) -> None:
    ref = made_input(settings, "corpus/clean")
    stale = ref.model_copy(update={"sha256": "0" * 64})
    assert refused(settings, stale) == (
        f"got content {ref.sha256[:12]}, expected content {'0' * 12}, in {ref.path}: materialise corpus/clean again"
    )
    (Path(ref.path) / store.MANIFEST).unlink()
    assert refused(settings, ref).startswith(f"got no finished folder, expected content {ref.sha256[:12]}")


def test_models_of_another_base_and_damaged_ones_are_refused(settings: Settings) -> None:
    base = made_input(settings, "models/base")
    planner = made_input(settings, "models/planner", inputs={"models/base": "0" * 64})
    order = write_order("models/verifier", "verifier", settings, {"models/base": base, "models/planner": planner}, place_light(), "run", {})
    with pytest.raises(MedpipeError, match="got models/planner made from another models/base, expected inputs that belong together"):
        carry_out(order, print)
    (Path(base.path) / store.ROWS).write_text("[", encoding="utf-8")
    with pytest.raises(MedpipeError, match=rf"got {store.ROWS} missing or not as made.*materialise models/base again"):
        carry_out(order, print)


def test_work_without_memory_is_one_message_that_says_what_to_lower(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job) -> Outcome:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")  # as torch words it on a CPU

    order = order_of_a_task(settings, monkeypatch, run).model_copy(update={"task": "maporl"})
    monkeypatch.setitem(TASKS, "maporl", TASKS["source"])
    told = _explained(order, lambda level, text: None)["error"]
    assert told.startswith("got too little memory (DefaultCPUAllocator") and "lower maporl.minibatch" in told


def order_of_a_task(settings: Settings, monkeypatch: pytest.MonkeyPatch, run: Callable[[Job], Outcome], ref: Ref | None = None) -> Order:
    """An order whose work is this function, for what no real task can be brought to do cheaply."""

    class Doing(Task):
        def __call__(self, jobs: Mapping[str, Job]) -> dict[str, Outcome]:
            return {name: run(job) for name, job in jobs.items()}

    monkeypatch.setitem(TASKS, "source", Doing(TASKS["source"].run, ("corpus",), ()))
    inputs = {} if ref is None else {"sources/medquad": ref}
    return write_order("sources/custom", "source", settings, inputs, place_light(), "run", {})


def test_a_check_that_only_warns_and_an_input_that_cant_be_had_let_the_work_go_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = made_input(settings, "sources/medquad", CheckResult(name="reachable", passed=False, severity="warn"))
    assert carry_out(order_of_a_task(settings, monkeypatch, lambda _: Outcome(), ref), print)["sources/custom"].status == "ok"
    absent = Ref(path="nowhere", sha256="", status="unreachable", reason="no network")
    assert carry_out(order_of_a_task(settings, monkeypatch, lambda _: Outcome(), absent), print)["sources/custom"].status == "ok"


def test_numbers_and_exports_are_kept_and_times_do_not_change_the_content(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = settings.data / "copy.txt"

    def run(job: Job) -> Outcome:
        store.write_text(job.out / "result.txt", "always the same\n")
        job.report.metrics(1, {"loss": 0.5})
        job.report.progress(1, 1, "done")
        return Outcome({"loss": 0.5}, exports={"result.txt": copy})

    said: list[str] = []
    first = carry_out(order_of_a_task(settings, monkeypatch, run), lambda level, text: said.append(f"{level}: {text}"))["sources/custom"]
    assert said == ["info: 1/1 done"]
    assert copy.read_text(encoding="utf-8") == "always the same\n"
    numbers = Path(order_of_a_task(settings, monkeypatch, run).out) / "metrics.jsonl"
    line = store.read_jsonl(numbers)[0]
    assert (line["step"], line["loss"]) == (1, 0.5)
    numbers.write_text("", encoding="utf-8")
    second = carry_out(order_of_a_task(settings, monkeypatch, run), print)["sources/custom"]
    assert second.created_at and store.read_jsonl(numbers)[0]["loss"] == 0.5, "it was made anew"
    assert first.sha256 == second.sha256
    assert set(first.files) == {"metrics.jsonl", "result.txt"}


def test_a_result_without_its_files_is_not_published(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_of_a_task(settings, monkeypatch, lambda _: Outcome())
    monkeypatch.setitem(TASKS, "source", dataclasses.replace(TASKS["source"], makes=("rows.jsonl",)))
    with pytest.raises(MedpipeError, match=r"got a result without rows\.jsonl"):
        carry_out(order, print)
    assert left_in(Path(order.out).parent) == []


def test_a_failed_publication_leaves_no_partial_folder(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    order = order_of_a_task(settings, monkeypatch, lambda _: Outcome())
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        carry_out(order, print)
    assert left_in(Path(order.out).parent) == []


def test_a_task_that_reads_what_it_did_not_declare_fails_and_leaves_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_of_a_task(settings, monkeypatch, lambda job: Outcome({"epochs": job.settings.training.epochs}))
    with pytest.raises(AttributeError, match="did not declare the settings section 'training'"):
        carry_out(order, print)
    assert left_in(Path(order.out).parent) == []


def test_one_order_makes_several_results_each_with_a_folder_of_its_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job) -> Outcome:
        store.write_text(job.out / "name.txt", job.name)
        return Outcome({"name": job.name})

    first = order_of_a_task(settings, monkeypatch, run)
    other = write_order("sources/medtext", "source", settings, {}, place_light(), "run", {})
    both = first.model_copy(update={"together": (other,)})
    assert both.scratch not in (first.scratch, other.scratch)
    made = carry_out(both, print)
    assert {name: manifest.fingerprint for name, manifest in made.items()} == {
        "sources/custom": first.fingerprint, "sources/medtext": other.fingerprint
    }  # fmt: skip
    for name in made:
        order = first if name == "sources/custom" else other
        assert (Path(order.out) / "name.txt").read_text(encoding="utf-8") == name
        assert standing_result(order) is not None


def test_a_failure_publishes_none_of_several_results(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job) -> Outcome:
        if job.name == "sources/medtext":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return Outcome()

    first = order_of_a_task(settings, monkeypatch, run)
    other = write_order("sources/medtext", "source", settings, {}, place_light(), "run", {})
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        carry_out(first.model_copy(update={"together": (other,)}), print)
    assert left_in(Path(first.out).parent) == left_in(Path(other.out).parent) == []

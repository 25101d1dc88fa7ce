"""The process in which one asset's work is done.

    python -m medpipe.launch.worker               # started by Dagster, which hands it an order through Pipes
    python -m medpipe.launch.worker order.json    # alone, with an order that was saved

It dies with its parent, holds a kernel lock on its GPU, builds the result in a folder beside the final one, writes the
manifest last, and renames. What it says goes to Dagster, to outputs/logs and, for models, into the result.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpipe import results, store
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome, scoped
from medpipe.kin import die_with_parent
from medpipe.launch.devices import gpus_held
from medpipe.launch.order import Order, standing_result
from medpipe.launch.together import RANK, rank
from medpipe.schema import CheckResult, Manifest
from medpipe.tasks import TASKS
from medpipe.tracking import Tracker

PROGRESS_SECONDS = 5.0
TRACKED = ("base", "sft", "verifier", "maporl", "benchmark")
LOG = "training_logs.txt"
LOGGED = ("sft", "verifier", "maporl")
"""Tasks whose log is part of the result: it grows in the folder of the result while the work goes on."""
EXIT_EXPLAINED = 3
"""Exit status after a failure whose message was handed over."""


class WorkReporter:
    """Reporter of one job: lines to a log file and to `say`, numbers to metrics.jsonl and the tracker."""

    def __init__(self, log: Path, out: Path, say: Callable[[str, str], None]) -> None:
        self._log, self._out, self._say = log, out, say
        self._said = 0.0
        self.tracker: Tracker | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("", encoding="utf-8")

    def log(self, text: str) -> None:
        """Say one line now."""
        self._line("info", text)

    def warn(self, text: str) -> None:
        """Say one line now, as a warning."""
        self._line("warning", text)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Say how far the job is, every few seconds at most."""
        now = time.monotonic()
        if done >= total or now - self._said >= PROGRESS_SECONDS:
            self._said = now
            self._line("info", f"{done}/{total} {text}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line of numbers; hand a copy to the tracker."""
        import json

        with (self._out / "metrics.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, "time": _now(), **values}) + "\n")
        if self.tracker:
            self.tracker.metrics(step, values)

    def episodes(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        """Hand played episodes to the tracker."""
        if self.tracker:
            self.tracker.episodes(step, transcripts)

    def _line(self, level: str, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as handle:
            handle.write(f"{_now()} {level}: {text}\n")
        self._say(level, text)


def assist(order: Order) -> None:
    """Do the same task beside the worker proper, with a share of the questions; what it writes is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        folders = {key: Path(ref.path) for key, ref in order.inputs.items()}
        device = order.device if order.device == "cpu" else f"cuda:{os.environ['LOCAL_RANK']}"
        quiet = WorkReporter(out / "log.txt", out, lambda level, text: None)
        settings = scoped(order.settings, TASKS[order.task].sections)
        TASKS[order.task]({order.name: Job(order.name, settings, folders, out, order.scratch, device, quiet)})


def carry_out(order: Order, say: Callable[[str, str], None]) -> dict[str, Manifest]:
    """Do the work of an order and publish its folders; raises what the work raises and leaves nothing half-written.

    A result that another run is making is waited for, and taken.

    Returns:
        By asset, the manifest of its result.
    """
    _refuse_unfit_inputs(order)
    with _held(order, say):
        found = {part.name: manifest for part in order.parts if (manifest := standing_result(part))}
        wanted = tuple(part for part in order.parts if part.name not in found)
        if not wanted:
            return found
        rest = wanted[0].model_copy(update={"together": tuple(part.model_copy(update={"together": ()}) for part in wanted[1:])})
        building = {part.name: _Part(part, say) for part in rest.parts}
        try:
            return {**found, **_build(rest, building)}
        finally:
            for part in building.values():
                shutil.rmtree(part.partial, ignore_errors=True)  # gone already where it was published


def _held(order: Order, say: Callable[[str, str], None]) -> contextlib.AbstractContextManager[None]:
    """The locks of all that the order makes. Of several processes that work together none may wait: who starts them holds the locks."""
    if RANK in os.environ:
        return contextlib.nullcontext()
    return results.held([Path(part.out) for part in order.parts], lambda text: say("info", text))


class _Part:
    """One result that is being built: its folder, and where its work says what it does."""

    def __init__(self, order: Order, say: Callable[[str, str], None]) -> None:
        self.order, self.final = order, Path(order.out)
        self.partial = results.partial_of(self.final)
        self.partial.mkdir(parents=True)
        self.log = order.settings.outputs / "logs" / f"{order.name.replace('/', '_')}.log"
        self.log.unlink(missing_ok=True)  # not emptied: a finished result may hold the same file
        self.report = WorkReporter(self.log, self.partial, say)
        self.followed: Path | None = None

    def follow(self, log: Path) -> None:
        """Let the log grow in the result's folder too, where `tail -f outputs/<asset>/training_logs.txt` finds it the first time."""
        if self.order.task in LOGGED:
            self.followed = log
            with contextlib.suppress(OSError):  # a file system without hard links: it is copied at the end
                os.link(log, self.partial / LOG)
            place = self.order.settings.outputs / self.order.name
            if not place.exists():
                results.show(self.order.settings.outputs, self.order.name, self.partial)

    def track(self, used: Mapping[str, Any]) -> None:
        order, settings = self.order, self.order.settings
        tags = {"medpipe.asset": order.name, "medpipe.fingerprint": order.fingerprint, "medpipe.commit": order.commit}
        tags |= {f"medpipe.input.{key}": ref.sha256 for key, ref in order.inputs.items()}
        tags |= {"medpipe.config_hash": settings.config_hash()}
        self.report.tracker = Tracker(settings, order.name, order.run_id, dict(used), tags, self.report.warn, _datasets(order))

    def job(self, settings: Any, scratch: Path) -> Job:
        folders = {key: Path(ref.path) for key, ref in self.order.inputs.items()}
        return Job(self.order.name, settings, folders, self.partial, scratch, self.order.device, self.report)

    def publish(self, outcome: Outcome, used: dict[str, Any], seconds: float) -> Manifest:
        order, settings = self.order, self.order.settings
        if self.followed and not (self.partial / LOG).exists():
            shutil.copyfile(self.followed, self.partial / LOG)
        files = store.hash_tree(self.partial)
        lacking = [name for name in TASKS[order.task].makes if name not in files]
        if outcome.status == "ok" and lacking:
            raise MedpipeError(
                got=f"a result without {', '.join(lacking)}", expected="the files that every such result has", where=str(self.partial),
                do="see the log for what removed or didn't write it, and materialise it again",
            )  # fmt: skip
        manifest = Manifest(
            task=order.task, fingerprint=order.fingerprint, sha256=store.content_hash(files), files=files,
            inputs={key: ref.sha256 for key, ref in order.inputs.items()}, settings=used, config_hash=settings.config_hash(),
            profile=settings.name, commit=order.commit, created_at=_now(), seconds=seconds, status=outcome.status, reason=outcome.reason,
            exports={name: str(target) for name, target in outcome.exports.items()}, metadata=dict(outcome.metadata), checks=outcome.checks,
        )  # fmt: skip
        store.publish(self.partial, self.final, manifest)
        store.export(self.final, manifest)
        return manifest


def _build(order: Order, building: Mapping[str, _Part]) -> dict[str, Manifest]:
    settings, task, scratch = order.settings, TASKS[order.task], order.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    used = {section: getattr(settings, section).model_dump(mode="json") for section in task.sections}
    if order.task in TRACKED:
        for part in building.values():
            part.track(used)
    started = time.monotonic()
    outcomes: dict[str, Outcome] = {}
    first = next(iter(building.values()))
    for part in building.values():
        part.follow(first.log)
        if part is not first:
            part.log.write_text(f"made in one pass with {first.order.name}: its log tells how far it is\n", encoding="utf-8")
    try:
        with _gpu_claimed(order.device, first.report.log):
            view = scoped(settings, task.sections)
            outcomes = task({name: part.job(view, scratch) for name, part in building.items()})
    finally:
        for name, part in building.items():
            outcome = outcomes.get(name)
            if part.report.tracker and (outcome is None or outcome.status == "ok"):
                part.report.tracker.close(outcome is None, _numbers(outcome))
    seconds = round(time.monotonic() - started, 2)
    manifests = {name: part.publish(outcomes[name], used, seconds) for name, part in building.items()}
    shutil.rmtree(scratch, ignore_errors=True)
    return manifests


def _refuse_unfit_inputs(order: Order) -> None:
    """What the work is made from must be what it is said to be, whole, of one making, and have passed its checks.

    A blocking check stops one run only: a later run must not build on data or weights that failed theirs.
    """
    for key, ref in order.inputs.items():
        if ref.status != "ok":
            continue  # the work itself says what it does without it
        folder = Path(ref.path)
        manifest = store.read_manifest(folder)
        if manifest is None or manifest.sha256 != ref.sha256:
            found = "no finished folder" if manifest is None else f"content {manifest.sha256[:12]}"
            raise MedpipeError(got=found, expected=f"content {ref.sha256[:12]}", where=ref.path, do=f"materialise {key} again")
        if damaged := results.damage(folder, manifest):
            raise MedpipeError(
                got=f"{', '.join(damaged[:3])} missing or not as made", expected="the bytes that its manifest recorded", where=ref.path,
                do=f"materialise {key} again: it is made anew",
            )  # fmt: skip
        failed = [check.name for check in manifest.checks if _blocks(check)]
        if failed:
            raise MedpipeError(
                got=f"{key} whose checks failed: {', '.join(failed)}", expected="checks that passed", where=ref.path,
                do=f"see the checks of {key} on the Dagster page, mend its data or settings and materialise it again",
            )  # fmt: skip
        older = results.older_than(manifest, {name: one.sha256 for name, one in order.inputs.items() if one.status == "ok"})
        if older and not TASKS[order.task].shows:
            raise MedpipeError(
                got=f"{key} made from another {', '.join(older)}", expected="inputs that belong together", where=order.name,
                do=f"materialise {key} again (or select '*{order.name}')",
            )  # fmt: skip


def _blocks(check: CheckResult) -> bool:
    return check.severity == "error" and not check.passed


@contextlib.contextmanager
def _gpu_claimed(device: str, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the GPUs that this process sees, once torch can use them."""
    if device == "cpu":
        yield
        return
    import torch

    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    if not torch.cuda.is_available():
        raise MedpipeError(
            got="no usable GPU in PyTorch", expected=f"GPU {', '.join(gpus)}", where="hardware.devices",
            do="check nvidia-smi and that torch is a CUDA build, or run on the CPU with CUDA_VISIBLE_DEVICES=''",
        )  # fmt: skip
    with gpus_held(gpus, log):
        yield


def _datasets(order: Order) -> list[dict[str, Any]]:
    """The inputs that are rows, under their content hashes."""
    found = []
    for key, ref in order.inputs.items():
        if key.partition("/")[0] in ("sources", "corpus", "splits"):
            manifest = store.read_manifest(Path(ref.path))
            rows = manifest.metadata.get("rows") if manifest else None
            found.append({"name": key, "sha256": ref.sha256, "path": ref.path, "rows": rows if isinstance(rows, int) else None})
    return found


def _numbers(outcome: Outcome | None) -> dict[str, float]:
    values = outcome.metadata if outcome else {}
    return {key: float(v) for key, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _explained(order: Order, say: Callable[[str, str], None]) -> dict[str, Any]:
    try:
        return {"manifests": {name: manifest.model_dump(mode="json") for name, manifest in carry_out(order, say).items()}}
    except MedpipeError as error:
        return {"error": str(error)}
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # torch's, of a GPU and of a CPU
            return {"error": str(_no_memory(order, error)), "traceback": traceback.format_exc()}
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _no_memory(order: Order, error: Exception) -> MedpipeError:
    """For work that does not try a smaller pass itself, as fine-tuning does."""
    lower = {
        "base": "take a smaller model.name", "maporl": "lower maporl.minibatch, questions_per_iteration or samples_per_question",
        "verifier": "lower training.tokens_per_pass", "benchmark": "lower evaluation.batch_size",
    }  # fmt: skip
    return MedpipeError(
        got=f"too little memory ({str(error).splitlines()[0]})", expected="room for the work", where=f"{order.name} on {order.device}",
        do=f"{lower.get(order.task, 'close other programs')}, or set model.quantization = 4bit; checkpoints are kept",
    )  # fmt: skip


def _saved() -> Order:
    return Order.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))


def _in_context() -> Order:
    """The order in Pipes' context, for a process that sends no messages of its own."""
    from dagster_pipes import PipesDefaultContextLoader, decode_param

    with PipesDefaultContextLoader().load_context(decode_param(os.environ["DAGSTER_PIPES_CONTEXT"])) as context:
        return Order.model_validate((context.get("extras") or {})["order"])


def main() -> None:
    """Carry out an order that comes through Dagster Pipes, or one that is named on the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exit like any other: what is half made is removed
    if rank():
        die_with_parent(os.getppid())
        return assist(_saved() if len(sys.argv) > 1 else _in_context())
    if len(sys.argv) > 1:
        order = _saved()
        answer = _explained(order, lambda level, text: print(f"{level}: {text}", flush=True))
        print(answer.get("traceback") or answer.get("error") or f"made {', '.join(part.out for part in order.parts)}")
        sys.exit(EXIT_EXPLAINED if "error" in answer else 0)
    from dagster_pipes import open_dagster_pipes

    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        sys.exit(
            "got no order, expected one from Dagster or a file, in medpipe.launch.worker: materialise an asset, or name an order's file"
        )
    with open_dagster_pipes() as pipes:
        die_with_parent(os.getppid() if RANK in os.environ else pipes.get_extra("parent"))
        answer = _explained(Order.model_validate(pipes.get_extra("order")), lambda level, text: getattr(pipes.log, level)(text))
        pipes.report_custom_message(answer)
    sys.exit(EXIT_EXPLAINED if "error" in answer else 0)


if __name__ == "__main__":
    main()

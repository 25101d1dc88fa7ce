"""The `medpipe` command: run the graph, open its pages, check the machine.

medpipe --help
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medpipe import NOTICE, results, store
from medpipe.cli_aws import aws, go_on_after
from medpipe.config import DEFAULT_PROFILE, Settings, load_profile, parse_override
from medpipe.corpus.download import mirror_folder
from medpipe.errors import MedpipeError
from medpipe.terminal import visible, visible_values

if TYPE_CHECKING:
    from medpipe.runner import Run

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help=f"medpipe: a medical question-answering team, trained and evaluated. {NOTICE}"
)
MOST_PLACES = 10
"""Folders named at the end of a run of a part of the graph."""
data = typer.Typer(no_args_is_help=True, help="Where a row comes from, and why one is not in the corpus.")
app.add_typer(data, name="data")
app.add_typer(aws, name="aws")
ProfileOption = Annotated[str, typer.Option("--profile", "-p", envvar="MEDPIPE_PROFILE", help="bundled profile or a YAML file")]
SetOption = Annotated[list[str], typer.Option("--set", help="exception to the profile, such as training.epochs=2; may be repeated")]


@app.command()
def run(
    profile: ProfileOption = DEFAULT_PROFILE,
    select: Annotated[
        str, typer.Option("--select", "-s", help="assets, in Dagster's syntax: '*', 'models/planner+', 'group:sources'")
    ] = "*",
    overrides: SetOption = [],  # noqa: B006  (typer copies it)
) -> None:
    """Materialise the graph; what has not changed is not made again."""
    settings = load_profile(profile, dict(parse_override(text) for text in overrides))
    mirror_folder()  # a mirror that does not exist is one message now, not one from every source
    from medpipe.launch.devices import gpu_problem
    from medpipe.runner import run_graph
    from medpipe.tracking import notes

    for line in (*notes(settings), *filter(None, [gpu_problem()])):
        print(visible(line), flush=True)
    print(f"medpipe · profile {settings.name}: {settings.description}\n{NOTICE}\n", flush=True)
    started = time.monotonic()
    done = run_graph(profile, select, overrides)
    failed = "The run failed: the lines marked !! above say why. What was finished stays and is not made again."
    go_on_after(done, failed, settings)
    seconds = time.monotonic() - started
    _feed_trackers(settings)
    _conclude(settings.outputs, done, seconds)


@app.command()
def plan(
    profile: ProfileOption = DEFAULT_PROFILE,
    overrides: SetOption = [],  # noqa: B006  (typer copies it)
    measure: Annotated[bool, typer.Option(help="measure the matmul peak for a second; else no time at the peak is told")] = True,
) -> None:
    """Foretell memory, steps, tokens, time and disk of the trainings, and set finished ones beside it; loads no weights."""
    from medpipe.plan import plan as foretell
    from medpipe.plan import show

    show(foretell(load_profile(profile, dict(parse_override(text) for text in overrides)), measure=measure))


@app.command()
def test(
    profile: ProfileOption = DEFAULT_PROFILE,
    asked: Annotated[list[str], typer.Option("--question", "-q", help="a question of your own; may be repeated")] = [],  # noqa: B006
    file: Annotated[Path | None, typer.Option("--questions", help="a .txt file of questions, one a line, or .jsonl rows")] = None,
    team: Annotated[str, typer.Option(help="auto, maporl_team, roles, alone (each role by itself), agent or base")] = "auto",
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Ask the finished models built-in or given questions, without training; writes outputs/test_results.json."""
    from medpipe.consult import as_text, consult
    from medpipe.questions import read_questions, to_questions

    settings = load_profile(profile, dict(parse_override(text) for text in overrides))
    questions = [*(to_questions(asked) if asked else []), *(read_questions(file) if file else [])]
    print(visible(as_text(consult(settings, questions or None, team, lambda text: print(visible(text))))))


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="an outputs folder with finished evaluations")],
    run_b: Annotated[Path, typer.Argument(help="another one, to be compared with")],
    system: Annotated[str, typer.Option(help="which system of both: docs/evaluation.md names them")] = "maporl_team",
) -> None:
    """Show the differences of two runs on the same questions, with intervals."""
    from medpipe.evaluation.runs import as_text, differences

    print(visible(as_text(differences(run_a, run_b, system), run_a, run_b, system)))


@app.command()
def lineage(
    what: Annotated[
        str, typer.Argument(help="a model's folder, an asset's key (models/maporl_team), or the id of a Dagster or MLflow run")
    ],
    profile: ProfileOption = DEFAULT_PROFILE,
    overrides: SetOption = [],  # noqa: B006
    as_data: Annotated[bool, typer.Option("--json", help="print JSON instead of a tree")] = False,
) -> None:
    """Tell where a result comes from: data, licences, base, settings, commit, and the evaluations of exactly this content."""
    import json
    from dataclasses import asdict

    from medpipe.lineage import as_text, trace

    found = trace(what, load_profile(profile, dict(parse_override(text) for text in overrides)).outputs)
    print(json.dumps(asdict(found), indent=2) if as_data else visible(as_text(found)))


@app.command()
def rollback(
    profile: ProfileOption = DEFAULT_PROFILE,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Make the version champion again that was champion before (MLflow's registry); the one taken back is not promoted again by itself."""
    from medpipe.registry import NAME
    from medpipe.registry import rollback as take_back

    gone, back = take_back(load_profile(profile, dict(parse_override(text) for text in overrides)))
    print(f"{NAME}: version {gone.number} was taken back, version {back.number} is champion again")


@app.command()
def clean(
    profile: ProfileOption = DEFAULT_PROFILE,
    everything: Annotated[bool, typer.Option("--all", help="also what is shown or handed on; never what a registry names")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove what is listed without asking")] = False,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """List results that nothing needs any more, and how much they take; remove them when told to."""
    from medpipe import tidy

    settings = load_profile(profile, dict(parse_override(text) for text in overrides))
    found = tidy.removable(settings, everything)
    for one in found:
        print(f"{one.bytes / 2**20:10,.1f} MiB  {visible(os.path.relpath(one.path))}  ({one.why})")
    if not found:
        print(f"Nothing in {settings.outputs} can go: every result there is shown, handed on, or named by a registry.")
        if yes:
            tidy.forget_what_is_gone(settings.outputs)
        return
    print(f"{sum(one.bytes for one in found) / 2**20:10,.1f} MiB  in all")
    if not yes and not (sys.stdin.isatty() and typer.confirm("Remove them?", default=False)):
        print("Nothing was removed. To remove them: the same command with --yes")
        return
    busy = tidy.remove(found)
    tidy.forget_what_is_gone(settings.outputs)
    for one in busy:
        print(f"{one.path} stays: a run makes or needs it", file=sys.stderr)


@app.command()
def tune(
    profile: ProfileOption = DEFAULT_PROFILE,
    trials: Annotated[int | None, typer.Option(min=1, help="of the whole study, those of earlier runs among them")] = None,
    overrides: SetOption = [],  # noqa: B006  (typer copies it)
) -> None:
    """Search for good settings over the profile's space; run again, it goes on. It never looks at a benchmark."""
    from medpipe.runner import run_graph
    from medpipe.tuning.study import study
    from medpipe.tuning.trial import INPUTS, as_flags

    settings = load_profile(profile, dict(parse_override(text) for text in overrides))
    mirror_folder()
    print(f"medpipe · tuning of {settings.name}\n{NOTICE}\n", flush=True)
    run = run_graph(profile, ",".join(f"*{key}" for key in INPUTS), overrides)
    go_on_after(run, "The data or the base could not be made: the lines marked !! above say why.", settings)
    refs = {key: results.find_ref(settings, key) for key in INPUTS}  # of this profile, whatever another one shows
    inputs = {key: Path(ref.path) if ref else settings.outputs / key for key, ref in refs.items()}
    found = study(settings, inputs, trials=trials or settings.tuning.trials, say=lambda text: print(visible(text), flush=True))
    print(f"\nLook at:  {found.home / 'study.json'}, {found.home / 'plots'}")
    print(f"          medpipe run --profile {profile} {' '.join(as_flags(found.best.values))}")


@app.command()
def track(
    profile: ProfileOption = DEFAULT_PROFILE,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Send MLflow and Weights & Biases what they missed: the journals in outputs/tracking have every number."""
    from medpipe.runner import require_outputs
    from medpipe.tracking import track_missed

    settings = load_profile(profile, dict(parse_override(text) for text in overrides))
    require_outputs(settings.outputs)
    lacking = track_missed(settings, print)
    for tracker, lines in lacking.items():
        print(f"{tracker}: " + ("has everything" if not lines else f"still lacks {lines} lines"))
    if any(lacking.values()):
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Check the machine, and tell what each profile would do here."""
    from medpipe.doctor import examine

    examine()


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="port of Dagster's page")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="port of MLflow's page")] = 5000,
    profile: ProfileOption = DEFAULT_PROFILE,
) -> None:
    """Open Dagster's page and MLflow's page side by side, on this machine only; Ctrl-C ends both."""
    from medpipe.runner import prepare, require_outputs
    from medpipe.tracking import alone_with_mlflow, mlflow_server, tracking_uri

    settings = load_profile(profile)
    require_outputs(settings.outputs)
    prepare()
    with alone_with_mlflow(tracking_uri(settings), settings.outputs):
        pass  # its page would else make the database itself
    environment = {**os.environ, "DAGSTER_HOME": str(Path.cwd()), "MEDPIPE_PROFILE": profile, "MLFLOW_DISABLE_TELEMETRY": "true"}
    here = "127.0.0.1"  # neither page has a login
    commands = [[sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", here, "-p", str(port)]]
    server = mlflow_server(settings)
    if not server.startswith(("http://", "https://")):  # a server has a page of its own
        server = f"http://{here}:{mlflow_port}"
        shows = ["--backend-store-uri", tracking_uri(settings), "-h", here, "-p", str(mlflow_port), "--workers", "1"]
        commands.append([sys.executable, "-m", "mlflow", "ui", *shows])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, a shell leaves it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    print(f"Dagster: http://{here}:{port}   MLflow: {server}   (Ctrl-C ends both)", flush=True)
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait() for process in processes]
    if any(code > 0 for code in codes):
        raise typer.Exit(1)


@data.command("show")
def data_show(
    id: Annotated[str, typer.Argument(help="a row's id, such as synthetic-asthma-causes")], profile: ProfileOption = DEFAULT_PROFILE
) -> None:
    """Trace one row from its source's file to its side of the split, with every change made to it."""
    from medpipe.corpus.trace import show

    print(visible(show(id, load_profile(profile).outputs)))


@data.command("why-dropped")
def data_why_dropped(
    wanted: Annotated[str, typer.Argument(help="a row's id, or part of its question or answer")], profile: ProfileOption = DEFAULT_PROFILE
) -> None:
    """Say why a row is not in the corpus."""
    from medpipe.corpus.trace import why_dropped

    print(visible(why_dropped(wanted, load_profile(profile).outputs)))


def _feed_trackers(settings: Settings) -> None:
    """What the trackers still lack, said or sent once more: no later work of this run will do it."""
    from medpipe.tracking import lacking, track_missed

    if any(lacking(settings).values()):
        for tracker, lines in track_missed(settings, print).items():
            if lines:
                print(f"{tracker} lacks {lines} lines of outputs/tracking: send them with `medpipe track`", file=sys.stderr)


def _conclude(outputs: Path, run: Run, seconds: float) -> None:
    """What this run made or found standing, and nothing that an earlier one left: that is said to be older."""
    print(f"\nDone in {seconds / 60:.1f} min: made {len(run.made)}, found {len(run.found)} standing.\n")
    current = {*run.made, *run.found}
    board, report = outputs / "evaluation" / "leaderboard" / "leaderboard.json", outputs / "report.html"
    if "evaluation/leaderboard" in current and board.is_file():
        from medpipe.evaluation.leaderboard import print_table

        print_table(visible_values(store.read_json(board)))
        print()
    places = [f"{report}   (what went in, what was learned, what it is worth)"] if "release/report" in current else []
    places += [str(outputs / key) for key in run.made] if not places else []
    for number, place in enumerate([*places[:MOST_PLACES], *["…"] * (len(places) > MOST_PLACES)]):
        print(f"{'Look at:' if not number else '':<10}{place}")
    older = [
        path.name for key, path in (("evaluation/leaderboard", board), ("release/report", report)) if key not in current and path.exists()
    ]
    if older:
        print(f"{'Older:':<10}{' and '.join(older)} in {outputs} are of an earlier run; `medpipe run` makes them of what stands now")
    print(f"{'':<10}make ui   (Dagster's page and MLflow's page side by side)")


def main() -> None:
    """Entry point: a MedpipeError is a message for the user, not a traceback."""
    try:
        app()
    except MedpipeError as error:
        print(f"medpipe: {visible(str(error))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

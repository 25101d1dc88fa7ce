"""The `medpipe aws` commands: an account made ready, data up, a training job, what it costs, and none left behind.

    medpipe aws --help          # in the order of docs/aws.md

`launch` runs the same graph as `medpipe run`, with the models in one SageMaker job (medpipe/assets/sagemaker.py). Credentials and region
are boto3's own matter. Left out: endpoints.
"""

from __future__ import annotations

import shlex
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from medpipe import NOTICE, store
from medpipe.config import Settings, load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe.schema import Ref
from medpipe.terminal import visible

if TYPE_CHECKING:
    from medpipe.runner import Run

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the signal's number."""
DEFAULT = "sagemaker-qwen2.5"
LOOK_SECONDS = 10.0

aws = typer.Typer(no_args_is_help=True, help=f"Train on AWS: S3 and SageMaker (docs/aws.md). {NOTICE}")
ProfileOption = Annotated[str, typer.Option("--profile", "-p", envvar="MEDPIPE_PROFILE", help="bundled profile or a YAML file")]
SetOption = Annotated[list[str], typer.Option("--set", help="exception to the profile, such as aws.spot=false; may be repeated")]


@aws.command()
def setup(
    bucket: Annotated[str, typer.Option(help="name of the bucket, new or your own")],
    role_name: Annotated[str, typer.Option(help="name of the role that jobs work under")] = "medpipe-job",
    vpc: Annotated[bool, typer.Option("--vpc", help="let the role use aws.subnets")] = False,
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006  (typer copies it)
) -> None:
    """Make what an empty account lacks: a private bucket, the job's role, a place for the image; may be repeated."""
    from medpipe.aws.account import Account
    from medpipe.aws.setup import make_account

    make_account(Account.of(_settings(profile, overrides).aws).needs("region"), print, bucket, role_name=role_name, vpc=vpc)


@aws.command()
def check(
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Ask AWS who this is, and whether bucket, role and image can be had; starts nothing."""
    from medpipe.aws.account import Account
    from medpipe.aws.setup import check_account

    account = Account.of(_settings(profile, overrides).aws).needs("region").hurried()
    print(f"asking AWS: a connection that takes more than {account.timeout_seconds} s counts as none, {account.attempts} attempts a call")
    if missing := check_account(account, print):
        print("\n".join(f"!! {visible(line)}" for line in missing))
        raise typer.Exit(1)


@aws.command()
def upload(
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Make the data and send it with the code to S3, train/ and eval/ apart; what is there with the same content is not sent again."""
    from medpipe.aws.account import Account
    from medpipe.aws.channels import pack, send

    settings = _settings(profile, overrides)
    account = Account.of(settings.aws).needs("bucket", "region")
    parcel = pack(settings, _data(settings), account, Path.cwd())
    sent = send(parcel, account, print, settings.aws.kms_key)
    print(f"sent {sent.files} files, {sent.bytes:,} bytes; {sent.kept} were there already\nlaunch {parcel.launch.digest}")


@aws.command()
def cost(
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
    price: Annotated[float | None, typer.Option(min=0, help="USD per hour of one instance, where the table has another or none")] = None,
) -> None:
    """What a launch would cost: the plan's hours at the table's price, and the most that it can cost."""
    print("\n".join(_cost(_settings(profile, overrides), price)))


@aws.command()
def launch(
    context: typer.Context,
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
    select: Annotated[str, typer.Option("--select", "-s", help="assets, in Dagster's syntax")] = "*models/maporl_team",
    yes: Annotated[bool, typer.Option("--yes", help="start the job even if it can cost more than aws.budget_usd")] = False,
) -> None:
    """Make the data here and the models in a SageMaker job, and bring them back. Ctrl-C stops the job; a killed run's job is taken up."""
    from medpipe.aws.prices import refuse_above_budget
    from medpipe.runner import run_graph

    settings = _paid(context, profile, overrides, yes)
    print(f"medpipe · {settings.name} on {settings.aws.instance_count} × {settings.aws.instance_type}: at most "
          f"{refuse_above_budget(settings.aws)} for each job\n{NOTICE}\n", flush=True)  # fmt: skip
    go_on_after(run_graph(str(_written(settings)), select, []), "The launch failed: the lines marked !! above say why.", settings)
    again = " ".join(["medpipe run --profile", shlex.quote(profile), *(f"--set {shlex.quote(each)}" for each in overrides)])
    print(f"\nThe models are in {settings.outputs / 'models'}; evaluate them here with: {again}")


@aws.command()
def tune(
    context: typer.Context,
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
    trials: Annotated[int, typer.Option(min=1, help="training jobs in all")] = 8,
    parallel: Annotated[int, typer.Option(min=1, help="of them at once")] = 2,
    yes: Annotated[bool, typer.Option("--yes", help="start it even if it can cost more than aws.budget_usd")] = False,
) -> None:
    """Search over the profile's space in a SageMaker tuning job, by the team's reward; no benchmark is looked at."""
    from medpipe.aws.account import Account
    from medpipe.aws.channels import pack, send
    from medpipe.aws.prices import refuse_above_budget
    from medpipe.aws.tuning import search

    settings = _paid(context, profile, [*overrides, "aws.evaluate=false"], yes)
    account = Account.of(settings.aws)
    print(f"{trials} jobs, {parallel} at once: at most {refuse_above_budget(settings.aws, jobs=trials)}", flush=True)
    parcel = pack(settings, _data(settings), account, Path.cwd())
    send(parcel, account, print, settings.aws.kms_key)
    for line in search(settings, account, parcel.launch, trials, parallel, print):
        print(line)


@aws.command()
def status(
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """The account's medpipe jobs, newest first, searches of this machine, and launches that nobody waits for."""
    from medpipe.aws import jobs, tuning

    settings, client = _client(profile, overrides)
    for job in jobs.jobs_of(client, "medpipe-"):
        print(f"{job['TrainingJobName']:<50} {job['TrainingJobStatus']:<12} {job['CreationTime']:%Y-%m-%d %H:%M}")
    for line in tuning.open_searches(client, settings.outputs):
        print(line)
    for name in jobs.orphans(settings.outputs):
        print(f"!! {name} was started by a run that is gone: `medpipe aws launch` takes it up, `medpipe aws stop --orphans` ends it")


@aws.command()
def logs(
    name: Annotated[str, typer.Argument(help="of the job, as `medpipe aws status` shows it")],
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job ends")] = False,
) -> None:
    """What a job's container wrote (CloudWatch)."""
    from medpipe.aws import jobs
    from medpipe.aws.account import Account
    from medpipe.aws.logs import Tail

    settings, client = _client(profile, overrides)
    tail = Tail(Account.of(settings.aws).client("logs"), name)
    while True:
        ended = not follow or jobs.has_ended(client, name)  # asked before the last look, so that no line is missed
        for line in tail.new_lines():
            print(visible(line), flush=True)
        if ended:
            return
        threading.Event().wait(LOOK_SECONDS)


@aws.command()
def stop(
    name: Annotated[str, typer.Argument(help="of the job; none with --orphans")] = "",
    profile: ProfileOption = DEFAULT,
    overrides: SetOption = [],  # noqa: B006
    orphans: Annotated[bool, typer.Option("--orphans", help="all that runs of this machine left behind")] = False,
) -> None:
    """Stop a job or a search, or all jobs that killed runs of this machine left."""
    from medpipe.assets.sagemaker import sweep
    from medpipe.aws import jobs, tuning

    if bool(name) == orphans:
        raise MedpipeError(got="a name and --orphans, or neither", expected="one of them", where="medpipe aws stop",
                           do="see the names with `medpipe aws status`")  # fmt: skip
    settings, client = _client(profile, overrides)
    if orphans:
        swept = sweep(settings, print)
        print("\n".join(f"stopped {one}" for one in swept.stopped) or "there was none to stop")
        for one in swept.unknown:
            print(f"!! {one} may run, and this account does not know it: stop it under the account that started it")
        if swept.unknown:
            raise typer.Exit(1)
    elif tuning.is_search(name):
        tuning.stop(client, name, print)
    elif not jobs.stop(client, name):
        raise MedpipeError(got=f"no job {name}", expected="a name that `medpipe aws status` shows", where="medpipe aws stop",
                           do="check name and region")  # fmt: skip


def go_on_after(run: Run, failed: str, settings: Settings) -> None:
    """Return where a run succeeded; else say what stands, on stderr, and end the command.

    Args:
        failed: what is said where it failed of itself.

    Raises:
        typer.Exit: with status 130 after an interruption, 1 after a failure.
    """
    if run.success:
        return
    if not run.interrupted:
        print(f"\n{failed}", file=sys.stderr)
        raise typer.Exit(1)
    stands = len(run.made) + len(run.found)
    print(
        f"\nInterrupted. {stands} of the assets asked for {'stands' if stands == 1 else 'stand'} in {settings.outputs}; the same command "
        "makes the others, and takes a training up where it was last saved.",
        file=sys.stderr,
    )
    raise typer.Exit(INTERRUPTED)


def _settings(profile: str, overrides: list[str]) -> Settings:
    return load_profile(profile, dict(parse_override(text) for text in overrides))


def _client(profile: str, overrides: list[str]) -> tuple[Settings, Any]:
    from medpipe.aws.account import Account

    settings = _settings(profile, overrides)
    return settings, Account.of(settings.aws).needs("region").client("sagemaker")


def _paid(context: typer.Context, profile: str, overrides: list[str], yes: bool) -> Settings:
    """The settings of what costs money, once it is sure that this is meant and that AWS knows who asks."""
    from medpipe.aws.account import Account
    from medpipe.aws.setup import check_account

    source = context.get_parameter_source("profile")
    if (source is None or source.name == "ENVIRONMENT") and _settings(profile, overrides).aws.launcher != "sagemaker":
        raise MedpipeError(
            got=f"the profile {profile} from MEDPIPE_PROFILE, which trains on this machine", expected="one that trains on SageMaker",
            where="medpipe aws", do=f"name it if it is meant (--profile {profile}), or take {DEFAULT}",
        )  # fmt: skip
    settings = _settings(profile, [*overrides, "aws.launcher=sagemaker", *(["aws.budget_usd=1.0e9"] if yes else [])])
    if missing := check_account(Account.of(settings.aws).needs("bucket", "role", "image", "region"), print):
        print("\n".join(f"!! {line}" for line in missing))
        raise typer.Exit(1)
    return settings


def _written(settings: Settings) -> Path:
    """The resolved settings as a profile of their own: what the graph looks like is decided where it is loaded, in each process anew.

    One file for each set of settings: steps of another launch may still read theirs.
    """
    path = (settings.outputs / "aws" / f"{settings.name}-{settings.config_hash()[:12]}.yaml").absolute()
    store.write_text(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return path


def _data(settings: Settings) -> dict[str, Ref]:
    """The finished folders that a job needs, made for exactly these settings; where they stand this takes seconds."""
    from medpipe.aws.channels import EVAL, EVALUATED, TRAIN
    from medpipe.runner import run_graph

    run = run_graph(str(_written(settings)), ",".join(f"*{key}" for key in (*TRAIN, *EVAL)), [])
    go_on_after(run, "The data could not be made: the lines marked !! above say why.", settings)
    found = {}
    for key in (*TRAIN, *EVAL, *(EVALUATED if settings.aws.evaluate else ())):
        manifest = store.read_manifest(settings.outputs / key)
        assert manifest, f"a run that succeeded has made {key}"
        found[key] = Ref(path=str(settings.outputs / key), sha256=manifest.sha256, status=manifest.status, reason=manifest.reason)
    return found


def _cost(settings: Settings, price: float | None) -> list[str]:
    """Line by line: the plan's hours on the instance type at the table's price, what they leave out, the ceiling."""
    from medpipe.aws import prices
    from medpipe.launch.devices import Machine
    from medpipe.plan import EFFICIENCY, LONE, TEAM, plan

    aws, hours, told = settings.aws, None, []
    if aws.instance_type in prices.FITTED:
        count, gpu = prices.gpus_of(aws.instance_type)
        found = plan(settings, measure=False, machine=Machine(count, gpu.peak, gpu.memory_gb * 1e9 / 2**20))
        told.append(f"{count} x {prices.FITTED[aws.instance_type].gpu}, {gpu.peak / 1e12:,.0f} TFLOP/s each ({gpu.source})")
        shares = ", ".join(f"{share:.0%} in {kind}" for kind, share in EFFICIENCY["cuda"].items())
        told.append(f"of that are counted on: {shares} (assumed, not measured)")
        seconds = {part.name: part.seconds or 0.0 for part in found.parts}
        tuned = [value for name, value in seconds.items() if name not in (TEAM, LONE)]  # on GPUs of their own, at once
        hours = (max(tuned) + seconds[TEAM] + seconds[LONE]) / 3600 if tuned else None
        told += [f"{part.name}: {seconds[part.name] / 60:,.0f} min ({part.basis})" for part in found.parts]
        told += [f"!! {warning}" for warning in found.warnings]
    left_out = "evaluation, the image's download, loading the base, channels and results, interruptions on spot"
    elsewhere = [f"!! that price is of {prices.PRICED_IN}: another region's may differ, pass it with --price"] if price is None else []
    return [*prices.cost(aws, hours, price).lines(aws.budget_usd), *elsewhere, f"not in the estimate: {left_out}", *told]

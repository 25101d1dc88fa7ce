"""The models, trained in one SageMaker job instead of on this machine; in the graph where `aws.launcher` is sagemaker.

The job carries out the same part of the graph on the same data, code and settings (medpipe/aws/entry.py), so its results are what a run
here would have made, under the same keys, checks and data versions. PipesSageMakerClient starts the job or adopts the one that a killed
run left, shows what it says, and stops it when the run ends early. `orphaned_jobs` stops what a killed run left and nobody took up.
Left out: evaluations in a job of their own (the training job evaluates at its end, aws.evaluate), endpoints.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.automation import WHEN_INPUTS_CHANGE
from medpipe.assets.corpus import OWNERS
from medpipe.assets.present import HANDED_OVER, check_specs, to_checks, to_metadata
from medpipe.aws import jobs, prices, results
from medpipe.aws.account import Account
from medpipe.aws.channels import EVALUATED, pack, send, trained_keys
from medpipe.aws.logs import Tail
from medpipe.aws.request import Launch, account_of, training_job
from medpipe.config import Settings, without_password
from medpipe.errors import MedpipeError
from medpipe.evaluation import guide
from medpipe.launch.order import to_ref
from medpipe.resources import Profile, hang_on_driver
from medpipe.results import show
from medpipe.schema import Manifest, Ref
from medpipe.tasks import TASKS

LOOK_SECONDS = 60
PASSED_ON = (
    "SAGEMAKER_TRAINING_DEBUG", "TRANSFORMERS_VERBOSITY", "WANDB_PROJECT", "WANDB_TAGS", "MLFLOW_TRACKING_URI",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF",
)  # fmt: skip
"""Variables of this process that a job gets too. None of them is a secret: a job's environment can be read by all who may describe it."""


class PipesSageMakerClient(dg.PipesClient):
    """Carries out a launch as a SageMaker training job, with Dagster Pipes over S3.

    Context and messages lie under the job's name, so that a later run can go on reading a job that it did not start.

    Args:
        account: whose bucket, role and image.
        settings: the resolved profile.
    """

    def __init__(self, account: Account, settings: Settings) -> None:
        self._account, self._settings = account, settings

    def run(  # type: ignore[override]
        self, *, context: AssetExecutionContext, launch: Launch, extras: dict[str, Any] | None = None
    ) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        """Start the job or adopt it, wait for its end, and give its description and the messages that it sent.

        Args:
            context: of the step.
            launch: what the job is named after.
            extras: for the context that the job reads.

        Raises:
            MedpipeError: it failed or was stopped; the message has SageMaker's reason.
        """
        aws, account = self._settings.aws, self._account
        client, say = account.client("sagemaker"), context.log.info
        with jobs.claimed(client, launch, self._settings.outputs, say, poll_seconds=aws.poll_seconds, usable=self._usable) as job:
            if job.status == "Completed":
                say(f"{job.name} has completed before: only its results are fetched")
                return job.finish(training_job(self._settings, account, launch, job.name)), []
            if job.description is None:
                say(f"{job.name} is a new job: it may cost up to {prices.refuse_above_budget(aws)}")
            place = account.key("jobs", job.name, "pipes")
            say(f"SageMaker job {job.name}: {console_address(account.region, job.name)}")
            with dg.open_pipes_session(context, _injector(account, place), _reader(account, place, aws.poll_seconds), extras) as session:
                passed = {name: without_password(os.environ[name], name) for name in PASSED_ON if name in os.environ}
                sent = replace(launch, environment={**launch.environment, **passed, **session.get_bootstrap_env_vars()})
                shown = _Shown(Tail(account.client("logs"), job.name, say), context.log.warning)
                try:
                    description = job.finish(training_job(self._settings, account, sent, job.name), shown.more)
                except BaseException:
                    job.let_go()  # now: the session's end waits for last messages, while the job is paid for
                    raise
            context.get_step_execution_context()._requires_typed_event_stream = False  # the caller yields the results
            return description, list(session.get_custom_messages())

    def _usable(self, description: Mapping[str, Any]) -> bool:
        """Whether a completed job's models can still be had; where not, another one trains them."""
        return results.are_there(description, self._account)


def sagemaker_assets(settings: Settings) -> dg.AssetsDefinition:
    """All models as one step."""
    keys = trained_keys(settings)
    tasks = {key: TASKS[results.task_of(key)].version() for key in keys}
    outs = {
        key.partition("/")[2]: dg.AssetOut(
            key=key.split("/"), group_name="models", kinds={"pytorch", "sagemaker"}, owners=OWNERS, dagster_type=HANDED_OVER,
            code_version=tasks[key],
            description=f"{key}, trained in the SageMaker job of this launch.", automation_condition=WHEN_INPUTS_CHANGE,
        )
        for key in keys
    }  # fmt: skip
    ins = {
        name.replace("/", "__"): dg.AssetIn(name.split("/"))
        for name in ("splits/train", "splits/cotrain", "splits/validation", "rewards/audit", *(EVALUATED if settings.aws.evaluate else ()))
    }

    @dg.multi_asset(name="models_on_sagemaker", outs=outs, ins=ins, check_specs=[spec for key in keys for spec in check_specs(key)])
    def models_on_sagemaker(context: AssetExecutionContext, profile: Profile, **refs: Ref) -> Iterator[dg.MaterializeResult]:
        """Upload what the job needs, train there, and bring the models back."""
        hang_on_driver(context)
        settings = profile.settings()
        if settings.aws.launcher != "sagemaker":
            raise dg.Failure(
                f"got aws.launcher = {settings.aws.launcher}, expected sagemaker, in the launchpad: this graph was drawn to train on "
                "SageMaker; start the page with the profile that is meant (MEDPIPE_PROFILE)", allow_retries=False,
            )  # fmt: skip
        inputs = {name.replace("__", "/"): ref for name, ref in refs.items()}
        try:
            manifests, told = train(context, settings, inputs)
        except MedpipeError as error:
            raise dg.Failure(description=f"models on SageMaker: {error}", allow_retries=False) from error
        orders = results.orders(settings, inputs)
        for key, manifest in manifests.items():
            ref = to_ref(orders[key], manifest)
            folder = Path(ref.path)
            show(settings.outputs, key, folder)
            yield dg.MaterializeResult(
                asset_key=key.split("/"), value=ref,
                metadata={**to_metadata(folder, manifest, reused=not told), **told}, check_results=to_checks(key, manifest),
                data_version=dg.DataVersion(manifest.sha256),
            )  # fmt: skip

    return models_on_sagemaker


def train(context: AssetExecutionContext, settings: Settings, inputs: Mapping[str, Ref]) -> tuple[dict[str, Manifest], dict[str, Any]]:
    """The models' manifests, and what is to be told of the job that made them: nothing where they stand already."""
    found = results.standing(settings, inputs)
    if found:
        context.log.info("unchanged: the models stand for exactly this data, code and settings; no job is needed")
        return found, {}
    account = Account.of(settings.aws).needs("bucket", "role", "image", "region")
    parcel = pack(settings, inputs, account, Path.cwd())
    context.log.info(f"uploading {parcel.size / 2**20:.1f} MiB at most")
    send(parcel, account, context.log.info, settings.aws.kms_key)
    description, messages = PipesSageMakerClient(account, settings).run(context=context, launch=parcel.launch)
    # A container that SageMaker started anew says an asset again, with new content on a GPU: the last word counts.
    told = {message["asset"]: message["manifest"]["sha256"] for message in messages if "asset" in message}
    manifests = results.bring_back(description, settings, parcel.launch, inputs, account, context.log.info, told)
    return manifests, _told(description, messages, settings, parcel.launch, account)


def sweep_sensor() -> dg.SensorDefinition:
    """The sensor that stops jobs nobody waits for; on from the start, as it costs nothing and asks nobody while no launch is unfinished."""

    @dg.sensor(
        name="orphaned_jobs", minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Stops SageMaker jobs whose run was killed and was not taken up again. A job also ends by itself after aws.max_hours.",
    )  # fmt: skip
    def orphaned_jobs(context: dg.SensorEvaluationContext, profile: Profile) -> dg.SkipReason:
        now = profile.settings()
        if not jobs.any_open(now.outputs):
            return dg.SkipReason("no launch is unfinished")
        swept = sweep(now, context.log.info)
        for name in swept.stopped:
            context.log.warning(f"stopped the SageMaker job {name}: the run that started it is gone")
        for name in swept.unknown:
            context.log.warning(f"{name} may run, and this account does not know it: stop it under the account that started it")
        return dg.SkipReason(f"stopped: {', '.join(swept.stopped) or 'none'}; not known here: {', '.join(swept.unknown) or 'none'}")

    return orphaned_jobs


def sweep(settings: Settings, say: Callable[[str], None]) -> jobs.Swept:
    """Stop what dead launchers of this machine left, in each region."""
    account = Account.of(settings.aws)
    return jobs.sweep(
        lambda region: replace(account, region=region).client("sagemaker"),
        settings.outputs,
        time.time(),
        say,
        account=account_of(account.role),
    )


def console_address(region: str, name: str) -> str:
    """Where a person sees the job."""
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"


def _told(
    description: Mapping[str, Any], messages: list[dict[str, Any]], settings: Settings, launch: Launch, account: Account
) -> dict[str, Any]:
    """Metadata of each model: the job, its cost's base, where its files lie, and the guide's figures."""
    name = description["TrainingJobName"]
    said = next((message["figures"] for message in reversed(messages) if "figures" in message), {})
    # What can be computed from what came back is; release.primary, which names a benchmark, is no part of the launch.
    found = {name: value for name, value in said.items() if name not in guide.MEANING} | guide.figures(
        settings.outputs, settings.release.primary
    )
    return {
        "job": name, "job_page": dg.MetadataValue.url(console_address(account.region, name)), "launch": launch.digest,
        "model_archive": description["ModelArtifacts"]["S3ModelArtifacts"], "instance": description["ResourceConfig"]["InstanceType"],
        "billable_seconds": description.get("BillableTimeInSeconds", 0),
        **{key: float(value) for key, value in found.items()},
    }  # fmt: skip


class _Shown:
    """What the container wrote since the last look, into the step's own log; a log that can't be read ends no training."""

    def __init__(self, tail: Tail, warn: Callable[[str], None]) -> None:
        self._tail: Tail | None = tail
        self._warn = warn

    def more(self) -> None:
        """Show the new lines."""
        if self._tail is None:
            return
        try:
            for line in self._tail.new_lines():
                print(line, flush=True)
        except MedpipeError as error:
            self._tail = None
            self._warn(f"the job's log is not shown any more: {error}")


def _injector(account: Account, place: str) -> Any:
    from dagster_aws.pipes import PipesS3ContextInjector

    class Named(PipesS3ContextInjector):
        @contextmanager
        def inject_context(self, context: Any) -> Iterator[dict[str, Any]]:
            key = f"{place}/context.json"
            self.client.put_object(Body=json.dumps(context).encode(), Bucket=self.bucket, Key=key)
            yield {"bucket": self.bucket, "key": key}

    return Named(bucket=account.bucket, client=account.client("s3"))


def _reader(account: Account, place: str, seconds: float) -> Any:
    from dagster_aws.pipes import PipesS3MessageReader

    class Named(PipesS3MessageReader):
        @contextmanager
        def get_params(self) -> Iterator[dict[str, Any]]:
            yield {"bucket": self.bucket, "key_prefix": place, "include_stdio_in_messages": False}

        def download_messages(self, cursor: int | None, params: Any) -> tuple[int, str] | None:
            """All that is there; Dagster's own reader takes one object a look, and falls behind a container that writes more often."""
            chunks = []
            while chunk := self.download_messages_chunk(self.counter, params):
                chunks.append(chunk)
                self.counter += 1
            return (self.counter, "\n".join(chunks)) if chunks else None

    return Named(bucket=account.bucket, client=account.client("s3"), interval=seconds)

"""The models, trained in one SageMaker job instead of on this machine; in the graph where `aws.launcher` is sagemaker.

The job carries out the same part of the graph on the same data, code and settings (medpipe/aws/entry.py), so its results are what a run
here would have made, under the same keys, checks and data versions. PipesSageMakerClient starts the job or adopts the one that a killed
run left, shows what it says, and stops it when the run ends early. `orphaned_jobs` stops what a killed run left and nobody took up.
Left out: evaluations in a job of their own (the training job evaluates at its end, aws.evaluate), endpoints.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
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
from medpipe.aws.channels import EVALUATED, Parcel, pack, send, trained_keys
from medpipe.aws.logs import Tail
from medpipe.aws.request import Launch, training_job
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.resources import Launcher, Profile
from medpipe.schema import Manifest, Ref

LOOK_SECONDS = 60
PASSED_ON = ("SAGEMAKER_TRAINING_DEBUG", "TRANSFORMERS_VERBOSITY", "WANDB_PROJECT", "WANDB_TAGS", "MLFLOW_TRACKING_URI")
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
        self, *, context: AssetExecutionContext, launch: Launch, extras: dict[str, Any] | None = None, again: bool = False
    ) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        """Start the job or adopt it, wait for its end, and give its description and the messages that it sent.

        Args:
            context: of the step.
            launch: what the job is named after.
            extras: for the context that the job reads.
            again: make another job even where one completed, whose results are gone.

        Raises:
            MedpipeError: it failed or was stopped; the message has SageMaker's reason.
        """
        aws, account = self._settings.aws, self._account
        client, say = account.client("sagemaker"), context.log.info
        with jobs.claimed(client, launch, self._settings.outputs, say, poll_seconds=aws.poll_seconds, again=again) as job:
            if job.status == "Completed":
                say(f"{job.name} has completed before: only its results are fetched")
                return job.finish(training_job(self._settings, account, launch, job.name)), []
            place = account.key("jobs", job.name, "pipes")
            say(f"SageMaker job {job.name}: {console_address(account.region, job.name)}")
            with dg.open_pipes_session(context, _injector(account, place), _reader(account, place, aws.poll_seconds), extras) as session:
                passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
                sent = replace(launch, environment={**launch.environment, **passed, **session.get_bootstrap_env_vars()})
                tail = Tail(account.client("logs"), job.name, say)
                description = job.finish(training_job(self._settings, account, sent, job.name), lambda: _show(tail))
            context.get_step_execution_context()._requires_typed_event_stream = False  # the caller yields the results
            return description, list(session.get_custom_messages())


def sagemaker_assets(settings: Settings) -> dg.AssetsDefinition:
    """All models as one step."""
    keys = trained_keys(settings)
    outs = {
        key.partition("/")[2]: dg.AssetOut(
            key=key.split("/"), group_name="models", kinds={"pytorch", "sagemaker"}, owners=OWNERS, dagster_type=HANDED_OVER,
            description=f"{key}, trained in the SageMaker job of this launch.", automation_condition=WHEN_INPUTS_CHANGE,
        )
        for key in keys
    }  # fmt: skip
    ins = {name.replace("/", "__"): dg.AssetIn(name.split("/")) for name in ("splits/train", "splits/validation", "rewards/audit")}

    @dg.multi_asset(name="models_on_sagemaker", outs=outs, ins=ins, check_specs=[spec for key in keys for spec in check_specs(key)])
    def models_on_sagemaker(
        context: AssetExecutionContext, launcher: Launcher, profile: Profile, **refs: Ref
    ) -> Iterator[dg.MaterializeResult]:
        """Upload what the job needs, train there, and bring the models back."""
        settings = profile.settings()
        inputs = {name.replace("__", "/"): ref for name, ref in refs.items()}
        if settings.aws.evaluate:
            inputs |= {key: launcher.standing(key) for key in EVALUATED}
        try:
            manifests, told = train(context, settings, inputs)
        except MedpipeError as error:
            raise dg.Failure(description=f"models on SageMaker: {error}", allow_retries=False) from error
        for key, manifest in manifests.items():
            folder = settings.outputs / key
            yield dg.MaterializeResult(
                asset_key=key.split("/"), value=Ref(path=str(folder), sha256=manifest.sha256),
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
    cost = prices.refuse_above_budget(settings.aws)
    parcel = pack(settings, inputs, account, Path.cwd())
    context.log.info(f"uploading {parcel.size / 2**20:.1f} MiB at most; the job may cost up to {cost}")
    send(parcel, account, context.log.info, settings.aws.kms_key)
    pipes = PipesSageMakerClient(account, settings)
    description, messages = pipes.run(context=context, launch=parcel.launch)
    if not results.are_there(description, account):
        context.log.warning(f"the results of {description['TrainingJobName']} are gone from S3: training again")
        description, messages = pipes.run(context=context, launch=parcel.launch, again=True)
    manifests = results.bring_back(description, settings, parcel.launch, inputs, account, context.log.info)
    _compare(messages, manifests)
    return manifests, _told(description, messages, parcel, account)


def sweep_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that stops jobs nobody waits for; on from the start where this profile trains on SageMaker."""
    on = settings.aws.launcher == "sagemaker"

    @dg.sensor(
        name="orphaned_jobs", minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED,
        description="Stops SageMaker jobs whose run was killed and was not taken up again. A job also ends by itself after aws.max_hours.",
    )  # fmt: skip
    def orphaned_jobs(context: dg.SensorEvaluationContext, profile: Profile) -> dg.SkipReason:
        now = profile.settings()
        if not jobs.any_open(now.outputs):
            return dg.SkipReason("no launch is unfinished")
        stopped = jobs.sweep(Account.of(now.aws).needs("region").client("sagemaker"), now.outputs, time.time())
        for name in stopped:
            context.log.warning(f"stopped the SageMaker job {name}: the run that started it is gone")
        return dg.SkipReason(f"stopped {', '.join(stopped)}" if stopped else "every unfinished launch is waited for")

    return orphaned_jobs


def console_address(region: str, name: str) -> str:
    """Where a person sees the job."""
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"


def _compare(messages: list[dict[str, Any]], manifests: Mapping[str, Manifest]) -> None:
    """What the job said it made is what came back; a container that SageMaker started anew may have said less."""
    for message in messages:
        key = message.get("asset", "")
        if key in manifests and message["manifest"]["sha256"] != manifests[key].sha256:
            raise MedpipeError(
                got=f"{key} with content {manifests[key].sha256[:12]}", expected=f"{message['manifest']['sha256'][:12]}, as the job said",
                where="model.tar.gz", do="somebody else wrote there: remove the object and launch again",
            )  # fmt: skip


def _told(description: Mapping[str, Any], messages: list[dict[str, Any]], parcel: Parcel, account: Account) -> dict[str, Any]:
    """Metadata of each model: the job, its cost's base, where its files lie, and the guide's figures."""
    name = description["TrainingJobName"]
    figures = next((message["figures"] for message in reversed(messages) if "figures" in message), {})
    figures = {metric["MetricName"]: metric["Value"] for metric in description.get("FinalMetricDataList", [])} | figures
    return {
        "job": name, "job_page": dg.MetadataValue.url(console_address(account.region, name)), "launch": parcel.launch.digest,
        "model_archive": description["ModelArtifacts"]["S3ModelArtifacts"], "instance": description["ResourceConfig"]["InstanceType"],
        "billable_seconds": description.get("BillableTimeInSeconds", 0),
        **{key: float(value) for key, value in figures.items()},
    }  # fmt: skip


def _show(tail: Tail) -> None:
    """What the container wrote since the last look, into the step's own log."""
    for line in tail.new_lines():
        print(line, flush=True)


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

    return Named(bucket=account.bucket, client=account.client("s3"), interval=seconds)

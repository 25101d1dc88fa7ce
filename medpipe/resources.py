"""What the assets are given: the profile, the launcher that makes things, and the store of what was handed on.

Resources are the border to Dagster: no library module below knows that Dagster exists. Left out: remote launchers.
"""

import multiprocessing
import os
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetExecutionContext
from dagster._core.errors import DagsterExecutionInterruptedError
from pydantic import Field

from medpipe import results, store
from medpipe.assets.messages import WholeLines
from medpipe.assets.present import to_checks, to_metadata
from medpipe.aws.store import Store
from medpipe.config import DEFAULT_PROFILE, Settings, load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe.kin import end_with_driver
from medpipe.launch.devices import Place, place_light
from medpipe.launch.order import WORKER, Order, as_extras, command_of, standing_result, to_ref, worker_environment, write_order
from medpipe.launch.owner import owner_of
from medpipe.schema import Manifest, Ref

warnings.filterwarnings("ignore", category=dg.PreviewWarning)  # Dagster warns of its own use of Pipes

PROFILE_VARIABLE = "MEDPIPE_PROFILE"
OWNER_TAG = "medpipe/process"
"""Tag of a run: the process that drives it (medpipe/launch/owner.py)."""
GRACE_SECONDS = 20.0
"""How long a worker may take to end after it was asked to."""


class Profile(dg.ConfigurableResource):
    """The settings of this run: a profile's name and exceptions to it, both changeable in the launchpad."""

    name: str = Field(
        default_factory=lambda: os.environ.get(PROFILE_VARIABLE, DEFAULT_PROFILE), description="a bundled profile or a YAML file"
    )
    overrides: list[str] = Field(default=[], description='exceptions such as "training.epochs=2"')

    def settings(self) -> Settings:
        """The resolved settings."""
        return load_profile(self.name, dict(parse_override(text) for text in self.overrides))


class Launcher(dg.ConfigurableResource):
    """Makes an asset in a worker process of its own, or finds that it stands already."""

    profile: dg.ResourceDependency[Profile]

    def make(
        self, context: AssetExecutionContext, name: str, task: str, inputs: Mapping[str, Ref], place: Place | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> dg.MaterializeResult[Ref]:  # fmt: skip
        """Make the asset `name` with the task `task`, or reuse the result that stands for exactly these inputs and settings.

        Raises:
            dagster.Failure: the work failed; its description is the message for the user.
        """
        return next(iter(self.make_together(context, [name], task, inputs, place, extra)))

    def make_together(
        self, context: AssetExecutionContext, names: Sequence[str], task: str, inputs: Mapping[str, Ref], place: Place | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> list[dg.MaterializeResult[Ref]]:  # fmt: skip
        """Make several assets from the same inputs in one worker process; those that stand already are left out of it.

        Raises:
            dagster.Failure: the work failed; its description is the message for the user.
        """
        place = place or place_light()
        hang_on_driver(context)
        settings = self.profile.settings()
        orders = [write_order(name, task, settings, dict(inputs), place, context.run_id, dict(extra or {})) for name in names]
        found = {order.name: manifest for order in orders if (manifest := standing_result(order, context.log.warning))}
        for name, standing in found.items():
            context.log.info(f"{name} is unchanged: made {standing.created_at}, nothing to do")
        wanted = [order for order in orders if order.name not in found]
        made = self._work(context, wanted[0].model_copy(update={"together": tuple(wanted[1:])}), place) if wanted else {}
        for order in orders:
            manifest = {**found, **made}[order.name]
            results.show(settings.outputs, order.name, Path(order.out))
            store.export(Path(order.out), manifest)
        return [_materialised(order, {**found, **made}[order.name], reused=order.name in found) for order in orders]

    def _work(self, context: AssetExecutionContext, order: Order, place: Place) -> dict[str, Manifest]:
        if command_of(order) == WORKER:
            return self._started(context, order, place)
        with results.held([Path(part.out) for part in order.parts], context.log.info):  # several processes: the worker can't hold it
            found = {part.name: manifest for part in order.parts if (manifest := standing_result(part))}
            return found if len(found) == len(order.parts) else self._started(context, order, place)

    def _started(self, context: AssetExecutionContext, order: Order, place: Place) -> dict[str, Manifest]:
        environment = worker_environment(place)
        with dg.open_pipes_session(context, dg.PipesTempFileContextInjector(), WholeLines(), as_extras(order)) as session:
            process = subprocess.Popen(command_of(order), env={**os.environ, **environment, **session.get_bootstrap_env_vars()})
            try:
                status = process.wait()
            except (DagsterExecutionInterruptedError, KeyboardInterrupt):
                context.log.info(f"stopping the work on {order.name}")
                process.terminate()
                try:
                    process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        answer: dict[str, Any] = next(
            iter(session.get_custom_messages()), {"error": f"the worker ended with status {status} and said nothing"}
        )
        if "error" in answer:
            if "traceback" in answer:
                context.log.error(answer["traceback"])
            raise dg.Failure(description=f"{order.name}: {answer['error']}", allow_retries=False)
        return {name: Manifest.model_validate(manifest) for name, manifest in answer["manifests"].items()}


def _materialised(order: Order, manifest: Manifest, reused: bool) -> dg.MaterializeResult[Ref]:
    ref = to_ref(order, manifest)
    return dg.MaterializeResult(
        asset_key=dg.AssetKey(order.name.split("/")),
        value=ref,
        metadata=to_metadata(Path(ref.path), manifest, reused=reused),
        check_results=to_checks(order.name, manifest),
        data_version=dg.DataVersion(manifest.sha256),
    )


def hang_on_driver(context: AssetExecutionContext) -> None:
    """End this step with the process that drives its run, and tell in the run which process that is."""
    end_with_driver()
    driver = multiprocessing.parent_process()
    if driver is None or driver.pid is None:
        return
    owner = owner_of(driver.pid, context.run_id)  # with the run's id: a run that is started again inherits the tags
    run = context.instance.get_run_by_id(context.run_id)
    if run and run.tags.get(OWNER_TAG) != owner:
        context.instance.add_run_tags(context.run_id, {OWNER_TAG: owner})


class RefStore(dg.ConfigurableIOManager):
    """Hands small references from asset to asset as JSON: no pickle, and never "the latest in the folder".

    Where settings.aws.store names a place, finished folders are kept there too, and fetched from there where they are missing here.
    """

    profile: dg.ResourceDependency[Profile]

    def handle_output(self, context: dg.OutputContext, obj: Ref) -> None:
        """Keep the reference of a finished asset, and in the shared store its folder too."""
        key = "/".join(context.asset_key.path)
        results.write_ref(self.profile.settings().outputs, key, obj)
        manifest = store.read_manifest(Path(obj.path))
        if (shared := self._shared(context)) and manifest and manifest.sha256 == obj.sha256:
            context.log.info(f"kept in {shared.keep(key, Path(obj.path), manifest)}")
            shared.keep_ref(key, obj)

    def load_input(self, context: dg.InputContext) -> Ref:
        """What an upstream asset handed on last under this run's settings; its folder is fetched where it is missing here."""
        key, settings = "/".join(context.asset_key.path), self.profile.settings()
        try:
            ref = results.find_ref(settings, key)
            standing = store.read_manifest(Path(ref.path)) if ref else None
        except MedpipeError as error:
            raise dg.Failure(f"{key}: {error}", allow_retries=False) from None
        if ref and standing and standing.sha256 == ref.sha256:
            return ref
        shared = self._shared(context)
        wanted = ref or next((one for one in shared.refs(key) if results.fits(one, settings)), None) if shared else None
        if shared and wanted:
            folder = settings.outputs / results.STORE / key / Path(wanted.path).name  # named after its fingerprint there too
            shared.fetch(key, wanted.sha256, folder)
            results.show(settings.outputs, key, folder)
            found = wanted.model_copy(update={"path": str(folder)})
            results.write_ref(settings.outputs, key, found)
            return found
        if ref and shared is None:
            return ref  # the worker tells what is wrong with its folder
        other = results.other_settings(settings, key)
        what = f"{key} made with other settings ({', '.join(other)})" if other else f"no {key}"
        places = f"{settings.outputs} or {shared.where}" if shared else str(settings.outputs)
        raise dg.Failure(
            f"got {what}, expected one of this profile in {places}: materialise {key} first (or select '*{key}')", allow_retries=False
        )

    def _shared(self, context: dg.OutputContext | dg.InputContext) -> Store | None:
        aws = self.profile.settings().aws
        return Store(aws.store, context.log.info, aws.kms_key, aws.region) if aws.store else None

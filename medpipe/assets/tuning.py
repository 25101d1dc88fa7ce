"""The hyperparameter search; in the graph where the profile says `tuning.in_graph`, and never part of the job `everything`."""

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.corpus import OWNERS
from medpipe.assets.models import DATA
from medpipe.assets.present import HANDED_OVER
from medpipe.config import Settings
from medpipe.resources import Launcher
from medpipe.schema import Ref
from medpipe.tasks import TASKS


def tuning_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The search, where the profile at load time asks for it."""
    return [study] if settings.tuning.in_graph else []


# In no pool: the trainings of its trials claim the devices, each as in the graph itself.
@dg.asset(
    key=["tuning", "study"], group_name="tuning", kinds={"optuna", "pytorch"}, owners=OWNERS, dagster_type=HANDED_OVER,
    code_version=TASKS["tuning"].version(),
    ins={**DATA, "base": dg.AssetIn(["models", "base"])},
)  # fmt: skip
def study(context: AssetExecutionContext, launcher: Launcher, train: Ref, validation: Ref, base: Ref) -> dg.MaterializeResult:
    """Trials of fine-tuning and co-training over the guide's space; what stands in the profile is left as it is."""
    inputs = {"splits/train": train, "splits/validation": validation, "models/base": base}
    return launcher.make(context, "tuning/study", "tuning", inputs)

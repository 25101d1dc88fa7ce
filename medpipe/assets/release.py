"""The champion: the co-trained team in MLflow's registry, promoted where its evaluations say so.

Made alone with `dagster asset materialize -m medpipe.definitions --select release/champion`.
"""

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.automation import FRESH, WHEN_INPUTS_CHANGE
from medpipe.assets.corpus import OWNERS
from medpipe.assets.evaluation import MEASURED, by_key, handed_over
from medpipe.assets.present import HANDED_OVER, check_specs
from medpipe.resources import Launcher
from medpipe.schema import Ref
from medpipe.tasks import TASKS

RELEASED = ["splits/train", "models/base", "models/maporl_team", *MEASURED]


@dg.asset(
    key=["release", "champion"],
    group_name="release",
    kinds={"mlflow"},
    owners=OWNERS,
    dagster_type=HANDED_OVER,
    code_version=TASKS["champion"].version(),
    ins=handed_over(RELEASED),
    automation_condition=WHEN_INPUTS_CHANGE,
    freshness_policy=FRESH,
    check_specs=check_specs("release/champion"),
)
def champion(context: AssetExecutionContext, launcher: Launcher, **refs: Ref) -> dg.MaterializeResult:
    """Registers the team as a version of `medpipe_team`, and makes it champion if it is better and nowhere worse."""
    return launcher.make(context, "release/champion", "champion", by_key(refs))

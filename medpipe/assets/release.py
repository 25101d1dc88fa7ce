"""The champion: the co-trained team in MLflow's registry, promoted where its evaluations say so.

Made alone with `dagster asset materialize -m medpipe.definitions --select release/champion`. Like the report it takes the benchmarks
as they lie finished: one that can't be had is not materialised, and the decision has to say so.
"""

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.automation import FRESH, WHEN_INPUTS_CHANGE
from medpipe.assets.corpus import OWNERS
from medpipe.assets.evaluation import LEADERBOARD, by_key, handed_over
from medpipe.assets.present import HANDED_OVER
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.resources import Launcher
from medpipe.schema import Ref

RELEASED = ["splits/train", "models/base", "models/maporl_team"]


@dg.asset(
    key=["release", "champion"],
    group_name="release",
    kinds={"mlflow"},
    owners=OWNERS,
    dagster_type=HANDED_OVER,
    ins=handed_over(RELEASED),
    deps=[LEADERBOARD],
    automation_condition=WHEN_INPUTS_CHANGE,
    freshness_policy=FRESH,
)
def champion(context: AssetExecutionContext, launcher: Launcher, **refs: Ref) -> dg.MaterializeResult:
    """Registers the team as a version of `medpipe_team`, and makes it champion if it is better and nowhere worse."""
    measured = {key: launcher.standing(key) for key in (f"evaluation/{name}" for name in BENCHMARKS)}
    return launcher.make(context, "release/champion", "champion", by_key(refs) | measured)

"""Benchmarks, the leaderboard and the report.

A benchmark that can't be had is empty, says why and fails its check `available`, as a source is: the leaderboard has to say
"not run, because …".
"""

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.automation import WHEN_INPUTS_CHANGE
from medpipe.assets.cluster import tags_of
from medpipe.assets.corpus import OWNERS
from medpipe.assets.present import HANDED_OVER, check_specs
from medpipe.config import Settings
from medpipe.corpus.sources import SOURCES
from medpipe.evaluation.benchmarks import ASKED, BENCHMARKS, OWN
from medpipe.launch.devices import place_team
from medpipe.resources import Launcher, Profile
from medpipe.schema import LEARNERS, Ref
from medpipe.tasks import TASKS

MODELS = ["models/base", *(f"models/{learner}" for learner in LEARNERS), "models/maporl_team", "models/agent_rl"]
TRAINED = ["splits/train", "splits/cotrain", *MODELS]
EVALUATED = ["sources/benchmarks", "corpus/clean", *TRAINED]
MEASURED = [f"evaluation/{name}" for name in BENCHMARKS]
SHOWN = [*MEASURED, *(f"evaluation/{name}" for name in OWN)]
REPORTED = [*(f"sources/{name}" for name in SOURCES), "corpus/clean", "splits/validation", *TRAINED, *SHOWN, "evaluation/leaderboard"]


def handed_over(keys: list[str]) -> dict[str, dg.AssetIn]:
    """Inputs named `corpus__clean` for the asset `corpus/clean`."""
    return {key.replace("/", "__"): dg.AssetIn(key.split("/")) for key in keys}


def by_key(refs: dict[str, Ref]) -> dict[str, Ref]:
    """The inputs under their assets' keys again."""
    return {name.replace("__", "/"): ref for name, ref in refs.items()}


def benchmark_asset(name: str, settings: Settings) -> dg.AssetsDefinition:
    """One benchmark: every system of the profile on the same questions."""
    benchmark, place = ASKED[name], place_team(settings)

    @dg.asset(
        key=["evaluation", name], group_name="evaluation", kinds={"table"}, owners=OWNERS, dagster_type=HANDED_OVER,
        code_version=TASKS["benchmark"].version(),
        ins=handed_over(EVALUATED), check_specs=check_specs(f"evaluation/{name}"), automation_condition=WHEN_INPUTS_CHANGE,
        description=f"{benchmark.title}: evaluation only, never trained on. Licence: {benchmark.licence}.",
        pool=place.pool, op_tags=tags_of(place),
    )  # fmt: skip
    def evaluate(context: AssetExecutionContext, launcher: Launcher, profile: Profile, **refs: Ref) -> dg.MaterializeResult:
        return launcher.make(context, f"evaluation/{name}", "benchmark", by_key(refs), place_team(profile.settings()))

    return evaluate


def evaluation_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Every benchmark, then the leaderboard over all of them."""
    return [*(benchmark_asset(name, settings) for name in ASKED), leaderboard]


@dg.asset(
    key=["evaluation", "leaderboard"], group_name="evaluation", kinds={"table"}, owners=OWNERS, dagster_type=HANDED_OVER,
    code_version=TASKS["leaderboard"].version(),
    ins=handed_over(SHOWN), automation_condition=WHEN_INPUTS_CHANGE,
)  # fmt: skip
def leaderboard(context: AssetExecutionContext, launcher: Launcher, **refs: Ref) -> dg.MaterializeResult:
    """A look-up, one agent, the fine-tuned team and the MAPoRL team on the same questions, with intervals and chance."""
    return launcher.make(context, "evaluation/leaderboard", "leaderboard", by_key(refs))


@dg.asset(
    key=["release", "report"], group_name="release", kinds={"html"}, owners=OWNERS, dagster_type=HANDED_OVER,
    code_version=TASKS["report"].version(),
    ins=handed_over(REPORTED), automation_condition=WHEN_INPUTS_CHANGE,
)  # fmt: skip
def report(context: AssetExecutionContext, launcher: Launcher, **refs: Ref) -> dg.MaterializeResult:
    """One page for a physician-researcher: what went in, what was learned, what it is worth, and how to do it again."""
    return launcher.make(context, "release/report", "report", by_key(refs))

"""Benchmarks, the leaderboard and the report.

The benchmarks and the leaderboard share one step: a benchmark that can't be had is not materialised, and Dagster would
skip whatever waits for it in a step of its own, while the leaderboard has to say "not run, because …".
"""

from collections.abc import Iterator

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.automation import WHEN_INPUTS_CHANGE, WITH_ITS_BENCHMARKS
from medpipe.assets.cluster import pod
from medpipe.assets.corpus import OWNERS
from medpipe.assets.present import HANDED_OVER
from medpipe.config import Settings
from medpipe.corpus.sources import SOURCES
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.launch.devices import place_team
from medpipe.resources import Launcher, Profile, without_value
from medpipe.schema import LEARNERS, Ref

LEADERBOARD = dg.AssetKey(["evaluation", "leaderboard"])
MODELS = ["models/base", *(f"models/{learner}" for learner in LEARNERS), "models/maporl_team", "models/agent_rl"]
TRAINED = ["splits/train", "splits/cotrain", *MODELS]
EVALUATED = ["sources/benchmarks", "corpus/clean", *TRAINED]
REPORTED = ["corpus/clean", "splits/validation", *TRAINED]


def benchmark_key(name: str) -> dg.AssetKey:
    """The asset key of a benchmark."""
    return dg.AssetKey(["evaluation", name])


def handed_over(keys: list[str]) -> dict[str, dg.AssetIn]:
    """Inputs named `corpus__clean` for the asset `corpus/clean`."""
    return {key.replace("/", "__"): dg.AssetIn(key.split("/")) for key in keys}


def by_key(refs: dict[str, Ref]) -> dict[str, Ref]:
    """The inputs under their assets' keys again."""
    return {name.replace("__", "/"): ref for name, ref in refs.items()}


def evaluation_assets(settings: Settings) -> dg.AssetsDefinition:
    """Every benchmark, then the leaderboard over all of them."""
    upstream = [dg.AssetKey(key.split("/")) for key in EVALUATED]
    specs = [
        dg.AssetSpec(
            benchmark_key(name), group_name="evaluation", kinds={"table"}, owners=OWNERS, deps=upstream, skippable=True,
            description=f"{benchmark.title}: evaluation only, never trained on. Licence: {benchmark.licence}.",
            automation_condition=WHEN_INPUTS_CHANGE,
        )
        for name, benchmark in BENCHMARKS.items()
    ]  # fmt: skip
    board = dg.AssetSpec(
        LEADERBOARD, group_name="evaluation", kinds={"table"}, owners=OWNERS, deps=[spec.key for spec in specs], skippable=True,
        description="A look-up, one agent, the fine-tuned team and the MAPoRL team on the same questions, with intervals and chance.",
        automation_condition=WITH_ITS_BENCHMARKS,
    )  # fmt: skip

    @dg.multi_asset(
        name="evaluation", specs=[*specs, board], ins=handed_over(EVALUATED), can_subset=True,
        pool=place_team(settings).pool, op_tags=pod(place_team(settings)),
    )  # fmt: skip
    def evaluation(context: AssetExecutionContext, launcher: Launcher, profile: Profile, **refs: Ref) -> Iterator[dg.MaterializeResult]:
        results: dict[str, Ref] = {}
        for name in BENCHMARKS:
            if benchmark_key(name) in context.selected_asset_keys:
                made = launcher.make(context, f"evaluation/{name}", "benchmark", by_key(refs), place_team(profile.settings()))
                results[name] = made.value
                if made.value.status == "ok":
                    yield without_value(made)
        if LEADERBOARD in context.selected_asset_keys:
            known = {f"evaluation/{name}": results.get(name) or launcher.standing(f"evaluation/{name}") for name in BENCHMARKS}
            yield without_value(launcher.make(context, "evaluation/leaderboard", "leaderboard", known))

    return evaluation


@dg.asset(
    key=["release", "report"],
    group_name="release",
    kinds={"html"},
    owners=OWNERS,
    dagster_type=HANDED_OVER,
    ins=handed_over(REPORTED),
    deps=[LEADERBOARD],
    automation_condition=WHEN_INPUTS_CHANGE,
)
def report(context: AssetExecutionContext, launcher: Launcher, **refs: Ref) -> dg.MaterializeResult:
    """One page for a physician-researcher: what went in, what was learned, what it is worth, and how to do it again."""
    others = [*(f"sources/{name}" for name in SOURCES), *(f"evaluation/{name}" for name in BENCHMARKS), "evaluation/leaderboard"]
    return launcher.make(context, "release/report", "report", by_key(refs) | {key: launcher.standing(key) for key in others})

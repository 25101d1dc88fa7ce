"""Raw sources, the clean corpus and its splits."""

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.present import HANDED_OVER, check_specs
from medpipe.corpus import benchmarks
from medpipe.corpus.sources import SOURCES, stamp
from medpipe.resources import Launcher, Profile
from medpipe.schema import Ref
from medpipe.tasks import TASKS

OWNERS = ["team:medpipe"]


def source_asset(name: str) -> dg.AssetsDefinition:
    """One raw source; a source that can't be had is empty, says why, and fails its check `reachable`."""
    source = SOURCES[name]

    @dg.asset(
        key=["sources", name], group_name="sources", kinds={"table"}, owners=OWNERS, dagster_type=HANDED_OVER,
        code_version=TASKS["source"].version(),
        description=f"Raw rows: {source.title}. Licence: {source.licence}.",
        check_specs=check_specs(f"sources/{name}"),
    )  # fmt: skip
    def load(context: AssetExecutionContext, launcher: Launcher, profile: Profile) -> dg.MaterializeResult:
        return launcher.make(context, f"sources/{name}", "source", {}, extra=stamp(name, profile.settings()))

    return load


@dg.asset(
    key=["sources", "benchmarks"], group_name="sources", kinds={"table"}, owners=OWNERS, dagster_type=HANDED_OVER,
    code_version=TASKS["benchmarks"].version(),
    check_specs=check_specs("sources/benchmarks"),
)  # fmt: skip
def benchmark_files(context: AssetExecutionContext, launcher: Launcher, profile: Profile) -> dg.MaterializeResult:
    """The published benchmarks' questions, for evaluation only: what training must not contain, and what is asked later."""
    return launcher.make(context, "sources/benchmarks", "benchmarks", {}, extra=benchmarks.stamp(profile.settings(), context.run_id))


sources = [*(source_asset(name) for name in SOURCES), benchmark_files]


@dg.asset(
    key=["corpus", "clean"], group_name="corpus", kinds={"table", "greatexpectations"}, owners=OWNERS, dagster_type=HANDED_OVER,
    code_version=TASKS["clean"].version(),
    ins={name: dg.AssetIn(["sources", name]) for name in (*SOURCES, "benchmarks")},
    check_specs=check_specs("corpus/clean"),
)  # fmt: skip
def clean(context: AssetExecutionContext, launcher: Launcher, **refs: Ref) -> dg.MaterializeResult:
    """All sources as one table: repaired, bounded in length, without duplicates or benchmark questions, each drop with its reason."""
    return launcher.make(context, "corpus/clean", "clean", {f"sources/{name}": ref for name, ref in refs.items()})


def split_asset(part: str, description: str) -> dg.AssetsDefinition:
    """One side of the split by condition: no condition is on two sides, and adding rows moves none."""

    @dg.asset(
        key=["splits", part], group_name="splits", kinds={"table", "greatexpectations"}, owners=OWNERS, dagster_type=HANDED_OVER,
        code_version=TASKS["split"].version(),
        description=description,
        ins={"clean": dg.AssetIn(["corpus", "clean"])}, check_specs=check_specs(f"splits/{part}"),
    )  # fmt: skip
    def split(context: AssetExecutionContext, launcher: Launcher, clean: Ref) -> dg.MaterializeResult:
        return launcher.make(context, f"splits/{part}", "split", {"corpus/clean": clean})

    return split


splits = [
    split_asset("train", "What fine-tuning learns from, and the library that evidence is found in."),
    split_asset("cotrain", "What co-training learns from: conditions that fine-tuning never shows."),
    split_asset("validation", "What tells whether a role has learned: conditions that training never shows."),
]

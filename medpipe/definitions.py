"""The whole graph in one table: assets, jobs, what starts them by itself, and what the assets are given.

    dagster asset materialize -m medpipe.definitions --select '*'      # the profile is MEDPIPE_PROFILE, or quickstart
    dagster dev                                                        # the same graph on a page (workspace.yaml)

sources → corpus → splits → models (base, four roles, team) → evaluation → release. How things are made is in the library
packages; nothing heavy (torch, transformers, mlflow, great_expectations) is imported here.
"""

from __future__ import annotations

import dagster as dg

from medpipe.assets import alerts, automation, cluster, corpus, evaluation, models, release, sagemaker, tuning
from medpipe.assets.console import console
from medpipe.resources import Launcher, Profile, RefStore

profile = Profile.configure_at_launch()
settings = Profile().settings()  # decides the pools; a profile chosen in the launchpad changes everything else

ASSETS = [
    *corpus.sources,
    corpus.clean,
    *corpus.splits,
    *models.model_assets(settings),
    *evaluation.evaluation_assets(settings),
    evaluation.report,
    release.champion,
    *tuning.tuning_assets(settings),
]

DATA = dg.AssetSelection.groups("sources", "corpus", "splits")
MODELS = dg.AssetSelection.groups("models", "rewards")
RESULTS = dg.AssetSelection.groups("evaluation")
RELEASE = dg.AssetSelection.groups("release")

JOBS = {
    "ingest": dg.define_asset_job("ingest", DATA, description="Sources to validated splits."),
    "train": dg.define_asset_job(
        "train", MODELS, description="The base, the four roles, the audit of the reward and the team, from the splits that stand."
    ),
    "evaluate": dg.define_asset_job("evaluate", RESULTS, description="Benchmarks and leaderboard, on the models that stand."),
    "release": dg.define_asset_job("release", RELEASE, description="Champion and report, on the evaluations that stand."),
    "everything": dg.define_asset_job(
        "everything", dg.AssetSelection.all() - dg.AssetSelection.groups("tuning"), description="The whole graph."
    ),
}
if settings.tuning.in_graph:
    JOBS["tune"] = dg.define_asset_job(
        "tune", dg.AssetSelection.groups("tuning"), description="The search, on the splits and base that stand."
    )

SENSORS = [
    automation.custom_rows,
    automation.CHANGED_INPUTS,
    alerts.run_failures,
    alerts.check_failures,
    sagemaker.sweep_sensor(),
]

defs = dg.Definitions(
    assets=ASSETS,
    jobs=list(JOBS.values()),
    schedules=[automation.WEEKLY],
    sensors=SENSORS,
    resources={"profile": profile, "launcher": Launcher(profile=profile), "io_manager": RefStore(profile=profile)},
    executor=cluster.executor(),
    loggers={"console": console},
)

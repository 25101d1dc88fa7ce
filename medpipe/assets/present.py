"""How a result looks on Dagster's page: metadata with tables and plots, and check results. No work is done here."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from medpipe.corpus import own_rows
from medpipe.corpus.sources import SOURCES
from medpipe.evaluation.benchmarks import ASKED
from medpipe.schema import Manifest, Ref

HANDED_OVER = dg.DagsterType(lambda _, value: isinstance(value, Ref), "Ref", description="a finished folder and the hash of its content")
"""Type of what one asset hands to the next."""

MOST_PICTURE_BYTES = 200_000
Spec = tuple[str, str, bool]  # name, description, blocking

DATA = ("schema_and_ranges", "rows have the right columns, lengths and values (Great Expectations)", True)
DRIFT = ("drift", "the rows look like those of the last version", False)
CHECKS: dict[str, tuple[Spec, ...]] = {
    **{f"sources/{name}": (("reachable", "the source could be read", False), DATA, DRIFT) for name in SOURCES},
    "sources/benchmarks": (("reachable", "every benchmark could be read", False),),
    "corpus/clean": (
        DATA,
        DRIFT,
        ("unique_ids", "no id twice", True),
        ("funnel_adds_up", "rows in = rows kept + rows dropped, by source", True),
        ("decontaminated", "no row shows a question of a benchmark", False),
        (own_rows.CHECK, "how many of the user's own rows are on which side of the split", False),
    ),
    **{
        f"splits/{part}": (
            DATA,
            DRIFT,
            ("no_focus_overlap", "no disease, synonym or UMLS concept on two sides of the split", True),
            ("shares_by_source", "each source is split in the shares that the profile asks for", False),
            ("not_empty", "there are rows", True),
            *((("retrieval_alike", "training rows are shown the right passage as often as held-out ones", False),) * (part == "train")),
        )
        for part in ("train", "cotrain", "validation")
    },
    "models/base": (("loads_and_computes", "the weights load and give finite numbers", True),),
    **{
        f"models/{role}": (
            ("adapter_moved_base_frozen", "the adapter's weights changed, the base's did not", True),
            ("validation_loss_fell", "loss on validation rows is lower than before", False),
        )
        for role in ("planner", "researcher", "analyst", "reporter", "agent")
    },
    "rewards/audit": (
        ("no_attack_pays", "no spoilt answer scores near the honest one that it was made from", True),
        ("honest_paraphrases_pass", "honest answers in other words keep their score", False),
        ("unseen_attacks", "attacks on which no gate was tuned do not pay either", False),
    ),
    "models/verifier": (
        ("adapter_moved_rest_frozen", "the verifier's weights changed, the base's and the roles' did not", True),
        ("auc_above_chance", "right messages rank above wrong ones on held-out questions", False),
        ("not_reversed", "right messages do not surely rank below wrong ones", True),
    ),
    **{
        f"models/{name}": (
            ("weights_moved_base_frozen", "every adapter moved, the base and the references did not", True),
            ("on_policy", "drawn and scored log-probabilities agree", True),
        )
        for name in ("maporl_team", "agent_rl")
    },
    **{
        f"evaluation/{name}": (
            ("available", "the benchmark could be had", False),
            ("above_chance", "the best trained system's interval lies above chance", False),
            ("answers_parsed", "at most 5% of a system's answers settle on nothing", False),
        )
        for name in ASKED
    },
    "release/champion": (("no_regression", "on no benchmark is the team shown to be worse than the champion", False),),
}
"""The checks of each asset; a blocking one stops everything downstream when it fails."""


def check_specs(name: str) -> list[dg.AssetCheckSpec]:
    """What Dagster is told of an asset's checks before it runs."""
    return [
        dg.AssetCheckSpec(check, asset=name.split("/"), description=text, blocking=blocking)
        for check, text, blocking in CHECKS.get(name, ())
    ]


def to_checks(name: str, manifest: Manifest) -> list[dg.AssetCheckResult]:
    """Check results from a manifest."""
    levels = {"error": dg.AssetCheckSeverity.ERROR, "warn": dg.AssetCheckSeverity.WARN}
    return [
        dg.AssetCheckResult(
            passed=check.passed, asset_key=dg.AssetKey(name.split("/")), check_name=check.name, severity=levels[check.severity],
            description=check.description or None, metadata={key: str(value) for key, value in check.values.items()},
        )
        for check in manifest.checks
    ]  # fmt: skip


def to_metadata(folder: Path, manifest: Manifest, reused: bool) -> dict[str, Any]:
    """Metadata of a result: what the job reported, then where it lies and what it was made from."""
    shown = {key: _value(folder, value) for key, value in manifest.metadata.items()}
    if manifest.status != "ok":
        shown["not available"] = manifest.reason
    return {
        **shown, "folder": dg.MetadataValue.path(str(folder)), "config_hash": manifest.config_hash, "commit": manifest.commit,
        "made": manifest.created_at, "seconds": manifest.seconds, "reused": reused,
    }  # fmt: skip


def _value(folder: Path, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "table" in value:
        return _table(value["table"])
    if "markdown" in value:
        return dg.MetadataValue.md(value["markdown"])
    if "image" in value:
        return _picture(folder / value["image"], value.get("alt", ""))
    if "file" in value:
        return dg.MetadataValue.path(str(folder / value["file"]))
    return dg.MetadataValue.json(dict(value))


def _picture(path: Path, alt: str) -> Any:
    """The picture itself, or where it lies: what stands in metadata is kept in Dagster's event log for good, once for each making."""
    if path.stat().st_size > MOST_PICTURE_BYTES:
        return dg.MetadataValue.path(str(path))
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})")


def _table(rows: list[dict[str, Any]]) -> Any:
    """Every row gets the columns of all: Dagster wants tables without holes."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    records = [
        dg.TableRecord({c: v if isinstance(v := row.get(c, ""), (str, int, float, bool)) else str(v) for c in columns}) for row in rows
    ]
    return dg.MetadataValue.table(records) if records else "none"

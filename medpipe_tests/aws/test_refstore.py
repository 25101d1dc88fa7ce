"""Two machines with one store of results: what one has made, the other is handed. The second machine is another outputs folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from medpipe.resources import Profile, RefStore
from medpipe.schema import Ref
from medpipe_tests.aws.conftest import Cloud
from medpipe_tests.aws.folders import finished

pytestmark = pytest.mark.slow
TEXT = "a row\n"


def assets(outputs: Path) -> list[dg.AssetsDefinition]:
    @dg.asset(key=["splits", "train"])
    def train() -> Ref:
        return finished(outputs, "splits/train", TEXT)

    @dg.asset(key=["models", "base"], ins={"train": dg.AssetIn(["splits", "train"])})
    def reader(train: Ref) -> Ref:
        assert Path(train.path).is_relative_to(outputs)
        assert (Path(train.path) / "rows.jsonl").read_text() == TEXT
        return finished(outputs, "models/base")

    return [train, reader]


def materialise(outputs: Path, shared: str, key: str) -> dg.ExecuteInProcessResult:
    profile = Profile(name="smoke", overrides=[f"paths.outputs={outputs}", f"aws.store={shared}"])
    chosen = [asset for asset in assets(outputs) if asset.key == dg.AssetKey(key.split("/"))]
    others = [
        asset.to_source_assets()[0] for asset in assets(outputs) if asset not in chosen and asset.key not in {one.key for one in chosen}
    ]
    return dg.materialize([*chosen, *others], resources={"io_manager": RefStore(profile=profile)}, raise_on_error=False)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_what_one_machine_made_another_is_handed(aws: Cloud, tmp_path: Path, kind: str) -> None:
    shared = str(tmp_path / "shared") if kind == "folder" else f"s3://{aws.bucket}/store"
    one, two = tmp_path / "one", tmp_path / "two"
    assert materialise(one, shared, "splits/train").success
    assert materialise(two, shared, "models/base").success
    shutil.rmtree(two / "splits" / "train")
    assert materialise(two, shared, "models/base").success  # its own reference stands, the folder is fetched anew


def test_without_a_store_another_machine_is_told_what_is_missing(tmp_path: Path) -> None:
    assert materialise(tmp_path / "one", "''", "splits/train").success
    result = materialise(tmp_path / "two", "''", "models/base")
    assert not result.success and not (tmp_path / "two" / "splits").exists()

"""A base model from a folder of the user's own: what is read of it, what is refused, and when the base is made anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
from safetensors.torch import load_file, save_file

from medpipe import store
from medpipe.config import Model, load_profile
from medpipe.errors import MedpipeError
from medpipe.job import Job
from medpipe.models import base, folder
from medpipe.models.adapters import weights_hash
from medpipe_tests.tiny_team import tiny_settings


@pytest.fixture
def mine(tiny_base: Path, tmp_path: Path) -> Path:
    """A model of the user's: what save_pretrained writes, and nothing that the project adds."""
    place = tmp_path / "mine"
    shutil.copytree(tiny_base, place, ignore=shutil.ignore_patterns(base.PROBE, "manifest.json"))
    return place


def choice(place: Path) -> Model:
    return Model(kind="folder", name=str(place))


def changed(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def test_the_base_is_made_of_the_folders_weights(mine: Path, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = make_job("models/base", tiny_settings({"model.kind": "folder", "model.name": str(mine)}), sections=("model",))
    outcome = base.run(job)
    assert all(check.passed for check in outcome.checks)
    assert outcome.metadata["origin_sha256"] == store.hash_of_hashes(folder.hashes_of(mine)) and outcome.metadata["revision"] == ""
    made, _ = base.load(job.out)
    theirs, _ = base.load(mine)
    assert weights_hash(dict(made.named_parameters())) == weights_hash(dict(theirs.named_parameters()))
    assert {path.suffix for path in job.out.rglob("*") if path.is_file()} == {".safetensors", ".json", ".jinja"}


def test_weights_in_several_files_are_read(mine: Path) -> None:
    model, tokenizer = base.load(mine)
    parts = mine.with_name("parts")
    model.save_pretrained(parts, max_shard_size="200KB")
    tokenizer.save_pretrained(parts)
    assert (parts / folder.INDEX).is_file() and not (parts / folder.WEIGHTS).exists()
    folder.refuse_unfit(parts)
    read, _ = folder.read_whole(parts, "here")
    assert weights_hash(dict(read.named_parameters())) == weights_hash(dict(model.named_parameters()))
    lost = sorted(parts.glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(MedpipeError, match=f"got no {lost.name}.*copy the whole folder"):
        folder.refuse_unfit(parts)


def test_a_model_whose_output_head_is_its_embedding_is_whole(mine: Path) -> None:
    """Such weights stand in the files once."""
    model, _ = base.load(mine)
    config = type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": True})
    tied = type(model)(config)  # type: ignore[reportCallIssue]
    tied.save_pretrained(mine)
    assert "lm_head.weight" not in load_file(mine / folder.WEIGHTS)
    read, _ = folder.read_whole(mine, "here")
    assert torch.equal(read.get_input_embeddings().weight, read.get_output_embeddings().weight)


def spoil_nothing_there(mine: Path) -> None:
    shutil.rmtree(mine)


def spoil_a_file_instead(mine: Path) -> None:
    shutil.rmtree(mine)
    mine.write_text("weights", encoding="utf-8")


def spoil_half(mine: Path) -> None:
    (mine / folder.WEIGHTS).unlink()
    (mine / "tokenizer.json").unlink()


def spoil_pickled(mine: Path) -> None:
    torch.save(load_file(mine / folder.WEIGHTS), mine / "pytorch_model.bin")
    (mine / folder.WEIGHTS).unlink()


def spoil_pickled_alone(mine: Path) -> None:
    (mine / folder.WEIGHTS).rename(mine / "model.pt")


def spoil_code(mine: Path) -> None:
    (mine / "modeling_own.py").write_text("open('ran', 'w')\n", encoding="utf-8")
    changed(mine / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})


def spoil_quantised(mine: Path) -> None:
    changed(mine / "config.json", quantization_config={"quant_method": "gptq"})


def spoil_config(mine: Path) -> None:
    (mine / "config.json").write_text("{", encoding="utf-8")


def spoil_truncated(mine: Path) -> None:
    weights = mine / folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])


def spoil_a_layer(mine: Path) -> None:
    weights = load_file(mine / folder.WEIGHTS)
    save_file({name: value for name, value in weights.items() if "layers.0.mlp" not in name}, mine / folder.WEIGHTS, {"format": "pt"})


def spoil_architecture(mine: Path) -> None:
    changed(mine / "config.json", model_type="nobody-knows-it")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_nothing_there, r"got no such folder, expected a folder with config\.json.*correct the path"),
        (spoil_a_file_instead, r"got a file, expected a folder"),
        (spoil_half, r"got no tokenizer\.json, model\.safetensors, expected .*copy the whole folder"),
        (spoil_pickled, r"got pickled weights \(pytorch_model\.bin\), expected safetensors: a pickle can run any code.*save_pretrained"),
        (spoil_pickled_alone, r"got pickled weights \(model\.pt\)"),
        (spoil_code, r"needs Python code of its own \(auto_map in config\.json\).*never run"),
        (spoil_quantised, r"got quantised weights, expected full weights"),
        (spoil_config, r"got text that is not JSON .*config\.json"),
        (spoil_truncated, r"got files that can't be read .*copy or download the whole folder again"),
        (spoil_a_layer, r"got weights without model\.layers\.0\.mlp\.down_proj\.weight, .*expected all that config\.json asks for"),
        (spoil_architecture, r"got files that can't be read .*nobody-knows-it"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_in_one_message(
    mine: Path, make_job: Callable[..., Job], spoil: Callable[[Path], None], told: str
) -> None:
    spoil(mine)
    job = make_job("models/base", tiny_settings({"model.kind": "folder", "model.name": str(mine)}))
    with pytest.raises(MedpipeError, match=told) as caught:
        base.run(job)
    assert "\n" not in str(caught.value) and f"model.name = {mine}" in str(caught.value)
    assert list(job.out.iterdir()) == [] and not Path("ran").exists()


def test_a_pickle_beside_whole_weights_is_not_read(mine: Path, make_job: Callable[..., Job]) -> None:
    (mine / "training_args.bin").write_bytes(b"no pickle at all")
    base.run(make_job("models/base", tiny_settings({"model.kind": "folder", "model.name": str(mine)})))
    assert "training_args.bin" not in folder.hashes_of(mine)


def test_the_stamp_follows_the_bytes_of_what_is_read(mine: Path) -> None:
    first = folder.stamp(choice(mine))
    assert {"config.json", "tokenizer.json", folder.WEIGHTS} <= first.keys()
    (mine / "notes.md").write_text("not read", encoding="utf-8")
    assert folder.stamp(choice(mine)) == first
    weights = load_file(mine / folder.WEIGHTS)
    save_file({name: value + 0.5 for name, value in weights.items()}, mine / folder.WEIGHTS, {"format": "pt"})
    assert {name for name, sha in folder.stamp(choice(mine)).items() if sha != first[name]} == {folder.WEIGHTS}
    assert folder.stamp(choice(mine.with_name("gone"))) == {} == folder.stamp(Model(kind="random", name="qwen3", revision=""))


@pytest.mark.slow
def test_a_changed_folder_has_the_base_made_anew_and_an_unchanged_one_stands(mine: Path, tmp_path: Path) -> None:
    from medpipe.assets import models
    from medpipe.resources import Launcher, Profile, RefStore

    changes = {
        "model.kind": "folder", "model.name": str(mine), "paths.outputs": str(tmp_path / "outputs"), "paths.data": str(tmp_path / "data"),
        "tracking.kind": "none",
    }  # fmt: skip
    load_profile("smoke", changes)
    profile = Profile(name="smoke", overrides=[f"{key}={value}" for key, value in changes.items()])
    resources = {"profile": profile, "launcher": Launcher(profile=profile), "io_manager": RefStore(profile=profile)}

    def made() -> tuple[str, bool]:
        with dg.DagsterInstance.ephemeral() as instance:
            done = dg.materialize([models.base], resources=resources, instance=instance)
            (event,) = done.get_asset_materialization_events()
            metadata = event.materialization.metadata
            return str((tmp_path / "outputs" / "models" / "base").resolve()), bool(metadata["reused"].value)

    first, reused = made()
    assert not reused
    assert made() == (first, True)
    weights = load_file(mine / folder.WEIGHTS)
    save_file({name: value + 0.01 for name, value in weights.items()}, mine / folder.WEIGHTS, {"format": "pt"})
    second, reused = made()
    assert second != first and not reused


def test_a_job_in_the_cloud_can_not_read_a_folder_of_this_machine() -> None:
    with pytest.raises(MedpipeError, match=r"model\.kind = folder with aws\.launcher = sagemaker"):
        load_profile("smoke", {"model.kind": "folder", "model.name": "mine", "aws.launcher": "sagemaker"})

"""The artefact store, on S3 (moto's server) and in a plain folder: what comes back is what was kept, or it does not come back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from medpipe import store
from medpipe.aws import store as aws_store
from medpipe.aws import sync
from medpipe.aws.store import Store
from medpipe.errors import MedpipeError
from medpipe.schema import Manifest, Ref
from medpipe_tests.aws.conftest import Cloud

KEY = "models/planner"
pytestmark = pytest.mark.slow  # s3fs starts a client for each store


def finished(folder: Path, text: str = "weights") -> Manifest:
    """A folder as a worker leaves it."""
    partial = folder.with_name(".made")
    (partial / "plots").mkdir(parents=True)
    (partial / "adapter.bin").write_text(text)
    (partial / "plots" / "loss.txt").write_text("1 2 3")
    files = store.hash_tree(partial)
    store.publish(partial, folder, Manifest(task="sft", fingerprint="f", sha256=store.content_hash(files), files=files))
    return known(folder)


def known(folder: Path) -> Manifest:
    manifest = store.read_manifest(folder)
    assert manifest is not None
    return manifest


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The store's root as a universal path."""
    if request.param == "folder":
        return UPath(tmp_path / "shared")
    cloud: Cloud = request.getfixturevalue("aws")
    return UPath(f"s3://{cloud.bucket}/team", use_listings_cache=False, skip_instance_cache=True)


@pytest.fixture
def shared(place: Any) -> Store:
    return Store(str(place), lambda text: None)


def test_what_is_kept_comes_back(shared: Store, place: Any, tmp_path: Path) -> None:
    manifest = finished(tmp_path / "made")
    address = shared.keep(KEY, tmp_path / "made", manifest)
    assert address == f"{place}/{KEY}/{manifest.sha256}"
    there = place / KEY / manifest.sha256
    assert (there / "adapter.bin").read_text() == "weights" and (there / "manifest.json").is_file()
    assert shared.fetch(KEY, manifest.sha256, tmp_path / "back") == manifest
    assert store.damaged_files(tmp_path / "back", manifest) == []
    assert store.read_manifest(tmp_path / "back") == manifest
    finished(tmp_path / "back2", "older")  # another version stands there: it gives way
    assert shared.fetch(KEY, manifest.sha256, tmp_path / "back2") == manifest
    assert (tmp_path / "back2" / "adapter.bin").read_text() == "weights"


def test_references(shared: Store, place: Any) -> None:
    assert shared.refs(KEY) == []
    for sha in ("a" * 64, "b" * 64):
        ref = Ref(path="/elsewhere/outputs/store/models/planner/1234", sha256=sha, scope={"model": "1"})
        shared.keep_ref(KEY, ref)
        assert shared.refs(KEY) == [ref]
    other = ref.model_copy(update={"scope": {"model": "2"}})
    shared.keep_ref(KEY, other)
    assert sorted(one.scope["model"] for one in shared.refs(KEY)) == ["1", "2"], "another profile's stands beside it"


def test_a_second_keep_sends_nothing_and_mends_what_was_damaged(aws: Cloud, tmp_path: Path) -> None:
    manifest = finished(tmp_path / "made")
    shared = Store(f"s3://{aws.bucket}/team", lambda text: None)
    shared.keep(KEY, tmp_path / "made", manifest)
    stamps = lambda: {item["Key"]: item["LastModified"] for item in aws.s3.list_objects_v2(Bucket=aws.bucket)["Contents"]}  # noqa: E731
    before = stamps()
    assert len(before) == 3
    shared.keep(KEY, tmp_path / "made", manifest)
    assert stamps() == before
    aws.s3.put_object(Bucket=aws.bucket, Key=f"team/{KEY}/{manifest.sha256}/adapter.bin", Body=b"WEIGHTS")
    shared.keep(KEY, tmp_path / "made", manifest)
    assert shared.fetch(KEY, manifest.sha256, tmp_path / "back") == manifest


def test_the_manifest_goes_last(shared: Store, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = finished(tmp_path / "made")
    begun, done = list[str](), list[str]()

    def watched(real: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun.append(name_of(*args))
            if begun[-1] == "manifest.json":
                assert sorted(done) == ["adapter.bin", "loss.txt"]
                raise OSError("the power fails")
            found = real(*args, **kwargs)
            done.append(name_of(*args))
            return found

        return call

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr(sync, "_send", watched(sync._send, lambda target, key, path, size: path.name))
        patch.setattr(shutil, "copyfile", watched(shutil.copyfile, lambda path, copy: path.name))
        shared.keep(KEY, tmp_path / "made", manifest)
    assert (place / KEY / manifest.sha256 / "adapter.bin").is_file()
    with pytest.raises(MedpipeError, match=f"no finished {KEY}"):
        shared.fetch(KEY, manifest.sha256, tmp_path / "back")
    shared.keep(KEY, tmp_path / "made", manifest)
    assert shared.fetch(KEY, manifest.sha256, tmp_path / "back") == manifest


def test_a_store_names_no_places_on_this_machine(shared: Store, tmp_path: Path) -> None:
    manifest = finished(tmp_path / "made").model_copy(update={"exports": {"adapter.bin": str(tmp_path / "victim")}})
    store.write_manifest(tmp_path / "made", manifest)
    shared.keep(KEY, tmp_path / "made", known(tmp_path / "made"))
    back = shared.fetch(KEY, manifest.sha256, tmp_path / "back")
    assert back.exports == {} and store.read_manifest(tmp_path / "back") == back


def test_damaged_content_never_takes_its_place(shared: Store, place: Any, tmp_path: Path) -> None:
    manifest = finished(tmp_path / "made")
    shared.keep(KEY, tmp_path / "made", manifest)
    (place / KEY / manifest.sha256 / "adapter.bin").write_text("WEIGHTS")
    with pytest.raises(MedpipeError, match=r"with adapter.bin, damaged"):
        shared.fetch(KEY, manifest.sha256, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    older = finished(tmp_path / "standing", "older")
    with pytest.raises(MedpipeError):
        shared.fetch(KEY, manifest.sha256, tmp_path / "standing")
    assert store.read_manifest(tmp_path / "standing") == older


def test_a_manifest_that_lies_about_its_hash_is_refused(shared: Store, place: Any, tmp_path: Path) -> None:
    wanted, other = finished(tmp_path / "made"), finished(tmp_path / "other", "poison")
    shared.keep(KEY, tmp_path / "other", other)
    there = place / KEY / wanted.sha256
    for name in ("adapter.bin", "plots/loss.txt"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text((place / KEY / other.sha256 / name).read_text())
    store.write_manifest(there, other.model_copy(update={"sha256": wanted.sha256}))
    with pytest.raises(MedpipeError, match="another hash"):
        shared.fetch(KEY, wanted.sha256, tmp_path / "back")


def test_a_damaged_folder_is_not_kept(shared: Store, place: Any, tmp_path: Path) -> None:
    manifest = finished(tmp_path / "made")
    (tmp_path / "made" / "adapter.bin").write_text("changed")
    with pytest.raises(MedpipeError, match=r"differ from the manifest \(adapter.bin\)"):
        shared.keep(KEY, tmp_path / "made", manifest)
    assert not (place / KEY).exists()


def test_several_at_once_fetch_it_once(aws: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = finished(tmp_path / "made")
    shared = Store(f"s3://{aws.bucket}", lambda text: None)
    shared.keep(KEY, tmp_path / "made", manifest)
    times: list[str] = []
    real = aws_store.download

    def counted(*args: Any, **kwargs: Any) -> Any:
        times.append("once")
        return real(*args, **kwargs)

    monkeypatch.setattr(aws_store, "download", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: shared.fetch(KEY, manifest.sha256, tmp_path / "back"), range(4)))
    assert found == [manifest] * 4 and times == ["once"]


def test_where_it_can_not_be(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MedpipeError, match="got a store at gs://"):
        Store("gs://bucket/prefix", lambda text: None)
    missing = Store("s3://medpipe-none/team", lambda text: None)
    with pytest.raises(MedpipeError, match="no bucket"):
        missing.keep_ref(KEY, Ref(path="x", sha256="y"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MedpipeError, match="no AWS credentials"):
        Store(f"s3://{aws.bucket}/team", lambda text: None).keep_ref(KEY, Ref(path="x", sha256="y"))


def test_a_key_encrypts_files_and_references(aws: Cloud, tmp_path: Path) -> None:
    manifest = finished(tmp_path / "made")
    shared = Store(f"s3://{aws.bucket}/team", lambda text: None, kms_key="alias/medpipe")
    shared.keep(KEY, tmp_path / "made", manifest)
    shared.keep_ref(KEY, Ref(path="x", sha256=manifest.sha256))
    keys = [item["Key"] for item in aws.s3.list_objects_v2(Bucket=aws.bucket)["Contents"]]
    assert len(keys) == 4
    for key in keys:
        assert aws.s3.head_object(Bucket=aws.bucket, Key=key)["SSEKMSKeyId"] == "alias/medpipe"

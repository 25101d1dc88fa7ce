"""Uploads and downloads against moto's server: nothing is sent twice, nothing damaged or mixed is kept."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medpipe.aws.sync import LEAST_PART, Sent, download, folder_files, upload
from medpipe.errors import MedpipeError
from medpipe_tests.aws.conftest import Cloud

UPLOADER = """
import sys
from pathlib import Path
from medpipe.aws.account import Account
from medpipe.aws.sync import folder_files, upload
from medpipe.config import Aws
bucket, prefix, folder = sys.argv[1:]
upload(Account.of(Aws()).client("s3"), folder_files(Path(folder)), bucket, prefix, lambda text: print(text, flush=True), every_seconds=0)
"""


def quiet(text: str) -> None:
    del text


def make(folder: Path, count: int, size: int = 1000) -> Path:
    chance = random.Random(8)
    for number in range(count):
        path = folder / f"{number % 7}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size + number % 3))
    return folder


def counted(aws: Cloud) -> tuple[Any, Counter[str]]:
    """A client, and the calls that it really sent."""
    client, calls = aws.s3, Counter[str]()
    client.meta.events.register("before-send.s3", lambda event_name, **_: calls.update([event_name.rpartition(".")[2]]))
    return client, calls


def content(aws: Cloud, key: str) -> bytes:
    return aws.s3.get_object(Bucket=aws.bucket, Key=key)["Body"].read()


@pytest.mark.slow
def test_a_second_upload_sends_nothing(aws: Cloud, tmp_path: Path) -> None:
    files = folder_files(make(tmp_path, 500), "splits/train")
    size = sum(path.stat().st_size for path in files.values())
    client, calls = counted(aws)
    assert upload(client, files, aws.bucket, "data/1", quiet) == Sent(500, size, 0)
    assert calls == {"ListObjectsV2": 1, "PutObject": 500}  # what is not there costs no HEAD
    calls.clear()
    assert upload(client, files, aws.bucket, "data/1", quiet) == Sent(0, 0, 500)
    assert calls == {"ListObjectsV2": 1, "HeadObject": 500}
    some = "splits/train/3/3.bin"
    assert content(aws, f"data/1/{some}") == files[some].read_bytes()


@pytest.mark.slow
def test_an_upload_that_was_killed_at_half_goes_on(aws: Cloud, tmp_path: Path) -> None:
    files = folder_files(make(tmp_path, 400))
    process = subprocess.Popen([sys.executable, "-c", UPLOADER, aws.bucket, "data/2", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line.split(": ")[1].split()[0]) >= 200:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    there = aws.s3.list_objects_v2(Bucket=aws.bucket, Prefix="data/2/")["KeyCount"]
    assert 200 <= there < 400
    client, calls = counted(aws)
    sent = upload(client, files, aws.bucket, "data/2", quiet)
    assert (sent.files, sent.kept) == (400 - there, there)
    assert calls["PutObject"] == 400 - there
    assert upload(client, files, aws.bucket, "data/2", quiet).kept == 400


def test_one_changed_byte_is_noticed_on_either_side(aws: Cloud, tmp_path: Path) -> None:
    files = folder_files(make(tmp_path, 5))
    first, second, *_ = files
    upload(aws.s3, files, aws.bucket, "data/3", quiet)
    path, stat = files[first], files[first].stat()
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # neither size nor time tells
    assert upload(aws.s3, files, aws.bucket, "data/3", quiet) == Sent(1, path.stat().st_size, 4)
    assert content(aws, f"data/3/{first}") == path.read_bytes()

    aws.s3.put_object(Bucket=aws.bucket, Key=f"data/3/{second}", Body=b"x" * files[second].stat().st_size)
    assert upload(aws.s3, files, aws.bucket, "data/3", quiet).files == 1
    other = b"y" * files[second].stat().st_size
    aws.s3.put_object(Bucket=aws.bucket, Key=f"data/3/{second}", Body=other, ChecksumAlgorithm="SHA256")
    assert upload(aws.s3, files, aws.bucket, "data/3", quiet).files == 1
    assert content(aws, f"data/3/{second}") == files[second].read_bytes()


def test_a_large_file_goes_in_parts(aws: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(random.Random(8).randbytes(2 * LEAST_PART + 12345))
    client, calls = counted(aws)
    send = lambda part=LEAST_PART: upload(client, {"large.bin": path}, aws.bucket, "data/4", quiet, part_bytes=part)  # noqa: E731
    assert send() == Sent(1, path.stat().st_size, 0)
    assert calls["UploadPart"] == 3 and not calls["PutObject"]
    assert send() == Sent(0, 0, 1)
    with path.open("r+b") as handle:
        handle.seek(LEAST_PART + 1)
        handle.write(b"changed")
    assert send().files == 1
    aws.s3.put_object(Bucket=aws.bucket, Key="data/4/large.bin", Body=bytes(path.stat().st_size), ChecksumAlgorithm="SHA256")
    assert send().files == 1 and send().files == 0
    target = tmp_path / "back"
    assert download(client, aws.bucket, "data/4", target, quiet).files == 1
    assert (target / "large.bin").read_bytes() == path.read_bytes()
    assert download(client, aws.bucket, "data/4", target, quiet) == Sent(0, 0, 1)


@pytest.mark.parametrize("change", ["a byte", "the length"])
def test_a_file_that_changes_while_it_is_sent_in_parts_leaves_nothing(aws: Cloud, tmp_path: Path, change: str) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(3 * LEAST_PART))
    client = aws.s3

    def meddle(params: dict[str, Any], **_: Any) -> None:
        if params["PartNumber"] == 1:
            with path.open("r+b") as handle:
                handle.seek(-1, os.SEEK_END) if change == "a byte" else handle.truncate(2 * LEAST_PART)
                handle.write(b"!") if change == "a byte" else None

    client.meta.events.register("provide-client-params.s3.UploadPart", meddle)
    with pytest.raises(MedpipeError, match="changed while it was sent"):
        upload(client, {"large.bin": path}, aws.bucket, "data/5", quiet, part_bytes=LEAST_PART)
    assert aws.s3.list_objects_v2(Bucket=aws.bucket)["KeyCount"] == 0
    assert "Uploads" not in aws.s3.list_multipart_uploads(Bucket=aws.bucket)


def test_a_small_file_that_changes_while_it_is_sent_is_an_error_and_sent_again(aws: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(b"before")
    client = aws.s3
    client.meta.events.register("provide-client-params.s3.PutObject", lambda **_: path.write_text("after!") and None)
    with pytest.raises(MedpipeError, match="changed while it was sent"):
        upload(client, {"small.bin": path}, aws.bucket, "data/6", quiet)
    assert content(aws, "data/6/small.bin") == b"before"  # one version, never a mixture
    assert upload(aws.s3, {"small.bin": path}, aws.bucket, "data/6", quiet).files == 1
    assert content(aws, "data/6/small.bin") == b"after!"


def test_what_somebody_else_put_there_is_named(aws: Cloud, tmp_path: Path) -> None:
    files = folder_files(make(tmp_path, 3))
    aws.s3.put_object(Bucket=aws.bucket, Key="data/7/poison.jsonl", Body=b"{}")
    aws.s3.put_object(Bucket=aws.bucket, Key="data/70/neighbour", Body=b"{}")  # begins alike, lies elsewhere
    with pytest.raises(MedpipeError, match=r"1 objects of somebody else \(poison.jsonl\)"):
        upload(aws.s3, files, aws.bucket, "data/7", quiet)
    assert aws.s3.list_objects_v2(Bucket=aws.bucket, Prefix="data/7/")["KeyCount"] == 1  # and nothing was sent
    aws.s3.delete_object(Bucket=aws.bucket, Key="data/7/poison.jsonl")
    aws.s3.put_object(Bucket=aws.bucket, Key="data/7/", Body=b"")  # a console's marker of a folder
    assert upload(aws.s3, files, aws.bucket, "data/7", quiet).files == 3


def test_a_key_encrypts_what_is_sent(aws: Cloud, tmp_path: Path) -> None:
    files = {"small": tmp_path / "small", "large": tmp_path / "large"}
    files["small"].write_bytes(b"1")
    files["large"].write_bytes(bytes(LEAST_PART + 1))
    upload(aws.s3, files, aws.bucket, "data/8", quiet, "alias/medpipe", part_bytes=LEAST_PART)
    for name in files:
        head = aws.s3.head_object(Bucket=aws.bucket, Key=f"data/8/{name}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/medpipe")


def test_an_interrupt_ends_the_upload_and_the_next_one_sends_the_rest(aws: Cloud, tmp_path: Path) -> None:
    files = folder_files(make(tmp_path, 200))

    def interrupt(text: str) -> None:
        if int(text.split(": ")[1].split()[0]) >= 50:
            raise KeyboardInterrupt

    client, calls = counted(aws)
    with pytest.raises(KeyboardInterrupt):
        upload(client, files, aws.bucket, "data/9", interrupt, every_seconds=0)
    assert 50 <= calls["PutObject"] < 200
    assert upload(aws.s3, files, aws.bucket, "data/9", quiet) == Sent(
        200 - calls["PutObject"], sum(path.stat().st_size for path in list(files.values())[calls["PutObject"] :]), calls["PutObject"]
    )


def test_what_was_sent_comes_back(aws: Cloud, tmp_path: Path) -> None:
    files = folder_files(make(tmp_path / "here", 40), "deep/er")
    upload(aws.s3, files, aws.bucket, "data/10", quiet)
    said: list[str] = []
    sent = download(aws.s3, aws.bucket, "data/10", tmp_path / "there", said.append, every_seconds=0)
    assert sent.files == 40 and len(said) == 40
    assert {key: path.read_bytes() for key, path in folder_files(tmp_path / "there").items()} == {
        key: path.read_bytes() for key, path in files.items()
    }
    victim = tmp_path / "there" / next(iter(files))
    victim.write_bytes(bytes(victim.stat().st_size))  # damaged here: fetched again
    assert download(aws.s3, aws.bucket, "data/10", tmp_path / "there", quiet).files == 1
    assert victim.read_bytes() == files[next(iter(files))].read_bytes()


def test_wrong_bytes_are_not_kept(aws: Cloud, tmp_path: Path) -> None:
    """moto believes a checksum that it is told: a disk that has lost a bit."""
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    aws.s3.put_object(Bucket=aws.bucket, Key="data/11/rows", Body=b"bytes", ChecksumAlgorithm="SHA256", ChecksumSHA256=wrong)
    with pytest.raises(MedpipeError, match="damaged or cut on the way"):
        download(aws.s3, aws.bucket, "data/11", tmp_path, quiet)
    assert list(tmp_path.iterdir()) == []


def test_bytes_of_an_object_in_parts_are_compared_with_the_noted_hash(aws: Cloud, tmp_path: Path) -> None:
    aws.s3.put_object(Bucket=aws.bucket, Key="data/12/rows", Body=b"bytes", Metadata={"sha256": "0" * 64})
    with pytest.raises(MedpipeError, match="5 bytes with hash 000000000000"):
        download(aws.s3, aws.bucket, "data/12", tmp_path, quiet)
    assert list(tmp_path.iterdir()) == []


def test_an_object_without_a_sha256_comes_too(aws: Cloud, tmp_path: Path) -> None:
    aws.s3.put_object(Bucket=aws.bucket, Key="data/13/model.tar.gz", Body=b"as SageMaker writes it")
    assert download(aws.s3, aws.bucket, "data/13", tmp_path, quiet).files == 1


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/absolute", "a//b", "a/./b"])
def test_a_key_that_leads_out_of_the_folder_is_refused(aws: Cloud, tmp_path: Path, key: str) -> None:
    aws.s3.put_object(Bucket=aws.bucket, Key=f"data/14/{key}", Body=b"evil")
    with pytest.raises(MedpipeError, match="a key that leads elsewhere"):
        download(aws.s3, aws.bucket, "data/14", tmp_path / "folder", quiet)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_prefix_and_a_missing_bucket_are_said(aws: Cloud, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="got no objects"):
        download(aws.s3, aws.bucket, "data/15", tmp_path, quiet)
    with pytest.raises(MedpipeError, match=r"no bucket medpipe-none, .* in uploading to s3://medpipe-none/x .*medpipe aws setup"):
        upload(aws.s3, {}, "medpipe-none", "x", quiet)

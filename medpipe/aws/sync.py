"""Files to S3 and back, by what is in them: what is there already is not sent again, and nothing damaged or mixed is ever kept.

    sent = upload(client, folder_files(Path("outputs/splits/train"), "splits/train"), "bucket", "medpipe/data/0123/train", print)
    download(client, "bucket", "medpipe/data/0123/train", Path("there"), print)

An object counts as there if S3's own SHA256 of it is that of the local file; size and time prove nothing. A prefix is named after its
content, so an object that is not among the files is an error: a job would train on it. A file up to PART_BYTES is one request with its
checksum, which S3 verifies; a larger one is sent in parts with a checksum each, and S3's checksum of it is one over those of the parts.
An interrupted call leaves whole files there and the next one sends the rest. Left out: deleting (prefixes expire, medpipe/aws/setup.py),
and clearing away the parts of an upload that was killed (the bucket's rule for incomplete uploads does that).
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.aws.errors import explained
from medpipe.errors import MedpipeError

THREADS = 16
PART_BYTES = 16 * 2**20
"""In memory at a time, for each thread; S3 takes 10,000 parts a file, so up to 156 GiB."""
LEAST_PART = 5 * 2**20  # S3's own
SAY_SECONDS = 3.0
NAMED = 5  # strangers in a message
SHA256 = "sha256"  # metadata of an object sent in parts: of its bytes, since S3's own checksum is of its parts'


@dataclass(frozen=True)
class Sent:
    """What a call did: files and bytes that went over the line, and files that were there already."""

    files: int
    bytes: int
    kept: int


class _Stopped(Exception):
    """Another file failed, or the user interrupts: send no more."""


@dataclass(frozen=True)
class _Target:
    """Where to, and how."""

    client: Any
    bucket: str
    options: Mapping[str, str]  # encryption
    part_bytes: int
    stop: threading.Event


def folder_files(folder: Path, under: str = "") -> dict[str, Path]:
    """Key → file for every file below a folder; keys begin with `under`."""
    start = f"{under.strip('/')}/" if under.strip("/") else ""
    return {start + path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def upload(
    client: Any, files: Mapping[str, Path], bucket: str, prefix: str, say: Callable[[str], None], kms_key: str = "", *,
    last: str = "", part_bytes: int = PART_BYTES, every_seconds: float = SAY_SECONDS,
) -> Sent:  # fmt: skip
    """Make the prefix hold exactly these files.

    Args:
        client: of S3.
        files: key below the prefix → local file.
        bucket: its name.
        prefix: named after the content; no other program writes there.
        say: is told how far it is.
        kms_key: encrypts the objects; S3's own key where it is empty.
        last: a key that is sent when all others are there: its presence says so.
        part_bytes: larger files are sent in parts of this size.
        every_seconds: pause between two words of progress.

    Raises:
        MedpipeError: S3 refuses, a file changes while it is sent, or other objects lie at the prefix.
    """
    if part_bytes < LEAST_PART:
        raise ValueError(f"S3 takes no parts below {LEAST_PART} bytes")
    place = f"s3://{bucket}/{prefix}"
    with explained(f"uploading to {place}"):
        there = _listed(client, bucket, prefix)
        strangers = sorted(there.keys() - files.keys())
        if strangers:
            raise MedpipeError(
                got=f"{len(strangers)} objects of somebody else ({', '.join(strangers[:NAMED])}{', …' if strangers[NAMED:] else ''})",
                expected="only this upload's files: a job would be handed all of them", where=place,
                do="remove them, and see who can write there",
            )  # fmt: skip
        options = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        target = _Target(client, bucket, options, part_bytes, threading.Event())
        jobs = {key: partial(_send, target, f"{prefix}/{key}", path, there.get(key)) for key, path in files.items()}
        final = jobs.pop(last, None)
        sent = _together(jobs.values(), target.stop, f"uploading to {place}", say, every_seconds)
        moved = final() if final else 0
        if final is None:
            return sent
        return Sent(sent.files, sent.bytes, sent.kept + 1) if moved is None else Sent(sent.files + 1, sent.bytes + moved, sent.kept)


def download(
    client: Any, bucket: str, prefix: str, folder: Path, say: Callable[[str], None], *, every_seconds: float = SAY_SECONDS
) -> Sent:  # fmt: skip
    """Bring every object below a prefix into a folder; a file that is there with the same content stays.

    An object without a SHA256 (SageMaker's own, say) is compared in length, and by botocore with whatever checksum it has.

    Raises:
        MedpipeError: S3 refuses, nothing lies there, bytes are wrong, or a key leads out of the folder.
    """
    place = f"s3://{bucket}/{prefix}"
    with explained(f"downloading {place}"):
        there = _listed(client, bucket, prefix)
        if not there:
            raise MedpipeError(got="no objects", expected="an upload", where=place, do="check the address; `medpipe aws upload` sends data")
        for key in there:
            if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
                raise MedpipeError(
                    got=f"a key that leads elsewhere ({key!r})", expected="names below the folder", where=place,
                    do="remove the object; medpipe writes no such key",
                )  # fmt: skip
        stop = threading.Event()
        work = [partial(_fetch, client, bucket, f"{prefix}/{key}", folder / key, size) for key, size in there.items()]
        return _together(work, stop, f"downloading {place}", say, every_seconds)


def _together(
    work: Iterable[Callable[[], int | None]], stop: threading.Event, doing: str, say: Callable[[str], None], every_seconds: float
) -> Sent:
    """Do it all in threads; the first failure or an interrupt ends it, after what is on its way is whole or given up."""
    files = kept = size = 0
    said = time.monotonic()
    pool = ThreadPoolExecutor(THREADS, "medpipe-s3")
    try:
        waiting: list[Future[int | None]] = [pool.submit(one) for one in work]
        for future in as_completed(waiting):
            moved = future.result()
            files, kept, size = (files, kept + 1, size) if moved is None else (files + 1, kept, size + moved)
            if time.monotonic() - said >= every_seconds:
                said = time.monotonic()
                say(f"{doing}: {files + kept} of {len(waiting)} files, {kept} of them were there, {size / 2**20:.1f} MiB moved")
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return Sent(files, size, kept)


def _listed(client: Any, bucket: str, prefix: str) -> dict[str, int]:
    """Key below the prefix → size; without the empty markers that consoles make for folders."""
    start = f"{prefix}/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start)
    found = {item["Key"].removeprefix(start): item["Size"] for page in pages for item in page.get("Contents", ())}
    return {key: size for key, size in found.items() if size or (key and not key.endswith("/"))}


def _send(target: _Target, key: str, path: Path, size_there: int | None) -> int | None:
    """Send a file, unless it is there: then None, else its bytes."""
    if target.stop.is_set():
        raise _Stopped
    before = os.stat(path)
    whole = before.st_size <= target.part_bytes
    data = path.read_bytes() if whole else b""
    sums, noted, length = [hashlib.sha256(data).digest()], "", len(data)
    if not whole:
        sums, noted = _hashes(path, target)
        length = before.st_size
    if length == size_there and _same(_sum_there(target.client, target.bucket, key), sums, noted):
        return None
    if not whole:
        _send_parts(target, key, path, before, sums, noted)
        return length
    target.client.put_object(
        Bucket=target.bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=_text(sums[0]), **target.options
    )  # fmt: skip
    _unchanged(path, before)
    return length


def _hashes(path: Path, target: _Target) -> tuple[list[bytes], str]:
    """Of each part, and of all the bytes, in one pass."""
    sums, every = list[bytes](), hashlib.sha256()
    for part in _parts(path, target):
        sums.append(hashlib.sha256(part).digest())
        every.update(part)
    return sums, every.hexdigest()


def _send_parts(target: _Target, key: str, path: Path, before: os.stat_result, sums: list[bytes], noted: str) -> None:
    """Send a file in parts; S3 keeps nothing of it unless all of it is there and is what was hashed."""
    place = {"Bucket": target.bucket, "Key": key}
    upload_id = target.client.create_multipart_upload(
        **place, ChecksumAlgorithm="SHA256", Metadata={SHA256: noted}, **target.options
    )["UploadId"]  # fmt: skip
    try:
        done = []
        for number, part in enumerate(_parts(path, target), 1):
            if number > len(sums) or hashlib.sha256(part).digest() != sums[number - 1]:
                raise _changed(path)
            mark = {"PartNumber": number, "ChecksumSHA256": _text(sums[number - 1])}
            tag = target.client.upload_part(**place, UploadId=upload_id, Body=part, ChecksumAlgorithm="SHA256", **mark)["ETag"]
            done.append({"ETag": tag, **mark})
        if len(done) != len(sums):
            raise _changed(path)
        _unchanged(path, before)
        target.client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": done})
    except BaseException:
        target.client.abort_multipart_upload(**place, UploadId=upload_id)
        raise


def _parts(path: Path, target: _Target) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while part := handle.read(target.part_bytes):
            if target.stop.is_set():
                raise _Stopped
            yield part


def _unchanged(path: Path, before: os.stat_result) -> None:
    """Refuse a file that was written to meanwhile: what was read of it may be of two versions."""
    now = os.stat(path)
    if (now.st_size, now.st_mtime_ns, now.st_ino) != (before.st_size, before.st_mtime_ns, before.st_ino):
        raise _changed(path)


def _changed(path: Path) -> MedpipeError:
    return MedpipeError(
        got="a file that changed while it was sent", expected="one that is finished", where=str(path),
        do="wait until whatever writes it is done, then run it again",
    )  # fmt: skip


def _sum_there(client: Any, bucket: str, key: str) -> tuple[str, str]:
    """S3's own SHA256 of an object ("" where it has none), and the hash of the bytes that we noted at an object sent in parts."""
    head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    return head.get("ChecksumSHA256", ""), head.get("Metadata", {}).get(SHA256, "")


def _same(there: tuple[str, str], sums: list[bytes], noted: str) -> bool:
    """Whether S3's checksum is that of these bytes: theirs, or the one over their parts' ("…-3" for three)."""
    value, _, count = there[0].partition("-")
    expected = sums[0] if not noted else hashlib.sha256(b"".join(sums)).digest()
    return value == _text(expected) and there[1] == noted and count in ("", str(len(sums)))


def _fetch(client: Any, bucket: str, key: str, path: Path, size: int) -> int | None:
    """Bring an object, unless the file is there: then None, else its bytes."""
    if path.is_file() and path.stat().st_size == size:
        expected = _bytes_sum(*_sum_there(client, bucket, key))
        if expected and expected == store.sha256_file(path):
            return None
    answer = client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    expected = _bytes_sum(answer.get("ChecksumSHA256", ""), answer.get("Metadata", {}).get(SHA256, ""))
    length, digest = 0, hashlib.sha256()
    with store.atomic_path(path) as temporary:
        with temporary.open("wb") as handle:
            for chunk in answer["Body"].iter_chunks(2**20):
                handle.write(chunk)
                digest.update(chunk)
                length += len(chunk)
        if length != answer["ContentLength"] or (expected and digest.hexdigest() != expected):
            raise MedpipeError(
                got=f"{length} bytes with hash {digest.hexdigest()[:12]}",
                expected=f"{answer['ContentLength']} bytes" + (f" with hash {expected[:12]}" if expected else ""),
                where=f"s3://{bucket}/{key}", do="run it again; if it stays so, the object is damaged: remove it and upload it again",
            )  # fmt: skip
    return length


def _bytes_sum(checksum: str, noted: str) -> str:
    """The hash of an object's bytes: what we noted at one sent in parts, else S3's own; "" where neither is of the bytes."""
    if noted or not checksum or "-" in checksum:
        return noted
    return base64.b64decode(checksum).hex()


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()

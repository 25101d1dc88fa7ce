"""Finished results in one more place, on S3 or in a folder that machines share: kept after they are made, fetched where they are missing.

    shared = Store("s3://bucket/prefix", print)
    address = shared.keep("models/planner", folder, manifest)          # <where>/models/planner/<sha256>/, its manifest last
    shared.keep_ref("models/planner", ref)                             # <where>/refs/models/planner/<settings>.json
    shared.fetch("models/planner", ref.sha256, folder)

Plain files and JSON, no pickles. A folder lies under the hash of its content: it is never changed, and what comes back is checked
against its manifest, file by file, before it takes its place. Files go to S3 by medpipe/aws/sync.py. Left out: deleting, which is the
bucket's or the owner's to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from medpipe import store
from medpipe.aws.account import Account
from medpipe.aws.errors import explained
from medpipe.aws.sync import download, upload
from medpipe.config import Aws, digest
from medpipe.errors import MedpipeError
from medpipe.schema import Manifest, Ref

REFS = "refs"
LOCK_SECONDS = 3600.0  # that another process may take to fetch the same folder
SHORT = 12


class Store:
    """An artefact store at `where`: s3://bucket/prefix, or a folder."""

    def __init__(self, where: str, say: Callable[[str], None], kms_key: str = "", region: str = "") -> None:
        """Address a store; nothing is read or written yet.

        Raises:
            MedpipeError: it is neither S3 nor a folder.
        """
        self.where, self.say, self.kms_key = where.rstrip("/"), say, kms_key
        scheme, split, rest = self.where.partition("://")
        if split and scheme != "s3":
            raise MedpipeError(
                got=f"a store at {scheme}://", expected="s3://bucket/prefix or a folder", where="aws.store", do="correct it in the profile"
            )  # fmt: skip
        self.bucket, _, self.prefix = rest.partition("/") if split else ("", "", "")
        self._account = Account.of(Aws(bucket=self.bucket, prefix=self.prefix, region=region)) if split else None
        self._root = _path(self.where, self._account, kms_key)

    def keep(self, key: str, folder: Path, manifest: Manifest) -> str:
        """Copy a finished folder into the store; files that are there whole are not sent again.

        Returns:
            The address of the copy.

        Raises:
            MedpipeError: the folder is not what its manifest says, or the store refuses.
        """
        damaged = store.damaged_files(folder, manifest)
        if damaged:
            raise MedpipeError(
                got=f"files that differ from the manifest ({', '.join(damaged)})", expected="a finished folder", where=str(folder),
                do=f"make {key} again",
            )  # fmt: skip
        self._send({name: folder / name for name in (*manifest.files, store.MANIFEST)}, key, manifest.sha256)
        return str(self._root / key / manifest.sha256)

    def keep_ref(self, key: str, ref: Ref) -> None:
        """Say which content an asset has now under the settings that it depends on."""
        with explained(f"keeping the reference of {key} in {self.where}"):
            _write(self._root / REFS / key / f"{digest(ref.scope)[:SHORT]}.json", ref.model_dump_json(indent=1))

    def refs(self, key: str) -> list[Ref]:
        """Which contents an asset had when it was last kept, one for each choice of settings; paths are of the machine that made it."""
        with explained(f"reading the references of {key} in {self.where}"):
            places = sorted((self._root / REFS / key).glob("*.json"))
            return [Ref.model_validate_json(place.read_text(encoding="utf-8")) for place in places]

    def fetch(self, key: str, sha256: str, folder: Path) -> Manifest:
        """Put the kept content in place of a folder; one that holds it already, whole, stays.

        Its manifest exports nothing: copies for people belong to the machine that made it, and a store must not name places here.

        Raises:
            MedpipeError: it is not there, not finished or damaged.
        """
        from filelock import FileLock

        partial = folder.with_name(f".{folder.name}.fetched")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.fetch.lock"), timeout=LOCK_SECONDS):  # several steps may want it at once
            try:
                standing = store.read_manifest(folder)
            except store.DamagedManifest:
                standing = None
            if standing and standing.sha256 == sha256 and not store.damaged_files(folder, standing):
                return standing
            manifest = self._bring(key, sha256, partial)
            store.put_in_place(partial, folder)
        self.say(f"fetched {key} ({sha256[:SHORT]}) from {self.where}")
        return manifest

    def _bring(self, key: str, sha256: str, partial: Path) -> Manifest:
        """All files of a kept folder, checked; what an earlier try brought is used."""
        place = self._root / key / sha256
        with explained(f"fetching {key} from {self.where}"):
            if not (place / store.MANIFEST).is_file():
                raise MedpipeError(
                    got=f"no finished {key} with content {sha256[:SHORT]}", expected="what a reference names", where=self.where,
                    do=f"make it here (medpipe run --select '*{key}'), or run once where it was made: it is kept again",
                )  # fmt: skip
            if self._account:
                download(self._client, self.bucket, self._under(key, sha256), partial, self.say)
            else:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(place, partial)
        try:
            manifest = store.read_manifest(partial)
        except store.DamagedManifest:
            manifest = None
        damaged = store.damaged_files(partial, manifest) if manifest else [store.MANIFEST]
        if manifest is None or damaged or manifest.sha256 != sha256 or store.content_hash(manifest.files) != sha256:
            shutil.rmtree(partial)
            raise MedpipeError(
                got=f"{key} with {', '.join(damaged) or 'another hash'}, damaged", expected=f"content {sha256[:SHORT]}", where=str(place),
                do="remove it there, then keep it again from where it was made, or make it here",
            )  # fmt: skip
        manifest = manifest.model_copy(update={"exports": {}})
        store.write_manifest(partial, manifest)
        return manifest

    def _send(self, files: dict[str, Path], key: str, sha256: str) -> None:
        """The manifest last: its presence means that all is there."""
        if self._account:
            upload(self._client, files, self.bucket, self._under(key, sha256), self.say, self.kms_key, last=store.MANIFEST)
            return
        place = Path(self.where) / key / sha256
        for name, path in sorted(files.items(), key=lambda item: item[0] == store.MANIFEST):
            copy = place / name
            if not copy.is_file() or store.sha256_file(copy) != store.sha256_file(path):
                with store.atomic_path(copy) as temporary:
                    shutil.copyfile(path, temporary)

    @cached_property
    def _client(self) -> Any:
        assert self._account is not None
        return self._account.client("s3")

    def _under(self, key: str, sha256: str) -> str:
        assert self._account is not None
        return self._account.key(*PurePosixPath(key).parts, sha256)


def _path(where: str, account: Account | None, kms_key: str) -> Any:
    """A universal path; on S3 with the same region and encryption as everything else here.

    Credentials and AWS_ENDPOINT_URL it finds by itself, from where boto3 takes them.
    """
    from upath import UPath

    if account is None:
        return UPath(where)
    extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
    return UPath(
        where, client_kwargs={"region_name": account.region} if account.region else {}, s3_additional_kwargs=extra,
        use_listings_cache=False, skip_instance_cache=True,
    )  # fmt: skip


def _write(place: Any, text: str) -> None:
    """Atomically: a PUT is, a local file is by renaming."""
    if isinstance(place, Path):
        store.write_text(Path(place), text)
    else:
        place.write_text(text, encoding="utf-8")

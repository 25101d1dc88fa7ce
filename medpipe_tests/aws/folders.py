"""Finished folders without the work that would make them."""

from __future__ import annotations

from pathlib import Path

from medpipe import store
from medpipe.schema import Manifest, Ref


def finished(outputs: Path, key: str, text: str = "1", name: str = "rows.jsonl", task: str = "split", fingerprint: str = "f" * 64) -> Ref:
    """A folder with one file and a manifest; a team also exports that file, to a place of its own machine."""
    partial = outputs / f".{key.replace('/', '_')}"
    store.write_text(partial / name, text)
    files = store.hash_tree(partial)
    exports = {name: str(outputs / "training_results.json")} if key == "models/maporl_team" else {}
    manifest = Manifest.model_validate(
        {
            "task": task, "fingerprint": fingerprint, "sha256": store.hash_of_hashes(files), "files": files, "inputs": {}, "settings": {},
            "config_hash": "", "profile": "smoke", "commit": "", "created_at": "2026-01-01T00:00:00+00:00", "seconds": 0.0, "status": "ok",
            "reason": "", "exports": exports, "metadata": {}, "checks": [],
        }
    )  # fmt: skip
    store.publish(partial, outputs / key, manifest)
    return Ref(path=str(outputs / key), sha256=manifest.sha256)

"""What of a result stands in Dagster's event log: small pictures themselves, of large ones the place."""

from pathlib import Path

import dagster as dg

from medpipe.assets.present import MOST_PICTURE_BYTES, to_metadata
from medpipe.schema import Manifest


def shown(folder: Path, picture: bytes) -> object:
    (folder / "plot.png").write_bytes(picture)
    plot = {"plot": {"image": "plot.png", "alt": "lengths"}}
    return to_metadata(folder, Manifest(task="clean", fingerprint="f", sha256="s", files={}, metadata=plot), reused=False)["plot"]


def test_a_small_picture_is_shown_on_the_page_itself(tmp_path: Path) -> None:
    found = shown(tmp_path, b"png" * 100)
    assert isinstance(found, dg.MarkdownMetadataValue)
    assert (found.value or "").startswith("![lengths](data:image/png;base64,")


def test_a_large_picture_is_named_by_its_path_and_kept_out_of_the_event_log(tmp_path: Path) -> None:
    found = shown(tmp_path, bytes(MOST_PICTURE_BYTES + 1))
    assert isinstance(found, dg.PathMetadataValue)
    assert found.value == str(tmp_path / "plot.png")

"""The checkpoint of a store: how much of its journal is in its chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_msunet.errors import StoreError
from napari_msunet.labels.files import read_json, write_json
from napari_msunet.labels.merge import MergeLog
from napari_msunet.labels.segments import Mark, grew_since


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint of a store.

    Its `sequence`, `segment` and `offset` are the `Mark` it covers, `merges` what `MergeLog` saved, and `highest`, in a
    store of objects, the largest number that was ever used.
    """
    checkpoint = read_json(path / "checkpoint.json")
    if not {"sequence", "segment", "offset", "merges"} <= set(checkpoint):
        raise StoreError(f"{path / 'checkpoint.json'} is damaged: copy the store again from where it came from.")
    return checkpoint


def checkpoint_mark(checkpoint: dict[str, Any]) -> Mark:
    """How much of the journal a checkpoint covers."""
    return Mark(int(checkpoint["sequence"]), int(checkpoint["segment"]), int(checkpoint["offset"]))


def save_checkpoint(path: Path, mark: Mark, merges: MergeLog, highest: int | None = None) -> None:
    """Write the checkpoint of a store."""
    used = {} if highest is None else {"highest": highest}
    write_json(path / "checkpoint.json", {**mark._asdict(), **used, "merges": merges.saved(mark.sequence)})


def unfinished(path: Path) -> bool:
    """Whether the journal of a store has records that may not be in its chunks."""
    return grew_since(path / "journal", checkpoint_mark(load_checkpoint(path)))

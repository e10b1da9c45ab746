"""The checkpoint of a store: how much of its journal is in its chunks."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.errors import StoreError
from napari_msunet.labels.files import read_json, write_json
from napari_msunet.labels.merge import MergeLog
from napari_msunet.labels.segments import Mark, grew_since

Chunk = tuple[int, int]
"""Row and column of a chunk of level 0."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint of a store.

    Its `sequence`, `segment` and `offset` are the `Mark` it covers, `merges` what `MergeLog` saved, `highest`, in a
    store of objects, the largest number that was ever used, and `chunks` which chunks have files (`listed_chunks`).
    """
    checkpoint = read_json(path / "checkpoint.json")
    if not {"sequence", "segment", "offset", "merges"} <= set(checkpoint):
        raise StoreError(f"{path / 'checkpoint.json'} is damaged: copy the store again from where it came from.")
    return checkpoint


def checkpoint_mark(checkpoint: dict[str, Any]) -> Mark:
    """How much of the journal a checkpoint covers."""
    return Mark(int(checkpoint["sequence"]), int(checkpoint["segment"]), int(checkpoint["offset"]))


def save_checkpoint(
    path: Path,
    mark: Mark,
    merges: MergeLog,
    highest: int | None = None,
    chunks: Mapping[str, Collection[Chunk]] | None = None,
) -> None:
    """Write the checkpoint of a store."""
    used: dict[str, Any] = {} if highest is None else {"highest": highest}
    if chunks is not None:
        used["chunks"] = {plane: _packed(keys) for plane, keys in chunks.items()}
    write_json(path / "checkpoint.json", {**mark._asdict(), **used, "merges": merges.saved(mark.sequence)})


def listed_chunks(checkpoint: Mapping[str, Any], plane: str) -> set[Chunk] | None:
    """Which chunks of level 0 had files; None: a store from before this was noted, or the list is damaged.

    A chunk without a file is all zero: without this list one that was lost would be, too.
    """
    try:
        count, text = checkpoint["chunks"][plane]
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4").reshape(count, 2)
    except (KeyError, TypeError, ValueError, zlib.error):
        return None
    return {(int(y), int(x)) for y, x in numbers}


def _packed(keys: Collection[Chunk]) -> tuple[int, str]:
    numbers = np.array(sorted(keys), "<u4").reshape(len(keys), 2)
    return len(keys), base64.b64encode(zlib.compress(numbers.tobytes(), 1)).decode()


def unfinished(path: Path) -> bool:
    """Whether the journal of a store has records that may not be in its chunks."""
    return grew_since(path / "journal", checkpoint_mark(load_checkpoint(path)))

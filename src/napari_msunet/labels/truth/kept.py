"""What of a truth a person looked at and kept: on disk beside it, so that it is not offered again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_msunet.errors import StoreError
from napari_msunet.labels.files import output_errors, read_json, write_json
from napari_msunet.labels.metadata import explained
from napari_msunet.labels.store import LabelStore

FILE = "truth_review.json"

SAME = 0.5
"""Share of two boxes' union that they must have in common to be of the same place."""

Box = tuple[int, int, int, int]


class KeptPlace(BaseModel):
    """A place where the truth was found right.

    Attributes
    ----------
    box : tuple
        `y, x, height, width` in level-0 pixels of the truth.
    truth : str
        The truth's class there, or "background".
    """

    model_config = ConfigDict(frozen=True)

    box: Box
    truth: str


class KeptState(BaseModel):
    """All places of a truth that were kept."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    kept: tuple[KeptPlace, ...] = ()


def load_kept(store: LabelStore) -> KeptState:
    """What was kept of a truth.

    Raises
    ------
    StoreError
        If the file is damaged; the truth itself is not touched by that.
    """
    path = store.path / FILE
    if not path.exists():
        return KeptState()
    try:
        return KeptState.model_validate(read_json(path))
    except ValidationError as error:
        raise StoreError(
            explained(error, f"{path} is damaged (delete it to begin the review of the truth anew) and")
        ) from error


def add_kept(store: LabelStore, place: KeptPlace) -> None:
    """Note a place as kept; see `load_kept` and `LabelStore.write` for errors."""
    store.hold()
    state = load_kept(store)
    if place not in state.kept:
        _save(store, KeptState(kept=(*state.kept, place)))


def remove_kept(store: LabelStore, place: KeptPlace | None = None) -> None:
    """Offer a kept place again; None: all of them."""
    store.hold()
    state = load_kept(store)
    _save(store, KeptState(kept=tuple(p for p in state.kept if place is not None and p != place)))


def was_kept(
    boxes: npt.NDArray[np.float64], classes: Sequence[str], kept: Sequence[KeptPlace]
) -> npt.NDArray[np.bool_]:
    """Which boxes `(n, 4)` of top, left, bottom, right, with these classes of the truth, are places that were kept."""
    found = np.zeros(len(boxes), np.bool_)
    names = np.asarray(classes, object)
    for place in kept:
        y, x, height, width = place.box
        over = np.maximum(0, np.minimum(boxes[:, 2:], (y + height, x + width)) - np.maximum(boxes[:, :2], (y, x)))
        shared = over.prod(1)
        union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + height * width - shared
        found |= (shared >= SAME * union) & (names == place.truth)
    return found


def _save(store: LabelStore, state: KeptState) -> None:
    path: Path = store.path / FILE
    with output_errors(path):
        write_json(path, state.model_dump(mode="json"))

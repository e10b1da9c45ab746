"""What was reviewed, on disk: beside the labels, so that it survives the window, a kill, and a new prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.covered import covered
from napari_msunet.labels.covered import edited as edited_pixels
from napari_msunet.labels.files import output_errors, read_json, write_json
from napari_msunet.labels.metadata import explained

if TYPE_CHECKING:
    from napari_msunet.labels.store import LabelStore

FILE = "review.json"

Box = tuple[int, int, int, int]


class ReviewState(BaseModel):
    """Regions of a store that a person accepted or skipped, each `y, x, height, width` in its level-0 pixels.

    Attributes
    ----------
    accepted : tuple
        What is shown there was said to be true. An accepted region that is undone is no longer `edited`, and counts as
        not reviewed.
    skipped : tuple
        Not to be offered again until `forget_skipped`.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    accepted: tuple[Box, ...] = ()
    skipped: tuple[Box, ...] = ()

    @property
    def accepted_windows(self) -> list[Window]:
        """The accepted regions."""
        return [Window(*box) for box in self.accepted]

    @property
    def skipped_windows(self) -> list[Window]:
        """The skipped regions."""
        return [Window(*box) for box in self.skipped]


def load_state(store: LabelStore) -> ReviewState:
    """What was reviewed in a store; nothing where no review was begun.

    Raises
    ------
    StoreError
        If the file is damaged; the accepted pixels themselves are in the labels.
    """
    path = store.path / FILE
    if not path.exists():
        return ReviewState()
    try:
        return ReviewState.model_validate(read_json(path))
    except ValidationError as error:
        raise StoreError(
            explained(error, f"{path} is damaged (delete it to begin the review anew; the labels stay) and")
        ) from error


class Accepted(int):
    """The number of the stroke that `accept` made.

    Attributes
    ----------
    pixels, left_out : int
        How many were marked as true, and how many of the window were not, since no prediction covers them.
    """

    pixels: int
    left_out: int


def accept(store: LabelStore, window: Window) -> Accepted:
    """Mark what a prediction shows in a window as true, zeros included: one stroke, which `undo` takes back.

    Where nothing was predicted, background is no statement of anybody's and is not marked.

    Parameters
    ----------
    store : LabelStore
    window : Window
        In its level-0 pixels; what sticks out is left away.

    Returns
    -------
    Accepted
        Number of the stroke, with `pixels` and `left_out`. Its pixels are `edited` now, so no prediction changes them.

    Raises
    ------
    StoreError
        If the window is outside the store, or nothing in it was predicted.
    StoreLockedError
        If somebody else writes into it.
    OutputError
        If the disk refuses.
    """
    inside = _inside(store, window)
    store.hold()
    known = covered(store, inside)
    pixels = int(known.sum())
    if not pixels:
        raise StoreError(
            f"Nothing of this place ({inside.height} x {inside.width} pixels) was predicted, so nothing is accepted; "
            "predict it first."
        )
    number = Accepted(store.write(inside, store.read(inside), None if known.all() else known))
    number.pixels, number.left_out = pixels, known.size - pixels
    state = load_state(store)
    box = (inside.y, inside.x, *inside.shape)
    skipped = tuple(b for b in state.skipped if b != box)
    _save(store, ReviewState(accepted=(*(b for b in state.accepted if b != box), box), skipped=skipped))
    return number


def skip(store: LabelStore, window: Window) -> None:
    """Offer a window no more; nothing of the labels changes. Errors as for `accept`."""
    inside = _inside(store, window)
    store.hold()
    state = load_state(store)
    box = (inside.y, inside.x, *inside.shape)
    if box not in state.skipped:
        _save(store, state.model_copy(update={"skipped": (*state.skipped, box)}))


def forget_skipped(store: LabelStore) -> None:
    """Offer all skipped windows again. Errors as for `accept`."""
    store.hold()
    _save(store, load_state(store).model_copy(update={"skipped": ()}))


def still_accepted(store: LabelStore, state: ReviewState, level: int, edited: Any = None) -> list[Window]:
    """The accepted windows that nobody undid since: what is predicted in them is still `edited` at a level."""
    found, f = [], 2**level
    whole = Window(0, 0, *store.info.shapes[level])
    known = None if edited is None or not state.accepted else covered(store, whole, level)
    for window in state.accepted_windows:
        coarse = Window.between(
            (window.y // f, window.x // f), (-(-window.stop[0] // f), -(-window.stop[1] // f))
        ).intersection(whole)
        flags = edited_pixels(store, coarse, level) if edited is None else edited[coarse.slices()]
        wanted = covered(store, coarse, level) if known is None else known[coarse.slices()]
        if flags.any() and bool(np.all(flags | ~wanted)):
            found.append(window)
    return found


def _inside(store: LabelStore, window: Window) -> Window:
    inside = window.intersection(Window(0, 0, *store.shape))
    if inside.empty:
        raise StoreError(
            f"{window} lies outside of {store.path}, which has {store.shape[0]} x {store.shape[1]} pixels; give a "
            "window in its own pixels."
        )
    return inside


def _save(store: LabelStore, state: ReviewState) -> None:
    path: Path = store.path / FILE
    with output_errors(path):
        write_json(path, state.model_dump(mode="json"))

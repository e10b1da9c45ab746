"""The state of a review, on disk beside the labels, so that it survives a closed window, a kill and a new
prediction."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from napari_msunet._io import read_json, write_json
from napari_msunet.config.prediction import Where
from napari_msunet.constants import IGNORED
from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.geometry import Grid, Window
from napari_msunet.labels.area import Mask, where_mask
from napari_msunet.labels.metadata import explained
from napari_msunet.labels.runs.merge import merge_from
from napari_msunet.labels.runs.run import Run
from napari_msunet.labels.session import load_checkpoint
from napari_msunet.slide import open_slide

if TYPE_CHECKING:
    from napari_msunet.labels.store import LabelStore
# ----------------------------------------------------------------------------------------------------------------------
# The pixels of a label store that a prediction covers: those that it computed, not the background around them.

Bools = npt.NDArray[np.bool_]

_WHERE: TypeAdapter[Where] = TypeAdapter(Where)
_masks: dict[Path, tuple[Mask | None, bool]] = {}
"""For each run the mask of where it was computed, and whether that is known."""
_mutex = Lock()
_MOST = 32
"""In raw labels, which runs keep that clean up afterwards: a pixel outside of what was computed."""


def covered(store: LabelStore, window: Window, level: int = 0) -> Bools:
    """Which pixels in a window of a level a prediction that the store shows has computed, or a person has edited.

    A pixel of a coarser level is covered where any below it may be. Of a store that no prediction was ever made into:
    all.
    """
    known = predicted(store, window, level)
    return known if known.all() else known | edited_pixels(store, window, level)


def edited_pixels(store: LabelStore, window: Window, level: int = 0) -> Bools:
    """Which pixels in a window of a level a person has edited any pixel of."""
    f = 2**level
    fine = Window(window.y * f, window.x * f, window.height * f, window.width * f)
    return store.read_edited(fine.intersection(Window(0, 0, *store.shape)), level)


def predicted(store: LabelStore, window: Window, level: int = 0) -> Bools:
    """As `covered`, without what a person has edited."""
    if not any((store.path / "runs").glob("*/run.json")):
        return np.ones(window.shape, np.bool_)
    out = np.zeros(window.shape, np.bool_)
    factor = 2**level
    for key, windows in _merged(store).items():
        part = np.zeros(window.shape, np.bool_)
        for w in windows:
            corner, end = (w.y // factor, w.x // factor), (-(-w.stop[0] // factor), -(-w.stop[1] // factor))
            inside = Window.between(corner, end).intersection(window)
            if not inside.empty:
                part[inside.slices((window.y, window.x))] = True
        if part.any():
            out |= part & _computed(store, store.run(key), window, level)
    return out


def _merged(store: LabelStore) -> dict[str, list[Window]]:
    """The windows that were merged from each run, by its key."""
    if store._session is not None:
        merges = list(store._session.merges.newest_first())
    else:
        merges = [merge_from(note) for note in load_checkpoint(store.path)["merges"]]
    found: dict[str, list[Window]] = {}
    for merge in merges:
        found.setdefault(merge.key, []).extend(merge.windows)
    return found


def _computed(store: LabelStore, run: Run, window: Window, level: int) -> Bools | np.bool_:
    """Where a run computed anything within its tiles: all, or within its tissue or its drawn regions."""
    if "raw" in run.outputs and level == 0:
        return np.asarray(run.read(window, 0, "raw") != IGNORED)
    mask, known = _mask(store, run)
    if not known:  # without the mask only the pixels that it labelled were surely computed
        return np.asarray(run.read(window, level) != 0)
    if mask is None:
        return np.bool_(True)
    factor = 2**level
    mpp = None if store.mpp is None else (store.mpp[0] * factor, store.mpp[1] * factor)
    grid = Grid(store.extent, (store.pixel[0] * factor, store.pixel[1] * factor), mpp)
    out = np.zeros(window.shape, np.bool_)
    inside = window.intersection(grid.whole)
    if not inside.empty:
        out[inside.slices((window.y, window.x))] = mask.on(grid, inside)
    return out


def _mask(store: LabelStore, run: Run) -> tuple[Mask | None, bool]:
    """The mask of where a run was computed (None: everywhere), and whether that can still be found out."""
    with _mutex:
        found = _masks.get(run.path)
        if found is None:
            found = _masks[run.path] = _look(store, run)
            while len(_masks) > _MOST:
                del _masks[next(iter(_masks))]
        return found


def _look(store: LabelStore, run: Run) -> tuple[Mask | None, bool]:
    settings: dict[str, Any] = dict(run.description.get("settings") or {})
    if run.description.get("derived") and settings.get("from"):
        return _look(store, store.run(str(settings["from"])))
    if settings.get("where") is None:
        return None, True
    mask: Mask | None = None
    try:
        where = _WHERE.validate_python((run.description.get("options") or {}).get("where"))
        mpp = None if store.mpp is None else tuple(m / p for m, p in zip(store.mpp, store.pixel, strict=True))
        with open_slide(Path(run.description["slide"]), mpp) as slide:  # type: ignore[arg-type]
            mask = where_mask(slide, where)
            same = mask is not None and mask.key == settings["where"]
    except (MsunetError, ValidationError, KeyError, OSError):
        same = False
    return (mask, True) if same else (None, False)


# ----------------------------------------------------------------------------------------------------------------------
# Which windows were accepted or skipped, kept beside the labels.

FILE = "review.json"

Box = tuple[int, int, int, int]


class ReviewState(BaseModel):
    """Regions of a store that a person accepted or skipped, each `y, x, height, width` in its level-0 pixels.

    Attributes
    ----------
    accepted : tuple
        Regions whose labels a person accepted as true. An accepted region that is undone is no longer `edited`, and
        counts as not reviewed.
    skipped : tuple
        Regions that are not offered again until `forget_skipped`.
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
    """The reviewed regions of a store; none where no review was begun.

    Raises
    ------
    StoreError
        If the file is damaged; the accepted pixels themselves are in the labels.
    """
    return read_note(store.path / FILE, ReviewState, "the review again; the labels stay")


Note = TypeVar("Note", bound=BaseModel)


def read_note(path: Path, kind: type[Note], what: str) -> Note:
    """A review's notes on disk, empty where there is no file; `what` completes the error about a damaged one."""
    if not path.exists():
        return kind()
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise StoreError(explained(error, f"{path} is damaged (delete it to begin {what}) and")) from error


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

    Where nothing was predicted, background is neither the model's answer nor a person's, and is not marked.

    Parameters
    ----------
    store : LabelStore
    window : Window
        In its level-0 pixels; parts that stick out are left out.

    Returns
    -------
    Accepted
        Number of the stroke, with `pixels` and `left_out`. Its pixels are `edited` now, so no prediction changes them.

    Raises
    ------
    StoreError
        If the window is outside the store, or nothing in it was predicted.
    StoreLockedError
        If another process writes into it.
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
    """Do not offer a window again; the labels do not change. Errors as for `accept`."""
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
    """The accepted windows that were not undone since: predicted pixels in them are still `edited` at a level."""
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
    write_json(store.path / FILE, state.model_dump(mode="json"))

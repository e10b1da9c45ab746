"""Which pixels of a label store a prediction covers: those that it computed, not the background around them."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from napari_msunet.config.prediction import Where
from napari_msunet.constants import IGNORED
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Grid, Window
from napari_msunet.labels.checkpoint import load_checkpoint
from napari_msunet.labels.merge import merge_from
from napari_msunet.labels.runs import Run
from napari_msunet.labels.where import Mask, where_mask
from napari_msunet.slide import open_slide

if TYPE_CHECKING:
    from napari_msunet.labels.store import LabelStore

Bools = npt.NDArray[np.bool_]

_WHERE: TypeAdapter[Where] = TypeAdapter(Where)
_masks: dict[Path, tuple[Mask | None, bool]] = {}
"""Of each run the mask of where it was computed, and whether that is known."""
_mutex = Lock()
_MOST = 32
"""In raw labels, which runs keep that clean up afterwards: a pixel outside of what was computed."""


def covered(store: LabelStore, window: Window, level: int = 0) -> Bools:
    """Which pixels in a window of a level a prediction that the store shows has computed, or a person has edited.

    A pixel of a coarser level is covered where any below it may be. Of a store that no prediction was ever made into:
    all.
    """
    known = predicted(store, window, level)
    return known if known.all() else known | edited(store, window, level)


def edited(store: LabelStore, window: Window, level: int = 0) -> Bools:
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
    """What was merged of each run, by its key."""
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
    if not known:  # never more than surely was: what it found
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
    """The mask of where a run was computed (None: everywhere), and whether that can still be told."""
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

"""Where the labels of two runs differ, as before and after a retraining: a pyramid that is read where it is viewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.chunks import WindowArray
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.runs.run import Run
from napari_msunet.review.scores import merged_runs

if TYPE_CHECKING:
    from napari_msunet.labels.store import LabelStore
MOST_PIXELS = 2**26
"""Areas are counted on the finest level that has no more pixels than this."""

_PART = 2048


@dataclass(frozen=True)
class ClassChange:
    """How much area of a class came and went.

    Attributes
    ----------
    name : str
    gained, lost : float
        µm², or level-0 pixels where the store has no µm per pixel.
    """

    name: str
    gained: float
    lost: float


@dataclass(frozen=True)
class Changes:
    """The changes between two runs.

    Attributes
    ----------
    classes : tuple of ClassChange
    share : float
        The changed share of the area that both runs computed, 0..1.
    micrometres : bool
        Whether areas are in µm².
    exact : bool
        Whether they were counted at the finest level.
    """

    classes: tuple[ClassChange, ...]
    share: float
    micrometres: bool
    exact: bool


class Differences:
    """Two runs of a store, compared where both have computed something.

    A pixel of a difference is 0 where nothing changed, `c` where it is class `c` now and was not, `K + c` where it was
    class `c` and is background now. Classes are matched by name.

    Parameters
    ----------
    old, new : Run
        Of one store.

    Attributes
    ----------
    classes : tuple of str
        Of both runs, those of the new one first.
    """

    def __init__(self, old: Run, new: Run) -> None:
        if old.info.shapes != new.info.shapes:
            raise StoreError(f"The runs {old.key} and {new.key} have other pixels; compare two runs of one store.")
        self.old, self.new = old, new
        self.classes = tuple(dict.fromkeys((*new.classes, *old.classes)))
        self.dtype = np.dtype(np.uint8 if 2 * len(self.classes) < 256 else np.uint16)
        self._tables = [_table(run, self.classes) for run in (old, new)]
        self._done = [_boxes(run) for run in (old, new)]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Of all levels, the finest first."""
        return tuple(self.new.info.shapes)

    @property
    def levels(self) -> list[WindowArray]:
        """The pyramid of differences; a window of it is computed when it is read."""

        def reader(level: int) -> Callable[[Window], npt.NDArray[Any]]:
            return lambda window: self.read(window, level)

        return [WindowArray(shape, self.dtype, reader(n)) for n, shape in enumerate(self.shapes)]

    def values(self, window: Window, level: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Classes before and now in a window of pixels of a level, and where both runs have computed."""
        runs = zip((self.old, self.new), self._tables, strict=True)
        before, now = (table[run.read(window, level)] for run, table in runs)
        known = self._known(window, level)
        return before, now, known

    def read(self, window: Window, level: int = 0) -> npt.NDArray[Any]:
        """The difference in a window of pixels of a level."""
        before, now, known = self.values(window, level)
        gone = before.astype(self.dtype) + np.where(before > 0, len(self.classes), 0).astype(self.dtype)
        found: npt.NDArray[Any] = np.where(now > 0, now, gone).astype(self.dtype)
        found[(before == now) | ~known] = 0
        return found

    def _known(self, window: Window, level: int) -> npt.NDArray[np.bool_]:
        """Which pixels of a window both runs have computed."""
        known = np.ones(window.shape, np.bool_)
        f = 2**level
        for boxes in self._done:
            if boxes is None:
                continue
            mask = np.zeros(window.shape, np.bool_)
            low, high = boxes[:, :2] // f, -(-boxes[:, 2:] // f)
            corner, end = np.array([window.y, window.x]), np.array(window.stop)
            hit = ((low < end) & (high > corner)).all(1)
            for (y, x), (y2, x2) in zip(np.maximum(low[hit] - corner, 0), high[hit] - corner, strict=True):
                mask[y:y2, x:x2] = True
            known &= mask
        return known

    def changes(self, tell: Callable[[int, int], None] = lambda done, total: None) -> Changes:
        """How much of each class came and went, counted on a level of at most 67 million pixels.

        Parameters
        ----------
        tell : callable
            Called with the parts that are done and the number of all; may raise.
        """
        level = next((n for n, s in enumerate(self.shapes) if s[0] * s[1] <= MOST_PIXELS), len(self.shapes) - 1)
        counts = np.zeros((len(self.classes) + 1,) * 2, np.int64)
        parts = list(tiles(Window(0, 0, *self.shapes[level]), _PART))
        for number, window in enumerate(parts, 1):
            before, now, known = self.values(window, level)
            pairs = before[known].astype(np.int64) * len(counts) + now[known]
            counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
            tell(number, len(parts))
        size = self.new.info.spacing
        pixel = 4.0**level * size[0] * size[1]
        stayed = np.diag(counts)
        gained, lost = (counts.sum(0) - stayed) * pixel, (counts.sum(1) - stayed) * pixel
        found = (ClassChange(n, float(gained[i]), float(lost[i])) for i, n in enumerate(self.classes, 1))
        total = int(counts.sum())
        share = float(total - stayed.sum()) / total if total else 0.0
        return Changes(tuple(found), share, self.new.info.mpp is not None, level == 0)


def last_difference(store: LabelStore) -> Differences | None:
    """The newest prediction that a store shows beside the one before it, if possible of another model.

    None where only one prediction was merged, or no two overlap.
    """
    runs = [run for run in merged_runs(store) if "labels" in run.outputs and run.done]
    if len(runs) < 2:
        return None
    new = runs[-1]
    others = [run for run in reversed(runs[:-1]) if _overlap(run, new)]
    other_model = [run for run in others if _models(run) != _models(new)]
    old = next(iter([*other_model, *others]), None)
    return None if old is None else Differences(old, new)


def _models(run: Run) -> object:
    """Fingerprints of the models that predicted a run."""
    return dict(run.description.get("settings") or {}).get("models")


def _overlap(one: Run, other: Run) -> bool:
    return any(not a.intersection(b).empty for a in one.done.values() for b in other.done.values())


def _table(run: Run, classes: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """The common class number for each value of a run."""
    table = np.zeros(256, np.uint8)
    for value, name in enumerate(run.classes, 1):
        table[value] = classes.index(name) + 1
    return table


def _boxes(run: Run) -> npt.NDArray[np.int64] | None:
    """`(n, 4)` finished windows as y, x and their ends; None where they are all there is."""
    done = list(run.done.values())
    height, width = run.info.shape
    if run.complete and sum(w.height * w.width for w in done) >= height * width:
        return None
    return np.array([(w.y, w.x, *w.stop) for w in done], np.int64).reshape(-1, 4)

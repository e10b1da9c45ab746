"""Maps brought from one grid over a slide to another, and predictions on images that a model brings to one size."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet import events
from napari_msunet.errors import SlideError
from napari_msunet.geometry import Grid, Window, between_centres, pixel_centres
from napari_msunet.inference.engine import Fused, Pass, TileResult
from napari_msunet.inference.viewport import CoarseLook, FirstLooks, Work

# ----------------------------------------------------------------------------------------------------------------------
# Resampling maps to another grid over the same slide, bilinearly between pixel centres.

Maps = npt.NDArray[np.float32]


def target_window(own: Window, own_grid: Grid, grid: Grid) -> Window:
    """The window of `grid` whose pixels are needed to interpolate a window of `own_grid`."""
    first, last = zip(*(_places(own, own_grid, grid, axis)[0][[0, -1]] for axis in (0, 1)), strict=True)
    stop = [min(int(v) + 2, n) for v, n in zip(last, grid.shape, strict=True)]
    return Window.between((int(first[0]), int(first[1])), (stop[0], stop[1]))


def _places(
    own: Window, own_grid: Grid, grid: Grid, axis: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each pixel of a window along an axis, the grid pixel before its centre, and the fraction of the way to the
    next.

    Beyond the first and the last pixel centre of the grid, the outermost pixel is used.
    """
    start, count = (own.y, own.height) if axis == 0 else (own.x, own.width)
    return between_centres(pixel_centres(start, count) * own_grid.pixel[axis] / grid.pixel[axis], grid.shape[axis])


def on_grid(maps: Maps, window: Window, grid: Grid, own_grid: Grid, own: Window) -> Maps:
    """Resample maps to another grid over the same slide, bilinearly between pixel centres.

    Parameters
    ----------
    maps : (K+1, h, w) float32 array
        Maps in `window` of `grid`, which contains `target_window(own, ...)`.
    own : Window
        The wanted pixels of `own_grid`.

    Returns
    -------
    (K+1, height, width) float32 array
    """
    rows, row_share = _places(own, own_grid, grid, 0)
    columns, column_share = _places(own, own_grid, grid, 1)
    rows, columns = rows - window.y, columns - window.x
    below, right = np.minimum(rows + 1, maps.shape[1] - 1), np.minimum(columns + 1, maps.shape[2] - 1)
    share = row_share[:, None]
    mixed: npt.NDArray[Any] = maps[:, rows] * (1 - share) + maps[:, below] * share
    mixed = mixed[:, :, columns] * (1 - column_share) + mixed[:, :, right] * column_share
    return mixed.astype(np.float32, copy=False)


# ----------------------------------------------------------------------------------------------------------------------
# A pass over an image that is brought to one size as a whole, whose tiles are those of the image's own pixels.


def gathered(work: Pass, window: Window) -> dict[str, Maps]:
    """All maps of a pass in a window of its grid: "probabilities", "branch 0" and so on, and what else was wanted.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    maps: dict[str, Maps] = {}
    for results in work.run(work.works(None, ())):
        for result in results:
            if result.maps is None:
                raise SlideError(result.failed or "A tile could not be computed.")
            part = result.tile.window.intersection(window)
            source = (slice(None), *part.slices((result.tile.window.y, result.tile.window.x)))
            place = (slice(None), *part.slices((window.y, window.x)))
            for name, values in _named(result.maps).items():
                target = maps.setdefault(name, np.empty((len(values), *window.shape), np.float32))
                target[place] = values[source]
    return maps


def _named(found: Fused) -> dict[str, Maps]:
    """The maps by name, each `(n, h, w)`."""
    named = {"probabilities": found.probabilities}
    named |= {f"branch {i}": branch for i, branch in enumerate(found.branches)}
    if found.weights is not None:
        named["weights"] = found.weights
    return named | {
        name: values[None]
        for name, values in (("disagreement", found.disagreement), ("entropy", found.entropy))
        if values is not None
    }


@dataclass
class ResizedPass:
    """The pass of a model that brings the whole image to one size; its tiles are brought back to the image's own grid.

    Attributes
    ----------
    own : Pass
        The pass under the plan of the image's own pixels; only its list of tiles is used.
    inner : Pass
        The pass over the image that was brought to one size.
    grid : Grid
        The image's own grid.
    inner_grid : Grid
        The grid of the image that was brought to one size.
    """

    own: Pass
    inner: Pass
    grid: Grid
    inner_grid: Grid

    @cached_property
    def maps(self) -> dict[str, Maps]:
        """The maps of the whole image on `inner_grid`, which are computed once."""
        return gathered(self.inner, self.inner_grid.whole)

    @property
    def plan(self) -> Any:
        """The plan of the tiles."""
        return self.own.plan

    def works(self, units: Collection[int] | None, done: Collection[int]) -> list[Work]:
        """As `Pass.works`."""
        return self.own.works(units, done)

    def run_with_looks(self, works: list[Work], looks: FirstLooks | None) -> Iterator[list[TileResult] | CoarseLook]:
        """As `Pass.run_with_looks`, without looks: the whole image is computed at once."""
        stop = events.current()
        for work in works:
            stop.check()
            yield [TileResult(tile, self._brought_back(tile.window)) for tile in work.tiles]

    def run(self, works: list[Work]) -> Iterator[list[TileResult]]:
        """As `Pass.run`."""
        return (found for found in self.run_with_looks(works, None) if not isinstance(found, CoarseLook))

    def _brought_back(self, window: Window) -> Fused:
        """The maps of a window of the image's own pixels."""
        back = {
            name: on_grid(values, self.inner_grid.whole, self.inner_grid, self.grid, window)
            for name, values in self.maps.items()
        }
        branches = tuple(back[name] for name in sorted((n for n in back if n.startswith("branch ")), key=_number))
        one = {name: back[name][0] for name in ("disagreement", "entropy") if name in back}
        return Fused(back["probabilities"], branches, back.get("weights"), one.get("disagreement"), one.get("entropy"))


def _number(name: str) -> int:
    return int(name.split()[1])

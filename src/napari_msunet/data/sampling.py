"""Where training windows are taken, and which windows validate."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Sampling
from napari_msunet.constants import IGNORED
from napari_msunet.data.items import Item
from napari_msunet.data.truth import WholeTruth
from napari_msunet.geometry import Window, pixel_centres

if TYPE_CHECKING:
    from torch import Tensor
# ----------------------------------------------------------------------------------------------------------------------
# Places where the training loss was high, so that they are drawn again: a bounded memory.

Place = tuple[int, int, int]
"""Number of the item, and y, x of a window's corner in pixels of its target grid."""

_FADES = 0.995  # of what was seen n batches ago counts this to the power of n: the model has learned since


class HardExamples:
    """The windows with the highest losses, at most `limit`.

    A window that is drawn again gets the loss it has then, so what was learned goes out by itself.

    Parameters
    ----------
    limit : int
    """

    def __init__(self, limit: int = 2048) -> None:
        self.limit = limit
        self._losses: dict[Place, float] = {}
        self._scale = 1.0  # instead of fading all at each batch, what is new weighs more

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, places: Sequence[Place], losses: Sequence[float]) -> None:
        """Take note of the windows of a batch; losses that are no number (nothing was known) are left out."""
        self._scale /= _FADES
        for place, loss in zip(places, losses, strict=True):
            if np.isfinite(loss) and loss > 0:
                self._losses[place] = loss * self._scale
        if len(self._losses) > self.limit:
            kept = sorted(self._losses.items(), key=lambda entry: -entry[1])[: self.limit]
            self._losses = dict(kept)
        if self._scale > 1e100:
            self._losses = {place: loss / self._scale for place, loss in self._losses.items()}
            self._scale = 1.0

    def draw(self, rng: np.random.Generator, items: Sequence[int] | None = None) -> Place | None:
        """A place, the likelier the higher its loss, of some items only where they are given; None where there is none.

        Places whose loss is below the mean are not drawn: what is drawn should be hard.
        """
        wanted = None if items is None else set(items)
        known = [(p, v) for p, v in self._losses.items() if wanted is None or p[0] in wanted]
        if not known:
            return None
        losses = np.array([v for _, v in known])
        losses = np.where(losses >= losses.mean() - 1e-12, losses, 0.0)
        return known[int(rng.choice(len(known), p=losses / losses.sum()))][0]


def window_losses(logits: Tensor, target: Tensor) -> list[float]:
    """The mean cross-entropy of each window's known pixels; NaN where nothing is known.

    Parameters
    ----------
    logits : (B, K+1, H, W) tensor
    target : (B, H, W) tensor
    """
    import torch
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        losses = cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none").sum((1, 2))
        found: list[float] = (losses / (target != IGNORED).sum((1, 2))).tolist()
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Where the classes are in all images, found in their overviews: no slide is read whole.

_TOTAL = 2**22
_LEAST, _MOST = 64, 4096  # places of a class in an image


class ClassPlaces:
    """A sample of the places of each class in each image, evenly spread; it takes at most about 32 MB for each class.

    Parameters
    ----------
    items : sequence of Item
    """

    def __init__(self, items: Sequence[Item]) -> None:
        most = min(_MOST, max(_LEAST, _TOTAL // max(1, len(items))))
        self._found = [_sample(item, most) for item in items]

    def draw(self, numbers: Sequence[int], rng: np.random.Generator) -> tuple[int, npt.NDArray[np.float64]] | None:
        """A class drawn among those of some items (background is one), an item that has it, and a place there.

        Returns
        -------
        tuple of int and (2,) array, or None
            The item's number, and `y, x` in level-0 pixels; None where nothing is known of these items.
        """
        classes = sorted({value for n in numbers for value in self._found[n]})
        if not classes:
            return None
        value = classes[rng.integers(len(classes))]
        having = [n for n in numbers if value in self._found[n]]
        number = having[rng.integers(len(having))]
        places = self._found[number][value]
        return number, places[rng.integers(len(places))].astype(np.float64)


def _sample(item: Item, most: int) -> dict[int, npt.NDArray[np.float32]]:
    """At most so many places of each truth in an image, in level-0 pixels."""
    values, grid = item.truth.overview()
    places = {}
    for value in np.unique(values[values != IGNORED]).tolist():
        at = np.flatnonzero(values == value)
        at = at[:: -(-at.size // most)]
        y, x = np.unravel_index(at, values.shape)
        places[value] = grid.places(np.stack([y, x], 1)).astype(np.float32)
    item.forget_mask()
    return places


# ----------------------------------------------------------------------------------------------------------------------
# The sampler, which draws the places of training windows.

MAX_STEPS = 500
"""An epoch has no more steps than this unless a person gives their number."""

_DENSE = 0.5
_BORDER_SHARE = 8  # windows of dense images stick out by up to this fraction of their size


@dataclass(frozen=True)
class Spot:
    """A window of an item, of whose truth only `core` counts where it is given; `number` is a sampler's of the item."""

    item: Item
    window: Window
    core: Window | None = None
    number: int = -1


class Sampler:
    """Draws training windows: the same for the same seed and epoch.

    Folder images are seen about once an epoch for each window they hold, at random places. On annotated slides, a class
    is drawn first (background included), then a place where it is, so that rare classes and small annotations are seen.

    Parameters
    ----------
    items : sequence of Item
    size : int
        Side of a window in target pixels.
    step : int
        Windows lie on multiples of it (whole pixels of all branches).
    seed : int
    replay : float, optional
        Share of the windows taken from items that are no corrections, in each batch as near as can be; None, or where
        there is only one sort of item: as often as their size has it.
    sampling : Sampling, optional
        Shares of windows at places of drawn classes, and at places that were hard.

    Attributes
    ----------
    hard : HardExamples
        What the training has found hard.
    """

    def __init__(
        self,
        items: Sequence[Item],
        size: int,
        step: int,
        seed: int,
        replay: float | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.items = list(items)
        self.size = size
        self.step = step
        self.seed = seed
        self._dense = [_is_dense(i) for i in self.items]
        looks = [_looks(i, d, size) for i, d in zip(self.items, self._dense, strict=True)]
        self._looks = np.repeat(np.arange(len(self.items)), looks)
        corrected = np.array([i.corrected for i in self.items], bool)[self._looks]
        self._replay = replay if corrected.any() and not corrected.all() else None
        self._sorts = self._looks[~corrected], self._looks[corrected]
        self._options = sampling or Sampling()
        self.hard = HardExamples()
        self._places = ClassPlaces(self.items) if self._options.balance else None
        groups = np.array([f"g{i.group}" if i.group is not None else f"i{n}" for n, i in enumerate(self.items)])
        self._same = {group: self._looks[groups[self._looks] == group] for group in np.unique(groups).tolist()}
        self._groups = groups.tolist()

    def steps(self, batch: int) -> int:
        """Batches that look about once at everything."""
        return min(MAX_STEPS, max(1, round(len(self._looks) / batch)))

    def epoch(self, epoch: int, count: int, together: int = 1) -> Iterator[Spot]:
        """The windows of an epoch, one after the other, each so many in a row from one group (else from one image)."""
        rng = np.random.default_rng((self.seed, epoch))
        order = _shuffled(self._looks, rng) if self._replay is None else self._replayed(self._replay, rng)
        for index in islice(order if together == 1 else self._in_groups(order, together, rng), count):
            yield self._spot(index, rng, together > 1)

    def _replayed(self, share: float, rng: np.random.Generator) -> Iterator[int]:
        """Items by turns from before and from the corrections, so that each batch has its share of both."""
        before, corrected = (_shuffled(looks, rng) for looks in self._sorts)
        for number in range(sys.maxsize):
            yield next(before if floor((number + 1) * share) > floor(number * share) else corrected)

    def _in_groups(self, order: Iterator[int], together: int, rng: np.random.Generator) -> Iterator[int]:
        """Each of the order followed by others of its group."""
        for index in order:
            same = self._same[self._groups[index]]
            yield from (index, *rng.choice(same, together - 1, replace=len(same) < together).tolist())

    def _spot(self, index: int, rng: np.random.Generator, alone: bool) -> Spot:
        """A window of an item: at a hard place, at one of a drawn class, or as the item has it.

        For the first two, unless `alone`, any item of the same sort (before, or corrected) will do.
        """
        balance, hard = self._options.balance, self._options.hard
        share = rng.random() if balance + hard else 1.0
        if share >= balance + hard:
            return Spot(self.items[index], self._window(index, rng), number=index)
        peers = [index] if alone else self._peers(index)
        if share < hard and (place := self.hard.draw(rng, None if len(peers) == len(self.items) else peers)):
            number, y, x = place
            return Spot(self.items[number], Window(y, x, self.size, self.size), number=number)
        if self._places is not None and (drawn := self._places.draw(peers, rng)):
            number, at = drawn
            return Spot(self.items[number], self._window(number, rng, at), number=number)
        return Spot(self.items[index], self._window(index, rng), number=index)

    def _peers(self, index: int) -> Sequence[int]:
        """Items that may stand in for another."""
        if self._replay is None:
            return range(len(self.items))
        return [n for n, item in enumerate(self.items) if item.corrected == self.items[index].corrected]

    def _window(self, index: int, rng: np.random.Generator, place: npt.NDArray[np.float64] | None = None) -> Window:
        """A window of an item, at random, or around a place (level-0 pixels)."""
        item = self.items[index]
        by_class = place is not None
        if place is not None:
            at = place / np.asarray(item.grid.pixel)
        elif not self._dense[index] or (not isinstance(item.truth, WholeTruth) and rng.random() < 0.5):
            by_class = True
            places = item.places[sorted(item.places)[rng.integers(len(item.places))]]
            at = places[rng.integers(len(places))] / np.asarray(item.grid.pixel)
        out = self.size // _BORDER_SHARE
        corner = []
        for axis, length in enumerate(item.grid.shape):
            low, high = (-out, length - self.size + out) if length > self.size else (length - self.size, 0)
            if by_class:  # the place stays inside when the corner is rounded
                value = float(at[axis]) - rng.uniform(self.step, self.size - self.step)
            else:
                value = rng.uniform(low, high)
            corner.append(min(max(value, low), high))
        y, x = (round(c / self.step) * self.step for c in corner)
        return Window(y, x, self.size, self.size)


def _shuffled(looks: npt.NDArray[np.intp], rng: np.random.Generator) -> Iterator[int]:
    """All looks in a random order, again and again."""
    while True:
        yield from looks[rng.permutation(len(looks))].tolist()


def _is_dense(item: Item) -> bool:
    """Whether most of the image has a truth, so that windows may lie anywhere."""
    values, _ = item.truth.overview()
    known = bool((values != IGNORED).mean() >= _DENSE)
    item.forget_mask()
    return known


def _looks(item: Item, dense: bool, size: int) -> int:
    """How many windows it takes to see what there is to see."""
    if dense:
        height, width = item.grid.shape
        return max(1, round(height * width / size**2))
    return max(1, len(known_cells(item, size)))


def known_cells(item: Item, size: int, step: int = 1, classes: bool = False) -> list[Window]:
    """Rectangles that tile the image's target grid and hold some truth, row by row; with `classes` a class.

    They are about equally large, at most `size` a side, with corners on multiples of `step`.
    """
    values, grid = item.truth.overview()
    table = ((values != IGNORED) & (values > 0 if classes else True)).astype(np.int64)
    edges = [_edges(length, size, step) for length in item.grid.shape]
    for axis in (0, 1):
        middle = pixel_centres(0, values.shape[axis]) * grid.pixel[axis] / item.grid.pixel[axis]
        # The last overview pixel may have its middle beyond the image.
        bounds = np.searchsorted(middle, [*edges[axis][:-1], np.inf])
        sums = np.concatenate([np.zeros_like(table.take([0], axis)), table.cumsum(axis)], axis)
        table = np.diff(sums.take(bounds, axis), axis=axis)
    rows, columns = edges
    return [Window.between((rows[y], columns[x]), (rows[y + 1], columns[x + 1])) for y, x in np.argwhere(table > 0)]


def _edges(length: int, size: int, step: int) -> list[int]:
    """Where a length is cut into about equal parts of at most `size`, on multiples of `step`."""
    count = ceil(length / size)
    if count > 1 and length % (count * step):
        count = ceil(length / max(1, size - step))  # room for moving the cuts to multiples
    return [*(round(i * length / count / step) * step for i in range(count)), length]


def _around(cell: Window, shape: tuple[int, int], size: int, step: int) -> Window:
    """The window that a cell is predicted in: around its middle but inside the image, for what lies outside is nothing
    to be judged by; an image smaller than the window is in its middle."""
    corner = []
    for start, part, length in zip((cell.y, cell.x), cell.shape, shape, strict=True):
        around = start - (size - part) // 2 // step * step
        corner.append(around if length < size else min(max(around, 0), -(-(length - size) // step) * step))
    return Window(corner[0], corner[1], size, size)


def validation_spots(items: Sequence[Item], size: int, step: int, most: int) -> list[Spot]:
    """Windows that tile the validation images where there is truth, at most so many, evenly spread.

    Where there are more, at least half of those taken hold a class, if so many do: on a slide of mostly background,
    scores would mean nothing otherwise.
    """
    labelled: list[Spot] = []
    others: list[Spot] = []
    for item in items:
        holding = set(known_cells(item, size, step, classes=True))
        for cell in known_cells(item, size, step):
            spot = Spot(item, _around(cell, item.grid.shape, size, step), cell)
            (labelled if cell in holding else others).append(spot)
        item.forget_mask()
    first = min(len(labelled), max(most // 2, most - len(others)))
    return _spread(labelled, first) + _spread(others, most - first)


def in_batches(spots: Sequence[Spot], batch: int, together: bool) -> list[Sequence[Spot]]:
    """Batches of at most so many spots; `together`: each of one group, or of one image where it has no group."""
    groups: dict[object, list[Spot]] = {}
    for spot in spots:
        own = None if not together else id(spot.item) if spot.item.group is None else f"group {spot.item.group}"
        groups.setdefault(own, []).append(spot)
    return [same[i : i + batch] for same in groups.values() for i in range(0, len(same), batch)]


def _spread(spots: list[Spot], most: int) -> list[Spot]:
    """At most so many, evenly spread."""
    if len(spots) <= most:
        return spots
    return [spots[i] for i in np.linspace(0, len(spots) - 1, most).round().astype(int)]

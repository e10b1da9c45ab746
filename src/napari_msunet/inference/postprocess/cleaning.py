"""Removing small objects and filling small holes, with the same result for any windows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import IGNORED
from napari_msunet.geometry import Window
from napari_msunet.inference.postprocess.threshold import Labels
from napari_msunet.objects.components import ComponentJoiner, Numbers, Plane, Walk, connected


def pixels_under(area: float, pixel: float) -> int:
    """Fewest pixels of an object that is not smaller than `area`, for pixels of area `pixel`."""
    return ceil(area / pixel - 1e-6)


class Cleaning:
    """Removes objects under a number of pixels, then fills holes under a number of pixels.

    An object is a set of pixels of one class that are connected by their sides. A hole is background that is connected
    by sides or corners of pixels, and reaches neither the edge of the plane nor a pixel that was not predicted. It
    becomes the class that most of its outline touches, or the first of several.

    Parameters
    ----------
    walk : Walk
    smallest, holes : int
        Objects and holes with fewer pixels are removed or filled. 0 or 1: none are.
    classes : int
        The number of classes.
    keep : int
        A class whose small objects stay (boundaries between instances); 0: none.
    """

    def __init__(self, walk: Walk, smallest: int, holes: int, classes: int, keep: int = 0) -> None:
        self.walk, self.smallest, self.holes, self.keep = walk, smallest, holes, keep
        self._kinds = classes + 1
        self._objects = ComponentJoiner(walk.whole.width)
        self._gaps = ComponentJoiner(walk.whole.width, diagonal=True)
        self._unknown: dict[Window, bytes] = {}

    def steps(self, source: Plane, labels: Plane) -> Iterator[Window]:
        """Read labels (255: not predicted) from `source`, write them cleaned into `labels`; yields each window done.

        `source` is read in the first of up to three passes only.
        """
        for window in self.walk:
            values = self._split(window, source.read(window))
            labels.write(window, values)
            if self.smallest > 1:
                numbers = connected(values)
                self._objects.add(window, numbers, values, np.bincount(numbers.ravel()))
            elif self.holes > 1:
                self._add_gaps(window, values)
            yield window
        if self.smallest > 1:
            yield from self._remove(labels)
        if self.holes > 1:
            yield from self._fill(labels)

    @property
    def passes(self) -> int:
        """How often `steps` goes over all windows."""
        return 1 + (self.smallest > 1) + (self.holes > 1)

    def _split(self, window: Window, values: Labels) -> Labels:
        """Note the unknown pixels, and return the labels with background in their place."""
        unknown = (values == IGNORED) | ~self.walk.known(window)
        if self.holes > 1 and unknown.any():
            self._unknown[window] = zlib.compress(np.packbits(unknown).tobytes(), 1)
        return np.where(unknown, 0, values).astype(np.uint8)

    def _marked(self, window: Window, values: Labels) -> Labels:
        """Values with `IGNORED` where nothing was predicted."""
        packed = self._unknown.get(window)
        if packed is None:
            return values
        bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=values.size)
        return np.where(bits.reshape(values.shape).astype(bool), IGNORED, values).astype(np.uint8)

    def _remove(self, labels: Plane) -> Iterator[Window]:
        self._objects.close()
        total = np.bincount(self._objects.component, self._objects.stats(0), self._objects.count)
        for window in self.walk:
            values = labels.read(window)
            numbers = connected(values)
            area = np.bincount(numbers.ravel())
            ids, components = self._objects.parts(window)
            area[ids] = total[components]
            gone = (area < self.smallest)[numbers] & (values > 0)
            if self.keep:
                gone &= values != self.keep
            if gone.any():
                values = np.where(gone, 0, values).astype(np.uint8)
                labels.write(window, values)
            if self.holes > 1:
                self._add_gaps(window, values)
            yield window

    def _gaps_in(self, window: Window, values: Labels) -> _Gaps:
        """The background of a window; a piece is open where it touches unknown pixels or the edge of the plane."""
        marked = self._marked(window, values)
        framed = np.pad(marked, 1)
        y, x = window.y // self.walk.side, window.x // self.walk.side
        parts: dict[int, int | slice] = {-1: 0, 0: slice(1, -1), 1: -1}
        for dy, at_y in parts.items():
            for dx, at_x in parts.items():
                if (dy or dx) and not self.walk.has(y + dy, x + dx):
                    framed[at_y, at_x] = IGNORED
        return _Gaps.of(framed, self._kinds)

    def _add_gaps(self, window: Window, values: Labels) -> None:
        gaps = self._gaps_in(window, values)
        self._gaps.add(window, gaps.numbers, gaps.values, gaps.area, gaps.open, gaps.contacts)

    def _fill(self, labels: Plane) -> Iterator[Window]:
        self._gaps.close()
        joined = self._gaps
        area = np.bincount(joined.component, joined.stats(0), joined.count)
        is_open = np.zeros(joined.count, np.bool_)
        fill = np.zeros(joined.count, np.int64)
        if joined.count:
            is_open[joined.component[joined.stats(1)]] = True
            is_open[joined.component[joined.opened]] = True
            touching = np.zeros((joined.count, self._kinds), np.int64)
            np.add.at(touching, joined.component, joined.stats(2))
            part, value, times = joined.contacts.T
            np.add.at(touching, (joined.component[part], value), times)
            fill = touching.argmax(1)
        for window in self.walk:
            values = labels.read(window)
            gaps = self._gaps_in(window, values)
            ids, components = joined.parts(window)
            small = (gaps.area < self.holes) & ~gaps.open
            small[ids] = ((area < self.holes) & ~is_open)[components]
            small[0] = False
            if small.any():
                with_class = gaps.contacts.argmax(1)
                with_class[ids] = fill[components]
                filled = np.where(small[gaps.numbers], with_class[gaps.numbers], values)
                labels.write(window, filled.astype(np.uint8))
            yield window


@dataclass(frozen=True)
class _Gaps:
    """The background of a window in pieces.

    Attributes
    ----------
    numbers : (h, w)
        Numbers of pieces from 1; 0 where there is none.
    values : (h, w) uint8
        Labels, 255 where unknown.
    area, open : (m + 1,)
    contacts : (m + 1, K + 1)
        The number of pixel sides of each piece that touch each class.
    """

    numbers: Numbers
    values: Labels
    area: Numbers
    open: npt.NDArray[np.bool_]
    contacts: Numbers

    @classmethod
    def of(cls, framed: Labels, kinds: int) -> _Gaps:
        """The background of a window that has a frame of one pixel: 255 where the pixel beyond is unknown, else 0."""
        inner = framed[1:-1, 1:-1]
        numbers = connected(inner == 0, diagonal=True)
        area = np.bincount(numbers.ravel())
        is_open = np.zeros(len(area), np.bool_)
        height, width = inner.shape
        contacts = []
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                beside = framed[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
                is_open[numbers[(beside == IGNORED) & (numbers > 0)]] = True
                if abs(dy) + abs(dx) == 1:
                    at = (beside > 0) & (beside != IGNORED) & (numbers > 0)
                    contacts.append(numbers[at] * kinds + beside[at])
        counts = np.bincount(np.concatenate(contacts), minlength=len(area) * kinds)
        return cls(numbers, inner, area, is_open, counts.reshape(len(area), kinds))

"""Reading windows of images at all scales, with their truth, from memory where the images are small."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil

from napari_msunet.data.items import Item
from napari_msunet.data.masks import Mask
from napari_msunet.data.truth import cut_out
from napari_msunet.geometry import Window
from napari_msunet.slide.numbers import Scale, is_plain, to_unit

ITEM_BYTES = 64 << 20
"""An image that takes no more than this at all scales together is held whole."""

CACHE_BYTES = 4 << 30

Windows = Callable[[Window], Sequence[Window]]
"""From a window of the target grid to the window that each branch reads on its own grid."""


class Sample(NamedTuple):
    """One training window: `(h, w, c)` pixels for each scale, uint8 or float32 in 0..1, and `(h, w)` uint8 truth.

    `brightfield` says whether a change of stain makes sense.
    """

    inputs: list[npt.NDArray[Any]]
    truth: Mask
    brightfield: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.truth.nbytes + sum(i.nbytes for i in self.inputs)


class WholeCache:
    """Whole images kept in memory up to a number of bytes; the least recently used go first. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[Hashable, Sample] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Sample]) -> Sample:
        """The image of `key`, made by `make()` where it is not held; two threads never make the same at once."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = make()
            with self._lock:
                self._kept[key] = made
                self.nbytes += made.nbytes
                while self.nbytes > self.limit and len(self._kept) > 1:
                    self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return made


class Crops:
    """Reads the windows of all branches around a window of the target grid.

    Parameters
    ----------
    ratios : sequence of Fraction
        The scales.
    windows : callable
        Which window each branch reads for a target window, as `models.input_windows` says.
    limit : int, optional
        Bytes of images held in memory; None: a quarter of what is free, at most 4 GiB.
    """

    def __init__(self, ratios: Sequence[Fraction], windows: Windows, limit: int | None = None) -> None:
        self.ratios = tuple(ratios)
        self.windows = windows
        self._cache = WholeCache(min(CACHE_BYTES, psutil.virtual_memory().available // 4) if limit is None else limit)

    def read(self, item: Item, window: Window, pads: Sequence[int] = (), truth_pad: int = 0) -> Sample:
        """The pixels of all branches, and the truth, of a window of the target grid.

        Parameters
        ----------
        item : Item
        window : Window
            On `item.grid`; may stick out (background, truth 255).
        pads : sequence of int
            Pixels more on each side, for each branch on its own grid.
        truth_pad : int
            Target pixels more on each side of the truth.
        """
        parts = [w.padded(p) for w, p in zip(self.windows(window), pads or (0,) * len(self.ratios), strict=True)]
        known = window.padded(truth_pad)
        if self._is_small(item):
            whole = self._cache.get((id(item._kept), id(item.truth)), lambda: self._whole(item))
            inputs = [cut_pixels(w, p, item.background) for w, p in zip(whole.inputs, parts, strict=True)]
            truth = cut_out(whole.truth, known)
        else:
            grids = [item.grid.scaled(r) for r in self.ratios]
            inputs = [item.slide.read_window(g, p) for g, p in zip(grids, parts, strict=True)]
            truth = item.truth_on_target(known)
        return Sample([seen_pixels(p, item.scale) for p in inputs], truth, item.numbers.kind == "brightfield")

    def _is_small(self, item: Item) -> bool:
        """Whether the image is held whole."""
        height, width = item.grid.shape
        bytes_per_pixel = item.facts.channels * item.facts.dtype.itemsize
        total = sum(float(r) ** 2 * height * width * bytes_per_pixel for r in self.ratios)
        return total <= min(ITEM_BYTES, self._cache.limit)

    def _whole(self, item: Item) -> Sample:
        """The whole image at all scales; then its file is closed, so that any number of images can be trained on."""
        grids = [item.grid.scaled(r) for r in self.ratios]
        try:
            inputs = [item.slide.read_window(g, g.whole) for g in grids]
            return Sample(inputs, item.truth_on_target(item.grid.whole))
        finally:
            item.release()


def seen_pixels(pixels: npt.NDArray[Any], scale: Scale) -> npt.NDArray[Any]:
    """Pixels as float32 in 0..1; plain 8 bits stay as they are, which are a quarter of the bytes to move."""
    return pixels if is_plain(pixels.dtype, scale) else to_unit(pixels, scale)


def cut_pixels(pixels: npt.NDArray[Any], window: Window, background: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A window of an `(h, w, c)` array that starts at grid pixel (0, 0); background where it sticks out."""
    inside = window.intersection(Window(0, 0, *pixels.shape[:2]))
    if inside.shape == window.shape:
        return pixels[inside.slices()]
    result = np.empty((*window.shape, pixels.shape[2]), pixels.dtype)
    result[...] = background
    if not inside.empty:
        result[inside.slices((window.y, window.x))] = pixels[inside.slices()]
    return result

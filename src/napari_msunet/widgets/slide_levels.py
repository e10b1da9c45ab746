"""The levels of a slide as lazy arrays for napari; coarse levels that a file lacks are filled in a thread."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal

from napari_msunet.errors import SlideError
from napari_msunet.geometry import Grid, Window
from napari_msunet.slide import Slide, open_slide
from napari_msunet.slide.numbers import is_plain, to_unit, unit_scale
from napari_msunet.widgets.napari_internals import drop_thumbnail_copy

# ----------------------------------------------------------------------------------------------------------------------
# The levels of a slide as arrays that never raise while napari draws.
#
# napari reads a layer on the GUI thread and treats an exception there as a crash. So a file that has vanished or is
# damaged is reported once, in one sentence, and drawn as background; when it is back, it is read again.

if TYPE_CHECKING:
    from types import EllipsisType

    Index: TypeAlias = int | slice | EllipsisType
    """The types of an index of one axis."""

Pixels = npt.NDArray[np.generic]

OVERVIEW_SIDE = 2048
"""Longest side of the coarsest level of a layer, which napari holds in memory as a whole."""
LAZY_FACTOR = 4.0
"""Largest factor by which a level that a slide lacks is averaged while it is drawn; larger ones are made in a
thread."""
RETRY_SECONDS = 2.0


class OpenSlide:
    """A slide that layers show, with the state of its file.

    Parameters
    ----------
    slide : Slide
    """

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.told = False
        self._folder = slide.path is not None and slide.path.is_dir()
        self._failed_at = 0.0
        self._lock = threading.Lock()

    def replace(self, slide: Slide) -> None:
        """Show another opening of the same image, such as one with another µm per pixel."""
        self.slide = slide
        self.told = False

    def read(self, grid: Grid, window: Window) -> Pixels:
        """Pixels of a window; background where the file cannot be read, which is reported once."""
        try:
            self._come_back()
            pixels = self.slide.read_window(grid, window, check=False)  # NaN is drawn as background, not refused
            self._check_folder()
            return pixels
        except (SlideError, OSError) as error:
            self._tell(error)
            pixels = np.empty((*window.shape, len(self.slide.channels)), self.slide.dtype)
            pixels[...] = self.slide.background
            return pixels

    def _check_folder(self) -> None:
        """Raise where the folder of a zarr is gone: zarr reads missing chunks as zeros, which would be drawn as
        black."""
        if self._folder and self.slide.path is not None and not self.slide.path.exists():
            raise SlideError(f"{self.slide.path} is not there")

    def _come_back(self) -> None:
        """After a failure: fail again at once, or open the file again where it is back."""
        if not self.told:
            return
        with self._lock:
            path = self.slide.path
            if path is None or time.monotonic() - self._failed_at < RETRY_SECONDS:
                raise SlideError("not tried again yet")
            self._failed_at = time.monotonic()
            again = open_slide(path, "px" if self.slide.in_pixels else self.slide.mpp)
            again.numbers = self.slide.numbers
            if again.shape != self.slide.shape:
                raise SlideError(f"{path} is another image now; open it again.")
            self.replace(again)

    def _tell(self, error: Exception) -> None:
        self._failed_at = max(self._failed_at, time.monotonic()) if not self.told else self._failed_at
        if self.told:
            return
        self.told = True
        path = self.slide.path
        if path is not None and not path.exists():
            show_error(f"{path} is no longer there: what has not been read is drawn as background until it is back.")
        else:
            show_error(str(error))


class SlideLevel:
    """One level of a slide, or one channel of it, as an array that is read where it is looked at.

    Parameters
    ----------
    source : OpenSlide
    pixel : (y, x)
        Size of a pixel in level-0 pixels of the slide.
    shape : (height, width)
    chunk : (height, width)
        napari enlarges what it reads to whole chunks, so that small moves of the view read nothing new.
    channel : int, optional
        The channel that is read, as `(h, w)`. None: all channels, as colours `(h, w, c)`.
    """

    def __init__(
        self,
        source: OpenSlide,
        pixel: tuple[float, float],
        shape: tuple[int, int],
        chunk: tuple[int, int],
        channel: int | None = None,
    ) -> None:
        self.source, self.channel = source, channel
        self._pixel = pixel
        count = len(source.slide.channels)
        self.shape: tuple[int, ...] = shape if channel is not None else (*shape, count)
        self.chunks: tuple[int, ...] = chunk if channel is not None else (*chunk, count)
        slide = source.slide
        # napari shows colours of 8 bits as they are, and scales others by the whole range of their type
        self._as_bytes = channel is None and not is_plain(slide.dtype, slide.value_range)
        self.dtype = np.dtype(np.uint8) if self._as_bytes else slide.dtype
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Pixels:
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = (*index[:at], *(slice(None),) * (self.ndim - len(index) + 1), *index[at + 1 :])
        index = (*index, *(slice(None),) * (self.ndim - len(index)))
        runs, local = [], []
        for part, length in zip(index[:2], self.shape[:2], strict=True):
            run = range(length)[part] if isinstance(part, slice) else range(length)[int(part) :][:1]
            runs.append((min(run[0], run[-1]), max(run[0], run[-1]) + 1) if len(run) else (0, 0))
            local.append(slice(None, None, run.step) if isinstance(part, slice) else 0)
        window = Window.between((runs[0][0], runs[1][0]), (runs[0][1], runs[1][1]))
        pixels = self._read(window)
        if self.channel is not None:
            pixels = pixels[..., self.channel]
        elif self._as_bytes:
            unit = to_unit(np.nan_to_num(pixels), unit_scale(self.source.slide.value_range))
            pixels = (unit * 255).round().astype(np.uint8)
        part_: Pixels = pixels[(*local, *index[2:])]
        return part_

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> Pixels:
        return np.asarray(self[...], dtype)

    def __deepcopy__(self, memo: object) -> SlideLevel:
        return self  # a duplicated layer shows the same file

    def _read(self, window: Window) -> Pixels:
        return self.source.read(self._grid, window)

    @property
    def _grid(self) -> Grid:
        return Grid(self.source.slide.shape[:2], self._pixel)


class Overview(SlideLevel):
    """A coarse level that the file lacks. It is filled part by part in a thread, and is background until then.

    Parameters
    ----------
    changed : callable
        Called, in the thread that reads, when more of it has been filled.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        slide = self.source.slide
        self._pixels = np.empty((*self.shape[:2], len(slide.channels)), slide.dtype)
        self._pixels[...] = slide.background
        self.done = False

    def fill(self, changed: Callable[[], None], stop: threading.Event) -> None:
        """Fill the level strip by strip; ends early when `stop` is set or the file cannot be read."""
        height, width = self.shape[:2]
        rows = max(1, int(self.chunks[0] / self._pixel[0]) or 1)
        for y in range(0, height, rows):
            if stop.is_set():
                return
            window = Window.between((y, 0), (min(y + rows, height), width))
            self._pixels[window.slices()] = self.source.read(self._grid, window)
            changed()
        self.done = True
        changed()

    def _read(self, window: Window) -> Pixels:
        return self._pixels[window.slices()]


# ----------------------------------------------------------------------------------------------------------------------
# Filling coarse levels in a thread.

REFRESH_SECONDS = 1.0


class _Filler(QObject):
    """Fills levels in a thread and has the layer drawn again on the GUI thread."""

    changed = Signal(bool)

    def __init__(self, layer: Image, levels: list[Overview]) -> None:
        super().__init__()
        self._layer = weakref.ref(layer)
        self._levels = levels
        self._told = time.monotonic()
        self.stop = threading.Event()
        self.changed.connect(self._redraw)
        weakref.finalize(layer, self.stop.set)
        self.thread = threading.Thread(target=self._run, name="napari-msunet overview", daemon=True)

    def _run(self) -> None:
        for level in reversed(self._levels):
            level.fill(self._maybe_changed, self.stop)
        if not self.stop.is_set():
            self._emit(True)

    def _maybe_changed(self) -> None:
        if self._layer() is None:
            self.stop.set()
        elif time.monotonic() - self._told > REFRESH_SECONDS:
            self._told = time.monotonic()
            self._emit(False)

    def _emit(self, last: bool) -> None:
        try:
            self.changed.emit(last)
        except RuntimeError:  # Qt has deleted this object
            self.stop.set()

    def _redraw(self, last: bool) -> None:
        layer = self._layer()
        if layer is not None:
            drop_thumbnail_copy(layer)
            layer.refresh(extent=False, thumbnail=last)


_running: weakref.WeakKeyDictionary[Image, _Filler] = weakref.WeakKeyDictionary()


def fill(layer: Image, levels: list[Overview]) -> threading.Thread:
    """Fill levels in a thread that ends with the layer; the layer is drawn again as they fill.

    Parameters
    ----------
    layer : Image
    levels : list of Overview
        The levels to fill, the coarsest first.
    """
    filler = _Filler(layer, levels)
    _running[layer] = filler
    filler.thread.start()
    return filler.thread

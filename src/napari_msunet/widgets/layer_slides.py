"""napari's layers as slides, whichever plugin opened them; layers without a file written as pyramids."""

from __future__ import annotations

import re
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Layer
from napari.qt.threading import WorkerBase, WorkerBaseSignals
from napari.utils.notifications import show_error, show_info, show_warning
from napari.utils.progress import progress
from qtpy.QtCore import QTimer, Signal

from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.slide import Slide, build_pyramid, open_slide, slide_from_array
from napari_msunet.slide.pixel_size import PIXELS, believed
from napari_msunet.slide.raster_backend import is_lazy
from napari_msunet.widgets.napari_internals import shown_point
from napari_msunet.widgets.placement import layer_mpp
from napari_msunet.widgets.slide_levels import OpenSlide, SlideLevel

if TYPE_CHECKING:
    import dask.array as da
    import numpy.typing as npt
# ----------------------------------------------------------------------------------------------------------------------
# The slide that a layer shows: a layer of ours, or any image that another plugin has opened.

KEY = "napari_msunet"
"""The key of napari-msunet in a layer's metadata."""

_SMALL = 1 << 22
"""Largest image, in pixels, that is compared with its file as a whole."""
_PLACES, _SIDE = 5, 64
"""A larger image is compared at this many places along each side, and each place has this side in pixels."""
_DECODERS = 3
_COARSE, _BLOCKS = 0.05, 16
_SUMMED = 97

_slides: weakref.WeakKeyDictionary[Layer, tuple[tuple[object, ...], Slide | None]] = weakref.WeakKeyDictionary()
"""Slides made for layers that are not ours, each with the state of the layer that it was made for."""
_files: weakref.WeakKeyDictionary[Layer, Path] = weakref.WeakKeyDictionary()
"""Files that were written for layers that had none."""


def open_slide_of(layer: Layer) -> OpenSlide | None:
    """The slide that a layer of ours shows; None for any other layer."""
    data = getattr(layer, "data", None)
    first = data[0] if getattr(layer, "multiscale", False) else data
    return first.source if isinstance(first, SlideLevel) else None


def slide_of(layer: Layer) -> Slide | None:
    """The slide that an image layer shows.

    Parameters
    ----------
    layer : Layer
        A layer of ours, or any Image layer: numpy, dask or zarr, with or without levels, in colour or not, opened by
        any plugin.

    Returns
    -------
    Slide or None
        Its `path` is None where no file is known that holds the same image. For a stack, it is the plane that is shown.
        None for a layer that is no image.
    """
    source = open_slide_of(layer)
    if source is not None:
        return source.slide
    if not is_slide(layer):
        return None
    key = (id(layer.data), _sum(layer), layer_mpp(layer), plane(layer), _files.get(layer))
    known = _slides.get(layer)
    if known is None or known[0] != key:
        known = _slides[layer] = (key, _slide_of_foreign(layer))
    return known[1]


def slide_path(layer: Layer) -> Path | None:
    """The file or folder of the image a layer shows, if there is one that `open_slide` reads as the same image."""
    slide = slide_of(layer)
    return None if slide is None else slide.path


def is_slide(layer: Layer) -> bool:
    """Whether a layer can be worked on: any image that is not one of our maps."""
    return isinstance(layer, Image) and "map" not in layer.metadata.get(KEY, {})


def remember_file(layer: Layer, path: Path) -> None:
    """Note that this file holds the image of the layer, because it was written from it."""
    _files[layer] = path


def layer_arrays(layer: Image) -> list[npt.NDArray[np.generic] | da.Array]:
    """A layer's levels as images `(h, w)` or `(h, w, 3)`, numpy or lazy; of a stack the plane that is shown."""
    return [_as_image(level, layer) for level in (layer.data if layer.multiscale else [layer.data])]


def plane(layer: Layer) -> tuple[int, ...]:
    """Which plane of a stack is shown: an index for each axis but the last two; empty for an image."""
    lead = layer.ndim - 2
    shape = layer.level_shapes[0][:lead]
    shown = np.nan_to_num(shown_point(layer)[:lead])
    return tuple(int(np.clip(round(p), 0, n - 1)) for p, n in zip(shown, shape, strict=True))


def _slide_of_foreign(layer: Image) -> Slide | None:
    mpp, note = layer_pixel_size(layer)
    if layer.metadata.get(KEY, {}).get("mpp") == PIXELS:
        mpp = PIXELS
    if note:
        show_warning(f"{note} Give the size of its pixels in the Slide step.")
    path = _files.get(layer) or _source_file(layer)
    if path is not None:
        try:
            slide = open_slide(path, mpp)
            same_size = slide.shape[:2] == tuple(layer.level_shapes[0][-2:])
            if same_size and shows_the_same(layer, slide):
                return slide
            slide.close()
            if same_size:
                show_info(
                    f'"{layer.name}" does not show what {path.name} is read as: it is another scene, one channel, '
                    "turned or changed. What is shown is worked on; choose it in the list of slides to write it as a "
                    "file of its own."
                )
        except (SlideError, OSError):
            pass  # another plugin reads a file that we cannot read: the layer's own data are used
    try:
        return slide_from_array(layer_arrays(layer), mpp, channels=_channels(layer))
    except SlideError as error:
        show_warning(f'The layer "{layer.name}" cannot be used as a slide: {error}')
        return None


def layer_pixel_size(layer: Layer) -> tuple[tuple[float, float] | None, str]:
    """µm per pixel of a layer that is not ours, and a sentence about its scale where that is not believed.

    A size that a person gave in the dock is always believed.
    """
    mpp = layer_mpp(layer)
    if mpp is not None and layer.metadata.get(KEY, {}).get("mpp") == mpp:
        return mpp, ""
    return believed(mpp, f'The layer "{layer.name}"')


def shows_the_same(layer: Image, slide: Slide) -> bool:
    """Whether a layer shows the pixels of a slide of its size; of a large image, only some places are compared.

    Two decoders of JPEG may differ by one or two grey levels.
    """
    levels = layer_arrays(layer)
    if (levels[0].shape[2] if levels[0].ndim == 3 else 1) != slide.shape[2]:
        return False
    height, width = slide.shape[:2]
    side = max(height, width) if height * width <= _SMALL else _SIDE
    corners = [
        sorted({round((n - s) * k / (_PLACES - 1)) for k in range(_PLACES)} if n > s else {0})
        for n, s in ((height, side), (width, side))
    ]
    for y in corners[0]:
        for x in corners[1]:
            shown = np.asarray(levels[0][y : y + side, x : x + side])
            shown = shown.reshape(*shown.shape[:2], -1)
            if not _alike(shown, slide.read(Region(y, x, *shown.shape[:2]))):
                return False
    return len(levels) == 1 or _coarse_alike(levels[-1], slide)


def _alike(shown: npt.NDArray[np.generic], read: npt.NDArray[np.generic]) -> bool:
    if shown.shape != read.shape:
        return False
    if np.array_equal(shown, read):
        return True
    if shown.dtype != np.uint8 or read.dtype != np.uint8:
        return False
    apart = np.abs(shown.astype(np.int16) - read)
    return bool(apart.max() <= _DECODERS and apart.mean() <= 0.5)


def _coarse_alike(level: npt.NDArray[np.generic] | da.Array, slide: Slide) -> bool:
    """Whether the coarsest level looks like the slide. It is not known how it was made smaller, so it may differ a
    bit."""
    height, width = level.shape[:2]
    if height * width > _SMALL:
        return True
    shown = np.asarray(level, np.float32).reshape(height, width, -1)
    size = slide.shape[0] / height, slide.shape[1] / width
    grid = Grid(slide.shape[:2], size, None)
    read = slide.read_window(grid, Window(0, 0, height, width)).astype(np.float32)
    if shown.shape != read.shape:
        return False
    reach = max(float(read.max()) - float(read.min()), 1e-9)
    rows, columns = (np.linspace(0, n, min(n, _BLOCKS), endpoint=False).astype(int) for n in (height, width))
    sums = np.add.reduceat(np.add.reduceat(shown - read, rows, axis=0), columns, axis=1)
    pixels = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))[..., None]
    return float(np.abs(sums / pixels).mean()) <= _COARSE * reach


def _sum(layer: Layer) -> int:
    """A sum over the layer's pixels, which changes where the array is written to in place."""
    first = layer.data[0] if layer.multiscale else layer.data
    if not isinstance(first, np.ndarray):
        return 0
    steps = tuple(slice(None, None, max(1, n // _SUMMED)) for n in first.shape)
    return zlib.crc32(np.ascontiguousarray(first[steps]).tobytes())


def _source_file(layer: Image) -> Path | None:
    """The file another plugin opened a plain image from."""
    whole = layer.ndim == 2 and layer.source.path is not None and layer.source.parent is None
    return Path(layer.source.path) if whole else None


def _channels(layer: Image) -> Sequence[str]:
    return ("red", "green", "blue") if layer.rgb else ("gray",)


def _as_image(level: npt.ArrayLike, layer: Image) -> npt.NDArray[np.generic] | da.Array:
    if not isinstance(level, np.ndarray) and not is_lazy(level):
        import dask.array as da  # importing it takes a second, so only where it is needed

        chunks = getattr(level, "chunks", None) or "auto"
        level = da.from_array(level, chunks=chunks)
    lead = layer.ndim - 2
    sizes = zip(plane(layer), level.shape[:lead], layer.level_shapes[0][:lead], strict=True)
    level = level[tuple(p * n // full for p, n, full in sizes)]
    return level[..., :3] if layer.rgb else level


# ----------------------------------------------------------------------------------------------------------------------
# Layers without a file, written as slides in a thread.


class _Signals(WorkerBaseSignals):  # type: ignore[misc]
    progressed = Signal(int, int)


class _CancelledError(Exception):
    pass


class SlideFileWorker(WorkerBase):  # type: ignore[misc]
    """Writes an image as a pyramid in a thread.

    `returned` gives the path, `errored` an exception, `progressed` the blocks done and their total; `quit()` cancels
    and leaves nothing behind. All signals arrive on the GUI thread.
    """

    def __init__(
        self,
        levels: list[npt.NDArray[np.generic] | da.Array],
        channels: Sequence[str],
        mpp: tuple[float, float] | None,
        out: Path,
    ) -> None:
        super().__init__(SignalsClass=_Signals)
        self._levels, self._channels, self._mpp, self.path = levels, channels, mpp, out

    def work(self) -> Path | None:
        slide = slide_from_array(self._levels, self._mpp, channels=self._channels)
        try:
            return build_pyramid(slide, self.path, progress=self._progress)
        except _CancelledError:
            return None
        finally:
            slide.close()

    def _progress(self, done: int, total: int) -> None:
        if self.abort_requested:
            raise _CancelledError
        self.progressed.emit(done, total)


def as_slide_file(layer: Layer, folder: str | Path) -> SlideFileWorker:
    """Write the image of a layer that has no file as an OME-Zarr pyramid, in a thread.

    The layer's data are only in this process, so the worker cannot write them. Afterwards `slide_path(layer)` is the
    path.

    Parameters
    ----------
    layer : Image
    folder : path
        Where to write ``NAME.ome.zarr``; a number is added to a name that is taken.

    Returns
    -------
    SlideFileWorker
        It starts at the next turn of the event loop. Connect `returned` (the path) and `errored`; `quit()` cancels. For
        a layer that has a file, `returned` gives that file.

    Raises
    ------
    SlideError
        If the layer is no image.
    """
    if not isinstance(layer, Image):
        raise SlideError(f'"{layer.name}" is no image; choose an image layer.')
    known = slide_path(layer)
    if known is not None:
        worker: SlideFileWorker = _Known(known)
    else:
        worker = SlideFileWorker(
            layer_arrays(layer), _channels(layer), layer_pixel_size(layer)[0], _free_name(layer, folder)
        )
        _show_progress(worker, layer.name)
        owner = weakref.ref(layer)
        worker.returned.connect(lambda path: _written(owner(), path))
        worker.errored.connect(_tell)
    # The worker starts only after the caller has connected its signals, since a quick answer would otherwise be lost.
    # It is started by a function, since the timer would not keep the worker of a bound method alive.
    QTimer.singleShot(0, lambda: worker.start())
    return worker


class _Known(SlideFileWorker):
    """A worker that gives the path of a file that exists already."""

    def __init__(self, path: Path) -> None:
        super().__init__([], None, None, path)

    def work(self) -> Path | None:
        return self.path


def _written(layer: Layer | None, path: Path | None) -> None:
    if layer is not None and path is not None:
        remember_file(layer, path)


def _tell(error: Exception) -> None:
    show_error(str(error) if isinstance(error, MsunetError) else f"The layer could not be written as a slide: {error}")


def _show_progress(worker: SlideFileWorker, name: str) -> None:
    """Show the progress of the writing in napari's activity dock."""
    bar = progress(total=1, desc=f"Writing {name}")

    def progressed(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    worker.progressed.connect(progressed)
    worker.finished.connect(bar.close)


def _free_name(layer: Layer, folder: str | Path) -> Path:
    name = re.sub(r"[^\w.-]+", "_", layer.name).strip("._") or "image"
    number, path = 1, Path(folder) / f"{name}.ome.zarr"
    while path.exists():
        number += 1
        path = Path(folder) / f"{name}-{number}.ome.zarr"
    return path

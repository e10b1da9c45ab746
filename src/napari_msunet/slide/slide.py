"""A slide: one image of any size, read in level-0 pixels or on a grid of pixels of a given µm."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import count
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import openslide

from napari_msunet._io import input_error
from napari_msunet.config.base import Kind, ValueRange
from napari_msunet.errors import MissingMppError, SlideError, as_path
from napari_msunet.geometry import (
    SNAP,
    Grid,
    Region,
    Resolution,
    Window,
    as_region,
    between_centres,
    mirrored_source,
    pixel_centres,
)
from napari_msunet.names import true_path
from napari_msunet.slide.backend import Backend, Pixels, SlideInfo
from napari_msunet.slide.foreign import START, check_foreign, is_dicom_slide
from napari_msunet.slide.identity import METADATA, fingerprint, path_identity
from napari_msunet.slide.numbers import (
    Numbers,
    PixelSample,
    check_finite,
    checked_kind,
    checked_range,
    decide,
    default_background,
    look,
)
from napari_msunet.slide.openslide_backend import TIFF_STARTS, OpenSlideBackend
from napari_msunet.slide.pixel_size import believed, checked_mpp, given_mpp
from napari_msunet.slide.plane import CHUNKS, LevelPlane
from napari_msunet.slide.raster_backend import ArrayBackend, RasterBackend
from napari_msunet.slide.resample import area_average, settled_ratio, source_span
from napari_msunet.slide.tiff_backend import TiffBackend
from napari_msunet.slide.zarr_backend import ZarrBackend

if TYPE_CHECKING:
    import dask.array as da
MOST_PIXELS = 2**38
"""Most pixels of a grid over a slide, about six times those of the largest slides at twice their resolution."""
MOST_ENLARGED = 64
"""Most grid pixels along a side of one pixel of a slide."""

BLOCK_WIDTH = 2048
BLOCK_BYTES = 3 << 20
"""Source pixels in a row, and source bytes, that are averaged at once."""

_numbers = count()


class Slide:
    """An open image, made by `open_slide` or `slide_from_array`. Reading is thread-safe.

    Attributes
    ----------
    path : Path or None
        The file or folder; None for an array.
    shape : tuple of int
        Height, width and number of channels at level 0.
    dtype : numpy.dtype
        Type of the pixels.
    mpp : tuple of float or None
        Size `(y, x)` of a level-0 pixel in µm; None where neither the file nor the caller gives one, the one in the
        file is not believed, or the caller wants pixels (``"px"``).
    in_pixels : bool
        Whether the caller wants pixels, whatever the file has.
    mpp_note : str
        A sentence about the size in the file, where it is not used; else empty.
    downsamples : tuple of (float, float)
        Level-0 pixels `(y, x)` that one pixel of each level spans, finest first.
    channels : tuple of str
        Names of the channels.
    properties : dict of str
        The properties in the file.
    numbers : Numbers
        The meaning of its values, and the source of it; decided at the first use, and kept.
    kind : "brightfield" or "fluorescence"
        The kind in `numbers`.
    value_range : (low, high)
        The range in `numbers`: the values that are black (0) and white (1).
    background : (c,) array
        Colour outside the slide, in the slide's dtype.
    notes : tuple of str
        Sentences about changes of the pixels: turned, colours converted, the first of several planes.
    turned : int
        The orientation tag by which it is turned; 1 means not at all.
    identity : str
        A hash of the content: the same for a copy or a moved file.
    fingerprint : str
        Colours of pixels all over it, which are the same for a copy in another format.
    """

    def __init__(
        self,
        backend: Backend,
        path: Path | None = None,
        mpp: object = None,
        identity: Callable[[], str] | None = None,
        reopen: Callable[[], Backend] | None = None,
        kind: object = None,
        value_range: object = None,
    ) -> None:
        info = backend.info
        self._backend = backend
        self._number = next(_numbers)
        self._identity = identity
        self._reopen = reopen
        self._process = os.getpid()
        self._release = weakref.finalize(self, _release, backend, self._number)
        self._given_mpp = given_mpp(mpp)
        self._given_kind = None if kind is None else checked_kind(kind)
        self._given_range = None if value_range is None else checked_range(value_range)
        self.path = path
        self.shape = (*info.levels[0].shape, len(info.channels))
        self.dtype = info.dtype
        self.mpp, self.mpp_note = self._pixel_size(info)
        self.in_pixels = isinstance(self._given_mpp, str)
        self.downsamples = tuple(level.downsample for level in info.levels)
        self.channels = info.channels
        self.properties = dict(info.properties)
        self.notes, self.turned = info.notes, backend.turned

    def __repr__(self) -> str:
        where = "array" if self.path is None else self.path.name
        return f"Slide({where!r}, shape={self.shape}, mpp={self.mpp}, levels={len(self.downsamples)})"

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise TypeError("A slide of an array cannot be sent to another process; send the array.")
        return _opened, (self.path, self._given_mpp, self.numbers)

    def close(self) -> None:
        """Close the file and drop the chunks in memory; the slide cannot be read afterwards."""
        self._release()
        CHUNKS.purge()

    @cached_property
    def numbers(self) -> Numbers:
        """The meaning of the slide's numbers, and the source of it; decided at the first use, and kept."""
        return decide([self.info], [self.sample], self._given_kind, self._given_range)[0]

    @property
    def kind(self) -> Kind:
        """ "brightfield" or "fluorescence"."""
        return self.numbers.kind

    @property
    def value_range(self) -> ValueRange:
        """The values that are black (0) and white (1)."""
        return self.numbers.value_range

    @cached_property
    def background(self) -> Pixels:
        """Colour `(c,)` outside the slide, in the slide's dtype."""
        info = self.info
        return info.background if info.background is not None else default_background(info, self.numbers)

    @property
    def info(self) -> SlideInfo:
        """The information in the file, without its pixels."""
        return self._backend.info

    @cached_property
    def sample(self) -> PixelSample:
        """The sample of pixels from which the meaning of the numbers is guessed."""
        return look(self.info, self._chunk)

    @cached_property
    def _planes(self) -> list[LevelPlane]:
        return [LevelPlane(level, self.shape[:2], self.background) for level in self.info.levels]

    @cached_property
    def fingerprint(self) -> str:
        """Colours of pixels all over it, as text: the same for a copy in another kind of file; see `same_pixels`."""
        return fingerprint(self.read, self.shape, self.dtype)

    @cached_property
    def identity(self) -> str:
        """A hash of the content: the same for a copy or a moved file."""
        if self._identity is None:
            raise SlideError(f"{self!r} has no identity.")
        return self._identity()

    @cached_property
    def levels(self) -> list[da.Array]:
        """The levels as lazy dask arrays `(h, w, c)`, finest first, which use the shared cache of chunks."""
        import dask.array as da  # importing it takes a second, so only where it is needed

        arrays = []
        for number, level in enumerate(self.info.levels):
            source = _LevelArray(self, number)
            name = f"slide-{self.identity[:32]}-{number}"
            chunks = (*level.chunk, len(self.channels))
            meta = np.empty((0, 0, 0), self.dtype)
            arrays.append(
                da.from_array(  # type: ignore[no-untyped-call]
                    source, chunks=chunks, name=name, asarray=False, fancy=False, meta=meta
                )
            )
        return arrays

    def check_levels(self) -> None:
        """Read the first, the middle and the last chunk of each level.

        Raises
        ------
        SlideError
            If a chunk cannot be read; the message has the number of its level.
        """
        for number, level in enumerate(self._backend.info.levels):
            rows, columns = level.chunks
            for cy, cx in dict.fromkeys(((rows // 2, columns // 2), (0, 0), (rows - 1, columns - 1))):
                try:
                    self._chunk(number, cy, cx)
                except SlideError as error:
                    text = str(error)
                    if number and str(self.path) in text:
                        text = f"{text.rstrip('.')} (found at level {number} of its pyramid)."
                    raise type(error)(text) from error

    def check_unit(self, unit: str) -> None:
        """Raise an error with advice, where a model of a unit ("µm" or "px") cannot work on this slide.

        Raises
        ------
        MissingMppError
            If the model works in µm, and the slide's own µm per pixel is not known.
        SlideError
            If it works in pixels of the image, and the slide's µm per pixel are known.
        """
        if unit == "µm" and self.mpp is None:
            raise MissingMppError(
                f"{self.name} gives no µm per pixel, and it is needed here.{self._why_not} Say it with "
                "open_slide(path, mpp=0.5) or in a table's column mpp, or use a model that works in pixels."
            )
        if unit == "px" and self.mpp is not None:
            raise SlideError(
                f"{self.name} has {_size(self.mpp)}, but the model works in the images' own pixels; if its size is not "
                'to count, say so with open_slide(path, mpp="px") or in a table\'s column mpp; or take a model in µm.'
            )

    def grid(self, mpp: float | tuple[float, float] | Resolution | None = None) -> Grid:
        """The grid over this slide whose pixels are `mpp` µm.

        Parameters
        ----------
        mpp : float or (y, x), optional
            Size of a pixel in µm. None: the grid of level 0, which needs no µm. Or a model's resolution, which may be
            in pixels of the image (`ModelConfig.target`): then the slide must have no size in µm.

        Raises
        ------
        MissingMppError
            If the slide's own µm per pixel is not known.
        SlideError
            If a resolution in pixels is asked of a slide whose µm per pixel are known, or the grid would be absurdly
            large.
        """
        if mpp is None:
            return Grid(self.shape[:2], (1.0, 1.0), self.mpp)
        wanted = checked_mpp(mpp.size if isinstance(mpp, Resolution) else mpp)
        self.check_unit(mpp.unit if isinstance(mpp, Resolution) else "µm")
        if isinstance(mpp, Resolution) and mpp.side is not None:
            pixel = (self.shape[0] / mpp.side, self.shape[1] / mpp.side)
            return self._sized(Grid(self.shape[:2], pixel, smooth=True))
        if self.mpp is None:
            return self._sized(Grid(self.shape[:2], wanted))
        grid = Grid(self.shape[:2], (wanted[0] / self.mpp[0], wanted[1] / self.mpp[1]), wanted)
        return self._sized(grid)

    def _sized(self, grid: Grid) -> Grid:
        """The grid; `SlideError` where it is absurdly large. All work on a slide begins with its grid."""
        height, width = grid.shape
        if height * width <= MOST_PIXELS and min(grid.pixel) >= 1 / MOST_ENLARGED:
            return grid
        own, wanted = self.mpp, grid.mpp
        sizes = "" if own is None or wanted is None else f" ({_size(own)}) at {_size(wanted)}"
        raise SlideError(
            f"{self.name}, {self.shape[0]} x {self.shape[1]} pixels{sizes}, would become {height:,} x {width:,} "
            "pixels, more than can be computed or kept; give the right size of its pixels, or a coarser resolution."
        )

    def read(self, region: Region, mpp: float | tuple[float, float] | None = None) -> Pixels:
        """The pixels of the grid of this mpp whose footprint a region touches.

        Parameters
        ----------
        region : Region
            A region in level-0 pixels; parts of it outside the slide are background.
        mpp : float or (y, x), optional
            µm per pixel of what is returned; None: level-0 pixels.

        Returns
        -------
        (h, w, c) array of the slide's dtype
            Each pixel is the area average over its footprint, from the nearest finer level of the pyramid.

        Raises
        ------
        MissingMppError
            If `mpp` is given and the slide's own is not known.
        SlideError
            If the file is damaged.
        """
        grid = self.grid(mpp)
        return self.read_window(grid, grid.window(as_region(region)))

    def read_window(self, grid: Grid, window: Window, check: bool = True, mirror: bool = False) -> Pixels:
        """The pixels of a window of a grid over this slide.

        Parameters
        ----------
        grid : Grid
            A grid of this slide (`slide.grid(mpp)`, or one scaled from it).
        window : Window
            A window in pixels of the grid; parts of it outside the slide are background.
        check : bool
            Whether to refuse NaN and infinite values; False for pixels that are only displayed.
        mirror : bool
            Whether parts outside the slide are its mirror image instead; its outermost pixels are not repeated.

        Returns
        -------
        (height, width, c) array of the slide's dtype, which the caller may change.

        Raises
        ------
        NotNumbersError
            If a value is NaN or infinite.
        SlideError
            If the grid belongs to a slide of another size, or the file is damaged.
        """
        if grid.extent != self.shape[:2]:
            raise SlideError(
                f"The grid lies over a slide of {grid.extent} pixels, but {self.name} has {self.shape[:2]}; "
                "make the grid with this slide's own grid(mpp)."
            )
        inside = window.intersection(grid.whole)
        if mirror and inside.shape != window.shape and not window.empty:
            shown, at_rows, at_columns = mirrored_source(window, grid.shape)
            return self.read_window(grid, shown, check)[at_rows][:, at_columns]
        result = np.empty((max(0, window.height), max(0, window.width), len(self.channels)), self.dtype)
        result[...] = self.background
        if inside.empty:
            return result
        if grid.smooth and min(grid.pixel) < 1 - SNAP:
            result[inside.slices((window.y, window.x))] = self._enlarged(grid, inside, check)
            return result
        number = self._level_for(grid)
        downsample = self.downsamples[number]
        ratios = (
            settled_ratio(grid.pixel[0] / downsample[0], grid.shape[0]),
            settled_ratio(grid.pixel[1] / downsample[1], grid.shape[1]),
        )
        plane = self._planes[number]
        for part in self._blocks(inside, ratios):
            rows, columns = (source_span(a, n, r) for a, n, r in zip((part.y, part.x), part.shape, ratios, strict=True))
            source = plane.read(
                Window.between((rows[0], columns[0]), (rows[1], columns[1])), lambda cy, cx: self._chunk(number, cy, cx)
            )
            if check:
                check_finite(source, self.name)
            result[part.slices((window.y, window.x))] = area_average(source, (part.y, part.x), part.shape, ratios)
        return result

    def _enlarged(self, grid: Grid, window: Window, check: bool) -> Pixels:
        """A window inside a grid whose pixels are smaller than the slide's along an axis, bilinear along it."""
        coarse = Grid(grid.extent, (max(1.0, grid.pixel[0]), max(1.0, grid.pixel[1])))
        places = [
            between_centres(pixel_centres(start, count) * fine / large, length)
            for start, count, fine, large, length in zip(
                (window.y, window.x), window.shape, grid.pixel, coarse.pixel, coarse.shape, strict=True
            )
        ]
        first = [int(at.min()) for at, _ in places]
        stop = [min(int(at.max()) + 2, length) for (at, _), length in zip(places, coarse.shape, strict=True)]
        values = self.read_window(coarse, Window.between((first[0], first[1]), (stop[0], stop[1])), check)
        mixed: Pixels = values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
        for axis, (at, share) in enumerate(places):
            before = at - first[axis]
            after = np.minimum(before + 1, mixed.shape[axis] - 1)
            weight = share.reshape(-1, *(1,) * (2 - axis)).astype(mixed.dtype)
            mixed = mixed.take(before, axis) * (1 - weight) + mixed.take(after, axis) * weight
        return (np.rint(mixed) if values.dtype.kind in "iu" else mixed).astype(values.dtype)

    def _blocks(self, window: Window, ratios: tuple[float, float]) -> Iterator[Window]:
        """The parts of a window, whose sources fit into the processor's caches and need few chunks at a time."""
        wide = max(1, int(BLOCK_WIDTH / max(ratios[1], 1)))
        row_bytes = min(BLOCK_WIDTH, window.width * ratios[1]) * len(self.channels) * max(4, self.dtype.itemsize)
        tall = max(1, int(BLOCK_BYTES / max(row_bytes, 1) / max(ratios[0], 1)))
        for x in range(window.x, window.stop[1], wide):
            for y in range(window.y, window.stop[0], tall):
                yield Window.between((y, x), (min(y + tall, window.stop[0]), min(x + wide, window.stop[1])))

    def _level_for(self, grid: Grid) -> int:
        """The coarsest level whose pixels are no larger than the grid's; level 0 where none is."""
        finer = [
            number
            for number, downsample in enumerate(self.downsamples)
            if all(d <= p * (1 + SNAP) for d, p in zip(downsample, grid.pixel, strict=True))
        ]
        return max(finer, key=lambda number: prod(self.downsamples[number]), default=0)

    def _chunk(self, level: int, cy: int, cx: int) -> Pixels:
        """One chunk, from memory or from the file."""
        if not self._release.alive:
            raise SlideError(f"{self.name} is closed; open it again with open_slide.")
        if (
            self._reopen is not None and self._process != os.getpid()
        ):  # a forked process must not share the position of the open file
            self._backend, self._process = self._reopen(), os.getpid()
        return CHUNKS.get((self._number, level, cy, cx), lambda: self._backend.read_chunk(level, cy, cx))

    def _pixel_size(self, info: SlideInfo) -> tuple[tuple[float, float] | None, str]:
        """µm per pixel, and a sentence about those in the file where they are not used."""
        if self._given_mpp is not None:
            return (None if isinstance(self._given_mpp, str) else self._given_mpp), ""
        if info.mpp_given and info.mpp is not None and min(info.mpp) > 0:
            return info.mpp, ""
        return believed(info.mpp)

    @property
    def _why_not(self) -> str:
        """A further sentence about why the size is missing."""
        if self._given_mpp is not None:
            return " It was opened in pixels."
        return f" {self.mpp_note}" if self.mpp_note else ""

    @property
    def name(self) -> str:
        """The name of the slide in sentences: its path, or "the image" for an array."""
        return "The image" if self.path is None else str(self.path)


def _release(backend: Backend, number: int) -> None:
    """Close the file and drop the chunks; also called when a slide is garbage-collected."""
    CHUNKS.forget(number)
    backend.close()


def _size(mpp: tuple[float, float]) -> str:
    return f"{mpp[0]:g} µm per pixel" if mpp[0] == mpp[1] else f"{mpp[0]:g} x {mpp[1]:g} µm per pixel"


def _opened(path: Path, mpp: Any, numbers: Numbers) -> Slide:
    """Open a slide again in another process; used by pickle."""

    slide = open_slide(path, mpp)
    slide.numbers = numbers
    return slide


class _LevelArray:
    """A level in the form that dask needs: with a shape, a dtype and slices."""

    def __init__(self, slide: Slide, level: int) -> None:
        self._slide, self._level = slide, level
        self.shape = (*slide._planes[level].shape, len(slide.channels))
        self.dtype = slide.dtype
        self.ndim = 3

    def __getitem__(self, index: tuple[slice | int, ...]) -> Pixels:
        slide, level = self._slide, self._level
        runs = [
            range(n)[i : i + 1] if isinstance(i, int) else range(n)[i] for i, n in zip(index, self.shape, strict=True)
        ]
        local = tuple(0 if isinstance(i, int) else slice(None, None, r.step) for i, r in zip(index, runs, strict=True))
        if not all(runs):
            return np.empty([len(run) for run in runs], self.dtype)[local]
        (top, bottom), (left, right), (first, last) = ((min(r[0], r[-1]), max(r[0], r[-1]) + 1) for r in runs)
        window = Window.between((top, left), (bottom, right))
        pixels = slide._planes[level].inner(window, lambda cy, cx: slide._chunk(level, cy, cx))
        part: Pixels = pixels[:, :, first:last][local]
        return part


# ----------------------------------------------------------------------------------------------------------------------
# Opening a slide. The reader of a file is chosen by its content, not by its name.

KINDS = "a whole-slide file that OpenSlide reads (SVS, NDPI, MRXS, ...), TIFF, OME-TIFF, OME-Zarr, PNG or JPEG"
SLIDES = (
    *(".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu"),
    *(".tif", ".tiff", ".btf", ".qptiff"),
)
"""Endings of files that are usually slides, for folders and file dialogs, and for napari.yaml."""

READABLE = (*SLIDES, ".png", ".jpg", ".jpeg", ".bmp")
"""Endings of all image files that are searched for in folders."""

DOUBLE = (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr")
"""Endings that contain a dot."""

RASTER_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM")


def open_slide(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | Literal["px"] | None = None,
    kind: Kind | None = None,
    value_range: ValueRange | None = None,
) -> Slide:
    """Open an image of any size.

    Parameters
    ----------
    path : path
        A whole-slide file that OpenSlide reads, a file of a DICOM slide, a TIFF or OME-TIFF file, an OME-Zarr folder
        (0.4 or 0.5, also as bioformats2raw writes it), a PNG or a JPEG.
    mpp : float, (y, x) or "px", optional
        µm per level-0 pixel, where the file has none or a wrong one; any number above zero is accepted. "px": the size
        in the file is ignored, and the image is used in its own pixels (by models with ``mpp=None``). None: the size in
        the file, if it is believed (0.01 to 20).
    kind : "brightfield" or "fluorescence", optional
        The kind, where the file does not have it, and a guess from the pixels would be wrong.
    value_range : (low, high), optional
        The values that are black and white, such as (0, 4095) for 12 bits in 16, where the file does not have them.

    Returns
    -------
    Slide

    Raises
    ------
    SlideError
        If there is no such file, it is no image or damaged, `mpp` is not above zero, or `kind` or `value_range` cannot
        be used.
    """
    given_mpp(mpp)
    where = true_path(as_path(path, KINDS))
    _check_numbers(kind, value_range)
    return Slide(
        open_backend(where), where, mpp, lambda: path_identity(where), lambda: open_backend(where), kind, value_range
    )


def slide_from_array(
    array: Any,
    mpp: float | tuple[float, float] | Literal["px"] | None = None,
    channels: Sequence[str] | None = None,
    background: Any = None,
    kind: Kind | None = None,
    value_range: ValueRange | None = None,
) -> Slide:
    """An array as a slide.

    Parameters
    ----------
    array : (h, w) or (h, w, c) numpy or dask array
        The image; a list or tuple of them is a pyramid, finest first.
    mpp : float, (y, x) or "px", optional
        µm per level-0 pixel.
    channels : sequence of str, optional
        Names of the channels; without them, three channels are colours.
    background : number or (c,) array, optional
        Colour outside the image; without it, white for bright-field and 0 for fluorescence.
    kind, value_range
        As for `open_slide`.

    Raises
    ------
    SlideError
        If the array is no image.
    """
    backend = ArrayBackend(array if isinstance(array, list | tuple) else [array], channels, background)
    return Slide(backend, None, mpp, backend.identity, kind=kind, value_range=value_range)


def _check_numbers(kind: object, value_range: object) -> None:
    if kind is not None:
        checked_kind(kind)
    if value_range is not None:
        checked_range(value_range)


def open_backend(path: Path) -> Backend:
    """The reader of a file or folder; raises SlideError as `open_slide`."""
    if not path.exists():
        raise SlideError(f"{path} is not there; give the path of {KINDS}.")
    if path.is_dir():
        if not any((path / name).is_file() for name in METADATA):
            raise SlideError(f"{path} is no OME-Zarr folder; give the path of {KINDS}.")
        return ZarrBackend(path)
    try:
        with path.open("rb") as file:
            start = file.read(START)
        vendor = openslide.OpenSlide.detect_format(path)
    except OSError as error:
        raise input_error(path, error, "check its permissions", SlideError) from error
    except openslide.OpenSlideError:
        vendor = None
    if vendor == "dicom" or is_dicom_slide(start):
        return _dicom(path)
    if vendor in (None, "generic-tiff"):
        check_foreign(path, start)
    if vendor not in (None, "generic-tiff"):
        return OpenSlideBackend(path)
    if path.suffix.lower() == ".mrxs":
        raise SlideError(
            f"{path} lacks its folder of the same name beside it (or that is damaged); copy both together."
        )
    if start.startswith(RASTER_STARTS):
        return RasterBackend(path)
    if start.startswith(TIFF_STARTS):
        return TiffBackend(path)
    raise SlideError(f"{path} is no image that can be read, or it is damaged; give {KINDS}.")


def _dicom(path: Path) -> Backend:
    """The reader of a DICOM slide: OpenSlide, or pydicom for what it refuses."""
    try:
        return OpenSlideBackend(path)
    except SlideError:
        from napari_msunet.slide.dicom_backend import DicomBackend

        return DicomBackend(path)

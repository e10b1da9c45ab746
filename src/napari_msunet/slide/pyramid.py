"""Writing an image of any size as an OME-Zarr 0.5 pyramid, block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from napari_msunet._io import folder_aside
from napari_msunet.constants import CHUNK
from napari_msunet.errors import OutputError, as_path
from napari_msunet.geometry import Window, pyramid_shapes
from napari_msunet.slide import ngff
from napari_msunet.slide.backend import Pixels
from napari_msunet.slide.pixel_size import given_mpp
from napari_msunet.slide.raster_backend import checked_array, is_lazy
from napari_msunet.slide.resample import area_average
from napari_msunet.slide.slide import Slide, open_slide, slide_from_array
from napari_msunet.slide.zarr_backend import BACKGROUND, OWN_KEY

BLOCK_BYTES = 64 << 20
"""Number of pixels that are held while a level is written."""


def build_pyramid(
    image: Any,
    out: str | os.PathLike[str],
    mpp: float | tuple[float, float] | Literal["px"] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write an image as an OME-Zarr 0.5 pyramid, in bounded memory whatever its size.

    Levels are halved by 2 x 2 means, rounded up, until the longer side is at most 1024. The folder is written aside and
    renamed, so `out` is whole or not there.

    Parameters
    ----------
    image : path, Slide, or (h, w[, c]) numpy or dask array
        The image; a dask array is computed block by block.
    out : path
        The folder to write, such as ``image.ome.zarr``.
    mpp : float, (y, x) or "px", optional
        µm per pixel. None: the slide's own; where that is unknown too, and with "px", the pyramid has no unit.
    overwrite : bool
        Whether an `out` that exists is replaced.
    progress : callable, optional
        Called with the number of blocks written and of all blocks; what it raises ends the writing.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    OutputError
        If `out` exists, or cannot be written (read-only, disk full); nothing is left behind.
    SlideError
        If the image cannot be read.
    """
    target = as_path(out, "the OME-Zarr folder to make")
    _refuse_taken(target, overwrite)
    opened = not isinstance(image, Slide)
    slide = _as_slide(image, mpp)
    try:
        with folder_aside(target, overwrite=overwrite) as folder:
            _write(slide, folder, target.name, _mpp(slide, mpp), progress)
            _refuse_taken(target, overwrite)
    finally:
        if opened:
            slide.close()
    return target


def _mpp(slide: Slide, given: Any) -> tuple[float, float] | None:
    """The µm per pixel of the pyramid: those that are given, else the slide's own."""
    size = given_mpp(given)
    if size is None:
        return slide.mpp
    return None if isinstance(size, str) else size


def _as_slide(image: Any, mpp: Any) -> Slide:
    if isinstance(image, Slide):
        return image
    if isinstance(image, str | os.PathLike):
        return open_slide(image, mpp)
    return slide_from_array(image if is_lazy(image) else checked_array(image), mpp)


def _refuse_taken(target: Path, overwrite: bool) -> None:
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"{target} exists already; choose another name, or say overwrite=True to replace it.")


def _write(
    slide: Slide,
    folder: Path,
    name: str,
    mpp: tuple[float, float] | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write all levels and the metadata into a new folder."""
    height, width, count = slide.shape
    shapes = pyramid_shapes((height, width))
    attributes = ngff.image_attributes(
        name.removesuffix(".zarr").removesuffix(".ome"),
        [(count, *shape) for shape in shapes],
        "cyx",
        mpp,
        slide.channels,
        slide.dtype.name,
        slide.value_range,
    )
    numbers = slide.numbers
    attributes[OWN_KEY] = {
        BACKGROUND: slide.background.tolist(),
        "kind": numbers.kind,
        "kind_from": numbers.kind_from,
        "value_range": list(numbers.value_range),
        "range_from": numbers.range_from,
    }
    group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    blocks = [list(_blocks(shape, count * slide.dtype.itemsize)) for shape in shapes]
    total, done = sum(len(b) for b in blocks), 0
    finer: Any = None
    for number, shape in enumerate(shapes):
        array = _create_level(group, number, (count, *shape), slide.dtype)
        for block in blocks[number]:
            pixels = _first_level(slide, block) if finer is None else _halved(finer, block, shapes[number - 1])
            _write_block(array, block, pixels)
            done += 1
            if progress is not None:
                progress(done, total)
        finer = array


def _create_level(group: zarr.Group, number: int, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Any:
    return group.create_array(
        str(number),
        shape=shape,
        dtype=dtype,
        chunks=(shape[0] if shape[0] <= 4 else 1, min(CHUNK, shape[1]), min(CHUNK, shape[2])),
        compressors=(BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=dtype.itemsize), Crc32cCodec()),
        dimension_names=("c", "y", "x"),
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def _write_block(array: Any, block: Window, pixels: Pixels) -> None:
    """Write whole chunks, each in one thread; when one fails, this raises only after all others have ended."""
    step = array.chunks[0]

    def write(first: int, x: int) -> None:
        part = Window.between((block.y, x), (block.stop[0], min(x + CHUNK, block.stop[1])))
        values = pixels[(*part.slices((block.y, block.x)), slice(first, first + step))]
        array[(slice(first, first + step), *part.slices())] = np.moveaxis(values, -1, 0)

    places = [(c, x) for c in range(0, array.shape[0], step) for x in range(block.x, block.stop[1], CHUNK)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(write, *zip(*places, strict=True)):
            pass


def _blocks(shape: tuple[int, int], pixel_bytes: int) -> Iterator[Window]:
    """Windows of whole chunks that cover a level, each of about 64 MiB including the pixels it is made of."""
    rows = CHUNK
    columns = max(1, BLOCK_BYTES // (8 * rows * CHUNK * pixel_bytes)) * CHUNK
    for y in range(0, shape[0], rows):
        for x in range(0, shape[1], columns):
            yield Window.between((y, x), (min(y + rows, shape[0]), min(x + columns, shape[1])))


def _first_level(slide: Slide, block: Window) -> Pixels:
    return slide.read_window(slide.grid(), block)


def _halved(finer: Any, block: Window, shape: tuple[int, int]) -> Pixels:
    """A block of the next coarser level: means of 2 x 2 pixels, with the last row and column repeated at an odd
    size."""
    rows, columns = slice(2 * block.y, 2 * block.stop[0]), slice(2 * block.x, 2 * block.stop[1])
    pixels = np.moveaxis(np.asarray(finer[:, rows, columns]), 0, -1)
    missing = max(0, rows.stop - shape[0]), max(0, columns.stop - shape[1])
    if any(missing):
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return area_average(pixels, (block.y, block.x), block.shape, (2.0, 2.0))

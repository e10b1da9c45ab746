"""Labels of a store, or of a region of it, as plain pyramids: OME-Zarr, and OME-TIFF."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from napari_msunet.annotation.instances import Image
from napari_msunet.annotation.output import ClassLook
from napari_msunet.constants import CHUNK
from napari_msunet.geometry import Window, pyramid_shapes
from napari_msunet.labels.levels import children, coarsen, tiles
from napari_msunet.slide.ngff import label_attributes

BLOCK = 2048
CLASSIC_TIFF = 2**32 - 2**26
"""Bytes before compression up to which a classic TIFF is sure to have room; above, it is a BigTIFF."""

Report = Callable[[int, int], None]
Values = npt.NDArray[Any]


def write_zarr(
    store: Image, window: Window, looks: dict[int, ClassLook], folder: Path, name: str, report: Report
) -> None:
    """Write a window of a store as an OME-Zarr 0.5 label pyramid, block by block.

    Coarser levels are made from the level below by the majority rule of `napari_msunet.labels.levels`.

    Parameters
    ----------
    store : Image
        A label store, or the instances of a run.
    window : Window
        In the store's level-0 pixels; the pyramid starts at its corner, and its metadata say where that is.
    looks : dict
        Names and colours of the values.
    folder : Path
        To be made.
    name : str
        Of the image, in the metadata.
    report : callable
        Called with the number of blocks done and of all.
    """
    shapes = pyramid_shapes(window.shape)
    size = store.mpp or store.pixel
    attributes = label_attributes(
        name,
        shapes,
        store.mpp,
        {value: look.name for value, look in looks.items()},
        {value: look.colour for value, look in looks.items()},
        offset=(window.y * size[0], window.x * size[1]),
        pixel=store.pixel,
    )
    group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    blocks = [list(tiles(Window(0, 0, *shape), BLOCK)) for shape in shapes]
    total, done = sum(map(len, blocks)), 0
    finer: Any = None
    for level, shape in enumerate(shapes):
        array = group.create_array(
            str(level),
            shape=shape,
            chunks=(CHUNK, CHUNK),
            dtype=store.dtype,
            compressors=(ZstdCodec(level=3), Crc32cCodec()),
            dimension_names=("y", "x"),
            fill_value=0,
        )
        for block in blocks[level]:
            if finer is None:
                values = store.read(Window(block.y + window.y, block.x + window.x, *block.shape))
            else:
                values = coarsen(np.asarray(finer[children(block, shapes[level - 1]).slices()]))
            array[block.slices()] = values
            done += 1
            report(done, total)
        finer = array


def write_tiff(
    store: Image, window: Window, looks: dict[int, ClassLook], file: Path, name: str, report: Report
) -> None:
    """Write a window of a store as a tiled, pyramidal OME-TIFF (SubIFDs, deflate), tile by tile.

    Parameters are those of `write_zarr`. The class names stand in a map annotation of the OME-XML.
    """
    with _levels(store, window, looks, file) as (shapes, read):
        counts = [len(list(tiles(Window(0, 0, *shape), CHUNK))) for shape in shapes]
        done = 0

        def level_tiles(level: int) -> Iterator[Values]:
            nonlocal done
            for tile in tiles(Window(0, 0, *shapes[level]), CHUNK):
                values = read(level, tile)
                report(done, sum(counts))
                done += 1
                yield np.pad(values, ((0, CHUNK - tile.height), (0, CHUNK - tile.width)))

        size = sum(counts) * CHUNK * CHUNK * store.dtype.itemsize
        with tifffile.TiffWriter(file, ome=True, bigtiff=size > CLASSIC_TIFF) as tiff:
            for level, shape in enumerate(shapes):
                mpp = None if store.mpp is None else tuple(v * 2**level for v in store.mpp)
                tiff.write(
                    level_tiles(level),
                    shape=shape,
                    dtype=store.dtype,
                    tile=(CHUNK, CHUNK),
                    compression="adobe_deflate",
                    photometric="minisblack",
                    subifds=len(shapes) - 1 if level == 0 else None,
                    subfiletype=1 if level else 0,
                    resolution=None if mpp is None else (1e4 / mpp[1], 1e4 / mpp[0]),
                    resolutionunit=None if mpp is None else "CENTIMETER",
                    metadata=_ome(store, looks, name) if level == 0 else None,
                )
        report(sum(counts), sum(counts))


def _ome(store: Image, looks: dict[int, ClassLook], name: str) -> dict[str, Any]:
    """What tifffile puts into the OME-XML."""
    metadata: dict[str, Any] = {"axes": "YX", "Name": name}
    if store.mpp is not None:
        metadata |= {
            "PhysicalSizeY": store.mpp[0],
            "PhysicalSizeYUnit": "µm",
            "PhysicalSizeX": store.mpp[1],
            "PhysicalSizeXUnit": "µm",
        }
    names = {str(value): look.name for value, look in looks.items()}
    return metadata | {"MapAnnotation": {"Namespace": "napari-msunet/classes", **names}}


@contextmanager
def _levels(
    store: Image, window: Window, looks: dict[int, ClassLook], beside: Path
) -> Iterator[tuple[list[tuple[int, int]], Callable[[int, Window], Values]]]:
    """Shapes of the levels, and how to read a window of one. A region's own coarser levels need room on the disk."""
    shapes = pyramid_shapes(window.shape)
    if window == Window(0, 0, *store.shape) or len(shapes) == 1:

        def from_store(level: int, part: Window) -> Values:
            finest = Window(*(v << level for v in (part.y, part.x, part.height, part.width)))
            moved = Window(finest.y + window.y, finest.x + window.x, *finest.shape)
            return np.asarray(store.read(moved, level=level))

        yield shapes, from_store
        return
    scratch = beside.with_name(beside.name + ".levels")
    try:
        write_zarr(store, window, looks, scratch, beside.name, lambda done, total: None)
        arrays = [zarr.open_array(scratch / str(level), mode="r") for level in range(len(shapes))]
        yield shapes, lambda level, part: np.asarray(arrays[level][part.slices()])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

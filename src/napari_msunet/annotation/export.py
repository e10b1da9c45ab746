"""The export job: labels in formats that other programs read."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import numpy.typing as npt
import shapely
import tifffile
import zarr
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from shapely.geometry.polygon import orient
from zarr.codecs import Crc32cCodec, ZstdCodec

from napari_msunet._io import output_aside
from napari_msunet.annotation.outline_writers import IGNORED_NAME, Written, positions, write_asap, write_coco
from napari_msunet.annotation.provenance import KEY, provenance
from napari_msunet.config import ExportJob
from napari_msunet.constants import CHUNK
from napari_msunet.errors import OutputError
from napari_msunet.events import Event, Message, Result, progress, reported
from napari_msunet.geometry import Window, pyramid_shapes
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.levels import children, coarsen, tiles
from napari_msunet.objects.instances import ClassLook, LabelImage, Objects, objects_of, window_of
from napari_msunet.objects.polygons import LabelShape, walk_polygons
from napari_msunet.slide.ngff import label_attributes

# ----------------------------------------------------------------------------------------------------------------------
# Shapes as QuPath's GeoJSON: annotations in the slide's level-0 pixels, ``x, y``.

TAIL = "\n]}\n"


def geojson_head(origin: dict[str, Any]) -> str:
    """The beginning of a GeoJSON, with where it comes from; readers pass over members that they do not know."""
    said = json.dumps(origin, ensure_ascii=False, separators=(",", ":"))
    return f'{{"type":"FeatureCollection","{KEY}":{said},"features":['


def object_id(name: str, look: ClassLook, x: float, y: float) -> str:
    """A UUID that is the same each time that the same object of the store `name` is exported or measured; `x, y` is the
    first point of its outline."""
    return str(uuid5(NAMESPACE_URL, f"napari-msunet/{name}/{look.name}/{y:.0f}/{x:.0f}"))


def feature(
    shape: LabelShape, look: ClassLook, name: str, pixel: tuple[float, float], extent: tuple[int, int]
) -> dict[str, Any]:
    """One object as a GeoJSON feature that QuPath reads as an annotation.

    Parameters
    ----------
    shape : LabelShape
        The outline, in pixels of the store.
    look : ClassLook
        Name and colour of its class.
    name : str
        The name of the store, which is part of the object's id.
    pixel : (y, x)
        Size of the store's pixels in level-0 pixels of the slide.
    extent : (height, width)
        Size of the slide in level-0 pixels. The store's last row and column may extend beyond it; the outline does not.
    """
    polygon = orient(shape.polygon)  # outlines anticlockwise in x, y, holes clockwise (RFC 7946)
    rings = [positions(shapely.get_coordinates(ring), pixel, extent) for ring in (polygon.exterior, *polygon.interiors)]
    return {
        "type": "Feature",
        "id": object_id(name, look, *shape.polygon.exterior.coords[0]),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": look.name, "color": list(look.colour)},
        },
    }


def feature_line(feature: dict[str, Any], first: bool) -> str:
    """The text of a feature in the file, on a line of its own, so that a file of any size can be read line by line."""
    return ("\n" if first else ",\n") + json.dumps(feature, ensure_ascii=False, separators=(",", ":"))


# ----------------------------------------------------------------------------------------------------------------------
# The labels of a store, or of a region of it, as plain pyramids in OME-Zarr and OME-TIFF.

BLOCK = 2048
CLASSIC_TIFF = 2**32 - 2**26
"""Largest size in bytes, before compression, that certainly fits into a classic TIFF; larger ones become BigTIFF."""

Report = Callable[[int, int], None]
Values = npt.NDArray[Any]


def write_zarr(
    store: LabelImage, window: Window, looks: dict[int, ClassLook], folder: Path, name: str, report: Report
) -> None:
    """Write a window of a store as an OME-Zarr 0.5 label pyramid, block by block.

    Coarser levels are made from the level below by the majority rule of `napari_msunet.labels.levels`.

    Parameters
    ----------
    store : Image
        A label store, or the instances of a run.
    window : Window
        A window in the store's level-0 pixels. The pyramid begins at its corner, whose place is in the metadata.
    looks : dict
        Names and colours of the values.
    folder : Path
        The folder to make.
    name : str
        Name of the image in the metadata.
    report : callable
        Called with the number of finished blocks and of all blocks.
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
    store: LabelImage, window: Window, looks: dict[int, ClassLook], file: Path, name: str, report: Report
) -> None:
    """Write a window of a store as a tiled, pyramidal OME-TIFF (SubIFDs, deflate), tile by tile.

    The parameters are those of `write_zarr`. The class names are in a map annotation of the OME-XML.
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


def _ome(store: LabelImage, looks: dict[int, ClassLook], name: str) -> dict[str, Any]:
    """The metadata that tifffile writes into the OME-XML."""
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
    store: LabelImage, window: Window, looks: dict[int, ClassLook], beside: Path
) -> Iterator[tuple[list[tuple[int, int]], Callable[[int, Window], Values]]]:
    """The shapes of the levels, and a function that reads a window of one. A region needs coarser levels of its own."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The export job: the format is chosen by the ending of the output's name.

MAX_PNG = 100_000_000
"""Most pixels of a PNG, which every program holds in memory whole."""


def export_events(job: ExportJob) -> Iterator[Event]:
    """Write labels in another format, in bounded memory (a PNG apart).

    ``.geojson``: an annotation for each object (pixels connected by their sides), as in QuPath, in
    level-0 pixels of the slide; with `job.instances` for each instance of a run, with its class (`objects_of`).
    ``.json``: the same objects as COCO's instances. ``.xml``: the same as ASAP's annotations.
    ``.ome.tif``, ``.ome.tiff``: tiled and pyramidal. ``.ome.zarr``: a plain OME-Zarr 0.5
    pyramid, without journal and runs. ``.png``: class numbers, shown in the classes' colours. Values are those of the
    store: 0 background and classes from 1, or in an annotation 0 not annotated and 255 background.

    Raises
    ------
    OutputError
        If the ending is none of these, a PNG would be too large, or `job.out` cannot be written; nothing is left then.
    StoreError
        If the store cannot be read, has no such instances, the region lies outside of it, or chunks in it are damaged.
        With `job.damaged` "skip" these become shapes of the class "Ignore*", or pixels of the highest value (255; in an
        annotation 0, not annotated), and the result says where they are ("damaged").
    """
    write = _writer(job.out)
    store = open_labels(job.labels)
    window = window_of(store, job.region)
    hole = 0 if store.kind == "annotation" else int(np.iinfo(np.uint8 if job.instances is None else np.uint32).max)
    hole = int(np.iinfo(np.uint32).max) if store.info.instances else hole
    objects = objects_of(store, job.instances, window, job.damaged, 0 if write in OUTLINES else hole)
    if write is _png and objects.image.dtype != np.uint8:
        raise OutputError("A PNG has 256 values, too few for instances; export .ome.tif, .ome.zarr or .geojson.")
    if write is _png and window.height * window.width > MAX_PNG:
        raise OutputError(
            f"A PNG of {window.height} x {window.width} pixels is too large for most programs (at most "
            f"{MAX_PNG // 1_000_000} million): give a smaller region, or export .ome.tif, which is tiled."
        )
    if store.kind == "annotation":
        yield Message(text=f"{store.path.name} is an annotation: 255 is background, and 0 is not annotated.")
    if objects.lost and hole and write not in OUTLINES and objects.image.dtype == np.uint8:
        objects.looks[hole] = ClassLook("damaged", (128, 128, 128))
    yield from (Message(level="warning", text=f"{text} {_filled(write, hole)}") for text in objects.left_out)
    told = partial(_geojson, origin=provenance(store, job, job.instances)) if write is _geojson else write
    with output_aside(job.out) as temporary:
        count = yield from told(store, window, objects, temporary, job.out.name)
    place = {"y": window.y, "x": window.x, "height": window.height, "width": window.width}
    values: dict[str, Any] = place if count is None else place | {"objects": count}
    if objects.lost:
        values["damaged"] = [[w.y, w.x, w.height, w.width] for w in objects.lost_in(window)]
    yield Result(values=values, files={"export": str(job.out)})


def _filled(write: Exporter, hole: int) -> str:
    """A sentence about how the file shows damaged parts."""
    if write in OUTLINES:
        return f'In the file they are shapes of the class "{IGNORED_NAME}".'
    return f"In the file they have the value {hole}." if hole else "In the file they are 0, not annotated."


Exporter = Callable[[LabelStore, Window, Objects, Path, str], Written]


def _writer(path: Path) -> Exporter:
    name = path.name.lower()
    for ending, writer in WRITERS.items():
        if name.endswith(ending) and name != ending:
            return writer
    raise OutputError(f"{path} has none of the endings {', '.join(WRITERS)}; the ending says which format to write.")


def _geojson(
    store: LabelStore, window: Window, objects: Objects, file: Path, name: str, origin: dict[str, Any] | None = None
) -> Written:
    """Write features, one per line, after where they come from; the value is their number."""
    started, count = time.monotonic(), 0
    with file.open("w", encoding="utf8") as stream:
        stream.write(geojson_head(origin or {}))
        for step in walk_polygons(objects.image.read, window):
            for shape in step.shapes:
                look = objects.looks.get(objects.kind(shape.value))
                if look is not None:
                    described = feature(shape, look, store.path.name, store.pixel, store.extent)
                    stream.write(feature_line(described, first=count == 0))
                    count += 1
            yield progress(step.done, step.total, "windows", started)
        for lost in objects.lost_in(window):
            stream.write(feature_line(ignored_feature(lost, store.pixel), first=count == 0))
            count += 1
        stream.write(TAIL)
    return count


def ignored_feature(window: Window, pixel: tuple[float, float]) -> dict[str, Any]:
    """A damaged part as a shape that QuPath leaves out of measurements and of training."""
    (y0, y1), (x0, x1) = (
        (first * side, last * side) for first, last, side in zip((window.y, window.x), window.stop, pixel, strict=True)
    )
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"damaged {window}")),
        "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
        "properties": {"objectType": "annotation", "classification": {"name": IGNORED_NAME}, "name": "damaged"},
    }


def _names(objects: Objects) -> dict[int, ClassLook]:
    """The names and colours of the image's values; numbers of instances have no names."""
    return objects.looks if objects.image.dtype == np.uint8 else {}


def _tiff(store: LabelStore, window: Window, objects: Objects, file: Path, name: str) -> Written:
    def work(report: Report) -> None:
        write_tiff(objects.image, window, _names(objects), file, name, report)

    yield from reported(work, "tiles")
    return None


def _zarr(store: LabelStore, window: Window, objects: Objects, folder: Path, name: str) -> Written:
    def work(report: Report) -> None:
        write_zarr(objects.image, window, _names(objects), folder, name.removesuffix(".ome.zarr"), report)

    yield from reported(work, "blocks")
    return None


def _png(store: LabelStore, window: Window, objects: Objects, file: Path, name: str) -> Written:
    """Write class numbers as indices of a palette: programs show the colours, and code can read the numbers."""
    started = time.monotonic()
    palette = np.zeros((256, 3), np.uint8)
    for value, look in objects.looks.items():
        palette[value] = look.colour
    image = Image.fromarray(np.asarray(objects.image.read(window), np.uint8), mode="P")
    image.putpalette(palette.tobytes())
    info = PngInfo()
    info.add_itxt("classes", ", ".join(f"{value} {look.name}" for value, look in objects.looks.items()))
    image.save(file, format="png", pnginfo=info)
    yield progress(1, 1, "images", started)
    return None


OUTLINES: tuple[Exporter, ...] = (_geojson, write_coco, write_asap)
"""Those that write a shape for each object."""

WRITERS: dict[str, Exporter] = {
    ".geojson": _geojson,
    ".json": write_coco,
    ".xml": write_asap,
    ".ome.tif": _tiff,
    ".ome.tiff": _tiff,
    ".ome.zarr": _zarr,
    ".png": _png,
}

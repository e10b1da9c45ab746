"""The export job: labels in formats that other programs read."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_msunet.annotation.geojson import HEAD, TAIL, feature, feature_line
from napari_msunet.annotation.instances import Objects, objects_of
from napari_msunet.annotation.output import ClassLook, aside, window_of
from napari_msunet.annotation.polygons import walk_polygons
from napari_msunet.annotation.pyramids import Report, write_tiff, write_zarr
from napari_msunet.config import ExportJob
from napari_msunet.errors import OutputError
from napari_msunet.events import Event, Message, Progress, Result, progress, reported
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels

MAX_PNG = 100_000_000
"""Most pixels of a PNG, which is held in memory whole by all who read it."""


def export_events(job: ExportJob) -> Iterator[Event]:
    """Write labels in another format, in bounded memory (a PNG apart).

    ``.geojson``: an annotation for each object (what hangs together through pixel sides), as QuPath has them, in
    level-0 pixels of the slide; with `job.instances` for each instance of a run, with its class (`objects_of`).
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
    objects = objects_of(store, job.instances, window, job.damaged, 0 if write is _geojson else hole)
    if write is _png and objects.image.dtype != np.uint8:
        raise OutputError("A PNG has 256 values, too few for instances; export .ome.tif, .ome.zarr or .geojson.")
    if write is _png and window.height * window.width > MAX_PNG:
        raise OutputError(
            f"A PNG of {window.height} x {window.width} pixels is too large for most programs (at most "
            f"{MAX_PNG // 1_000_000} million): give a smaller region, or export .ome.tif, which is tiled."
        )
    if store.kind == "annotation":
        yield Message(text=f"{store.path.name} is an annotation: 255 is background, and 0 is not annotated.")
    if objects.lost and hole and write is not _geojson and objects.image.dtype == np.uint8:
        objects.looks[hole] = ClassLook("damaged", (128, 128, 128))
    yield from (Message(level="warning", text=f"{text} {_filled(write, hole)}") for text in objects.left_out)
    with aside(job.out) as temporary:
        count = yield from write(store, window, objects, temporary, job.out.name)
    place = {"y": window.y, "x": window.x, "height": window.height, "width": window.width}
    values: dict[str, Any] = place if count is None else place | {"objects": count}
    if objects.lost:
        values["damaged"] = [[w.y, w.x, w.height, w.width] for w in objects.lost_in(window)]
    yield Result(values=values, files={"export": str(job.out)})


def _filled(write: Writer, hole: int) -> str:
    """How the file shows what is damaged."""
    if write is _geojson:
        return 'In the file they are shapes of the class "Ignore*".'
    return f"In the file they have the value {hole}." if hole else "In the file they are 0, not annotated."


Written = Generator[Progress, None, int | None]
Writer = Callable[[LabelStore, Window, Objects, Path, str], Written]


def _writer(path: Path) -> Writer:
    name = path.name.lower()
    for ending, writer in WRITERS.items():
        if name.endswith(ending) and name != ending:
            return writer
    raise OutputError(f"{path} has none of the endings {', '.join(WRITERS)}; the ending says which format to write.")


def _geojson(store: LabelStore, window: Window, objects: Objects, file: Path, name: str) -> Written:
    """Features, one a line; the value is their number."""
    started, count = time.monotonic(), 0
    with file.open("w", encoding="utf8") as stream:
        stream.write(HEAD)
        for step in walk_polygons(objects.image.read, window):
            for shape in step.shapes:
                look = objects.looks.get(objects.kind(shape.value))
                if look is not None:
                    described = feature(shape, look, store.path.name, store.pixel, store.extent)
                    stream.write(feature_line(described, first=count == 0))
                    count += 1
            yield progress(step.done, step.total, "windows", started)
        for lost in objects.lost_in(window):
            stream.write(feature_line(_ignored(lost, store.pixel), first=count == 0))
            count += 1
        stream.write(TAIL)
    return count


def _ignored(window: Window, pixel: tuple[float, float]) -> dict[str, Any]:
    """A damaged part as a shape that QuPath leaves out of measurements and of training."""
    (y0, y1), (x0, x1) = (
        (first * side, last * side) for first, last, side in zip((window.y, window.x), window.stop, pixel, strict=True)
    )
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"damaged {window}")),
        "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
        "properties": {"objectType": "annotation", "classification": {"name": "Ignore*"}, "name": "damaged"},
    }


def _names(objects: Objects) -> dict[int, ClassLook]:
    """What the image's values mean; numbers of instances have no names."""
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
    """Class numbers as the indices of a palette: programs show the colours, and readers of indices get the numbers."""
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


WRITERS: dict[str, Writer] = {
    ".geojson": _geojson,
    ".ome.tif": _tiff,
    ".ome.tiff": _tiff,
    ".ome.zarr": _zarr,
    ".png": _png,
}

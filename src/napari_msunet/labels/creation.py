"""Making the files of a new label store."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from napari_msunet.errors import OutputError, SlideError, StoreError
from napari_msunet.geometry import Resolution, snap_ceil
from napari_msunet.labels.checkpoint import save_checkpoint
from napari_msunet.labels.chunks import create_array
from napari_msunet.labels.files import folder_aside, output_errors
from napari_msunet.labels.lock import WriterLock
from napari_msunet.labels.merge import MergeLog
from napari_msunet.labels.metadata import (
    KEY,
    StoreInfo,
    default_colours,
    explained,
    load_info,
    parse_colours,
    save_attributes,
    save_info,
)
from napari_msunet.labels.segments import Mark
from napari_msunet.names import printable
from napari_msunet.slide import Slide
from napari_msunet.slide.units import given_mpp


def create_store(
    path: Path,
    shape: tuple[int, int] | None,
    mpp: float | tuple[float, float] | str | Resolution | None,
    classes: tuple[str, ...],
    kind: str,
    slide: Slide | None,
    *,
    dtype: str = "uint8",
    colours: Any = None,
    overwrite: bool = False,
) -> None:
    """Make an empty store aside and give it its name when it is whole; see `LabelStore.create`."""
    info = _describe(path, shape, mpp, classes, kind, slide, dtype, colours)
    if os.path.lexists(path):
        if not overwrite:
            raise OutputError(f"{path} exists already; choose another name, or overwrite it.")
        _check_replaceable(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        with folder_aside(path) as aside:
            _fill(aside, info)
            if path.exists():
                os.replace(path, old)
        shutil.rmtree(old, ignore_errors=True)


def _describe(
    path: Path, shape: Any, mpp: Any, classes: tuple[str, ...], kind: str, slide: Slide | None, dtype: str, colours: Any
) -> StoreInfo:
    if kind not in ("labels", "annotation"):
        raise StoreError(f'The kind {kind!r} is not known; "labels" and "annotation" are.')
    if dtype not in ("uint8", "uint32"):
        raise StoreError(f'Labels of type {dtype!r} cannot be stored; "uint8" (classes) and "uint32" (objects) can.')
    size = _resolution(mpp)
    place: dict[str, Any]
    if slide is not None:
        grid = slide.grid(size)
        if shape is not None and tuple(shape) != grid.shape:
            raise StoreError(f"The shape {tuple(shape)} is not the slide's {grid.shape} at this mpp; leave it away.")
        name = None if slide.path is None else printable(slide.path.name)
        place = {"shape": grid.shape, "mpp": grid.mpp, "pixel": grid.pixel, "extent": grid.extent, "slide": name}
        place["fingerprint"] = slide.fingerprint
    elif shape is None or np.shape(shape) != (2,):
        raise StoreError("A label store needs a shape (height, width), or the slide it belongs to.")
    elif isinstance(size, Resolution):
        pixel = (size.size, size.size)
        extent = tuple(max(1, snap_ceil(n * size.size)) for n in shape)
        place = {"shape": tuple(map(int, shape)), "mpp": None, "pixel": pixel, "extent": extent}
    else:
        place = {"shape": tuple(map(int, shape)), "mpp": size, "extent": tuple(map(int, shape))}
    tints = default_colours(len(classes)) if colours is None else parse_colours(colours, len(classes))
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    values = {"kind": kind, "dtype": dtype, "classes": classes, "colours": tints, "name": name, **place}
    try:
        return StoreInfo.model_validate(values)
    except ValidationError as error:
        raise StoreError(explained(error, "This label store")) from error


def _resolution(mpp: Any) -> tuple[float, float] | Resolution | None:
    """What is given as the size of a pixel: µm `(y, x)`, pixels of the image, or nothing."""
    if isinstance(mpp, Resolution):
        return mpp if mpp.mpp is None else (mpp.mpp, mpp.mpp)
    try:
        size = given_mpp(mpp)
    except SlideError as error:
        raise StoreError(str(error)) from error
    return Resolution(1.0, "px") if isinstance(size, str) else size


def _check_replaceable(path: Path) -> None:
    """Only a label store that nobody writes into may be replaced; never a folder that holds something else."""
    try:
        load_info(path)
    except StoreError as error:
        raise OutputError(f"{path} is no label store, so it is not overwritten; choose another name.") from error
    lock = WriterLock(path, f"The label store {path}")
    lock.acquire()
    lock.release()


def _fill(folder: Path, info: StoreInfo) -> None:
    save_info(folder, info)
    for level, shape in enumerate(info.shapes):
        create_array(folder / str(level), shape, info.dtype, ("y", "x"))
    (folder / "edited").mkdir()
    save_attributes(folder / "edited", {KEY: {"is": "pixels that a person changed"}})
    for level, shape in enumerate(info.shapes):
        create_array(folder / "edited" / str(level), shape, "bool", ("y", "x"))
    for name in ("journal", "runs"):
        (folder / name).mkdir()
    save_checkpoint(folder, Mark(0, 1, 0), MergeLog(), 0 if info.instances else None, {"labels": (), "edited": ()})

"""Opening: which reader a file belongs to is decided by its content, not by its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import openslide

from napari_msunet.config.base import Kind, ValueRange
from napari_msunet.errors import SlideError, as_path
from napari_msunet.names import true_path
from napari_msunet.slide.array_backend import ArrayBackend
from napari_msunet.slide.backend import Backend
from napari_msunet.slide.foreign import START, check_foreign
from napari_msunet.slide.identity import METADATA, path_identity
from napari_msunet.slide.numbers import checked_kind, checked_range
from napari_msunet.slide.openslide_backend import TIFF_STARTS, OpenSlideBackend
from napari_msunet.slide.raster_backend import RasterBackend
from napari_msunet.slide.slide import Slide
from napari_msunet.slide.tiff_backend import TiffBackend
from napari_msunet.slide.units import given_mpp
from napari_msunet.slide.zarr_backend import ZarrBackend

KINDS = "a whole-slide file that OpenSlide reads (SVS, NDPI, MRXS, ...), TIFF, OME-TIFF, OME-Zarr, PNG or JPEG"
SLIDES = (
    *(".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu"),
    *(".tif", ".tiff", ".btf", ".qptiff"),
)
"""Endings of files that are usually slides: what folders and file dialogs offer, and napari.yaml lists."""

READABLE = (*SLIDES, ".png", ".jpg", ".jpeg", ".bmp")
"""Endings of all image files that are looked for in folders."""

DOUBLE = (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr")
"""Endings that are more than what follows the last dot."""

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
        A whole-slide file that OpenSlide reads (not DICOM yet), a TIFF or OME-TIFF file, an OME-Zarr folder (0.4 or
        0.5, also as bioformats2raw writes it), a PNG or a JPEG.
    mpp : float, (y, x) or "px", optional
        µm per level-0 pixel, where the file does not say it or says it wrongly; any above zero is taken. "px": what the
        file says does not count, the image is used in its own pixels (by models with ``mpp=None``). None: what the file
        says, if it can be believed (0.01 to 20).
    kind : "brightfield" or "fluorescence", optional
        Where the file does not say it, and a guess from the pixels would be wrong.
    value_range : (low, high), optional
        The values that are black and white, such as (0, 4095) for 12 bits in 16, where the file does not say it.

    Returns
    -------
    Slide

    Raises
    ------
    SlideError
        If there is no such file, it is no image, it is damaged, `mpp` is not above zero, or `kind` or `value_range` is
        none.
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
        Colour outside; without it white for bright-field, 0 for fluorescence.
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
        raise SlideError(f"{path} cannot be opened ({error.strerror}); check its permissions.") from error
    except openslide.OpenSlideError:
        vendor = None
    if vendor in (None, "generic-tiff", "dicom"):
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

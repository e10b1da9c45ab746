"""The reader of DICOM whole slides that OpenSlide refuses, by pydicom (extra `dicom`)."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import imagecodecs
import numpy as np

from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import RGB, Backend, Level, Pixels, SlideInfo, chunk_size, level_downsample
from napari_msunet.slide.foreign import not_supported

MISSING = (
    "{} is a DICOM slide that OpenSlide refuses; pydicom reads more of them: pip install 'napari-msunet[dicom]', or "
    "convert it to OME-TIFF."
)
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy (DICOM PS3.4)."""
_NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
_JPEG = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
_JPEG_2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
_JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
_MOST_TILES = 20_000_000
_LARGEST_TILE = 8192


@dataclass(frozen=True)
class _Instance:
    """One file of a series: a level of the pyramid."""

    path: Path
    syntax: str
    shape: tuple[int, int]
    tile: tuple[int, int]
    channels: int
    photometric: str
    frames: dict[tuple[int, int], tuple[int, int]]
    """Offset and length in the file of the tile at a row and column."""


class DicomBackend(Backend):
    """A DICOM slide: the instances of one series beside each other are its levels."""

    def __init__(self, path: Path) -> None:
        try:
            import pydicom
        except ImportError as error:
            raise SlideError(MISSING.format(path)) from error
        self._path, self._lock = path, Lock()
        self._files: dict[Path, Any] = {}
        first = _header(pydicom, path)
        if first.get("SOPClassUID") != SLIDE:
            raise SlideError(f"{path} is a DICOM file without a slide in it; give one of a slide.")
        found = [(_instance(where, header), header) for where, header in _series(pydicom, path, first)]
        headers = sorted(found, key=lambda one: -one[0].shape[1])
        self._instances = [one for one, _ in headers]
        top = self._instances[0]
        if any(one.channels != top.channels for one in self._instances):
            raise not_supported(path, "levels of different colours")
        levels = tuple(Level(one.shape, level_downsample(top.shape, one.shape), _chunk(one)) for one in self._instances)
        planes = int(headers[0][1].get("TotalPixelMatrixFocalPlanes") or 1)
        notes = ("Of several focal planes, the first is read.",) if planes > 1 else ()
        self.planes = planes
        self.info = SlideInfo(
            levels,
            np.dtype(np.uint8),
            RGB if top.channels == 3 else ("gray",),
            _mpp(headers[0][1]),
            None,
            _properties(headers[0][1]),
            notes=notes,
        )

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        y, x, height, width = self.chunk_box(level, cy, cx)
        one = self._instances[level]
        out = np.full((height, width, one.channels), 255, np.uint8)
        rows, columns = one.tile
        for row in range(y // rows, -(-(y + height) // rows)):
            for column in range(x // columns, -(-(x + width) // columns)):
                place = one.frames.get((row, column))
                if place is None:
                    continue  # a sparse slide: glass that was not scanned
                tile = self._decoded(one, *place)
                top, left = row * rows - y, column * columns - x
                part = out[max(0, top) : top + rows, max(0, left) : left + columns]
                y0, x0 = max(0, -top), max(0, -left)
                part[:] = tile[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
        return out

    def _decoded(self, one: _Instance, offset: int, length: int) -> Pixels:
        try:
            with self._lock:
                file = self._files.get(one.path)
                if file is None:
                    file = self._files[one.path] = one.path.open("rb")
                file.seek(offset)
                data = file.read(length)
            tile = _decode(one, data)
        except (OSError, ValueError, RuntimeError) as error:
            raise SlideError(
                f"{one.path} cannot be read, the file is damaged or cut short ({type(error).__name__}); copy it from "
                "its source again."
            ) from error
        if tile.shape != (*one.tile, one.channels):
            raise SlideError(f"{one.path} is damaged: a tile has another size than the file says; copy it again.")
        return tile

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def _header(pydicom: Any, path: Path) -> Any:
    """The attributes of a file without its pixels."""
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            raise SlideError(
                f"{path} is a DICOM slide without the preamble that files have (it was sent, not saved); export it as "
                "a file, or convert it to OME-TIFF."
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns about values that are longer than the standard allows
            return pydicom.dcmread(path, stop_before_pixels=True, force=False)
    except Exception as error:  # pydicom raises many classes of errors on damaged files
        reason = " ".join(str(error).split())[:100].rstrip(".")
        raise SlideError(
            f"{path} cannot be read as DICOM, the file is damaged or cut short ({reason}); copy it from its source "
            "again."
        ) from error


def _series(pydicom: Any, path: Path, first: Any) -> Iterator[tuple[Path, Any]]:
    """The files beside it that are levels of the same slide."""
    if _is_level(first):
        yield path, first
    seen = {str(first.get("SOPInstanceUID"))}
    for other in sorted(path.parent.iterdir()):
        if other == path or not other.is_file() or other.suffix.lower() not in ("", ".dcm", ".dicom"):
            continue
        with other.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                continue
        header = _header(pydicom, other)
        same = all(header.get(name) == first.get(name) for name in ("SeriesInstanceUID", "SOPClassUID"))
        number = str(header.get("SOPInstanceUID"))
        if same and _is_level(header) and number not in seen:
            seen.add(number)
            yield other, header
    if not _is_level(first):
        raise SlideError(f"{path} is the label or the overview of a DICOM slide; give a file of its levels.")


def _is_level(header: Any) -> bool:
    """Whether a file is a level, not a label, an overview or a thumbnail."""
    kind = [str(word).upper() for word in header.get("ImageType") or ()]
    return "VOLUME" in kind or not {"LABEL", "OVERVIEW", "LOCALIZER"} & set(kind)


def _instance(path: Path, header: Any) -> _Instance:
    try:
        shape = int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
        tile = int(header.Rows), int(header.Columns)
        channels = int(header.get("SamplesPerPixel", 1))
        bits, count = int(header.BitsAllocated), int(header.get("NumberOfFrames") or 1)
        syntax = str(header.file_meta.TransferSyntaxUID)
    except (AttributeError, TypeError, ValueError) as error:
        raise SlideError(
            f"{path} is a DICOM slide that does not say the size or the coding of its tiles (it may be cut short); "
            "export it again, or convert it to OME-TIFF."
        ) from error
    if bits != 8 or channels not in (1, 3):
        raise not_supported(path, f"{channels} samples of {bits} bits a pixel")
    if header.get("ConcatenationUID"):
        raise not_supported(path, "one level in several files", "convert it to OME-TIFF")
    if syntax not in _NATIVE | _JPEG | _JPEG_2000 | _JPEG_LS:
        raise not_supported(path, f"tiles of the transfer syntax {syntax}", "convert it to OME-TIFF")
    rows, columns = (-(-n // side) if side > 0 else 0 for n, side in zip(shape, tile, strict=True))
    if not 0 < rows * columns <= _MOST_TILES or not 0 < count <= _MOST_TILES or max(tile) > _LARGEST_TILE:
        raise SlideError(f"{path} is damaged: {rows} x {columns} tiles of {tile} pixels make no slide; copy it again.")
    places = _places(header, tile, (rows, columns), count)
    offsets = _offsets(path, syntax, count, tile[0] * tile[1] * channels)
    if len(offsets) < min(count, len(places)):
        raise SlideError(
            f"{path} is cut short: {len(offsets)} of {count} tiles are in it; copy it from its source again."
        )
    frames = {place: at for place, at in zip(places, offsets, strict=False) if place is not None}
    return _Instance(path, syntax, shape, tile, channels, str(header.get("PhotometricInterpretation")), frames)


def _places(header: Any, tile: tuple[int, int], grid: tuple[int, int], count: int) -> list[tuple[int, int] | None]:
    """The row and column of each frame of the first focal plane; None for other planes."""
    own = header.get("PerFrameFunctionalGroupsSequence") or ()
    if header.get("DimensionOrganizationType") == "TILED_SPARSE" and own:
        found: list[tuple[int, int] | None] = []
        taken: set[tuple[int, int]] = set()
        for frame in own:
            position = frame.PlanePositionSlideSequence[0]
            y = (int(position.RowPositionInTotalImagePixelMatrix) - 1) // tile[0]
            x = (int(position.ColumnPositionInTotalImagePixelMatrix) - 1) // tile[1]
            found.append(None if (y, x) in taken else (y, x))
            taken.add((y, x))
        return found
    whole = grid[0] * grid[1]
    return [divmod(n, grid[1]) for n in range(min(count, whole))]


def _offsets(path: Path, syntax: str, count: int, size: int) -> list[tuple[int, int]]:
    """Offset and length of each frame in the file."""
    with path.open("rb") as file:
        start = _pixel_data(file, path)
        if syntax in _NATIVE:
            end = file.seek(0, 2)
            return [(start + n * size, size) for n in range(count) if start + (n + 1) * size <= end]
        file.seek(start)
        items = []
        while len(head := file.read(8)) == 8:
            group, element, length = struct.unpack("<HHI", head)
            if (group, element) != (0xFFFE, 0xE000):
                break
            items.append((file.tell(), length))
            file.seek(length, 1)
        end = file.seek(0, 2)
    items = [(at, length) for at, length in items if at + length <= end]
    if not items:
        raise SlideError(f"{path} is cut short: it has no tiles; copy it from its source again.")
    table, fragments = items[0], items[1:]
    if len(fragments) == count or (not table[1] and len(fragments) > count):
        return fragments[:count]
    if len(fragments) < count:
        raise SlideError(
            f"{path} is cut short: {len(fragments)} of {count} tiles are in it; copy it from its source again."
        )
    raise not_supported(path, "tiles in several fragments", "convert it to OME-TIFF")


def _pixel_data(file: Any, path: Path) -> int:
    """Where the value of the pixel data begins."""
    import pydicom
    from pydicom.filereader import read_partial

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_partial(file, stop_when=lambda tag, vr, length: tag == 0x7FE00010)
    except Exception as error:  # as in `_header`
        raise SlideError(
            f"{path} cannot be read as DICOM, the file is damaged; copy it from its source again."
        ) from error
    explicit = str(header.file_meta.TransferSyntaxUID) != str(pydicom.uid.ImplicitVRLittleEndian)
    at = file.tell()
    head = file.read(12)
    if len(head) < 12 or struct.unpack("<HH", head[:4]) != (0x7FE0, 0x0010):
        raise SlideError(f"{path} is cut short: it has no pixels; copy it from its source again.")
    return int(at + (12 if explicit else 8))


def _decode(one: _Instance, data: bytes) -> Pixels:
    """The pixels `(h, w, c)` of a tile."""
    if one.syntax in _NATIVE:
        found = np.frombuffer(data, np.uint8).reshape(*one.tile, one.channels)
    elif one.syntax in _JPEG:
        space = _stored_space(data, one) if one.channels == 3 else None
        found = imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace="RGB" if space else None)
    elif one.syntax in _JPEG_2000:
        found = imagecodecs.jpeg2k_decode(data)
    else:
        found = imagecodecs.jpegls_decode(data)
    array = np.asarray(found, np.uint8)
    return array if array.ndim == 3 else array[..., None]


def _stored_space(data: bytes, one: _Instance) -> str:
    """The colour space in a JPEG: as its own markers say, else as the file says."""
    start = data[:4096]
    adobe = re.search(rb"\xff\xee..Adobe.{5}(.)", start, re.DOTALL)
    if adobe is not None:
        return "RGB" if adobe[1] == b"\0" else "YCBCR"
    if b"JFIF\0" in start:
        return "YCBCR"
    return "RGB" if one.photometric == "RGB" else "YCBCR"


def _chunk(one: _Instance) -> tuple[int, int]:
    return chunk_size(one.tile, one.shape, one.channels)


def _mpp(header: Any) -> tuple[float, float] | None:
    """µm per pixel by the pixel spacing, which is `y, x` in mm."""
    try:
        shared = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        y, x = (float(v) * 1000 for v in shared.PixelSpacing)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    return y, x


def _properties(header: Any) -> dict[str, str]:
    """The plain values of the header; those about the patient are left out."""
    found = {}
    for element in header:
        if element.tag.group != 0x0010 and element.VR not in ("SQ", "OB", "OW", "UN") and element.keyword:
            found[f"dicom.{element.keyword}"] = str(element.value)[:200]
    return found

"""Recognising a slide: a hash of its file, and a fingerprint of some pixels; both are quick for files of many GB."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet._io import input_error
from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.geometry import Region
from napari_msunet.slide.backend import Pixels

SAMPLE = 1 << 20
CHUNK_SAMPLES = 16
PLACES = 6
"""Rows and columns of the places whose mean colour a fingerprint keeps."""
PATCH = 4
"""Side of such a place in level-0 pixels."""
TOLERANCE = 0.05
"""Largest difference, as a share of the range of values, between two compressions of the same pixels."""
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")


def path_identity(path: Path) -> str:
    """Hash of a file, or of a folder (OME-Zarr): the same for a copy and for a file that was moved or renamed."""
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            _add_folder(digest, path)
        else:
            _add_file(digest, path)
            companion = path.with_suffix("")
            if path.suffix.lower() in (".mrxs", ".vms", ".vmu") and companion.is_dir():
                _add_folder(digest, companion)
    except OSError as error:
        raise input_error(path, error, "check that the file is there", SlideError) from error
    return digest.hexdigest()


def array_identity(array: Pixels) -> str:
    """Hash of an array's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    """Add the size, and the first, middle and last MiB, of a file."""
    size = path.stat().st_size
    digest.update(f"file {size}".encode())
    with path.open("rb") as file:
        for start in sorted({0, max(0, size // 2 - SAMPLE // 2), max(0, size - SAMPLE)}):
            file.seek(start)
            digest.update(file.read(SAMPLE))


def _add_folder(digest: hashlib._Hash, folder: Path) -> None:
    """Add the names and sizes of all files, the whole metadata, and a sample of the chunks."""
    files = sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    for name, file in files:
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        if file.name in METADATA:
            digest.update(file.read_bytes())
    chunks = [p for _, p in files if p.name not in METADATA]
    for index in sorted({len(chunks) * i // CHUNK_SAMPLES for i in range(CHUNK_SAMPLES)} if chunks else ()):
        _add_file(digest, chunks[index])


def fingerprint(read: Callable[[Region], Any], shape: tuple[int, int, int], dtype: np.dtype[Any]) -> str:
    """Mean colours of level-0 pixels at places all over a slide, as text, which does not depend on the file format.

    Places that cannot be read are left out of comparisons.
    """
    height, width, channels = shape
    size = (min(PATCH, height), min(PATCH, width))
    colours = np.full((PLACES, PLACES, channels), np.nan, np.float32)
    for row in range(PLACES):
        for column in range(PLACES):
            y, x = (
                int((2 * k + 1) * (n - s) / (2 * PLACES)) for k, n, s in zip((row, column), shape, size, strict=False)
            )
            try:
                patch = np.asarray(read(Region(y, x, *size)), np.float64)
            except (MsunetError, OSError):
                continue
            colours[row, column] = patch.mean((0, 1))
    return f"{dtype.name} {channels} {base64.b64encode(colours.tobytes()).decode()}"


def short_hash(text: str) -> str:
    """A hash of some text, short enough to keep many of."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def same_pixels(one: str, other: str) -> bool:
    """Whether two fingerprints can be of one slide; True where they cannot be compared."""
    first, second = _colours(one), _colours(other)
    if first is None or second is None or first[1].shape != second[1].shape:
        return True
    (kind, a), (_, b) = first, second
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return True
    a, b = a[known], b[known]
    span = 255.0 if kind == "uint8" else float(max(a.max(), b.max()) - min(a.min(), b.min()))
    return bool(np.abs(a - b).max() <= TOLERANCE * span)


def _colours(text: str) -> tuple[str, Any] | None:
    try:
        kind, channels, values = text.split()
        return kind, np.frombuffer(base64.b64decode(values), np.float32).reshape(-1, int(channels))
    except ValueError:
        return None

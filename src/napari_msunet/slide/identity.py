"""A hash of a slide's content that is cheap for files of many gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import Pixels

SAMPLE = 1 << 20
CHUNK_SAMPLES = 16
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
        raise SlideError(f"{path} cannot be read ({error.strerror}); check that the file is there.") from error
    return digest.hexdigest()


def array_identity(array: Pixels) -> str:
    """Hash of an array's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    """Size, and the first, middle and last MiB."""
    size = path.stat().st_size
    digest.update(f"file {size}".encode())
    with path.open("rb") as file:
        for start in sorted({0, max(0, size // 2 - SAMPLE // 2), max(0, size - SAMPLE)}):
            file.seek(start)
            digest.update(file.read(SAMPLE))


def _add_folder(digest: hashlib._Hash, folder: Path) -> None:
    """Names and sizes of all files, the metadata whole, and a sample of the chunks."""
    files = sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    for name, file in files:
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        if file.name in METADATA:
            digest.update(file.read_bytes())
    chunks = [p for _, p in files if p.name not in METADATA]
    for index in sorted({len(chunks) * i // CHUNK_SAMPLES for i in range(CHUNK_SAMPLES)} if chunks else ()):
        _add_file(digest, chunks[index])

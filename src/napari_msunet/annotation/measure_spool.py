"""Objects that were measured and wait on disk until all are known, since neighbours need them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely


@dataclass(frozen=True)
class MeasuredBatch:
    """Some objects, in the order in which they were found.

    Attributes
    ----------
    kind : (n,) integers
        The class of each.
    first : (n, 2)
        First point ``x, y`` of its outline, in pixels of the store.
    numbers : (n, m)
        Its numbers; the first is its area.
    names : tuple of str
        What they are.
    centre : (n, 2)
        Centroid `y, x` in µm (pixels of the slide where these are not known).
    grade : (n,) integers
        How positive it is, 0 to 3.
    polygons : (n,) of shapely.Polygon
        Its outline in pixels of the store; empty in those that come back from disk without outlines.
    outlines : bool
        Whether outlines are kept.
    """

    kind: npt.NDArray[np.int64]
    first: npt.NDArray[np.float64]
    numbers: npt.NDArray[np.float64]
    names: tuple[str, ...]
    centre: npt.NDArray[np.float64]
    grade: npt.NDArray[np.int64]
    polygons: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, object))
    outlines: bool = False


class Spool(AbstractContextManager["Spool"]):
    """Batches in a temporary file, read again in their order; the file is removed at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b")
        self._count, self._outlines = 0, False
        self._names: tuple[str, ...] = ()

    def add(self, batch: MeasuredBatch) -> None:
        """Keep a batch."""
        for values in (batch.kind, batch.first, batch.numbers, batch.grade):
            np.save(self._file, values, allow_pickle=False)
        if batch.outlines:
            texts = shapely.to_wkb(batch.polygons)
            np.save(self._file, np.array([len(text) for text in texts], np.int64), allow_pickle=False)
            np.save(self._file, np.frombuffer(b"".join(texts), np.uint8), allow_pickle=False)
        self._count += 1
        self._names, self._outlines = batch.names, batch.outlines

    def __iter__(self) -> Iterator[MeasuredBatch]:
        self._file.seek(0)
        for _ in range(self._count):
            kind, first, numbers, grade = (np.load(self._file, allow_pickle=False) for _ in range(4))
            polygons = np.zeros(0, object)
            if self._outlines:
                lengths, data = (np.load(self._file, allow_pickle=False) for _ in range(2))
                stops = np.cumsum(lengths)
                raw = data.tobytes()
                texts = [raw[a:b] for a, b in zip(stops - lengths, stops, strict=True)]
                polygons = shapely.from_wkb(np.array(texts, object))
            yield MeasuredBatch(kind, first, numbers, self._names, np.zeros((0, 2)), grade, polygons, self._outlines)

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

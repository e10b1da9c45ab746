"""Objects of a label store as columns of numbers: what tables, histograms and the review queue work on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ObjectTable:
    """Measures of `n` objects.

    Attributes
    ----------
    kind : (n,) integers
        The value in the labels: the class, or the number of the object in a store of instances.
    area : (n,)
        µm² (pixels where the store does not know its µm per pixel).
    perimeter : (n,)
        µm, holes' outlines included.
    centroid : (n, 2)
        `y, x` in level-0 pixels of the store.
    box : (n, 4)
        First `y`, first `x`, height and width, in the same pixels.
    first : (n, 2) integers
        The topmost and then leftmost pixel: no two objects share it, so it names the object.
    """

    kind: npt.NDArray[Any]
    area: Numbers
    perimeter: Numbers
    centroid: Numbers
    box: Numbers
    first: npt.NDArray[np.int64]

    @classmethod
    def empty(cls) -> Self:
        """A table of no objects."""
        none = np.zeros(0)
        return cls(np.zeros(0, np.int64), none, none, np.zeros((0, 2)), np.zeros((0, 4)), np.zeros((0, 2), np.int64))

    def __len__(self) -> int:
        return len(self.area)

    @property
    def roundness(self) -> Numbers:
        """4 pi area / perimeter squared: 1 for a disc, less for everything else; at most 1."""
        found: Numbers = np.minimum(4 * np.pi * self.area / np.maximum(self.perimeter, 1e-12) ** 2, 1.0)
        return found

    def take(self, rows: npt.ArrayLike) -> Self:
        """Some of the objects, by index or mask."""
        chosen = np.asarray(rows)
        return type(self)(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Iterable[ObjectTable]) -> Self:
        """The objects of several tables, one after the other."""
        tables = [part for part in parts if len(part)]
        if not tables:
            return cls.empty()
        return cls(**{f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)})

    def at(self, first: tuple[int, int]) -> int | None:
        """The row of the object that this pixel names; None if there is none."""
        found = np.flatnonzero((self.first == np.asarray(first)).all(1))
        return int(found[0]) if len(found) else None

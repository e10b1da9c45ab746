"""Where the classes are in all images, found in their overviews: no slide is read whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from napari_msunet.data.items import Item
from napari_msunet.data.masks import IGNORED

_TOTAL = 2**22
_LEAST, _MOST = 64, 4096  # places of a class in an image


class ClassPlaces:
    """A sample of the places of each class in each image, evenly spread; it takes at most about 32 MB for each class.

    Parameters
    ----------
    items : sequence of Item
    """

    def __init__(self, items: Sequence[Item]) -> None:
        most = min(_MOST, max(_LEAST, _TOTAL // max(1, len(items))))
        self._found = [_sample(item, most) for item in items]

    def draw(self, numbers: Sequence[int], rng: np.random.Generator) -> tuple[int, npt.NDArray[np.float64]] | None:
        """A class drawn among those of some items (background is one), an item that has it, and a place there.

        Returns
        -------
        tuple of int and (2,) array, or None
            The item's number, and `y, x` in level-0 pixels; None where nothing is known of these items.
        """
        classes = sorted({value for n in numbers for value in self._found[n]})
        if not classes:
            return None
        value = classes[rng.integers(len(classes))]
        having = [n for n in numbers if value in self._found[n]]
        number = having[rng.integers(len(having))]
        places = self._found[number][value]
        return number, places[rng.integers(len(places))].astype(np.float64)


def _sample(item: Item, most: int) -> dict[int, npt.NDArray[np.float32]]:
    """At most so many places of each truth in an image, in level-0 pixels."""
    values, grid = item.truth.overview()
    places = {}
    for value in np.unique(values[values != IGNORED]).tolist():
        at = np.flatnonzero(values == value)
        at = at[:: -(-at.size // most)]
        y, x = np.unravel_index(at, values.shape)
        places[value] = ((np.stack([y, x], 1) + 0.5) * np.asarray(grid.pixel)).astype(np.float32)
    item.forget_mask()
    return places

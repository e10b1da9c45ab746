"""The model's answer taken into a truth: one stroke, where a person asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.annotated import IGNORED
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.metadata import ANNOTATED_BACKGROUND
from napari_msunet.labels.shapes import LARGEST_SHAPE, Polygon
from napari_msunet.labels.truth import kept, regions
from napari_msunet.labels.truth.compare import Bytes, Pair
from napari_msunet.labels.truth.suspects import EDGE, TILE, TruthPlace, edge_radius

Bools = npt.NDArray[np.bool_]


def place_mask(pair: Pair, place: TruthPlace, edge: float = EDGE) -> Bools:
    """The pixels of a place as the truth is now, within its window.

    Parameters
    ----------
    pair : Pair
    place : TruthPlace
        Of the same pair.
    edge : float
        As it was found with.

    Returns
    -------
    (h, w) bool
        Empty where the truth was changed since.
    """
    window = place.window
    found = regions.padded_codes(pair, window, edge_radius(pair, edge))
    if found is None:
        return np.zeros(window.shape, np.bool_)
    names = ("background", *pair.classes)
    code = names.index(place.truth) * len(names) + names.index(place.model) + 1
    parts = regions.connected(found[0] == code)
    part = parts[place.first[0] - window.y, place.first[1] - window.x]
    mask: Bools = (parts == part) & (part > 0)
    return mask


def take_answer(pair: Pair, where: TruthPlace | npt.ArrayLike, edge: float = EDGE) -> int:
    """Write the model's answer into the truth, as one stroke, which `undo` takes back.

    Only pixels of known truth that differ from the answer are changed. In an annotation background becomes 255.

    Parameters
    ----------
    pair : Pair
    where : TruthPlace, or (n, 2) array
        A place that a review found, or the corners `y, x` of a polygon in level-0 pixels of the truth.
    edge : float
        As the place was found with.

    Returns
    -------
    int
        Number of the stroke; 0 if nothing differs.

    Raises
    ------
    StoreError
        If the polygon is none, too large, or outside; errors of `LabelStore.write` as there.
    """
    if isinstance(where, TruthPlace):
        mask = place_mask(pair, where, edge)
        parts = [(where.window, mask)]
    else:
        shape = Polygon(where)
        if max(shape.window.shape) > LARGEST_SHAPE:
            raise StoreError(
                f"This lasso is {shape.window.height} x {shape.window.width} pixels large and one stroke can have "
                f"{LARGEST_SHAPE} a side; draw a smaller one."
            )
        parts = list(_parts(shape, shape.window.intersection(pair.store.grid.whole)))
    strokes = []
    for window, mask in parts:
        truth, model = pair.truth(window), pair.model(window)
        mask = mask & (truth != IGNORED) & (model != IGNORED) & (truth != model)
        if mask.any():
            strokes.append((window, _values(pair, model, mask), mask))
    return pair.store.write_parts(strokes) if strokes else 0


def keep_truth(pair: Pair, place: TruthPlace) -> None:
    """Note that the truth was found right at a place, so that it is offered no more; nothing of it changes."""
    kept.add_kept(pair.store, place.kept_as)


def _parts(shape: Polygon, window: Window) -> Iterator[tuple[Window, Any]]:
    for tile in tiles(window, TILE):
        inside = shape.on(tile)
        if inside is not False:
            yield tile, np.ones(tile.shape, np.bool_) if inside is True else inside


def _values(pair: Pair, model: Bytes, mask: Bools) -> Bytes:
    """The model's classes as values of the truth's store, which gets the classes that it lacks."""
    store = pair.store
    table = np.zeros(256, np.uint8)
    table[0] = ANNOTATED_BACKGROUND if store.kind == "annotation" else 0
    said = [int(v) for v in np.unique(model[mask]) if v]
    numbers = store.add_classes([pair.classes[v - 1] for v in said])
    for value in said:
        table[value] = numbers[pair.classes[value - 1]]
    return table[model]

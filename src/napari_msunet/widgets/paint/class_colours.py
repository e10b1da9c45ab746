"""The colours and names of a store's classes, as a labels layer shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from napari.utils.colormaps import DirectLabelColormap

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.labels import LabelStore
from napari_msunet.labels.metadata import Colour, default_colours

GREY = (0.6, 0.6, 0.6, 1.0)
CLEAR = (0.0, 0.0, 0.0, 0.0)


def values(store: LabelStore) -> list[int] | None:
    """The values that can be painted: 0, the classes, and 255 in an annotation. None: any, for numbers of objects."""
    if store.info.instances:
        return None
    return [*range(len(store.classes) + 1), *([ANNOTATED_BACKGROUND] if store.kind == "annotation" else [])]


def colormap(store: LabelStore) -> DirectLabelColormap | None:
    """The classes in their colours, 255 in an annotation grey, other values transparent; None for numbers of
    objects."""
    if store.info.instances:
        return None
    colours: dict[int | None, tuple[float, float, float, float]] = {None: CLEAR, 0: CLEAR}
    if store.kind == "annotation":
        colours[ANNOTATED_BACKGROUND] = GREY
    for number, (red, green, blue) in enumerate(store.colours, 1):
        colours[number] = (red / 255, green / 255, blue / 255, 1.0)
    return DirectLabelColormap(color_dict=colours)


def features(store: LabelStore) -> dict[str, list[int] | list[str]] | None:
    """A table with which napari's status bar shows the class under the mouse."""
    if store.info.instances:
        return None
    names = {0: "not annotated" if store.kind == "annotation" else "background"}
    names |= dict(enumerate(store.classes, 1))
    if store.kind == "annotation":
        names[ANNOTATED_BACKGROUND] = "background"
    return {"index": list(names), "class": list(names.values())}


class Legend(NamedTuple):
    """The colours of a labels layer, and the table with which napari's status bar names its classes."""

    colormap: DirectLabelColormap | None
    features: dict[str, list[int] | list[str]] | None


def legend(store: LabelStore) -> Legend:
    """The legend of a store."""
    return Legend(colormap(store), features(store))


def legend_of(classes: Sequence[str], known: Mapping[str, Colour]) -> Legend:
    """The legend of labels whose classes 1..K have these names, in the colours by which these are known."""
    colours: dict[int | None, tuple[float, float, float, float]] = {None: CLEAR, 0: CLEAR}
    for number, (name, usual) in enumerate(zip(classes, default_colours(len(classes)), strict=True), 1):
        red, green, blue = known.get(name, usual)
        colours[number] = (red / 255, green / 255, blue / 255, 1.0)
    names = ["background", *classes]
    return Legend(DirectLabelColormap(color_dict=colours), {"index": list(range(len(names))), "class": names})


def refusal(store: LabelStore, label: int) -> str | None:
    """A sentence about why a value cannot be painted; None if it can."""
    allowed = values(store)
    if allowed is None:
        largest = np.iinfo(store.dtype).max
        return None if 0 <= label <= largest else f"{label} is no number of an object: they go from 1 to {largest:,}."
    if label in allowed:
        return None
    names = ", ".join(f"{number} {name}" for number, name in enumerate(store.classes, 1)) or "no classes yet"
    also = ", 0 not annotated, 255 background" if store.kind == "annotation" else ", 0 background"
    return f"{label} is no class of {store.path.name}: it has {names}{also}."

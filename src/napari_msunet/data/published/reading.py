"""From a public set to items: its classes brought to the model's, its images checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from napari_msunet.config import AnyModel, PublishedSource
from napari_msunet.constants import IGNORED
from napari_msunet.data.folders import some
from napari_msunet.data.items import Item, Say, check_channels
from napari_msunet.data.masks import Mask
from napari_msunet.data.published.entry import Contents, Entry, Family, Pixels
from napari_msunet.data.ranges import settle_numbers
from napari_msunet.data.truth import ShapeTruth, Truth, WholeTruth
from napari_msunet.errors import SlideError, SourceError
from napari_msunet.slide import Slide

# ----------------------------------------------------------------------------------------------------------------------
# Which public set lies in a folder, told by its files and their content.

MODULES = {
    "pannuke": "pannuke",
    "isbi2012": "isbi2012",
    "bids": "bids",
    "glas": "glas",
    "tupac16": "tupac16",
    "consep": "consep",
    "lizard": "lizard",
    "camelyon16": "camelyon16",
    "monuseg": "monuseg",
}
"""Module of each family, those first that are the quickest to tell."""


def family(name: str) -> Family:
    """The module of a family."""
    return cast(Family, import_module(f"napari_msunet.data.published.{MODULES[name]}"))


def recognised(folder: Path) -> str:
    """The name of the set in a folder.

    Raises
    ------
    SourceError
        If there is no folder, or none of the known sets is in it.
    """
    if not folder.is_dir():
        raise SourceError(f"There is no folder {folder}; give the folder into which the set was unpacked.")
    for name in MODULES:
        if family(name).found(folder):
            return name
    raise SourceError(
        f"{folder} looks like none of the sets {', '.join(sorted(MODULES))}; say which one it is (set=...), give the "
        "folder into which it was unpacked, or give images and masks as two folders."
    )


# ----------------------------------------------------------------------------------------------------------------------


def published_items(source: PublishedSource, config: AnyModel, say: Say) -> list[Item]:
    """The items of a public set.

    Raises
    ------
    SourceError
        If the folder holds no such set, or none of its classes is one of the model's.
    """
    name = recognised(source.folder) if source.set == "auto" else source.set
    if not source.folder.is_dir():
        raise SourceError(f"There is no folder {source.folder}; give the folder into which {name} was unpacked.")
    contents = family(name).contents(source.folder, source)
    entries = [e for e in contents.entries if source.part.lower() in e.place.lower()]
    if not entries:
        raise SourceError(
            f"{source.folder} holds no image of the set {name}"
            + (f" with {source.part!r} in its path" if source.part else "")
            + "; give the folder into which it was unpacked, with its annotations."
        )
    numbers = _numbers(contents, source, config, name, say)
    for note in contents.notes:
        say("info", note)
    say("info", f"{source.folder} was read as the set {name}: {len(entries)} images.")
    items = [_item(e, numbers, source, config, check=not i) for i, e in enumerate(entries)]
    settle_numbers(items, config, say, source.image_kind, source.value_range)
    return items


def _numbers(
    contents: Contents, source: PublishedSource, config: AnyModel, name: str, say: Say
) -> dict[int, int] | None:
    """The truth of each of the set's class numbers; None: whatever is not 0 is the first class."""
    known = {"background": 0, "ignored": IGNORED} | {c: i for i, c in enumerate(config.classes, start=1)}
    names = contents.classes
    if source.values == "instances":
        return None
    wanted: Mapping[str, str] = {} if source.values == "classes" else source.values
    wrong = sorted({c for c in wanted.values() if c not in known} | {n for n in wanted if n not in names.values()})
    if wrong:
        raise SourceError(
            f"The set {name} has the classes {', '.join(names.values())}, the model has {', '.join(config.classes)}; "
            f"{', '.join(wrong)} is neither: name them as {{set's class: model's class}}."
        )
    numbers = {value: known[wanted.get(n, n)] for value, n in names.items() if wanted.get(n, n) in known}
    if any(0 < n < IGNORED for n in numbers.values()):
        missing = [n for v, n in names.items() if v not in numbers and n not in contents.rest]
        if missing:
            say("warning", f"{name}: the model has no class {some(missing)}; pixels of it are left out.")
        return numbers | {v: 0 for v, n in names.items() if v not in numbers and n in contents.rest}
    if wanted or len(config.classes) > 1:
        raise SourceError(
            f"The set {name} has the classes {', '.join(names.values())}, the model has {', '.join(config.classes)}: "
            "none is the same; use these names, or say which is which with values={set's class: model's class}."
        )
    objects = [n for n in names.values() if n not in contents.rest]
    say("info", f"{name}: {some(objects)} {'is' if len(objects) == 1 else 'are'} read as {config.classes[0]}.")
    return {v: int(n not in contents.rest) for v, n in names.items()}


def _item(entry: Entry, numbers: dict[int, int] | None, source: PublishedSource, config: AnyModel, check: bool) -> Item:
    """One item; closed again, checked unless it is known to be like others."""
    mpp = source.mpp or entry.mpp
    opener: Callable[[], Slide] = partial(entry.open, mpp)
    load = partial(_mask, entry, numbers)
    if entry.extent is not None and not check:
        truth = WholeTruth(load, entry.extent, entry.name, entry.objects)
        return Item(entry.name, opener, truth, config.target, entry.group, source.role, path=entry.path)
    slide = opener()
    try:
        slide.check_unit(config.unit)
    except SlideError:
        slide.close()
        raise
    known: Truth
    if entry.shapes is not None:
        known = _outlined(entry, slide, numbers, source)
    else:
        known = WholeTruth(load, (slide.shape[0], slide.shape[1]), entry.name, entry.objects)
        known.mask()
    kept = {"slide": slide}
    item = Item(entry.name, opener, known, config.target, entry.group, source.role, kept, path=entry.path)
    check_channels(item, config.channels)
    item.release()
    return item


def _mask(entry: Entry, numbers: dict[int, int] | None) -> Mask:
    """The truth of an entry's mask."""
    values: Pixels = entry.mask() if entry.mask is not None else np.zeros((0, 0), np.int64)
    if numbers is None:
        return np.asarray(values != 0, np.uint8)
    truth = np.zeros(values.shape, np.uint8)
    for value in np.unique(values).tolist():
        if value != 0:  # what is no class of the model counts neither as background nor as another class
            truth[values == value] = numbers.get(value, IGNORED)
    return truth


def _outlined(entry: Entry, slide: Slide, numbers: dict[int, int] | None, source: PublishedSource) -> ShapeTruth:
    """The truth of a slide with outlines, painted window by window."""
    from napari_msunet.labels.area import where_mask

    found = entry.shapes() if entry.shapes is not None else []
    numbered = [(1 if numbers is None else numbers.get(v, IGNORED) if v else 0, shape) for v, shape in found]
    return ShapeTruth(numbered, (slide.shape[0], slide.shape[1]), 0, where_mask(slide, source.within))

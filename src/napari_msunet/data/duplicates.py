"""Images that are given twice, recognised by their pixels: the same image never stands on both sides of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from napari_msunet.data.folders import some
from napari_msunet.data.items import Item, Say
from napari_msunet.errors import MsunetError, SourceError
from napari_msunet.geometry import Region

_HASHED = 36_000_000
"""Level-0 pixels of an image up to which all of them are compared; of a larger image only places all over it are."""


def once(items: Sequence[Item], say: Say) -> list[Item]:
    """The items without repeated ones, so that no image stands on two sides of the split.

    The same image with the same truth counts once. With another truth (of a second person, of another class) both are
    kept, in one group, so that they come onto one side.

    Raises
    ------
    SourceError
        If one image is given for two sides.
    """
    kept = list(items)
    again: list[str] = []
    together: list[str] = []
    for same in _same(kept):
        _check_roles(same)
        same, dropped = _distinct(same)
        again += [f"{_called(item)} (as {_called(first)})" for item, first in dropped]
        gone = {id(item) for item, _ in dropped}
        kept = [item for item in kept if id(item) not in gone]
        groups = {item.group for item in same}
        if len(same) > 1 and (len(groups) > 1 or None in groups):
            together.append(" and ".join(_called(item) for item in same))
            kept = _one_group(kept, same)
    if again:
        images = "1 image is" if len(again) == 1 else f"{len(again)} images are"
        say("warning", f"{images} given again with the same pixels and truth, and counted once: {some(again)}.")
    if together:
        say("warning", f"Images with the same pixels stay on one side of the split: {some(together)}.")
    return kept


def _called(item: Item) -> str:
    return item.name if item.path is None else str(item.path)


def _same(items: Sequence[Item]) -> list[list[Item]]:
    """Items whose images have the same pixels, two or more each."""
    alike: dict[object, list[Item]] = {}
    for item in items:
        if (key := item.pixels) is not None:
            alike.setdefault(key, []).append(item)
    found: list[list[Item]] = []
    for group in alike.values():
        if len(group) > 1:
            exact: dict[str, list[Item]] = {}
            for number, item in enumerate(group):
                exact.setdefault(_hash(item) or f"unread {number}", []).append(item)
            found += [same for same in exact.values() if len(same) > 1]
    return found


def _hash(item: Item) -> str | None:
    """A hash of all pixels; empty for large images, so that the places decide; None where the image cannot be read."""
    height, width = item.slide.shape[:2]
    try:
        if height * width > _HASHED:
            return ""
        values = item.slide.read(Region(0, 0, height, width))
        return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    except (MsunetError, OSError):
        return None
    finally:
        item.release()


def _check_roles(same: Sequence[Item]) -> None:
    """Refuse an image that a person gave for two sides; corrections are looked at where test images are kept apart."""
    for one, other in combinations([i for i in same if i.role != "auto" and not i.corrected], 2):
        if one.role != other.role:
            raise SourceError(
                f"{_called(one)} and {_called(other)} have the same pixels, and are given to {one.role} and to "
                f"{other.role}; give the image once, or both the same role."
            )


def _distinct(same: Sequence[Item]) -> tuple[list[Item], list[tuple[Item, Item]]]:
    """Items with truths of their own, and those that repeat one, each with the item it repeats."""
    kept: dict[str, Item] = {}
    dropped: list[tuple[Item, Item]] = []
    for item in sorted(same, key=lambda i: i.role == "auto"):  # what has a role stays
        key = f"{item.corrected} {_truth(item)}"
        if key in kept:
            dropped.append((item, kept[key]))
        else:
            kept[key] = item
    return list(kept.values()), dropped


def _truth(item: Item) -> str:
    values, grid = item.truth.overview()
    digest = hashlib.sha256(f"{values.shape} {grid.pixel}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())
    item.forget_mask()
    return digest.hexdigest()


def _one_group(items: Sequence[Item], same: Sequence[Item]) -> list[Item]:
    """The items with the groups of those in `same` made one."""
    groups = [item.group for item in same if item.group is not None]
    chosen = groups[0] if groups else f"the pixels of {same[0].name}"
    alone = {id(item) for item in same}
    return [replace(i, group=chosen) if id(i) in alone or (i.group in groups) else i for i in items]

"""The split of items into training and validation: by role, by group, or by blocks of the only slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import IGNORED
from napari_msunet.data.items import Item
from napari_msunet.errors import SourceError
from napari_msunet.events import Message
from napari_msunet.geometry import Region

# ----------------------------------------------------------------------------------------------------------------------
# Groups onto sides so that each side has its share of the images and of every class.

Table = npt.NDArray[np.float64]

_DRAWS = 64
_SWAPS = 600
_LACKING = 10.0  # a side without a class is worse than any difference of shares


def assign(content: Table, counts: Sequence[int], seed: int) -> npt.NDArray[np.int64]:
    """The side of each group: random, and then changed until the sides are alike.

    Of some random draws the best is taken, then groups of two sides change places as long as that helps.

    Parameters
    ----------
    content : (groups, columns) array
        What each group holds, such as images and pixels of each class; columns that are zero count nothing.
    counts : sequence of int
        How many groups each side gets; together all. The first side must not lack what another has.
    seed : int

    Returns
    -------
    (groups,) int
    """
    # Not scikit-learn's StratifiedGroupKFold: it balances one label a sample over equal folds. Here an image has pixels
    # of many classes, sides have sizes of their own, and training must not lack a class that another side has.
    rng = np.random.default_rng(seed)
    total = content.sum(0)
    shares = content[:, total > 0] / total[total > 0]
    wanted = np.asarray(counts, float)[:, None] / sum(counts)
    sides = np.repeat(np.arange(len(counts)), counts)
    draws = [rng.permutation(sides) for _ in range(_DRAWS)]
    badness = [_badness(shares, side, wanted) for side in draws]
    best = int(np.argmin(badness))
    side, bad = draws[best], badness[best]
    if len(side) < 2 or len(counts) < 2:
        return side
    for one, other in rng.integers(len(side), size=(_SWAPS, 2)).tolist():
        if side[one] == side[other]:
            continue
        side[one], side[other] = side[other], side[one]
        now = _badness(shares, side, wanted)
        if now < bad - 1e-9:
            bad = now
        else:
            side[one], side[other] = side[other], side[one]
    return side


def _badness(shares: Table, side: npt.NDArray[np.int64], wanted: Table) -> float:
    """How far the sides are from their shares; what a side lacks counts much."""
    sums = np.zeros((len(wanted), shares.shape[1]))
    np.add.at(sums, side, shares)
    off = np.abs(sums - wanted).sum()
    lacking = sums <= 0
    return float(off + _LACKING * (lacking.sum() + lacking[0].sum()))


# ----------------------------------------------------------------------------------------------------------------------
# The split into training, validation and test.

_MARGIN = 64  # target pixels between the training and the validation part of one slide
_CUTS = (2, 3, 4, 5)
_SQUARES = 2**20
_LEFT = 0.2  # of every class, at least this share trains


class Split(NamedTuple):
    """Items by side, and what the user should know about it."""

    train: list[Item]
    validate: list[Item]
    test: list[Item]
    messages: list[Message]


def split(
    items: Sequence[Item],
    validation: float,
    seed: int,
    test: float = 0.0,
    fold: tuple[int, int] | None = None,
    classes: Sequence[str] = (),
) -> Split:
    """Decide what trains, what validates and what tests; the same for the same items and seed.

    Items whose role is "auto" are split by group, so that about `validation` and `test` of the groups are on these
    sides, each with about its share of the images and of every class. Without groups, by image, with a warning. All
    scales of an image are read from the one image, so they are on its side. A single image is cut into spatial blocks
    a margin apart with every class on both sides; where that is impossible, nothing validates.

    Parameters
    ----------
    items : sequence of Item
    validation, test : float
        Shares, together below 1.
    seed : int
    fold : (number, count), optional
        Instead of shares: the groups are cut into `count` folds, and this one (from 1) validates. A single image is cut
        into `count` strips.
    classes : sequence of str
        Names of classes 1..K for messages.

    Raises
    ------
    SourceError
        If roles put one group on two sides, nothing is left to train on, or the groups cannot be cut into folds with
        every class in each.
    """
    messages: list[Message] = []
    fixed = _fixed_groups(items)
    sides: dict[str, list[Item]] = {"train": [], "validate": [], "test": []}
    automatic: list[Item] = []
    for item in items:
        role = item.role if item.role != "auto" else fixed.get(_group(item), "auto")
        (automatic if role == "auto" else sides[role]).append(item)
    if fold is not None:
        automatic += sides["validate"]
        train, sides["validate"] = _folds(automatic, seed, fold, messages, classes)
        sides["train"] += train
    else:
        alone = not sides["train"] and not sides["validate"]
        found = _automatic(automatic, validation, test, seed, messages, alone)
        for side, more in zip(("train", "validate", "test"), found, strict=True):
            sides[side] += more
    if not sides["train"]:
        raise SourceError(
            'No image is left to train on; give sources with the role "train" or "auto", or a smaller validation.'
        )
    if not sides["validate"]:
        messages.append(_say("There is no validation: training runs all its epochs and the last model is kept."))
    return Split(sides["train"], sides["validate"], sides["test"], messages)


def _group(item: Item) -> str:
    return item.group if item.group is not None else f"image {item.name} {id(item.truth)}"


def _say(text: str) -> Message:
    return Message(level="warning", text=text)


def _fixed_groups(items: Sequence[Item]) -> dict[str, str]:
    """The side of each group that has a role."""
    fixed: dict[str, str] = {}
    for item in items:
        if item.role == "auto" or item.group is None:
            continue
        if fixed.setdefault(item.group, item.role) != item.role:
            raise SourceError(
                f"The group {item.group} has images with the role {fixed[item.group]} and with the role {item.role}; "
                "a group may stand on one side only."
            )
    return fixed


def _automatic(
    items: list[Item], validation: float, test: float, seed: int, messages: list[Message], alone: bool
) -> tuple[list[Item], list[Item], list[Item]]:
    """Split the items that have no role of their own."""
    if not items or not (validation or test):
        return items, [], []
    if _one_image(items):
        train, validate = _blocks(items, validation, messages) if alone and validation else (items, [])
        if test:
            messages.append(_say("One image alone cannot be cut so that a part of it tests: nothing is set aside."))
        return train, validate, []
    groups = _groups(items, messages)
    if len(groups) < 2:
        if alone:
            messages.append(_say(f"All images are of the one group {items[0].group}, which cannot be split."))
        return items, [], []
    counts = _counts_of(len(groups), validation, test)
    if test and not counts[2]:
        messages.append(_say(f"{len(groups)} groups are too few for a test side beside training and validation."))
    side = dict(zip(groups, assign(_content(items, groups), counts, seed).tolist(), strict=True))
    train, validate, aside = ([i for i in items if side[_group(i)] == number] for number in range(3))
    return train, validate, aside


def _groups(items: list[Item], messages: list[Message]) -> list[str]:
    """The groups of items, or the images where some have none, in an order that is the same each time."""
    if all(i.group is not None for i in items):
        return sorted({_group(i) for i in items})
    messages.append(
        _say(
            "The split is by image: no group (patient, slide) was given, so images of one patient may stand on "
            "both sides and the validation may look too good."
        )
    )
    # Names are not unique across folders; the order of the items is the same each time.
    return list(dict.fromkeys(_group(i) for i in items))


def _counts_of(groups: int, validation: float, test: float) -> tuple[int, int, int]:
    """How many groups train, validate and test: at least one on each side that is wanted, as far as they go."""
    validating = min(groups - 1, max(1, round(validation * groups))) if validation else 0
    testing = min(groups - 1 - validating, max(1, round(test * groups))) if test else 0
    return groups - validating - testing, validating, testing


def _content(items: list[Item], groups: list[str]) -> npt.NDArray[np.float64]:
    """Images and pixels of each class (not of background) in each group, `(groups, columns)`."""
    number = {group: row for row, group in enumerate(groups)}
    table = np.zeros((len(groups), IGNORED))
    for item in items:
        row = table[number[_group(item)]]
        row[0] += 1
        row[1:] += item.content[1:]
    return table[:, table.any(0)]


def _folds(
    items: list[Item], seed: int, fold: tuple[int, int], messages: list[Message], classes: Sequence[str]
) -> tuple[list[Item], list[Item]]:
    """The items that train, and those of the fold."""
    chosen, count = fold
    if not items:
        raise SourceError(f"No image can be cut into {count} folds; give several images, or slides.")
    if _one_image(items):
        return _strip_fold(items, fold, messages)
    groups = _groups(items, messages)
    if len(groups) == 1:
        raise SourceError(
            f"All images are of the one group {items[0].group}, which cannot be cut into {count} folds; give images of "
            "more groups (patients, slides), or leave the group out."
        )
    if len(groups) < count:
        raise SourceError(
            f"{len(groups)} groups cannot be cut into {count} folds; give at most {len(groups)} folds, or more images."
        )
    content = _content(items, groups)
    sizes = [len(groups) // count + (i < len(groups) % count) for i in range(count)]
    side = assign(content, sizes, seed)
    present = np.stack([content[side == i].sum(0) > 0 for i in range(count)])
    if not present.all():
        holding = (content > 0).sum(0)
        column = int(np.argmin(np.where(present.all(0), len(groups) + 1, holding)))
        values = [0, *(np.flatnonzero(np.sum([i.content for i in items], 0)[1:]) + 1)]
        empty = int(np.argmin(present[:, column])) + 1
        name = classes[values[column] - 1] if values[column] <= len(classes) else f"class {values[column]}"
        raise SourceError(
            f"Fold {empty} of {count} has no pixel of {name}, which only {holding[column]} of the "
            f"{len(groups)} groups have; take fewer folds, label more, or leave the class out."
        )
    folds = dict(zip(groups, side.tolist(), strict=True))
    inside = [folds[_group(i)] == chosen - 1 for i in items]
    return [i for i, own in zip(items, inside, strict=True) if not own], [
        i for i, own in zip(items, inside, strict=True) if own
    ]


# ------------------------------------------------------------------------------------------------------ a single slide


def _one_image(items: list[Item]) -> bool:
    """Whether all are the same image, perhaps with several truths (an annotation, and corrections)."""
    first = items[0]
    same = {(i.name, i.group, i.truth.grid.extent) for i in items} == {
        (first.name, first.group, first.truth.grid.extent)
    }
    return len(items) == 1 or (same and first.group is not None)


def _with_truth(items: list[Item]) -> list[Item]:
    """Those in which anything is known."""
    return [i for i in items if bool((i.truth.overview()[0] != IGNORED).any())]


def _blocks(items: list[Item], validation: float, messages: list[Message]) -> tuple[list[Item], list[Item]]:
    """One slide in two: a rectangle validates, what is a margin away from it trains.

    Of several truths, the one with the most classes and pixels says where.
    """
    found = [(_counts(i), i) for i in items]
    (counts, pixel), item = max(found, key=lambda f: (f[0][0].shape[0], int(f[0][0].sum())))
    margin = [ceil(_MARGIN * t / p) for t, p in zip(item.grid.pixel, pixel, strict=True)]
    best = _best_rectangle(counts, (margin[0], margin[1]), validation)
    if best is None:
        messages.append(
            _say(
                f"{item.name} alone cannot be cut into two parts that each have every class; label more places, "
                "or more slides."
            )
        )
        return items, []
    y, x, y2, x2 = best
    keep = Region(y * pixel[0], x * pixel[1], (y2 - y) * pixel[0], (x2 - x) * pixel[1])
    pad = [_MARGIN * t for t in item.grid.pixel]
    drop = Region(keep.y - pad[0], keep.x - pad[1], keep.height + 2 * pad[0], keep.width + 2 * pad[1])
    messages.append(
        Message(
            text=f"There is one image, {item.name}: the model is judged on a part of it, {_where(keep, item)}, and "
            "learns from the rest."
        )
    )
    return _with_truth([i.part(drop=drop) for i in items]), _with_truth([i.part(keep=keep) for i in items])


def _strip_fold(items: list[Item], fold: tuple[int, int], messages: list[Message]) -> tuple[list[Item], list[Item]]:
    """One slide in strips with about as much truth each, of which one validates; what is a margin away from it trains.

    The strips run across the longer side of what is known. Each is a group of its own, for intervals over groups.
    """
    chosen, count = fold
    counts, pixel = max((_counts(i) for i in items), key=lambda found: (found[0].shape[0], int(found[0].sum())))
    rows, columns = (np.ptp(counts.sum((0, axis)).nonzero()[0]) * pixel[axis - 1] for axis in (2, 1))
    axis = 0 if rows >= columns else 1
    along = counts.sum(2 - axis)  # (classes, places along the slide)
    share = along.sum(0).cumsum() / along.sum()
    ends = [0, *(np.searchsorted(share, np.arange(1, count) / count) + 1).tolist(), along.shape[1]]
    if any((along[:, a:b].sum(1) == 0).any() for a, b in pairwise(ends)):
        raise SourceError(
            f"{items[0].name} alone cannot be cut into {count} folds with every class in each; give several images (or "
            "slides), take fewer folds, label more places, or train with a single split."
        )
    sizes = items[0].truth.grid.extent
    starts = [float(v * pixel[axis]) for v in ends]
    low, high = starts[chosen - 1], max(starts[chosen], float(sizes[axis]) if chosen == count else 0.0)
    whole = [0.0, 0.0, float(sizes[0]), float(sizes[1])]
    pad = _MARGIN * items[0].grid.pixel[axis]
    keep, drop = list(whole), list(whole)
    keep[axis], keep[axis + 2] = low, high - low
    drop[axis], drop[axis + 2] = low - pad, high - low + 2 * pad
    messages.append(
        Message(
            text=f"There is one image, {items[0].name}: the model is judged on strip {chosen} of {count}, and learns "
            "from the rest."
        )
    )
    train = _with_truth([i.part(drop=Region(*drop)) for i in items])
    name = f"{items[0].group or items[0].name}, strip {chosen}"
    return train, [replace(i, group=name) for i in _with_truth([i.part(keep=Region(*keep)) for i in items])]


def _where(part: Region, item: Item) -> str:
    """Where a part of an image lies, in words."""
    whole = [size * pixel for size, pixel in zip(item.grid.shape, item.grid.pixel, strict=True)]
    thirds = [
        min(2, int(3 * (start + side / 2) / size))
        for start, side, size in zip((part.y, part.x), (part.height, part.width), whole, strict=True)
    ]
    place = " ".join(word for word in (("top", "", "bottom")[thirds[0]], ("left", "", "right")[thirds[1]]) if word)
    return f"at its {place}" if place else "in its middle"


def _counts(item: Item) -> tuple[npt.NDArray[np.int64], tuple[float, float]]:
    """Pixels of each class in small squares `(classes, rows, columns)`, and a square's size in level-0 pixels."""
    values, grid = item.truth.overview()
    side = max(1, ceil((values.size / _SQUARES) ** 0.5))
    starts = [np.arange(0, n, side) for n in values.shape]
    classes = np.bincount(values.ravel(), minlength=IGNORED + 1)[:IGNORED].nonzero()[0]
    counts = [
        np.add.reduceat(np.add.reduceat(values == c, starts[0], 0, dtype=np.int64), starts[1], 1) for c in classes
    ]
    return np.stack(counts), (grid.pixel[0] * side, grid.pixel[1] * side)


def _best_rectangle(
    counts: npt.NDArray[np.int64], margin: tuple[int, int], validation: float
) -> tuple[int, int, int, int] | None:
    """The rectangle of squares that validates best, `(y, x, y2, x2)`; None where none leaves enough of every class."""
    rows, columns = (counts.sum((0, axis)).nonzero()[0] for axis in (2, 1))
    sums = np.zeros((counts.shape[0], counts.shape[1] + 1, counts.shape[2] + 1), np.int64)
    sums[:, 1:, 1:] = counts.cumsum(1).cumsum(2)
    total = sums[:, -1, -1]
    best: tuple[float, tuple[int, int, int, int]] | None = None
    for rectangle in _rectangles(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1):
        y, x, y2, x2 = rectangle
        inside = _inside(sums, rectangle) / total
        around = _inside(sums, (y - margin[0], x - margin[1], y2 + margin[0], x2 + margin[1])) / total
        if (inside == 0).any() or (around > 1 - _LEFT).any():
            continue
        # The worst class counts: how far its validation share is from the wanted one, and what the margin costs.
        score = float(np.abs(inside - validation).max() + (around - inside).max())
        if best is None or score < best[0]:
            best = score, rectangle
    return best[1] if best else None


def _rectangles(top: int, left: int, bottom: int, right: int) -> list[tuple[int, int, int, int]]:
    """Candidates `(y, x, y2, x2)`: all runs of blocks when a rectangle is cut into 2 x 2, 3 x 3, ... blocks."""
    found = set()
    for cuts in _CUTS:
        rows = np.linspace(top, bottom, cuts + 1).round().astype(int).tolist()
        columns = np.linspace(left, right, cuts + 1).round().astype(int).tolist()
        for y in range(cuts):
            for y2 in range(y + 1, cuts + 1):
                for x in range(cuts):
                    for x2 in range(x + 1, cuts + 1):
                        found.add((rows[y], columns[x], rows[y2], columns[x2]))
    return sorted(found)


def _inside(sums: npt.NDArray[np.int64], rectangle: tuple[int, int, int, int]) -> npt.NDArray[np.int64]:
    """Pixels of each class in a rectangle, which may stick out."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    y, y2 = (min(max(v, 0), height) for v in (rectangle[0], rectangle[2]))
    x, x2 = (min(max(v, 0), width) for v in (rectangle[1], rectangle[3]))
    return sums[:, y2, x2] - sums[:, y, x2] - sums[:, y2, x] + sums[:, y, x]

"""Who trains and who validates: by role, by group, or by blocks of the only slide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.data.items import Item
from napari_msunet.data.masks import IGNORED
from napari_msunet.errors import SourceError
from napari_msunet.events import Message
from napari_msunet.geometry import Region

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


def split(items: Sequence[Item], validation: float, seed: int) -> Split:
    """Decide what trains and what validates; the same for the same items and seed.

    Items whose role is "auto" are split so that about `validation` of their groups validates; a group never stands on
    both sides. Without groups, by image, with a warning. A single image is cut into spatial blocks a margin apart with
    every class on both sides; where that is impossible, nothing validates.

    Raises
    ------
    SourceError
        If roles put one group on two sides, or nothing is left to train on.
    """
    messages: list[Message] = []
    fixed = _fixed_groups(items)
    sides: dict[str, list[Item]] = {"train": [], "validate": [], "test": []}
    automatic: list[Item] = []
    for item in items:
        role = item.role if item.role != "auto" else fixed.get(_group(item), "auto")
        (automatic if role == "auto" else sides[role]).append(item)
    train, validate = _automatic(
        automatic, validation, seed, messages, alone=not sides["train"] and not sides["validate"]
    )
    sides["train"] += train
    sides["validate"] += validate
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
    items: list[Item], validation: float, seed: int, messages: list[Message], alone: bool
) -> tuple[list[Item], list[Item]]:
    """Split the items that have no role of their own."""
    if not items or not validation:
        return items, []
    if _one_image(items):
        return _blocks(items, validation, messages) if alone else (items, [])
    groups = sorted(Counter(_group(i) for i in items))
    if any(i.group is None for i in items):
        messages.append(
            _say(
                "The split is by image: no group (patient, slide) was given, so images of one patient may stand on "
                "both sides and the validation may look too good."
            )
        )
        # Names are not unique across folders; the order of the items is the same each time.
        groups = list(dict.fromkeys(_group(i) for i in items))
    if len(groups) < 2:
        if alone:
            messages.append(_say(f"All images are of the one group {items[0].group}, which cannot be split."))
        return items, []
    count = min(len(groups) - 1, max(1, round(validation * len(groups))))
    chosen = _choose(groups, Counter(_group(i) for i in items), count, validation * len(items), seed)
    return [i for i in items if _group(i) not in chosen], [i for i in items if _group(i) in chosen]


def _choose(groups: list[str], sizes: Counter[str], count: int, wanted: float, seed: int) -> set[str]:
    """`count` groups, of a few random draws the one whose number of images is nearest to what is wanted."""
    rng = np.random.default_rng(seed)
    draws = [[groups[i] for i in rng.permutation(len(groups))[:count]] for _ in range(16)]
    return set(min(draws, key=lambda draw: abs(sum(sizes[g] for g in draw) - wanted)))


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
            text=f"There is one image, {item.name}: a rectangle of it validates (level-0 pixels y {keep.y:.0f} to "
            f"{keep.stop[0]:.0f}, x {keep.x:.0f} to {keep.stop[1]:.0f}), what is {_MARGIN} target pixels away trains."
        )
    )
    return _with_truth([i.part(drop=drop) for i in items]), _with_truth([i.part(keep=keep) for i in items])


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

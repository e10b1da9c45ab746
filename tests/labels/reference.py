"""What a label store should do, in plain numpy and with everything in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_msunet.geometry import Window


def vote(values: np.ndarray) -> np.ndarray:
    """The 2 x 2 rule by counting votes, value by value: the most, then classes before 255 before 0, then the lower."""
    height, width = values.shape
    out_shape = (-(-height // 2), -(-width // 2))
    candidates = sorted(np.unique(values).tolist(), key=lambda v: (v == 0, v))
    best, votes = np.zeros(out_shape, values.dtype), np.zeros(out_shape, int)
    for value in candidates:
        count = np.zeros((out_shape[0] * 2, out_shape[1] * 2), int)
        count[:height, :width] = values == value
        count = count.reshape(out_shape[0], 2, out_shape[1], 2).sum(axis=(1, 3))
        best[count > votes] = value
        votes = np.maximum(votes, count)
    return best


def any_of(values: np.ndarray) -> np.ndarray:
    """The 2 x 2 rule of masks."""
    height, width = values.shape
    padded = np.zeros((height + height % 2, width + width % 2), bool)
    padded[:height, :width] = values
    return padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).any(axis=(1, 3))


@dataclass
class Stroke:
    release: bool
    place: tuple[slice, slice]
    mask: np.ndarray
    values: Any
    before: np.ndarray
    edited_before: np.ndarray


@dataclass
class Reference:
    """`runs`: key -> labels in the store's values; `merges`: (key, covered) in order."""

    shape: tuple[int, int]
    dtype: str = "uint8"
    merges: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    undo_stack: list[Stroke] = field(default_factory=list)
    redo_stack: list[Stroke] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.shape, self.dtype)
        self.edited = np.zeros(self.shape, bool)

    def machine(self) -> np.ndarray:
        base = np.zeros(self.shape, self.dtype)
        for labels, covered in self.merges:
            base[covered] = labels[covered]
        return base

    def stroke(self, window: Window, values: Any, mask: np.ndarray | None, release: bool = False) -> None:
        inside = window.intersection(Window(0, 0, *self.shape))
        place, part = inside.slices(), inside.slices((window.y, window.x))
        mask = np.ones(inside.shape, bool) if mask is None else mask[part]
        if not mask.any():
            return
        values = values if np.ndim(values) == 0 else values[part]
        stroke = Stroke(release, place, mask, values, self.labels[place].copy(), self.edited[place].copy())
        self._do(stroke)
        self.undo_stack.append(stroke)
        self.redo_stack.clear()

    def _do(self, stroke: Stroke) -> None:
        new = self.machine()[stroke.place] if stroke.release else stroke.values
        self.labels[stroke.place] = np.where(stroke.mask, new, self.labels[stroke.place])
        self.edited[stroke.place] = np.where(stroke.mask, not stroke.release, self.edited[stroke.place])

    def undo(self) -> None:
        if self.undo_stack:
            stroke = self.undo_stack.pop()
            old = np.where(stroke.edited_before, stroke.before, self.machine()[stroke.place])
            self.labels[stroke.place] = np.where(stroke.mask, old, self.labels[stroke.place])
            self.edited[stroke.place] = np.where(stroke.mask, stroke.edited_before, self.edited[stroke.place])
            self.redo_stack.append(stroke)

    def redo(self) -> None:
        if self.redo_stack:
            stroke = self.redo_stack.pop()
            self._do(stroke)
            self.undo_stack.append(stroke)

    def merge(self, labels: np.ndarray, covered: np.ndarray) -> None:
        self.merges.append((labels, covered))
        machine = covered & ~self.edited
        self.labels[machine] = labels[machine]

    def pyramid(self, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        levels = [(self.labels, self.edited)]
        while len(levels) < count:
            levels.append((vote(levels[-1][0]), any_of(levels[-1][1])))
        return levels


def assert_same(store: Any, reference: Reference) -> None:
    """Every pixel of every level of labels and `edited` is as it should be."""
    count = len(store.levels)
    for level, (labels, edited) in enumerate(reference.pyramid(count)):
        np.testing.assert_array_equal(store.levels[level].compute(scheduler="sync"), labels, f"level {level}")
        np.testing.assert_array_equal(
            store.edited_levels[level].compute(scheduler="sync"), edited, f"edited, level {level}"
        )

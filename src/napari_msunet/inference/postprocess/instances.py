"""Instances over a plane of any size: each piece of foreground is split by itself; numbers follow reading order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from napari_msunet.geometry import Window
from napari_msunet.inference.postprocess.split_touching import Mask, Parts, SplitTouching, by_markers, in_order
from napari_msunet.objects.components import ComponentJoiner, Numbers, Plane, Walk, components_of, connected

# ----------------------------------------------------------------------------------------------------------------------
# Pieces of foreground that are too large to be split as a whole are split in cells, fixed to the slide, with a halo.

CELL = 2048
HALO = 256
"""Side of a cell and width of its halo, in pixels. Both influence the result, so they never depend on memory or
speed."""

KEPT_CELLS, KEPT_WINDOWS = 8, 12

Values = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.uint32]


class HugePieces:
    """Splits huge pieces in cells of `CELL` pixels at multiples of `CELL`, read with `HALO` pixels around.

    Two neighbouring cells both read the pixels on both sides of their common line. Where both find that two pixels
    across it belong together, their instances are joined. So an object whose shape fits into the halo is found as if
    the piece were split as a whole, and the result depends only on the place on the slide.

    Parameters
    ----------
    walk : Walk
    labels : Plane
    huge_in : callable
        Which pixels of a window of the walk belong to huge pieces.
    part : callable
        Splits all pieces of an array.
    new : callable
        Registers parts, and gives the number before that of the first one.
    """

    def __init__(
        self,
        walk: Walk,
        labels: Plane,
        huge_in: Callable[[Window, Values], Mask],
        part: Callable[[Values], Parts],
        new: Callable[[Parts, Window], int],
    ) -> None:
        self.walk, self.labels = walk, labels
        self.same: list[Numbers] = []
        self._huge_in, self._part, self._new = huge_in, part, new
        self._bases: dict[tuple[int, int], int] = {}
        self._cells: OrderedDict[tuple[int, int], Ids] = OrderedDict()
        self._masks: OrderedDict[Window, Mask] = OrderedDict()
        self._sides: dict[tuple[int, int, str], Numbers] = {}

    def paste(self, window: Window, out: Ids) -> None:
        """Write the instances of huge pieces into the `(h, w)` instances of a window."""
        for cy in range(window.y // CELL, -(-window.stop[0] // CELL)):
            for cx in range(window.x // CELL, -(-window.stop[1] // CELL)):
                core = self._core(cy, cx)
                inside = core.intersection(window)
                found = self._cell(cy, cx)[inside.slices((core.y, core.x))]
                np.copyto(out[inside.slices((window.y, window.x))], found, where=found > 0)

    def _core(self, cy: int, cx: int) -> Window:
        return Window(cy * CELL, cx * CELL, CELL, CELL).intersection(self.walk.whole)

    def _cell(self, cy: int, cx: int) -> Ids:
        """The instances in a cell, by their first numbers."""
        if (cy, cx) not in self._cells:
            core = self._core(cy, cx)
            seen = core.padded(HALO).intersection(self.walk.whole)
            parts = self._part(np.where(self._mask(seen), self.labels.read(seen), 0).astype(np.uint8))
            place = core.slices((seen.y, seen.x))
            numbered = in_order(parts[place])
            base = self._bases.get((cy, cx))
            if base is None:
                base = self._bases[cy, cx] = self._new(numbered, core)
            ids = np.where(numbered > 0, numbered + base, 0).astype(np.uint32)
            self._join(cy, cx, parts, ids, place)
            self._cells[cy, cx] = ids
            if len(self._cells) > KEPT_CELLS:
                self._cells.popitem(last=False)
        self._cells.move_to_end((cy, cx))
        return self._cells[cy, cx]

    def _mask(self, seen: Window) -> Mask:
        found = np.zeros(seen.shape, np.bool_)
        for window in self.walk.over(seen):
            if window not in self._masks:
                self._masks[window] = self._huge_in(window, self.labels.read(window))
                if len(self._masks) > KEPT_WINDOWS:
                    self._masks.popitem(last=False)
            self._masks.move_to_end(window)
            part = window.intersection(seen)
            found[part.slices((seen.y, seen.x))] = self._masks[window][part.slices((window.y, window.x))]
        return found

    def _join(self, cy: int, cx: int, parts: Parts, ids: Ids, place: tuple[slice, slice]) -> None:
        """Join instances across the cell's sides with those of the neighbours, once both are known."""
        rows, columns = place
        lines = {
            "top": (ids[0], parts[rows.start, columns], parts[rows.start - 1, columns] if rows.start else None),
            "left": (ids[:, 0], parts[rows, columns.start], parts[rows, columns.start - 1] if columns.start else None),
            "bottom": (ids[-1], parts[rows.stop - 1, columns], parts[rows.stop : rows.stop + 1, columns]),
            "right": (ids[:, -1], parts[rows, columns.stop - 1], parts[rows, columns.stop : columns.stop + 1]),
        }
        beside = {
            "top": (cy - 1, cx, "bottom"),
            "left": (cy, cx - 1, "right"),
            "bottom": (cy + 1, cx, "top"),
            "right": (cy, cx + 1, "left"),
        }
        for side, (own, here, there) in lines.items():
            if there is None or not there.size or (cy, cx, side) in self._sides:
                continue
            line = np.where(here == there.reshape(here.shape), own, 0).astype(np.int64)
            self._sides[cy, cx, side] = line
            other = self._sides.get(beside[side])
            if other is None:
                continue
            both = (line > 0) & (other > 0)
            if both.any():
                self.same.append(np.unique(np.stack([line[both], other[both]], 1), axis=0))
            # Both cells are known now; the empty entry marks this side as done.
            self._sides[cy, cx, side] = self._sides[beside[side]] = np.zeros(0, np.int64)


# ----------------------------------------------------------------------------------------------------------------------
# The instances of a whole slide, made from its labels.

LIMIT = 4096 * 4096
"""Largest bounding box, in pixels, of a piece that is split as a whole; larger ones use cells, see `HugePieces`."""

REMEMBERED = 16_000_000
"""Most pixels of split pieces that are kept for the other windows that they reach; others are split again."""


class Instances:
    """Splits foreground into instances.

    A piece is a set of pixels that are connected by their sides and have one class, or any class where a boundary class
    separates instances. Each piece is split by itself (`SplitTouching`), in however many windows it lies, so neither
    windows nor chunks have any influence. Instances are numbered from 1 in the order of their first pixels, row by row.

    Parameters
    ----------
    walk : Walk
    parting : SplitTouching
    boundary : int
        The class that marks boundaries: pieces of the other classes within a piece are the instances, and grow over
        it. 0: there is none, and pieces are split by distance.
    limit : int
        See `LIMIT`.
    """

    def __init__(self, walk: Walk, parting: SplitTouching, boundary: int = 0, limit: int = LIMIT) -> None:
        self.walk, self.boundary, self.limit = walk, boundary, limit
        self.parting = parting
        self.count = 0
        self._joined = ComponentJoiner(walk.whole.width)
        self._firsts: list[Numbers] = []
        self._made = 0
        self._bases: dict[int, int] = {}
        self._kept: OrderedDict[int, Parts] = OrderedDict()

    passes = 3
    """How often `steps` goes over all windows."""

    def steps(self, labels: Plane, out: Plane) -> Iterator[Window]:
        """Read classes from `labels`, write instances into `out` (uint32); yields each window done, in each pass."""
        for window in self.walk:
            values = labels.read(window)
            self._add(window, values)
            yield window
        self._close()
        huge = HugePieces(self.walk, labels, self._huge_in, self._part_all, self._new)
        for window in self.walk:
            out.write(window, self._window(window, labels, huge))
            yield window
        table = self._table(huge.same)
        for window in self.walk:
            values = out.read(window)
            if values.any():
                out.write(window, table[values])
            yield window

    # ------------------------------------------------------------------------------------------ which pieces there are

    def _pieces(self, values: npt.NDArray[np.uint8]) -> Numbers:
        return connected(values > 0) if self.boundary else connected(values)

    def _add(self, window: Window, values: npt.NDArray[np.uint8]) -> None:
        numbers = self._pieces(values)
        boxes = np.zeros((int(numbers.max(initial=0)) + 1, 4), np.int64)
        for number, (rows, columns) in enumerate(find_objects(numbers), 1):
            boxes[number] = rows.start, columns.start, rows.stop, columns.stop
        first = np.zeros((len(boxes), 2), np.int64)
        for number in np.unique(np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])):
            y, x0, _, x1 = boxes[number]
            if number:
                first[number] = y, x0 + (numbers[y, x0:x1] == number).argmax()
        corner = np.array([window.y, window.x])
        self._joined.add(
            window, numbers, (values > 0) if self.boundary else values, boxes + np.tile(corner, 2), first + corner
        )

    def _close(self) -> None:
        joined, far = self._joined, np.iinfo(np.int64).max
        joined.close()
        self._start = np.full((joined.count, 2), far)
        self._stop = np.zeros((joined.count, 2), np.int64)
        self._seed = np.full(joined.count, far)
        if joined.count:
            boxes, first = joined.stats(0), joined.stats(1)
            np.minimum.at(self._start, joined.component, boxes[:, :2])
            np.maximum.at(self._stop, joined.component, boxes[:, 2:])
            np.minimum.at(self._seed, joined.component, first[:, 0] * self.walk.whole.width + first[:, 1])
        self._huge = np.prod(self._stop - self._start, axis=1) > self.limit

    def _huge_in(self, window: Window, values: npt.NDArray[np.uint8]) -> Mask:
        """The pixels of a window that belong to pieces above the limit."""
        numbers = self._pieces(values)
        is_huge = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
        if window.height * window.width > self.limit:
            for number, (rows, columns) in enumerate(find_objects(numbers), 1):
                is_huge[number] = (rows.stop - rows.start) * (columns.stop - columns.start) > self.limit
        ids, components = self._joined.parts(window)
        is_huge[ids] = self._huge[components]
        return is_huge[numbers]

    # --------------------------------------------------------------------------------------------------------- parting

    def _part(self, values: npt.NDArray[np.uint8], piece: Mask) -> Parts:
        if not self.boundary:
            return self.parting.by_distance(piece)
        return by_markers(piece, connected(np.where(piece & (values != self.boundary), values, 0)).astype(np.int32))

    def _part_all(self, values: npt.NDArray[np.uint8]) -> Parts:
        """Split all pieces of an array, each by itself, with consecutive numbers."""
        numbers = self._pieces(values)
        out = np.zeros(values.shape, np.int32)
        made = 0
        for number, box in enumerate(find_objects(numbers), 1):
            parts = self._part(values[box], numbers[box] == number)
            np.copyto(out[box], parts + made, where=parts > 0)
            made += int(parts.max(initial=0))
        return out

    def _new(self, parts: Parts, corner: Window) -> int:
        """Register parts, numbered from 1 in the order of their first pixels, and give the number before the first
        one's."""
        _, first = np.unique(parts, return_index=True)
        first = first[len(first) - int(parts.max(initial=0)) :]
        y, x = first // parts.shape[1] + corner.y, first % parts.shape[1] + corner.x
        self._firsts.append((y * self.walk.whole.width + x).astype(np.int64))
        self._made += len(first)
        return self._made - len(first)

    def _window(self, window: Window, labels: Plane, huge: HugePieces) -> Ids:
        values = labels.read(window)
        numbers = self._pieces(values)
        out = np.zeros(window.shape, np.uint32)
        ids, components = self._joined.parts(window)
        reaching = dict(zip(ids.tolist(), components.tolist(), strict=True))
        any_huge = False
        for number, box in enumerate(find_objects(numbers), 1):
            rows, columns = box
            size = rows.stop - rows.start, columns.stop - columns.start
            component = reaching.get(number)
            if size[0] * size[1] > self.limit if component is None else self._huge[component]:
                any_huge = True
            elif component is None:
                parts = self._part(values[box], numbers[box] == number)
                base = self._new(parts, Window(window.y + rows.start, window.x + columns.start, *size))
                np.copyto(out[box], (parts + base).astype(np.uint32), where=parts > 0)
            else:
                place, parts = self._whole(component, labels)
                inside = place.intersection(window)
                seen = parts[inside.slices((place.y, place.x))]
                target = out[inside.slices((window.y, window.x))]
                np.copyto(target, (seen + self._bases[component]).astype(np.uint32), where=seen > 0)
        if any_huge:
            huge.paste(window, out)
        return out

    def _whole(self, component: int, labels: Plane) -> tuple[Window, Parts]:
        """The bounding box and the parts of a piece that lies in several windows."""
        y, x = map(int, self._start[component])
        place = Window.between((y, x), tuple(map(int, self._stop[component])))  # type: ignore[arg-type]
        parts = self._kept.get(component)
        if parts is None:
            values = labels.read(place)
            numbers = self._pieces(values)
            seed = divmod(int(self._seed[component]), self.walk.whole.width)
            parts = self._part(values, numbers == numbers[seed[0] - y, seed[1] - x])
            self._kept[component] = parts
            while sum(p.size for p in self._kept.values()) > REMEMBERED and len(self._kept) > 1:
                self._kept.popitem(last=False)
            if component not in self._bases:
                self._bases[component] = self._new(parts, place)
        self._kept.move_to_end(component)
        return place, parts

    def _table(self, same: list[Numbers]) -> Ids:
        """The final number of each instance, by its first number."""
        first = np.concatenate([*self._firsts, np.zeros(0, np.int64)])
        n = len(first)
        self.count, owner = components_of(n, [pairs - 1 for pairs in same])
        lowest = np.full(self.count, np.iinfo(np.int64).max)
        np.minimum.at(lowest, owner, first)
        rank = np.zeros(self.count, np.uint32)
        rank[np.argsort(lowest)] = np.arange(1, self.count + 1)
        table = np.zeros(n + 1, np.uint32)
        table[1:] = rank[owner]
        return table

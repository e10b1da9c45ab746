"""The plan of a prediction, fixed before the first tile: units, tiles, pieces, batches and margins.

The network of each scale is a function of the whole slide, so any set of tiles gives the same result as long as each
has a margin of its receptive field and starts on the network's stride. A **unit** is a square of the target grid that
one process computes. Its **tiles** cover the wanted pixels at full resolution; **pieces** cover the same area for each
coarse branch, on that branch's own grid, and are used by all tiles above them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import groupby, pairwise
from math import ceil, lcm
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from napari_msunet.config import Margin, ModelConfig
from napari_msunet.constants import CHUNK
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Grid, Window, round_up
from napari_msunet.labels.area import Mask

# ----------------------------------------------------------------------------------------------------------------------
# The streams of a prediction: the networks that run over the slide, each on its own grid, and their tiling.
#
# A branch with a finite reach tiles exactly with a margin. A branch whose output depends on the extent of its tile
# (such as by a sum over space) has no such margin. It is run on overlapping squares of one size on a lattice that is
# fixed to the slide, which are blended where they overlap, so that its result depends on the place only, not on the
# predicted region.

BLENDED = 1024
"""Largest side of the squares of a network that no margin makes exact, in its own pixels."""


class Stream(BaseModel):
    """One branch of one model of the ensemble, or a model whose branches cannot be separated.

    Attributes
    ----------
    model, branch : int
    scale : str
        Pixels of the output per target pixel and side, such as "1/4".
    inputs : tuple of str
        Scales of the images that it reads; empty: the stream's own.
    margin : int
        Pixels of the output read on each side of a tile; a multiple of the stride.
    side, overlap : int
        Sizes of the squares of a blended stream, in pixels of the output; 0: it is exact, or nearly, by its margin.
    origin : tuple of int
        The corner of one such square.
    mirror : bool
        Whether the slide is mirrored at its edges, instead of background beyond them.
    """

    model_config = ConfigDict(frozen=True)

    model: int
    branch: int
    scale: str
    margin: int
    inputs: tuple[str, ...] = ()
    side: int = 0
    overlap: int = 0
    origin: tuple[int, int] = (0, 0)
    mirror: bool = False

    @cached_property
    def ratio(self) -> Fraction:
        """The scale as a number."""
        return Fraction(self.scale)

    @cached_property
    def read(self) -> tuple[Fraction, ...]:
        """Scales of the images that it reads."""
        return tuple(map(Fraction, self.inputs)) or (self.ratio,)

    @property
    def joint(self) -> bool:
        """Whether the stream is a whole model, which gives fused logits on the target grid."""
        return bool(self.inputs)

    @property
    def blended(self) -> bool:
        """Whether the squares overlap and are blended."""
        return self.side > 0

    @property
    def in_pieces(self) -> bool:
        """Whether the stream is computed in pieces of its own, which several tiles use."""
        return self.ratio < 1 or self.blended

    @property
    def ring(self) -> int:
        """Branch pixels around a tile for its upsampling: bilinear needs one, whole target pixels need the
        numerator."""
        return self.ratio.numerator if self.ratio < 1 else 0

    @property
    def kept(self) -> int:
        """Pixels around a piece that are kept of its output."""
        return 0 if self.blended else self.ring

    def through(self, shape: tuple[int, int]) -> int:
        """Pixels that go through the network for one tile or piece of this shape, on all its scales."""
        height, width = shape[0] + 2 * self.margin, shape[1] + 2 * self.margin
        return int(sum((s / self.ratio) ** 2 for s in self.read) * height * width)

    @property
    def share(self) -> float:
        """Pixels through the network for each target pixel, without margins."""
        return float(sum(s**2 for s in self.read))

    def squares(self, wanted: Sequence[Window]) -> list[Window]:
        """The squares of a blended stream's lattice that touch the wanted windows (or their ring), row by row."""
        step = self.side - self.overlap
        found = set()
        for window in wanted:
            around = window.padded(self.ring)
            ranges = [
                range((start - origin - self.side) // step + 1, -((origin - stop) // step))
                for start, stop, origin in zip((around.y, around.x), around.stop, self.origin, strict=True)
            ]
            found |= {(y, x) for y in ranges[0] for x in ranges[1]}
        return [
            Window(self.origin[0] + y * step, self.origin[1] + x * step, self.side, self.side) for y, x in sorted(found)
        ]


def streams_of(
    configs: Sequence[ModelConfig],
    exact_margins: Sequence[Sequence[int | None]],
    margin: Margin,
    limit: int,
    origin: tuple[int, int] = (0, 0),
) -> tuple[Stream, ...]:
    """The streams of an ensemble.

    Parameters
    ----------
    exact_margins : for each model, for each branch
        The measured margin in branch pixels (one for a joint model, in target pixels); None: there is none.
    margin : Margin
        The margin in the options.
    limit : int
        Pixels that may go through a network at once.
    origin : tuple of int
        Target pixel at which a square of a blended stream begins; a multiple of the alignment.
    """
    found: list[Stream] = []
    for n, (config, margins) in enumerate(zip(configs, exact_margins, strict=True)):
        inputs: tuple[str, ...] = ()
        if config.joint:
            inputs = tuple(map(str, config.input_ratios))
            scales, strides = [Fraction(1)], [config.size_multiple]
        else:
            scales, strides = list(config.ratios), [b.stride for b in config.branches]
        for i, (exact, scale, stride) in enumerate(zip(margins, scales, strides, strict=True)):
            given = {"model": n, "branch": i, "scale": str(scale), "inputs": inputs, "mirror": config.mirrored}
            if exact is not None:
                found.append(Stream(**given, margin=margin_of(margin, exact, scale, stride)))
                continue
            side = max(4 * stride, min(BLENDED, int(limit**0.5)) // (4 * stride) * 4 * stride)
            corner = int(origin[0] * scale), int(origin[1] * scale)
            found.append(Stream(**given, margin=0, side=side, overlap=side // 4, origin=corner))
    return tuple(found)


def margin_of(margin: Margin, exact: int, scale: Fraction, stride: int) -> int:
    """Branch pixels to read on each side of a branch's tile for the margin in the options."""
    if margin == "exact":
        pixels = float(exact)
    elif margin == "fast":
        pixels = exact / 2
    else:
        pixels = float(margin * scale)
    ring = scale.numerator if scale < 1 else 0
    return max(round_up(pixels, stride), round_up(ring, stride))


# ----------------------------------------------------------------------------------------------------------------------
# Covering the wanted cells of a grid by rectangles, at the lowest cost for a network that needs a margin around each.

Cells = npt.NDArray[np.bool_]

PER_TILE = 20_000
"""The fixed cost of a tile, in pixels through the network that take as long."""


@dataclass(frozen=True)
class Cost:
    """The cost of a rectangle.

    Attributes
    ----------
    cell : int
        Side of a cell in pixels of the branch.
    margin : int
        Pixels around the rectangle that the network reads too.
    limit : int
        Pixels, margins included, that may go through the network at once.
    """

    cell: int
    margin: int
    limit: int

    def one(self, rows: float, columns: float) -> float:
        """The cost of one rectangle of this many cells, in pixels through the network."""
        return (rows * self.cell + 2 * self.margin) * (columns * self.cell + 2 * self.margin) + PER_TILE

    def fits(self, rows: int, columns: int) -> bool:
        """Whether this many cells may be one rectangle."""
        return rows * columns == 1 or self.one(rows, columns) - PER_TILE <= self.limit

    def split(self, rows: int, columns: int) -> tuple[int, int]:
        """The numbers of equal parts, down and across, into which a full rectangle is cut."""
        if self.fits(rows, columns):
            return 1, 1
        best, found = (rows, columns), float("inf")
        for down in range(1, rows + 1):
            height = ceil(rows / down)
            if ceil(rows / height) != down:
                continue
            across = self._across(height, columns)
            if across is None:
                continue
            cost = down * across * self.one(rows / down, columns / across)
            if cost < found:
                best, found = (down, across), cost
        return best

    def _across(self, height: int, columns: int) -> int | None:
        """The fewest parts across that fit at a height."""
        room = self.limit / (height * self.cell + 2 * self.margin) - 2 * self.margin
        width = int(room // self.cell)
        if width < 1:
            return columns if self.fits(height, 1) else None
        return ceil(columns / width)

    def bounding(self, cells: Cells) -> float:
        """The cost of everything in the bounding box, cut where necessary."""
        if cells.size == 0:
            return 0.0
        down, across = self.split(*cells.shape)
        return down * across * self.one(cells.shape[0] / down, cells.shape[1] / across)


def cover(cells: Cells, cost: Cost) -> list[Window]:
    """Disjoint rectangles over all true cells.

    The cells are cut in two, again and again, wherever the two bounding boxes cost less than the one around both.

    Parameters
    ----------
    cells : (rows, columns) bool
    cost : Cost

    Returns
    -------
    list of Window
        The rectangles in cells, in the order of their corners.
    """
    return sorted(_pieces(cells, 0, 0, cost), key=lambda w: (w.y, w.x))


def _pieces(cells: Cells, y: int, x: int, cost: Cost) -> Iterator[Window]:
    box = _box(cells)
    if box is None:
        return
    cells, y, x = cells[box.slices()], y + box.y, x + box.x
    if not cells.all():
        cut = _best_cut(cells, cost)
        if cut is not None:
            first, second, dy, dx = cut
            yield from _pieces(first, y, x, cost)
            yield from _pieces(second, y + dy, x + dx, cost)
            return
    down, across = cost.split(*cells.shape)
    if (down, across) == (1, 1):
        yield Window(y, x, *cells.shape)
        return
    rows, columns = _parts(cells.shape[0], down), _parts(cells.shape[1], across)
    for a, b in rows:
        for c, d in columns:
            yield from _pieces(cells[a:b, c:d], y + a, x + c, cost)


def _best_cut(cells: Cells, cost: Cost) -> tuple[Cells, Cells, int, int] | None:
    """The cut with the lowest cost of both bounding boxes; None where that is not less than one around both."""
    least, best = cost.bounding(cells) * 0.999, None
    for axis in (0, 1):
        for at in range(1, cells.shape[axis]):
            first, second = np.split(cells, [at], axis)
            both = sum(cost.bounding(part[box.slices()]) for part in (first, second) if (box := _box(part)) is not None)
            if both < least:
                least, best = both, (first, second, at if axis == 0 else 0, at if axis == 1 else 0)
    return best


def _box(cells: Cells) -> Window | None:
    """The bounding box of the true cells."""
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    if not len(rows):
        return None
    return Window.between((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))


def _parts(length: int, count: int) -> list[tuple[int, int]]:
    """`count` parts whose lengths differ by one at most."""
    edges = [round(i * length / count) for i in range(count + 1)]
    return list(pairwise(edges))


# ----------------------------------------------------------------------------------------------------------------------
# The cells that a mask touches, so that tiles are computed only there.


def coverage(mask: Mask | None, grid: Grid, window: Window, cell: int) -> npt.NDArray[np.bool_]:
    """Which cells of a window contain any wanted pixel.

    The result is that of `mask.on` for each cell, but without a value for each pixel, so that a tissue mask over
    100,000 x 100,000 pixels takes well under a second and a few MB.

    Parameters
    ----------
    mask : Mask or None
        From `where_mask`; None: all of the slide.
    grid : Grid
        Over the mask's slide.
    window : Window
        A window in pixels of `grid`; parts of it outside the slide are not wanted.
    cell : int
        Side of a cell in pixels of `grid`; the first begins at the window's corner, the last may be cut.

    Returns
    -------
    (ceil(height / cell), ceil(width / cell)) bool

    Raises
    ------
    SlideError
        If the grid lies over a slide of another size.
    """
    if cell < 1:
        raise ValueError(f"A cell has at least one pixel a side; got {cell}.")
    if mask is not None:
        return mask.cells(grid, window, cell)
    sides = []
    for start, stop, length in zip((window.y, window.x), window.stop, grid.shape, strict=True):
        starts = np.arange(start, stop, cell)
        sides.append((np.minimum(starts + cell, stop) > 0) & (starts < length))
    return np.logical_and.outer(*sides)


# ----------------------------------------------------------------------------------------------------------------------
# The plan of a prediction: its units and tiles, and what they cost.

CELL = 64
"""Side of the squares in which the wanted area is described, in target pixels, rounded up to the alignment."""

MOST_TILES = 2_000_000
"""Most tiles of a plan, in which each tile is listed."""

UNIT = 4096
"""Side of a unit in target pixels, where no smaller one is requested."""

GENERATION = 1_000_000
"""Tiles of a plan that is made again within a run are numbered from a multiple of this."""

Box = tuple[int, int, int, int]


class UnitPlan(BaseModel):
    """A unit: `window` and `tiles` in target pixels, `pieces` (one list per stream) in the stream's own pixels."""

    model_config = ConfigDict(frozen=True)

    window: Box
    first: int
    tiles: tuple[Box, ...]
    pieces: tuple[tuple[Box, ...], ...]


@dataclass(frozen=True)
class Tile:
    """A tile of the target grid; `index` counts through the whole plan and is its name in the ledger."""

    index: int
    window: Window


class Plan(BaseModel):
    """The frozen plan of one run.

    Attributes
    ----------
    window : tuple of int
        `y, x, height, width`: the pixels of the target grid that are wanted.
    alignment, cell : int
        Tiles start and end on multiples of `alignment`, automatic ones on multiples of `cell` (target pixels).
    streams : tuple of Stream
    units : tuple of UnitPlan
    batch : int
        Tiles of one size that go through the fine branches together.
    variants : int
        Mirrored and turned copies that are averaged; 1: none.
    limit : int
        Pixels of one tile, margins included, that go through a network at once.
    memory : float
        Bytes that it is expected to take.
    device : str
    threads : int
        Number of CPU threads: the same number gives the same bytes.
    generation : int
        How often the run was planned again, because memory was too small.
    """

    model_config = ConfigDict(frozen=True)

    plan_version: int = 2
    window: Box
    alignment: int
    cell: int
    streams: tuple[Stream, ...]
    units: tuple[UnitPlan, ...]
    batch: int
    variants: int
    limit: int
    memory: float
    device: str
    threads: int
    generation: int = 0

    @property
    def target(self) -> Window:
        """The wanted pixels."""
        return Window(*self.window)

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return sum(len(unit.tiles) for unit in self.units)

    @cached_property
    def largest(self) -> tuple[int, int]:
        """Height and width of the largest tile."""
        return max((box[2:] for unit in self.units for box in unit.tiles), key=lambda s: s[0] * s[1], default=(0, 0))

    def batches(self, unit: UnitPlan) -> list[tuple[Tile, ...]]:
        """The batches of a unit: up to `batch` tiles of one size each, in their order."""
        tiles = [Tile(unit.first + n, Window(*box)) for n, box in enumerate(unit.tiles)]
        found: list[tuple[Tile, ...]] = []
        for _, same in groupby(tiles, key=lambda t: t.window.shape):
            group = list(same)
            found += [tuple(group[i : i + self.batch]) for i in range(0, len(group), self.batch)]
        return found

    @cached_property
    def useful(self) -> int:
        """Target pixels in the tiles."""
        return sum(box[2] * box[3] for unit in self.units for box in unit.tiles)

    @cached_property
    def through(self) -> int:
        """Pixels that go through the branches, margins included."""
        total = 0
        for unit in self.units:
            for stream, pieces in zip(self.streams, unit.pieces, strict=True):
                if stream.in_pieces:
                    boxes = [box[2:] for box in pieces]
                else:
                    boxes = [Window(*box).times(stream.ratio).shape for box in unit.tiles]
                total += sum(map(stream.through, boxes))
        return total * self.variants

    @cached_property
    def margin_free(self) -> float:
        """Pixels that would go through the branches without margins, for the wanted pixels alone."""
        return self.useful * self.variants * sum(stream.share for stream in self.streams)


@dataclass(frozen=True)
class Request:
    """The request for a plan.

    Attributes
    ----------
    configs : sequence of ModelConfig
        The configs of the ensemble's models.
    exact_margins : for each model, for each branch int or None
        The measured margins, as `streams_of` takes them.
    grid : Grid
        The target grid.
    window : Window
        The wanted pixels of the grid.
    mask : Mask, optional
        The wanted part of the window.
    margin : Margin
    tile : int, optional
        Side without margins in target pixels, rounded up to the alignment; None: rectangles as large as `limit` allows.
    batch, variants, limit, memory, device, threads, generation
        As in `Plan`.
    unit : int
        Largest side of a unit.
    origin : tuple of int
        Target pixel at which a square of a blended network begins.
    """

    configs: Sequence[ModelConfig]
    exact_margins: Sequence[Sequence[int | None]]
    grid: Grid
    window: Window
    mask: Mask | None = None
    margin: Margin = "exact"
    tile: int | None = None
    batch: int = 1
    variants: int = 1
    limit: int = 4_000_000
    memory: float = 2e9
    device: str = "cpu"
    threads: int = 1
    generation: int = 0
    unit: int = UNIT
    origin: tuple[int, int] = (0, 0)


def make_plan(request: Request) -> Plan:
    """The plan for a request; the same request gives the same plan."""
    alignment = lcm(*(config.size_multiple for config in request.configs))
    tile = round_up(request.tile, alignment) if request.tile else None
    cell = tile or round_up(CELL, alignment)
    if tile and request.window.height * request.window.width > MOST_TILES * tile**2:
        raise MsunetError(
            f"Tiles of {tile} pixels a side would be more than {MOST_TILES:,} for the {request.window.height:,} x "
            f"{request.window.width:,} pixels that are wanted; give larger tiles, or leave their size to be chosen."
        )
    limit = request.limit // request.batch if tile is None else tile * tile
    streams = streams_of(request.configs, request.exact_margins, request.margin, limit, request.origin)
    step = lcm(cell, CHUNK)
    units: list[UnitPlan] = []
    first = request.generation * GENERATION
    for window in _unit_windows(request.window, step, max(step, request.unit // step * step)):
        unit = _unit(request, streams, window.intersection(request.window.aligned(alignment)), cell, tile, first)
        if unit.tiles:
            units.append(unit)
            first += len(unit.tiles)
    return Plan(
        window=(request.window.y, request.window.x, request.window.height, request.window.width),
        alignment=alignment,
        cell=cell,
        streams=streams,
        units=tuple(units),
        batch=request.batch,
        variants=request.variants,
        limit=request.limit,
        memory=request.memory,
        device=request.device,
        threads=request.threads,
        generation=request.generation,
    )


def _unit_windows(window: Window, step: int, side: int) -> list[Window]:
    """Squares over a window that begin on multiples of `step`."""
    around = window.aligned(step)
    return cut(around, side)


def cut(window: Window, size: int) -> list[Window]:
    """A window in pieces of `size` a side (smaller at the end), row by row."""
    return [
        Window(y, x, size, size).intersection(window)
        for y in range(window.y, window.stop[0], size)
        for x in range(window.x, window.stop[1], size)
    ]


def _unit(
    request: Request, streams: tuple[Stream, ...], window: Window, cell: int, tile: int | None, first: int
) -> UnitPlan:
    """The tiles and pieces that cover the wanted part of a unit's window."""
    if request.mask is None:
        cells = np.ones((ceil(window.height / cell), ceil(window.width / cell)), bool)
    else:
        cells = coverage(request.mask, request.grid, window, cell)
    finest = max((s for s in streams if not s.in_pieces), key=lambda s: s.ratio, default=None)

    def boxes(stream: Stream | None) -> list[Window]:
        if tile is not None and (stream is None or not stream.in_pieces):
            return [Window(int(y), int(x), 1, 1) for y, x in np.argwhere(cells)]
        ratio = stream.ratio if stream is not None else Fraction(1)
        margin = stream.margin if stream is not None else 0
        limit = request.limit // request.batch if tile is None else (tile + 2 * margin) ** 2
        if stream is not None:
            limit = int(limit * stream.ratio**2 / max(r**2 for r in stream.read))
        return cover(cells, Cost(int(cell * ratio), margin, limit))

    def placed(found: list[Window]) -> list[Window]:
        inside = (
            Window(window.y + w.y * cell, window.x + w.x * cell, w.height * cell, w.width * cell).intersection(window)
            for w in found
        )
        return list(inside)

    tiles = placed(boxes(finest))
    pieces = []
    for stream in streams:
        found: list[Window] = []
        if stream.blended:
            found = stream.squares([w.times(stream.ratio) for w in tiles])
        elif stream.in_pieces:
            found = [w.times(stream.ratio) for w in placed(boxes(stream))]
        pieces.append(tuple(box_of(w) for w in found))
    return UnitPlan(window=box_of(window), first=first, tiles=tuple(map(box_of, tiles)), pieces=tuple(pieces))


def box_of(window: Window) -> Box:
    """The window as plain numbers."""
    return window.y, window.x, window.height, window.width


def summary(plan: Plan) -> dict[str, Any]:
    """The plan as a dictionary of numbers, for people."""
    return {
        "tiles": plan.tiles,
        "units": len(plan.units),
        "largest_tile": "{} x {}".format(*plan.largest),
        "batch": plan.batch,
        "margins": {f"model {s.model + 1}, scale {s.scale}": s.margin for s in plan.streams if not s.blended},
        "useful_pixels": plan.useful,
        "network_pixels": plan.through,
        "pixels_over_margin_free": round(plan.through / plan.margin_free, 3) if plan.margin_free else None,
        "memory_gb": round(plan.memory / 1e9, 2),
        "device": plan.device,
        "threads": plan.threads,
    }

"""What a prediction will compute, fixed before the first tile: units, tiles, pieces, what shares a batch, margins.

The network of each scale is a function of the whole slide, so any set of tiles gives the same answer as long as each
has a margin of its receptive field and starts on the network's stride. A **unit** is a square of the target grid that
one process computes. Its **tiles** cover what is wanted at full resolution; **pieces** cover the same for each coarse
branch, on that branch's own grid, and serve all the tiles above them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import groupby
from math import ceil, lcm
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_msunet.config import Margin, ModelConfig
from napari_msunet.geometry import Grid, Window, round_up
from napari_msunet.infer.cover import Cost, cover
from napari_msunet.infer.where import Mask, coverage

CHUNK = 512
"""Units are whole chunks of the store, so that no two processes write one chunk."""

CELL = 128
"""What is wanted is known in squares of this many target pixels, rounded up to the alignment."""

UNIT = 8192
"""Side of a unit in target pixels, where nothing asks for smaller ones."""

GENERATION = 1_000_000
"""Tiles of a plan made anew within a run are numbered from a multiple of this."""

Box = tuple[int, int, int, int]


class Stream(BaseModel):
    """One branch of one model of the ensemble.

    Attributes
    ----------
    model, branch : int
    scale : str
        Branch pixels per target pixel, such as "1/4".
    margin : int
        Branch pixels read on each side of a tile; a multiple of the branch's stride.
    """

    model_config = ConfigDict(frozen=True)

    model: int
    branch: int
    scale: str
    margin: int

    @cached_property
    def ratio(self) -> Fraction:
        """The scale as a number."""
        return Fraction(self.scale)

    @property
    def coarse(self) -> bool:
        """Whether it is computed in pieces of its own, which serve several tiles."""
        return self.ratio < 1

    @property
    def ring(self) -> int:
        """Branch pixels around a tile for bringing it up: bilinear needs one, whole target pixels the numerator."""
        return self.ratio.numerator if self.coarse else 0


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
        How often the run was planned anew, for want of memory.
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
        """What shares a batch: up to `batch` tiles of one size, in their order."""
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
                if stream.coarse:
                    boxes = [box[2:] for box in pieces]
                else:
                    boxes = [Window(*box).times(stream.ratio).shape for box in unit.tiles]
                total += sum((h + 2 * stream.margin) * (w + 2 * stream.margin) for h, w in boxes)
        return total * self.variants

    @cached_property
    def margin_free(self) -> float:
        """Pixels that would go through the branches if no margin was needed and nothing but the wanted was covered."""
        return self.useful * self.variants * sum(float(stream.ratio) ** 2 for stream in self.streams)


@dataclass(frozen=True)
class Request:
    """What a plan is made for.

    Attributes
    ----------
    configs : sequence of ModelConfig
        Of the ensemble's models.
    exact_margins : sequence of tuple of int
        Each model's measured margins, in pixels of each branch.
    grid : Grid
        The target grid.
    window : Window
        What is wanted of it.
    mask : Mask, optional
        What is wanted within the window.
    margin : Margin
    tile : int, optional
        Useful side in target pixels, rounded up to the alignment; None: rectangles as large as `limit` allows.
    batch, variants, limit, memory, device, threads, generation
        As in `Plan`.
    unit : int
        Largest side of a unit.
    """

    configs: Sequence[ModelConfig]
    exact_margins: Sequence[tuple[int, ...]]
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


def make_plan(request: Request) -> Plan:
    """The plan for a request; the same request gives the same plan."""
    alignment = lcm(*(config.size_multiple for config in request.configs))
    tile = round_up(request.tile, alignment) if request.tile else None
    cell = tile or round_up(CELL, alignment)
    streams = tuple(
        Stream(model=n, branch=i, scale=str(scale), margin=margin_of(request.margin, exact, scale, branch.stride))
        for n, (config, margins) in enumerate(zip(request.configs, request.exact_margins, strict=True))
        for i, (exact, scale, branch) in enumerate(zip(margins, config.ratios, config.branches, strict=True))
    )
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
    """Tiles and pieces over what is wanted of a unit's window."""
    if request.mask is None:
        cells = np.ones((ceil(window.height / cell), ceil(window.width / cell)), bool)
    else:
        cells = coverage(request.mask, request.grid, window, cell)
    finest = max((s for s in streams if not s.coarse), key=lambda s: s.ratio, default=None)

    def boxes(stream: Stream | None) -> list[Window]:
        if tile is not None and (stream is None or not stream.coarse):
            return [Window(int(y), int(x), 1, 1) for y, x in np.argwhere(cells)]
        ratio = stream.ratio if stream is not None else Fraction(1)
        margin = stream.margin if stream is not None else 0
        limit = request.limit // request.batch if tile is None else (tile + 2 * margin) ** 2
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
        found = [w.times(stream.ratio) for w in placed(boxes(stream))] if stream.coarse else []
        pieces.append(tuple(box_of(w) for w in found))
    return UnitPlan(window=box_of(window), first=first, tiles=tuple(map(box_of, tiles)), pieces=tuple(pieces))


def box_of(window: Window) -> Box:
    """The window as plain numbers."""
    return window.y, window.x, window.height, window.width


def margin_of(margin: Margin, exact: int, scale: Fraction, stride: int) -> int:
    """Branch pixels to read on each side of a branch's tile for the margin asked for."""
    if margin == "exact":
        pixels = float(exact)
    elif margin == "fast":
        pixels = exact / 2
    else:
        pixels = float(margin * scale)
    ring = scale.numerator if scale < 1 else 0
    return max(round_up(pixels, stride), round_up(ring, stride))


def summary(plan: Plan) -> dict[str, Any]:
    """The plan in numbers, for people."""
    return {
        "tiles": plan.tiles,
        "units": len(plan.units),
        "largest_tile": "{} x {}".format(*plan.largest),
        "batch": plan.batch,
        "margins": {f"model {s.model + 1}, scale {s.scale}": s.margin for s in plan.streams},
        "useful_pixels": plan.useful,
        "network_pixels": plan.through,
        "pixels_over_margin_free": round(plan.through / plan.margin_free, 3) if plan.margin_free else None,
        "memory_gb": round(plan.memory / 1e9, 2),
        "device": plan.device,
        "threads": plan.threads,
    }

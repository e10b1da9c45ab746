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
from napari_msunet.constants import CHUNK
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Grid, Window, round_up
from napari_msunet.infer.cover import Cost, cover
from napari_msunet.infer.streams import Stream, streams_of
from napari_msunet.infer.where import Mask, coverage

CELL = 64
"""What is wanted is known in squares of this many target pixels, rounded up to the alignment."""

MOST_TILES = 2_000_000
"""More are no plan: each is written down."""

UNIT = 4096
"""Side of a unit in target pixels, where nothing asks for smaller ones."""

GENERATION = 1_000_000
"""Tiles of a plan made anew within a run are numbered from a multiple of this."""

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
                if stream.in_pieces:
                    boxes = [box[2:] for box in pieces]
                else:
                    boxes = [Window(*box).times(stream.ratio).shape for box in unit.tiles]
                total += sum(map(stream.through, boxes))
        return total * self.variants

    @cached_property
    def margin_free(self) -> float:
        """Pixels that would go through the branches if no margin was needed and nothing but the wanted was covered."""
        return self.useful * self.variants * sum(stream.share for stream in self.streams)


@dataclass(frozen=True)
class Request:
    """What a plan is made for.

    Attributes
    ----------
    configs : sequence of ModelConfig
        Of the ensemble's models.
    exact_margins : for each model, for each branch int or None
        The measured margins, as `streams_of` takes them.
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
    """Tiles and pieces over what is wanted of a unit's window."""
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
    """The plan in numbers, for people."""
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

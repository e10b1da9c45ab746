"""What a prediction will compute, fixed before the first tile: blocks, tiles, what shares a batch, margins.

The network of each scale is a function of the whole slide, so any set of tiles gives the same answer as long as each
has a margin of its receptive field and starts on the network's stride. A **block** is a square of the target grid.
Within it a coarse branch is computed once, on its own grid, in tiles as many pixels wide as the fine ones (so each
covers more of the slide); then the block's **tiles** are computed at full resolution, fused, and written one batch
after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import ceil

from pydantic import BaseModel, ConfigDict

from napari_msunet.config import Margin, ModelConfig
from napari_msunet.geometry import Window, round_up

CHUNK = 512
"""Automatic tiles are whole chunks of the store, so that no chunk is written twice."""

MEMORY = 1.2e9
"""Bytes that one batch may take in the network when the tile is chosen automatically."""

LARGEST_TILE = 2048


@dataclass(frozen=True)
class Tile:
    """A tile of the target grid; `index` counts through the whole plan and is its name in the ledger."""

    index: int
    window: Window


@dataclass(frozen=True)
class Block:
    """A part of the target grid whose coarse branches are computed once; `batches` of tiles cover it."""

    window: Window
    batches: tuple[tuple[Tile, ...], ...]


class Plan(BaseModel):
    """The frozen plan of one run.

    Attributes
    ----------
    window : tuple of int
        `y, x, height, width`: the pixels of the target grid that are wanted.
    alignment : int
        Tiles start and end on multiples of it (target pixels).
    tile, block : int
        Sides in target pixels.
    coarse_tiles : tuple of int
        Side in target pixels of what each branch computes at once.
    margins : tuple of int
        Pixels read on each side of a branch's tile, on the branch's own grid; multiples of its stride.
    batch : int
        Tiles that go through the finest branches together.
    device : str
    threads : int
        Number of CPU threads: the same number gives the same bytes.
    """

    model_config = ConfigDict(frozen=True)

    plan_version: int = 1
    window: tuple[int, int, int, int]
    alignment: int
    tile: int
    block: int
    coarse_tiles: tuple[int, ...]
    margins: tuple[int, ...]
    batch: int
    device: str
    threads: int

    @property
    def target(self) -> Window:
        """The wanted pixels."""
        return Window(*self.window)

    def blocks(self) -> Iterator[Block]:
        """The blocks, row by row, with their tiles numbered through."""
        index = 0
        for block in cut(self.target.aligned(self.alignment), self.block):
            tiles = []
            for window in cut(block, self.tile):
                tiles.append(Tile(index, window))
                index += 1
            batches: list[tuple[Tile, ...]] = []
            for _, same in groupby(tiles, key=lambda t: t.window.shape):
                group = list(same)
                batches += [tuple(group[i : i + self.batch]) for i in range(0, len(group), self.batch)]
            yield Block(block, tuple(batches))

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return sum(len(cut(block, self.tile)) for block in cut(self.target.aligned(self.alignment), self.block))


def cut(window: Window, size: int) -> list[Window]:
    """A window in pieces of `size` a side (smaller at the end), row by row."""
    return [
        Window(y, x, size, size).intersection(window)
        for y in range(window.y, window.stop[0], size)
        for x in range(window.x, window.stop[1], size)
    ]


def ring(scale: Fraction) -> int:
    """Branch pixels added around a window before it is brought up: bilinear needs one, whole target pixels `scale`'s
    numerator; finer branches need none."""
    return scale.numerator if scale < 1 else 0


def margin_of(margin: Margin, exact: int, scale: Fraction, stride: int) -> int:
    """Branch pixels to read on each side of a branch's tile for the margin asked for."""
    if margin == "exact":
        pixels = float(exact)
    elif margin == "fast":
        pixels = exact / 2
    else:
        pixels = float(margin * scale)
    return max(round_up(pixels, stride), round_up(ring(scale), stride))


def bytes_per_pixel(config: ModelConfig) -> float:
    """Rough peak memory of the most demanding branch for each of its input pixels: five float32 maps of the finest
    width, and the coarser resolutions' share."""
    return max(4.0 * (config.channels + 5 * branch.width * 1.6) for branch in config.branches)


def make_plan(
    config: ModelConfig,
    exact_margins: tuple[int, ...],
    window: Window,
    margin: Margin,
    tile: int | None,
    batch: int,
    device: str,
    threads: int,
) -> Plan:
    """The plan for the pixels of `window` of the target grid.

    Parameters
    ----------
    exact_margins : tuple of int
        The model's measured margins, in pixels of each branch.
    tile : int, optional
        Useful side in target pixels, rounded up to the alignment; None: the largest that the memory allows.
    """
    alignment = config.size_multiple
    margins = tuple(
        margin_of(margin, exact, scale, branch.stride)
        for exact, scale, branch in zip(exact_margins, config.ratios, config.branches, strict=True)
    )
    size = round_up(tile, alignment) if tile else _best_tile(config, margins, window, batch)
    coarse = tuple(round_up(size / min(float(scale), 1.0), alignment) for scale in config.ratios)
    return Plan(
        window=(window.y, window.x, window.height, window.width),
        alignment=alignment,
        tile=size,
        block=max(size * ceil(batch**0.5), *coarse),
        coarse_tiles=coarse,
        margins=margins,
        batch=batch,
        device=device,
        threads=threads,
    )


def _best_tile(config: ModelConfig, margins: tuple[int, ...], window: Window, batch: int) -> int:
    """The largest tile that fits the memory, in whole chunks where it can be; large tiles waste least on margins."""
    alignment = config.size_multiple
    finest = max(1.0, max(float(s) for s in config.ratios))
    side = (MEMORY / batch / bytes_per_pixel(config)) ** 0.5 / finest - 2 * max(margins) / finest
    side = min(side, LARGEST_TILE, round_up(max(window.shape), alignment))
    step = alignment if side < CHUNK else round_up(CHUNK, alignment)
    return max(alignment, int(side // step) * step)

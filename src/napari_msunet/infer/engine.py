"""The exact tiled pass of a multi-scale network over a slide."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_msunet import stopping
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Grid, Window
from napari_msunet.infer.plan import Block, Plan, Tile, cut, ring
from napari_msunet.models import MSUNet
from napari_msunet.slide import Slide


@dataclass(frozen=True)
class TileResult:
    """One computed tile.

    Attributes
    ----------
    tile : Tile
    probabilities : (K+1, h, w) float32 tensor on the CPU
        Of the fused output.
    branches : tuple of (K+1, h, w) float32 tensors
        Of each scale alone; empty unless asked for.
    weights : (k, h, w) float32 tensor, optional
        What the fusion gives to each scale; None unless asked for, or where the fusion has no such weights.
    """

    tile: Tile
    probabilities: Tensor
    branches: tuple[Tensor, ...] = ()
    weights: Tensor | None = None


def pick_device(device: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises
    ------
    ModelError
        If that device is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there[picked.type]:
            raise ModelError(f"The device {device!r} is not available here; use 'auto' or 'cpu', see `doctor`.")
    except (RuntimeError, KeyError):
        raise ModelError(f"{device!r} is no device; give 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'.") from None
    return picked


@contextmanager
def exact_arithmetic(threads: int) -> Iterator[None]:
    """Run torch with this many CPU threads, whose number changes the last bits, and without TF32, whose ten bits of
    precision would break the exactness of tiles on a GPU."""
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if threads != before[0]:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before[0]:
            torch.set_num_threads(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[1:]


def as_input(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """`(h, w, c)` pixels as `(c, h, w)` float32 in 0..1: integers over their largest value, floats as they are."""
    values: npt.NDArray[np.float32] = np.moveaxis(pixels, -1, 0).astype(np.float32)
    if pixels.dtype.kind == "u":
        values /= np.float32(np.iinfo(pixels.dtype).max)
    return values


def check_fits(model: MSUNet, slide: Slide) -> Grid:
    """The target grid of the model on the slide.

    Raises
    ------
    ModelError
        If the slide has other channels than the model.
    MissingMppError
        If the slide's µm per pixel are not known.
    """
    grid = slide.grid(model.config.mpp)
    if slide.shape[2] != model.config.channels:
        raise ModelError(
            f"The slide {slide.path or ''} has {slide.shape[2]} channels ({', '.join(slide.channels)}), the model "
            f"expects {model.config.channels}; take a model trained on such images."
        )
    return grid


class _Pass:
    """A model on a slide under a plan: reads windows of each branch's grid and runs them."""

    def __init__(self, model: MSUNet, slide: Slide, plan: Plan, branches: bool) -> None:
        self.model = model
        self.slide = slide
        self.plan = plan
        self.branches = branches
        self.device = torch.device(plan.device)
        self.scales = model.config.ratios
        target = check_fits(model, slide)
        self.grids = tuple(target.scaled(scale) for scale in self.scales)
        self.fine = tuple(i for i, scale in enumerate(self.scales) if scale >= 1)
        self.coarse = tuple(i for i, scale in enumerate(self.scales) if scale < 1)

    def read(self, branch: int, windows: list[Window]) -> Tensor:
        """`(B, C, h, w)` input of a branch: these windows of its grid."""
        stack = np.stack([as_input(self.slide.read_window(self.grids[branch], w)) for w in windows])
        return torch.from_numpy(stack)

    def run(self, branch: int, pixels: Tensor) -> Tensor:
        """A branch's output on its own grid, for a batch of windows with their margins."""
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        return self.model.run_branch(branch, pixels)

    def reads(self, block: Block, skip: Collection[int]) -> list[tuple[int, list[Window]]]:
        """What a block reads, in the order in which it is used: `(branch, windows with margins)`."""
        wanted = []
        for i in self.coarse:
            for piece in cut(block.window, self.plan.coarse_tiles[i]):
                wanted.append((i, [piece.times(self.scales[i]).padded(self.plan.margins[i])]))
        for batch in unfinished(block, skip):
            for i in self.fine:
                wanted.append((i, [t.window.times(self.scales[i]).padded(self.plan.margins[i]) for t in batch]))
        return wanted

    def coarse_maps(self, block: Block, inputs: Iterator[Tensor]) -> dict[int, tuple[Window, Tensor]]:
        """Each coarse branch over the whole block, on its own grid with its ring: `{branch: (window, z)}`."""
        maps = {}
        for i in self.coarse:
            extra, margin = ring(self.scales[i]), self.plan.margins[i]
            whole = block.window.times(self.scales[i]).padded(extra)
            out: Tensor | None = None
            for piece in cut(block.window, self.plan.coarse_tiles[i]):
                z = self.run(i, next(inputs))
                place = piece.times(self.scales[i])
                if out is None:
                    out = z.new_empty((z.shape[1], *whole.shape))
                part = _own(place, extra, whole)
                y, x = part.slices((place.y - margin, place.x - margin))
                ty, tx = part.slices((whole.y, whole.x))
                out[:, ty, tx] = z[0, :, y, x]
            if out is not None:
                maps[i] = (whole, out)
        return maps

    def tile_batch(
        self, batch: tuple[Tile, ...], maps: dict[int, tuple[Window, Tensor]], inputs: Iterator[Tensor]
    ) -> list[TileResult]:
        """A batch of tiles: the fine branches run, the coarse ones cut out and brought up, all fused."""
        zs: list[Tensor | None] = [None] * len(self.scales)
        for i in self.fine:
            z = self.run(i, next(inputs))
            m = self.plan.margins[i]
            zs[i] = self.model.to_target(i, z[..., m : z.shape[-2] - m, m : z.shape[-1] - m])
        for i, (whole, z) in maps.items():
            extra, scale = ring(self.scales[i]), self.scales[i]
            pieces = []
            for tile in batch:
                y, x = tile.window.times(scale).padded(extra).slices((whole.y, whole.x))
                pieces.append(z[:, y, x])
            up = self.model.to_target(i, torch.stack(pieces))
            crop = extra * scale.denominator // scale.numerator
            zs[i] = up[..., crop : up.shape[-2] - crop, crop : up.shape[-1] - crop]
        found = [z for z in zs if z is not None]
        fused = torch.softmax(self.model.combine(found).float(), 1).cpu()
        alone = [torch.softmax(self.model.class_logits(z).float(), 1).cpu() for z in found] if self.branches else []
        shares = self.model.fusion_weights(found) if self.branches else None
        shares = None if shares is None else shares.float().cpu()
        return [
            TileResult(t, fused[n], tuple(a[n] for a in alone), None if shares is None else shares[n])
            for n, t in enumerate(batch)
        ]


def _own(place: Window, extra: int, whole: Window) -> Window:
    """What a coarse tile writes into the map: its own pixels, and its ring only where the map ends."""
    around = place.padded(extra)
    start = [a if a == edge else p for a, p, edge in ((around.y, place.y, whole.y), (around.x, place.x, whole.x))]
    stop = [a if a == edge else p for a, p, edge in zip(around.stop, place.stop, whole.stop, strict=True)]
    return Window.between((start[0], start[1]), (stop[0], stop[1]))


def unfinished(block: Block, done: Collection[int]) -> list[tuple[Tile, ...]]:
    """The block's batches with a tile that is not done; a batch is always computed whole, so its bytes are the same."""
    return [batch for batch in block.batches if any(t.index not in done for t in batch)]


def run_plan(
    model: MSUNet, slide: Slide, plan: Plan, done: Collection[int] = (), branches: bool = False
) -> Iterator[list[TileResult]]:
    """Compute a plan's tiles, batch by batch, in the plan's order.

    Parameters
    ----------
    model : MSUNet
        In evaluation mode, on the plan's device.
    done : collection of int
        Tiles that need not be computed again. Batches stay as planned.
    branches : bool
        Also give each scale's own probabilities, and the fusion's weights.

    Yields
    ------
    list of TileResult
        The tiles of one batch. Their windows are aligned and may stick out of the wanted ones.
    """
    work = _Pass(model, slide, plan, branches)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader, exact_arithmetic(plan.threads):
        for block in plan.blocks():
            batches = unfinished(block, done)
            if not batches:
                continue
            inputs = _read_ahead(work, block, done, reader)
            with torch.inference_mode():
                maps = work.coarse_maps(block, inputs)
            for batch in batches:
                with torch.inference_mode():
                    results = work.tile_batch(batch, maps, inputs)
                yield results


def _read_ahead(work: _Pass, block: Block, done: Collection[int], reader: ThreadPoolExecutor) -> Iterator[Tensor]:
    """The block's inputs in order, the next one read while the network works on the last; a stop is noticed here."""
    wanted = work.reads(block, done)
    future = reader.submit(work.read, *wanted[0])
    for following in wanted[1:]:
        stopping.check()
        ready = future.result()
        future = reader.submit(work.read, *following)
        yield ready
    yield future.result()

"""The exact tiled pass of one or more multi-scale networks over a slide: reading ahead, pieces, tiles, fusion."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from math import lcm, log
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_msunet import events
from napari_msunet.errors import MsunetError, NotNumbersError
from napari_msunet.geometry import Grid, Window
from napari_msunet.inference.network import EngineNetwork, Variant, exact_arithmetic
from napari_msunet.inference.plan import Plan, Stream, Tile, UnitPlan
from napari_msunet.inference.viewport import CoarseLook, FirstLooks, Piece, ScreenArea, Work, next_batch
from napari_msunet.own_process import Ceiling
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import legacy_scale
from napari_msunet.slide.numbers import Scale, to_unit

# ----------------------------------------------------------------------------------------------------------------------
# Fusing the outputs of branches to the maps of a tile: probabilities, each scale, weights, disagreement, entropy.

ROWS = 128
"""Target rows fused at once on the CPU, so that the channels of a branch never exist whole at full resolution."""

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RequestedMaps:
    """Which maps a tile gives beside its probabilities."""

    branches: bool = False
    weights: bool = False
    disagreement: bool = False
    entropy: bool = False


@dataclass(frozen=True)
class Fused:
    """The maps of a batch of tiles (with a leading axis) or of one tile, float32 on the CPU.

    Attributes
    ----------
    probabilities : (K+1, h, w)
    branches : tuple of (K+1, h, w)
        The probabilities of each scale alone, the mean over an ensemble's models and the variants.
    weights : (k, h, w), optional
        The weights that the fusion gives to the scales; None where it has no such weights.
    disagreement, entropy : (h, w), optional
        0..1.
    """

    probabilities: Map
    branches: tuple[Map, ...] = field(default=())
    weights: Map | None = None
    disagreement: Map | None = None
    entropy: Map | None = None

    def of(self, n: int) -> Fused:
        """The maps of one tile of a batch."""

        def one(values: Map | None) -> Map | None:
            return None if values is None else values[n]

        branches = tuple(branch[n] for branch in self.branches)
        return Fused(self.probabilities[n], branches, one(self.weights), one(self.disagreement), one(self.entropy))


def fuse(
    networks: Sequence[EngineNetwork],
    streams: Sequence[Stream],
    zs: Sequence[Sequence[Tensor]],
    shape: tuple[int, int],
    wanted: RequestedMaps,
) -> Fused:
    """Bring all branches to the target grid and combine them.

    Parameters
    ----------
    zs : for each stream, for each variant a (B, Z, h, w) Tensor
        Outputs on the stream's own grid; those of a coarse stream with its ring.
    shape : tuple of int
        Height and width of the tiles in target pixels.
    """
    step = lcm(*(stream.ratio.denominator for stream in streams))
    on_cpu = zs[0][0].device.type == "cpu"
    rows = -(-ROWS // step) * step if on_cpu else shape[0]
    whole: dict[str, Tensor] = {}
    for top in range(0, shape[0], rows):
        bottom = min(top + rows, shape[0])
        for name, values in _strip(networks, streams, zs, top, bottom, wanted).items():
            place = whole.get(name)
            if place is None:
                place = whole[name] = torch.empty((*values.shape[:-2], *shape), dtype=torch.float32)
            place[..., top:bottom, :] = values
    found = {name: values.numpy() for name, values in whole.items()}
    branches = tuple(found[name] for name in sorted((n for n in found if n.startswith("scale ")), key=_number))
    return Fused(
        found["probabilities"], branches, found.get("weights"), found.get("disagreement"), found.get("entropy")
    )


def _number(name: str) -> int:
    return int(name.split()[1])


def _strip(
    networks: Sequence[EngineNetwork],
    streams: Sequence[Stream],
    zs: Sequence[Sequence[Tensor]],
    top: int,
    bottom: int,
    wanted: RequestedMaps,
) -> dict[str, Tensor]:
    """The maps of some rows, averaged over models and variants."""
    sums: dict[str, Tensor] = {}
    each = wanted.branches or wanted.disagreement
    votes: list[Tensor] = []

    def add(name: str, values: Tensor) -> None:
        sums[name] = sums[name] + values if name in sums else values

    for variant in range(len(zs[0])):
        for n, network in enumerate(networks):
            own = [(stream, z[variant]) for stream, z in zip(streams, zs, strict=True) if stream.model == n]
            if own[0][0].joint:
                up: list[Tensor] = []
                fused, branches = network.joint_split(own[0][1][..., top:bottom, :])
            else:
                up = [_on_target(network, stream, z, top, bottom) for stream, z in own]
                fused = network.combine(up)
                branches = [network.class_logits(z) for z in up] if each else []
            add("probabilities", torch.softmax(fused.float(), 1))
            if each:
                alone = [torch.softmax(z.float(), 1) for z in branches]
                for i, probabilities in enumerate(alone):
                    add(f"scale {i}", probabilities)
                # with injection, the fused output is the only one of the finest scale
                every = bool(up) or len(alone) == len(own[0][0].read)
                votes.append(divergence(alone if every else [torch.softmax(fused.float(), 1), *alone]))
            if wanted.weights and up and (shares := network.fusion_weights(up)) is not None:
                add("weights", shares.float())
    count = len(zs[0]) * len(networks)
    maps = sums if count == 1 else {name: values / count for name, values in sums.items()}
    if wanted.disagreement:
        maps["disagreement"] = torch.stack(votes).mean(0)
    if wanted.entropy:
        maps["entropy"] = entropy(maps["probabilities"]) / log(maps["probabilities"].shape[1])
    return maps if wanted.branches else {k: v for k, v in maps.items() if not k.startswith("scale ")}


def _on_target(network: EngineNetwork, stream: Stream, z: Tensor, top: int, bottom: int) -> Tensor:
    """Some target rows of a branch's output on the target grid."""
    first, last = int(top * stream.ratio), int(bottom * stream.ratio)
    ring = stream.ring
    if not ring:
        return network.to_target(stream.branch, z[..., first:last, :]).contiguous()
    up = network.to_target(stream.branch, z[..., first : last + 2 * ring, :])
    crop = ring * stream.ratio.denominator // stream.ratio.numerator
    return up[..., crop : up.shape[-2] - crop, crop : up.shape[-1] - crop]


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy in nats over the classes, dimension 1: `-sum p ln p`."""
    return -torch.xlogy(probabilities, probabilities).sum(1)


def divergence(alone: Sequence[Tensor]) -> Tensor:
    """Jensen-Shannon divergence of the branches' probabilities over ln(k), 0..1.

    References
    ----------
    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37(1), 1991: the entropy of the
    mean less the mean of the entropies, at most ln(k) for k distributions.
    """
    if len(alone) == 1:  # a single scale cannot disagree
        return torch.zeros_like(alone[0][:, 0])
    mean = torch.stack(list(alone)).mean(0)
    difference = entropy(mean) - torch.stack([entropy(p) for p in alone]).mean(0)
    return (difference / log(len(alone))).clamp_(0, 1)


# ----------------------------------------------------------------------------------------------------------------------
# The engine, which runs the passes of a plan and gives the maps of each tile.

AHEAD = 1
"""Steps whose pixels are read while the network works on an earlier one."""

HELD = 300_000_000
"""Most bytes of pieces that wait for their tiles; beyond it, the oldest are dropped and computed again later."""

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class TileResult:
    """One computed tile: its maps, or the reason why it could not be computed."""

    tile: Tile
    maps: Fused | None
    failed: str | None = None


@dataclass
class EngineStep:
    """One step of the network: a piece (with `look`, to be shown alone), or a batch of tiles, whose `inputs` are
    read."""

    work: Work | None
    piece: Piece | None
    size: tuple[int, int]
    look: bool = False
    inputs: Future[list[list[Tensor]]] = field(init=False)


def as_input(pixels: Pixels, scale: Scale | None = None) -> npt.NDArray[np.float32]:
    """`(h, w, c)` pixels as `(c, h, w)` float32 in 0..1; without a scale, by that of models which keep no range."""
    return to_unit(np.moveaxis(pixels, -1, 0), legacy_scale(pixels.dtype) if scale is None else scale)


class Pass:
    """Networks on a slide under a plan.

    Parameters
    ----------
    networks : sequence of EngineNetwork
        The networks of the ensemble's models, on one device.
    slide : Slide
    plan : Plan
    grid : Grid
        The target grid.
    wanted : RequestedMaps
        Which maps a tile gives.
    variants : sequence of Variant
        The variants of test-time augmentation.
    channels : sequence of int, optional
        The slide's channels for the models.
    bare : int, optional
        Bytes that the process had before the prediction began.
    scales : sequence of Scale, optional
        For each network, how it sees the slide's values as 0..1.
    """

    def __init__(
        self,
        networks: Sequence[EngineNetwork],
        slide: Slide,
        plan: Plan,
        grid: Grid,
        wanted: RequestedMaps,
        variants: Sequence[Variant],
        channels: Sequence[int] | None = None,
        bare: int | None = None,
        scales: Sequence[Scale] | None = None,
    ) -> None:
        self.bare = bare
        self.scales = scales or [legacy_scale(slide.dtype)] * len(networks)
        self.networks = networks
        self.slide = slide
        self.plan = plan
        self.grids = {ratio: grid.scaled(ratio) for stream in plan.streams for ratio in stream.read}
        self.pixel = grid.pixel
        self.wanted = wanted
        self.variants = variants
        self.channels = None if channels is None else list(channels)
        self._held: OrderedDict[Piece, tuple[Tensor, ...]] = OrderedDict()
        self._uses: Counter[Piece] = Counter()

    # ------------------------------------------------------------------------------------------------- what is to do

    def works(self, units: Collection[int] | None, done: Collection[int]) -> list[Work]:
        """The batches with a tile that is not done, of some or all units; a batch is always computed whole."""
        found = []
        for number, unit in enumerate(self.plan.units):
            if units is not None and number not in units:
                continue
            for batch in self.plan.batches(unit):
                if any(tile.index not in done for tile in batch):
                    found.append(Work(number, batch, tuple(self._under(number, unit, batch))))
        return found

    def _under(self, number: int, unit: UnitPlan, batch: Sequence[Tile]) -> Iterator[Piece]:
        for s, stream in enumerate(self.plan.streams):
            if stream.in_pieces:
                around = [t.window.times(stream.ratio).padded(stream.ring) for t in batch]
                for n, box in enumerate(unit.pieces[s]):
                    if any(not Window(*box).intersection(w).empty for w in around):
                        yield number, s, n

    # ------------------------------------------------------------------------------------------------------ the passes

    def run(self, works: list[Work]) -> Iterator[list[TileResult]]:
        """Compute the batches, beginning with those in view, else in their order."""
        return (found for found in self.run_with_looks(works, None) if not isinstance(found, CoarseLook))

    def run_with_looks(self, works: list[Work], looks: FirstLooks | None) -> Iterator[list[TileResult] | CoarseLook]:
        """As `run`, with first looks at a large view among the results."""
        self._uses.update(piece for work in works for piece in work.pieces)
        waiting: list[EngineStep] = []
        left = OrderedDict((n, work) for n, work in enumerate(works))
        stop = events.current()
        ceiling = Ceiling(self.plan.memory, self.bare)
        with (
            ThreadPoolExecutor(AHEAD, thread_name_prefix="read-ahead") as reader,
            exact_arithmetic(self.plan.threads),
        ):
            while left or waiting:
                while left and len(waiting) < AHEAD + 1:
                    for step in self._next_steps(left, looks, ScreenArea.of(stop.view, self.pixel), waiting):
                        step.inputs = reader.submit(self._read, step)
                        waiting.append(step)
                stop.check()
                step = waiting.pop(0)
                ceiling.make_room(step.size)
                try:
                    results = self._do(step)
                except BaseException:
                    for later in waiting:
                        later.inputs.cancel()
                    raise
                if results is not None:
                    yield results
                elif step.look and step.piece is not None and step.piece in self._held:
                    yield self._look(step.piece)

    def _next_steps(
        self, left: OrderedDict[int, Work], looks: FirstLooks | None, seen: ScreenArea | None, waiting: list[EngineStep]
    ) -> list[EngineStep]:
        """The next steps: a piece that is to be shown alone, else the missing pieces of the next batch, and the
        batch."""
        known = {*self._held, *(step.piece for step in waiting)}
        if looks is not None and self._held_bytes < HELD // 2:
            look = looks.next(left, seen)
            if look is not None:
                return [] if look in known else [EngineStep(None, look, self._box(look).shape, look=True)]
        work = left.pop(next_batch(left, seen))
        pieces = (EngineStep(None, piece, self._box(piece).shape) for piece in work.pieces if piece not in known)
        return [*pieces, EngineStep(work, None, work.windows[0].shape)]

    def _box(self, piece: Piece) -> Window:
        unit, s, number = piece
        return Window(*self.plan.units[unit].pieces[s][number])

    def _do(self, step: EngineStep) -> list[TileResult] | None:
        with torch.inference_mode():
            if step.piece is not None:
                self._do_piece(step.piece, step)
                return None
            work = step.work
            assert work is not None  # for the type checker
            try:
                inputs = step.inputs.result()
                self._ensure(work)
            except NotNumbersError:
                raise  # an image with NaN must be corrected; trying again does not help
            except (MsunetError, OSError) as error:
                self._release(work)
                return [TileResult(tile, None, str(error)) for tile in work.tiles]
            results = self._tiles(work, inputs)
            self._release(work)
            return results

    def _ensure(self, work: Work) -> None:
        """Compute pieces again that could not be read or were dropped for memory; an error is then that of the
        batch."""
        for piece in work.pieces:
            if piece not in self._held:
                self._hold(piece, self._read_piece(piece))

    def _do_piece(self, piece: Piece, step: EngineStep) -> None:
        try:
            inputs = step.inputs.result()
        except (MsunetError, OSError):
            return  # the batch that needs the piece will raise the error
        self._hold(piece, inputs)

    def _hold(self, piece: Piece, inputs: list[list[Tensor]]) -> None:
        stream = self.plan.streams[piece[1]]
        self._held[piece] = self._branch(stream, inputs[0], self._box(piece).shape, stream.kept)
        size = self._held_bytes
        while size > HELD and len(self._held) > len(self.plan.streams) * 4:
            _, dropped = self._held.popitem(last=False)
            size -= sum(z.numel() * z.element_size() for z in dropped)

    @property
    def _held_bytes(self) -> int:
        return sum(z.numel() * z.element_size() for zs in self._held.values() for z in zs)

    def _look(self, piece: Piece) -> CoarseLook:
        """The answer of a piece alone."""
        stream, box = self.plan.streams[piece[1]], self._box(piece)
        with torch.inference_mode():
            z = self._held[piece][0][(..., *Window(stream.ring, stream.ring, *box.shape).slices())]
            probabilities = torch.softmax(self.networks[stream.model].class_logits(z).float(), 1)[0]
        return CoarseLook(box, stream.ratio, probabilities.cpu().numpy())

    def _release(self, work: Work) -> None:
        for piece in work.pieces:
            self._uses[piece] -= 1
            if self._uses[piece] <= 0:
                self._held.pop(piece, None)

    # ------------------------------------------------------------------------------------------------------- reading

    def _read(self, step: EngineStep) -> list[list[Tensor]]:
        if step.piece is not None:
            return self._read_piece(step.piece)
        assert step.work is not None  # for the type checker
        windows = step.work.windows
        return [
            self._inputs(stream, [w.times(stream.ratio) for w in windows])
            for stream in self.plan.streams
            if not stream.in_pieces
        ]

    def _read_piece(self, piece: Piece) -> list[list[Tensor]]:
        return [self._inputs(self.plan.streams[piece[1]], [self._box(piece)])]

    def _inputs(self, stream: Stream, windows: Sequence[Window]) -> list[Tensor]:
        """For each scale that a stream reads `(B, C, h, w)`: windows of the stream's grid, with its margin around."""
        around = [w.padded(stream.margin) for w in windows]
        scale = self.scales[stream.model]
        return [
            self._pixels(ratio, [w.times(ratio / stream.ratio) for w in around], scale, stream.mirror)
            for ratio in stream.read
        ]

    def _pixels(self, ratio: Fraction, windows: Sequence[Window], scale: Scale, mirror: bool) -> Tensor:
        """`(B, C, h, w)`: windows of the grid of a scale."""
        read = partial(self.slide.read_window, self.grids[ratio], mirror=mirror)
        stack = np.stack([as_input(self._channels(read(window)), scale) for window in windows])
        pixels = torch.from_numpy(stack)
        return pixels.pin_memory() if self.plan.device.startswith("cuda") else pixels

    def _channels(self, pixels: Pixels) -> Pixels:
        return pixels if self.channels is None else pixels[..., self.channels]

    # ------------------------------------------------------------------------------------------------- the arithmetic

    def _branch(
        self, stream: Stream, inputs: Sequence[Tensor], shape: tuple[int, int], ring: int
    ) -> tuple[Tensor, ...]:
        """A stream's output for each variant, without its margin except for the ring."""
        network, edge = self.networks[stream.model], stream.margin - ring
        keep = Window(edge, edge, shape[0] + 2 * ring, shape[1] + 2 * ring)
        found = []
        for v in self.variants:
            given, wanted = [v.apply(x) for x in inputs], v.window(keep)
            z = network.run_joint(given, wanted) if stream.joint else network.run(stream.branch, given[0], wanted)
            found.append(v.undo(z))
        return tuple(found)

    def _tiles(self, work: Work, inputs: list[list[Tensor]]) -> list[TileResult]:
        given = iter(inputs)
        zs: list[tuple[Tensor, ...]] = []
        for s, stream in enumerate(self.plan.streams):
            if stream.in_pieces:
                zs.append(tuple(self._patches(s, work, v) for v in range(len(self.variants))))
            else:
                shape = work.windows[0].times(stream.ratio).shape
                zs.append(self._branch(stream, next(given), shape, 0))
        fused = fuse(self.networks, self.plan.streams, zs, work.windows[0].shape, self.wanted)
        return [TileResult(tile, fused.of(n)) for n, tile in enumerate(work.tiles)]

    def _patches(self, s: int, work: Work, variant: int) -> Tensor:
        """The output of a stream in pieces under each tile of a batch, with the ring."""
        stream = self.plan.streams[s]
        return torch.stack([self._patch(s, stream, work, window, variant) for window in work.windows])

    def _patch(self, s: int, stream: Stream, work: Work, window: Window, variant: int) -> Tensor:
        own = window.times(stream.ratio)
        around = own.padded(stream.ring)
        found = [
            (Window(*self.plan.units[unit].pieces[s][n]), self._held[unit, t, n][variant])
            for unit, t, n in work.pieces
            if t == s
        ]
        if stream.blended:
            return _blended(stream, around, found)
        for box, z in found:
            ringed = box.padded(stream.ring)
            if ringed.intersection(around) == around and box.intersection(own) == own and len(found) == 1:
                return z[(0, slice(None), *around.slices((ringed.y, ringed.x)))]
        first = found[0][1]
        out = first.new_zeros((first.shape[1], *around.shape))
        # A pixel belongs to the piece in which it lies; in the ring beyond all pieces, to the last one that reaches it.
        for margin in (stream.ring, 0):
            for box, z in found:
                if margin and box.intersection(own).empty:
                    continue
                part = box.padded(margin).intersection(around)
                if part.empty:
                    continue
                corner = box.y - stream.ring, box.x - stream.ring
                out[(slice(None), *part.slices((around.y, around.x)))] = z[(0, slice(None), *part.slices(corner))]
        return out


def _blended(stream: Stream, around: Window, found: Sequence[tuple[Window, Tensor]]) -> Tensor:
    """A window of overlapping squares, each weighted by a pyramid; all weights at a pixel sum to 1."""
    first = found[0][1]
    out = first.new_zeros((first.shape[1], *around.shape))
    ramp = (torch.arange(stream.side, dtype=torch.float32, device=first.device) + 0.5) / stream.overlap
    ramp = torch.minimum(ramp, ramp.flip(0)).clamp(max=1)
    weight = ramp[:, None] * ramp
    for box, z in found:
        part = box.intersection(around)
        if not part.empty:
            inside = part.slices((box.y, box.x))
            out[(slice(None), *part.slices((around.y, around.x)))] += weight[inside] * z[(0, slice(None), *inside)]
    return out

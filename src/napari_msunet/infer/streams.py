"""The streams of a prediction: the networks that are run over the slide, each on a grid of its own, and how they tile.

A branch with a finite reach tiles exactly with a margin. One whose output depends on the extent of its tile (a sum over
space, say) has no such margin: it is run on overlapping squares of one size that lie on a lattice fixed to the slide,
and blended where they overlap, so that its result depends on the place only, not on the region that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from napari_msunet.config import Margin, ModelConfig
from napari_msunet.geometry import Window, round_up

BLENDED = 1024
"""Largest side of the squares of a network that no margin makes exact, in its own pixels."""


class Stream(BaseModel):
    """One branch of one model of the ensemble, or a model whose branches cannot be parted.

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
        Of the squares of a blended stream, in pixels of the output; 0: it is exact, or nearly, by its margin.
    origin : tuple of int
        Where such a square begins.
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
        """Whether it is a whole model, which gives fused logits on the target grid."""
        return bool(self.inputs)

    @property
    def blended(self) -> bool:
        """Whether its tiles overlap and are blended."""
        return self.side > 0

    @property
    def in_pieces(self) -> bool:
        """Whether it is computed in pieces of its own, which serve several tiles."""
        return self.ratio < 1 or self.blended

    @property
    def ring(self) -> int:
        """Branch pixels around a tile for bringing it up: bilinear needs one, whole target pixels the numerator."""
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
        """Pixels through the network for each target pixel, were no margin needed."""
        return float(sum(s**2 for s in self.read))

    def squares(self, wanted: Sequence[Window]) -> list[Window]:
        """The squares of a blended stream's lattice that touch what is wanted (or its ring), row by row."""
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
        The measured margin in branch pixels (of a joint model one, in target pixels); None: there is none.
    margin : Margin
        What was asked for.
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
            given = {"model": n, "branch": i, "scale": str(scale), "inputs": inputs}
            if exact is not None:
                found.append(Stream(**given, margin=margin_of(margin, exact, scale, stride)))
                continue
            side = max(4 * stride, min(BLENDED, int(limit**0.5)) // (4 * stride) * 4 * stride)
            corner = int(origin[0] * scale), int(origin[1] * scale)
            found.append(Stream(**given, margin=0, side=side, overlap=side // 4, origin=corner))
    return tuple(found)


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

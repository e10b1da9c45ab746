"""What every reader of one file family gives: facts about the image, and its pixels in fixed chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from napari_msunet.config.base import Kind, ValueRange

if TYPE_CHECKING:
    from napari_msunet.slide.samples import Samples

Pixels = npt.NDArray[Any]

CHUNK_SIDE = 512
CHUNK_BYTES = 4 << 20
RGB = ("red", "green", "blue")
WHITE = np.full(3, 255, np.uint8)
"""What transparent colours are laid on."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: its shape, its downsample `(y, x)` and the size of the chunks it is read in."""

    shape: tuple[int, int]
    downsample: tuple[float, float]
    chunk: tuple[int, int]

    @property
    def chunks(self) -> tuple[int, int]:
        """Number of chunk rows and columns."""
        return -(-self.shape[0] // self.chunk[0]), -(-self.shape[1] // self.chunk[1])


@dataclass(frozen=True)
class SlideInfo:
    """What is known of a slide without reading its pixels.

    `background`, `kind` and `value_range` are what the file says of them, None where it says nothing; see
    `slide.numbers`. They come from a guess where a pyramid of ours keeps what was guessed of its source.
    """

    levels: tuple[Level, ...]
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    mpp: tuple[float, float] | None
    """As the file says it, whatever it says: `units.believed` decides."""
    background: Pixels | None
    properties: dict[str, str] = field(default_factory=dict)
    kind: Kind | None = None
    value_range: ValueRange | None = None
    kind_from: Literal["file", "guess", "person"] = "file"
    range_from: Literal["file", "guess", "person"] = "file"
    mpp_given: bool = False
    """Whether a person said it when the file was made: it is a pyramid of ours."""
    notes: tuple[str, ...] = ()
    """Sentences on what was done to the pixels: turned, colours of another coding, the first of several planes."""


class Backend(ABC):
    """One open file. Pixels come in fixed chunks, so a pixel's value cannot depend on what is asked around it."""

    info: SlideInfo
    samples: Samples | None = None
    """How the file codes its pixels; None where they are plain numbers or colours."""
    turned: int = 1
    """The orientation tag that the image is turned by; 1 is none."""
    planes: int = 1
    """Planes of this size in the file (time, depth, pages), of which the first is read."""

    def read_stored(self, level: int, cy: int, cx: int) -> Pixels:
        """The numbers of one chunk as the file holds them, turned as the image is: what masks are made of."""
        return self.read_chunk(level, cy, cx)

    @abstractmethod
    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        """The pixels `(h, w, c)` of one chunk, cropped at the level's edges, in the slide's dtype."""

    def close(self) -> None:
        """Let go of the file."""
        return

    def chunk_box(self, level: int, cy: int, cx: int) -> tuple[int, int, int, int]:
        """First row, first column, height and width of a chunk in pixels of its level."""
        this = self.info.levels[level]
        y, x = cy * this.chunk[0], cx * this.chunk[1]
        return y, x, min(this.chunk[0], this.shape[0] - y), min(this.chunk[1], this.shape[1] - x)


def chunk_size(native: tuple[int, int], shape: tuple[int, int], pixel_bytes: int) -> tuple[int, int]:
    """Whole native chunks, joined until a side has about 512 pixels, no more than a few MiB together."""
    sides = [max(1, min(native[0], shape[0])), max(1, min(native[1], shape[1]))]
    for axis in (1, 0):
        allowed = CHUNK_BYTES // max(1, sides[0] * sides[1] * pixel_bytes)
        times = max(1, min(CHUNK_SIDE // sides[axis], allowed))
        sides[axis] = min(sides[axis] * times, max(shape[axis], 1))
    return sides[0], sides[1]


def level_downsample(full: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """How many level-0 pixels a pixel of a level spans: a whole number where the shape fits one, else the ratio."""
    estimate = max(full) / max(1, shape[full.index(max(full))])
    for factor in sorted({round(estimate), int(estimate), int(estimate) + 1}, key=lambda f: abs(f - estimate)):
        if factor >= 1 and all(n // factor <= s <= -(-n // factor) for n, s in zip(full, shape, strict=True)):
            return float(factor), float(factor)
    return full[0] / shape[0], full[1] / shape[1]


def default_channels(count: int, colour: bool) -> tuple[str, ...]:
    """Names for channels that the file does not name."""
    if colour:
        return RGB
    return ("gray",) if count == 1 else tuple(f"channel {i}" for i in range(count))


def on_background(rgba: npt.NDArray[np.uint8], background: Pixels) -> npt.NDArray[np.uint8]:
    """Colours with (not premultiplied) alpha, laid on the background; alpha is the last channel."""
    alpha = rgba[..., -1:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :-1])
    share = alpha.astype(np.uint32)
    mixed = rgba[..., :-1] * share + background.astype(np.uint32) * (255 - share)
    return ((mixed + 127) // 255).astype(np.uint8)

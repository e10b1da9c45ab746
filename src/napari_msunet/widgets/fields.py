"""What each scale of a model looks at around a place of a slide: arithmetic and pixels, no window."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
import numpy.typing as npt

from napari_msunet.config import BranchConfig, HRNetConfig, LinkNetConfig, ModelConfig, UNetConfig
from napari_msunet.geometry import Grid, Region, Resolution, Window, round_up
from napari_msunet.slide import Slide
from napari_msunet.slide.numbers import is_plain, to_unit, unit_scale

THUMBNAIL_PIXELS = 512
"""A branch's window is shown with at most this many pixels a side."""


@dataclass(frozen=True)
class FieldOfView:
    """What one scale looks at.

    Attributes
    ----------
    name : str
        Such as "scale 1/2".
    resolution : Resolution
        µm per pixel that the branch sees.
    grid : Grid
        Of the branch's own pixels.
    window : Window
        The branch's training window, on `grid`.
    context : Region
        What the prediction at the place depends on, in level-0 pixels.
    """

    name: str
    resolution: Resolution
    grid: Grid
    window: Window
    context: Region

    @property
    def region(self) -> Region:
        """The training window in level-0 pixels."""
        return self.grid.region(self.window)


def fields_at(slide: Slide, config: ModelConfig, place: tuple[float, float], size: int = 256) -> list[FieldOfView]:
    """The fields of view of all scales of a model around a place.

    Parameters
    ----------
    slide : Slide
    config : ModelConfig
        With `field="concentric"` scales below 1 see as many pixels as scale 1, and so more around.
    place : (y, x)
        In level-0 pixels.
    size : int
        Side of the training window in target pixels; rounded up as training does.

    Raises
    ------
    MissingMppError
        If the slide's µm per pixel is not known.
    """
    target = slide.grid(config.resolution)
    side = round_up(size, config.size_multiple) // config.upscale
    found = []
    for ratio, branch in zip(config.ratios, config.branches, strict=True):
        name = f"scale {ratio}"
        grid = target.scaled(ratio)
        concentric = config.field == "concentric" and ratio < 1
        pixels = side if concentric else max(1, round(side * ratio))
        corner = [round(p / s - pixels / 2) for p, s in zip(place, grid.pixel, strict=True)]
        window = Window(corner[0], corner[1], pixels, pixels)
        found.append(
            FieldOfView(
                name, config.resolution.times(1 / float(ratio)), grid, window, _context(grid, place, ratio, branch)
            )
        )
    return found


def receptive_reach(branch: BranchConfig) -> int:
    """Pixels of a branch's own grid on each side that its output at a pixel can depend on, at most; of encoders, about.

    The way of what is outside a window into it: a 3x3 convolution carries it a pixel further, a pooling halves the
    distance (rounded up), and a step up doubles it.
    """
    if isinstance(branch, LinkNetConfig):
        return int(2 ** (branch.depth + 3)) - 1
    if isinstance(branch, HRNetConfig):
        return ceil(branch.stride * (2.5 + 3 * branch.blocks))
    if not isinstance(branch, UNetConfig):
        return 8 * branch.stride
    window = branch.window if branch.attention == "self" else 1
    reach, skips = 2, [2]
    for _ in range(branch.depth):
        reach = -(-reach // 2) + 2
        skips.append(reach)
    skips.pop()
    reach += 4 if branch.context else 0
    while skips:
        reach = max(2 * reach, round_up(skips.pop(), window)) + 2 + (branch.up == "resize")
    return branch.grain * (reach + branch.pyramid)


def thumbnail(slide: Slide, field: FieldOfView) -> npt.NDArray[np.generic]:
    """What a branch sees, `(h, w, c)` in the slide's dtype; of very large windows every n-th pixel."""
    step = -(-max(field.window.shape) // THUMBNAIL_PIXELS)
    if step == 1:
        return slide.read_window(field.grid, field.window)
    coarse = field.grid.scaled(Fraction(1, step))
    window = field.window
    rough = Window(window.y // step, window.x // step, -(-window.height // step), -(-window.width // step))
    return slide.read_window(coarse, rough)


def as_colours(
    pixels: npt.NDArray[np.generic],
    colour: bool,
    value_range: tuple[float, float] = (0, 255),
    limits: list[tuple[float, float]] | None = None,
) -> npt.NDArray[np.uint8]:
    """Pixels as `(h, w, 3)` uint8 to be shown; channels that are no colours are spread from darkest to brightest."""
    if colour and is_plain(pixels.dtype, value_range):
        return np.ascontiguousarray(pixels[..., :3])
    values = pixels[..., :3].astype(np.float32)
    if colour:
        values = to_unit(pixels[..., :3], unit_scale(value_range))
    else:
        limits = limits or channel_limits(pixels)
        for channel, (low, high) in zip(range(values.shape[-1]), limits, strict=False):
            values[..., channel] = (values[..., channel] - low) / max(high - low, 1e-9)
    shown = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    if shown.shape[-1] == 3:
        return np.ascontiguousarray(shown)
    if shown.shape[-1] == 1:
        return np.repeat(shown, 3, axis=-1)
    return np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=-1)


def channel_limits(pixels: npt.NDArray[np.generic]) -> list[tuple[float, float]]:
    """Darkest and brightest of each of the first three channels, without the extreme thousandth."""
    return [
        tuple(float(v) for v in np.percentile(pixels[..., c], (0.1, 99.9))) for c in range(min(3, pixels.shape[-1]))
    ]


def _context(grid: Grid, place: tuple[float, float], ratio: Fraction, branch: UNetConfig) -> Region:
    """A branch's reach around the pixel at a place; one pixel more where its result is interpolated."""
    reach = receptive_reach(branch) + (1 if ratio < 1 else 0)
    corner = [int(np.floor(p / s)) - reach for p, s in zip(place, grid.pixel, strict=True)]
    return grid.region(Window(corner[0], corner[1], 2 * reach + 1, 2 * reach + 1))

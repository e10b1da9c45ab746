"""Random degradation of images: blur, noise and compression, as they would reach every scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, pi

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from napari_msunet.config import Augmentation

Change = Callable[[Tensor], Tensor]

_LEAST_BLUR = 0.05  # pixels; less changes nothing that can be seen
_BLOCK = 8

# The tables of ITU-T T.81, annex K, row by row.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 32),
)
# ITU-T T.871: Y, Cb, Cr of R, G, B.
_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


@dataclass(frozen=True)
class Degradation:
    """Random numbers of a batch, None for a change that is off.

    Attributes
    ----------
    blur : (B,)
        Standard deviation in target pixels.
    noise : (B,)
        Standard deviation, where white is 1.
    quality : (B,)
        JPEG quality, 1 to 100.
    seed : int
        Of the noise itself.
    """

    blur: Tensor | None
    noise: Tensor | None
    quality: Tensor | None
    seed: int


def draw_degradation(count: int, options: Augmentation, generator: torch.Generator) -> Degradation | None:
    """Random numbers for `count` windows; None where all these changes are off."""
    if not (options.blur or options.noise or options.jpeg):
        return None

    def uniform(limit: float) -> Tensor | None:
        return torch.rand(count, generator=generator) * limit if limit else None

    blur, noise, worse = uniform(options.blur), uniform(options.noise), uniform(options.jpeg)
    quality = None if worse is None else (100 * (1 - worse)).clamp(1, 100)
    return Degradation(blur, noise, quality, int(torch.randint(2**31, (1,), generator=generator)))


def degraded(windows: list[Tensor], numbers: Degradation, ratios: Sequence[float], same_field: bool) -> list[Tensor]:
    """Windows of all scales with blur, then noise, then the marks of compression.

    Noise and compression happen to the finest window. A coarser one of the same field gets what is left of them after
    averaging; one of another field gets its own, weaker by its ratio.

    Parameters
    ----------
    windows : list of (B, C, h, w) tensors in 0..1
    ratios : sequence of float
        Pixels of each scale per target pixel.
    same_field : bool
        Whether all windows show the same field.
    """
    if numbers.blur is not None:
        windows = [_blurred(x, numbers.blur.to(x.device) * r) for x, r in zip(windows, ratios, strict=True)]
    finest = max(range(len(windows)), key=lambda i: ratios[i])
    random = torch.Generator(windows[0].device).manual_seed(numbers.seed)
    noise, quality = numbers.noise, numbers.quality
    if noise is not None:
        windows = _spread(windows, finest, ratios, same_field, lambda x: _noise(x, noise, random))
    if quality is not None:
        windows = _spread(windows, finest, ratios, same_field, lambda x: compressed(x, quality) - x)
    return [x.clamp(0, 1) for x in windows]


def _spread(
    windows: list[Tensor], finest: int, ratios: Sequence[float], same_field: bool, change: Change
) -> list[Tensor]:
    """Add a change of the finest pixels to all scales."""
    if not same_field:
        return [x + change(x) * min(1.0, r / ratios[finest]) for x, r in zip(windows, ratios, strict=True)]
    difference = change(windows[finest])
    return [x + interpolate(difference, x.shape[2:], mode="area") for x in windows]


def _noise(x: Tensor, deviation: Tensor, random: torch.Generator) -> Tensor:
    """Gaussian noise of one standard deviation for each window."""
    normal = torch.randn(x.shape, generator=random, device=x.device)
    return normal * deviation.to(x.device)[:, None, None, None]


def _blurred(x: Tensor, deviation: Tensor) -> Tensor:
    """Gaussian blur, a standard deviation in own pixels for each window."""
    most = float(deviation.max())
    if most < _LEAST_BLUR:
        return x
    radius = ceil(3 * most)
    at = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (at / deviation.clamp_min(_LEAST_BLUR)[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(x.shape[1], 0)
    rows = x.reshape(1, -1, *x.shape[2:])
    rows = conv2d(_edged(rows, 0, radius), weights[:, None, None, :], groups=rows.shape[1])
    rows = conv2d(_edged(rows, radius, 0), weights[:, None, :, None], groups=rows.shape[1])
    return rows.reshape(x.shape)


def _edged(x: Tensor, rows: int, columns: int) -> Tensor:
    """The edge's pixels repeated outwards."""
    return pad(x, (columns, columns, rows, rows), mode="replicate")


def compressed(x: Tensor, quality: Tensor) -> Tensor:
    """Images as a JPEG of a quality (1 to 100, for each window) shows them: ITU-T T.81 without subsampling of colour.

    Parameters
    ----------
    x : (B, C, h, w) tensor in 0..1
        C of 3 is RGB; the channels of any other image are compressed each like a grey one.
    quality : (B,) tensor
        As libjpeg has it: the tables are divided by it.
    """
    height, width = x.shape[2:]
    below, right = -height % _BLOCK, -width % _BLOCK
    values = pad(x, (0, right, 0, below), mode="replicate") * 255
    rgb = x.shape[1] == 3
    change = torch.tensor(_YCC, device=x.device)
    values = torch.einsum("cd,bdhw->bchw", change, values) if rgb else values
    offset = torch.tensor([128.0, 0.0, 0.0] if rgb else [128.0], device=x.device)[:, None, None]
    values = _quantised(values - offset, _tables(quality.to(x.device), x.shape[1])) + offset
    values = torch.einsum("cd,bdhw->bchw", torch.linalg.inv(change), values) if rgb else values
    return (values[..., :height, :width] / 255).clamp(0, 1)


def _quantised(values: Tensor, tables: Tensor) -> Tensor:
    """Blocks of 8 x 8 pixels with their cosine coefficients rounded to multiples of the tables `(B, C, 8, 8)`."""
    count, channels, height, width = values.shape
    at = torch.arange(_BLOCK, device=values.device)
    cosine = torch.cos((2 * at + 1) * at[:, None] * pi / (2 * _BLOCK)) * (2 / _BLOCK) ** 0.5
    cosine[0] *= 0.5**0.5
    blocks = values.reshape(count, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(3, 4)
    steps = tables[:, :, None, None]
    blocks = torch.round(cosine @ blocks @ cosine.T / steps) * steps
    pixels: Tensor = cosine.T @ blocks @ cosine
    return pixels.transpose(3, 4).reshape(values.shape)


def _tables(quality: Tensor, channels: int) -> Tensor:
    """The steps of the coefficients at a quality, `(B, C, 8, 8)`."""
    luminance, chrominance = (torch.tensor(t, device=quality.device).float() for t in (_LUMINANCE, _CHROMINANCE))
    tables = torch.stack([luminance, chrominance, chrominance] if channels == 3 else [luminance] * channels)
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    steps: Tensor = ((tables * percent + 50) / 100).floor().clamp(1, 255)
    return steps.reshape(-1, channels, _BLOCK, _BLOCK)

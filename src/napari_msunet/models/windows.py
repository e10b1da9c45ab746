"""Which window each branch looks at for a target window: the sizes and offsets of `field="same"` and `"concentric"`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor, gcd, lcm
from typing import Literal, TypeAlias

from torch import Tensor

from napari_msunet.config import ModelConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window

Field: TypeAlias = Literal["same", "concentric"]
Size: TypeAlias = tuple[int, int]


def concentric_multiple(ratios: Sequence[Fraction]) -> int:
    """Target sizes that are multiples of this can be centred exactly in the windows of all scales below 1."""
    return lcm(*(2 * r.denominator // gcd(2 * r.denominator, r.denominator - r.numerator) for r in ratios if r < 1))


def concentric_offset(size: Size, ratio: Fraction, ratios: Sequence[Fraction]) -> Size:
    """Branch pixels between the corner of a concentric window (as many pixels as the target) and the target's corner.

    Raises
    ------
    ModelError
        If that is no whole number; the message names the multiple that fits.
    """
    offsets = [side * (1 - ratio) / 2 for side in size]
    if any(o.denominator != 1 for o in offsets):
        raise ModelError(
            f"A target window of {size[0]} x {size[1]} pixels cannot be centred in a concentric window of scale "
            f"{ratio}; give sides that are multiples of {concentric_multiple(ratios)}."
        )
    return int(offsets[0]), int(offsets[1])


def is_concentric(ratio: Fraction, field: Field) -> bool:
    """Whether a branch sees more context: only scales below 1 do."""
    return field == "concentric" and ratio < 1


def input_size(size: Size, ratio: Fraction, field: Field) -> Size:
    """Pixels a side that a branch needs for a target of `size`: ``ceil(scale * size)``, or `size` when concentric."""
    return size if is_concentric(ratio, field) else (ceil(size[0] * ratio), ceil(size[1] * ratio))


def target_size(shape: Size, ratio: Fraction, field: Field) -> Size:
    """The target size that an input of this many pixels a side stands for."""
    return shape if is_concentric(ratio, field) else (floor(shape[0] / ratio), floor(shape[1] / ratio))


def input_windows(config: ModelConfig, window: Window, field: Field | None = None) -> list[Window]:
    """The window each branch reads for a target window, each on the grid of its own scale.

    Parameters
    ----------
    config : ModelConfig
        Names the scales.
    window : Window
        On the target grid.
    field : "same" or "concentric", optional
        None: the config's, which is for training; prediction always uses "same".

    Returns
    -------
    list of Window
        One per scale, on ``grid.scaled(ratio)``: the same field of view, or for scales below 1 and "concentric" as many
        pixels as `window` around the same centre.

    Raises
    ------
    ModelError
        If the window does not lie on whole pixels of a branch's grid; the message names the multiple that fits.
    """
    field = config.field if field is None else field
    lines = lcm(*(r.denominator for r in config.ratios))
    windows = []
    for ratio in config.ratios:
        try:
            same = window.times(ratio)
        except ValueError:
            raise ModelError(
                f"{window} does not lie on whole pixels of scale {ratio}; give a corner and sides that are multiples "
                f"of {lines}."
            ) from None
        if is_concentric(ratio, field):
            dy, dx = concentric_offset(window.shape, ratio, config.ratios)
            same = Window(same.y - dy, same.x - dx, *window.shape)
        windows.append(same)
    return windows


def checked_size(config: ModelConfig, inputs: Sequence[Tensor] | Tensor, size: Size | None, field: Field) -> Size:
    """The target size that these inputs of a model stand for.

    Parameters
    ----------
    size : tuple of int, optional
        What it should be; None: from the input at scale 1, else from the one at the largest scale.

    Raises
    ------
    ModelError
        If the inputs do not fit the config, each other or the size.
    """
    ratios = config.ratios
    if isinstance(inputs, Tensor) or len(inputs) != len(ratios) or any(x.dim() != 4 for x in inputs):
        given = (
            "a single tensor" if isinstance(inputs, Tensor) else f"inputs of shape {[tuple(x.shape) for x in inputs]}"
        )
        raise ModelError(
            f"This model was given {given}; it needs a list of tensors (batch, channels, height, width), one for "
            f"each of the scales {', '.join(map(str, ratios))}."
        )
    if size is None:
        known = ratios.index(Fraction(1) if 1 in ratios else max(ratios))
        size = target_size((inputs[known].shape[-2], inputs[known].shape[-1]), ratios[known], field)
    for x, ratio in zip(inputs, ratios, strict=True):
        expected = (len(inputs[0]), config.channels, *input_size(size, ratio, field))
        if tuple(x.shape) != expected or min(expected) < 1:
            raise ModelError(
                f"The input at scale {ratio} has shape {tuple(x.shape)}; for a target of {size[0]} x {size[1]} pixels "
                f'and field "{field}" it needs {expected}, batch and channels first.'
            )
        if is_concentric(ratio, field):
            concentric_offset(size, ratio, ratios)
    return size

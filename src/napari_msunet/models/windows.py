"""Which window each branch looks at for a target window: the sizes and offsets of `field="same"` and `"concentric"`.

Three grids: the target's; each branch's own, `config.network_ratios` pixels for one of the target; and that of its
input, coarser by `config.enlarged` where a stem brings the input up.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor, lcm
from typing import TYPE_CHECKING, Literal, TypeAlias

from napari_msunet.config import ModelConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window
from napari_msunet.models.alignment import alignments

if TYPE_CHECKING:
    from torch import Tensor
Field: TypeAlias = Literal["same", "concentric"]
Size: TypeAlias = tuple[int, int]


def is_concentric(ratio: Fraction, field: Field) -> bool:
    """Whether a branch sees more context: only scales below 1 do."""
    return field == "concentric" and ratio < 1


def concentric_multiple(config: ModelConfig) -> int:
    """Target sizes that are multiples of this can be centred exactly in the windows of all scales below 1."""
    return lcm(*(part.denominator for i in range(len(config.scales)) for part in _whole_parts(config, i)))


def _whole_parts(config: ModelConfig, i: int) -> list[Fraction]:
    """What times a target size must be whole, so that it can be centred in the concentric window of a scale."""
    ratio, meeting, enlarged = config.ratios[i], alignments(config)[i], config.enlarged[i]
    if ratio >= 1:
        return []
    step = lcm(enlarged, meeting.step) if meeting else enlarged
    return [Fraction(1, config.upscale * enlarged), (1 - ratio) / (2 * config.upscale * step)]


def window_multiple(config: ModelConfig) -> int:
    """Training windows are multiples of it: no padding, and with `field="concentric"` centred exactly."""
    if config.field == "concentric":
        return lcm(config.size_multiple, concentric_multiple(config))
    return config.size_multiple


def concentric_offset(config: ModelConfig, i: int, size: Size) -> Size:
    """Pixels of a branch's own grid between the corner of a concentric window and the target's corner.

    Raises
    ------
    ModelError
        If the target cannot be centred on whole pixels; the message names the multiple that fits.
    """
    ratio = config.ratios[i]
    if any((side * part).denominator != 1 for part in _whole_parts(config, i) for side in size):
        raise ModelError(
            f"A target window of {size[0]} x {size[1]} pixels cannot be centred in a concentric window of scale "
            f"{ratio}; give sides that are multiples of {concentric_multiple(config)}."
        )
    y, x = (int(side * (1 - ratio) / (2 * config.upscale)) for side in size)
    return y, x


def input_size(config: ModelConfig, i: int, size: Size, field: Field) -> Size:
    """Pixels a side that a branch reads for a target of `size`.

    ``ceil(input ratio * size)``; concentric as many as the finest branches of scale 1 have.
    """
    if is_concentric(config.ratios[i], field):
        step = config.upscale * config.enlarged[i]
        return size[0] // step, size[1] // step
    ratio = config.input_ratios[i]
    return ceil(size[0] * ratio), ceil(size[1] * ratio)


def target_size(config: ModelConfig, i: int, shape: Size, field: Field) -> Size:
    """The target size that an input of this many pixels a side stands for."""
    if is_concentric(config.ratios[i], field):
        step = config.upscale * config.enlarged[i]
        return shape[0] * step, shape[1] * step
    ratio = config.input_ratios[i]
    return floor(shape[0] / ratio), floor(shape[1] / ratio)


def input_windows(config: ModelConfig, window: Window, field: Field | None = None) -> list[Window]:
    """The window each branch reads for a target window, each on the grid of its own input.

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
        One per scale, on ``grid.scaled(config.input_ratios[i])``: the same field of view, or for scales below 1 and
        "concentric" as many pixels as scale 1 has for `window`, around the same centre.

    Raises
    ------
    ModelError
        If the window does not lie on whole pixels of a branch's grid; the message names the multiple that fits.
    """
    field = config.field if field is None else field
    lines = lcm(*(r.denominator for r in config.input_ratios))
    windows = []
    for i, ratio in enumerate(config.input_ratios):
        try:
            same = window.times(ratio)
        except ValueError:
            raise ModelError(
                f"{window} does not lie on whole pixels of scale {config.ratios[i]}; give a corner and sides that are "
                f"multiples of {lines}."
            ) from None
        if is_concentric(config.ratios[i], field):
            dy, dx = (offset // config.enlarged[i] for offset in concentric_offset(config, i, window.shape))
            same = Window(same.y - dy, same.x - dx, *input_size(config, i, window.shape, field))
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
    if not isinstance(inputs, Sequence) or len(inputs) != len(ratios) or any(x.dim() != 4 for x in inputs):
        given = (
            f"inputs of shape {[tuple(x.shape) for x in inputs]}" if isinstance(inputs, Sequence) else "a single tensor"
        )
        raise ModelError(
            f"This model was given {given}; it needs a list of tensors (batch, channels, height, width), one for "
            f"each of the scales {', '.join(map(str, ratios))}."
        )
    if size is None:
        known = ratios.index(Fraction(1)) if 1 in ratios else config.finest
        size = target_size(config, known, (inputs[known].shape[-2], inputs[known].shape[-1]), field)
    for i, (x, ratio) in enumerate(zip(inputs, ratios, strict=True)):
        expected = (len(inputs[0]), config.channels, *input_size(config, i, size, field))
        if tuple(x.shape) != expected or min(expected) < 1:
            raise ModelError(
                f"The input at scale {ratio} has shape {tuple(x.shape)}; for a target of {size[0]} x {size[1]} pixels "
                f'and field "{field}" it needs {expected}, batch and channels first.'
            )
        if is_concentric(ratio, field):
            concentric_offset(config, i, size)
    return size

"""What follows each slide, taken once: the statistics of layers that normalise by it and the thresholds of classical
methods, from a fixed sample of its tissue, and the constants of the first layer from all its pixels.

The sample depends on the slide and the model only, never on the predicted region or the tiles, and the statistics are
kept with a run, so that the prediction is one function of the whole slide.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_msunet.config import ModelConfig, Normalisation
from napari_msunet.data.normalising import own_normalisation
from napari_msunet.errors import ModelError, SlideError
from napari_msunet.geometry import Grid, Window, round_up
from napari_msunet.inference.engine import as_input
from napari_msunet.models import MSUNet, input_windows
from napari_msunet.models.blocks import Normalise, SlideNorm
from napari_msunet.models.networks import Classical
from napari_msunet.models.windows import window_multiple
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import seen_by
from napari_msunet.slide.numbers import Scale
from napari_msunet.slide.tissue import found_tissue

SAMPLE = 8
"""Number of windows in the sample."""

LARGEST = 256
"""Largest side of the windows in target pixels, unless the model needs more; training windows are about as large."""

_KEPT = 8

Statistics = dict[str, str]
"""For each layer that follows the slide its numbers (of slide normalisation: means and variances), and for `OWN` the
means and deviations of the first layer, as little-endian float32 in base64."""

_found: OrderedDict[tuple[Any, ...], Statistics] = OrderedDict()


OWN = "first layer"
"""The name, among the statistics, of the constants of a model that normalises by a slide's own statistics."""


def by_slide(model: MSUNet) -> bool:
    """Whether a model needs the statistics of the slide that it works on."""
    return bool(layers_of(model)) or model.config.own_statistics is not None


def layers_of(model: MSUNet) -> dict[str, SlideNorm | Classical]:
    """The layers that follow the slide, by name: of slide normalisation, and classical methods fitted to each slide."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SlideNorm) or (isinstance(module, Classical) and module.config.by_slide)
    }


def fit_statistics(
    model: MSUNet, slides: Sequence[Slide], channels: Sequence[int] | None = None, scale: Scale | None = None
) -> Statistics:
    """The statistics of a slide, or of several that belong together.

    A sample of windows goes through the network as one batch, whose statistics each layer uses and keeps, as in
    training. This runs on the CPU in float32, so that the result is the same on any device.

    Parameters
    ----------
    model : MSUNet
        It is not changed.
    slides : sequence of Slide
    channels : sequence of int, optional
        The slides' channels for the model; None: all.
    scale : Scale, optional
        How the model sees the slides' values; None: as it sees each of them.

    Returns
    -------
    dict
        The statistics for `adapted`, as plain JSON values.

    Raises
    ------
    MissingMppError
        If the µm per pixel of a slide are not known.
    SlideError
        If a slide cannot be read.
    """
    scales = [scale or seen_by(model.config.trained_on, slide).scale for slide in slides]
    key = _key(model, slides, channels, scales)
    if key is not None and key in _found:
        _found.move_to_end(key)
        return _found[key]
    copy, found = deepcopy(model).cpu().eval(), {}
    if (how := model.config.own_statistics) is not None:
        constants = own_normalisation(slides, scales, how, channels)
        found[OWN] = _text(np.array([constants.mean, constants.std]))
        _set_constants(copy, constants)
    layers = layers_of(copy)
    if layers:
        _measure(copy, layers, slides, channels, scales)
    found |= {name: _packed(layer) for name, layer in layers.items()}
    if key is not None:
        _found[key] = found
        while len(_found) > _KEPT:
            _found.popitem(last=False)
    return found


def _measure(
    copy: MSUNet,
    layers: Mapping[str, SlideNorm | Classical],
    slides: Sequence[Slide],
    channels: Sequence[int] | None,
    scales: Sequence[Scale],
) -> None:
    """Run a sample of the slides through a model, whose layers keep the statistics."""
    for layer in layers.values():
        layer.follow()
    inputs = _sample(copy.config, slides, _side(copy), channels, scales)
    with torch.no_grad():
        copy.outputs(inputs, field=copy.config.field)


def _key(
    model: MSUNet, slides: Sequence[Slide], channels: Sequence[int] | None, scales: Sequence[Scale]
) -> tuple[Any, ...] | None:
    """The key of these statistics in the cache; None for images in memory, which cannot be recognised."""
    try:
        known = [(slide.identity, slide.mpp, slide.kind, scale) for slide, scale in zip(slides, scales, strict=True)]
    except SlideError:
        return None
    return (model.fingerprint, channels and tuple(channels), *known)


def adapted(model: MSUNet, statistics: Statistics) -> MSUNet:
    """A copy of a model for the slide of these statistics.

    Raises
    ------
    ModelError
        If the statistics are those of another model.
    """
    copy = deepcopy(model)
    layers = layers_of(copy)
    own = {OWN} if model.config.own_statistics is not None else set()
    if layers.keys() | own != statistics.keys():
        raise ModelError(
            f"The statistics of {len(statistics)} layers were given for a model with {len(layers)} layers that follow "
            "the slide; predict again into a new output."
        )
    if own:
        constants = np.frombuffer(base64.b64decode(statistics[OWN]), "<f4").reshape(2, -1).tolist()
        _set_constants(copy, Normalisation(mean=tuple(constants[0]), std=tuple(constants[1])))
    for name, layer in layers.items():
        values = np.frombuffer(base64.b64decode(statistics[name]), "<f4")
        buffers = layer.followed()
        if values.size != sum(buffer.numel() for buffer in buffers):
            raise ModelError(f"The statistics of the layer {name} are another model's; predict into a new output.")
        parts = torch.split(torch.from_numpy(values.copy()), [buffer.numel() for buffer in buffers])
        for buffer, new in zip(buffers, parts, strict=True):
            buffer.copy_(new.view_as(buffer))
    return copy


def _packed(layer: SlideNorm | Classical) -> str:
    return _text(torch.cat([buffer.flatten() for buffer in layer.followed()]).numpy())


def _text(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _set_constants(model: MSUNet, constants: Normalisation) -> None:
    """Give a model's first layer these constants, also in its config, so that it counts as another model."""
    model.config = model.config.model_copy(update={"normalisation": constants})
    model.normalise = Normalise(constants.mean, constants.std).to(model.normalise.mean.device)


def _side(model: MSUNet) -> int:
    """Side of a window of the sample in target pixels, as in training."""
    trained = int(model.summary.get("size", LARGEST))
    return round_up(min(trained, LARGEST), window_multiple(model.config))


def sample_inputs(model: MSUNet, slide: Slide, channels: Sequence[int] | None = None) -> list[Tensor]:
    """A sample of a slide's tissue as a model sees it: for each scale `(n, C, h, w)`, 0..1."""
    scale = seen_by(model.config.trained_on, slide).scale
    return _sample(model.config, [slide], _side(model), channels, [scale])


def _sample(
    config: ModelConfig, slides: Sequence[Slide], side: int, channels: Sequence[int] | None, scales: Sequence[Scale]
) -> list[Tensor]:
    """One batch `(n, C, h, w)` for each scale, 0..1."""
    if config.classical:  # pixels outside of a small image would count as background
        side = min(LARGEST, *(length for slide in slides for length in slide.grid(config.target).shape))
    pairs = list(zip(slides, scales, strict=True))
    if len(pairs) > SAMPLE:
        pairs = [pairs[n * len(pairs) // SAMPLE] for n in range(SAMPLE)]
    batches: list[list[npt.NDArray[np.float32]]] = [[] for _ in config.scales]
    for slide, scale in pairs:
        grid = slide.grid(config.target)
        grids = [grid.scaled(ratio) for ratio in config.input_ratios]
        windows = sample_windows(slide, grid, side, ceil(SAMPLE / len(pairs)), config.size_multiple)
        if config.classical and len(pairs) == 1 and grid.shape[0] * grid.shape[1] <= SAMPLE * LARGEST**2:
            windows = [grid.whole]  # all of a small image is no more work
        for window in windows:
            for batch, own, part in zip(batches, grids, input_windows(config, window), strict=True):
                pixels = slide.read_window(own, part, mirror=config.mirrored)
                batch.append(as_input(pixels if channels is None else pixels[..., list(channels)], scale))
    return [torch.from_numpy(np.stack(batch)) for batch in batches]


def sample_windows(slide: Slide, grid: Grid, side: int, count: int, step: int) -> list[Window]:
    """Windows spread evenly over the tissue of a slide, or over all of it where no tissue is found.

    Parameters
    ----------
    grid : Grid
        The grid of the windows.
    side, step : int
        Side of the windows, and the number of which their corners are multiples; they lie inside a slide that is large
        enough.
    count : int
    """
    if max(grid.shape) <= side:
        return [Window(0, 0, side, side)]
    tissue = found_tissue(slide)
    places = np.argwhere(tissue.mask if tissue.mask.any() else np.ones_like(tissue.mask))
    picked = places[[(2 * n + 1) * len(places) // (2 * count) for n in range(count)]]
    windows = []
    for y, x in tissue.grid.places(picked) / grid.pixel:
        top, left = (_corner(float(at), side, length, step) for at, length in zip((y, x), grid.shape, strict=True))
        windows.append(Window(top, left, side, side))
    return windows


def _corner(middle: float, side: int, length: int, step: int) -> int:
    """The start of a window around a place, on a multiple of `step`, and inside a slide that is large enough."""
    last = max(0, (length - side) // step * step)
    return min(max(round((middle - side / 2) / step) * step, 0), last)

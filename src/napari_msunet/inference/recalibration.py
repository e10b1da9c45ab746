"""Slides unlike those of the training: how far their colours and features are away, and batch normalisation by their
own statistics.

Both look at the sample of windows of the slide's tissue that slide normalisation looks at, and need no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from math import isnan, nan

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from napari_msunet.config import RecalibrateJob
from napari_msunet.errors import ModelError
from napari_msunet.events import Event, Message, Result
from napari_msunet.inference.model_cache import MODEL_CACHE
from napari_msunet.inference.setup import matched_channels
from napari_msunet.inference.slide_statistics import sample_inputs
from napari_msunet.models import MSUNet, save_model
from napari_msunet.slide import Slide

_FOLLOWING = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers whose running statistics follow the batches, but do not influence the training."""

Inputs = Sequence[Sequence[Tensor]]
"""Batches of inputs, each one tensor per scale."""


@torch.no_grad()
def recalibrate(model: MSUNet, batches: Inputs, run: Callable[[MSUNet, Sequence[Tensor]], object]) -> int:
    """Set the running statistics of batch normalisation to the means over these batches, at the present weights.

    In training, statistics lag behind weights that change at each step. So after few steps they do not fit, nor do they
    for averaged weights, with which no batch was ever seen.

    Parameters
    ----------
    model : MSUNet
        The model; its training mode is restored.
    batches : sequence of sequences of tensors
    run : callable
        Runs the model on a batch.

    Returns
    -------
    int
        How many layers have new statistics.
    """
    # Not `torch.optim.swa_utils.update_bn`: it puts the whole model into training mode, dropout too.
    modes = {module: module.training for module in model.modules()}
    layers = [m for m in modes if isinstance(m, _BatchNorm) and type(m) in _FOLLOWING]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over the batches
        layer.train()
    try:
        for inputs in batches:
            run(model, inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(layers)


# ----------------------------------------------------------------------------------------------------------------------
# How far a slide is from those of the training.

UNLIKE_COLOURS = 1.0
"""Distance of the colours, in standard deviations of the training's pixels, from which a slide is unlike."""

UNLIKE_FEATURES = 0.5
"""The same of the features, as a mean over all channels of all layers."""


@dataclass(frozen=True)
class Likeness:
    """How far a slide is from the training slides of a model.

    Attributes
    ----------
    colours : float
        The largest distance of a channel's mean over the slide's tissue from that of the training, in standard
        deviations of the training's pixels; NaN where the model keeps no such constants.
    features : float
        The same of the features before each batch normalisation, as a mean over all channels; NaN without such layers.
    trained, here : tuple of (r, g, b)
        The mean colour in the training and on this slide, 0..1, where it is an image of three channels; else empty.
    """

    colours: float
    features: float
    trained: tuple[float, ...] = ()
    here: tuple[float, ...] = ()

    @property
    def unlike(self) -> bool:
        """Whether the slide is unlike the training slides."""
        return self.colours > UNLIKE_COLOURS or self.features > UNLIKE_FEATURES

    @property
    def words(self) -> str:
        """A sentence about it."""
        parts = []
        if not isnan(self.colours):
            parts.append(f"its colours are {self.colours:.1f}")
        if not isnan(self.features):
            parts.append(f"{'' if parts else 'its '}features {'' if parts else 'are '}{self.features:.1f}")
        if not parts:
            return "This model keeps nothing about its training slides with which a slide could be compared."
        away = f"{' and '.join(parts)} standard deviations from theirs"
        if self.unlike:
            return f"This slide is unlike the training slides: {away}. Look closely at what the model says."
        return f"This slide is like the training slides: {away}."


@torch.no_grad()
def likeness(model: MSUNet, slide: Slide) -> Likeness:
    """Compare a slide with the statistics that a model keeps of its training.

    Raises
    ------
    ModelError, MissingMppError, SlideError
        If the slide does not fit the model, or cannot be read.
    """
    inputs = sample_inputs(model, slide, matched_channels(model, slide))
    colours = nan
    trained: tuple[float, ...] = ()
    here: tuple[float, ...] = ()
    known = model.config.normalisation
    if known is not None and not isinstance(known, tuple) and model.config.own_statistics is None:
        means = inputs[0].mean((0, 2, 3))
        away = (means - torch.tensor(known.mean)).abs() / torch.tensor(known.std)
        if any(known.mean):  # else the constants are none of images
            colours = float(away.max())
            if len(means) == 3:
                trained, here = tuple(known.mean), tuple(round(float(value), 4) for value in means)
    distances: list[Tensor] = []

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)  # for the type checker
        assert layer.running_mean is not None
        assert layer.running_var is not None
        spread = (layer.running_var + layer.eps).sqrt()
        distances.append((given[0].mean((0, 2, 3)) - layer.running_mean).abs() / spread)

    copy = deepcopy(model).cpu().eval()
    for layer in _batch_norms(copy):
        layer.register_forward_pre_hook(look)
    if not model.config.classical:
        copy.outputs(inputs, field=copy.config.field)
    features = float(torch.cat(distances).mean()) if distances else nan
    return Likeness(round(colours, 3), round(features, 3), trained, here)


def recalibrated(model: MSUNet, slide: Slide) -> MSUNet:
    """A copy of a model whose batch normalisation has the statistics of a slide's tissue.

    Raises
    ------
    ModelError
        If the model has no batch normalisation.
    """
    inputs = sample_inputs(model, slide, matched_channels(model, slide))
    copy = deepcopy(model).cpu()
    if not recalibrate(copy, [inputs], lambda network, given: network.outputs(given, field=network.config.field)):
        raise ModelError("This model has no batch normalisation, so there is nothing to adapt to a slide.")
    return copy.eval()


def _batch_norms(model: MSUNet) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and type(m) in _FOLLOWING]


def recalibrate_events(job: RecalibrateJob) -> Iterator[Event]:
    """Run a `RecalibrateJob`; see `napari_msunet.run`."""
    model = MODEL_CACHE.model(job.model)
    with MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        before = likeness(model, slide)
        yield Message(level="warning" if before.unlike else "info", text=before.words)
        values = {**asdict(before), "unlike": before.unlike, "words": before.words}
        if job.out is None:
            yield Result(values=values)
            return
        made = recalibrated(model, slide)
    summary = {**model.summary, "recalibrated": {"model": model.fingerprint, "slide": job.slide.name}}
    job.out.parent.mkdir(parents=True, exist_ok=True)
    save_model(made, job.out, summary)
    yield Result(values=values, files={"model": str(job.out)})

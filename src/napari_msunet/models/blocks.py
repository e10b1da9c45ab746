"""The building blocks of the branch networks, all fully convolutional and fast in channels-last memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config.branches import Norm
from napari_msunet.geometry import mirrored_places
from napari_msunet.models.resample import to_target

# ----------------------------------------------------------------------------------------------------------------------
# Normalisation layers: batch, batch renormalisation, slide. All use fixed statistics for inference, so that tiles are
# exact and the layers can be folded into convolutions.

PLAIN_STEPS = 200
"""Training steps at the beginning in which batch renormalisation is plain batch normalisation."""

RELAXED_STEPS = 1000
"""Training steps after which its limits have reached their final width."""

MOST_R, MOST_D = 3.0, 5.0


class BatchRenorm(nn.BatchNorm2d):
    """Batch renormalisation: in training, the result of the running statistics with the gradients of batch norm.

    The batch's result is multiplied by r = batch deviation / running deviation and d = (batch mean - running mean) /
    running deviation is added, both without gradient and within limits that widen with the steps.

    References
    ----------
    Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models", NeurIPS 2017;
    its limits 3 and 5, but reached after fewer steps, since trainings here are shorter.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def limits(self) -> tuple[Tensor, Tensor]:
        """The largest r and d at this step; tensors, so that the CPU does not wait for a GPU."""
        share = ((self.num_batches_tracked - PLAIN_STEPS) / (RELAXED_STEPS - PLAIN_STEPS)).clamp(0, 1)
        return 1 + share * (MOST_R - 1), share * MOST_D

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, normalised for each channel."""
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
            most_r, most_d = self.limits()
            deviation = torch.sqrt(self.running_var + self.eps)
            r = (torch.sqrt(var + self.eps) / deviation).clamp(1 / most_r, most_r)
            d = ((mean - self.running_mean) / deviation).clamp(-most_d, most_d)
            r, d = r.to(x.dtype).view(1, -1, 1, 1), d.to(x.dtype).view(1, -1, 1, 1)
        plain = F.batch_norm(x, self.running_mean, self.running_var, None, None, True, self.momentum or 0.1, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        return plain * (r * weight) + (d * weight + bias)


class SlideNorm(nn.BatchNorm2d):
    """Slide normalisation: like instance normalisation, but with the statistics of a whole slide.

    In training the statistics are those of the batch, whose windows come from one slide. For a prediction they are
    taken once from a sample of the slide (`inference.slide_statistics`) and become the running statistics; without a
    slide, the running ones are the mean over the training.
    """

    borrowed = False
    """Whether evaluation mode uses the batch's own statistics, as in validation; see `of_the_batch`."""

    def follow(self) -> None:
        """Take the running statistics from the next calls: their mean, since scales may share a network."""
        self.reset_running_stats()
        self.momentum = None
        self.train()

    def followed(self) -> tuple[Tensor, ...]:
        """What `follow` changes."""
        assert self.running_mean is not None  # this and the next for the type checker
        assert self.running_var is not None
        return self.running_mean, self.running_var

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, normalised for each channel."""
        if self.training or not self.borrowed:
            return super().forward(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


@contextmanager
def of_the_batch(module: nn.Module) -> Iterator[None]:
    """A context in which slide normalisation in evaluation mode uses the statistics of each batch and keeps none."""
    layers = [m for m in module.modules() if isinstance(m, SlideNorm)]
    for layer in layers:
        layer.borrowed = True
    try:
        yield
    finally:
        for layer in layers:
            layer.borrowed = False


NORMS: dict[Norm, type[nn.BatchNorm2d]] = {"batch": nn.BatchNorm2d, "renorm": BatchRenorm, "slide": SlideNorm}


def norm_of(name: Norm, channels: int) -> nn.Module:
    """The normalisation layer of this name; of "none" a layer that changes nothing."""
    return NORMS[name](channels) if name != "none" else nn.Identity()


def has_bias(name: Norm) -> bool:
    """Whether the convolution before this normalisation has a bias, which a normalisation would take away again."""
    return name == "none"


# ----------------------------------------------------------------------------------------------------------------------
# A learned enlargement before a network, for scales finer than the image's own.

HIDDEN = 16


class Stem(nn.Module):
    """Enlarges an image: each pixel repeated, plus what two convolutions add to each sub-pixel.

    Parameters
    ----------
    channels : int
        Image channels.
    factor : int
        Factor on the number of pixels a side.

    References
    ----------
    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network", CVPR 2016.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.first = nn.Conv2d(channels, HIDDEN, kernel_size=3, padding=1)
        self.second = nn.Conv2d(HIDDEN, channels * factor**2, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, mode="fan_in", nonlinearity="relu")
        nn.init.normal_(self.second.weight, std=0.02)  # begin close to plain repetition
        for convolution in (self.first, self.second):
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, channels, factor * h, factor * w)`."""
        detail = F.pixel_shuffle(self.second(F.relu(self.first(x))), self.factor)
        return detail + x.repeat_interleave(self.factor, dim=-2).repeat_interleave(self.factor, dim=-1)


class Enlarge(nn.Module):
    """Enlarges an image by bilinear interpolation about pixel centres; nothing is learned.

    Parameters
    ----------
    factor : int
        Factor on the number of pixels a side.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, channels, factor * h, factor * w)`; the outermost pixels repeat."""
        return to_target(x, Fraction(1, self.factor))


# ----------------------------------------------------------------------------------------------------------------------
# Attention inside a branch: local, or in windows of a grid that is fixed to the slide, so that tiles stay exact.

PER_HEAD = 8
"""Channels of a head of self-attention."""


class AttentionGate(nn.Module):
    """Weights skipped features at each pixel by what the coarser level found there.

    Parameters
    ----------
    skipped, coarse : int
        Channels of the skipped and of the coarse features, which have the same resolution.
    norm : str

    References
    ----------
    Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018.
    """

    def __init__(self, skipped: int, coarse: int, norm: Norm) -> None:
        super().__init__()
        inner = max(1, coarse // 2)
        bias = has_bias(norm)
        self.skipped = nn.Sequential(nn.Conv2d(skipped, inner, kernel_size=1, bias=bias), norm_of(norm, inner))
        self.coarse = nn.Sequential(nn.Conv2d(coarse, inner, kernel_size=1, bias=bias), norm_of(norm, inner))
        self.score = nn.Conv2d(inner, 1, kernel_size=1)

    def forward(self, skipped: Tensor, coarse: Tensor) -> Tensor:
        """`skipped`, each pixel times a number of 0..1."""
        hidden = torch.relu(self.skipped(skipped) + self.coarse(coarse))
        return skipped * torch.sigmoid(self.score(hidden))


class PixelAttention(nn.Module):
    """Each pixel weights its own channels.

    References
    ----------
    Zhao et al., "Efficient Image Super-Resolution Using Pixel Attention", ECCV Workshops 2020.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, each number times one of 0..1."""
        return x * torch.sigmoid(self.score(x))


class WindowAttention(nn.Module):
    """Self-attention among the pixels of a window; windows lie on a grid that begins at the map's corner.

    Tiles begin and end on multiples of the branch's stride, and that is a multiple of the window, so the grid is the
    same in every tile.

    Parameters
    ----------
    channels : int
    window : int
        Pixels a side.
    norm : str

    References
    ----------
    Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021; here without the
    shift, with the relative position bias.
    """

    def __init__(self, channels: int, window: int, norm: Norm) -> None:
        super().__init__()
        self.window = window
        self.heads = channels // PER_HEAD if channels % PER_HEAD == 0 else 1
        self.norm = norm_of(norm, channels)
        self.expand = nn.Conv2d(channels, 3 * channels, kernel_size=1, bias=False)
        self.project = nn.Conv2d(channels, channels, kernel_size=1)
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * window - 1) ** 2))

    def _positions(self, device: torch.device) -> Tensor:
        """For each pair of pixels of a window, the index of its bias."""
        place = torch.arange(self.window, device=device)
        y, x = (v.flatten() for v in torch.meshgrid(place, place, indexing="ij"))
        across = 2 * self.window - 1
        return (y[:, None] - y[None] + self.window - 1) * across + x[:, None] - x[None] + self.window - 1

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, sides multiples of the window, plus what the other pixels of its window add to each."""
        batch, channels, height, width = x.shape
        w, rows, columns = self.window, height // self.window, width // self.window
        parts = self.expand(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, rows, w, columns, w)
        q, k, v = parts.permute(1, 0, 4, 6, 2, 5, 7, 3).flatten(5, 6).flatten(1, 3).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[:, self._positions(x.device)].to(q.dtype))
        found = found.reshape(batch, rows, columns, self.heads, w, w, channels // self.heads)
        found = found.permute(0, 3, 6, 1, 4, 2, 5).reshape(batch, channels, height, width)
        added: Tensor = self.project(found.contiguous(memory_format=torch.channels_last))
        return x + added


# ----------------------------------------------------------------------------------------------------------------------
# The convolution blocks of which the networks are made.

FEW = 4
"""Largest number of channels at which convolutions are not split, because nothing would be saved."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Style:
    """How the blocks of a network are made; see `UNetConfig`."""

    norm: Norm = "batch"
    residual: bool = False
    separable: bool = False
    dropout: float = 0.0
    valid: bool = False
    """Without padding: a block takes two pixels off each side."""


PLAIN = Style()


def convolution(inputs: int, outputs: int, style: Style, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """A 3x3 convolution with zero padding (none in the style `valid`), whole or in two parts, and its normalisation.

    References
    ----------
    Separable: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
    """

    def whole(outputs: int, groups: int, bias: bool) -> nn.Conv2d:
        padding = 0 if style.valid else dilation
        return nn.Conv2d(inputs, outputs, 3, stride, padding, dilation=dilation, groups=groups, bias=bias)

    norm, bias = norm_of(style.norm, outputs), has_bias(style.norm)
    if style.separable and inputs > FEW:
        return [whole(inputs, inputs, False), nn.Conv2d(inputs, outputs, kernel_size=1, bias=bias), norm]
    return [whole(outputs, 1, bias), norm]


def activation(style: Style) -> nn.Module:
    """The ReLU between the two convolutions of a block, with the dropout behind it, if there is any.

    In place is safe: the gradient of batch normalisation needs its input, that of ReLU its output.
    """
    relu = nn.ReLU(inplace=True)
    # One layer, so that the weights of the block have the same names with and without dropout.
    return nn.Sequential(relu, nn.Dropout(style.dropout)) if style.dropout else relu


def cropped(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of a map."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def mirrored(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """A map continued by its mirror image, in which the outermost pixels are not repeated.

    It may be continued by more than its own size, where it is mirrored again and again.
    """
    if torch.compiler.is_exporting():  # an exported branch sees tiles, whose margin keeps what is here from the result
        return F.pad(x, (left, right, top, bottom))
    for axis, before, after in ((-2, top, bottom), (-1, left, right)):
        if before or after:
            places = mirrored_places(-before, before + x.shape[axis] + after, x.shape[axis])
            x = x.index_select(axis, torch.from_numpy(places).to(x.device))
    return x


class ConvBlock(nn.Sequential):
    """Twice: 3x3 convolution, normalisation, ReLU. `(B, inputs, h, w) -> (B, outputs, h, w)`, or four pixels less.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after.
    style : Style
    """

    reach = 2
    """The radius of its receptive field, in pixels."""

    def __init__(self, inputs: int, outputs: int, style: Style = PLAIN) -> None:
        first = [*convolution(inputs, outputs, style), activation(style)]
        super().__init__(*first, *convolution(outputs, outputs, style), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """As `ConvBlock`, but the input is added before the last ReLU.

    Parameters
    ----------
    inputs, outputs : int
    style : Style
    stride : int
        With 2 the result has half the resolution.

    References
    ----------
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    reach = 2
    """The radius of its receptive field, in pixels, with `stride=1`."""

    def __init__(self, inputs: int, outputs: int, style: Style = PLAIN, stride: int = 1) -> None:
        super().__init__()
        first = convolution(inputs, outputs, style, stride)
        self.body = nn.Sequential(*first, activation(style), *convolution(outputs, outputs, style))
        self.shortcut: nn.Module = nn.Identity()
        self._stride = stride
        if inputs != outputs or stride > 1:
            whole = nn.Conv2d(inputs, outputs, kernel_size=1, bias=has_bias(style.norm))
            self.shortcut = nn.Sequential(whole, norm_of(style.norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, h, w)` to `(B, outputs, h / stride, w / stride)`."""
        # Every other pixel is taken here instead of by a strided 1x1 convolution, which gives the same: the backward
        # pass of that convolution crashes the process (torch 2.13 on a CPU, channels-last, 8 channels or fewer).
        kept = x if self._stride == 1 else x[..., :: self._stride, :: self._stride]
        found: Tensor = self.body(x)
        return torch.relu(found + self.shortcut(cropped(kept, *found.shape[-2:])))


def block(inputs: int, outputs: int, style: Style) -> nn.Module:
    """The block of this style."""
    return ResidualBlock(inputs, outputs, style) if style.residual else ConvBlock(inputs, outputs, style)


class UpBlock(nn.Module):
    """Doubles the resolution of coarse features, joins them with those of the way down, and convolves both.

    Parameters
    ----------
    inputs, outputs : int
        Channels of the coarse features, and of the skipped ones and the result.
    style : Style
    resize : bool
        Repeat pixels and convolve (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016) instead of
        a transposed convolution.
    gated : bool
        Whether the skipped features are weighted first.
    skips : int
        How many maps of skipped features there are, concatenated along the channels.
    """

    def __init__(
        self, inputs: int, outputs: int, style: Style = PLAIN, resize: bool = False, gated: bool = False, skips: int = 1
    ) -> None:
        super().__init__()
        self.reach = ConvBlock.reach + int(resize)
        """The radius of its receptive field: in pixels of the result, and in coarse pixels below them."""
        self.up: nn.Module = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        if resize:
            self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, kernel_size=3, padding=1))
        self.gate = AttentionGate(skips * outputs, outputs, style.norm) if gated else None
        self.block = block((skips + 1) * outputs, outputs, style)

    def forward(self, coarse: Tensor, skipped: Tensor) -> Tensor:
        """`coarse` is `(B, inputs, h, w)`, `skipped` `(B, skips * outputs, 2h, 2w)`; the result has its size.

        In the valid style `skipped` may be larger, of which the middle counts, and the result is four pixels smaller.
        """
        coarse = self.up(coarse)
        skipped = cropped(skipped, *coarse.shape[-2:])
        if self.gate is not None:
            skipped = self.gate(skipped, coarse)
        features: Tensor = self.block(torch.cat((skipped, coarse), dim=1))
        return features


class Normalise(nn.Module):
    """The first layer of every model: ``(x - mean) / std`` for each channel.

    The constants are part of the config, which is saved with the model, so they are not in the state dict.

    Parameters
    ----------
    mean, std : tuple of float
        One number per channel, for inputs in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            # On the CPU even while a model on the meta device is built (see `files`), since nothing would fill it
            # later.
            tensor = torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` in 0..1 to about zero mean and unit deviation."""
        return (x - self.mean) / self.std


def initialise(module: nn.Module) -> None:
    """Kaiming initialisation of one layer, for `nn.Module.apply`.

    References
    ----------
    He et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # On the meta device there is nothing to fill, and torch would load its compiler to find that out.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    elif isinstance(module, nn.ConvTranspose2d):
        # With stride = kernel each output pixel sees one coarse pixel: its inputs are the coarse channels.
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def arrange(module: ModuleT) -> ModuleT:
    """The same module with its weights, and so all its results, in channels-last memory."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module

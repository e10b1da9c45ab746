"""The pieces branch networks are built from. All are fully convolutional and sit well in channels-last memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from napari_msunet.config.branches import Norm
from napari_msunet.models.attention import AttentionGate
from napari_msunet.models.norms import norm_of

FEW = 4
"""Channels up to which convolutions stay whole: there is nothing to save."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Style:
    """How the blocks of a network are made; see `UNetConfig`."""

    norm: Norm = "batch"
    residual: bool = False
    separable: bool = False


PLAIN = Style()


def convolution(inputs: int, outputs: int, style: Style, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """A 3x3 convolution with zero padding, whole or in two parts, and its normalisation.

    References
    ----------
    Separable: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
    """

    def whole(outputs: int, groups: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)

    norm = norm_of(style.norm, outputs)
    if style.separable and inputs > FEW:
        return [whole(inputs, inputs), nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), norm]
    return [whole(outputs, 1), norm]


class ConvBlock(nn.Sequential):
    """Twice: 3x3 convolution with zero padding, normalisation, ReLU. `(B, inputs, h, w) -> (B, outputs, h, w)`.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after.
    style : Style
    """

    reach = 2
    """Pixels around each of its own that it looks at."""

    def __init__(self, inputs: int, outputs: int, style: Style = PLAIN) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            # In place is safe: the gradient of batch normalisation needs its input, that of ReLU its output.
            layers += [*convolution(channels, outputs, style), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """As `ConvBlock`, but what was given is added before the last ReLU.

    Parameters
    ----------
    inputs, outputs : int
    style : Style
    stride : int
        2: at half the resolution.

    References
    ----------
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    reach = 2
    """Pixels around each of its own that it looks at, with `stride=1`."""

    def __init__(self, inputs: int, outputs: int, style: Style = PLAIN, stride: int = 1) -> None:
        super().__init__()
        first = convolution(inputs, outputs, style, stride)
        self.body = nn.Sequential(*first, nn.ReLU(inplace=True), *convolution(outputs, outputs, style))
        self.shortcut: nn.Module = nn.Identity()
        self._stride = stride
        if inputs != outputs or stride > 1:
            whole = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
            self.shortcut = nn.Sequential(whole, norm_of(style.norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, h, w)` to `(B, outputs, h / stride, w / stride)`."""
        # Taking every other pixel here is what a stride of the 1x1 convolution would do; that one's backward pass ends
        # the process (torch 2.13 on a CPU, channels-last, 8 channels or fewer).
        kept = x if self._stride == 1 else x[..., :: self._stride, :: self._stride]
        return torch.relu(self.body(x) + self.shortcut(kept))


def block(inputs: int, outputs: int, style: Style) -> nn.Module:
    """The block of this style."""
    return ResidualBlock(inputs, outputs, style) if style.residual else ConvBlock(inputs, outputs, style)


class UpBlock(nn.Module):
    """Doubles the resolution of coarse features, joins those of the way down, and works on both.

    Parameters
    ----------
    inputs, outputs : int
        Channels of the coarse features, and of the skipped ones and the result.
    style : Style
    resize : bool
        Repeat pixels and convolve (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016) instead of
        a transposed convolution.
    gated : bool
        Weigh the skipped features first.
    skips : int
        How many maps are skipped to it, one behind the other in the channels.
    """

    def __init__(
        self, inputs: int, outputs: int, style: Style = PLAIN, resize: bool = False, gated: bool = False, skips: int = 1
    ) -> None:
        super().__init__()
        self.reach = ConvBlock.reach + int(resize)
        """Pixels of the result around each of its own that it looks at, and the coarse pixels under them."""
        self.up: nn.Module = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        if resize:
            self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, kernel_size=3, padding=1))
        self.gate = AttentionGate(skips * outputs, outputs, style.norm) if gated else None
        self.block = block((skips + 1) * outputs, outputs, style)

    def forward(self, coarse: Tensor, skipped: Tensor) -> Tensor:
        """`coarse` is `(B, inputs, h, w)`, `skipped` `(B, skips * outputs, 2h, 2w)`; the result has its size."""
        coarse = self.up(coarse)
        if self.gate is not None:
            skipped = self.gate(skipped, coarse)
        features: Tensor = self.block(torch.cat((skipped, coarse), dim=1))
        return features


class Normalise(nn.Module):
    """The first layer of every model: ``(x - mean) / std`` for each channel.

    The constants live in the config, which is saved with the model, so they are no part of the state dict.

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
            # On the CPU even while a model without memory is built (see `files`), since nothing would fill it later.
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
        return  # Without memory there is nothing to fill, and torch would load its compiler to find that out.
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
    """The same module, its weights in channels-last memory, and so all it computes."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module

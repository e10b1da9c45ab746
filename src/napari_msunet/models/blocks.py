"""The pieces branch networks are built from. All are fully convolutional and sit well in channels-last memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ConvBlock(nn.Sequential):
    """Twice: 3x3 convolution with zero padding, batch normalisation, ReLU. `(B, inputs, h, w) -> (B, outputs, h, w)`.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after.
    """

    reach = 2
    """Pixels around each of its own that it looks at."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                # In place is safe: the gradient of batch normalisation needs its input, that of ReLU its output.
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UpBlock(nn.Module):
    """Doubles the resolution of coarse features, joins those of the way down, and works on both.

    Parameters
    ----------
    inputs, outputs : int
        Channels of the coarse features, and of the skipped ones and the result.
    """

    reach = ConvBlock.reach
    """Pixels of the result around each of its own that it looks at, and the coarse pixels under them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        self.block = ConvBlock(2 * outputs, outputs)

    def forward(self, coarse: Tensor, skipped: Tensor) -> Tensor:
        """`coarse` is `(B, inputs, h, w)`, `skipped` `(B, outputs, 2h, 2w)`; the result has the size of `skipped`."""
        features: Tensor = self.block(torch.cat((skipped, self.up(coarse)), dim=1))
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

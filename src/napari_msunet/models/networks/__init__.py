"""The branch networks: `build_network` gives the one of a config, `Branch` adds its head.

Each is a Module with `features` (channels of its result), `grain` (input pixels a side for one of the result) and
`forward`: `(B, C, h, w)`, sides multiples of `config.stride`, to `(B, features, h / grain, w / grain)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from napari_msunet.config.branches import BranchConfig
from napari_msunet.models.networks.classical import Classical
from napari_msunet.models.networks.encoders import EncoderNetwork
from napari_msunet.models.networks.hrnet import HRNet
from napari_msunet.models.networks.linknet import LinkNet
from napari_msunet.models.networks.unet import UNet

# ----------------------------------------------------------------------------------------------------------------------
# The branch networks: `build_network` gives the one of a config.
#
# Each is a Module with `features` (channels of its result), `grain` (input pixels a side for one of the result) and
# `forward`: `(B, C, h, w)`, sides multiples of `config.stride`, to `(B, features, h / grain, w / grain)`.

__all__ = ["BranchNetwork", "Classical", "EncoderNetwork", "HRNet", "LinkNet", "UNet", "build_network"]


class BranchNetwork(Protocol):
    """The interface of a branch's network."""

    features: int
    grain: int

    def __call__(self, x: Tensor) -> Tensor:
        """The last features."""


NETWORKS: dict[str, Callable[..., Any]] = {
    "unet": UNet,
    "linknet": LinkNet,
    "hrnet": HRNet,
    "encoder": EncoderNetwork,
    "classical": Classical,
}


def build_network(config: BranchConfig, channels: int) -> Any:
    """A branch's network with random weights.

    Parameters
    ----------
    config : BranchConfig
        The config, whose `kind` chooses the network.
    channels : int
        Image channels.

    Raises
    ------
    ModelError
        If the network needs a package that is not installed, or an encoder that does not exist.
    """
    return cast("Any", NETWORKS[config.kind](config, channels))


# ----------------------------------------------------------------------------------------------------------------------
# A branch: a network with the head that gives its logits or features.


class SubPixelHead(nn.Module):
    """A transposed convolution whose stride is its kernel, written as a 1x1 convolution to all sub-pixels.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after.
    detail : int
        The stride.
    """

    def __init__(self, inputs: int, outputs: int, detail: int) -> None:
        super().__init__()
        self.detail = detail
        self.weight = nn.Parameter(torch.empty(outputs * detail**2, inputs, 1, 1))
        self.offset = nn.Parameter(torch.zeros(outputs))

    @property
    def bias(self) -> Tensor:
        """The bias of each sub-pixel, which is that of its class."""
        return self.offset.repeat_interleave(self.detail**2)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, h, w)` to `(B, outputs * detail**2, h, w)`."""
        return conv2d(x, self.weight, self.bias)


class Branch(nn.Module):
    """One scale's network and its head, a 1x1 convolution from the last features to class logits.

    Where the logits are `detail` times finer than the features, the head gives the logits of all sub-pixels (Shi et
    al., CVPR 2016), in a published LinkNet with one bias for all sub-pixels of a class.
    """

    def __init__(self, config: BranchConfig, channels: int, outputs: int, detail: int = 1) -> None:
        super().__init__()
        self.network = build_network(config, channels)
        inputs = self.network.features
        self.head: nn.Conv2d | SubPixelHead
        if getattr(config, "layout", "") == "published":
            self.head = SubPixelHead(inputs, outputs, detail)
        else:
            self.head = nn.Conv2d(inputs, outputs * detail**2, kernel_size=1)

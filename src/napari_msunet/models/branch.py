"""A branch: one scale's network and its head."""

from __future__ import annotations

from torch import nn

from napari_msunet.config import BranchConfig
from napari_msunet.models.networks import build_network


class Branch(nn.Module):
    """One scale's network and its head, a 1x1 convolution from the last features to class logits.

    Where the logits are `detail` times finer than the features, the head gives all
    sub-pixels' (Shi et al., CVPR 2016).
    """

    def __init__(self, config: BranchConfig, channels: int, outputs: int, detail: int = 1) -> None:
        super().__init__()
        self.network = build_network(config, channels)
        self.head = nn.Conv2d(self.network.features, outputs * detail**2, kernel_size=1)

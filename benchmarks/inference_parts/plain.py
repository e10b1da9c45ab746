"""The one-scale network as an ordinary torch module: what other tools, in their own environments, are given."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import napari_msunet as ms


class Plain(nn.Module):
    """Images `(B, 3, h, w)` in 0..1, sides multiples of the stride, to class logits `(B, K+1, h, w)`.

    Parameters
    ----------
    path : Path
        Of a model with one scale.
    ours : bool
        Whether weights are in channels-last memory, and so all that is computed; False: as torch makes them.
    """

    def __init__(self, path: str | Path, ours: bool) -> None:
        super().__init__()
        model = ms.load_model(Path(path)).eval()
        self.margin = model.margin
        self.normalise, branch = model.normalise, model.branches[0]
        self.network, self.head = branch.network, branch.head
        self.layout = torch.channels_last if ours else torch.contiguous_format
        self.to(memory_format=self.layout)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.network(self.normalise(x.contiguous(memory_format=self.layout))))

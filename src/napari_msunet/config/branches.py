"""The networks a branch can be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_msunet.config.base import Frozen


class UNetConfig(Frozen):
    """A U-Net branch.

    Attributes
    ----------
    depth : int
        Number of poolings; the stride is ``2 ** depth``.
    width : int
        Channels at the branch's finest resolution; they double at each pooling.
    dropout : float
        Share of channels dropped at the bottleneck while training.
    """

    kind: Literal["unet"] = "unet"
    depth: int = Field(4, ge=1, le=6)
    width: int = Field(16, ge=1, le=256)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def stride(self) -> int:
        """Branch pixels after which the network repeats its phase."""
        return int(2**self.depth)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first; `depth + 1` numbers."""
        return tuple(self.width * 2**level for level in range(self.depth + 1))

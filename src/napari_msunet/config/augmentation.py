"""Random changes of training windows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from napari_msunet.config.base import Frozen, Share


class Augmentation(Frozen):
    """Random changes of training windows, one transform shared by all scales.

    Attributes
    ----------
    flip : bool
        Mirror images and quarter turns.
    rotate : float
        Largest rotation in degrees.
    scale : float
        Largest change of size: 0.2 draws from 1/1.2 to 1.2.
    brightness, contrast, stain : float
        Largest relative change; `stain` jitters haematoxylin, eosin and residual (RGB only).
    """

    flip: bool = True
    rotate: Annotated[float, Field(ge=0, le=180)] = 180.0
    scale: Annotated[float, Field(ge=0, le=1)] = 0.2
    brightness: Share = 0.1
    contrast: Share = 0.1
    stain: Share = 0.1

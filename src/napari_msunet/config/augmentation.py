"""Random changes of training windows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from napari_msunet.config.base import Frozen, Share

Half = Annotated[float, Field(ge=0, le=0.5)]


class Augmentation(Frozen):
    """Random changes of training windows, one transform shared by all scales; what is 0 is left out and costs nothing.

    Attributes
    ----------
    flip : bool
        Mirror images and quarter turns.
    rotate : float
        Largest rotation in degrees.
    scale : float
        Largest change of size: 0.2 draws from 1/1.2 to 1.2.
    shift : float
        Largest shift, as a share of the window's side.
    shear : float
        Largest shear in degrees.
    elastic : float
        Largest local displacement in target pixels, smooth over several times as many.
    perspective : float
        Largest change of size from the window's middle to its edge, as if it were seen at a slant.
    brightness, contrast : float
        Largest relative change.
    saturation : float
        Largest relative change of how colourful the image is (RGB only).
    stain : float
        Largest relative change of haematoxylin, eosin and residual in optical density (RGB only).
    blur : float
        Largest standard deviation of a Gaussian blur, in target pixels.
    noise : float
        Largest standard deviation of added Gaussian noise, where white is 1.
    jpeg : float
        Strongest JPEG compression: 0.5 goes down to quality 50, 1 to quality 1.
    cutout : float
        Largest side of a square that is hidden and carries no loss, as a share of the window's side.
    cutmix : float
        How often a rectangle of a window, with its truth, is replaced by that of another window of the batch.
    mixup : float
        Largest share of another window of the batch that is blended in; the loss counts both truths by their shares.
    """

    flip: bool = True
    rotate: Annotated[float, Field(ge=0, le=180)] = 180.0
    scale: Annotated[float, Field(ge=0, le=1)] = 0.2
    shift: Half = 0.0
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0
    elastic: Annotated[float, Field(ge=0, le=64)] = 0.0
    perspective: Half = 0.0
    brightness: Share = 0.1
    contrast: Share = 0.1
    saturation: Share = 0.0
    stain: Share = 0.1
    blur: Annotated[float, Field(ge=0, le=8)] = 0.0
    noise: Half = 0.0
    jpeg: Share = 0.0
    cutout: Half = 0.0
    cutmix: Share = 0.0
    mixup: Half = 0.0

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(flip=False, rotate=0, scale=0, brightness=0, contrast=0, stain=0)

"""Maps of the truth that some losses need, computed from it on the CPU: signed distances and border weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from napari_msunet.config import LossConfig
from napari_msunet.models.losses.scene import IGNORED

_FAR = 6.0  # sigmas: there a border weight is 1e-8 of its largest

Floats = npt.NDArray[np.float32]


@dataclass
class Maps:
    """The maps of one batch, for all outputs that are compared with it.

    Attributes
    ----------
    distances : (B, K, H, W) float32 Tensor, optional
    near : (B, H, W) float32 Tensor, optional
    """

    distances: Tensor | None = None
    near: Tensor | None = None

    @classmethod
    def of(cls, target: Tensor, outputs: int, config: LossConfig) -> Maps:
        """What a loss needs of a `(B, H, W)` target with `outputs` = K+1 values."""
        if not config.boundary and not config.border:
            return cls()
        truth = target.cpu().numpy()
        maps = cls()
        if config.boundary:
            distances = [[signed_distance(image == c) for c in range(1, outputs)] for image in truth]
            maps.distances = torch.from_numpy(np.array(distances)).to(target.device)
        if config.border:
            near = [border_weights(image, config.border, config.border_sigma) for image in truth]
            maps.near = torch.from_numpy(np.array(near)).to(target.device)
        return maps


def signed_distance(inside: npt.NDArray[np.bool_]) -> Floats:
    """How far each pixel is from the outline of a shape, in pixels: below zero inside.

    A pixel outside has its distance from the nearest one inside; a pixel inside minus its distance from the nearest
    one outside, plus 1: both are 1 and 0 across the outline. Zero everywhere where there is no shape, or no outside.

    References
    ----------
    Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019.
    """
    if not inside.any() or inside.all():
        return np.zeros(inside.shape, np.float32)
    outer = ndimage.distance_transform_edt(~inside)
    inner = ndimage.distance_transform_edt(inside)
    return np.asarray(np.where(inside, 1 - inner, outer), np.float32)


def border_weights(truth: npt.NDArray[np.integer], weight: float, sigma: float) -> Floats:
    """``weight * exp(-(d1 + d2)^2 / (2 sigma^2))`` on background, 0 elsewhere.

    d1 and d2 are a background pixel's distances from the nearest and the second nearest object, in pixels. Objects are
    connected regions of one class; where there are fewer than two, all weights are 0.

    Parameters
    ----------
    truth : (H, W) integers
        0 background, 1..K classes, 255 ignored.

    References
    ----------
    Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, eq. 2, without its class weights.
    """
    objects = np.zeros(truth.shape, np.int32)
    count = 0
    for value in np.unique(truth[(truth > 0) & (truth != IGNORED)]):
        found, number = ndimage.label(truth == value)
        objects[found > 0] = found[found > 0] + count
        count += number
    nearest = np.full(truth.shape, np.inf, np.float32)
    second = nearest.copy()
    reach = int(np.ceil(_FAR * sigma)) + 1
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        around = tuple(slice(max(0, part.start - reach), part.stop + reach) for part in box)
        distance = ndimage.distance_transform_edt(objects[around] != number).astype(np.float32)
        one, two = nearest[around], second[around]
        second[around] = np.minimum(two, np.maximum(one, distance))
        nearest[around] = np.minimum(one, distance)
    with np.errstate(over="ignore"):
        weights = weight * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.asarray(np.where(truth == 0, weights, 0), np.float32)

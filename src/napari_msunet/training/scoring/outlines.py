"""Scores of outlines: Hausdorff distance and boundary IoU."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

from napari_msunet.constants import IGNORED

OUTLINE_SCORES = ("hausdorff95", "boundary_iou")

Mask = npt.NDArray[np.bool_]


def hausdorff(one: Mask, other: Mask, pixel: tuple[float, float] = (1.0, 1.0), percentile: float = 95.0) -> float:
    """Hausdorff distance between the outlines of two masks, by default its 95th percentile.

    The larger of the two percentiles of the distances from each outline pixel of one mask to the nearest of the other;
    an outline pixel is one of the mask that touches a pixel outside (or the image's edge) by a side.

    Parameters
    ----------
    one, other : (h, w) bool
    pixel : (y, x)
        Sides of a pixel, such as its µm.
    percentile : float
        100: the Hausdorff distance itself.

    Returns
    -------
    float
        In units of `pixel`. NaN where both are empty, infinite where one is.

    References
    ----------
    Huttenlocher et al., "Comparing Images Using the Hausdorff Distance", IEEE TPAMI 15(9), 1993; percentiles of each
    direction as is usual for segmentations (Taha and Hanbury, BMC Medical Imaging 15:29, 2015).
    """
    if not one.any() and not other.any():
        return nan
    if not one.any() or not other.any():
        return float("inf")
    edges = [mask & ~binary_erosion(mask) for mask in (one, other)]
    largest = 0.0
    for start, goal in (edges, edges[::-1]):
        distances = distance_transform_edt(~goal, sampling=pixel)[start]
        largest = max(largest, float(np.percentile(distances, percentile)))
    return largest


def boundary_iou(one: Mask, other: Mask, share: float = 0.02) -> float:
    """IoU of the pixels of two masks near their outlines; it sees errors that the IoU of large objects hides.

    Parameters
    ----------
    one, other : (h, w) bool
    share : float
        How near, as a share of the image's diagonal; at least one pixel.

    Returns
    -------
    float
        NaN where neither has pixels.

    References
    ----------
    Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021.
    """
    width = max(1, round(share * float(np.hypot(*one.shape))))
    bands = [mask & (_inside(mask) <= width) for mask in (one, other)]
    union = int((bands[0] | bands[1]).sum())
    return int((bands[0] & bands[1]).sum()) / union if union else nan


def _inside(mask: Mask) -> npt.NDArray[np.float64]:
    """Pixels from each of the mask's to the nearest outside, which begins beyond the image's edge."""
    distances: npt.NDArray[np.float64] = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return distances


def outline_scores(
    truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], classes: Sequence[str], pixel: tuple[float, float]
) -> dict[str, dict[str, float]]:
    """Both scores of each class of an image.

    Parameters
    ----------
    truth, predicted : (h, w) uint8
        Class numbers; where `truth` is 255 nothing counts.
    pixel : (y, x)
        µm, or pixels where they are not known.

    Returns
    -------
    dict
        By class name, by the names in `OUTLINE_SCORES`.
    """
    known = truth != IGNORED
    found = {}
    for number, name in enumerate(classes, start=1):
        a, b = (truth == number) & known, (predicted == number) & known
        found[name] = {"hausdorff95": hausdorff(a, b, pixel), "boundary_iou": boundary_iou(a, b)}
    return found

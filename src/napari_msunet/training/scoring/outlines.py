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
    """The Hausdorff distance between the outlines of two masks, by default its 95th percentile.

    It is the larger of the two percentiles of the distances from each outline pixel of one mask to the nearest outline
    pixel of the other. An outline pixel belongs to the mask and shares a side with a pixel outside it or the image's
    edge.

    Parameters
    ----------
    one, other : (h, w) bool
    pixel : (y, x)
        Size of a pixel, such as in µm.
    percentile : float
        The percentile; 100 gives the Hausdorff distance itself.

    Returns
    -------
    float
        The distance in units of `pixel`. NaN where both masks are empty, infinite where one is.

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
    """The IoU of the pixels of two masks near their outlines, which shows errors that the IoU of large objects hides.

    Parameters
    ----------
    one, other : (h, w) bool
    share : float
        The distance from the outline, as a share of the image's diagonal; at least one pixel.

    Returns
    -------
    float
        The IoU; NaN where both masks are empty.

    References
    ----------
    Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021.
    """
    width = max(1, round(share * float(np.hypot(*one.shape))))
    bands = [mask & (_inside(mask) <= width) for mask in (one, other)]
    union = int((bands[0] | bands[1]).sum())
    return int((bands[0] & bands[1]).sum()) / union if union else nan


def _inside(mask: Mask) -> npt.NDArray[np.float64]:
    """The distance of each pixel of the mask to the nearest pixel outside; beyond the image's edge is outside."""
    distances: npt.NDArray[np.float64] = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return distances


def outline_scores(
    truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], classes: Sequence[str], pixel: tuple[float, float]
) -> dict[str, dict[str, float]]:
    """Both scores of each class of an image.

    Parameters
    ----------
    truth, predicted : (h, w) uint8
        Class numbers; pixels where `truth` is 255 do not count.
    pixel : (y, x)
        Size of a pixel in µm, or in pixels where µm are not known.

    Returns
    -------
    dict
        The scores by class name, and by the names in `OUTLINE_SCORES`.
    """
    known = truth != IGNORED
    found = {}
    for number, name in enumerate(classes, start=1):
        a, b = (truth == number) & known, (predicted == number) & known
        found[name] = {"hausdorff95": hausdorff(a, b, pixel), "boundary_iou": boundary_iou(a, b)}
    return found

"""Scores of instances: AJI, panoptic quality, object Dice, detection F1."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

INSTANCE_SCORES = ("aji", "pq", "dq", "sq", "object_dice", "detection_f1")

Ids = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Overlaps:
    """How the instances of two images of numbers lie over each other.

    Attributes
    ----------
    truth, predicted : (n,), (m,) int64
        Pixels of each instance, in the order of their numbers.
    pairs : (p, 3) int64
        Index of a true instance, index of a predicted one, pixels in both; each pair that meets once.
    """

    truth: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int64]

    @classmethod
    def of(cls, truth: Ids, predicted: Ids, known: npt.NDArray[np.bool_] | None = None) -> Overlaps:
        """Compare two images of numbers.

        Parameters
        ----------
        truth, predicted : (h, w) integers
            0 is background; numbers need not be consecutive.
        known : (h, w) bool, optional
            Pixels that count; None: all.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"Two images of one shape are needed, not {truth.shape} and {predicted.shape}.")
        if known is not None:
            truth, predicted = np.where(known, truth, 0), np.where(known, predicted, 0)
        names, a = np.unique(truth, return_inverse=True)
        others, b = np.unique(predicted, return_inverse=True)
        a, b = a.ravel(), b.ravel()
        # Column and row 0 stand for the background, also where there is none.
        a, b = a + (names[0] != 0), b + (others[0] != 0)
        rows, columns = int(a.max()) + 1, int(b.max()) + 1
        cells, counts = np.unique(a.astype(np.int64) * columns + b, return_counts=True)
        first, second = cells // columns, cells % columns
        both = (first > 0) & (second > 0)
        return cls(
            np.bincount(first, counts, rows)[1:].astype(np.int64),
            np.bincount(second, counts, columns)[1:].astype(np.int64),
            np.stack([first[both] - 1, second[both] - 1, counts[both]], 1).astype(np.int64),
        )

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """`(p,)` of each pair: pixels in both over pixels in either."""
        t, p, both = self.pairs.T
        found: npt.NDArray[np.float64] = both / (self.truth[t] + self.predicted[p] - both)
        return found


def instance_scores(overlaps: Overlaps) -> dict[str, float]:
    """All scores of one image, by the names in `INSTANCE_SCORES`; NaN where neither image has an instance."""
    quality = panoptic_quality(overlaps)
    return {
        "aji": aggregated_jaccard(overlaps),
        **quality,
        "object_dice": object_dice(overlaps),
        "detection_f1": detection_f1(overlaps),
    }


def aggregated_jaccard(overlaps: Overlaps) -> float:
    """Aggregated Jaccard index: intersections of each true instance with its best match over the unions, everything
    unmatched counted below the line.

    References
    ----------
    Kumar et al., "A Dataset and a Technique for Generalized Nuclear Segmentation for Computational Pathology", IEEE
    Trans. Medical Imaging 36(7), 2017, algorithm 1. A true instance that meets none counts its own pixels.
    """
    if not len(overlaps.truth) and not len(overlaps.predicted):
        return nan
    used = np.zeros(len(overlaps.predicted), bool)
    matched = np.zeros(len(overlaps.truth), bool)
    above = below = 0
    order = np.lexsort((-overlaps.iou, overlaps.pairs[:, 0]))
    for n in order:
        t, p, both = (int(v) for v in overlaps.pairs[n])
        if matched[t]:
            continue  # not its best
        matched[t] = used[p] = True
        above += both
        below += int(overlaps.truth[t] + overlaps.predicted[p]) - both
    below += int(overlaps.truth[~matched].sum()) + int(overlaps.predicted[~used].sum())
    return above / below if below else nan


def panoptic_quality(overlaps: Overlaps, iou: float = 0.5) -> dict[str, float]:
    """Panoptic quality "pq", and its factors: detection "dq" (an F1) and segmentation "sq" (mean IoU of the matches).

    References
    ----------
    Kirillov et al., "Panoptic Segmentation", CVPR 2019: pairs with an IoU above 0.5 match, which is unique.
    """
    values = overlaps.iou
    matches = values > iou
    found, count = int(matches.sum()), len(overlaps.truth) + len(overlaps.predicted)
    if not count:
        return {"pq": nan, "dq": nan, "sq": nan}
    detection = 2 * found / count
    segmentation = float(values[matches].mean()) if found else 0.0
    return {"pq": detection * segmentation, "dq": detection, "sq": segmentation}


def object_dice(overlaps: Overlaps) -> float:
    """Object-level Dice: that of each instance with the one that overlaps it most, weighted by area, from both sides.

    References
    ----------
    Sirinukunwattana et al., "Gland segmentation in colon histology images: The GlaS challenge contest", Medical Image
    Analysis 35, 2017, equation 6.
    """
    if not len(overlaps.truth) and not len(overlaps.predicted):
        return nan
    if not len(overlaps.pairs):
        return 0.0

    def one_side(own: int, sizes: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> float:
        # Of several that overlap equally the first.
        order = np.lexsort((overlaps.pairs[:, 1 - own], -overlaps.pairs[:, 2], overlaps.pairs[:, own]))
        pairs = overlaps.pairs[order]
        pairs = pairs[np.unique(pairs[:, own], return_index=True)[1]]
        dice = 2 * pairs[:, 2] / (sizes[pairs[:, own]] + others[pairs[:, 1 - own]])
        return float((dice * sizes[pairs[:, own]]).sum() / sizes.sum())

    return (one_side(0, overlaps.truth, overlaps.predicted) + one_side(1, overlaps.predicted, overlaps.truth)) / 2


def detection_f1(overlaps: Overlaps, share: float = 0.5) -> float:
    """F1 of finding the instances: a predicted one is right if it covers at least half of a true one, each true one
    being found once.

    References
    ----------
    Sirinukunwattana et al. 2017, as in `object_dice`, section 5.1.
    """
    count = len(overlaps.truth) + len(overlaps.predicted)
    if not count:
        return nan
    pairs = overlaps.pairs
    covered = pairs[pairs[:, 2] >= share * overlaps.truth[pairs[:, 0]]]
    covered = covered[np.argsort(-covered[:, 2], kind="stable")]
    found: set[int] = set()
    used: set[int] = set()
    for t, p, _ in covered.tolist():
        if t not in found and p not in used:
            found.add(t)
            used.add(p)
    return 2 * len(found) / count

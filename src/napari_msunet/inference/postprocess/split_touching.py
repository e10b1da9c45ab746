"""Splitting one connected piece of foreground into instances, which depends on the piece alone, not on its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_filter
from skimage.measure import label
from skimage.segmentation import watershed

Mask = npt.NDArray[np.bool_]
Parts = npt.NDArray[np.int32]

NECK = 0.85
"""Two parts stay separate where the neck between them is under this share of the smaller one's radius."""

SOFT = 1.0
"""Standard deviation in pixels of the Gaussian over the distances, as large as the bumps of a pixel outline."""


@dataclass(frozen=True)
class SplitTouching:
    """How touching objects are split.

    Attributes
    ----------
    spacing : float
        Smallest distance in pixels between two centres; 0: only the neck decides.
    aspect : (y, x)
        Sides of a pixel, of which the shorter one is 1.
    """

    spacing: float = 0.0
    aspect: tuple[float, float] = (1.0, 1.0)

    def by_distance(self, piece: Mask) -> Parts:
        """Watershed on the distance to the background.

        Parts are basins of the smoothed distance. From the widest neck down, two of them are joined where the neck is
        `NECK` of the smaller one's largest distance or more, or the two centres are closer than `spacing`. So the
        shape of objects decides, not their size.

        Parameters
        ----------
        piece : (h, w) bool
            The piece in its bounding box.

        Returns
        -------
        (h, w) int32
            0 outside, parts from 1 in the order of their first pixels.
        """
        framed = np.pad(piece, 1)
        distance = distance_transform_edt(framed, sampling=self.aspect)
        soft = np.where(framed, gaussian_filter(distance, SOFT, mode="constant", truncate=3.0), 0.0)
        tops = (soft == maximum_filter(soft, 3)) & framed
        markers, count = label(tops, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
        if count <= 1:
            return piece.astype(np.int32)
        basins = watershed(-soft, markers, mask=framed)  # type: ignore[no-untyped-call]
        joined = self._joined(basins, soft, count)
        return in_order(joined[basins][1:-1, 1:-1])

    def _joined(self, basins: Parts, soft: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
        """The basin that each basin is joined into."""
        peak = np.zeros(count + 1)
        np.maximum.at(peak, basins.ravel(), soft.ravel())
        centre = _centres(basins, soft, peak) * np.array(self.aspect)
        into = np.arange(count + 1)

        def root(basin: int) -> int:
            while into[basin] != basin:
                into[basin] = into[into[basin]]
                basin = int(into[basin])
            return basin

        for neck, one, other in _necks(basins, soft):
            a, b = root(one), root(other)
            if a == b:
                continue
            close = self.spacing > 0 and float(np.hypot(*(centre[a] - centre[b]))) < self.spacing
            if close or neck >= NECK * min(peak[a], peak[b]):
                low, high = (a, b) if (peak[a], -a) >= (peak[b], -b) else (b, a)
                into[high] = low
        return np.array([root(basin) for basin in range(count + 1)])


def by_markers(piece: Mask, markers: Parts) -> Parts:
    """Let all markers grow over the piece at the same pace, through sides of pixels; 0 where no marker can reach."""
    flat = np.zeros(piece.shape, np.uint8)
    return in_order(watershed(flat, markers, mask=piece))  # type: ignore[no-untyped-call]


def in_order(parts: npt.NDArray[np.integer]) -> Parts:
    """The same parts numbered from 1 in the order of their first pixels."""
    values, first = np.unique(parts, return_index=True)
    first = first[values > 0]
    values = values[values > 0]
    lut = np.zeros(int(parts.max(initial=0)) + 1, np.int32)
    lut[values[np.argsort(first)]] = np.arange(1, len(values) + 1)
    ordered: Parts = lut[parts]
    return ordered


def _centres(basins: Parts, soft: npt.NDArray[np.float64], peak: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The deepest pixel of each basin, or the first of several."""
    y, x = np.nonzero((soft == peak[basins]) & (basins > 0))
    centre = np.zeros((len(peak), 2))
    owner = basins[y, x]
    centre[owner[::-1]] = np.stack([y, x], 1)[::-1]
    return centre


def _necks(basins: Parts, soft: npt.NDArray[np.float64]) -> list[tuple[float, int, int]]:
    """The pairs of basins that touch, each with the height of the pass between them, highest first."""
    keys, heights = [], []
    base = int(basins.max()) + 1
    for a, b in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        at = (basins[a] != basins[b]) & (basins[a] > 0) & (basins[b] > 0)
        one, other = basins[a][at].astype(np.int64), basins[b][at].astype(np.int64)
        keys.append(np.minimum(one, other) * base + np.maximum(one, other))
        heights.append(np.minimum(soft[a][at], soft[b][at]))
    pairs, index = np.unique(np.concatenate(keys), return_inverse=True)
    best = np.zeros(len(pairs))
    np.maximum.at(best, index, np.concatenate(heights))
    order = np.lexsort((pairs, -best))
    return [(float(best[i]), int(pairs[i] // base), int(pairs[i] % base)) for i in order]

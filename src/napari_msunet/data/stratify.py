"""Groups onto sides so that each side has its share of the images and of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]

_DRAWS = 64
_SWAPS = 600
_LACKING = 10.0  # a side without a class is worse than any difference of shares


def assign(content: Table, counts: Sequence[int], seed: int) -> npt.NDArray[np.int64]:
    """The side of each group: random, and then changed until the sides are alike.

    Of some random draws the best is taken, then groups of two sides change places as long as that helps.

    Parameters
    ----------
    content : (groups, columns) array
        What each group holds, such as images and pixels of each class; columns that are zero count nothing.
    counts : sequence of int
        How many groups each side gets; together all. The first side must not lack what another has.
    seed : int

    Returns
    -------
    (groups,) int
    """
    rng = np.random.default_rng(seed)
    total = content.sum(0)
    shares = content[:, total > 0] / total[total > 0]
    wanted = np.asarray(counts, float)[:, None] / sum(counts)
    sides = np.repeat(np.arange(len(counts)), counts)
    draws = [rng.permutation(sides) for _ in range(_DRAWS)]
    badness = [_badness(shares, side, wanted) for side in draws]
    best = int(np.argmin(badness))
    side, bad = draws[best], badness[best]
    if len(side) < 2 or len(counts) < 2:
        return side
    for one, other in rng.integers(len(side), size=(_SWAPS, 2)).tolist():
        if side[one] == side[other]:
            continue
        side[one], side[other] = side[other], side[one]
        now = _badness(shares, side, wanted)
        if now < bad - 1e-9:
            bad = now
        else:
            side[one], side[other] = side[other], side[one]
    return side


def _badness(shares: Table, side: npt.NDArray[np.int64], wanted: Table) -> float:
    """How far the sides are from their shares; what a side lacks counts much."""
    sums = np.zeros((len(wanted), shares.shape[1]))
    np.add.at(sums, side, shares)
    off = np.abs(sums - wanted).sum()
    lacking = sums <= 0
    return float(off + _LACKING * (lacking.sum() + lacking[0].sum()))

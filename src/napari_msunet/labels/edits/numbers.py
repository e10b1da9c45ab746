"""Numbers for new objects that no other object of a store has."""

from __future__ import annotations

import secrets

import numpy as np

from napari_msunet.labels.levels import tiles
from napari_msunet.labels.store import LabelStore

SCANNED = 2**28
"""Stores of at most this many pixels are looked through for the largest number in use."""

_FIRST_DRAWN = 2**31


def new_numbers(store: LabelStore, count: int) -> list[int]:
    """Numbers for new objects of an instance store.

    A store of at most `SCANNED` pixels (16,384 x 16,384) is read, and the numbers follow its largest. In a larger one
    they are drawn at random from 2**31 to 2**32 - 1: with a million objects drawn so before, a clash has a chance of
    1 in 2,000. Numbers that a machine counts up from 1 are never met.

    Parameters
    ----------
    store : LabelStore
        With ``dtype="uint32"``.
    count : int
        How many.
    """
    whole = store.grid.whole
    if whole.height * whole.width > SCANNED:
        return [_FIRST_DRAWN + secrets.randbelow(2**32 - _FIRST_DRAWN) for _ in range(count)]
    largest = max(int(np.max(store.read(tile))) for tile in tiles(whole, 2048))
    return list(range(largest + 1, largest + 1 + count))

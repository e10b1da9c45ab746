"""What a stroke changes, cut into parts for the journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels.levels import tiles

Change = tuple[Window, Any, npt.NDArray[np.bool_] | None]
"""A window, its values (None: what the machine shows) and which of its pixels change."""


def cut(window: Window, values: Any, mask: npt.NDArray[np.bool_] | None, side: int) -> Iterator[Change]:
    """A change in parts of at most `side` pixels, each in one chunk if it is large; none where nothing changes."""
    whole = max(window.shape) <= side
    for part in [window] if whole else tiles(window, side):
        place = part.slices((window.y, window.x))
        part_mask = None if mask is None else mask[place]
        if part_mask is not None:
            if not part_mask.any():
                continue
            part_mask = None if part_mask.all() else part_mask
        part_values = values
        if values is not None and np.ndim(values):
            part_values = values[place]
            if part_mask is None and (part_values == part_values[0, 0]).all():
                part_values = int(part_values[0, 0])
        yield part, part_values, part_mask

"""Arrays that are read when they are needed, as dask arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window

if TYPE_CHECKING:
    import dask.array as da

TILE = 2048
"""Side of a dask chunk: a few hundred to a few thousand of them for the largest slides."""


class WindowArray:
    """An array `y x` or `y x c` behind a function that reads a window of it.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    read : callable
        From a window inside the array to its values.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, read: Callable[[Window], npt.NDArray[Any]]
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.ndim = len(shape)
        self._read = read

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        parts = index if isinstance(index, tuple) else (index,)
        if any(part is Ellipsis for part in parts):
            at = next(i for i, part in enumerate(parts) if part is Ellipsis)
            parts = parts[:at] + (slice(None),) * (self.ndim - len(parts) + 1) + parts[at + 1 :]
        parts += (slice(None),) * (self.ndim - len(parts))
        (y0, y1, y), (x0, x1, x) = _bounds(parts[0], self.shape[0]), _bounds(parts[1], self.shape[1])
        values = self._read(Window(y0, x0, y1 - y0, x1 - x0))
        for axis, part in reversed(list(enumerate((y, x, *parts[2:])))):
            values = values[(slice(None),) * axis + (part,)]
        return values

    def dask(self) -> da.Array:
        """The same as a lazy dask array in chunks of `TILE` pixels, all channels in one."""
        chunks = (TILE, TILE, *self.shape[2:])
        import dask.array as da  # takes a second: not before it is needed

        array: da.Array = da.from_array(self, chunks, name=False, asarray=False, lock=False)  # type: ignore[no-untyped-call]
        return array


def _bounds(part: Any, size: int) -> tuple[int, int, Any]:
    """First and end of what an index takes along an axis, and the index counted from there."""
    if isinstance(part, slice):
        taken = range(size)[part]
        if not taken:
            return 0, 0, slice(0, 0)
        low, high = min(taken[0], taken[-1]), max(taken[0], taken[-1])
        return low, high + 1, slice(None, None, taken.step)
    places = np.asarray(part)
    if places.dtype == np.bool_:
        places = np.flatnonzero(places)
    if places.size == 0:
        return 0, 0, places.astype(np.intp)
    places = np.where(places < 0, places + size, places)
    low = int(places.min())
    return low, int(places.max()) + 1, int(places - low) if places.ndim == 0 else places - low

"""Damaged chunks of label stores and runs: their description, and the choice to refuse or to skip them.

Damaged pixels must never count as background.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Damaged
from napari_msunet.constants import CHUNK
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window

NAMED = 4
"""Most places that are named in a sentence."""

CURE = "copy it again from where it came from, paint over it in napari, or"
AGAIN = "predict again to have it computed again, or"


@dataclass(frozen=True)
class CorruptChunk:
    """A chunk that cannot be read. It reads as 0, or at a coarser level as made again from the finer one.

    Attributes
    ----------
    path : Path
        Its file.
    window : Window
        Its pixels, in level-0 pixels of the store.
    level : int
    message : str
        What is wrong and what to do, in one sentence.
    """

    path: Path
    window: Window
    level: int
    message: str


def corrupt_chunk_at(path: Path, level: int, cy: int, cx: int, message: str) -> CorruptChunk:
    """The damage of one chunk."""
    side = CHUNK << level
    return CorruptChunk(path, Window(cy * side, cx * side, side, side), level, message)


def places(found: Iterable[CorruptChunk], shape: tuple[int, int]) -> list[Window]:
    """The windows of damaged chunks, each once, in reading order, cut to the store."""
    whole = Window(0, 0, *shape)
    windows = {damage.window.intersection(whole) for damage in found}
    return sorted((w for w in windows if not w.empty), key=lambda w: (w.y, w.x))


def in_words(found: Sequence[CorruptChunk], name: str, shape: tuple[int, int]) -> str:
    """Damage in words: ``"1 chunk of labels.ome.zarr is damaged: y 0 to 512, x 0 to 512"``."""
    windows = places(found, shape)
    texts = [f"y {w.y} to {w.stop[0]}, x {w.x} to {w.stop[1]}" for w in windows[:NAMED]]
    if len(windows) > NAMED:
        texts.append(f"and {len(windows) - NAMED} more")
    count = len({damage.path for damage in found})
    many = f"{count} chunks of {name} are" if count > 1 else f"1 chunk of {name} is"
    return f"{many} damaged: {'; '.join(texts)}" if texts else f"{many} damaged ({found[0].message.rstrip('.')})"


def settle(text: str, damaged: Damaged, cure: str = CURE) -> str:
    """The warning about damage that is to be skipped; `StoreError` where it is to be refused.

    Raises
    ------
    StoreError
        If `damaged` is "refuse".
    """
    if damaged == "refuse":
        raise StoreError(f'{text}; {cure} go on without these pixels (damaged="skip").')
    return f"{text}; these pixels are left out of the result."


def mask_of(lost: Iterable[tuple[int, int]], window: Window) -> npt.NDArray[np.bool_] | None:
    """The pixels of a window, in level-0 pixels, that lie in some chunks; None where none do."""
    mask: npt.NDArray[np.bool_] | None = None
    for cy, cx in lost:
        part = Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK).intersection(window)
        if not part.empty:
            if mask is None:
                mask = np.zeros(window.shape, np.bool_)
            mask[part.slices((window.y, window.x))] = True
    return mask

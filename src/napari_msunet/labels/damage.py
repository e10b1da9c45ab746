"""What of a label store cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_msunet.geometry import Window
from napari_msunet.labels.chunks import CHUNK


@dataclass(frozen=True)
class Damage:
    """A chunk that does not decode: it reads as 0, or, at a coarser level, as made again from the finer one.

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


def damage_at(path: Path, level: int, cy: int, cx: int, message: str) -> Damage:
    """The damage of one chunk."""
    side = CHUNK << level
    return Damage(path, Window(cy * side, cx * side, side, side), level, message)

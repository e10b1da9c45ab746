"""How much of each class the images of a side hold: for class weights, and to say what cannot be learned or judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from napari_msunet.data import IGNORED, Item, Split
from napari_msunet.errors import SourceError
from napari_msunet.stopping import check as check_stop

Say = Callable[[str, str], None]


def class_pixels(item: Item, outputs: int) -> npt.NDArray[np.int64]:
    """About how many target pixels of background and of classes 1..K an image's truth holds, `(K+1,)`."""
    values, grid = item.truth.overview()
    counts = np.bincount(values.ravel(), minlength=IGNORED + 1)[:outputs]
    item.forget_mask()
    each = np.prod(grid.pixel) / np.prod(item.grid.pixel)
    return np.asarray(np.ceil(counts * each), np.int64)


def known_only(sides: Split, classes: Sequence[str], say: Say) -> tuple[Split, tuple[int, ...]]:
    """The split without training images of which nothing is known, and the pixels of each class in the others.

    What a side lacks is said.

    Raises
    ------
    SourceError
        If nothing is known of any training image.
    """
    outputs = len(classes) + 1
    counts = []
    for item in sides.train:
        check_stop()
        counts.append(class_pixels(item, outputs))
    known = [bool(c.any()) for c in counts]
    if not any(known):
        raise SourceError(
            f"All pixels of the {len(known)} training images are ignored (not annotated, or of no class of this "
            "model), so there is nothing to learn; annotate some of each class and of background."
        )
    if not all(known):
        names = [item.name for item, k in zip(sides.train, known, strict=True) if not k]
        say("warning", f"Nothing is annotated in {', '.join(names)}: left out.")
    train = np.sum(counts, axis=0)
    validate = np.sum([class_pixels(i, outputs) for i in sides.validate] or [np.zeros(outputs, np.int64)], axis=0)
    _lacking(train, classes, say, "training images, so it cannot be learned; annotate some, or leave the class out")
    if sides.validate and train[1:].any():
        present = [name if train[i] else "" for i, name in enumerate(classes, start=1)]
        _lacking(validate, present, say, "validation images, so its scores say nothing; choose other groups for them")
    if not train[0]:
        say("warning", "No training image has background: the model will see the classes everywhere.")
    kept = [item for item, k in zip(sides.train, known, strict=True) if k]
    return sides._replace(train=kept), tuple(int(n) for n in train)


def _lacking(counts: npt.NDArray[np.int64], classes: Sequence[str], say: Say, where: str) -> None:
    for name, count in zip(classes, counts[1:], strict=True):
        if name and not count:
            say("warning", f"The class {name} has no pixel in the {where}.")

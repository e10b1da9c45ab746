"""The agreement of two people's labels, or of a person's and a model's, on the same slide."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet._io import write_json
from napari_msunet.config import Damaged
from napari_msunet.constants import IGNORED
from napari_msunet.errors import StoreError
from napari_msunet.events import check
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.store import check_store
from napari_msunet.objects.components import connected
from napari_msunet.training.scoring import Overlaps, instance_scores, outline_scores
from napari_msunet.training.scoring.image import WHOLE
from napari_msunet.training.scoring.metrics import Confusion, Matrix, report

SIDE = 2048

Labels = npt.NDArray[np.uint8]


def agreement(
    one: LabelStore | str | Path,
    other: LabelStore | str | Path,
    region: Region | None = None,
    out: Path | None = None,
    damaged: Damaged = "refuse",
) -> dict[str, Any]:
    """Compare two label stores at the pixels that are labelled in both.

    Parameters
    ----------
    one, other : LabelStore or path
        Labels or annotations over the same slide with the same pixels. Classes are matched by name. Pixels that an
        annotation does not label do not count.
    region : Region, optional
        In the stores' level-0 pixels; None: all.
    out : Path, optional
        JSON file for the result.
    damaged : "refuse" or "skip"
        What to do where chunks of a store are damaged: refuse, or leave their pixels out; the result then names them
        ("left_out").

    Returns
    -------
    dict
        Dice, IoU and the other scores by class, with `one` as the truth (Dice, IoU and accuracy are symmetric);
        ``"kappa"``; ``"confusion"`` (rows: `one`); ``"outlines"`` and ``"instances"`` (connected pieces) where the
        region has at most 36 million pixels; ``"classes"``.

    Raises
    ------
    StoreError
        If the stores have different pixels, have no class in common, are no stores of classes, or are damaged.
    OutputError
        If `out` cannot be written.

    References
    ----------
    Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20(1), 1960.
    """
    stores = [s if isinstance(s, LabelStore) else open_labels(s) for s in (one, other)]
    try:
        values = _compared(stores[0], stores[1], region, damaged)
    finally:
        for store, given in zip(stores, (one, other), strict=True):
            if store is not given:
                store.close()
    if out is not None:
        write_json(out, values)
    return values


def _compared(one: LabelStore, other: LabelStore, region: Region | None, damaged: Damaged) -> dict[str, Any]:
    if one.shape != other.shape:
        raise StoreError(
            f"{one.path} has {one.shape[0]} x {one.shape[1]} pixels and {other.path} {other.shape[0]} x "
            f"{other.shape[1]}; give two label stores of the same slide at the same µm per pixel."
        )
    one.check_same_slide(other.info, str(other.path))
    if np.dtype("uint32") in (one.dtype, other.dtype):
        raise StoreError("Instances cannot be compared by class; give two stores of classes.")
    classes = tuple(name for name in one.classes if name in other.classes)
    if not classes:
        raise StoreError(
            f"The two have no class in common ({', '.join(one.classes)}; {', '.join(other.classes)}); rename one."
        )
    whole = Window(0, 0, *one.shape)
    window = whole if region is None else one.grid.centres(region).intersection(whole)
    left_out = [text for store in (one, other) if (text := check_store(store, damaged, window=window))]
    total = Confusion(len(classes) + 1)
    keep = window.height * window.width <= WHOLE
    kept = [np.full(window.shape, IGNORED, np.uint8) for _ in range(2 if keep else 0)]
    tables = [_table(store, classes) for store in (one, other)]
    for part in _parts(window):
        check()
        a, b = (table[store.truth(part)] for table, store in zip(tables, (one, other), strict=True))
        a[b == IGNORED] = IGNORED
        b[a == IGNORED] = 0  # `a` is ignored there, so the pixel does not count
        total.add(torch.from_numpy(b), torch.from_numpy(a))
        for target, values in zip(kept, (a, b), strict=False):
            target[part.slices((window.y, window.x))] = values
    found = report(total.matrix, classes) | {
        "kappa": kappa(total.matrix),
        "confusion": total.matrix.tolist(),
        "labels": ["background", *classes],
    }
    if left_out:
        found["left_out"] = left_out
    if keep and total.matrix.any():
        found |= _shapes(kept[0], kept[1], classes, one.spacing)
    return found


def _table(store: LabelStore, classes: Sequence[str]) -> Labels:
    """A table from a store's values to class numbers; `IGNORED` for unlabelled pixels and classes of one store only."""
    table = np.full(256, IGNORED, np.uint8)
    table[0] = 0
    for value, name in enumerate(store.classes, start=1):
        if name in classes:
            table[value] = classes.index(name) + 1
    return table


def _parts(window: Window) -> list[Window]:
    return [
        Window(y, x, SIDE, SIDE).intersection(window)
        for y in range(window.y, window.stop[0], SIDE)
        for x in range(window.x, window.stop[1], SIDE)
    ]


def _shapes(a: Labels, b: Labels, classes: Sequence[str], pixel: tuple[float, float]) -> dict[str, Any]:
    known = a != IGNORED
    pieces = [connected(np.where(known, values, 0).astype(np.uint8)) for values in (a, b)]
    scores = instance_scores(Overlaps.of(pieces[0], pieces[1]))
    return {
        "outlines": {name: _plain(values) for name, values in outline_scores(a, b, classes, pixel).items()},
        "instances": _plain(scores),
    }


def _plain(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in scores.items()}


def kappa(matrix: Matrix) -> float | None:
    """Cohen's kappa of a confusion matrix: agreement beyond chance; None where chance alone would agree fully."""
    total = matrix.sum()
    if not total:
        return None
    shares = matrix / total
    agreed, chance = float(np.trace(shares)), float(shares.sum(0) @ shares.sum(1))
    value = (agreed - chance) / (1 - chance) if chance < 1 else nan
    return float(value) if np.isfinite(value) else None

"""What becomes of a model on images of other scales than it was trained at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from napari_msunet.data import Item
from napari_msunet.models import MSUNet, build_model
from napari_msunet.models.compose import branch_model
from napari_msunet.train.metrics import Confusion, class_scores
from napari_msunet.train.scoring.image import score_item


@dataclass(frozen=True)
class Row:
    """One output of the model.

    Attributes
    ----------
    name : str
        "fused", or the scale that a branch was trained at.
    model : MSUNet
        It alone.
    scale : float
        At which it was trained, relative to the model's µm per pixel.
    """

    name: str
    model: MSUNet
    scale: float


def rows_of(model: MSUNet) -> list[Row]:
    """The fused output and each branch that has an output of its own."""
    alone = [Row(f"scale {model.config.ratios[i]}", branch_model(model, i), model.config.scales[i]) for i in own(model)]
    return [Row("fused", model, 1.0), *alone]


def own(model: MSUNet) -> Sequence[int]:
    """Branches with an output of their own that can be taken out."""
    return model.config.own if len(model.config.scales) > 1 else ()


def at_scale(row: Row, scale: float) -> MSUNet:
    """The same weights on images of another scale: 0.5 shows them everything half as large as in training."""
    config = row.model.config
    changed = build_model(config.model_copy(update=config.at(config.resolution.times(row.scale / scale))))
    changed.load_state_dict(row.model.state_dict())
    return changed.eval()


def scale_matrix(
    model: MSUNet, items: Sequence[Item], scales: Sequence[float], device: str = "auto"
) -> Iterator[tuple[str, float, npt.NDArray[np.float64]]]:
    """Mean Dice over classes of each output at each test scale, pooled over images, one cell at a time.

    Parameters
    ----------
    scales : sequence of float
        Relative to the model's µm per pixel, such as 0.25 to 2; also ones it was never trained at.

    Yields
    ------
    (str, float, (K,) float64 array)
        Output, test scale, Dice of each class (NaN where it is nowhere).
    """
    for row in rows_of(model):
        for scale in scales:
            moved = at_scale(row, scale)
            total = Confusion(len(model.config.classes) + 1)
            for item in items:
                shown = replace(item, resolution=moved.config.target)
                total.merge(score_item(moved, shown, device).counts["fused"])
                item.release()
            yield row.name, scale, class_scores(total.matrix)["dice"][1:]

"""Comparing a new model with the old one: scores of both on the frozen test images, and the noise of the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet.constants import IGNORED
from napari_msunet.data import Item
from napari_msunet.data.sampling import known_cells
from napari_msunet.errors import ModelError
from napari_msunet.events import Cancelled, Message, Progress, Say, Stop
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.own_grid import on_grid, target_window
from napari_msunet.models import MSUNet, load_model
from napari_msunet.training.held_out import HeldOut
from napari_msunet.training.scoring.metrics import Confusion, Matrix, mean_score
from napari_msunet.training.scoring.uncertainty import paired_interval

FEW = 3
"""With fewer test images, the noise between images cannot be estimated, and windows are drawn instead."""

_CELL = 512


@dataclass(frozen=True)
class ModelComparison:
    """The comparison of a new model with the old one on the frozen test images.

    Attributes
    ----------
    old, new : float
        Pooled Dice of each model, the mean over the classes that both know.
    low, high : float
        The bounds of 95 % of the bootstrap's differences new - old.
    images : int
    units : int
        The number of units that were drawn from: images, or windows where there are fewer than three images.
    """

    old: float
    new: float
    low: float
    high: float
    images: int
    units: int

    @property
    def worse(self) -> bool:
        """Whether the new model is worse beyond the noise."""
        return self.high < 0

    @property
    def better(self) -> bool:
        """Whether the new model is better beyond the noise."""
        return self.low > 0

    def words(self) -> str:
        """The verdict as sentences."""
        change = f"Dice {self.old:.3f} before, {self.new:.3f} now"
        count = f"{self.images} frozen test image{'s' * (self.images != 1)}"
        noise = f"95 % of the noise: {self.low:+.3f} to {self.high:+.3f}"
        few = " Windows of so few images are alike: the real noise is larger." if self.images < FEW else ""
        if self.worse:
            return (
                f"The new model is worse on the {count} ({change}; {noise}): the old model stays the chosen one.{few}"
            )
        if self.better:
            return f"The new model is better on the {count} ({change}; {noise}).{few}"
        return f"On the {count} old and new model do not differ beyond the noise ({change}; {noise}).{few}"

    def values(self) -> dict[str, Any]:
        """Plain JSON values for the result of a run."""
        return {
            "old": round(self.old, 5),
            "new": round(self.new, 5),
            "difference": round(self.new - self.old, 5),
            "interval": [round(self.low, 5), round(self.high, 5)],
            "images": self.images,
            "verdict": "worse" if self.worse else "better" if self.better else "no difference",
            "keep": "old" if self.worse else "new",
            "text": self.words(),
        }


def compare_models(
    old: MSUNet | Path,
    new: MSUNet | Path,
    items: Sequence[Item],
    device: str = "auto",
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> ModelComparison:
    """Score two models on the same images.

    Parameters
    ----------
    old, new : MSUNet or Path
    items : sequence of Item
        Items loaded for the new model's classes. Classes that only the new model knows do not count.
    device : str
    tell : callable
        Takes the number of scored images and their total, counted for both models; it may raise.

    Returns
    -------
    ModelComparison

    Raises
    ------
    ModelError
        If the models have no class in common.
    """
    models = [m if isinstance(m, MSUNet) else load_model(m) for m in (old, new)]
    classes = models[1].config.classes
    shared = [n for n, name in enumerate(classes, 1) if name in models[0].config.classes]
    if not shared:
        raise ModelError(
            f"Old and new model have no class in common ({', '.join(models[0].config.classes)}; {', '.join(classes)}), "
            "so they cannot be compared."
        )
    counts: list[list[list[Matrix]]] = []  # by model, image and window
    for number, model in enumerate(models):
        counts.append([])
        for done, item in enumerate(items):
            counts[-1].append(_count(model, item, classes, device))
            item.release()
            tell(number * len(items) + done + 1, 2 * len(items))
    units = [[_sums(c) if len(items) >= FEW else c for c in of_model] for of_model in counts]
    flat = [np.stack([matrix for image in of_model for matrix in image]) for of_model in units]
    score, low, high = paired_bootstrap(flat[0], flat[1], shared)
    return ModelComparison(score[0], score[1], low, high, len(items), len(flat[0]))


def _sums(matrices: list[Matrix]) -> list[Matrix]:
    return [np.sum(matrices, 0)]


def paired_bootstrap(
    old: npt.NDArray[Any], new: npt.NDArray[Any], classes: Sequence[int]
) -> tuple[tuple[float, float], float, float]:
    """Pooled Dice of two models, and 95 % of the differences when images are drawn again with replacement.

    Parameters
    ----------
    old, new : (n, K+1, K+1) array
        Confusion matrices (rows: the truth) of the same n images.
    classes : sequence of int
        The classes whose Dice is averaged.

    Returns
    -------
    scores : (old, new)
    low, high : float
        2.5 and 97.5 percent of new - old; of one image, their difference.
    """
    dice = partial(mean_score, "dice", classes=classes)
    scores = dice(old.sum(0)), dice(new.sum(0))
    low, high = paired_interval(old, new, dice) or [scores[1] - scores[0]] * 2
    return scores, low, high


def _count(model: MSUNet, item: Item, classes: tuple[str, ...], device: str) -> list[Matrix]:
    """Confusion matrices of the fused output in the windows of an image that have truth, in the order of `classes`."""
    numbers = torch.tensor([0, *(classes.index(c) + 1 if c in classes else 0 for c in model.config.classes)])
    grid = item.slide.grid(model.config.target)
    found: list[Matrix] = []
    for cell in known_cells(item, _CELL):
        own = item.truth.grid.centres(item.grid.region(cell)).intersection(item.truth.grid.whole)
        truth = None if own.empty else item.truth.read(own)
        if truth is None or (truth == IGNORED).all():
            continue
        needed = target_window(own, item.truth.grid, grid)
        maps = predict_image(model, item.slide, window=needed, device=device)
        predicted = on_grid(maps["fused"], needed, grid, item.truth.grid, own).argmax(0)
        counts = Confusion(len(classes) + 1)
        counts.add(numbers[torch.from_numpy(predicted)], torch.from_numpy(truth))
        found.append(counts.matrix)
    return found or [np.zeros((len(classes) + 1,) * 2, np.int64)]


def compared(aside: HeldOut, model: Path, device: torch.device, say: Say, stop: Stop) -> dict[str, Any]:
    """The comparison for the result of a run, under "guard"; empty where the run replaces no model."""
    if aside.replaces is None or not aside.scored:
        return {}

    def tell(done: int, total: int) -> None:
        stop.check()
        say(Progress(done=done, total=total, unit="scorings of test images"))

    try:
        verdict = compare_models(aside.replaces, model, aside.scored, str(device), tell)
    except ModelError as error:
        say(Message(level="warning", text=str(error)))
        return {}
    except Cancelled:
        if stop.keep == "none":
            raise
        say(Message(level="warning", text="Stopped before old and new model were scored on the frozen test images."))
        return {}
    say(Message(level="warning" if verdict.worse else "info", text=verdict.words()))
    return {"guard": verdict.values() | {"old_model": str(aside.replaces)}}

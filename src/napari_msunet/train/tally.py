"""Loss and counts of an epoch, added up batch by batch, and over the processes that train together."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan

import torch
from torch import Tensor

from napari_msunet.data import IGNORED
from napari_msunet.train.metrics import Confusion, class_scores, mean_iou


class Tally:
    """Loss and counts of one split in one epoch, for each output."""

    def __init__(self, names: tuple[str, ...], outputs: int) -> None:
        self.confusions = {name: Confusion(outputs) for name in names}
        self._outputs = outputs
        self._groups: dict[str, dict[str, Confusion]] = {}
        self._losses: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        self._pixels: Tensor | float = 0.0

    def add(
        self,
        losses: dict[str, Tensor],
        logits: dict[str, Tensor],
        target: Tensor,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Count a batch; its loss weighs as many pixels as it has that count. `groups`: that of each window."""
        pixels = (target != IGNORED).sum()
        self._pixels = self._pixels + pixels
        for name, confusion in self.confusions.items():
            self._losses[name] = self._losses[name] + losses[name] * pixels
            found = logits[name].argmax(1)
            confusion.add(found, target)
            for index, group in enumerate(groups or ()):
                own = self._groups.setdefault(group, {}).setdefault(name, Confusion(self._outputs))
                own.add(found[index], target[index])

    def gather(self, device: torch.device) -> None:
        """Add up what all processes counted; each of them must call it once."""
        for name, confusion in self.confusions.items():
            total = torch.tensor([float(self._losses[name])], dtype=torch.float64, device=device)
            counts = torch.from_numpy(confusion.matrix.copy()).to(device)
            torch.distributed.all_reduce(total)
            torch.distributed.all_reduce(counts)
            self._losses[name] = float(total)
            confusion.replace(counts)
        pixels = torch.tensor([float(self._pixels)], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(pixels)
        self._pixels = float(pixels)

    def numbers(self) -> dict[tuple[str, str], float]:
        """By ("loss" or "iou", output); NaN where nothing was counted."""
        values = {}
        pixels = float(self._pixels)
        for name, confusion in self.confusions.items():
            values["loss", name] = float(self._losses[name]) / pixels if pixels else nan
            values["iou", name] = mean_iou(confusion.matrix)
        return values

    def group_ious(self) -> dict[str, dict[str, float]]:
        """For each output, the mean IoU over classes of each group in which it is defined; of this process only."""
        ious = {
            name: {group: mean_iou(own[name].matrix) for group, own in sorted(self._groups.items())}
            for name in self.confusions
        }
        return {name: {g: v for g, v in values.items() if isfinite(v)} for name, values in ious.items()}

    def class_ious(self) -> list[float]:
        """The fused output's IoU of each class 1..K; NaN for one that is neither there nor predicted."""
        return [float(value) for value in class_scores(self.confusions["fused"].matrix)["iou"][1:]]

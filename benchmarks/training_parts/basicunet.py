"""MONAI's `BasicUNet` and `AttentionUnet` in the plain loop of a tutorial, peers for the defaults.

It needs monai without what it installs beside itself: ``pip install --no-deps --target build/monai-alone monai``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from napari_msunet.config import SettledTrainJob
from napari_msunet.constants import IGNORED
from napari_msunet.data import Item
from napari_msunet.geometry import Grid, Window
from napari_msunet.inference.own_grid import on_grid
from napari_msunet.training.experiments import Predict

sys.path.append(str(Path(__file__).parents[2] / "build" / "monai-alone"))

FEATURES = (16, 16, 32, 64, 128, 16)
SIZE, BATCH, RATE, RISE = 208, 8, 1e-3, 0.3


def _basic(channels: int, outputs: int) -> Any:
    from monai.networks.nets import BasicUNet  # type: ignore[import-not-found]

    return BasicUNet(2, channels, outputs, features=FEATURES)


def _attention(channels: int, outputs: int) -> Any:
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(2, channels, outputs, channels=(16, 32, 64, 128), strides=(2, 2, 2))


NETWORKS = {"BasicUNet": _basic, "AttentionUnet": _attention}
"""The networks by their names; both have half a million parameters."""


def peer(mpp: float, name: str = "BasicUNet") -> Any:
    """The loop, at so many µm per pixel: AdamW, one cycle, batches of 8 windows of 208 px, flips, quarter turns and
    light changes of colour, cross-entropy and Dice."""

    def train(job: SettledTrainJob, items: Sequence[Item], seconds: float) -> tuple[Predict, int]:
        outputs, channels = len(job.model.classes) + 1, job.model.channels
        data = [_read(item, mpp) for item in items]
        torch.manual_seed(job.seed)
        rng = np.random.default_rng(job.seed)
        network = NETWORKS[name](channels, outputs)
        optimiser = torch.optim.AdamW(network.parameters(), RATE)
        began, steps = time.process_time(), 0
        while (done := (time.process_time() - began) / seconds) < 1:
            for group in optimiser.param_groups:
                group["lr"] = RATE * _one_cycle(done)
            images, truths = zip(*(_window(*data[rng.integers(len(data))], rng) for _ in range(BATCH)), strict=True)
            optimiser.zero_grad()
            plain_loss(network(torch.stack(images)), torch.stack(truths)).backward()
            optimiser.step()
            steps += 1
        network.eval()
        return lambda item: _predict(network, item, mpp), steps

    return train


def _grid(item: Item, mpp: float) -> Grid:
    return item.slide.grid(mpp)


def _unit(pixels: npt.NDArray[Any]) -> torch.Tensor:
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1.0
    return torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32) / np.float32(largest))


def _read(item: Item, mpp: float) -> tuple[torch.Tensor, torch.Tensor]:
    from napari_msunet.data.truth import truth_window

    grid = _grid(item, mpp)
    image = _unit(item.slide.read_window(grid, grid.whole))
    truth = torch.from_numpy(truth_window(item.truth, grid, grid.whole)).long()
    item.release()
    return image, truth


def _one_cycle(done: float) -> float:
    """As `torch.optim.lr_scheduler.OneCycleLR`: from 1/25 up to 1 in 30 %, then down to nearly nothing."""
    if done < RISE:
        return 1 / 25 + (1 - 1 / 25) * (1 - cos(pi * done / RISE)) / 2
    return (1 + cos(pi * (done - RISE) / (1 - RISE))) / 2


def _window(image: torch.Tensor, truth: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    more = [max(0, SIZE - n) for n in truth.shape]
    image = functional.pad(image, (0, more[1], 0, more[0]), value=1.0)
    truth = functional.pad(truth, (0, more[1], 0, more[0]), value=IGNORED)
    y, x = (int(rng.integers(n - SIZE + 1)) for n in truth.shape)
    image, truth = image[:, y : y + SIZE, x : x + SIZE], truth[y : y + SIZE, x : x + SIZE]
    turns = int(rng.integers(4))
    image, truth = torch.rot90(image, turns, (1, 2)), torch.rot90(truth, turns, (0, 1))
    if rng.random() < 0.5:
        image, truth = image.flip(2), truth.flip(1)
    shift = torch.from_numpy(rng.uniform(-0.05, 0.05, (image.shape[0], 1, 1)).astype(np.float32))
    return image * float(rng.uniform(0.9, 1.1)) + shift, truth


def plain_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    known = truth != IGNORED
    entropy = functional.cross_entropy(logits, truth, ignore_index=IGNORED)
    wanted = functional.one_hot(truth.where(known, torch.zeros_like(truth)), logits.shape[1]).movedim(-1, 1)
    found, wanted = logits.softmax(1) * known[:, None], wanted * known[:, None]
    overlap = (2 * (found * wanted).sum((0, 2, 3)) + 1) / ((found + wanted).sum((0, 2, 3)) + 1)
    return entropy + 1 - overlap.mean()


def _predict(network: Any, item: Item, mpp: float) -> npt.NDArray[np.uint8]:
    """Class numbers of a whole image at its mask's own resolution."""
    grid = _grid(item, mpp)
    height, width = (-(-n // 16) * 16 for n in grid.shape)
    image = _unit(item.slide.read_window(grid, Window(0, 0, height, width)))
    with torch.inference_mode():
        maps = network(image[None]).softmax(1)[0, :, : grid.shape[0], : grid.shape[1]].numpy()
    own = item.truth.grid
    return on_grid(maps, grid.whole, grid, own, own.whole).argmax(0).astype(np.uint8)

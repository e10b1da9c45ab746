"""Small images with masks, made for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_msunet.config import ModelConfig, Optimiser, UNetConfig
from napari_msunet.data import Item
from napari_msunet.data.truth import Truth, cut_out
from napari_msunet.geometry import Grid, Window
from napari_msunet.slide import Slide, slide_from_array

CONFIG = ModelConfig(classes=("disc",), mpp=1.0, scales=(1.0, 0.5), branch=UNetConfig(depth=2, width=4))


def plain_optimiser(**options: Any) -> Optimiser:
    """Weights and rate as they are after each step, and a patience: for trainings of a few steps."""
    return Optimiser(**{"learning_rate": 1e-2, "schedule": "plateau", "average": "none", "stop_after": 25} | options)


def disc(shape: tuple[int, int], seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A noisy RGB image with a violet disc, and where the disc is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = [rng.uniform(0.3, 0.7) * n for n in shape]
    mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (0.25 * min(shape)) ** 2
    image = np.where(mask[..., None], (150, 60, 160), (230, 200, 220)) + rng.normal(0, 8, (*shape, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def write_folder(root: Path, count: int = 4, shape: tuple[int, int] = (80, 96), value: int = 1) -> tuple[Path, Path]:
    """Folders of images and masks, `name0.png` and so on."""
    images, masks = root / "images", root / "masks"
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, mask = disc(shape, number)
        Image.fromarray(image).save(images / f"name{number}.png")
        Image.fromarray(mask.astype(np.uint8) * np.uint8(value)).save(masks / f"name{number}.png")
    return images, masks


class ArrayTruth(Truth):
    """A truth in memory."""

    def __init__(self, values: npt.NDArray[np.uint8]) -> None:
        self.values = values

    @property
    def grid(self) -> Grid:
        return Grid(self.values.shape, (1.0, 1.0))

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        return cut_out(self.values, window)

    def overview(self) -> tuple[npt.NDArray[np.uint8], Grid]:
        return self.values, self.grid


def array_item(values: npt.NDArray[np.uint8], name: str = "one", mpp: float = 1.0, **options: object) -> Item:
    """An item whose image is its truth, in grey, as red, green and blue."""
    pixels = np.repeat(values[..., None], 3, -1)

    def opener() -> Slide:
        return slide_from_array(pixels, mpp=1.0)

    return Item(name, opener, ArrayTruth(values), mpp, **options)  # type: ignore[arg-type]

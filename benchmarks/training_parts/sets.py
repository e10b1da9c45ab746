"""The image sets on which the defaults are judged, cut by group into a part for choosing and a part for confirming."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt

from napari_msunet.config import FolderSource

Mask = npt.NDArray[np.uint8]

STROKE_VALUES = {0: "ignored", 255: "background"}
STROKES = 15


@dataclass(frozen=True)
class Picture:
    """An image of a set: its name, its group (patient, block of slices), µm per pixel, and its mask's file or maker."""

    name: str
    group: str
    mpp: float
    image: Path
    mask: Path | Callable[[], Mask]


@dataclass(frozen=True)
class Set:
    """A set of images.

    Attributes
    ----------
    classes : tuple of str
    values : str or dict
        What mask values mean.
    peer_mpp : float
        µm per pixel at which BasicUNet is trained: as a person would who follows a tutorial with windows of 208 px.
    pictures : tuple of Picture
    """

    classes: tuple[str, ...]
    values: Any
    peer_mpp: float
    pictures: tuple[Picture, ...]

    def halves(self) -> tuple[set[str], set[str]]:
        """Groups for choosing and for confirming: about as many images each, the same each time."""
        sizes: dict[str, int] = {}
        for picture in self.pictures:
            sizes[picture.group] = sizes.get(picture.group, 0) + 1
        order = sorted(sizes)
        np.random.default_rng(7).shuffle(order)
        halves: tuple[set[str], set[str]] = (set(), set())
        counts = [0, 0]
        for group in sorted(order, key=lambda g: -sizes[g]):
            side = int(counts[1] < counts[0])
            halves[side].add(group)
            counts[side] += sizes[group]
        return halves


def _folder(data: Path, masks: str, group: Callable[[str], str], mpp: float) -> tuple[Picture, ...]:
    found = []
    for image in sorted((data / "images").iterdir()):
        mask = next((data / masks).glob(f"{image.stem}.*"))
        found.append(Picture(image.stem, group(image.stem), mpp, image, mask))
    return tuple(found)


def glands(data: Path) -> Set:
    """H&E glands, by patient."""
    folder = data / "glas-dev"
    with (folder / "slides.csv").open(newline="") as file:
        patients = {row["name"]: row["patient"] for row in csv.DictReader(file)}
    return Set(("gland",), "instances", 1.24, _folder(folder, "masks", patients.__getitem__, 0.62))


def nuclei(data: Path) -> Set:
    """H&E nuclei of seven organs, by patient."""
    return Set(("nucleus",), "classes", 0.5, _folder(data / "monuseg-train", "masks", lambda name: name[:12], 0.25))


def nuclei_classes(data: Path) -> Set:
    """H&E nuclei of four classes, by image."""
    classes = ("other", "inflammatory", "epithelial", "spindle")
    return Set(classes, "classes", 0.25, _folder(data / "consep-train", "masks", lambda name: name.split("_")[1], 0.25))


def stained_nuclei(data: Path) -> Set:
    """Stained nuclei of the Data Science Bowl; 0.5 µm per pixel is an assumption, each image is a group."""
    return Set(("nucleus",), "instances", 0.5, _folder(data / "dsb2018-brightfield", "instances", str, 0.5))


def membranes(data: Path) -> Set:
    """Cell membranes in electron microscopy, by blocks of five slices."""
    pictures = _folder(data / "em-membrane", "masks", str, 0.004)
    blocks = tuple(Picture(p.name, f"block {n // 5}", p.mpp, p.image, p.mask) for n, p in enumerate(pictures))
    return Set(("membrane",), "classes", 0.004, blocks)


def axons(data: Path) -> Set:
    """Axons and myelin in electron microscopy, by animal."""
    folder, pictures = data / "axon-sem", []
    for image in sorted(folder.glob("sub-*/micr/*_SEM.png")):
        labels = folder / "derivatives" / "labels" / image.relative_to(folder).parent
        own = image.with_suffix(".json")
        facts = json.loads((own if own.exists() else next(image.parent.glob("*.json"))).read_bytes())
        mpp = float(np.mean(facts["PixelSize"]))
        group = image.relative_to(folder).parts[0]

        def mask(labels: Path = labels, stem: str = image.stem) -> Mask:
            axon, myelin = (
                np.asarray(Image.open(labels / f"{stem}_seg-{name}-manual.png").convert("L")) > 127
                for name in ("axon", "myelin")
            )
            return np.where(axon, 1, np.where(myelin, 2, 0)).astype(np.uint8)

        pictures.append(Picture(image.stem, group, mpp, image, mask))
    return Set(("axon", "myelin"), "classes", 0.15, tuple(pictures))


SETS: dict[str, Callable[[Path], Set]] = {
    "glands": glands,
    "nuclei": nuclei,
    "nuclei classes": nuclei_classes,
    "stained nuclei": stained_nuclei,
    "axons": axons,
    "membranes": membranes,
}


def draw_strokes(truth: Mask, count: int, seed: int, radius: int) -> Mask:
    """Brush strokes inside the truth: classes and background by turns, each about where its area is.

    Parameters
    ----------
    truth : (h, w) uint8
        0 background, 1..K.
    count : int
        Strokes.
    radius : int
        Of the brush in pixels; smaller where there is no room.

    Returns
    -------
    (h, w) uint8
        0 nothing, 1..K, 255 background.
    """
    rng = np.random.default_rng(seed)
    values = [v for v in np.unique(truth).tolist() if v != 255]
    room = {v: distance_transform_edt(truth == v) for v in values}
    painted = np.zeros(truth.shape, np.uint8)
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
    for number in range(count):
        value = values[number % len(values)]
        inside = room[value]
        brush = min(radius, max(1.0, float(inside.max()) * 0.7))
        places = np.argwhere(inside >= brush)
        at = places[rng.integers(len(places))].astype(float)
        angle = rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.uniform(4, 20))):
            near = (y - at[0]) ** 2 + (x - at[1]) ** 2 <= brush**2
            painted[near & (truth == value)] = value or 255
            angle += rng.normal(0, 0.4)
            step = at + brush * np.array([np.sin(angle), np.cos(angle)])
            row, column = (round(float(v)) for v in step)
            if not (0 <= row < truth.shape[0] and 0 <= column < truth.shape[1]) or inside[row, column] < brush * 0.8:
                break
            at = step
    return painted


def source(
    chosen: Set, pictures: Sequence[Picture], folder: Path, role: Any, strokes: int | None = None
) -> FolderSource:
    """These pictures as a source of images and masks in a folder; `strokes`: only so many of the truth, as a person
    would paint them."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "mpp", "group"))
        for number, picture in enumerate(pictures):
            writer.writerow((picture.name, picture.mpp, picture.group))
            _link(picture.image, folder / "images" / picture.image.name)
            own = folder / "masks" / f"{picture.name}.png"
            if own.exists():
                continue
            if isinstance(picture.mask, Path) and strokes is None:
                _link(picture.mask, own)
                continue
            values = picture.mask() if callable(picture.mask) else np.asarray(Image.open(picture.mask))
            if strokes is not None:
                truth = (values > 0).astype(np.uint8) if chosen.values == "instances" else values.astype(np.uint8)
                values = draw_strokes(truth, strokes, number, radius=8)
            Image.fromarray(values).save(own)
    values_are: Any = chosen.values
    if strokes is not None:
        values_are = STROKE_VALUES | dict(enumerate(chosen.classes, start=1))
    return FolderSource(
        images=folder / "images", masks=folder / "masks", values=values_are, table=folder / "table.csv", group="group",
        role=role,
    )  # fmt: skip


def _link(file: Path, name: Path) -> None:
    if not name.exists():
        os.symlink(file.resolve(), name)

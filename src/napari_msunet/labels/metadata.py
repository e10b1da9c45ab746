"""The metadata of a label store, kept in its ``zarr.json`` beside those of OME-Zarr."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from skimage.draw import polygon as fill_polygon

from napari_msunet._io import read_json, write_json
from napari_msunet.config import MAX_CLASSES, check_class_names
from napari_msunet.constants import ANNOTATED_BACKGROUND, IGNORED
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window, pyramid_shapes, to_position
from napari_msunet.slide.ngff import label_attributes

# ----------------------------------------------------------------------------------------------------------------------
# Annotations: fully annotated polygons, and the pixels that count as true.


def checked_polygon(polygon: npt.ArrayLike) -> tuple[tuple[float, float], ...]:
    """The corners of a polygon, as plain numbers."""
    corners = np.asarray(polygon, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise StoreError(f"A polygon needs at least three corners (y, x) of finite numbers; got shape {corners.shape}.")
    return tuple((float(y), float(x)) for y, x in corners)


def inside(window: Window, polygons: Iterable[npt.NDArray[np.float64]]) -> npt.NDArray[np.bool_]:
    """Which pixels of a window have their centre inside one of the polygons."""
    mask = np.zeros(window.shape, np.bool_)
    for corners in polygons:
        y, x = to_position(corners - (window.y, window.x)).T
        rows, columns = fill_polygon(y, x, window.shape)  # type: ignore[no-untyped-call]
        mask[rows, columns] = True
    return mask


def truth(
    values: npt.NDArray[np.uint8], window: Window, polygons: Iterable[npt.NDArray[np.float64]]
) -> npt.NDArray[np.uint8]:
    """An annotation's values as truth: 255 is background, 0 is ignored unless all around it was annotated."""
    out = np.where(values == ANNOTATED_BACKGROUND, 0, values).astype(np.uint8)
    out[(values == 0) & ~inside(window, polygons)] = IGNORED
    return out


# ----------------------------------------------------------------------------------------------------------------------
# The metadata of a label store.

KEY = "napari_msunet"
"""The key of all our attributes of a zarr group."""

# Green and blue first: red and violet are the colours of the tissue itself in most stains.
PALETTE = (
    (20, 200, 110),
    (50, 130, 240),
    (230, 60, 60),
    (240, 170, 40),
    (160, 90, 210),
    (50, 190, 190),
    (230, 110, 180),
    (150, 120, 80),
    (180, 200, 60),
    (110, 110, 230),
)
BACKGROUND_COLOUR = (128, 128, 128)

Kind = Literal["labels", "annotation"]
Colour = tuple[int, int, int]


class StoreInfo(BaseModel):
    """The metadata of a label store.

    Attributes
    ----------
    mpp : (y, x), optional
        µm per pixel of level 0; None: the slide's are not known, or it was made in pixels (`pixel` says how many of the
        slide's a pixel is long).
    pixel : (y, x)
        Size of a level-0 pixel of the store in level-0 pixels of the slide.
    extent : (height, width)
        Size of the slide in its level-0 pixels.
    fingerprint : str, optional
        The fingerprint of the slide: a store belongs to one slide, by its pixels.
    fully_annotated : tuple of polygons
        Each a tuple of `(y, x)` in the store's level-0 pixels; inside, 0 is background.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    kind: Kind
    dtype: Literal["uint8", "uint32"]
    shape: tuple[int, int]
    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    mpp: tuple[float, float] | None = None
    pixel: tuple[float, float] = (1.0, 1.0)
    extent: tuple[int, int]
    slide: str | None = None
    fingerprint: str | None = None
    name: str = "labels"
    fully_annotated: tuple[tuple[tuple[float, float], ...], ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if min(self.shape) < 1:
            raise ValueError(f"the shape {self.shape} has no pixels")
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(f"{len(self.classes)} classes are too many: a store holds at most {MAX_CLASSES}")
        if len(set(self.classes)) != len(self.classes) or not all(self.classes):
            raise ValueError(f"the classes {self.classes} need names that all differ")
        if len(self.colours) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes need as many colours; got {len(self.colours)}")
        if self.mpp is not None and not all(0 < v < float("inf") for v in self.mpp):
            raise ValueError(f"{self.mpp} µm per pixel are not above zero")
        if self.kind == "annotation" and self.dtype != "uint8":
            raise ValueError("an annotation holds classes, so its type is uint8")
        return self

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes of the levels."""
        return pyramid_shapes(self.shape)

    @property
    def spacing(self) -> tuple[float, float]:
        """Size `(y, x)` of a level-0 pixel in µm; in pixels of the slide where its µm are not known."""
        return self.mpp or self.pixel

    @property
    def instances(self) -> bool:
        """Whether values are numbers of objects, not of classes."""
        return self.dtype == "uint32"

    def ome(self) -> dict[str, Any]:
        """The OME-Zarr attributes."""
        names, colours = dict(enumerate(self.classes, 1)), dict(enumerate(self.colours, 1))
        if self.kind == "annotation":
            names[ANNOTATED_BACKGROUND], colours[ANNOTATED_BACKGROUND] = "background", BACKGROUND_COLOUR
        if self.instances:
            names, colours = {}, {}
        return label_attributes(self.name, self.shapes, self.mpp, names, colours, pixel=self.pixel)

    def with_classes(self, names: tuple[str, ...]) -> StoreInfo:
        """The same with more classes, each with a colour of its own."""
        classes = self.classes + tuple(name for name in names if name not in self.classes)
        try:
            return self.changed(
                classes=classes, colours=self.colours + default_colours(len(classes))[len(self.classes) :]
            )
        except ValidationError as error:
            raise StoreError(explained(error, "These classes")) from error

    def changed(self, **values: Any) -> StoreInfo:
        """The same with other values, checked again."""
        return StoreInfo.model_validate({**self.model_dump(), **values})


def default_colours(count: int) -> tuple[Colour, ...]:
    """Colours of classes 1..count."""
    return tuple(PALETTE[i % len(PALETTE)] for i in range(count))


def parse_colours(colours: Any, count: int) -> tuple[Colour, ...]:
    """Colours as three numbers each, from those or from ``"#rrggbb"``."""
    try:
        parsed = [bytes.fromhex(c.lstrip("#")) if isinstance(c, str) else tuple(int(v) for v in c) for c in colours]
        if len(parsed) != count or any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in parsed):
            raise ValueError
    except (TypeError, ValueError):
        raise StoreError(
            f"The colours {colours!r} cannot be used: give {count}, one for each class, as '#rrggbb' or three numbers "
            "from 0 to 255."
        ) from None
    return tuple((c[0], c[1], c[2]) for c in parsed)


def check_new_classes(names: Iterable[str]) -> None:
    """Raise `StoreError` where names that a person gives mean background or "not known"."""
    try:
        check_class_names(tuple(names))
    except ValueError as error:
        raise StoreError(f"These classes cannot be used: {error}.") from None


def explained(error: ValidationError, what: str) -> str:
    """A failed check as one sentence."""
    reasons = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
    return f"{what} cannot be used: {reasons}."


def save_attributes(folder: Path, attributes: dict[str, Any]) -> None:
    """Replace the attributes of a zarr group."""
    path = folder / "zarr.json"
    group = read_json(path) if path.exists() else {"zarr_format": 3, "node_type": "group"}
    write_json(path, {**group, "attributes": attributes})


def save_info(folder: Path, info: StoreInfo) -> None:
    """Write a store's metadata; attributes of other tools are kept."""
    path = folder / "zarr.json"
    others = read_json(path).get("attributes", {}) if path.exists() else {}
    save_attributes(folder, {**others, **info.ome(), KEY: info.model_dump(mode="json")})


def load_info(folder: Path) -> StoreInfo:
    """Read a store's metadata.

    Raises
    ------
    StoreError
        If the folder is no label store of ours, or damaged.
    """
    path = folder / "zarr.json"
    if not folder.is_dir():
        raise StoreError(f"{folder} is no folder; give the path of a label store (a folder such as labels.ome.zarr).")
    attributes = read_json(path).get("attributes")
    if not isinstance(attributes, dict) or KEY not in attributes:
        raise StoreError(
            f"{path} does not say that this is a label store of napari-msunet; give a folder that predict or "
            "LabelStore.create made."
        )
    version = attributes[KEY].get("schema_version") if isinstance(attributes[KEY], dict) else None
    if isinstance(version, int) and version > 1:
        raise StoreError(f"{folder} was written by a newer napari-msunet (schema {version}); update napari-msunet.")
    try:
        return StoreInfo.model_validate(attributes[KEY])
    except ValidationError as error:
        raise StoreError(explained(error, f"{path} is damaged and")) from error

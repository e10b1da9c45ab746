"""Where truth comes from: folders of images and masks, slides with annotations, public sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from napari_msunet.config.base import Damaged, Frozen, GivenRange, Kind, PixelSize
from napari_msunet.config.prediction import Where

Role = Literal["auto", "train", "validate", "test"]
MaskValues = Literal["classes", "instances"] | dict[int, str]


class _Source(Frozen):
    role: Role = "auto"
    mpp: PixelSize | None = None
    image_kind: Kind | None = None
    value_range: GivenRange | None = None


class FolderSource(_Source):
    """Folders of images and masks, paired by the name without its ending.

    Attributes
    ----------
    images, masks : Path
        Two folders (may be the same one with `mask_suffix`).
    mpp : float, pair or "px", optional
        µm per pixel of all images, when neither the files nor `table` give it. "px": they are used in their own pixels,
        whatever the files say (of all kinds of sources; for a model with ``mpp=None``).
    image_kind : "brightfield" or "fluorescence", optional
        What all images are; None: as their files say, else guessed for the set as a whole.
    value_range : (low, high), optional
        The values that are black and white in all images, such as (0, 4095); None likewise.
    values : "classes", "instances" or dict
        What mask values mean: class numbers 1..K; instances of the first class (0 background); or ``{value: class}``,
        where "background" is 0. With one class, 0/255 is read as 0/1.
    table : Path, optional
        CSV with a column `name` (or `image`), and if wanted `mpp`, `kind`, `value_range` (such as 0-4095) and the
        column named by `group`.
    group : str, optional
        A column of `table`, or a regular expression over the image's name whose first group (or whole match) is the
        group: images of one group never stand on both sides of a split.
    """

    kind: Literal["folder"] = "folder"
    images: Path
    masks: Path
    mask_suffix: str = ""
    values: MaskValues = "classes"
    table: Path | None = None
    group: str | None = None


class SlideSource(_Source):
    """A slide with an annotation store (0 not annotated, 255 background) or a label store (0 is background).

    Attributes
    ----------
    edited_only : bool
        Only pixels that a person changed are true, all others are ignored: for a corrected prediction.
    within : "all", "tissue", Drawn or InClasses
        Where pixels that nobody marked can be background: outside they are ignored, so windows come from tissue, and
        empty glass neither teaches nor scores. What a person marked counts wherever it is: classes, background painted
        as such, and corrections.
    damaged : "refuse" or "skip"
        Where chunks of the labels are damaged: refuse, or take their pixels as not annotated.
    """

    kind: Literal["slide"] = "slide"
    slide: Path
    labels: Path
    group: str | None = None
    edited_only: bool = False
    within: Where = "all"
    damaged: Damaged = "refuse"


class TableSource(_Source):
    """A CSV with a row for each image: columns `images` and `masks` with paths relative to it.

    Attributes
    ----------
    table : Path
        CSV; its paths stay inside its folder. If wanted, columns `mpp`, `kind`, `value_range` (such as 0-4095), `role`,
        and the one named by `group`.
    values : "classes", "instances" or dict
        As of a `FolderSource`.
    group : str, optional
        A column, or a regular expression over the image's name, as of a `FolderSource`.
    """

    kind: Literal["table"] = "table"
    table: Path
    values: MaskValues = "classes"
    group: str | None = None


class ShapesSource(_Source):
    """A slide with outlines drawn in another program: QuPath's GeoJSON, ASAP's or Aperio ImageScope's XML.

    Attributes
    ----------
    shapes : Path
        The file of outlines.
    values : "classes" or dict
        The names in the file are those of the classes, or ``{name: class}``, where "background" and "ignored" are
        classes too. Shapes of other names are left out.
    outside : "background" or "ignored"
        What pixels are that no shape covers: ignored where not everything was outlined.
    within : "all", "tissue", Drawn or InClasses
        Where pixels outside all shapes can be background, as of a `SlideSource`.
    """

    kind: Literal["shapes"] = "shapes"
    slide: Path
    shapes: Path
    values: Literal["classes"] | dict[str, str] = "classes"
    outside: Literal["background", "ignored"] = "background"
    within: Where = "all"
    group: str | None = None


SetName = Literal["auto", "bids", "camelyon16", "consep", "glas", "isbi2012", "lizard", "monuseg", "pannuke", "tupac16"]


class PublishedSource(_Source):
    """A public data set in its folder as it was published.

    Attributes
    ----------
    folder : Path
    set : str
        Which one; "auto" tells it by what lies in the folder.
    part : str
        Only images in whose path inside the folder this occurs, such as "Train", "testA" or "Fold 1".
    values : "classes", "instances" or dict
        The set's own class names are those of the model; all its objects are the first class; or ``{name: class}``,
        where "background" and "ignored" are classes too.
    within : "all", "tissue", Drawn or InClasses
        On whole slides: where pixels outside all outlines can be background.
    radius : float
        In sets that give only points: µm (pixels with ``mpp="px"``) around a point that are its class.
    """

    kind: Literal["published"] = "published"
    folder: Path
    set: SetName = "auto"
    part: str = ""
    values: Literal["classes", "instances"] | dict[str, str] = "classes"
    within: Where = "tissue"
    radius: Annotated[float, Field(gt=0, le=100)] = 5.0


_ImageSet = FolderSource | TableSource | ShapesSource | PublishedSource

ImageSet = Annotated[_ImageSet, Field(discriminator="kind")]
"""Labelled images that were not painted here."""

Source = Annotated[SlideSource | _ImageSet, Field(discriminator="kind")]

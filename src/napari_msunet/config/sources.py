"""Where truth comes from: folders of images and masks, slides with annotations, public sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from napari_msunet.config.base import Damaged, Frozen, GivenRange, Kind, Option, PixelSize
from napari_msunet.config.prediction import Where

Role = Literal["auto", "train", "validate", "test"]

_HEX = re.compile(r"#([0-9a-f]{6})")
_THREE = re.compile(r"(\d{1,3})[ /]+(\d{1,3})[ /]+(\d{1,3})")


def _colour(text: str) -> str:
    """A colour as ``#rrggbb``."""
    given = text.strip().lower()
    parts = _THREE.fullmatch(given)
    if parts and all(int(part) <= 255 for part in parts.groups()):
        return "#" + "".join(f"{int(part):02x}" for part in parts.groups())
    if _HEX.fullmatch(given):
        return given
    raise ValueError(f"{text!r} is no colour: write #ff0000, or red, green and blue from 0 to 255 as 255/0/0")


Colour = Annotated[str, AfterValidator(_colour)]
"""A colour of a mask, ``#rrggbb`` or ``red/green/blue``."""

MaskValues = Literal["classes", "instances"] | dict[int, str] | dict[Colour, str]


_WHERE, _WHAT = "Images and their truth", "What the images and the truth are"
_NAMES = "classes, instances, or pairs such as Tumor=gland"
_NUMBERS = "classes, instances, or pairs such as 1=gland,2=stroma or #ff0000=gland"


class _Source(Frozen):
    role: Annotated[Role, Option("For", _WHAT, False)] = "auto"
    """What the images are for. auto: shares of the groups validate and test. train: they are only learned from.
    validate: they only measure the model during training. test: they are set aside for the final score."""
    mpp: Annotated[PixelSize | None, Option("Pixel size", _WHAT, False, example="µm per pixel, or px")] = None
    """µm per pixel of the images, when neither the files nor a table give it; px: the images are used in their own
    pixels, whatever the files give (for a model that works in pixels)."""
    image_kind: Annotated[Kind | None, Option(group=_WHAT)] = None
    """Whether the images are bright-field or fluorescence, where their files do not say so and a guess for the whole
    set would be wrong."""
    value_range: Annotated[GivenRange | None, Option(group=_WHAT)] = None
    """The values that are black and white, such as 0 4095 for 12 bits in 16, where the files do not give them."""


class FolderSource(_Source):
    """Folders of images and masks, paired by the name without its ending."""

    kind: Literal["folder"] = "folder"
    images: Annotated[Path, Option(group=_WHERE, advanced=False)]
    """Folder of images; can be given several times, each with its masks."""
    masks: Annotated[Path, Option(group=_WHERE, advanced=False)]
    """Folder of masks, paired with the images by name; with a mask suffix it may be the folder of the images."""
    mask_suffix: Annotated[str, Option(group=_WHERE, advanced=False)] = ""
    """What follows the image's name in a mask's name, such as _mask."""
    values: Annotated[MaskValues, Option("Mask values", _WHAT, False, example=_NUMBERS)] = "classes"
    """What the truth's values mean: classes (numbers 1..K, or names), instances (objects of the first class), or pairs
    such as 1=gland,2=stroma,0=background or Tumor=gland,Stroma=background. With one class, 0/255 is read as 0/1. For
    masks in colours, pairs such as #ff0000=gland,0/255/0=stroma; black is background unless it is named."""
    table: Annotated[Path | None, Option(group=_WHERE, advanced=False)] = None
    """CSV with a column name (or image), and if wanted mpp, kind, value_range (such as 0-4095) and the group's
    column."""
    group: Annotated[str | None, Option(group=_WHAT, advanced=False, none="each image by itself")] = None
    """Column of the table, or a regular expression over the image's name whose first group (or whole match) is the
    group: images of one group (a patient, a slide) never stand on both sides of a split."""


class SlideSource(_Source):
    """A slide with an annotation store (0 not annotated, 255 background) or a label store (0 is background)."""

    kind: Literal["slide"] = "slide"
    slide: Annotated[Path, Option(group=_WHERE, advanced=False)]
    """A slide with painted labels or outlines; can be given several times, each with its labels or shapes."""
    labels: Annotated[Path, Option(group=_WHERE, advanced=False)]
    """Label store of the slide: an annotation (0 not annotated, 255 background) or labels."""
    group: Annotated[str | None, Option(group=_WHAT, advanced=False, none="each image by itself")] = None
    """Column of the table, or a regular expression over the image's name whose first group (or whole match) is the
    group: images of one group (a patient, a slide) never stand on both sides of a split."""
    edited_only: Annotated[bool, Option(group=_WHAT)] = False
    """For label stores: only pixels that a person changed are true, and all others are ignored. This is meant for a
    corrected prediction."""
    within: Annotated[Where, Option(group=_WHAT, flag=None)] = "all"
    """Where pixels without a mark can be background. Outside this area they are ignored, so that windows come from
    tissue, and empty glass takes no part in training and scores. What a person marked counts everywhere."""
    damaged: Damaged = "refuse"
    """What to do where chunks of the labels are damaged: refuse, or take their pixels as not annotated."""


class TableSource(_Source):
    """A CSV with a row for each image: columns `images` and `masks` with paths relative to it."""

    kind: Literal["table"] = "table"
    table: Annotated[Path, Option(group=_WHERE, advanced=False, flag="--pairs")]
    """CSV with columns images and masks (paths inside its folder), and if wanted mpp, kind, value_range (such as
    0-4095), role and the group's column."""
    values: Annotated[MaskValues, Option("Mask values", _WHAT, False, example=_NUMBERS)] = "classes"
    """What the masks' values mean: classes (numbers 1..K), instances (objects of the first class), or pairs such as
    1=gland,2=stroma,0=background; for masks in colours, pairs such as #ff0000=gland."""
    group: Annotated[str | None, Option(group=_WHAT, advanced=False, none="each image by itself")] = None
    """Column of the table, or a regular expression over the image's name whose first group (or whole match) is the
    group: images of one group (a patient, a slide) never stand on both sides of a split."""


class ShapesSource(_Source):
    """A slide with outlines drawn in another program: QuPath, ASAP, ImageScope, HALO, CVAT, Labelbox, labelme, ..."""

    kind: Literal["shapes"] = "shapes"
    slide: Annotated[Path, Option(group=_WHERE, advanced=False)]
    """The slide on which the outlines were drawn."""
    shapes: Annotated[Path, Option("Outlines", _WHERE, False)]
    """Instead of labels, for each slide: outlines drawn in another program (QuPath, ASAP, ImageScope, HALO, CVAT,
    Labelbox, labelme, Cytomine, COCO), named by class; the file's content says which."""
    image: Annotated[
        str | None, Option("Image in the file", _WHERE, flag="--shapes-image", none="the one of the slide's name")
    ] = None
    """Where a file holds the outlines of several images: which of them, by its name there."""
    radius: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Option("Points are discs of", _WHAT, flag="--point-radius", unit="µm", none="left out"),
    ] = None
    """For outlines: the radius in µm of the disc that each point becomes (in pixels where the slide has no µm)."""
    values: Annotated[Literal["classes"] | dict[str, str], Option("Names", _WHAT, False, example=_NAMES)] = "classes"
    """classes: the names in the file are those of the classes; or pairs such as Tumor=tumour,Artefact=ignored, where
    "background" and "ignored" can be given as classes too. Shapes with other names are left out."""
    outside: Annotated[
        Literal["background", "ignored"],
        Option("Outside is", _WHAT, False, words={"background": "background", "ignored": "not known"}),
    ] = "background"
    """For outlines: what pixels are that no shape covers. Choose ignored where not everything was outlined."""
    within: Annotated[Where, Option(group=_WHAT, flag=None)] = "all"
    """Where pixels outside all shapes can be background, as in a `SlideSource`."""
    group: Annotated[str | None, Option(group=_WHAT, advanced=False, none="each image by itself")] = None
    """Column of the table, or a regular expression over the image's name whose first group (or whole match) is the
    group: images of one group (a patient, a slide) never stand on both sides of a split."""


SETS = {
    "auto": "find out",
    "bids": "BIDS (microscopy)",
    "camelyon16": "CAMELYON16",
    "consep": "CoNSeP",
    "glas": "GlaS",
    "isbi2012": "ISBI 2012",
    "lizard": "Lizard",
    "monuseg": "MoNuSeg, Kumar",
    "pannuke": "PanNuke",
    "tupac16": "TUPAC16",
}
"""The names of the public sets."""

SetName = Literal["auto", "bids", "camelyon16", "consep", "glas", "isbi2012", "lizard", "monuseg", "pannuke", "tupac16"]


class PublishedSource(_Source):
    """A public data set, in a folder as it was published."""

    kind: Literal["published"] = "published"
    folder: Annotated[Path, Option(group=_WHERE, advanced=False, flag="--published")]
    """Folder of a public set as it was published: PanNuke, Lizard, CoNSeP, GlaS, MoNuSeg, CAMELYON16, TUPAC16, ISBI
    2012, or a microscopy set in BIDS; --values instances or neoplastic=tumour says what its classes are."""
    set: Annotated[SetName, Option("Which", _WHERE, False, words=SETS)] = "auto"
    """Which public set it is; auto recognises it by the files in the folder."""
    part: Annotated[str, Option(group=_WHERE, advanced=False, none="all")] = ""
    """Only images of a public set whose path contains this text, such as Train, testA or Fold 1."""
    values: Annotated[
        Literal["classes", "instances"] | dict[str, str], Option("Its classes", _WHAT, False, example=_NAMES)
    ] = "classes"
    """classes: the set's own names are those of the classes; instances: all its objects are the first class; or pairs
    such as Neoplastic=tumour,Dead=ignored, where "background" and "ignored" can be given as classes too."""
    within: Annotated[Where, Option(group=_WHAT, flag=None)] = "tissue"
    """On whole slides: where pixels outside all outlines can be background."""
    radius: Annotated[float, Field(gt=0, le=100), Option(group=_WHAT, advanced=False, unit="µm", step=0.5)] = 5.0
    """In public sets that give only points: the radius in µm (in pixels with ``mpp="px"``) of the disc around a point
    that gets its class."""


_ImageSet = FolderSource | TableSource | ShapesSource | PublishedSource

ImageSet = Annotated[_ImageSet, Field(discriminator="kind")]
"""Labelled images that were not annotated in napari-msunet."""

Source = Annotated[SlideSource | _ImageSet, Field(discriminator="kind")]

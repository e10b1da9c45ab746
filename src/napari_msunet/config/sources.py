"""Where truth comes from: folders of images and masks, slides with annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from napari_msunet.config.base import Frozen, Mpp
from napari_msunet.config.prediction import Where

Role = Literal["auto", "train", "validate", "test"]
MaskValues = Literal["classes", "instances"] | dict[int, str]


class _Source(Frozen):
    role: Role = "auto"
    mpp: Mpp | None = None


class FolderSource(_Source):
    """Folders of images and masks, paired by the name without its ending.

    Attributes
    ----------
    images, masks : Path
        Two folders (may be the same one with `mask_suffix`).
    mpp : float or pair, optional
        µm per pixel of all images, when neither the files nor `table` give it.
    values : "classes", "instances" or dict
        What mask values mean: class numbers 1..K; instances of the first class (0 background); or ``{value: class}``,
        where "background" is 0. With one class, 0/255 is read as 0/1.
    table : Path, optional
        CSV with a column `name` (or `image`), and if wanted `mpp` and the column named by `group`.
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
    """

    kind: Literal["slide"] = "slide"
    slide: Path
    labels: Path
    group: str | None = None
    edited_only: bool = False
    within: Where = "all"


Source = Annotated[FolderSource | SlideSource, Field(discriminator="kind")]

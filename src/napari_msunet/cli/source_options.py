"""The options of `train` and `evaluate` that say where images and their truth come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import TypeAdapter, ValidationError

from napari_msunet.cli.options import PixelSizeOption
from napari_msunet.config import (
    FolderSource,
    Kind,
    PublishedSource,
    Role,
    ShapesSource,
    SlideSource,
    Source,
    TableSource,
    explain,
)
from napari_msunet.errors import MsunetError

_SOURCE: TypeAdapter[Any] = TypeAdapter(Source)
_EMPTY = Parameter(show_default=False, negative=())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where images and their truth come from.

    Attributes
    ----------
    images : path
        Folder of images; give it several times for several folders, each with its --masks.
    masks : path
        Folder of masks, paired with the images by name.
    mask_suffix : str
        What a mask's name has after the image's name, such as _mask.
    mpp : float
        µm per pixel of the images, when neither the files nor --table say it; px: their own pixels, whatever they say.
    image_kind : "brightfield" or "fluorescence"
        What the images are, where their files do not say it and a guess would be wrong.
    value_range : float float
        The values that are black and white, such as 0 4095 for 12 bits in 16, where the files do not say it.
    values : str
        What mask values mean: classes (numbers 1..K), instances (objects of the first class), or pairs such as
        1=gland,2=stroma,0=background.
    table : path
        CSV with a column name (or image), and if wanted mpp, kind, value_range (such as 0-4095) and the --group column.
    group : str
        Column of --table, or a regular expression over the image's name, that says which images (of a patient, a slide)
        must stay on one side of the split.
    role : str
        What the images are for: auto lets --validation split them by group.
    slide : path
        A slide with painted labels; give it several times, each with its --labels.
    labels : path
        Label store of the --slide: an annotation (0 not annotated, 255 background) or labels.
    shapes : path
        Instead of --labels, for each --slide: outlines drawn in QuPath (GeoJSON), ASAP or ImageScope (XML), named by
        class; --values Tumor=gland,Stroma=background says which name is which class.
    pairs : path
        CSV with columns images and masks (paths inside its folder), and if wanted mpp, kind, value_range, role and the
        --group column.
    published : path
        Folder of a public set as it was published: PanNuke, Lizard, CoNSeP, GlaS, MoNuSeg, CAMELYON16, TUPAC16, ISBI
        2012, or a microscopy set in BIDS; --values instances or neoplastic=tumour says what its classes are.
    part : str
        Only images of --published in whose path this occurs, such as Train.
    source : str
        A source as JSON, or the path of a JSON file that holds one or a list of them; for folders that differ in mpp,
        values or role. Can be given several times.
    """

    images: Annotated[tuple[Path, ...], _EMPTY] = ()
    masks: Annotated[tuple[Path, ...], _EMPTY] = ()
    mask_suffix: Annotated[str, _EMPTY] = ""
    mpp: PixelSizeOption | None = None
    image_kind: Kind | None = None
    value_range: tuple[float, float] | None = None
    values: str = "classes"
    table: Path | None = None
    group: str | None = None
    role: Role = "auto"
    slide: Annotated[tuple[Path, ...], _EMPTY] = ()
    labels: Annotated[tuple[Path, ...], _EMPTY] = ()
    shapes: Annotated[tuple[Path, ...], _EMPTY] = ()
    pairs: Annotated[tuple[Path, ...], _EMPTY] = ()
    published: Annotated[tuple[Path, ...], _EMPTY] = ()
    part: Annotated[str, _EMPTY] = ""
    source: Annotated[tuple[str, ...], _EMPTY] = ()

    def sources(self) -> tuple[Any, ...]:
        """The sources, folders first.

        Raises
        ------
        MsunetError
            If nothing is given, or folders and masks, slides and labels do not pair up.
        """
        _pair("--images", self.images, "--masks", self.masks)
        if self.shapes and self.labels:
            raise MsunetError("Slides were given --labels and --shapes; give one sort of truth, or --source for each.")
        marked = self.shapes or self.labels
        _pair("--slide", self.slide, "--shapes" if self.shapes else "--labels", marked)
        numbers: dict[str, Any] = {"image_kind": self.image_kind, "value_range": self.value_range}
        common: dict[str, Any] = {"mpp": self.mpp, "group": self.group, "role": self.role, **numbers}
        try:
            folders = [
                FolderSource(
                    images=images,
                    masks=masks,
                    mask_suffix=self.mask_suffix,
                    values=parse_values(self.values),
                    table=self.table,
                    **common,
                )
                for images, masks in zip(self.images, self.masks, strict=True)
            ]
            slides = [self._marked(slide, truth, common) for slide, truth in zip(self.slide, marked, strict=True)]
            others = [TableSource(table=table, values=parse_values(self.values), **common) for table in self.pairs] + [
                PublishedSource(
                    folder=folder,
                    part=self.part,
                    values=parse_names(self.values),
                    mpp=self.mpp,
                    role=self.role,
                    **numbers,
                )
                for folder in self.published
            ]
        except ValidationError as error:
            raise explain(error, "What says where the images are") from error
        found = (*folders, *slides, *others, *(s for text in self.source for s in parse_source(text)))
        if not found:
            raise MsunetError(
                "No images are given; say --images FOLDER --masks FOLDER, --slide FILE --labels STORE, --pairs CSV, "
                "--published FOLDER, or --source."
            )
        return found

    def _marked(self, slide: Path, truth: Path, common: dict[str, Any]) -> SlideSource | ShapesSource:
        """The source of a slide with labels or outlines."""
        if self.shapes:
            return ShapesSource(slide=slide, shapes=truth, values=parse_names(self.values), **common)
        return SlideSource(slide=slide, labels=truth, **common)


def parse_names(text: str) -> Any:
    """What names of classes mean, from ``"classes"``, ``"instances"`` or ``"Tumor=gland,Stroma=background"``."""
    if text in ("classes", "instances"):
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise MsunetError(f"--values {text!r} cannot be read; give classes, instances, or pairs such as Tumor=gland.")
    return {name.strip(): label.strip() for name, _, label in pairs}


def parse_values(text: str) -> Any:
    """What mask values mean, from ``"classes"``, ``"instances"`` or ``"1=gland,2=stroma"``."""
    if text in ("classes", "instances"):
        return text
    try:
        pairs = [part.split("=", 1) for part in text.split(",")]
        return {int(value): name.strip() for value, name in pairs}
    except ValueError:
        raise MsunetError(
            f"--values {text!r} cannot be read; give classes, instances, or pairs such as 1=gland,2=stroma."
        ) from None


def parse_source(text: str) -> list[Any]:
    """The sources in a piece of JSON, or in a JSON file."""
    given = text.lstrip()
    if not given.startswith(("{", "[")):
        try:
            given = Path(text).read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError) as error:
            raise MsunetError(f"The source file {text} cannot be read ({error}); give JSON or a JSON file.") from error
    try:
        found = json.loads(given)
        return [_SOURCE.validate_python(source) for source in (found if isinstance(found, list) else [found])]
    except json.JSONDecodeError as error:
        raise MsunetError(
            f"--source {text!r} is no JSON ({error}); give an object with a kind, folder or slide."
        ) from None
    except ValidationError as error:
        raise explain(error, f"--source {text!r}") from error


def _pair(one: str, first: tuple[Path, ...], other: str, second: tuple[Path, ...]) -> None:
    if len(first) != len(second):
        raise MsunetError(
            f"{one} was given {len(first)} times and {other} {len(second)} times; give one {other} for each."
        )

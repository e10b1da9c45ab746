"""The frozen test set: images that were set aside at the first training and are never trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_msunet._io import read_json, write_text
from napari_msunet.config import ModelConfig, Role, Source, TrainJob
from napari_msunet.data import Item, load_sources
from napari_msunet.data.duplicates import once
from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.models.header import read_header
from napari_msunet.names import AnyNames
from napari_msunet.slide.identity import path_identity

if TYPE_CHECKING:  # it imports torch
    from napari_msunet.data.sharing import SharedImages

FILE = "test_set.json"

Say = Callable[[str, str], None]


class HeldOutImage(BaseModel):
    """An image of the test set.

    Attributes
    ----------
    name : str
    group : str, optional
        Its patient or slide, of which no other image is trained on.
    image, truth : str
        Hashes of the image's file and of its truth, by which both are recognised.
    pixels : str
        A fingerprint that recognises its pixels in another file; empty in lists of earlier versions.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    group: str | None = None
    image: str
    truth: str
    pixels: str = ""


class HeldOutSet(AnyNames):
    """The contents of ``test_set.json`` in the folder of a run.

    Attributes
    ----------
    images : tuple of HeldOutImage
    sources : tuple of FolderSource or SlideSource
        The sources of the images.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    images: tuple[HeldOutImage, ...]
    sources: tuple[Source, ...] = ()

    def known(self, item: Item) -> HeldOutImage | None:
        """The entry of an image, found by its content; None where it has none."""
        identity, pixels = image_hash(item), item.pixel_key
        return next((i for i in self.images if i.image == identity or (pixels and i.pixels == pixels)), None)


def image_hash(item: Item) -> str:
    """Hash of an image's file, or of its name where it has no file."""
    if item.path is None:
        return hashlib.sha256(item.name.encode()).hexdigest()
    return path_identity(item.path)


def truth_hash(item: Item) -> str:
    """Hash of the truth of an image, at a resolution at which all of it can be read."""
    values, grid = item.truth.overview()
    digest = hashlib.sha256(f"{values.shape} {grid.pixel}".encode())
    digest.update(values.tobytes())
    item.forget_mask()
    return digest.hexdigest()


@dataclass(frozen=True)
class HeldOut:
    """The test images of a training, which it must not train on.

    Attributes
    ----------
    frozen : HeldOutSet, optional
        The test set to keep in the folder of the run: that of the first training, or the images with the role "test".
    scored : list of Item
        The images on which the old and the new model are scored at the end.
    replaces : Path, optional
        The file of the old model.
    """

    frozen: HeldOutSet | None
    scored: list[Item]
    replaces: Path | None = None


def load_items(
    job: TrainJob, config: ModelConfig, say: Say, shared: SharedImages | None = None
) -> tuple[list[Item], HeldOutSet | None]:
    """The items of a job, none of which trains on a frozen test image, and the test set that was frozen before.

    `shared` has the images of earlier trainings of the same work.

    Raises
    ------
    SourceError, MissingMppError, SlideError, ModelError, StoreError
        If something given cannot be used.
    """
    frozen = load_held_out(job.replaces)
    items = (shared.load if shared else load_sources)(job.sources, config, say)
    if frozen is not None:
        more = [source for source in frozen.sources if source not in job.sources]
        try:
            items += load_sources(more, config, say)
        except MsunetError as error:
            say("warning", f"The frozen test images cannot be used, so nothing guards this training: {error}")
    items = once(keep_out(items, frozen, say), say)
    if job.replaces is not None:
        items = same_sides(items, read_header(job.replaces).summary.get("split") or {})
    return items, frozen


def set_aside(job: TrainJob, tests: Sequence[Item], before: HeldOutSet | None, say: Say) -> HeldOut:
    """Which images of the test side are frozen, and on which images the models are scored at the end."""
    frozen = before or hold_out(tests, job.sources)
    if frozen is None or job.replaces is None:
        return HeldOut(frozen, [], job.replaces)
    scored = [i for i in tests if frozen.known(i)]
    if missing := len(frozen.images) - len(scored):
        say("warning", f"{missing} of the {len(frozen.images)} frozen test images are not there: they are not scored.")
    if before is None:
        trained = set((read_header(job.replaces).summary.get("split") or {}).get("train") or ())
        if known := [i.name for i in scored if i.name in trained]:
            say("warning", f"The old model was trained on {known[0]}, a test image now: the models are not compared.")
            scored = []
    return HeldOut(frozen, scored, job.replaces)


def hold_out(items: Sequence[Item], sources: Sequence[Source]) -> HeldOutSet | None:
    """The test set of these items; None where no item has the role "test"."""
    images = tuple(
        HeldOutImage(name=i.name, group=i.group, image=image_hash(i), truth=truth_hash(i), pixels=i.pixel_key)
        for i in items
    )
    return HeldOutSet(images=images, sources=tuple(s for s in sources if s.role == "test")) if images else None


def load_held_out(model: Path | None) -> HeldOutSet | None:
    """The test set that was frozen when a model was trained, from the file beside the model.

    Raises
    ------
    StoreError
        If the file is damaged: training on without it could use test images.
    """
    path = None if model is None else model.parent / FILE
    if path is None or not path.is_file():
        return None
    try:
        return HeldOutSet.model_validate(read_json(path))
    except ValidationError as error:
        raise StoreError(
            f"{path}, the list of frozen test images, is damaged; put it back from a copy, or train without "
            "`replaces` (then nothing keeps test images out)."
        ) from error


def save_held_out(frozen: HeldOutSet, folder: Path) -> None:
    """Write the test set into the folder of a run; `OutputError` if the disk refuses."""
    write_text(folder / FILE, frozen.model_dump_json(indent=2))


def keep_out(items: Sequence[Item], frozen: HeldOutSet | None, say: Say) -> list[Item]:
    """The items without those that would train on test images; a message names each that is left out.

    Frozen images are on the test side whatever their role is now. Corrections made on a test image are neither trained
    on nor used for scores, because they were made from a prediction. New images of a frozen group are not trained on.

    Parameters
    ----------
    items : sequence of Item
        As loaded, before the split.
    frozen : HeldOutSet, optional
        The test set of an earlier training; without it, the images with the role "test" are the test images.
    say : callable
        Takes a level and a sentence.
    """
    fixed = {i.group for i in items if i.role == "test" and not i.corrected and i.group is not None}
    groups = fixed | {image.group for image in (frozen.images if frozen else ()) if image.group is not None}
    kept: list[Item] = []
    for item in items:
        entry = frozen.known(item) if frozen else None
        if item.corrected and (entry or item.group in groups):
            say("warning", f"{item.name} is a test image, so what was corrected on it is not trained on.")
        elif entry:
            if item.role not in ("test", "auto"):
                say("warning", f"{item.name} is in the frozen test set, so it does not {item.role}.")
            if frozen and truth_hash(item) not in {i.truth for i in frozen.images if i.image == entry.image}:
                say("info", f"The truth of the test image {item.name} was changed since it was frozen.")
            kept.append(replace(item, role="test"))
        elif frozen and item.role != "test" and item.group is not None and item.group in groups:
            say("warning", f"{item.name} belongs to {item.group}, a group of the frozen test set: it is left out.")
        else:
            kept.append(item)
    return kept


def same_sides(items: Sequence[Item], split: Mapping[str, Any]) -> list[Item]:
    """Items with the role "auto" on the side that they had in an earlier training, by name.

    A model that continues from that training has learned its training images, so these must not validate.

    Parameters
    ----------
    split : mapping
        The names under ``"train"`` and ``"validate"``, from the model's summary. A name on both sides (blocks of one
        slide) is not used.
    """
    train, validate = (set(split.get(side) or ()) for side in ("train", "validate"))
    sides: dict[str, Role] = dict.fromkeys(train - validate, "train") | dict.fromkeys(validate - train, "validate")
    wanted = [sides.get(i.name, "auto") if i.role == "auto" else i.role for i in items]
    torn = {
        group
        for group in {i.group for i in items} - {None}
        if len({w for w, i in zip(wanted, items, strict=True) if i.group == group} - {"auto"}) > 1
    }
    return [i if i.group in torn else replace(i, role=w) for w, i in zip(wanted, items, strict=True)]

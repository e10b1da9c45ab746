"""From what a person names (folders, slides) to items: images paired with their truth, all checked."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from napari_msunet.config import FolderSource, ModelConfig, Mpp, SlideSource
from napari_msunet.data.items import Item, check_channels
from napari_msunet.data.masks import IGNORED
from napari_msunet.data.truth import MaskTruth, StoreTruth
from napari_msunet.errors import MissingMppError, SourceError
from napari_msunet.slide import open_slide

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy", ".qptiff", ".zarr"}
_SLIDES = {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide"}
_ENDINGS = _IMAGES | _SLIDES
_DOUBLE = (".ome.tif", ".ome.tiff", ".ome.zarr")

Say = Callable[[str, str], None]
"""Takes a level ("info", "warning") and a sentence."""


def load_sources(
    sources: Sequence[FolderSource | SlideSource], config: ModelConfig, say: Say | None = None
) -> list[Item]:
    """Images with their truth, from folders and slides.

    Every image and mask is opened once and checked: sizes, values, channels, µm per pixel.

    Parameters
    ----------
    sources : sequence of FolderSource or SlideSource
    config : ModelConfig
        Its classes, mpp and channels are what the images must fit.
    say : callable, optional
        Takes a level ("info" or "warning") and a sentence for the user.

    Returns
    -------
    list of Item

    Raises
    ------
    SourceError
        If images, masks, tables or stores are missing or do not fit together.
    MissingMppError
        If an image's µm per pixel are not known.
    """
    say = say or (lambda level, text: None)
    items: list[Item] = []
    for source in sources:
        items += _folder(source, config, say) if isinstance(source, FolderSource) else [_slide(source, config, say)]
    return items


# ------------------------------------------------------------------------------------------------------------- folders


def stem(path: Path) -> str:
    """A file's name without its ending (`a.ome.tif` is `a`)."""
    for double in _DOUBLE:
        if path.name.lower().endswith(double):
            return path.name[: -len(double)]
    return path.stem


def pair_files(images: Path, masks: Path, suffix: str = "") -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Images and masks with the same name.

    Parameters
    ----------
    images, masks : Path
        Two folders, or the same one with a `suffix`.
    suffix : str
        What a mask's name has after its image's name, before the ending.

    Returns
    -------
    pairs : list of (name, image, mask)
        In the order of names.
    alone : list of str
        Names of images without a mask.

    Raises
    ------
    SourceError
        If a folder is missing, has two files of one name, or nothing pairs.
    """
    if images.resolve() == masks.resolve() and not suffix:
        raise SourceError(
            f"Images and masks are both in {images}; give two folders, or `mask_suffix` (as in name_mask.png)."
        )
    found = _named(images)
    truths = _named(masks)
    if images.resolve() == masks.resolve():
        found = {n: p for n, p in found.items() if not n.endswith(suffix)}
    pairs = [(n, p, truths[n + suffix]) for n, p in sorted(found.items()) if n + suffix in truths]
    if not pairs:
        raise SourceError(
            f"None of the {len(found)} images in {images} has a mask in {masks} ({len(truths)} files); a mask is "
            f"called as its image{f' with {suffix!r} after it' if suffix else ''}, with any ending: "
            f"{_some(sorted(found)) or 'no images'} beside {_some(sorted(truths)) or 'no masks'}."
        )
    return pairs, sorted(n for n in found if n + suffix not in truths)


def _named(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their names without endings."""
    if not folder.is_dir():
        raise SourceError(f"There is no folder {folder}; give the folder that holds the images (or masks).")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in _ENDINGS:
            continue
        if (name := stem(path)) in files:
            raise SourceError(f"{folder} holds both {files[name].name} and {path.name}; give one file for each name.")
        files[name] = path
    return files


def read_table(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """A CSV (comma, semicolon or tab) as its columns, and its rows by the names in `name` or `image`, without endings.

    Raises
    ------
    SourceError
        If it cannot be read or has neither column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"The table {path} cannot be read as a CSV: {error}") from error
    first = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    columns = [c.strip() for c in reader.fieldnames or ()]
    reader.fieldnames = columns
    key = next((c for c in ("name", "image") if c in columns), None)
    if key is None:
        raise SourceError(
            f"The table {path} has the columns {', '.join(columns)}; it needs one called name (or image)."
        )
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        name = (row[key] or "").strip()
        fields = {c: (row[c] or "").strip() for c in columns}
        rows[name] = fields
        if Path(name).suffix.lower() in _ENDINGS:
            rows[stem(Path(name))] = fields
    return columns, rows


def _folder(source: FolderSource, config: ModelConfig, say: Say) -> list[Item]:
    """The items of a folder of images and one of masks."""
    pairs, alone = pair_files(source.images, source.masks, source.mask_suffix)
    if alone:
        say("warning", f"{len(alone)} images in {source.images} have no mask and are left out: {_some(alone)}.")
    columns, rows = read_table(source.table) if source.table else ([], {})
    group_of = _grouping(source, columns, rows)

    def make(pair: tuple[str, Path, Path]) -> Item:
        name, image, mask = pair
        mpp = source.mpp or _table_mpp(source, rows.get(name, {}).get("mpp"), name)
        return _pair(name, image, mask, mpp, source, config, group_of(name))

    with ThreadPoolExecutor(2) as pool:
        items = list(pool.map(make, pairs))
    stretched = [i.name for i in items if isinstance(i.truth, MaskTruth) and i.truth.stretched]
    if stretched:
        say(
            "info", f"Masks in {source.masks} hold 0 and 255: 255 was read as {config.classes[0]} ({_some(stretched)})."
        )
    return items


def _pair(
    name: str, image: Path, mask: Path, mpp: Mpp | None, source: FolderSource, config: ModelConfig, group: str | None
) -> Item:
    """One item, checked and closed again."""
    opener = partial(open_slide, image, mpp=mpp)
    with opener() as slide:
        if slide.mpp is None:
            raise MissingMppError(
                f"{image} does not say how many µm a pixel has; give FolderSource(mpp=...) or a table with "
                "a column mpp."
            )
        truth = MaskTruth(mask, (slide.shape[0], slide.shape[1]), source.values, config.classes)
        truth.mask()
    item = Item(name, opener, truth, config.target_mpp, group, source.role, path=image)
    check_channels(item, config.channels)
    item.release()
    return item


def _table_mpp(source: FolderSource, text: str | None, name: str) -> float | None:
    """The table's µm per pixel of an image."""
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = 0.0
    if not 0 < mpp < float("inf"):
        raise SourceError(f"{source.table} gives the mpp {text!r} for {name}; give µm per pixel, such as 0.5.")
    return mpp


def _grouping(source: FolderSource, columns: list[str], rows: dict[str, dict[str, str]]) -> Callable[[str], str | None]:
    """Gives the group of an image by its name."""
    group = source.group
    if group is None:
        return lambda name: None
    if group in columns:

        def by_column(name: str) -> str:
            if not rows.get(name, {}).get(group):
                raise SourceError(
                    f"{source.table} has no {group} for the image {name}; add it, every image needs a group."
                )
            return rows[name][group]

        return by_column
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise SourceError(
            f"The group {group!r} is neither a column of the table nor a regular expression: {error}."
        ) from None

    def by_name(name: str) -> str:
        match = pattern.search(name)
        if match is None:
            raise SourceError(
                f"The group {group!r} is no column of the table ({', '.join(columns) or 'none given'}), and as a "
                f"pattern it does not match the image name {name}."
            )
        return str(match.group(1) if pattern.groups else match.group())

    return by_name


# -------------------------------------------------------------------------------------------------------------- slides


def _slide(source: SlideSource, config: ModelConfig, say: Say) -> Item:
    """The item of a slide with a label store."""
    from napari_msunet.labels import open_labels
    from napari_msunet.labels.where import where_mask

    opener = partial(open_slide, source.slide, mpp=source.mpp)
    name = stem(source.slide)
    slide = opener()
    if slide.mpp is None:
        slide.close()
        raise MissingMppError(f"{source.slide} does not say how many µm a pixel has; give SlideSource(mpp=...).")
    store = open_labels(source.labels)
    if tuple(store.extent) != tuple(slide.shape[:2]):
        raise SourceError(
            f"The labels {source.labels} are for an image of {store.extent[0]} x {store.extent[1]} pixels, but "
            f"{source.slide} has {slide.shape[0]} x {slide.shape[1]}; give the labels of this slide."
        )
    if not set(store.classes) & set(config.classes):
        raise SourceError(
            f"The labels {source.labels} have the classes {', '.join(store.classes)}, the model has "
            f"{', '.join(config.classes)}: none is the same; use the same names."
        )
    truth = StoreTruth(store, config.classes, source.edited_only, where_mask(slide, source.within))
    if truth.missing:
        say("warning", f"{name}: the model has no class {_some(truth.missing)}; pixels labelled so are left out.")
    # A slide is a group of its own: parts of it never stand on both sides unless it is cut into blocks.
    group, kept = source.group or name, {"slide": slide}
    item = Item(name, opener, truth, config.target_mpp, group, source.role, kept, source.slide, source.edited_only)
    check_channels(item, config.channels)
    if bool(np.all(item.truth.overview()[0] == IGNORED)):
        if source.edited_only:
            raise SourceError(
                f"Nothing was corrected in {source.labels}, and only corrections count (edited_only); correct the "
                "prediction in a few places first."
            )
        if source.within != "all" and store.kind == "labels":
            raise SourceError(
                f"Nothing of {source.labels} counts: it has no class anywhere, and the part of {source.slide} that "
                "`within` names is empty; correct the mask, or leave `within` away."
            )
        raise SourceError(
            f"Nothing is annotated in {source.labels}; paint a few examples of each class and of background first."
        )
    return item


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

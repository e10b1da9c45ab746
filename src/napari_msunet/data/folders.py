"""Folders and tables of images and masks: which mask is whose, which group an image is of, all checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, get_args

from napari_msunet._io import TableRow, column_key, read_csv
from napari_msunet.config import AnyModel, FolderSource, Kind, PixelSize, Role, TableSource, ValueRange
from napari_msunet.data.items import Item, Say, check_channels
from napari_msunet.data.ranges import settle_numbers
from napari_msunet.data.truth import MaskTruth
from napari_msunet.errors import SlideError, SourceError
from napari_msunet.names import same_name, true_path
from napari_msunet.slide import open_slide
from napari_msunet.slide.numbers import checked_kind, parse_range
from napari_msunet.slide.pixel_size import parse_mpp
from napari_msunet.slide.slide import DOUBLE, READABLE

_ENDINGS = frozenset((*READABLE, ".npy", ".zarr"))
_BESIDE = frozenset(
    ("", ".csv", ".tsv", ".txt", ".md", ".json", ".xml", ".geojson", ".xlsx", ".db", ".ini", ".yaml", ".yml")
)
"""Endings of what lies beside images and is none."""

Source: TypeAlias = FolderSource | TableSource


def stem(path: Path) -> str:
    """A file's name without its ending (`a.ome.tif` is `a`)."""
    for double in DOUBLE:
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
    suffix = same_name(suffix)
    found = _named(images)
    truths = _named(masks)
    if images.resolve() == masks.resolve():
        found = {n: p for n, p in found.items() if not n.endswith(suffix)}
    pairs = [(n, p, truths[n + suffix]) for n, p in sorted(found.items()) if n + suffix in truths]
    if not pairs:
        raise SourceError(
            f"None of the {len(found)} images in {images} has a mask in {masks} ({len(truths)} files); a mask is "
            f"called as its image{f' with {suffix!r} after it' if suffix else ''}, with any ending: "
            f"{some(sorted(found)) or 'no images'} beside {some(sorted(truths)) or 'no masks'}."
            + _not_looked_into(images)
        )
    return pairs, sorted(n for n in found if n + suffix not in truths)


def _not_looked_into(folder: Path) -> str:
    """A sentence about folders in a folder, which are not read."""
    below = subfolders(folder)
    return f" Folders in {folder} are not looked into: {some(below)}; give one of these." if below else ""


def _named(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their names without endings, as they are compared; the files by their own."""
    folder = true_path(folder)
    if not folder.is_dir():
        raise SourceError(f"There is no folder {folder}; give the folder that holds the images (or masks).")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in _ENDINGS:
            continue
        if (name := same_name(stem(path))) in files:
            raise SourceError(f"{folder} holds both {files[name].name} and {path.name}; give one file for each name.")
        files[name] = path
    return files


def read_table(path: Path) -> tuple[list[str], dict[str, TableRow]]:
    """A CSV as its columns, and its rows by the names in `name` or `image`, with and without endings.

    Raises
    ------
    SourceError
        If it cannot be read or has neither column.
    """
    columns, found = read_csv(path)
    key = next((c for c in ("name", "image") if c in columns), None)
    if key is None:
        raise SourceError(
            f"The table {path} has the columns {', '.join(columns)}; it needs one called name (or image)."
        )
    rows: dict[str, TableRow] = {}
    for fields in found:
        name = same_name(fields[key])
        rows[name] = fields
        if Path(name).suffix.lower() in _ENDINGS:
            rows[stem(Path(name))] = fields
    return columns, rows


def folder_items(source: FolderSource, config: AnyModel, say: Say) -> list[Item]:
    """The items of a folder of images and one of masks."""
    pairs, alone = pair_files(source.images, source.masks, source.mask_suffix)
    if alone:
        say("warning", f"{len(alone)} images in {source.images} have no mask and are left out: {some(alone)}.")
    if spare := _spare(source, {mask for _, _, mask in pairs}):
        say("info", f"{len(spare)} masks in {source.masks} have no image and are not used: {some(spare)}.")
    for folder in dict.fromkeys((source.images, source.masks)):
        if below := subfolders(folder, (source.images, source.masks)):
            say(
                "warning",
                f"Only the files in {folder} itself are read; its folders with images are left out: {some(below)}. "
                "Give each as a source of its own.",
            )
        if others := _of_other_kinds(folder):
            say("warning", f"Files in {folder} of kinds that are not read are left out: {some(others)}.")
    columns, rows = read_table(source.table) if source.table else ([], {})
    group_of = _grouping(source, columns, rows)

    def make(pair: tuple[str, Path, Path]) -> Item:
        name, image, mask = pair
        mpp = source.mpp or _table_mpp(source, rows[name].get("mpp") if name in rows else None, name)
        return _pair(name, image, mask, mpp, source, config, group_of(name))

    with ThreadPoolExecutor(2) as pool:
        items = list(pool.map(make, pairs))
    given = {name: table_numbers(rows.get(name, {}), f"{source.table} for {name}") for name, _, _ in pairs}
    settle_numbers(items, config, say, source.image_kind, source.value_range, given)
    _say_readings(items, source.masks, config, say)
    return items


def _spare(source: FolderSource, used: set[Path]) -> list[str]:
    """Names of masks without an image."""
    if source.images.resolve() == source.masks.resolve():
        return []
    return [path.name for path in _named(source.masks).values() if path not in used]


def _of_other_kinds(folder: Path) -> list[str]:
    """Names of files in a folder that may be images, but of a kind that is not read."""
    return [
        path.name
        for path in sorted(true_path(folder).iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in _ENDINGS | _BESIDE
    ]


def subfolders(folder: Path, used: Sequence[Path] = ()) -> list[str]:
    """Names of the folders in a folder that hold images and are not used; OME-Zarr folders are images themselves."""
    found, known = [], {true_path(path).resolve() for path in used}
    with suppress(OSError):
        for path in sorted(true_path(folder).iterdir()):
            hidden = path.name.startswith(".") or path.suffix.lower() in _ENDINGS or path.resolve() in known
            if path.is_dir() and not hidden and any(p.suffix.lower() in _ENDINGS for p in path.iterdir()):
                found.append(path.name)
    return found


def table_items(source: TableSource, config: AnyModel, say: Say) -> list[Item]:
    """The items of a CSV with columns `images` and `masks`."""
    columns, found = read_csv(source.table)
    if not {"images", "masks"} <= set(columns):
        raise SourceError(
            f"The table {source.table} has the columns {', '.join(columns)}; it needs images and masks, with paths "
            "relative to it."
        )
    rows: dict[str, TableRow] = {}
    files: set[Path] = set()
    for row in found:
        if not row["images"] or not row["masks"]:
            raise SourceError(
                f"Row {row.number} of {source.table} lacks an image or a mask; fill both or remove the row."
            )
        name = same_name(stem(Path(row["images"])))
        name = name if name not in rows else same_name(row["images"])  # of two folders
        file = _inside(source.table, row["images"])
        if file in files or name in rows:
            raise SourceError(f"Row {row.number} of {source.table} gives the image {row['images']} again; remove it.")
        files.add(file)
        rows[name] = row
    if not rows:
        raise SourceError(f"The table {source.table} has no rows; give one for each image.")
    group_of = _grouping(source, columns, rows)
    roles: dict[str, Any] = {"": source.role} | {r: r for r in get_args(Role)}
    unknown = sorted({row.get("role", "").lower() for row in rows.values()} - set(roles))
    if unknown:
        raise SourceError(f"{source.table} has the role {unknown[0]!r}; give auto, train, validate or test.")

    def make(name: str) -> Item:
        row = rows[name]
        image, mask = (_inside(source.table, row[column]) for column in ("images", "masks"))
        mpp = source.mpp or _table_mpp(source, row.get("mpp"), name)
        item = _pair(name, image, mask, mpp, source, config, group_of(name))
        return replace(item, role=roles[row.get("role", "").lower()])

    with ThreadPoolExecutor(2) as pool:
        items = list(pool.map(make, rows))
    given = {name: table_numbers(row, f"{source.table} for {name}") for name, row in rows.items()}
    settle_numbers(items, config, say, source.image_kind, source.value_range, given)
    _say_readings(items, source.table, config, say)
    return items


def _inside(table: Path, text: str) -> Path:
    """A path of a table, which stays inside the table's folder."""
    folder = table.resolve().parent
    path = true_path(folder / text).resolve()
    if not path.is_relative_to(folder):
        raise SourceError(
            f"{table} names {text}, which lies outside its folder; put the table into the folder that holds the images."
        )
    if not path.exists():
        raise SourceError(f"{table} names {text}, which is not in {folder}; correct the table.")
    return path


def _say_readings(items: list[Item], where: Path, config: AnyModel, say: Say) -> None:
    stretched = [i.name for i in items if isinstance(i.truth, MaskTruth) and i.truth.stretched]
    if stretched:
        say("info", f"Masks in {where} hold 0 and 255: 255 was read as {config.classes[0]} ({some(stretched)}).")
    doubts: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item.truth, MaskTruth):
            if item.truth.doubt is not None:
                doubts.setdefault(item.truth.doubt, []).append(item.truth.path.name)
            elif item.truth.turned != item.truth.orientation:
                doubts.setdefault(
                    f"is turned by its orientation tag {item.truth.orientation}, and its image by {item.truth.turned}: "
                    "both were turned as they say; if the mask lies wrongly on the image, remove the tag from the one "
                    "that has it",
                    [],
                ).append(item.truth.path.name)
    for doubt, names in doubts.items():
        say("warning", f"The mask {some(names)} in {where} {doubt}.")


def _pair(
    name: str, image: Path, mask: Path, mpp: PixelSize | None, source: Source, config: AnyModel, group: str | None
) -> Item:
    """One item, checked and closed again."""
    opener = partial(open_slide, image, mpp=mpp)
    with opener() as slide:
        slide.check_unit(config.unit)
        truth = MaskTruth(mask, (slide.shape[0], slide.shape[1]), source.values, config.classes, slide.turned)
        truth.mask()
    item = Item(name, opener, truth, config.target, group, source.role, path=image)
    check_channels(item, config.channels)
    item.release()
    return item


def _table_mpp(source: Source, text: str | None, name: str) -> Any:
    """The table's µm per pixel of an image."""
    try:
        return parse_mpp(text or "", f"The row of {name} in {source.table}")
    except SlideError as error:
        raise SourceError(str(error)) from error


def table_numbers(row: Mapping[str, str], where: str) -> tuple[Kind | None, ValueRange | None]:
    """What the columns `kind` and `value_range` of a row say; `SlideError` where that is none."""
    kind, text = row.get("kind", "").strip(), row.get("value_range", "").strip()
    try:
        return (checked_kind(kind.lower()) if kind else None), (parse_range(text) if text else None)
    except SlideError as error:
        raise SourceError(f"{where}: {error}") from error


def _grouping(source: Source, columns: list[str], rows: Mapping[str, TableRow]) -> Callable[[str], str | None]:
    """Gives the group of an image by its name."""
    group = source.group
    if group is None:
        return lambda name: None
    if column_key(group) in columns:
        column = column_key(group)

        def by_column(name: str) -> str:
            if name not in rows or not rows[name].get(column):
                raise SourceError(
                    f"{source.table} has no {group} for the image {name}; add it, every image needs a group."
                )
            return same_name(rows[name][column])

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


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

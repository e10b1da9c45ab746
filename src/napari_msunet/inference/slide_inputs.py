"""Turning the files, folders, tables and outlines that a person gives into the parts of a prediction job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_msunet._io import input_error, read_csv
from napari_msunet.annotation.formats import KINDS, read_shape_file
from napari_msunet.annotation.importing import ClassedShapes
from napari_msunet.annotation.painting import ShapePainter
from napari_msunet.annotation.shapes import DrawnImage
from napari_msunet.config import Drawn, GivenSlide, InClasses, Where, explain
from napari_msunet.constants import OUTLINE_ENDINGS
from napari_msunet.errors import MsunetError, ShapeFileError, SlideError
from napari_msunet.names import true_path
from napari_msunet.objects.polygons import without_holes
from napari_msunet.slide import Slide, open_slide
from napari_msunet.slide.numbers import checked_kind, parse_range
from napari_msunet.slide.pixel_size import parse_mpp
from napari_msunet.slide.slide import DOUBLE, READABLE

TABLES = frozenset((".csv", ".tsv", ".txt"))
STORE = ".ome.zarr"


def slide_inputs(given: Sequence[Path], out: Path) -> tuple[GivenSlide, ...]:
    """The slides among files, folders and tables, each with its label store below a folder.

    Parameters
    ----------
    given : sequence of Path
        Slides; folders, of which all readable files are used, including those in folders below (but no label stores);
        ``.csv`` or ``.tsv`` tables with a column `slide` and, if wanted, `mpp`, `kind`, `value_range`,
        `out`, `where` and `group`; ``.txt`` files with one slide on each line. Paths in them are relative to them.
    out : Path
        Folder of the label stores; the stores of slides in a folder have the same subfolders.

    Raises
    ------
    MsunetError
        If there is no slide, a table cannot be used, or two slides would share a store.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in given:
        found += [(below, {**row, "slide": slide}) for slide, below, row in _one_given(path)]
    names = _names([(entry["slide"], below) for below, entry in found])
    slides = []
    for (_, entry), name in zip(found, names, strict=True):
        entry.setdefault("out", out / f"{name}{STORE}")
        try:
            slides.append(GivenSlide(**entry))
        except ValidationError as error:
            raise explain(error, f"What is given for {entry['slide']}") from error
    if not slides:
        raise MsunetError(
            f"No slide was found in {', '.join(map(str, given))}; give slides, a folder of slides, or a CSV."
        )
    return tuple(slides)


def is_many(given: Sequence[Path]) -> bool:
    """Whether these paths mean several slides: more than one path, a folder of files, or a table."""
    first = given[0]
    table = first.suffix.lower() in TABLES and first.is_file()
    return len(given) > 1 or table or (first.is_dir() and not _is_zarr(first))


def _one_given(path: Path) -> Iterator[tuple[Path, Path, dict[str, Any]]]:
    """`slide, its name below the path, its other fields` for each slide in a given path."""
    if path.suffix.lower() in TABLES and path.is_file():
        yield from ((slide, Path(slide.name), row) for slide, row in _rows(path))
    elif path.is_dir() and not _is_zarr(path):
        yield from ((slide, slide.relative_to(path), {}) for slide in _walk(path))
    else:
        yield path, Path(path.name), {}


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup"))


def _walk(folder: Path) -> Iterator[Path]:
    """The readable files below a folder, by name; zarr folders without labels are slides too."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise input_error(f"The folder {folder}", error, "check its permissions", MsunetError) from error
    files = {entry.stem for entry in entries if entry.suffix.lower() == ".mrxs"}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if _is_zarr(entry):
                if not (entry / "edited").exists() and not (entry / "runs").exists():
                    yield entry
            elif entry.name not in files:  # a folder with the name of a file holds the data of an MRXS file
                yield from _walk(entry)
        elif entry.suffix.lower() in READABLE:
            yield entry


def _names(slides: list[tuple[Path, Path]]) -> list[str]:
    """A name for the store of each slide: its own without the suffix, or with it where two would be the same."""
    short = [_without_suffix(below) for _, below in slides]
    often = Counter(short)
    names = [name if often[name] == 1 else below.as_posix() for name, (_, below) in zip(short, slides, strict=True)]
    first: dict[str, Path] = {}
    for name, (slide, _) in zip(names, slides, strict=True):
        other = first.setdefault(name, slide)
        if other is not slide:
            raise MsunetError(
                f"{other} and {slide} have the same name; give a CSV with the columns slide and out, so that each has "
                "a label store of its own."
            )
    return names


def _without_suffix(below: Path) -> str:
    name = below.as_posix()
    for ending in DOUBLE:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return below.with_suffix("").as_posix()


def _rows(table: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """`slide, its other fields` for each row of a table."""
    if table.suffix.lower() == ".txt":
        try:
            lines = table.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MsunetError(f"The table {table} cannot be read ({error}); give a list in UTF-8.") from error
        yield from ((true_path(table.parent / line.strip()), {}) for line in lines if line.strip())
        return
    columns, rows = read_csv(table)
    if "slide" not in columns:
        raise MsunetError(
            f"The table {table} has the columns {', '.join(columns) or 'none'}; one called slide is needed, and mpp, "
            "kind, value_range, out, where and group are understood."
        )
    for row in rows:
        if not row["slide"]:
            raise MsunetError(f"Row {row.number} of {table} names no slide; fill the column slide or remove the row.")
        yield true_path(table.parent / row["slide"]), _row_fields(table, row.number, row)


def _row_fields(table: Path, number: int, values: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    mpp = values.get("mpp") or values.get("slide_mpp")
    if mpp:
        found["mpp"] = parse_mpp(mpp, f"Row {number} of {table}")
    if values.get("out"):
        found["out"] = table.parent / values["out"]
    try:
        if values.get("kind"):
            found["kind"] = checked_kind(values["kind"].lower())
        if values.get("value_range"):
            found["value_range"] = parse_range(values["value_range"])
    except SlideError as error:
        raise MsunetError(f"Row {number} of {table}: {error}") from error
    if values.get("group"):
        found["group"] = values["group"]
    if values.get("where"):
        found["where"] = parse_where(values["where"], table.parent, true_path(table.parent / values["slide"]))
    return found


def parse_where(text: str, folder: Path = Path(), slide: Path | None = None) -> Where:
    """The part of a slide: ``"all"``, ``"tissue"``, a file of outlines (``coco.json:name.png`` for those of one of its
    images), or a label store: ``labels.ome.zarr:gland``.

    Parameters
    ----------
    text : str
    folder : Path
        The folder to which a relative path is relative.
    slide : Path, optional
        The slide, which some files of outlines need.

    Raises
    ------
    MsunetError
        If the text is none of these.
    """
    if text == "all" or text == "tissue":
        return text  # type: ignore[return-value]  # mypy does not narrow to the literals
    if (folder / text).is_file() or text.lower().endswith(OUTLINE_ENDINGS):
        return drawn(folder / text, slide)
    file, colon, image = text.rpartition(":")
    if colon and image and (folder / file).is_file():
        return drawn(folder / file, slide, image)
    store, colon, names = text.rpartition(":")
    if not colon or (folder / text).exists() or not store:
        store, names = text, ""
    if not (folder / store).is_dir():
        raise MsunetError(
            f"--where {text!r} is none of: tissue, a file of outlines that is there ({KINDS}), or a label store "
            "that is there (labels.ome.zarr, or labels.ome.zarr:gland,stroma for some of its classes)."
        )
    classes = tuple(name.strip() for name in names.split(",") if name.strip())
    return InClasses(labels=folder / store, classes=classes or None)


def drawn(path: Path, slide: Slide | Path | None = None, image: str | None = None) -> Drawn:
    """The areas of any class in a file of outlines, which is read as in `import` and training.

    Parameters
    ----------
    path : Path
    slide : Slide or Path, optional
        The slide on which they were drawn; needed where the file holds the outlines of several images or counts y
        upwards.
    image : str, optional
        The image in the file; None: the one of the slide's name.

    Raises
    ------
    ShapeFileError
        If it cannot be read or holds no area.
    ImageNeededError
        If the slide is needed and not given.
    """
    if isinstance(slide, Path):
        try:
            with open_slide(slide, mpp="px") as opened:
                on = DrawnImage.of(opened, image)
        except SlideError:  # of many slides, one that is damaged fails when its turn comes
            on = DrawnImage(image or str(slide), chosen=image is not None)
    else:
        on = DrawnImage.of(slide, image)
    file = read_shape_file(path, on)
    areas = ClassedShapes(file, [(1, s) for s in file.shapes if s.areal], {})
    painting = ShapePainter(areas.numbered)
    report = areas.report(None, painting)
    solid = [p for s in sorted(painting.shapes) for p in without_holes(s.geometry)]
    if not solid:
        why = f" {report.losses()}" if report.lost else ""
        raise ShapeFileError(
            f"{path} holds no area.{why} Draw the part that is wanted as a polygon, and export it again."
        )
    polygons = tuple(tuple((y, x) for x, y in piece.exterior.coords[:-1]) for piece in solid)
    lost = report.notes or [f for f in report.fates if f.fate == "left out" or f.repaired]
    return Drawn(polygons=polygons, left_out=f"{path.name}: {report.losses()}" if lost else "")

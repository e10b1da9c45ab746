"""What became of each outline of a file: painted, outside the slide, hidden, mended, or left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely

from napari_msunet.annotation.painting import Painting, class_numbers
from napari_msunet.annotation.shape_files import DrawnShape, ShapeFile, ShapeFileError

TOO_SMALL = "too small to hold the centre of a pixel"
_EDGE = 1.0
"""Level-0 pixels by which an outline may stick out of the slide without a word: outlines run along pixels' edges."""
_TINY = 16.0
"""Level-0 pixels² up to which it is looked at whether a shape holds the centre of a pixel at all."""

FateName = Literal["painted", "partly outside", "outside", "hidden", "hole", "left out"]


@dataclass(frozen=True)
class ShapeFate:
    """What became of one shape.

    Attributes
    ----------
    number : int
        Its place in the file, from 1.
    name : str
        What the file calls it.
    fate : str
        "painted"; "partly outside" the slide, the rest painted; "outside" the slide; "hidden" by shapes over it;
        "hole", cut out of others; "left out".
    why : str
        Why it was left out.
    repaired : str
        What was wrong with its outline and is mended.
    pixels : int, optional
        Of the store, that show it; None where they were not counted.
    """

    number: int
    name: str
    fate: FateName
    why: str = ""
    repaired: str = ""
    pixels: int | None = None


@dataclass(frozen=True)
class ShapeReport:
    """What became of the shapes of a file.

    Attributes
    ----------
    fates : tuple of ShapeFate
        In the order of the file.
    unknown : dict of str to int
        How many have a name that is no class, by name.
    path : Path
        The file; empty where shapes came from nowhere.
    """

    fates: tuple[ShapeFate, ...]
    unknown: dict[str, int]
    path: Path = Path()

    @property
    def painted(self) -> int:
        """How many are seen, whole or in part."""
        return sum(f.fate in ("painted", "partly outside") for f in self.fates)

    @property
    def pixels(self) -> int:
        """Pixels that show any of them, where they were counted."""
        return sum(f.pixels or 0 for f in self.fates)

    @property
    def lost(self) -> bool:
        """Whether anything of what was drawn is not there."""
        return any(f.fate not in ("painted", "hole") or f.repaired for f in self.fates)

    def counted(self) -> str:
        """``"5 of 9 shapes"``, or ``"9 shapes"`` where all are seen; holes count with what they are cut out of."""
        total = sum(f.fate != "hole" for f in self.fates)
        return (
            f"{self.painted} shape{'s' * (total != 1)}"
            if total == self.painted
            else f"{self.painted} of {total} shapes"
        )

    def losses(self) -> str:
        """Sentences about all that is not simply painted; empty where there is nothing to say."""
        said = []
        for fate, one, several in (
            ("partly outside", "1 lies partly outside the slide", "{} lie partly outside the slide"),
            ("outside", "1 lies outside the slide", "{} lie outside the slide"),
            ("hidden", "1 is hidden by shapes over it", "{} are hidden by shapes over them"),
        ):
            if numbers := [f.number for f in self.fates if f.fate == fate]:
                said.append(f"{(one if len(numbers) == 1 else several).format(len(numbers))}{_which(numbers)}.")
        for why, numbers in _by([(f.repaired, f.number) for f in self.fates if f.repaired]).items():
            said.append(f"{len(numbers)} {why} {'was' if len(numbers) == 1 else 'were'} mended{_which(numbers)}.")
        left = _by([(f.why, f.number) for f in self.fates if f.fate == "left out"])
        if left:
            told = [f"{len(n)} {_singular(why) if len(n) == 1 else why}{_which(n)}" for why, n in left.items()]
            said.append(f"Left out: {', '.join(told)}.")
        return " ".join(said)


def _by(pairs: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key, number in pairs:
        found.setdefault(key, []).append(number)
    return found


def _singular(why: str) -> str:
    return {"points": "point", "lines": "line"}.get(why, why)


def _which(numbers: Sequence[int]) -> str:
    """Which of the file's shapes, where they have numbers."""
    known = [str(n) for n in sorted(set(numbers)) if n]
    if not known:
        return ""
    rest = f" and {len(known) - 5} more" if len(known) > 5 else ""
    return f" (shape{'s' * (len(known) > 1)} {', '.join(known[:5])}{rest})"


@dataclass(frozen=True)
class ClassedShapes:
    """The shapes of a file with the class each has.

    Attributes
    ----------
    file : ShapeFile
    numbered : list of (int, DrawnShape)
        Areas that have a class, and its number.
    unknown : dict of str to int
        How many areas have a name that is no class.
    """

    file: ShapeFile
    numbered: list[tuple[int, DrawnShape]]
    unknown: dict[str, int]

    @classmethod
    def of(
        cls,
        shapes: ShapeFile | Sequence[DrawnShape],
        classes: Sequence[str],
        names: Mapping[str, str] | None = None,
    ) -> ClassedShapes:
        """As `class_numbers`."""
        file = shapes if isinstance(shapes, ShapeFile) else ShapeFile(tuple(shapes), None, "")
        return cls(file, *class_numbers(file.shapes, classes, names))

    def report(self, extent: tuple[int, int] | None, painting: Painting | None = None) -> ShapeReport:
        """What becomes of each shape on a slide of this extent (level-0 pixels); None: outside is not looked for.

        A shape counts as hidden where those over it leave nothing of it.
        """
        painting = painting or Painting(self.numbered)
        number_of = {id(shape): k for k, (_, shape) in enumerate(self.numbered)}
        seen = _seen(painting, extent)
        fates: list[tuple[int, ShapeFate]] = []
        for shape in self.file.shapes:
            index = number_of.get(id(shape))
            fate = _fate(shape, index, seen, painting.dropped)
            fates.append((shape.number, fate))
        fates += [(left.number, ShapeFate(left.number, left.name, "left out", left.why)) for left in self.file.left_out]
        ordered = tuple(fate for _, fate in sorted(fates, key=lambda pair: pair[0]))
        return ShapeReport(ordered, self.unknown, self.file.path)

    def check(self, report: ShapeReport, classes: Sequence[str], whose: str, extent: tuple[int, int]) -> None:
        """Raise `ShapeFileError` where nothing would be painted.

        Parameters
        ----------
        whose : str
            What has the classes, in the sentence: ``"the model"``.
        """
        if report.painted:
            return
        from_file = f" in {report.path}" if report.path.name else ""
        if not self.numbered and self.unknown:
            called = sorted(name for name in self.unknown if name)
            told = f"they are called {', '.join(called)}" if called else "they have no class"
            example = f'{{"{[*called, "nothing"][0]}": "{[*classes, "gland"][0]}"}}'
            raise ShapeFileError(
                f"No shape{from_file} is of a class of {whose} ({', '.join(classes) or 'no classes'}); {told}: say "
                f"which class each of these names is, such as values={example}; nothing is the name of shapes without "
                "a class."
            )
        cure = " Say which class each name is, or give" if self.unknown else " Give"
        raise ShapeFileError(
            f"No shape{from_file} can be used on a slide of {extent[0]} x {extent[1]} pixels (height "
            f"x width). {report.losses()}{cure} the outlines of this slide, in its level-0 pixels."
        )


def with_pixels(report: ShapeReport, pixels: Mapping[int, int]) -> ShapeReport:
    """A report with the pixels that were counted, by a shape's place in the report."""
    fates = list(report.fates)
    for k, count in pixels.items():
        fate = fates[k]
        if fate.fate in ("painted", "partly outside") and not count:
            fate = replace(fate, fate="left out", why=TOO_SMALL)
        fates[k] = replace(fate, pixels=count)
    return replace(report, fates=tuple(fates))


def _fate(shape: DrawnShape, index: int | None, seen: Mapping[int, FateName], dropped: Mapping[int, str]) -> ShapeFate:
    if not shape.areal:
        kind = "points" if "Point" in shape.geometry.geom_type else "lines"
        return ShapeFate(shape.number, shape.name, "left out", kind)
    if index is None:
        named = shape.classed and shape.name
        why = f"called {shape.name}, which is no class" if named else "without a class"
        return ShapeFate(shape.number, shape.name, "left out", why)
    if index in dropped:
        return ShapeFate(shape.number, shape.name, "left out", dropped[index])
    fate: FateName = "hole" if shape.hole else seen[index]
    if fate == "left out":
        return ShapeFate(shape.number, shape.name, fate, TOO_SMALL)
    return ShapeFate(shape.number, shape.name, fate, repaired=shape.repaired)


def _seen(painting: Painting, extent: tuple[int, int] | None) -> dict[int, FateName]:
    """By a shape's place in what was painted: whether any of it is seen on the slide."""
    if not painting.shapes:
        return {}
    geometries: Any = np.array([s.geometry for s in painting.shapes], object)
    fates: list[FateName] = ["painted"] * len(geometries)
    if extent is not None:
        low, high = shapely.bounds(geometries)[:, :2], shapely.bounds(geometries)[:, 2:]
        size = np.array([extent[1], extent[0]], float)
        slide = shapely.box(0, 0, *size)
        for k in np.flatnonzero((low < -_EDGE).any(1) | (high > size + _EDGE).any(1)).tolist():
            geometries[k] = shapely.intersection(geometries[k], slide)
            fates[k] = "partly outside" if geometries[k].area > 0 else "outside"
    areas = shapely.area(geometries)
    for k in np.flatnonzero((areas <= _TINY) & (areas > 0)).tolist():
        if fates[k] != "outside" and not painting.holds_a_centre(k):
            fates[k] = "left out"
    there = np.array([f in ("painted", "partly outside") for f in fates])
    for k in _hidden(np.where(there, geometries, None), areas):
        fates[k] = "hidden"
    return {s.place: fate for s, fate in zip(painting.shapes, fates, strict=True)}


def _hidden(geometries: Any, areas: Any) -> list[int]:
    """Which geometries later ones cover."""
    tree = shapely.STRtree(geometries)
    under, over = tree.query(geometries, predicate="intersects")
    under, over = under[over > under], over[over > under]
    covering = np.bincount(under, areas[over], len(geometries))
    found = []
    order = np.argsort(under, kind="stable")
    starts = np.searchsorted(under[order], np.arange(len(geometries) + 1))
    for k in np.flatnonzero((covering >= areas * (1 - 1e-6)) & (areas > 0)).tolist():
        above = geometries[over[order[starts[k] : starts[k + 1]]]]
        left = shapely.difference(geometries[k], shapely.union_all(above))
        if left.area <= 1e-6 * areas[k]:
            found.append(k)
    return found

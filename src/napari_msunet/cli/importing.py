"""The verb `import`: outlines drawn in another program into a label store."""

from __future__ import annotations

import json as jsonlib
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from napari_msunet.cli.options import PixelSizeOption, parse_names
from napari_msunet.cli.running import app, warn_of
from napari_msunet.errors import MsunetError
from napari_msunet.names import printable


@app.command(name="import")
def import_outlines(
    shapes: Path,
    *,
    labels: Path,
    slide: Path | None = None,
    classes: str | None = None,
    values: str = "classes",
    kind: Literal["annotation", "labels"] = "annotation",
    mpp: PixelSizeOption | None = None,
    json: bool = False,
) -> None:
    """Paint outlines of QuPath (GeoJSON), ASAP, ImageScope or HALO into a label store, as strokes that can be undone.

    Parameters
    ----------
    shapes : Path
        The file of outlines.
    labels : Path
        A label store of the slide; without one there, a new one is made, for which --slide is needed.
    slide : Path
        The slide that was drawn on.
    classes : str
        For a new store: names of classes 1, 2, ... with commas; without it, the names in the file. Where no shape there
        has a class, one name takes them all.
    values : str
        Which name in the file is which class, such as Tumor=gland,Stroma=background; nothing=gland takes shapes without
        a class. Without it, the names themselves.
    kind : str
        For a new store: annotation (0 is not annotated) or labels (0 is background).
    mpp : float
        µm per pixel of the slide, where its file does not say it; px: its own pixels, whatever it says.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.annotation import import_file
    from napari_msunet.slide import open_slide
    from napari_msunet.slide.orientation import outlines_note

    names = parse_names(values)
    if names == "instances":
        raise MsunetError("--values instances is for masks; give classes, or pairs such as Tumor=gland.")
    if not labels.exists() and slide is None:
        raise MsunetError(f"There is no label store at {labels}; give --slide too, and one is made.")
    given = None if classes is None else [c.strip() for c in classes.split(",") if c.strip()]
    with open_slide(slide, mpp=mpp) if slide is not None else nullcontext() as opened:
        if opened is not None and (doubt := outlines_note(printable(slide), opened.turned)):
            warn_of([doubt + "."])
        report = import_file(
            shapes, labels, opened, classes=given, names=None if names == "classes" else names, kind=kind
        )
    if json:
        counts = {"shapes": report.painted, "pixels": report.pixels, "left_out": report.unknown, "labels": str(labels)}
        print(jsonlib.dumps({**counts, "fates": [asdict(fate) for fate in report.fates]}))  # noqa: T201
        return
    were = "was" if report.painted == 1 else "were"
    print(f"{report.counted()} {were} painted into {printable(labels)}: {report.pixels:,} pixels.")  # noqa: T201
    if report.lost:
        print(report.losses())  # noqa: T201

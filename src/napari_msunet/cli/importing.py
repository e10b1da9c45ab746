"""The verb `import`: outlines drawn in another program into a label store."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Literal

from napari_msunet.cli.running import app
from napari_msunet.cli.source_options import parse_names
from napari_msunet.config import is_no_class
from napari_msunet.errors import MsunetError


@app.command(name="import")
def import_outlines(
    shapes: Path,
    *,
    labels: Path,
    slide: Path | None = None,
    classes: str | None = None,
    values: str = "classes",
    kind: Literal["annotation", "labels"] = "annotation",
    mpp: float | None = None,
    json: bool = False,
) -> None:
    """Paint outlines of QuPath (GeoJSON), ASAP or ImageScope (XML) into a label store, as strokes that can be undone.

    Parameters
    ----------
    shapes : Path
        The file of outlines.
    labels : Path
        A label store of the slide; without one there, a new one is made, for which --slide is needed.
    slide : Path
        The slide that was drawn on.
    classes : str
        For a new store: names of classes 1, 2, ... with commas; without it, the names in the file.
    values : str
        Which name in the file is which class, such as Tumor=gland,Stroma=background; without it, the names themselves.
    kind : str
        For a new store: annotation (0 is not annotated) or labels (0 is background).
    mpp : float
        µm per pixel of the slide, where its file does not say it.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.annotation import import_shapes, read_shapes
    from napari_msunet.labels import LabelStore, open_labels
    from napari_msunet.slide import open_slide

    found = read_shapes(shapes)
    names = parse_names(values)
    if names == "instances":
        raise MsunetError("--values instances is for masks; give classes, or pairs such as Tumor=gland.")
    meaning = None if names == "classes" else names
    if labels.exists():
        store = open_labels(labels)
    elif slide is None:
        raise MsunetError(f"There is no label store at {labels}; give --slide too, and one is made.")
    else:
        drawn = {s.name for s in found if s.areal and s.name}
        found_names = sorted(set((meaning or {}).values()) or drawn)
        given = classes.split(",") if classes else [name for name in found_names if not is_no_class(name)]
        wanted = tuple(c.strip() for c in given)
        with open_slide(slide, mpp=mpp) as opened:
            store = LabelStore.create(labels, classes=wanted, kind=kind, slide=opened)
    with store:
        left_out = import_shapes(found, store, meaning)
    painted = sum(s.areal for s in found) - sum(left_out.values())
    if json:
        print(jsonlib.dumps({"shapes": painted, "left_out": left_out, "labels": str(labels)}))  # noqa: T201
        return
    print(f"{painted} shapes were painted into {labels}.")  # noqa: T201
    if left_out:
        told = ", ".join(f"{count} called {name or 'nothing'}" for name, count in sorted(left_out.items()))
        print(f"Left out, for no class has their name: {told}.")  # noqa: T201

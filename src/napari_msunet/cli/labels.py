"""The verbs of label stores: postprocess, measure, export, import, review, truth."""

from __future__ import annotations

import json as jsonlib
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from napari_msunet.cli.options import (
    DamageOptions,
    ExportOptions,
    MeasureOptions,
    PixelSizeOption,
    PostprocessOptions,
    RunOptions,
    parse_names,
)
from napari_msunet.cli.running import app, run_or_print, warn_of
from napari_msunet.config import ExportJob, ExportModelJob, MeasureJob, PostprocessJob
from napari_msunet.errors import MsunetError
from napari_msunet.names import printable

# ----------------------------------------------------------------------------------------------------------------------
# The verbs of label stores: postprocess, measure, export.

_RUN, _POST, _MEASURE, _EXPORT = RunOptions(), PostprocessOptions(), MeasureOptions(), ExportOptions()


@app.command
def postprocess(labels: Path, *, postprocessing: PostprocessOptions = _POST, options: RunOptions = _RUN) -> None:
    """Make other labels from probabilities that a prediction kept, without the network; edits stay.

    Parameters
    ----------
    labels : Path
        The label store.
    """
    run_or_print(lambda: PostprocessJob(labels=labels, **postprocessing.values()), options)


@app.command
def measure(labels: Path, *, out: Path, measuring: MeasureOptions = _MEASURE, options: RunOptions = _RUN) -> None:
    """Measure a label store: area of each class; area, shape, stain, place and neighbours of each object.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        The table of objects, such as objects.csv, objects.parquet, or objects.geojson (outlines with measurements);
        objects.classes.csv is written beside it.
    """
    run_or_print(lambda: MeasureJob(labels=labels, out=out, **measuring.values()), options)


@app.command
def export(labels: Path, *, out: Path, exporting: ExportOptions = _EXPORT, options: RunOptions = _RUN) -> None:
    """Write labels, or a model, in another format, chosen by the ending of --out.

    Parameters
    ----------
    labels : Path
        The label store; or a model file (.safetensors), which is then written as .onnx, .pt2 or .zip (bioimage.io).
    out : Path
        A name ending in .geojson (QuPath), .json (COCO), .xml (ASAP), .ome.tif (tiled pyramid), .ome.zarr (plain copy)
        or .png (best of a region).
    """
    if labels.suffix.lower() == ".safetensors":
        if exporting.values():
            raise MsunetError("A model is exported whole: leave out the options of labels.")
        run_or_print(lambda: ExportModelJob(model=labels, out=out), options)
        return
    run_or_print(lambda: ExportJob(labels=labels, out=out, **exporting.values()), options)


# ----------------------------------------------------------------------------------------------------------------------
# The verb `import`: outlines drawn in another program into a label store.


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
    image: str | None = None,
    radius: float | None = None,
    json: bool = False,
) -> None:
    """Paint outlines of other programs into a label store, as strokes that can be undone.

    Parameters
    ----------
    shapes : Path
        The file of outlines: of QuPath (GeoJSON), ASAP, ImageScope, HALO, CVAT, Labelbox, labelme, Cytomine or COCO.
    labels : Path
        A label store of the slide. Where there is none at this path, a new one is made, for which --slide is needed.
    slide : Path
        The slide on which the outlines were drawn.
    classes : str
        For a new store: names of classes 1, 2, ... with commas; without it, the names in the file. Where no shape in
        the file has a class, give one name, which becomes the class of all.
    values : str
        Which name in the file is which class, such as Tumor=gland,Stroma=background; nothing=gland makes shapes without
        a class gland. Without this option, the names in the file are those of the classes.
    kind : str
        For a new store: annotation (0 is not annotated) or labels (0 is background).
    mpp : float
        µm per pixel of the slide, where its file does not give it; px: the slide is used in its own pixels.
    image : str
        Where the file holds the outlines of several images: which of them, by its name there; without it, the one of
        the slide's name.
    radius : float
        Radius in µm of the disc that each point becomes (in pixels where the slide has no µm); without it, points are
        left out.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.annotation import import_file
    from napari_msunet.slide import open_slide
    from napari_msunet.slide.backend import outlines_note

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
            shapes,
            labels,
            opened,
            classes=given,
            names=None if names == "classes" else names,
            kind=kind,
            image=image,
            radius=radius,
        )
    if json:
        counts = {"shapes": report.painted, "pixels": report.pixels, "left_out": report.unknown, "labels": str(labels)}
        print(jsonlib.dumps({**counts, "fates": [asdict(fate) for fate in report.fates]}))  # noqa: T201
        return
    were = "was" if report.painted == 1 else "were"
    print(f"{report.counted()} {were} painted into {printable(labels)}: {report.pixels:,} pixels.")  # noqa: T201
    if report.lost:
        print(report.losses())  # noqa: T201


# ----------------------------------------------------------------------------------------------------------------------
# The verb `review`: the places of a slide that most deserve to be looked at, as CSV.

_DAMAGE = DamageOptions()


@app.command
def review(
    labels: Path,
    *,
    out: Path,
    by: Literal["disagreement", "entropy", "distance", "oddity"] = "disagreement",
    size: int = 256,
    limit: int = 200,
    tissue: Path | None = None,
    json: bool = False,
    options: DamageOptions = _DAMAGE,
) -> None:
    """Rank the places of a prediction that most deserve to be looked at, and write them as CSV.

    Places that were accepted, corrected or skipped in the window are left out.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        CSV of the places, best first, such as review.csv; y, x, height, width in level-0 pixels of the slide.
    by : str
        disagreement (between the scales), entropy, distance (to what was reviewed), or oddity (of objects).
    size : int
        Side of a place in pixels of the label store.
    limit : int
        Largest number of places.
    tissue : Path
        The slide; only places in its tissue are ranked then. Places without a prediction are never ranked.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.labels import open_labels
    from napari_msunet.review.queue import survey, write_queue
    from napari_msunet.slide import open_slide, tissue_mask

    with open_labels(labels) as store:
        mask = None
        if tissue is not None:
            with open_slide(tissue) as slide:
                mask = tissue_mask(slide)
        found = survey(store, by, size, limit, mask, damaged=options.damaged)
        warn_of(found.left_out)
        written = write_queue(found.candidates, out, store)
    kept = {k: v for k, v in asdict(found).items() if v or k not in ("left_out", "unpredicted")}
    values = {k: v for k, v in kept.items() if k != "candidates"} | {"places": len(found.candidates)}
    if found.unpredicted and not json:
        print(f"{found.unpredicted} windows of tissue were not predicted and are left out.")  # noqa: T201
    if json:
        print(jsonlib.dumps({"values": values, "files": {"queue": str(written)}}, indent=1))  # noqa: T201
        return
    print(  # noqa: T201
        f"Reviewed {found.reviewed} of {found.total} windows, {100 * found.share:.1f} % of what is predicted.\n"
        f"Wrote {len(found.candidates)} places to {written}."
    )


# ----------------------------------------------------------------------------------------------------------------------
# The verb `truth`: the likely errors in an annotation.


@app.command
def truth(
    annotation: Path,
    labels: Path,
    *,
    out: Path,
    confusion: Path | None = None,
    limit: int = 200,
    least: float | None = None,
    edge: float = 3.0,
    doubt: float = 250.0,
    everything: bool = False,
    json: bool = False,
    options: DamageOptions = _DAMAGE,
) -> None:
    """Rank the regions of a truth by a model's loss on them: the likely annotation errors. Nothing is changed.

    Parameters
    ----------
    annotation : Path
        The truth: an annotation, or a label store with accepted and corrected pixels (also `labels` itself).
    labels : Path
        The label store with the prediction, made with --outputs labels probabilities; without probabilities places are
        ranked by size.
    out : Path
        CSV of the suspects, likeliest error first, with y, x, height, width in level-0 pixels of the slide.
    confusion : Path
        CSV of the confusion matrix, in pixels and µm².
    limit : int
        Largest number of suspects.
    least : float
        Area in µm² of the smallest region that is listed; without it, 25 pixels of the coarser of truth and prediction.
    edge : float
        Regions of up to this width, in the same pixels, are differences along an edge: they are counted, not listed.
    doubt : float
        Number of pixels without loss that are added to a region before its mean loss is taken, so that specks do not
        come first.
    everything : bool
        In a label store, take all pixels as true, not only those that a person edited. This is meant for a mask made
        elsewhere.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.labels import open_labels
    from napari_msunet.review import review_truth, write_confusion, write_label_issues

    store = open_labels(annotation)
    with store, open_labels(labels) as prediction:
        found = review_truth(
            store, prediction, limit, least, edge, doubt, edited_only=not everything, damaged=options.damaged
        )
        warn_of(found.left_out)
        files = {"suspects": str(write_label_issues(found, out, store))}
        if confusion is not None:
            files["confusion"] = str(write_confusion(found.confusion, confusion))
    values = {
        "suspects": len(found.suspects),
        "pixels": found.pixels,
        "unpredicted": found.unpredicted,
        "kept": found.kept,
        "scored": found.scored,
        "ignored": list(found.ignored),
    }
    if json:
        print(jsonlib.dumps({"values": values, "files": files}, indent=1))  # noqa: T201
        return
    agreed = int(found.confusion.pixels.trace())
    share = f"{100 * agreed / found.pixels:.1f} %" if found.pixels else "none"
    missing = f" {found.unpredicted:,} pixels of truth were not predicted." if found.unpredicted else ""
    print(  # noqa: T201
        f"The model agrees with {share} of {found.pixels:,} pixels of truth.{missing}\n"
        f"Wrote {len(found.suspects)} suspects to {files['suspects']}."
    )

"""The verbs of label stores: postprocess, measure, export."""

from __future__ import annotations

from pathlib import Path

from napari_msunet.cli.options import ExportOptions, MeasureOptions, PostprocessOptions, RunOptions
from napari_msunet.cli.running import app, run_or_print
from napari_msunet.config import ExportJob, MeasureJob, PostprocessJob

_RUN, _POST, _MEASURE, _EXPORT = RunOptions(), PostprocessOptions(), MeasureOptions(), ExportOptions()


@app.command
def postprocess(labels: Path, *, postprocessing: PostprocessOptions = _POST, options: RunOptions = _RUN) -> None:
    """Make other labels from probabilities that a prediction kept, without the network; what was edited stays.

    Parameters
    ----------
    labels : Path
        The label store.
    """
    run_or_print(lambda: PostprocessJob(labels=labels, **postprocessing.values()), options)


@app.command
def measure(labels: Path, *, out: Path, measuring: MeasureOptions = _MEASURE, options: RunOptions = _RUN) -> None:
    """Measure a label store: area of each class; area, perimeter and place of each object.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        CSV of the objects, such as objects.csv; objects.classes.csv is written beside it.
    """
    run_or_print(lambda: MeasureJob(labels=labels, out=out, **measuring.values()), options)


@app.command
def export(labels: Path, *, out: Path, exporting: ExportOptions = _EXPORT, options: RunOptions = _RUN) -> None:
    """Write labels in another format, told by the ending of --out.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        A name ending in .geojson (QuPath), .ome.tif (tiled pyramid), .ome.zarr (plain copy) or .png (best of a region).
    """
    run_or_print(lambda: ExportJob(labels=labels, out=out, **exporting.values()), options)

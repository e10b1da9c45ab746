"""The verbs of label stores: postprocess, measure, export."""

from __future__ import annotations

from pathlib import Path

from napari_msunet.cli.options import RunOptions, parse_region
from napari_msunet.cli.predict_options import PostprocessOptions
from napari_msunet.cli.running import app, run_or_print
from napari_msunet.config import ExportJob, MeasureJob, PostprocessJob

_RUN, _POST = RunOptions(), PostprocessOptions()


@app.command
def postprocess(
    labels: Path,
    *,
    run: str | None = None,
    part: bool = False,
    postprocessing: PostprocessOptions = _POST,
    options: RunOptions = _RUN,
) -> None:
    """Make other labels from probabilities that a prediction kept, without the network; what was edited stays.

    Parameters
    ----------
    labels : Path
        The label store.
    run : str
        Which run's probabilities, by its key; the newest without it.
    part : bool
        Make instances, too: part the objects that touch, as --instances says.
    """
    run_or_print(
        lambda: PostprocessJob(labels=labels, run=run, instances=part, postprocess=postprocessing.settings()), options
    )


@app.command
def measure(
    labels: Path,
    *,
    out: Path,
    region: str | None = None,
    instances: str | None = None,
    options: RunOptions = _RUN,
) -> None:
    """Measure a label store: area of each class; area, perimeter and place of each object.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        CSV of the objects, such as objects.csv; objects.classes.csv is written beside it.
    region : str
        y,x,height,width in pixels of the label store; all of it without it.
    instances : str
        newest, or the key of a run with instances: those are the objects, each with the class that most of it shows.
    """
    run_or_print(lambda: MeasureJob(labels=labels, out=out, region=parse_region(region), instances=instances), options)


@app.command
def export(
    labels: Path,
    *,
    out: Path,
    region: str | None = None,
    instances: str | None = None,
    options: RunOptions = _RUN,
) -> None:
    """Write labels in another format, told by the ending of --out.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        A name ending in .geojson (QuPath), .ome.tif (tiled pyramid), .ome.zarr (plain copy) or .png (best of a region).
    region : str
        y,x,height,width in pixels of the label store; all of it without it.
    instances : str
        newest, or the key of a run with instances: those are the objects, each with the class that most of it shows.
    """
    run_or_print(lambda: ExportJob(labels=labels, out=out, region=parse_region(region), instances=instances), options)

"""The demonstration: training, prediction, correction and export in one go, on data that ships with the package."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet._io import aside, output_errors, write_json
from napari_msunet.config import (
    EvaluateJob,
    ExportJob,
    FolderSource,
    Job,
    ModelConfig,
    PredictJob,
    TrainJob,
    UNetConfig,
)
from napari_msunet.events import Event, Message, Result
from napari_msunet.geometry import Region
from napari_msunet.jobs import run
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.slide import open_slide

DATA = Path(__file__).parents[1] / "demo_data"
SLIDE = DATA / "CMU-1-Small-Region.svs"
SECONDS_OF_TRAINING = 130.0
RADIUS = 60
"""Radius of the demonstration's strokes, in pixels of the labels."""

MODEL = ModelConfig(
    classes=("nucleus",), mpp=0.5, scales=(1.0, 0.5, 0.25), fusion="attention", branch=UNetConfig(depth=3, width=8)
)


def nuclei(part: str) -> FolderSource:
    """The "train" or the "test" images of the nuclei that ship with the package; their µm/px are an assumption."""
    folder = DATA / "nuclei" / part
    return FolderSource(
        images=folder / "images",
        masks=folder / "masks",
        values="instances",
        table=DATA / "nuclei" / "nuclei.csv",
        role="test" if part == "test" else "auto",
    )


class Stage:
    """The place where the demonstration runs, here without a window; `widgets.demonstration` has the one in napari."""

    def run(self, job: Job) -> Generator[Event, None, Result]:
        """Run a job: its events pass through, its result is the value of the `yield from`."""
        result = Result()
        for event in run.run(job):
            if isinstance(event, Result):
                result = event
            else:
                yield event
        return result

    def paint(self, labels: LabelStore, place: Region, value: int) -> None:
        """Paint a disc in the middle of a place."""
        disc = np.hypot(*np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]) <= RADIUS
        labels.write(place, np.full(disc.shape, value, labels.dtype), mask=disc)

    def undo(self, labels: LabelStore) -> None:
        """Undo the last stroke."""
        labels.undo()

    def picture(self, name: str) -> None:
        """Keep a picture of the window under this name, where there is a window."""


def demo_events(
    out: Path, seconds: float = SECONDS_OF_TRAINING, stage: Callable[[Path], Stage] | None = None
) -> Iterator[Event]:
    """Train, evaluate, predict a slide, edit, predict again, export; everything is written to `out`.

    Parameters
    ----------
    out : Path
        Folder for model.safetensors, labels.ome.zarr, labels.geojson, report.json and overview.png. A former
        demonstration there is replaced.
    seconds : float
        Seconds to train.
    stage : callable, optional
        Makes the stage for `out`; None: without a window.
    """
    started = time.monotonic()
    _empty(out)
    here = Stage() if stage is None else stage(out)
    report: dict[str, Any] = {"assumption": "the µm per pixel of the nuclei images are assumed, see nuclei.csv"}
    here.picture("1-slide")

    yield Message(text="1/6  Training a three-scale U-Net with attention fusion on nuclei (80 CC0 images).")
    trained = yield from here.run(training(out, seconds))
    shutil.copyfile(trained.files["model"], out / OUTPUTS["model"])
    report["training"] = trained.values
    here.picture("2-trained")

    yield Message(text="2/6  Measuring it on 27 images it has never seen, beside Otsu's threshold on haematoxylin.")
    evaluate = EvaluateJob(model=out / OUTPUTS["model"], sources=(nuclei("test"),), out=out / "evaluation")
    evaluated = yield from here.run(evaluate)
    report["evaluation"] = {"pooled": evaluated.values["pooled"], "otsu_on_haematoxylin": otsu_scores()}

    yield Message(text="3/6  Predicting the slide CMU-1-Small-Region.svs (2967 x 2220 pixels).")
    predict = PredictJob(slide=SLIDE, model=out / OUTPUTS["model"], out=out / OUTPUTS["labels"])
    before = time.monotonic()
    yield from here.run(predict)
    report["prediction"] = {"seconds": round(time.monotonic() - before, 2)}
    here.picture("3-predicted")

    yield Message(text="4/6  Correcting it by hand: four strokes, one of them undone.")
    labels = open_labels(out / OUTPUTS["labels"])
    strokes = paint_strokes(labels, here)
    here.picture("4-corrected")

    yield Message(text="5/6  Predicting again, with probabilities: the three strokes stay.")
    yield from here.run(predict.model_copy(update={"outputs": ("labels", "probabilities")}))
    report["edits"] = check_strokes(labels, strokes)
    here.picture("5-predicted-again")

    yield Message(text="6/6  Exporting polygons for QuPath, and a picture.")
    yield from here.run(ExportJob(labels=out / OUTPUTS["labels"], out=out / OUTPUTS["polygons"]))
    here.picture("6-exported")
    draw_overview(labels, strokes, out / OUTPUTS["picture"])
    report["seconds"] = round(time.monotonic() - started, 1)
    _summarise(report)
    write_json(out / OUTPUTS["report"], report)
    yield Result(values=report["summary"], files={what: str(out / name) for what, name in OUTPUTS.items()})


def training(out: Path, seconds: float) -> TrainJob:
    """The demonstration's training."""
    return TrainJob(
        model=MODEL,
        sources=(nuclei("train"),),
        out=out / "training",
        size=128,
        steps=20,
        epochs=500,
        time_limit=seconds,
        validation=0.15,
    )


OUTPUTS = {
    "model": "model.safetensors",
    "labels": "labels.ome.zarr",
    "polygons": "labels.geojson",
    "report": "report.json",
    "picture": "overview.png",
}


def _empty(out: Path) -> None:
    """Remove what a former demonstration left in `out`, and nothing else."""
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (*OUTPUTS.values(), "training", "evaluation", "project.msunet", "screenshots"):
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def otsu_scores() -> dict[str, float]:
    """Dice and IoU, pooled over the test images, of Otsu's threshold on the haematoxylin channel.

    Colour deconvolution after Ruifrok and Johnston (2001), threshold after Otsu (1979), both as in scikit-image, one
    threshold per image.
    """
    from PIL import Image
    from skimage.color import rgb2hed
    from skimage.filters import threshold_otsu

    both = ours = truth = 0
    source = nuclei("test")
    for path in sorted(source.images.glob("*.jpg")):
        haematoxylin = rgb2hed(np.asarray(Image.open(path).convert("RGB")))[..., 0]
        found = haematoxylin > threshold_otsu(haematoxylin)  # type: ignore[no-untyped-call]
        mask = np.asarray(Image.open(source.masks / f"{path.stem}.png")) > 0
        both, ours, truth = both + int((found & mask).sum()), ours + int(found.sum()), truth + int(mask.sum())
    return {"dice": 2 * both / (ours + truth), "iou": both / (ours + truth - both)}


Stroke = tuple[Region, npt.NDArray[np.bool_], int]


def paint_strokes(labels: LabelStore, stage: Stage) -> list[Stroke]:
    """Paint four discs that contradict the prediction, undo one of them, and give the three that are left."""
    height, width = labels.shape
    places = ((0.3, 0.75, 1, False), (0.25, 0.42, 1, True), (0.75, 0.35, 1, True), (0.93, 0.27, 0, True))
    strokes = []
    for y, x, value, stays in places:
        side = 2 * RADIUS + 1
        region = Region(int(y * height) - RADIUS, int(x * width) - RADIUS, side, side)
        stage.paint(labels, region, value)
        if stays:
            strokes.append((region, labels.read_edited(region), value))
        else:
            stage.undo(labels)
    labels.flush()
    return strokes


def check_strokes(labels: LabelStore, strokes: list[Stroke]) -> dict[str, int]:
    """Count the painted pixels, and those of them that still have the painted value."""
    painted = kept = 0
    for region, mask, value in strokes:
        painted += int(mask.sum())
        kept += int((labels.read(region)[mask] == value).sum())
    return {"strokes": len(strokes), "painted_pixels": painted, "kept_pixels": kept}


def draw_overview(labels: LabelStore, strokes: list[Stroke], path: Path) -> None:
    """Draw a picture of the slide with its labels over it, and three close-ups around the strokes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from skimage.segmentation import find_boundaries

    figure = Figure(figsize=(11.2, 9.6), layout="constrained", dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic([["whole", name] for name in "012"], width_ratios=(1.62, 1))
    with open_slide(SLIDE) as slide:
        height, width = labels.shape
        scale = labels.pixel
        views = {"whole": (Region(0, 0, height, width), 2)}
        for name, (region, _, _) in zip("012", strokes, strict=True):
            views[name] = (Region(region.y - 70, region.x - 120, 261, 361), 1)
        for name, (region, step) in views.items():
            mpp = labels.mpp[0] * step if labels.mpp else None
            box = Region(region.y * scale[0], region.x * scale[1], region.height * scale[0], region.width * scale[1])
            image = slide.read(box, mpp=mpp).copy()
            values = labels.read(region, level=step - 1)[: image.shape[0], : image.shape[1]]
            image = image[: values.shape[0], : values.shape[1]]
            edges = find_boundaries(values, mode="inner")  # type: ignore[no-untyped-call]
            inside = (values > 0)[..., None]
            shaded = np.where(inside, 0.65 * image + 0.35 * np.array([20, 220, 60]), image)
            image = np.where(edges[..., None], np.array([0, 170, 40]), shaded).astype(np.uint8)
            axes[name].imshow(image)
            axes[name].set_axis_off()
    axes["whole"].set_title("CMU-1-Small-Region.svs: nuclei found (green)", loc="left")
    for name, (_, _, value) in zip("012", strokes, strict=True):
        axes[name].set_title(f"painted as {'nucleus' if value else 'background'}, kept", loc="left")
    with aside(path) as temporary:
        figure.savefig(temporary, format="png")


def _summarise(report: dict[str, Any]) -> None:
    """Put the numbers of the README at the top of the report: scores fused and per scale, seconds per step, peak
    memory."""
    pooled = report["evaluation"]["pooled"]
    report["summary"] = {
        "dice": {name: round(scores["dice"], 4) for name, scores in pooled.items()},
        "iou": {name: round(scores["iou"], 4) for name, scores in pooled.items()},
        "otsu_dice": round(report["evaluation"]["otsu_on_haematoxylin"]["dice"], 4),
        "seconds_per_step": report["training"]["seconds_per_step"],
        "peak_memory_mb": round(report["training"]["peak_memory_mb"]),
        "strokes_kept": report["edits"]["kept_pixels"] == report["edits"]["painted_pixels"],
        "seconds": report["seconds"],
    }

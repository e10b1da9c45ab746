"""How many labels are enough? Experiment files with 1, 2, 5, 10 and 20 images, and with 0.1, 1 and 5 % of the pixels.

    python benchmarks/few_labels.py --data ../shared/data --out build/few-labels [--set glands]
    napari-msunet experiment build/few-labels/images.json --data build/few-labels --out build/few-labels/by-images
    napari-msunet experiment build/few-labels/pixels.json --data build/few-labels --out build/few-labels/by-pixels

Half of the groups (patients) train, the other half scores. Fewer images are part of more images. Fewer pixels are brush
strokes in all training images, of the classes and of background by turns, until so many pixels are painted; what is not
painted is not learned from. Each file has a short mode of at most half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from training_parts.sets import SETS, STROKE_VALUES, Picture, Set, draw_strokes, source

from napari_msunet.config import AutoModel, ExperimentJob, FolderSource, TrainJob

IMAGES = (20, 10, 5, 2, 1)
SHARES = (0.05, 0.01, 0.001)
MOST_STROKES = 2000


def painted(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Strokes on a truth `(h, w)` until a share of its pixels is painted."""
    found = np.zeros(truth.shape, np.uint8)
    radius = 3 if share < 0.01 else 8
    for number in range(MOST_STROKES):
        missing = share * truth.size - np.count_nonzero(found)
        if missing <= 0:
            break
        values = np.unique(truth)
        value = values[number % len(values)]
        alone = np.where(truth == value, truth, 255)  # the stroke of this turn, of one class
        stroke = draw_strokes(alone.astype(np.uint8), 1, 10_000 * seed + number, radius)
        if np.count_nonzero(stroke) > max(missing, 40):  # the last one ends where enough is painted
            places = np.argwhere(stroke)[: int(max(missing, 1))]
            short = np.zeros_like(stroke)
            short[tuple(places.T)] = stroke[tuple(places.T)]
            stroke = short
        found = np.where(stroke, stroke, found)
    return found


def painted_source(chosen: Set, pictures: Sequence[Picture], folder: Path, share: float) -> FolderSource:
    """The training images with a share of their pixels painted; masks that are there stay."""
    made = source(chosen, pictures, folder, "train")
    for number, picture in enumerate(pictures):
        file = folder / "strokes" / f"{picture.name}.png"
        file.parent.mkdir(exist_ok=True)
        if file.exists():
            continue
        values = picture.mask() if callable(picture.mask) else np.asarray(Image.open(picture.mask))
        truth = (values > 0).astype(np.uint8) if chosen.values == "instances" else values.astype(np.uint8)
        Image.fromarray(painted(truth, share, number)).save(file)
    values_are: Any = STROKE_VALUES | dict(enumerate(chosen.classes, start=1))
    return made.model_copy(update={"masks": folder / "strokes", "values": values_are})


def experiment(
    chosen: Set, first: FolderSource, test: FolderSource, variants: dict[str, FolderSource]
) -> ExperimentJob:
    """The default on each source, scored on the same test images."""
    training = TrainJob(model=AutoModel(classes=chosen.classes), sources=(first, test), out=Path("unused"))
    return ExperimentJob(
        training=training,
        variants={
            name: {"sources": [one.model_dump(mode="json"), test.model_dump(mode="json")]}
            for name, one in variants.items()
        },
        folds=None,
        seeds=(0, 1, 2),
        seconds=300,
        out=Path("unused"),
    )


def write(job: ExperimentJob, file: Path, out: Path) -> None:
    """Write an experiment with its data at DATA, and a short mode."""
    values = json.loads(job.model_dump_json(exclude={"schema_version"}))
    values["short"] = {"seeds": [0], "seconds": 150}
    text = json.dumps(values, indent=1).replace(f'"{out.as_posix()}/', '"DATA/')
    file.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", default="glands", choices=SETS)
    options = parser.parse_args()
    chosen = SETS[options.set](options.data)
    choosing, confirming = chosen.halves()
    train = [picture for picture in chosen.pictures if picture.group in choosing]
    np.random.default_rng(0).shuffle(train)  # type: ignore[arg-type]
    test = source(chosen, [p for p in chosen.pictures if p.group in confirming], options.out / "test", "test")
    counts = [count for count in IMAGES if count <= len(train)]
    by_images = {
        f"{count} image{'s' * (count > 1)}": source(chosen, train[:count], options.out / f"images-{count}", "train")
        for count in counts
    }
    whole = source(chosen, train, options.out / "all", "train")
    by_pixels = {"all pixels": whole} | {
        f"{share:.1%} of the pixels": painted_source(chosen, train, options.out / f"pixels-{share:g}", share)
        for share in SHARES
    }
    for name, variants in (("images", by_images), ("pixels", by_pixels)):
        first = next(iter(variants.values()))
        write(experiment(chosen, first, test, variants), options.out / f"{name}.json", options.out)


if __name__ == "__main__":
    main()

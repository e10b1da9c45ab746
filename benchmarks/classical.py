"""Scores of classical methods on real nuclei: thresholds and k-means, fitted to each image or to the training images.

The shipped nuclei are fitted to their training images and scored on their test images. With `--shared`, MoNuSeg too:
three folds by patient, each scored on the patients that it was not fitted to.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import napari_msunet as ms
from napari_msunet.app.demo import nuclei
from napari_msunet.config import AutoModel, ClassicalConfig, CrossValidateJob, FolderSource, TrainJob

METHODS: dict[str, dict[str, object]] = {
    "Otsu of haematoxylin": {"look": "haematoxylin"},
    "Otsu of optical density": {"look": "density"},
    "valley of haematoxylin": {"method": "valley", "look": "haematoxylin"},
    "multi-Otsu of haematoxylin, 3 parts": {"method": "multiotsu", "look": "haematoxylin"},
    "k-means in colour, 3 parts": {"method": "kmeans", "look": "colour"},
    "k-means in optical density, 3 parts": {"method": "kmeans", "look": "density"},
    "k-means in optical density, 3 parts, smoothed by 1 px": {"method": "kmeans", "look": "density", "smooth": 1.0},
}


def shipped(model: AutoModel, out: Path) -> float:
    """The Dice on the test images of the shipped nuclei."""
    path = ms.train(TrainJob(model=model, sources=(nuclei("train"),), out=out, validation=0)).model_path
    found = ms.evaluate(ms.EvaluateJob(model=path, sources=(nuclei("test"),)))
    return float(found.scores["pooled"]["fused"]["dice"])


def monuseg(model: AutoModel, out: Path, shared: Path) -> float:
    """The mean Dice over three folds of patients."""
    folder = shared / "monuseg-train"
    source = FolderSource(images=folder / "images", masks=folder / "masks", mpp=0.25, group="^(.{12})")
    training = TrainJob(model=model, sources=(source,), out=out, validation=0)
    found = ms.cross_validate(CrossValidateJob(training=training, folds=3, out=out))
    return float(found.scores["mean"]["fused"]["dice"])


def main() -> None:
    """Print a table as it is made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help="the folder with monuseg-train")
    parser.add_argument("--only", default="", help="methods whose names begin so")
    options = parser.parse_args()
    print("| method | fitted to | shipped nuclei | MoNuSeg | seconds |\n|---|---|---|---|---|")
    for name, method in METHODS.items():
        for fit in ("slide", "training"):
            if not name.startswith(options.only):
                continue
            cells, began = [], time.monotonic()
            for run in (shipped, monuseg) if options.shared else (shipped,):
                branch = ClassicalConfig(**{**method, "fit": fit})
                model = AutoModel(classes=("nucleus",), mpp=0.5, branch=branch)
                with TemporaryDirectory() as folder:
                    more = () if run is shipped else (options.shared,)
                    try:
                        cells.append(f"{run(model, Path(folder) / 'run', *more):.3f}")
                    except ms.MsunetError as error:
                        cells.append(str(error))
            cells += ["-"] * (2 - len(cells))
            what = "each image" if fit == "slide" else "training images"
            print(f"| {name} | {what} | {' | '.join(cells)} | {time.monotonic() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()

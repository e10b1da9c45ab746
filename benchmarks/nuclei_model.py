"""The nuclei model that comes with the package: its training, on CC0 images alone, and its scores on other organs.

    python benchmarks/nuclei_model.py train --out build/nuclei --minutes 40 [--scales 1 1/2]
    python benchmarks/nuclei_model.py score --model build/nuclei/run/model.safetensors --data ../shared/data

"train" needs nothing but the repository: the 107 stained images in the package. Their µm per pixel are not known. Each
image gets the size at which the median of its nuclei has an equivalent diameter of 7.5 µm, because a network for nuclei
must see them at one size. "score" compares the model with Otsu's threshold of haematoxylin on two sets that it has
never seen, by image, with the interval of the paired difference; JSON and a table out.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import stats
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu
from skimage.measure import regionprops

import napari_msunet as ms
from napari_msunet.config import Augmentation, FolderSource, LossConfig, Optimiser, TrainJob
from napari_msunet.events import Message
from napari_msunet.inference.image import predict_image
from napari_msunet.own_process import keep_freed_memory
from napari_msunet.slide import slide_from_array
from napari_msunet.training.fit import train_events

NUCLEI = Path(ms.__file__).parent / "demo_data" / "nuclei"
DIAMETER = 7.5
"""Equivalent diameter in µm that the median nucleus of each image is taken to have."""

SETS = {"monuseg-train": 0.25, "consep-train": 0.25}
"""Sets of other organs and scanners, with their µm per pixel."""


def pixel_size(mask: npt.NDArray[np.integer]) -> float | None:
    """µm per pixel at which the median nucleus of a mask has the usual diameter; None for fewer than three nuclei."""
    diameters = [region.equivalent_diameter_area for region in regionprops(mask)]
    return None if len(diameters) < 3 else float(np.clip(DIAMETER / np.median(diameters), 0.12, 0.7))


def folders(out: Path) -> Path:
    """One folder with links to all images and masks, and a table of their µm per pixel."""
    rows = []
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for mask in sorted(NUCLEI.glob("*/masks/*")):
        size = pixel_size(np.asarray(Image.open(mask)))
        image = next((mask.parents[1] / "images").glob(f"{mask.stem}.*"))
        if size is None:
            continue
        rows.append({"name": mask.stem, "mpp": round(size, 4)})
        for kind, file in (("images", image), ("masks", mask)):
            link = out / kind / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    with (out / "nuclei.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "mpp"])
        writer.writeheader()
        writer.writerows(rows)
    return out


def job(options: argparse.Namespace) -> TrainJob:
    """The training: strong changes of stain, light and size, since other laboratories' slides look different."""
    data = folders(options.out / "data")
    source = FolderSource(
        images=data / "images", masks=data / "masks", table=data / "nuclei.csv", values="instances", role="train"
    )
    model = ms.ModelConfig(
        classes=("nucleus",),
        mpp=0.5,
        scales=tuple(options.scales),
        fusion="attention",
        field="concentric" if len(options.scales) > 1 else "same",
        branch=ms.UNetConfig(depth=options.depth, width=options.width),
    )
    changes = Augmentation(
        scale=0.35, brightness=0.3, contrast=0.4, saturation=1.0, stain=0.5, blur=1.0, noise=0.03, jpeg=0.3
    )
    optimiser = Optimiser(learning_rate=2e-3, schedule="cosine", average="ema", warmup=50, weight_decay=0.02)
    return TrainJob(
        model=model,
        sources=(source,),
        out=options.out / "run",
        size=128,
        batch_size=8,
        augmentation=changes,
        optimiser=optimiser,
        loss=LossConfig.model_validate("ce+dice"),
        normalise=options.normalise,
        device="auto",
        seed=0,
        **({"epochs": options.epochs, "steps": 50} if options.epochs else {"time_limit": options.minutes * 60}),
    )


def train(options: argparse.Namespace) -> None:
    """Train it."""
    for event in train_events(job(options)):
        if isinstance(event, Message):
            print(event.text, flush=True)


def dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice of an image; 1 where both are empty."""
    total = int(found.sum() + truth.sum())
    return 1.0 if total == 0 else 2 * int((found & truth).sum()) / total


def by_network(path: Path) -> Callable[[npt.NDArray[np.uint8], float], npt.NDArray[np.bool_]]:
    """Nuclei by the model, at the image's own resolution."""
    from napari_msunet.training.scoring.image import on_grid

    model = ms.load_model(path)

    def found(image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.bool_]:
        with slide_from_array(image, mpp=mpp) as slide:
            maps = predict_image(model, slide)["fused"]
            target, own = slide.grid(model.config.target_mpp), slide.grid(mpp)
            return np.asarray(on_grid(maps, target.whole, target, own, own.whole).argmax(0) == 1)

    return found


def by_otsu(image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.bool_]:
    """Nuclei by Otsu's threshold of the haematoxylin of this image."""
    stain = rgb2hed(image)[..., 0]
    return np.asarray(stain > threshold_otsu(stain))


def score(options: argparse.Namespace) -> None:
    """Compare it with Otsu's threshold."""
    network, report = by_network(options.model), {}
    for name, mpp in SETS.items():
        folder, rows = options.data / name, []
        files = sorted((folder / "images").iterdir())
        for file in files[:: max(1, len(files) // options.most)]:
            image = np.asarray(Image.open(file).convert("RGB"))
            truth = np.asarray(Image.open(next((folder / "masks").glob(f"{file.stem}.*")))) > 0
            rows.append((dice(network(image, mpp), truth), dice(by_otsu(image, mpp), truth)))
        scores = np.array(rows)
        difference = scores[:, 0] - scores[:, 1]
        interval = stats.bootstrap((difference,), np.mean, rng=0).confidence_interval
        report[name] = {
            "images": len(rows),
            "model": float(scores[:, 0].mean()),
            "otsu": float(scores[:, 1].mean()),
            "difference": float(difference.mean()),
            "low": float(interval.low),
            "high": float(interval.high),
        }
        print(name, json.dumps(report[name]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scores.json").write_text(json.dumps(report, indent=1))
    lines: list[Any] = ["| set | images | model | Otsu | difference, 95 % over images |", "|---|---|---|---|---|"]
    for name, found in report.items():
        spread = f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
        lines.append(f"| {name} | {found['images']} | {found['model']:.3f} | {found['otsu']:.3f} | {spread} |")
    (options.out / "scores.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "score"))
    parser.add_argument("--out", type=Path, default=Path("build/nuclei"))
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--epochs", type=int, help="epochs of 50 steps instead of a time limit")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--normalise", default="image-z-score")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--most", type=int, default=60, help="images of a set that are scored")
    options = parser.parse_args()
    keep_freed_memory()
    {"train": train, "score": score}[options.command](options)


if __name__ == "__main__":
    main()

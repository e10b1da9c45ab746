"""How many glands that were deliberately annotated wrong are among the first suspects of a review of the truth.

Usage: python benchmarks/truth.py [--data ../shared/data/glas-dev] [--seconds 180] [--share 0.1] [--out FOLDER]

A share of the glands of every image is erased from its mask, and as many are drawn where there is none. One small
model is trained on half of the images, errors included; then the masks of these images, and those
of other patients, are reviewed with its predictions. Nothing says which glands were touched.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

import napari_msunet as ms
from napari_msunet import review
from napari_msunet.config import Optimiser
from napari_msunet.geometry import Window
from napari_msunet.review.label_issues import DOUBT

MPP = 0.62
LEAST = 800
"""Smaller glands, in pixels, are left as they are."""


@dataclass
class Case:
    """An image, its mask with errors, and where these are (numbers 1, 2, ...)."""

    name: str
    patient: str
    mask: np.ndarray
    errors: np.ndarray
    kinds: list[str] = field(default_factory=list)


def corrupted(name: str, patient: str, instances: np.ndarray, share: float, rng: np.random.Generator) -> Case:
    """The mask of an image with a share of its glands erased and as many invented."""
    case = Case(name, patient, (instances > 0).astype(np.uint8), np.zeros(instances.shape, np.int32))
    sizes = np.bincount(instances.ravel())
    glands = [n for n in range(1, len(sizes)) if sizes[n] >= LEAST]
    for gland in glands:
        if rng.random() < share:
            _note(case, instances == gland, 0, "erased")
        if rng.random() < share:
            spot = _free_spot(case, instances == gland, rng)
            if spot is not None:
                _note(case, spot, 1, "invented")
    return case


def _note(case: Case, where: np.ndarray, value: int, kind: str) -> None:
    case.mask[where] = value
    case.kinds.append(kind)
    case.errors[where] = len(case.kinds)


def _free_spot(case: Case, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The shape of a gland, moved to a place with nothing but background around it."""
    box = ndimage.find_objects(shape.astype(int))[0]
    form = np.pad(shape[box], 4)
    taken = ndimage.binary_dilation((case.mask > 0) | (case.errors > 0), iterations=4)
    for _ in range(200):
        y, x = (int(rng.integers(0, max(1, a - b + 1))) for a, b in zip(taken.shape, form.shape, strict=True))
        part = taken[y : y + form.shape[0], x : x + form.shape[1]]
        if part.shape == form.shape and not (part & form).any():
            spot = np.zeros_like(shape)
            spot[y : y + form.shape[0], x : x + form.shape[1]] = form
            return spot
    return None


def cases_of(data: Path, share: float, rng: np.random.Generator) -> list[Case]:
    """All images with errors in their masks."""
    with (data / "slides.csv").open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    masks = (np.asarray(Image.open(data / "masks" / f"{row['name']}.png")).astype(np.int32) for row in rows)
    return [corrupted(row["name"], row["patient"], mask, share, rng) for row, mask in zip(rows, masks, strict=True)]


def train(cases: list[Case], data: Path, folder: Path, seconds: float) -> Path:
    """A small model that looks at 2.5 µm/px, trained on these images as their masks are."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for case in cases:
        (folder / "images" / f"{case.name}.png").symlink_to((data / "images" / f"{case.name}.png").resolve())
        Image.fromarray(case.mask).save(folder / "masks" / f"{case.name}.png")
    rows = "".join(f"{case.name},{case.patient}\n" for case in cases)
    (folder / "table.csv").write_text(f"name,patient\n{rows}", encoding="utf8")
    source = ms.FolderSource(
        images=folder / "images", masks=folder / "masks", mpp=MPP, table=folder / "table.csv", group="patient"
    )
    branch = ms.UNetConfig(depth=3, width=16)
    job = ms.TrainJob(
        model=ms.ModelConfig(classes=("gland",), mpp=2 * MPP, scales=(0.5,), branch=branch),
        sources=(source,),
        out=folder / "run",
        size=256,
        epochs=1000,
        time_limit=seconds,
        loss=ms.LossConfig(own_grid=True),
        optimiser=Optimiser(recalibrate=True, stop_after=1000),
    )
    return ms.train(job).model_path


def suspects(case: Case, data: Path, model: Path, folder: Path) -> list[tuple[review.TruthPlace, int]]:
    """The suspects of one image, each with the number of the error that most of it lies in (0: none)."""
    with ms.open_slide(data / "images" / f"{case.name}.png", mpp=MPP) as slide:
        labels = ms.predict(slide, model, folder / f"{case.name}.ome.zarr", outputs=("labels", "probabilities"))
        path = folder / f"{case.name} truth.ome.zarr"
        store = ms.LabelStore.create(path, classes=("gland",), kind="annotation", slide=slide)
    store.write(Window(0, 0, *store.shape), np.where(case.mask > 0, 1, 255).astype(np.uint8))
    pair = review.Pair(store, labels)
    found = []
    for place in review.review_truth(pair).suspects:
        inside = case.errors[place.window.slices()][review.place_mask(pair, place)]
        numbers = np.bincount(inside, minlength=1)
        best = int(numbers.argmax())
        found.append((place, best if numbers[best] > place.pixels / 2 else 0))
    store.close()
    labels.close()
    return found


def report(cases: list[Case], data: Path, model: Path, folder: Path) -> dict[str, object]:
    """How many errors are found among the first suspects of all these images, ranked together."""
    folder.mkdir()
    found = [(place, case.name, error) for case in cases for place, error in suspects(case, data, model, folder)]
    errors = sum(len(case.kinds) for case in cases)
    values: dict[str, object] = {"images": len(cases), "errors": errors, "suspects": len(found)}
    ways = {
        "as offered": lambda p: -p.loss * p.pixels / (p.pixels + DOUBT * 4),
        "mean loss": lambda p: -p.loss,
        "total loss": lambda p: -p.loss * p.pixels,
        "area": lambda p: -p.pixels,
    }
    for way, key in ways.items():
        ranked = sorted(found, key=lambda item, key=key: (key(item[0]), item[1], item[0].first))
        values[way] = {
            f"first {times * errors}": len({(name, e) for _, name, e in ranked[: times * errors] if e})
            for times in (1, 2)
        }
        values[way]["right among the first 20"] = sum(e > 0 for *_, e in ranked[:20])
    values["found at all"] = len({(name, e) for _, name, e in found if e})
    for kind in ("erased", "invented"):
        known = {(case.name, n) for case in cases for n, k in enumerate(case.kinds, 1) if k == kind}
        values[kind] = f"{len(known & {(name, e) for _, name, e in found if e})} of {len(known)} found at all"
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/glas-dev"))
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", type=Path, help="a model of an earlier run with the same seed and share")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    cases = cases_of(args.data, args.share, rng)
    training: set[str] = set()
    for patient in rng.permutation(sorted({case.patient for case in cases})).tolist():
        if sum(case.patient in training for case in cases) < len(cases) / 2:
            training.add(patient)
    folder = args.out or Path(tempfile.mkdtemp(prefix="truth-"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    seen = [case for case in cases if case.patient in training]
    model = args.model or train(seen, args.data, folder / "training", args.seconds)
    values: dict[str, object] = {"training seconds": round(time.monotonic() - started)}
    values["truth that was trained on"] = report(seen, args.data, model, folder / "seen")
    others = [case for case in cases if case.patient not in training]
    values["truth of other patients"] = report(others, args.data, model, folder / "others")
    print(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()

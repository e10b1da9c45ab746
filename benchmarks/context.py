"""Is the study of context right where the answer is known? Two tasks made of real images, and the study on both.

    python benchmarks/context.py make --data ../shared/data --out build/context
    python benchmarks/context.py study --out build/context --task surroundings --seconds 100 [--seeds 0 1 2]

Both tasks have the same images (glands of `glas-dev`, by patient) and the same objects: nuclei, found by Otsu's
threshold of haematoxylin, so that the truth is known by construction.

surroundings: a nucleus is of class 1 where the whole image is benign and of class 2 where it is malignant. What tells
both apart is the architecture of the glands, hundreds of µm wide; what bounds a nucleus is a µm wide. A network needs
both at once, and the study must say yes.
local: all nuclei are of one class. A few pixels around each pixel tell all there is, and the study must say no.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import rgb2hed
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import remove_small_objects

import napari_msunet as ms
from napari_msunet.config import ContextJob
from napari_msunet.events import Message, Result
from napari_msunet.own_process import keep_freed_memory
from napari_msunet.training.search.context_study import context_events

MPP = 0.62
TASKS = {"surroundings": ("benign", "malignant"), "local": ("nucleus",)}
ANSWERS = {"surroundings": "yes", "local": "no"}


def nuclei(image: np.ndarray) -> np.ndarray:
    """Where nuclei are, `(h, w)` bool, by Otsu's threshold of slightly smoothed haematoxylin."""
    stain = gaussian(rgb2hed(image)[..., 0], 1.0)
    return remove_small_objects(stain > threshold_otsu(stain), max_size=24)


def make(data: Path, out: Path) -> None:
    """Write the masks of both tasks, links to the images, and the table with patients."""
    folder = data / "glas-dev"
    with (folder / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for task in TASKS:
        for kind in ("images", "masks"):
            (out / task / kind).mkdir(parents=True, exist_ok=True)
        with (out / task / "slides.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["name", "mpp", "patient"])
            writer.writeheader()
            writer.writerows({"name": row["name"], "mpp": MPP, "patient": row["patient"]} for row in rows)
    for row in rows:
        source = next((folder / "images").glob(f"{row['name']}.*"))
        found = nuclei(np.asarray(Image.open(source).convert("RGB"))).astype(np.uint8)
        for task, classes in TASKS.items():
            value = 1 + (task == "surroundings" and row["diagnosis"] == classes[1])
            Image.fromarray(found * np.uint8(value)).save(out / task / "masks" / f"{row['name']}.png")
            link = out / task / "images" / source.name
            link.unlink(missing_ok=True)
            link.symlink_to(source.resolve())


def study(options: argparse.Namespace) -> None:
    """Run the study of a task, and write beside it whether the answer was the right one."""
    folder = options.out / options.task
    source = ms.FolderSource(
        images=folder / "images", masks=folder / "masks", table=folder / "slides.csv", group="patient"
    )
    model = ms.AutoModel(classes=TASKS[options.task])
    rows = []
    for seed in options.seeds:
        out = folder / f"study-{seed}"
        training = ms.TrainJob(model=model, sources=(source,), out=out / "run", seed=seed)
        job = ContextJob(
            training=training,
            seconds=options.seconds,
            threads=options.threads,
            seeds=(seed,),
            out=out,
            resume=out.exists(),
        )
        for event in context_events(job):
            if isinstance(event, Message):
                print(event.text, flush=True)
            if isinstance(event, Result):
                keys = ("answer", "difference", "interval", "groups", "sentence")
                rows.append({key: event.values[key] for key in keys} | {"seed": seed})
    (folder / "answers.json").write_text(json.dumps({"right": ANSWERS[options.task], "studies": rows}, indent=1))
    print(f"| seed | answer (right: {ANSWERS[options.task]}) | difference, 95 % over groups |\n|---|---|---|")
    for row in rows:
        spread = "" if row["interval"] is None else " ({:+.3f} to {:+.3f})".format(*row["interval"])
        print(f"| {row['seed']} | {row['answer']} | {row['difference']:+.3f}{spread} |")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "study"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/context"))
    parser.add_argument("--task", choices=TASKS, default="surroundings")
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    keep_freed_memory()
    if options.command == "make":
        make(options.data, options.out)
    else:
        study(options)


if __name__ == "__main__":
    main()

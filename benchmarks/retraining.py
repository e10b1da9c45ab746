"""Whether correcting the worst places of the review queue teaches a model more than correcting random places.

    python benchmarks/retraining.py --data ../shared/data/glas-dev --out benchmarks/results

A model is trained on a few images. Then, in rounds, it predicts a pool of other images of the training patients, some
places (windows of the labels) are corrected with the truth and accepted, and the model goes on from its weights with
`retraining_job`. Arms differ in the places only: the first of the review queue (over all images of the pool, each
image at most one place a round unless `--together`), random ones among the same candidates, or none ("none": as much
more training without new truth). After each round the pooled Dice is taken on images of other patients, at the masks'
own resolution. Every training has the same number of steps, from the measured pace of the first and `--seconds`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import napari_msunet as ms
from napari_msunet.app.retraining import corrections, retraining_job
from napari_msunet.config import Optimiser
from napari_msunet.data import load_sources
from napari_msunet.data.folders import pair_files
from napari_msunet.data.truth import MaskTruth, truth_window
from napari_msunet.geometry import Window
from napari_msunet.review import state
from napari_msunet.review.queue import review_queue
from napari_msunet.training.model_comparison import paired_bootstrap
from napari_msunet.training.scoring.image import score_item

MPP, CLASS = 0.62, "gland"
OTHERS = ("1", "5")
"""Patients whose images score."""


@dataclass
class Arm:
    """One way of choosing places, with one seed: the model so far, its corrected stores, its scores."""

    name: str
    seed: int
    folder: Path
    model: Path
    stores: dict[str, Path] = field(default_factory=dict)
    corrected: list[str] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)


def read_set(data: Path) -> dict[str, tuple[Path, Path, str]]:
    """Image, mask and patient by name."""
    with (data / "slides.csv").open(newline="") as file:
        patients = {row["name"]: row["patient"] for row in csv.DictReader(file)}
    pairs, _ = pair_files(data / "images", data / "masks")
    return {name: (image, mask, patients[name]) for name, image, mask in pairs}


def first_model(args: argparse.Namespace, seed: int, images: dict[str, tuple[Path, Path, str]], folder: Path) -> Path:
    """Trains on a few images; with `args.steps` unset, sets it to what `args.seconds` allow."""
    for kind, part in (("images", 0), ("masks", 1)):
        (folder / kind).mkdir(parents=True)
        for found in images.values():
            shutil.copy(found[part], folder / kind)
    source = ms.FolderSource(
        images=folder / "images", masks=folder / "masks", mpp=MPP, values="instances", role="train"
    )
    model = ms.ModelConfig(
        classes=(CLASS,),
        mpp=args.mpp,
        scales=tuple(args.scales),
        branch=ms.UNetConfig(depth=args.depth, width=args.width),
    )
    options: dict[str, Any] = {
        "model": model,
        "sources": (source,),
        "size": args.size,
        "batch_size": args.batch,
        "seed": seed,
        "device": "cpu",
        "optimiser": Optimiser(learning_rate=args.rate, schedule="cosine"),
    }
    if not args.steps:
        pace = ms.train(ms.TrainJob(**options, out=folder / "pace", epochs=1, steps=12)).metrics["seconds_per_step"]
        args.steps = max(10, round(args.seconds / pace))
    return ms.train(ms.TrainJob(**options, out=folder / "run", epochs=args.first, steps=args.steps)).model_path


def predict_pool(arm: Arm, pool: dict[str, tuple[Path, Path, str]]) -> None:
    """Every image of the pool into its store; what was corrected stays."""
    model = ms.load_model(arm.model)
    for name, (image, _, _) in pool.items():
        store = arm.stores.setdefault(name, arm.folder / "pool" / f"{name}.ome.zarr")
        store.parent.mkdir(parents=True, exist_ok=True)
        with ms.open_slide(image, mpp=MPP) as slide:
            ms.predict(slide, model, out=store, outputs=("labels", "entropy", "disagreement"), device="cpu")


def choose(arm: Arm, args: argparse.Namespace, rng: np.random.Generator) -> list[tuple[str, Window]]:
    """The places to correct in this round."""
    if arm.name == "none":
        return []
    by = "entropy" if arm.name == "random" else arm.name
    offered = [
        (place.score, name, place.window)
        for name, store in arm.stores.items()
        for place in review_queue(store, by=by, size=args.window, limit=None)
        if place.window.height * place.window.width >= args.window**2 / 2
    ]
    if arm.name == "random":
        return [offered[i][1:] for i in rng.permutation(len(offered))[: args.places]]
    chosen: list[tuple[str, Window]] = []
    for _, name, window in sorted(offered, key=lambda o: -o[0]):
        if len(chosen) < args.places and (args.together or name not in {n for n, _ in chosen}):
            chosen.append((name, window))
    return chosen


def correct(arm: Arm, places: list[tuple[str, Window]], pool: dict[str, tuple[Path, Path, str]]) -> int:
    """Write the truth into the places and accept them; gives how many pixels were wrong."""
    wrong = 0
    for name, window in places:
        store = ms.open_labels(arm.stores[name])
        truth = MaskTruth(pool[name][1], store.extent, "instances", (CLASS,))
        values = truth_window(truth, store.grid, window)
        wrong += int((store.read(window) != values).sum())
        store.write(window, values)
        state.accept(store, window)
        store.flush()
        if name not in arm.corrected:
            arm.corrected.append(name)
    return wrong


def retrain(arm: Arm, number: int, args: argparse.Namespace, pool: dict[str, tuple[Path, Path, str]]) -> None:
    """The next model, from the arm's last one."""
    sources = [corrections(pool[name][0], arm.stores[name], mpp=MPP, role="train") for name in arm.corrected]
    job = retraining_job(
        arm.model.parent,
        sources,
        arm.folder / f"round {number}",
        replay=args.replay,
        epochs=1,
        steps=args.steps,
        optimiser=Optimiser(learning_rate=args.retrain_rate, schedule="cosine"),
        seed=arm.seed + number,
    )
    arm.model = ms.train(job).model_path


def score(arm: Arm, items: list[Any]) -> None:
    """Dice on other patients."""
    model = ms.load_model(arm.model)
    found = []
    for item in items:
        found.append(score_item(model, item, "cpu").counts["fused"].matrix)
        item.release()
    arm.matrices.append(np.stack(found))
    (dice, _), _, _ = paired_bootstrap(arm.matrices[-1], arm.matrices[-1], [1])
    arm.dice.append(dice)


def run_seed(args: argparse.Namespace, seed: int, work: Path) -> list[Arm]:
    """All arms from one first model."""
    everything = read_set(args.data)
    rng = np.random.default_rng(seed)
    names = sorted(n for n, found in everything.items() if found[2] not in OTHERS)
    order = [names[i] for i in rng.permutation(len(names))]
    first = {n: everything[n] for n in order[: args.images]}
    pool = {n: everything[n] for n in sorted(order[args.images : args.images + args.pool])}
    folder = work / f"seed {seed}"
    model = first_model(args, seed, first, folder / "first")
    config = ms.load_model(model).config
    scored = ms.FolderSource(images=args.data / "images", masks=args.data / "masks", mpp=MPP, values="instances")
    others = {n for n, found in everything.items() if found[2] in OTHERS}
    items = [item for item in load_sources((scored,), config) if item.name in others]
    arms = [Arm(name, seed, folder / name, model) for name in args.arms]
    score(arms[0], items)
    for arm in arms:
        begun = time.monotonic()
        draw = np.random.default_rng((seed, 7))
        arm.dice, arm.matrices = arms[0].dice[:1], arms[0].matrices[:1]
        for number in range(1, args.rounds + 1):
            if arm.name != "none":
                predict_pool(arm, pool)
            arm.wrong.append(correct(arm, choose(arm, args, draw), pool))
            retrain(arm, number, args, pool)
            score(arm, items)
        for store in arm.stores.values():
            ms.open_labels(store).close()
        print(
            f"seed {seed} {arm.name:13} {' '.join(f'{d:.3f}' for d in arm.dice)}  wrong px {arm.wrong} "
            f"({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
    return arms


def compared(arms: list[Arm], one: str, other: str, last: int) -> dict[str, float]:
    """The difference in pooled Dice of two arms after a round, over all seeds, with its bootstrap over images."""
    pooled = {name: np.sum([a.matrices[last] for a in arms if a.name == name], 0) for name in (one, other)}
    (before, after), low, high = paired_bootstrap(pooled[other], pooled[one], [1])
    return {"dice": after, f"dice {other}": before, "difference": after - before, "low": low, "high": high}


def report(args: argparse.Namespace, arms: list[Arm], seconds: float) -> dict[str, Any]:
    """Both curves and what lies between them."""
    curves = {name: np.mean([a.dice for a in arms if a.name == name], 0).round(4).tolist() for name in args.arms}
    queues = [name for name in args.arms if name not in ("random", "none")]
    base = [name for name in ("random", "none") if name in args.arms]
    return {
        "what": "pooled Dice on images of other patients, mean over seeds, after each round (first: before any)",
        "curves": curves,
        "each seed": [
            {"arm": a.name, "seed": a.seed, "dice": [round(d, 4) for d in a.dice], "wrong": a.wrong} for a in arms
        ],
        "last round": {f"{q} - {b}": compared(arms, q, b, -1) for q in (*queues, "random") for b in base if q != b},
        "all rounds": {f"{q} - {b}": over_rounds(arms, q, b) for q in queues for b in base},
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
    }


def over_rounds(arms: list[Arm], one: str, other: str) -> dict[str, float]:
    """As `compared`, of all rounds after the first correction together: the area between the curves."""
    pooled = {n: np.sum([m for a in arms if a.name == n for m in a.matrices[1:]], 0) for n in (one, other)}
    (before, after), low, high = paired_bootstrap(pooled[other], pooled[one], [1])
    return {"dice": after, f"dice {other}": before, "difference": after - before, "low": low, "high": high}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/glas-dev"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--arms", nargs="+", default=["entropy", "disagreement", "random", "none"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=15, help="of each training after the first")
    parser.add_argument("--steps", type=int, default=0, help="instead of --seconds")
    parser.add_argument("--first", type=int, default=5, help="times the steps of the others for the first training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--places", type=int, default=3)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--pool", type=int, default=20)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--mpp", type=float, default=1.24)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--retrain-rate", type=float, default=1e-3)
    parser.add_argument("--replay", type=float, default=0.5)
    args = parser.parse_args()
    begun = time.monotonic()
    arms: list[Arm] = []
    with tempfile.TemporaryDirectory(prefix="msunet-retraining-") as work:
        for seed in args.seeds:
            arms += run_seed(args, seed, Path(work))
            found = report(args, arms, time.monotonic() - begun)
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "retraining.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{'round':14}" + "".join(f"{n:>8}" for n in range(args.rounds + 1)))
    for name, curve in found["curves"].items():
        print(f"{name:14}" + "".join(f"{d:8.3f}" for d in curve))
    for key in ("last round", "all rounds"):
        for pair, f in found[key].items():
            print(f"{key}: {pair}: {f['difference']:+.3f} (95 %: {f['low']:+.3f} to {f['high']:+.3f})")


if __name__ == "__main__":
    main()

"""Does a person who changes nothing get at least what a plain loop gives? The defaults and variants of them beside
MONAI's `BasicUNet`, on eight sets, in equal processor time.

    python benchmarks/defaults.py confirm --data ../shared/data --out build/defaults [--sets glands nuclei ...]
    python benchmarks/defaults.py screen --data ../shared/data --out build/screen --variants variants.json

"screen" trains and scores on one half of each set's groups (patients, images, blocks of slices), "confirm" holds out
the groups of the other half only, in two folds. `--variants` is a JSON file of an experiment's variants, with fields
of the training that differ from the default. Each set is an experiment (`napari-msunet experiment`) in a folder of its
own: called again, it goes on where it was stopped. Out: summary.json and summary.md with every set's table, and the
mean difference between the default and BasicUNet over the sets with its interval (Student's t over sets).
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from training_parts.basicunet import peer
from training_parts.sets import SETS, STROKES, Set, source

from napari_msunet.config import AutoModel, ExperimentJob, TrainJob
from napari_msunet.events import Message, Result
from napari_msunet.own_process import keep_freed_memory
from napari_msunet.training.comparison.experiment_page import table
from napari_msunet.training.experiments import experiment_events

PEER = "BasicUNet"
STROKE_SETS = {"glands, strokes": ("glands", False), "nuclei, strokes on one image": ("nuclei", True)}
"""A set, and whether only one image of it is painted on."""


def experiment(name: str, options: argparse.Namespace, variants: dict[str, Any]) -> ExperimentJob:
    """The experiment of a set."""
    base, alone = STROKE_SETS.get(name, (name, False))
    chosen = SETS[base](options.data)
    folder = options.out / "data" / options.command / name.replace(", ", " ").replace(" ", "-")
    choosing, confirming = chosen.halves()
    known = [p for p in chosen.pictures if p.group in choosing]
    others = [p for p in chosen.pictures if p.group in confirming]
    strokes = STROKES if name in STROKE_SETS else None
    settings: dict[str, Any] = {"folds": 2}
    if alone:
        held, painted = known if options.command == "screen" else others, known[:1]
        sources = (
            source(chosen, painted, folder / "train", "train", strokes),
            source(chosen, [p for p in held if p not in painted], folder / "held-out", "test"),
        )
        settings = {"folds": None}
    elif options.command == "screen":
        sources = (source(chosen, known, folder / "all", "auto", strokes),)
        settings = {"folds": 3, "only_folds": (1,)}
    else:
        sources = (
            source(chosen, known, folder / "train", "train", strokes),
            source(chosen, others, folder / "held-out", "auto", strokes),
        )
    if strokes and not alone:
        scoring = known if options.command == "screen" else others
        settings["scored"] = (source(chosen, scoring, folder / "scored", "auto"),)
    training = TrainJob(
        model=AutoModel(classes=chosen.classes), sources=sources, out=options.out / "unused", device="cpu"
    )
    out = options.out / f"{options.command}-{options.seconds:g}s" / folder.name
    return ExperimentJob(
        training=training,
        variants=variants,
        seeds=tuple(range(options.seeds)),
        seconds=options.seconds,
        threads=options.threads,
        out=out,
        resume=(out / "experiment.json").exists(),
        **settings,
    )


def run(name: str, options: argparse.Namespace, variants: dict[str, Any]) -> dict[str, Any]:
    """Run the experiment of a set to its end, and give its report."""
    job = experiment(name, options, variants)
    base: Set = SETS[STROKE_SETS.get(name, (name, False))[0]](options.data)
    peers = {} if options.no_peer else {PEER: peer(base.peer_mpp)}
    report: dict[str, Any] = {}
    for event in experiment_events(job, peers):
        if isinstance(event, Message):
            print(f"{name}: {event.text}", flush=True)
        elif isinstance(event, Result):
            report = event.values
    return report


def summary(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The default against the peer over all sets: positive where the default is better."""
    differences = {
        name: {
            "dice": -report["differences"][PEER]["dice"],
            "interval": [-v for v in reversed(report["differences"][PEER]["interval"] or (np.nan, np.nan))],
        }
        for name, report in reports.items()
        if PEER in report["differences"]
    }
    values = np.array([d["dice"] for d in differences.values()])
    found: dict[str, Any] = {"sets": differences}
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
        found |= {"mean": float(values.mean()), "interval": [float(values.mean()) - half, float(values.mean()) + half]}
    return found


def page(reports: dict[str, dict[str, Any]], found: dict[str, Any]) -> str:
    """All tables."""
    parts = [f"## {name}\n\n{table(report)}" for name, report in reports.items()]
    if "mean" in found:
        low, high = found["interval"]
        parts.append(f"The default minus {PEER}, mean over sets: {found['mean']:+.3f} ({low:+.3f} to {high:+.3f}).\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("screen", "confirm"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=[*SETS, *STROKE_SETS], choices=[*SETS, *STROKE_SETS])
    parser.add_argument("--seconds", type=float, default=100.0, help="processor time of each training")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", type=Path, help="JSON file; without it, the default alone")
    parser.add_argument("--no-peer", action="store_true", help=f"leave {PEER} out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()
    variants = json.loads(options.variants.read_bytes()) if options.variants else {"default": {}}
    reports: dict[str, dict[str, Any]] = {}
    for name in options.sets:
        reports[name] = run(name, options, variants)
        found = summary(reports)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "summary.json").write_text(json.dumps({"reports": reports, "summary": found}, indent=1))
        (options.out / "summary.md").write_text(page(reports, found))
    sys.stdout.write(page(reports, found))


if __name__ == "__main__":
    main()

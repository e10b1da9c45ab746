"""Is a search by a Gaussian process or by Parzen estimators better than one at random, and what does it cost?

    python benchmarks/search.py --data ../shared/data --out build/search
    python benchmarks/search.py --data ../shared/data --out build/search --trials 10 --seconds 5 --repeats 1

A set is cut by group into two halves. In one of them each sampler searches the default space with the same number of
trials and the same processor time; a repeat has a seed of its own, which is the same for all samplers. A trial is one
training on three quarters of the groups (`--folds 1`), or one for each fold in its share of the time. The best of each
search is then trained on all of this half, `--final` times as long as a trial, and scored on the other half, of which
no trial has seen an image.

With `--storage postgresql://... --workers 2 --threads 1` several processes do the same.

Called again, it goes on where it was stopped. Out: search.json, and search.md with a row for each sampler: Dice on
unseen images (mean over repeats, and paired difference to random with its interval by Student's t), the Dice that the
search promised, the share of the time between trials, and trials a minute.
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
from training_parts.sets import SETS, source

import napari_msunet as ms
from napari_msunet._io import read_json, write_json, write_text
from napari_msunet.events import Message
from napari_msunet.own_process import keep_freed_memory

SAMPLERS = ("random", "gp", "tpe")


def search(sampler: str, repeat: int, options: argparse.Namespace) -> ms.TuneJob:
    """The search of a sampler in a repeat; it goes on where there is one."""
    chosen = SETS[options.set](options.data)
    known = [picture for picture in chosen.pictures if picture.group in chosen.halves()[0]]
    out = options.out / f"{sampler}-{repeat}"
    training = ms.TrainJob(
        model=ms.AutoModel(classes=chosen.classes),
        sources=(source(chosen, known, options.out / "data" / "searched", "auto"),),
        out=out,
        device="cpu",
        seed=repeat,
        split_seed=0,
        time_limit=options.seconds / options.folds,
    )
    return ms.TuneJob(
        training=training,
        sampler=sampler,
        pruner="none",
        trials=options.trials,
        folds=options.folds,
        threads=options.threads,
        workers=options.workers,
        storage=options.storage,
        study=f"{sampler}-{repeat}-{options.trials}-{options.seconds:g}-{options.workers}",
        out=out,
        resume=(out / "search.json").exists(),
    )


def run(sampler: str, repeat: int, options: argparse.Namespace) -> dict[str, Any]:
    """Search, train the best, and score it on the other half."""
    file = options.out / f"{sampler}-{repeat}.json"
    if file.exists():
        return read_json(file)
    job = search(sampler, repeat, options)

    def tell(event: Any) -> None:
        if isinstance(event, Message):
            print(f"{sampler} {repeat}: {event.text}", flush=True)

    found = ms.tune(job, tell)
    longer = {"time_limit": options.final * options.seconds, "clock": "processor", "out": job.out / "best"}
    trained = ms.train(found.best.model_copy(update=longer | {"resume": (job.out / "best" / "job.json").exists()}))
    chosen = SETS[options.set](options.data)
    unseen = [picture for picture in chosen.pictures if picture.group in chosen.halves()[1]]
    held_out = source(chosen, unseen, options.out / "data" / "unseen", "auto")
    scores = ms.evaluate(ms.EvaluateJob(model=trained.model_path, sources=(held_out,), device="cpu")).scores
    row = {
        "sampler": sampler,
        "repeat": repeat,
        "unseen": scores["pooled"]["fused"]["dice"],
        "promised": found.dice,
        "between": found.report["between"],
        "seconds": found.report["seconds"],
        "trials": len(found.report["trials"]),
        "values": found.report["values"],
    }
    write_json(file, row)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means over repeats, and paired differences to random."""
    found: dict[str, dict[str, Any]] = {}
    base = {row["repeat"]: row["unseen"] for row in rows if row["sampler"] == "random"}
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        own = [row for row in rows if row["sampler"] == sampler]
        means = {key: float(np.mean([row[key] for row in own])) for key in ("unseen", "promised")}
        between = [row["between"] for row in own if row["between"] is not None]
        found[sampler] = means | {"repeats": len(own), "between": float(np.mean(between)) if between else None}
        found[sampler]["per_minute"] = 60 * sum(r["trials"] for r in own) / sum(r["seconds"] for r in own)
        pairs = np.array([row["unseen"] - base[row["repeat"]] for row in own if row["repeat"] in base])
        if sampler != "random" and len(pairs):
            found[sampler]["difference"] = float(pairs.mean())
            if len(pairs) > 1:
                half = float(stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(pairs))
                found[sampler]["interval"] = [float(pairs.mean()) - half, float(pairs.mean()) + half]
    return found


def page(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """The table in Markdown."""
    work = f"{options.trials} trials of {options.seconds:g} s of processor time on {options.set}"
    columns = ("sampler", "repeats", "Dice on unseen images", "minus random", "95 % over repeats", "promised")
    lines = [
        f"{work}, {options.workers} processes",
        "",
        f"| {' | '.join(columns)} | between trials | trials a minute |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for sampler, own in found.items():
        difference = f"{own['difference']:+.3f}" if "difference" in own else ""
        interval = "{:+.3f} to {:+.3f}".format(*own["interval"]) if "interval" in own else ""
        between = "" if own["between"] is None else f"{own['between']:.1%}"
        cells = (
            sampler,
            own["repeats"],
            f"{own['unseen']:.3f}",
            difference,
            interval,
            f"{own['promised']:.3f}",
            between,
        )
        lines.append(f"| {' | '.join(map(str, cells))} | {own['per_minute']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", default="stained nuclei", choices=SETS)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=(*SAMPLERS, "grid"))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20.0, help="processor time of each trial")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument(
        "--final", type=float, default=1.0, help="how many times as long the best is trained at the end"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--storage", help="such as postgresql://user@host/database")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for repeat in range(options.repeats):
        for sampler in options.samplers:
            rows.append(run(sampler, repeat, options))
            found = summary(rows)
            write_text(options.out / "search.json", json.dumps({"rows": rows, "summary": found}, indent=1))
            write_text(options.out / "search.md", page(found, options))
    sys.stdout.write(page(summary(rows), options))


if __name__ == "__main__":
    main()

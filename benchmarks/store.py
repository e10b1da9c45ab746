"""How fast the label store is: dabs of a brush, undo, merging a run, and memory, at 100,000 x 100,000 pixels.

python benchmarks/store.py [--out store.json] [--strokes 2000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, Run, open_labels

SIDE = 100_000
CLASSES = ("a", "b", "c")


def brush(diameter: int) -> np.ndarray:
    y, x = np.mgrid[:diameter, :diameter] - (diameter - 1) / 2
    return y * y + x * x <= diameter * diameter / 4


def milliseconds(times: list[float]) -> dict[str, float]:
    values = np.array(times) * 1000
    return {name: round(float(np.percentile(values, p)), 2) for name, p in (("median", 50), ("p95", 95), ("max", 100))}


def memory() -> float:
    return psutil.Process().memory_info().rss / 2**20


def dabs(store: LabelStore, strokes: int, spread: int, rng: np.random.Generator) -> dict[str, object]:
    """Dabs of 20 to 200 pixels, at random places within `spread` pixels of the middle."""
    start, times = memory(), []
    for _ in range(strokes):
        diameter = int(rng.integers(20, 201))
        corner = rng.integers(SIDE // 2 - spread // 2, SIDE // 2 + spread // 2 - 200, 2)
        mask, value = brush(diameter), int(rng.integers(1, 4))
        begin = time.perf_counter()
        store.write(Region(int(corner[0]), int(corner[1]), diameter, diameter), value, mask)
        times.append(time.perf_counter() - begin)
    undo = []
    for _ in range(200):
        begin = time.perf_counter()
        store.undo()
        undo.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    store.flush()
    return {
        "strokes": strokes,
        "dab ms": milliseconds(times),
        "undo ms": milliseconds(undo),
        "flush s": round(time.perf_counter() - begin, 2),
        "memory MiB": [round(start), round(memory())],
    }


def filled_run(store: LabelStore, side: int) -> Run:
    """A run with patches of classes, as a prediction has them, on `side` x `side` pixels in the middle."""
    run = store.create_run("benchmark", {}, CLASSES, {"labels": "uint8"})
    small = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    block = np.repeat(np.repeat(small, 32, 0), 32, 1)
    with run.writing():
        start = SIDE // 2 - side // 2
        for number, y in enumerate(range(start, start + side, 2048)):
            for x in range(start, start + side, 2048):
                run.write(Window(y, x, 2048, 2048), block)
                run.finish(number * 1000 + x // 2048, Window(y, x, 2048, 2048))
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="where the numbers go, as JSON")
    parser.add_argument("--strokes", type=int, default=2000)
    arguments = parser.parse_args()
    rng, results = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        store = LabelStore.create(Path(folder) / "labels.ome.zarr", (SIDE, SIDE), 0.25, CLASSES)
        results["create s"] = round(time.perf_counter() - begin, 2)
        store.write(Region(0, 0, 1, 1), 1)
        results["one view (4,000 px)"] = dabs(store, arguments.strokes, 4000, rng)
        results["anywhere"] = dabs(store, arguments.strokes, SIDE - 400, rng)
        side = 20 * 1024
        run = filled_run(store, side)
        begin = time.perf_counter()
        store.merge(run)
        seconds = time.perf_counter() - begin
        results["merge"] = {
            "seconds": round(seconds, 1),
            "Mpx/s": round(side * side / seconds / 1e6),
            "memory MiB": round(memory()),
        }
        results["undo over a run"] = dabs(store, 200, 4000, rng)["undo ms"]
        begin = time.perf_counter()
        store.close()
        results["close s"] = round(time.perf_counter() - begin, 2)
        begin = time.perf_counter()
        with open_labels(store.path) as store:
            results["open s"] = round(time.perf_counter() - begin, 3)
            begin = time.perf_counter()
            store.undo()
            results["first undo after opening s"] = round(time.perf_counter() - begin, 3)
    for name, value in results.items():
        print(f"{name:28} {value}")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

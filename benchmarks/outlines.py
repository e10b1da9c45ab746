"""Half a million objects as outlines: exporting a label store as GeoJSON, COCO or ASAP, and reading the file again; and
a million objects measured.

Each step runs in a process of its own, whose largest memory is measured (Linux: its own peak, not the parent's).

    python benchmarks/outlines.py --objects 500000 --formats .geojson
    python benchmarks/outlines.py --objects 1000000 --formats --measure .csv .parquet
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

PITCH = 28
"""Pixels between the middles of two objects, which are discs of 9 to 12 pixels' radius."""
TILE = 1024 // PITCH * PITCH


def discs() -> np.ndarray:
    """A tile of discs of two classes, each with an outline of its own."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:TILE, :TILE]
    rows, columns = y // PITCH, x // PITCH
    radii = draw.uniform(9, 12, (TILE // PITCH, TILE // PITCH))
    inside = np.hypot(y % PITCH - PITCH / 2 + 0.5, x % PITCH - PITCH / 2 + 0.5) < radii[rows, columns]
    return np.where(inside, 1 + (rows + columns) % 2, 0).astype(np.uint8)


def make(store: Path, objects: int) -> dict[str, float]:
    """A label store with about that many objects."""
    import napari_msunet as ms

    tile = discs()
    tiles = max(1, round(objects / (TILE // PITCH) ** 2))
    wide = int(np.ceil(np.sqrt(tiles)))
    tall = -(-tiles // wide)
    with ms.LabelStore.create(store, (tall * TILE, wide * TILE), 0.5, ("tumour", "stroma")) as labels:
        for k in range(tiles):
            labels.write(ms.Region(k // wide * TILE, k % wide * TILE, TILE, TILE), tile)
    return {"objects": tiles * (TILE // PITCH) ** 2, "megapixels": tall * wide * TILE**2 / 1e6}


def export(store: Path, file: Path) -> dict[str, float]:
    """Write the file."""
    import napari_msunet as ms

    ms.export(ms.ExportJob(labels=store, out=file))
    return {"megabytes": file.stat().st_size / 1e6}


def measure(store: Path, file: Path) -> dict[str, float]:
    """Measure all objects, with their neighbours and a density map."""
    import napari_msunet as ms

    began = time.process_time()
    found = ms.measure(ms.MeasureJob(labels=store, out=file, density=200))
    objects = sum(row["objects"] for row in found.classes)
    return {"objects": objects, "processor": time.process_time() - began, "megabytes": file.stat().st_size / 1e6}


def read(file: Path) -> dict[str, float]:
    """Read the file."""
    from napari_msunet.annotation import read_shape_file

    found = read_shape_file(file)
    return {"objects": len(found.shapes), "left out": len(found.left_out)}


def measured(work: Callable[..., dict[str, float]], arguments: tuple[object, ...], answer: object) -> None:
    """Run one step, and send what it took; in a process of its own."""
    import resource

    began = time.perf_counter()
    found = work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    answer.put(found | {"seconds": time.perf_counter() - began, "GB": peak})


def step(work: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """The outcome of a step."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=measured, args=(work, arguments, answer))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} ended with code {process.exitcode}")
    return answer.get()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=500_000)
    parser.add_argument("--formats", nargs="*", choices=(".geojson", ".json", ".xml"), default=[".geojson"])
    parser.add_argument("--measure", nargs="*", choices=(".csv", ".parquet", ".geojson"), default=[])
    parser.add_argument("--json", type=Path, help="file for the numbers")
    given = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "labels.ome.zarr"
        rows["store"] = step(make, store, given.objects)
        for ending in given.formats:
            file = Path(folder) / f"outlines{ending}"
            rows[f"{ending} out"] = step(export, store, file)
            rows[f"{ending} in"] = step(read, file)
            file.unlink()
        for ending in given.measure:
            rows[f"measure {ending}"] = step(measure, store, Path(folder) / f"objects{ending}")
    for name, row in rows.items():
        print(f"{name:14}" + "  ".join(f"{key} {value:,.2f}".removesuffix(".00") for key, value in row.items()))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

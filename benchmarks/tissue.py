"""How long finding tissue takes, on real slides and on one of 100,000 x 100,000 pixels, and in what memory.

    python benchmarks/tissue.py --shared ../shared/data --out benchmarks/results

The large slide has 5 % tissue: copies of the shipped slide on glass, made when they are read. It is looked at with a
pyramid (levels 1, 4, 16 and 32, as scanners write them) and without one, where all of level 0 has to be read; each in a
process of its own. `coverage` is then asked which tiles of 256 pixels at level 0 hold tissue.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import psutil
from skimage.filters import threshold_otsu

import napari_msunet as ms
from napari_msunet.app.demo import SLIDE
from napari_msunet.geometry import Window
from napari_msunet.inference.plan import coverage
from napari_msunet.slide.tissue import coarse_grid, glass_colour, optical_density, stain_density, stained

SIDE, CHUNK = 100_000, 4000
NAMES = ("CMU-1-Small-Region.svs", "tcga-no-mpp.svs", "fluorescence-dapi.ndpi", "vectra-3channel.qptiff")


def large(factors: tuple[int, ...]) -> ms.Slide:
    """A lazy slide: a band of tissue copies on glass."""
    small = ms.open_slide(SLIDE)
    levels = []
    for factor in factors:
        grid = small.grid(small.mpp[0] * factor)
        tile = small.read_window(grid, grid.whole)
        side = SIDE // factor
        columns = np.arange(side) % tile.shape[1]

        def block(rows: range, part: slice, tile: np.ndarray = tile, columns: np.ndarray = columns) -> np.ndarray:
            return tile[np.array(rows)[:, None] % tile.shape[0], columns[part]]

        step = max(1, CHUNK // factor)

        def make(block_info: Any = None, side: int = side, block: Any = block) -> np.ndarray:
            (top, bottom), (left, right) = block_info[None]["array-location"][:2]
            out = np.full((bottom - top, right - left, 3), 245, np.uint8)
            band = range(max(top, side * 2 // 5), min(bottom, side * 53 // 100))
            if len(band):
                out[band.start - top : band.stop - top] = block(band, slice(left, right))
            return out

        chunks = da.core.normalize_chunks((step, step, 3), (side, side, 3))
        levels.append(da.map_blocks(make, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)))
    return ms.slide_from_array(levels, mpp=0.5)


def one(kind: str) -> dict[str, Any]:
    """Measure the large slide in this process."""
    factors = {"pyramid": (1, 4, 16, 32), "flat": (1,)}[kind]
    slide = large(factors)
    process = psutil.Process()
    before = process.memory_info().rss
    start, work = time.perf_counter(), time.process_time()
    mask = ms.tissue_mask(slide)
    found, worked = time.perf_counter(), time.process_time() - work
    grid = slide.grid()
    cells = coverage(mask, grid, grid.whole, 256)
    peak = peak_bytes()
    return {
        "slide": f"100,000 x 100,000, {kind}",
        "share": round(mask.share, 4),
        "cells": round(float(cells.mean()), 4),
        "seconds": round(found - start, 2),
        "CPU seconds": round(worked, 2),
        "coverage seconds": round(time.perf_counter() - found, 2),
        "MB more than before": round((peak - before) / 1e6),
    }


def rules(shared: Path) -> list[dict[str, Any]]:
    """Which share several rules call tissue, before any cleaning: on two slides, on 30 images that are all tissue, and
    how much a shade of 20 % changes."""
    slides = [ms.open_slide(shared / "slides" / name, mpp=0.5) for name in NAMES[:2]]
    nuclei = [ms.open_slide(path, mpp=0.25) for path in sorted((shared / "monuseg-train" / "images").iterdir())]
    grid = slides[0].grid(8.0)
    plain = slides[0].read_window(grid, grid.whole)
    shaded = (plain * np.linspace(1, 0.8, plain.shape[1])[None, :, None]).astype(np.uint8)
    pair = [by_rule(ms.slide_from_array(pixels, mpp=8.0)) for pixels in (plain, shaded)]
    first, second = (by_rule(slide) for slide in slides)
    all_tissue = [by_rule(slide) for slide in nuclei]
    return [
        {
            "rule": rule,
            NAMES[0]: round(float(first[rule].mean()), 3),
            NAMES[1]: round(float(second[rule].mean()), 3),
            "all tissue, mean": round(float(np.mean([found[rule].mean() for found in all_tissue])), 3),
            "all tissue, least": round(float(min(found[rule].mean() for found in all_tissue)), 3),
            "changed by shade": round(float((pair[0][rule] != pair[1][rule]).mean()), 4),
        }
        for rule in first
    ]


def by_rule(slide: ms.Slide) -> dict[str, np.ndarray]:
    """Otsu on saturation, on the mean optical density, on the stain density; and that with its bounds."""
    grid = coarse_grid(slide)
    inside = Window(0, 0, *(int(n / p) for n, p in zip(grid.extent, grid.pixel, strict=True)))  # no half pixels
    picture = slide.read_window(grid, inside)
    white = glass_colour(picture, slide.background)
    density = optical_density(picture, white)
    saturation = 1 - picture.min(-1) / np.maximum(picture.max(-1), 1)
    mean = np.mean(density, axis=0)
    stain = np.log(stain_density(density) + 0.01)
    free = {"saturation": saturation, "mean optical density": mean, "stain density": stain}
    found = {f"Otsu on {name}": values > threshold_otsu(values) for name, values in free.items()}
    return found | {"stain density, in bounds": stained(picture, white, pen=False)[0]}


def peak_bytes() -> int:
    """The most memory this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="the folder with the real slides")
    parser.add_argument("--out", type=Path, help="folder for tissue.json")
    parser.add_argument("--one", choices=("pyramid", "flat"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one)))
        return
    rows = []
    paths = [given.shared / "slides" / name for name in NAMES] if given.shared else [SLIDE]
    ms.tissue_mask(ms.open_slide(SLIDE))  # what is imported once is not timed
    for path in paths:
        slide = ms.open_slide(path)
        start, work = time.perf_counter(), time.process_time()
        mask = ms.tissue_mask(slide)
        seconds, worked = time.perf_counter() - start, time.process_time() - work
        rows.append(
            {
                "slide": path.name,
                "share": round(mask.share, 4),
                "seconds": round(seconds, 2),
                "CPU seconds": round(worked, 2),
            }
        )
    for kind in ("pyramid", "flat"):
        ended = subprocess.run([sys.executable, __file__, "--one", kind], check=True, capture_output=True, text=True)
        rows.append(json.loads(ended.stdout))
    if given.shared:
        rows += rules(given.shared)
    for row in rows:
        print(row)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "tissue.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The answer while one paints: how good it is after some strokes, and how long it takes.

    python benchmarks/instant.py quality --model MODEL --data ../shared/data --out instant.json [--images 6]
    python benchmarks/instant.py speed --model MODEL --out speed.json

"quality": seeded strokes of real truth on glands and nuclei; the same strokes train a random forest on Gaussian
features (scikit-image's `multiscale_basic_features`, as in its example of trainable segmentation). Dice of the pixels
that were not painted, by image, with the 95 % interval of the paired difference. "speed": the worker process itself,
from the request to the first labels and to the nearest megapixel, cached and not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import stats
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier
from training_parts.sets import Picture, Set, draw_strokes, glands, nuclei

from napari_msunet.config import AnswerRequest
from napari_msunet.events import Answered, Result, packed
from napari_msunet.geometry import Window
from napari_msunet.inference.instant import FeatureTiles, Placed, fit_head
from napari_msunet.labels import LabelStore
from napari_msunet.labels.stroke_samples import AnnotatedPixels, StrokeSamples
from napari_msunet.models import MSUNet, load_model
from napari_msunet.own_process import keep_freed_memory
from napari_msunet.slide import Slide, slide_from_array

SETS: dict[str, Callable[[Path], Set]] = {"glands": glands, "nuclei": nuclei}
STROKES = (5, 10, 20, 40)
SIDE = 768
"""Largest side of an image."""

RADIUS = {"glands": 8, "nuclei": 4}
"""Radius of the brush in pixels of the image."""

Labels = npt.NDArray[np.uint8]


# ----------------------------------------------------------------------------------------------------------------------
# Quality.


def opened(chosen: Set, picture: Picture) -> tuple[npt.NDArray[np.uint8], Labels]:
    """An image and its truth (0 background, 1 class), cut to `SIDE`."""
    image = np.asarray(Image.open(picture.image).convert("RGB"))[:SIDE, :SIDE]
    values = picture.mask() if callable(picture.mask) else np.asarray(Image.open(picture.mask))
    return image, (values[:SIDE, :SIDE] > 0).astype(np.uint8)


def by_head(model: MSUNet, image: npt.NDArray[np.uint8], mpp: float) -> Callable[[Labels], Labels]:
    """A function from strokes to labels at the image's pixels, by a head on the features of a model."""
    slide = slide_from_array(image, mpp=mpp)
    tiles = FeatureTiles(model, slide)
    keys = tiles.keys(tiles.grid.whole)
    y, x = (
        np.minimum((np.arange(side) + 0.5) / pixel, most - 1).astype(int)
        for side, pixel, most in zip(image.shape[:2], tiles.grid.pixel, tiles.grid.shape, strict=True)
    )

    def answer(strokes: Labels) -> Labels:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "strokes.ome.zarr"
            with LabelStore.create(path, classes=("class",), kind="annotation", slide=slide) as store:
                store.write(Window(0, 0, *strokes.shape), strokes, strokes > 0)
                samples = StrokeSamples(store)
                samples.scan()
                found = samples.of()
        placed = [Placed(key, *pixels) for key, pixels in tiles.place(found).items()]
        features = np.concatenate([tiles.vectors(one.key, one.pixels) for one in placed])
        head = fit_head(features, np.concatenate([one.values for one in placed]), tiles.widths, 2)
        whole = np.zeros(tiles.grid.shape, np.uint8)
        for key in keys:
            whole[tiles.window(key).intersection(tiles.grid.whole).slices()] = tiles.labels(key, head)
        return whole[np.ix_(y, x)]

    return answer


def by_forest(image: npt.NDArray[np.uint8]) -> Callable[[Labels], Labels]:
    """The same by a random forest on Gaussian features, with the settings of scikit-image's example."""
    features = multiscale_basic_features(image, sigma_min=1, sigma_max=16, channel_axis=-1)

    def answer(strokes: Labels) -> Labels:
        forest = RandomForestClassifier(n_estimators=50, n_jobs=1, max_depth=10, max_samples=0.05, random_state=0)
        painted = strokes > 0
        forest.fit(features[painted], strokes[painted] % 255)
        found = forest.predict(features.reshape(-1, features.shape[-1]))
        return found.reshape(strokes.shape).astype(np.uint8)

    return answer


def dice(found: Labels, truth: Labels, strokes: Labels) -> float:
    """Dice of class 1 on the pixels that were not painted."""
    left = strokes == 0
    both = float((found[left] & truth[left]).sum())
    return 2 * both / max(1.0, float(found[left].sum() + truth[left].sum()))


def measure(name: str, data: Path, ways: dict[str, Callable[[Any, float], Callable[[Labels], Labels]]], images: int):
    """Rows of set, image, strokes, way, Dice, seconds."""
    chosen = SETS[name](data)
    pictures = sorted(chosen.pictures, key=lambda p: (p.group, p.name))
    pictures = [pictures[n] for n in np.linspace(0, len(pictures) - 1, images).round().astype(int)]
    rows = []
    for number, picture in enumerate(pictures):
        image, truth = opened(chosen, picture)
        answers = {way: make(image, picture.mpp) for way, make in ways.items()}
        for count in STROKES:
            strokes = draw_strokes(truth, count, number, RADIUS[name])
            for way, answer in answers.items():
                began = time.monotonic()
                score = dice(answer(strokes), truth, strokes)
                row = {"set": name, "image": picture.name, "strokes": count, "way": way, "dice": round(score, 4)}
                rows.append({**row, "seconds": round(time.monotonic() - began, 3)})
        print(name, picture.name, [r["dice"] for r in rows[-len(ways) * len(STROKES) :]], flush=True)
    return rows


def compared(rows: list[dict[str, Any]], ours: str, other: str) -> list[dict[str, Any]]:
    """For each set and number of strokes: the means of both ways, and the difference with its 95 % interval."""
    found = []
    for name in dict.fromkeys(row["set"] for row in rows):
        for count in STROKES:
            mine, theirs = (
                np.array([r["dice"] for r in rows if (r["set"], r["strokes"], r["way"]) == (name, count, way)])
                for way in (ours, other)
            )
            difference = mine - theirs
            half = stats.t.ppf(0.975, len(mine) - 1) * difference.std(ddof=1) / len(mine) ** 0.5 if len(mine) > 1 else 0
            found.append(
                {"set": name, "strokes": count, ours: mine.mean(), other: theirs.mean(),
                 "difference": difference.mean(), "half": float(half)}
            )  # fmt: skip
    return found


def quality(options: argparse.Namespace) -> dict[str, Any]:
    """Both ways on both sets."""
    model = load_model(options.model)
    ways = {"head": lambda image, mpp: by_head(model, image, mpp), "forest": lambda image, _: by_forest(image)}
    rows = [row for name in options.sets for row in measure(name, options.data, ways, options.images)]
    table = compared(rows, "head", "forest")
    print("set      strokes   head  forest  difference")
    for row in table:
        print(
            f"{row['set']:8} {row['strokes']:7} {row['head']:6.3f}  {row['forest']:6.3f}  "
            f"{row['difference']:+.3f} ± {row['half']:.3f}"
        )
    return {"rows": rows, "table": table}

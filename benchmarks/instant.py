"""The answer while one paints: how good it is after some strokes, and how long it takes.

    python benchmarks/instant.py quality --data ../shared/data --out quality.json [--images 6] [--model MODEL]
    python benchmarks/instant.py speed --out speed.json [--model MODEL]

Answers are by fixed filters, and with --model also by the features of that model.

"quality": seeded strokes of real truth on glands and nuclei; the same strokes train a random forest on Gaussian
features (scikit-image's `multiscale_basic_features`, as in its example of trainable segmentation). Dice of the pixels
that were not painted, by image, with the 95 % interval of the paired difference. "speed": from a request
to the labels of the nearest megapixel, as the worker process sends them, with features that are kept and that are not.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import stats
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier
from training_parts.sets import Picture, Set, draw_strokes, glands, nuclei

from napari_msunet.config import AnswerRequest
from napari_msunet.events import Answered, Result, packed, parse_event
from napari_msunet.geometry import Window
from napari_msunet.inference.instant import Answers, FeatureTiles, Placed, filters_model, fit_head
from napari_msunet.labels import LabelStore
from napari_msunet.labels.stroke_samples import AnnotatedPixels, StrokeSamples
from napari_msunet.models import MSUNet, load_model
from napari_msunet.own_process import keep_freed_memory
from napari_msunet.slide import build_pyramid, slide_from_array

SETS: dict[str, Callable[[Path], Set]] = {"glands": glands, "nuclei": nuclei}
STROKES = (5, 10, 20, 40)
SIDE = 768
"""Largest side of an image."""

RADIUS = {"glands": 8, "nuclei": 4}
"""Radius of the brush in pixels of the image."""

Labels = npt.NDArray[np.uint8]
Answer = Callable[[Labels], Labels]
Way = Callable[[npt.NDArray[np.uint8], float], Answer]


# ----------------------------------------------------------------------------------------------------------------------
# Quality.


def opened(chosen: Set, picture: Picture) -> tuple[npt.NDArray[np.uint8], Labels]:
    """An image and its truth (0 background, 1 class), cut to `SIDE`."""
    image = np.asarray(Image.open(picture.image).convert("RGB"))[:SIDE, :SIDE]
    values = picture.mask() if callable(picture.mask) else np.asarray(Image.open(picture.mask))
    return image, (values[:SIDE, :SIDE] > 0).astype(np.uint8)


def by_head(model: MSUNet | None, image: npt.NDArray[np.uint8], mpp: float) -> Answer:
    """A function from strokes to labels at the image's pixels, by a head on a model's features (None: on filters)."""
    slide = slide_from_array(image, mpp=mpp)
    tiles = FeatureTiles(model or filters_model(slide), slide)
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


def by_forest(image: npt.NDArray[np.uint8]) -> Answer:
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


def measure(name: str, data: Path, ways: dict[str, Way], images: int) -> list[dict[str, Any]]:
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
                {"set": name, "strokes": count, "features": ours, "dice": mine.mean(), other: theirs.mean(),
                 "difference": difference.mean(), "half": float(half)}
            )  # fmt: skip
    return found


def quality(options: argparse.Namespace) -> dict[str, Any]:
    """Both ways on both sets."""
    ways: dict[str, Way] = {
        "filters": lambda image, mpp: by_head(None, image, mpp),
        "forest": lambda image, _: by_forest(image),
    }
    if options.model is not None:
        model = load_model(options.model)
        ways["model"] = lambda image, mpp: by_head(model, image, mpp)
    rows = [row for name in options.sets for row in measure(name, options.data, ways, options.images)]
    table = [row for way in ways if way != "forest" for row in compared(rows, way, "forest")]
    print("set      strokes  features  Dice   forest  difference")
    for row in table:
        print(
            f"{row['set']:8} {row['strokes']:7}  {row['features']:8} {row['dice']:6.3f}  {row['forest']:6.3f}  "
            f"{row['difference']:+.3f} ± {row['half']:.3f}"
        )
    return {"rows": rows, "table": table}


# ----------------------------------------------------------------------------------------------------------------------
# Speed: from a request to the labels as they are sent.

REPEATS = 9
MEGAPIXEL = 2**20


def textured(side: int) -> npt.NDArray[np.uint8]:
    """A picture with something at every scale, as large as wanted."""
    rng = np.random.default_rng(0)
    total = np.zeros((side, side, 3))
    for step in (4, 16, 64):
        small = rng.normal(0, 25, (side // step + 1, side // step + 1, 3))
        total += np.kron(small, np.ones((step, step, 1)))[:side, :side]
    return (total + 160).clip(0, 255).astype(np.uint8)


def ask(answers: Answers, request: AnswerRequest) -> dict[str, Any]:
    """Seconds of the clock and of the processor until the nearest megapixel (or all of the view) is labelled."""
    began, used, pixels = time.monotonic(), time.process_time(), 0
    found: dict[str, Any] = {}
    for event in answers.answer(request):
        sent = event.model_dump_json()
        if isinstance(event, Answered) and pixels < MEGAPIXEL:
            pixels += parse_event(sent).array().size
            found |= {"wall": time.monotonic() - began, "processor": time.process_time() - used}
        elif isinstance(event, Result):
            found["computed"] = event.values["computed"]
    return found


def strokes_at(rng: np.random.Generator, centre: tuple[float, float], count: int) -> AnnotatedPixels:
    """Pixels of some strokes around a place, as many as a person's annotation gives."""
    places = np.array(centre) + rng.normal(0, 200, (count, 2))
    values = np.digitize(places[:, 0] - centre[0], (-80, 80)).astype(np.uint8)
    return AnnotatedPixels(np.floor(places) + 0.5, values)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of answers in a slide of 6,000 x 6,000 pixels, cached and not, with 3,000 annotated pixels."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        slide = build_pyramid(textured(6000), Path(folder) / "slide.ome.zarr", mpp=0.5)
        for name, model in {"filters": None, **({"model": options.model} if options.model else {})}.items():
            answers = Answers()
            for number in range(REPEATS):
                centre = tuple(rng.uniform(1000, 5000, 2))
                view = (centre[0] - 600, centre[1] - 600, 1200.0, 1200.0)
                for kind in ("not cached", "cached"):
                    found = strokes_at(rng, centre, 3000)
                    request = AnswerRequest(
                        model=model, slide=slide, classes=("a", "b"), places=packed(found.places),
                        values=packed(found.values), view=view, near=centre,
                    )  # fmt: skip
                    times = ask(answers, request)
                    if number:  # the first one loads the model and scikit-learn
                        rows.append({"features": name, "kind": kind, **times})
    table = []
    for name, kind in dict.fromkeys((row["features"], row["kind"]) for row in rows):
        chosen = [row for row in rows if (row["features"], row["kind"]) == (name, kind)]
        numbers = {
            f"{what} p{p}": round(float(np.percentile([row[what] for row in chosen], p)), 3)
            for what in ("wall", "processor")
            for p in (50, 95)
        }
        table.append({"features": name, "kind": kind, **numbers})
        print(table[-1])
    return {"rows": rows, "table": table, "threads": torch.get_num_threads(), "load": os.getloadavg()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed"))
    parser.add_argument("--model", type=Path, help="answer by the features of this model too")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=sorted(SETS))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    found = {"quality": quality, "speed": speed}[options.what](options)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""The same images with their numbers stored in seven ways: trained on any one, predicted on any other.

    python benchmarks/range.py [--short] [--family stained] [--range nobody] [--out benchmarks/results/range.json]

Two families of 20 images: stained sections on glass (three channels), and glowing discs (one channel). Each is stored
as uint8, uint16, 12 bits in 16, float 0-1, float 0-255, float 0-65535 and int16. A small model is trained on each, once
where nobody says the range and once where a person gives it, and predicts all others. Right is: where the file or a
person gives the range, the labels are equal in at least 99.9 % of the pixels; where nobody does, they are, or a warning
names the doubt. `--short` has 4 images, 3 types and one family; `--family` and `--range` take a part.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
import torch
from PIL import Image
from skimage.draw import disk

import napari_msunet as ms
from napari_msunet.inference.image import predict_image
from napari_msunet.slide.appearance import seen_by
from napari_msunet.slide.numbers import to_unit, unit_scale

SIDE, EQUAL = 112, 0.999
TYPES = {
    "uint8": ("u1", 255),
    "uint16": ("u2", 65535),
    "12 bits in 16": ("u2", 4095),
    "float 0-1": ("f4", 1),
    "float 0-255": ("f4", 255),
    "float 0-65535": ("f4", 65535),
    "int16": ("i2", 32767),
}
SHORT = ("uint8", "12 bits in 16", "float 0-255")


def picture(family: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image as 8 bits and its mask."""
    rng = np.random.default_rng(number)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    values = np.full((SIDE, SIDE, 3 if family == "stained" else 1), 230.0 if family == "stained" else 12.0)
    for _ in range(5):
        place = disk(rng.integers(8, SIDE - 8, 2), rng.integers(7, 14), shape=mask.shape)
        mask[place] = 1
        values[place] = (120, 70, 150) if family == "stained" else 150
    values += rng.normal(0, 8, values.shape)
    values[:2, :6], values[:2, 6:12] = 0, 255  # every image holds black and white
    return values.clip(0, 255).round(), mask


def write(folder: Path, family: str, name: str, count: int) -> None:
    """The images of a family in one type, and their masks."""
    dtype, top = TYPES[name]
    images = folder / family / name
    images.mkdir(parents=True)
    (folder / family / "masks").mkdir(exist_ok=True)
    for number in range(count):
        values, mask = picture(family, number)
        scaled = values * (top / 255)
        scaled = scaled.round().astype(dtype) if np.dtype(dtype).kind in "iu" else scaled.astype(dtype)
        colour = "rgb" if family == "stained" else "minisblack"
        tifffile.imwrite(
            images / f"{number:02}.tif", scaled if family == "stained" else scaled[..., 0], photometric=colour
        )
        Image.fromarray(mask).save(folder / family / "masks" / f"{number:02}.png")


def train(folder: Path, family: str, name: str, given: bool, steps: int) -> tuple[object, list[str]]:
    """A model of one type's images, and what was said."""
    config = ms.ModelConfig(
        classes=("disc",),
        mpp=0.5,
        scales=(1.0,),
        fusion="mean",
        channels=3 if family == "stained" else 1,
        branch=ms.UNetConfig(depth=2, width=8),
    )
    source = ms.FolderSource(
        images=folder / family / name,
        masks=folder / family / "masks",
        mpp=0.5,
        value_range=(0, TYPES[name][1]) if given else None,
    )
    out = folder / "runs" / f"{family} {name} {given}"
    job = ms.TrainJob(
        model=config, sources=(source,), out=out, size=64, batch_size=4, epochs=4, steps=steps, validation=0.25, seed=3,
        device="cpu",
    )  # fmt: skip
    said = [e.text for e in ms.run(job) if getattr(e, "level", "") == "warning" and "split" not in e.text]
    return ms.load_model(out / "model.safetensors"), said


def labels(
    model: object, folder: Path, family: str, name: str, given: bool, count: int
) -> tuple[np.ndarray, list[str]]:
    """What the model predicts for all images of a type, and the doubts that are said."""
    found, doubts = [], []
    for number in range(count):
        value_range = (0, TYPES[name][1]) if given else None
        with ms.open_slide(folder / family / name / f"{number:02}.tif", mpp=0.5, value_range=value_range) as slide:
            doubts += seen_by(model.config.trained_on, slide).doubts  # what a prediction says
            found.append(predict_image(model, slide, device="cpu")["fused"].argmax(0))
    return np.stack(found), doubts


def unit_difference(folder: Path, family: str, name: str) -> float:
    """How far the values of a type are from those of 8 bits, in 0..1, where the range is given."""
    pair = []
    for one in ("uint8", name):
        top = TYPES[one][1]
        with ms.open_slide(folder / family / one / "00.tif", mpp=0.5, value_range=(0, top)) as slide:
            pair.append(to_unit(slide.read(ms.Region(0, 0, SIDE, SIDE)), unit_scale((0, top))))
    return float(np.abs(pair[0] - pair[1]).max())


def measured(short: bool, families: list[str], ways: list[str], folder: Path) -> dict[str, object]:
    """All trainings and predictions."""
    count, steps = (4, 12) if short else (20, 20)
    types = SHORT if short else tuple(TYPES)
    rows = []
    differences = {}
    for family in families:
        for name in types:
            write(folder, family, name, count)
        differences[family] = {name: unit_difference(folder, family, name) for name in types}
        for given in (way == "given" for way in ways):
            for trained in types:
                model, said = train(folder, family, trained, given, steps)
                own, _ = labels(model, folder, family, trained, given, count)
                truth = np.stack([picture(family, n)[1] for n in range(count)])
                score = 2 * float((own & truth).sum()) / float(own.sum() + truth.sum())
                for predicted in types:
                    other, doubts = labels(model, folder, family, predicted, given, count)
                    equal = float((other == own).mean())
                    right = equal >= EQUAL or (not given and bool(doubts or said))
                    rows.append(
                        {
                            "family": family, "range": "given" if given else "nobody says it", "trained": trained,
                            "predicted": predicted, "equal": equal, "warned": bool(doubts), "right": right,
                            "dice": score, "doubts": doubts[:1], "said_in_training": said[:1],
                        }
                    )  # fmt: skip
                    print(".", end="", flush=True, file=sys.stderr)
    return {"images": count, "short": short, "unit_difference": differences, "rows": rows}


def table(found: dict[str, object]) -> str:
    """Trained on (down) and predicted on (across): share of equal labels, with ! where a doubt was said."""
    rows = found["rows"]
    lines = []
    for family, how in dict.fromkeys((r["family"], r["range"]) for r in rows):
        own = [r for r in rows if (r["family"], r["range"]) == (family, how)]
        names = list(dict.fromkeys(r["predicted"] for r in own))
        lines += ["", f"{family}, range: {how}", "| trained on | Dice | " + " | ".join(names) + " |"]
        lines.append("|" + "---|" * (len(names) + 2))
        for name in dict.fromkeys(r["trained"] for r in own):
            cells = [r for r in own if r["trained"] == name]
            told = [f"{r['equal']:.5f}{'!' * r['warned']}{'' if r['right'] else ' WRONG'}" for r in cells]
            lines.append(f"| {name} | {cells[0]['dice']:.3f} | " + " | ".join(told) + " |")
    wrong = sum(not r["right"] for r in rows)
    lines += ["", f"{len(rows)} pairs, {wrong} wrong, {found['seconds']:.0f} s"]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true")
    options.add_argument("--family", choices=("stained", "glowing"))
    options.add_argument("--range", choices=("given", "nobody"))
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "range.json")
    asked = options.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        families = [asked.family] if asked.family else ["stained"] if asked.short else ["stained", "glowing"]
        found = measured(asked.short, families, [asked.range] if asked.range else ["given", "nobody"], Path(folder))
    found["seconds"] = time.monotonic() - started
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1))
    print(table(found))
    sys.exit(any(not row["right"] for row in found["rows"]))


if __name__ == "__main__":
    main()

"""How exact tiling is: networks trained for a while, tiled against the whole slide in one piece.

    python benchmarks/exactness.py --seconds 60 --out benchmarks/results

For each fusion a three-scale network is trained on the nuclei that ship with the package. The shipped slide is
predicted at 1.1 µm/px (no multiple of its 0.499) with odd tiles, in whole and in a region at odd corners, and compared
with `model(inputs)` called directly on the slide padded by the margin. The same with a margin of 16 pixels shows that
the comparison can fail.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import napari_msunet as ms
from napari_msunet.app.demo import SLIDE, nuclei
from napari_msunet.geometry import Window
from napari_msunet.inference.engine import as_input

FUSIONS = ("mean", "weighted", "max", "concat", "attention")
REGION = ms.Region(333.3, 511.7, 1777.7, 1155.1)


def in_one_piece(model: ms.MSUNet, slide: ms.Slide) -> np.ndarray:
    """Probabilities `(K+1, h, w)` of the slide padded by the margin, run once, cropped."""
    grid, margin = slide.grid(model.config.mpp), model.margin
    height, width = grid.shape
    padded = grid.whole.padded(margin)
    inputs = []
    for scale in model.config.ratios:
        corner = (int(padded.y * scale), int(padded.x * scale))
        sides = [-(-v * scale.numerator // scale.denominator) for v in padded.shape]
        pixels = slide.read_window(grid.scaled(scale), Window(*corner, *sides))
        inputs.append(torch.from_numpy(as_input(pixels))[None])
    with torch.inference_mode():
        logits = model.eval()(inputs, size=padded.shape)
    return torch.softmax(logits, 1)[0, :, margin : margin + height, margin : margin + width].numpy()


def tiled(model: ms.MSUNet, slide: ms.Slide, folder: Path, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of `predict`, through a store on disk."""
    labels = ms.predict(
        slide, model, folder, outputs=("labels", "probabilities"), probability_dtype="float32", **settings
    )
    result = np.moveaxis(labels.probabilities.compute(), -1, 0), labels.levels[0].compute()
    labels.close()
    return result


def measure(fusion: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Largest differences of one fusion."""
    config = ms.ModelConfig(
        classes=("nucleus",), mpp=1.1, scales=(1.0, 0.5, 0.25), fusion=fusion, branch=ms.UNetConfig(depth=4, width=8)
    )
    job = ms.TrainJob(
        model=config, sources=(nuclei("train"),), out=folder / fusion, size=64, steps=20, epochs=500, time_limit=seconds
    )
    model = ms.load_model(ms.train(job).model_path)
    with ms.open_slide(SLIDE) as slide:
        whole = in_one_piece(model, slide)
        exact, labels = tiled(model, slide, folder / f"{fusion}.ome.zarr", tile=333)
        window = slide.grid(1.1).centres(REGION)
        part, _ = tiled(model, slide, folder / f"{fusion}-region.ome.zarr", tile=197, region=REGION)
        short, _ = tiled(model, slide, folder / f"{fusion}-16.ome.zarr", tile=333, margin=16)
    top = np.sort(whole, 0)
    sure = top[-1] - top[-2] > 2e-4
    place = (slice(None), *window.slices())
    return {
        "fusion": fusion,
        "nuclei_share": float((whole.argmax(0) == 1).mean()),
        "largest_difference": float(np.abs(exact - whole).max()),
        "changed_labels": int((labels != whole.argmax(0))[sure].sum()),
        "largest_difference_region": float(np.abs(part - whole)[place].max()),
        "largest_difference_margin_16": float(np.abs(short - whole).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="training time of each network")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for fusion in FUSIONS:
            rows.append(measure(fusion, options.seconds, Path(folder)))
            print("  ".join(f"{k}={v:.2e}" if isinstance(v, float) else f"{k}={v}" for k, v in rows[-1].items()))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "exactness.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Which model to start from: presets of the dock and others on real glands, in equal processor time.

    python benchmarks/presets.py --data ../shared/data/glas-dev [MODEL ...] [--seconds 240] [--seeds 3] [--rate 0.002]
        [--out DIR]

Each model is trained on the other patients' images with the same windows, augmentation, loss (cross-entropy + Dice),
AdamW and cosine schedule until it has used `--seconds` of processor time (both cores together), and its last weights
are scored on the images of patients 1 and 5, whole images at once, at the masks' own resolution, pooled. "basicunet" is
MONAI's `BasicUNet` (instance norm, features 16, 16, 32, 64, 128, 16) at 1.24 µm/px; it needs monai:
`pip install --no-deps --target build/monai-alone monai`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_msunet.allocator import keep_freed_memory
from napari_msunet.config import FolderSource, LossConfig, ModelConfig, Optimiser, TrainJob, UNetConfig
from napari_msunet.geometry import Window
from napari_msunet.infer.slide_statistics import adapted, fit_statistics, layers_of
from napari_msunet.models import MSUNet, build_model
from napari_msunet.train.metrics import Confusion, class_scores
from napari_msunet.train.module import Training
from napari_msunet.train.record import RunFolder
from napari_msunet.train.scoring.grids import on_grid
from napari_msunet.train.session import prepare
from napari_msunet.widgets.dock.presets import BALANCED

VALIDATE = ("1", "5")
STEM = UNetConfig(depth=3, width=16, stem="space_to_depth")


@dataclass(frozen=True)
class Candidate:
    """A model, and the size of its training windows in target pixels."""

    config: ModelConfig
    size: int
    loss: LossConfig = field(default_factory=LossConfig)


def model(mpp: float, scales: tuple[float, ...], branch: Any, fusion: str = "attention") -> ModelConfig:
    return ModelConfig(classes=("gland",), mpp=mpp, scales=scales, fusion=fusion, branch=branch)


CANDIDATES: dict[str, Candidate] = {
    "one scale": Candidate(model(1.24, (1.0,), UNetConfig(depth=3, width=16), "mean"), 192),
    "two scales": Candidate(model(1.24, (1.0, 0.5), UNetConfig(depth=3, width=16)), 192),
    "two scales, thin fine": Candidate(
        model(1.24, (1.0, 0.5), (UNetConfig(depth=2, width=12), UNetConfig(depth=3, width=16))), 192
    ),
    "two scales, stem": Candidate(model(1.24, (1.0, 0.5), (STEM, UNetConfig(depth=3, width=16))), 192),
    "two scales, stem, thin": Candidate(model(1.24, (1.0, 0.5), (STEM, UNetConfig(depth=2, width=16))), 192),
    "one scale, stem": Candidate(model(1.24, (1.0,), STEM, "mean"), 192),
    "two scales, stems": Candidate(model(1.24, (1.0, 0.5), STEM), 192),
    "three scales, stems": Candidate(model(1.24, (1.0, 0.5, 0.25), STEM), 192),
    "finer, stems": Candidate(model(0.62, (1.0, 0.5, 0.25), STEM), 384),
    "one scale, slide norm": Candidate(model(1.24, (1.0,), UNetConfig(depth=3, width=16, norm="slide"), "mean"), 192),
    "two scales, stem, slide norm": Candidate(
        model(
            1.24, (1.0, 0.5), (STEM.model_copy(update={"norm": "slide"}), UNetConfig(depth=3, width=16, norm="slide"))
        ),
        192,
    ),
    "one scale, thin": Candidate(model(1.24, (1.0,), UNetConfig(depth=3, width=8), "mean"), 192),
    "three scales": Candidate(model(1.24, (1.0, 0.5, 0.25), UNetConfig(depth=3, width=16)), 192),
    "inject": Candidate(model(1.24, (1.0, 0.5), UNetConfig(depth=3, width=16), "inject"), 192),
    "pyramid": Candidate(model(1.24, (1.0, 0.5, 0.25), UNetConfig(depth=4, width=16), "pyramid"), 192),
    "half, one scale": Candidate(model(2.48, (1.0,), UNetConfig(depth=3, width=16), "mean"), 96),
    "half, two scales": Candidate(model(2.48, (1.0, 0.5), UNetConfig(depth=3, width=16)), 96),
    "half, two scales, mean": Candidate(model(2.48, (1.0, 0.5), UNetConfig(depth=3, width=16), "mean"), 96),
    "half, two scales, slide norm": Candidate(model(2.48, (1.0, 0.5), UNetConfig(depth=3, width=16, norm="slide")), 96),
    "balanced": Candidate(BALANCED.make(("gland",), 2.48), 96),
    "basicunet": Candidate(model(1.24, (1.0,), UNetConfig(depth=4, width=16), "mean"), 192),
}


class BasicUNet(nn.Module):
    """MONAI's network without its last convolution, as a branch: `MSUNet` has a head of the same kind."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets import BasicUNet as Monai  # type: ignore[import-not-found]

        self.network = Monai(2, 3, 2, features=(16, 16, 32, 64, 128, 16))
        self.network.final_conv = nn.Identity()
        self.features, self.grain = 16, 1

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x)
        return found


def made(name: str, config: ModelConfig) -> MSUNet:
    """The model of a candidate."""
    built = build_model(config)
    if name == "basicunet":
        built.branches[0].network = BasicUNet()
    return built


def trained(name: str, job: TrainJob, seconds: float) -> tuple[MSUNet, Any, int]:
    """Train until the processor time is used up; the model, what was prepared, the steps."""
    torch.manual_seed(job.seed)
    session = prepare(job, RunFolder(job))
    network = made(name, session.config)
    start = time.process_time()

    def fraction() -> float:
        return min(1.0, (time.process_time() - start) / seconds)

    module = Training(network, job, session.windows, fraction)
    options = job.optimiser
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    steps = 0
    network.train()
    while fraction() < 1:
        for batch in session.batches:
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * (1 + cos(pi * fraction())) / 2
            optimiser.zero_grad()
            module.loss_of(batch).backward()
            optimiser.step()
            steps += 1
            if fraction() >= 1:
                break
    return network.eval(), session, steps


def dice(network: MSUNet, items: list[Any]) -> float:
    """Pooled Dice on whole images, at the masks' own resolution."""
    total = Confusion(2)
    trained_model = network
    for item in items:
        if layers_of(trained_model):
            network = adapted(trained_model, fit_statistics(trained_model, [item.slide]))
        grid, inputs = item.grid, []
        multiple = network.config.size_multiple
        shape = tuple(-(-n // multiple) * multiple for n in grid.shape)
        for ratio in network.config.input_ratios:
            window = Window(0, 0, *shape).times(ratio)
            pixels = item.slide.read_window(grid.scaled(ratio), window)
            inputs.append(torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32) / 255)[None])
        with torch.inference_mode():
            logits = network.outputs(inputs, shape, "same")[0]
        maps = torch.softmax(logits, 1)[0, :, : grid.shape[0], : grid.shape[1]].numpy()
        own = item.truth.grid.whole
        predicted = on_grid(maps, grid.whole, grid, item.truth.grid, own).argmax(0)
        total.add(torch.from_numpy(predicted), torch.from_numpy(item.truth.read(own)))
        item.release()
    return float(class_scores(total.matrix)["dice"][1])


def job_of(candidate: Candidate, data: Path, out: Path, seed: int, rate: float) -> TrainJob:
    given = {"images": data / "images", "masks": data / "masks", "mpp": 0.62, "values": "instances"}
    folder = FolderSource(**given, table=data / "slides.csv", group="patient")
    return TrainJob(
        model=candidate.config, sources=(folder,), out=out, size=candidate.size, batch_size=8, seed=seed,
        validation=0.25, loss=candidate.loss, device="cpu", optimiser=Optimiser(learning_rate=rate),
    )  # fmt: skip


def measure(name: str, data: Path, seconds: float, seed: int, rate: float) -> dict[str, Any]:
    """Train one model with one seed."""
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(CANDIDATES[name], data, Path(folder) / "run", seed, rate)
        network, session, steps = trained(name, with_sides(job, data, Path(folder)), seconds)
        score = dice(network, session.sides.validate)
        session.close()
    return {
        "model": name,
        "seed": seed,
        "rate": rate,
        "dice": score,
        "steps": steps,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def with_sides(job: TrainJob, data: Path, folder: Path) -> TrainJob:
    """The same job with the images of the validation patients in a source of their own."""
    import csv

    with (data / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sources = []
    for role, wanted in (("train", False), ("validate", True)):
        table = folder / f"{role}.csv"
        chosen = [row for row in rows if (row["patient"] in VALIDATE) == wanted]
        images, masks = folder / role / "images", folder / role / "masks"
        for kind, target in (("images", images), ("masks", masks)):
            target.mkdir(parents=True)
            for row in chosen:
                for path in (data / kind).glob(f"{row['name']}.*"):
                    (target / path.name).symlink_to(path.resolve())
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
        changes = {"images": images, "masks": masks, "table": table, "role": role}
        sources.append(job.sources[0].model_copy(update=changes))
    return job.model_copy(update={"sources": tuple(sources)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=", ".join(CANDIDATES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240.0, help="of processor time for each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=Optimiser().learning_rate, help="learning rate at the start")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if unknown := set(options.models) - set(CANDIDATES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(CANDIDATES)}")
    sys.path.append(str(Path(__file__).parents[1] / "build" / "monai-alone"))
    warnings.simplefilter("ignore")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    say: Callable[..., None] = print
    for seed in range(options.seeds):
        for name in options.models or CANDIDATES:
            rows.append(measure(name, options.data, options.seconds, seed, options.rate))
            say(json.dumps(rows[-1]), flush=True)
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / "presets.json").write_text(
                    json.dumps({"seconds": options.seconds, "rows": rows}, indent=1)
                )
    say(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Dice of each seed, and their mean."""
    lines = ["| model | parameters | steps | Dice of each seed | mean |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        each = ", ".join(f"{row['dice']:.3f}" for row in own)
        steps = ", ".join(str(row["steps"]) for row in own)
        mean = sum(row["dice"] for row in own) / len(own)
        lines.append(f"| {name} | {own[0]['parameters'] / 1e6:.2f} M | {steps} | {each} | {mean:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

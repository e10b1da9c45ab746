"""What each fusion costs: a training step and a prediction, in CPU time, as a ratio to the mean of the branches.

All in one process and one thread, round after round, so that what else the machine does falls on all alike; the median
over rounds counts.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch

from napari_msunet.config import LossConfig, ModelConfig, UNetConfig
from napari_msunet.geometry import Window
from napari_msunet.models import SegmentationLoss, build_model, input_windows
from napari_msunet.models.strip_inference import folded

FUSIONS = (
    *("mean", "weighted", "max", "concat", "attention", "feature_attention", "multihead"),
    *("inject", "pyramid"),
)
VARIANTS: dict[str, dict[str, object]] = {
    **{fusion: {"fusion": fusion} for fusion in FUSIONS},
    "scale 1 alone": {"fusion": "mean", "scales": (1.0,)},
    "mean, upscale=2 at twice the µm/px": {"fusion": "mean", "upscale": 2},
    "mean, finest_scale=1/2": {"fusion": "mean", "finest_scale": 0.5},
}


class Case:
    """One model with a batch."""

    def __init__(self, size: int, batch: int, width: int, depth: int, **changes: object) -> None:
        values = {"classes": ("a",), "mpp": 0.5, "branch": UNetConfig(depth=depth, width=width), **changes}
        config = ModelConfig(**values)
        torch.manual_seed(0)
        self.model = build_model(config)
        self.size = size
        self.inputs = [torch.rand(batch, 3, *w.shape) for w in input_windows(config, Window(0, 0, size, size))]
        self.target = torch.randint(0, 2, (batch, size, size))
        self.loss = SegmentationLoss(LossConfig(), config.ratios, own=config.own)
        self.optimiser = torch.optim.AdamW(self.model.parameters())
        self.seconds: dict[str, list[float]] = {"train": [], "predict": []}

    def train(self) -> None:
        """One step."""
        self.model.train()
        fused, own = self.model.outputs(self.inputs)
        total, _ = self.loss(fused, own, self.target)
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()

    def predict(self) -> None:
        """One window, as the engine does it, without margins."""
        model, config = self.ready, self.model.config
        keep = Window(0, 0, self.size, self.size)
        with torch.inference_mode():
            if config.joint:
                model.run_joint([x[:1] for x in self.inputs], keep)
            else:
                model.combine([model.to_target(i, model.run_branch(i, x[:1])) for i, x in enumerate(self.inputs)])

    def round(self) -> None:
        """Time both once."""
        self.ready = folded(self.model.eval())
        for name, do in (("train", self.train), ("predict", self.predict)):
            before = time.process_time()
            do()
            self.seconds[name].append(time.process_time() - before)


def main() -> None:
    """Print a table, and the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = {
        name: Case(options.size, options.batch, options.width, options.depth, **changes)
        for name, changes in VARIANTS.items()
    }
    for _ in range(options.rounds + 1):
        for case in cases.values():
            case.round()
    found = {}
    for name, case in cases.items():
        ratios = {
            what: median(a / b for a, b in zip(case.seconds[what][1:], cases["mean"].seconds[what][1:], strict=True))
            for what in case.seconds
        }
        parameters = sum(p.numel() for p in case.model.parameters())
        margin = case.model.margin
        found[name] = {**ratios, "parameters": parameters, "margin": margin, "exact": case.model.exact}
        print(f"| {name} | {ratios['train']:.2f} | {ratios['predict']:.2f} | {parameters / 1e6:.2f} M | {margin} px |")
    print(json.dumps({"options": vars(options), "found": found}))


if __name__ == "__main__":
    main()

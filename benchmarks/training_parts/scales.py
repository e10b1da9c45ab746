"""What several scales cost: a step with (1, 1/2, 1/4) of the same field beside one with scale 1 of the same widths."""

from __future__ import annotations

import statistics
import time

import torch
from inference_parts.report import Row, row

import napari_msunet as ms
from napari_msunet.config import LossConfig, Optimiser
from napari_msunet.models import SegmentationLoss, build_model
from napari_msunet.training.optimisers import make_optimiser

SCALES = {"1": (1.0,), "1, 1/2, 1/4": (1.0, 0.5, 0.25)}


def scales(quick: bool, device: str) -> list[Row]:
    """Steps by turns, so that whatever else the machine does meets both."""
    size, batch, rounds = (128, 2, 4) if quick else (256, 8, 10)
    rows: list[Row] = []
    for fusion in ("mean", "attention"):
        steps = {name: _Step(given, fusion, size, batch, device) for name, given in SCALES.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        work: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(rounds + 1):
            for name, step in steps.items():
                before = time.process_time()
                seconds = step()
                if turn >= 1:
                    times[name].append(seconds)
                    work[name].append(time.process_time() - before)
        one, three = (statistics.median(times[name]) for name in SCALES)
        pairs = sorted(b / a for a, b in zip(*times.values(), strict=True))
        rows += [
            row(f"step with scale 1, {fusion}", one, "s"),
            row(f"step with scales 1, 1/2, 1/4, {fusion}", three, "s"),
            row(f"three scales / one, {fusion}", statistics.median(pairs), "", at_most=1.5),
        ]
        if device == "cpu":  # what is left of the ratio where others keep the processor busy
            worked = statistics.median(b / a for a, b in zip(*work.values(), strict=True))
            rows.append(row(f"three scales / one, processor time, {fusion}", worked))
    return rows


class _Step:
    """A training step on one batch that lies in memory."""

    def __init__(self, given: tuple[float, ...], fusion: str, size: int, batch: int, device: str) -> None:
        torch.manual_seed(0)
        config = ms.ModelConfig(classes=("nucleus",), mpp=0.5, scales=given, fusion=fusion)
        self.size, self.device = (size, size), device
        self.model = build_model(config).to(device)
        self.loss = SegmentationLoss(LossConfig(), config.ratios).to(device)
        self.optimiser = make_optimiser(self.model, Optimiser())
        self.inputs = [torch.rand(batch, 3, int(size * r), int(size * r), device=device) for r in config.ratios]
        self.target = torch.randint(0, 2, (batch, size, size), device=device)

    def __call__(self) -> float:
        begin = time.perf_counter()
        self.optimiser.zero_grad()
        self.loss(*self.model.outputs(self.inputs, self.size, "same"), self.target)[0].backward()
        self.optimiser.step()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - begin

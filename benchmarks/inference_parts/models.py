"""The networks that are measured: weights drawn at random, then fitted to real tissue so that the output varies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import napari_msunet as ms
from napari_msunet.geometry import Window
from napari_msunet.inference.engine import as_input
from napari_msunet.models import input_windows

from .slides import MPP, texture

SCALES = {"three scales": (1.0, 0.5, 0.25), "one scale": (1.0,)}
SIDE = 384


def make_model(path: Path, scales: tuple[float, ...], width: int = 16) -> Path:
    """A model of depth 4 as a file: batch statistics and logits of the tissue that the slides are made of."""
    torch.manual_seed(1)
    config = ms.ModelConfig(
        classes=("a", "b"), mpp=MPP, scales=scales, fusion="attention", branch=ms.UNetConfig(depth=4, width=width)
    )
    model = ms.build_model(config)
    inputs = []
    for window, scale in zip(input_windows(config, Window(0, 0, SIDE, SIDE)), config.ratios, strict=True):
        tissue = texture(scale.denominator)
        at = [int(v * scale) for v in (0, 400, 800)]
        parts = [tissue[y:, at[1] :][: window.height, : window.width] for y in at]
        inputs.append(torch.from_numpy(np.stack([as_input(part) for part in parts])))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3
    with torch.no_grad():
        for _ in range(10):
            model(inputs, field="same")
        model.eval()
        for branch, logits in zip(model.branches, model.branch_logits(inputs), strict=True):
            branch.head.weight.mul_(2.0 / logits.std())
            branch.head.bias.sub_(2.0 * logits.mean((0, 2, 3)) / logits.std())
    ms.save_model(model, path)
    return path

"""The pictures of a training run: its best, median and worst validation window."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
from torch.nn.functional import interpolate

from napari_msunet.data.loader import as_unit
from napari_msunet.models import MSUNet, load_model
from napari_msunet.train.metrics import class_scores, confusion
from napari_msunet.train.record import RunFolder
from napari_msunet.train.scoring.panels import Panel, best_median_worst, draw_panels, shown
from napari_msunet.train.session import Session

WINDOWS = 64
"""Validation windows that are looked at, at most."""


def draw_run_panels(session: Session, folder: RunFolder) -> None:
    """Write panels.png of a finished run; nothing where nothing validated."""
    if session.validation is None:
        return
    model = load_model(folder.model).to(session.device)
    panels = _panels(session, model)
    chosen = best_median_worst([score for score, _ in panels])
    if chosen:
        rows = [(f"{name}: {panels[n][1][0]}", *panels[n][1][1:]) for name, n in chosen]
        draw_panels(folder.panels, rows, model.config.classes)


def _panels(session: Session, model: MSUNet) -> list[tuple[float, Panel]]:
    """Mean Dice over the classes of each validation window, and what to show of it."""
    seen = copy(model)  # with the same weights
    seen.config = session.windows.config
    finest = int(np.argmax([float(r) for r in seen.config.ratios]))
    outputs = len(model.config.classes) + 1
    found: list[tuple[float, Panel]] = []
    assert session.validation is not None  # for the type checker
    for batch in session.validation:
        inputs = [as_unit(x).to(session.device) for x in batch.inputs]
        size = (int(batch.target.shape[1]), int(batch.target.shape[2]))
        with torch.inference_mode():
            predicted = seen.outputs(inputs, size, seen.config.field)[0].argmax(1).cpu()
        images = interpolate(inputs[finest].cpu(), size, mode="nearest")
        for image, truth, labels in zip(images, batch.target, predicted, strict=True):
            scores = class_scores(confusion(labels, truth, outputs).numpy())["dice"][1:]
            known = scores[np.isfinite(scores)]
            if known.size:
                dice, picture = float(known.mean()), image.permute(1, 2, 0).numpy()
                grey = (picture * 255).astype(np.uint8)
                panel = f"Dice {dice:.3f}", shown(grey), truth.numpy(), labels.numpy().astype(np.uint8)
                found.append((dice, panel))
        if len(found) >= WINDOWS:
            break
    return found

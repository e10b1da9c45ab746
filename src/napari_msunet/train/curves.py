"""A picture of a training: loss and IoU by epoch, for the fused output and each scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_msunet.constants import output_colour
from napari_msunet.train.record import Row, column, writing

_TITLES = {"loss": "Loss", "iou": "IoU (mean over classes)"}


def draw_curves(rows: Sequence[Row], outputs: Sequence[str], path: Path, best: int | None = None) -> None:
    """Write the curves of a run as a PNG.

    Parameters
    ----------
    rows : sequence of dict
        One for each epoch.
    outputs : sequence of str
        "fused", then one for each scale.
    path : Path
    best : int, optional
        The epoch whose model was kept; marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "iou"), strict=True):
        _panel(axes, rows, outputs, name, best)
    handles = [
        Line2D([], [], color=output_colour(i), linewidth=2.4 if i == 0 else 1.4, label=output)
        for i, output in enumerate(outputs)
    ]
    handles.append(Line2D([], [], color="#555555", linewidth=1.4, label="validation"))
    handles.append(Line2D([], [], color="#555555", linewidth=1.4, linestyle=(0, (2, 2)), label="training"))
    if best is not None:
        handles.append(Line2D([], [], color="#999999", linewidth=1, linestyle=(0, (6, 3)), label=f"kept: epoch {best}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    with writing(path) as aside:
        figure.savefig(aside, format="png")


def _panel(axes: Any, rows: Sequence[Row], outputs: Sequence[str], name: str, best: int | None) -> None:
    """One number by epoch."""
    for i, output in enumerate(outputs):
        for split in ("train", "validation"):
            key = column(split, name, output)
            points = [(r["epoch"], r[key]) for r in rows if key in r]
            if not points:
                continue
            solid = split == "validation"
            axes.plot(
                *zip(*points, strict=True),
                color=output_colour(i),
                linewidth=(2.2 if i == 0 else 1.2) * (1 if solid else 0.8),
                linestyle="-" if solid else (0, (2, 2)),
                alpha=1 if solid else 0.65,
                marker="o" if len(points) < 3 else None,
                markersize=4,
                zorder=3 - i / 10 + solid,
            )
    if best is not None:
        axes.axvline(best, color="#999999", linewidth=1, linestyle=(0, (6, 3)), zorder=1)
    axes.set_title(_TITLES[name], fontsize=11)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    if name == "iou":
        axes.set_ylim(0, 1)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)

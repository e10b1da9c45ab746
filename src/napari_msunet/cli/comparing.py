"""The verbs `compare`, of training runs, and `agree`, of two people's labels."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

from napari_msunet.cli.options import DamageOptions, parse_region
from napari_msunet.cli.running import app, warn_of

_DAMAGE = DamageOptions()


@app.command
def compare(runs: tuple[Path, ...], /, *, out: Path | None = None, json: bool = False) -> None:
    """Put training runs side by side: scores, time, epochs, and the settings in which they differ.

    Parameters
    ----------
    runs : tuple of Path
        Folders of training runs.
    out : Path
        Folder for compare.csv and compare.png.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.train.compare import compare as compared

    rows = compared(runs, out)
    if json:
        print(jsonlib.dumps(rows, indent=1))  # noqa: T201
        return
    names = [str(row["run"]) for row in rows]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "run"))
    width = max(map(len, keys))
    columns = [max(12, len(name)) for name in names]
    print(" " * width, *(f"{name:>{w}}" for name, w in zip(names, columns, strict=True)))  # noqa: T201
    for key in keys:
        cells = (f"{_short(row.get(key)):>{w}}" for row, w in zip(rows, columns, strict=True))
        print(f"{key:<{width}}", *cells)  # noqa: T201
    if out is not None:
        print(f"wrote {out / 'compare.csv'} and {out / 'compare.png'}")  # noqa: T201


@app.command
def agree(
    one: Path,
    other: Path,
    /,
    *,
    region: str | None = None,
    out: Path | None = None,
    options: DamageOptions = _DAMAGE,
) -> None:
    """Say how well two people's labels of the same slide agree.

    Parameters
    ----------
    one, other : Path
        Two label stores, or annotations.
    region : str
        y,x,height,width in the stores' pixels; all without it.
    out : Path
        JSON file for all numbers.
    """
    from napari_msunet.geometry import Region
    from napari_msunet.train.agreement import agreement

    box = parse_region(region)
    found = agreement(one, other, None if box is None else Region(*box), out, options.damaged)
    warn_of(found.get("left_out", ()))
    kappa = "-" if found["kappa"] is None else f"{found['kappa']:.3f}"
    print(f"{found['pixels']} pixels that both labelled, Cohen's kappa {kappa}")  # noqa: T201
    for name, scores in found["classes"].items():
        outline = found.get("outlines", {}).get(name, {})
        numbers = {"Dice": scores["dice"], "IoU": scores["iou"], "Hausdorff 95": outline.get("hausdorff95")}
        print(f"{name}: " + ", ".join(f"{k} {_short(v)}" for k, v in numbers.items()))  # noqa: T201


def _short(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, str | int) else jsonlib.dumps(value)

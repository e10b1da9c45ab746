"""How much faster than exact the fast precision is, end to end, and how many labels it changes."""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from .process import measured
from .report import Row, row
from .setting import Setting

ROUNDS = 3
WAYS = {
    "exact": {},
    "fast": {"precision": "fast"},
    "PyTorch, bfloat16": {"precision": "bfloat16"},
    "OpenVINO, float32": {"engine": "openvino"},
    "OpenVINO, bfloat16": {"engine": "openvino", "precision": "bfloat16"},
}


def fast(setting: Setting) -> list[Row]:
    """Predictions by turns, from opening the JPEG slide to the finished pyramid; then the models that were given."""
    rows: list[Row] = []
    ways = {name: how for name, how in WAYS.items() if find_spec("openvino") or how.get("engine") != "openvino"}
    sides = (setting.side,) if setting.quick else (setting.side, 8192)
    for name in ("one scale", "three scales"):
        for side in sides:
            some = ways if side == setting.side else {key: ways[key] for key in ("exact", "fast")}
            rows += _side(setting, name, side, some)
    for trained in setting.models:
        found = _predicted(setting, trained, setting.side, WAYS["fast"])
        rows.append(row(f"{trained.stem}, trained: labels that fast changes", found["changed"], "", at_most=0.001))
        rows.append(row(f"{trained.stem}, trained: largest difference in probability", found["largest"]))
    return rows


def _side(setting: Setting, name: str, side: int, ways: dict[str, dict[str, str]]) -> list[Row]:
    """Rows of one model on one slide."""
    walls: dict[str, list[float]] = {way: [] for way in ways}
    last: dict[str, dict[str, Any]] = {}
    for turn in range((1 if setting.quick else ROUNDS) + 1):
        for way, how in ways.items():
            last[way] = _predicted(setting, setting.model(name), side, how)
            if turn:  # the first time, speeds are measured and models exported
                walls[way].append(last[way]["wall"])
    rows = [row(f"{name}, {side} x {side}, exact: wall time", median(walls["exact"]), "s")]
    for way in list(ways)[1:]:
        pairs = [exact / other for exact, other in zip(walls["exact"], walls[way], strict=True)]
        target = {"at_least": 1.6} if way == "fast" else {}
        rows.append(row(f"{name}, {side} x {side}: {way} over exact", median(pairs), "", **target))
    if last["fast"]["words"]:
        rows.append(row(f"{name}, {side} x {side}: fast was", last["fast"]["words"]))
    return rows


def _predicted(setting: Setting, model: Path, side: int, how: dict[str, str]) -> dict[str, Any]:
    out = setting.folder / "fast.zarr"
    shutil.rmtree(out, ignore_errors=True)
    found: dict[str, Any] = measured(
        "fast:predicted", setting.env(), slide=setting.slide(side), model=model, out=out, how=how
    )
    return found


def predicted(slide: str, model: str, out: str, how: dict[str, str]) -> dict[str, Any]:
    """In its own process: a prediction, its wall time, and what the precision meter said."""
    import napari_msunet as ms
    from napari_msunet.config import PredictOptions
    from napari_msunet.inference.predict import prediction

    loaded = ms.load_model(Path(model))
    _ = loaded.branch_margins
    begin = time.perf_counter()
    with ms.open_slide(Path(slide)) as opened:
        events = list(prediction(opened, [loaded], Path(out), PredictOptions.model_validate(how)))
    wall = time.perf_counter() - begin
    meter = next(e for e in events if e.event == "result").values.get("precision", {})
    words = next((e.text for e in events if e.event == "message" and "times as fast" in e.text), "")
    return {"wall": wall, "words": words, **{name: meter.get(name, float(np.nan)) for name in ("changed", "largest")}}

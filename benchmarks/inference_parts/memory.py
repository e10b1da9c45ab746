"""The memory of a prediction at its peak, on a very large slide and on one of a 25th of its pixels."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from .process import HERE, command
from .report import Row, row
from .setting import Setting

SHARE = 0.05
FLAT = 180.0
"""Seconds without a new peak after which a prediction is ended."""

GROWTH = 0.01
"""Of the peak: less is no new one."""


def memory(setting: Setting) -> list[Row]:
    """Peaks over the bare process; the large slide is left as soon as its memory has stayed the same for minutes."""
    sides = (12_000, 3_000) if setting.quick else (100_000, 20_000)
    peaks, rows = [], []
    for side in sides:
        slide = setting.slide(side, SHARE)
        found = _watched(setting, slide, setting.folder / f"memory-{side}.zarr", 20.0 if setting.quick else FLAT)
        peaks.append(found["peak"])
        name = f"{side:,} x {side:,}, {SHARE:.0%} tissue"
        rows += [
            row(f"{name}: memory at the peak over the bare process", found["peak"], "GB", at_most=2.0),
            row(f"{name}: watched for, {found['how']}", found["seconds"], "s"),
        ]
    rows.append(row("the smaller slide's peak over the larger one's", peaks[1] / peaks[0], "", at_least=0.9))
    rows.append(row("the larger slide's peak over the smaller one's", peaks[0] / peaks[1], "", at_most=1.1))
    return rows


def _watched(setting: Setting, slide: Path, out: Path, flat: float) -> dict[str, Any]:
    """A prediction of the tissue until it ends or its memory has been flat for some time."""
    given = {"slide": slide, "model": setting.model(), "out": out}
    child = subprocess.Popen(
        command("memory:predicting", given), env=setting.env(), cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    bare = json.loads(child.stdout.readline())["bare"]
    process, begin = psutil.Process(child.pid), time.monotonic()
    peak, since = 0.0, begin
    while child.poll() is None and time.monotonic() - since < flat:
        try:
            now = process.memory_info().rss
        except psutil.NoSuchProcess:
            break
        if now > peak * (1 + GROWTH):
            since = time.monotonic()
        peak = max(peak, now)
        time.sleep(0.05)
    how = "finished" if child.poll() == 0 else f"flat for {flat:g} s"
    if child.poll() not in (None, 0):
        raise RuntimeError(f"The prediction of {slide.name} ended with {child.returncode}.")
    child.kill()
    child.wait()
    return {"peak": (peak - bare) / 1e9, "seconds": time.monotonic() - begin, "how": how}


def predicting(slide: str, model: str, out: str) -> None:
    """Say how much a process with the model takes that predicts nothing; then predict."""
    import napari_msunet as ms

    loaded = ms.load_model(Path(model))
    _ = loaded.branch_margins
    print(json.dumps({"bare": psutil.Process().memory_info().rss}), flush=True)
    ms.predict(Path(slide), loaded, Path(out), where="tissue").close()

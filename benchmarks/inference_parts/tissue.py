"""A slide with 40 % tissue beside one that is all tissue."""

from __future__ import annotations

import time
from pathlib import Path

from .process import measured
from .report import Row, row
from .setting import Setting

SHARE = 0.4
TIMES = 2


def tissue(setting: Setting) -> list[Row]:
    """Both with `where="tissue"`, in turn, the better of two each."""
    seconds: dict[float, list[float]] = {1.0: [], SHARE: []}
    for attempt in range(TIMES):
        for share, times in seconds.items():
            out = setting.folder / f"tissue-{share:g}-{attempt}.zarr"
            slide = setting.slide(share=share)
            times.append(measured("tissue:predicted", setting.env(), slide=slide, model=setting.model(), out=out))
    whole, part = min(seconds[1.0]), min(seconds[SHARE])
    return [
        row("all tissue", whole, "s"),
        row(f"{SHARE:.0%} tissue", part, "s"),
        row(f"{SHARE:.0%} tissue over all tissue", part / whole, "", at_most=0.45),
    ]


def predicted(slide: str, model: str, out: str) -> float:
    """Seconds of a prediction of the tissue, from opening the file to the finished pyramid."""
    import napari_msunet as ms

    loaded = ms.load_model(Path(model))
    _ = loaded.branch_margins
    begin = time.perf_counter()
    ms.predict(Path(slide), loaded, Path(out), where="tissue").close()
    return time.perf_counter() - begin

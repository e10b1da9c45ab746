"""A slide with 40 % tissue beside one that is all tissue."""

from __future__ import annotations

import time
from pathlib import Path

from .process import measured
from .report import Row, row
from .setting import Setting

SHARE = 0.4
TIMES = 2
SECTIONS = {1: "one section (a rounded rectangle)", 2: "two round sections"}
LARGER = 16_384


def tissue(setting: Setting) -> list[Row]:
    """All with `where="tissue"`, in turn, the better of two each; and by the plan, what a larger slide would take.

    Rectangles over round sections, and the margins around them, weigh most on small slides; so does the time in which
    a new process gets its memory, hence each is also predicted again in the same process.
    """
    slides = {0: setting.slide(), **{count: setting.slide(share=SHARE, count=count) for count in SECTIONS}}
    seconds: dict[int, list[list[float]]] = {count: [] for count in slides}
    for attempt in range(TIMES):
        for count, times in seconds.items():
            out = setting.folder / f"tissue-{count}-{attempt}.zarr"
            times.append(
                measured("tissue:predicted", setting.env(), slide=slides[count], model=setting.model(), out=out)
            )
    best = {count: [min(times) for times in zip(*runs, strict=True)] for count, runs in seconds.items()}
    rows = [
        row(f"{setting.side} x {setting.side}, all tissue", best[0][0], "s"),
        row("the same again in that process", best[0][1], "s"),
    ]
    larger = setting.side * 2 if setting.quick else LARGER
    for count, name in SECTIONS.items():
        what = f"{SHARE:.0%} tissue in {name}"
        ratios = {
            side: _through(setting, setting.slide(side, SHARE, count)) / _through(setting, setting.slide(side))
            for side in (setting.side, larger)
        }
        rows += [
            row(f"{what}: time over that of all tissue", best[count][0] / best[0][0], "", at_most=0.45),
            row(f"{what}: the same again in that process", best[count][1] / best[0][1]),
            row(f"{what}: pixels through the network over those of all tissue", ratios[setting.side]),
            row(f"{what}: the same on {larger} x {larger}, by the plan", ratios[larger]),
        ]
    return rows


def _through(setting: Setting, slide: Path) -> float:
    return float(measured("tissue:through", setting.env(), slide=slide, model=setting.model()))


def predicted(slide: str, model: str, out: str) -> list[float]:
    """Seconds of a prediction of the tissue, from opening the file to the finished pyramid, and of another one."""
    import napari_msunet as ms

    loaded = ms.load_model(Path(model))
    _ = loaded.branch_margins
    found = []
    for name in ("first", "second"):
        begin = time.perf_counter()
        ms.predict(Path(slide), loaded, Path(out) / name, where="tissue").close()
        found.append(time.perf_counter() - begin)
    return found


def through(slide: str, model: str) -> int:
    """Pixels that a prediction of the tissue sends through the network."""
    from napari_msunet.config import PredictJob
    from napari_msunet.inference.predict import describe_plan

    job = PredictJob(slide=Path(slide), model=Path(model), out=Path(slide).with_suffix(".none"), where="tissue")
    return int(describe_plan(job)["network_pixels"])

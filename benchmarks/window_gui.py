"""How long our handlers hold the GUI thread while a slide is trained on and predicted in a real window.

xvfb-run -a -s "-screen 0 1280x800x24" python benchmarks/window.py gui [--out gui.json]

Every way in which our code gets onto the GUI thread is timed: signals of the worker, results of background threads,
timers, refreshes of the dock, strokes and merged windows. Drawing frames (software OpenGL without a graphics card) is
measured beside it. Starting things by a button (which may open a layer) is listed apart.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path

import numpy as np

REDRAW, OPENING = "(redraw of the canvas)", "(opening the labels layer)"


class Stopwatch:
    """Times methods, the outermost of ours only."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self.depth = 0
        self.apart = 0.0

    def watch(self, owner: type, name: str, apart: str | None = None) -> None:
        """Time a method from now on; `apart`: under this name, its time taken off the handler around it."""
        method = getattr(owner, name)

        @wraps(method)
        def timed(*arguments, **options):
            if self.depth and apart is None:
                return method(*arguments, **options)
            self.depth += 1
            began, others = time.perf_counter(), self.apart
            try:
                return method(*arguments, **options)
            finally:
                self.depth -= 1
                took = time.perf_counter() - began
                if apart is None:
                    took -= self.apart - others
                else:
                    self.apart = others + took
                self.times[apart or f"{owner.__name__}.{name}"].append(took)

        setattr(owner, name, timed)

    def table(self) -> dict[str, dict[str, float]]:
        """Milliseconds: how often, median, 95th percentile, longest."""
        rows = {}
        for name, times in sorted(self.times.items(), key=lambda item: -max(item[1])):
            values = np.array(times) * 1000
            rows[name] = {
                "calls": len(times),
                "median": round(float(np.median(values)), 2),
                "p95": round(float(np.percentile(values, 95)), 2),
                "max": round(float(values.max()), 2),
            }
        return rows


def instrument(watch: Stopwatch) -> None:
    """Time what Qt calls of ours, before any of it is connected."""
    from napari._vispy.canvas import VispyCanvas

    from napari_msunet.widgets.dock.background import Background
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
    from napari_msunet.widgets.dock.training_views import Curves
    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.steps.correct import CorrectStep
    from napari_msunet.widgets.steps.predict import PredictStep
    from napari_msunet.widgets.steps.train import TrainStep

    for owner, names in {
        Jobs: ("_deliver", "_arm"),
        Background: ("_deliver",),
        Curves: ("redraw",),
        MultiScaleUNet: ("refresh", "save_project"),
        TrainStep: ("_look", "_check"),
        CorrectStep: ("_count",),
        PyramidLabels: ("paint", "end_stroke"),
    }.items():
        for name in names:
            watch.watch(owner, name)
    watch.watch(VispyCanvas, "on_draw", apart=REDRAW)
    watch.watch(PredictStep, "_show_labels", apart=OPENING)


def wait(condition, seconds: float) -> bool:
    """Let the window work until something holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        if condition():
            return True
        time.sleep(0.002)
    return condition()


def work(folder: Path, seconds: float, watch: Stopwatch) -> dict[str, object]:
    """Annotate, train, predict and paint meanwhile, as a person would."""
    import napari

    import napari_msunet as ms
    from napari_msunet.geometry import Window
    from napari_msunet.widgets import resolve
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
    from napari_msunet.widgets.samples import slide_path

    slide = folder / "slide.svs"
    shutil.copyfile(slide_path(), slide)
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1280, 800)
    dock = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(dock, name="Multi-scale U-Net", area="right")
    dock.jobs.warm()
    dock.open_slide(slide)
    annotation = dock.start_annotating(("tissue",))
    for y in range(200, 2400, 300):
        annotation.store.write(Window(y, 900, 80, 80), 1)
        annotation.store.write(Window(y, 100, 80, 80), 255)
    annotation.events.stroke(region=ms.Region(0, 0, *annotation.store.shape), number=1)
    wait(lambda: resolve.missing(dock.state, "train") is None, 20)
    dock.set_model(
        ms.ModelConfig(classes=("tissue",), mpp=0.5, scales=(1.0, 0.5), branch=ms.UNetConfig(depth=3, width=8))
    )
    dock.show_step("train")
    wait(lambda: False, 2)

    watch.times.clear()
    dock.train(time_limit=seconds, epochs=10_000, size=128, steps=4)
    painted = time.monotonic()

    def paint_now(layer) -> None:
        nonlocal painted
        if time.monotonic() - painted > 0.5:
            painted = time.monotonic()
            y, x = np.random.default_rng(int(painted * 10)).integers(200, 900, 2)
            layer.brush_size = 60
            layer.paint((int(y), int(x)), 1)

    def trained() -> bool:
        paint_now(annotation)
        return not dock.state.running

    wait(trained, seconds + 60)
    wait(lambda: False, 1)
    training = watch.table()
    watch.times.clear()
    options = dock.state.predict_options
    dock.state.set_predict_options(type(options).model_validate({**dict(options), "tile": 256}))
    dock.show_step("predict")
    dock.predict("slide")
    merging = dock.steps["predict"].merging

    def predicted() -> bool:
        layer = dock.layers.of_store(dock.state.active.labels)
        if layer is not None:
            paint_now(layer)
        return not dock.state.running and not merging.busy

    wait(lambda: dock.state.running, 5)
    wait(predicted, 300)
    predicting = watch.table()
    epochs = dock.steps["train"].curves.history.epochs
    paths = dock.state.active.annotation, dock.state.active.labels
    dock.shut_down()
    viewer.close()
    for path in paths:
        ms.open_labels(path).close()
    return {"epochs": epochs, "training": training, "predicting": predicting}


def run(seconds: float = 40.0) -> dict[str, object]:
    """Train for so many seconds, then predict, and time what runs on the GUI thread."""
    watch = Stopwatch()
    instrument(watch)
    with tempfile.TemporaryDirectory() as folder:
        found = work(Path(folder), seconds, watch)
    for phase in ("training", "predicting"):
        # Those in parentheses are drawing, and opening what the user opens.
        found[f"longest of ours, {phase} (ms)"] = max(
            row["max"] for name, row in found[phase].items() if not name.startswith("(")
        )
    return found


def table(found: dict[str, object]) -> str:
    """A line for each handler and phase."""
    lines = []
    for phase in ("training", "predicting"):
        lines.append(f"\n{phase} (ms)" + " " * 26 + "calls   median      p95      max")
        for name, row in found[phase].items():
            lines.append(f"  {name:36} {row['calls']:6} {row['median']:8} {row['p95']:8} {row['max']:8}")
        lines.append(f"  longest of ours: {found[f'longest of ours, {phase} (ms)']} ms")
    return "\n".join(lines)

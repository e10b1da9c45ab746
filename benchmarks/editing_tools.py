"""How long edits of objects take: the pure functions, finding the object in a store, and the tools in the window.

    python benchmarks/editing_tools.py [--out editing_tools.json] [--window]

Objects are wavy discs of 50 (about 2,000 pixels), 200, 700 and 2,000 pixels across, in a window a little larger. Each
number is the median of several calls, in ms, one thread. `--window` adds a real window (needs a screen, or xvfb-run): a
100,000 x 100,000 store, each tool by real mouse events on an object of 2,000 pixels, the longest handler of ours on the
GUI thread (its own processor time), and the time from the release of the mouse to the stored and shown result.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet import objects
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore

ACROSS = (50, 200, 700, 2000)
MEASURED = ("delete", "change_class", "grow", "shrink", "smooth", "fill_holes", "split", "change_class_inside")


def wavy(across: int) -> np.ndarray:
    """A disc with a wavy outline and some holes, with a margin of 16 pixels."""
    side = across + 32
    y, x = np.mgrid[:side, :side] - side / 2
    angle = np.arctan2(y, x)
    mask = np.hypot(y, x) <= across / 2 * (0.95 + 0.05 * np.sin(9 * angle))
    mask &= ~(np.hypot(y % (across / 4) - across / 8, x % (across / 4) - across / 8) < across / 40)
    return mask


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of a call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1000, 2)


def functions(across: int) -> dict[str, float]:
    """Each pure function on one object."""
    obj = wavy(across)
    labels = obj.astype(np.uint8)
    side, whole = len(obj), np.ones(obj.shape, bool)
    points = np.array([(0.0, side / 2 + 3), (float(side), side / 2 - 5)])
    cut = objects.split(labels, obj, objects.line(obj.shape, points)).values
    rng = np.random.default_rng(0)
    image = np.where(obj[..., None], (140, 60, 160), (235, 200, 220)) + rng.integers(-8, 8, (*obj.shape, 3))
    probabilities = np.stack([1 - obj * 0.8, obj * 0.8]).astype(np.float16)
    seed = (side // 2, side // 2)
    calls: dict[str, Callable[[], Any]] = {
        "delete": lambda: objects.delete(labels, obj),
        "change class": lambda: objects.change_class(labels, obj, 2),
        "change class in a lasso": lambda: objects.change_class_inside(labels, whole, 2),
        "merge": lambda: objects.merge(cut, [(side / 2, side / 4), (side / 2, side * 3 / 4)]),
        "split": lambda: objects.split(labels, obj, objects.line(obj.shape, points)),
        "grow by 5 px": lambda: objects.grow(labels, obj, 5),
        "shrink by 5 px": lambda: objects.shrink(labels, obj, 5),
        "smooth by 5 px": lambda: objects.smooth(labels, obj, 5),
        "fill holes": lambda: objects.fill_holes(labels, obj),
        "keep largest": lambda: objects.keep_largest(cut, whole),
        "new object": lambda: objects.new_object(np.zeros_like(labels), obj, 1),
        "watershed": lambda: _quietly(lambda: objects.watershed(labels, obj, across / 10)),
        "probability wand": lambda: objects.probability_wand(labels, probabilities, seed, 0.3, 1, 2),
        "snap": lambda: objects.snap(labels, probabilities, whole, 1, 0.6),
    }
    if across <= 512:  # the wand never sees more
        calls["image wand"] = lambda: objects.image_wand(labels, image, seed, 0.15, 2)
    return {name: milliseconds(call, 3 if across > 1000 else 7) for name, call in calls.items()}


def _quietly(call: Callable[[], Any]) -> None:
    """An object that stays one piece costs the same time."""
    from contextlib import suppress

    from napari_msunet.errors import StoreError

    with suppress(StoreError):
        call()


def finding(across: int) -> float:
    """`object_at` in a store whose chunks are in memory."""
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore.create(Path(folder) / "l.ome.zarr", (across + 700, across + 700), classes=("a",))
        obj = wavy(across)
        store.write(Window(300, 300, *obj.shape), 1, obj)
        place = (300 + len(obj) / 2, 300 + len(obj) / 2)
        found = milliseconds(lambda: objects.object_at(store, place), 5)
        store.close()
    return found


def window() -> dict[str, dict[str, float]]:
    """The tools by mouse: see above."""
    import napari
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    from napari_msunet.widgets.paint import add_labels
    from napari_msunet.widgets.tools import Tools

    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore.create(Path(folder) / "l.ome.zarr", (100_000, 100_000), 0.25, ("a", "b"))
        obj = wavy(2000)
        middle = 50_000
        corner = middle - len(obj) // 2
        store.write(Window(corner, corner, *obj.shape), 1, obj)
        viewer = napari.Viewer(show=True)
        viewer.window._qt_window.resize(1000, 700)
        layer = add_labels(viewer, store)
        tools = Tools(viewer, lambda _: None)
        tools.attach(layer)
        viewer.scene.camera.zoom = 1.0
        viewer.scene.camera.center = (0, middle * 0.25, middle * 0.25)
        canvas = viewer.window._qt_viewer.canvas.native
        QTest.qWait(500)
        times = _timed(tools)

        def send(kind: Any, x: float, y: float, held: bool) -> None:
            at = QPointF(canvas.width() / 2 + x, canvas.height() / 2 + y)
            left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
            button = none if kind == QEvent.Type.MouseMove else left
            event = QMouseEvent(kind, at, at, button, left if held else none, Qt.KeyboardModifier.NoModifier)
            QApplication.sendEvent(canvas, event)
            QTest.qWait(20)

        for name in (
            "delete",
            "change_class",
            "grow",
            "shrink",
            "smooth",
            "fill_holes",
            "split",
            "change_class_inside",
        ):
            layer.selected_label = 2
            tools.choose(name)
            times.clear()
            strokes: list[float] = []
            layer.events.stroke.connect(lambda event, strokes=strokes: strokes.append(time.perf_counter()))
            click = tools.tool.gesture == "click"
            path = [(10, 10)] if click else [(3, -290), (3, 290)] if name == "split" else _circle(290)
            send(QEvent.Type.MouseMove, *path[0], held=False)
            send(QEvent.Type.MouseButtonPress, *path[0], held=True)
            for x, y in path[1:]:
                send(QEvent.Type.MouseMove, x, y, held=True)
            start = time.perf_counter()
            send(QEvent.Type.MouseButtonRelease, *path[-1], held=False)
            while tools.busy:
                QTest.qWait(2)
            QTest.qWait(50)
            done = (strokes[0] - start) * 1000 if strokes else float("nan")
            results[name] = {"longest handler": round(max(times) * 1000, 1), "release to shown": round(done, 1)}
            if strokes:
                layer.undo()
                QTest.qWait(300)
        tools.close()
        viewer.close()
        store.close()
    return results


def _circle(radius: float) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 25)
    return [(float(radius * np.cos(a)), float(radius * np.sin(a))) for a in angles]


def _timed(tools: Any) -> list[float]:
    """The seconds of each of the tools' handlers on the GUI thread."""
    times: list[float] = []
    for name in ("_compute", "_computed", "_stored", "_moved", "_let_go"):
        original = getattr(tools, name)

        def run(*arguments: Any, original: Any = original) -> Any:
            start = time.thread_time()
            try:
                return original(*arguments)
            finally:
                times.append(time.thread_time() - start)

        setattr(tools, name, run)
    return times


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("editing_tools.json"))
    parser.add_argument("--window", action="store_true")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {str(n): {**functions(n), "find in the store": finding(n)} for n in ACROSS}
    print("| ms | " + " | ".join(f"{n} px" for n in ACROSS) + " |")
    print("| --- |" + " --- |" * len(ACROSS))
    for name in found["50"]:
        print(f"| {name} | " + " | ".join(str(found[str(n)].get(name, "")) for n in ACROSS) + " |")
    report: dict[str, Any] = {"functions": found}
    if options.window:
        report["window"] = window()
        print("\n| tool, object of 2,000 px | longest handler, ms | release to shown, ms |\n| --- | --- | --- |")
        for name, row in report["window"].items():
            print(f"| {name} | {row['longest handler']} | {row['release to shown']} |")
    options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

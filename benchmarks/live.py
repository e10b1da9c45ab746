"""The preview of a training in a real window: when its first labels are in view, and what it costs the training.

xvfb-run -a -s "-screen 0 1280x800x24" python benchmarks/live.py --data ../shared/data --out live.json [--seconds 90]

For an image of glands and one of nuclei: the image is opened as a slide, 15 strokes of its truth are painted, and Train
is pressed by mouse. "first" is the time from the press to the first labels of the trained model in view; "dice" is that
of the labels in view against the truth (without the painted pixels) then, and at the end of the training. The same
training runs again with the switch off: "steps" are those of both in the same time. "seconds" is what the previews took
together, as the worker measured it. With more than 240 seconds, a training is stopped after its first labels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from training_parts.sets import Set, draw_strokes, glands, nuclei

from napari_msunet._io import read_json
from napari_msunet.geometry import Window
from napari_msunet.slide import build_pyramid
from napari_msunet.widgets import resolve

STROKES = 15
LONGEST = 240.0


def settle(seconds: float) -> None:
    """Let the window work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def wait(done: Any, seconds: float = LONGEST) -> None:
    """Let the window work until something is so."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit("It took too long.")
        settle(0.02)


def opened(chosen: Set, number: int) -> tuple[Any, npt.NDArray[np.uint8]]:
    """A picture, and its truth (0 background, 1 class)."""
    picture = chosen.pictures[number]
    values = picture.mask() if callable(picture.mask) else np.asarray(Image.open(picture.mask))
    return picture, (values > 0).astype(np.uint8)


def dice(labels: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], painted: npt.NDArray[np.uint8]) -> float:
    """Dice of the pixels of the image that were not painted; the labels are on any grid over it."""
    y, x = (
        np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int)
        for n, m in zip(truth.shape, labels.shape, strict=True)
    )
    free = painted == 0
    found, true = (labels[y][:, x] == 1)[free], (truth == 1)[free]
    return round(float(2 * (found & true).sum() / max(1, found.sum() + true.sum())), 3)


def trained(chosen: Set, number: int, seconds: float, on: bool, picture_file: Path | None) -> dict[str, Any]:
    """One training in a window of its own."""
    import napari

    from napari_msunet.widgets.dock.dock import MultiScaleUNet

    picture, truth = opened(chosen, number)
    folder = Path(tempfile.mkdtemp())
    slide = build_pyramid(picture.image, folder / "slide.ome.zarr", mpp=picture.mpp)
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1280, 800)
    dock = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(dock, name="Multi-scale U-Net", area="right")
    settle(0.5)
    dock.open_slide(slide)
    layer = dock.start_annotating(chosen.classes)
    painted = draw_strokes(truth, STROKES, number, radius=8)
    layer.store.write(Window(0, 0, *painted.shape), painted, mask=painted > 0)
    layer.refresh()
    layer.events.stroke(region=_whole(layer.store.shape), number=1)
    dock.show_step("train")
    wait(lambda: resolve.missing(dock.state, "train") is None)
    step = dock.steps["train"]
    step.live.set_on(on)
    options = {**dict(dock.state.train_options), "time_limit": seconds}
    dock.state.set_train_options(type(dock.state.train_options).model_validate(options))
    wait(lambda: step.estimate.text().startswith("Takes"))
    found: dict[str, Any] = {"image": picture.name, "estimate": step.estimate.text()}
    began = time.monotonic()
    QTest.mouseClick(step.start, Qt.MouseButton.LeftButton)
    job = step.box.job
    spent: list[float] = []
    plain = step.live._told
    step.live._told = lambda values: (spent.append(values["seconds"]), plain(values))
    if on:
        wait(lambda: step.live.preview.there)
        found["first"] = round(time.monotonic() - began, 1)
        settle(0.2)
        found["dice at first"] = dice(shown(step), truth, painted)
        if picture_file is not None:
            viewer.screenshot(str(picture_file), canvas_only=False, flash=False)
    if seconds > LONGEST:  # only the first labels are wanted
        step.box.cancel("best")
    wait(lambda: not dock.state.running, seconds + LONGEST)
    found["previews"], found["seconds"] = len(spent), round(sum(spent), 1)
    if on:
        wait(lambda: step.live.says.text().startswith("On the slide: the trained"))
        settle(0.5)
        found["dice at the end"] = dice(shown(step), truth, painted)
    if seconds > LONGEST:
        dock.shut_down()
        viewer.close()
        return found
    result = read_json(job.out / "result.json")
    found |= {"steps": result["steps"], "seconds per step": result["seconds_per_step"]}
    dock.shut_down()
    viewer.close()
    settle(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def shown(step: Any) -> npt.NDArray[np.uint8]:
    """The labels of the preview."""
    answers = step.live.preview.answers
    labels: npt.NDArray[np.uint8] = answers.read(0, Window(0, 0, *answers.shape))
    return labels


def _whole(shape: tuple[int, int]) -> Any:
    from napari_msunet.geometry import Region

    return Region(0, 0, *shape)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=90.0, help="time limit of each training")
    parser.add_argument("--sets", default="glands,nuclei")
    parser.add_argument("--number", type=int, default=3, help="which image of the set")
    given = parser.parse_args()
    report: dict[str, Any] = {"seconds": given.seconds}
    for name in given.sets.split(","):
        chosen = {"glands": glands, "nuclei": nuclei}[name](given.data)
        report[name] = {
            "on": trained(
                chosen, given.number, given.seconds, True, given.out.with_name(f"{given.out.stem}-{name}.png")
            ),
        }
        if given.seconds <= LONGEST:
            report[name]["off"] = trained(chosen, given.number, given.seconds, False, None)
        print(json.dumps(report[name], indent=1), flush=True)
        given.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

"""Makes the pictures of the tutorial: drives the real window through its steps and takes a picture of each.

    make screenshots                                    # on a virtual screen where there is none
    python docs/screenshots.py --out docs/images        # on this screen

Each picture is named after a step of `docs/tutorial.md`. A change of the window shows in them after one command.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

NAMES = ("slide", "annotate", "model", "train", "predict", "correct", "numbers")
"""The pictures, in the order of the tutorial."""

SIZE = (1280, 800)
LARGEST = 150_000
"""Bytes of the largest picture."""

EPOCHS = 8
"""Epochs of the training, so that the pictures are about the same on a slow or busy machine."""

ZOOM, BRUSH = 1.6, 10
CORRECTIONS = ((0, (-60, 145), (90, 105)), (0, (76, -145), (182, -161)))
"""Strokes of background, inside the tissue and at its edge: the class, both ends in µm from the middle of the slide."""


MOVING = "tour.webp"
"""All pictures one after the other, for the README."""


def file_name(name: str) -> str:
    """The file of a picture."""
    return f"tutorial-{NAMES.index(name) + 1}-{name}.jpg"


class Tutorial:
    """A window with a copy of the shipped slide in a project of its own, and the steps of the tutorial.

    Parameters
    ----------
    work : Path
        Folder of the copied slide and the project.
    out : Path
        Folder of the pictures.
    """

    def __init__(self, work: Path, out: Path) -> None:
        import shutil

        import napari

        from napari_msunet.app.demo import SLIDE
        from napari_msunet.widgets.demonstration import TITLE
        from napari_msunet.widgets.dock.dock import MultiScaleUNet

        self.work, self.out = work, out
        shutil.copyfile(SLIDE, work / SLIDE.name)
        self.viewer = napari.Viewer(title="napari")
        self.viewer.window.resize(*SIZE)
        self.dock = MultiScaleUNet(self.viewer)
        self.viewer.window.add_dock_widget(self.dock, name=TITLE, area="right")
        self.dock.open_project(work / "tutorial.msunet")
        self.dock.open_slide(work / SLIDE.name)

    def run(self, epochs: int) -> None:
        """Do all steps, with so many epochs of training."""
        self.slide()
        self.annotate()
        self.model()
        self.train(epochs)
        self.predict()
        self.correct()
        self.numbers()
        self.viewer.close()

    def slide(self) -> None:
        """The slide is open."""
        self.dock.show_step("slide")
        self.viewer.reset_view()
        slides = self.dock.steps["slide"].list
        self.until(lambda: not slides.item(0).icon().isNull())  # its small picture is read in the background
        self.picture("slide")

    def annotate(self) -> None:
        """Strokes of two classes and of background, by napari's brush."""
        from napari_msunet.widgets import samples

        self.dock.show_step("annotate")
        layer = self.dock.start_annotating(samples.CLASSES)
        layer.brush_size = 2 * samples.BRUSH
        for value, strokes in samples.STROKES.items():
            for start, stop in strokes:
                self.stroke(layer, value, start, stop)
        layer.selected_label = 1
        self.picture("annotate")

    def model(self) -> None:
        """The model that is chosen by itself."""
        self.dock.show_step("model")
        self.picture("model")

    def train(self, epochs: int) -> None:
        """A training, finished."""
        self.dock.show_step("train")
        self.follow(self.dock.train(epochs=epochs, time_limit=1000.0))
        self.picture("train")

    def predict(self) -> None:
        """The labels of the whole slide."""
        self.dock.show_step("predict")
        self.follow(self.dock.predict())
        for layer in self.viewer.layers:
            if layer.name.startswith("Annotation"):
                layer.visible = False
        self.viewer.reset_view()
        self.picture("predict")

    def correct(self) -> None:
        """Two strokes on the labels, close up."""
        self.dock.show_step("correct")
        layer = self.dock.steps["correct"].start()
        middle = layer.data_to_world([0.5 * side for side in layer.data[0].shape])
        self.viewer.scene.camera.center = (0, *middle)
        self.viewer.scene.camera.zoom = ZOOM
        self.wait(0.5)
        layer.brush_size = BRUSH
        for value, *ends in CORRECTIONS:
            self.stroke(
                layer, value, *(layer.world_to_data([m + e for m, e in zip(middle, end, strict=True)]) for end in ends)
            )
        self.picture("correct")

    def numbers(self) -> None:
        """Measured classes, and the file that was exported."""
        self.dock.show_step("export")
        self.viewer.reset_view()
        box = self.dock.steps["export"].numbers
        box.start()
        self.until(lambda: not box.measuring.busy and box.tissue is not None)
        self.follow(self.dock.export(self.work / "labels.geojson"))
        self.picture("numbers")

    def stroke(self, layer, value: int, start, stop) -> None:
        """Paint a line with the brush, as a drag of the mouse does."""
        with layer.block_history():
            layer._draw(value, start, stop)
        self.wait(0.1)

    def follow(self, handle) -> None:
        """Wait for a job and for what the dock does with its result."""
        handle.wait()
        self.until(lambda: not handle.follow_up())

    def until(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait until something is so, while the window handles its events."""
        for _ in range(int(seconds / 0.1)):
            if done():
                return
            self.wait(0.1)
        raise SystemExit(f"The window was not ready within {seconds:g} s.")

    def settled(self) -> bool:
        """Whether the dock has found out all that it shows: "Planning…", "Checking your data…"."""
        from qtpy.QtWidgets import QLabel

        return not any(label.isVisible() and label.text().endswith("…") for label in self.dock.findChildren(QLabel))

    @staticmethod
    def wait(seconds: float) -> None:
        """Wait while the window handles its events."""
        from napari_msunet.widgets.demonstration import wait

        wait(seconds)

    def picture(self, name: str) -> None:
        """Save a picture of the window, small enough for a page."""
        from PIL import Image

        self.wait(1.5)
        self.until(self.settled)
        pixels = self.viewer.window.screenshot(canvas_only=False, flash=False)
        image = Image.fromarray(pixels).convert("RGB")
        for quality in range(88, 30, -6):
            held = io.BytesIO()
            image.save(held, "JPEG", quality=quality, optimize=True, progressive=True)
            if held.tell() < LARGEST:
                break
        (self.out / file_name(name)).write_bytes(held.getvalue())


def join(out: Path) -> None:
    """Make the moving picture of the pictures in a folder."""
    from PIL import Image

    frames = [Image.open(out / file_name(name)).resize((960, 600), Image.Resampling.LANCZOS) for name in NAMES]
    frames[0].save(out / MOVING, save_all=True, append_images=frames[1:], duration=2000, loop=0, quality=60)


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images", help="folder of the pictures")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of the training")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # the person's own settings and recent projects are neither shown nor changed
        os.environ["XDG_CONFIG_HOME"] = os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings")
        os.environ["NAPARI_CONFIG"] += "/napari.yaml"
        Tutorial(Path(folder), given.out.resolve()).run(given.epochs)
    join(given.out)


if __name__ == "__main__":
    main()

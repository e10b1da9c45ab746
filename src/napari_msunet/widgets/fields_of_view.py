"""The fields of view of all scales: squares on the slide at the cursor, and thumbnails of what each branch sees."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget
from vispy.scene.visuals import Line

from napari_msunet.config import (
    BranchConfig,
    ClassicalConfig,
    FiltersConfig,
    HRNetConfig,
    LinkNetConfig,
    ModelConfig,
    UNetConfig,
)
from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.geometry import Grid, Region, Resolution, Window, round_up
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import shows_colours
from napari_msunet.slide.numbers import is_plain, to_unit, unit_scale
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.napari_internals import canvas_scene
from napari_msunet.widgets.placement import to_level0, to_world

if TYPE_CHECKING:
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel
    from napari.utils.events import Event
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QDockWidget
# ----------------------------------------------------------------------------------------------------------------------
# The fields of view of a model around a place of a slide: arithmetic and pixels, without Qt.

THUMBNAIL_PIXELS = 512
"""Most pixels a side with which a branch's window is shown."""


@dataclass(frozen=True)
class FieldOfView:
    """The field of view of one scale.

    Attributes
    ----------
    name : str
        The scale, such as "scale 1/2".
    resolution : Resolution
        µm per pixel that the branch sees.
    grid : Grid
        The grid of the branch's own pixels.
    window : Window
        The branch's training window, on `grid`.
    context : Region
        All that the prediction at the place depends on, in level-0 pixels.
    """

    name: str
    resolution: Resolution
    grid: Grid
    window: Window
    context: Region

    @property
    def region(self) -> Region:
        """The training window in level-0 pixels."""
        return self.grid.region(self.window)


def fields_at(slide: Slide, config: ModelConfig, place: tuple[float, float], size: int = 256) -> list[FieldOfView]:
    """The fields of view of all scales of a model around a place.

    Parameters
    ----------
    slide : Slide
    config : ModelConfig
        With `field="concentric"`, scales below 1 see as many pixels as scale 1, and so a larger area.
    place : (y, x)
        In level-0 pixels.
    size : int
        Side of the training window in target pixels; it is rounded up as in training.

    Raises
    ------
    MissingMppError
        If the slide's µm per pixel is not known.
    """
    target = slide.grid(config.resolution)
    side = round_up(size, config.size_multiple) // config.upscale
    found = []
    for ratio, branch in zip(config.ratios, config.branches, strict=True):
        name = f"scale {ratio}"
        grid = target.scaled(ratio)
        concentric = config.field == "concentric" and ratio < 1
        pixels = side if concentric else max(1, round(side * ratio))
        corner = [round(p / s - pixels / 2) for p, s in zip(place, grid.pixel, strict=True)]
        window = Window(corner[0], corner[1], pixels, pixels)
        found.append(
            FieldOfView(
                name, config.resolution.times(1 / float(ratio)), grid, window, _context(grid, place, ratio, branch)
            )
        )
    return found


def receptive_reach(branch: BranchConfig) -> int:
    """The largest distance, in pixels of a branch's own grid, over which its output depends on its input.

    It follows the way of a pixel outside a window into it: a 3x3 convolution carries it one pixel further, a pooling
    halves the distance (rounded up), and a step up doubles it. For encoders the result is an estimate.
    """
    if isinstance(branch, LinkNetConfig):  # as measured
        return int(2 ** (branch.depth + 3)) - 1
    if isinstance(branch, ClassicalConfig | FiltersConfig):
        return branch.radius
    if isinstance(branch, HRNetConfig):
        return ceil(branch.stride * (2.5 + 3 * branch.blocks))
    if not isinstance(branch, UNetConfig):
        return 8 * branch.stride
    window = branch.window if branch.attention == "self" else 1
    reach, skips = 2, [2]
    for _ in range(branch.depth):
        reach = -(-reach // 2) + 2
        skips.append(reach)
    skips.pop()
    reach += 4 if branch.context else 0
    while skips:
        reach = max(2 * reach, round_up(skips.pop(), window)) + 2 + (branch.up == "resize")
    return branch.grain * (reach + branch.pyramid)


def thumbnail(slide: Slide, field: FieldOfView) -> npt.NDArray[np.generic]:
    """The pixels that a branch sees, `(h, w, c)` in the slide's dtype; of very large windows every n-th pixel."""
    step = -(-max(field.window.shape) // THUMBNAIL_PIXELS)
    if step == 1:
        return slide.read_window(field.grid, field.window)
    coarse = field.grid.scaled(Fraction(1, step))
    window = field.window
    rough = Window(window.y // step, window.x // step, -(-window.height // step), -(-window.width // step))
    return slide.read_window(coarse, rough)


def as_colours(
    pixels: npt.NDArray[np.generic],
    colour: bool,
    value_range: tuple[float, float] = (0, 255),
    limits: list[tuple[float, float]] | None = None,
) -> npt.NDArray[np.uint8]:
    """Pixels as `(h, w, 3)` uint8 to be shown; channels that are not colours are stretched to the full range."""
    if colour and is_plain(pixels.dtype, value_range):
        return np.ascontiguousarray(pixels[..., :3])
    values = pixels[..., :3].astype(np.float32)
    if colour:
        values = to_unit(pixels[..., :3], unit_scale(value_range))
    else:
        limits = limits or channel_limits(pixels)
        for channel, (low, high) in zip(range(values.shape[-1]), limits, strict=False):
            values[..., channel] = (values[..., channel] - low) / max(high - low, 1e-9)
    shown = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    if shown.shape[-1] == 3:
        return np.ascontiguousarray(shown)
    if shown.shape[-1] == 1:
        return np.repeat(shown, 3, axis=-1)
    return np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=-1)


def channel_limits(pixels: npt.NDArray[np.generic]) -> list[tuple[float, float]]:
    """Darkest and brightest value of the first three channels, without the extreme thousandth of the pixels."""
    return [
        tuple(float(v) for v in np.percentile(pixels[..., c], (0.1, 99.9))) for c in range(min(3, pixels.shape[-1]))
    ]


def _context(grid: Grid, place: tuple[float, float], ratio: Fraction, branch: UNetConfig) -> Region:
    """The reach of a branch around the pixel at a place, plus one pixel where its result is interpolated."""
    reach = receptive_reach(branch) + (1 if ratio < 1 else 0)
    corner = [int(np.floor(p / s)) - reach for p, s in zip(place, grid.pixel, strict=True)]
    return grid.region(Window(corner[0], corner[1], 2 * reach + 1, 2 * reach + 1))


# ----------------------------------------------------------------------------------------------------------------------
# Thumbnails of what each branch of a model sees, side by side.

COLOURS = (
    (1.0, 0.83, 0.0),
    (0.0, 0.85, 1.0),
    (1.0, 0.35, 0.85),
    (0.35, 1.0, 0.35),
    (1.0, 0.55, 0.1),
    (0.65, 0.6, 1.0),
)
"""One colour per scale, for its square on the slide and the frame of its thumbnail."""
SIDE = 112
"""Side of a thumbnail in screen pixels."""


class FieldsPanel(QWidget):
    """One thumbnail per scale, with its name and µm per pixel below."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._row = QHBoxLayout()
        self._row.setSpacing(12)
        self._hint = QLabel(
            "Move the mouse over the slide.<br>Solid: the window a branch is trained on (white: the same for all).<br>"
            "Dashed: all that its prediction at the cursor can depend on."
        )
        self._hint.setWordWrap(True)
        self._hint.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self._hint.setMinimumWidth(160)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 4)
        layout.addLayout(self._row)
        layout.addSpacing(8)
        layout.addWidget(self._hint, 1)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.thumbnails: list[_Thumbnail] = []

    def set_scales(self, scales: list[tuple[str, Resolution]]) -> None:
        """Show these scales: names, and µm per pixel."""
        wanted = list(scales)
        if [(t.scale, t.resolution) for t in self.thumbnails] == wanted:
            return
        for old in self.thumbnails:
            self._row.removeWidget(old)
            old.deleteLater()
        self.thumbnails = []
        for number, (name, resolution) in enumerate(wanted):
            thumb = _Thumbnail(name, resolution, COLOURS[number % len(COLOURS)])
            self._row.addWidget(thumb)
            self.thumbnails.append(thumb)

    def show_pictures(self, pictures: list[tuple[str, npt.NDArray[np.uint8], str]]) -> None:
        """Show pictures `(scale, (h, w, 3) uint8, its size in words)`; scales that are shown no longer are left out."""
        by_name = {thumb.scale: thumb for thumb in self.thumbnails}
        for scale, pixels, text in pictures:
            if scale in by_name:
                by_name[scale].set_picture(pixels, text)

    def say(self, text: str) -> None:
        """Show a sentence about why there are no thumbnails."""
        for thumb in self.thumbnails:
            thumb.clear(text)


class _Thumbnail(QWidget):
    def __init__(self, scale: str, resolution: Resolution, colour: tuple[float, float, float]) -> None:
        super().__init__()
        self.scale, self.resolution = scale, resolution
        self.picture = QLabel()
        self.picture.setFixedSize(SIDE + 4, SIDE + 4)
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        red, green, blue = (round(255 * c) for c in colour)
        self.picture.setStyleSheet(f"QLabel {{ border: 2px solid rgb({red}, {green}, {blue}); }}")
        self.title = QLabel(f"<b>{scale}</b> · {resolution.short}")
        self.detail = QLabel(" ")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in (self.picture, self.title, self.detail):
            layout.addWidget(widget)
        layout.addStretch(1)

    def set_picture(self, pixels: npt.NDArray[np.uint8], text: str) -> None:
        """Show a picture, enlarged without smoothing, so that the pixels are those of the branch."""
        pixels = np.ascontiguousarray(pixels)
        height, width = pixels.shape[:2]
        image = QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        smaller = max(height, width) > SIDE
        mode = Qt.TransformationMode.SmoothTransformation if smaller else Qt.TransformationMode.FastTransformation
        scaled = QPixmap.fromImage(image).scaled(SIDE, SIDE, Qt.AspectRatioMode.KeepAspectRatio, mode)
        self.picture.setPixmap(scaled)
        self.picture.setToolTip(f"{self.scale}: {text}, seen {self.resolution.at}.")
        self.detail.setText(text)

    def clear(self, text: str) -> None:
        """Show no picture; the tooltip says why."""
        self.picture.setPixmap(QPixmap())
        self.picture.setToolTip(text)
        self.detail.setText(" ")


def size_text(shape: tuple[int, int], resolution: Resolution) -> str:
    """Such as "128 x 128 px, 64 µm", or the length in pixels of the image."""
    length = shape[0] * resolution.size
    return f"{shape[0]} x {shape[1]} px, {length:.3g} {'µm' if resolution.unit == 'µm' else 'image pixels'}"


# ----------------------------------------------------------------------------------------------------------------------
# Reading thumbnails in a thread, where only the latest request counts.

Request = tuple[Slide, list[FieldOfView]]


class ThumbnailReader(QObject):
    """A thread that reads the latest request; `ready` gives `(scale, picture, text)` on the GUI thread."""

    ready = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._request: Request | None = None
        self._closed = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="napari-msunet thumbnails", daemon=True)
        self._thread.start()

    def ask(self, slide: Slide, fields: list[FieldOfView]) -> None:
        """Read these next; an earlier request that was not begun is dropped."""
        with self._condition:
            self._request = (slide, fields)
            self._condition.notify()

    def close(self) -> None:
        """End the thread once what it reads now is done."""
        with self._condition:
            self._closed, self._request = True, None
            self._condition.notify()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._request is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                request, self._request = self._request, None
            if request is not None:
                self._read(request)

    def _read(self, request: Request) -> None:
        slide, fields = request
        colour = shows_colours(slide)
        pictures = []
        for field in fields:
            if self._request is not None or self._closed:
                return
            try:
                pixels = as_colours(thumbnail(slide, field), colour, slide.value_range)
            except (MsunetError, OSError):  # the slide's layer reports this, once
                return
            pictures.append((field.name, pixels, size_text(field.window.shape, field.resolution)))
        try:
            self.ready.emit(pictures)
        except RuntimeError:  # Qt has deleted this object
            self._closed = True


# ----------------------------------------------------------------------------------------------------------------------
# The squares at the cursor.

DASHES = 12
"""Number of dashes on a side of a square."""
WHITE = (1.0, 1.0, 1.0)
"""Colour of a square that belongs to all scales."""
ORDER = 1_000_000
"""Order of drawing: after all layers."""


class FieldsOfView(QObject):
    """Squares at the cursor, one for each scale, and thumbnails of what each branch sees there.

    A solid square is the window that the branch sees in training, a dashed one all that its prediction at the cursor
    can depend on. Thumbnails are read in a thread, where only the latest place counts.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer
        The slide's layer.
    config : ModelConfig
    size : int
        Side of the training window in target pixels (`TrainJob.size`).

    Attributes
    ----------
    panel : FieldsPanel
        The widget with the thumbnails; `show` docks it unless it is shown somewhere already.
    """

    visibleChanged = Signal(bool)

    def __init__(self, viewer: Viewer, layer: Layer, config: ModelConfig, size: int = 256) -> None:
        super().__init__()
        self.viewer, self.layer, self.config, self.size = viewer, layer, config, size
        self.panel = FieldsPanel()
        self.place: tuple[float, float] | None = None
        self.fields: list[FieldOfView] = []
        self.visible = False
        self._slide: Slide | None = None
        self._lines: list[Line] = []
        self._dock: QDockWidget | None = None
        self._reader: ThumbnailReader | None = None

    # ------------------------------------------------------------------------------------------------------ on and off

    def show(self, dock: bool = True) -> bool:
        """Draw at the cursor from now on.

        Parameters
        ----------
        dock : bool
            Put the panel below the canvas. False: the caller shows it elsewhere.

        Returns
        -------
        bool
            False where the fields cannot be shown; a notification gives the reason.
        """
        if self.visible:
            return True
        try:
            self._begin()
        except MsunetError as error:
            show_error(str(error))
            return False
        if dock:
            self._dock = self.viewer.window.add_dock_widget(self.panel, name="What each scale sees", area="bottom")
            self._dock.destroyed.connect(self._dock_gone)
            self._dock.visibilityChanged.connect(self._dock_shown)
        self._set_visible(True)
        return True

    def hide(self) -> None:
        """Remove the squares and the panel again."""
        if not self.visible:
            return
        self._set_visible(False)
        if self._on_move in self.viewer.mouse_move_callbacks:
            self.viewer.mouse_move_callbacks.remove(self._on_move)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for line in self._lines:
            line.parent = None
        self._lines = []
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        dock, self._dock = self._dock, None
        if dock is not None:
            dock.visibilityChanged.disconnect(self._dock_shown)
            dock.destroyed.disconnect(self._dock_gone)
            self.panel.setParent(None)
            self.viewer.window.remove_dock_widget(dock)

    def toggle(self) -> bool:
        """Show or hide the fields, and return whether they are shown now."""
        if self.visible:
            self.hide()
        else:
            self.show()
        return self.visible

    def set_model(self, config: ModelConfig, size: int | None = None) -> None:
        """Draw the fields of another model, or of another training window."""
        self.config, self.size = config, self.size if size is None else size
        if self.visible:
            self._rename()
            self._again()

    def set_layer(self, layer: Layer) -> None:
        """Draw on another slide."""
        if layer is self.layer:
            return
        was = self.visible
        docked = self._dock is not None
        self.hide()
        self.layer, self.place, self.fields = layer, None, []
        if was:
            self.show(docked)

    def _begin(self) -> None:
        self._slide = slide_of(self.layer)
        if self._slide is None:
            raise SlideError(f'"{self.layer.name}" is no image; choose the layer of a slide.')
        place = self.place or tuple(n / 2 for n in self._slide.shape[:2])
        fields_at(self._slide, self.config, place, self.size)
        self._reader = ThumbnailReader()
        self._reader.ready.connect(self.panel.show_pictures)
        scene = canvas_scene(self.viewer)
        for width in (4, 2):
            line = Line(np.zeros((2, 2)), connect="segments", width=width, method="gl", antialias=True, parent=scene)
            line.order = ORDER + len(self._lines)
            line.set_gl_state("translucent", depth_test=False)
            self._lines.append(line)
        self.viewer.mouse_move_callbacks.append(self._on_move)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self._rename()
        self.move_to(place)

    def _set_visible(self, visible: bool) -> None:
        self.visible = visible
        self.visibleChanged.emit(visible)

    def _rename(self) -> None:
        self.panel.set_scales([(name, self.config.resolution.times(1 / float(r))) for name, r in self._names()])

    def _names(self) -> list[tuple[str, Fraction]]:
        return [(f"scale {ratio}", ratio) for ratio in self.config.ratios]

    # ---------------------------------------------------------------------------------------------------- at the cursor

    def move_to(self, place: tuple[float, float]) -> None:
        """Draw around a place of the slide, `(y, x)` in level-0 pixels."""
        self.place = (float(place[0]), float(place[1]))
        self._again()

    def _again(self) -> None:
        if self._slide is None or self._reader is None or self.place is None:
            return
        try:
            self.fields = fields_at(self._slide, self.config, self.place, self.size)
        except MsunetError as error:  # a config being edited may not fit for a moment
            self.panel.say(str(error))
            return
        self._draw()
        self._reader.ask(self._slide, self.fields)

    def _draw(self) -> None:
        """Draw all squares as one line of separate pieces, dark beneath and coloured above."""
        pieces, colours = [], []
        same = self.config.field == "same" and len(self.fields) > 1
        for number, field in enumerate(self.fields):
            colour = COLOURS[number % len(COLOURS)]
            for corners, tint in (
                (_outline(field.region), WHITE if same else colour),
                (_dashed(field.context), colour),
            ):
                pieces.append(corners)
                colours.append(np.tile([*tint, 1.0], (len(corners), 1)))
        world = to_world(self.viewer, self.layer, np.concatenate(pieces))[:, ::-1]
        dark, bright = self._lines
        dark.set_data(pos=world, color=(0, 0, 0, 0.6), connect="segments")
        bright.set_data(pos=world, color=np.concatenate(colours), connect="segments")

    def _on_move(self, viewer: ViewerModel, event: NapariMouseEvent) -> None:
        if viewer.dims.ndisplay == 2:
            self.move_to(to_level0(viewer, self.layer, event.position))

    def _on_removed(self, event: Event) -> None:
        if event.value is self.layer:
            self.hide()

    def _dock_shown(self, visible: bool) -> None:
        if not visible and self.visible and self._dock is not None and self._dock.isHidden():
            self.hide()

    def _dock_gone(self) -> None:
        self._dock = None
        self.hide()


def _outline(region: Region) -> npt.NDArray[np.float64]:
    """A square as pairs of points."""
    y, x = region.y, region.x
    bottom, right = region.stop
    corners = np.array([(y, x), (y, right), (bottom, right), (bottom, x)])
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1).reshape(-1, 2)


def _dashed(region: Region) -> npt.NDArray[np.float64]:
    """A square as dashes."""
    sides = _outline(region).reshape(-1, 2, 2)
    steps = np.linspace(0, 1, 2 * DASHES, endpoint=False)[None, :, None]
    points = sides[:, :1] + (sides[:, 1:] - sides[:, :1]) * steps
    result: npt.NDArray[np.float64] = points.reshape(-1, 2)
    return result

"""The maps and instances of a run as layers: disagreement, entropy, probabilities, objects in colours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer
from napari.utils import Colormap
from napari.utils.colormaps.standardize_color import transform_color

from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import Run
from napari_msunet.labels.chunks import WindowArray
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.napari_internals import drop_thumbnail_copy
from napari_msunet.widgets.placement import over, placed

if TYPE_CHECKING:
    from napari.components import ViewerModel
# ----------------------------------------------------------------------------------------------------------------------
# The maps of a run as layers, read lazily from its pyramid, also while it fills.

MAPS = ("disagreement", "entropy", "probabilities")
"""Outputs of a run that are images."""

NAMES = {"disagreement": "Disagreement", "entropy": "Uncertainty"}
RAMPS = {
    "disagreement": ("#ffe600", "#ffe600", "#ffb000", "#ff6a00", "#d40000"),
    "entropy": ("#00e5ff", "#00e5ff", "#00a2ff", "#0062ff", "#1a1aff"),
    "probabilities": ("#fff200", "#fff200", "#ffc400", "#ff7b00", "#c8001e"),
}
"""Colours from low to high; 0 is transparent, so that the slide stays visible."""

HELD = 2048 * 2048
"""Most pixels of the finest level that is held in memory while the run fills."""

CHUNK = 512
BLOCK = 2048
"""Side of a block that is put into the levels in memory at once."""

Values = npt.NDArray[np.float32]


class RunMap:
    """One image of a run: disagreement, entropy, or the probability of a class.

    A chunk of a run's coarse level is written when everything below it is finished. So while a run fills, coarse levels
    are made in memory, from the finished tiles.

    Parameters
    ----------
    run : Run
    output : str
    channel : int, optional
        For probabilities: the class, 0 is background.
    """

    def __init__(self, run: Run, output: str, channel: int | None = None) -> None:
        self.run, self.output, self.channel = run, output, channel
        self.shapes = tuple(run.info.shapes)
        self._held: dict[int, npt.NDArray[np.uint8]] = {}
        self._taken: set[Window] = set()
        self._lock = threading.Lock()
        if not run.complete:
            self.hold()
        self.levels = [MapLevel(self, level) for level in range(len(self.shapes))]

    @property
    def name(self) -> str:
        """The name of the layer."""
        if self.channel is None:
            return f"{NAMES[self.output]} {self.run.info.name}"
        named = self.run.classes[self.channel - 1] if self.channel else "background"
        return f"Probability of {named}"

    def hold(self) -> None:
        """Make the coarse levels in memory from now on."""
        coarse = [n for n, shape in enumerate(self.shapes) if n and shape[0] * shape[1] <= HELD]
        self._held = {n: np.zeros(self.shapes[n], np.uint8) for n in coarse}
        self._taken = set()

    def settle(self) -> None:
        """Drop the levels in memory; called when the run is complete and all its levels are on disk."""
        with self._lock:
            self._held = {}

    def take(self, window: Window) -> None:
        """Put a finished tile (level-0 pixels of the run) into the levels in memory; may run in any thread."""
        with self._lock:
            if not self._held or window in self._taken:
                return
            self._taken.add(window)
            whole = Window(0, 0, *self.shapes[0])
            for y, height in _steps(window.y, window.stop[0], 1 << max(self._held)):
                for x, width in _steps(window.x, window.stop[1], 1 << max(self._held)):
                    self._take(Window(y, x, height, width).intersection(whole))

    def _take(self, block: Window) -> None:
        values, made = self.read_disk(0, block), 0
        for level in sorted(self._held):
            values, made = _coarser(values, level - made), level
            y, x = block.y >> level, block.x >> level
            target = self._held[level][y : y + values.shape[0], x : x + values.shape[1]]
            target[...] = np.rint(values[: target.shape[0], : target.shape[1]] * 255)

    def read(self, level: int, window: Window) -> Values:
        """A window of a level; 0 where nothing is there, and where it cannot be read, because napari must not get an
        error."""
        held = self._held
        if level in held:
            return held[level][window.slices()].astype(np.float32) / 255
        values = self.read_disk(level, window)
        # the parts that the disk does not have yet come from the levels in memory
        if level and held and not window.empty:
            finest = min(held)
            rows, columns = (
                np.minimum(np.arange(start, stop) >> (finest - level), size - 1)
                for start, stop, size in zip((window.y, window.x), window.stop, self.shapes[finest], strict=True)
            )
            values = np.where(values == 0, held[finest][np.ix_(rows, columns)] / np.float32(255), values)
        return values

    def read_disk(self, level: int, window: Window) -> Values:
        """A window of a level, from the disk only."""
        with suppress(MsunetError, OSError):
            values: Values = self.run.read_plane(self.output, level, window, self.channel).astype(np.float32)
            return values
        return np.zeros(window.shape, np.float32)


class MapLevel(WindowArray):
    """A level of a `RunMap` as an array of which napari reads the part in view."""

    def __init__(self, source: RunMap, level: int) -> None:
        super().__init__(source.shapes[level], np.float32, lambda window: source.read(level, window))
        self.chunks = (CHUNK, CHUNK)
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return np.asarray(self[...], dtype)

    def __deepcopy__(self, memo: object) -> MapLevel:
        return self  # a duplicated layer shows the same run


def _steps(start: int, stop: int, grain: int) -> Iterator[tuple[int, int]]:
    """Starts and lengths of blocks, on multiples of `grain`, that cover start to stop."""
    side = max(BLOCK, grain)
    first, last = start // grain * grain, -(-stop // grain) * grain
    for at in range(first, last, side):
        yield at, min(side, last - at)


def _coarser(values: Values, times: int) -> Values:
    """The values halved in size this many times, by the mean."""
    for _ in range(times):
        height, width = values.shape
        padded = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
        values = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).mean((1, 3), dtype=np.float32)
    return values


def run_maps(run: Run) -> list[RunMap]:
    """All maps that a run has or will have; the first is the one that is shown at first."""
    found = [RunMap(run, output) for output in MAPS[:2] if output in run.outputs]
    if "probabilities" in run.outputs:
        found += [RunMap(run, "probabilities", n) for n in range(1, len(run.classes) + 1)]
    return found


def add_run_maps(viewer: ViewerModel, run: Run, slide_layer: Layer | None = None) -> list[Image]:
    """Show the maps of a run over the slide, in place of those of another run of the same labels.

    Parameters
    ----------
    viewer : napari.Viewer
    run : Run
        The run, complete or not; `redraw` shows what was finished since.
    slide_layer : Layer, optional
        The slide's layer, over which they are placed exactly. None: they are placed by µm.

    Returns
    -------
    list of Image
        Pyramids of numbers from 0 to 1. Only disagreement, or else uncertainty, is visible at first.

    Raises
    ------
    StoreError
        If the run keeps no maps.
    """
    maps = run_maps(run)
    if not maps:
        raise StoreError(f"The run {run.key} keeps labels only; predict with {', '.join(MAPS)} among the outputs.")
    remove_maps(viewer, run)
    return [add_map_layer(viewer, source, slide_layer, visible=number == 0) for number, source in enumerate(maps)]


def remove_maps(viewer: ViewerModel, run: Run) -> None:
    """Remove the maps of all runs of the same labels."""
    for layer in [one for one in viewer.layers if one.metadata.get(KEY, {}).get("maps_of") == _labels(run)]:
        viewer.layers.remove(layer)


def add_map_layer(viewer: ViewerModel, source: RunMap, slide_layer: Layer | None, visible: bool) -> Image:
    """Show one map of a run; a probability is never visible at first."""
    run = source.run
    pixel, mpp = run.info.pixel, run.info.mpp
    slide_mpp = None if mpp is None else (mpp[0] / pixel[0], mpp[1] / pixel[1])
    place = placed(slide_mpp, pixel) if slide_layer is None else over(slide_layer, pixel)
    several = len(source.levels) > 1
    layer = Image(
        source.levels if several else source.levels[0],
        multiscale=several,
        name=source.name,
        colormap=_colours(source.output),
        contrast_limits=(0.0, 1.0),
        opacity=0.8,
        rgb=False,
        visible=visible and source.channel is None,
        metadata={KEY: {"map": source.output, "maps_of": _labels(run), "run": run.key, "source": source}},
        **place,
    )
    viewer.add_layer(layer)
    return layer


def _labels(run: Run) -> str:
    return str(run.path.parent.parent)


def _colours(output: str) -> Colormap:
    """A ramp of colours that are the more transparent the lower the number."""
    colours = np.array([transform_color(colour)[0] for colour in RAMPS[output]])
    places = np.linspace(0, 1, len(colours))
    colours[:, 3] = places**0.7
    return Colormap(colours, name=f"msunet {output}", controls=places)


def map_of(layer: Layer) -> RunMap | None:
    """The map that a layer of `add_run_maps` shows; None for all other layers."""
    source = layer.metadata.get(KEY, {}).get("source")
    return source if isinstance(source, RunMap) else None


def redraw(layer: Image | Labels, whole: bool = False) -> None:
    """Draw what was finished since the last drawing; `whole`: the thumbnail too."""
    if layer.multiscale:
        drop_thumbnail_copy(layer)
    layer.refresh(extent=False, thumbnail=whole)


# ----------------------------------------------------------------------------------------------------------------------
# The instances of a run as a layer.


def add_instances(viewer: ViewerModel, run: Run, slide_layer: Layer | None = None) -> Labels:
    """Show a run's instances over the slide, in place of those of another run.

    Parameters
    ----------
    viewer : napari.Viewer
    run : Run
        A complete run with "instances" among its outputs.
    slide_layer : Layer, optional
        The slide's layer, over which they are placed exactly. None: they are placed by µm.

    Returns
    -------
    Labels
        A read-only pyramid, of which only the part in view is read; corrections belong in the labels.

    Raises
    ------
    StoreError
        If the run has no instances, or is not complete.
    """
    if "instances" not in run.outputs or not run.complete:
        raise StoreError(f'The run {run.key} has no finished instances; predict with "instances" among the outputs.')
    store = run.path.parent.parent
    for layer in [one for one in viewer.layers if one.metadata.get(KEY, {}).get("instances_of") == str(store)]:
        viewer.layers.remove(layer)
    pixel, mpp = run.info.pixel, run.info.mpp
    slide_mpp = None if mpp is None else (mpp[0] / pixel[0], mpp[1] / pixel[1])
    place = placed(slide_mpp, pixel) if slide_layer is None else over(slide_layer, pixel)
    levels = run.levels("instances")
    layer = Labels(
        levels if len(levels) > 1 else levels[0],
        multiscale=len(levels) > 1,
        name=f"Instances {run.info.name}",
        opacity=0.6,
        metadata={KEY: {"instances_of": str(store), "run": run.key}},
        **place,
    )
    layer.editable = False
    viewer.add_layer(layer)
    return layer

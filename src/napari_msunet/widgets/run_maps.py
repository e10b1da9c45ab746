"""Maps of a run as layers: disagreement, entropy and probabilities, lazily from its pyramid, while it fills too."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Layer

from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import Run
from napari_msunet.labels.lazy import WindowArray
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.placement import over, placed

MAPS = ("disagreement", "entropy", "probabilities")
"""Outputs of a run that are images."""

NAMES = {"disagreement": "Disagreement", "entropy": "Uncertainty"}
COLOURS = {"disagreement": "inferno", "entropy": "inferno", "probabilities": "magma"}

HELD = 4_000_000
"""Pixels of the finest level that is held in memory while the run fills."""

CHUNK = 512

Values = npt.NDArray[np.float32]


class RunMap:
    """One image of a run: disagreement, entropy, or the probability of a class.

    A run's coarse levels come late: a chunk of them is there when all below it is finished. So while a run fills, they
    are made from the finished tiles in memory.

    Parameters
    ----------
    run : Run
    output : str
    channel : int, optional
        Of probabilities: which class, 0 is background.
    """

    def __init__(self, run: Run, output: str, channel: int | None = None) -> None:
        self.run, self.output, self.channel = run, output, channel
        self.shapes = tuple(run.info.shapes)
        self._held: dict[int, Values] = {}
        self._taken: set[Window] = set()
        self._lock = threading.Lock()
        if not run.complete:
            self.hold()
        self.levels = [MapLevel(self, level) for level in range(len(self.shapes))]

    @property
    def name(self) -> str:
        """What the layer is called."""
        if self.channel is None:
            return f"{NAMES[self.output]} {self.run.info.name}"
        named = self.run.classes[self.channel - 1] if self.channel else "background"
        return f"Probability of {named}"

    def hold(self) -> None:
        """Make the coarse levels in memory from now on."""
        coarse = [n for n, shape in enumerate(self.shapes) if shape[0] * shape[1] <= HELD]
        self._held = {n: np.zeros(self.shapes[n], np.float32) for n in coarse if n > 0}
        self._taken = set()

    def settle(self) -> None:
        """The run is complete: all levels are on the disk."""
        with self._lock:
            self._held = {}

    def take(self, window: Window) -> None:
        """Bring a finished tile (level-0 pixels of the run) into the levels in memory; may run in any thread."""
        with self._lock:
            if not self._held or window in self._taken:
                return
            self._taken.add(window)
            side = CHUNK << min(self._held)  # whole pixels of the coarse levels, a few MB at a time
            for y in range(window.y // side * side, window.stop[0], side):
                for x in range(window.x // side * side, window.stop[1], side):
                    self._take(Window(y, x, side, side).intersection(Window(0, 0, *self.shapes[0])))

    def _take(self, block: Window) -> None:
        values = self.read_disk(0, block)
        low = 0
        for level in sorted(self._held):
            values = _coarser(values, level - low)
            low = level
            y, x = block.y >> level, block.x >> level
            target = self._held[level][y : y + values.shape[0], x : x + values.shape[1]]
            target[...] = values[: target.shape[0], : target.shape[1]]

    def read(self, level: int, window: Window) -> Values:
        """A window of a level; 0 where nothing is there, or it cannot be read: napari must not meet an error."""
        held = self._held.get(level)
        return held[window.slices()].copy() if held is not None else self.read_disk(level, window)

    def read_disk(self, level: int, window: Window) -> Values:
        """The same, from the disk."""
        with suppress(MsunetError, OSError):
            values: Values = self.run.read_plane(self.output, level, window, self.channel).astype(np.float32)
            return values
        return np.zeros(window.shape, np.float32)


class MapLevel(WindowArray):
    """A level of a `RunMap` as an array that napari reads where it is looked at."""

    def __init__(self, source: RunMap, level: int) -> None:
        super().__init__(source.shapes[level], np.float32, lambda window: source.read(level, window))
        self.chunks = (CHUNK, CHUNK)
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __deepcopy__(self, memo: Any) -> MapLevel:
        return self  # a duplicated layer shows the same run


def _coarser(values: Values, times: int) -> Values:
    """Halved so many times, by the mean of what there is."""
    for _ in range(times):
        height, width = values.shape
        padded = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
        values = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).mean((1, 3), dtype=np.float32)
    return values


def run_maps(run: Run) -> list[RunMap]:
    """All images that a run has or will have: the first is the one to look at first."""
    found = [RunMap(run, output) for output in MAPS[:2] if output in run.outputs]
    if "probabilities" in run.outputs:
        found += [RunMap(run, "probabilities", n) for n in range(1, len(run.classes) + 1)]
    return found


def add_run_maps(viewer: Any, run: Run, slide_layer: Layer | None = None) -> list[Image]:
    """Show the images of a run over the slide, in place of those that another run of the same labels showed.

    Parameters
    ----------
    viewer : napari.Viewer
    run : Run
        Complete or not; `refresh_maps` shows what was finished since.
    slide_layer : Layer, optional
        The slide's layer: they lie exactly over it. None: by µm.

    Returns
    -------
    list of Image
        Each a pyramid of numbers from 0 to 1. Only disagreement (else uncertainty) is visible at first.

    Raises
    ------
    StoreError
        If the run keeps nothing of the kind.
    """
    maps = run_maps(run)
    if not maps:
        raise StoreError(f"The run {run.key} keeps labels only; predict with {', '.join(MAPS)} among the outputs.")
    store = run.path.parent.parent
    for layer in [one for one in viewer.layers if one.metadata.get(KEY, {}).get("maps_of") == str(store)]:
        viewer.layers.remove(layer)
    pixel, mpp = run.info.pixel, run.info.mpp
    slide_mpp = None if mpp is None else (mpp[0] / pixel[0], mpp[1] / pixel[1])
    place = placed(slide_mpp, pixel) if slide_layer is None else over(slide_layer, pixel)
    layers = []
    for number, source in enumerate(maps):
        several = len(source.levels) > 1
        layer = Image(
            source.levels if several else source.levels[0],
            multiscale=several,
            name=source.name,
            colormap=COLOURS[source.output],
            contrast_limits=(0.0, 1.0),
            opacity=0.7,
            rgb=False,
            visible=number == 0 and source.channel is None,
            metadata={KEY: {"map": source.output, "maps_of": str(store), "run": run.key, "source": source}},
            **place,
        )
        viewer.add_layer(layer)
        layers.append(layer)
    return layers


def map_of(layer: Layer) -> RunMap | None:
    """What a layer of `add_run_maps` shows; None for all others."""
    source = layer.metadata.get(KEY, {}).get("source")
    return source if isinstance(source, RunMap) else None


def redraw(layer: Image, whole: bool = False) -> None:
    """Draw what was finished since; `whole`: its thumbnail too."""
    if layer.multiscale:
        layer._reset_thumbnail_level_data()  # napari keeps a copy of the coarsest level
    layer.refresh(extent=False, thumbnail=whole)

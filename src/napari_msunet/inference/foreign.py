"""Predicting a slide with a model of another program: tiles with an overlap, and how far off they are at the seams."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.config import PredictOptions
from napari_msunet.errors import MsunetError, SlideError, StoreError
from napari_msunet.events import Event, Message, Result, progress
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.inference.meters import NEAR, PLACES
from napari_msunet.inference.postprocess import decide
from napari_msunet.inference.postprocess.threshold import threshold_array
from napari_msunet.labels import LabelStore, Run, open_labels
from napari_msunet.labels.area import Mask, where_mask
from napari_msunet.models.foreign_network import ForeignNetwork, channel_order
from napari_msunet.slide import Slide
from napari_msunet.slide.numbers import to_unit, unit_scale

USED = {"outputs", "region", "where", "probability_dtype", "postprocess", "damaged", "memory"}
"""The options that such a prediction knows; the others have no meaning for a network that is only a function."""


@dataclass(frozen=True)
class _Work:
    """A prediction with a foreign network: the target grid, the input's, and the tiles."""

    slide: Slide
    network: ForeignNetwork
    target: Grid
    read: Grid
    window: Window
    core: int
    mask: Mask | None
    thresholds: npt.NDArray[np.floating[Any]]

    def tiles(self) -> list[Window]:
        """The tiles without their overlap, in target pixels, in rows from the top."""
        core, window = self.core, self.window
        found = [
            Window(y, x, core, core).intersection(window)
            for y in range(window.y, window.stop[0], core)
            for x in range(window.x, window.stop[1], core)
        ]
        if self.mask is None:
            return found
        return [tile for tile in found if self.mask.cells(self.target, tile, core).any()]

    def compute(self, corner: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Probabilities `(K+1, core, core)` of the tile at a corner, in target pixels."""
        ratio, network = self.network.ratio, self.network
        side, overlap = network.tile, network.overlap
        window = Window(corner[0] * ratio - overlap, corner[1] * ratio - overlap, side, side)
        pixels = self.slide.read_window(self.read, window)[..., channel_order(self.slide.channels, network.channels)]
        raw = np.moveaxis(pixels, -1, 0).astype(np.float32)
        unit = np.moveaxis(to_unit(pixels, unit_scale(self.slide.value_range)), -1, 0)
        found = network.run(unit, raw)
        if found.shape[1:] != (side // ratio, side // ratio):
            raise MsunetError(
                f"{network.path.name} gave {found.shape[1]} x {found.shape[2]} pixels for a tile of {side} x {side}; "
                "only "
                "models whose output covers their input are read."
            )
        first = overlap // ratio
        return found[:, first : first + self.core, first : first + self.core]

    def labels(self, probabilities: npt.NDArray[np.float32], window: Window) -> npt.NDArray[np.uint8]:
        """The labels of a window from its probabilities; 0 outside the wanted part."""
        values = decide(probabilities, self.thresholds)
        return values if self.mask is None else values * self.mask.on(self.target, window)


def foreign_events(slide: Slide, network: ForeignNetwork, out: Path, options: PredictOptions) -> Iterator[Event]:
    """Predict a slide with a model of another program into a label store; stopped, it goes on with the same call.

    Raises
    ------
    MsunetError
        If an option is given that such a model does not have.
    MissingMppError, StoreError, OutputError
    """
    refuse_options(options)
    work = _set_up(slide, network, options)
    store = _store(out, work)
    tiles = work.tiles()
    key, asked = _key(work, options)
    outputs = {"labels": "uint8"}
    if "probabilities" in options.outputs:
        outputs["probabilities"] = options.probability_dtype
    description = {"settings": asked, "options": options.model_dump(mode="json"), "slide": str(slide.path or "")}
    run = store.create_run(key, description, network.classes, outputs)
    yield from (Message(level="warning", text=note) for note in network.notes)
    if run.complete and run.sound:
        yield Message(text=f"The run {run.key} is complete already; nothing was computed again.")
    else:
        yield from _fill(run, work, tiles)
    store.merge(run)
    store.flush()
    values = {
        "run": run.key,
        "tiles": len(tiles),
        **({"seam": run.description["seam"]} if "seam" in run.description else {}),
    }
    yield Result(values=values, files={"labels": str(out)})


def refuse_options(options: PredictOptions) -> None:
    """`MsunetError` where an option is given that a foreign model does not have."""
    usual = PredictOptions()
    given = [n for n in PredictOptions.model_fields if n not in USED and getattr(options, n) != getattr(usual, n)]
    given += [f"output {name}" for name in options.outputs if name not in ("labels", "probabilities")]
    if not options.postprocess.pointwise:
        given.append("smallest, holes and smoothing")
    if given:
        raise MsunetError(
            f"A model of another program has no {', '.join(given)}; leave that out, and use `postprocess` "
            "afterwards for "
            "smoothing and small objects."
        )


def _set_up(slide: Slide, network: ForeignNetwork, options: PredictOptions) -> _Work:
    if network.mpp is None and slide.mpp is not None:
        raise SlideError(
            f"{network.path.name} does not say its µm per pixel: write them beside it as "
            f"{network.path.name}.json, such as "
            '{"mpp": 0.5}.'
        )
    target = slide.grid(None if network.mpp is None else network.mpp * network.ratio)
    read = slide.grid(network.mpp) if network.ratio > 1 or network.mpp is not None else target
    whole = Window(0, 0, *target.shape)
    window = whole if options.region is None else target.centres(Region(*options.region)).intersection(whole)
    if window.empty:
        raise StoreError(f"The region {options.region} lies outside of {slide.name}.")
    core = (network.tile - 2 * network.overlap) // network.ratio
    thresholds = threshold_array(options.postprocess.thresholds, network.classes)
    return _Work(slide, network, target, read, window, core, where_mask(slide, options.where), thresholds)


def _key(work: _Work, options: PredictOptions) -> tuple[str, dict[str, Any]]:
    """The key of the run: a hash of all that can change the result."""
    network, window = work.network, work.window
    asked = {
        "slide": work.slide.identity,
        "slide_mpp": work.slide.mpp,
        "models": [network.fingerprint],
        "window": (window.y, window.x, window.height, window.width),
        "where": None if work.mask is None else work.mask.key,
        "tile": network.tile,
        "overlap": network.overlap,
        "outputs": sorted({"labels", *options.outputs}),
        "probability_dtype": options.probability_dtype if "probabilities" in options.outputs else None,
        "value_range": list(work.slide.value_range),
        "thresholds": options.postprocess.thresholds,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16], asked


def _store(out: Path, work: _Work) -> LabelStore:
    network = work.network
    if not out.exists():
        mpp = None if network.mpp is None else network.mpp * network.ratio
        return LabelStore.create(out, mpp=mpp, classes=network.classes, slide=work.slide, check_names=False)
    store = open_labels(out)
    if store.kind != "labels" or store.shape != work.target.shape:
        raise StoreError(
            f"{out} is no label store of {work.target.shape} pixels, which this model and slide need; give "
            "another output."
        )
    store.check_slide(work.slide, "give another output")
    return store


def _fill(run: Run, work: _Work, tiles: list[Window]) -> Iterator[Event]:
    started = time.monotonic()
    with run.writing():
        done = set(run.done)
        for number, tile in enumerate(tiles):
            if number not in done:
                found = work.compute((tile.y, tile.x))[:, : tile.height, : tile.width]
                values: dict[str, Any] = {"labels": work.labels(found, tile)}
                if "probabilities" in run.outputs:
                    values["probabilities"] = found
                run.write(tile, values)
                run.finish(number, tile)
            yield progress(number + 1, len(tiles), "tiles", started)
        if not tiles:
            yield Message(level="warning", text="Nothing was computed: this slide has none of what `where` asks for.")
        if len(tiles) > 1 and not work.network.exact and "seam" not in run.description:
            seam = seams(run, work, tiles)
            run.note(seam=seam)
            yield Message(text=seam_sentence(seam, work.network.overlap))
        run.complete_run()


def seam_sentence(seam: dict[str, float], overlap: int) -> str:
    """The seam meter in a sentence."""
    return (
        f"With an overlap of {overlap} pixels, {seam['near']:.2%} of the labels near tile borders change with "
        "the tiling, "
        f"and {seam['elsewhere']:.2%} elsewhere; a larger overlap, declared beside the model, makes fewer."
    )


def seams(run: Run, work: _Work, tiles: list[Window]) -> dict[str, float]:
    """Labels that change when the tiles are shifted by half, near the borders of tiles and elsewhere; see
    `inference.seams.seam_meter`."""
    core = work.core
    corners = [t.stop for t in tiles if all(a < b for a, b in zip(t.stop, work.window.stop, strict=True))]
    if not corners:  # one row or column of tiles
        corners = [(t.y, t.stop[1]) for t in tiles if t.stop[1] < work.window.stop[1]]
        corners += [(t.stop[0], t.x) for t in tiles if t.stop[0] < work.window.stop[0]]
    differ, counts = np.zeros(2), np.zeros(2)
    for y, x in corners[:: max(1, len(corners) // PLACES)][:PLACES]:
        corner = (max(0, y - core // 2), max(0, x - core // 2))
        window = Window(*corner, core, core).intersection(work.window)
        part = window.slices(corner)
        again = work.labels(work.compute(corner)[:, part[0], part[1]], window)
        known = run.read(window)
        rows = np.arange(window.y, window.stop[0]) - work.window.y
        columns = np.arange(window.x, window.stop[1]) - work.window.x
        close = [np.minimum(v % core, core - 1 - v % core) < NEAR for v in (rows, columns)]
        near = close[0][:, None] | close[1]
        inner = np.zeros(window.shape, bool)  # away from the borders of the shifted tile
        inner[2 * NEAR : -2 * NEAR, 2 * NEAR : -2 * NEAR] = True
        for n, which in enumerate((near & inner, ~near & inner)):
            differ[n] += np.count_nonzero((again != known) & which)
            counts[n] += np.count_nonzero(which)
    shares = differ / np.maximum(counts, 1)
    return {"near": float(shares[0]), "elsewhere": float(shares[1])}

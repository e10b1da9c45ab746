"""How much labels depend on the places of tiles, where the margin is not exact, and on the precision, where it is not
float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window, round_up
from napari_msunet.inference.network import VARIANTS
from napari_msunet.inference.plan import Plan, Request, make_plan
from napari_msunet.inference.postprocess import decide
from napari_msunet.inference.setup import Setup, margins_of
from napari_msunet.labels import Run

NEAR = 16
"""Largest distance from a border that counts as near, in target pixels."""

PLACES = 6
"""Number of corners of tiles that are examined, spread evenly over the plan."""

PRECISION_SIDE = 384
"""Side of a window that is computed in both precisions."""

SAMPLED = 0.03
"""Share of the pixels that is computed in both precisions."""

SIDE = 1024
"""Largest side of a window that is computed again around a corner."""


def seam_meter(run: Run, setup: Setup, plan: Plan) -> dict[str, float]:
    """Labels that change when the tiles are shifted, near the borders of tiles and elsewhere.

    Around some corners where tiles meet, the same model with the same margin is run on tiles whose middle lies there.

    Returns
    -------
    dict
        "near": the share of labels that differ within 16 target pixels of a border of the run's tiles; "elsewhere":
        the share of the others that are as far from the borders of the shifted tiles.
    """
    differ, counts = np.zeros(2), np.zeros(2)
    for window in _around_corners(plan):
        shifted = decide(np.nan_to_num(compute_window(setup, plan, window)), setup.thresholds)
        known = run.read(window, output="raw" if "raw" in run.outputs else "labels")
        near = _near_borders(plan, window)
        inner = np.zeros(window.shape, bool)
        inner[2 * NEAR : -2 * NEAR, 2 * NEAR : -2 * NEAR] = True
        if setup.mask is not None:
            inner &= setup.mask.on(setup.grid, window)
        for n, where in enumerate((near & inner, ~near & inner)):
            differ[n] += np.count_nonzero((shifted != known) & where)
            counts[n] += np.count_nonzero(where)
    shares = differ / np.maximum(counts, 1)
    return {"near": float(shares[0]), "elsewhere": float(shares[1])}


def precision_meter(setup: Setup, plan: Plan) -> dict[str, float]:
    """How far a prediction is from float32 in PyTorch, on some windows of it.

    The windows lie in the middle of tiles that are spread evenly over the plan, and take about 3 % of its pixels.

    Returns
    -------
    dict
        "changed": the share of labels that differ; "largest": the largest difference in probability; "pixels": how many
        pixels were compared.
    """
    exact = replace(setup, options=setup.options.model_copy(update={"engine": "torch", "precision": "float32"}))
    changed = pixels = 0
    largest = 0.0
    for window in _inside_tiles(setup, plan):
        fast, full = (compute_window(one, plan, window) for one in (setup, exact))
        known = np.isfinite(fast).all(0) & np.isfinite(full).all(0)
        if setup.mask is not None:
            known &= setup.mask.on(setup.grid, window)
        if not known.any():
            continue
        differ = decide(np.nan_to_num(fast), setup.thresholds) != decide(np.nan_to_num(full), setup.thresholds)
        changed += int((differ & known).sum())
        pixels += int(known.sum())
        largest = max(largest, float(np.abs(fast - full)[:, known].max()))
    return {"changed": changed / max(pixels, 1), "largest": largest, "pixels": pixels}


def _inside_tiles(setup: Setup, plan: Plan) -> list[Window]:
    """Windows in the middle of some tiles."""
    tiles = [t for box in (b for unit in plan.units for b in unit.tiles) if not (t := _wanted(box, plan)).empty]
    total = sum(t.height * t.width for t in tiles)
    count = int(np.clip(total * SAMPLED / PRECISION_SIDE**2, 1, PLACES))
    found = []
    for tile in tiles[:: max(1, len(tiles) // count)][:count]:
        side = min(PRECISION_SIDE, *tile.shape)
        y, x = ((start + (stop - side - start) // 2) for start, stop in zip((tile.y, tile.x), tile.stop, strict=True))
        top, left = (v // plan.alignment * plan.alignment for v in (y, x))
        found.append(Window(top, left, side, side).intersection(tile))
    return [window for window in found if not window.empty]


def _wanted(box: tuple[int, int, int, int], plan: Plan) -> Window:
    return Window(*box).intersection(plan.target)


def _tiles(plan: Plan) -> list[Window]:
    """The tiles, or the blended squares of a blended network, in target pixels."""
    for s, stream in enumerate(plan.streams):
        if stream.blended:
            found = [Window(*box) for unit in plan.units for box in unit.pieces[s]]
            half = stream.overlap // 2
            inner = (Window(w.y + half, w.x + half, w.height - 2 * half, w.width - 2 * half) for w in found)
            return [w.times(1 / stream.ratio).intersection(plan.target) for w in inner]
    return [Window(*box) for unit in plan.units for box in unit.tiles]


def _around_corners(plan: Plan) -> list[Window]:
    """Windows around the lower right corner of tiles, where the wanted window extends beyond it."""
    tiles = [tile for tile in _tiles(plan) if not tile.empty]
    largest = max((tile.shape for tile in tiles), key=min, default=(0, 0))
    side = round_up(max(8 * NEAR, min(SIDE, min(largest))), 2 * plan.alignment)
    found = []
    for tile in tiles:
        y, x = (v // plan.alignment * plan.alignment for v in tile.stop)
        window = Window(y - side // 2, x - side // 2, side, side).intersection(plan.target)
        if window.height > 6 * NEAR and window.width > 6 * NEAR and tile.stop != plan.target.stop:
            found.append(window)
    return found[:: max(1, len(found) // PLACES)][:PLACES]


def compute_window(setup: Setup, plan: Plan, window: Window) -> npt.NDArray[np.float32]:
    """`(K+1, h, w)` probabilities of a window, computed in tiles of its own; NaN where it could not be computed."""
    request = Request(
        configs=[model.config for model in setup.models],
        exact_margins=[margins_of(model) for model in setup.models],
        grid=setup.grid,
        window=window,
        margin=setup.options.margin,
        tile=max(window.shape),
        variants=len(VARIANTS[setup.options.tta]),
        limit=plan.limit,
        device=plan.device,
        threads=plan.threads,
        origin=(window.y, window.x),
    )
    single = replace(setup, window=window, mask=None)
    again = make_plan(request)
    out = np.full((len(setup.models[0].config.classes) + 1, *window.shape), np.nan, np.float32)
    work = single.passes(again, setup.devices[0])
    for results in work.run(work.works(None, ())):
        for result in results:
            part = result.tile.window.intersection(window)
            if result.maps is not None:
                source = part.slices((result.tile.window.y, result.tile.window.x))
                out[(slice(None), *part.slices((window.y, window.x)))] = result.maps.probabilities[
                    (slice(None), *source)
                ]
    return out


def _near_borders(plan: Plan, window: Window) -> npt.NDArray[np.bool_]:
    """The pixels of a window near a border of the plan's tiles."""
    near = np.zeros(window.shape, bool)
    for tile in _tiles(plan):
        around = tile.padded(NEAR).intersection(window)
        if around.empty:
            continue
        inner = Window(tile.y + NEAR, tile.x + NEAR, tile.height - 2 * NEAR, tile.width - 2 * NEAR)
        ring = np.ones(around.shape, bool)
        part = inner.intersection(around)
        if not part.empty:
            ring[part.slices((around.y, around.x))] = False
        near[around.slices((window.y, window.x))] |= ring
    return near

"""The parts of `editing.py`: each takes the command's options and gives numbers by name."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

import numpy as np
from editing_window import ZOOMS, Desk, Watch, array, pyramid, summary, timed

Numbers = dict[str, dict[str, Any]]
Times = list[tuple[float, float]]


def dabs(options: argparse.Namespace) -> Numbers:
    """One dab of 20 to 200 level-0 pixels, from the event to the updated texture; the frame beside it; one undo."""
    found: Numbers = {}
    with pyramid(options.side) as desk:
        for name, zoom in ZOOMS.items():
            desk.look(zoom)
            found |= _dabs_at(desk, name, zoom, options, lambda rng: int(rng.integers(20, 201)))
            found |= _undo(desk, f"{name}: one dab", 5 * options.strokes)
    return found


def large(options: argparse.Namespace) -> Numbers:
    """Brushes of 2,000 level-0 pixels, and of 50 pixels of the screen at the coarsest zoom."""
    found: Numbers = {}
    with pyramid(options.side) as desk:
        for name, zoom in ZOOMS.items():
            desk.look(zoom)
            found |= _dabs_at(desk, f"{name}, 2000 px", zoom, options, lambda rng: 2000)
        desk.layer.brush_in = "screen"
        desk.layer.brush_width = 50
        size = desk.layer.brush_size
        shown, kept, stored, release = [], [], [], []
        rng = np.random.default_rng(3)
        for number in range(options.strokes):
            desk.layer.selected_label = number % 3 + 1
            at = next(desk.track(rng, 1, 0))
            desk.send("hover", at)
            desk.rest(20)
            watch = Watch()
            desk.send("MouseButtonPress", at)
            desk.upload()
            shown.append(watch.read())
            desk.rest(20)
            _released(desk, at, release, kept, stored)
        desk.layer.brush_in = "data"
        name = f"coarsest, 50 px of the screen ({size} level-0 px)"
        found[f"{name}: shown"] = summary(shown)
        found[f"{name}: handler of the release"] = summary(release)
        found[f"{name}: release to journal"] = summary(kept)
        found[f"{name}: release to all levels"] = summary(stored)
        found |= _undo(desk, name, min(options.strokes, 5))
    return found


def strokes(options: argparse.Namespace) -> Numbers:
    """Strokes of many dabs: the handlers of each event, time to the journal, undo."""
    found: Numbers = {}
    with pyramid(options.side) as desk:
        for name, zoom in ZOOMS.items():
            desk.look(zoom)
            rng = np.random.default_rng(4)
            handlers, ends, kept, stored, counts = [], [], [], [], []
            for _ in range(options.strokes):
                desk.layer.brush_size = 200
                desk.layer.selected_label = int(rng.integers(1, 4))
                with timed(desk.layer, "_draw") as draws, timed(desk.layer, "paint") as paints:
                    pressed = False
                    for at in desk.track(rng, 10**6, max(1.0, 50 * zoom)):
                        if not pressed:
                            desk.send("hover", at)
                            desk.rest(10)
                        desk.send("MouseMove" if pressed else "MouseButtonPress", at)
                        pressed = True
                        desk.rest(1)
                        if len(paints) >= options.dabs:
                            break
                handlers += draws
                counts.append(len(paints))
                _released(desk, at, ends, kept, stored)
                desk.rest(30)
            row = f"{name}: strokes of {int(np.median(counts))} dabs"
            found[f"{row}: painting in one event"] = summary(handlers)
            found[f"{row}: handler of the release"] = summary(ends)
            found[f"{row}: release to journal"] = summary(kept)
            found[f"{row}: release to all levels"] = summary(stored)
            found |= _undo(desk, row, min(options.strokes, 5))
    return found


def beside(options: argparse.Namespace) -> Numbers:
    """The same dabs on napari's own layer over an array of 10,000 x 10,000, alternating with ours on the pyramid."""
    found: Numbers = {}
    with ExitStack() as stack:
        desks = {
            "ours": stack.enter_context(pyramid(options.side)),
            "napari's": stack.enter_context(array(options.array)),
        }
        for name, zoom in {"finest": 4.0, "middle": 0.25, "whole array": 0.06}.items():
            for who, desk in desks.items():
                desk.viewer.window._qt_window.raise_()
                desk.look(zoom)
                rows = _dabs_at(desk, f"{name}, {who}", zoom, options, lambda rng: int(rng.integers(20, 201)))
                found |= {key: value for key, value in rows.items() if "frame" not in key}
    return found


def memory(options: argparse.Namespace) -> Numbers:
    """Memory over many strokes all over the slide; MB above what the window took at the start."""
    import psutil

    process = psutil.Process()
    rng = np.random.default_rng(5)
    with pyramid(options.side) as desk:
        desk.look(ZOOMS["coarsest"])
        desk.layer.brush_size = 200
        before, highest, times = process.memory_info().rss, 0, []
        for number in range(options.count):
            at, reach = rng.integers(0, options.side, 2), rng.integers(-1500, 1500, 2)
            watch = Watch()
            with desk.layer.block_history():
                for share in np.linspace(0, 1, 4):
                    desk.layer.paint(at + share * reach, int(rng.integers(1, 4)), refresh=False)
                desk.layer._partial_labels_refresh()
            times.append(watch.read())
            if number % 20 == 0:
                desk.rest(1)
                highest = max(highest, process.memory_info().rss)
        limit = desk.layer.store._session.cache.limit / 2**20
    grown = (highest - before) / 2**20
    return {
        f"{options.count} strokes: MB above the start (limit of the cache {limit:.0f})": {
            "n": options.count,
            "max": round(grown, 1),
        },
        f"{options.count} strokes: one stroke of 4 dabs, on disk": summary(times),
    }


def _dabs_at(desk: Desk, name: str, zoom: float, options: argparse.Namespace, size: Any) -> Numbers:
    """Strokes by the mouse; each dab alone is brought to the texture, then each event as a user has it."""
    rng = np.random.default_rng(0)
    frames: list[tuple[float, float]] = []
    events: list[tuple[float, float]] = []
    with timed(desk.layer, "paint", desk.upload) as paints:
        for _ in range(options.strokes):
            _stroke(desk, rng, size, zoom, 25, None, [])
    for _ in range(options.strokes):
        _stroke(desk, rng, size, zoom, 25, frames, events)
    return {
        f"{name}: dab to texture": summary(paints),
        f"{name}: mouse event to texture": summary(events),
        f"{name}: frame": summary(frames),
    }


def _stroke(
    desk: Desk,
    rng: Any,
    size: Any,
    zoom: float,
    count: int,
    frames: list[tuple[float, float]] | None,
    events: list[tuple[float, float]],
) -> None:
    desk.layer.brush_size = size(rng)
    desk.layer.selected_label = int(rng.integers(1, 4))
    step = max(1.0, desk.layer.brush_size * zoom / 4)  # napari sets its dabs a quarter of the brush apart
    places = list(desk.track(rng, count, step))
    desk.send("hover", places[0])
    desk.rest(10)
    desk.send("MouseButtonPress", places[0])
    for at in places[1:]:
        watch = Watch()
        desk.send("MouseMove", at)
        desk.upload()
        events.append(watch.read())
        if frames is not None:
            drawn = desk.draw()
            if drawn[0] > 1e-3:  # else Qt had drawn it already
                frames.append(drawn)
        desk.rest(8)
    desk.send("MouseButtonRelease", places[-1])
    desk.rest(10)


def _released(desk: Desk, at: Any, handlers: Times, kept: Times, stored: Times) -> None:
    """Let go of the button; times until the stroke is in the journal, and until it is in all levels.

    Gone by since the release, and worked by the thread that writes.
    """
    store, count = desk.layer.store, len(stored)
    work: list[Watch] = []
    original = store.write_parts

    def write(parts: Any) -> Any:
        work.append(Watch())
        number = original(parts)
        stored.append((watch.read()[0], work[0].read()[1]))
        return number

    object.__setattr__(store, "write_parts", write)
    try:
        with timed(store._session.journal, "append", lambda: kept.append((watch.read()[0], work[0].read()[1]))):
            watch = Watch()
            handlers.append(desk.send("MouseButtonRelease", at))
            desk.layer._writer.settle()
    finally:
        object.__delattr__(store, "write_parts")
    assert len(stored) == len(kept) == count + 1
    desk.rest(10)


def _undo(desk: Desk, name: str, count: int) -> Numbers:
    """Undo and redo of the last strokes, to the texture."""
    layer = desk.layer
    times: dict[str, list[tuple[float, float]]] = {"undo": [], "redo": []}
    if name.endswith("one dab"):
        rng = np.random.default_rng(1)
        for _ in range(count):
            layer.brush_size = int(rng.integers(20, 201))
            at = next(desk.track(rng, 1, 0))
            desk.send("hover", at)
            desk.rest(5)
            desk.send("MouseButtonPress", at)
            desk.send("MouseButtonRelease", at)
            desk.rest(5)
        layer.wait()
    for what in ("undo", "redo"):
        for _ in range(count):
            watch = Watch()
            getattr(layer, what)()
            desk.upload()
            times[what].append(watch.read())
            desk.rest(5)
    return {f"{name}: {what} to texture": summary(values) for what, values in times.items()}

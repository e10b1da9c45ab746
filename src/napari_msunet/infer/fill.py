"""The tiles of a run computed and written: reading, network, fusion and writing overlap."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Full, Queue
from threading import Event as Flag
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet.constants import IGNORED
from napari_msunet.errors import SlideError
from napari_msunet.events import Event, FirstLook, Message, Progress, RegionDone
from napari_msunet.geometry import Window
from napari_msunet.infer.engine import Pass, TileResult
from napari_msunet.infer.in_view import FirstLooks, Look, Work
from napari_msunet.infer.network import is_out_of_memory
from napari_msunet.infer.plan import GENERATION, Plan
from napari_msunet.infer.postprocess import decide
from napari_msunet.infer.setup import Setup, plan_for
from napari_msunet.labels import Run

WAITING = 2
"""Batches that may wait to be written while the network goes on."""

HOPELESS = 8
"""Tiles that fail one after the other until the slide counts as unreadable."""

MOST_HALVINGS = 8


def fill(run: Run, setup: Setup, units: Collection[int] | None = None) -> Iterator[Event]:
    """Compute the unfinished tiles of a run that is open for writing.

    Parameters
    ----------
    run : Run
        Its description holds the plan, and the statistics of the slide where a model needs them.
    setup : Setup
        Of the same key as the run.
    units : collection of int, optional
        Which units of the plan; None: all.

    Yields
    ------
    Event
        `RegionDone` for each tile that is on the disk, and `Progress`.

    Raises
    ------
    SlideError
        If the slide cannot be read any more; what was finished stays.
    """
    setup = replace(setup, kept=run.description.get("statistics"))
    while True:
        plan = Plan(**run.description["plan"])
        try:
            yield from _Filling(run, setup, plan, units).events()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or units is not None or plan.generation >= MOST_HALVINGS:
                raise
            again = plan_for(setup, halvings=plan.generation + 1)
            run.note(plan=again.model_dump(mode="json"))
            text = f"There was too little memory for tiles of {plan.largest[0]} x {plan.largest[1]} pixels"
            yield Message(level="warning", text=f"{text}; going on with half of that at a time.")


def unfinished(run: Run, plan: Plan, units: Collection[int] | None = None) -> dict[int, Window]:
    """The tiles of a plan, or of some of its units, that are not in the ledger."""
    done = run.done
    older = [window for index, window in done.items() if index // GENERATION != plan.generation]
    found = {}
    for number, unit in enumerate(plan.units):
        if units is None or number in units:
            for n, box in enumerate(unit.tiles):
                window = Window(*box).intersection(plan.target)
                if unit.first + n not in done and not (older and _covered(window, older)):
                    found[unit.first + n] = window
    return found


def _covered(window: Window, others: Sequence[Window]) -> bool:
    """Whether all of a window lies in others, which do not overlap."""
    parts = (window.intersection(other) for other in others)
    return sum(p.height * p.width for p in parts if not p.empty) >= window.height * window.width


@dataclass
class _Filling:
    """One pass over what is left of a plan."""

    run: Run
    setup: Setup
    plan: Plan
    units: Collection[int] | None

    def events(self) -> Iterator[Event]:
        """Compute, write, tell."""
        left = unfinished(self.run, self.plan, self.units)
        total = sum(len(unit.tiles) for n, unit in enumerate(self.plan.units) if self.units is None or n in self.units)
        if len(left) < total:
            text = f"Going on with the run {self.run.key}: {total - len(left)} of {total} tiles are done."
            yield Message(text=text)
        yield Progress(done=total - len(left), total=total, unit="tiles")
        if not left:
            return
        self.run.expect(Window(*box).intersection(self.plan.target) for u in self.plan.units for box in u.tiles)
        clock = _Clock(total, left)
        failures = 0
        for found in self._written(left):
            if isinstance(found, Look):
                yield self._first_look(found)
                continue
            result, event = found
            failures = failures + 1 if result.failed else 0
            if failures == HOPELESS and self.setup.options.damaged == "refuse":
                raise SlideError(
                    f"The slide {self.setup.slide.path or ''} cannot be read any more ({result.failed}); its finished "
                    "tiles are kept, and the same prediction goes on from there."
                )
            if event is not None:
                yield event
            yield clock.tick(result.tile.index)

    def _written(self, left: dict[int, Window]) -> Iterator[tuple[TileResult, RegionDone | None] | Look]:
        """The results once they are on the disk; at most `WAITING` batches wait for it."""
        waiting: deque[tuple[list[TileResult], Future[list[RegionDone | None]]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            for results in self._computed(left):
                if isinstance(results, Look):
                    yield results
                    continue
                waiting.append((results, writer.submit(self._write, results)))
                while waiting and (len(waiting) > WAITING or waiting[0][1].done()):
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)

    def _computed(self, left: dict[int, Window]) -> Iterator[list[TileResult] | Look]:
        """The results, from one device or from several at once."""
        done = {n for unit in self.plan.units for n in range(unit.first, unit.first + len(unit.tiles))} - left.keys()
        passes = [self.setup.passes(self.plan, device) for device in self.setup.devices]
        works = passes[0].works(self.units, done)
        if len(passes) == 1:
            yield from passes[0].run_with_looks(works, FirstLooks(self.plan))
        else:
            yield from _together(passes, works)

    def _first_look(self, look: Look) -> FirstLook:
        """The labels of a piece in view, as they are told; the run keeps nothing of it."""
        labels = decide(look.probabilities, self.setup.thresholds)
        if self.setup.mask is not None:
            labels = np.where(self.setup.mask.on(self.setup.grid.scaled(look.scale), look.piece), labels, 0)
        return FirstLook.of(self.run.key, look.piece.times(1 / look.scale), labels.astype(np.uint8))

    def _write(self, results: list[TileResult]) -> list[RegionDone | None]:
        return [self._write_tile(result) for result in results]

    def _write_tile(self, result: TileResult) -> RegionDone | None:
        """Put a tile's wanted pixels on the disk and into the ledger."""
        tile = result.tile.window
        part = tile.intersection(self.plan.target)
        if result.maps is None:
            self.run.finish(result.tile.index, part, failed=result.failed or "unknown")
            return None
        inside = part.slices((tile.y, tile.x))
        probabilities = result.maps.probabilities[(slice(None), *inside)]
        labels = decide(probabilities, self.setup.thresholds)
        values: dict[str, npt.NDArray[Any]] = {"labels": labels, "raw": labels, "probabilities": probabilities}
        for name in ("disagreement", "entropy"):
            if (found := getattr(result.maps, name)) is not None:
                values[name] = found[inside]
        values = {name: array for name, array in values.items() if name in self.run.outputs}
        if self.run.outputs.get("probabilities") == "float16":  # the same rounding as NumPy's, which is slow at it
            values["probabilities"] = torch.from_numpy(probabilities).half().numpy()
        if self.setup.mask is not None:
            outside = ~self.setup.mask.on(self.setup.grid, part)
            if outside.any():
                for name, array in values.items():
                    values[name] = np.where(outside, array.dtype.type(IGNORED if name == "raw" else 0), array)
        self.run.write(part, values)
        self.run.finish(result.tile.index, part)
        self.run.coarsen([part])
        return RegionDone(run=self.run.key, y=part.y, x=part.x, height=part.height, width=part.width)


class _Clock:
    """How much is done, how fast, how long it will take: by pixels, since tiles differ in size."""

    def __init__(self, total: int, left: dict[int, Window]) -> None:
        self.total = total
        self.sizes = {n: window.height * window.width for n, window in left.items()}
        self.pixels = sum(self.sizes.values())
        self.computed = 0
        self.count = total - len(left)
        self.started = time.monotonic()

    def tick(self, tile: int) -> Progress:
        """One more tile is done."""
        size = self.sizes.get(tile, 0)
        self.computed += size
        self.count += tile in self.sizes
        rate = self.computed / max(1e-6, time.monotonic() - self.started)
        left = max(0.0, (self.pixels - self.computed) / rate) if rate else None
        return Progress(done=self.count, total=self.total, unit="tiles", seconds_left=left, rate=rate)


def _together(passes: Sequence[Pass], works: list[Work]) -> Iterator[list[TileResult] | Look]:
    """Several devices side by side, each with its own share of the units."""
    results: Queue[list[TileResult] | Look | BaseException | None] = Queue(maxsize=2 * len(passes))
    enough = Flag()

    def put(found: list[TileResult] | Look | BaseException | None) -> None:
        while not enough.is_set():
            with suppress(Full):
                results.put(found, timeout=0.1)
                return

    def serve(one: Pass, share: list[Work]) -> None:
        try:
            for found in one.run_with_looks(share, FirstLooks(one.plan)):
                put(found)
                if enough.is_set():
                    return
            put(None)
        except BaseException as error:  # it is raised again where the results are taken
            put(error)

    numbers = sorted({work.unit for work in works})
    if len(numbers) < len(passes):
        shares = [works[n :: len(passes)] for n in range(len(passes))]
    else:
        shares = [[w for w in works if numbers.index(w.unit) % len(passes) == n] for n in range(len(passes))]
    with ThreadPoolExecutor(len(passes), thread_name_prefix="device") as pool:
        for one, share in zip(passes, shares, strict=True):
            pool.submit(contextvars.copy_context().run, serve, one, share)
        running = len(passes)
        try:
            while running:
                found = results.get()
                if found is None:
                    running -= 1
                elif isinstance(found, BaseException):
                    raise found
                else:
                    yield found
        finally:
            enough.set()

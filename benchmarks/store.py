"""How fast and how safe the label store is, at 100,000 x 100,000 pixels and 8 levels.

python benchmarks/store.py [PART ...] [--times 50] [--strokes 2000] [--out benchmarks/results/store.json]

Parts: dabs, flushing, brush, long_stroke, opening, memory, merge, kills; without one, all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from store_kills import kills

from napari_msunet.geometry import Region, Window
from napari_msunet.labels import Brush, LabelStore, open_labels
from napari_msunet.labels.runs.run import Run

SIDE = 100_000
CLASSES = ("a", "b", "c")


def disc(diameter: int) -> np.ndarray:
    y, x = np.mgrid[:diameter, :diameter] - (diameter - 1) / 2
    return y * y + x * x <= diameter * diameter / 4


Times = list[tuple[float, float]]
"""Seconds by the clock, and of the processor in the calling thread (which a busy machine does not change)."""


def milliseconds(times: Times) -> dict[str, float]:
    wall, cpu = np.array(times).T * 1000
    found = {name: float(np.percentile(wall, p)) for name, p in (("median", 50), ("p95", 95), ("max", 100))}
    found |= {"cpu median": float(np.median(cpu)), "cpu p95": float(np.percentile(cpu, 95))}
    return {name: round(value, 2) for name, value in found.items()}


def memory() -> float:
    return psutil.Process().memory_info().rss / 2**20


@contextmanager
def new_store(dtype: str = "uint8") -> Iterator[LabelStore]:
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore.create(Path(folder) / "labels.ome.zarr", (SIDE, SIDE), 0.25, CLASSES, dtype=dtype)
        store.write(Region(0, 0, 1, 1), 1)
        yield store
        store.close()


def timed(times: Times, call: Any, *arguments: Any) -> Any:
    begin, busy = time.perf_counter(), time.thread_time()
    result = call(*arguments)
    times.append((time.perf_counter() - begin, time.thread_time() - busy))
    return result


def dab(store: LabelStore, spread: int, rng: np.random.Generator, times: Times) -> None:
    """One of 20 to 200 pixels, at a random place within `spread` pixels of the middle."""
    diameter = int(rng.integers(20, 201))
    y, x = rng.integers(SIDE // 2 - spread // 2, SIDE // 2 + spread // 2 - 200, 2).tolist()
    timed(times, store.write, Region(y, x, diameter, diameter), int(rng.integers(1, 4)), disc(diameter))


def dabs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Dabs in one view and anywhere as fast as they go, and undo and redo of them."""
    results: dict[str, Any] = {}
    for name, spread, dtype in (
        ("one view", 4000, "uint8"),
        ("anywhere", SIDE - 400, "uint8"),
        ("one view, objects", 4000, "uint32"),
    ):
        rng = np.random.default_rng(0)
        writes: Times = []
        undos: Times = []
        redos: Times = []
        with new_store(dtype) as store:
            for _ in range(arguments.strokes):
                dab(store, spread, rng, writes)
            for _ in range(200):
                timed(undos, store.undo)
            for _ in range(200):
                timed(redos, store.redo)
        results[name] = {
            "dab ms": milliseconds(writes),
            "undo ms": milliseconds(undos),
            "redo ms": milliseconds(redos),
        }
    return results


def flushing(arguments: argparse.Namespace) -> dict[str, Any]:
    """Dabs in one view at a person's pace (20 a second) with and without a flush going on all the time."""
    results: dict[str, Any] = {}
    with new_store() as store:
        for name in ("as it is", "flushing without pause"):
            rng = np.random.default_rng(1)
            writes: Times = []
            reads: Times = []
            flushes: Times = []
            ended = threading.Event()

            def flush(ended: threading.Event = ended, flushes: Times = flushes) -> None:
                while not ended.is_set():
                    timed(flushes, store.flush)

            thread = threading.Thread(target=flush)
            if name != "as it is":
                thread.start()
            for _ in range(arguments.strokes // 4):
                dab(store, 4000, rng, writes)
                timed(reads, store.read, Region(SIDE // 2, SIDE // 2, 1000, 1000))
                time.sleep(0.05)
            ended.set()
            if thread.is_alive():
                thread.join()
            results[name] = {"write ms": milliseconds(writes), "read 1000 x 1000 ms": milliseconds(reads)}
            if flushes:
                results[name]["flush ms"] = milliseconds(flushes)
                results[name]["flushes"] = len(flushes)
    return results


def brush(arguments: argparse.Namespace) -> dict[str, Any]:
    """One dab of a large brush over empty pixels, then over others, as a shape and as a mask; undo of it."""
    results: dict[str, Any] = {}
    for diameter in (2_000, 5_000, 16_000, 32_000):
        empty: Times = []
        painted: Times = []
        masked: Times = []
        undos: Times = []
        reads: Times = []
        with new_store() as store:
            for step in range(5):
                centre = (20_000.5 + 700 * step, 50_000.5)
                timed(empty if step == 0 else painted, store.write_shape, Brush([centre], diameter / 2), 1 + step % 3)
            for _ in range(3):
                timed(undos, store.undo)
            if diameter <= 5000:
                mask = disc(diameter)
                for step in range(4):
                    timed(masked, store.write, Region(60_000 + 700 * step, 500, diameter, diameter), 1 + step % 3, mask)
            size = (store.path / "journal" / "00000001.log").stat().st_size / 10**6
            ended = threading.Event()

            def read(ended: threading.Event = ended, store: LabelStore = store, reads: Times = reads) -> None:
                while not ended.is_set():
                    timed(reads, store.read, Region(0, 0, SIDE, SIDE), len(store.levels) - 1)

            thread = threading.Thread(target=read)
            thread.start()
            store.write_shape(Brush([(30_000.5, 50_000.5)], diameter / 2), 2)
            ended.set()
            thread.join()
        results[f"{diameter} px"] = {
            "over nothing ms": milliseconds(empty),
            "over labels ms": milliseconds(painted),
            "undo ms": milliseconds(undos),
            "journal MB": round(size, 2),
            "reading the coarsest level meanwhile ms": milliseconds(reads),
        }
        if masked:
            results[f"{diameter} px"]["as a mask ms"] = milliseconds(masked)
    return results


def long_stroke(arguments: argparse.Namespace) -> dict[str, Any]:
    """A stroke of 500 dabs of 200 pixels, as the layer stores it: one window in each chunk; undo and redo."""
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.uniform(-40, 50, (500, 2)), axis=0) + 40_000
    whole: dict[tuple[int, int], np.ndarray] = {}
    for y, x in steps.astype(int).tolist():
        for cy in range(y // 512, (y + 199) // 512 + 1):
            for cx in range(x // 512, (x + 199) // 512 + 1):
                tile = np.zeros((912, 912), np.bool_)
                tile[200 + y - cy * 512 : 400 + y - cy * 512, 200 + x - cx * 512 : 400 + x - cx * 512] = disc(200)
                whole.setdefault((cy, cx), np.zeros((512, 512), np.bool_))[...] |= tile[200:712, 200:712]
    writes: Times = []
    turns: Times = []
    with new_store() as store:
        noise = rng.integers(0, 4, (4096, 4096), dtype=np.uint8)
        store.write(Region(39_936, 39_936, 4096, 4096), noise)
        for value in (1, 2, 3):
            parts = [(Window(cy * 512, cx * 512, 512, 512), value, mask) for (cy, cx), mask in whole.items()]
            timed(writes, store.write_parts, parts)
        for _ in range(5):
            for _ in range(3):
                timed(turns, store.undo)
            for _ in range(3):
                timed(turns, store.redo)
    return {"chunks": len(whole), "write ms": milliseconds(writes), "undo and redo ms": milliseconds(turns)}


def opening(arguments: argparse.Namespace) -> dict[str, Any]:
    """A store with 10,000 journal entries: opened after it was closed, and after a kill a second after the last."""
    import shutil

    rng, results = np.random.default_rng(0), {}
    with new_store() as store:
        for _ in range(10_000):
            dab(store, 20_000, rng, [])
        time.sleep(2)
        killed = Path(shutil.copytree(store.path, store.path.with_name("killed.ome.zarr")))
        dab(store, 20_000, rng, [])
        at_once = Path(shutil.copytree(store.path, store.path.with_name("at once.ome.zarr")))
        store.close()
        places = {"closed": store.path, "killed after a second": killed, "killed at once": at_once}
        for name, path in places.items():
            times: Times = []
            again = timed(times, open_labels, path)
            timed(times, again.hold)
            timed(times, again.undo)
            again.close()
            steps = dict(zip(("open s", "hold s", "first undo s"), times, strict=True))
            results[name] = {step: [round(wall, 3), f"cpu {cpu:.3f}"] for step, (wall, cpu) in steps.items()}
    return results


def spread_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """The process's memory while strokes are made all over the slide, as fast as they go."""
    rng, peak = np.random.default_rng(0), 0.0
    times: Times = []
    with new_store() as store:
        gc.collect()
        start = memory()
        begin = time.perf_counter()
        for _ in range(arguments.everywhere):
            dab(store, SIDE - 400, rng, times)
            peak = max(peak, memory())
        seconds = time.perf_counter() - begin
        assert store._session is not None
        limit = store._session.cache.limit / 2**20
    return {
        "strokes": arguments.everywhere,
        "before MiB": round(start),
        "peak MiB": round(peak),
        "cache limit MiB": round(limit),
        "over the limit MiB": round(peak - start - limit),
        "write ms": milliseconds(times),
        "seconds": round(seconds),
    }


def filled_run(store: LabelStore, side: int) -> Run:
    """A run with patches of classes, as a prediction has them, on `side` x `side` pixels in the middle."""
    run = store.create_run("benchmark", {}, CLASSES, {"labels": "uint8"})
    small = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    block = np.repeat(np.repeat(small, 32, 0), 32, 1)
    with run.writing():
        start = SIDE // 2 - side // 2
        for number, y in enumerate(range(start, start + side, 2048)):
            for x in range(start, start + side, 2048):
                run.write(Window(y, x, 2048, 2048), {"labels": block})
                run.finish(number * 1000 + x // 2048, Window(y, x, 2048, 2048))
    return run


def merge(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merging a run of 20,480 x 20,480 pixels, and undo of dabs over it."""
    with new_store() as store:
        side = 20 * 1024
        run = filled_run(store, side)
        begin = time.perf_counter()
        store.merge(run)
        seconds = time.perf_counter() - begin
        rng = np.random.default_rng(0)
        undos: Times = []
        for _ in range(200):
            dab(store, 4000, rng, [])
        for _ in range(200):
            timed(undos, store.undo)
    return {"seconds": round(seconds, 1), "Mpx/s": round(side * side / seconds / 1e6), "undo ms": milliseconds(undos)}


PARTS = {
    "dabs": dabs,
    "flushing": flushing,
    "brush": brush,
    "long_stroke": long_stroke,
    "opening": opening,
    "memory": spread_memory,
    "merge": merge,
    "kills": lambda arguments: kills(arguments.times),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which numbers; all of them by default")
    parser.add_argument("--times", type=int, default=50, help="of kills")
    parser.add_argument("--strokes", type=int, default=2000, help="of dabs")
    parser.add_argument("--everywhere", type=int, default=10_000, help="strokes of memory")
    parser.add_argument("--out", type=Path, default=None, help="where the numbers go, as JSON; other parts in it stay")
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    for name in arguments.parts or PARTS:
        found[name] = PARTS[name](arguments)
        for what, value in found[name].items():
            print(f"{name:12} {what:34} {value}", flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

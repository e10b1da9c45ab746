"""What is in view: the time to the first labels, through the worker process of the window."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .network import record
from .process import measured
from .report import Row, row
from .setting import Setting

SIDE = 1024
TIMES = 3


def view(setting: Setting) -> list[Row]:
    """The better half of some views, each at a place of its own, beside the bare network on the same windows."""
    given = {"slide": setting.slide(), "model": setting.model(), "side": 256 if setting.quick else SIDE}
    found = measured("view:viewed", setting.env(), out=setting.folder, **given)
    bare = measured("view:bare", setting.env(), **given)
    name = f"{given['side']} x {given['side']}"
    return [
        row(f"{name} in view: the bare network on the same windows", bare, "s"),
        row(f"{name} in view: labels of the first tile read by the window", found["first"], "s"),
        row(f"{name} in view: all of it", found["all"], "s"),
        row("first labels later than the bare network", found["first"] - bare, "s", at_most=0.3),
        *_large(setting),
    ]


def _large(setting: Setting) -> list[Row]:
    """All of the usual slide in view: when its coarsest scale shows it, and when tiles do."""
    given = {"slide": setting.slide(), "model": setting.model(), "side": setting.side}
    found = measured("view:looked_at", setting.env(), out=setting.folder, **given)
    name = f"{setting.side} x {setting.side} in view"
    return [
        row(f"{name}: all of it shown by the coarsest scale", found["looks"] or "-", "s"),
        row(f"{name}: the first tile", found["first"], "s"),
        row(f"{name}: the last tile", found["last"], "s"),
    ]


def places(side: int) -> list[tuple[float, float, float, float]]:
    """Of the views, in level-0 pixels; the first one warms up."""
    return [(100.0 + 37 * n, 60.0 + 53 * n, float(side), float(side)) for n in range(TIMES + 1)]


def viewed(slide: str, model: str, out: str, side: int) -> dict[str, float]:
    """Seconds from giving the job to the worker until the labels of the first tile, and of all, have been read."""
    from napari_msunet.config import PredictJob
    from napari_msunet.events import RegionDone
    from napari_msunet.geometry import Window
    from napari_msunet.jobs.client import WorkerClient
    from napari_msunet.labels import open_labels

    firsts, wholes = [], []
    store = Path(out) / "view.zarr"

    def read(tile: Any) -> None:
        if isinstance(tile, RegionDone):
            open_labels(store).run(tile.run).read(Window(tile.y, tile.x, tile.height, tile.width))

    with WorkerClient() as client:
        for number, region in enumerate(places(side)):
            job = PredictJob(slide=Path(slide), model=Path(model), out=store, region=region)
            tiles = _timed(client, job, read)[RegionDone]
            if number:
                firsts.append(tiles[0])
                wholes.append(tiles[-1])
            time.sleep(0.5)
    return {"first": sorted(firsts)[(len(firsts) - 1) // 2], "all": sorted(wholes)[(len(wholes) - 1) // 2]}


def looked_at(slide: str, model: str, out: str, side: int) -> dict[str, float | None]:
    """Seconds until the last first look (None: there was none, the view being small), the first and the last tile."""
    from napari_msunet.config import PredictJob
    from napari_msunet.events import FirstLook, RegionDone
    from napari_msunet.jobs.client import WorkerClient

    job = PredictJob(slide=Path(slide), model=Path(model), out=Path(out) / "looked.zarr")
    warm = job.model_copy(update={"out": Path(out) / "warm.zarr", "region": (0.0, 0.0, 512.0, 512.0)})
    with WorkerClient() as client:
        _timed(client, warm)
        told = _timed(client, job, view=(0.0, 0.0, float(side), float(side)))
    looks, tiles = told[FirstLook], told[RegionDone]
    return {"looks": looks[-1] if looks else None, "first": tiles[0], "last": tiles[-1]}


def _timed(
    client: Any, job: Any, seen: Callable[[Any], None] | None = None, view: tuple[float, ...] | None = None
) -> dict[type, list[float]]:
    """Of each kind of event, the seconds from giving the job until it was told and `seen`."""
    told: dict[type, list[float]] = defaultdict(list)
    ended = threading.Event()
    failed: list[str] = []
    begin = time.perf_counter()

    def event(happened: Any) -> None:
        if seen is not None:
            seen(happened)
        told[type(happened)].append(time.perf_counter() - begin)

    def end(outcome: str, text: str | None, _: Any) -> None:
        failed.extend([text or outcome] if outcome != "done" else [])
        ended.set()

    handle = client.submit(job, on_event=event, on_end=end)
    if view is not None:
        handle.look(view)
    ended.wait()
    if failed:
        raise RuntimeError(failed[0])
    return told


def bare(slide: str, model: str, side: int) -> float:
    """Seconds of the branches' plain forward on the windows, margins included, that the first tile of a view needs."""
    import torch

    import napari_msunet as ms
    from napari_msunet.inference import engine
    from napari_msunet.inference.image import predict_image
    from napari_msunet.inference.network import TorchNetwork

    network = ms.load_model(Path(model)).eval()
    calls, fusions = record(TorchNetwork, engine)
    with ms.open_slide(Path(slide)) as opened:
        predict_image(network, opened, opened.grid().centres(ms.Region(*places(side)[0])))
    inputs = [
        (network.branches[branch], torch.rand(shape).contiguous(memory_format=torch.channels_last))
        for branch, shape, _, _ in calls[: fusions[0][-1]]
    ]
    times = []
    with torch.inference_mode():
        for _ in range(TIMES + 1):
            begin = time.perf_counter()
            for branch, x in inputs:
                branch.head(branch.network(network.normalise(x)))
            times.append(time.perf_counter() - begin)
    return sorted(times[1:])[(TIMES - 1) // 2]

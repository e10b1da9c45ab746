"""What is in view: the time to the first labels, through the worker process of the window."""

from __future__ import annotations

import threading
import time
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
    from napari_msunet.labels import open_labels
    from napari_msunet.worker.client import WorkerClient

    firsts, wholes = [], []
    store = Path(out) / "view.zarr"
    with WorkerClient() as client:
        for number, region in enumerate(places(side)):
            told: list[tuple[float, Any]] = []
            ended = threading.Event()
            failed: list[Any] = []

            def event(happened: Any, told: list[Any] = told) -> None:
                if isinstance(happened, RegionDone):
                    labels = open_labels(store)
                    box = Window(happened.y, happened.x, happened.height, happened.width)
                    labels.run(happened.run).read(box)
                    told.append((time.perf_counter(), happened))

            def end(outcome: str, text: Any, _: Any, failed: list[Any] = failed, ended: Any = ended) -> None:
                failed.extend([text] if outcome != "done" else [])
                ended.set()

            job = PredictJob(slide=Path(slide), model=Path(model), out=store, region=region)
            begin = time.perf_counter()
            client.submit(job, on_event=event, on_end=end)
            ended.wait()
            if failed or not told:
                raise RuntimeError(str(failed))
            if number:
                firsts.append(told[0][0] - begin)
                wholes.append(told[-1][0] - begin)
            time.sleep(0.5)
    return {"first": sorted(firsts)[(len(firsts) - 1) // 2], "all": sorted(wholes)[(len(wholes) - 1) // 2]}


def looked_at(slide: str, model: str, out: str, side: int) -> dict[str, float | None]:
    """Seconds until the last first look (None: there was none, the view being small), the first and the last tile."""
    from napari_msunet.config import PredictJob
    from napari_msunet.events import FirstLook, RegionDone
    from napari_msunet.worker.client import WorkerClient

    with WorkerClient() as client:

        def timed(name: str, region: Any = None) -> dict[type, list[float]]:
            told: dict[type, list[float]] = {FirstLook: [], RegionDone: []}
            ended = threading.Event()
            job = PredictJob(slide=Path(slide), model=Path(model), out=Path(out) / name, region=region)
            begin = time.perf_counter()

            def event(happened: Any) -> None:
                told.get(type(happened), []).append(time.perf_counter() - begin)

            handle = client.submit(job, on_event=event, on_end=lambda *_: ended.set())
            handle.look((0.0, 0.0, float(side), float(side)))
            ended.wait()
            return told

        timed("warm.zarr", (0.0, 0.0, 512.0, 512.0))
        told = timed("looked.zarr")
    looks, tiles = told[FirstLook], told[RegionDone]
    return {"looks": looks[-1] if looks else None, "first": tiles[0], "last": tiles[-1]}


def bare(slide: str, model: str, side: int) -> float:
    """Seconds of the branches' plain forward on the windows, margins included, that the first tile of a view needs."""
    import torch

    import napari_msunet as ms
    from napari_msunet.infer import engine
    from napari_msunet.infer.image import predict_image
    from napari_msunet.infer.network import TorchNetwork

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

"""Two Dask workers of one thread beside two processes without Dask; a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from .kills import chunks
from .process import HERE, command, measured
from .report import Row, row
from .setting import Setting


def cluster(setting: Setting) -> list[Row]:
    """The same slide by two workers, by two bare processes (half each), and by two workers one of which dies."""
    slide, model = setting.slide(), setting.model()
    side, env = setting.side, setting.env(threads=1)
    halves = [(0.0, 0.0, side / 2, float(side)), (side / 2, 0.0, side / 2, float(side))]
    bare = _together(
        setting, [{"region": half, "out": setting.folder / f"half-{n}.zarr"} for n, half in enumerate(halves)]
    )
    given = {"slide": slide, "model": model}
    outs = [setting.folder / f"dask-{name}.zarr" for name in ("two", "killed")]
    two = measured("cluster:workers", env, **given, out=outs[0], kill=False)
    killed = measured("cluster:workers", env, **given, out=outs[1], kill=True)
    expected, found = chunks(outs[0]), chunks(outs[1])
    return [
        row("two processes of one thread without Dask, each with half of the slide", bare, "s"),
        row("two Dask workers of one thread", two["seconds"], "s"),
        row(
            "pixels per second of the workers over those of the two processes", bare / two["seconds"], "", at_least=0.9
        ),
        row("one worker killed after some tiles: seconds", killed["seconds"], "s"),
        row("tiles finished when it was killed", killed["tiles"]),
        row("of the chunks, those with the same bytes", _same(expected, found), "%", at_least=100),
    ]


def _same(expected: dict[str, str], found: dict[str, str]) -> float:
    names = expected.keys() | found.keys()
    return 100 * sum(expected.get(name) == found.get(name) for name in names) / max(1, len(names))


def _together(setting: Setting, each: list[dict[str, Any]]) -> float:
    """Seconds from the moment that all processes are ready until the last one has ended its prediction."""
    children = []
    for given in each:
        arguments = {"slide": setting.slide(), "model": setting.model(), **given}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        env = setting.env(threads=1)
        children.append(subprocess.Popen(command("cluster:half", arguments), env=env, cwd=HERE, **pipes))
    for child in children:
        child.stdout.readline()
    begin = time.perf_counter()
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        json.loads(child.stdout.readline())
    seconds = time.perf_counter() - begin
    for child in children:
        child.communicate()
    return seconds


def half(slide: str, model: str, out: str, region: list[float]) -> None:
    """Predict a part when told to, and say so when it is done."""
    import sys

    import napari_msunet as ms

    loaded = ms.load_model(Path(model))
    _ = loaded.branch_margins
    print("ready", flush=True)
    sys.stdin.readline()
    ms.predict(Path(slide), loaded, Path(out), region=ms.Region(*region)).close()
    print("1", flush=True)


def workers(slide: str, model: str, out: str, kill: bool) -> dict[str, Any]:
    """Seconds of a prediction by two workers that have loaded torch and the model; one may be killed in its middle."""
    from napari_msunet.config import Cluster, PredictJob
    from napari_msunet.events import RegionDone
    from napari_msunet.inference.cluster import predict_on, workers_of

    job = PredictJob(slide=Path(slide), model=Path(model), out=Path(out))
    small = job.model_copy(update={"region": (0.0, 0.0, 64.0, 64.0), "out": Path(out).with_suffix(".warm.zarr")})
    tiles = 0
    with workers_of(Cluster(at="local:2", threads=1)) as started:
        pids = list(started.client.run(os.getpid).values())
        started.client.run(_load, str(model))
        list(predict_on(small, started))
        begin = time.perf_counter()
        for event in predict_on(job, started):
            if isinstance(event, RegionDone):
                tiles += 1
                if kill and tiles == 2:
                    threading.Timer(1.0, os.kill, (pids[0], signal.SIGKILL)).start()
        return {"seconds": time.perf_counter() - begin, "tiles": tiles if not kill else 2}


def _load(model: str) -> None:
    """In a worker: what its first task would have to do."""
    from napari_msunet.inference.model_cache import MODEL_CACHE

    MODEL_CACHE.models, MODEL_CACHE.slides = 8, 2
    _ = MODEL_CACHE.model(Path(model)).branch_margins

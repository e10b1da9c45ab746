"""How much of a prediction is the network: its share of the time, the margins, and its pace beside the bare network."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from .process import measured
from .report import Row, row
from .setting import Setting

SIDES = (512, 1024, 1536, 2048, 3072)
"""Of the tiles of the bare network."""

ROUNDS = 2
"""Through all sides, for the bare network's best tile."""

TIMES = 3
"""Predictions of the usual slide."""


def network(setting: Setting) -> list[Row]:
    """A prediction of the largest slide and of the usual one, and the bare network on its best tile around it."""
    model = setting.model()
    bare = measured("network:bare", setting.env(), model=model, sides=(256, 512) if setting.quick else SIDES)
    side, best = max(bare.items(), key=lambda item: item[1])
    rows = [row(f"bare network, best of its tiles ({side} x {side}), its fastest pass", best, "Mpx/s")]

    def pace() -> float:
        found: float = measured("network:sustained", setting.env(), model=model, side=int(side))
        return found

    large = 1280 if setting.quick else 8192
    for size, times in ((large, 1), (setting.side, 1 if setting.quick else TIMES)):
        slide = setting.slide(size)
        measured("network:planned", setting.env(), slide=slide, model=model)  # measures the network's speeds, once
        found = []
        for n in range(times):
            out = setting.folder / f"network-{size}-{n}.zarr"
            before = pace()
            found.append(measured("network:prediction", setting.env(), slide=slide, model=model, out=out))
            found[-1]["bare"] = (before + pace()) / 2
        rows += _rows(found, size, asked=size == large or setting.quick)
    return rows + _onnx(setting, median(f["useful"] / f["wall"] for f in found))


def _onnx(setting: Setting, torch_rate: float) -> list[Row]:
    """The usual slide in ONNX Runtime, where it is installed."""
    if find_spec("onnxruntime") is None:
        return [row("ONNX Runtime: not installed", "-")]
    out = setting.folder / "network-onnx.zarr"
    found = measured("network:in_onnx", setting.env(), slide=setting.slide(), model=setting.model(), out=out)
    rate = setting.side**2 / found["wall"] / 1e6
    name = f"{setting.side} x {setting.side} in ONNX Runtime"
    return [
        row(f"{name}: exporting the model, once in a process", found["export"], "s"),
        row(f"{name}: useful pixels", rate, "Mpx/s"),
        row(f"{name}: useful pixels per second over PyTorch's", rate / torch_rate),
        row(f"{name}: memory at the peak over the bare process", found["memory"], "GB"),
    ]


def _rows(found: list[dict[str, Any]], size: int, asked: bool) -> list[Row]:
    """What some predictions of a slide took, in the middle."""
    name = f"{size} x {size}" + (f", the middle of {len(found)}" if len(found) > 1 else "")
    target = (lambda **given: given) if asked else (lambda **given: {})

    def middle(of: Callable[[dict[str, Any]], float]) -> float:
        return median(of(f) for f in found)

    return [
        row(f"{name}: wall time, from opening the file to the finished pyramid", middle(lambda f: f["wall"]), "s"),
        row(
            f"{name}: of it the network's own time on the windows it was given, run again without all else",
            middle(lambda f: (f["network alone"] + f["fusion alone"]) / f["wall"]),
            "",
            **target(at_least=0.9),
        ),
        row(f"{name}: the same without the fusion of the scales", middle(lambda f: f["network alone"] / f["wall"])),
        row(
            f"{name}: of it the network and the fusion as they ran",
            middle(lambda f: f["network in the run"] / f["wall"]),
        ),
        row(
            f"{name}: pixels through the network over margin-free ones", found[0]["through"], "", **target(at_most=1.3)
        ),
        row(f"{name}: useful pixels", middle(lambda f: f["useful"] / f["wall"]), "Mpx/s"),
        row(f"{name}: the bare network just before and after", middle(lambda f: f["bare"]), "Mpx/s"),
        row(
            f"{name}: useful pixels per second over the bare network's",
            middle(lambda f: f["useful"] / f["wall"] / f["bare"]),
            "",
            **target(at_least=0.7),
        ),
        row(f"{name}: largest tile", found[0]["tile"]),
        row(f"{name}: memory at the peak over the bare process", max(f["memory"] for f in found), "GB"),
    ]


# ----------------------------------------------------------------------------------------------- in their own processes


def bare(model: str, sides: list[int]) -> dict[int, float]:
    """Mpx/s (of the target grid) of the branches' plain forward on a tile in memory, the best of some passes.

    All sides in turn and again: a moment in which the machine is busy with other things does not choose the side.
    """
    import torch

    import napari_msunet as ms

    network = ms.load_model(Path(model)).eval()
    found = dict.fromkeys(sides, 0.0)
    for side in list(sides) * ROUNDS:
        inputs = _tile(network, side)
        with torch.inference_mode():
            for _ in range(3 if side < 1024 else 2):
                begin = time.perf_counter()
                _pass(network, inputs)
                found[side] = max(found[side], side * side / (time.perf_counter() - begin) / 1e6)
    return found


def sustained(model: str, side: int, seconds: float = 6.0) -> float:
    """Mpx/s of the bare network on its best tile over some seconds, the first pass left out."""
    import torch

    import napari_msunet as ms

    network = ms.load_model(Path(model)).eval()
    inputs = _tile(network, side)
    passes, begin = -1, 0.0
    with torch.inference_mode():
        while passes < 2 or time.perf_counter() - begin < seconds:
            _pass(network, inputs)
            passes += 1
            begin = begin or time.perf_counter()
    return passes * side * side / (time.perf_counter() - begin) / 1e6


def _tile(network: Any, side: int) -> list[Any]:
    """What each branch gets of a tile of the target grid."""
    import torch

    return [
        torch.rand(1, 3, int(side * scale), int(side * scale)).contiguous(memory_format=torch.channels_last)
        for scale in network.config.scales
    ]


def _pass(network: Any, inputs: list[Any]) -> None:
    for i, x in enumerate(inputs):
        branch = network.branches[0 if network.config.shared else i]
        branch.head(branch.network(network.normalise(x)))


def planned(slide: str, model: str) -> dict[str, Any]:
    """What `predict --plan` says."""
    from napari_msunet.config import PredictJob
    from napari_msunet.inference.predict import describe_plan

    return describe_plan(PredictJob(slide=Path(slide), model=Path(model), out=Path(slide).with_suffix(".none")))


def prediction(slide: str, model: str, out: str, **options: Any) -> dict[str, Any]:
    """A prediction from the file to the finished pyramid; then the same windows through the network alone."""
    import torch

    import napari_msunet as ms
    from napari_msunet.inference import engine, network
    from napari_msunet.inference.plan import Plan

    loaded = ms.load_model(Path(model))
    _ = loaded.branch_margins  # measured when a model is loaded in a worker, too
    before = psutil.Process().memory_info().rss / 1e9
    fuse = engine.fuse  # as it is before `record` puts its own in its place
    calls, fusions = record(network.TorchNetwork, engine)
    begin = time.perf_counter()
    labels = ms.predict(Path(slide), loaded, Path(out), **options)
    wall = time.perf_counter() - begin
    memory = _peak() - before
    plan = Plan(**labels.runs[-1].description["plan"])
    labels.close()
    own = network.TorchNetwork(loaded, torch.device("cpu"))
    with torch.inference_mode():
        alone = sum(_timed(own, branch, shape, keep) for branch, shape, keep, _ in calls)
        fusing = sum(_timed_fusion(fuse, own, *call[1:-1]) for call in fusions)
    pixels = sum(shape[0] * shape[2] * shape[3] for _, shape, _, _ in calls)
    return {
        "wall": wall,
        "network alone": alone,
        "fusion alone": fusing,
        "network in the run": sum(call[3] for call in calls) + sum(call[0] for call in fusions),
        "through": pixels / plan.margin_free,
        "through planned": plan.through / plan.margin_free,
        "useful": plan.useful / 1e6,
        "tile": "{} x {}".format(*plan.largest),
        "memory": memory,
    }


def in_onnx(slide: str, model: str, out: str) -> dict[str, float]:
    """The same prediction in ONNX Runtime; what is exported before is not in its time."""
    import napari_msunet as ms
    from napari_msunet.inference.network import exported

    loaded = ms.load_model(Path(model))
    _ = loaded.branch_margins
    begin = time.perf_counter()
    exported(loaded)
    export = time.perf_counter() - begin
    before, begin = psutil.Process().memory_info().rss / 1e9, time.perf_counter()
    ms.predict(Path(slide), loaded, Path(out), engine="onnx").close()
    return {"export": export, "wall": time.perf_counter() - begin, "memory": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def record(kind: Any, engine: Any) -> tuple[list[Any], list[Any]]:
    """What the network and the fusion are given from now on, and how long they take (last: calls until then)."""
    calls: list[Any] = []
    fusions: list[Any] = []
    run, fuse = kind.run, engine.fuse

    def recorded(self: Any, branch: int, x: Any, keep: Any) -> Any:
        begin = time.perf_counter()
        result = run(self, branch, x, keep)
        calls.append((branch, tuple(x.shape), keep, time.perf_counter() - begin))
        return result

    def recorded_fusion(networks: Any, streams: Any, zs: Any, shape: Any, wanted: Any) -> Any:
        begin = time.perf_counter()
        result = fuse(networks, streams, zs, shape, wanted)
        shapes = [[tuple(z.shape) for z in variants] for variants in zs]
        fusions.append((time.perf_counter() - begin, streams, shapes, shape, wanted, len(calls)))
        return result

    kind.run, engine.fuse = recorded, recorded_fusion
    return calls, fusions


def _timed(own: Any, branch: int, shape: tuple[int, ...], keep: Any) -> float:
    import torch

    x = torch.rand(shape)
    begin = time.perf_counter()
    own.model.run_branch(branch, x, keep)
    return time.perf_counter() - begin


def _timed_fusion(fuse: Any, own: Any, streams: Any, shapes: Any, shape: Any, wanted: Any) -> float:
    import torch

    zs = [[torch.randn(z).contiguous(memory_format=torch.channels_last) for z in variants] for variants in shapes]
    begin = time.perf_counter()
    fuse([own], streams, zs, shape, wanted)
    return time.perf_counter() - begin

"""The same on a graphics card, where there is one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .process import measured
from .report import Row, row
from .setting import Setting

SIDES = (512, 1024, 2048, 4096)
MPP = 0.5


def gpu(setting: Setting) -> list[Row]:
    """A prediction in bfloat16 beside the bare network on its best tile, and seconds per mm²."""
    import torch

    if not torch.cuda.is_available():
        return [row("no GPU here: not measured", "-")]
    given = {"model": setting.model()}
    bare = measured("gpu:bare", setting.env(None), sides=SIDES[:2] if setting.quick else SIDES, **given)
    side, best = max(bare.items(), key=lambda item: item[1])
    slide = setting.slide(setting.side if setting.quick else 16_384)
    wall = measured("gpu:prediction", setting.env(None), slide=slide, out=setting.folder / "gpu.zarr", **given)
    area = wall["pixels"] * (MPP / 1000) ** 2
    return [
        row(f"{torch.cuda.get_device_name()}: bare network, best of its tiles ({side} x {side})", best, "Mpx/s"),
        row(
            "prediction, from opening the file to the finished pyramid", wall["pixels"] / wall["seconds"] / 1e6, "Mpx/s"
        ),
        row("of the bare network's rate", wall["pixels"] / wall["seconds"] / 1e6 / best, "", at_least=0.9),
        row(f"seconds per mm² at {MPP} µm/px", wall["seconds"] / area, "s", at_most=0.1),
    ]


def bare(model: str, sides: list[int]) -> dict[int, float]:
    """Mpx/s (of the target grid) of the branches' plain forward in bfloat16, channels-last, on a resident tile."""
    import torch

    import napari_msunet as ms

    network = ms.load_model(Path(model)).eval().to("cuda")
    found = {}
    for side in sides:
        inputs = [
            torch.rand(1, 3, int(side * scale), int(side * scale), device="cuda").to(memory_format=torch.channels_last)
            for scale in network.config.scales
        ]
        best = float("inf")
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for _ in range(10):
                torch.cuda.synchronize()
                begin = time.perf_counter()
                for branch, x in zip(network.branches, inputs, strict=True):
                    branch.head(branch.network(network.normalise(x)))
                torch.cuda.synchronize()
                best = min(best, time.perf_counter() - begin)
        found[side] = side * side / best / 1e6
    return found


def prediction(slide: str, model: str, out: str) -> dict[str, Any]:
    """Seconds of a prediction after a small one, which loads what CUDA needs."""
    import napari_msunet as ms

    loaded = ms.load_model(Path(model))
    options = {"device": "cuda", "precision": "bfloat16"}
    small = ms.Region(0, 0, 1024, 1024)
    ms.predict(Path(slide), loaded, Path(out).with_suffix(".warm.zarr"), region=small, **options).close()
    begin = time.perf_counter()
    labels = ms.predict(Path(slide), loaded, Path(out), **options)
    seconds = time.perf_counter() - begin
    height, width = labels.shape
    labels.close()
    return {"seconds": seconds, "pixels": height * width}

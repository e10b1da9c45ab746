"""The same one-scale network here, in MONAI's sliding windows and in TIAToolbox: how exact, how fast."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from .process import measured
from .report import Row, row
from .setting import Setting

PATCH = 512
OVERLAPS = (0.25, 0.5)
TILE = 1e-4
"""Difference in probability that the exact tiling may have."""


def others(setting: Setting) -> list[Row]:
    """Each tool as installed, and with our memory format, allocator and threads."""
    slide, model, folder = setting.slide(), setting.model("one scale"), setting.folder
    given = {"slide": slide, "model": model, "out": folder}
    measured("others:whole", setting.env(), **given)
    ours = measured("others:ours", setting.env(), **given)
    rows = [
        row("ours: largest difference in probability from the whole image", ours["difference"], "", at_most=TILE),
        row("ours: changed labels", ours["changed"], "", at_most=0),
        row("ours: from the file to the finished pyramid", ours["seconds"], "s"),
    ]
    for overlap in OVERLAPS if "monai" in setting.python else ():
        name, least = f"MONAI, overlap {overlap:g}", (2.0, 1.3) if overlap == OVERLAPS[0] else (None, None)
        rows += _beside(setting, name, "monai", ours["seconds"], least, {**given, "overlap": overlap})
    if "tiatoolbox" in setting.python:
        rows += _beside(setting, "TIAToolbox", "tiatoolbox", ours["seconds"], (3.0, 2.0), given)
    rows += [row(f"{name}: not installed, see `make bench-env-{name}`", "-") for name in _absent(setting)]
    return rows


def _absent(setting: Setting) -> list[str]:
    return [name for name in ("monai", "tiatoolbox") if name not in setting.python]


def _beside(
    setting: Setting, name: str, tool: str, ours: float, least: tuple[Any, Any], given: dict[str, Any]
) -> list[Row]:
    """A tool's rows: exactness, then seconds and how much faster we are, both ways."""
    rows: list[Row] = []
    for tuned, target in ((False, least[0]), (True, least[1])):
        env = setting.env(2 if tuned else None, tuned)
        found = measured(f"others:{tool}", env, setting.python[tool], tuned=tuned, **given)
        how = "with our memory format, allocator, threads" if tuned else "as installed"
        if not rows:
            rows += [
                row(f"{name}: largest difference in probability from the whole image", found["difference"]),
                row(f"{name}: changed labels", 100 * found["changed"], "%"),
            ]
        rows.append(row(f"{name}, {how}", found["seconds"], "s"))
        rows.append(row(f"{name}, {how}: over our time", found["seconds"] / ours, "", at_least=target))
    return rows


# ------------------------------------------------------------------------------- in their own processes, ours or not


def whole(slide: str, model: str, out: str) -> None:
    """The slide padded with its background by the margin, through the plain network in one piece, cropped."""
    import torch

    import napari_msunet as ms
    from napari_msunet.inference.engine import as_input

    from .plain import Plain

    network = Plain(model, ours=True)
    with ms.open_slide(Path(slide)) as opened:
        grid = opened.grid()
        pixels = opened.read_window(grid, grid.whole.padded(network.margin))
        np.save(Path(out) / "pixels.npy", opened.read_window(grid, grid.whole))
    edge = network.margin
    with torch.inference_mode():
        logits = network(torch.from_numpy(as_input(pixels))[None])[0, :, edge:-edge, edge:-edge]
    np.save(Path(out) / "whole.npy", torch.softmax(logits, 0).numpy())


def compared(probabilities: np.ndarray, out: str, margin: int) -> dict[str, float]:
    """Against the whole image, without the rim of the slide, where tools differ in what they take to lie outside."""
    inside = (slice(None), slice(margin, -margin), slice(margin, -margin))
    expected, found = np.load(Path(out) / "whole.npy", mmap_mode="r")[inside], probabilities[inside]
    largest, changed = 0.0, 0
    for y in range(0, expected.shape[1], 512):
        one, other = expected[:, y : y + 512], found[:, y : y + 512]
        largest = max(largest, float(np.abs(one - other).max()))
        top = np.sort(one, 0)
        changed += int(((one.argmax(0) != other.argmax(0)) & (top[-1] - top[-2] > 2e-4)).sum())
    return {"difference": largest, "changed": changed / (expected.shape[1] * expected.shape[2])}


def ours(slide: str, model: str, out: str) -> dict[str, float]:
    """Seconds with labels alone, the better of two; exactness of a run that keeps its probabilities."""
    import napari_msunet as ms

    loaded, seconds = ms.load_model(Path(model)), []
    edge = loaded.margin
    for attempt in range(2):
        begin = time.perf_counter()
        ms.predict(Path(slide), loaded, Path(out) / f"others-{attempt}.zarr").close()
        seconds.append(time.perf_counter() - begin)
    kept = {"outputs": ("labels", "probabilities"), "probability_dtype": "float32"}
    labels = ms.predict(Path(slide), loaded, Path(out) / "others-exact.zarr", **kept)
    probabilities = np.moveaxis(labels.probabilities.compute(), -1, 0)
    labels.close()
    return {"seconds": min(seconds), **compared(probabilities, out, edge)}


def monai(slide: str, model: str, out: str, tuned: bool, overlap: float) -> dict[str, float]:
    """`sliding_window_inference` on the slide's pixels in memory, whose reading is not counted."""
    import torch
    from monai.inferers import sliding_window_inference

    from .plain import Plain

    network = Plain(model, tuned)
    pixels = torch.from_numpy(np.load(Path(out) / "pixels.npy"))
    image = (pixels.permute(2, 0, 1)[None].float() / 255).contiguous(memory_format=network.layout)
    with torch.inference_mode():
        begin = time.perf_counter()
        logits = sliding_window_inference(image, (PATCH, PATCH), 4, network, overlap=overlap)
        seconds = time.perf_counter() - begin
        found = torch.softmax(logits[0], 0).numpy()
    return {"seconds": seconds, **compared(found, out, network.margin)}


def tiatoolbox(slide: str, model: str, out: str, tuned: bool) -> dict[str, float]:
    """`SemanticSegmentor` on the file, patches of 512 every 384 pixels; its probabilities are taken on their way."""
    import shutil

    import torch
    from tiatoolbox.models.engine.io_config import IOSegmentorConfig
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
    from tiatoolbox.models.models_abc import ModelABC

    from .plain import Plain

    class Given(ModelABC):
        """The network as TIAToolbox wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.plain = Plain(model, tuned)

        def forward(self, x: Any) -> Any:
            return torch.softmax(self.plain(x), 1)

        @staticmethod
        def infer_batch(network: Any, batch: Any, *, device: str) -> Any:
            with torch.inference_mode():
                found = network(batch.to(device).permute(0, 3, 1, 2).float() / 255)
            return found.permute(0, 2, 3, 1).contiguous().numpy()

    class Kept(SemanticSegmentor):
        """It keeps the merged probabilities."""

        merged: Any = None

        def infer_wsi(self, *given: Any, **named: Any) -> Any:
            raw = super().infer_wsi(*given, **named)
            self.merged = raw["probabilities"]
            return raw

    network, folder = Given().eval(), Path(out) / "tiatoolbox"
    shutil.rmtree(folder, ignore_errors=True)
    segmentor = Kept(model=network, verbose=False)
    baseline, stride = [{"units": "baseline", "resolution": 1.0}], (PATCH * 3 // 4, PATCH * 3 // 4)
    begin = time.perf_counter()
    segmentor.run(
        [Path(slide)],
        patch_mode=False,
        auto_get_mask=False,
        save_dir=folder,
        output_type="zarr",
        device="cpu",
        ioconfig=IOSegmentorConfig(
            input_resolutions=baseline,
            output_resolutions=baseline,
            patch_input_shape=(PATCH, PATCH),
            patch_output_shape=(PATCH, PATCH),
            stride_shape=stride,
        ),
    )
    seconds = time.perf_counter() - begin
    found = np.moveaxis(np.asarray(segmentor.merged), -1, 0)
    return {"seconds": seconds, **compared(found, out, network.plain.margin)}

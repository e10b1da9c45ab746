"""A whole model as one function of one image, written as `torch.export` or ONNX.

The exported model has one input, the image at the finest scale that the model reads, as float32 `(B, C, h, w)` in 0..1;
the coarser scales are area averages of it. Its output are the probabilities `(B, K+1, H, W)`, background first, on the
target grid. Both sides of an input are multiples of `multiple`.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window, round_up
from napari_msunet.models.fusion import JointFusion
from napari_msunet.models.msunet import MSUNet
from napari_msunet.models.onnx_export import MISSING
from napari_msunet.models.resample import to_target

KEY = "napari_msunet"
"""The key of the description in the file's own metadata."""

CLOSE = 1e-3
"""Largest difference of a probability between the model and its export."""

_SIDE = 256
_TILES = 3


@dataclass(frozen=True)
class ExportedModel:
    """What was written.

    Attributes
    ----------
    path : Path
    difference : float
        Largest difference of a probability from the model's own, on real tiles.
    any_size : bool
        Whether the input can have any size that is a multiple of `multiple`; else it is `size`.
    multiple : int
        What both sides of the input are multiples of.
    size : int
        Side of the input with which it was checked.
    """

    path: Path
    difference: float
    any_size: bool
    multiple: int
    size: int


class WholeModel(nn.Module):
    """A model as one function of one image; see the module's text."""

    def __init__(self, model: MSUNet) -> None:
        super().__init__()
        self.model = model
        self.finest: Fraction = max(model.config.input_ratios)
        """Pixels of the image per target pixel along a side."""
        self.multiple = int(model.config.size_multiple * self.finest)

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities `(B, K+1, H, W)` of an image `(B, C, h, w)` in 0..1."""
        model, config = self.model, self.model.config
        inputs = [to_target(image, self.finest / ratio) for ratio in config.input_ratios]
        if isinstance(model.fusion, JointFusion) or config.joint:
            return torch.softmax(model.outputs(inputs, field="same")[0], 1)
        zs = []
        for i, x in enumerate(inputs):
            z = model._project(i, model.branch(i).network(model._normalised(i, x)))
            ratio = config.ratios[i]
            if ratio.numerator == 1 and ratio < 1:  # as `to_target`, for windows of any size
                zs.append(F.interpolate(z, scale_factor=float(1 / ratio), mode="bilinear", align_corners=False))
            else:
                zs.append(to_target(z, ratio))
        return torch.softmax(model.combine(zs), 1)


def write_network(
    whole: WholeModel, file: Path, path: Path, description: dict[str, Any] | None = None
) -> ExportedModel:
    """Write the network into a temporary file, in the format of the final path, and check it."""
    tiles = real_tiles(whole)
    with torch.no_grad():
        wanted = whole(torch.from_numpy(tiles)).numpy()
    save, run = (_save_pt2, _run_pt2) if path.suffix.lower() == ".pt2" else (_save_onnx, _run_onnx)
    said = describe(whole.model)
    any_size = True
    try:
        save(whole, file, tiles.shape[-1], said | {"any_size": True}, True)
        run(file)(_other_size(tiles, whole.multiple))
    except (ModelError, OSError):
        raise
    except Exception:  # a layer that needs one size: torch names no common class of these errors
        any_size = False
        try:
            save(whole, file, tiles.shape[-1], said | {"any_size": False, "size": tiles.shape[-1]}, False)
        except Exception as error:
            reason = str(error.__cause__ or error).strip().split("\n")[0][:200].rstrip(".")
            raise ModelError(
                f"This model cannot be written as {path.suffix} ({reason}); export another kind."
            ) from error
    difference = float(np.abs(run(file)(tiles) - wanted).max())
    if not difference <= CLOSE:
        raise ModelError(
            f"The exported model differs from the model by up to {difference:.3g} in probability on real tiles, more "
            f"than {CLOSE:g}; it is not kept. Please report this."
        )
    return ExportedModel(path, difference, any_size, whole.multiple, tiles.shape[-1])


def check_whole(model: MSUNet) -> None:
    """`ModelError` where a model is no function of one window."""
    config = model.config
    if config.classical:
        raise ModelError(
            "A classical method is fitted to each slide, so it cannot be exported; export a network, or predict here."
        )
    if config.own_statistics is not None:
        raise ModelError(
            "This model normalises by each image's own statistics, which another program would not compute; train one "
            "with constant normalisation (z-score) to export it."
        )


def describe(model: MSUNet) -> dict[str, Any]:
    """The description that an exported model carries: what its input and output mean, and how to tile it."""
    config = model.config
    range_ = config.trained_on.ranges if config.trained_on is not None else {}
    margin = int(model.margin) if model.exact else None
    finest = max(config.input_ratios)
    return {
        "format": "napari-msunet export",
        "version": f"napari-msunet {version('napari-msunet')}",
        "classes": ["background", *config.classes],
        "channels": config.channels,
        "channel_names": config.channel_names,
        "mpp": None if config.mpp is None else config.mpp / float(finest),
        "output_mpp": None if config.mpp is None else config.mpp / config.upscale,
        "output_scale": float(1 / finest),
        "pixel": config.pixel if config.mpp is None else None,
        "kind": None if config.trained_on is None else config.trained_on.kind,
        "ranges": {name: list(value) for name, value in range_.items()},
        "input": "0..1 by the range of the image's values, such as v / 255 for 8 bits",
        "output": "probabilities",
        "multiple": int(config.size_multiple * finest),
        "margin": margin,
        "fingerprint": model.fingerprint,
        "config": json.loads(config.model_dump_json()),
        "summary": {k: v for k, v in model.summary.items() if k in ("score", "scores", "metrics", "epoch")},
    }


# ----------------------------------------------------------------------------------------------------------------------
# Real tiles, on which an export is compared with its model.


def real_tiles(whole: WholeModel) -> npt.NDArray[np.float32]:
    """Tiles `(n, C, side, side)` in 0..1 of the real slide that comes with the package, at the model's resolution.

    A model of other than three channels sees its brightness in each of them.
    """
    from napari_msunet.slide import open_slide

    config = whole.model.config
    with open_slide(Path(__file__).parents[1] / "demo_data" / "CMU-1-Small-Region.svs") as slide:
        assert slide.mpp is not None
        finest = float(whole.finest)
        margin = int(whole.model.margin * finest) if whole.model.exact else 0
        side = config.image_size or round_up(max(_SIDE, 2 * margin + _SIDE // 4), whole.multiple)
        grid = slide.grid(max(config.mpp / finest, slide.mpp[0] / 4) if config.mpp is not None else None)
        height, width = grid.shape
        tiles = []
        for k in range(_TILES):
            y, x = max(0, (height - side) * (k + 1) // (_TILES + 1)), max(0, (width - side) * (k + 1) // (_TILES + 1))
            tiles.append(slide.read_window(grid, Window(y, x, side, side)))
    image = np.stack(tiles).astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    if config.channels != image.shape[1]:
        image = np.repeat(image.mean(1, keepdims=True), config.channels, 1)
    return np.ascontiguousarray(image)


def _other_size(tiles: npt.NDArray[np.float32], multiple: int) -> npt.NDArray[np.float32]:
    """Tiles of another shape, to see that a network takes any."""
    return np.ascontiguousarray(np.concatenate([tiles, tiles[..., :multiple]], -1)[:1])


# ----------------------------------------------------------------------------------------------------------------------
# The two formats.


def _save_pt2(whole: WholeModel, file: Path, side: int, said: dict[str, Any], free: bool) -> None:
    program = _program(whole, side, free)
    # torch chooses the format by the ending
    target = file.with_name(f"{file.name}.pt2")
    with _quiet():
        torch.export.save(program, target, extra_files={f"{KEY}.json": json.dumps(said)})
    target.replace(file)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its own code and about layers that need one size."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _program(whole: WholeModel, side: int, free: bool) -> Any:
    with _quiet():
        return torch.export.export(
            whole,
            (_example(whole, side, free),),
            dynamic_shapes=({0: _free(), 2: _free(), 3: _free()},) if free else None,
        )


def _free() -> Any:
    return torch.export.Dim.DYNAMIC


def _example(whole: WholeModel, side: int, free: bool) -> Tensor:
    channels, multiple = whole.model.config.channels, whole.multiple
    if free:
        return torch.zeros(2, channels, 4 * multiple, 6 * multiple)
    return torch.zeros(1, channels, side, side)


def _run_pt2(file: Path) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    target = file.with_name(f"{file.name}.pt2")
    file.replace(target)
    try:
        module = torch.export.load(target).module()
    finally:
        target.replace(file)

    def run(tiles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            return np.concatenate([module(torch.from_numpy(t[None])).numpy() for t in tiles])

    return run


def _save_onnx(whole: WholeModel, file: Path, side: int, said: dict[str, Any], free: bool) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(MISSING.format(error.name)) from error
    with _quiet():
        program: Any = torch.onnx.export(
            whole,
            (_example(whole, side, free),),
            dynamo=True,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes={"image": {0: _free(), 2: _free(), 3: _free()}} if free else None,
            verbose=False,
        )
    model = program.model_proto
    onnx.helper.set_model_props(model, {KEY: json.dumps(said)})
    file.write_bytes(model.SerializeToString())


def _run_onnx(file: Path) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])

    def run(tiles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.concatenate([session.run(None, {"image": t[None]})[0] for t in tiles])

    return run

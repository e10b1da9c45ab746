"""A model as a bioimage.io package, checked by bioimage.io's own validator and runner (extra `bioimageio`)."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_msunet._io import output_aside
from napari_msunet.errors import ModelError
from napari_msunet.models.whole_model import CLOSE, ExportedModel, WholeModel, describe, real_tiles, write_network

if TYPE_CHECKING:
    import numpy.typing as npt

MISSING = (
    "A bioimage.io package needs {}, which is not installed; install it: pip install 'napari-msunet[bioimageio]'; or "
    "export .onnx or .pt2."
)

_TEXT = """# {name}

A segmentation model trained with napari-msunet: classes {classes}.

The input is the image at {mpp} µm per pixel, {channels} channels, with values from {low:g} (black) to {high:g} (white);
the output are the probabilities of background and of each class. Sides of the input are multiples of {multiple}.
{tiles}

Check it on images of your own before you rely on it.
"""


def write_package(whole: WholeModel, path: Path) -> ExportedModel:
    """Write a bioimage.io package with ONNX weights.

    Raises
    ------
    ModelError
        If bioimageio.core is not installed, the validator finds an error, or the runner predicts something else.
    """
    try:
        from bioimageio.core import test_model
        from bioimageio.spec import load_model_description, save_bioimageio_package
    except ImportError as error:
        raise ModelError(MISSING.format(error.name)) from error
    import yaml

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written = write_network(whole, folder / "weights.onnx", path.with_suffix(".onnx"))
        (folder / "rdf.yaml").write_text(yaml.safe_dump(_description(whole, written, folder), sort_keys=False))
        try:
            model = load_model_description(folder / "rdf.yaml", perform_io_checks=True)
        except ValueError as error:
            reason = " ".join(str(error).split())[:400].rstrip(".")
            raise ModelError(f"This model cannot be described for bioimage.io ({reason}).") from error
        package = folder / "package.zip"
        save_bioimageio_package(model, output_path=package)
        found = test_model(package, weight_format="onnx")
        if found.status != "passed":
            raise ModelError(f"bioimage.io's validator does not pass the package: {_reasons(found)}.")
        difference = max(written.difference, _runner_difference(package, whole, written))
        if not difference <= CLOSE:
            raise ModelError(
                f"bioimage.io's runner differs from the model by up to {difference:.3g} in probability; the package is "
                "not kept. Please report this."
            )
        with output_aside(path) as file:
            file.write_bytes(package.read_bytes())
    return replace(written, path=path, difference=difference)


def _reasons(summary: Any) -> str:
    """The errors that the validator found."""
    errors = [error for detail in summary.details for error in detail.errors]
    return "; ".join(" ".join(str(error.msg).split())[:200].rstrip(".") for error in errors[:3]) or summary.status


def _scale(whole: WholeModel) -> tuple[float, float]:
    """The values that are black and white in the images of the model."""
    trained = whole.model.config.trained_on
    ranges = list(trained.ranges.values()) if trained is not None else []
    low, high = ranges[0] if ranges else (0.0, 255.0)
    return float(low), float(high)


def _test_values(whole: WholeModel) -> npt.NDArray[Any]:
    """Real tiles in the values of the model's images, `(n, C, side, side)`."""
    low, high = _scale(whole)
    values = low + real_tiles(whole) * (high - low)
    whole_numbers = high - low > 2
    return np.rint(values).astype(np.uint8 if high <= 255 else np.uint16) if whole_numbers else values


def _description(whole: WholeModel, written: ExportedModel, folder: Path) -> dict[str, Any]:
    """The package's rdf.yaml; the files that it names are written into the folder."""
    import onnx
    import onnxruntime

    config, told = whole.model.config, describe(whole.model)
    low, high = _scale(whole)
    values = _test_values(whole)[:1]
    session = onnxruntime.InferenceSession(folder / "weights.onnx", providers=["CPUExecutionProvider"])
    image = ((values.astype(np.float32) - np.float32(low)) / np.float32(high - low)).astype(np.float32)
    np.save(folder / "test_input.npy", values)
    np.save(folder / "test_output.npy", session.run(None, {"image": image})[0])
    names = ", ".join(config.classes)
    tiles = "" if told["margin"] is None else f"Tiles need {told['margin']} output pixels around them."
    text = _TEXT.format(
        name=f"Segmentation of {names}",
        classes=names,
        mpp="unknown" if told["mpp"] is None else f"{told['mpp']:.4g}",
        channels=config.channels,
        low=low,
        high=high,
        multiple=whole.multiple,
        tiles=tiles,
    )
    (folder / "README.md").write_text(text)
    opset = next(o.version for o in onnx.load(folder / "weights.onnx").opset_import if o.domain in ("", "ai.onnx"))
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": _plain(f"Segmentation of {' and '.join(config.classes)}"),
        "description": f"Segments {names} in histology images, with napari-msunet.",
        "authors": [{"name": "A user of napari-msunet"}],
        "documentation": "README.md",
        "tags": ["segmentation", "histology", "unet", "napari-msunet"],
        "version": "0.1.0",
        "inputs": [_input(whole, written, values.dtype, (low, high))],
        "outputs": [_output(whole, told["margin"])],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": int(opset)}},
        "config": {"napari_msunet": told},
    }


def _plain(name: str) -> str:
    """A name of the characters that bioimage.io allows."""
    return re.sub(r"[^A-Za-z0-9_+\- ()]+", "-", name)[:120]


def _input(
    whole: WholeModel, written: ExportedModel, dtype: np.dtype[Any], values: tuple[float, float]
) -> dict[str, Any]:
    config = whole.model.config
    names = config.channel_names or (("red", "green", "blue") if config.channels == 3 else None)
    names = names or tuple(f"channel{n + 1}" for n in range(config.channels))
    margin = describe(whole.model)["margin"] or 0
    least = whole.multiple * (int(2 * margin * whole.finest) // whole.multiple + 1)
    size: Any = {"min": min(least, written.size), "step": whole.multiple} if written.any_size else written.size
    low, high = values
    return {
        "id": "image",
        "description": "the image at the model's resolution",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": list(names)},
            *({"type": "space", "id": side, "size": size, **_space(whole, 1.0)} for side in "yx"),
        ],
        "test_tensor": {"source": "test_input.npy"},
        "data": {"type": dtype.name},
        "preprocessing": [
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
            {"id": "scale_linear", "kwargs": {"gain": 1 / (high - low), "offset": -low / (high - low)}},
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        ],
    }


def _output(whole: WholeModel, margin: int | None) -> dict[str, Any]:
    sides = []
    for side in "yx":
        axis = {"type": "space", "id": side, "size": {"tensor_id": "image", "axis_id": side}}
        axis |= _space(whole, float(whole.finest))
        sides.append(axis | ({"halo": margin} if margin else {}))
    classes = ["background", *whole.model.config.classes]
    return {
        "id": "probabilities",
        "description": "the probability of background and of each class",
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": classes}, *sides],
        "test_tensor": {"source": "test_output.npy"},
        "data": {"type": "float32", "range": [0.0, 1.0]},
    }


def _space(whole: WholeModel, times: float) -> dict[str, Any]:
    """Unit and size of a pixel, `times` those of the input."""
    config = whole.model.config
    if config.mpp is None:
        return {"scale": times}
    return {"unit": "micrometer", "scale": config.mpp / config.upscale / float(whole.finest) * times}


def _runner_difference(package: Path, whole: WholeModel, written: ExportedModel) -> float:
    """Largest difference of bioimage.io's runner from the model, on a tile other than the package's own.

    The runner mirrors the image at its edges where the network sees zeros, so the halo is left out.
    """
    import torch
    from bioimageio.core import predict

    values = _test_values(whole)[1:2]
    low, high = _scale(whole)
    with torch.no_grad():
        wanted = whole(torch.from_numpy((values.astype(np.float32) - low) / (high - low)).float()).numpy()
    sample = predict(model=package, inputs={"image": values})
    found = np.asarray(next(iter(sample.members.values())).data)
    halo = describe(whole.model)["margin"] or 0
    inside = (..., slice(halo, wanted.shape[-2] - halo), slice(halo, wanted.shape[-1] - halo))
    return float(np.abs(found - wanted)[inside].max())

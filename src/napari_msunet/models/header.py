"""The header of a model file, read without torch: its config, and a summary of its training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from napari_msunet.config import SCHEMA_VERSION, ModelConfig
from napari_msunet.errors import ModelError, as_path
from napari_msunet.names import printable

FORMAT = "napari-msunet model"

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
TORCHSCRIPT = (".torchscript", ".ts", ".jit")


@dataclass(frozen=True)
class ModelHeader:
    """The header of a model file.

    Attributes
    ----------
    config : ModelConfig
    summary : dict
        Plain JSON values about its training.
    """

    config: ModelConfig
    summary: dict[str, Any]


def read_header(path: str | Path) -> ModelHeader:
    """Read the header of a model file, but not its weights.

    Raises
    ------
    ModelError
        If there is no such file, or it is cut short, no model of napari-msunet, or from a newer version.
    """
    path = as_path(path, "a model file")
    with open_safetensors(path, "np") as file:
        header = file.metadata() or {}
    return ModelHeader(header_config(header, path), header_summary(header, path))


def refuse_pickles(path: Path) -> None:
    """`ModelError` that says how to convert, where a file holds pickled weights or TorchScript."""
    ending = path.suffix.lower()
    if ending in TORCHSCRIPT:
        raise ModelError(
            f"{printable(path)} is TorchScript, which can run any code and is not read: in the program that made it, "
            "write ONNX with torch.onnx.export(model, example, 'model.onnx'), and give that."
        )
    if ending in PICKLED:
        raise ModelError(
            f"{printable(path)} may hold pickled weights, which can run any code and are not read: where you trust it, "
            "convert it with safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors'), or "
            "write ONNX with torch.onnx.export."
        )


@contextmanager
def open_safetensors(path: Path, framework: str) -> Iterator[Any]:
    """A safetensors file, open for reading; `ModelError` where the file is none."""
    if path.suffix.lower() != ".safetensors":
        refuse_pickles(path)
    if not path.is_file():
        raise ModelError(f"There is no model file at {path}; give a .safetensors file that napari-msunet has written.")
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as a safetensors file ({error}): it is damaged or something else; give a model "
            "that napari-msunet has written."
        ) from error


def header_config(header: dict[str, str], path: Path) -> ModelConfig:
    """The config in a header, checked."""
    if header.get("format") != FORMAT or "config" not in header:
        raise ModelError(
            f"{path} is a safetensors file, but no napari-msunet model; give one that train or save_model has written."
        )
    if not header.get("schema_version", "").isdecimal() or int(header["schema_version"]) > SCHEMA_VERSION:
        raise ModelError(
            f"{path} was written by a newer napari-msunet ({header.get('package_version', 'unknown')}, schema "
            f"{header.get('schema_version')}; this one knows {SCHEMA_VERSION}): update napari-msunet."
        )
    try:
        return ModelConfig.model_validate_json(header["config"])
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ModelError(f"The config in the model file {path} cannot be used: {reason}.") from error


def header_summary(header: dict[str, str], path: Path) -> dict[str, Any]:
    """The summary of the training in a header."""
    try:
        summary = json.loads(header.get("summary", "{}"))
    except ValueError as error:
        raise ModelError(f"The training summary in the model file {path} is no JSON: the file is damaged.") from error
    return summary if isinstance(summary, dict) else {}

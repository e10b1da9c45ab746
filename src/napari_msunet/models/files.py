"""A model as one safetensors file: the weights, and a header with the config and a summary of the training.

Pickles are never used, because loading one can run any code: `header.open_safetensors` refuses whatever is no
safetensors file.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import torch
from safetensors.torch import save
from torch import Tensor

from napari_msunet._io import replace_file
from napari_msunet.config import SCHEMA_VERSION, ModelConfig
from napari_msunet.errors import ModelError, as_path
from napari_msunet.models.blocks import arrange
from napari_msunet.models.header import FORMAT, header_config, header_summary, open_safetensors
from napari_msunet.models.msunet import tensors_of

if TYPE_CHECKING:
    from napari_msunet.models.msunet import MSUNet


def save_model(model: MSUNet, path: str | Path, summary: dict[str, Any] | None = None) -> Path:
    """Write a model as one ``safetensors`` file, whole or not at all.

    Parameters
    ----------
    model : MSUNet
        The model, in any mode and on any device.
    path : str or Path
        Path of the file, in a folder that exists; an older file is replaced.
    summary : dict, optional
        Plain JSON values about its training, also set as ``model.summary``; None: the model's own.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        If it cannot be written.
    ModelError
        If the summary cannot be written as JSON.
    """
    if not hasattr(model, "summary"):
        raise ModelError(f"{model!r} is no model; give one that build_model or load_model made.")
    path = as_path(path, "the model file to write")
    summary = model.summary if summary is None else dict(summary)
    try:
        written = json.dumps(summary)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The training summary cannot be kept as JSON ({error}); give plain numbers and text."
        ) from error
    model.summary = summary
    header = {
        "format": FORMAT,
        "schema_version": str(SCHEMA_VERSION),
        "package_version": _package_version(),
        "config": model.config.model_dump_json(),
        "summary": written,
    }
    tensors = tensors_of(model)
    header["checksum"] = _checksum(header, tensors)
    replace_file(path, save(tensors, metadata=header))
    return path


def load_model(path: str | Path) -> MSUNet:
    """Read a model, ready to predict (in evaluation mode, on the CPU).

    Parameters
    ----------
    path : str or Path
        A file written by `save_model`.

    Returns
    -------
    MSUNet

    Raises
    ------
    ModelError
        If there is no such file, or it is damaged, no model of napari-msunet, or from a newer version.
    """
    path = as_path(path, "a model file")
    with open_safetensors(path, "pt") as file:
        header = file.metadata() or {}
        config = header_config(header, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    model = _assembled(config, tensors, path)
    model.summary = header_summary(header, path)
    if header.get("checksum") not in (None, _checksum(header, tensors)):  # files older than the checksum have none
        raise ModelError(f"{path} is damaged: its checksum is not that of its contents; copy it again, or train again.")
    return model


def _checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """CRC32C of all contents of a file, as hexadecimal digits."""
    told = {name: value for name, value in sorted(header.items()) if name != "checksum"}
    crc = google_crc32c.value(json.dumps(told).encode())
    for name, tensor in sorted(tensors.items()):
        crc = google_crc32c.extend(crc, f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        crc = google_crc32c.extend(crc, tensor.contiguous().numpy().tobytes())
    return f"{crc:08x}"


def _package_version() -> str:
    try:
        return version("napari-msunet")
    except PackageNotFoundError:
        return "unknown"


def _assembled(config: ModelConfig, tensors: dict[str, Tensor], path: Path) -> MSUNet:
    """A model with these weights.

    It is built on the meta device first and compared with the weights, so that a damaged header cannot request more
    memory than the file has weights, and loading draws no random numbers.
    """
    from napari_msunet.models.msunet import empty_model

    with torch.device("meta"):
        model = empty_model(config)
    expected = {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    if expected != found:
        differing = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise ModelError(
            f"The weights in {path} are not those of the model its header describes ({len(differing)} differ, such as "
            f"{differing[0]}): the file is damaged or was changed."
        )
    model.load_state_dict(tensors, assign=True)
    return arrange(model).eval()

"""Models as safetensors files, and starting a training from the weights of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import google_crc32c
import torch
from safetensors.torch import save
from torch import Tensor

from napari_msunet._io import replace_file
from napari_msunet.config import SCHEMA_VERSION, ModelConfig
from napari_msunet.config.model import architecture_differences
from napari_msunet.errors import ModelError, as_path
from napari_msunet.models.blocks import arrange
from napari_msunet.models.header import FORMAT, header_config, header_summary, opened, read_header
from napari_msunet.models.msunet import tensors_of

if TYPE_CHECKING:
    from napari_msunet.models.msunet import MSUNet
# ----------------------------------------------------------------------------------------------------------------------
# A model as one safetensors file: the weights, and in the header the config and how it was trained. Never a pickle.


def save_model(model: MSUNet, path: str | Path, summary: dict[str, Any] | None = None) -> Path:
    """Write a model as one ``safetensors`` file, whole or not at all.

    Parameters
    ----------
    model : MSUNet
        In any mode, on any device.
    path : str or Path
        Of the file, in a folder that exists; an older file is replaced.
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
        If the summary holds more than JSON can.
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
        If there is no such file, or it is damaged, not ours, or from a newer version.
    """
    path = as_path(path, "a model file")
    with opened(path, "pt") as file:
        header = file.metadata() or {}
        config = header_config(header, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    model = _assembled(config, tensors, path)
    model.summary = header_summary(header, path)
    if header.get("checksum") not in (None, _checksum(header, tensors)):  # files from before it have none
        raise ModelError(f"{path} is damaged: its checksum is not that of its contents; copy it again, or train again.")
    return model


def _checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """CRC32C of all that a file says, as hexadecimal digits."""
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
    """A model of these weights.

    It is laid out without memory first and compared, so that a damaged header cannot ask for more memory than the file
    has weights, and loading draws no random numbers.
    """
    from napari_msunet.models.msunet import MSUNet

    with torch.device("meta"):
        model = MSUNet(config)
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


# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """A model that a training starts from.

    Attributes
    ----------
    path : Path
    before : ModelConfig
        What that model is.
    config : ModelConfig
        Of the model to train: the job's, with the start's normalisation, which its weights are used to.
    """

    path: Path
    before: ModelConfig
    config: ModelConfig

    @cached_property
    def model(self) -> MSUNet:
        """The model with its weights, read when first asked for; `ModelError` where they are damaged."""

        return load_model(self.path)

    def check(self) -> None:
        """Read the weights; `ModelError` where they are damaged."""
        _ = self.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the model to train that the start knows already."""
        return tuple(name for name in self.config.classes if name in self.before.classes)

    def words(self) -> str:
        """What is taken over, as a sentence."""
        old = self.before
        parts = [f"Starting from the weights of {self.path}"]
        if new := [name for name in self.config.classes if name not in old.classes]:
            parts.append(f"the class{'es' * (len(new) > 1)} {', '.join(new)} begin{'s' * (len(new) == 1)} anew")
        if gone := [name for name in old.classes if name not in self.config.classes]:
            parts.append(f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} left out")
        if old.resolution != self.config.resolution:
            parts.append(f"it was trained {old.resolution.at}, now it is {self.config.resolution.at}")
        return "; ".join(parts) + "."


def open_start(path: str | Path, config: ModelConfig) -> Start:
    """The model file to start from, checked against the model to train.

    Parameters
    ----------
    path : str or Path
        A file written by `save_model`.
    config : ModelConfig
        Of the model to train. Classes and µm per pixel may differ from the file's; scales, fusion, branches and
        channels may not.

    Raises
    ------
    ModelError
        If there is no such model, or it is of another architecture.
    """
    before = read_header(path).config
    differing = architecture_differences(before, config)
    if differing:
        raise ModelError(
            f"{path} is a checkpoint of another architecture: {' and '.join(differing)}; start from a model "
            "with the same scales, fusion, branches and channels, or train one of that file's architecture."
        )
    kept = before.normalisation or config.normalisation
    seen = before.trained_on if before.normalisation is not None else config.trained_on
    return Start(Path(path), before, config.model_copy(update={"normalisation": kept, "trained_on": seen}))


def take_weights(model: MSUNet, start: Start) -> None:
    """Put the start's weights into a new model of its architecture.

    Every class both know keeps its rows wherever it stands now; a new one keeps the random rows that the new model
    was given.

    Parameters
    ----------
    model : MSUNet
        Made by `build_model(start.config)`; changed in place.
    start : Start

    Raises
    ------
    ModelError
        If the weights do not fit by name and shape.
    """
    import torch

    old, new = start.before.classes, model.config.classes
    axes = {} if old == new else _class_axes(model.config)
    rows = [(0, 0), *((new.index(name) + 1, old.index(name) + 1) for name in start.classes)]
    given, state = start.model.state_dict(), model.state_dict()
    if odd := sorted(given.keys() ^ state.keys()):
        raise ModelError(
            f"{start.path} is a checkpoint of another architecture: {odd[0]} is in one of the two models only."
        )
    with torch.no_grad():
        for name, target in state.items():
            places = _places(target, given[name], axes.get(name, ()), rows, (len(new) + 1, len(old) + 1))
            if places is None:
                raise ModelError(
                    f"{start.path} is a checkpoint of another architecture: {name} has the shape "
                    f"{tuple(given[name].shape)} there and {tuple(target.shape)} here."
                )
            target[places[0]] = given[name][places[1]].to(target.dtype)


def _class_axes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Which axes of which weights go with the number of classes: found by laying the model out with more of them."""
    import torch

    from napari_msunet.models.msunet import MSUNet

    more = config.model_copy(update={"classes": tuple(f"class {n}" for n in range(2 * len(config.classes) + 1))})
    with torch.device("meta"):
        ours, theirs = ({n: t.shape for n, t in MSUNet(c).state_dict().items()} for c in (config, more))
    found = {
        name: tuple(i for i, (a, b) in enumerate(zip(shape, theirs[name], strict=True)) if a != b)
        for name, shape in ours.items()
    }
    return {name: axes for name, axes in found.items() if axes}


_Index: TypeAlias = "tuple[Tensor, ...]"


def _places(
    target: Tensor, source: Tensor, axes: tuple[int, ...], rows: list[tuple[int, int]], counts: tuple[int, int]
) -> tuple[_Index, _Index] | None:
    """Where a weight's values go, and where they come from; along the axes of classes, each class has a block of one
    size. None where the shapes do not fit."""
    import torch

    if target.dim() != source.dim():
        return None
    into, out = [], []
    for axis, (a, b) in enumerate(zip(target.shape, source.shape, strict=True)):
        size = a // counts[0]
        if axis in axes and (size * counts[0], size * counts[1]) == (a, b):
            pairs = torch.tensor([[new * size + k, old * size + k] for new, old in rows for k in range(size)])
        elif axis not in axes and a == b:
            pairs = torch.arange(a).view(-1, 1).expand(-1, 2)
        else:
            return None
        shape = [-1 if i == axis else 1 for i in range(target.dim())]
        into.append(pairs[:, 0].view(shape))
        out.append(pairs[:, 1].view(shape))
    return tuple(into), tuple(out)

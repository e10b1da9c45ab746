"""What tells one model from another: a hash of its config and all its weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import to_json
from torch import Tensor

from napari_msunet.config import ModelConfig

if TYPE_CHECKING:
    from napari_msunet.models.msunet import MSUNet


def fingerprint(model: MSUNet) -> str:
    """SHA-256 of the config and all weights, as hexadecimal digits."""
    digest = hashlib.sha256(_described(model.config).encode())
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


_FIRST = {
    "schema_version",
    *("classes", "mpp", "scales", "fusion", "channels", "channel_names", "shared", "branch", "field", "normalisation"),
}
_FIRST_BRANCH = {"kind", "depth", "width", "dropout"}


def _described(config: ModelConfig) -> str:
    """The config as JSON, without the options that came later where they are not used: so a model keeps its fingerprint
    over updates, and with it its predictions."""

    def used(part: BaseModel, first: set[str]) -> dict[str, Any]:
        values, fields = part.model_dump(mode="json"), type(part).model_fields
        return {k: v for k, v in values.items() if k in first or getattr(part, k) != fields[k].default}

    branches = [used(branch, _FIRST_BRANCH) for branch in config.branches]
    alone = not isinstance(config.branch, tuple)
    values = {**used(config, _FIRST), "branch": branches[0] if alone else branches}
    return to_json(values).decode()


def tensors_of(model: MSUNet) -> dict[str, Tensor]:
    """The weights on the CPU, each in its plain memory order."""
    return {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}

"""A model whose branches run in ONNX Runtime (extra `onnx`); their fusion stays in PyTorch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from napari_msunet.config import PredictOptions
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window
from napari_msunet.infer.network import TorchNetwork
from napari_msunet.models import MSUNet
from napari_msunet.models.export import MISSING, branch_onnx, check_exportable

_EXPORTED: OrderedDict[str, tuple[bytes, ...]] = OrderedDict()
"""Branches by the model's fingerprint: to export them takes seconds, and a worker keeps its models."""

_KEPT = 4


def check_onnx(models: Sequence[MSUNet], options: PredictOptions, devices: Sequence[torch.device]) -> None:
    """Whether a prediction can be made in ONNX Runtime.

    Raises
    ------
    ModelError
        If a package is not installed, ONNX Runtime does not know a device, a model's branches cannot be computed one by
        one, or the options are for PyTorch.
    """
    if options.precision != "float32" or options.compile:
        raise ModelError("engine='onnx' computes in float32 and compiles itself; leave precision and compile away.")
    known = _runtime().get_available_providers()
    for device in devices:
        if _provider(device)[0] not in known:
            raise ModelError(
                f"ONNX Runtime as it is installed here cannot use the device {str(device)!r} (it has "
                f"{', '.join(known)}); use device='cpu', or engine='torch'."
            )
    for model in models:
        check_exportable(model)


def _runtime() -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(MISSING.format("onnxruntime")) from error


def _provider(device: torch.device) -> tuple[str, dict[str, Any]]:
    """The part of ONNX Runtime that computes on a device."""
    names = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    options = {"device_id": device.index or 0} if device.type == "cuda" else {}
    return names.get(device.type, f"{device.type}ExecutionProvider"), options


class OnnxNetwork(TorchNetwork):
    """A model in ONNX Runtime, in float32.

    Parameters
    ----------
    model : MSUNet
        It is copied, not changed.
    device : torch.device
        The CPU, or a GPU where the installed ONNX Runtime has CUDA; see `check_onnx`.
    """

    def __init__(self, model: MSUNet, device: torch.device) -> None:
        super().__init__(model, device)
        self._runtime = _runtime()
        self._branches = exported(model)
        self._sessions: dict[tuple[int, int], Any] = {}

    def run(self, branch: int, x: Tensor, keep: Window) -> Tensor:
        """See `Network`."""
        (found,) = self._session(branch).run(None, {"x": x.contiguous().numpy()})
        # a copy: a view would keep the margins in memory as long as the piece waits for its tiles
        return torch.from_numpy(found)[(..., *keep.slices())].clone().to(self.device)

    def _session(self, branch: int) -> Any:
        """Of a branch and the present number of threads, which changes the last bits."""
        key = branch, torch.get_num_threads()
        if key not in self._sessions:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = key[1]
            options.enable_cpu_mem_arena = False  # it would keep the blocks of every size of tile there was
            options.enable_mem_pattern = False
            options.log_severity_level = 3
            self._sessions[key] = self._runtime.InferenceSession(
                self._branches[branch], options, providers=[_provider(self.device)]
            )
        return self._sessions[key]


def exported(model: MSUNet) -> tuple[bytes, ...]:
    """The branches of a model as ONNX."""
    key = model.fingerprint
    if key not in _EXPORTED:
        # each scale, also where they share their weights: what the fusion needs of them is each scale's own
        _EXPORTED[key] = tuple(branch_onnx(model, i) for i in range(len(model.config.scales)))
        while len(_EXPORTED) > _KEPT:
            _EXPORTED.popitem(last=False)
    return _EXPORTED[key]

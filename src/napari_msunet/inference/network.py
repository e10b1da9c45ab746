"""A model made ready for prediction: on its device, folded, in the wanted precision, mirrored copies averaged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from napari_msunet.config import PredictOptions
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window
from napari_msunet.models import MSUNet
from napari_msunet.models.blocks import ConvBlock
from napari_msunet.models.onnx_export import MISSING, branch_onnx, check_exportable
from napari_msunet.models.strip_inference import folded

Precision = Literal["float32", "bfloat16", "float16"]


def pick_device(device: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises
    ------
    ModelError
        If that device is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there[picked.type]:
            raise ModelError(f"The device {device!r} is not available here; use 'auto' or 'cpu', see `doctor`.")
    except (RuntimeError, KeyError):
        raise ModelError(f"{device!r} is no device; give 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'.") from None
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"The device {device!r} is not here; there are {torch.cuda.device_count()} GPUs.")
    return picked


def pick_devices(device: str) -> tuple[torch.device, ...]:
    """The devices for one name, several with commas ("cuda:0,cuda:1"), or "cuda:all"."""
    if device == "cuda:all":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return tuple(pick_device(f"cuda:{n}") for n in range(count)) or (pick_device("cuda"),)
    return tuple(pick_device(name.strip()) for name in device.split(","))


@contextmanager
def exact_arithmetic(threads: int) -> Iterator[None]:
    """Run torch with this many CPU threads, whose number changes the last bits, and without TF32, whose ten bits of
    precision would break the exactness of tiles on a GPU."""
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if threads != before[0]:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before[0]:
            torch.set_num_threads(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[1:]


class EngineNetwork(Protocol):
    """What the engine asks of a network, whatever computes it."""

    def run(self, branch: int, x: Tensor, keep: Window) -> Tensor:
        """`(B, Z, h, w)` float32: the part `keep` of a branch's output for inputs `(B, C, H, W)` on the CPU."""

    def to_target(self, branch: int, z: Tensor) -> Tensor:
        """See `MSUNet.to_target`."""

    def combine(self, zs: Sequence[Tensor]) -> Tensor:
        """See `MSUNet.combine`."""

    def class_logits(self, z: Tensor) -> Tensor:
        """See `MSUNet.class_logits`."""

    def fusion_weights(self, zs: Sequence[Tensor]) -> Tensor | None:
        """See `MSUNet.fusion_weights`."""

    def run_joint(self, inputs: Sequence[Tensor], keep: Window) -> Tensor:
        """See `MSUNet.run_joint`; inputs on the CPU, float32 out."""

    def joint_split(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `MSUNet.joint_split`."""


class TorchNetwork:
    """A model in PyTorch.

    Parameters
    ----------
    model : MSUNet
        It is copied, not changed.
    device : torch.device
    precision : str
        Of the branches' convolutions; the fusion is always float32.
    compiled : bool
        Compile the blocks with `torch.compile` at their first use.
    """

    def __init__(
        self, model: MSUNet, device: torch.device, precision: Precision = "float32", compiled: bool = False
    ) -> None:
        self.device = device
        self.precision = precision
        self.model = folded(model).to(device)
        if compiled:
            for module in self.model.modules():
                if isinstance(module, ConvBlock):
                    # without it, each size of tile would be compiled for itself
                    module.compile(dynamic=True)

    def run(self, branch: int, x: Tensor, keep: Window) -> Tensor:
        """See `EngineNetwork`."""
        with self._arithmetic():
            return self.model.run_branch(branch, x.to(self.device, non_blocking=True), keep).float()

    def run_joint(self, inputs: Sequence[Tensor], keep: Window) -> Tensor:
        """See `EngineNetwork`."""
        with self._arithmetic():
            return self.model.run_joint([x.to(self.device, non_blocking=True) for x in inputs], keep).float()

    def _arithmetic(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def joint_split(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `MSUNet.joint_split`."""
        return self.model.joint_split(z)

    def to_target(self, branch: int, z: Tensor) -> Tensor:
        """See `MSUNet.to_target`."""
        return self.model.to_target(branch, z)

    def combine(self, zs: Sequence[Tensor]) -> Tensor:
        """See `MSUNet.combine`."""
        return self.model.combine(zs)

    def class_logits(self, z: Tensor) -> Tensor:
        """See `MSUNet.class_logits`."""
        return self.model.class_logits(z)

    def fusion_weights(self, zs: Sequence[Tensor]) -> Tensor | None:
        """See `MSUNet.fusion_weights`."""
        return self.model.fusion_weights(zs)


@dataclass(frozen=True)
class Variant:
    """One of the eight symmetries of the square; each is applied to the inputs, and taken back from the output."""

    down: bool = False
    across: bool = False
    turned: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """The mirrored and turned input."""
        if dims := [d for d, wanted in ((-2, self.down), (-1, self.across)) if wanted]:
            x = x.flip(dims)
        return x.mT if self.turned else x

    def undo(self, z: Tensor) -> Tensor:
        """The output as if nothing had been mirrored."""
        if self.turned:
            z = z.mT
        dims = [d for d, wanted in ((-2, self.down), (-1, self.across)) if wanted]
        return z.flip(dims) if dims else z

    def window(self, keep: Window) -> Window:
        """Where a centred window comes to lie."""
        return Window(keep.x, keep.y, keep.width, keep.height) if self.turned else keep


_FLIPS = tuple(Variant(down, across) for down in (False, True) for across in (False, True))
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "none": (Variant(),),
    "flips": _FLIPS,
    "dihedral": (*_FLIPS, *(Variant(v.down, v.across, True) for v in _FLIPS)),
}
"""What test-time augmentation averages over. All are about the slide's corner, so tiles stay exact."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had too little memory."""
    text = str(error)
    return (
        isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        or "not enough memory" in text
        or "out of memory" in text
    )


# ----------------------------------------------------------------------------------------------------------------------
# A model whose branches run in ONNX Runtime (extra `onnx`); their fusion stays in PyTorch.

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
        """See `EngineNetwork`."""
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

"""A model prepared for prediction: on its device, folded, in the wanted precision; and test-time augmentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
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
    """A context in which torch uses this many CPU threads, whose number changes the last bits, and no TF32.

    The ten bits of precision of TF32 would break the exactness of tiles on a GPU.
    """
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
    """The interface of a network for the engine, in PyTorch, ONNX Runtime or OpenVINO."""

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
        Precision of the branches' convolutions; the fusion is always float32.
    compiled : bool
        Whether the blocks are compiled with `torch.compile` at their first use.
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
                    # otherwise each size of tile would be compiled again
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
    """One of the eight symmetries of the square, which is applied to the inputs and undone on the output."""

    down: bool = False
    across: bool = False
    turned: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """The mirrored and turned input."""
        if dims := [d for d, wanted in ((-2, self.down), (-1, self.across)) if wanted]:
            x = x.flip(dims)
        return x.mT if self.turned else x

    def undo(self, z: Tensor) -> Tensor:
        """The output, mirrored and turned back."""
        if self.turned:
            z = z.mT
        dims = [d for d, wanted in ((-2, self.down), (-1, self.across)) if wanted]
        return z.flip(dims) if dims else z

    def window(self, keep: Window) -> Window:
        """The place of a centred window after the symmetry."""
        return Window(keep.x, keep.y, keep.width, keep.height) if self.turned else keep


_FLIPS = tuple(Variant(down, across) for down in (False, True) for across in (False, True))
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "none": (Variant(),),
    "flips": _FLIPS,
    "dihedral": (*_FLIPS, *(Variant(v.down, v.across, True) for v in _FLIPS)),
}
"""The symmetries over which test-time augmentation averages, all about the slide's corner, so that tiles stay exact."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had too little memory."""
    text = str(error)
    return (
        isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        or "not enough memory" in text
        or "out of memory" in text
    )


# ----------------------------------------------------------------------------------------------------------------------
# A model whose branches run in another engine; their fusion stays in PyTorch.

_EXPORTED: OrderedDict[str, tuple[bytes, ...]] = OrderedDict()
"""Exported branches by the model's fingerprint, because the export takes seconds and a worker keeps its models."""

_KEPT = 4

ENGINES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""The engines beside PyTorch, by the name of their extra. They make all maps of a tile as a whole, not in strips."""


def check_engine(models: Sequence[MSUNet], options: PredictOptions, devices: Sequence[torch.device]) -> None:
    """Raise where a prediction cannot be made in the engine that the options name.

    Raises
    ------
    ModelError
        If a package is not installed, the engine does not know a device or a precision, a model's branches cannot be
        computed one by one, or the options are for PyTorch.
    """
    if options.engine == "torch":
        return
    if options.compile:
        raise ModelError(f"{ENGINES[options.engine]} compiles the network itself: leave out compile.")
    (_check_onnx if options.engine == "onnx" else _check_openvino)(options, devices)
    for model in models:
        check_exportable(model)


def _check_onnx(options: PredictOptions, devices: Sequence[torch.device]) -> None:
    if options.precision != "float32":
        raise ModelError("engine='onnx' computes in float32: leave out the precision, or take engine='openvino'.")
    known = _onnx_runtime().get_available_providers()
    for device in devices:
        if _provider(device)[0] not in known:
            raise ModelError(
                f"ONNX Runtime as it is installed here cannot use the device {str(device)!r} (it has "
                f"{', '.join(known)}); use device='cpu', or engine='torch'."
            )


def _check_openvino(options: PredictOptions, devices: Sequence[torch.device]) -> None:
    _openvino_core()
    if options.precision == "float16":
        raise ModelError("engine='openvino' computes in float32 or bfloat16 on a processor, not in float16.")
    for device in devices:
        if device.type != "cpu":
            raise ModelError(f"engine='openvino' is for processors, not for {device}: give device='cpu', or 'torch'.")
    if options.precision == "bfloat16" and not openvino_has_bfloat16():
        raise ModelError("This processor has no bfloat16 in OpenVINO: leave out the precision.")


def openvino_has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor; `ModelError` where it is not installed."""
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _onnx_runtime() -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(MISSING.format("onnxruntime")) from error


@cache
def _openvino_core() -> Any:
    try:
        return import_module("openvino").Core()
    except ImportError as error:
        raise ModelError(
            "engine='openvino' needs openvino, which is not installed; install it: pip install "
            "'napari-msunet[openvino]', or use engine='torch'."
        ) from error


def _provider(device: torch.device) -> tuple[str, dict[str, Any]]:
    """The execution provider of ONNX Runtime for a device."""
    names = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    options = {"device_id": device.index or 0} if device.type == "cuda" else {}
    return names.get(device.type, f"{device.type}ExecutionProvider"), options


class _ExportedNetwork(TorchNetwork, ABC):
    """A model whose branches are exported and run elsewhere."""

    def __init__(self, model: MSUNet, device: torch.device) -> None:
        super().__init__(model, device)
        self._branches = exported(model)
        self._made: dict[tuple[int, int], Any] = {}

    def run(self, branch: int, x: Tensor, keep: Window) -> Tensor:
        """See `EngineNetwork`."""
        # of its own for each number of threads, which changes the last bits
        key = branch, torch.get_num_threads()
        if key not in self._made:
            self._made[key] = self._make(self._branches[branch], key[1])
        found = self._infer(self._made[key], x.contiguous().numpy())
        # a copy, because a view would keep the margins in memory as long as the piece waits for its tiles
        return torch.from_numpy(found)[(..., *keep.slices())].clone().to(self.device)

    @abstractmethod
    def _make(self, branch: bytes, threads: int) -> Any:
        """What runs a branch with so many threads."""

    @abstractmethod
    def _infer(self, made: Any, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`(B, Z, H, W)`: a branch's whole output."""


class OnnxNetwork(_ExportedNetwork):
    """A model in ONNX Runtime, in float32.

    Parameters
    ----------
    model : MSUNet
        It is copied, not changed.
    device : torch.device
        The CPU, or a GPU where the installed ONNX Runtime has CUDA; see `check_engine`.
    """

    def _make(self, branch: bytes, threads: int) -> Any:
        runtime = _onnx_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = False  # the arena would keep the blocks of every size of tile
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        return runtime.InferenceSession(branch, options, providers=[_provider(self.device)])

    def _infer(self, made: Any, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = made.run(None, {"x": x})[0]
        return found


class OpenVinoNetwork(_ExportedNetwork):
    """A model in OpenVINO on a processor, in float32 or bfloat16.

    Parameters
    ----------
    model : MSUNet
        It is copied, not changed.
    device : torch.device
        The CPU.
    precision : str
        "float32" or "bfloat16".
    """

    def __init__(self, model: MSUNet, device: torch.device, precision: Precision = "float32") -> None:
        super().__init__(model, device)
        self.precision = precision

    def _make(self, branch: bytes, threads: int) -> Any:
        core = _openvino_core()
        return core.compile_model(
            core.read_model(branch),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[self.precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # the cores are shared with reading and writing
            },
        )

    def _infer(self, made: Any, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = made([x])[0]
        return found


def exported(model: MSUNet) -> tuple[bytes, ...]:
    """The branches of a model as ONNX."""
    key = model.fingerprint
    if key not in _EXPORTED:
        # each scale, even where they share weights, because the fusion has a projection of its own for each
        _EXPORTED[key] = tuple(branch_onnx(model, i) for i in range(len(model.config.scales)))
        while len(_EXPORTED) > _KEPT:
            _EXPORTED.popitem(last=False)
    return _EXPORTED[key]


def network_for(model: MSUNet, device: torch.device, options: PredictOptions) -> EngineNetwork:
    """A model prepared for prediction in the engine and the precision that the options name; `set_up` has put what it
    chose in the place of "fast"."""
    precision = options.precision
    assert precision != "fast"
    if options.engine == "onnx":
        return OnnxNetwork(model, device)
    if options.engine == "openvino":
        return OpenVinoNetwork(model, device, precision)
    return TorchNetwork(model, device, precision, options.compile)

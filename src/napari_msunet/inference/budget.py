"""The size of tiles, the largest that the memory allows and of those the fastest by measurement; and the fastest engine
and precision."""

from __future__ import annotations

import hashlib
import json
import platform
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_msunet import events
from napari_msunet._io import read_json, write_json
from napari_msunet.config import ModelConfig, PredictOptions
from napari_msunet.errors import ModelError, MsunetError, OutputError
from napari_msunet.geometry import Window
from napari_msunet.inference.engine import AHEAD
from napari_msunet.inference.network import ENGINES, EngineNetwork, check_engine, network_for
from napari_msunet.models import MSUNet, build_model
from napari_msunet.models.strip_inference import folded

FIXED = 850e6
"""Bytes in addition to the tiles: the slide's cache, chunks being written, coarse pieces that wait."""

SLACK = 1.46
"""Bytes that the allocator takes for each byte in use, since blocks of different sizes leave holes."""

SLACK_WHOLE = 1.45
"""The same for ONNX Runtime, which also keeps copies in a layout of its own: 730 bytes where 524 were counted."""

LARGEST = 4096 * 4096
"""Most pixels of a tile, because a cancellation waits for a tile."""

PROBE = 1408
"""Side of the tile whose memory is counted."""

SIDES = (512, 1024, 2048)
"""Sides of the tiles whose speed is measured."""

FRESH = 86_400.0
"""Seconds for which a measured speed is used."""

TRIED = 768
"""Side of the tile with which engines and precisions are compared."""

TRIALS = 3
"""How often each is timed; the best time counts."""

WORTH = 1.1
"""How many times as fast as float32 another engine or precision has to be to be taken."""

LONG = 3e7
"""Fewest pixels of a prediction for which speeds are measured first."""


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all living tensors, and their maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                number, size = storage._cdata, storage.nbytes()
                if number not in self._known:
                    self._known.add(number)
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, number, size)
        return out

    def _gone(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.now -= size


def bytes_per_pixel(config: ModelConfig, margin: int = 96, whole: bool = False) -> float:
    """Bytes that the most demanding branch uses for each pixel of its input, counted without computing.

    `whole` is for an engine that makes all maps of a window as a whole, not in strips.
    """
    return _counted(config.model_dump_json(), margin, whole)


@cache
def _counted(text: str, margin: int, whole: bool) -> float:
    config = ModelConfig.model_validate_json(text)
    with torch.device("meta"):
        model = build_model(config.model_copy(update={"shared": False}))
    model = folded(model.to("meta"))
    if config.joint:
        side = max(PROBE // config.size_multiple, 2) * config.size_multiple
        edge = side // 4 // config.size_multiple * config.size_multiple
        with torch.inference_mode(), _Live() as live:
            keep = Window(edge, edge, side - 2 * edge, side - 2 * edge)
            z = model.run_joint(_empty(config, side, "meta"), keep)
            del z
        return float(live.most / side**2)
    most = 0.0
    known = set()
    for i, branch in enumerate(config.branches):
        if branch in known:
            continue
        known.add(branch)
        side = max(PROBE // branch.stride, 1) * branch.stride
        edge = min(margin, side // 4)
        with torch.set_grad_enabled(whole), _Live() as live:  # with gradients, a branch does not work in strips
            x = torch.empty((1, config.channels, side, side), device="meta")
            z = model.run_branch(i, x, Window(edge, edge, side - 2 * edge, side - 2 * edge))
            del z
        most = max(most, live.most / side**2)
    return most


def _empty(config: ModelConfig, side: int, device: str) -> list[torch.Tensor]:
    """Inputs of a joint model for a square of the target grid."""
    sides = [int(side * ratio) for ratio in config.input_ratios]
    return [torch.empty((1, config.channels, n, n), device=device) for n in sides]


def limit_for(
    configs: Sequence[ModelConfig], memory: float, variants: int, device: torch.device, whole: bool = False
) -> int:
    """Pixels, margins included, that may go through a network at once.

    Parameters
    ----------
    memory : float
        Bytes that the prediction may take in addition to the process. On a GPU, its free memory counts instead.
    whole : bool
        See `bytes_per_pixel`.

    Raises
    ------
    ModelError
        If the memory is too small for any tile.
    """
    finest = max((float(r) for c in configs for r in c.ratios), default=1.0)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] * 0.6
        fixed = 0.0
    else:
        free, fixed = memory, FIXED
    each = tile_bytes(configs, variants, finest, whole)
    limit = int((free - fixed) / each)
    smallest = 4 * max(c.size_multiple for c in configs) ** 2
    if limit < smallest:
        need = (fixed + smallest * each) / 1e9
        raise ModelError(f"{memory / 1e9:g} GB are too little for this model; allow at least {need:.1f} GB (memory).")
    return min(limit, LARGEST)


def tile_bytes(configs: Sequence[ModelConfig], variants: int, finest: float = 1.0, whole: bool = False) -> float:
    """Bytes for each pixel of a tile: in the network, read ahead, and on the way to the disk."""
    network = max(bytes_per_pixel(c, whole=whole) for c in configs) * (SLACK_WHOLE if whole else SLACK)
    outputs = max(len(c.classes) for c in configs) + 1
    held = sum(12 + outputs for c in configs for _ in c.ratios) * 4 * max(0, variants * len(configs) - 1) / 2
    inputs = (AHEAD + 1) * 4 * max(c.channels for c in configs)
    waiting = 2 * 4 * (outputs + 1) / finest**2
    return network + inputs + waiting + held


def planned_memory(configs: Sequence[ModelConfig], limit: int, variants: int, whole: bool = False) -> float:
    """Bytes that a prediction with tiles of up to `limit` pixels should take in addition to the process."""
    return FIXED + limit * tile_bytes(configs, variants, whole=whole)


# ------------------------------------------------------------------------------------------------------------- speed


class Speeds:
    """Measured pixels per second of a network by the side of its tile; kept between processes.

    Parameters
    ----------
    network : EngineNetwork
    model : MSUNet
    device : torch.device
    threads : int
    what : str
        Anything else that changes the speed, such as the precision.
    """

    def __init__(self, network: EngineNetwork, model: MSUNet, device: torch.device, threads: int, what: str) -> None:
        self.network = network
        self.what = what
        self.config = model.config
        self.branch, self.stride = 0, model.config.size_multiple
        if not self.config.joint:
            self.branch = max(range(len(model.config.scales)), key=lambda i: model.config.scales[i])
            self.stride = model.config.branches[self.branch].stride
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.node()
        shape = model.config.model_dump_json(include={"branch", "channels", "fusion", "scales"})
        text = json.dumps([shape, machine, str(device), threads, what, torch.__version__])
        self.file = _folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        self.known: dict[int, float] = _load(self.file)

    def measure(self, sides: Sequence[int], limit: int) -> dict[int, float]:
        """The speeds at these sides; unknown ones are measured (the better of two passes)."""
        for side in sides:
            if side in self.known or (side * side > limit and side != min(sides)):
                continue
            pixels = max(side // self.stride, 1) * self.stride
            keep = Window(0, 0, pixels, pixels)
            best = float("inf")
            for _ in range(2):
                events.check()
                started = time.perf_counter()
                with torch.inference_mode():
                    self._run(pixels, keep)
                best = min(best, time.perf_counter() - started)
            self.known[side] = pixels * pixels / best
        _save(self.file, self.known)
        return {side: self.known[side] for side in sides if side in self.known}

    def _run(self, side: int, keep: Window) -> None:
        if self.config.joint:
            self.network.run_joint([x.fill_(0.5) for x in _empty(self.config, side, "cpu")], keep).cpu()
        else:
            x = torch.full((1, self.config.channels, side, side), 0.5)
            self.network.run(self.branch, x, keep).cpu()

    def best_limit(self, limit: int, margin: int) -> int:
        """Pixels of the tile with the most useful pixels per second, of the tiles that the memory allows."""
        speeds = self.measure([s for s in SIDES if s * s <= limit] or [int(limit**0.5)], limit)
        largest = int(limit**0.5)
        sides = {**speeds, largest: speeds[max(speeds)]}

        def useful(side: int) -> float:
            return sides[side] * max(side - 2 * margin, 1) ** 2 / side**2

        best = max(sides, key=useful)
        return limit if best == largest else best * best

    def once(self) -> float:
        """Seconds for one tile of `TRIED` pixels a side."""
        pixels = max(TRIED // self.stride, 1) * self.stride
        started = time.perf_counter()
        with torch.inference_mode():
            self._run(pixels, Window(0, 0, pixels, pixels))
        return time.perf_counter() - started

    @property
    def rate(self) -> float:
        """Pixels per second through the network, for the largest tile that was measured; 0 where none was."""
        return self.known[max(self.known)] if self.known else 0.0


@dataclass(frozen=True)
class FastChoice:
    """The engine and the precision that were the fastest on this machine.

    Attributes
    ----------
    options : dict
        Of `PredictOptions`: engine and precision.
    words : str
        What was chosen and why, in a sentence.
    """

    options: dict[str, str]
    words: str


def fastest(model: MSUNet, device: torch.device, options: PredictOptions) -> FastChoice:
    """The fastest engine and precision for a network, measured on this machine the first time that it is asked for.

    All candidates are timed in turn, so that a busy machine hurts all alike. What was chosen is kept for good, so that
    a prediction that was stopped goes on with the same arithmetic.
    """
    candidates = _candidates(device, options)
    shape = model.config.model_dump_json(include={"branch", "channels", "fusion", "scales"})
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.node()
    text = json.dumps([shape, machine, str(device), torch.get_num_threads(), candidates, torch.__version__])
    file = _folder() / f"fastest-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, KeyError, MsunetError):
        kept = read_json(file)
        return FastChoice({name: str(kept["options"][name]) for name in ("engine", "precision")}, str(kept["words"]))
    choice = _try(model, device, options, candidates)
    with suppress(OSError, OutputError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"options": choice.options, "words": choice.words})
    return choice


def _candidates(device: torch.device, options: PredictOptions) -> list[tuple[str, str]]:
    """Engines and precisions to try; the first one is exact."""
    if device.type != "cpu":
        halves = ("float16", "bfloat16") if device.type == "cuda" else ("float16",)
        return [("torch", "float32"), *(("torch", half) for half in halves)]
    there = options.engine == "openvino" or (options.engine == "torch" and not options.compile)
    openvino = there and find_spec("openvino") is not None
    found = [("torch", "float32"), ("torch", "bfloat16")]
    return [*found, ("openvino", "float32"), ("openvino", "bfloat16")] if openvino else found


def _try(model: MSUNet, device: torch.device, options: PredictOptions, candidates: list[tuple[str, str]]) -> FastChoice:
    """Time all candidates that work here."""
    speeds: dict[tuple[str, str], Speeds] = {}
    for engine, precision in candidates:
        asked = options.model_copy(update={"engine": engine, "precision": precision})
        with suppress(ModelError, RuntimeError):  # what does not work here is not the fastest
            check_engine([model], asked, [device])
            network = network_for(model, device, asked)
            speeds[engine, precision] = Speeds(network, model, device, torch.get_num_threads(), f"{engine}{precision}")
            speeds[engine, precision].once()
    times = dict.fromkeys(speeds, inf)
    for _ in range(TRIALS):
        for name, speed in speeds.items():
            events.check()
            times[name] = min(times[name], speed.once())
    exact = candidates[0]
    best = min(times, key=lambda name: times[name])
    times_as_fast = times[exact] / times[best]
    if times_as_fast < WORTH:
        best, words = exact, "Nothing is faster than float32 in PyTorch here, so this prediction is exact."
    else:
        engine = {"torch": "PyTorch", **ENGINES}[best[0]]
        words = f"Predicting in {best[1]} with {engine}: measured as {times_as_fast:.1f} times as fast as float32 here."
    return FastChoice({"engine": best[0], "precision": best[1]}, words)


def _folder() -> Path:
    return Path(platformdirs.user_cache_path("napari-msunet", appauthor=False)) / "speed"


def _load(file: Path) -> dict[int, float]:
    """The recent measurements; older ones are dropped, since the machine may have been busy then."""
    try:
        if time.time() - file.stat().st_mtime > FRESH:
            return {}
        return {int(k): float(v) for k, v in read_json(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _save(file: Path, known: dict[int, float]) -> None:
    """Keep what was measured; without a writable folder it is measured again."""
    with suppress(OSError, OutputError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, known)

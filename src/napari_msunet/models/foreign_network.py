"""Models of other programs as functions of a tile: ONNX files, and the ONNX weights of bioimage.io packages.

What such a file does not say about itself (classes, µm per pixel, tiles, normalisation) is declared in a JSON file
beside it: ``model.onnx.json`` for ``model.onnx``, with the fields of `Declared`. Files with pickles are never read.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError
from scipy.special import expit, softmax

from napari_msunet.config import explain
from napari_msunet.config.base import Frozen
from napari_msunet.errors import ModelError
from napari_msunet.models.whole_model import KEY
from napari_msunet.names import printable

Tiles = npt.NDArray[np.float32]

ENDINGS = (".onnx", ".zip")
"""Files that this module reads."""

_LARGEST = 8 << 30
_TILE = 512
_CHANNELS_FIRST = ("b", "c", "y", "x")


class Declared(Frozen):
    """What is said about a model in the JSON beside it; what is left out is what the file says itself."""

    classes: tuple[str, ...] | None = None
    """Names of classes 1, 2, ...; background is not one."""
    mpp: float | None = Field(None, gt=0)
    """µm per pixel of the input, which is that of the output too."""
    tile: int | None = Field(None, ge=16, le=16384)
    """Side of the input in pixels."""
    overlap: int | None = Field(None, ge=0, le=4096)
    """Pixels on each side of a tile that are not kept, because they lack surroundings."""
    mean: tuple[float, ...] | None = None
    """Normalisation: (value - mean) / std of values in 0..1; one number, or one for each channel."""
    std: tuple[float, ...] | None = None
    output: Literal["probabilities", "logits", "sigmoid"] | None = None
    """What the output is: probabilities, logits (softmax follows), or sigmoid (logits of separate classes)."""
    background: bool | None = None
    """Whether the first channel of the output is background."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A model of another program.

    Attributes
    ----------
    path : Path
    fingerprint : str
        A hash of the file and of what is declared.
    classes : tuple of str
    mpp : float or None
        µm per pixel of the input; None: pixels of the image.
    ratio : int
        Input pixels along a pixel of the output.
    channels : int
    tile, overlap : int
        Side of the input, and the pixels of it on each side that are not kept.
    multiple : int
        What the sides of an input are multiples of.
    exact : bool
        Whether tiles with this overlap are known to give what the whole slide would.
    notes : tuple of str
        Sentences about what a person should know.
    run : callable
        Probabilities `(K+1, H, W)` of a tile `(C, h, w)` in 0..1 and its values as they are in the file.
    """

    path: Path
    fingerprint: str
    classes: tuple[str, ...]
    mpp: float | None
    ratio: int
    channels: int
    tile: int
    overlap: int
    multiple: int
    exact: bool
    notes: tuple[str, ...]
    run: Callable[[Tiles, Tiles], Tiles]


def is_foreign(path: Path) -> bool:
    """Whether a model file is read here, by its ending."""
    return path.suffix.lower() in ENDINGS


def load_foreign(path: Path) -> ForeignNetwork:
    """Read a model of another program, ready to predict.

    Raises
    ------
    ModelError
        If the file is damaged, is no such model, has other inputs than one image, or something about it is not known
        and not declared.
    """
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise ModelError(f"There is no model file at {printable(path)}, or it is larger than {_LARGEST >> 30} GB.")
        said = _declared(path)
        if path.suffix.lower() == ".zip":
            data, before, after, found = _package(path)
        else:
            data, before, after, found = path.read_bytes(), [], [], {}
    except OSError as error:
        raise ModelError(f"{printable(path)} cannot be read ({error.strerror}); give another model file.") from error
    session, description = _session(data, path)
    found = {**_of_export(description), **found, **{k: v for k, v in said if v is not None}}
    digest = hashlib.sha256(data)
    digest.update(json.dumps(found, sort_keys=True, default=str).encode())
    return _network(path, session, found, (before, after), digest.hexdigest())


def _declared(path: Path) -> Declared:
    beside = path.with_name(f"{path.name}.json")
    if not beside.exists():
        return Declared()
    try:
        return Declared.model_validate_json(beside.read_bytes())
    except ValidationError as error:
        raise explain(error, f"The description {printable(beside)}") from error


def _session(data: bytes, path: Path) -> tuple[Any, dict[str, Any]]:
    """The network in ONNX Runtime, and the description that our own exports carry."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "ONNX needs onnxruntime, which is not installed; install it: pip install 'napari-msunet[onnx]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has many classes of errors
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise ModelError(f"{printable(path)} cannot be read as an ONNX model ({reason}); write it again.") from error
    if len(session.get_inputs()) != 1 or len(session.get_inputs()[0].shape) != 4:
        raise ModelError(
            f"{printable(path)} has other inputs than one image (batch, channels, height, width); give a model of one."
        )
    try:
        said = json.loads(session.get_modelmeta().custom_metadata_map.get(KEY, "{}"))
    except ValueError:
        said = {}
    return session, said if isinstance(said, dict) else {}


def _of_export(said: dict[str, Any]) -> dict[str, Any]:
    """What an export of ours says about itself, in the words of `Declared`."""
    if not said:
        return {}
    margin = said.get("margin")
    ratio = max(1, round(1 / float(said.get("output_scale") or 1)))
    return {
        "classes": tuple(said["classes"][1:]),
        "mpp": said.get("mpp"),
        "output": "probabilities",
        "background": True,
        "multiple": int(said.get("multiple", 1)),
        "ratio": ratio,
        "output_scale": said.get("output_scale"),
        "overlap": None if margin is None else int(margin) * ratio,
        "exact": margin is not None,
        "tile": said.get("size"),
        "exported": True,
    }


# ----------------------------------------------------------------------------------------------------------------------
# bioimage.io: the ONNX weights of a package, and what rdf.yaml says about them.

Step = Callable[[Tiles], Tiles]


def _package(path: Path) -> tuple[bytes, list[Step], list[str], dict[str, Any]]:
    """The ONNX weights, the steps before the network, those after it, and what the package says."""
    import yaml

    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rsplit("/", 1)[-1]: name for name in archive.namelist()}
            rdf = names.get("rdf.yaml") or names.get("bioimageio.yaml")
            if rdf is None:
                raise ModelError(f"{printable(path)} is no bioimage.io package: it has no rdf.yaml.")
            said = yaml.safe_load(archive.read(rdf))
            weights = (said.get("weights") or {}).get("onnx")
            if not weights:
                kinds = ", ".join(said.get("weights") or ()) or "none"
                raise ModelError(
                    f"{printable(path)} has no ONNX weights (it has {kinds}), and others are not read here, since "
                    "pickles can run any code; ask its authors for ONNX, or convert it with bioimageio.core."
                )
            name = str(PurePosixPath(rdf).parent / str(weights["source"])).removeprefix("./")
            if archive.getinfo(name).file_size > _LARGEST:
                raise ModelError(f"The weights in {printable(path)} are larger than {_LARGEST >> 30} GB.")
            data = archive.read(name)
        return (data, *_described(said, path))
    except (zipfile.BadZipFile, KeyError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, ModelError):
            raise
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise ModelError(
            f"{printable(path)} is damaged or no bioimage.io package ({reason}); download it again."
        ) from error


def _described(said: dict[str, Any], path: Path) -> tuple[list[Step], list[str], dict[str, Any]]:
    inputs, outputs = said["inputs"], said["outputs"]
    if len(inputs) != 1:
        raise ModelError(f"{printable(path)} has {len(inputs)} inputs; only packages of one image are read.")
    given, answer = inputs[0], outputs[0]
    kinds, sizes = _axes(given["axes"], given)
    if kinds != _CHANNELS_FIRST:
        raise ModelError(
            f"{printable(path)} has the axes {''.join(kinds)}; only images with the axes bcyx (two dimensions) "
            "are read."
        )
    found: dict[str, Any] = dict(((said.get("config") or {}).get(KEY) and _of_export(said["config"][KEY])) or {})
    size = sizes[2]
    if isinstance(size, dict):
        found["multiple"] = max(1, int(size.get("step") or 1))
        found.setdefault("least", int(size.get("min") or 1))
    else:
        found["tile"], found["fixed"] = int(size), True
    halo = [axis.get("halo", 0) for axis in answer["axes"] if isinstance(axis, dict) and axis.get("id") in ("y", "x")]
    halo = halo or [int(v) for v in (answer.get("halo") or [0])[-2:]]
    if not found.get("exported"):
        found["overlap"] = max(int(v) for v in halo)
        found["mpp"] = _micrometres(given["axes"])
        names = next(
            (a.get("channel_names") for a in answer["axes"] if isinstance(a, dict) and a.get("type") == "channel"), None
        )
        if names:
            first = str(names[0]).lower() in ("background", "bg")
            found |= {"background": first, "classes": tuple(map(str, names[1:] if first else names))}
    found["notes"] = []
    before = [_step(one, found["notes"], path) for one in given.get("preprocessing") or ()]
    after = [str(one.get("id") or one.get("name")) for one in answer.get("postprocessing") or ()]
    if unknown := set(after) - {"softmax", "sigmoid", "ensure_dtype"}:
        raise ModelError(
            f"{printable(path)} asks for {', '.join(sorted(unknown))} after the network, which is not known here."
        )
    if not found.get("exported"):
        found["output"] = "sigmoid" if "sigmoid" in after else "logits" if "softmax" in after else "probabilities"
    return before, after, found


def _axes(axes: Any, tensor: dict[str, Any]) -> tuple[tuple[str, ...], list[Any]]:
    """The axes of an input in one letter each, and their sizes; of version 0.4 or 0.5."""
    if isinstance(axes, str):
        shape = tensor["shape"]
        if isinstance(shape, dict):
            sizes = [{"min": a, "step": b} if b else a for a, b in zip(shape["min"], shape["step"], strict=True)]
        else:
            sizes = list(shape)
        return tuple(axes), sizes
    letters = {"batch": "b", "channel": "c"}
    return tuple(letters.get(a["type"], a.get("id", "?")) for a in axes), [a.get("size") for a in axes]


def _micrometres(axes: Any) -> float | None:
    for axis in axes if isinstance(axes, list) else ():
        if axis.get("id") == "y" and axis.get("unit") == "micrometer" and axis.get("scale"):
            return float(axis["scale"])
    return None


def _step(said: dict[str, Any], notes: list[str], path: Path) -> Step:
    """A step of preprocessing, on tiles `(C, h, w)` of the file's own values."""
    name, kwargs = str(said.get("id") or said.get("name")), dict(said.get("kwargs") or {})

    def by_channel(value: Any) -> Tiles:
        return np.asarray(value, np.float32).reshape(-1, 1, 1)

    if name == "ensure_dtype":
        return lambda x: x.astype(np.float32, copy=False)
    if name == "scale_linear":
        gain, offset = by_channel(kwargs.get("gain", 1.0)), by_channel(kwargs.get("offset", 0.0))
        return lambda x: x * gain + offset
    if name == "clip":
        return lambda x: np.clip(x, kwargs.get("min"), kwargs.get("max"))
    if name == "fixed_zero_mean_unit_variance" or (name == "zero_mean_unit_variance" and kwargs.get("mode") == "fixed"):
        mean, std = by_channel(kwargs["mean"]), by_channel(kwargs["std"])
        return lambda x: (x - mean) / std
    if name in ("zero_mean_unit_variance", "scale_range"):
        notes.append(f"This model asks for {name} of each image; it is done for each tile, so tiles differ.")
        axes = _statistics_axes(kwargs.get("axes"))
        eps = float(kwargs.get("eps", 1e-6))
        if name == "scale_range":
            low, high = float(kwargs.get("min_percentile", 0.0)), float(kwargs.get("max_percentile", 100.0))
            return lambda x: _between(x, np.percentile(x, (low, high), axis=axes, keepdims=True), eps)
        return lambda x: (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + np.float32(eps))
    raise ModelError(f"{printable(path)} asks for {name} before the network, which is not known here.")


def _between(x: Tiles, bounds: Any, eps: float) -> Tiles:
    found: Tiles = ((x - bounds[0]) / (bounds[1] - bounds[0] + eps)).astype(np.float32)
    return found


def _statistics_axes(axes: Any) -> tuple[int, ...]:
    """The axes of `(C, h, w)` over which statistics are taken."""
    if axes is None:
        return (0, 1, 2)
    letters = {"channel": 0, "c": 0, "y": 1, "x": 2}
    return tuple(letters[a] for a in axes if a in letters)


# ----------------------------------------------------------------------------------------------------------------------
# The function of a tile.


def _network(
    path: Path, session: Any, found: dict[str, Any], steps: tuple[list[Step], list[str]], fingerprint: str
) -> ForeignNetwork:
    shape = session.get_inputs()[0].shape
    channels = shape[1] if isinstance(shape[1], int) else 3
    outputs = session.get_outputs()[0].shape[1]
    needed = [name for name in ("classes", "background", "output") if found.get(name) is None]
    if needed:
        example = {"classes": ["gland"], "mpp": 0.5, "overlap": 64, "output": "logits", "background": True}
        raise ModelError(
            f"{printable(path)} does not say its {', '.join(needed)}: write them beside it as {path.name}.json, "
            "such as "
            f"{json.dumps(example)}."
        )
    classes = tuple(found["classes"])
    count = len(classes) + bool(found["background"])
    if isinstance(outputs, int) and outputs != count:
        raise ModelError(
            f"{printable(path)} has {outputs} channels in its output, but {count} are declared "
            f"({'background, ' if found['background'] else ''}{', '.join(classes)}); correct {path.name}.json."
        )
    multiple = int(found.get("multiple") or 1)
    fixed = [n for n in shape[2:] if isinstance(n, int)]
    overlap = int(found.get("overlap") or 0)
    notes = list(found.get("notes") or ())
    if found.get("overlap") is None:
        overlap = 64
        notes.append(f"Nothing says how far this model looks; tiles overlap by {overlap} pixels on each side.")
    tile = int(fixed[0] if fixed else found.get("tile") or max(_TILE, int(found.get("least") or 1), 4 * overlap))
    if not fixed:
        tile = -(-tile // multiple) * multiple
    if tile <= 2 * overlap:
        raise ModelError(
            f"{printable(path)} has tiles of {tile} pixels, of which an overlap of {overlap} on each side leaves "
            "nothing; "
            f"declare a smaller overlap in {path.name}.json."
        )
    run = _runner(session, found, steps[0])
    exact = bool(found.get("exact")) and overlap >= int(found.get("overlap") or 0)
    mpp = found.get("mpp")
    ratio = int(found.get("ratio") or 1)
    return ForeignNetwork(
        path, fingerprint, classes, mpp, ratio, channels, tile, overlap, multiple, exact, tuple(notes), run
    )


def _runner(session: Any, found: dict[str, Any], before: list[Step]) -> Callable[[Tiles, Tiles], Tiles]:
    name = session.get_inputs()[0].name
    mean, std = (np.asarray(found.get(k) or v, np.float32).reshape(-1, 1, 1) for k, v in (("mean", 0.0), ("std", 1.0)))

    def run(unit: Tiles, raw: Tiles) -> Tiles:
        if before:
            x = raw
            for step in before:
                x = step(x)
        else:
            x = (unit - mean) / std
        z = np.asarray(session.run(None, {name: np.ascontiguousarray(x[None], np.float32)})[0][0], np.float32)
        return _probabilities(z, str(found["output"]), bool(found["background"]))

    return run


def _probabilities(z: Tiles, output: str, background: bool) -> Tiles:
    """Probabilities with background first, which sum to 1."""
    if output == "logits" and len(z) > 1:
        z = softmax(z, axis=0)
    elif output in ("sigmoid", "logits"):
        z = expit(z)
    if not background:
        rest = np.clip(1 - z.max(0), 0, 1)[None] if len(z) > 1 else 1 - z
        z = np.concatenate([rest, z])
    total = np.maximum(z.sum(0), np.float32(1e-6))
    found: Tiles = np.clip(z / total if output == "sigmoid" else z, 0, 1).astype(np.float32)
    return found


def channel_order(names: Sequence[str], count: int) -> list[int]:
    """The slide's channels that a model of `count` channels sees: the first ones.

    Raises
    ------
    ModelError
        If the slide has fewer.
    """
    if len(names) < count:
        raise ModelError(f"The model needs {count} channels, but the slide has {len(names)} ({', '.join(names)}).")
    return list(range(count))

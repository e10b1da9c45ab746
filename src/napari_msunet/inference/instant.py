"""Answers while one paints: a light head on the frozen features of a model, fitted to what is annotated so far.

The head is multinomial logistic regression on the last features of all branches. It is a linear map, so it is the same
as a `concat` fusion, whose projections run on each branch's own grid: a head that is kept is an ordinary model file.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import hypot
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_msunet import events
from napari_msunet.config import AnswerRequest, FiltersConfig, FitHeadJob, ModelConfig, PredictOptions, TrainedOn
from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.events import Answered, Event, Message, Progress, Result, unpacked
from napari_msunet.geometry import Region, Window, round_up
from napari_msunet.inference.engine import as_input
from napari_msunet.inference.model_cache import MODEL_CACHE, ModelCache, stamp
from napari_msunet.inference.network import TorchNetwork, is_out_of_memory
from napari_msunet.inference.plan import margin_of
from napari_msunet.inference.setup import margins_of, set_up
from napari_msunet.inference.slide_statistics import sample_windows
from napari_msunet.labels import open_labels
from napari_msunet.labels.stroke_samples import AnnotatedPixels, StrokeSamples
from napari_msunet.models import MSUNet, build_model, save_model
from napari_msunet.models.blocks import arrange
from napari_msunet.models.msunet import tensors_of
from napari_msunet.models.networks.filters import Filters
from napari_msunet.models.resample import to_target
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import seen_by

# ----------------------------------------------------------------------------------------------------------------------
# The features of a slide, tile by tile.

TILE = 512
"""Side of a tile in target pixels, rounded up to the model's alignment."""

KNOTS = (-0.7, 0.0, 0.7)
"""Knots of the fixed filters, about the quartiles and the middle of a feature."""

SAMPLED, SAMPLED_SIDE = 8, 256
"""Windows of a slide, and their side in target pixels, that say how widely the fixed filters' features spread there."""

FINEST = 0.24
"""µm per pixel: fixed filters look at the slide's own pixels, unless they are finer than this."""

Key = tuple[int, int]
"""Row and column of a tile."""

Vectors = npt.NDArray[np.float32]


def check_features(model: MSUNet) -> None:
    """Raise `ModelError` where the features of a model cannot be used one branch and one tile at a time."""
    if model.config.joint:
        raise ModelError(
            "The scales of this model are computed together (inject, pyramid, or an output finer than its input), so "
            "it cannot answer while you paint; choose a model of another fusion."
        )
    if not model.exact:
        raise ModelError(
            "A layer of this model sees the whole tile (such as instance norm), so it cannot answer while you paint; "
            "choose a model with batch norm."
        )


def filters_model(slide: Slide) -> MSUNet:
    """A model of fixed filters at several scales, which needs no training: colour, edges and textures.

    Measured (`benchmarks/instant.py`), a head on them is better than one on the last features of a network that was
    trained for something else.
    """
    size: dict[str, float | None] = {"mpp": None}
    if slide.mpp is not None:
        mpp = max(slide.mpp)
        while mpp < FINEST:
            mpp *= 2
        size = {"mpp": float(f"{mpp:.4g}")}
    own, coarsest = FiltersConfig(sigmas=(1.0,), knots=KNOTS), FiltersConfig(sigmas=(1.0, 2.0), knots=KNOTS)
    scales = (1.0, 0.5, 0.25, 0.125)
    known = TrainedOn(kind=slide.kind, ranges={slide.dtype.name: slide.value_range})
    config = ModelConfig(
        classes=("class 1",), scales=scales, fusion="concat", channels=slide.shape[2], trained_on=known,
        branch=(own,) * (len(scales) - 1) + (coarsest,), **size,
    )  # fmt: skip
    model = build_model(config).eval()
    grid, scale = slide.grid(config.target), seen_by(known, slide).scale
    windows = sample_windows(slide, grid, SAMPLED_SIDE, SAMPLED, config.size_multiple)
    for i, ratio in enumerate(config.ratios):
        parts = [slide.read_window(grid.scaled(ratio), window.times(ratio)) for window in windows]
        x = torch.from_numpy(np.stack([as_input(part, scale) for part in parts]))
        network = model.branch(i).network
        assert isinstance(network, Filters)  # for the type checker
        with torch.no_grad():
            network.follow(model.normalise(x))
    return model


class FeatureTiles:
    """The last features of a model's branches on a slide, kept for the tiles that were used last.

    Each branch's features are on its own grid, in float16, with the ring that bringing them to the target grid needs.

    Parameters
    ----------
    model : MSUNet
    slide : Slide
    memory : int
        Bytes that the tiles may take.
    device : str

    Raises
    ------
    ModelError
        If the model's features cannot be used, the slide has other channels, or one tile does not fit into the memory.
    MissingMppError
        If the slide's µm per pixel are not known.
    """

    def __init__(self, model: MSUNet, slide: Slide, memory: int = 10**9, device: str = "auto") -> None:
        check_features(model)
        self.config = model.config
        setup = set_up(slide, [model], PredictOptions(device=device))
        network = setup.networks(setup.devices[0])[0]
        assert isinstance(network, TorchNetwork)  # for the type checker: the options ask for no other engine
        self._network, self._device = network.model, setup.devices[0]
        self.slide, self.grid, self.memory = slide, setup.grid, memory
        self.side = round_up(TILE, self.config.size_multiple)
        self.widths = tuple(model.branch(i).network.features for i in range(len(self.config.scales)))
        self._scale, self._channels = setup.scales[0], setup.channels
        self._margins = [
            margin_of("exact", int(exact or 0), ratio, branch.stride)
            for exact, ratio, branch in zip(margins_of(model), self.config.ratios, self.config.branches, strict=True)
        ]
        self._tiles: OrderedDict[Key, tuple[Tensor, ...]] = OrderedDict()
        self._vectors: dict[Key, tuple[npt.NDArray[np.int64], Vectors]] = {}
        self.computed = 0
        """How many tiles were computed so far."""
        if self.tile_bytes > memory:
            raise ModelError(
                f"The features of one tile of this model take {self.tile_bytes / 1e9:.2g} GB, and "
                f"{memory / 1e9:.2g} GB are set aside for them; choose a model with fewer channels."
            )

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile."""
        sides = [self.side * ratio + 2 * _ring(ratio) for ratio in self.config.ratios]
        return sum(2 * width * int(side) ** 2 for width, side in zip(self.widths, sides, strict=True))

    @property
    def used(self) -> int:
        """Bytes of the tiles that are kept."""
        return sum(z.numel() * z.element_size() for tile in self._tiles.values() for z in tile)

    def __contains__(self, key: Key) -> bool:
        return key in self._tiles

    def window(self, key: Key) -> Window:
        """The target pixels of a tile; those of the last ones reach beyond the slide."""
        return Window(key[0] * self.side, key[1] * self.side, self.side, self.side)

    def keys(self, window: Window) -> list[Key]:
        """The tiles that a window of the target grid touches, within the slide."""
        inside = window.intersection(self.grid.whole)
        if inside.empty:
            return []
        rows = range(inside.y // self.side, -(-inside.stop[0] // self.side))
        columns = range(inside.x // self.side, -(-inside.stop[1] // self.side))
        return [(row, column) for row in rows for column in columns]

    def features(self, key: Key) -> tuple[Tensor, ...]:
        """For each branch `(1, F, h, w)` float16 on its own grid, with a ring where the branch is coarse."""
        tile = self._tiles.pop(key, None)
        if tile is None:
            with torch.inference_mode():
                tile = tuple(self._branch(i, self.window(key)) for i in range(len(self.widths)))
            self.computed += 1
            room = self.memory - self.tile_bytes
            while self._tiles and self.used > room:
                self._tiles.popitem(last=False)
        self._tiles[key] = tile
        return tile

    def _branch(self, i: int, window: Window) -> Tensor:
        ratio, margin = self.config.ratios[i], self._margins[i]
        own = window.times(ratio)
        pixels = self.slide.read_window(self.grid.scaled(ratio), own.padded(margin))
        if self._channels is not None:
            pixels = pixels[..., list(self._channels)]
        x = torch.from_numpy(as_input(pixels, self._scale))[None].to(self._device)
        edge = margin - _ring(ratio)
        keep = Window(edge, edge, own.height + 2 * _ring(ratio), own.width + 2 * _ring(ratio))
        found = self._network.branch_features(i, x, keep)
        return found.clamp(-65504, 65504).half()  # the largest numbers of float16

    # --------------------------------------------------------------------------------------------- features of pixels

    def place(self, samples: AnnotatedPixels) -> dict[Key, tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
        """Samples by tile: numbers of the tile's pixels, row by row, and their values; each target pixel once."""
        pixels = np.floor(samples.places / np.asarray(self.grid.pixel)).astype(np.int64)
        inside = ((pixels >= 0) & (pixels < self.grid.shape)).all(1)
        pixels, values = pixels[inside], samples.values[inside]
        tiles, local = pixels // self.side, pixels % self.side
        numbers = local[:, 0] * self.side + local[:, 1]
        found = {}
        for row, column in np.unique(tiles, axis=0).tolist():
            here = (tiles == (row, column)).all(1)
            unique, first = np.unique(numbers[here], return_index=True)
            found[row, column] = unique, values[here][first]
        return found

    def known(self, key: Key, pixels: npt.NDArray[np.int64]) -> bool:
        """Whether `vectors` needs no network for these pixels."""
        return key in self._tiles or (key in self._vectors and bool(np.isin(pixels, self._vectors[key][0]).all()))

    def vectors(self, key: Key, pixels: npt.NDArray[np.int64]) -> Vectors:
        """The features `(n, F)` of some pixels of a tile, of all branches, on the target grid.

        They are kept, so that the head can be fitted again when the tile itself is not kept any more.

        Parameters
        ----------
        pixels : (n,) int
            Numbers of the tile's pixels, row by row, ascending.
        """
        before, found = self._vectors.get(key, (np.empty(0, np.int64), np.empty((0, sum(self.widths)), np.float32)))
        missing = np.setdiff1d(pixels, before, assume_unique=True)
        if len(missing):
            y, x = (torch.from_numpy(part) for part in np.divmod(missing, self.side))
            tile = zip(self.features(key), self.config.ratios, strict=True)
            with torch.inference_mode():
                fresh = torch.cat([_at(z, y, x, ratio) for z, ratio in tile], dim=1).cpu().numpy()
            numbers, rows = np.concatenate((before, missing)), np.concatenate((found, fresh))
            order = np.argsort(numbers)
            before, found = numbers[order], rows[order]
        wanted = found[np.searchsorted(before, pixels)]
        self._vectors[key] = pixels, wanted  # those of pixels that are not annotated any more go
        return wanted

    # --------------------------------------------------------------------------------------------------------- labels

    def labels(self, key: Key, head: Head) -> npt.NDArray[np.uint8]:
        """The class of each pixel of a tile, `(h, w)`; pixels beyond the slide are left out."""
        part = self.window(key).intersection(self.grid.whole)
        return self.logits(key, head)[0, :, : part.height, : part.width].max(0).indices.to(torch.uint8).cpu().numpy()

    def logits(self, key: Key, head: Head) -> Tensor:
        """The logits `(1, K+1, side, side)` of a head on a tile."""
        with torch.inference_mode():
            total = head.bias.to(self._device).view(1, -1, 1, 1)
            for z, weight, ratio in zip(self.features(key), head.weights, self.config.ratios, strict=True):
                projected = F.conv2d(z.float(), weight.to(self._device)[..., None, None])
                total = total + _cropped(to_target(projected, ratio), ratio)
        return total


def _ring(ratio: Fraction) -> int:
    """Branch pixels around a tile for its upsampling, as in a prediction; see `Stream.ring`."""
    return ratio.numerator if ratio < 1 else 0


def _cropped(up: Tensor, ratio: Fraction) -> Tensor:
    """A map of the target grid without what its ring became."""
    crop = _ring(ratio) * ratio.denominator // ratio.numerator
    return up[..., crop : up.shape[-2] - crop, crop : up.shape[-1] - crop] if crop else up


def _at(z: Tensor, y: Tensor, x: Tensor, ratio: Fraction) -> Tensor:
    """The features `(n, F)` of a branch's tile at target pixels, as `to_target` gives them."""
    y, x, z = y.to(z.device), x.to(z.device), z[0]
    if ratio == 1:
        return z[:, y, x].float().T
    if ratio > 1:
        return to_target(z[None].float(), ratio)[0][:, y, x].T
    (y0, y1, fy), (x0, x1, fx) = (_between(pixels, ratio) for pixels in (y, x))
    above = torch.lerp(z[:, y0, x0].float(), z[:, y0, x1].float(), fx)
    below = torch.lerp(z[:, y1, x0].float(), z[:, y1, x1].float(), fx)
    return torch.lerp(above, below, fy).T


def _between(pixels: Tensor, ratio: Fraction) -> tuple[Tensor, Tensor, Tensor]:
    """The two branch pixels, counted in a tile with its ring, between which the centre of a target pixel lies, and the
    weight of the second."""
    p, q = ratio.numerator, ratio.denominator
    position = (2 * pixels + 1) * p - q
    low = torch.div(position, 2 * q, rounding_mode="floor")
    return low + p, low + p + 1, (position - low * 2 * q).float() / (2 * q)


# ----------------------------------------------------------------------------------------------------------------------
# The head.

REGULARISATION = 0.1
"""The inverse strength `C` of scikit-learn: pixels of a stroke are much alike, so there are fewer than they seem."""

ABSENT = -10.0
"""Logit of a class without samples. The logits of the others have a mean of 0, so it never wins, and yet a training
that begins here can still learn it."""

TOO_FEW = "Paint a second class, or background: with strokes of one kind only there is nothing to tell apart."


@dataclass(frozen=True)
class Head:
    """A linear map from features to logits.

    Attributes
    ----------
    weights : tuple of (K+1, F) Tensor
        One for each branch.
    bias : (K+1,) Tensor
    agreement : float
        The share of the samples that it labels as they are annotated.
    """

    weights: tuple[Tensor, ...]
    bias: Tensor
    agreement: float = 1.0


def fit_head(features: Vectors, values: npt.NDArray[np.uint8], widths: Sequence[int], outputs: int) -> Head:
    """Fit a head by multinomial logistic regression, in which each class has the same weight.

    Parameters
    ----------
    features : (n, F) float32
        Of all branches, in their order.
    values : (n,) uint8
        0 background, 1..K.
    widths : sequence of int
        Features of each branch.
    outputs : int
        K + 1.

    Raises
    ------
    MsunetError
        If all samples are of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    present = np.unique(values)
    if len(present) < 2:
        raise MsunetError(TOO_FEW)
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    std = np.where(std > 1e-6, std, 1.0)
    regression = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=200)
    # Threads cost more than they bring for matrices this small, above all beside a training.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is as good an answer
        regression.fit((features - mean) / std, values)
    coefficients, intercept = regression.coef_, regression.intercept_
    if len(present) == 2:  # one logit for the second class, as a pair
        coefficients, intercept = np.concatenate((-coefficients, coefficients)) / 2, np.array([-1, 1]) * intercept / 2
    coefficients = (coefficients - coefficients.mean(0)) / std
    intercept = intercept - intercept.mean() - coefficients @ mean
    agreement = float((present[(features @ coefficients.T + intercept).argmax(1)] == values).mean())
    weight, bias = np.zeros((outputs, features.shape[1]), np.float32), np.full(outputs, ABSENT, np.float32)
    weight[present], bias[present] = coefficients, intercept
    edges = np.cumsum(widths)[:-1]
    parts = tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in np.split(weight, edges, axis=1))
    return Head(parts, torch.from_numpy(bias), agreement)


def with_head(model: MSUNet, classes: Sequence[str], head: Head, own: Sequence[Head]) -> MSUNet:
    """A model of the same branches whose fusion is a head.

    Parameters
    ----------
    model : MSUNet
        Its weights are shared, not copied.
    classes : sequence of str
        Names of classes 1..K.
    head : Head
    own : sequence of Head
        One for each branch alone; one for all where the branches share their weights.
    """
    fields = {name: getattr(model.config, name) for name in type(model.config).model_fields}
    config = ModelConfig(**{**fields, "classes": tuple(classes), "fusion": "concat"})
    with torch.device("meta"):
        made = MSUNet(config)
    tensors = {name: t for name, t in model.state_dict().items() if not name.startswith("fusion.")}
    for i, weight in enumerate(head.weights):
        tensors[f"fusion.projections.{i}.weight"] = _sub_pixels(weight, model.details[i])[..., None, None]
    tensors["fusion.bias"] = head.bias
    for i, alone in enumerate(own):
        tensors[f"branches.{i}.head.weight"] = _sub_pixels(alone.weights[0], model.details[i])[..., None, None]
        if f"branches.{i}.head.offset" in tensors:  # one bias for all sub-pixels of a class
            tensors[f"branches.{i}.head.offset"] = alone.bias
        else:
            tensors[f"branches.{i}.head.bias"] = _sub_pixels(alone.bias, model.details[i])
    made.load_state_dict({name: t.detach().clone() for name, t in tensors.items()}, assign=True)
    return arrange(made).eval()


def _sub_pixels(rows: Tensor, detail: int) -> Tensor:
    """The same row for each sub-pixel, where a branch's output is finer than its features."""
    return rows.repeat_interleave(detail**2, dim=0)


# ----------------------------------------------------------------------------------------------------------------------
# Answers to what is painted.

MOST_PIXELS = 16 * 2**20
"""Most target pixels of an answer; a larger view is answered around the last stroke."""

FIRST_TILES = 4
"""Tiles that are computed for samples outside the view before the first answer; the rest follows after it."""


class Placed(NamedTuple):
    """The samples of a tile: numbers of its pixels, and their values."""

    key: Key
    pixels: npt.NDArray[np.int64]
    values: npt.NDArray[np.uint8]


class Answers:
    """Answers requests one after the other, and keeps models, slides and features between them.

    Parameters
    ----------
    busy : callable, optional
        Whether other work runs beside, which is then given half of the time.
    """

    def __init__(self, busy: Callable[[], bool] = lambda: False) -> None:
        self._cache = ModelCache(models=1, slides=1)
        self._busy = busy
        self._tiles: tuple[Any, FeatureTiles] | None = None
        self._known: tuple[Any, str] = ((), "")

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """The events of a request: `Answered` for each tile, the nearest first, and a `Result` with numbers.

        Raises
        ------
        MsunetError
            If the model, the slide or the samples cannot be used.
        """
        began = time.monotonic()
        model = None if request.model is None else self._cache.model(request.model)
        with self._cache.slide(request.slide, request.slide_mpp, request.image_kind, request.value_range) as slide:
            try:
                yield from self._answer(request, self._features(request, model, slide), began)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._tiles = None
                raise MsunetError(
                    "The features of what is in view do not fit into the memory; zoom in, or end other programs."
                ) from error

    def _features(self, request: AnswerRequest, model: MSUNet | None, slide: Slide) -> FeatureTiles:
        if model is not None and self._known[0] != (where := stamp(request.model or request.slide)):
            self._known = where, _features_of(model)
        key = (
            None if model is None else self._known[1], stamp(request.slide), request.slide_mpp, request.image_kind,
            request.value_range, request.memory, request.device,
        )  # fmt: skip
        if self._tiles is None or self._tiles[0] != key:
            self._tiles = None  # the memory of the former goes first
            room = int(request.memory * 1e9)
            self._tiles = key, FeatureTiles(model or filters_model(slide), slide, room, request.device)
        tiles = self._tiles[1]
        tiles.slide = slide
        return tiles

    def _answer(self, request: AnswerRequest, tiles: FeatureTiles, began: float) -> Iterator[Event]:
        samples, count = _samples(request), tiles.computed
        near = request.near or (request.view[0] + request.view[2] / 2, request.view[1] + request.view[3] / 2)

        def distance(key: Key) -> float:
            y, x = tiles.grid.places(np.array(key) * tiles.side + (tiles.side - 1) / 2)
            return hypot(y - near[0], x - near[1])

        seen = sorted(tiles.keys(tiles.grid.centres(Region(*request.view))), key=distance)
        shown = seen[: max(1, MOST_PIXELS // tiles.side**2)]
        placed = [Placed(key, *found) for key, found in tiles.place(samples).items()]
        spent: dict[str, Any] = {}
        agreement = None
        if len({value for one in placed for value in one.values.tolist()}) < 2:
            yield Message(level="warning", text=TOO_FEW)
            self._prepare(tiles, shown)
        else:
            placed.sort(key=lambda one: distance(one.key))
            first, later = _for_now(tiles, placed)
            head = self._head(tiles, first, len(request.classes) + 1)
            spent["fitted"] = time.monotonic() - began
            for key in shown:
                yield self._tile(tiles, key, head)
                spent.setdefault("first", time.monotonic() - began)
            if later:
                for one in later:
                    self._rested(lambda one=one: tiles.vectors(one.key, one.pixels))  # type: ignore[misc]
                    events.check()
                head = self._head(tiles, placed, len(request.classes) + 1)
                yield from (self._tile(tiles, key, head) for key in shown)
            agreement = head.agreement
        if len(shown) < len(seen):
            yield Message(level="warning", text=_too_large(len(seen) / len(shown)))
        yield Result(
            values={
                **{name: round(seconds, 4) for name, seconds in spent.items()},
                "seconds": round(time.monotonic() - began, 4),
                "samples": len(samples),
                "agreement": agreement,
                "tiles": len(shown),
                "computed": tiles.computed - count,
            }
        )

    def _prepare(self, tiles: FeatureTiles, keys: Sequence[Key]) -> None:
        """Compute what the first answer will need, while there is nothing to answer yet."""
        for key in keys[: max(1, tiles.memory // tiles.tile_bytes)]:
            if key not in tiles:
                self._rested(lambda key=key: tiles.features(key))  # type: ignore[misc]
            events.check()

    def _head(self, tiles: FeatureTiles, placed: Sequence[Placed], outputs: int) -> Head:
        found = [tiles.vectors(one.key, one.pixels) for one in placed]
        values = np.concatenate([one.values for one in placed])
        return fit_head(np.concatenate(found), values, tiles.widths, outputs)

    def _tile(self, tiles: FeatureTiles, key: Key, head: Head) -> Answered:
        labels = tiles.labels(key, head) if key in tiles else self._rested(lambda: tiles.labels(key, head))
        return Answered.of(tiles.grid, tiles.window(key).intersection(tiles.grid.whole), labels)

    def _rested(self, work: Callable[[], Any]) -> Any:
        """Do work that takes a network, and rest as long beside other work."""
        began = time.monotonic()
        found = work()
        if self._busy():
            time.sleep(min(0.5, time.monotonic() - began))
        return found


def _too_large(times: float) -> str:
    return (
        f"The view is {times:.1f} times as large as what is answered at once; the answer is around your last stroke: "
        "zoom in for the rest."
    )


def _features_of(model: MSUNet) -> str:
    """What decides the features of a model: all but its classes, heads and fusion, so that those of a kept head are
    known already."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        if not name.startswith("fusion.") and ".head." not in name:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    config = model.config
    digest.update(repr((config.scales, config.mpp, config.pixel, config.branches, config.trained_on)).encode())
    return digest.hexdigest()


def _samples(request: AnswerRequest) -> AnnotatedPixels:
    try:
        places = unpacked(request.places, np.float64) if request.places else np.empty(0)
        values = unpacked(request.values, np.uint8) if request.values else np.empty(0, np.uint8)
        samples = AnnotatedPixels(places.reshape(-1, 2), values)  # type: ignore[arg-type]  # of the types named above
    except ValueError as error:
        raise MsunetError(f"The samples of the request cannot be read ({error}).") from error
    if len(samples.places) != len(values) or (len(values) and int(values.max()) > len(request.classes)):
        raise MsunetError(
            f"The request has {len(samples.places)} places, {len(values)} values and {len(request.classes)} classes, "
            "which do not fit together."
        )
    return samples


def _for_now(tiles: FeatureTiles, placed: Sequence[Placed]) -> tuple[list[Placed], list[Placed]]:
    """The samples for the first answer, nearest first: those that are known, and of the others a few tiles, but at
    least as many as hold two classes; and the rest."""
    now: list[Placed] = []
    later: list[Placed] = []
    room = FIRST_TILES
    values: set[int] = set()
    for one in placed:
        known = tiles.known(one.key, one.pixels)
        if not known and room <= 0 and len(values) > 1:
            later.append(one)
            continue
        room -= not known
        now.append(one)
        values |= set(one.values.tolist())
    return now, later


# ----------------------------------------------------------------------------------------------------------------------
# The job that keeps a head as a model.


def fit_head_events(job: FitHeadJob) -> Iterator[Event]:
    """Run a `FitHeadJob`; see `napari_msunet.run`."""
    store = open_labels(job.labels)
    with MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        store.check_slide(slide)
        model = filters_model(slide) if job.model is None else MODEL_CACHE.model(job.model)
        tiles = FeatureTiles(model, slide, device=job.device)
        annotated = StrokeSamples(store)
        annotated.scan()
        placed = [Placed(key, *found) for key, found in tiles.place(annotated.of()).items()]
        found: list[Vectors] = []
        for done, one in enumerate(placed, start=1):
            events.check()
            found.append(tiles.vectors(one.key, one.pixels))
            yield Progress(done=done, total=len(placed), unit="tiles")
    if not placed:
        raise MsunetError(TOO_FEW)
    features, values = np.concatenate(found), np.concatenate([one.values for one in placed])
    outputs = len(store.classes) + 1
    head = fit_head(features, values, tiles.widths, outputs)
    own = _own_heads(model, features, values, tiles.widths, outputs)
    made = with_head(model, store.classes, head, own)
    names = ("background", *store.classes)
    counts = {names[value]: int(count) for value, count in enumerate(np.bincount(values)) if count}
    made.summary = {"head": {"features": model.fingerprint, "samples": counts, "agreement": head.agreement}}
    job.out.parent.mkdir(parents=True, exist_ok=True)
    save_model(made, job.out)
    scales = {f"scale {ratio}": one.agreement for ratio, one in zip(model.config.ratios, own, strict=False)}
    yield Result(
        values={"samples": counts, "agreement": head.agreement, "scales": scales}, files={"model": str(job.out)}
    )


def _own_heads(
    model: MSUNet, features: Vectors, values: npt.NDArray[np.uint8], widths: Sequence[int], outputs: int
) -> list[Head]:
    """A head for each branch alone, or one for all where they share their weights."""
    alone: Iterable[Vectors] = np.split(features, np.cumsum(widths)[:-1], axis=1)
    if len(model.branches) == 1:
        alone = list(alone)
        values = np.tile(values, len(alone))
        return [fit_head(np.concatenate(alone), values, widths[:1], outputs)]
    return [fit_head(part, values, [width], outputs) for part, width in zip(alone, widths, strict=True)]

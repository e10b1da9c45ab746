"""Preparing a prediction: checks of model and slide, the area, the devices and the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Any

import torch

from napari_msunet.config import ModelConfig, PredictOptions
from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.geometry import Grid, Region, Window, round_up
from napari_msunet.inference.budget import LONG, Speeds, fastest, limit_for, planned_memory
from napari_msunet.inference.engine import Pass, RequestedMaps
from napari_msunet.inference.network import ENGINES, VARIANTS, EngineNetwork, check_engine, network_for, pick_devices
from napari_msunet.inference.own_grid import ResizedPass
from napari_msunet.inference.plan import UNIT, Plan, Request, make_plan
from napari_msunet.inference.postprocess import threshold_array
from napari_msunet.inference.slide_statistics import Statistics, adapted, by_slide, fit_statistics
from napari_msunet.labels.area import Mask, where_mask
from napari_msunet.models import MSUNet
from napari_msunet.models.networks import Classical
from napari_msunet.own_process import resident
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import SeenByModel, legacy_scale, seen_by
from napari_msunet.slide.numbers import Scale

SMALL = 2_500_000
"""Largest prediction, in target pixels, for which nothing is counted or measured first, so that a view comes at
once."""

SMALL_LIMIT = 4_000_000

FAR = 40
"""Margins of more strides than this, such as HRNet-W32's, are read only where a tile with them fits into the memory;
where it does not, squares are blended, as for a network that sees the whole tile."""

GUESS = {"cpu": 1e6, "cuda": 50e6, "mps": 10e6}
"""Assumed pixels per second through a network, where no speed was measured."""


@dataclass(frozen=True)
class Setup:
    """All that a prediction needs, checked.

    Attributes
    ----------
    models : tuple of MSUNet
        The ensemble.
    grid : Grid
        The target grid.
    window : Window
        The wanted target pixels.
    mask : Mask, optional
        The wanted part of the window.
    devices : tuple of torch.device
    channels : tuple of int, optional
        The slide's channels for the models; None: all, in their order.
    kept : sequence, optional
        For each model, statistics of the slide that were fitted before; None: they are fitted at the first use.
    seen : tuple of SeenByModel
        For each model, how it sees the slide's values.
    bare : int
        Bytes that the process had before this prediction.
    inner : Grid, optional
        The grid of the networks, where the whole image is brought to one size; `grid` is then the image's own.
    speed_words : str
        Which precision and engine was the fastest, in a sentence; empty where nobody asked for it.
    """

    slide: Slide
    models: tuple[MSUNet, ...]
    options: PredictOptions
    grid: Grid
    window: Window
    mask: Mask | None
    devices: tuple[torch.device, ...]
    channels: tuple[int, ...] | None
    kept: Sequence[Statistics | None] | None = None
    seen: tuple[SeenByModel, ...] = ()
    bare: int = field(default_factory=resident)
    inner: Grid | None = None
    speed_words: str = ""

    def key(self) -> tuple[str, dict[str, Any]]:
        """The key of the run of these options, and the values of which it is the hash: all that can change the
        result."""
        options = self.options
        own = {"tta", "precision", "engine", "compile", "margin", "tile", "batch_size"}
        asked: dict[str, Any] = {
            "slide": self.slide.identity,
            "slide_mpp": self.slide.mpp,
            "models": [model.fingerprint for model in self.models],
            "window": (self.window.y, self.window.x, self.window.height, self.window.width),
            "where": None if self.mask is None else self.mask.key,
            "outputs": sorted({"labels", *options.outputs}),
            "probability_dtype": options.probability_dtype if "probabilities" in options.outputs else None,
            "device": sorted({device.type for device in self.devices}),
            "channels": self.channels,
            "postprocess": options.postprocess.model_dump(mode="json"),
            **{name: getattr(options, name) for name in sorted(own)},
        }
        before, slide = legacy_scale(self.slide.dtype), self.slide
        if any(s.scale[:2] != before[:2] for s in self.seen) or "person" in (
            slide.numbers.kind_from,
            slide.numbers.range_from,
        ):
            asked["values"] = [[*s.scale[:2]] for s in self.seen], slide.background.tolist()
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16], asked

    @property
    def wanted(self) -> RequestedMaps:
        """The maps that the tiles give."""
        return RequestedMaps(
            disagreement="disagreement" in self.options.outputs, entropy="entropy" in self.options.outputs
        )

    @cached_property
    def thresholds(self) -> Any:
        """The threshold of each class, as `decide` takes them."""
        return threshold_array(self.options.postprocess.thresholds, self.models[0].config.classes)

    @cached_property
    def statistics(self) -> tuple[Statistics | None, ...] | None:
        """The slide's statistics for each model that normalises by them; None if no model does."""
        if self.kept is not None:
            return tuple(self.kept)
        found = [
            fit_statistics(m, [self.slide], self.channels, scale) if by_slide(m) else None
            for m, scale in zip(self.models, self.scales, strict=True)
        ]
        return tuple(found) if any(found) else None

    def networks(self, device: torch.device) -> tuple[EngineNetwork, ...]:
        """The models prepared for this slide, on a device."""
        known = self.statistics or (None,) * len(self.models)
        fitting = [m if s is None else adapted(m, s) for m, s in zip(self.models, known, strict=True)]
        return tuple(network_for(model, device, self.options) for model in fitting)

    def passes(self, plan: Plan, device: torch.device) -> Pass | ResizedPass:
        """The engine on a device."""
        variants = VARIANTS[self.options.tta]
        networks = self.networks(device)
        rest = (self.wanted, variants, self.channels, self.bare, self.scales)
        own = Pass(networks, self.slide, plan, self.grid, *rest)
        if self.inner is None:
            return own
        around = plan_for(replace(self, grid=self.inner, window=self.inner.whole, mask=None, inner=None))
        return ResizedPass(own, Pass(networks, self.slide, around, self.inner, *rest), self.grid, self.inner)

    @property
    def scales(self) -> list[Scale]:
        """For each model, how it sees the slide's values as 0..1."""
        return [seen.scale for seen in self.seen]

    @property
    def doubts(self) -> list[str]:
        """Sentences about doubts in the meaning of the slide's numbers."""
        return list(dict.fromkeys(text for seen in self.seen for text in seen.doubts))


def set_up(slide: Slide, models: Sequence[MSUNet], options: PredictOptions) -> Setup:
    """Check everything about a prediction.

    Raises
    ------
    ModelError
        If the models do not fit each other or the slide, or a device does not exist.
    MissingMppError
        If the slide's µm per pixel are not known.
    MsunetError
        If the region holds no pixel of the slide.
    """
    bare = resident()
    check_ensemble(models)
    models = [member for model in models for member in model.members]  # each in its own, cheaper, tiles
    for model in models:
        check_fitted(model)
    config = models[0].config
    channels = matched_channels(models[0], slide, options.channels)
    grid = slide.grid(config.target)
    window = wanted_window(slide, grid, options.region)
    if "disagreement" in options.outputs and max(m.config.voices for m in models) <= 1:
        raise ModelError(
            "This model has one scale or one output only, so its scales cannot disagree; ask for entropy instead."
        )
    devices = pick_devices(options.device)
    words = ""
    if options.precision == "fast":
        choice = fastest(models[0], devices[0], options)
        options, words = options.model_copy(update=choice.options), choice.words
    check_engine(models, options, devices)
    mask = where_mask(slide, options.where)
    seen = tuple(seen_by(model.config.trained_on, slide) for model in models)
    setup = Setup(
        slide, tuple(models), options, grid, window, mask, devices, channels, seen=seen, bare=bare, speed_words=words
    )
    _ = setup.thresholds  # raises now for names that are no class
    return setup


def check_fitted(model: MSUNet) -> None:
    """Raise `ModelError` where a classical method was neither fitted to training images nor is to follow the slide."""
    network = model.branch(0).network
    if isinstance(network, Classical) and not (network.fitted or network.config.by_slide):
        raise ModelError(
            f"This model is a classical method ({network.config.method}) that was not fitted yet: train it, or let it "
            "be fitted to each slide (fit='slide')."
        )


def on_own_pixels(setup: Setup) -> Setup:
    """The setup of a prediction that is stored: where images are brought to one size, on the image's own grid."""
    if setup.models[0].config.image_size is None:
        return setup
    grid = setup.slide.grid()
    window = wanted_window(setup.slide, grid, setup.options.region)
    return replace(setup, grid=grid, window=window, inner=setup.grid)


def check_ensemble(models: Sequence[MSUNet]) -> None:
    """Raise `ModelError` where models of an ensemble differ in classes, µm per pixel or channels."""
    first = models[0].config
    for other in (model.config for model in models[1:]):
        for name in ("classes", "mpp", "pixel", "channels", "image_size"):
            if getattr(other, name) != getattr(first, name):
                raise ModelError(
                    f"The models of an ensemble differ in {name}: {getattr(first, name)} and {getattr(other, name)}; "
                    "give models that were trained for the same."
                )


def matched_channels(model: MSUNet, slide: Slide, asked: Sequence[str | int] | None = None) -> tuple[int, ...] | None:
    """The slide's channels for the model: those in the options, else those of the same names, else all.

    Raises
    ------
    ModelError
        If there is no such channel, or there are too few or too many.
    """
    count, names = model.config.channels, list(slide.channels)
    has = f"the slide {slide.path or ''} has {slide.shape[2]} channels ({', '.join(names)})"
    if asked is not None:
        found = []
        for channel in asked:
            if isinstance(channel, str) and channel in names:
                found.append(names.index(channel))
            elif isinstance(channel, int) and 0 <= channel < slide.shape[2]:
                found.append(channel)
            else:
                raise ModelError(f"There is no channel {channel!r}: {has}; name them, or count from 0.")
        if len(found) != count:
            raise ModelError(f"{len(found)} channels were given for a model of {count}; give {count} of: {names}.")
        return tuple(found)
    wanted = model.config.channel_names
    if wanted is not None and set(wanted) <= set(names) and len(set(names)) == len(names):
        order = tuple(names.index(name) for name in wanted)
        return None if order == tuple(range(slide.shape[2])) else order
    if slide.shape[2] != count:
        called = f" ({', '.join(wanted)})" if wanted else ""
        raise ModelError(
            f"The model expects {count} channels{called}, but {has}; say which are the model's with channels=(...), by "
            "name or number, or take another model."
        )
    return None


def wanted_window(slide: Slide, grid: Grid, region: tuple[float, float, float, float] | None) -> Window:
    """The wanted target pixels, clipped to the slide."""
    if region is None:
        return grid.whole
    window = grid.centres(Region(*region)).intersection(grid.whole)
    if window.empty:
        raise MsunetError(
            f"The region {region} (y, x, height, width in level-0 pixels) holds no pixel of the slide, which is "
            f"{slide.shape[0]} x {slide.shape[1]} level-0 pixels; give one that overlaps it."
        )
    return window


def margins_of(model: MSUNet) -> tuple[int | None, ...]:
    """The margin of each branch, or of a joint model, for `streams_of`; None where there is none."""
    if model.config.joint:
        return (model.joint_margin if model.exact else None,)
    if model.exact:
        return model.branch_margins
    pairs = zip(model.reaches, model.config.ratios, model.config.branches, strict=True)
    needs = [(reach.aligned + (ratio < 1), branch.stride) for reach, ratio, branch in pairs]
    return tuple(None if need == inf else round_up(need, stride) for need, stride in needs)


def readable_margins(config: ModelConfig, margins: Sequence[int | None], limit: int) -> tuple[int | None, ...]:
    """The margins as `margins_of` gives them, without those of more than `FAR` strides with which no tile fits.

    Parameters
    ----------
    limit : int
        Pixels, margins included, that may go through a network at once.
    """
    strides, most = tuple(branch.stride for branch in config.branches), float(limit)
    if config.joint:
        strides, most = (config.size_multiple,), limit / float(max(config.input_ratios)) ** 2
    return tuple(
        None if m is not None and m > FAR * stride and (2 * m + stride) ** 2 > most else m
        for m, stride in zip(margins, strides, strict=True)
    )


def plan_for(setup: Setup, unit: int | None = None, halvings: int = 0) -> Plan:
    """The plan of a prediction.

    Parameters
    ----------
    unit : int, optional
        Largest side of a unit in target pixels.
    halvings : int
        How often a device had too little memory for an earlier plan.
    """
    options, configs = setup.options, [model.config for model in setup.models]
    variants = len(VARIANTS[options.tta])
    memory = options.memory * 1e9
    small = setup.window.height * setup.window.width <= SMALL
    counted = not small or memory < 2e9
    whole = options.engine in ENGINES
    limit = limit_for(configs, memory, variants, setup.devices[0], whole) if counted else SMALL_LIMIT
    batch = max(1, options.batch_size >> halvings)
    limit >>= max(0, halvings - (options.batch_size.bit_length() - 1))
    long = setup.window.height * setup.window.width > LONG and setup.inner is None
    if long and options.tile is None and halvings == 0:
        limit = _fastest(setup, limit)
    margins = [readable_margins(c, margins_of(m), limit) for c, m in zip(configs, setup.models, strict=True)]
    if setup.inner is not None:  # tiles of the own pixels are only brought back, so they need nothing around them
        margins = [(0,) * len(each) for each in margins]
    return make_plan(
        Request(
            configs=configs,
            exact_margins=margins,
            grid=setup.grid,
            window=setup.window,
            mask=setup.mask,
            margin=options.margin,
            tile=options.tile if halvings == 0 else _smaller(options.tile, halvings),
            batch=batch,
            variants=variants,
            limit=limit * batch,
            memory=0.0 if small else planned_memory(configs, limit * batch, variants, whole),
            device=str(setup.devices[0]),
            threads=torch.get_num_threads(),
            generation=halvings,
            unit=unit or UNIT,
        )
    )


def _smaller(tile: int | None, halvings: int) -> int | None:
    return None if tile is None else max(1, int(tile / 2 ** (halvings / 2)))


def _speeds(setup: Setup) -> Speeds:
    model, options = setup.models[0], setup.options
    network = network_for(model, setup.devices[0], options)
    what = f"{options.precision} {options.engine} {options.compile}"
    return Speeds(network, model, setup.devices[0], torch.get_num_threads(), what)


def _fastest(setup: Setup, limit: int) -> int:
    """The pixels of the tile with the most useful pixels per second, by measurement, of those that fit into the
    memory."""
    speeds = _speeds(setup)
    margins, options = margins_of(setup.models[0]), setup.options
    finest = margins[speeds.branch]
    if finest is None:
        return limit  # the squares of a blended network have a fixed size
    margin = finest if options.margin == "exact" else finest // 2
    if not isinstance(options.margin, str):
        margin = int(
            options.margin * (1 if setup.models[0].config.joint else setup.models[0].config.scales[speeds.branch])
        )
    return speeds.best_limit(limit, margin)


def estimate(setup: Setup, plan: Plan) -> float:
    """The seconds that a plan should take, from measured speeds."""
    speeds = _speeds(setup)
    speeds.measure([min(1024, int(plan.limit**0.5))], plan.limit)
    rate = speeds.rate or GUESS[setup.devices[0].type]
    return round(plan.through / rate / len(setup.devices), 1)

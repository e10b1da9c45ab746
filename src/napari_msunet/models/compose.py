"""Taking models apart and putting them together: a branch as a model, one model from several, other scales.

Also classical methods, which are models without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from napari_msunet.config import ClassicalConfig, Fusion, ModelConfig, TrainedOn, ValueRange, explain
from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.geometry import Resolution, as_scale
from napari_msunet.models.blocks import arrange
from napari_msunet.models.msunet import MSUNet, build_model


def untrained_model(config: ModelConfig) -> MSUNet:
    """A classical method as a model that predicts without having been trained.

    Its thresholds or centres are those of each slide, or a threshold that is given by hand.

    Raises
    ------
    ModelError
        If it is no classical method, or one that has to be fitted to training images.
    """
    branch = config.branches[0]
    if not isinstance(branch, ClassicalConfig):
        raise ModelError("Only a classical method works without training; give one, or train the model.")
    if branch.method != "threshold" and not branch.by_slide:
        raise ModelError(
            f"{branch.method} is to be fitted to the training images: train it, or let it be fitted to each slide "
            "(fit='slide')."
        )
    return build_model(config).eval()


def branch_model(model: MSUNet, i: int) -> MSUNet:
    """One branch as a one-scale model of its own, on the same target grid.

    Parameters
    ----------
    model : MSUNet
        It is not changed.
    i : int
        The index of the scale in `config.scales`.

    Returns
    -------
    MSUNet
        In evaluation mode. Its output is what `branch_logits` gives for that scale.

    Raises
    ------
    ModelError
        If there is no such scale, or it has no output of its own (the finest of ``fusion="inject"``, all of
        ``"pyramid"``).
    """
    config = _one_network(model).config
    if i not in config.own:
        known = ", ".join(f"{j} (scale {config.ratios[j]})" for j in config.own) or "none"
        raise ModelError(
            f"Branch {i} of this model, whose fusion is {config.fusion!r}, has no output of its own; those that have "
            f"one: {known}."
        )
    alone = _config(
        config,
        scales=(config.scales[i],),
        fusion="mean",
        scale_weights=None,
        shared=False,
        branch=config.branches[i],
        finest_scale=config.finest_scale if config.enlarged[i] > 1 else None,
        enlarge=config.enlarge if config.enlarged[i] > 1 else "learned",
        normalisation=config.normalisations and config.normalisations[i],
    )
    return _filled(alone, [(model, i)])


def combine_models(models: Sequence[MSUNet], fusion: Fusion = "mean", mpp: float | None = None) -> MSUNet:
    """One multi-scale model from one-scale models, each trained by itself.

    Each branch keeps its weights and its own normalisation. A fusion that learns gets random weights: train it alone
    with ``TrainJob(start=..., optimiser=Optimiser(branch_rates=(0, 0, ...)))``, or train the whole model further.

    Parameters
    ----------
    models : sequence of MSUNet
        Models of one scale each, with different µm per pixel and the same classes and channels.
    fusion : str
        As `ModelConfig.fusion`; "mean" and "max" have nothing to learn.
    mpp : float, optional
        µm per pixel of the new model, to which its scales relate; None: the finest of those of the models.

    Returns
    -------
    MSUNet
        The model in evaluation mode, with the scales in the order of the models.

    Raises
    ------
    ModelError
        If the models cannot be combined.
    """
    for model in models:
        _one_network(model)
    if not models or any(len(m.config.scales) != 1 for m in models):
        raise ModelError(
            "A model is put together from models of one scale each; these have "
            f"{[len(m.config.scales) for m in models]} scales: take one branch of each with branch_model."
        )
    first = models[0].config
    for name in ("classes", "channels", "channel_names", "upscale", "image_size", "own_statistics"):
        values = [getattr(m.config, name) for m in models]
        if any(value != values[0] for value in values):
            raise ModelError(f"The models differ in {name}: {values}; give models that were trained for the same.")
    units = {m.config.resolution.unit for m in models}
    if len(units) > 1 or (mpp is not None and units == {"px"}):
        raise ModelError(
            "Models in µm and in pixels do not go together, and a model of models in pixels has no µm per pixel; give "
            "models of one unit, and no mpp for those in pixels."
        )
    resolutions = [m.config.resolution.times(1 / m.config.scales[0]) for m in models]
    finest = min(resolutions, key=lambda r: r.size) if mpp is None else Resolution(mpp)
    scales = tuple(float(as_scale(finest.size / resolution.size)) for resolution in resolutions)
    read = {s / m.config.enlarged[0] for s, m in zip(scales, models, strict=True) if m.config.enlarged[0] > 1}
    ways = {m.config.enlarge for m in models if m.config.enlarged[0] > 1}
    if len(ways) > 1:
        raise ModelError(
            "Some of these models learn how to enlarge their images, others enlarge them bilinearly; give models that "
            "do the same."
        )
    fitted = [m.config.normalisation for m in models]
    together = _config(
        first,
        **first.at(finest),
        scales=scales,
        fusion=fusion,
        shared=False,
        branch=_one_or_each([m.config.branches[0] for m in models]),
        finest_scale=min(read, default=None),
        enlarge=next(iter(ways), "learned"),
        scale_weights=None,
        normalisation=None if None in fitted else _one_or_each(fitted),
        trained_on=_trained_on(models),
    )
    enlarged = tuple(m.config.enlarged[0] for m in models)
    if together.enlarged != enlarged:
        raise ModelError(
            f"The stems of these models enlarge {enlarged} times, which no single finest scale read gives; leave out "
            "those of which it is different."
        )
    return _filled(together, [(m, 0) for m in models])


def _trained_on(models: Sequence[MSUNet]) -> TrainedOn | None:
    """What pixel values mean to all models alike."""
    every = [m.config.trained_on for m in models]
    if all(one == every[0] for one in every):
        return every[0]
    known = [one for one in every if one is not None]
    ranges: dict[str, ValueRange] = {}
    for one in known:
        for dtype, value_range in one.ranges.items():
            if ranges.setdefault(dtype, value_range) != value_range:
                raise ModelError(
                    f"The models were trained on {dtype} values of the ranges {ranges[dtype]} and {value_range}; "
                    "give models that were trained for the same."
                )
    kinds = {one.kind for one in known}
    return TrainedOn(kind=kinds.pop() if len(kinds) == 1 else None, ranges=ranges)


def ensemble_model(models: Sequence[MSUNet]) -> MSUNet:
    """One model from several that were trained alike, such as those of all folds: the mean of their probabilities.

    Parameters
    ----------
    models : sequence of MSUNet
        Models of the same classes, resolution, scales, fusion and branches. Their normalisations may differ.

    Returns
    -------
    MSUNet
        The ensemble in evaluation mode, one file when it is saved.

    Raises
    ------
    ModelError
        If there is no model, or they differ.
    """
    if not models:
        raise ModelError("An ensemble needs at least one model; give the models to average.")
    first = models[0].config
    for model in models:
        config = _one_network(model).config
        for name in type(config).model_fields:
            if name in ("normalisation", "trained_on") or getattr(config, name) == getattr(first, name):
                continue
            raise ModelError(
                f"The models of an ensemble differ in {name}: {getattr(first, name)} and {getattr(config, name)}; give "
                "models that were trained alike."
            )
    further = tuple(model.config.normalisation for model in models[1:])
    made = build_model(first.model_copy(update={"further": further, "trained_on": _trained_on(models)})).eval()
    state = dict(models[0].state_dict())
    for number, model in enumerate(models[1:]):
        state |= {f"further.{number}.{name}": tensor for name, tensor in model.state_dict().items()}
    made.load_state_dict(state)
    return arrange(made)


def _one_network(model: MSUNet) -> MSUNet:
    """The model; `ModelError` if it is an ensemble, which has no branches of its own to take apart."""
    if model.config.further:
        count = 1 + len(model.config.further)
        raise ModelError(f"This model is an ensemble of {count} networks; give one of the models that it was made of.")
    return model


def with_scales(model: MSUNet, scales: Sequence[float], fusion: Fusion | None = None) -> MSUNet:
    """The model with other scales: branches of scales that it has keep their weights, others get random weights.

    Parameters
    ----------
    model : MSUNet
        It is not changed.
    scales : sequence of float
        The scales relative to the model's µm per pixel. A new one gets the branch config of the nearest old one.
    fusion : str, optional
        The fusion of the new model; None: the same one, which keeps its weights of the kept scales.

    Returns
    -------
    MSUNet
        In evaluation mode; new weights are random (set ``torch.manual_seed`` before for the same ones).

    Raises
    ------
    ModelError
        If a scale cannot be used, or the branches do not fit.
    """
    old = _one_network(model).config
    wanted = [as_scale(s) for s in scales]
    nearest = [min(range(len(old.ratios)), key=lambda i: abs(float(old.ratios[i] / r) - 1)) for r in wanted]
    given = old.scale_weights if fusion in (None, old.fusion) and set(wanted) <= set(old.ratios) else None
    changed = _config(
        old,
        scales=tuple(float(r) for r in wanted),
        fusion=fusion or old.fusion,
        branch=_one_or_each([old.branches[n] for n in nearest]),
        normalisation=old.normalisations and _one_or_each([old.normalisations[n] for n in nearest]),
        scale_weights=given and tuple(given[n] for n in nearest),
    )
    return _filled(changed, [(model, old.ratios.index(r)) if r in old.ratios else None for r in wanted])


# ----------------------------------------------------------------------------------------------------------- privately

_Source = tuple[MSUNet, int]


def _config(config: ModelConfig, **changes: Any) -> ModelConfig:
    """The config with other values, checked."""
    values = {name: getattr(config, name) for name in type(config).model_fields} | changes
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        raise ModelError(str(explain(error, "This model"))) from error
    except MsunetError as error:
        raise ModelError(str(error)) from error


def _one_or_each(values: Sequence[Any]) -> Any:
    """One value for all scales where all are equal, else the values."""
    return values[0] if all(value == values[0] for value in values) else tuple(values)


def _filled(config: ModelConfig, sources: Sequence[_Source | None]) -> MSUNet:
    """A model whose scales have the weights of branches of other models, or random ones where there is no source."""
    model = build_model(config).eval()
    state = model.state_dict()
    with torch.no_grad():
        for i, source in enumerate(sources):
            if source is not None:
                _copy_branch(model, i, *source)
        donors = {id(source[0]): source[0] for source in sources if source}
        if len(donors) == 1:
            old = next(iter(donors.values()))
            places = {i: source[1] for i, source in enumerate(sources) if source}
            if old.config.fusion == config.fusion and len(sources) > 1:
                _copy_fusion(model, old, places, state)
    return arrange(model)


def _copy_branch(model: MSUNet, i: int, source: MSUNet, j: int) -> None:
    """Copy the network, head and stem of a branch."""
    alone = model.config.fusion == "pyramid" or source.config.fusion == "pyramid"
    if not alone or (i == model.config.finest and j == source.config.finest):
        model.branch(i).load_state_dict(source.branch(j).state_dict())
    if model.config.enlarged[i] > 1 and model.config.enlarged[i] == source.config.enlarged[j]:
        model.stems[str(i)].load_state_dict(source.stems[str(j)].state_dict())


def _copy_fusion(model: MSUNet, old: MSUNet, places: dict[int, int], state: dict[str, Tensor]) -> None:
    """Copy the weights of the fusion for the kept scales, which are given by their new and old numbers."""
    given = {name: t for name, t in old.state_dict().items() if name.startswith("fusion.")}
    rows = {f"fusion.{name}" for name in model.fusion.per_scale}
    finest = places.get(model.config.finest) == old.config.finest
    for name, target in state.items():
        parts = name.split(".")
        if name in rows and name in given:
            for i, j in places.items():
                target[i] = given[name][j]
            continue
        if parts[1:2] in (["projections"], ["entrances"]):
            if int(parts[2]) not in places or (parts[1] == "entrances" and not finest):
                continue
            name = ".".join((*parts[:2], str(places[int(parts[2])]), *parts[3:]))
        if name in given and given[name].shape == target.shape:
            target.copy_(given[name])

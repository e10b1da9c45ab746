"""Variants of a training that differ in one field, from its values as a person types them."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

from napari_msunet.config.jobs import TrainJob, reason_of, with_changes
from napari_msunet.config.search import SearchChoices, check_space, fields_at, takes
from napari_msunet.errors import MsunetError

VARIED = {
    "optimiser.learning_rate": ("Learning rate", "0.001, 0.003, 0.01"),
    "model.scales": ("Scales", "1; 1, 1/2; 1, 1/2, 1/4"),
    "model.fusion": ("Fusion", "mean, attention, concat"),
    "model.mpp": ("Resolution (µm per pixel)", "0.5, 1, 2"),
    "model.branch.depth": ("Depth", "2, 3, 4"),
    "model.branch.width": ("Width", "8, 16, 24"),
    "model.branch.dropout": ("Dropout", "0, 0.1, 0.3"),
    "loss": ("Loss", "ce+dice, bce+jaccard, focal+dice"),
    "size": ("Window", "128, 192, 256"),
    "batch_size": ("Batch", "4, 8, 16"),
    "optimiser.kind": ("Optimiser", "adamw, adam, sgd, rmsprop"),
    "optimiser.schedule": ("Schedule", "cosine, constant, one_cycle"),
    "optimiser.weight_decay": ("Weight decay", "0, 0.001, 0.01"),
    "augmentation": ("Random changes", "none; elastic=8; rotate=0"),
}
"""Fields that are often varied: what they are called, and an example of values. Any other field can be named too."""


def one_field(training: TrainJob, field: str, values: str) -> dict[str, dict[str, Any]]:
    """Variants of a training in which one field has other values, for `ExperimentJob.variants`.

    Parameters
    ----------
    training : TrainJob
    field : str
        The field by its path, such as "optimiser.learning_rate".
    values : str
        Its values with commas, or with semicolons where a value has commas itself: "1; 1, 1/2". The first is what the
        others are compared with.

    Raises
    ------
    MsunetError
        If there is no such field, it is the same for all, fewer than two values are given, or one cannot be used.
    """
    path = field.strip()
    label = VARIED[path][0] if path in VARIED else path
    texts = [text.strip() for text in values.split(";" if ";" in values else ",")]
    given = list(dict.fromkeys(text for text in texts if text))
    if len(given) < 2:
        raise MsunetError(
            f"{label} has {'no value' if not given else 'one value'}, so there is nothing to compare; give two or more "
            "with commas, or with semicolons where a value has commas itself."
        )
    found = fields_at(TrainJob, path)
    typed = [_typed(found, text) for text in given]
    try:
        check_space({path: SearchChoices(choices=tuple(typed))}, TrainJob)
        variants = {f"{label} {text}": _change(training, path, value) for text, value in zip(given, typed, strict=True)}
        for name, changes in variants.items():
            with_changes(training, changes, name)
    except ValueError as error:
        reason = reason_of(error)
        raise MsunetError(f"This cannot be compared: {reason}.") from error
    return variants


def _change(training: TrainJob, path: str, value: Any) -> dict[str, Any]:
    """The fields that differ; a field of networks that are not chosen yet makes them U-Nets."""
    if path.startswith("model.branch.") and training.model.branch is None:
        return {"model.branch": {"kind": "unet", path.removeprefix("model.branch."): value}}
    return {path: value}


def _typed(fields: list[Any], text: str) -> Any:
    """A value from its text, as the field takes it: a number, a word, or several with commas."""
    one = _plain(text)
    several = [_plain(part.strip()) for part in text.split(",")]
    return next((value for value in (one, several, text) if not takes(fields, value)), one)


def _plain(text: str) -> Any:
    known = {"none": None, "automatic": None, "yes": True, "no": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        return text

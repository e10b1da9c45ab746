"""Settings to begin a training with, by name: those of the method as it was written."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ValidationError

from napari_msunet.config.base import explain
from napari_msunet.config.jobs import TrainJob

PresetName: TypeAlias = Literal["method"]

PRESETS: dict[PresetName, dict[str, dict[str, Any]]] = {
    "method": {
        "model": {"scales": (0.5, 1.0, 2.0), "fusion": "mean", "field": "same", "enlarge": "bilinear"},
        "loss": {"cross_entropy": 0.0, "dice": 0.0, "bce": 1.0, "branch": "off"},
        "optimiser": {
            "kind": "adam",
            "learning_rate": 1e-4,
            "betas": (0.9, 0.999),
            "weight_decay": 0.0,
            "schedule": "constant",
            "average": "none",
        },
    }
}
"""For each preset the fields of a training that it sets: those of the model, the loss and the optimiser.

"method" is the method as it was written: the image at scales 1/2, 1 and 2 (the last enlarged bilinearly), the mean
of the scales' probabilities, binary cross-entropy on the combined output alone, Adam at 1e-4. With one class, softmax
over the logits (b, f) of background and class is the sigmoid of f - b, so the mean of the scales' softmax is the mean
of their sigmoids, and binary and plain cross-entropy are the same number. A head has two logits here and one there;
their difference is the same function of the features, and its weights move twice as fast under Adam.
"""


def with_preset(name: PresetName, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a training with those of a preset where they are not given.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
    values : dict
        Fields of a `TrainJob`; of its model, loss and optimiser as dicts or configs, of which what was set counts.

    Returns
    -------
    dict
        For ``TrainJob(**values)``.

    Raises
    ------
    MsunetError
        If a part of the training cannot be used.
    """
    found = dict(values)
    for part, preset in PRESETS[name].items():
        given = values.get(part, {})
        if isinstance(given, str):  # a loss as a sum
            try:
                given = type(TrainJob.model_fields[part].default).model_validate(given)
            except ValidationError as error:
                raise explain(error, f"The {part}") from error
        own = given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else dict(given)
        found[part] = preset | own
    return found

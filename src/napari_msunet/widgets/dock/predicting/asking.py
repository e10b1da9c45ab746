"""From what the Predict step shows to the job that it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_msunet.config import PredictJob
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.predicting.channels import Channel
from napari_msunet.widgets.dock.weights import model_config
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.placement import visible_region

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.steps.predict import PredictStep


def asked_job(
    step: PredictStep, where: str | Region = "slide", draft: bool = False, everywhere: bool = False
) -> PredictJob:
    """The prediction of the "view", the "slide" or a region (level-0 pixels) of the active slide.

    Parameters
    ----------
    step : PredictStep
    where : str or Region
    draft : bool
        It will not be run as it is: nothing is made for it.
    everywhere : bool
        Whatever the field Where says.

    Raises
    ------
    MsunetError
        If something is missing, or nothing of the slide is in view.
    """
    need(step)
    record = step.state.active
    assert record is not None
    region = where if isinstance(where, Region) else None
    if where == "view":
        region = visible_region(step.viewer, step.layers.need_slide(record))
    elif region is None and where != "slide":
        raise MsunetError(f'{where!r} cannot be predicted; give "view", "slide" or a Region.')
    place = "all" if everywhere else step.where.value(record)
    channels = fit_channels(step)
    if (sentence := step.channels.missing) is not None:
        raise MsunetError(sentence)
    return resolve.predict_job(step.state, record, region, draft, where=place, channels=channels)


def need(step: PredictStep) -> None:
    """Raise the sentence about what is missing, if anything is."""
    if (missing := step.missing()) is not None:
        raise MsunetError(missing)


def fit_channels(step: PredictStep) -> tuple[Channel, ...] | None:
    """The channels that a job must be told, asked for where the model and the slide do not fit together."""
    layer = step.layers.slide(step.state.active)
    slide = None if layer is None else slide_of(layer)
    if slide is None:
        return step.state.predict_options.channels
    config = model_config(step.state.model_path)
    return step.channels.show_for(config, tuple(slide.channels), step.state.predict_options.channels)

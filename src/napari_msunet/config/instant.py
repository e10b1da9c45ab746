"""Labels of what is in view, at once: by light heads on frozen features while one paints, and the job that keeps one;
and by the model of a training that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from napari_msunet.config.base import Device, GivenRange, Kind, Option, PixelSize, Positive, Versioned


class AnswerRequest(Versioned):
    """What is in view, and the annotated pixels by which it is to be labelled.

    Attributes
    ----------
    model : Path, optional
        The model whose features are used; None: fixed filters, which need no model.
    classes : tuple of str
        Names of classes 1..K.
    places, values : str
        Annotated pixels, as `packed` makes them: centres `(n, 2)` float64 in level-0 pixels of the slide, and classes
        `(n,)` uint8, 0 background.
    view : (y, x, height, width)
        In level-0 pixels of the slide.
    near : (y, x), optional
        The place that is answered first, such as that of the last stroke; None: the middle of the view.
    """

    model: Path | None = None
    slide: Path
    slide_mpp: PixelSize | None = None
    image_kind: Kind | None = None
    value_range: GivenRange | None = None
    classes: tuple[str, ...] = Field(min_length=1)
    places: str = ""
    values: str = ""
    view: tuple[float, float, float, float]
    near: tuple[float, float] | None = None
    memory: Positive = 1.0
    """GB that the kept features may take."""
    device: Device = "auto"


class LiveRequest(Versioned):
    """What is in view, to be labelled by a model file that a training may be writing.

    Attributes
    ----------
    model : Path
        The model file; while it does not exist, nothing is labelled.
    view : (y, x, height, width)
        In level-0 pixels of the slide.
    seconds : float, optional
        Time after which no further tile is begun; None: all that is in view is labelled.
    known : str
        The fingerprint of the model whose labels are in view already: nothing is labelled while it is the same.
    """

    model: Path
    slide: Path
    slide_mpp: PixelSize | None = None
    image_kind: Kind | None = None
    value_range: GivenRange | None = None
    view: tuple[float, float, float, float]
    seconds: Positive | None = None
    known: str = ""
    device: Device = "auto"


class FitHeadJob(Versioned):
    """Make a model from an annotation in seconds: fixed features, and a last layer that is fitted to what is
    painted."""

    job: Literal["fit_head"] = "fit_head"
    model: Annotated[Path | None, Option()] = None
    """The model whose features are used; its weights stay as they are. Without it: fixed filters for colour, edges and
    textures, which need no model."""
    slide: Path
    """The slide."""
    labels: Path
    """Its annotation: a label store."""
    out: Path
    """The model file that is made."""
    slide_mpp: Annotated[PixelSize | None, Option(example="µm per pixel, or px")] = None
    """µm per pixel of the slide, where its file does not give it; px: no size in µm."""
    image_kind: Annotated[Kind | None, Option()] = None
    """What the slide is, where its file does not say it."""
    value_range: Annotated[GivenRange | None, Option()] = None
    """The values that are black and white, such as 0 4095, where the file does not give them."""
    device: Device = "auto"
    """Where it computes: auto, cpu, cuda, cuda:1 or mps."""


class RecalibrateJob(Versioned):
    """Compare a slide with the training slides of a model, and adapt the model's batch normalisation to the slide's
    tissue, without labels."""

    job: Literal["recalibrate"] = "recalibrate"
    model: Path
    """The model; it stays as it is."""
    slide: Path
    """The slide."""
    out: Path | None = None
    """The adapted model; None: the slide is only compared."""
    slide_mpp: PixelSize | None = None
    """µm per pixel, when the file does not give it; "px": the slide is used in its own pixels."""
    image_kind: Kind | None = None
    """What the image is, where the file does not say it."""
    value_range: GivenRange | None = None
    """The values that are black and white."""

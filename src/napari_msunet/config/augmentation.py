"""Random changes of training windows."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from napari_msunet.config.base import Frozen, Share
from napari_msunet.config.option import Option

Half = Annotated[float, Field(ge=0, le=0.5)]

_GROUP = "Random changes"


class Augmentation(Frozen):
    """Random changes of training windows, one transform shared by all scales; what is 0 is left out and costs nothing.

    Where it is given as text, such as ``"elastic=8,flip=no"``, what is not named stays as usual; ``"none"`` is no
    change, and ``"none,blur=1"`` is that one alone.
    """

    flip: Annotated[bool, Option("Mirror and turn by quarters", _GROUP)] = True
    """Mirror windows and turn them by quarters at random. Off only where up and down differ."""
    rotate: Annotated[float, Field(ge=0, le=180), Option(group=_GROUP, unit="°", step=5)] = 180.0
    """Largest random rotation in degrees."""
    scale: Annotated[float, Field(ge=0, le=1), Option("Zoom", _GROUP, flag="--zoom")] = 0.2
    """Largest random change of size: 0.2 draws from 1/1.2 to 1.2."""
    shift: Annotated[Half, Option(group=_GROUP)] = 0.0
    """Largest random shift, as a share of the window's side."""
    shear: Annotated[float, Field(ge=0, le=45), Option(group=_GROUP, unit="°", step=1)] = 0.0
    """Largest random shear in degrees."""
    elastic: Annotated[float, Field(ge=0, le=64), Option(group=_GROUP, unit="px", step=1)] = 0.0
    """Largest local displacement in target pixels, smooth over several times as many."""
    perspective: Annotated[Half, Option(group=_GROUP)] = 0.0
    """Largest change of size from the window's middle to its edge, as if it were seen at a slant."""
    brightness: Annotated[Share, Option(group=_GROUP)] = 0.1
    """Largest relative change of brightness, 0 to 1. Raise it for uneven scanners."""
    contrast: Annotated[Share, Option(group=_GROUP)] = 0.1
    """Largest relative change of contrast, 0 to 1. Raise it for uneven scanners."""
    saturation: Annotated[Share, Option(group=_GROUP)] = 0.0
    """Largest relative change of how colourful the image is (RGB only)."""
    stain: Annotated[Share, Option(group=_GROUP)] = 0.1
    """Largest relative change of haematoxylin, eosin and residual in optical density (RGB only), 0 to 1. Raise it for
    slides of other laboratories."""
    blur: Annotated[float, Field(ge=0, le=8), Option(group=_GROUP, unit="px")] = 0.0
    """Largest standard deviation of a Gaussian blur, in target pixels."""
    noise: Annotated[Half, Option(group=_GROUP)] = 0.0
    """Largest standard deviation of added Gaussian noise, where white is 1."""
    jpeg: Annotated[Share, Option("JPEG", _GROUP)] = 0.0
    """Strongest JPEG compression: 0.5 goes down to quality 50, 1 to quality 1."""
    cutout: Annotated[Half, Option("Cut-out", _GROUP)] = 0.0
    """Largest side of a square that is hidden and carries no loss, as a share of the window's side."""
    cutmix: Annotated[Share, Option("CutMix", _GROUP)] = 0.0
    """How often a rectangle of a window, with its truth, is replaced by that of another window of the batch."""
    mixup: Annotated[Half, Option("MixUp", _GROUP)] = 0.0
    """Largest share of another window of the batch that is blended in; the loss counts both truths by their shares."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return parse_augmentation(given) if isinstance(given, str) else given

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(flip=False, rotate=0, scale=0, brightness=0, contrast=0, stain=0)


def parse_augmentation(text: str) -> dict[str, Any]:
    """Changes from ``"elastic=8,flip=no"``, ``"none"`` or ``"none,blur=1"``.

    Raises
    ------
    ValueError
        If a part of it names no change.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found: dict[str, Any] = Augmentation.none().model_dump() if parts[:1] == ["none"] else {}
    for part in parts[1:] if found else parts:
        name, equals, value = (p.strip() for p in part.partition("="))
        if name not in Augmentation.model_fields or not equals:
            raise ValueError(
                f"{part!r} cannot be used; give name=value with one of the names {', '.join(Augmentation.model_fields)}"
            )
        found[name] = value
    return found

"""Options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cyclopts import Parameter

from napari_msunet.config import Damaged
from napari_msunet.errors import MsunetError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DamageOptions:
    """What to do where something is damaged.

    Attributes
    ----------
    damaged : "refuse" or "skip"
        Where chunks of a label store or a prediction, or tiles of a slide, are damaged: say which and end, or leave
        their pixels out of the result.
    """

    damaged: Damaged = "refuse"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions(DamageOptions):
    """What to do with the job.

    Attributes
    ----------
    damaged : "refuse" or "skip"
        Where chunks of a label store or a prediction, or tiles of a slide, are damaged: say which and end, or leave
        their pixels out of the result.
    print_job : bool
        Print the job as JSON instead of running it; `napari-msunet run` takes that.
    json : bool
        Print the result as JSON.
    """

    print_job: bool = False
    json: bool = False


PixelSizeOption: TypeAlias = float | Literal["px"]
"""µm per pixel, or px for an image that is used in its own pixels."""


def parse_region(text: str | None) -> tuple[float, float, float, float] | None:
    """A region from ``"y,x,height,width"``."""
    if text is None:
        return None
    try:
        y, x, height, width = (float(part) for part in text.split(","))
    except ValueError:
        raise MsunetError(
            f"--region {text!r} cannot be read; give y,x,height,width in pixels, such as 0,0,512,512."
        ) from None
    return y, x, height, width

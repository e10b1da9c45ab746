"""What all configs share: frozen, checked when made, with a schema version; and the types of their fields."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from napari_msunet.config.option import Option
from napari_msunet.errors import MsunetError
from napari_msunet.names import AnyNames

SCHEMA_VERSION: Literal[1] = 1

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Mpp: TypeAlias = Positive | tuple[Positive, Positive]


def _pixel_size(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One sentence instead of one for each kind of value."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(
            f'{value!r} is no size of a pixel; give µm per pixel above zero such as 0.5, a pair (y, x) of them, or "px"'
        ) from None


PixelSize: TypeAlias = Annotated[Mpp | Literal["px"], WrapValidator(_pixel_size)]
"""µm per pixel of an image, or that it is used in its own pixels."""
DEVICES = {"auto": "automatic", "cpu": "processor", "cuda": "graphics card (CUDA)", "mps": "graphics (Apple)"}
"""What forms offer to compute on; other names, such as cuda:1, can be given too."""
Device: TypeAlias = Annotated[str, Option("Compute on", "Machine", words=DEVICES)]
Kind: TypeAlias = Literal["brightfield", "fluorescence"]
ValueRange: TypeAlias = tuple[float, float]
"""The values of an image that are black (0) and white (1)."""


def _ordered(given: ValueRange) -> ValueRange:
    if not (isfinite(given[0]) and isfinite(given[1]) and given[0] < given[1]):
        raise ValueError(f"give the value that is black and then the one that is white, such as (0, 4095), not {given}")
    return given


GivenRange: TypeAlias = Annotated[ValueRange, AfterValidator(_ordered)]
"""A range that a person gives."""
Damaged: TypeAlias = Literal["refuse", "skip"]
"""What a job does where chunks of a label store, a run or a slide are damaged: refuse with a sentence that names them,
or leave their pixels out of the result, never as background."""


class Frozen(AnyNames):
    """A config whose fields are checked when it is made, and stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Versioned(Frozen):
    """A config that is saved in files of its own."""

    schema_version: int = SCHEMA_VERSION

    @field_validator("schema_version")
    @classmethod
    def _known(cls, version: int) -> int:
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"this was written by a newer napari-msunet (schema {version}; this one knows {SCHEMA_VERSION}): "
                "update it"
            )
        return version


class TrainedOn(Frozen):
    """What the numbers of the images meant that a model was trained on.

    Attributes
    ----------
    kind : "brightfield" or "fluorescence", optional
        None: of both kinds.
    ranges : dict of str to (low, high)
        For each type of pixels, such as "uint16": the values that were black and white.
    """

    kind: Kind | None = None
    ranges: dict[str, GivenRange] = Field(default_factory=dict)

    def __hash__(self) -> int:
        # A dict has no hash of its own, and configs are keys of what was measured of a model.
        return hash((self.kind, tuple(sorted(self.ranges.items()))))


def explain(error: Any, what: str) -> MsunetError:
    """A pydantic `ValidationError` as one sentence about `what`."""
    items = error.errors()
    # A newer file has fields that this version does not know: that it is newer says it all.
    newer = [item for item in items if item["loc"] and item["loc"][-1] == "schema_version"]
    parts = []
    for item in newer[:1] or items:
        # pydantic puts the kinds of a union into the place too ("literal['exact']"): they help nobody
        where = ".".join(str(p) for p in item["loc"] if isinstance(p, int) or p.isidentifier())
        reason = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
        parts.append(f"{where}: {reason}" if where else reason)
    return MsunetError(f"{what} cannot be used: {'; '.join(parts)}.")

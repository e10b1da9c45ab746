"""What all configs share: frozen, checked when made, with a schema version; and the types of their fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from napari_msunet.errors import MsunetError

SCHEMA_VERSION: Literal[1] = 1

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Mpp: TypeAlias = Positive | tuple[Positive, Positive]
Device: TypeAlias = str


class Frozen(BaseModel):
    """A config whose fields are checked when it is made, and stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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

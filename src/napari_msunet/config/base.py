"""What all configs share: frozen, checked when made, with a schema version; and the types of their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic.fields import FieldInfo

from napari_msunet.errors import MsunetError
from napari_msunet.names import AnyNames

# ----------------------------------------------------------------------------------------------------------------------
# How a field of a config is shown to people, written beside the field: the command line, forms and docs read it here.
#
# A field is an option where its annotation carries an `Option`; what it is for is the text under it. From these come
# the options of the command line (`cli.options`), the rows of the dock's forms (`widgets.forms`) and the tables
# in docs.


@dataclass(frozen=True)
class Option:
    """How a field is shown.

    Attributes
    ----------
    label : str
        Its name in forms; where it is empty, the field's own name.
    group : str
        The heading that it stands under.
    advanced : bool
        Whether forms fold it away.
    unit : str
        The unit of its number, such as "px".
    step : float, optional
        By how much the arrows of a form change it.
    none : str
        What a form shows for None.
    words : mapping of value to str
        What a form calls the values that it may have, in this order.
    flag : str or None
        Its name on the command line; "" is the field's own name, and None means that it is no option there.
    also : tuple of str
        Other names that the command line accepts for it, such as earlier ones.
    form : bool
        False: forms leave it out, because the dock decides it in another way.
    example : str
        What can be given as text, such as "numbers with commas, such as 1,0.5".
    """

    label: str = ""
    group: str = ""
    advanced: bool = True
    unit: str = ""
    step: float | None = None
    none: str = "none"
    words: Mapping[Any, str] = field(default_factory=dict)
    flag: str | None = ""
    also: tuple[str, ...] = ()
    form: bool = True
    example: str = ""


@dataclass(frozen=True)
class OptionField:
    """A field that is an option.

    Attributes
    ----------
    path : tuple of str
        Names from the config down to the field, such as ("optimiser", "learning_rate").
    info : FieldInfo
    option : Option
    """

    path: tuple[str, ...]
    info: FieldInfo
    option: Option

    @property
    def name(self) -> str:
        """The field's own name."""
        return self.path[-1]

    @property
    def label(self) -> str:
        """Its name as people read it."""
        text = self.option.label or self.name.replace("_", " ")
        return text[:1].upper() + text[1:]

    @property
    def flag(self) -> str | None:
        """Its name on the command line."""
        flag = self.option.flag
        return f"--{self.name.replace('_', '-')}" if flag == "" else flag

    @property
    def help(self) -> str:
        """What it is for."""
        return " ".join((self.info.description or "").replace("`", "").split())

    @property
    def default(self) -> str:
        """The value that is used where none is given, as text; empty where it must be given or is a config of its
        own."""
        value = self.info.get_default(call_default_factory=True)
        if self.info.is_required() or isinstance(value, BaseModel) or value in (None, (), {}):
            return ""
        return as_text(value)


def option_of(info: FieldInfo) -> Option | None:
    """The `Option` beside a field."""
    return next((part for part in reversed(info.metadata) if isinstance(part, Option)), None)


def part_of(info: FieldInfo) -> type[BaseModel] | None:
    """The config that a field is, where it is one (or None)."""
    kinds = [kind for kind in kinds_of(info)[0] if kind is not NoneType]
    only = kinds[0] if len(kinds) == 1 else None
    return only if isinstance(only, type) and issubclass(only, BaseModel) else None


def fields_of(config: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[OptionField]:
    """The options of a config and of its parts; a part that can itself be given as text comes before its fields."""
    for name, info in config.model_fields.items():
        option, part = option_of(info), part_of(info)
        if option is not None and (part is None or option.flag is not None):
            yield OptionField((*path, name), info, option)
        if option is not None and part is not None:
            yield from fields_of(part, (*path, name))


def kinds_of(info: FieldInfo) -> tuple[list[Any], list[Any]]:
    """The types that a field may have, without their annotations and aliases, and the limits of its values."""
    return _kinds(info.annotation, list(info.metadata))


def _kinds(annotation: Any, limits: list[Any]) -> tuple[list[Any], list[Any]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _kinds(inner, [*limits, *more])
    if origin in (Union, UnionType):
        found: list[Any] = []
        for member in get_args(annotation):
            kinds, limits = _kinds(member, limits)
            found += kinds
        return found, limits
    return [annotation], limits


def choices_of(info: FieldInfo) -> list[Any]:
    """The values of a field that has only some, None left out; empty where it may have others."""
    kinds = [kind for kind in kinds_of(info)[0] if kind is not NoneType]
    if not kinds or any(get_origin(kind) is not Literal for kind in kinds):
        return []
    return [value for kind in kinds for value in get_args(kind)]


def limits_of(info: FieldInfo, low: float, high: float, step: float) -> tuple[float, float]:
    """Lowest and highest value that a number may have; `low` and `high` where it has no limit of its own."""
    parts: list[Any] = []
    for limit in kinds_of(info)[1]:
        parts += getattr(limit, "metadata", None) or [limit]
    for part in parts:
        if isinstance(part, Ge):
            low = float(part.ge)  # type: ignore[arg-type]
        elif isinstance(part, Gt):
            low = float(part.gt) + step  # type: ignore[arg-type]
        elif isinstance(part, Le):
            high = float(part.le)  # type: ignore[arg-type]
        elif isinstance(part, Lt):
            high = float(part.lt) - step  # type: ignore[arg-type]
    return low, high


def as_text(value: Any) -> str:
    """A value as it can be typed: numbers and words with commas, pairs as NAME=VALUE."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, dict):
        return ",".join(f"{name}={as_text(part)}" for name, part in value.items())
    if isinstance(value, (tuple, list)):
        return ",".join(as_text(part) for part in value)
    return str(value)


def read_text(info: FieldInfo, text: str) -> Any:
    """The value of a field that a text means: a number, a word, several of them with commas, or pairs NAME=VALUE.

    Raises
    ------
    pydantic.ValidationError
        If the field cannot have the value that the text means; the error names the text as it was typed.
    """
    kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    reader: TypeAdapter[Any] = TypeAdapter(kind)
    for candidate in _readings(text.strip()):
        try:
            return reader.validate_python(candidate)
        except ValidationError:
            continue
    return reader.validate_python(text)


def _readings(text: str) -> Iterator[Any]:
    """What a text may mean, the likeliest first."""
    parts = [part.strip() for part in text.split(",")]
    pairs = [part.partition("=") for part in parts]
    if len(parts) == 1:
        yield _number(text)
    yield tuple(_number(part) for part in parts)
    if all(equals and name.strip() and value.strip() for name, equals, value in pairs):
        yield {name.strip(): value.strip() for name, _, value in pairs}
    halves = text.split("/")
    if len(halves) == 2 and halves[1].strip("0 "):  # such as fold 2 of 5; a ratio was read above
        yield tuple(_number(half.strip()) for half in halves)
    yield tuple(parts)


def _number(text: str) -> Any:
    """A whole number, a number or a ratio, where the text is one."""
    for read in (int, float, lambda ratio: float(Fraction(ratio))):
        try:
            return read(text)
        except (ValueError, ZeroDivisionError):
            continue
    return text


def options_table(config: type[BaseModel]) -> str:
    """The options of a config as a table in Markdown: name in Python, on the command line, default, what it is for."""
    lines = ["| field | option | default | what it is for |", "|---|---|---|---|"]
    for one in fields_of(config):
        choices = ", ".join(map(as_text, choices_of(one.info)))
        text = f"{one.help} ({choices})" if choices else one.help
        cells = (f"`{'.'.join(one.path)}`", f"`{one.flag}`" if one.flag else "", one.default, text.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------------------
# The types of fields that several configs use, and the base classes of all configs.

SCHEMA_VERSION: Literal[1] = 1

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Mpp: TypeAlias = Positive | tuple[Positive, Positive]


def _pixel_size(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Raise one error sentence for any bad value, where pydantic would give one for each type of the union."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(
            f'{value!r} is no size of a pixel; give µm per pixel above zero such as 0.5, a pair (y, x) of them, or "px"'
        ) from None


PixelSize: TypeAlias = Annotated[Mpp | Literal["px"], WrapValidator(_pixel_size)]
"""µm per pixel of an image, or "px" where the image is used in its own pixels."""
DEVICES = {"auto": "automatic", "cpu": "processor", "cuda": "graphics card (CUDA)", "mps": "graphics (Apple)"}
"""The devices that forms offer; other names, such as cuda:1, can be given too."""
Device: TypeAlias = Annotated[str, Option("Compute on", "Machine", words=DEVICES)]
Kind: TypeAlias = Literal["brightfield", "fluorescence"]
ValueRange: TypeAlias = tuple[float, float]
"""The values of an image that are black (0) and white (1)."""


def _ordered(given: ValueRange) -> ValueRange:
    if not (isfinite(given[0]) and isfinite(given[1]) and given[0] < given[1]):
        raise ValueError(f"give the value that is black and then the one that is white, such as (0, 4095), not {given}")
    return given


GivenRange: TypeAlias = Annotated[ValueRange, AfterValidator(_ordered)]
"""A range that a person gives, checked for its order."""
Damaged: TypeAlias = Literal["refuse", "skip"]
"""What a job does where chunks of a label store, a run or a slide are damaged: refuse with a sentence that names them,
or leave their pixels out of the result. They never count as background."""


class Frozen(AnyNames):
    """A config whose fields are checked when it is made, and cannot be changed afterwards."""

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
    """What the pixel values meant in the images that a model was trained on.

    Attributes
    ----------
    kind : "brightfield" or "fluorescence", optional
        None: the model was trained on both kinds.
    ranges : dict of str to (low, high)
        For each type of pixels, such as "uint16": the values that were black and white.
    """

    kind: Kind | None = None
    ranges: dict[str, GivenRange] = Field(default_factory=dict)

    def __hash__(self) -> int:
        # A dict has no hash, but configs are keys of the caches of measured receptive fields.
        return hash((self.kind, tuple(sorted(self.ranges.items()))))


def explain(error: Any, what: str) -> MsunetError:
    """A pydantic `ValidationError` as one sentence about `what`."""
    items = error.errors()
    # A newer file also has fields that this version does not know. Errors about these would only hide the reason.
    newer = [item for item in items if item["loc"] and item["loc"][-1] == "schema_version"]
    parts = []
    for item in newer[:1] or items:
        # pydantic puts the types of a union into the place too ("literal['exact']"); a user has no use for them
        where = ".".join(str(p) for p in item["loc"] if isinstance(p, int) or p.isidentifier())
        reason = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
        parts.append(f"{where}: {reason}" if where else reason)
    return MsunetError(f"{what} cannot be used: {'; '.join(parts)}.")

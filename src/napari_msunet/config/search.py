"""The space of a search: for each field of a training that varies, the range or the choices that are tried."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from math import exp, isfinite, log, prod
from random import Random
from types import NoneType
from typing import Annotated, Any, Self, TypeAlias, get_args, get_origin

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from napari_msunet.config.base import Frozen, as_text, kinds_of

LEVELS = 3
"""Values that a grid takes from a range without steps."""

_LISTED = 100_000  # points of a grid that are shuffled as a whole; of a larger one they are drawn

SAME_FOR_ALL = {
    *("schema_version", "job", "sources", "out", "resume", "time_limit", "clock", "epochs", "validation", "test"),
    *("fold", "seed", "split_seed", "device", "devices", "nodes", "strategy", "track", "track_uri", "replaces"),
    *("model.schema_version", "model.kind", "model.classes", "model.normalisation", "model.trained_on"),
    *("model.channels", "model.channel_names"),
}
"""Fields of a training that no search may vary: what is learned, by what it is judged, and where it runs."""


# ----------------------------------------------------------------------------------------------------------------------
# The values that a field may take.


class SearchRange(Frozen):
    """Numbers from `low` to `high`, both included.

    Attributes
    ----------
    low, high : float or int
    log : bool
        Whether the numbers are spread evenly by their ratios instead of by their differences.
    step : float or int, optional
        The distance between two numbers; None: all between them (of whole numbers: every one).
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ValueError(f"give a low below the high, not {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs a low above zero, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range has no steps: leave out log or step")
        if self.step is not None and not (isfinite(self.step) and 0 < self.step <= self.high - self.low):
            raise ValueError(f"give a step above zero that fits between low and high, not {self.step:g}")
        return self

    def levels(self, whole: bool) -> list[int | float]:
        """The values that a grid takes: those of the steps, all of a few whole numbers, or `LEVELS` spread evenly."""
        step = self.step
        if step is None and whole and not self.log and self.high - self.low < 5:
            step = 1
        if step is not None:
            count = int((self.high - self.low) / step + 1e-9) + 1
            values = [self.low + n * step for n in range(count)]
        else:
            shares = [n / (LEVELS - 1) for n in range(LEVELS)]
            values = [self._at(share) for share in shares]
        return list(dict.fromkeys(round(v) if whole else v for v in values))

    def _at(self, share: float) -> float:
        if share in (0, 1):  # exactly, which a logarithm there and back would not be
            return self.high if share else self.low
        if self.log:
            return exp(log(self.low) + share * (log(self.high) - log(self.low)))
        return self.low + share * (self.high - self.low)


class SearchChoices(Frozen):
    """Values that are tried, without an order.

    Attributes
    ----------
    choices : tuple
        Whatever a job file may hold in this place: a number, a word, a list, an object.
    """

    choices: tuple[Any, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"give each choice once, not {', '.join(self.labels)}")
        return self

    @property
    def labels(self) -> list[str]:
        """A short text for each choice, by which tables and storages know it."""
        return [label_of(choice) for choice in self.choices]


def label_of(value: Any) -> str:
    """A value as a short text: numbers with commas, otherwise JSON."""
    simple = isinstance(value, str | int | float) or value is None
    flat = isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value)
    if isinstance(value, str) or flat:
        return as_text(value)
    return json.dumps(value) if simple else json.dumps(value, sort_keys=True, ensure_ascii=False)


SearchSpace: TypeAlias = dict[str, SearchRange | SearchChoices]
"""For each field of the training, by its path with dots: what is tried."""

Point: TypeAlias = dict[str, Any]
"""A value for each field of a space."""


def parse_space(given: Any) -> SearchSpace | None:
    """The space in what a job file holds: a range or choices for each field; a list stands for choices.

    Raises
    ------
    ValueError
        If an entry cannot be read; the sentence names the field.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise ValueError('a space names fields, such as {"optimiser.learning_rate": {"low": 0.001, "high": 0.03}}')
    return {str(name): _parse_entry(str(name), entry) for name, entry in given.items()}


def _parse_entry(name: str, entry: Any) -> SearchRange | SearchChoices:
    if isinstance(entry, SearchRange | SearchChoices):
        return entry
    if isinstance(entry, list | tuple):
        entry = {"choices": list(entry)}
    if not isinstance(entry, Mapping) or not {"low", "choices"} & set(entry):
        raise ValueError(
            f'{name}: give a range such as {{"low": 1, "high": 4}} or {{"choices": [1, 2, 4]}}, not {entry!r}'
        )
    kind: type[SearchRange | SearchChoices] = SearchChoices if "choices" in entry else SearchRange
    try:
        return kind.model_validate(dict(entry))
    except ValidationError as error:
        raise ValueError(f"{name}: {_reasons(error)}") from None


def _reasons(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        reason = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
        where = [str(part) for part in item["loc"] if isinstance(part, str) and part.isidentifier()]
        parts.append(f"{where[-1]}: {reason}" if where and not reason.startswith("give") else reason)
    return "; ".join(dict.fromkeys(parts))


# ----------------------------------------------------------------------------------------------------------------------
# The fields that a space names.


def fields_at(config: type[BaseModel], path: str) -> list[FieldInfo]:
    """The fields that a path with dots names; several where a part may have several types, none where nothing fits."""
    configs, found = [config], list[FieldInfo]()
    for part in path.split("."):
        if part.isdigit() and found:  # a network of several
            continue
        found = [c.model_fields[part] for c in configs if part in c.model_fields]
        configs = [inner for info in found for inner in _configs_in(info)]
    return found


def _configs_in(info: FieldInfo) -> Iterator[type[BaseModel]]:
    for kind in kinds_of(info)[0]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        elif get_origin(kind) is tuple:
            for inner in get_args(kind):
                if inner is not Ellipsis:
                    yield from _configs_in(FieldInfo.from_annotation(inner))


def is_whole(fields: Sequence[FieldInfo]) -> bool:
    """Whether fields take whole numbers only."""
    kinds = {kind for info in fields for kind in kinds_of(info)[0]} - {NoneType}
    return kinds == {int}


def takes(fields: Sequence[FieldInfo], value: Any) -> str | None:
    """Why no field can have this value; None where one can."""
    reason = None
    for info in fields:
        kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        try:
            TypeAdapter(kind).validate_python(value)
            return None
        except ValidationError as error:
            reason = reason or _reasons(error)
    return reason


def check_space(space: SearchSpace, config: type[BaseModel]) -> None:
    """Check that each field exists, may vary, and can have the values that are tried.

    Raises
    ------
    ValueError
        Otherwise; the sentence names the field and says why.
    """
    for name, entry in space.items():
        found = fields_at(config, name)
        if not found:
            raise ValueError(f"{name} is no field of a training{_meant(config, name)}")
        if name in SAME_FOR_ALL or name == "model":
            raise ValueError(f"{name} is the same in all trials; leave it out of the space")
        values = [entry.low, entry.high] if isinstance(entry, SearchRange) else list(entry.choices)
        kinds = {kind for info in found for kind in kinds_of(info)[0]}
        if isinstance(entry, SearchRange) and not kinds & {int, float}:
            raise ValueError(f"{name} takes no numbers; give its choices")
        if isinstance(entry, SearchRange) and is_whole(found) and any(v != int(v) for v in [*values, entry.step or 1]):
            raise ValueError(f"{name} takes whole numbers; give a whole low, high and step")
        for value in values:
            if (reason := takes(found, value)) is not None:
                raise ValueError(f"{name} cannot be {label_of(value)}: {reason}")


def _meant(config: type[BaseModel], path: str) -> str:
    """The most similar name in the same place, as the end of a sentence."""
    *outer, last = path.split(".")
    configs = [config]
    for part in outer:
        if not part.isdigit():
            configs = [i for c in configs if part in c.model_fields for i in _configs_in(c.model_fields[part])]
    names = {name for c in configs for name in c.model_fields}
    near = get_close_matches(last, names, 1)
    if near:
        return f"; did you mean {'.'.join([*outer, near[0]])}?"
    inside = f" of {'.'.join(outer)}" if outer and names else ""
    return f"; give one{inside}, such as {'optimiser.learning_rate' if not inside else sorted(names)[0]}"


# ----------------------------------------------------------------------------------------------------------------------
# Points of a space.


def levels_of(space: SearchSpace, config: type[BaseModel]) -> dict[str, list[Any]]:
    """The values of each field that a grid combines; choices by their labels."""
    return {
        name: entry.labels if isinstance(entry, SearchChoices) else entry.levels(is_whole(fields_at(config, name)))
        for name, entry in space.items()
    }


def grid_size(space: SearchSpace, config: type[BaseModel]) -> int:
    """The number of points of the grid."""
    return prod(len(levels) for levels in levels_of(space, config).values())


def grid_points(space: SearchSpace, config: type[BaseModel], seed: int) -> Iterator[Point]:
    """The points of the grid in a random order, each once; choices by their labels.

    The order is the same for the same seed, so that a search that goes on takes the following ones.
    """
    levels = levels_of(space, config)
    names, total, rng = list(levels), grid_size(space, config), Random(seed)
    if total <= _LISTED:
        points = list(product(*levels.values()))
        rng.shuffle(points)
        yield from (dict(zip(names, values, strict=True)) for values in points)
        return
    seen: set[int] = set()
    while len(seen) < total:
        number = rng.randrange(total)
        if number in seen:
            continue
        seen.add(number)
        point = {}
        for name in names:
            number, place = divmod(number, len(levels[name]))
            point[name] = levels[name][place]
        yield point


def values_of(space: SearchSpace, point: Mapping[str, Any]) -> Point:
    """A point with its choices themselves instead of their labels."""
    found = {}
    for name, value in point.items():
        entry = space[name]
        found[name] = entry.choices[entry.labels.index(value)] if isinstance(entry, SearchChoices) else value
    return found


def some_points(space: SearchSpace, config: type[BaseModel], count: int) -> Iterator[Point]:
    """Points by which a space is tried out before the search: of its grid, with the choices themselves."""
    for number, point in enumerate(grid_points(space, config, seed=0)):
        if number == count:
            return
        yield values_of(space, point)


# ----------------------------------------------------------------------------------------------------------------------
# The space of a search for which none is given.

_RATES: SearchSpace = {
    "optimiser.learning_rate": SearchRange(low=3e-4, high=3e-2, log=True),
    "optimiser.weight_decay": SearchRange(low=1e-4, high=1e-1, log=True),
    "loss": SearchChoices(choices=("cross_entropy+dice", "bce+dice", "focal+dice", "cross_entropy+tversky")),
    "batch_size": SearchChoices(choices=(4, 8, 16)),
}
_MODEL: SearchSpace = {
    "model.scales": SearchChoices(choices=([1.0], [1.0, 0.5], [1.0, 0.5, 0.25])),
    "model.fusion": SearchChoices(choices=("attention", "weighted", "mean", "concat")),
}
_UNET: SearchSpace = {
    "model.branch.depth": SearchRange(low=2, high=5),
    "model.branch.width": SearchChoices(choices=(8, 12, 16, 24)),
    "model.branch.dropout": SearchRange(low=0.0, high=0.3),
}


def default_space(training: BaseModel) -> SearchSpace:
    """Scales, fusion, network, loss, rate, weight decay and batch, as far as the training leaves them open.

    A field that the training sets to another value than its default is what a person wants, and is not varied. The
    scales and the fusion of a complete `ModelConfig` are varied, because nothing tells whether they were chosen.

    Parameters
    ----------
    training : TrainJob
    """
    values = training.model_dump(mode="json")
    model = values["model"]
    auto = model.get("kind") == "auto"
    space: SearchSpace = {}
    for name, entry in _MODEL.items():
        if not auto or model.get(name.removeprefix("model.")) is None:
            space[name] = entry
    branch = model.get("branch")
    if branch is None or (isinstance(branch, dict) and branch.get("kind", "unet") == "unet"):
        usual = {"depth": 4, "width": 16, "dropout": 0.0}
        for name, entry in _UNET.items():
            field = name.removeprefix("model.branch.")
            if branch is None or not auto or branch.get(field) == usual[field]:
                space[name] = entry
    for name, entry in _RATES.items():
        if _is_default(training, name):
            space[name] = entry
    return space


def _is_default(config: BaseModel, path: str) -> bool:
    for part in path.split("."):
        info, value = type(config).model_fields[part], getattr(config, part)
        if isinstance(value, BaseModel) and value != info.get_default(call_default_factory=True):
            config = value
            continue
        return bool(value == info.get_default(call_default_factory=True))
    return False

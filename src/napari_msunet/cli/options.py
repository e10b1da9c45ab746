"""The options of the verbs, made from the fields of the configs: one for each field that carries an `Option`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import BaseModel, TypeAdapter, ValidationError

from napari_msunet.config import (
    NETWORKS,
    AutoModel,
    BranchConfig,
    ContextJob,
    CrossValidateJob,
    Damaged,
    EvaluateJob,
    ExportJob,
    FolderSource,
    MeasureJob,
    ModelConfig,
    PostprocessJob,
    PredictJob,
    PreviewAugmentationJob,
    PublishedSource,
    PyramidJob,
    ShapesSource,
    SlideSource,
    Source,
    TableSource,
    TrainJob,
    TuneJob,
    UNetConfig,
    explain,
)
from napari_msunet.config.base import OptionField, as_text, choices_of, fields_of, kinds_of, part_of, read_text
from napari_msunet.config.prediction import REGION
from napari_msunet.config.presets import PresetName, with_preset
from napari_msunet.errors import MsunetError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DamageOptions:
    """The option that says what to do where something is damaged.

    Attributes
    ----------
    damaged : "refuse" or "skip"
        Where chunks of a label store or a prediction, or tiles of a slide, are damaged: end with an error that names
        them, or leave their pixels out of the result.
    """

    damaged: Damaged = "refuse"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions(DamageOptions):
    """The options that say what to do with the job.

    Attributes
    ----------
    damaged : "refuse" or "skip"
        Where chunks of a label store or a prediction, or tiles of a slide, are damaged: end with an error that names
        them, or leave their pixels out of the result.
    print_job : bool
        Print the job as JSON instead of running it; `napari-msunet run` runs such a file.
    json : bool
        Print the result as JSON.
    """

    print_job: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Given:
    """The options of a config that were given."""

    fields: ClassVar[tuple[OptionField, ...]]
    config: ClassVar[type[BaseModel]]

    def values(self) -> dict[str, Any]:
        """The values that were given, as the config takes them: those of its parts in dictionaries of their own.

        Raises
        ------
        MsunetError
            If a text cannot be read, or a part lacks what it must have.
        """
        found: dict[str, Any] = {}
        for one in self.fields:
            value = getattr(self, _attribute(one))
            if value in (None, ()):
                continue
            inside = found
            for name in one.path[:-1]:
                inside = inside.setdefault(name, {})
            inside[one.name] = _read(one, value)
        self._complete(found)
        return found

    def _complete(self, found: dict[str, Any]) -> None:
        """Refuse a part whose main option is missing, such as threads of a cluster that was not named."""
        for name, info in self.config.model_fields.items():
            part = part_of(info)
            if part is None or name not in found:
                continue
            for one in fields_of(part):
                if one.info.is_required() and one.name not in found[name]:
                    given = [f.flag or "" for f in fields_of(part) if f.name in found[name]]
                    raise MsunetError(f"{' and '.join(given)} need a {one.flag}, such as {one.option.example}.")


def _attribute(one: OptionField) -> str:
    return "__".join(one.path)


def _read(one: OptionField, value: Any) -> Any:
    """The value of a field for what was typed."""
    part = part_of(one.info)
    if part is not None:
        try:
            return part.model_validate(value).model_dump(exclude_unset=True)
        except ValidationError as error:
            raise explain(error, f"{one.flag} {value!r}") from error
    if _pairs(one):
        return read_pairs(one.flag or "", value, one.option.example)
    if not one.option.example or not isinstance(value, str):
        return value
    if one.name == "where":
        from napari_msunet.inference.slide_inputs import parse_where

        return parse_where(value)
    try:
        return read_text(one.info, value)
    except ValidationError:
        raise MsunetError(f"{one.flag} {value!r} cannot be read; give {one.option.example}.") from None


def read_pairs(flag: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dict; `MsunetError` where one is not of that form."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise MsunetError(f"{flag} {text!r} cannot be read; give {example}.")
        found[name.strip()] = value.strip()
    return found


def _pairs(one: OptionField) -> bool:
    """Whether the field is a dictionary, so that its option can be given several times."""
    return [get_origin(kind) for kind in kinds_of(one.info)[0]] == [dict]


def _typed(one: OptionField) -> Any:
    """The type that the command line reads. A field of a more complex type is taken as text and read by `read_text`."""
    if _pairs(one):
        return tuple[str, ...]
    if one.option.example or part_of(one.info) is not None:
        return str
    if choices := choices_of(one.info):
        return Literal[tuple(choices)]
    kinds = [kind for kind in kinds_of(one.info)[0] if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 else str


_PANELS = (
    "Images and their truth",
    "What the images and the truth are",
    "Time",
    "Model",
    "Networks",
    "Windows",
    "Loss",
)
"""The panels of a verb's help that come first; the others stand in the order of their fields."""


@cache
def _group(name: str) -> Group:
    """The panel of the help under this name."""
    return Group.create_ordered(name)


for _name in _PANELS:
    _group(_name)


def _parameter(one: OptionField, default: str | None = None, text: str | None = None) -> Parameter:
    shown = one.default if default is None else default
    return Parameter(
        name=(one.flag or "", *one.option.also),
        help=one.help if text is None else text,
        group=_group(one.option.group) if one.option.group else None,
        show_default=(lambda _: shown) if shown else False,
        negative=None if one.info.default is True else (),
    )


def _made(name: str, base: type[Any], rows: Iterable[tuple[str, Any, Parameter]], **shared: Any) -> Any:
    """A class of options, none of which is given at first."""
    parts = [
        (
            attribute,
            Annotated[kind | None, parameter],
            () if get_origin(kind) is tuple and ... in get_args(kind) else None,
        )
        for attribute, kind, parameter in rows
    ]
    own = {**shared, "__module__": __name__}
    made = make_dataclass(name, parts, bases=(base,), frozen=True, kw_only=True, namespace=own)
    return Parameter(name="*")(made)


def options_of(
    config: type[BaseModel], left_out: Collection[str] = (), values_of: type[BaseModel] | None = None
) -> Any:
    """The options of a config, as a class whose instances are `Given`.

    Parameters
    ----------
    config : type of BaseModel
    left_out : collection of str
        Flags that the verb defines itself, or does not have.
    values_of : type of BaseModel, optional
        A config with the same fields that takes the values; no option has a default then.
    """
    fields = tuple(one for one in fields_of(config) if one.flag and one.flag not in left_out)
    if values_of is not None:
        fields = tuple(OptionField(f.path, _taken(f, values_of), f.option) for f in fields)
    rows = [(_attribute(one), _typed(one), _parameter(one)) for one in fields]
    return _made(f"{config.__name__}Options", Given, rows, fields=fields, config=config)


def _taken(one: OptionField, config: type[BaseModel]) -> Any:
    """The same field in another config, with the label and help that it has in this one."""
    info = config.model_fields[one.name]
    return type(info).merge_field_infos(info, description=one.info.description)


@dataclass(frozen=True, kw_only=True)
class _Networks:
    """The options of the networks that were given: one value for all scales, or one for each."""

    def branch(self, count: int, usual: str | None = None) -> BranchConfig | tuple[BranchConfig, ...] | None:
        """The configs of the networks of `count` scales; None where no option of them was given, nor a usual kind."""
        given = {flag: getattr(self, flag) for flag in _network_fields() if getattr(self, flag) is not None}
        kinds = _one_or_each("--network", vars(self)["network"], count) or (usual or "unet",) * count
        if not given and usual is None and vars(self)["network"] is None:
            return None
        if unknown := [kind for kind in kinds if kind not in NETWORKS]:
            raise MsunetError(f"--network {unknown[0]!r} is none; give {', '.join(NETWORKS)}.")
        configs = [NETWORKS[kind][0] for kind in kinds]
        each = {name: _one_or_each(_network_fields()[name].flag or "", value, count) for name, value in given.items()}
        for name in each:
            if not any(name in config.model_fields for config in configs):
                raise MsunetError(
                    f"{_network_fields()[name].flag} is no option of the network {', '.join(dict.fromkeys(kinds))}; "
                    "leave it out, or give another --network."
                )
        made = [
            config(
                **{
                    name: self._value(config, name, v[number])
                    for name, v in each.items()
                    if v and name in config.model_fields
                }
            )
            for number, config in enumerate(configs)
        ]
        return made[0] if len(set(made)) == 1 else tuple(made)

    def _value(self, config: type[BranchConfig], name: str, value: Any) -> Any:
        """A value as this kind of network takes it."""
        if not isinstance(value, str):
            return value
        try:
            return read_text(config.model_fields[name], value)
        except ValidationError as error:
            raise explain(error, f"{_network_fields()[name].flag} {value!r}") from error


def _one_or_each(flag: str, value: Any, count: int) -> tuple[Any, ...] | None:
    """A value for each scale."""
    if value is None or not isinstance(value, str):
        return None if value is None else (value,) * count
    parts = tuple(part.strip() for part in value.split(","))
    if len(parts) not in (1, count):
        each = f", or one for each of the {count} scales" if count > 1 else " for the one scale"
        raise MsunetError(f"{flag} {value!r} cannot be used; give one value{each}.")
    return parts * count if len(parts) == 1 else parts


@cache
def _network_fields() -> dict[str, OptionField]:
    """The options of all kinds of networks, each once."""
    found: dict[str, OptionField] = {}
    for config, _, _ in NETWORKS.values():
        for one in fields_of(config):
            found.setdefault(one.name, one)
    return found


def _network_options() -> Any:
    rows: list[tuple[str, Any, Parameter]] = []
    group = _group("Networks")
    kinds = ", ".join(NETWORKS)
    text = f"Kind of the network of each scale: {kinds}; one for all, or one for each scale with commas, as below too."
    rows.append(("network", str, Parameter(name="--network", help=text, group=group, show_default=lambda _: "unet")))
    for name, one in _network_fields().items():
        having = [words for config, words, _ in NETWORKS.values() if name in config.model_fields]
        choices = f" ({', '.join(map(as_text, choices_of(one.info)))})" if choices_of(one.info) else ""
        of = "" if len(having) == len(NETWORKS) else f" Of {', '.join(having)}."
        of_unet = name in UNetConfig.model_fields
        kind = bool if _typed(one) is bool else str
        parameter = _parameter(one, None if of_unet else "", f"{one.help}{choices}{of}")
        rows.append((name, kind, parameter))
    return _made("NetworkOptions", _Networks, rows)


_SOURCE: TypeAdapter[Any] = TypeAdapter(Source)
_SOURCES: tuple[type[BaseModel], ...] = (FolderSource, SlideSource, ShapesSource, TableSource, PublishedSource)


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """The options for images and their truth that were given."""

    source: Annotated[
        tuple[str, ...],
        Parameter(
            help="A source as JSON, or the path of a JSON file that holds one or a list of them; for folders that "
            "differ in mpp, values or role. Can be given several times.",
            group=_group("Images and their truth"),
            show_default=False,
            negative=(),
        ),
    ] = ()

    def given(self, flag: str | None) -> Any:
        """The value that was given for an option."""
        return getattr(self, (flag or "").removeprefix("--").replace("-", "_"))

    def sources(self) -> tuple[Any, ...]:
        """The sources, folders first.

        Raises
        ------
        MsunetError
            If no images are given, or there are not as many masks as folders, or labels as slides.
        """
        shapes, labels = self.given("--shapes"), self.given("--labels")
        self._pair("--images", "--masks")
        if shapes and labels:
            raise MsunetError("Slides were given --labels and --shapes; give one sort of truth, or --source for each.")
        self._pair("--slide", "--shapes" if shapes else "--labels")
        try:
            found = [source for kind in _SOURCES for source in self._of(kind)]
        except ValidationError as error:
            raise explain(error, "What says where the images are") from error
        found += [source for text in self.source for source in parse_source(text)]
        if not found:
            raise MsunetError(
                "No images are given; say --images FOLDER --masks FOLDER, --slide FILE --labels STORE, --pairs CSV, "
                "--published FOLDER, or --source."
            )
        return tuple(found)

    def _of(self, kind: type[BaseModel]) -> list[Any]:
        """The sources of one kind."""
        fields = [one for one in fields_of(kind) if one.flag]
        must = [one for one in fields if one.info.is_required()]
        if not all(self.given(one.flag) for one in must):
            return []
        values = {one.name: self.given(one.flag) for one in fields if one not in must}
        common = {f.name: _read(f, values[f.name]) for f in fields if values.get(f.name) not in (None, ())}
        names = [one.name for one in must]
        rows = zip(*(self.given(one.flag) for one in must), strict=True)
        return [kind(**dict(zip(names, row, strict=True)), **common) for row in rows]

    def _pair(self, one: str, other: str) -> None:
        first, second = self.given(one), self.given(other)
        if len(first) != len(second):
            raise MsunetError(
                f"{one} was given {len(first)} times and {other} {len(second)} times; give one {other} for each."
            )


def _source_options() -> Any:
    rows: dict[str, tuple[str, Any, Parameter]] = {}
    for kind in _SOURCES:
        for one in fields_of(kind):
            if one.flag and one.flag not in rows:
                kinds = tuple[Path, ...] if one.info.is_required() else _typed(one)
                rows[one.flag] = (one.flag.removeprefix("--").replace("-", "_"), kinds, _parameter(one))
    return _made("SourceOptions", _Sources, rows.values())


PixelSizeOption: TypeAlias = float | Literal["px"]
"""µm per pixel, or px for an image that is used in its own pixels."""

if TYPE_CHECKING:  # a type checker cannot see classes that are made at run time
    SourceOptions: TypeAlias = _Sources
    NetworkOptions: TypeAlias = _Networks
    ModelOptions: TypeAlias = Given
    TrainOptions: TypeAlias = Given
    CrossValidateOptions: TypeAlias = Given
    ContextOptions: TypeAlias = Given
    TuneOptions: TypeAlias = Given
    PreviewOptions: TypeAlias = Given
    EvaluateOptions: TypeAlias = Given
    PredictOptions: TypeAlias = Given
    PostprocessOptions: TypeAlias = Given
    MeasureOptions: TypeAlias = Given
    ExportOptions: TypeAlias = Given
    PyramidOptions: TypeAlias = Given
else:
    SourceOptions, NetworkOptions = _source_options(), _network_options()
    ModelOptions = options_of(ModelConfig, values_of=AutoModel)
    TrainOptions = options_of(TrainJob)
    CrossValidateOptions = options_of(CrossValidateJob)
    ContextOptions = options_of(ContextJob)
    TuneOptions = options_of(TuneJob)
    PreviewOptions = options_of(PreviewAugmentationJob)
    EvaluateOptions = options_of(EvaluateJob)
    PredictOptions = options_of(PredictJob)
    PostprocessOptions = options_of(PostprocessJob)
    MeasureOptions = options_of(MeasureJob)
    ExportOptions = options_of(ExportJob)
    PyramidOptions = options_of(PyramidJob)


PresetOption: TypeAlias = Annotated[
    PresetName | None,
    Parameter(
        help="Settings to begin with, where nothing else is given: method is the method as it was written (scales 1/2, "
        "1 and 2, the mean of their probabilities, one binary cross-entropy on it, Adam at 1e-4).",
        group=_group("Model"),
        show_default=False,
    ),
]


def model_of(
    classes: str,
    given: Given,
    networks: _Networks,
    preset: PresetName | None = None,
    usual: str | None = None,
) -> AutoModel:
    """The model as far as it is given, with networks of a usual kind; `MsunetError` where something cannot be used."""
    values = given.values()
    if preset is not None:
        values = with_preset(preset, {"model": values})["model"]
    branch = networks.branch(len(values.get("scales", (1.0,))), usual)
    if branch is not None:
        values["branch"] = branch
    try:
        return AutoModel(classes=tuple(name.strip() for name in classes.split(",")), **values)
    except ValidationError as error:
        raise explain(error, "The model") from error


def training_of(
    classes: str,
    out: Path,
    sources: _Sources,
    model: Given,
    networks: _Networks,
    training: Given,
    preset: PresetName | None = None,
) -> TrainJob:
    """The training that the options describe; `MsunetError` where something cannot be used."""
    found, made = sources.sources(), model_of(classes, model, networks, preset)
    values = training.values()
    if preset is not None:
        own = with_preset(preset, values)
        values |= {name: own[name] for name in ("loss", "optimiser")}
    try:
        return TrainJob(model=made, sources=found, out=out, **values)
    except ValidationError as error:
        raise explain(error, "The training") from error


def parse_names(text: str) -> Any:
    """The meaning of the values of a mask, from ``"classes"``, ``"instances"`` or
    ``"Tumor=gland,Stroma=background"``."""
    if text in ("classes", "instances"):
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise MsunetError(f"--values {text!r} cannot be read; give classes, instances, or pairs such as Tumor=gland.")
    return {name.strip(): label.strip() for name, _, label in pairs}


def parse_scales(text: str) -> tuple[float, ...]:
    """Scales from ``"1,1/2,0.25"``; `ModelConfig` checks whether they can be used."""
    scales = next(one for one in fields_of(ModelConfig) if one.name == "scales")
    try:
        return tuple(read_text(scales.info, text))
    except ValidationError:
        raise MsunetError(f"The scales {text!r} are no numbers; give {scales.option.example}.") from None


def parse_source(text: str) -> list[Any]:
    """The sources in a piece of JSON, or in a JSON file."""
    given = text.lstrip()
    if not given.startswith(("{", "[")):
        try:
            given = Path(text).read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError) as error:
            raise MsunetError(f"The source file {text} cannot be read ({error}); give JSON or a JSON file.") from error
    try:
        found = json.loads(given)
        return [_SOURCE.validate_python(source) for source in (found if isinstance(found, list) else [found])]
    except json.JSONDecodeError as error:
        raise MsunetError(
            f"--source {text!r} is no JSON ({error}); give an object with a kind, folder or slide."
        ) from None
    except ValidationError as error:
        raise explain(error, f"--source {text!r}") from error


def parse_space(text: str) -> Any:
    """The space of a search in a piece of JSON, or in a JSON file."""
    given = text.lstrip()
    if not given.startswith("{"):
        try:
            given = Path(text).read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError) as error:
            raise MsunetError(f"The space {text} cannot be read ({error}); give a JSON file.") from error
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise MsunetError(
            f"The space {text} is no JSON ({error}); give such as "
            '{"optimiser.learning_rate": {"low": 0.001, "high": 0.03, "log": true}}.'
        ) from None


def parse_region(text: str | None) -> tuple[float, float, float, float] | None:
    """A region from ``"y,x,height,width"``."""
    if text is None:
        return None
    try:
        y, x, height, width = (float(part) for part in text.split(","))
    except ValueError:
        raise MsunetError(f"--region {text!r} cannot be read; give {REGION}.") from None
    return y, x, height, width

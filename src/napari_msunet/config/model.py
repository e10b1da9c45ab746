"""The config of a model, and which of its fields two models must share so that one can continue from the other."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from napari_msunet.config.base import Frozen, Option, Positive, TrainedOn, Versioned
from napari_msunet.config.branches import BranchConfig, ClassicalConfig, UNetConfig
from napari_msunet.geometry import Resolution, as_scale, common_alignment, round_up

# ----------------------------------------------------------------------------------------------------------------------
# The model: its scales, its fusion, its branches.

Fusion: TypeAlias = Literal[
    "mean", "weighted", "max", "concat", "attention", "feature_attention", "multihead", "inject", "pyramid"
]

JOINED: tuple[Fusion, ...] = ("inject", "pyramid")
"""Fusions inside the network: the branches cannot be computed one by one."""

HEADLESS: tuple[Fusion, ...] = ("concat", "feature_attention", "inject")
"""Fusions that combine features: the scales' own class logits take no part in the combined output."""

NOT_SEPARATE = (
    'The scales cannot be trained each by its own loss where they meet inside the network (fusion="{}"); give a branch '
    'loss of "off" or a weight such as 0.4, or another fusion.'
)

FUSIONS: dict[Fusion, tuple[str, str]] = {
    "attention": ("Attention", "At each pixel it learns which scale to trust."),
    "feature_attention": (
        "Feature attention",
        "At each pixel it learns whose features to trust, and decides once, on their weighted sum.",
    ),
    "weighted": ("Weighted", "One weight per scale, learned or given, the same everywhere: easy to read off."),
    "mean": ("Mean", "All scales count the same; nothing to learn."),
    "max": ("Maximum", "The most confident scale decides at each pixel."),
    "concat": ("Concatenate", "Learns one decision from the features of all scales together."),
    "multihead": ("Multi-head attention", "At each pixel several heads learn which scale to trust, each for itself."),
    "inject": ("Context injection", "What the coarse scales find enters the finest one's network where it is deepest."),
    "pyramid": ("Image pyramid", "One network; copies of the image at all scales enter its levels."),
}
"""What each fusion is called, and what it does."""

MAX_CLASSES = 254

_GROUP = "Model"

NO_CLASSES = frozenset(
    (
        *("background", "back ground", "bg", "ignored", "ignore", "ignore label", "void", "unclassified", "no class"),
        *("not annotated", "unannotated", "not labelled", "not labeled", "unlabelled", "unlabeled", "not known"),
    )
)
"""Names, in small letters, that mean background or "not known": they can never be names of classes."""


def is_no_class(name: str) -> bool:
    """Whether this name means background or "not known", in any capitals."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split()) in NO_CLASSES


def check_class_names(names: Sequence[str]) -> None:
    """Raise `ValueError` where a new class has one of the names that mean background or "not known"."""
    if any(is_no_class(name) for name in names):
        raise ValueError(
            f"give 1 to {MAX_CLASSES} different class names (background is not one, nor is what is ignored or not "
            f"annotated), not {tuple(names)}"
        )


class OwnStatistics(Frozen):
    """The first layer takes its constants from each image or slide itself, once for the whole of it."""

    by: Literal["z-score", "min-max"]
    within: Literal["whole", "tissue"] = "whole"


Enlarging: TypeAlias = Literal["learned", "bilinear"]
ScaleWeight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Normalisation(Frozen):
    """The model's first layer: ``(input - mean) / std`` for each channel, inputs in 0..1."""

    mean: tuple[float, ...]
    std: tuple[Positive, ...]


class ModelConfig(Versioned):
    """A multi-scale U-Net."""

    # The order of the fields is part of a model's fingerprint: a new one goes to the end.

    classes: tuple[str, ...]
    """Names of classes 1..K; background (0) is not named."""
    mpp: Annotated[
        Positive | None,
        Option("Resolution", _GROUP, False, "µm/px", 0.05, "image pixels", flag="--model-mpp", example="µm per pixel"),
    ]
    """Size in µm of the pixels that the model works with, at scale 1 and in the labels. A smaller size shows more
    detail but less of the surroundings, and takes longer: half the size is four times the work. px (in Python None):
    the model works in pixels of the images, for images without a size in µm."""
    scales: Annotated[
        tuple[float, ...], Option(group=_GROUP, advanced=False, example="ratios with commas, such as 1,1/2,1/4")
    ] = (1.0, 0.5, 0.25)
    """Resolutions of the networks relative to the model's own, such as 1,1/2,1/4; ratios of whole numbers up to 8.
    Scale 1/2 sees pixels twice as large, so twice as far. Add coarser scales when an object is only recognised by what
    is around it."""
    fusion: Annotated[
        Fusion, Option(group=_GROUP, advanced=False, words={name: words for name, (words, _) in FUSIONS.items()})
    ] = "attention"
    """How the answers of the scales are combined: mean, weighted, max (of probabilities); concat (of features);
    attention, multihead (answers weighted at each pixel, by features); feature_attention (features weighted at each
    pixel); inject (coarse features enter the finest network); pyramid (one network, copies of the image enter its
    levels)."""
    channels: Annotated[int, Option(group=_GROUP, form=False)] = Field(3, ge=1)
    """Channels of the images."""
    channel_names: tuple[str, ...] | None = None
    """Channel names of the training images: a slide's channels are matched by them. None: channels are matched by their
    order."""
    shared: Annotated[bool, Option("One network for all scales (shared weights)", _GROUP)] = False
    """One network for all scales instead of one each: fewer weights to learn. Try it with little annotation and objects
    that look alike at all scales."""
    branch: Annotated[BranchConfig | tuple[BranchConfig, ...], Option("Networks", flag=None)] = UNetConfig()
    """One network for all scales, or one for each."""
    field: Annotated[
        Literal["same", "concentric"],
        Option("Coarse scales see", _GROUP, words={"same": "the same area", "concentric": "more surroundings"}),
    ] = "same"
    """What a coarse scale sees in training: the same area with fewer pixels, or (concentric) as many pixels and so more
    surroundings around the same centre, which costs more time."""
    upscale: Annotated[
        Literal[1, 2], Option("Output", _GROUP, words={1: "at the resolution", 2: "twice as fine (learned)"})
    ] = 1
    """With 2, the labels have pixels of half the size, which the network learns to place."""
    finest_scale: Annotated[float | None, Option("Read at most at", _GROUP, example="a ratio such as 1 or 1/2")] = None
    """Largest scale that images are read at, such as 1: larger scales are brought up from it inside the network (see
    enlarge). Without it each scale reads its own."""
    pixel: Positive = 1.0
    """For a model in pixels: how many pixels of the image a pixel of the model is long. At 2 the image is read at half
    its size."""
    normalisation: Normalisation | tuple[Normalisation, ...] | None = None
    """One normalisation for all scales, or one per scale (in a model combined from others). None until a training fits
    it to its images."""
    trained_on: TrainedOn | None = None
    """Kind and range of the images' values. None until a training sets it, and in models that were saved before it was
    kept."""
    image_size: Annotated[int | None, Option("Bring images to", _GROUP, unit="px", none="no common size", step=64)] = (
        Field(None, ge=16, le=8192)
    )
    """Pixels a side that every image is brought to as a whole, such as 256 or 512, whatever its own size and shape; for
    models in pixels. Predictions are brought back to the image's own pixels. Without it, images keep their
    resolution."""
    own_statistics: OwnStatistics | None = None
    """The normalisation by each image's own statistics; None: by the constants in `normalisation`."""
    enlarge: Annotated[
        Enlarging,
        Option("Larger scales are", _GROUP, words={"learned": "learned from it", "bilinear": "enlarged bilinearly"}),
    ] = "learned"
    """How scales above the finest one that is read are brought up from it: learned (repeated pixels plus what the
    network adds), or bilinear, as image programs enlarge; then at most scale 1 is read, if nothing else is given."""
    scale_weights: Annotated[
        tuple[ScaleWeight, ...] | None,
        Option("Weights of the mean", _GROUP, none="learned", example="numbers with commas, such as 1,2,1"),
    ] = None
    """For the fusion weighted: the weight of each scale, in place of learned ones; only their ratios matter."""
    further: tuple[Normalisation | tuple[Normalisation, ...] | None, ...] = ()
    """Of an ensemble in one file: the normalisation of each network after the first. They have the same scales, fusion
    and branches, and the output is the mean of their probabilities."""

    def __init__(self, **values: Any) -> None:
        # Class names are checked only in configs made by code, so that files older than this check still open.
        self.__pydantic_validator__.validate_python(values, self_instance=self, context={"new": True})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # pydantic: configs read from a file skip it

    @field_validator("classes")
    @classmethod
    def _classes(cls, classes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if (info.context or {}).get("new"):
            check_class_names(classes)
        if not 1 <= len(classes) <= MAX_CLASSES or len(set(classes)) != len(classes) or not all(classes):
            raise ValueError(f"give 1 to {MAX_CLASSES} different class names (background is not one), not {classes}")
        return classes

    @field_validator("scales")
    @classmethod
    def _scales(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        ratios = [as_scale(s) for s in scales]
        if not ratios or len(set(ratios)) != len(ratios):
            raise ValueError(f"give one or more different scales, not {scales}")
        return tuple(float(r) for r in ratios)

    @field_validator("finest_scale")
    @classmethod
    def _finest(cls, scale: float | None) -> float | None:
        return None if scale is None else float(as_scale(scale))

    @model_validator(mode="after")
    def _joins(self) -> Self:
        if self.classical:
            self._is_classical()
        if self.fusion in JOINED and any(b.kind != "unet" for b in self.branches):
            raise ValueError(f'fusion="{self.fusion}" needs branches of kind "unet", whose levels it enters')
        if self.fusion in JOINED and self.mirrored:
            raise ValueError(
                f'fusion="{self.fusion}" enters the levels of a network, which padding="mirror" crops: give '
                'padding="valid", or another fusion'
            )
        if self.fusion == "pyramid" and (self.shared or len(set(self.branches)) != 1):
            raise ValueError(
                'fusion="pyramid" is one network for all scales: give one branch config, and leave shared off'
            )
        for ratio, read in zip(self.ratios, self._read, strict=True):
            if (ratio / read).denominator != 1:
                raise ValueError(
                    f"the scale {ratio} is no whole multiple of finest_scale {read}, from which it is brought up"
                )
        return self

    def _is_classical(self) -> None:
        """Raise `ValueError` where a classical method cannot be what is asked for."""
        branch = self.branches[0]
        if len(self.scales) > 1 or self.upscale > 1 or self.finest_scale is not None:
            raise ValueError(
                "a classical method looks at each pixel of one scale: give one scale, such as scales=(1.0,), and leave "
                "upscale and finest_scale as they are"
            )
        if isinstance(branch, ClassicalConfig) and branch.made <= len(self.classes):
            raise ValueError(
                f"{branch.method} makes {branch.made} parts, too few for background and {len(self.classes)} classes: "
                f"give method kmeans with {len(self.classes) + 1} parts or more"
            )
        if isinstance(branch, ClassicalConfig):
            branch.check_channels(self.channels)

    @model_validator(mode="after")
    def _weighs(self) -> Self:
        given = self.scale_weights
        if given is None:
            return self
        if self.fusion != "weighted":
            raise ValueError(f'scale_weights are for fusion="weighted", not for fusion="{self.fusion}": leave them out')
        if len(given) != len(self.scales):
            raise ValueError(
                f"{len(given)} scale_weights for {len(self.scales)} scales: give one weight for each scale"
            )
        if not sum(given) > 0:
            raise ValueError(f"scale_weights {_short(given)} are all zero: give one of the scales a weight above zero")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.branch, tuple) and len(self.branch) != len(self.scales):
            raise ValueError(
                f"{len(self.branch)} branch configs for {len(self.scales)} scales: give one for all, or one per scale"
            )
        if self.channel_names is not None and len(self.channel_names) != self.channels:
            raise ValueError(f"{len(self.channel_names)} channel names for {self.channels} channels: give one for each")
        if self.mpp is not None and self.pixel != 1:
            raise ValueError(
                f"pixel={self.pixel:g} is for models in pixels (mpp=None); this one works at {self.mpp:g} µm"
            )
        if self.image_size is not None and (self.mpp is not None or self.pixel != 1):
            raise ValueError(
                f"image_size={self.image_size} brings images of any size to as many pixels, so the model has no "
                "resolution of its own: leave out mpp and pixel"
            )
        if self.image_size is not None and self.image_size % self.size_multiple:
            raise ValueError(
                f"image_size={self.image_size} cannot be halved as often as these networks do at these scales: give a "
                f"multiple of {self.size_multiple}, such as {round_up(self.image_size, self.size_multiple)}"
            )
        if self.own_statistics is not None and any(branch.kind == "encoder" for branch in self.branches):
            raise ValueError(
                "known encoders normalise by the constants they were trained with, not by an image's own statistics: "
                "leave own_statistics out"
            )
        if self.shared and len(set(self.branches)) != 1:
            raise ValueError("branches that share their weights need the same branch config: give one for all scales")
        if isinstance(self.normalisation, tuple) and len(self.normalisation) != len(self.scales):
            raise ValueError(
                f"{len(self.normalisation)} normalisations for {len(self.scales)} scales: give one for all, or one per "
                "scale"
            )
        if any(not len(n.mean) == len(n.std) == self.channels for n in self.normalisations or ()):
            raise ValueError(f"the normalisation needs one mean and one std for each of the {self.channels} channels")
        return self

    @property
    def ratios(self) -> tuple[Fraction, ...]:
        """The scales as exact ratios."""
        return tuple(as_scale(s) for s in self.scales)

    @property
    def normalisations(self) -> tuple[Normalisation, ...] | None:
        """One normalisation per scale; None where none was fitted."""
        if isinstance(self.normalisation, Normalisation):
            return (self.normalisation,) * len(self.scales)
        return self.normalisation

    @property
    def branches(self) -> tuple[BranchConfig, ...]:
        """One config per scale."""
        return self.branch if isinstance(self.branch, tuple) else (self.branch,) * len(self.scales)

    @property
    def classical(self) -> bool:
        """Whether it is a classical method, which has nothing to learn by gradients."""
        return any(branch.kind == "classical" for branch in self.branches)

    @property
    def mirrored(self) -> bool:
        """Whether images are mirrored at their edges, for all branches, instead of background beyond them."""
        return any(branch.mirrored for branch in self.branches)

    @property
    def _read(self) -> tuple[Fraction, ...]:
        """The scale at which each branch reads the image."""
        finest = 1.0 if self.finest_scale is None and self.enlarge == "bilinear" else self.finest_scale
        if finest is None:
            return self.ratios
        return tuple(min(r, as_scale(finest)) for r in self.ratios)

    @property
    def enlarged(self) -> tuple[int, ...]:
        """For each scale, how many times what was read is enlarged; 1 where it is read as it is."""
        return tuple(int(r / read) for r, read in zip(self.ratios, self._read, strict=True))

    @property
    def network_ratios(self) -> tuple[Fraction, ...]:
        """Pixels of each branch's own grid per target pixel along a side: its scale, over `upscale`."""
        return tuple(r / self.upscale for r in self.ratios)

    @property
    def input_ratios(self) -> tuple[Fraction, ...]:
        """Pixels of each branch's input per target pixel along a side."""
        return tuple(r / self.upscale for r in self._read)

    @property
    def resolution(self) -> Resolution:
        """The resolution at which the model works: the size of a pixel of scale 1."""
        return Resolution(self.pixel, "px", self.image_size) if self.mpp is None else Resolution(self.mpp)

    @property
    def unit(self) -> Literal["µm", "px"]:
        """The unit of `resolution`."""
        return self.resolution.unit

    @property
    def target(self) -> Resolution:
        """The size of a pixel of the target grid: of logits, masks and stores."""
        return self.resolution.times(1 / self.upscale)

    @property
    def output(self) -> Resolution | None:
        """The resolution of the labels that are stored: that of the target grid; None where images are brought to one
        size, because these predictions are brought back to the image's own pixels."""
        return None if self.image_size is not None else self.target

    @property
    def target_mpp(self) -> float | None:
        """µm per pixel of the target grid; None of a model in pixels."""
        return self.target.mpp

    def at(self, resolution: Resolution) -> dict[str, float | None]:
        """The fields of a config that works at this resolution."""
        if resolution.side is not None:
            return {"mpp": None, "pixel": 1.0, "image_size": resolution.side}
        return {"mpp": resolution.mpp, "pixel": resolution.size if resolution.mpp is None else 1.0}

    @property
    def finest(self) -> int:
        """The index of the finest scale."""
        return self.ratios.index(max(self.ratios))

    @property
    def joint(self) -> bool:
        """Whether the branches must be computed together, not each on its own grid; see `MSUNet.run_joint`."""
        return self.fusion in JOINED or self.upscale > 1 or max(self.enlarged) > 1 or bool(self.further)

    @property
    def own(self) -> tuple[int, ...]:
        """The indices of the scales that have an output of their own beside the fused one."""
        if self.fusion == "pyramid":
            return ()
        return tuple(i for i in range(len(self.scales)) if self.fusion != "inject" or i != self.finest)

    @property
    def voices(self) -> int:
        """How many outputs can disagree: each scale's own, and the fused one where it is the finest scale's."""
        return len(self.own) + (self.fusion == "inject")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs in reports: ``"fused"``, then one per scale of `own`, such as ``"scale 1/2"``."""
        return ("fused", *(f"scale {self.ratios[i]}" for i in self.own))

    @property
    def size_multiple(self) -> int:
        """Target window sizes that need no padding are multiples of this; it is also the alignment of tiles."""
        # In an image pyramid, copies of the image enter at lower levels: only the finest scale runs through the whole
        # network.
        alone = self.fusion == "pyramid"
        strides = tuple(1 if alone and i != self.finest else b.stride for i, b in enumerate(self.branches))
        inputs = common_alignment(self.input_ratios, (1,) * len(strides))
        return lcm(common_alignment(self.network_ratios, strides), inputs)


class AutoModel(Versioned):
    """A model of which only some parts are given: what is None is chosen from the images when a training begins.

    The fields are those of `ModelConfig`; `mpp` "px": the model works in pixels of the images, which have no size in
    µm.
    """

    kind: Literal["auto"] = "auto"
    classes: tuple[str, ...]
    mpp: Positive | Literal["px"] | None = None
    scales: tuple[float, ...] | None = None
    fusion: Fusion | None = None
    channels: Annotated[int, Field(ge=1)] | None = None
    shared: bool | None = None
    branch: BranchConfig | tuple[BranchConfig, ...] | None = None
    field: Literal["same", "concentric"] | None = None
    upscale: Literal[1, 2] | None = None
    finest_scale: float | None = None
    image_size: int | None = None
    enlarge: Enlarging | None = None
    scale_weights: tuple[ScaleWeight, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_pixels(cls, given: Any) -> Any:
        """Images that are brought to one size have no µm."""
        if isinstance(given, dict) and given.get("image_size") is not None and given.get("mpp") is None:
            return {**given, "mpp": "px"}
        return given

    @property
    def unit(self) -> Literal["µm", "px"]:
        """The unit in which the model is to work."""
        return "px" if self.mpp == "px" else "µm"

    @property
    def target(self) -> Resolution | None:
        """The target of `ModelConfig`, where the resolution is given."""
        if self.image_size is not None:
            return Resolution(1.0, "px", self.image_size).times(1 / (self.upscale or 1))
        return None if self.mpp is None or self.mpp == "px" else Resolution(self.mpp)

    @property
    def given(self) -> dict[str, Any]:
        """The fields of a `ModelConfig` that are fixed."""
        given = {name: value for name, value in self if name != "kind" and value is not None}
        if self.mpp == "px":
            del given["mpp"]  # for a model in pixels, `pixel` is still to be chosen
        return given | ({"mpp": None, "pixel": 1.0} if self.mpp == "px" and self.image_size is not None else {})

    @model_validator(mode="after")
    def _can_be_completed(self) -> Self:
        if self.scale_weights is not None and (self.scales is None or self.fusion is None):
            raise ValueError('scale_weights need scales, one for each weight, and fusion="weighted": give both too')
        assumed: dict[str, Any] = {"mpp": 1.0, "fusion": "mean"}
        if isinstance(self.branch, ClassicalConfig):  # its channels are checked again when they are known
            assumed |= {"scales": (1.0,), "channels": 4 if self.branch.look.startswith("channel") else 3}
        elif self.image_size is not None:  # the network is chosen to fit it, if it can be halved at all
            assumed |= {"scales": (1.0,), "branch": UNetConfig(depth=1)}
        ModelConfig(**(assumed | self.given))
        return self


AnyModel: TypeAlias = ModelConfig | AutoModel


# ----------------------------------------------------------------------------------------------------------------------
# How two models differ, where one is to continue from the other's weights.

_FREE = {
    *("schema_version", "classes", "mpp", "pixel", "channel_names", "field", "normalisation", "trained_on"),
    *("image_size", "own_statistics"),
}
"""Fields in which a new model may differ from the one it starts from: none changes what the weights compute."""

_TRAINING_ONLY = {"dropout", "block_dropout"}
"""The same for fields of a branch."""


def architecture_differences(old: ModelConfig, new: ModelConfig) -> list[str]:
    """The differences in architecture, in words such as "scales (1, 0.5) instead of (1)"; empty where there are none.

    Classes, µm per pixel, the field of view in training, normalisation, what it was trained on and dropout may differ.
    """
    before, now = _architecture(old), _architecture(new)
    return [
        f"{name} {_short(before.get(name))} instead of {_short(now.get(name))}"
        for name in dict.fromkeys((*now, *before))
        if before.get(name) != now.get(name)
    ]


def _architecture(config: ModelConfig) -> dict[str, Any]:
    """The fields that decide what the weights mean; branches one by one."""
    fields = {name: value for name, value in config.model_dump().items() if name not in _FREE | {"branch"}}
    for number, branch in enumerate(config.branches, 1):
        own = {name: value for name, value in branch.model_dump().items() if name not in _TRAINING_ONLY}
        fields |= {f"branch {number}'s {name}" if len(config.branches) > 1 else name: v for name, v in own.items()}
    return fields


def _short(value: Any) -> str:
    if isinstance(value, tuple) and all(isinstance(v, float) for v in value):
        return f"({', '.join(f'{v:g}' for v in value)})"
    return str(value)

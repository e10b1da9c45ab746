"""The networks that a branch can have: one config for each kind, distinguished by its field `kind`."""

from __future__ import annotations

from importlib.util import find_spec
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from napari_msunet.config.base import Frozen, Option

Norm: TypeAlias = Literal["batch", "renorm", "slide", "none"]
Stem: TypeAlias = Literal["plain", "space_to_depth"]
Decoder: TypeAlias = Literal["unet", "unetplusplus", "linknet", "fpn", "manet", "deeplabv3plus"]

ENCODER_STRIDE = 32
"""The poolings of all encoders of timm."""


_GROUP = "Networks"


class _Network(Frozen):
    """The properties that all networks have."""

    kind: str
    if TYPE_CHECKING:  # networks have both as fields, a classical method has them as they are

        @property
        def depth(self) -> int:
            """How often the resolution halves."""

        @property
        def width(self) -> int:
            """Channels at the finest resolution."""

    @property
    def grain(self) -> int:
        """How many branch pixels a side make one pixel of the network's last features."""
        return 2 if getattr(self, "stem", "plain") == "space_to_depth" else 1

    @property
    def by_slide(self) -> bool:
        """Whether its normalisation adapts to each slide."""
        return getattr(self, "norm", "batch") == "slide"

    @property
    def valid(self) -> bool:
        """Whether pixels that its padding reaches carry no loss."""
        return getattr(self, "padding", "zero") != "zero"

    @property
    def mirrored(self) -> bool:
        """Whether it sees the mirrored image beyond the image's edge, instead of background."""
        return getattr(self, "padding", "zero") == "mirror"

    @property
    def stride(self) -> int:
        """The period of the network in branch pixels: shifted by it, the input gives the same output, shifted."""
        return int(self.grain * 2**self.depth)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first; `depth + 1` numbers."""
        return tuple(self.width * 2**level for level in range(self.depth + 1))


class _Sized(_Network):
    """A network whose size is chosen."""

    # Before all other fields: their order is part of a model's fingerprint.
    depth: int
    width: int


class _Trained(_Sized):
    """The options of networks that begin with random weights."""

    norm: Annotated[Norm, Option("Normalisation", _GROUP)] = "batch"
    """batch normalisation; renorm: batch renormalisation, for small batches; slide: statistics taken once for each
    slide from its own tissue, so that the network adapts to a stain; none: convolutions with a bias, as in the first
    U-Net."""
    padding: Annotated[Literal["zero", "valid", "mirror"], Option(group=_GROUP)] = "zero"
    """What surrounds a training window: zero, or valid: pixels that its edge reaches carry no loss, and windows are
    read larger for it. mirror (U-Net only): likewise, with valid convolutions and cropped skips as in the first U-Net,
    and the image mirrored beyond its edges."""


class UNetConfig(_Trained):
    """A U-Net branch. All options combine; the defaults are the plain U-Net with batch normalisation."""

    kind: Literal["unet"] = "unet"
    depth: Annotated[int, Option(group=_GROUP)] = Field(4, ge=1, le=6)
    """How often the network halves its picture. With one more it sees twice as far and has four times the weights.
    Raise it when objects are larger than what it sees."""
    width: Annotated[int, Option(group=_GROUP)] = Field(16, ge=1, le=256)
    """Channels at the finest resolution; they double at each halving. Twice as many take about four times the time.
    Raise it when training IoU stays low."""
    dropout: Annotated[float, Field(ge=0, lt=1), Option(group=_GROUP)] = 0.0
    """Share (0 to 0.9) of channels switched off at the bottleneck at random while training. Try 0.1 to 0.3 when
    training IoU is high and validation IoU is not."""
    down: Annotated[Literal["pool", "stride"], Option("Way down", _GROUP)] = "pool"
    """How the resolution halves: by the largest of four pixels (pool), or by a learned convolution (stride)."""
    up: Annotated[Literal["transposed", "resize"], Option("Way up", _GROUP)] = "transposed"
    """How the resolution doubles: transposed convolution, or resize: repeated pixels and a 3x3 convolution."""
    stem: Annotated[Stem, Option(group=_GROUP)] = "plain"
    """space_to_depth: each 2 x 2 pixels become one with four times the channels, and the head parts them again, so that
    the details of the full resolution cost a quarter of the pixels."""
    residual: Annotated[bool, Option("Residual blocks", _GROUP)] = False
    """Residual blocks: each adds its result to its input."""
    separable: Annotated[bool, Option("Separable convolutions", _GROUP)] = False
    """Each 3x3 convolution is replaced by one within each channel and one across the channels of each pixel, which has
    fewer parameters."""
    gates: Annotated[bool, Option("Attention gates on skips", _GROUP)] = False
    """The features of skips are weighted at each pixel by what the coarser level found."""
    attention: Annotated[
        Literal["none", "light", "self"], Option("Skip attention", _GROUP, flag="--skip-attention")
    ] = "none"
    """Attention in the skips: light (each pixel weights its own channels) or self (pixels of a window look at each
    other, on a grid fixed to the slide)."""
    window: Annotated[Literal[2, 4, 8, 16], Option("Its window", _GROUP, unit="px", flag="--attention-window")] = 8
    """Side of a window of self-attention, in pixels of the skip's level."""
    dense: Annotated[bool, Option("Nested skips (U-Net++)", _GROUP, flag="--nested-skips")] = False
    """Nested blocks between the way down and the way up, as in U-Net++."""
    pyramid: Annotated[bool, Option("Feature pyramid (FPN)", _GROUP, flag="--feature-pyramid")] = False
    """The result is made from all levels of the way up, as in a feature pyramid."""
    context: Annotated[bool, Option("Dilated context", _GROUP, flag="--dilated-context")] = False
    """Dilated convolutions of several widths at the bottleneck."""
    block_dropout: Annotated[float, Field(ge=0, lt=1), Option("Dropout in blocks", _GROUP)] = 0.0
    """Share (0 to 0.9) of the numbers switched off between the two convolutions of every block at random while
    training."""

    @model_validator(mode="after")
    def _can_be_cropped(self) -> Self:
        uncropped = {
            'up="resize"': self.up == "resize",
            'attention="self"': self.attention == "self",
            "dense": self.dense,
            "pyramid": self.pyramid,
            "context": self.context,
        }
        if self.mirrored and any(uncropped.values()):
            names = " and ".join(name for name, used in uncropped.items() if used)
            raise ValueError(
                f'padding="mirror" crops the skips of a plain U-Net, which cannot be done with {names}: leave that '
                'out, or give padding="valid"'
            )
        return self

    @property
    def stride(self) -> int:
        """The period of the network in branch pixels; it includes the windows of self-attention."""
        windows = self.window * 2 ** (self.depth - 1) if self.attention == "self" else 1
        return int(self.grain * max(2**self.depth, windows))


class _OnlyZeros(_Trained):
    """The same for networks that have no cropped skips."""

    @model_validator(mode="after")
    def _not_cropped(self) -> Self:
        if self.mirrored:
            raise ValueError('padding="mirror" crops the skips of a U-Net: give padding="zero" or "valid" here')
        return self


class LinkNetConfig(_OnlyZeros):
    """A LinkNet branch: residual blocks, and skips that are added; thin and fast."""

    kind: Literal["linknet"] = "linknet"
    depth: Annotated[int, Option(group=_GROUP)] = Field(4, ge=2, le=6)
    """How often the resolution halves; the stride is ``2 ** depth``."""
    width: Annotated[int, Option(group=_GROUP)] = Field(16, ge=4, le=256)
    """Channels at half the resolution, where the network begins; they double at each further halving."""
    layout: Annotated[Literal["thin", "published"], Option(group=_GROUP, flag="--linknet-layout")] = "thin"
    """thin: without the pooling behind the first convolution, and its last features at the full resolution. published:
    the network of the paper, layer by layer; with depth 5 and width 64 it is the paper's own."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first; `depth + 1` numbers."""
        if self.layout == "published":  # the first two resolutions below the image's have the same width
            return (self.width // 2, self.width, *(self.width * 2**level for level in range(self.depth - 1)))
        return (self.width, *(self.width * 2**level for level in range(self.depth)))

    @property
    def grain(self) -> int:
        """How many branch pixels a side make one pixel of the network's last features."""
        return 2 if self.layout == "published" else 1

    @property
    def stride(self) -> int:
        """The period of the network in branch pixels."""
        return int(2**self.depth)

    @model_validator(mode="after")
    def _layers(self) -> Self:
        if self.layout == "published" and (self.depth < 3 or self.width % 4):
            raise ValueError('layout="published" needs a depth of 3 or more, and a width that is a multiple of 4')
        return self


class HRNetConfig(_OnlyZeros):
    """An HRNet branch: all resolutions side by side, exchanging features; the finest resolution is kept throughout."""

    kind: Literal["hrnet"] = "hrnet"
    depth: Annotated[int, Option(group=_GROUP)] = Field(3, ge=1, le=5)
    """Coarser resolutions beside the finest; the stride is ``2 ** depth`` (twice that with a space-to-depth stem)."""
    width: Annotated[int, Option(group=_GROUP)] = Field(16, ge=1, le=256)
    """Channels at the finest resolution; they double at each coarser one."""
    stem: Annotated[Stem, Option(group=_GROUP)] = "space_to_depth"
    """As for a U-Net: space_to_depth leaves a quarter of the pixels to compute."""
    blocks: Annotated[int, Option("Blocks each", _GROUP)] = Field(1, ge=1, le=8)
    """Residual blocks of each resolution between two exchanges."""


class EncoderConfig(_Sized):
    """A known encoder with a decoder of segmentation-models-pytorch; needs the extra ``napari-msunet[encoders]``."""

    kind: Literal["encoder"] = "encoder"
    encoder: Annotated[str, Option(group=_GROUP)] = Field("resnet34", min_length=1)
    """Name of a timm model, such as resnet50, efficientnet_b3, hrnet_w32."""
    decoder: Annotated[Decoder, Option(group=_GROUP)] = "unet"
    """The decoder, which makes a picture of the encoder's features. Tiles are exact with unet, unetplusplus and
    linknet."""
    depth: Annotated[int, Option(group=_GROUP)] = Field(5, ge=3, le=5)
    """How often the resolution halves before the decoder begins."""
    width: Annotated[int, Option(group=_GROUP)] = Field(16, ge=8, le=256)
    """Channels of the decoder's finest resolution."""
    weights: Annotated[str, Option(group=_GROUP, flag="--encoder-weights")] = "none"
    """none (random), imagenet (downloaded), a .safetensors file, or hf-hub:OWNER/NAME (downloaded). Only for a new
    model: a model file holds its own."""
    frozen: Annotated[bool, Option("Encoder stays as it is", _GROUP, flag="--frozen-encoder")] = False
    """The encoder keeps these weights, and only the decoder learns."""

    @property
    def stride(self) -> int:
        """The period of the network in branch pixels; some encoders run to their end at any depth."""
        return ENCODER_STRIDE

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.decoder == "deeplabv3plus" and self.depth == 3:
            raise ValueError('decoder="deeplabv3plus" needs a depth of 4 or 5')
        if self.frozen and self.weights == "none":
            raise ValueError("a frozen encoder with random weights learns nothing: give weights, or frozen=False")
        return self


Method: TypeAlias = Literal["threshold", "valley", "otsu", "multiotsu", "kmeans"]
Look: TypeAlias = Literal["density", "haematoxylin", "eosin", "colour", "channel1", "channel2", "channel3", "channel4"]

_METHODS: dict[Method, str] = {
    "threshold": "threshold by hand",
    "valley": "threshold at the valley",
    "otsu": "Otsu's threshold",
    "multiotsu": "several thresholds (multi-Otsu)",
    "kmeans": "k-means",
}
_LOOKS: dict[Look, str] = {
    "density": "optical density",
    "haematoxylin": "haematoxylin",
    "eosin": "eosin",
    "colour": "colour",
    "channel1": "channel 1",
    "channel2": "channel 2",
    "channel3": "channel 3",
    "channel4": "channel 4",
}
MULTIOTSU = 5
"""Most parts of multi-Otsu, whose work grows with each as with another loop over the histogram."""


class ClassicalConfig(_Network):
    """No network: a threshold or k-means, which parts all pixels by what each of them shows. For one scale.

    Thresholds and centres are fitted once, to the training images or to the tissue of a whole slide, never to a tile.
    """

    kind: Literal["classical"] = "classical"
    method: Annotated[Method, Option("Method", _GROUP, False, words=_METHODS)] = "otsu"
    """How pixels are parted: threshold (given by hand), valley (the threshold between the two peaks of the histogram),
    otsu, multiotsu (several thresholds), kmeans (by the nearest of several centres)."""
    look: Annotated[Look, Option("Of", _GROUP, False, words=_LOOKS)] = "density"
    """What is looked at: density (optical density), haematoxylin or eosin (their amount, of red, green and blue),
    colour, or one channel. Of density and colour, kmeans looks at all channels, and a threshold at their mean."""
    parts: Annotated[int, Option("Parts", _GROUP, False)] = Field(3, ge=2, le=32)
    """For multiotsu (up to 5) and kmeans: into how many parts the pixels fall; at least one more than there are
    classes. The others make two."""
    threshold: Annotated[float, Option("Threshold", _GROUP, False, step=0.01)] = Field(0.2, ge=-10, le=10)
    """For the method threshold: where the parts meet. Colours and channels go from 0 (black) to 1 (white); density and
    the amounts of stains are decadic, 0 where nothing absorbs light."""
    smooth: Annotated[float, Option("Smooth", _GROUP, False, "px", 0.5, flag="--smooth-by")] = Field(0.0, ge=0, le=8)
    """Standard deviation of a Gaussian blur of what is looked at, in pixels, against noise."""
    fit: Annotated[
        Literal["slide", "training"],
        Option("Fitted to", _GROUP, False, words={"slide": "each slide by itself", "training": "the training images"}),
    ] = "slide"
    """What thresholds and centres are fitted to: slide (the tissue of each slide or image, so nothing needs to be
    trained), or training (all training images together, the same for each slide)."""
    first: Annotated[
        Literal["darkest", "brightest"],
        Option(
            "First class",
            _GROUP,
            False,
            flag="--first-class",
            words={"darkest": "the darkest part", "brightest": "the brightest part"},
        ),
    ] = "darkest"
    """Which part is class 1 where nothing is trained; the next one is class 2, and what is left is background. A
    training gives each part the class that most of its pixels have."""

    @property
    def depth(self) -> int:
        """No resolution is halved."""
        return 0

    @property
    def width(self) -> int:
        """Nothing is made of features."""
        return 1

    @property
    def made(self) -> int:
        """How many parts the method makes."""
        return self.parts if self.method in ("multiotsu", "kmeans") else 2

    @property
    def radius(self) -> int:
        """How far it looks, in pixels: the Gaussian is cut at three standard deviations."""
        return ceil(3 * self.smooth)

    def check_channels(self, channels: int) -> None:
        """Raise `ValueError` where images with so many channels do not have what is looked at."""
        if self.look in ("haematoxylin", "eosin") and channels != 3:
            raise ValueError(
                f"{self.look} is found in red, green and blue, and the images have {channels} channels: look at "
                "density, colour or a channel"
            )
        if self.look.startswith("channel") and int(self.look[-1]) > channels:
            raise ValueError(f"there is no channel {self.look[-1]} in images with {channels}: look at another one")

    @property
    def by_slide(self) -> bool:
        """Whether its thresholds or centres are those of each slide."""
        return self.fit == "slide" and self.method != "threshold"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.method == "multiotsu" and self.parts > MULTIOTSU:
            raise ValueError(
                f"multiotsu makes at most {MULTIOTSU} parts, not {self.parts}: give fewer, or method kmeans"
            )
        return self


class FiltersConfig(_Network):
    """No network: fixed filters, which describe each pixel's neighbourhood; only the layer behind them is learned."""

    kind: Literal["filters"] = "filters"
    sigmas: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field((1.0,), min_length=1, max_length=8)
    """Widths of the filters: standard deviations of Gaussians, in pixels of the branch."""
    knots: tuple[float, ...] = Field((), max_length=8)
    """For each knot every feature is there once more, as far as it is above the knot, so that the layer behind can
    bend; in standard deviations from the feature's mean, which are kept in the model."""

    @property
    def depth(self) -> int:
        """No resolution is halved."""
        return 0

    @property
    def width(self) -> int:
        """Filters have no channels of their own."""
        return 1

    @property
    def radius(self) -> int:
        """How far it looks, in pixels: each Gaussian is cut at three standard deviations, and a neighbour decides."""
        return ceil(3 * max(self.sigmas)) + 1


ENCODER_PACKAGES = {
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "timm": "timm",
    "torchvision": "torchvision",
    "huggingface_hub": "huggingface-hub",
}
"""The modules that encoders need, and the packages that have them."""


def missing_for_encoders() -> str:
    """What is not installed here that encoders need, as a sentence; empty where all is there. Nothing is imported."""
    missing = [name for module, name in ENCODER_PACKAGES.items() if find_spec(module) is None]
    if not missing:
        return ""
    return (
        f"Known encoders need {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here: "
        "pip install 'napari-msunet[encoders]', with a torchvision that fits the installed torch."
    )


def _kind(value: Any) -> str:
    """Configs without a kind are U-Nets."""
    return str(value.get("kind", "unet") if isinstance(value, dict) else getattr(value, "kind", "unet"))


BranchConfig: TypeAlias = Annotated[
    Annotated[UNetConfig, Tag("unet")]
    | Annotated[LinkNetConfig, Tag("linknet")]
    | Annotated[HRNetConfig, Tag("hrnet")]
    | Annotated[EncoderConfig, Tag("encoder")]
    | Annotated[ClassicalConfig, Tag("classical")]
    | Annotated[FiltersConfig, Tag("filters")],
    Discriminator(_kind),
]
"""The config of any network that a branch can have."""

NETWORKS: dict[str, tuple[type[BranchConfig], str, str]] = {
    "unet": (UNetConfig, "U-Net", "The plain one, with whatever is chosen below."),
    "linknet": (LinkNetConfig, "LinkNet", "Thin and fast: residual blocks, skips are added."),
    "hrnet": (HRNetConfig, "HRNet", "All resolutions side by side."),
    "encoder": (EncoderConfig, "Known encoder", "A trained encoder by name."),
    "classical": (ClassicalConfig, "Classical method", "No network: a threshold or k-means, pixel by pixel."),
    "filters": (FiltersConfig, "Fixed filters", "No network: edges and textures, and one layer that learns."),
}
"""For each kind of network: its config, its name, and a sentence about it."""

"""The networks a branch can be: one config for each kind, told apart by its `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from napari_msunet.config.base import Frozen

Norm: TypeAlias = Literal["batch", "renorm", "slide"]
Stem: TypeAlias = Literal["plain", "space_to_depth"]
Decoder: TypeAlias = Literal["unet", "unetplusplus", "linknet", "fpn", "manet", "deeplabv3plus"]

ENCODER_STRIDE = 32
"""Of all encoders of timm."""


class _Network(Frozen):
    """What all networks have."""

    kind: str
    depth: int
    width: int

    @property
    def grain(self) -> int:
        """Branch pixels a side that are one pixel of the network's last features."""
        return 2 if getattr(self, "stem", "plain") == "space_to_depth" else 1

    @property
    def by_slide(self) -> bool:
        """Whether its normalisation adapts to each slide."""
        return getattr(self, "norm", "batch") == "slide"

    @property
    def valid(self) -> bool:
        """Whether what its padding reaches carries no loss."""
        return getattr(self, "padding", "zero") == "valid"

    @property
    def stride(self) -> int:
        """Branch pixels after which the network repeats its phase."""
        return int(self.grain * 2**self.depth)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first; `depth + 1` numbers."""
        return tuple(self.width * 2**level for level in range(self.depth + 1))


class _Trained(_Network):
    """What networks that begin with random weights have."""

    norm: Norm = "batch"
    padding: Literal["zero", "valid"] = "zero"


class UNetConfig(_Trained):
    """A U-Net branch. All options combine; the defaults are the plain U-Net with batch normalisation.

    Attributes
    ----------
    depth : int
        Number of poolings; the stride is ``2 ** depth`` (twice that with ``stem="space_to_depth"``).
    width : int
        Channels at the branch's finest resolution; they double at each pooling.
    dropout : float
        Share of channels dropped at the bottleneck while training.
    norm : str
        "batch" normalisation; "renorm", batch renormalisation, for small batches; "slide": statistics taken once for
        each slide from its own tissue, so that the network adapts to a stain.
    padding : str
        "zero", or "valid": pixels that the edge of a training window reaches carry no loss, and windows are read
        larger for it.
    down : str
        How the resolution halves: by the largest of four pixels ("pool"), or by a learned convolution ("stride").
    up : str
        How it doubles: "transposed" convolution, or "resize", repeated pixels and a 3x3 convolution.
    stem : str
        "space_to_depth": each 2 x 2 pixels become one with four times the channels, and the head parts them again, so
        that the details of the full resolution cost a quarter of the pixels.
    residual : bool
        Blocks add what they find to what they were given.
    separable : bool
        Each 3x3 convolution is one of each channel and one of each pixel, with fewer parameters.
    gates : bool
        Skipped features are weighed at each pixel by what the coarser level found.
    attention : str
        In the skips: "light" (each pixel weighs its own channels) or "self" (pixels of a window look at each other,
        on a grid fixed to the slide).
    window : int
        Side of a window of self-attention, in pixels of the skip's level.
    dense : bool
        Nested blocks between the way down and the way up, as in U-Net++.
    pyramid : bool
        The result takes part in all levels of the way up, as in a feature pyramid.
    context : bool
        Dilated convolutions of several widths at the bottleneck.
    """

    kind: Literal["unet"] = "unet"
    depth: int = Field(4, ge=1, le=6)
    width: int = Field(16, ge=1, le=256)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    down: Literal["pool", "stride"] = "pool"
    up: Literal["transposed", "resize"] = "transposed"
    stem: Stem = "plain"
    residual: bool = False
    separable: bool = False
    gates: bool = False
    attention: Literal["none", "light", "self"] = "none"
    window: Literal[2, 4, 8, 16] = 8
    dense: bool = False
    pyramid: bool = False
    context: bool = False

    @property
    def stride(self) -> int:
        """Branch pixels after which the network repeats its phase; windows of self-attention are part of it."""
        windows = self.window * 2 ** (self.depth - 1) if self.attention == "self" else 1
        return int(self.grain * max(2**self.depth, windows))


class LinkNetConfig(_Trained):
    """A LinkNet branch: residual blocks, and skips that are added; thin and fast.

    Attributes
    ----------
    depth : int
        How often the resolution halves; the stride is ``2 ** depth``.
    width : int
        Channels at half the resolution, where it begins; they double from there.
    norm, padding : str
        See `UNetConfig`.
    """

    kind: Literal["linknet"] = "linknet"
    depth: int = Field(4, ge=2, le=6)
    width: int = Field(16, ge=4, le=256)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first; `depth + 1` numbers."""
        return (self.width, *(self.width * 2**level for level in range(self.depth)))


class HRNetConfig(_Trained):
    """An HRNet branch: all resolutions side by side, exchanging what they find; nothing of the finest is ever lost.

    Attributes
    ----------
    depth : int
        Coarser resolutions beside the finest; the stride is ``2 ** depth`` (twice that with a space-to-depth stem).
    width : int
        Channels at the finest resolution; they double at each coarser one.
    stem, norm, padding : str
        See `UNetConfig`.
    blocks : int
        Residual blocks of each resolution between two exchanges.
    """

    kind: Literal["hrnet"] = "hrnet"
    depth: int = Field(3, ge=1, le=5)
    width: int = Field(16, ge=1, le=256)
    stem: Stem = "space_to_depth"
    blocks: int = Field(1, ge=1, le=8)


class EncoderConfig(_Network):
    """A known encoder with a decoder of segmentation-models-pytorch; needs the extra ``napari-msunet[encoders]``.

    Attributes
    ----------
    encoder : str
        Name of a timm model, such as "resnet50", "efficientnet_b3", "hrnet_w32".
    decoder : str
        "unet", "unetplusplus", "linknet", "fpn", "manet" or "deeplabv3plus". Tiles are exact with the first three.
    depth : int
        How often the resolution halves before the decoder begins.
    width : int
        Channels of the decoder's finest resolution.
    weights : str
        "none" (random), "imagenet" (downloaded), a ``.safetensors`` file, or ``"hf-hub:OWNER/NAME"`` (downloaded).
        Only for a new model: a model file holds its own.
    frozen : bool
        The encoder keeps these weights, and only the decoder learns.
    """

    kind: Literal["encoder"] = "encoder"
    encoder: str = Field("resnet34", min_length=1)
    decoder: Decoder = "unet"
    depth: int = Field(5, ge=3, le=5)
    width: int = Field(16, ge=8, le=256)
    weights: str = "none"
    frozen: bool = False

    @property
    def stride(self) -> int:
        """Branch pixels after which the network repeats its phase: some encoders run to their end at any depth."""
        return ENCODER_STRIDE

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.decoder == "deeplabv3plus" and self.depth == 3:
            raise ValueError('decoder="deeplabv3plus" needs a depth of 4 or 5')
        if self.frozen and self.weights == "none":
            raise ValueError("a frozen encoder with random weights learns nothing: give weights, or frozen=False")
        return self


def _kind(value: Any) -> str:
    """Configs without a kind are U-Nets."""
    return str(value.get("kind", "unet") if isinstance(value, dict) else getattr(value, "kind", "unet"))


BranchConfig: TypeAlias = Annotated[
    Annotated[UNetConfig, Tag("unet")]
    | Annotated[LinkNetConfig, Tag("linknet")]
    | Annotated[HRNetConfig, Tag("hrnet")]
    | Annotated[EncoderConfig, Tag("encoder")],
    Discriminator(_kind),
]
"""Any network that a branch can be."""

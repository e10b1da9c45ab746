"""The model: its scales, its fusion, its branches."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from napari_msunet.config.base import Frozen, Positive, Versioned
from napari_msunet.config.branches import UNetConfig
from napari_msunet.geometry import as_scale, common_alignment

Fusion: TypeAlias = Literal["mean", "weighted", "max", "concat", "attention"]

MAX_CLASSES = 254


class Normalisation(Frozen):
    """The model's first layer: ``(input - mean) / std`` for each channel, inputs in 0..1."""

    mean: tuple[float, ...]
    std: tuple[Positive, ...]


class ModelConfig(Versioned):
    """A multi-scale U-Net.

    Attributes
    ----------
    classes : tuple of str
        Names of classes 1..K; background (0) is not named.
    mpp : float
        µm per pixel at which the model works: the target grid, and the resolution of scale 1.
    scales : tuple of float
        Resolution of each branch relative to the model's own: 0.5 sees half as many pixels a side. Each is a ratio of
        integers up to 8.
    fusion : str
        How the branches are combined: "mean", "weighted", "max" (of probabilities), "concat", "attention"
        (of features).
    channels : int
        Image channels.
    channel_names : tuple of str, optional
        Of the images it was trained on: a slide's channels are matched by these names. None: by their order.
    shared : bool
        One network for all scales instead of one each.
    branch : UNetConfig or tuple of UNetConfig
        One for all scales, or one per scale.
    field : str
        What a branch of a scale below 1 sees in training: "same" (the same field of view) or "concentric" (as many
        pixels as the target, so more context around the same centre).
    normalisation : Normalisation, optional
        None until a training fits it to its images.
    """

    classes: tuple[str, ...]
    mpp: Positive
    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    fusion: Fusion = "attention"
    channels: int = Field(3, ge=1)
    channel_names: tuple[str, ...] | None = None
    shared: bool = False
    branch: UNetConfig | tuple[UNetConfig, ...] = UNetConfig()
    field: Literal["same", "concentric"] = "same"
    normalisation: Normalisation | None = None

    @field_validator("classes")
    @classmethod
    def _classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.branch, tuple) and len(self.branch) != len(self.scales):
            raise ValueError(
                f"{len(self.branch)} branch configs for {len(self.scales)} scales: give one for all, or one per scale"
            )
        if self.channel_names is not None and len(self.channel_names) != self.channels:
            raise ValueError(f"{len(self.channel_names)} channel names for {self.channels} channels: give one for each")
        if self.shared and len(set(self.branches)) != 1:
            raise ValueError("branches that share their weights need the same branch config: give one for all scales")
        if self.normalisation and not len(self.normalisation.mean) == len(self.normalisation.std) == self.channels:
            raise ValueError(f"the normalisation needs one mean and one std for each of the {self.channels} channels")
        return self

    @property
    def ratios(self) -> tuple[Fraction, ...]:
        """The scales as exact ratios."""
        return tuple(as_scale(s) for s in self.scales)

    @property
    def branches(self) -> tuple[UNetConfig, ...]:
        """One config per scale."""
        return self.branch if isinstance(self.branch, tuple) else (self.branch,) * len(self.scales)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs in reports: ``"fused"``, then one per scale, such as ``"scale 1/2"``."""
        return ("fused", *(f"scale {r}" for r in self.ratios))

    @property
    def size_multiple(self) -> int:
        """Target window sizes that need no padding are multiples of this; it is also the alignment of tiles."""
        return common_alignment(self.ratios, tuple(b.stride for b in self.branches))

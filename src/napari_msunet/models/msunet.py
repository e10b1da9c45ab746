"""The multi-scale U-Net: one branch per scale, brought to the target grid and combined.

Everything is built from three steps that inference also uses one by one: `run_branch` (on the branch's own grid),
`to_target`, `combine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window, round_up
from napari_msunet.models.blocks import Normalise, arrange, initialise
from napari_msunet.models.frugal import run_within
from napari_msunet.models.fusion import FUSIONS, Fusion
from napari_msunet.models.margin import Reach, measure_reach
from napari_msunet.models.resample import to_target
from napari_msunet.models.unet import UNet
from napari_msunet.models.windows import Field, Size, checked_size, concentric_offset, input_size, is_concentric

DEFAULT_MEAN, DEFAULT_STD = 0.5, 0.25
"""Normalisation of every channel until a training fits it to its images."""


class Branch(nn.Module):
    """One scale's network and its head, a 1x1 convolution from the last features to class logits."""

    def __init__(self, config: UNetConfig, channels: int, outputs: int) -> None:
        super().__init__()
        self.network = UNet(config, channels)
        self.head = nn.Conv2d(self.network.features, outputs, kernel_size=1)


class MSUNet(nn.Module):
    """A multi-scale U-Net, made by `build_model` or `load_model`.

    Parameters
    ----------
    config : ModelConfig
        Everything about it but the weights.

    Attributes
    ----------
    config : ModelConfig
    summary : dict
        How it was trained and how well it did: plain JSON values, kept in the model file.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.summary: dict[str, Any] = {}
        fitted = config.normalisation
        self.normalise = Normalise(
            fitted.mean if fitted else (DEFAULT_MEAN,) * config.channels,
            fitted.std if fitted else (DEFAULT_STD,) * config.channels,
        )
        outputs = len(config.classes) + 1
        branches = [Branch(b, config.channels, outputs) for b in config.branches[: 1 if config.shared else None]]
        for branch in branches:
            branch.apply(initialise)
            nn.init.normal_(branch.head.weight, std=branch.network.features**-0.5)
        self.branches = nn.ModuleList(branches)
        self.fusion: Fusion = FUSIONS[config.fusion]([b.width for b in config.branches], outputs)
        self._reaches: tuple[Reach, ...] | None = None

    # ------------------------------------------------------------------------------------------------ what it needs

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """Measured for each scale: how far, in branch pixels, the outside of a window gets into the branch's output."""
        if self._reaches is None:
            known: dict[UNetConfig, Reach] = {}
            for i, config in enumerate(self.config.branches):
                if config not in known:
                    known[config] = measure_reach(self._branch(i).network, self.config.channels, config.stride)
            self._reaches = tuple(known[config] for config in self.config.branches)
        return self._reaches

    @property
    def exact(self) -> bool:
        """Whether tiles with this model's margin give what the whole image gives."""
        return all(reach.aligned < inf for reach in self.reaches)

    @property
    def branch_margins(self) -> tuple[int, ...]:
        """For each scale, branch pixels that a tile needs on each side; multiples of the branch's stride.

        Raises
        ------
        ModelError
            If no margin is enough, since an output depends on the extent of the tile.
        """
        needs = [need.aligned for need in self._needs()]
        return tuple(round_up(need, c.stride) for need, c in zip(needs, self.config.branches, strict=True))

    @property
    def margin(self) -> int:
        """Target pixels that any window needs on each side; a multiple of `config.size_multiple`.

        A tile begins and ends on multiples of each branch's stride and gets by with `branch_margins`. An image with
        this margin around it may end at any phase of the stride, which takes up to one stride more.

        Raises
        ------
        ModelError
            If no margin is enough, since an output depends on the extent of the tile.
        """
        needs = [need.anywhere / ratio for need, ratio in zip(self._needs(), self.config.ratios, strict=True)]
        return round_up(max(needs), self.config.size_multiple)

    def _needs(self) -> list[Reach]:
        """The reaches, with one more pixel for coarse outputs, which are interpolated between pixel centres."""
        if not self.exact:
            raise ModelError("This model has a layer that sees the whole tile, so no margin makes its tiles exact.")
        more = [1 if ratio < 1 else 0 for ratio in self.config.ratios]
        return [Reach(r.aligned + m, r.anywhere + m) for r, m in zip(self.reaches, more, strict=True)]

    @property
    def fingerprint(self) -> str:
        """Hash of the config and all weights: the same before saving and after loading."""
        from napari_msunet.models.files import fingerprint

        return fingerprint(self)

    # ------------------------------------------------------------------------------------- the three steps, for tiles

    def run_branch(self, i: int, x: Tensor, keep: Window | None = None) -> Tensor:
        """One branch on a window of its own grid.

        Parameters
        ----------
        i : int
            Which scale.
        x : (B, C, h, w) float Tensor
            The image on the branch's grid, 0..1, not normalised; sides multiples of the branch's stride.
        keep : Window, optional
            The part of the output that is wanted, in pixels of `x`: without gradients, the rest is not computed.

        Returns
        -------
        (B, Z, h, w) Tensor
            Class logits (K+1 channels), then what the fusion needs of the features; of `keep`.

        Raises
        ------
        ModelError
            If `x` has other channels or sides.
        """
        stride = self.config.branches[i].stride
        if x.dim() != 4 or x.shape[-2] % stride or x.shape[-1] % stride:
            raise ModelError(
                f"Branch {i} was given a window of shape {tuple(x.shape)}; it needs (batch, channels, height, width) "
                f"with sides that are multiples of {stride}."
            )
        if self.training or torch.is_grad_enabled():
            z = self._project(i, self._features(i, x, (x.shape[-2], x.shape[-1])))
            return z if keep is None else z[(..., *keep.slices())]
        x = self.normalise(self._checked(i, x)).contiguous(memory_format=torch.channels_last)
        wanted = keep or Window(0, 0, x.shape[-2], x.shape[-1])
        return run_within(self._branch(i).network, x, wanted, lambda features: self._project(i, features))

    def to_target(self, i: int, z: Tensor) -> Tensor:
        """Bring a `z` of branch `i` to the target grid: bilinear from a coarse grid, area average from a finer one.

        `z` begins on a whole target pixel and its sides are multiples of the scale's numerator p. At its edges the
        outermost pixels repeat, so for a part of a larger image, take p more coarse pixels and crop them.
        """
        return to_target(z, self.config.ratios[i])

    def combine(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)` of all branches' `z` on the target grid."""
        fused: Tensor = self.fusion(zs)
        return fused

    def class_logits(self, z: Tensor) -> Tensor:
        """The branch's own class logits `(B, K+1, h, w)` in a `z`."""
        return self.fusion.classes(z)

    def fusion_weights(self, zs: Sequence[Tensor]) -> Tensor | None:
        """Share of each scale at each target pixel, `(B, k, H, W)`; None for fusions without such shares."""
        return self.fusion.weights(zs)

    # --------------------------------------------------------------------------------------------- whole windows

    def forward(self, inputs: Sequence[Tensor], size: Size | None = None, field: Field | None = None) -> Tensor:
        """Fused logits of a window.

        Parameters
        ----------
        inputs : sequence of (B, C, h, w) float Tensor
            The window at each scale of the config, 0..1: ``ceil(scale * size)`` pixels a side.
        size : tuple of int, optional
            Height and width of the target; None: from the input at scale 1, else from the one at the largest scale.
        field : "same" or "concentric", optional
            "concentric": inputs of scales below 1 have `size` pixels a side around the same centre. None: the config's
            while training, else "same".

        Returns
        -------
        (B, K+1, H, W) Tensor
            On the target grid. A size that is no multiple of `config.size_multiple` is padded at the bottom and right
            and cropped again.

        Raises
        ------
        ModelError
            If the inputs do not fit the config or each other.
        """
        return self.outputs(inputs, size, field)[0]

    def branch_logits(
        self, inputs: Sequence[Tensor], size: Size | None = None, field: Field | None = None
    ) -> list[Tensor]:
        """Each branch's own logits `(B, K+1, H, W)`, on the target grid; inputs as for `forward`."""
        return self.outputs(inputs, size, field)[1]

    def outputs(
        self,
        inputs: Sequence[Tensor],
        size: Size | None = None,
        field: Field | None = None,
        detach: Sequence[bool] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Fused logits and each branch's own, in one pass; inputs as for `forward`.

        Parameters
        ----------
        detach : sequence of bool, optional
            For each branch: its own logits come from detached features, so that a loss on them trains its head alone.
            The fused logits keep all their gradients.
        """
        if field is None:
            field = self.config.field if self.training else "same"
        size = checked_size(self.config, inputs, size, field)
        zs, own = [], []
        for i, x in enumerate(inputs):
            features = self._features(i, x, self._padded(i, size, field))
            zs.append(self._on_target(i, self._project(i, features), size, field))
            if detach is not None and detach[i]:
                own.append(self._on_target(i, self._branch(i).head(features.detach()), size, field))
            else:
                own.append(self.class_logits(zs[i]))
        return self.combine(zs), own

    # ---------------------------------------------------------------------------------------------------- privately

    def _branch(self, i: int) -> Branch:
        branch = self.branches[0 if self.config.shared else i]
        assert isinstance(branch, Branch)  # for the type checker
        return branch

    def _features(self, i: int, x: Tensor, padded: Size) -> Tensor:
        """Last features of a branch, the normalised input padded with zeros at the bottom and right."""
        x = self.normalise(self._checked(i, x))
        below, right = padded[0] - x.shape[-2], padded[1] - x.shape[-1]
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        features: Tensor = self._branch(i).network(x.contiguous(memory_format=torch.channels_last))
        return features

    def _checked(self, i: int, x: Tensor) -> Tensor:
        """The input of a branch, if it can be one."""
        if x.dim() != 4 or x.shape[1] != self.config.channels or not x.is_floating_point():
            raise ModelError(
                f"Input {i} has shape {tuple(x.shape)} and type {x.dtype}; this model needs floating-point numbers in "
                f"0..1 of shape (batch, {self.config.channels}, height, width)."
            )
        return x

    def _project(self, i: int, features: Tensor) -> Tensor:
        """Class logits and the fusion's channels: one 1x1 convolution, so that the features are read once."""
        head = self._branch(i).head
        if self.fusion.projections is None:
            logits: Tensor = head(features)
            return logits
        projection = self.fusion.projections[i].weight
        assert isinstance(projection, Tensor)  # this and the next for the type checker
        assert head.bias is not None
        bias = F.pad(head.bias, (0, projection.shape[0]))
        return F.conv2d(features, torch.cat((head.weight, projection)), bias)

    def _padded(self, i: int, size: Size, field: Field) -> Size:
        """Size of a branch's input that gives whole strides, and for all branches the same target."""
        ratio = self.config.ratios[i]
        if is_concentric(ratio, field):
            stride = self.config.branches[i].stride
            return round_up(size[0], stride), round_up(size[1], stride)
        multiple = self.config.size_multiple
        return input_size((round_up(size[0], multiple), round_up(size[1], multiple)), ratio, "same")

    def _on_target(self, i: int, z: Tensor, size: Size, field: Field) -> Tensor:
        """A branch's output on the target grid, cropped to the target's size."""
        ratio = self.config.ratios[i]
        if not is_concentric(ratio, field):
            return self.to_target(i, z)[..., : size[0], : size[1]]
        # Cut out the target's part and p pixels around it, which the bilinear filter looks at; then crop these again.
        p, q = ratio.numerator, ratio.denominator
        y, x = concentric_offset(size, ratio, self.config.ratios)
        margin = (p - min(p, x), p - min(p, x), p - min(p, y), p - min(p, y))  # where the input has fewer, repeat
        z = z[..., max(0, y - p) : min(size[0], size[0] - y + p), max(0, x - p) : min(size[1], size[1] - x + p)]
        z = self.to_target(i, F.pad(z, margin, mode="replicate") if any(margin) else z)
        return z[..., q : q + size[0], q : q + size[1]]


def build_model(config: ModelConfig) -> MSUNet:
    """A new model with random weights (set ``torch.manual_seed`` before for the same ones), in training mode.

    Parameters
    ----------
    config : ModelConfig
        Scales, fusion, branches, classes.

    Returns
    -------
    MSUNet
        In channels-last memory, which is the faster one on CPUs and on GPUs with tensor cores.
    """
    return arrange(MSUNet(config))

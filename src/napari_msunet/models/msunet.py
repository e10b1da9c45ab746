"""The multi-scale U-Net: one branch per scale, brought to the target grid and combined.

Everything is built from three steps that inference also uses one by one: `run_branch` (on the branch's own grid),
`to_target`, `combine`. In a joint model (`config.joint`) the branches see each other, or their outputs are finer than
their inputs; there the whole model is one step, `run_joint`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import lcm, log
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from pydantic_core import to_json
from torch import Tensor, nn

from napari_msunet.config import ModelConfig, Normalisation
from napari_msunet.config.model import NOT_SEPARATE
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window, round_up
from napari_msunet.models.alignment import Alignment, grain_of
from napari_msunet.models.blocks import Enlarge, Normalise, Stem, arrange, initialise, mirrored
from napari_msunet.models.fusion import Fusion, JointFusion, build_fusion
from napari_msunet.models.networks import Branch, Classical, EncoderNetwork
from napari_msunet.models.receptive_field import ReceptiveField
from napari_msunet.models.resample import part_to_target, to_target
from napari_msunet.models.strip_inference import run_within
from napari_msunet.models.windows import Field, Size, checked_size, concentric_offset, input_size, is_concentric

# ----------------------------------------------------------------------------------------------------------------------
# The fingerprint, by which a model is recognised: a hash of its config and all its weights.


def fingerprint(model: MSUNet) -> str:
    """SHA-256 of the config and all weights, as hexadecimal digits."""
    digest = hashlib.sha256(_described(model.config).encode())
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


_FIRST = {
    "schema_version",
    *("classes", "mpp", "scales", "fusion", "channels", "channel_names", "shared", "branch", "field", "normalisation"),
}
_FIRST_BRANCH = {"kind", "depth", "width", "dropout"}


def _described(config: ModelConfig) -> str:
    """The config as JSON, without options that were added later where these are not used.

    So a model keeps its fingerprint over updates of napari-msunet, and with it its predictions.
    """

    def used(part: BaseModel, first: set[str]) -> dict[str, Any]:
        values, fields = part.model_dump(mode="json"), type(part).model_fields
        return {k: v for k, v in values.items() if k in first or getattr(part, k) != fields[k].default}

    branches = [used(branch, _FIRST_BRANCH) for branch in config.branches]
    alone = not isinstance(config.branch, tuple)
    values = {**used(config, _FIRST), "branch": branches[0] if alone else branches}
    return to_json(values).decode()


def tensors_of(model: MSUNet) -> dict[str, Tensor]:
    """The weights on the CPU, each in contiguous memory."""
    return {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}


# ----------------------------------------------------------------------------------------------------------------------
# The multi-scale U-Net.

DEFAULT_MEAN, DEFAULT_STD = 0.5, 0.25
"""The normalisation of every channel until a training fits it to its images."""


class MSUNet(ReceptiveField):
    """A multi-scale U-Net, made by `build_model` or `load_model`.

    Parameters
    ----------
    config : ModelConfig
        Everything about the model except its weights.

    Attributes
    ----------
    config : ModelConfig
    summary : dict
        How the model was trained, and its scores: plain JSON values, kept in the model file.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.summary: dict[str, Any] = {}
        usual = Normalisation(mean=(DEFAULT_MEAN,) * config.channels, std=(DEFAULT_STD,) * config.channels)
        fitted = config.normalisations or (usual,)
        self.normalise = Normalise(fitted[0].mean, fitted[0].std)
        self.normalise_others = nn.ModuleList(
            Normalise(n.mean, n.std) for n in fitted[1:] if isinstance(config.normalisation, tuple)
        )
        """The branches of the scales after the first, where each has its own."""
        outputs = len(config.classes) + 1
        self.details = tuple(config.upscale * grain_of(config, i) for i in range(len(config.scales)))
        """For each branch, how many times finer its output is than its features."""
        one = 1 if config.shared or config.fusion == "pyramid" else None
        given = zip(config.branches[:one], self.details[:one], strict=True)
        branches = [Branch(branch, config.channels, outputs, detail) for branch, detail in given]
        for branch in branches:
            branch.apply(initialise)
            nn.init.normal_(branch.head.weight, std=branch.network.features**-0.5)
            if isinstance(branch.network, Classical) and isinstance(branch.head, nn.Conv2d):
                branch.network.begin(branch.head)
        self.branches = nn.ModuleList(branches)
        enlarged = [(str(i), factor) for i, factor in enumerate(config.enlarged) if factor > 1]
        learned = config.enlarge == "learned"
        self.stems = nn.ModuleDict({i: Stem(config.channels, n) if learned else Enlarge(n) for i, n in enlarged})
        networks = [self.branch(i).network for i in range(len(config.scales))]
        self.fusion: Fusion = build_fusion(config, networks, self.details)

    @property
    def fingerprint(self) -> str:
        """Hash of the config and all weights: the same before saving and after loading."""

        return fingerprint(self)

    # ------------------------------------------------------------------------------------- the three steps, for tiles

    def run_branch(self, i: int, x: Tensor, keep: Window | None = None) -> Tensor:
        """One branch on a window of its own grid.

        Parameters
        ----------
        i : int
            The index of the scale.
        x : (B, C, h, w) float Tensor
            The image on the branch's grid, 0..1, not normalised; sides multiples of the branch's stride.
        keep : Window, optional
            The part of the output that is wanted, in pixels of `x`. Without gradients, the rest is not computed.

        Returns
        -------
        (B, Z, h, w) Tensor
            Class logits (K+1 channels), then the channels that the fusion needs, in `keep`.

        Raises
        ------
        ModelError
            If `x` has other channels or sides, or this is a joint model.
        """
        self._check_branch(i, x)
        if self.training or torch.is_grad_enabled():
            z = self._project(i, self.branch(i).network(self._input(i, x, (x.shape[-2], x.shape[-1]))))
            return z if keep is None else z[(..., *keep.slices())]
        x = self._normalised(i, x).contiguous(memory_format=torch.channels_last)
        wanted = keep or Window(0, 0, x.shape[-2], x.shape[-1])
        return run_within(self.branch(i).network, x, wanted, lambda features: self._project(i, features))

    def branch_features(self, i: int, x: Tensor, keep: Window) -> Tensor:
        """The last features of a branch on a window of its own grid, from which heads and fusions are projected.

        Parameters
        ----------
        i, x, keep
            See `run_branch`; without gradients.

        Returns
        -------
        (B, F, keep.height, keep.width) Tensor
            Where the features are coarser than the branch's grid, each is repeated.

        Raises
        ------
        ModelError
            As `run_branch`.
        """
        self._check_branch(i, x)
        x = self._normalised(i, x).contiguous(memory_format=torch.channels_last)
        detail = self.details[i]

        def repeated(features: Tensor) -> Tensor:
            return F.interpolate(features, scale_factor=float(detail)) if detail > 1 else features

        return run_within(self.branch(i).network, x, keep, repeated)

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
        """The weight of each scale at each target pixel, `(B, k, H, W)`; None for fusions without such weights."""
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
        separate: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Fused logits and each branch's own, in one pass; inputs as for `forward`.

        Parameters
        ----------
        detach : sequence of bool, optional
            For each branch: its own logits come from detached features, so that a loss on them trains its head alone.
            The fused logits keep all their gradients.
        separate : bool
            The fused logits come from detached features and class logits, so that a loss on them trains the fusion
            alone, and each branch learns from its own logits only.

        Raises
        ------
        ModelError
            If the inputs do not fit, or the scales of a fusion inside the network are to be separate.
        """
        if separate and isinstance(self.fusion, JointFusion):
            raise ModelError(NOT_SEPARATE.format(self.config.fusion))
        if field is None:
            field = self.config.field if self.training else "same"
        size = checked_size(self.config, inputs, size, field)
        xs = [self._input(i, x, self._padded(i, size, field)) for i, x in enumerate(inputs)]
        zs: list[Tensor] = []
        own: list[Tensor] = []
        for i, features in enumerate(self._features(xs, size, field)):
            if features is None:
                continue
            if separate:
                z = self._on_target(i, self._project(i, features.detach()), size, field)
                zs.append(torch.cat((self.class_logits(z).detach(), self.fusion.rest(z)), dim=1))
                own.append(self._on_target(i, self._sub_pixels(i, self.branch(i).head(features)), size, field))
                continue
            zs.append(self._on_target(i, self._project(i, features), size, field))
            if i not in self.config.own:
                continue
            if detach is not None and detach[i]:
                alone = self._sub_pixels(i, self.branch(i).head(features.detach()))
                own.append(self._on_target(i, alone, size, field))
            else:
                own.append(self.class_logits(zs[-1]))
        return self.combine(zs), own

    def run_joint(self, inputs: Sequence[Tensor], keep: Window) -> Tensor:
        """Run a joint model on a window, in one step (this works for any model).

        Parameters
        ----------
        inputs : sequence of (B, C, h, w) float Tensor
            The window at each scale, with ``config.input_ratios`` pixels for one of the target; 0..1, not normalised.
            Its corner and sides are multiples of `config.size_multiple`.
        keep : Window
            The wanted part, in target pixels of the window; exact if it lies `joint_margin` inside the window.

        Returns
        -------
        (B, Z, keep.height, keep.width) Tensor
            The fused class logits, then those of each branch; `joint_split` separates them.
        """
        fused, own = self.outputs(inputs, field="same")
        return torch.cat([z[(..., *keep.slices())] for z in (fused, *own)], dim=1)

    def joint_split(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The fused class logits, and those of each scale in `config.own`, from a result of `run_joint`."""
        fused, *own = torch.split(z, len(self.config.classes) + 1, dim=1)
        return fused, own

    @property
    def members(self) -> tuple[MSUNet, ...]:
        """The networks whose probabilities are averaged: this one, unless it is an ensemble."""
        return (self,)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a branch that does not learn keeps its statistics and has no dropout."""
        super().train(mode)
        for branch in self.branches:
            if not any(p.requires_grad for p in branch.parameters()):
                branch.eval()
        return self

    # ---------------------------------------------------------------------------------------------------- privately

    def branch(self, i: int) -> Branch:
        """The network and head of a scale."""
        branch = self.branches[0 if len(self.branches) == 1 else i]
        assert isinstance(branch, Branch)  # for the type checker
        return branch

    def _check_branch(self, i: int, x: Tensor) -> None:
        """`ModelError` if a branch cannot be computed alone, or not on such a window."""
        if self.config.joint:
            raise ModelError("The branches of this model cannot be computed one by one; use run_joint.")
        stride = self.config.branches[i].stride
        if x.dim() != 4 or x.shape[-2] % stride or x.shape[-1] % stride:
            raise ModelError(
                f"Branch {i} was given a window of shape {tuple(x.shape)}; it needs (batch, channels, height, width) "
                f"with sides that are multiples of {stride}."
            )

    def _input(self, i: int, x: Tensor, padded: Size) -> Tensor:
        """A branch's normalised input, padded at the bottom and right with zeros or its mirror image, and enlarged
        where it has a stem."""
        x = self._normalised(i, x)
        below, right = padded[0] - x.shape[-2], padded[1] - x.shape[-1]
        if below or right:
            x = mirrored(x, 0, below, 0, right) if self.config.mirrored else F.pad(x, (0, right, 0, below))
        x = self.stems[str(i)](x) if self.config.enlarged[i] > 1 else x
        return x.contiguous(memory_format=torch.channels_last)

    def _features(self, xs: Sequence[Tensor], size: Size, field: Field) -> list[Tensor | None]:
        """The last features of each branch; None for a scale without a network."""
        networks = [self.branch(i).network for i in range(len(xs))]
        if not isinstance(self.fusion, JointFusion):
            return [network(x) for network, x in zip(networks, xs, strict=True)]
        finest = self.config.finest
        height, width = xs[finest].shape[-2:]

        def aligned(i: int, x: Tensor, meeting: Alignment) -> Tensor:
            if not is_concentric(self.config.ratios[i], field):
                return to_target(x, meeting.ratio)
            y0, x0 = (offset // meeting.step for offset in concentric_offset(self.config, i, size))
            whole = xs[i].shape[-2] // x.shape[-2] * meeting.ratio * self.config.ratios[finest]
            # pixels of the finest branch's grid per pixel at the level where they meet
            shrink = whole / self.config.ratios[i]
            return part_to_target(x, meeting.ratio, (y0, x0), (int(height / shrink), int(width / shrink)))

        return self.fusion.features_of(networks, xs, aligned)

    def _normalised(self, i: int, x: Tensor) -> Tensor:
        """The normalised input of a branch; known encoders have constants of their own, with which they were
        trained, and classical methods see the image as it is."""
        x, network = self._checked(i, x), self.branch(i).network
        own = self.normalise_others[i - 1] if i and len(self.normalise_others) else self.normalise
        normalised: Tensor = (network.normalise if isinstance(network, EncoderNetwork | Classical) else own)(x)
        return normalised

    def _checked(self, i: int, x: Tensor) -> Tensor:
        """The input of a branch; `ModelError` if it cannot be one."""
        if x.dim() != 4 or x.shape[1] != self.config.channels or not x.is_floating_point():
            raise ModelError(
                f"Input {i} has shape {tuple(x.shape)} and type {x.dtype}; this model needs floating-point numbers in "
                f"0..1 of shape (batch, {self.config.channels}, height, width)."
            )
        return x

    def _project(self, i: int, features: Tensor) -> Tensor:
        """Class logits and the fusion's channels: one 1x1 convolution, so that the features are read once."""
        head = self.branch(i).head
        if self.fusion.projections is None:
            return self._sub_pixels(i, head(features))
        projection = self.fusion.projections[i].weight
        assert isinstance(projection, Tensor)  # this and the next for the type checker
        assert head.bias is not None
        bias = F.pad(head.bias, (0, projection.shape[0]))
        return self._sub_pixels(i, F.conv2d(features, torch.cat((head.weight, projection)), bias))

    def _sub_pixels(self, i: int, z: Tensor) -> Tensor:
        """The output on its own grid; where it is finer than the features, channels become its sub-pixels."""
        return F.pixel_shuffle(z, self.details[i]) if self.details[i] > 1 else z

    def _padded(self, i: int, size: Size, field: Field) -> Size:
        """The padded size of a branch's input, in whole strides, so that all branches cover the same target."""
        if is_concentric(self.config.ratios[i], field):
            enlarged = self.config.enlarged[i]
            step = lcm(self.config.branches[i].stride, enlarged) // enlarged
            height, width = input_size(self.config, i, size, field)
            return round_up(height, step), round_up(width, step)
        multiple = self.config.size_multiple
        return input_size(self.config, i, (round_up(size[0], multiple), round_up(size[1], multiple)), "same")

    def _on_target(self, i: int, z: Tensor, size: Size, field: Field) -> Tensor:
        """A branch's output on the target grid, cropped to the target's size."""
        if not is_concentric(self.config.ratios[i], field):
            return self.to_target(i, z)[..., : size[0], : size[1]]
        y, x = (offset * self.config.upscale for offset in concentric_offset(self.config, i, size))
        return part_to_target(z[..., : size[0], : size[1]], self.config.ratios[i], (y, x), size)


# ----------------------------------------------------------------------------------------------------------------------
# Several networks in one model.


class Ensemble(MSUNet):
    """Several networks of the same config as one model, whose output is the mean of their probabilities.

    It is computed as a joint model, each network after the other; predictions of slides compute its `members` like
    several model files.

    Parameters
    ----------
    config : ModelConfig
        With the normalisation of each network after the first in `further`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        alone = [config.model_copy(update={"further": (), "normalisation": one}) for one in config.further]
        self.further = nn.ModuleList(MSUNet(one) for one in alone)

    @property
    def members(self) -> tuple[MSUNet, ...]:
        """The networks, with the weights of this model."""
        with torch.device("meta"):
            first = MSUNet(self.config.model_copy(update={"further": ()}))
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("further.")}
        first.load_state_dict(own, assign=True)
        first.train(self.training)
        others = [one for one in self.further if isinstance(one, MSUNet)]
        return (arrange(first), *others)

    def outputs(
        self,
        inputs: Sequence[Tensor],
        size: Size | None = None,
        field: Field | None = None,
        detach: Sequence[bool] | None = None,
        separate: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """See `MSUNet.outputs`: the logarithms of mean probabilities."""
        options = (inputs, size, field, detach, separate)
        found = [super().outputs(*options)]
        found += [one.outputs(*options) for one in self.further if isinstance(one, MSUNet)]
        fused, own = zip(*found, strict=True)
        return _log_mean(fused), [_log_mean(each) for each in zip(*own, strict=True)]


def _log_mean(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities, from logits `(B, K+1, H, W)`."""
    each = torch.stack([F.log_softmax(z.float(), dim=1) for z in logits])
    return torch.logsumexp(each, dim=0) - log(len(logits))


def empty_model(config: ModelConfig) -> MSUNet:
    """A model of the class that its config needs, before any weights are loaded."""
    return Ensemble(config) if config.further else MSUNet(config)


def build_model(config: ModelConfig) -> MSUNet:
    """A new model with random weights (set ``torch.manual_seed`` before for the same ones), in training mode.

    Encoders get the weights that their config names.

    Parameters
    ----------
    config : ModelConfig
        Scales, fusion, branches, classes.

    Returns
    -------
    MSUNet
        The model, in channels-last memory, which is faster on CPUs and on GPUs with tensor cores.

    Raises
    ------
    ModelError
        If an encoder or its weights cannot be loaded.
    """
    if not isinstance(config, ModelConfig):
        raise ModelError(f"{config!r} is no ModelConfig; make one such as ModelConfig(classes=('gland',), mpp=0.5).")
    model = empty_model(config)
    for module in model.modules():
        if isinstance(module, EncoderNetwork):
            module.load_pretrained()
    return arrange(model)

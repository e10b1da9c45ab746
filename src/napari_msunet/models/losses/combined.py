"""The weighted sum of losses, on the fused output and on each branch's own, without the ignored pixels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from napari_msunet.config import LossConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import as_scale
from napari_msunet.models.losses import terms
from napari_msunet.models.losses.maps import Maps
from napari_msunet.models.losses.scene import IGNORED, Scene

_DEFAULT = LossConfig()


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    config: LossConfig = _DEFAULT,
    class_weights: Tensor | None = None,
    maps: Maps | None = None,
) -> Tensor:
    """The weighted sum of the losses of a config over the pixels that are not ignored.

    Parameters
    ----------
    logits : (B, K+1, H, W) Tensor
        Logits, or log-probabilities: those are the same to it.
    target : (B, H, W) int64 Tensor
        0 background, 1..K classes, `IGNORED` no loss.
    config : LossConfig
        Cross-entropy + Dice by default.
    class_weights : (K+1,) Tensor, optional
        Background first; None: all the same.
    maps : Maps, optional
        Of this target, where they are known already.

    Returns
    -------
    () Tensor
        Zero, with a gradient of zero, if all pixels are ignored.
    """
    maps = Maps.of(target, logits.shape[1], config) if maps is None else maps
    scene = Scene.of(logits, target, class_weights, maps.near)
    total = scene.log_probabilities.new_zeros(())
    for name, weight in config.terms.items():
        total = total + weight * _term(name, scene, config, maps)
    return total


def _term(name: str, scene: Scene, config: LossConfig, maps: Maps) -> Tensor:
    """One of the losses."""
    if name == "cross_entropy":
        return terms.cross_entropy(scene)
    if name == "bce":
        return terms.binary_cross_entropy(scene)
    if name == "focal":
        return terms.focal(scene, config.focal_gamma)
    if name == "boundary":
        assert maps.distances is not None  # for the type checker
        return terms.boundary(scene, maps.distances)
    if name == "edge":
        return terms.edge(scene)
    alpha_beta = {
        "dice": (0.5, 0.5),
        "jaccard": (1.0, 1.0),
        "tversky": (config.tversky_alpha, config.tversky_beta),
    }
    return terms.overlap(scene, *alpha_beta[name])


def balanced_weights(pixels: Sequence[int]) -> tuple[float, ...]:
    """Class weights by how rare the classes are: ``n / (present * n_c)``; a class without a pixel has a weight of 0.

    Parameters
    ----------
    pixels : sequence of int
        Of background and of classes 1..K.
    """
    present = sum(n > 0 for n in pixels)
    return tuple(sum(pixels) / (present * n) if n else 0.0 for n in pixels)


class SegmentationLoss(nn.Module):
    """The loss of a multi-scale model: the fused output's, plus each branch's times its weight.

    A branch of weight 0 counts fully, on logits from detached features (give `detach` to `MSUNet.outputs`): then only
    its head learns from it, and its scores always mean something.

    Parameters
    ----------
    config : LossConfig
        Weights of the losses, and of the branches (one for all, or one each).
    scales : sequence of float or Fraction
        The model's.
    class_weights : sequence of float, optional
        Of background and classes 1..K; None: those of the config ("balanced" needs them here).
    own : sequence of int, optional
        The scales that have an output of their own; None: all.

    Raises
    ------
    ModelError
        If the weights do not fit the scales.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        config: LossConfig,
        scales: Sequence[float | Fraction],
        class_weights: Sequence[float] | None = None,
        own: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        weights = config.branch_weights(len(scales))
        if class_weights is None and isinstance(config.class_weights, tuple):
            class_weights = config.class_weights
        known = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", known, persistent=False)
        self.config = config
        own = range(len(scales)) if own is None else own
        self.weights = tuple(float(weights[i]) or 1.0 for i in own)
        self.detach = tuple(w == 0 for w in weights)
        """For each scale: whether its own logits are to come from detached features."""
        self.names = tuple(f"scale {as_scale(scales[i])}" for i in own)

    def forward(self, fused: Tensor, branches: Sequence[Tensor], target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        Parameters
        ----------
        fused : (B, K+1, H, W) Tensor
            The model's output.
        branches : sequence of (B, K+1, H, W) Tensor
            Each branch's own, on the target grid.
        target : (B, H, W) int64 Tensor
            0 background, 1..K classes, `IGNORED` no loss.

        Returns
        -------
        total : () Tensor
            With gradient.
        parts : dict of str to () Tensor
            "fused" and "scale 1/2" and so on: each output's own loss before weighing, detached.

        Raises
        ------
        ModelError
            If the target has another shape or type than the logits ask for, or a number that is no class.
        """
        self._check(fused, branches, target)
        maps = Maps.of(target, fused.shape[1], self.config)
        total = segmentation_loss(fused, target, self.config, self.class_weights, maps)
        parts = {"fused": total.detach()}
        for name, weight, logits in zip(self.names, self.weights, branches, strict=True):
            loss = segmentation_loss(logits, target, self.config, self.class_weights, maps)
            parts[name] = loss.detach()
            total = total + weight * loss
        return total, parts

    def _check(self, fused: Tensor, branches: Sequence[Tensor], target: Tensor) -> None:
        shape = (fused.shape[0], *fused.shape[2:])
        if target.dtype != torch.int64 or tuple(target.shape) != shape or len(branches) != len(self.names):
            raise ModelError(
                f"The loss was given {len(branches)} branches and a target of shape {tuple(target.shape)} and type "
                f"{target.dtype}; it needs {len(self.names)} branches and an int64 target of shape {shape}."
            )
        if self.class_weights is not None and len(self.class_weights) != fused.shape[1]:
            raise ModelError(
                f"The loss has {len(self.class_weights)} class weights for {fused.shape[1]} outputs; give one for "
                "background and one for each class."
            )
        if target.device.type == "cpu":  # on a GPU looking would wait for all work under way
            worst = int(torch.where(target == IGNORED, 0, target).max())
            if worst >= fused.shape[1] or int(target.min()) < 0:
                raise ModelError(
                    f"The target holds {worst if worst >= fused.shape[1] else int(target.min())}; with "
                    f"{fused.shape[1] - 1} classes it may hold 0 to {fused.shape[1] - 1}, and {IGNORED} for ignored."
                )

"""The losses, on pixels, overlaps and outlines, and their weighted sum, which training minimises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from napari_msunet.config import LossConfig
from napari_msunet.constants import IGNORED
from napari_msunet.errors import ModelError
from napari_msunet.geometry import as_scale

# ----------------------------------------------------------------------------------------------------------------------
# The input of all losses: probabilities, the truth, and the weights of pixels and classes.

TINY = 1e-6
"""Added to denominators, so that a mean over no pixels is zero; small against one pixel."""


@dataclass
class Scene:
    """One output and its truth.

    Attributes
    ----------
    log_probabilities : (B, K+1, H, W) float32 Tensor
    target : (B, H, W) int64 Tensor
        Ignored pixels hold 0 here.
    counted : (B, H, W) bool Tensor
        True where the truth is known.
    class_weights : (K+1,) float32 Tensor
        Weights of background and classes; ones where all count the same.
    near : (B, H, W) float32 Tensor, optional
        The border map of the U-Net paper: the weight of a pixel in addition to that of its class.
    """

    log_probabilities: Tensor
    target: Tensor
    counted: Tensor
    class_weights: Tensor
    near: Tensor | None = None

    @classmethod
    def of(
        cls, logits: Tensor, target: Tensor, class_weights: Tensor | None = None, near: Tensor | None = None
    ) -> Scene:
        """From logits (or log-probabilities, which give the same) and a target with ignored pixels."""
        counted = target != IGNORED
        if class_weights is None:
            class_weights = torch.ones(logits.shape[1], device=logits.device)
        log_probabilities = F.log_softmax(logits.float(), dim=1)
        return cls(log_probabilities, torch.where(counted, target, 0), counted, class_weights, near)

    @cached_property
    def at_target(self) -> Tensor:
        """`(B, H, W)`: log-probability of the true class."""
        return self.log_probabilities.gather(1, self.target.unsqueeze(1)).squeeze(1)

    @cached_property
    def probabilities(self) -> Tensor:
        """`(B, K+1, H, W)`."""
        return self.log_probabilities.exp()

    @cached_property
    def one_hot(self) -> Tensor:
        """`(B, K+1, H, W)`: 1 at the true class of pixels that count."""
        truth = torch.zeros_like(self.log_probabilities)
        return truth.scatter_(1, self.target.unsqueeze(1), self.counted.unsqueeze(1).to(truth.dtype))

    @cached_property
    def pixel_weights(self) -> Tensor:
        """`(B, H, W)`: the class's weight plus the border map; 0 where ignored."""
        weights = self.class_weights[self.target]
        if self.near is not None:
            weights = weights + self.near
        return weights * self.counted

    def mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean of values over the pixels that count; zero, with a gradient of zero, where no pixel counts."""
        return torch.where(weights > 0, values * weights, 0.0).sum() / weights.sum().clamp_min(TINY)


# ----------------------------------------------------------------------------------------------------------------------
# The losses by name. Each maps a `Scene` to a number, a mean over the pixels (or pairs of pixels) that count.
#
# With p_c the probability and t_c the truth (0 or 1) of class c, t the true class, w_c the class's weight.

SMOOTH = 1e-5
"""Added to overlaps, so that they are always defined; small against one pixel."""


def cross_entropy(scene: Scene) -> Tensor:
    """``-log p_t``, weighted by the true class and the border map."""
    return -scene.mean(scene.at_target, scene.pixel_weights)


def focal(scene: Scene, gamma: float) -> Tensor:
    """``-(1 - p_t)^gamma log p_t``, weighted as the cross-entropy, to which it is equal at gamma 0.

    References
    ----------
    Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 5 (the class weights are its alpha).
    """
    easy = -torch.expm1(scene.at_target)  # 1 - p_t, precise where p_t is nearly 1
    return -scene.mean(easy.clamp_min(TINY) ** gamma * scene.at_target, scene.pixel_weights)


def binary_cross_entropy(scene: Scene) -> Tensor:
    """``-(t_c log p_c + (1 - t_c) log(1 - p_c))``, mean over classes 1..K by their weights.

    With one class it is equal to the cross-entropy.
    """
    log_p = scene.log_probabilities
    best = log_p.max(1, keepdim=True).indices
    top = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, best, True)
    # 1 - p can be small only for the largest p, where it is computed as the sum of the others, without cancellation.
    others = log_p.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    rest = torch.where(top, others, torch.log1p(-torch.where(top, 0.0, scene.probabilities)))
    losses = -torch.where(scene.one_hot > 0, log_p, rest)[:, 1:]
    return scene.mean(losses, _of_classes(scene, scene.near))


def overlap(scene: Scene, alpha: float, beta: float, smooth: float = SMOOTH, foreground: bool = False) -> Tensor:
    """1 - Tversky index: ``TP / (TP + alpha FP + beta FN)`` with ``TP = sum p_c t_c`` and so on over the whole batch.

    The mean by class weights is over background and the classes that have pixels in the batch; with `foreground` over
    classes 1..K, whether they have pixels or not. At alpha = beta = 1/2 the index is Dice, at 1 it is Jaccard. `smooth`
    is added above and below the line (for a Dice of ``(2 TP + s) / (P + T + s)``, give ``s / 2``).

    References
    ----------
    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep networks", MLMI
    2017. Dice: Milletari et al., "V-Net", 3DV 2016, with the denominator not squared. Jaccard: Rahman and Wang,
    "Optimizing intersection-over-union in deep neural networks for image segmentation", ISVC 2016.
    """
    outputs = scene.log_probabilities.shape[1]
    counted = scene.counted.flatten().to(scene.log_probabilities.dtype)
    zeros = scene.log_probabilities.new_zeros(outputs)
    pixels = zeros.index_add(0, scene.target.flatten(), counted)
    common = zeros.index_add(0, scene.target.flatten(), scene.at_target.exp().flatten() * counted)
    predicted = torch.where(scene.counted.unsqueeze(1), scene.probabilities, 0.0).sum(dim=(0, 2, 3))
    index = (common + smooth) / (common + alpha * (predicted - common) + beta * (pixels - common) + smooth)
    weights = scene.class_weights * (torch.arange(outputs, device=pixels.device) if foreground else pixels).gt(0)
    return ((1 - index) * weights).sum() / weights.sum().clamp_min(TINY)


def boundary(scene: Scene, distances: Tensor) -> Tensor:
    """``phi_c p_c``, mean over classes 1..K by their weights; phi is the signed distance from the true outline.

    References
    ----------
    Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, eq. 5.
    """
    return scene.mean(scene.probabilities[:, 1:] * distances, _of_classes(scene))


def edge(scene: Scene) -> Tensor:
    """``| |p_c(x') - p_c(x)| - |t_c(x') - t_c(x)| |`` over all pairs of neighbouring pixels.

    References
    ----------
    Mathieu, Couprie and LeCun, "Deep multi-scale video prediction beyond mean square error", ICLR 2016, eq. 6 with
    an exponent of 1 (gradient difference loss).
    """
    p, t = scene.probabilities[:, 1:], scene.one_hot[:, 1:]
    classes = _of_classes(scene)
    total, pairs = p.new_zeros(()), p.new_zeros(())
    for axis in (2, 3):
        weights = torch.minimum(classes.narrow(axis, 1, p.shape[axis] - 1), classes.narrow(axis, 0, p.shape[axis] - 1))
        differ = (p.diff(dim=axis).abs() - t.diff(dim=axis).abs()).abs()
        total = total + torch.where(weights > 0, differ * weights, 0.0).sum()
        pairs = pairs + weights.sum()
    return total / pairs.clamp_min(TINY)


def _of_classes(scene: Scene, near: Tensor | None = None) -> Tensor:
    """`(B, K, H, W)`: weights of classes 1..K at each pixel that counts, times 1 + a border map."""
    pixels = scene.counted.to(scene.log_probabilities.dtype)
    if near is not None:
        pixels = pixels * (1 + near)
    return pixels.unsqueeze(1) * scene.class_weights[1:, None, None]


# ----------------------------------------------------------------------------------------------------------------------
# Maps of the truth that some losses need, computed from it on the CPU: signed distances and border weights.

_FAR = 6.0  # in sigmas: at this distance a border weight is 1e-8 of its largest value

Floats = npt.NDArray[np.float32]


@dataclass
class Maps:
    """The maps of one batch, which are the same for all outputs.

    Attributes
    ----------
    distances : (B, K, H, W) float32 Tensor, optional
    near : (B, H, W) float32 Tensor, optional
    """

    distances: Tensor | None = None
    near: Tensor | None = None

    @classmethod
    def of(cls, target: Tensor, outputs: int, config: LossConfig) -> Maps:
        """The maps that a loss needs, from a `(B, H, W)` target with `outputs` = K+1 values."""
        if not config.boundary and not config.border:
            return cls()
        truth = target.cpu().numpy()
        maps = cls()
        if config.boundary:
            distances = [[signed_distance(image == c) for c in range(1, outputs)] for image in truth]
            maps.distances = torch.from_numpy(np.array(distances)).to(target.device)
        if config.border:
            near = [border_weights(image, config.border, config.border_sigma) for image in truth]
            maps.near = torch.from_numpy(np.array(near)).to(target.device)
        return maps


def signed_distance(inside: npt.NDArray[np.bool_]) -> Floats:
    """The distance of each pixel from the outline of a shape, in pixels, negative inside.

    A pixel outside has its distance from the nearest pixel inside. A pixel inside has minus its distance from the
    nearest pixel outside, plus 1, so that two neighbours across the outline have 1 and 0. All are zero where there is
    no shape, or no outside.

    References
    ----------
    Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019.
    """
    if not inside.any() or inside.all():
        return np.zeros(inside.shape, np.float32)
    outer = ndimage.distance_transform_edt(~inside)
    inner = ndimage.distance_transform_edt(inside)
    return np.asarray(np.where(inside, 1 - inner, outer), np.float32)


def border_weights(truth: npt.NDArray[np.integer], weight: float, sigma: float) -> Floats:
    """``weight * exp(-(d1 + d2)^2 / (2 sigma^2))`` on background, 0 elsewhere.

    d1 and d2 are a background pixel's distances from the nearest and the second nearest object, in pixels. Objects are
    connected regions of one class; where there are fewer than two, all weights are 0.

    Parameters
    ----------
    truth : (H, W) integers
        0 background, 1..K classes, 255 ignored.

    References
    ----------
    Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, eq. 2, without its class weights.
    """
    objects = np.zeros(truth.shape, np.int32)
    count = 0
    for value in np.unique(truth[(truth > 0) & (truth != IGNORED)]):
        found, number = ndimage.label(truth == value)
        objects[found > 0] = found[found > 0] + count
        count += number
    nearest = np.full(truth.shape, np.inf, np.float32)
    second = nearest.copy()
    reach = int(np.ceil(_FAR * sigma)) + 1
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        around = tuple(slice(max(0, part.start - reach), part.stop + reach) for part in box)
        distance = ndimage.distance_transform_edt(objects[around] != number).astype(np.float32)
        one, two = nearest[around], second[around]
        second[around] = np.minimum(two, np.maximum(one, distance))
        nearest[around] = np.minimum(one, distance)
    with np.errstate(over="ignore"):
        weights = weight * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.asarray(np.where(truth == 0, weights, 0), np.float32)


# ----------------------------------------------------------------------------------------------------------------------
# The weighted sum of losses, on the fused output and on each branch's own, without the ignored pixels.

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
        Logits, or log-probabilities, which give the same.
    target : (B, H, W) int64 Tensor
        0 background, 1..K classes, `IGNORED` no loss.
    config : LossConfig
        Cross-entropy + Dice by default.
    class_weights : (K+1,) Tensor, optional
        Weights, background first; None: all count the same.
    maps : Maps, optional
        The maps of this target, where they are known already.

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
    """The loss of this name."""
    if name == "cross_entropy":
        return cross_entropy(scene)
    if name == "bce":
        return binary_cross_entropy(scene)
    if name == "focal":
        return focal(scene, config.focal_gamma)
    if name == "boundary":
        assert maps.distances is not None  # for the type checker
        return boundary(scene, maps.distances)
    if name == "edge":
        return edge(scene)
    if name == "dice":
        return overlap(scene, 0.5, 0.5, config.dice_smooth / 2, config.dice_of == "foreground")
    alpha_beta = {
        "jaccard": (1.0, 1.0),
        "tversky": (config.tversky_alpha, config.tversky_beta),
    }
    return overlap(scene, *alpha_beta[name])


def balanced_weights(pixels: Sequence[int]) -> tuple[float, ...]:
    """Class weights by how rare the classes are: ``n / (present * n_c)``; a class without a pixel has a weight of 0.

    Parameters
    ----------
    pixels : sequence of int
        The number of pixels of background and of classes 1..K.
    """
    present = sum(n > 0 for n in pixels)
    return tuple(sum(pixels) / (present * n) if n else 0.0 for n in pixels)


class SegmentationLoss(nn.Module):
    """The loss of a multi-scale model: that of the fused output, plus that of each branch times its weight.

    The loss of a branch of weight 0 is added fully, but on logits from detached features (give `detach` to
    `MSUNet.outputs`). So only its head learns from it, and the scores of the branch stay meaningful.

    With ``branch="off"`` the total is the loss of the fused output alone. With "separate" every branch has a weight of
    1, and the fused output must come from detached branches (give `separate` to `MSUNet.outputs`), so that its loss
    trains the fusion alone.

    Parameters
    ----------
    config : LossConfig
        Weights of the losses, and of the branches (one for all, or one each).
    scales : sequence of float or Fraction
        The scales of the model.
    class_weights : sequence of float, optional
        Weights of background and classes 1..K; None: those of the config. They must be given for "balanced".
    own : sequence of int, optional
        The scales that have an output of their own; None: all.
    fused_is_branch : bool
        Whether the fused output is that of the only branch, whose loss is then computed once for both.

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
        fused_is_branch: bool = False,
    ) -> None:
        super().__init__()
        self.fused_is_branch = fused_is_branch
        weights = config.branch_weights(len(scales))
        if class_weights is None and isinstance(config.class_weights, tuple):
            class_weights = config.class_weights
        known = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", known, persistent=False)
        self.config = config
        own = range(len(scales)) if own is None else own
        self.weights = tuple(float(weights[i]) or 1.0 for i in own)
        self.alone = config.branch_mode == "off"
        """Whether the loss of the fused output is the only one."""
        self.separate = config.branch_mode == "separate"
        """Whether the fused output must come from detached branches."""
        self.detach = tuple(w == 0 and not self.alone for w in weights)
        """For each scale, whether its own logits must come from detached features."""
        self.names = tuple(f"scale {as_scale(scales[i])}" for i in own)

    def forward(self, fused: Tensor, branches: Sequence[Tensor], target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        Parameters
        ----------
        fused : (B, K+1, H, W) Tensor
            The model's output.
        branches : sequence of (B, K+1, H, W) Tensor
            The outputs of the branches on the target grid.
        target : (B, H, W) int64 Tensor
            0 background, 1..K classes, `IGNORED` no loss.

        Returns
        -------
        total : () Tensor
            The loss with its gradient.
        parts : dict of str to () Tensor
            The loss of each output ("fused", "scale 1/2" and so on) before weighting, detached.

        Raises
        ------
        ModelError
            If the target has another shape or type than the logits ask for, or a number that is no class.
        """
        self._check(fused, branches, target)
        maps = Maps.of(target, fused.shape[1], self.config)
        total = segmentation_loss(fused, target, self.config, self.class_weights, maps)
        parts = {"fused": total.detach()}
        if self.fused_is_branch and not (self.alone or self.separate or self.detach[0]):
            return (1 + self.weights[0]) * total, parts | {self.names[0]: parts["fused"]}
        for name, weight, logits in zip(self.names, self.weights, branches, strict=True):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.alone):
                loss = segmentation_loss(logits, target, self.config, self.class_weights, maps)
            parts[name] = loss.detach()
            if not self.alone:
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
        if target.device.type == "cpu":  # on a GPU, this check would wait for all work under way
            worst = int(torch.where(target == IGNORED, 0, target).max())
            if worst >= fused.shape[1] or int(target.min()) < 0:
                raise ModelError(
                    f"The target holds {worst if worst >= fused.shape[1] else int(target.min())}; with "
                    f"{fused.shape[1] - 1} classes it may hold 0 to {fused.shape[1] - 1}, and {IGNORED} for ignored."
                )

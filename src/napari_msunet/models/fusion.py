"""The fusions, which combine the branches: by rules at each pixel, by attention over scales, or inside a network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config import Fusion as FusionName
from napari_msunet.config import ModelConfig
from napari_msunet.models.alignment import Alignment, alignments

# ----------------------------------------------------------------------------------------------------------------------
# Fusions at each target pixel. All are cheap, and none looks at neighbouring pixels.
#
# Linear maps commute with upsampling, so whatever a fusion needs of a branch's features is projected to a few
# channels on the branch's own grid; only those are brought to the target grid, behind the branch's class logits.

HIDDEN = 8
"""The number of channels in which attention compares the branches."""


class Fusion(nn.Module):
    """The base class of all fusions.

    Parameters
    ----------
    features : sequence of int
        Channels of each branch's last features.
    outputs : int
        Classes and background: K + 1.
    details : sequence of int, optional
        For each branch, how many times finer than its features its `z` is, by sub-pixel channels; None: 1 for all.
    """

    per_scale: tuple[str, ...] = ()
    """The names of parameters with a row for each scale."""

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__()
        self.scales = len(features)
        self.outputs = outputs
        self.details = tuple(details or (1,) * self.scales)
        self.projections: nn.ModuleList | None = None
        """For each branch a 1x1 convolution without bias, from its features to the channels that the fusion needs, with
        each channel ``detail ** 2`` times, once for each sub-pixel."""

    def _project(self, features: Sequence[int], channels: int) -> None:
        self.projections = nn.ModuleList(
            nn.Conv2d(f, channels * d**2, kernel_size=1, bias=False)
            for f, d in zip(features, self.details, strict=True)
        )
        for projection in self.projections:
            # The same initial spread as one convolution over the features of all branches together would have.
            nn.init.normal_(projection.weight, std=sum(features) ** -0.5)  # type: ignore[arg-type]

    def classes(self, z: Tensor) -> Tensor:
        """The class logits `(B, K+1, H, W)` of a branch's `z`."""
        return z[:, : self.outputs]

    def rest(self, z: Tensor) -> Tensor:
        """The channels of `z` that the fusion needs: those behind the class logits."""
        return z[:, self.outputs :]

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)` of the branches' `z`, all on the target grid."""
        raise NotImplementedError

    def weights(self, zs: Sequence[Tensor]) -> Tensor | None:
        """The weight of each branch at each pixel, `(B, k, H, W)` with sum 1; None for a fusion without such
        weights."""
        return None

    def _log_probabilities(self, zs: Sequence[Tensor]) -> Tensor:
        return torch.stack([F.log_softmax(self.classes(z), dim=1) for z in zs])


class Mean(Fusion):
    """The mean of the branches' probabilities, as a logarithm."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        return torch.logsumexp(self._log_probabilities(zs), dim=0) - log(self.scales)


class Weighted(Fusion):
    """The mean of probabilities, weighted by the softmax of one learned number per scale, or by given weights.

    Parameters
    ----------
    given : sequence of float, optional
        A weight from 0 for each scale, of which the share of the sum counts; None: the weights are learned.
    """

    per_scale = ("scores",)
    fixed: Tensor | None

    def __init__(
        self,
        features: Sequence[int],
        outputs: int,
        details: Sequence[int] | None = None,
        given: Sequence[float] | None = None,
    ) -> None:
        super().__init__(features, outputs, details)
        self.scores = nn.Parameter(torch.zeros(self.scales)) if given is None else None
        fixed = None if given is None else torch.tensor(given, dtype=torch.float64)
        fixed = None if fixed is None else (fixed / fixed.sum()).log().float()  # -inf where a weight is 0
        self.register_buffer("fixed", fixed, persistent=False)  # it is in the config

    def _log_shares(self) -> Tensor:
        """The logarithm of each scale's share, `(k,)`."""
        if self.fixed is not None:
            return self.fixed
        assert self.scores is not None  # for the type checker
        return F.log_softmax(self.scores, dim=0)

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        return torch.logsumexp(self._log_probabilities(zs) + self._log_shares().view(-1, 1, 1, 1, 1), dim=0)

    def weights(self, zs: Sequence[Tensor]) -> Tensor:
        """The same shares at every pixel, `(B, k, H, W)`."""
        batch, _, height, width = zs[0].shape
        return self._log_shares().exp().view(1, -1, 1, 1).expand(batch, -1, height, width)


class Maximum(Fusion):
    """The largest probability that any branch gives to a class, normalised to a sum of 1."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        return F.log_softmax(self._log_probabilities(zs).amax(dim=0), dim=1)


class Concat(Fusion):
    """A 1x1 convolution over all branches' last features, as the sum of one projection of each, and one bias."""

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        self._project(features, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        total = self.rest(zs[0])
        for z in zs[1:]:
            total = total + self.rest(z)
        return total + self.bias.view(1, -1, 1, 1)


class Attention(Fusion):
    """The branches' logits, weighted at each pixel by a softmax over scales.

    The scores of all scales come from all branches' features at that pixel: their projections are summed, and a ReLU
    and a 1x1 convolution follow.

    References
    ----------
    Chen et al., "Attention to Scale: Scale-aware Semantic Image Segmentation", CVPR 2016; here light, and per pixel.
    """

    per_scale = ("score.weight", "score.bias")

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        if self.scales == 1:
            return  # a single branch has all the weight: there is nothing to learn
        self._project(features, HIDDEN)
        self.bias = nn.Parameter(torch.zeros(HIDDEN))
        self.score = nn.Conv2d(HIDDEN, self.scales, kernel_size=1)
        nn.init.normal_(self.score.weight, std=0.1)  # begin close to equal shares
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        if self.scales == 1:
            return self.classes(zs[0])
        shares = self.weights(zs)
        fused = shares[:, :1] * self.classes(zs[0])
        for i, z in enumerate(zs[1:], start=1):
            # in place, because the backward pass needs none of the sums
            fused.addcmul_(shares[:, i : i + 1], self.classes(z))
        return fused

    def weights(self, zs: Sequence[Tensor]) -> Tensor:
        """Share of each branch at each pixel, `(B, k, H, W)`."""
        if self.scales == 1:
            return torch.ones_like(zs[0][:, :1])
        hidden = self.rest(zs[0]) + self.bias.view(1, -1, 1, 1)
        for z in zs[1:]:
            hidden += self.rest(z)
        return torch.softmax(self.score(hidden.relu_()), dim=1)


class FeatureAttention(Fusion):
    """The branches' features, weighted at each pixel by a softmax over scales, summed, and decided upon once.

    With features f_i of branch i at a pixel: shares ``a = softmax(V relu(sum_i U_i f_i + b) + c)`` as in `Attention`,
    then ``fused = W relu(sum_i a_i P_i f_i + d) + e``. Without the second ReLU it would only be another way to weigh
    logits, because W and the sum are linear. U and P are projections on the branch's own grid, `HIDDEN` channels each.

    References
    ----------
    Li et al., "Selective Kernel Networks", CVPR 2019, eq. 5 and 6: features of several receptive fields, weighted by a
    softmax over them; there with one weight for each channel of the whole image, here with one for each pixel.
    """

    per_scale = ("score.weight", "score.bias")

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        if self.scales == 1:
            return  # a single branch has all the weight: its own logits are the decision
        self._project(features, 2 * HIDDEN)
        self.bias = nn.Parameter(torch.zeros(HIDDEN))
        self.score = nn.Conv2d(HIDDEN, self.scales, kernel_size=1)
        self.shift = nn.Parameter(torch.zeros(HIDDEN))
        self.decide = nn.Conv2d(HIDDEN, outputs, kernel_size=1)
        nn.init.normal_(self.score.weight, std=0.1)  # begin close to equal shares
        nn.init.normal_(self.decide.weight, std=HIDDEN**-0.5)
        for convolution in (self.score, self.decide):
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        if self.scales == 1:
            return self.classes(zs[0])
        shares = self.weights(zs)
        total = shares[:, :1] * self.rest(zs[0])[:, HIDDEN:] + self.shift.view(1, -1, 1, 1)
        for i, z in enumerate(zs[1:], start=1):
            # in place, because the backward pass needs none of the sums
            total.addcmul_(shares[:, i : i + 1], self.rest(z)[:, HIDDEN:])
        fused: Tensor = self.decide(total.relu_())
        return fused

    def weights(self, zs: Sequence[Tensor]) -> Tensor:
        """Share of each branch at each pixel, `(B, k, H, W)`."""
        if self.scales == 1:
            return torch.ones_like(zs[0][:, :1])
        hidden = self.rest(zs[0])[:, :HIDDEN] + self.bias.view(1, -1, 1, 1)
        for z in zs[1:]:
            hidden += self.rest(z)[:, :HIDDEN]
        return torch.softmax(self.score(hidden.relu_()), dim=1)


# ----------------------------------------------------------------------------------------------------------------------
# Multi-head attention over scales at each pixel. Its tokens are the scales, never neighbouring pixels.

HEADS, DIMENSIONS = 4, 2
"""The number of heads, and of the channels in which each compares a query with a key."""


class MultiHead(Fusion):
    """Each head weights the branches' logits by its own softmax over scales; the heads are summed by learned matrices.

    With features f_i and logits l_i of branch i at a pixel: one query ``q = sum_j Q_j f_j + b``, keys
    ``k_i = K_i f_i + c_i``, shares of head m ``a_m = softmax_i(q_m . k_mi / sqrt(d))``, and
    ``fused = sum_m W_m sum_i a_mi l_i``. Q, K are projections on the branch's own grid.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2; here with one query for all tokens, and
    the branches' logits as values.
    """

    per_scale = ("places",)

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        if self.scales == 1:
            return  # a single branch has all the weight: there is nothing to learn
        size = HEADS * DIMENSIONS
        self._project(features, 2 * size)
        self.bias = nn.Parameter(torch.zeros(size))
        self.places = nn.Parameter(torch.randn(self.scales, size) * 0.1)
        """c_i, by which a token knows its scale."""
        self.mix = nn.Parameter(torch.eye(outputs).repeat(HEADS, 1, 1) / HEADS)
        """W_m; at the beginning all heads have the same weight in each class."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        if self.scales == 1:
            return self.classes(zs[0])
        logits, shares = self._shares(zs)
        mixed = shares[:, 0, :, None] * logits[0][:, None]
        for i, own in enumerate(logits[1:], start=1):
            mixed = torch.addcmul(mixed, shares[:, i, :, None], own[:, None])
        # sum_m W_m x_m is one 1x1 convolution over the results of all heads
        mix = self.mix.transpose(0, 1).reshape(self.outputs, -1, 1, 1)
        return F.conv2d(mixed.flatten(1, 2), mix)

    def weights(self, zs: Sequence[Tensor]) -> Tensor:
        """Share of each branch at each pixel, the mean over heads, `(B, k, H, W)`."""
        return torch.ones_like(zs[0][:, :1]) if self.scales == 1 else self._shares(zs)[1].mean(dim=2)

    def _shares(self, zs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The branches' logits, and the share of each scale in each head at each pixel, `(B, k, heads, H, W)`."""
        size = HEADS * DIMENSIONS
        # Split at once, so that the backward pass makes one gradient for each z, not one for each part.
        logits, queries, keys = zip(*(torch.split(z, [self.outputs, size, size], dim=1) for z in zs), strict=True)
        query = self.bias.view(1, -1, 1, 1) + queries[0]
        for other in queries[1:]:
            query = query + other
        scores = [
            torch.unflatten(query * (key + place.view(1, -1, 1, 1)), 1, (HEADS, DIMENSIONS)).sum(dim=2)
            for key, place in zip(keys, self.places, strict=True)
        ]
        return list(logits), torch.softmax(torch.stack(scores, dim=1) * DIMENSIONS**-0.5, dim=1)


# ----------------------------------------------------------------------------------------------------------------------
# Fusions inside a network: features of coarse branches, or copies of the image, enter the network of the finest scale.

Aligned = Callable[[int, Tensor, Alignment], Tensor]
"""From a scale's features, on its own grid, to the grid of the finest scale's network where they meet."""


class JointFusion(Fusion):
    """The base class of both, in which the finest scale's network gives the fused logits.

    Parameters
    ----------
    config : ModelConfig
    networks : sequence
        U-Nets, with `decoded` and `level_features`; one per scale, or the same one several times where they share it.
    """

    def __init__(self, config: ModelConfig, networks: Sequence[Any]) -> None:
        super().__init__([n.features for n in networks], len(config.classes) + 1)
        self.finest = config.finest
        self.meetings = alignments(config)
        self.entrances = nn.ModuleDict()
        """By the number of the scale, the module through which it enters the finest scale's network."""
        for i, meeting in enumerate(self.meetings):
            if meeting:
                self.entrances[str(i)] = self._entrance(config, networks, i, meeting)

    @abstractmethod
    def _entrance(self, config: ModelConfig, networks: Sequence[Any], i: int, meeting: Alignment) -> nn.Module:
        """The module through which one scale enters."""

    @abstractmethod
    def features_of(self, networks: Sequence[Any], xs: Sequence[Tensor], aligned: Aligned) -> list[Tensor | None]:
        """The last features of each scale's network on its normalised input; None for a scale without a network."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """The finest scale's logits `(B, K+1, H, W)`."""
        return self.classes(zs[self.finest] if len(zs) > 1 else zs[0])


class Inject(JointFusion):
    """Features of every coarse branch's way up enter the finest branch's bottleneck, aligned.

    They are taken at the level whose pixels are about as large as those of the bottleneck, resampled to its grid, and
    added after a 1x1 convolution each, which is the same as one convolution over all of them concatenated.

    References
    ----------
    van Rijthoven et al., "HookNet: Multi-resolution convolutional neural networks for semantic segmentation in
    histopathology whole-slide images", Medical Image Analysis 68, 2021; here for any number of scales.
    """

    def _entrance(self, config: ModelConfig, networks: Sequence[Any], i: int, meeting: Alignment) -> nn.Module:
        given, wanted = networks[i].level_features[meeting.level], networks[self.finest].level_features[-1]
        convolution = nn.Conv2d(given, wanted, kernel_size=1, bias=False)
        nn.init.normal_(convolution.weight, std=given**-0.5)
        return convolution

    def features_of(self, networks: Sequence[Any], xs: Sequence[Tensor], aligned: Aligned) -> list[Tensor | None]:
        """The last features of each scale's network."""
        found: list[Tensor | None] = [None] * len(xs)
        deepest: Tensor | None = None
        for i, meeting in enumerate(self.meetings):
            if meeting:
                levels = networks[i].decoded(xs[i])
                found[i] = levels[0]
                entering = self.entrances[str(i)](aligned(i, levels[meeting.level], meeting))
                deepest = entering if deepest is None else deepest + entering
        found[self.finest] = networks[self.finest].decoded(xs[self.finest], deepest=deepest)[0]
        return found


class InputPyramid(JointFusion):
    """One network: copies of the image at the coarser scales enter the level of its way down that fits their pixels.

    Each copy passes a convolution of its own on its own grid.

    References
    ----------
    Fu et al., "Joint Optic Disc and Cup Segmentation Based on Multi-Label Deep Network and Polar Transformation"
    (M-Net), IEEE Transactions on Medical Imaging 37(7), 2018, section III-A; there by concatenation, here by addition.
    """

    def _entrance(self, config: ModelConfig, networks: Sequence[Any], i: int, meeting: Alignment) -> nn.Module:
        wanted = networks[self.finest].level_features[meeting.level - 1]
        convolution = nn.Conv2d(config.channels, wanted, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
        return nn.Sequential(convolution, nn.BatchNorm2d(wanted), nn.ReLU(inplace=True))

    def features_of(self, networks: Sequence[Any], xs: Sequence[Tensor], aligned: Aligned) -> list[Tensor | None]:
        """The last features of the network, at the place of the finest scale; None for the other scales."""
        entering: dict[int, Tensor] = {}
        for i, meeting in enumerate(self.meetings):
            if meeting:
                x = aligned(i, self.entrances[str(i)](xs[i]), meeting)
                level = meeting.level
                entering[level] = torch.add(entering[level], x) if level in entering else x
        found: list[Tensor | None] = [None] * len(xs)
        found[self.finest] = networks[self.finest].decoded(xs[self.finest], entering=entering)[0]
        return found


# ----------------------------------------------------------------------------------------------------------------------
# The fusions by name.

FUSIONS: dict[FusionName, type[Fusion]] = {
    "mean": Mean,
    "weighted": Weighted,
    "max": Maximum,
    "concat": Concat,
    "attention": Attention,
    "feature_attention": FeatureAttention,
    "multihead": MultiHead,
}
"""The classes of the fusions that combine the outputs of branches, by their name in `ModelConfig.fusion`."""

JOINS: dict[FusionName, type[JointFusion]] = {"inject": Inject, "pyramid": InputPyramid}
"""The classes of the fusions inside a network."""


def build_fusion(config: ModelConfig, networks: Sequence[Any], details: Sequence[int]) -> Fusion:
    """The fusion of a config.

    Parameters
    ----------
    networks : sequence
        One network for each scale, or the same one several times where they share it.
    details : sequence of int
        How many times finer than its features each branch's output is.
    """
    if config.fusion in JOINS:
        return JOINS[config.fusion](config, networks)
    features, outputs = [n.features for n in networks], len(config.classes) + 1
    if config.fusion == "weighted":
        return Weighted(features, outputs, details, config.scale_weights)
    return FUSIONS[config.fusion](features, outputs, details)

"""The margin that tiles of a model need, measured by how far a NaN outside a window spreads into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from math import inf, nan
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from napari_msunet.config import BranchConfig, ModelConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import round_up
from napari_msunet.models.windows import Field, Size

if TYPE_CHECKING:
    from napari_msunet.models.networks import Branch
STRIDES = (8, 40, 80)
"""Half the length of the strips that are tried, in strides. A network that reaches further counts as unbounded.

HRNet-W32 of timm reaches further than 40 of its 32 pixels: its coarsest stages have 56 convolutions one after the
other.
"""

JOINT_UNITS = (8, 40)
"""The same for joint models, in multiples of `size_multiple`."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Reach(NamedTuple):
    """How far the outside of a window influences its inside, in pixels of a branch's grid, the largest of all sides.

    Attributes
    ----------
    aligned : float
        For a window that begins and ends on multiples of the stride, as tiles do; `math.inf` if it is unbounded.
    anywhere : float
        For a window that begins and ends at any phase of the stride, as a padded image does.
    """

    aligned: float
    anywhere: float


def measure_reach(network: nn.Module, channels: int, stride: int) -> Reach:
    """How far the outside of a window reaches into a network's output.

    Parameters
    ----------
    network : Module
        A module from `(B, channels, h, w)` to `(B, n, h, w)`, or to a grid that is coarser by a whole factor, for sides
        that are multiples of the stride. It is not changed.
    channels : int
        Image channels.
    stride : int
        The period of the network, in pixels.

    Returns
    -------
    Reach
        Whole pixels, or infinite for a network whose output depends on the extent of the tile.
    """
    # Float64 on the CPU avoids Winograd and FFT convolutions, whose sums of products would carry a NaN to pixels that
    # do not depend on it. A copy with sound weights is measured, because a weight that training has turned into NaN
    # would look like an unbounded reach.
    probe = _probe(network)
    with torch.no_grad():

        @cache
        def clean(phase: int) -> float:
            return max(_first_clean(probe, channels, stride, phase, dim) for dim in (-2, -1))

        return Reach(clean(0), _furthest(clean, 0, stride, stride))


def measure_joint_reach(model: ReceptiveField) -> float:
    """How far the outside of a window of the target grid reaches into any output of a model, over all scales at once.

    Returns
    -------
    float
        Target pixels into a window that begins and ends on multiples of `config.size_multiple`; infinite for a model
        whose output depends on the extent of the tile.
    """
    probe, config = _probe(model), model.config
    unit = config.size_multiple
    with torch.no_grad():
        for units in JOINT_UNITS:
            length, worst = 2 * units * unit, 0.0
            for dim in (-2, -1):
                inputs = []
                for ratio in config.input_ratios:
                    strip = torch.full((1, config.channels, int(length * ratio), int(unit * ratio)), 0.5).double()
                    edge = int(unit * ratio)
                    strip[:, :, :edge] = strip[:, :, strip.shape[2] - edge :] = nan
                    inputs.append(strip if dim == -2 else strip.mT)
                fused, own = probe.outputs(inputs, field="same")
                output = torch.cat([fused, *own], dim=1).isfinite().all(dim=1)[0]
                worst = max(worst, _in_from_ends(output.all(dim=1 if dim == -2 else 0), unit))
            if worst < inf:
                return worst
    return inf


def _probe(module: ModuleT) -> ModuleT:
    """A copy to be measured, in which weights that are not finite are replaced."""
    probe = deepcopy(module).to("cpu", torch.float64).eval()
    with torch.no_grad():
        for tensor in (*probe.parameters(), *probe.buffers()):
            tensor.nan_to_num_(nan=0.0, posinf=1.0, neginf=-1.0)
    return probe


def _in_from_ends(finite: torch.Tensor, edge: int) -> float:
    """How many pixels from `edge`, inwards from both ends of a line, are not finite; the larger number, or infinite."""
    half = len(finite) // 2
    if not bool(finite[half - 1 : half + 1].all()):
        return inf
    ends = (finite[:half], finite[half:].flip(0))
    return max((int(torch.nonzero(~end).max()) + 1 - edge for end in ends if not end.all()), default=0)


def _furthest(clean: Callable[[int], float], low: int, high: int, stride: int) -> float:
    """The largest reach from an edge at a phase from `low` up to, but without, `high`.

    The further inwards the edge lies, the further inwards the clean pixels begin. So where both ends of a range of
    phases agree, all phases between them do, and the first one is the worst. Few phases need a measurement.
    """
    first = clean(low)
    last = clean(high) if high < stride else clean(0) + stride
    if first == last or high - low == 1:
        return first - low
    middle = (low + high) // 2
    return max(_furthest(clean, low, middle, stride), _furthest(clean, middle, high, stride))


def _first_clean(probe: nn.Module, channels: int, stride: int, phase: int, dim: int) -> float:
    """The distance from a multiple of the stride at which all is finite again, with NaN up to `phase` pixels from it.

    It is measured from both ends of a strip one stride wide, along one axis; the larger distance counts.
    """
    for strides in STRIDES:
        length, edge = 2 * strides * stride, stride + phase
        strip = torch.full((1, channels, length, stride), 0.5, dtype=torch.float64)
        strip[:, :, :edge] = nan
        strip[:, :, length - edge :] = nan
        output = probe(strip if dim == -2 else strip.mT).isfinite().all(dim=1)[0]
        finite = output.all(dim=1 if dim == -2 else 0)
        reach = _in_from_ends(finite.repeat_interleave(length // len(finite)), stride)
        if reach < inf:
            return reach
    return inf


# ----------------------------------------------------------------------------------------------------------------------
# The margins of a model, measured once and kept.

_MEASURED: dict[tuple[ModelConfig, str], float] = {}
"""The reaches of joint models measured in this process, since each takes seconds to measure."""


class ReceptiveField(nn.Module):
    """A model that knows the margin of its tiles.

    Parameters
    ----------
    config : ModelConfig
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._reaches: tuple[Reach, ...] | None = None
        self._joint_reach: float | None = None

    def branch(self, i: int) -> Branch:
        """The network and head of a scale."""
        raise NotImplementedError

    def outputs(
        self,
        inputs: Sequence[Tensor],
        size: Size | None = None,
        field: Field | None = None,
        detach: Sequence[bool] | None = None,
        separate: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Fused logits and each branch's own of a window; see `MSUNet.outputs`."""
        raise NotImplementedError

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """For each scale, how far the outside of a window influences the branch's output, in branch pixels."""
        if self._reaches is None:
            known: dict[BranchConfig, Reach] = {}
            for i, config in enumerate(self.config.branches):
                if config not in known:
                    known[config] = measure_reach(self.branch(i).network, self.config.channels, config.stride)
            self._reaches = tuple(known[config] for config in self.config.branches)
        return self._reaches

    @property
    def exact(self) -> bool:
        """Whether tiles with this model's margin give the same result as the whole image."""
        if self.config.joint:
            return self._reach < inf
        return all(reach.aligned < inf for reach in self.reaches)

    @property
    def branch_margins(self) -> tuple[int, ...]:
        """For each scale, branch pixels that a tile needs on each side; multiples of the branch's stride.

        Raises
        ------
        ModelError
            If no margin is large enough, since an output depends on the extent of the tile.
        """
        needs = [need.aligned for need in self._needs()]
        return tuple(round_up(need, c.stride) for need, c in zip(needs, self.config.branches, strict=True))

    @property
    def margin(self) -> int:
        """Target pixels that any window needs on each side; a multiple of `config.size_multiple`.

        A tile begins and ends on multiples of each branch's stride, so `branch_margins` are enough for it. An image
        with this margin around it may end at any phase of the stride, which needs up to one stride more.

        Raises
        ------
        ModelError
            If no margin is large enough, since an output depends on the extent of the tile.
        """
        if self.config.joint:
            return self.joint_margin + self.config.size_multiple
        needs = [need.anywhere / ratio for need, ratio in zip(self._needs(), self.config.ratios, strict=True)]
        return round_up(max(needs), self.config.size_multiple)

    @property
    def border(self) -> int:
        """Target pixels at each edge of a training window that carry no loss, a multiple of `config.size_multiple`.

        They are those that the padding of a branch with ``padding="valid"`` reaches.
        """
        return self.margin if any(branch.valid for branch in self.config.branches) else 0

    @property
    def joint_margin(self) -> int:
        """Target pixels that a tile of `run_joint` needs on each side; a multiple of `config.size_multiple`.

        Measured for all scales together.

        Raises
        ------
        ModelError
            If no margin is large enough, since an output depends on the extent of the tile.
        """
        if self._reach == inf:
            raise ModelError("This model has a layer that sees the whole tile, so no margin makes its tiles exact.")
        return round_up(self._reach, self.config.size_multiple)

    @property
    def _reach(self) -> float:
        """How far the outside of an aligned window influences its inside, in target pixels, over all scales."""
        if self._joint_reach is None:
            # Weights are not part of the key, since NaN spreads through zeros too; nor is the meaning of the images'
            # values.
            structure = self.config.model_copy(update={"trained_on": None}), repr(self)
            if structure not in _MEASURED:
                _MEASURED[structure] = measure_joint_reach(self)
            self._joint_reach = _MEASURED[structure]
        return self._joint_reach

    def _needs(self) -> list[Reach]:
        """The reaches, plus one pixel for coarse outputs, which are interpolated between pixel centres."""
        if not self.exact:
            raise ModelError("This model has a layer that sees the whole tile, so no margin makes its tiles exact.")
        more = [1 if ratio < 1 else 0 for ratio in self.config.ratios]
        return [Reach(r.aligned + m, r.anywhere + m) for r, m in zip(self.reaches, more, strict=True)]

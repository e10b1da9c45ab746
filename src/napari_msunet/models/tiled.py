"""What tiles of a model need around them, measured once."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from torch import Tensor, nn

from napari_msunet.config import BranchConfig, ModelConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import round_up
from napari_msunet.models.margin import Reach, measure_joint_reach, measure_reach
from napari_msunet.models.windows import Field, Size

if TYPE_CHECKING:
    from napari_msunet.models.branch import Branch


_MEASURED: dict[tuple[ModelConfig, str], float] = {}
"""Reaches of joint models of this process, which take seconds to measure."""


class Tiled(nn.Module):
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
    ) -> tuple[Tensor, list[Tensor]]:
        """Fused logits and each branch's own of a window; see `MSUNet.outputs`."""
        raise NotImplementedError

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """Measured for each scale: how far, in branch pixels, the outside of a window gets into the branch's output."""
        if self._reaches is None:
            known: dict[BranchConfig, Reach] = {}
            for i, config in enumerate(self.config.branches):
                if config not in known:
                    known[config] = measure_reach(self.branch(i).network, self.config.channels, config.stride)
            self._reaches = tuple(known[config] for config in self.config.branches)
        return self._reaches

    @property
    def exact(self) -> bool:
        """Whether tiles with this model's margin give what the whole image gives."""
        if self.config.joint:
            return self._reach < inf
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
        if self.config.joint:
            return self.joint_margin + self.config.size_multiple
        needs = [need.anywhere / ratio for need, ratio in zip(self._needs(), self.config.ratios, strict=True)]
        return round_up(max(needs), self.config.size_multiple)

    @property
    def border(self) -> int:
        """Target pixels at each edge of a training window that carry no loss: those that the padding of a branch with
        ``padding="valid"`` reaches; a multiple of `config.size_multiple`."""
        return self.margin if any(branch.valid for branch in self.config.branches) else 0

    @property
    def joint_margin(self) -> int:
        """Target pixels that a tile of `run_joint` needs on each side; a multiple of `config.size_multiple`.

        Measured for all scales together.

        Raises
        ------
        ModelError
            If no margin is enough, since an output depends on the extent of the tile.
        """
        if self._reach == inf:
            raise ModelError("This model has a layer that sees the whole tile, so no margin makes its tiles exact.")
        return round_up(self._reach, self.config.size_multiple)

    @property
    def _reach(self) -> float:
        """Target pixels that what is outside an aligned window reaches into it, over all scales."""
        if self._joint_reach is None:
            # Weights do not count: NaN gets through zeros too; nor does what the images' numbers meant.
            structure = self.config.model_copy(update={"trained_on": None}), repr(self)
            if structure not in _MEASURED:
                _MEASURED[structure] = measure_joint_reach(self)
            self._joint_reach = _MEASURED[structure]
        return self._joint_reach

    def _needs(self) -> list[Reach]:
        """The reaches, with one more pixel for coarse outputs, which are interpolated between pixel centres."""
        if not self.exact:
            raise ModelError("This model has a layer that sees the whole tile, so no margin makes its tiles exact.")
        more = [1 if ratio < 1 else 0 for ratio in self.config.ratios]
        return [Reach(r.aligned + m, r.anywhere + m) for r, m in zip(self.reaches, more, strict=True)]

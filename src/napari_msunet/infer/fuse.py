"""From the branches' outputs to a tile's maps: probabilities, each scale alone, weights, disagreement, entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import lcm, log

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_msunet.infer.network import Network
from napari_msunet.infer.streams import Stream

ROWS = 128
"""Target rows fused at once on the CPU, so that no branch's channels exist as a whole at full resolution."""

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
    """Which maps a tile gives beside its probabilities."""

    branches: bool = False
    weights: bool = False
    disagreement: bool = False
    entropy: bool = False


@dataclass(frozen=True)
class Fused:
    """The maps of a batch of tiles (with a leading axis) or of one tile, float32 on the CPU.

    Attributes
    ----------
    probabilities : (K+1, h, w)
    branches : tuple of (K+1, h, w)
        Of each scale alone, the mean over an ensemble's models and the variants.
    weights : (k, h, w), optional
        What the fusion gives to each scale; None where it has no such weights.
    disagreement, entropy : (h, w), optional
        0..1.
    """

    probabilities: Map
    branches: tuple[Map, ...] = field(default=())
    weights: Map | None = None
    disagreement: Map | None = None
    entropy: Map | None = None

    def of(self, n: int) -> Fused:
        """The maps of one tile of a batch."""

        def one(values: Map | None) -> Map | None:
            return None if values is None else values[n]

        branches = tuple(branch[n] for branch in self.branches)
        return Fused(self.probabilities[n], branches, one(self.weights), one(self.disagreement), one(self.entropy))


def fuse(
    networks: Sequence[Network],
    streams: Sequence[Stream],
    zs: Sequence[Sequence[Tensor]],
    shape: tuple[int, int],
    wanted: Wanted,
) -> Fused:
    """Bring all branches to the target grid and combine them.

    Parameters
    ----------
    zs : for each stream, for each variant a (B, Z, h, w) Tensor
        On the stream's own grid; a coarse one with its ring.
    shape : tuple of int
        Height and width of the tiles in target pixels.
    """
    step = lcm(*(stream.ratio.denominator for stream in streams))
    on_cpu = zs[0][0].device.type == "cpu"
    rows = -(-ROWS // step) * step if on_cpu else shape[0]
    whole: dict[str, Tensor] = {}
    for top in range(0, shape[0], rows):
        bottom = min(top + rows, shape[0])
        for name, values in _strip(networks, streams, zs, top, bottom, wanted).items():
            place = whole.get(name)
            if place is None:
                place = whole[name] = torch.empty((*values.shape[:-2], *shape), dtype=torch.float32)
            place[..., top:bottom, :] = values
    found = {name: values.numpy() for name, values in whole.items()}
    branches = tuple(found[name] for name in sorted((n for n in found if n.startswith("scale ")), key=_number))
    return Fused(
        found["probabilities"], branches, found.get("weights"), found.get("disagreement"), found.get("entropy")
    )


def _number(name: str) -> int:
    return int(name.split()[1])


def _strip(
    networks: Sequence[Network],
    streams: Sequence[Stream],
    zs: Sequence[Sequence[Tensor]],
    top: int,
    bottom: int,
    wanted: Wanted,
) -> dict[str, Tensor]:
    """The maps of some rows, averaged over models and variants."""
    sums: dict[str, Tensor] = {}
    each = wanted.branches or wanted.disagreement
    votes: list[Tensor] = []

    def add(name: str, values: Tensor) -> None:
        sums[name] = sums[name] + values if name in sums else values

    for variant in range(len(zs[0])):
        for n, network in enumerate(networks):
            own = [(stream, z[variant]) for stream, z in zip(streams, zs, strict=True) if stream.model == n]
            if own[0][0].joint:
                up: list[Tensor] = []
                fused, branches = network.joint_split(own[0][1][..., top:bottom, :])
            else:
                up = [_on_target(network, stream, z, top, bottom) for stream, z in own]
                fused = network.combine(up)
                branches = [network.class_logits(z) for z in up] if each else []
            add("probabilities", torch.softmax(fused.float(), 1))
            if each:
                alone = [torch.softmax(z.float(), 1) for z in branches]
                for i, probabilities in enumerate(alone):
                    add(f"scale {i}", probabilities)
                # where the others are injected into it, the finest scale has no output but the fused one
                every = bool(up) or len(alone) == len(own[0][0].read)
                votes.append(divergence(alone if every else [torch.softmax(fused.float(), 1), *alone]))
            if wanted.weights and up and (shares := network.fusion_weights(up)) is not None:
                add("weights", shares.float())
    count = len(zs[0]) * len(networks)
    maps = sums if count == 1 else {name: values / count for name, values in sums.items()}
    if wanted.disagreement:
        maps["disagreement"] = torch.stack(votes).mean(0)
    if wanted.entropy:
        maps["entropy"] = entropy(maps["probabilities"]) / log(maps["probabilities"].shape[1])
    return maps if wanted.branches else {k: v for k, v in maps.items() if not k.startswith("scale ")}


def _on_target(network: Network, stream: Stream, z: Tensor, top: int, bottom: int) -> Tensor:
    """Some target rows of a branch's output on the target grid."""
    first, last = int(top * stream.ratio), int(bottom * stream.ratio)
    ring = stream.ring
    if not ring:
        return network.to_target(stream.branch, z[..., first:last, :]).contiguous()
    up = network.to_target(stream.branch, z[..., first : last + 2 * ring, :])
    crop = ring * stream.ratio.denominator // stream.ratio.numerator
    return up[..., crop : up.shape[-2] - crop, crop : up.shape[-1] - crop]


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy in nats over the classes, dimension 1: `-sum p ln p`."""
    return -torch.xlogy(probabilities, probabilities).sum(1)


def divergence(alone: Sequence[Tensor]) -> Tensor:
    """Jensen-Shannon divergence of the branches' probabilities over ln(k), 0..1.

    References
    ----------
    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37(1), 1991: the entropy of the
    mean less the mean of the entropies, at most ln(k) for k distributions.
    """
    if len(alone) == 1:  # one scale agrees with itself
        return torch.zeros_like(alone[0][:, 0])
    mean = torch.stack(list(alone)).mean(0)
    difference = entropy(mean) - torch.stack([entropy(p) for p in alone]).mean(0)
    return (difference / log(len(alone))).clamp_(0, 1)

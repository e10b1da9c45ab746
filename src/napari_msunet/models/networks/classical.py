"""Classical methods as a branch's network: a threshold or k-means parts pixels by what each of them shows.

Nothing here is learned by gradients. `Classical.learn` fits a method to labelled images, `Classical.follow` to a slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config.branches import ClassicalConfig
from napari_msunet.constants import EOSIN, HAEMATOXYLIN, IGNORED, LUMA
from napari_msunet.errors import ModelError

Values = npt.NDArray[np.float64]

# ----------------------------------------------------------------------------------------------------------------------
# Thresholds and centres of a sample of pixels.

SAMPLE = 200_000
"""Most pixels that a method is fitted to."""

_STARTS, _STEPS, _CLUSTERED = 5, 50, 50_000
"""Of k-means: how often it starts, its steps, and the most pixels that it looks at."""

_BINS = 256
_LEAST = 1e-3
"""Least spread of a part, so that probabilities stay finite."""


def fit_parts(values: Values, config: ClassicalConfig) -> tuple[Values, float]:
    """The thresholds or centres that part a sample of pixels, and how widely values spread within a part.

    Parameters
    ----------
    values : (n, f) array
        What is looked at, for each pixel.
    config : ClassicalConfig

    Returns
    -------
    (parts - 1, 1) or (parts, f) array
        Thresholds in ascending order, or centres in the order of their sums.
    float
        The standard deviation within parts.

    Raises
    ------
    ModelError
        If there are no pixels, they are not numbers, or they differ too little to be parted.

    References
    ----------
    Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 9, 1979; Liao, Chen and Chung, "A
    Fast Algorithm for Multilevel Thresholding", JISE 17, 2001; Prewitt and Mendelsohn, "The analysis of cell images",
    Annals of the New York Academy of Sciences 128, 1966 (the valley, called minimum in scikit-image); Lloyd, "Least
    Squares Quantization in PCM", IEEE Trans. Information Theory 28, 1982, from the starts of k-means++.
    """
    if not len(values) or not np.isfinite(values).all():
        raise ModelError(
            f"{config.method} was given {len(values)} pixels"
            f"{' with values that are no numbers' if len(values) else ', which it cannot be fitted to'}; give images "
            "with pixels that are numbers."
        )
    if config.method == "kmeans":
        return _centres(values[:: -(-len(values) // _CLUSTERED)], config.made)
    line = values[:, 0]
    cuts = np.array([config.threshold]) if config.method == "threshold" else _thresholds(line, config)
    part = np.searchsorted(cuts, line)
    within = [line[part == number] for number in np.unique(part)]
    return cuts[:, None], max(_LEAST, float(np.sqrt(sum(((v - v.mean()) ** 2).sum() for v in within) / len(line))))


def _thresholds(line: Values, config: ClassicalConfig) -> Values:
    """The thresholds of a method that finds them."""
    from skimage.filters import threshold_minimum, threshold_multiotsu, threshold_otsu  # only for fitting: it is slow

    found = len(np.unique(line))
    if found < config.made:
        raise ModelError(
            f"{config.method} cannot make {config.made} parts of pixels with {_different(found)} of {config.look}; "
            "look at something else, or leave out images without contrast."
        )
    if config.method == "otsu":
        return np.array([threshold_otsu(line, nbins=_BINS)])  # type: ignore[no-untyped-call]
    if config.method == "multiotsu":
        bins = _BINS if config.made < 5 else _BINS // 2
        return np.sort(threshold_multiotsu(line, classes=config.made, nbins=bins))  # type: ignore[no-untyped-call]
    try:
        return np.array([threshold_minimum(line, nbins=_BINS)])  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ModelError(
            f"The histogram of {config.look} has no valley between two peaks; give method otsu, or a threshold by hand."
        ) from None


def _different(count: int) -> str:
    return f"{count} different value{'s' * (count != 1)}"


def _centres(values: Values, count: int) -> tuple[Values, float]:
    """The centres of k-means, the best of several starts, and the standard deviation around them."""
    from scipy.cluster.vq import ClusterError, kmeans2

    if (found := len(np.unique(values, axis=0))) < count:
        raise ModelError(
            f"k-means cannot make {count} parts of pixels with {_different(found)}; give fewer parts, or other images."
        )
    best: tuple[float, Values] | None = None
    for start in range(_STARTS):
        try:
            centres, nearest = kmeans2(values, count, iter=_STEPS, minit="++", missing="raise", rng=start)
        except ClusterError:  # a part has lost its last pixel
            continue
        spread = float(((values - centres[nearest]) ** 2).sum())
        if best is None or spread < best[0]:
            best = spread, centres
    if best is None:
        raise ModelError(f"k-means found no {count} parts that all have pixels; give fewer parts.")
    spread, centres = best
    order = np.argsort(centres.sum(1), kind="stable")
    return centres[order], max(_LEAST, float(np.sqrt(spread / values.size)))


# ----------------------------------------------------------------------------------------------------------------------
# Which class a part is.


def majority(votes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class of each part: the one that most of its labelled pixels have.

    Where a class that is labelled would have no part, each class first gets the part that suits all of them best, by
    the shares of their pixels, and only the parts that are left go by majority.

    Parameters
    ----------
    votes : (parts, K+1) array
        Pixels of each part that are background or of classes 1..K.

    Raises
    ------
    ModelError
        If all labelled pixels are of one kind, so that nothing says what the other parts are.
    """
    from scipy.optimize import linear_sum_assignment

    labelled = np.flatnonzero(votes.sum(0))
    if len(labelled) < 2:
        what = "background" if list(labelled) == [0] else "one class" if len(labelled) else "not annotated"
        raise ModelError(
            f"All pixels that a classical method could learn from are {what}; annotate background and each class, or "
            "use the method without training."
        )
    chosen = np.asarray(votes.argmax(1), np.int64)
    if not set(labelled) <= set(chosen):
        share = votes[:, labelled] / votes[:, labelled].sum(0)
        parts, places = linear_sum_assignment(share, maximize=True)
        chosen[parts] = labelled[places]
    return chosen


# ----------------------------------------------------------------------------------------------------------------------
# The network.

_FAR = 20.0
"""How far below all others the logit of a class without any part is."""


class Classical(nn.Module):
    """A classical method: its features are the logits of the classes, which the head passes on.

    The logit of a part is linear in a value v between thresholds t: ``sum of (v - t) / spread`` over the thresholds
    below it; of k-means ``-(distance to the centre)^2 / (2 spread^2)``. The largest is that of the part in which the
    pixel lies, and a class has the largest of its parts.

    Parameters
    ----------
    config : ClassicalConfig
    channels : int
        Image channels.

    Attributes
    ----------
    values : (parts - 1, 1) or (parts, f) Tensor
        Thresholds or centres; NaN until they are fitted.
    spread : Tensor
        Standard deviation of values within a part.
    group : (parts,) Tensor
        The class of each part; 0 is background.
    """

    values: Tensor
    spread: Tensor
    group: Tensor
    stains: Tensor
    kernel: Tensor

    def __init__(self, config: ClassicalConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.features, self.grain = config.made, config.grain
        self.normalise = nn.Identity()
        """It looks at the values of the image as they are."""
        self.following = False
        """Whether the next images are those that it is fitted to; see `follow`."""
        each = config.method == "kmeans" and config.look in ("density", "colour")
        self.looks = channels if each else 1
        """How many numbers it looks at for each pixel."""
        shape = (config.made, self.looks) if config.method == "kmeans" else (config.made - 1, 1)
        start = config.threshold if config.method == "threshold" else nan
        self.register_buffer("values", torch.full(shape, start))
        self.register_buffer("spread", torch.tensor(0.05))
        self.register_buffer("group", torch.zeros(config.made, dtype=torch.int64))
        self.register_buffer("stains", torch.tensor(_unmixing(), dtype=torch.float32))
        steps = torch.arange(-config.radius, config.radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (steps / max(config.smooth, 1e-6)) ** 2)
        self.register_buffer("kernel", kernel / kernel.sum())

    def begin(self, head: nn.Conv2d) -> None:
        """Take the parts for classes 1, 2, ... in the order of the config, and let the head pass the logits on."""
        nn.init.dirac_(head.weight)
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        head.requires_grad_(False)
        absorbs = self.config.look in ("density", "haematoxylin", "eosin")
        last_first = absorbs == (self.config.first == "darkest")
        order = range(self.config.made)[:: -1 if last_first else 1]
        group = [0] * self.config.made
        for number, part in enumerate(order[: head.out_channels - 1], start=1):
            group[part] = number
        self.group.copy_(torch.tensor(group))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` in 0..1 to `(B, parts, h, w)`: the logits of classes 0, 1, ..., then of none."""
        seen = self.measured(x)
        if self.following:
            self._fit(_flat(seen, SAMPLE))
        parts = self._logits(seen)
        lowest = parts.amin(1, keepdim=True) - _FAR
        mine = self.group.view(1, -1, 1, 1)
        return torch.cat([torch.where(mine == n, parts, lowest).amax(1, keepdim=True) for n in range(self.features)], 1)

    def measured(self, x: Tensor) -> Tensor:
        """What is looked at: `(B, looks, h, w)`."""
        look = self.config.look
        if look.startswith("channel"):
            number = int(look[-1]) - 1
            seen = x[:, number : number + 1]
        elif look == "colour":
            seen = x if self.looks > 1 else _grey(x)
        else:
            # as in `data.augmentation`: black is as dark as the darkest of 8 bits that is not black
            seen = -torch.log10(x.clamp_min(1 / 255))
            if look != "density":
                row = self.stains[("haematoxylin", "eosin").index(look)]
                seen = (seen * row.view(1, -1, 1, 1)).sum(1, keepdim=True)
            elif self.looks == 1:
                seen = seen.mean(1, keepdim=True)
        return self._smoothed(seen) if self.config.radius else seen

    def _smoothed(self, seen: Tensor) -> Tensor:
        radius, count = self.config.radius, seen.shape[1]
        seen = F.pad(seen, (radius,) * 4, mode="replicate")
        for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
            kernel = self.kernel.view(shape).expand(count, -1, -1, -1)
            seen = F.conv2d(seen, kernel.to(seen.dtype), groups=count)
        return seen

    def _logits(self, seen: Tensor) -> Tensor:
        """The logit of each part, `(B, parts, h, w)`."""
        if self.config.method == "kmeans":
            centres = self.values[:, :, None, None]
            distances = [((seen - centre) ** 2).sum(1, keepdim=True) for centre in centres]
            return -torch.cat(distances, 1) / (2 * self.spread**2)
        steps = (seen - self.values.view(1, -1, 1, 1)) / self.spread
        return torch.cat((torch.zeros_like(steps[:, :1]), steps.cumsum(1)), 1)

    # ------------------------------------------------------------------------------------------------------- fitting

    @property
    def fitted(self) -> bool:
        """Whether it has thresholds or centres."""
        return bool(self.values.isfinite().all())

    def follow(self) -> None:
        """Take thresholds or centres from the images of the next call, which are a sample of a slide."""
        self.following = True

    def followed(self) -> tuple[Tensor, ...]:
        """What `follow` changes."""
        return self.values, self.spread

    @torch.no_grad()
    def learn(self, images: Sequence[Tensor], truths: Sequence[Tensor]) -> None:
        """Fit the method to labelled images, all together, and find out which part is which class.

        Parameters
        ----------
        images : sequence of (B, channels, h, w) float Tensor
            0..1.
        truths : sequence of (B, H, W) Tensor
            0 for background, 1..K, `IGNORED` where it is not known.

        Raises
        ------
        ModelError
            If the pixels cannot be parted, or are labelled as one kind only.
        """
        each = -(-SAMPLE // max(1, len(images)))
        seen = [self.measured(image) for image in images]
        self._fit(torch.cat([_flat(one, each) for one in seen]) if seen else torch.zeros(0, self.looks))
        outputs = self.features
        votes = np.zeros((outputs, outputs), np.int64)
        for one, truth in zip(seen, truths, strict=True):
            part = self._logits(one).argmax(1, keepdim=True).float()
            part = F.interpolate(part, truth.shape[-2:], mode="nearest")[:, 0].long()
            known = truth != IGNORED
            pairs = part[known] * outputs + truth[known].long()
            votes += torch.bincount(pairs, minlength=outputs**2).view(outputs, outputs).cpu().numpy()
        self.group.copy_(torch.from_numpy(majority(votes)))

    def _fit(self, sample: Tensor) -> None:
        values, spread = fit_parts(sample.double().cpu().numpy(), self.config)
        self.values.copy_(torch.from_numpy(values))
        self.spread.fill_(spread)
        self.following = False


def _unmixing() -> Values:
    """Rows that give the amounts of haematoxylin and eosin from optical densities of red, green and blue.

    The third stain is at right angles to both (Ruifrok and Johnston, "Quantification of histochemical staining by color
    deconvolution", Analytical and Quantitative Cytology and Histology 23, 2001).
    """
    stains = np.array([HAEMATOXYLIN, EOSIN, np.cross(HAEMATOXYLIN, EOSIN)])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return np.asarray(np.linalg.inv(stains).T[:2])


def _grey(x: Tensor) -> Tensor:
    """The brightness of red, green and blue; the mean of other channels."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    weights = x.new_tensor(LUMA).view(1, -1, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _flat(seen: Tensor, most: int) -> Tensor:
    """Pixels as rows, `(n, looks)`; at most so many, evenly chosen."""
    rows = seen.detach().movedim(1, -1).reshape(-1, seen.shape[1])
    return rows[:: -(-len(rows) // most) or 1]

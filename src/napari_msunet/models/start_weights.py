"""Starting a training from a model: its weights, by name and shape, and the rows of its classes, by their names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from napari_msunet.config import ModelConfig
from napari_msunet.config.model import architecture_differences
from napari_msunet.errors import ModelError
from napari_msunet.models.header import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from napari_msunet.models.msunet import MSUNet


@dataclass(frozen=True)
class Start:
    """A model that a training starts from.

    Attributes
    ----------
    path : Path
    before : ModelConfig
        The config of that model.
    config : ModelConfig
        The config of the model to train: that of the job, with the normalisation of the start, to which its weights
        fit.
    """

    path: Path
    before: ModelConfig
    config: ModelConfig

    @cached_property
    def model(self) -> MSUNet:
        """The model with its weights, read at the first use; `ModelError` where they are damaged."""
        from napari_msunet.models.files import load_model

        return load_model(self.path)

    def check(self) -> None:
        """Read the weights; `ModelError` where they are damaged."""
        _ = self.model

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the model to train that the start knows already."""
        return tuple(name for name in self.config.classes if name in self.before.classes)

    def words(self) -> str:
        """A sentence about what is taken over from the start."""
        old = self.before
        parts = [f"Starting from the weights of {self.path}"]
        if new := [name for name in self.config.classes if name not in old.classes]:
            many = len(new) > 1
            parts.append(f"the class{'es' * many} {', '.join(new)} begin{'s' * (not many)} with random weights")
        if gone := [name for name in old.classes if name not in self.config.classes]:
            parts.append(f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} left out")
        if old.resolution != self.config.resolution:
            parts.append(f"it was trained {old.resolution.at}, now it is {self.config.resolution.at}")
        return "; ".join(parts) + "."


def open_start(path: str | Path, config: ModelConfig) -> Start:
    """The model file to start from, checked against the model to train.

    Parameters
    ----------
    path : str or Path
        A file written by `save_model`.
    config : ModelConfig
        The config of the model to train. Classes and µm per pixel may differ from those of the file; scales, fusion,
        branches and channels may not.

    Raises
    ------
    ModelError
        If there is no such model, or it is of another architecture.
    """
    before = read_header(path).config
    differing = architecture_differences(before, config)
    if differing:
        raise ModelError(
            f"{path} is a checkpoint of another architecture: {' and '.join(differing)}; start from a model "
            "with the same scales, fusion, branches and channels, or train one of that file's architecture."
        )
    kept = before.normalisation or config.normalisation
    seen = before.trained_on if before.normalisation is not None else config.trained_on
    own = before.own_statistics if before.normalisation is not None else config.own_statistics
    update = {"normalisation": kept, "trained_on": seen, "own_statistics": own}
    return Start(Path(path), before, config.model_copy(update=update))


def take_weights(model: MSUNet, start: Start) -> None:
    """Put the start's weights into a new model of its architecture.

    A class that both models know keeps its rows, even if its number has changed; a new class keeps the random rows of
    the new model.

    Parameters
    ----------
    model : MSUNet
        A model made by `build_model(start.config)`; it is changed in place.
    start : Start

    Raises
    ------
    ModelError
        If the weights do not fit by name and shape.
    """
    import torch

    old, new = start.before.classes, model.config.classes
    axes = {} if old == new else _class_axes(model.config)
    rows = [(0, 0), *((new.index(name) + 1, old.index(name) + 1) for name in start.classes)]
    given, state = start.model.state_dict(), model.state_dict()
    if odd := sorted(given.keys() ^ state.keys()):
        raise ModelError(
            f"{start.path} is a checkpoint of another architecture: {odd[0]} is in one of the two models only."
        )
    with torch.no_grad():
        for name, target in state.items():
            places = _places(target, given[name], axes.get(name, ()), rows, (len(new) + 1, len(old) + 1))
            if places is None:
                raise ModelError(
                    f"{start.path} is a checkpoint of another architecture: {name} has the shape "
                    f"{tuple(given[name].shape)} there and {tuple(target.shape)} here."
                )
            target[places[0]] = given[name][places[1]].to(target.dtype)


def _class_axes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The axes of weights that grow with the number of classes, found by building the model with more classes."""
    import torch

    from napari_msunet.models.msunet import MSUNet

    more = config.model_copy(update={"classes": tuple(f"class {n}" for n in range(2 * len(config.classes) + 1))})
    with torch.device("meta"):
        ours, theirs = ({n: t.shape for n, t in MSUNet(c).state_dict().items()} for c in (config, more))
    found = {
        name: tuple(i for i, (a, b) in enumerate(zip(shape, theirs[name], strict=True)) if a != b)
        for name, shape in ours.items()
    }
    return {name: axes for name, axes in found.items() if axes}


_Index: TypeAlias = "tuple[Tensor, ...]"


def _places(
    target: Tensor, source: Tensor, axes: tuple[int, ...], rows: list[tuple[int, int]], counts: tuple[int, int]
) -> tuple[_Index, _Index] | None:
    """The indices to which a weight's values go, and from which they come; None where the shapes do not fit.

    Along an axis of classes, each class has a block of the same size.
    """
    import torch

    if target.dim() != source.dim():
        return None
    into, out = [], []
    for axis, (a, b) in enumerate(zip(target.shape, source.shape, strict=True)):
        size = a // counts[0]
        if axis in axes and (size * counts[0], size * counts[1]) == (a, b):
            pairs = torch.tensor([[new * size + k, old * size + k] for new, old in rows for k in range(size)])
        elif axis not in axes and a == b:
            pairs = torch.arange(a).view(-1, 1).expand(-1, 2)
        else:
            return None
        shape = [-1 if i == axis else 1 for i in range(target.dim())]
        into.append(pairs[:, 0].view(shape))
        out.append(pairs[:, 1].view(shape))
    return tuple(into), tuple(out)

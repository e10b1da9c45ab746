"""The verbs `model split`, `combine`, `folds`, `scales` and `classical`: models apart, together, of all folds, and
without training."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App
from pydantic import ValidationError

from napari_msunet._io import make_folder
from napari_msunet.cli.options import ModelOptions, NetworkOptions, model_of, parse_scales
from napari_msunet.cli.running import app
from napari_msunet.config import Fusion, ModelConfig, explain
from napari_msunet.errors import MsunetError

if TYPE_CHECKING:
    from napari_msunet.models import MSUNet
model = App(
    name="model", help="Take models apart, put them together, change their scales, or make them without training."
)
app.command(model)


@model.command
def split(file: Path, out: Path, *, json: bool = False) -> None:
    """Write each branch of a model that has an output of its own as a one-scale model.

    Parameters
    ----------
    file : Path
        A model file.
    out : Path
        Folder for `scale-1.safetensors`, `scale-1-2.safetensors` and so on.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.models import branch_model, load_model

    given = load_model(file)
    make_folder(out)
    written = {}
    for i in given.config.own or (0,):  # a model without such branches goes on to the error that says why
        name = f"scale-{str(given.config.ratios[i]).replace('/', '-')}.safetensors"
        written[out / name] = branch_model(given, i)
    _written(written, json)


@model.command
def combine(
    files: Sequence[Path], *, out: Path, fusion: Fusion = "mean", mpp: float | None = None, json: bool = False
) -> None:
    """Put one-scale models together. A fusion that has something to learn is trained afterwards, with `train --start`.

    Parameters
    ----------
    files : Path
        Models of one scale each, of the same classes.
    out : Path
        The new model file.
    fusion : str
        How the outputs of the models are combined; "mean" and "max" have nothing to learn.
    mpp : float
        µm per pixel of the new model; without it, the finest of those of the models.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.models import combine_models, load_model

    _written({out: combine_models([load_model(file) for file in files], fusion, mpp)}, json)


@model.command
def folds(folder: Path, *, out: Path, variant: str | None = None, json: bool = False) -> None:
    """Write one model of all folds, which predicts with the mean of their probabilities.

    Parameters
    ----------
    folder : Path
        Folder of a cross-validation or of an experiment.
    out : Path
        The new model file.
    variant : str
        The variant of an experiment; without it, the one with the best mean.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.models import load_model
    from napari_msunet.training.comparison.fold_models import model_of_folds

    made = load_model(model_of_folds(folder, out, variant))
    count = len(made.members)
    if json:
        print(jsonlib.dumps({"path": str(out), "networks": count}))  # noqa: T201 (the result that --json asks for)
        return
    print(f"{out}: the mean of {count} networks")  # noqa: T201


@model.command
def scales(file: Path, scales: str, *, out: Path, fusion: Fusion | None = None, json: bool = False) -> None:
    """Give a model other scales: scales that it has keep their weights, new ones begin with random weights.

    Parameters
    ----------
    file : Path
        A model file.
    scales : str
        The scales of the new model, such as 1,1/2,1/4.
    out : Path
        The new model file.
    fusion : str
        Fusion of the new model; without it, that of the model in the file.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.models import load_model, with_scales

    _written({out: with_scales(load_model(file), parse_scales(scales), fusion)}, json)


_MODEL, _NETWORKS = ModelOptions(), NetworkOptions()


@model.command
def classical(
    *,
    classes: str,
    out: Path,
    options: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    json: bool = False,
) -> None:
    """Write a classical method (a threshold or k-means, fitted to each slide) as a model, without training.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        The new model file.
    json : bool
        Print the result as JSON.
    """
    wanted = model_of(classes, options, networks, usual="classical")
    if wanted.mpp is None:
        raise MsunetError("Give the resolution: --model-mpp with µm per pixel, or px for images without a size in µm.")
    given = {"mpp": None, "scales": (1.0,), "fusion": "mean"} | wanted.given
    from napari_msunet.models.compose import untrained_model

    try:
        config = ModelConfig(**given)
    except ValidationError as error:
        raise explain(error, "The model") from error
    _written({out: untrained_model(config)}, json)


def _written(models: dict[Path, MSUNet], json: bool) -> None:
    """Save models and say what they are."""
    from napari_msunet.models import save_model

    values: list[dict[str, Any]] = []
    for path, made in models.items():
        save_model(made, path)
        values.append({"path": str(path), "scales": [str(r) for r in made.config.ratios], "fusion": made.config.fusion})
    if json:
        print(jsonlib.dumps({"models": values}))  # noqa: T201 (the result that --json asks for)
        return
    for value in values:
        print(f"{value['path']}: scales {', '.join(value['scales'])}, fusion {value['fusion']}")  # noqa: T201

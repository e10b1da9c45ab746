"""One model of all folds: the models of a cross-validation or of a variant as an ensemble in one file."""

from __future__ import annotations

from pathlib import Path

from napari_msunet._io import read_json
from napari_msunet.config.jobs import file_word
from napari_msunet.errors import ModelError, OutputError, as_path
from napari_msunet.models import load_model, save_model
from napari_msunet.models.compose import ensemble_model

_MODEL = "model.safetensors"


def model_of_folds(folder: str | Path, out: str | Path, variant: str | None = None) -> Path:
    """Write one model that holds the networks of all folds, and predicts with the mean of their probabilities.

    Each network has seen other images, so no image is held out of all: score the folds, not this model.

    Parameters
    ----------
    folder : path
        The folder of a cross-validation or of an experiment.
    out : path
        The model file to write.
    variant : str, optional
        The variant of an experiment; None: the one with the best mean.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        If the folder holds neither, or the file cannot be written.
    ModelError
        If there is no such variant, no model, or the models cannot be averaged.
    """
    place, file = as_path(folder, "a cross-validation or experiment"), as_path(out, "the model file to write")
    found = fold_models(place, variant)
    models = [load_model(path) for path in found]
    ensemble = ensemble_model(models)
    train = sorted({name for model in models for name in model.summary.get("split", {}).get("train", ())})
    pixels = sorted({key for model in models for key in model.summary.get("training_pixels", ())})
    names = [path.parent.name for path in found]
    summary = {"ensemble": names, "split": {"train": train}, "training_pixels": pixels}
    return save_model(ensemble, file, summary)


def fold_models(folder: Path, variant: str | None = None) -> list[Path]:
    """The model files of all folds (and seeds) in the folder of a cross-validation or experiment."""
    if (folder / "crossval.json").is_file():
        if variant is not None:
            raise ModelError(f"{folder} is a cross-validation, which has no variants; leave out the variant.")
        found = sorted(folder.glob(f"fold*/{_MODEL}"), key=lambda path: int(path.parent.name.removeprefix("fold")))
        folds = int(read_json(folder / "crossval.json")["folds"])
        if len(found) < folds:
            raise ModelError(
                f"{folder} has models of {len(found)} of its {folds} folds; let it go on to its end first."
            )
        return found
    if not (folder / "experiment.json").is_file():
        raise OutputError(f"{folder} is no cross-validation and no experiment; give the folder of one.")
    name = _best(folder) if variant is None else variant
    found = sorted((folder / "trials").glob(f"{file_word(name)}-fold*-seed*/{_MODEL}"))
    if not found:
        known = ", ".join(read_json(folder / "experiment.json")["variants"])
        raise ModelError(f"{folder} has no model of {name}; its variants are {known}.")
    return found


def _best(folder: Path) -> str:
    """The variant with the best mean."""
    if not (folder / "report.json").is_file():
        raise ModelError(f"{folder} has no finished trial yet; let it go on first.")
    report = read_json(folder / "report.json")
    scored: dict[str, float] = {
        name: own[report["metric"]] for name, own in report["variants"].items() if own["trials"]
    }
    if not scored:
        raise ModelError(f"No variant of {folder} could be trained, so there is no model; its report says why.")
    return max(scored, key=lambda name: scored[name] or 0.0)

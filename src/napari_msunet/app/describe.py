"""Descriptions of files and folders: what kind they are (slide, label store, model), and their properties."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_msunet.annotation import read_shape_file
from napari_msunet.config import ClassicalConfig, Kind, ModelConfig, ValueRange
from napari_msunet.constants import OUTLINE_ENDINGS
from napari_msunet.errors import ImageNeededError, MsunetError, StoreError
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.corrupt_chunks import in_words
from napari_msunet.labels.metadata import load_info
from napari_msunet.slide import open_slide
from napari_msunet.slide.numbers import TOLD

if TYPE_CHECKING:
    from napari_msunet.models import MSUNet


def describe(path: Path, kind: Kind | None = None, value_range: ValueRange | None = None) -> dict[str, Any]:
    """Describe what is at `path`, as plain values.

    Parameters
    ----------
    path : Path
    kind, value_range : optional
        For a slide, as in `open_slide`.

    Raises
    ------
    MsunetError
        If nothing is there, or nothing that napari-msunet reads.
    """
    if not path.exists():
        raise MsunetError(f"There is nothing at {path}; give a slide, a label store or a model file.")
    if path.suffix == ".safetensors":
        return {"is": "model", **_model(path)}
    if path.is_dir() and _is_store(path):
        return {"is": "label store", **_store(open_labels(path))}
    if path.suffix.lower() in OUTLINE_ENDINGS:
        return {"is": "outlines", **_outlines(path)}
    return {"is": "slide", **_slide(path, kind, value_range)}


def _is_store(path: Path) -> bool:
    try:
        load_info(path)
    except StoreError as error:
        if (path / "edited").is_dir():
            raise  # a damaged label store: the error says so, instead of a description of it as an image
        del error
        return False
    return True


def _outlines(path: Path) -> dict[str, Any]:
    try:
        found = read_shape_file(path)
    except ImageNeededError as error:
        return {"path": str(path), "shapes": str(error)}
    names = Counter(shape.name or "without a class" for shape in found.shapes)
    return {
        "path": str(path),
        "format": found.format,
        "shapes": len(found.shapes),
        "classes": [f"{name}: {count}" for name, count in sorted(names.items())],
        "use": "napari-msunet import, with the slide that they lie on",
    }


def _slide(path: Path, kind: Kind | None, value_range: ValueRange | None) -> dict[str, Any]:
    with open_slide(path, kind=kind, value_range=value_range) as slide:
        slide.check_levels()
        numbers = slide.numbers
        height, width, channels = slide.shape
        unknown = f"unknown: {slide.mpp_note or 'the file does not say it'}"
        mpp = unknown if slide.mpp is None else list(slide.mpp)
        return {
            "path": str(path),
            "height": height,
            "width": width,
            "channels": list(slide.channels) or channels,
            "dtype": str(slide.dtype),
            "um_per_pixel": mpp,
            "kind": f"{numbers.kind} ({TOLD[numbers.kind_from]})",
            "value_range": list(numbers.value_range),
            "value_range_from": TOLD[numbers.range_from] + (f": {numbers.doubt}" if numbers.doubt else ""),
            "downsamples": [round(float(y), 4) for y, _ in slide.downsamples],
            "background": slide.background.tolist(),
            **({"read_as": list(slide.notes)} if slide.notes else {}),
            "identity": slide.identity,
        }


def _store(store: LabelStore) -> dict[str, Any]:
    return {
        "path": str(store.path),
        "slide": store.info.slide,
        "kind": store.kind,
        "height": store.shape[0],
        "width": store.shape[1],
        "dtype": str(store.dtype),
        "um_per_pixel": "none: it is in pixels of its image" if store.mpp is None else list(store.mpp),
        "level0_pixels_per_pixel": list(store.pixel),
        "levels": len(store.levels),
        "classes": [f"{value} {name}" for value, name in enumerate(store.classes, 1)],
        **_damage(store),
        "runs": [f"{run.key} ({'complete' if run.complete else 'unfinished'})" for run in store.runs],
    }


def _damage(store: LabelStore) -> dict[str, Any]:
    """Sentences about the damaged parts of a store and its runs; empty where nothing is damaged."""
    found = []
    for plane, called in (("labels", "its labels"), ("edited", "its mask of what was edited")):
        if damages := store.find_corrupt_chunks((plane,)):
            found.append(in_words(damages, f"{store.path.name} ({called})", store.shape) + ".")
    for run in store.runs:
        if damages := run.find_corrupt_chunks():
            found.append(in_words(damages, f"{store.path.name} (its run {run.key})", store.shape) + ".")
    found += store.unreadable_runs
    return {"damaged": found} if found else {}


def _trained_on(config: ModelConfig) -> dict[str, Any]:
    """What the pixel values of the training images meant."""
    kept = config.trained_on
    if kept is None:
        return {"trained_on": "unknown: a model of before this was kept, or not trained"}
    ranges = [f"{dtype} from {low:g} to {high:g}" for dtype, (low, high) in kept.ranges.items()]
    return {"trained_on": [kept.kind or "brightfield and fluorescence", *ranges]}


def _method(model: MSUNet) -> dict[str, Any]:
    """What a classical method looks at, and the thresholds or centres that it found."""
    branch = model.config.branches[0]
    if not isinstance(branch, ClassicalConfig):
        return {}
    found = model.branch(0).network
    values = [", ".join(f"{v:.4g}" for v in row) for row in found.values.tolist()]
    return {
        "method": f"{branch.method} of {branch.look}",
        "parts_at": values if found.fitted else "those of each slide",
    }


def _model(path: Path) -> dict[str, Any]:
    from napari_msunet.models import load_model

    model = load_model(path)
    config = model.config
    return {
        "path": str(path),
        "classes": [f"{value} {name}" for value, name in enumerate(config.classes, 1)],
        "um_per_pixel": f"none: it works {config.resolution.at}" if config.mpp is None else config.mpp,
        "scales": [str(ratio) for ratio in config.ratios],
        "fusion": config.fusion,
        "channels": config.channels,
        "depths": [branch.depth for branch in config.branches],
        "widths": [branch.width for branch in config.branches],
        "shared": config.shared,
        **_method(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "margin": model.margin,
        "size_multiple": config.size_multiple,
        **_trained_on(config),
        "fingerprint": model.fingerprint,
        "training": {name: value for name, value in model.summary.items() if isinstance(value, int | float | str)},
        "validation": {
            output: ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            for output, numbers in model.summary.get("validation", {}).items()
        },
    }

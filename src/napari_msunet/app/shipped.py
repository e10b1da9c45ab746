"""The model that comes with the package."""

from __future__ import annotations

from pathlib import Path

import napari_msunet
from napari_msunet.errors import ModelError

NONE_SHIPPED = (
    "No model comes with this copy of napari-msunet; train one first, or load a model file in the Model step."
)


def shipped_model() -> Path:
    """The model file of nuclei that comes with the package.

    Raises
    ------
    ModelError
        If this copy has none.
    """
    path = Path(napari_msunet.__file__).parent / "shipped" / "nuclei.safetensors"
    if not path.is_file():
        raise ModelError(NONE_SHIPPED)
    return path

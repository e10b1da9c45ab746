"""A pytest plugin: napari's own tests of its labels layer get a `PyramidLabels` over a store with the same content.

Used by `test_pyramid_labels_napari.py` in a pytest of its own (`-p widgets.paint.napari_on_store`). The tests look at
`layer.data` as the array they gave, so a stand-in shows level 0 of the store there and hands all else to the layer.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.colormaps import label_colormap

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.paint import PyramidLabels

if importlib.util.find_spec("xarray") is None:
    # napari's tests import it for arrays that a store cannot be; those are skipped
    sys.modules["xarray"] = ModuleType("xarray")


def pytest_collection_finish() -> None:
    """The stand-in has done its work: napari itself must not take it for the real thing."""
    if not hasattr(sys.modules["xarray"], "DataArray"):
        del sys.modules["xarray"]


class OnStore(PyramidLabels):
    """With `data` as napari's tests look at it; napari's own code asks for the levels."""

    @property
    def data(self) -> Any:
        return Level0(PyramidLabels.data.fget(self))

    @data.setter
    def data(self, data: Any) -> None:
        PyramidLabels.data.fset(self, data)


class Level0:
    """The levels, and level 0 for whoever indexes with more than a number or asks for an array."""

    def __init__(self, levels: Any) -> None:
        self._levels = levels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._levels, name)

    def __len__(self) -> int:
        return len(self._levels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self._levels[0], dtype)

    def copy(self) -> Any:
        return np.asarray(self)

    def __getitem__(self, key: Any) -> Any:
        return self._levels[key] if isinstance(key, int) else np.asarray(self)[key]

    def _compared(self, how: str, other: Any) -> Any:
        return getattr(np.asarray(self), how)(other)

    def __eq__(self, other: object) -> Any:
        return self._compared("__eq__", other)

    def __ne__(self, other: object) -> Any:
        return self._compared("__ne__", other)

    def __gt__(self, other: object) -> Any:
        return self._compared("__gt__", other)


@pytest.fixture(autouse=True)
def _stores_instead_of_arrays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[LabelStore] = []

    def make(data: Any, **options: Any) -> Any:
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.dtype.kind not in "iu" or data.min() < 0:
            pytest.skip("a store holds 2-D arrays of labels from 0 up")
        classes = [str(number) for number in range(1, 255)] if data.dtype == np.uint8 else []
        dtype = "uint8" if data.dtype == np.uint8 else "uint32"
        path = tmp_path / f"{len(made)}.ome.zarr"
        store = LabelStore.create(path, data.shape, classes=classes, dtype=dtype)
        store.write(Window(0, 0, *data.shape), data.astype(dtype))
        made.append(store)
        return OnStore(store, **({"colormap": label_colormap(49, 0.5, background_value=0)} | options))

    monkeypatch.setattr(request.module, "Labels", _Maker(make))


class _Maker(type):
    """A stand-in for the class `Labels`: calling it makes an `OnStore`, its attributes are those of `Labels`."""

    def __new__(cls, make: Any) -> Any:
        made = super().__new__(cls, "Labels", (), {})
        made.make = staticmethod(make)
        return made

    def __init__(cls, make: Any) -> None:
        super().__init__("Labels", (), {})

    def __call__(cls, data: Any, **options: Any) -> Any:
        return cls.make(data, **options)

    def __getattr__(cls, name: str) -> Any:
        return getattr(Labels, name)

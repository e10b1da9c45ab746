"""Writer contributions: what napari's File > Save calls for labels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.errors import MsunetError


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a labels layer as GeoJSON (QuPath), as a pyramid in OME-Zarr, or as a pyramid in OME-TIFF.

    Parameters
    ----------
    path : str
        The ending decides: ``.geojson``, ``.zarr`` or ``.tif``; the last two become ``.ome.zarr`` and ``.ome.tif``.
    data : array, or sequence of arrays
        The layer's data: those of labels of this plugin, or a plain image ``(h, w)`` of whole numbers.
    meta : dict
        The layer's other attributes, as napari gives them.

    Returns
    -------
    list of str
        The written file or folder.

    Raises
    ------
    MsunetError
        If the data are no image of class numbers, or the file cannot be written.
    """
    out = _named(Path(path))
    store = getattr(data[0], "store", None) if len(data) else None
    if store is not None:
        store.flush()
        _export(store.path, out)
    else:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            _export(_as_store(Path(folder) / f"{out.name.split('.')[0]}.ome.zarr", data, meta), out)
    return [str(out)]


def _named(path: Path) -> Path:
    """The path with the ending that the export knows."""
    for short, long in ((".zarr", ".ome.zarr"), (".tiff", ".ome.tif"), (".tif", ".ome.tif")):
        if path.name.lower().endswith(short) and not path.name.lower().endswith((".ome" + short, long)):
            return path.with_name(path.name[: -len(short)] + long)
    return path


def _export(labels: Path, out: Path) -> None:
    from napari_msunet.config import ExportJob
    from napari_msunet.jobs.run import run

    for _ in run(ExportJob(labels=labels, out=out)):
        pass


def _as_store(path: Path, data: Any, meta: dict[str, Any]) -> Path:
    """A label store with the values of another plugin's layer."""
    from napari_msunet.geometry import Region
    from napari_msunet.labels import LabelStore
    from napari_msunet.slide.pixel_size import PIXELS

    values = np.asarray(data[0] if meta.get("multiscale") else data)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise MsunetError(
            f"The layer {meta.get('name', '')!r} has data of shape {values.shape} and type {values.dtype}; only an "
            "image (height, width) of whole numbers can be saved as labels."
        )
    highest = int(values.max(initial=0))
    if highest > 254 or int(values.min(initial=0)) < 0:
        raise MsunetError(
            f"The layer {meta.get('name', '')!r} has values up to {highest}; classes are 1 to 254, so save numbered "
            "objects in a format of napari."
        )
    scale = [float(v) for v in meta.get("scale", (1.0, 1.0))[-2:]]
    micrometres = all("micrometer" in str(unit) or str(unit) == "µm" for unit in meta.get("units", ("px",))[-2:])
    classes = tuple(f"class {n}" for n in range(1, max(1, highest) + 1))
    with LabelStore.create(path, values.shape, (scale[0], scale[1]) if micrometres else PIXELS, classes) as store:
        store.write(Region(0, 0, *values.shape), values.astype(np.uint8))
    return path

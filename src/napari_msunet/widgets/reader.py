"""Reader contributions: what napari calls when a file is dropped, opened from the menu or given on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_msunet.constants import OUTLINE_ENDINGS

Reader = Callable[[Any], list[Any]]

DOCK = "Multi-scale U-Net"
"""The name of the dock widget."""


def get_slide_reader(path: str | Sequence[str]) -> Reader | None:
    """Answer napari whether these paths can be read: the reader for slides and label stores, or None."""
    paths = _paths(path)
    if not paths or not all(p.exists() for p in paths):
        return None
    if len(paths) == 1 and is_project(paths[0]):
        return open_project
    if any(p.name == "project.json" for p in paths):  # of another program
        return None
    if all(p.is_file() and p.suffix.lower() in OUTLINE_ENDINGS for p in paths):
        from napari_msunet.annotation.formats import is_outline_file

        return read_outlines if all(is_outline_file(p) for p in paths) else None
    if any(p.is_dir() and not ((p / "zarr.json").is_file() or (p / ".zattrs").is_file()) for p in paths):
        return None
    return read


def read(path: str | Sequence[str]) -> list[Any]:
    """The layers of the given files; napari adds them to the viewer.

    Raises
    ------
    MsunetError
        If a file cannot be read; the message is one sentence.
    """
    from napari_msunet.widgets.slide_layers import slide_layers

    layers: list[Any] = []
    for one in _paths(path):
        layers += [_labels(one)] if is_label_store(one) else slide_layers(one)
    return layers


def is_project(path: Path) -> bool:
    """Whether a path is the folder of a project, or the file in it."""
    from napari_msunet.app.project import ENDING, FILE

    folder = path.parent if path.name == FILE else path
    return folder.name.endswith(ENDING) and (folder / FILE).is_file()


def open_project(path: str | Sequence[str]) -> list[Any]:
    """Open a project in the dock of the present viewer, which is shown if it is not there; gives no layer of its own.

    Raises
    ------
    MsunetError
        If it cannot be opened; the message is one sentence.
    """
    import napari

    from napari_msunet.app.project import Project

    viewer = napari.current_viewer()
    if viewer is not None:
        dock = _dock_of(viewer) or viewer.window.add_plugin_dock_widget("napari-msunet", DOCK)[1]
        dock.open_project(Project.open(_paths(path)[0]).folder)
    return [(None,)]


def read_outlines(path: str | Sequence[str]) -> list[Any]:
    """Paint files of outlines into the annotation of the slide that the dock shows; there is no layer of their own.

    Raises
    ------
    MsunetError
        If there is no dock, or no slide in it.
    """
    import napari

    from napari_msunet.errors import MsunetError

    viewer = napari.current_viewer()
    dock = None if viewer is None else _dock_of(viewer)
    if dock is None:
        raise MsunetError(
            f"{_paths(path)[0]} holds outlines, which lie on a slide: open the slide and the dock ({DOCK}, in the "
            "Plugins menu), and drop the file again."
        )
    for one in _paths(path):
        dock.steps["annotate"].import_outlines(one)
    return [(None,)]


def _dock_of(viewer: Any) -> Any:
    """The dock in a viewer's window, found by its name, because the dock itself opens files with this reader."""
    from qtpy.QtWidgets import QWidget

    from napari_msunet.widgets.napari_internals import main_window

    named: list[Any] = main_window(viewer).findChildren(QWidget, DOCK)
    # The frame around it has its name too.
    return next((widget for widget in named if hasattr(widget, "steps") and not widget.closed), None)


def is_label_store(path: Path) -> bool:
    """Whether a folder is a label store."""
    from napari_msunet.errors import StoreError
    from napari_msunet.labels.metadata import load_info

    if not (path / "zarr.json").is_file() or not (path / "journal").is_dir():
        return False
    try:
        load_info(path)
    except StoreError:
        return False
    return True


def chosen(path: str | Path) -> Path:
    """The path that a person meant in a file dialog: for a metadata file, the folder of its OME-Zarr."""
    where = Path(path)
    return where.parent if where.name in ("zarr.json", ".zattrs", ".zgroup") else where


def _labels(path: Path) -> Any:
    """An editable layer. Readers may give whole layers instead of tuples, and a tuple could not be of our class."""
    from napari_msunet.widgets.paint import PyramidLabels

    return PyramidLabels(path)


def _paths(path: str | Sequence[str]) -> list[Path]:
    return [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]

"""Which public set lies in a folder, told by its files and their content."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from napari_msunet.data.published.entry import Family
from napari_msunet.errors import SourceError

MODULES = {
    "pannuke": "pannuke",
    "isbi2012": "isbi2012",
    "bids": "bids",
    "glas": "glas",
    "tupac16": "tupac16",
    "consep": "consep",
    "lizard": "lizard",
    "camelyon16": "camelyon16",
    "monuseg": "monuseg",
}
"""Module of each family, those first that are the quickest to tell."""


def family(name: str) -> Family:
    """The module of a family."""
    return cast(Family, import_module(f"napari_msunet.data.published.{MODULES[name]}"))


def recognised(folder: Path) -> str:
    """The name of the set in a folder.

    Raises
    ------
    SourceError
        If there is no folder, or none of the known sets is in it.
    """
    if not folder.is_dir():
        raise SourceError(f"There is no folder {folder}; give the folder into which the set was unpacked.")
    for name in MODULES:
        if family(name).found(folder):
            return name
    raise SourceError(
        f"{folder} looks like none of the sets {', '.join(sorted(MODULES))}; say which one it is (set=...), give the "
        "folder into which it was unpacked, or give images and masks as two folders."
    )

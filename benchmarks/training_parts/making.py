"""What the parts train on."""

from __future__ import annotations

from pathlib import Path

import napari_msunet as ms

NUCLEI = Path(ms.__file__).parent / "demo_data" / "nuclei" / "train"


def nuclei() -> ms.FolderSource:
    """The shipped nuclei."""
    return ms.FolderSource(images=NUCLEI / "images", masks=NUCLEI / "masks", values="instances", mpp=0.5)

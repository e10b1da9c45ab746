"""CoNSeP: nuclei of colorectal cancer in 41 images of 1000 x 1000 pixels (Graham et al. 2019).

``Train/Images/train_1.png`` and ``Train/Labels/train_1.mat`` with ``type_map``; 0.25 µm/px. Patients are not given.
"""

from __future__ import annotations

from pathlib import Path

from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import Contents, Pixels, has_labels, mat_entries, read_mat, whole_numbers

CLASSES = {
    1: "other",
    2: "inflammatory",
    3: "healthy epithelial",
    4: "malignant epithelial",
    5: "fibroblast",
    6: "muscle",
    7: "endothelial",
}
MPP = 0.25


def found(folder: Path) -> bool:
    """Whether the MATLAB files have a map of types."""
    return has_labels(folder, "type_map")


def contents(folder: Path, source: PublishedSource) -> Contents:
    """All images with their map of types."""
    return Contents(CLASSES, mat_entries(folder, _mask, MPP))


def _mask(path: Path) -> Pixels:
    return whole_numbers(read_mat(path, "type_map")["type_map"])

"""Lizard: nuclei of the colon in images of six sources (Graham et al. 2021).

``Lizard_Images1/consep_1.png`` and ``Lizard_Labels/Labels/consep_1.mat`` with ``inst_map``, ``id`` and ``class``; 0.5
µm/px. Patients are not given.
"""

from __future__ import annotations

from pathlib import Path

from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import (
    Contents,
    Pixels,
    by_class,
    has_labels,
    mat_entries,
    read_mat,
    whole_numbers,
)

CLASSES = {1: "neutrophil", 2: "epithelial", 3: "lymphocyte", 4: "plasma", 5: "eosinophil", 6: "connective"}
MPP = 0.5


def found(folder: Path) -> bool:
    """Whether the MATLAB files have a class for each object."""
    return has_labels(folder, "class")


def contents(folder: Path, source: PublishedSource) -> Contents:
    """All images with their objects."""
    return Contents(CLASSES, mat_entries(folder, _mask, MPP))


def _mask(path: Path) -> Pixels:
    labels = read_mat(path, "inst_map", "id", "class")
    return by_class(whole_numbers(labels["inst_map"]), labels["id"], labels["class"])

"""Lizard: nuclei of the colon in images of six sources (Graham et al. 2021).

``Lizard_Images1/consep_1.png`` and ``Lizard_Labels/Labels/consep_1.mat`` with ``inst_map``, ``id`` and ``class``; 0.5
µm/px. Patients are not given.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import (
    Contents,
    Entry,
    Pixels,
    by_class,
    has_labels,
    opened,
    paired,
    place_of,
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
    entries = [
        Entry(
            image.stem,
            place_of(image, folder),
            opened(image),
            partial(_mask, labels),
            mpp=MPP,
            path=image,
            objects=partial(_objects, labels),
        )
        for image, labels in paired(folder)
    ]
    return Contents(CLASSES, entries)


def _objects(path: Path) -> Pixels:
    return whole_numbers(read_mat(path, "inst_map")["inst_map"])


def _mask(path: Path) -> Pixels:
    labels = read_mat(path, "inst_map", "id", "class")
    return by_class(whole_numbers(labels["inst_map"]), labels["id"], labels["class"])

"""GlaS: glands of the colon, the Warwick-QU set (Sirinukunwattana et al. 2017).

``train_1.bmp`` beside ``train_1_anno.bmp`` (numbers of glands), and ``Grade.csv`` with patient and grade; 0.62 µm/px by
the challenge's page. Its own parts train, testA and testB share patients, so the patient is the group.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from napari_msunet._io import read_csv
from napari_msunet.config import PublishedSource
from napari_msunet.data.masks import read_mask
from napari_msunet.data.published.entry import Contents, Entry, Pixels, files_in, opened, place_of

CLASSES = {1: "benign", 2: "malignant"}
MPP = 0.62
_MARK = "_anno"


def found(folder: Path) -> bool:
    """Whether there is a bitmap with its annotation."""
    return any(folder.rglob(f"*{_MARK}.bmp"))


def contents(folder: Path, source: PublishedSource) -> Contents:
    """All images with an annotation; the glands of one are all benign or all malignant, as its grade says."""
    images = {p.stem: p for p in files_in(folder, ".bmp")}
    grades = _grades(folder)
    entries = []
    for stem, path in images.items():
        if stem + _MARK in images:
            patient, number = grades.get(stem, (None, 1))
            entries.append(
                Entry(
                    name=stem,
                    place=place_of(path, folder),
                    open=opened(path),
                    mask=partial(_mask, images[stem + _MARK], number),
                    mpp=MPP,
                    group=patient,
                    path=path,
                    objects=partial(_objects, images[stem + _MARK]),
                )
            )
    notes = () if grades else ("There is no Grade.csv: all glands count as benign, and patients are not known.",)
    return Contents(CLASSES, entries, notes=notes)


def _grades(folder: Path) -> dict[str, tuple[str, int]]:
    """Patient, and number of the class of all glands, by the image's name."""
    path = next(iter(sorted(folder.rglob("Grade.csv"))), None)
    if path is None:
        return {}
    columns, rows = read_csv(path)
    patient = next((c for c in columns if "patient" in c.lower()), "")
    grade = next((c for c in columns if "glas" in c.lower()), columns[-1])
    return {r["name"]: (f"patient {r.get(patient, '')}", 1 + (r[grade] == "malignant")) for r in rows if r.get("name")}


def _objects(path: Path) -> Pixels:
    return np.asarray(read_mask(path))


def _mask(path: Path, number: int) -> Pixels:
    return np.where(read_mask(path) != 0, number, 0)

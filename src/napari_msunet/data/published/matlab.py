"""What CoNSeP and Lizard share: nuclei as MATLAB files, one beside each image."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.data.published.entry import Pixels, files_in
from napari_msunet.errors import SourceError


def read_mat(path: Path, *names: str) -> dict[str, Any]:
    """Some variables of a MATLAB file.

    Raises
    ------
    SourceError
        If it cannot be read or one is not in it.
    """
    from scipy.io import loadmat

    try:
        found: dict[str, Any] = loadmat(path, variable_names=names)
    except (OSError, ValueError, NotImplementedError, TypeError) as error:
        raise SourceError(f"{path} cannot be read as a MATLAB file ({error}); unpack the set again.") from error
    if missing := [n for n in names if n not in found]:
        raise SourceError(f"{path} has no variable {missing[0]}; give the set's own label files.")
    return found


@lru_cache(maxsize=64)
def variables(path: Path) -> frozenset[str]:
    """Names of the variables in a MATLAB file; none where it is no such file."""
    from scipy.io import whosmat

    try:
        return frozenset(name for name, _, _ in whosmat(path))
    except (OSError, ValueError, NotImplementedError, TypeError):
        return frozenset()


def has_labels(folder: Path, name: str) -> bool:
    """Whether the first MATLAB file below a folder has a variable of this name."""
    first = next(iter(files_in(folder, ".mat")), None)
    return first is not None and {"inst_map", name} <= variables(first)


def paired(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Images and their MATLAB files: of one name, and where several have it, with the most of their path in common."""
    labels: dict[str, list[Path]] = {}
    for path in files_in(folder, ".mat"):
        labels.setdefault(path.stem, []).append(path)
    for image in files_in(folder, ".png", ".tif", ".tiff"):
        near = labels.get(image.stem)
        if near and not any("overlay" in part.lower() for part in image.relative_to(folder).parts):
            yield image, max(near, key=lambda p: sum(a == b for a, b in zip(p.parts, image.parts, strict=False)))


def by_class(instances: Pixels, numbers: Any, classes: Any) -> Pixels:
    """The class of each pixel: that of its object, whose number and class stand at the same place of two lists."""
    table = np.zeros(int(instances.max(initial=0)) + 1, np.int64)
    listed = np.asarray(numbers).ravel().astype(np.int64)
    inside = (listed >= 0) & (listed < len(table))
    table[listed[inside]] = np.asarray(classes).ravel().astype(np.int64)[inside]
    table[0] = 0
    return table[instances.astype(np.int64)]

"""The tissue mask as labels that a person can correct."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from napari_msunet.errors import SlideError, StoreError, as_path
from napari_msunet.geometry import Resolution, Window
from napari_msunet.labels.store import LabelStore, open_labels
from napari_msunet.slide import Slide, TissueMask, tissue_mask

TISSUE = "tissue"
"""The class of a tissue store."""
COLOUR = (64, 192, 255)
_BLOCK = 2048


def tissue_labels(slide: Slide, out: str | Path, mask: TissueMask | None = None) -> LabelStore:
    """Write the tissue of a slide as a label store, to be corrected with the brush.

    Training and prediction keep to it with ``InClasses(labels=out)`` as their `within` or `where`. The mask is the
    machine's part of the store: what a person corrected stays when it is found and written again.

    Parameters
    ----------
    slide : Slide
        With µm per pixel, or without: then the mask is in pixels of the slide.
    out : path
        The store, made with the class "tissue" and the mask's pixels; or one that was made so before.
    mask : TissueMask, optional
        From `tissue_mask`; None: found with its usual settings.

    Returns
    -------
    LabelStore

    Raises
    ------
    StoreError
        If `out` is a store with other pixels or without the class "tissue".
    OutputError
        If it cannot be written.
    """
    if not isinstance(slide, Slide):
        raise SlideError(f"{slide!r} is no slide; open it with open_slide.")
    mask = mask or tissue_mask(slide)
    path = as_path(out, "the label store to make")
    if path.exists():
        store = open_labels(path)
        if store.extent != mask.grid.extent or store.shape != mask.grid.shape or TISSUE not in store.classes:
            raise StoreError(
                f"{path} is no tissue of this slide: it has {store.shape[0]} x {store.shape[1]} pixels and the classes "
                f"{', '.join(store.classes)}, not {mask.grid.shape[0]} x {mask.grid.shape[1]} and {TISSUE}; choose "
                "another name."
            )
    else:
        store = LabelStore.create(
            path,
            mpp=mask.grid.mpp or Resolution(mask.grid.pixel[0], "px"),
            classes=(TISSUE,),
            slide=slide,
            colours=[COLOUR],
        )
    key = f"tissue-{_digest(mask)}"
    run = store.create_run(key, {"tissue": mask.key}, (TISSUE,), {"labels": "uint8"})
    if not run.complete:
        with run.writing():
            for number, window in enumerate(_blocks(mask.grid.whole)):
                run.write(window, {"labels": mask.read(window).astype(np.uint8)})
                run.finish(number, window)
            run.complete_run()
    store.merge(run)
    return store


def _digest(mask: TissueMask) -> str:
    """Tells masks apart by their pixels, too: a mask may have been changed by hand."""
    digest = hashlib.sha256(json.dumps(mask.key, sort_keys=True).encode())
    digest.update(np.packbits(mask.mask).tobytes())
    return digest.hexdigest()[:16]


def _blocks(whole: Window) -> list[Window]:
    return [
        Window(y, x, _BLOCK, _BLOCK).intersection(whole)
        for y in range(0, whole.height, _BLOCK)
        for x in range(0, whole.width, _BLOCK)
    ]

"""The labels of what is in view by a model file that changes, such as the best model so far of a training that runs.

Nothing is stored. The engine is that of a prediction, so the labels are those that a prediction would give.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from math import sqrt

from napari_msunet import events
from napari_msunet.config import LiveRequest, PredictOptions
from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.events import Answered, Event, Result
from napari_msunet.geometry import Region, Window
from napari_msunet.inference.model_cache import ModelCache
from napari_msunet.inference.network import is_out_of_memory
from napari_msunet.inference.postprocess import decide
from napari_msunet.inference.setup import SMALL, on_own_pixels, plan_for, set_up
from napari_msunet.models import MSUNet
from napari_msunet.slide import Slide

MOST_PIXELS = 16 * 2**20
"""Most target pixels that are labelled; of a larger view, those about its middle."""

TILE = 1024
"""Side of a tile in target pixels, where a view is large: after each, the time is looked at."""


class LiveLabels:
    """Labels views one after the other, and keeps the last model and slide between them."""

    def __init__(self) -> None:
        self._cache = ModelCache(models=1, slides=1)

    def label(self, request: LiveRequest) -> Iterator[Event]:
        """The events of a request: `Answered` for each tile, from the middle of the view outwards, and a `Result`.

        The values of the result are `seconds`; `model`, its fingerprint, or "" while there is no model file; and where
        the model was not known, `classes`, its classes; `epoch`, that of the training after which it was kept, or None;
        and `whole`, whether all that is in view was labelled.

        Raises
        ------
        MsunetError
            If the model or the slide cannot be used, or the memory does not suffice.
        """
        began = time.monotonic()
        if not request.model.exists():
            yield Result(values={"seconds": 0.0, "model": ""})
            return
        model = self._cache.model(request.model)
        name = model.fingerprint
        if name == request.known:
            yield Result(values={"seconds": round(time.monotonic() - began, 4), "model": name})
            return
        with self._cache.slide(request.slide, request.slide_mpp, request.image_kind, request.value_range) as slide:
            try:
                whole = yield from _tiles(request, model, name, slide, began)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise MsunetError(
                    "The memory does not suffice to show the training on what is in view; zoom in, or end other "
                    "programs."
                ) from error
        about = {"classes": list(model.config.classes), "epoch": model.summary.get("best_epoch"), "whole": whole}
        values = {"model": name, **about}
        yield Result(values={"seconds": round(time.monotonic() - began, 4), **values})


def _tiles(request: LiveRequest, model: MSUNet, name: str, slide: Slide, began: float) -> Generator[Event, None, bool]:
    """The tiles of a view; returns whether they are all."""
    setup = on_own_pixels(set_up(slide, [model], PredictOptions(device=request.device)))
    seen = setup.grid.centres(Region(*request.view)).intersection(setup.grid.whole)
    if seen.empty:
        return True
    window = _about_the_middle(seen)
    large = window.height * window.width > SMALL
    setup = replace(setup, window=window, options=setup.options.model_copy(update={"tile": TILE if large else None}))
    events.current().look(request.view)  # the engine begins with what is nearest to the middle
    work = setup.passes(plan_for(setup), setup.devices[0])
    works, done = work.works(None, ()), 0
    with closing(work.run(works)) as found:  # type: ignore[type-var]  # both passes give generators
        for results in found:
            for result in results:
                if result.maps is None:
                    raise SlideError(result.failed or "A tile could not be computed.")
                labels = decide(result.maps.probabilities, setup.thresholds)
                tile = result.tile.window
                part = tile.intersection(window)
                yield Answered.of(setup.grid, part, labels[part.slices((tile.y, tile.x))], name)
            done += 1
            if request.seconds is not None and time.monotonic() - began > request.seconds:
                break
    return window == seen and done == len(works)


def _about_the_middle(window: Window) -> Window:
    """The window, or the part of it about its middle that is not too large."""
    share = sqrt(min(1.0, MOST_PIXELS / (window.height * window.width)))
    height, width = (max(1, int(side * share)) for side in window.shape)
    return Window(window.y + (window.height - height) // 2, window.x + (window.width - width) // 2, height, width)

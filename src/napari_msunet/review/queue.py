"""The review queue: the windows of a slide that most deserve to be looked at, best first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from napari_msunet._io import csv_name, csv_text, write_text
from napari_msunet.config import Damaged
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Grid, Window
from napari_msunet.labels.runs.run import Run
from napari_msunet.labels.store import check_run, check_store
from napari_msunet.review import scores as scores
from napari_msunet.review.scores import Cells, Flags, Means, Tell
from napari_msunet.review.state import ReviewState, load_state, predicted, still_accepted

if TYPE_CHECKING:
    from napari_msunet.labels.store import LabelStore
    from napari_msunet.objects.table import ObjectTable
By = Literal["disagreement", "entropy", "distance", "oddity"]
RANKINGS: tuple[By, ...] = get_args(By)

SIZE = 256
LIMIT = 200
MOST = 10_000
"""The most places of a queue: more than a person reviews."""

_TISSUE = 0.1
"""Share of a window that must be tissue for it to be offered."""

_REVIEWED = 0.5
"""Share of a window that must be accepted or edited for it not to be offered again."""


@dataclass(frozen=True)
class Candidate:
    """A place worth a look, found by a ranking or by the caller.

    Attributes
    ----------
    window : Window
        In level-0 pixels of the store.
    score : float
        A place with a higher score comes sooner; what the number means depends on `by`.
    reason : str
        Why the place is offered, in a few words for people.
    by : str
        What it was ranked by: "disagreement", "entropy" (both 0..1), "distance" (µm, or pixels), "oddity" (robust
        standard deviations), or a name of the caller's own.
    """

    window: Window
    score: float
    reason: str
    by: str

    @property
    def centre(self) -> tuple[float, float]:
        """The middle `y, x` in level-0 pixels of the store."""
        return self.window.y + self.window.height / 2, self.window.x + self.window.width / 2


@dataclass(frozen=True)
class Survey:
    """A queue, and how far the review has come.

    Attributes
    ----------
    candidates : list of Candidate
        Best first.
    reviewed, total : int
        Windows that were accepted or edited, and all windows with tissue that a prediction covers.
    share : float
        How much of that tissue lies in reviewed windows, 0..1.
    skipped : int
        Windows that are not offered because they were skipped.
    left_out : tuple of str
        Sentences about damaged parts that were left out of the ranking.
    unpredicted : int
        Windows with tissue that are not offered because no prediction covers them; 0 where no tissue was given.
    """

    candidates: list[Candidate]
    reviewed: int
    total: int
    share: float
    skipped: int
    left_out: tuple[str, ...] = ()
    unpredicted: int = 0


class TissueLike(Protocol):
    """An object that knows where the tissue is, as `TissueMask` does."""

    def on(self, grid: Grid, window: Window) -> npt.NDArray[np.bool_]:
        """Which pixels of a window of a grid are tissue."""


def review_queue(
    labels: LabelStore | str | Path,
    by: By = "disagreement",
    size: int = SIZE,
    limit: int | None = LIMIT,
    tissue: TissueLike | None = None,
    objects: ObjectTable | None = None,
) -> list[Candidate]:
    """Places worth a look, best first; they do not overlap.

    Parameters
    ----------
    labels : LabelStore or path
    by : str
        "disagreement" between the scales or "entropy" (their mean over the window, from the runs that the store
        shows), "distance" to what was reviewed, so that the queue covers the slide, or "oddity" of objects.
    size : int
        Side of the windows in the store's level-0 pixels.
    limit : int, optional
        At most so many; None: 10,000.
    tissue : object with ``on(grid, window)``, optional
        Such as `tissue_mask(slide)`, to keep to it; only what a prediction covers is offered in any case.
    objects : ObjectTable, optional
        Exact measures for "oddity"; without it objects are found on a level of at most 4096 pixels a side.

    Raises
    ------
    StoreError
        If nothing was kept to rank by; the sentence says how to keep it.
    """
    return survey(labels, by, size, limit, tissue, objects).candidates


def survey(
    labels: LabelStore | str | Path,
    by: By | None = "disagreement",
    size: int = SIZE,
    limit: int | None = LIMIT,
    tissue: TissueLike | None = None,
    objects: ObjectTable | None = None,
    tell: Tell = lambda done, total: None,
    damaged: Damaged = "refuse",
) -> Survey:
    """As `review_queue`, with how far the review has come; with `by=None` only that.

    `tell(done, total)` is called on the way, and may raise. Where chunks that this reads are damaged: `damaged`.
    """
    from napari_msunet.labels.store import LabelStore, open_labels

    store = labels if isinstance(labels, LabelStore) else open_labels(labels)
    if by is not None and by not in RANKINGS:
        raise StoreError(f"A queue cannot be ranked by {by!r}; {', '.join(RANKINGS)} can.")
    count = MOST if limit is None else min(limit, MOST)
    if count < 1:
        raise StoreError(f"A queue of {limit} places is empty; give a limit above zero.")
    cells = Cells.over(store.info.shapes, size)
    runs = scores.merged_runs(store)
    kept = _kept(store, runs, by)
    checked = [check_store(store, damaged, ("labels", "edited"))]
    if by in ("disagreement", "entropy"):
        names = [(run, by if by in run.outputs else "probabilities") for run in kept]
        checked += [check_run(run, damaged, (name,)) for run, name in names]
    all_tissue, share = _shares(store, cells, tissue)
    state = load_state(store)
    reviewed, skipped = _reviewed(store, cells, state)
    of_tissue = share >= _TISSUE
    wanted = of_tissue & ~reviewed & ~skipped
    ranked = _Ranking(store, cells, wanted, count, tell)
    found: list[Candidate] = []
    if by == "distance":
        found = ranked.by_distance(reviewed & of_tissue)
    elif by == "oddity":
        found = ranked.by_oddity(objects)
    elif by is not None:
        found = ranked.by_output(by, kept, "probabilities" if by not in kept[0].outputs else by)
    seen = of_tissue & reviewed
    total = float(share[of_tissue].sum())
    return Survey(
        candidates=found,
        reviewed=int(seen.sum()),
        total=int(of_tissue.sum()),
        share=float(share[seen].sum()) / total if total else 0.0,
        skipped=int((skipped & of_tissue & ~reviewed).sum()),
        left_out=tuple(text for text in checked if text),
        unpredicted=int(((all_tissue >= _TISSUE) & ~of_tissue).sum()) if tissue is not None else 0,
    )


def available(labels: LabelStore) -> tuple[By, ...]:
    """The rankings that a store's outputs allow now, the best one first."""
    outputs = {name for run in scores.merged_runs(labels) for name in run.outputs}
    found: list[By] = []
    if "disagreement" in outputs:
        found.append("disagreement")
    if outputs & {"entropy", "probabilities"}:
        found.append("entropy")
    return (*found, "distance", "oddity")


def _kept(store: LabelStore, runs: Sequence[Run], by: By | None) -> list[Run]:
    """The runs that kept the output which the ranking needs."""
    if by in (None, "distance", "oddity"):
        return []
    found = [run for run in runs if by in run.outputs]
    if not found and by == "entropy":
        found = [run for run in runs if "probabilities" in run.outputs]
    if found:
        return found
    others = [f'by="{name}"' for name in available(store) if name != by]
    what = {"disagreement": "disagreement between the scales", "entropy": "entropy"}[by]
    raise StoreError(
        f'No prediction that {store.path.name} shows kept the {what}: predict again with outputs=("labels", "{by}"), '
        f"or rank {' or '.join(others)}."
    )


def _shares(store: LabelStore, cells: Cells, tissue: TissueLike | None) -> tuple[Means, Means]:
    """Share of each window that is tissue (all of it where nothing says more), and that is covered tissue."""
    if tissue is None:
        whole = np.ones(cells.counts, np.float32)
        return whole, cells.means(lambda window: predicted(store, window, cells.level), lambda done, total: None)
    f = cells.factor
    mpp = None if store.mpp is None else (store.mpp[0] * f, store.mpp[1] * f)
    grid = Grid(store.extent, (store.pixel[0] * f, store.pixel[1] * f), mpp)

    def read(window: Window) -> npt.NDArray[Any]:
        out = np.zeros(window.shape, np.bool_)
        inside = window.intersection(grid.whole)
        out[inside.slices((window.y, window.x))] = tissue.on(grid, inside)
        return out

    def read_covered(window: Window) -> npt.NDArray[Any]:
        return read(window) & predicted(store, window, cells.level)

    return cells.means(read, lambda done, total: None), cells.means(read_covered, lambda done, total: None)


def _reviewed(store: LabelStore, cells: Cells, state: ReviewState) -> tuple[Flags, Flags]:
    """Which windows were accepted or mostly edited, and which were skipped."""
    edited = store.read_edited(Window(0, 0, *store.shape), cells.level)
    accepted = still_accepted(store, state, cells.level, edited)
    reviewed = cells.mean(cells.cover(accepted)) >= _REVIEWED
    # a coarse pixel is edited where any below it is: that bounds the share, and those windows are read finely
    fine = min(2, cells.level)
    for row, column in np.argwhere((cells.mean(edited) >= _REVIEWED) & ~reviewed):
        reviewed[row, column] = store.read_edited(cells.window(row, column), fine).mean() >= _REVIEWED
    return reviewed, cells.mean(cells.cover(state.skipped_windows)) >= _REVIEWED


@dataclass(frozen=True)
class _Ranking:
    """The windows that may be offered, and the ways to rank them."""

    store: LabelStore
    cells: Cells
    wanted: Flags
    limit: int
    tell: Tell

    def by_output(self, by: By, runs: Sequence[Run], output: str) -> list[Candidate]:
        if output == "probabilities":
            values, known = scores.entropy_of_probabilities(runs, self.cells, self.wanted, self.limit, self.tell)
            values = np.where(known, values, 0)
        else:
            values = scores.output_scores(runs, self.cells, output, self.tell)
        words = {"disagreement": "the scales disagree", "entropy": "uncertain"}[by]
        return self._best(values, by, lambda row, column: f"{words}: {values[row, column]:.2f}")

    def by_distance(self, seen: Flags) -> list[Candidate]:
        centres = self.cells.centres() * np.asarray(self.store.spacing)
        indices = np.argwhere(self.wanted)
        chosen, reach = scores.farthest(centres[self.wanted], centres[seen], self.limit)
        found = []
        for index, distance in zip(chosen, reach, strict=True):
            window = self.cells.window(*indices[index].tolist())
            far = f"{_length(distance, self.store.mpp is not None)} from what was reviewed"
            reason = far if isfinite(distance) else "the middle of the tissue"
            found.append(Candidate(window, float(distance) if isfinite(distance) else 0.0, reason, "distance"))
        return found

    def by_oddity(self, objects: ObjectTable | None) -> list[Candidate]:
        table = scores.coarse_objects(self.store) if objects is None else objects
        odd = scores.odd_objects(table)
        values, which = np.zeros(self.cells.counts), np.full(self.cells.counts, -1)
        rows, columns = (table.centroid // self.cells.size).astype(int).T.reshape(2, -1)
        for index in np.argsort(odd):
            place = rows[index], columns[index]
            values[place], which[place] = odd[index], index
        typical = {kind: float(np.median(table.area[table.kind == kind])) for kind in np.unique(table.kind)}

        def reason(row: int, column: int) -> str:
            index = which[row, column]
            kind = table.kind[index]
            name = self.store.classes[kind - 1] if 0 < kind <= len(self.store.classes) else "object"
            times = float(table.area[index]) / typical[kind]
            size = f"{times:.1f} times" if times >= 1 else f"1/{1 / times:.1f} of"
            unlike = not 1 / 1.5 < times < 1.5
            return f"{name} of {size} the usual area" if unlike else f"{name} of an unusual shape"

        return self._best(values, "oddity", reason)

    def _best(self, values: npt.NDArray[Any], by: str, reason: Any) -> list[Candidate]:
        """The windows with the highest values above zero; of equal ones the first in reading order."""
        indices = np.flatnonzero(self.wanted & (values > 0))
        ranked = values.ravel()[indices]
        if len(indices) > self.limit:
            least = np.partition(ranked, len(ranked) - self.limit)[len(ranked) - self.limit]
            indices, ranked = indices[ranked >= least], ranked[ranked >= least]
        order = indices[np.argsort(-ranked, kind="stable")][: self.limit]
        places = [divmod(int(index), self.cells.counts[1]) for index in order]
        return [Candidate(self.cells.window(*p), float(values[p]), reason(*p), by) for p in places]


COLUMNS = ("rank", "by", "score", "reason", "y", "x", "height", "width", "centre_y_um", "centre_x_um")


def write_queue(candidates: Iterable[Candidate], path: str | Path, labels: LabelStore) -> Path:
    """Write a queue as CSV: one row per place, `y, x, height, width` in level-0 pixels of its slide.

    Parameters
    ----------
    candidates : iterable of Candidate
    path : path
        Ends in .csv; replaced if it is there.
    labels : LabelStore
        The store that they are places of.

    Raises
    ------
    OutputError
        If the name does not end in .csv, or the disk refuses.
    """

    path = csv_name(path, "a queue is")
    rows: list[list[Any]] = []
    for rank, place in enumerate(candidates, 1):
        w, pixel, mpp = place.window, labels.pixel, labels.mpp
        box = (w.y * pixel[0], w.x * pixel[1], w.height * pixel[0], w.width * pixel[1])
        centre = ("", "") if mpp is None else tuple(f"{c * m:.10g}" for c, m in zip(place.centre, mpp, strict=True))
        numbers = [f"{v:.10g}" for v in box]
        rows.append([rank, place.by, f"{place.score:.6g}", place.reason, *numbers, *centre])
    write_text(path, csv_text(rows, COLUMNS, "\r\n"), parents=True)
    return path


def _length(distance: float, micrometres: bool) -> str:
    if not micrometres:
        return f"{distance:.0f} px"
    return f"{distance / 1000:.1f} mm" if distance >= 1000 else f"{distance:.0f} µm"

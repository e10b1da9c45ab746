"""Label issues: places where a model contradicts a truth, the likeliest error first, and what a person decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from napari_msunet._io import csv_name, csv_text, write_json, write_text
from napari_msunet.config import Damaged
from napari_msunet.constants import ANNOTATED_BACKGROUND, IGNORED
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.shape_masks import LARGEST_SHAPE, Polygon
from napari_msunet.labels.store import LabelStore
from napari_msunet.objects.components import connected
from napari_msunet.review import truth_comparison
from napari_msunet.review.state import read_note
from napari_msunet.review.truth_comparison import (
    BOTTOM,
    CODE,
    COUNT,
    FIRST,
    LEFT,
    LOSS,
    RIGHT,
    SURE,
    TOP,
    Bytes,
    Compared,
    Pair,
    Predictions,
    Stores,
    Sweep,
    Table,
)

# ----------------------------------------------------------------------------------------------------------------------
# Places of a truth that a person looked at and kept: on disk beside it, so that they are not offered again.

FILE = "truth_review.json"

SAME = 0.5
"""Share of two boxes' union that they must have in common to count as the same place."""

Box = tuple[int, int, int, int]


class KeptPlace(BaseModel):
    """A place where the truth was found right.

    Attributes
    ----------
    box : tuple
        `y, x, height, width` in level-0 pixels of the truth.
    truth : str
        The truth's class there, or "background".
    """

    model_config = ConfigDict(frozen=True)

    box: Box
    truth: str


class KeptState(BaseModel):
    """All places of a truth that were kept."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    kept: tuple[KeptPlace, ...] = ()


def load_kept(store: LabelStore) -> KeptState:
    """The places of a truth that were kept.

    Raises
    ------
    StoreError
        If the file is damaged; the truth itself is not touched by that.
    """
    return read_note(store.path / FILE, KeptState, "the review of the truth again")


def add_kept(store: LabelStore, place: KeptPlace) -> None:
    """Note a place as kept; see `load_kept` and `LabelStore.write` for errors."""
    store.hold()
    state = load_kept(store)
    if place not in state.kept:
        _save(store, KeptState(kept=(*state.kept, place)))


def remove_kept(store: LabelStore, place: KeptPlace | None = None) -> None:
    """Offer a kept place again; None: all of them."""
    store.hold()
    state = load_kept(store)
    _save(store, KeptState(kept=tuple(p for p in state.kept if place is not None and p != place)))


def was_kept(
    boxes: npt.NDArray[np.float64], classes: Sequence[str], kept: Sequence[KeptPlace]
) -> npt.NDArray[np.bool_]:
    """Which boxes `(n, 4)` of top, left, bottom, right, with these classes of the truth, are places that were kept."""
    found = np.zeros(len(boxes), np.bool_)
    names = np.asarray(classes, object)
    for place in kept:
        y, x, height, width = place.box
        over = np.maximum(0, np.minimum(boxes[:, 2:], (y + height, x + width)) - np.maximum(boxes[:, :2], (y, x)))
        shared = over.prod(1)
        union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + height * width - shared
        found |= (shared >= SAME * union) & (names == place.truth)
    return found


def _save(store: LabelStore, state: KeptState) -> None:
    write_json(store.path / FILE, state.model_dump(mode="json"))


# ----------------------------------------------------------------------------------------------------------------------
# The review of a truth: where a model contradicts it, the likeliest error first, and which classes are confused where.

TILE = 1024
LIMIT = 200
MOST = 10_000
PLACES = 20
"""Places that each cell of the confusion matrix keeps."""

EDGE = 3.0
"""Width up to which a difference counts as one along an edge, in pixels of the coarser of truth and prediction."""

LEAST = 25.0
"""Smallest region, in the same pixels, unless another area is given."""

DOUBT = 250.0
"""How many such pixels without loss are added to each region when it is ranked."""

Tell = Callable[[int, int], None]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TruthPlace:
    """A connected region with one class in the truth and one in the model's answer.

    Attributes
    ----------
    window : Window
        Around it, in level-0 pixels of the truth.
    first : (y, x)
        Its topmost, then leftmost pixel: with the window it names the region.
    truth, model : str
        The classes, or "background".
    pixels : int
    area : float
        µm² (pixels where the truth does not know its µm per pixel).
    loss : float
        Mean cross-entropy of the model on the truth's class, natural logarithm, at most 9.2; without probabilities 1
        where the two differ.
    confidence : float
        Mean probability of the model's class; NaN without probabilities.
    """

    window: Window
    first: tuple[int, int]
    truth: str
    model: str
    pixels: int
    area: float
    loss: float
    confidence: float

    @property
    def kept_as(self) -> KeptPlace:
        """The note that is saved when a person keeps the truth here."""
        return KeptPlace(box=(self.window.y, self.window.x, *self.window.shape), truth=self.truth)


def area_unit(store: LabelStore) -> str:
    """The unit of areas of a store, for names of columns."""
    return "px2" if store.mpp is None else "um2"


def transitions(places: Iterable[TruthPlace]) -> dict[tuple[str, str], int]:
    """How many places there are for each pair of the truth's and the model's class, the most frequent first."""
    counts = Counter((place.truth, place.model) for place in places)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often the truth's classes (rows) were given which answer (columns), and where.

    Attributes
    ----------
    names : tuple of str
        "background" and the model's classes: of rows and columns.
    pixels : (K+1, K+1) int64
        Pixels of the truth.
    pixel_area : float
        Area of one in `unit`.
    places : dict
        By (row, column): the largest regions, largest first, at most `PLACES`.
    unit : str
        "um2", or "px2" where the µm are not known.
    """

    names: tuple[str, ...]
    pixels: Counts
    pixel_area: float
    places: dict[tuple[int, int], list[TruthPlace]] = field(default_factory=dict)
    unit: str = "um2"

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """The same in `unit`."""
        found: npt.NDArray[np.float64] = self.pixels * np.float64(self.pixel_area)
        return found

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The pixels as shares of their row, which is one true class; rows without pixels are 0."""
        found: npt.NDArray[np.float64] = self.pixels / np.maximum(self.pixels.sum(1, keepdims=True), 1)
        return found


@dataclass(frozen=True)
class TruthReview:
    """The result of a review of a truth.

    Attributes
    ----------
    suspects : list of TruthPlace
        Regions where the model contradicts the truth, the likeliest error first: see `review_truth`.
    confusion : ConfusionMatrix
    kept : int
        Regions that are not offered because a person kept the truth there.
    pixels, unpredicted : int
        Pixels that were compared, and pixels of truth where the model was not run.
    ignored : tuple of str
        Classes of the truth that the model does not know.
    scored : bool
        Whether losses come from probabilities.
    left_out : tuple of str
        Sentences about damaged parts that were not compared.
    """

    suspects: list[TruthPlace]
    confusion: ConfusionMatrix
    kept: int
    pixels: int
    unpredicted: int
    ignored: tuple[str, ...]
    scored: bool
    left_out: tuple[str, ...] = ()


def review_truth(
    truth: Stores | Pair,
    prediction: Predictions | None = None,
    limit: int = LIMIT,
    least: float | None = None,
    edge: float = EDGE,
    doubt: float = DOUBT,
    edited_only: bool = True,
    tell: Tell = lambda done, total: None,
    damaged: Damaged = "refuse",
) -> TruthReview:
    """Rank the regions of a truth by the loss of a model on them, and count which classes are confused.

    Regions are ranked by their mean cross-entropy, taken over the region and `doubt` more pixels without any: so a few
    pixels need a higher loss than a whole gland. With `doubt=0` it is the mean loss alone.

    Nothing is changed. Reads only where there is truth, tile by tile, so memory does not grow with the slide.

    Parameters
    ----------
    truth : LabelStore, path or Pair
        An annotation, or labels with accepted regions and edited pixels; held-out truth as well as training truth. A
        `Pair` brings its own prediction.
    prediction : LabelStore, path, Run or runs
        Of the same slide, on any grid.
    limit : int
        At most so many suspects, up to 10,000.
    least : float, optional
        Smaller regions in µm² (pixels where µm are not known) are no suspects; None: 25 pixels of the coarser grid.
    edge : float
        Regions this thin, in pixels of the coarser grid, are differences of an edge: counted, not offered.
    doubt : float
        In pixels of the coarser grid.
    edited_only : bool
        Of labels, only what a person edited or accepted is true.
    tell : callable
        Called with tiles done and their number; may raise.
    damaged : "refuse" or "skip"
        Where chunks of the truth or of the prediction are damaged: refuse, or leave their pixels out.

    Raises
    ------
    StoreError
        If the two cannot be compared; the sentence says why.
    """
    if not 1 <= limit <= MOST:
        raise StoreError(f"A list of {limit} suspects cannot be made; give a limit from 1 to {MOST:,}.")
    if min(edge, doubt, 0 if least is None else least) < 0:
        raise StoreError(f"least={least}, edge={edge} and doubt={doubt} cannot be used; give numbers from 0.")
    if not isinstance(truth, Pair):
        if prediction is None:
            raise StoreError("Give the prediction that the truth is compared with: a label store, or a run.")
        truth = Pair(truth, prediction, edited_only)
    left_out = truth.check(damaged)
    found = _Collector(truth, limit, least, doubt)
    radius = edge_radius(truth, edge)
    sweep = Sweep(truth.store.shape[1], found.closed)
    rows = tile_rows(truth)
    total, done, last = sum(len(row) for _, row in rows), 0, -2
    for number, columns in rows:
        sweep.begin_row(number == last + 1)
        last = number
        for column in columns:
            tile = Window(number * TILE, column * TILE, TILE, TILE).intersection(truth.store.grid.whole)
            one = truth_comparison.padded_codes(truth, tile, radius)
            if one is not None:
                found.count(one[1])
                sweep.add(tile, one[0], *truth_comparison.regions_of(*one, truth.store.shape[1]))
            done += 1
            tell(done, total)
        sweep.end_row()
    sweep.end()
    return replace(found.review(), left_out=left_out)


def edge_radius(pair: Pair, edge: float = EDGE) -> int:
    """Pixels of the truth by which regions are opened so that edges of this width are no regions; 0: not at all."""
    return max(1, round(edge * pair.coarseness / 2 - 0.01)) if edge > 0 else 0


def tile_rows(pair: Pair) -> list[tuple[int, list[int]]]:
    """Rows and columns of the tiles in which there can be truth."""
    store = pair.store
    shape = tuple(-(-size // TILE) for size in store.shape)
    wanted = np.zeros(shape, np.bool_)
    if store.kind == "annotation" or pair.edited_only:
        level = min(len(store.info.shapes) - 1, TILE.bit_length() - 1)
        edited = store.read_edited(Window(0, 0, *store.shape), level)
        wanted[tuple((np.argwhere(edited) * 2**level // TILE).T)] = True
        boxes: Iterator[Window] | Any = map(_box, store.fully_annotated)
    else:
        boxes = [window for run in pair.runs for window in run.done]
    for box in boxes:
        box = box.intersection(store.grid.whole)
        if not box.empty:
            wanted[box.y // TILE : -(-box.stop[0] // TILE), box.x // TILE : -(-box.stop[1] // TILE)] = True
    return [(int(row), np.flatnonzero(wanted[row]).tolist()) for row in np.flatnonzero(wanted.any(1))]


def _box(polygon: npt.NDArray[np.float64]) -> Window:
    low, high = np.floor(polygon.min(0)).astype(int), np.ceil(polygon.max(0)).astype(int)
    return Window.between((int(low[0]), int(low[1])), (int(high[0]), int(high[1])))


class _Collector:
    """Collects the best of all regions, and counts pixels."""

    def __init__(self, pair: Pair, limit: int, least: float | None, doubt: float) -> None:
        self.pair, self.limit = pair, limit
        self.names = ("background", *pair.classes)
        self.pixel_area = prod(pair.store.spacing)
        self.least = LEAST * pair.coarseness**2 if least is None else least / self.pixel_area
        self.doubt = doubt * pair.coarseness**2
        self.kept = load_kept(pair.store).kept
        size = len(self.names)
        self.matrix = np.zeros((size, size), np.int64)
        self.suspects = np.zeros((0, truth_comparison.COLUMNS))
        self.places: dict[int, Table] = {}
        self.left_out = self.unpredicted = 0

    def count(self, found: Compared) -> None:
        size = len(self.names)
        known = found.truth != IGNORED
        pairs = found.truth[known].astype(np.int64) * size + found.model[known]
        self.matrix += np.bincount(pairs, minlength=size * size).reshape(size, size)
        self.unpredicted += int(found.unpredicted.sum())

    def closed(self, table: Table) -> None:
        """Regions that are whole."""
        table = table[table[:, COUNT] >= self.least]
        if not len(table):
            return
        code = table[:, CODE].astype(np.int64) - 1
        for value in np.unique(code):
            known = self.places.get(int(value), table[:0])
            both = np.concatenate([known, table[code == value]])
            self.places[int(value)] = both[np.lexsort((both[:, FIRST], -both[:, COUNT]))][:PLACES]
        true, said = np.divmod(code, len(self.names))
        table, true = table[true != said], true[true != said]
        if self.kept and len(table):
            kept = was_kept(table[:, TOP : RIGHT + 1], [self.names[n] for n in true], self.kept)
            self.left_out += int(kept.sum())
            table = table[~kept]
        both = np.concatenate([self.suspects, table])
        order = np.lexsort((both[:, FIRST], -both[:, COUNT], -both[:, LOSS] / (both[:, COUNT] + self.doubt)))
        self.suspects = both[order][: self.limit]

    def _place(self, row: Table) -> TruthPlace:
        true, said = divmod(int(row[CODE]) - 1, len(self.names))
        corner, stop = (int(row[TOP]), int(row[LEFT])), (int(row[BOTTOM]), int(row[RIGHT]))
        return TruthPlace(
            window=Window.between(corner, stop),
            first=divmod(int(row[FIRST]), self.pair.store.shape[1]),
            truth=self.names[true],
            model=self.names[said],
            pixels=int(row[COUNT]),
            area=float(row[COUNT] * self.pixel_area),
            loss=float(row[LOSS] / row[COUNT]),
            confidence=float(row[SURE] / row[COUNT]),
        )

    def review(self) -> TruthReview:
        size = len(self.names)
        places = {divmod(code, size): [self._place(r) for r in table] for code, table in sorted(self.places.items())}
        return TruthReview(
            suspects=[self._place(row) for row in self.suspects],
            confusion=ConfusionMatrix(self.names, self.matrix, self.pixel_area, places, area_unit(self.pair.store)),
            kept=self.left_out,
            pixels=int(self.matrix.sum()),
            unpredicted=self.unpredicted,
            ignored=self.pair.ignored,
            scored=self.pair.scored,
        )


# ----------------------------------------------------------------------------------------------------------------------
# The model's answer written into a truth as one stroke, where a person asked for it.

Bools = npt.NDArray[np.bool_]


def place_mask(pair: Pair, place: TruthPlace, edge: float = EDGE) -> Bools:
    """The pixels of a place as the truth is now, within its window.

    Parameters
    ----------
    pair : Pair
    place : TruthPlace
        Of the same pair.
    edge : float
        As it was found with.

    Returns
    -------
    (h, w) bool
        Empty where the truth was changed since.
    """
    window = place.window
    found = truth_comparison.padded_codes(pair, window, edge_radius(pair, edge))
    if found is None:
        return np.zeros(window.shape, np.bool_)
    names = ("background", *pair.classes)
    code = names.index(place.truth) * len(names) + names.index(place.model) + 1
    parts = connected(found[0] == code)
    part = parts[place.first[0] - window.y, place.first[1] - window.x]
    mask: Bools = (parts == part) & (part > 0)
    return mask


def take_answer(pair: Pair, where: TruthPlace | npt.ArrayLike, edge: float = EDGE) -> int:
    """Write the model's answer into the truth, as one stroke, which `undo` takes back.

    Only pixels of known truth that differ from the answer are changed. In an annotation background becomes 255.

    Parameters
    ----------
    pair : Pair
    where : TruthPlace, or (n, 2) array
        A place that a review found, or the corners `y, x` of a polygon in level-0 pixels of the truth.
    edge : float
        As the place was found with.

    Returns
    -------
    int
        Number of the stroke; 0 if nothing differs.

    Raises
    ------
    StoreError
        If the polygon is none, too large, or outside; errors of `LabelStore.write` as there.
    """
    if isinstance(where, TruthPlace):
        mask = place_mask(pair, where, edge)
        parts = [(where.window, mask)]
    else:
        shape = Polygon(where)
        if max(shape.window.shape) > LARGEST_SHAPE:
            raise StoreError(
                f"This lasso is {shape.window.height} x {shape.window.width} pixels large and one stroke can have "
                f"{LARGEST_SHAPE} a side; draw a smaller one."
            )
        parts = list(_parts(shape, shape.window.intersection(pair.store.grid.whole)))
    strokes = _strokes(pair, parts)
    return pair.store.write_parts(strokes) if strokes else 0


def take_answers(pair: Pair, places: Sequence[TruthPlace], edge: float = EDGE) -> int:
    """Write the model's answer into the truth at several places, all as one stroke, which one `undo` takes back.

    Parameters
    ----------
    pair : Pair
    places : sequence of TruthPlace
        Of the same pair; those that were changed since are left out.
    edge : float
        As the places were found with.

    Returns
    -------
    int
        Number of the stroke; 0 if nothing differs.
    """
    wanted: dict[tuple[int, int], tuple[Window, Bools]] = {}
    for place in places:
        mask, window = place_mask(pair, place, edge), place.window
        for row in range(window.y // TILE, -(-window.stop[0] // TILE)):
            for column in range(window.x // TILE, -(-window.stop[1] // TILE)):
                # places lie in each other's windows, and the parts of a stroke must not overlap
                tile = Window(row * TILE, column * TILE, TILE, TILE).intersection(pair.store.grid.whole)
                part = tile.intersection(window)
                whole = wanted.setdefault((row, column), (tile, np.zeros(tile.shape, np.bool_)))[1]
                whole[part.slices((tile.y, tile.x))] |= mask[part.slices((window.y, window.x))]
    strokes = _strokes(pair, wanted.values())
    return pair.store.write_parts(strokes) if strokes else 0


def _strokes(pair: Pair, parts: Iterable[tuple[Window, Any]]) -> list[tuple[Window, Bytes, Bools]]:
    """The parts of a stroke that writes the model's answer where the masks say, and the truth is known and differs."""
    strokes = []
    for window, mask in parts:
        truth, model = pair.truth(window), pair.model(window)
        differing = mask & (truth != IGNORED) & (model != IGNORED) & (truth != model)
        if differing.any():
            strokes.append((window, _values(pair, model, differing), differing))
    return strokes


def keep_truth(pair: Pair, place: TruthPlace) -> None:
    """Note that the truth was found right at a place, so that it is offered no more; nothing of it changes."""
    add_kept(pair.store, place.kept_as)


def _parts(shape: Polygon, window: Window) -> Iterator[tuple[Window, Any]]:
    for tile in tiles(window, TILE):
        inside = shape.on(tile)
        if inside is not False:
            yield tile, np.ones(tile.shape, np.bool_) if inside is True else inside


def _values(pair: Pair, model: Bytes, mask: Bools) -> Bytes:
    """The model's classes as values of the truth's store, which gets the classes that it lacks."""
    store = pair.store
    table = np.zeros(256, np.uint8)
    table[0] = ANNOTATED_BACKGROUND if store.kind == "annotation" else 0
    said = [int(v) for v in np.unique(model[mask]) if v]
    numbers = store.add_classes([pair.classes[v - 1] for v in said])
    for value in said:
        table[value] = numbers[pair.classes[value - 1]]
    return table[model]


# ----------------------------------------------------------------------------------------------------------------------
# The label issues and the confusion matrix as CSV files.

COLUMNS = (
    "rank", "truth", "model", "loss", "confidence", "area_{}", "pixels",
    "y", "x", "height", "width", "first_y", "first_x", "centre_y_um", "centre_x_um",
)  # fmt: skip
"""`y, x, height, width` and the first pixel are level-0 pixels of the slide; areas µm², or such pixels where that is
unknown."""


def write_label_issues(review: TruthReview, path: str | Path, truth: LabelStore) -> Path:
    """Write the suspects as CSV, a row for each, the likeliest error first.

    Parameters
    ----------
    review : TruthReview
    path : path
        Ends in .csv; replaced if it is there.
    truth : LabelStore
        The truth that was reviewed.

    Raises
    ------
    OutputError
        If the name does not end in .csv, or the disk refuses.
    """
    rows: list[list[object]] = [[name.format(area_unit(truth)) for name in COLUMNS]]
    rows += [[rank, *_row(place, truth)] for rank, place in enumerate(review.suspects, 1)]
    return _write_csv(path, rows)


def write_confusion(confusion: ConfusionMatrix, path: str | Path) -> Path:
    """Write a confusion matrix as CSV: a row for each pair of classes; errors as `write_label_issues`."""
    rows: list[list[object]] = [["truth", "model", "pixels", f"area_{confusion.unit}", "share_of_truth", "places"]]
    shares = confusion.shares
    for row, true in enumerate(confusion.names):
        for column, said in enumerate(confusion.names):
            count = int(confusion.pixels[row, column])
            area, share = f"{count * confusion.pixel_area:.10g}", f"{shares[row, column]:.6g}"
            rows.append([true, said, count, area, share, len(confusion.places.get((row, column), ()))])
    return _write_csv(path, rows)


def _row(place: TruthPlace, truth: LabelStore) -> list[object]:
    w, pixel, mpp = place.window, truth.pixel, truth.mpp
    slide = (w.y * pixel[0], w.x * pixel[1], w.height * pixel[0], w.width * pixel[1])
    first = (place.first[0] * pixel[0], place.first[1] * pixel[1])
    middle = (w.y + w.height / 2, w.x + w.width / 2)
    centre = ("", "") if mpp is None else tuple(f"{c * m:.10g}" for c, m in zip(middle, mpp, strict=True))
    sure = "" if isnan(place.confidence) else f"{place.confidence:.4f}"
    area = f"{place.area:.10g}"
    numbers = [f"{v:.10g}" for v in (*slide, *first)]
    return [place.truth, place.model, f"{place.loss:.4f}", sure, area, place.pixels, *numbers, *centre]


def _write_csv(path: str | Path, rows: list[list[object]]) -> Path:
    path = csv_name(path, "the review is")
    write_text(path, csv_text(rows, line_end="\r\n"), parents=True)
    return path

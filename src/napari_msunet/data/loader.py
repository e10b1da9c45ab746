"""Batches of windows, read ahead by threads so that the network never waits for them."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import torch

from napari_msunet.config import Normalisation, OwnStatistics
from napari_msunet.constants import IGNORED
from napari_msunet.data.items import Item
from napari_msunet.data.masks import Mask
from napari_msunet.data.normalising import own_normalisation
from napari_msunet.data.sampling import Place, Sampler, Spot, in_batches
from napari_msunet.data.truth import cut_out
from napari_msunet.events import check as check_stop
from napari_msunet.geometry import Window, mirrored_source
from napari_msunet.slide.appearance import legacy_scale
from napari_msunet.slide.numbers import Scale, is_plain, to_unit

# ----------------------------------------------------------------------------------------------------------------------
# Reading windows of images at all scales, with their truth, from memory where the images are small.

ITEM_BYTES = 64 << 20
"""An image that takes at most so many bytes at all scales together is held whole."""

CACHE_BYTES = 4 << 30

Windows = Callable[[Window], Sequence[Window]]
"""From a window of the target grid to the window that each branch reads on its own grid."""


class WindowSample(NamedTuple):
    """One training window: `(h, w, c)` pixels for each scale, uint8 or float32 in 0..1, and `(h, w)` uint8 truth.

    `brightfield` says whether a change of stain makes sense; `constants` are those of the image's own normalisation.
    """

    inputs: list[npt.NDArray[Any]]
    truth: Mask
    brightfield: bool = True
    constants: Normalisation | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.truth.nbytes + sum(i.nbytes for i in self.inputs)


def cache_bytes() -> int:
    """Bytes of images that may be held in memory now: a quarter of what is free, at most `CACHE_BYTES`."""
    return min(CACHE_BYTES, int(psutil.virtual_memory().available) // 4)


class WholeCache:
    """Whole images kept in memory up to a number of bytes; the least recently used go first. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[Hashable, WindowSample] = OrderedDict()
        self._owners: dict[Hashable, object] = {}
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], WindowSample], owners: object = None) -> WindowSample:
        """The image of `key`, made by `make()` where it is not held; two threads never make the same at once.

        `owners` are kept alive as long as the image: objects whose ids are in the key, which no other object must get.
        """
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = make()
            with self._lock:
                self._kept[key] = made
                self._owners[key] = owners
                self.nbytes += made.nbytes
                while self.nbytes > self.limit and len(self._kept) > 1:
                    gone, image = self._kept.popitem(last=False)
                    self.nbytes -= image.nbytes
                    del self._owners[gone]
        return made


class Crops:
    """Reads the windows of all branches around a window of the target grid.

    Parameters
    ----------
    ratios : sequence of Fraction
        The scales.
    windows : callable
        Gives the window that each branch reads for a target window, as `models.input_windows` does.
    limit : int, optional
        Bytes of images held in memory; None: a quarter of what is free, at most 4 GiB.
    mirror : bool
        Whether images are mirrored at their edges, instead of background beyond them.
    own : OwnStatistics, optional
        How each image is normalised by its own statistics; None: it is not.
    cache : WholeCache, optional
        Where whole images are held, such as one that several trainings share; None: one of its own.
    """

    def __init__(
        self,
        ratios: Sequence[Fraction],
        windows: Windows,
        limit: int | None = None,
        mirror: bool = False,
        own: OwnStatistics | None = None,
        cache: WholeCache | None = None,
    ) -> None:
        self.ratios = tuple(ratios)
        self.mirror = mirror
        self.own = own
        self._constants: dict[int, Normalisation] = {}
        self._measuring = threading.Lock()
        self.windows = windows
        self._cache = cache or WholeCache(cache_bytes() if limit is None else limit)

    def read(self, item: Item, window: Window, pads: Sequence[int] = (), truth_pad: int = 0) -> WindowSample:
        """The pixels of all branches, and the truth, of a window of the target grid.

        Parameters
        ----------
        item : Item
        window : Window
            On `item.grid`; may stick out (background or mirror image, truth 255).
        pads : sequence of int
            Pixels more on each side, for each branch on its own grid.
        truth_pad : int
            Target pixels more on each side of the truth.
        """
        parts = [w.padded(p) for w, p in zip(self.windows(window), pads or (0,) * len(self.ratios), strict=True)]
        known = window.padded(truth_pad)
        if self._is_small(item):
            whole = self._held(item)
            background = None if self.mirror else item.background
            inputs = [cut_pixels(w, p, background) for w, p in zip(whole.inputs, parts, strict=True)]
            truth = cut_out(whole.truth, known)
        else:
            grids = [item.grid.scaled(r) for r in self.ratios]
            inputs = [item.slide.read_window(g, p, mirror=self.mirror) for g, p in zip(grids, parts, strict=True)]
            truth = item.truth_on_target(known)
        seen = [seen_pixels(p, item.scale) for p in inputs]
        return WindowSample(seen, truth, item.numbers.kind == "brightfield", self._constants_of(item))

    def _constants_of(self, item: Item) -> Normalisation | None:
        """The constants of the image's own normalisation, which are measured once."""
        if self.own is None:
            return None
        with self._measuring:
            key = id(item._kept)  # shared by the parts of one image
            if key not in self._constants:
                slide = item.open()  # not the item's own, which another thread may read or close
                try:
                    slide.numbers = item.numbers
                    self._constants[key] = own_normalisation([slide], [item.scale], self.own)
                finally:
                    slide.close()
            return self._constants[key]

    def read_all(self, items: Sequence[Item]) -> None:
        """Read the images that are held whole, so that no later window waits for its file."""
        for item in items:
            check_stop()
            if self._is_small(item):
                self._held(item)

    def _held(self, item: Item) -> WindowSample:
        key = id(item._kept), id(item.truth), self.ratios, item.resolution
        return self._cache.get(key, lambda: self._whole(item), owners=(item._kept, item.truth))

    def _is_small(self, item: Item) -> bool:
        """Whether the image is held whole."""
        height, width = item.grid.shape
        bytes_per_pixel = item.facts.channels * item.facts.dtype.itemsize
        total = sum(float(r) ** 2 * height * width * bytes_per_pixel for r in self.ratios)
        return total <= min(ITEM_BYTES, self._cache.limit)

    def _whole(self, item: Item) -> WindowSample:
        """The whole image at all scales; then its file is closed, so that any number of images can be trained on."""
        grids = [item.grid.scaled(r) for r in self.ratios]
        try:
            inputs = [item.slide.read_window(g, g.whole) for g in grids]
            return WindowSample(inputs, item.truth_on_target(item.grid.whole))
        finally:
            item.release()


def seen_pixels(pixels: npt.NDArray[Any], scale: Scale) -> npt.NDArray[Any]:
    """Pixels as float32 in 0..1; plain 8 bits stay as they are, which are a quarter of the bytes to move."""
    return pixels if is_plain(pixels.dtype, scale) else to_unit(pixels, scale)


def cut_pixels(pixels: npt.NDArray[Any], window: Window, background: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """A window of an `(h, w, c)` array that starts at grid pixel (0, 0); where it sticks out, background, or without
    one the mirror image."""
    inside = window.intersection(Window(0, 0, *pixels.shape[:2]))
    if inside.shape == window.shape:
        return pixels[inside.slices()]
    if background is None:
        source, rows, columns = mirrored_source(window, (pixels.shape[0], pixels.shape[1]))
        return pixels[source.slices()][rows][:, columns]
    result = np.empty((*window.shape, pixels.shape[2]), pixels.dtype)
    result[...] = background
    if not inside.empty:
        result[inside.slices((window.y, window.x))] = pixels[inside.slices()]
    return result


# ----------------------------------------------------------------------------------------------------------------------
# Batches of windows, read ahead in threads.

_AHEAD = 3
_THREADS = 2
_KEEP_BYTES = 256 << 20


class Batch(NamedTuple):
    """Windows that go through the network together.

    Attributes
    ----------
    inputs : list of (B, C, h, w) tensors
        For each scale; uint8, or float32 in 0..1 for other images.
    target : (B, H, W) uint8 tensor
        0 background, 1..K classes, 255 ignored.
    seed : int
        For the batch's random changes.
    places : list of (item, y, x), optional
        Where the windows are, for a sampler that takes note of hard ones.
    groups : list of str, optional
        The group (patient, slide) of each window's image, or its name where it has none.
    brightfield : (B,) bool tensor, optional
        Which windows may have another stain; None: all.
    constants : (2, B, C) float32 tensor, optional
        Mean and deviation of each window's image, where images are normalised by their own; None: they are not.
    """

    inputs: list[torch.Tensor]
    target: torch.Tensor
    seed: int
    places: list[Place] | None = None
    groups: list[str] | None = None
    brightfield: torch.Tensor | None = None
    constants: torch.Tensor | None = None

    def normalised(self, inputs: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The windows of all scales as the model takes them, float32: in 0..1, or normalised by their image's own
        statistics; `inputs` are the same windows after random changes."""
        given = [as_unit(x) for x in self.inputs] if inputs is None else list(inputs)
        if self.constants is None:
            return given
        mean, std = self.constants.to(given[0].device)[..., None, None]
        return [(x - mean) / std for x in given]


def as_tensor(pixels: npt.NDArray[Any]) -> torch.Tensor:
    """`(h, w, c)` pixels of a `WindowSample` as a `(c, h, w)` tensor: uint8 stays uint8, others become float32."""
    values = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    return torch.from_numpy(values if values.dtype == np.uint8 else to_unit(values, legacy_scale(values.dtype)))


def as_unit(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels of `as_tensor` as float32 in 0..1."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def collate(samples: Sequence[WindowSample], seed: int) -> Batch:
    """Samples of one size as a batch."""
    inputs = []
    for branch in zip(*(s.inputs for s in samples), strict=True):
        tensors = [as_tensor(p) for p in branch]
        if len({t.dtype for t in tensors}) > 1:  # images of several dtypes
            tensors = [as_unit(t) for t in tensors]
        inputs.append(torch.stack(tensors))
    truth = torch.from_numpy(np.stack([s.truth for s in samples]))
    brightfield = torch.tensor([s.brightfield for s in samples])
    known = [s.constants for s in samples if s.constants is not None]
    constants = torch.tensor([[n.mean for n in known], [n.std for n in known]]) if known else None
    return Batch(inputs, truth, seed, brightfield=brightfield, constants=constants)


def _core_only(sample: WindowSample, spot: Spot) -> WindowSample:
    """The sample without truth outside the spot's core."""
    if spot.core is None or spot.core == spot.window:
        return sample
    truth = np.full_like(sample.truth, IGNORED)
    inside = spot.core.intersection(spot.window).slices((spot.window.y, spot.window.x))
    truth[inside] = sample.truth[inside]
    return sample._replace(truth=truth)


def read_ahead(jobs: Iterable[Callable[[], Batch]]) -> Generator[Batch]:
    """The results of the jobs, in order, with a few under way in threads."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="msunet-loader")
    waiting: deque[Future[Batch]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        pool.shutdown(
            wait=False
        )  # its threads end with the last job, also when the caller asks for no more after the last batch
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Reader:
    """Base of batches that are read ahead: `close` ends its threads when a caller stops midway and keeps the
    iterator."""

    _running: Generator[Batch] | None = None

    def close(self) -> None:
        """End the reading under way."""
        if self._running is not None:
            self._running.close()
            self._running = None


class TrainBatches(_Reader):
    """An epoch's training batches, each time it is iterated over: the next epoch's.

    Parameters
    ----------
    crops : Crops
    sampler : Sampler
    batch, steps : int
        Windows in a batch, batches in an epoch.
    pads : sequence of int
        Pixels more on each side of each branch's window, for the augmentation.
    truth_pad : int
        Likewise for the truth.

    Attributes
    ----------
    epoch : int
        The number of the next epoch.
    together : bool
        Whether the windows of a batch come from one group, else from one image: for slide normalisation.
    rank, world : int
        The number of this process and of all that train together: each takes its own part of the same windows.
    """

    def __init__(
        self, crops: Crops, sampler: Sampler, batch: int, steps: int, pads: Sequence[int], truth_pad: int
    ) -> None:
        self.crops = crops
        self.sampler = sampler
        self.batch = batch
        self.steps = steps
        self.pads = tuple(pads)
        self.truth_pad = truth_pad
        self.epoch = 0
        self.together = False
        self.rank, self.world = 0, 1

    def like(self, batch: int, steps: int) -> TrainBatches:
        """The same with other numbers of windows and batches, beginning at the same epoch."""
        other = copy(self)
        other._running = None
        other.batch, other.steps = batch, steps
        return other

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        epoch, self.epoch = self.epoch, self.epoch + 1
        one = self.batch * self.world if self.together else 1
        spots = self.sampler.epoch(epoch, self.steps * self.batch * self.world, one)

        def job(step: int) -> Callable[[], Batch]:
            chosen = list(islice(spots, self.batch * self.world))[self.rank * self.batch :][: self.batch]
            numbers = (self.sampler.seed, epoch, step, self.rank)
            seed = int(np.random.SeedSequence(numbers if self.rank else numbers[:3]).generate_state(1)[0])
            places = [(s.number, s.window.y, s.window.x) for s in chosen]

            def read() -> Batch:
                samples = [self.crops.read(s.item, s.window, self.pads, self.truth_pad) for s in chosen]
                return collate(samples, seed)._replace(places=places)

            return read

        self._running = read_ahead(job(step) for step in range(self.steps))
        return self._running


class ValidationBatches(_Reader):
    """The validation windows, the same in each epoch; held in memory when they are not too many.

    Of several processes that validate together, each has its own part, and all have the same number of batches: where
    one has too few, its last batch repeats windows of another process and does not count.
    """

    def __init__(
        self,
        crops: Crops,
        spots: Sequence[Spot],
        batch: int,
        rank: int = 0,
        world: int = 1,
        together: bool = False,
    ) -> None:
        self.crops = crops
        self.spots, self.rank, self.world, self.together = list(spots), rank, world, together
        batches = in_batches(self.spots, batch, together)
        self.batches = batches[rank::world]
        self._blank = len(self.batches) < -(-len(batches) // world)
        if self._blank:
            self.batches.append(batches[0])
        self._kept: list[Batch] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        self.close()
        self._running = self._read()
        return self._running

    def _read(self) -> Generator[Batch]:
        def job(number: int, spots: Sequence[Spot]) -> Callable[[], Batch]:
            def read() -> Batch:
                batch = collate([_core_only(self.crops.read(s.item, s.window), s) for s in spots], 0)
                batch = batch._replace(groups=[s.item.group or s.item.name for s in spots])
                if self._blank and number == len(self.batches) - 1:
                    batch.target.fill_(IGNORED)
                return batch

            return read

        kept: list[Batch] = []
        size = 0
        for batch in read_ahead(job(*numbered) for numbered in enumerate(self.batches)):
            size += sum(t.nbytes for t in (*batch.inputs, batch.target))
            if size <= _KEEP_BYTES:
                kept.append(batch)
                # kept here already: the caller may ask for no more after the last batch
                if len(kept) == len(self.batches):
                    self._kept = kept
            yield batch

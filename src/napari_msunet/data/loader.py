"""Batches of windows, read ahead by threads so that the network never waits for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet.data.crops import Crops, Sample
from napari_msunet.data.hard import Place
from napari_msunet.data.masks import IGNORED
from napari_msunet.data.sampling import Sampler, Spot, in_batches
from napari_msunet.slide.appearance import legacy_scale
from napari_msunet.slide.numbers import to_unit

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
    """

    inputs: list[torch.Tensor]
    target: torch.Tensor
    seed: int
    places: list[Place] | None = None
    groups: list[str] | None = None
    brightfield: torch.Tensor | None = None


def as_tensor(pixels: npt.NDArray[Any]) -> torch.Tensor:
    """`(h, w, c)` pixels, of a `Sample` uint8 or 0..1, as a `(c, h, w)` tensor: uint8 as it is, others as float32."""
    values = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    return torch.from_numpy(values if values.dtype == np.uint8 else to_unit(values, legacy_scale(values.dtype)))


def as_unit(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels of `as_tensor` as float32 in 0..1."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def collate(samples: Sequence[Sample], seed: int) -> Batch:
    """Samples of one size as a batch."""
    inputs = []
    for branch in zip(*(s.inputs for s in samples), strict=True):
        tensors = [as_tensor(p) for p in branch]
        if len({t.dtype for t in tensors}) > 1:  # images of several dtypes
            tensors = [as_unit(t) for t in tensors]
        inputs.append(torch.stack(tensors))
    truth = torch.from_numpy(np.stack([s.truth for s in samples]))
    return Batch(inputs, truth, seed, brightfield=torch.tensor([s.brightfield for s in samples]))


def _core_only(sample: Sample, spot: Spot) -> Sample:
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
        )  # its threads end with the last job, also when nobody asks for more than the last batch
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Reader:
    """Ends the threads that read ahead when somebody stops in the middle and keeps the iterator."""

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
        Of several processes that train together, which one this is: each takes its own part of the same windows.
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

    Of several processes that validate together, each has its own part, and all as many batches: the last of some is one
    that others have, of which nothing counts.
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
                if len(kept) == len(self.batches):  # now: nobody may ask for more than the last
                    self._kept = kept
            yield batch

"""What each change of training windows costs, and whether the loader keeps up: processor milliseconds for a batch.

    python benchmarks/augmentation.py [--images FOLDER --masks FOLDER] [--threads 1] [--device cuda]

Without images, noise. Batches of 8 windows of 256 pixels, scales 1, 1/2, 1/4.
"""

import argparse
import time
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from napari_msunet.config import Augmentation, FolderSource, LossConfig, ModelConfig, Sampling, UNetConfig
from napari_msunet.data import load_sources
from napari_msunet.data.augmentation import Views, augment
from napari_msunet.data.loader import Crops, TrainBatches, as_unit
from napari_msunet.data.sampling import Sampler
from napari_msunet.models import SegmentationLoss, build_model, input_windows

BATCH, SIZE = 8, 256
RATIOS = (1.0, 0.5, 0.25)
ONE = {
    "nothing": {},
    "flip": {"flip": True},
    "rotate, scale": {"rotate": 180, "scale": 0.2},
    "shift, shear": {"shift": 0.2, "shear": 10},
    "elastic": {"elastic": 8},
    "perspective": {"perspective": 0.2},
    "brightness, contrast": {"brightness": 0.1, "contrast": 0.1},
    "saturation": {"saturation": 0.3},
    "stain": {"stain": 0.1},
    "blur": {"blur": 1.5},
    "noise": {"noise": 0.05},
    "jpeg": {"jpeg": 0.5},
    "cut-out": {"cutout": 0.3},
    "CutMix": {"cutmix": 0.5},
    "MixUp": {"mixup": 0.3},
}


def timed(work, repeats: int = 7) -> float:
    """Least processor seconds of a call, after a first one: what others do on the machine counts less so."""
    work()
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds = []
    for _ in range(repeats):
        started = clock()
        work()
        seconds.append(clock() - started)
    return min(seconds)


def costs(device: str) -> None:
    """A row for each change."""
    sizes = [(int(SIZE * r), int(SIZE * r)) for r in RATIOS]
    views = Views((SIZE, SIZE), sizes, RATIOS)
    generator = torch.Generator().manual_seed(0)
    none = Augmentation.none()
    default = Augmentation()
    everything = Augmentation(**{k: v for changes in ONE.values() for k, v in changes.items()})
    rows = {name: none.model_copy(update=changes) for name, changes in ONE.items()}
    for name, options in (rows | {"the default": default, "all at once": everything}).items():
        pads, truth_pad = views.pads(options)
        inputs = [
            torch.randint(256, (BATCH, 3, h + 2 * p, w + 2 * p), generator=generator, dtype=torch.uint8).to(device)
            for (h, w), p in zip(sizes, pads, strict=True)
        ]
        side = SIZE + 2 * truth_pad
        target = torch.randint(2, (BATCH, side, side), generator=generator, dtype=torch.uint8).to(device)

        def work(inputs=inputs, target=target, options=options) -> None:
            augment(inputs, target, views, options, 0)
            if device != "cpu":
                torch.cuda.synchronize()

        read = sum((h + 2 * p) * (w + 2 * p) for (h, w), p in zip(sizes, pads, strict=True))
        plain = sum(h * w for h, w in sizes)
        print(f"{name:22s} {1000 * timed(work):8.1f} ms    {read / plain:5.2f} times the pixels read")


def loader(images: Path, masks: Path) -> None:
    """Reading a batch, and a training step with the default network."""
    config = ModelConfig(classes=("x",), mpp=1.0, scales=RATIOS, branch=UNetConfig(depth=4, width=16))
    items = load_sources([FolderSource(images=images, masks=masks, values="instances", mpp=1.0)], config)
    crops = Crops(tuple(Fraction(r) for r in RATIOS), partial(input_windows, config))
    views = Views((SIZE, SIZE), [(int(SIZE * r),) * 2 for r in RATIOS], RATIOS)
    for name, sampling in (("plain", Sampling()), ("balanced, hard", Sampling(balance=0.4, hard=0.3))):
        sampler = Sampler(items, SIZE, 4, 0, sampling=sampling)
        sampler.hard.add([(n % len(items), 0, 0) for n in range(2048)], [1.0] * 2048)
        pads, truth_pad = views.pads(Augmentation())
        batches = TrainBatches(crops, sampler, BATCH, 40, pads, truth_pad)
        list(batches)  # every image is read once
        started = time.process_time()
        found = list(batches)
        print(f"reading a batch, {name}: {1000 * (time.process_time() - started) / len(found):.1f} ms")
    model, loss = build_model(config), SegmentationLoss(LossConfig(), config.ratios)
    changed = augment(found[0].inputs, found[0].target, views, Augmentation(), 0)

    def step() -> None:
        fused, own = model.outputs([as_unit(x) for x in changed.inputs], (SIZE, SIZE), "same", loss.detach)
        loss(fused, own, changed.target)[0].backward()

    print(f"forward and backward of the default network: {1000 * timed(step, 3):.0f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    costs(given.device)
    if given.images and given.masks:
        loader(given.images, given.masks)


if __name__ == "__main__":
    main()

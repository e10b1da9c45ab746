"""The recipe: what a training takes where the person left a choice open."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from napari_msunet.config import AutoModel, FolderSource, ModelConfig, TrainJob
from napari_msunet.data.recipe import BATCH, EPOCHS, STOP_AFTER, VALIDATION, WINDOW, look_at, resolution, settle
from napari_msunet.errors import SourceError


def picture(seed: int, side: int = 384) -> tuple[Image.Image, Image.Image]:
    """Round, textured objects about 24 pixels across on a textured ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    mask = np.zeros((side, side), bool)
    for centre in rng.uniform(0, side, (40, 2)):
        mask |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(9, 14) ** 2
    texture = gaussian_filter(rng.normal(0, 1, (side, side)), 3)
    grey = np.where(mask, 90, 210) + 60 * texture / texture.std() / 3
    image = np.stack([grey, grey * 0.8, grey * 0.95], -1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(image), Image.fromarray(mask.astype(np.uint8))


def write(folder: Path, factor: float = 1.0, side: int = 384, count: int = 3) -> FolderSource:
    """The same pictures with pixels `factor` times as small."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        image, mask = picture(number, side)
        size = round(side * factor)
        image.resize((size, size), Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC).save(
            folder / "images" / f"{number}.png"
        )
        mask.resize((size, size), Image.Resampling.NEAREST).save(folder / "masks" / f"{number}.png")
    return FolderSource(images=folder / "images", masks=folder / "masks", mpp=0.5 / factor)


def job(source: FolderSource, **options: object) -> TrainJob:
    values = {"model": AutoModel(classes=("cell",)), "sources": (source,), "out": Path("unused")}
    return TrainJob(**values | options)


def test_the_same_images_with_other_pixels_get_the_same_resolution(tmp_path):
    chosen = []
    for factor in (0.5, 1.0, 2.0):
        source = write(tmp_path / str(factor), factor)
        works, reason = resolution(look_at((source,), AutoModel(classes=("cell",))))
        assert str(works) in reason
        chosen.append(works.size)
    assert max(chosen) / min(chosen) < 1.4, chosen
    assert min(chosen) > 0.5  # twelve pixels a side are enough for these discs


def test_finer_objects_get_a_finer_resolution(tmp_path):
    """An option's test: the choice follows the masks."""
    source = write(tmp_path / "coarse")
    thin = tmp_path / "thin"
    write(thin)
    for path in (thin / "masks").iterdir():
        mask = np.asarray(Image.open(path)) > 0
        edge = mask & ~np.roll(mask, 2, 0)
        Image.fromarray(edge.astype(np.uint8)).save(path)
    fine = source.model_copy(update={"images": thin / "images", "masks": thin / "masks"})
    coarse_mpp, fine_mpp = (resolution(look_at((s,), AutoModel(classes=("cell",))))[0].size for s in (source, fine))
    assert fine_mpp < coarse_mpp
    assert fine_mpp >= 0.5  # nothing is finer than the images


def test_no_window_is_larger_than_the_images(tmp_path):
    source = write(tmp_path / "small", side=96)
    settled, reasons = settle(job(source))
    assert settled.size * settled.model.mpp <= 96 * 0.5
    assert any(str(settled.size) in reason for reason in reasons)
    large, _ = settle(job(write(tmp_path / "large", side=800)))
    assert large.size == WINDOW


def test_images_smaller_than_any_window_are_said(tmp_path):
    source = write(tmp_path / "tiny", side=20)
    settled, reasons = settle(job(source))
    assert settled.size == 32
    assert any("the rest is background" in reason for reason in reasons)


def test_with_a_time_limit_everything_trains(tmp_path):
    source = write(tmp_path / "images", side=96)
    limited, reasons = settle(job(source, time_limit=60.0))
    assert (limited.validation, limited.optimiser.stop_after) == (0.0, None)
    assert any("not scored" in reason for reason in reasons)
    free, _ = settle(job(source))
    assert (free.validation, free.epochs, free.optimiser.stop_after) == (VALIDATION, EPOCHS, STOP_AFTER)
    asked, reasons = settle(job(source, time_limit=60.0, validation=0.3))
    assert asked.validation == 0.3
    assert not any("not scored" in reason for reason in reasons)


def test_what_is_given_stays(tmp_path):
    source = write(tmp_path / "images")
    given = AutoModel(classes=("cell",), mpp=2.0, scales=(1.0, 0.5))
    settled, _ = settle(job(source, model=given, size=48, batch_size=3))
    assert (settled.model.mpp, settled.model.scales, settled.size, settled.batch_size) == (2.0, (1.0, 0.5), 48, 3)
    assert (settled.model.fusion, settled.model.field) == ("attention", "concentric")
    whole = ModelConfig(classes=("cell",), mpp=1.0)
    settled, reasons = settle(job(source, model=whole, size=64, validation=0.1))
    assert settled.model == whole
    assert reasons == ()
    assert settled.batch_size == BATCH


def test_images_of_different_channels_are_refused(tmp_path):
    source = write(tmp_path / "images")
    path = tmp_path / "images" / "images" / "0.png"
    Image.open(path).convert("L").save(path)
    with pytest.raises(SourceError, match="1 and 3 channels"):
        settle(job(source))

"""Models and slides that stay loaded: the same object while the file is the same, another one after it has changed."""

import os
import shutil
from pathlib import Path

import pytest
from worker_helpers import SLIDE, model_file

from napari_msunet.errors import SlideError
from napari_msunet.geometry import Region
from napari_msunet.inference.model_cache import ModelCache
from napari_msunet.slide import Slide


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def closed(slide: Slide) -> bool:
    try:
        slide.read(Region(0, 0, 4, 4))
    except SlideError:
        return True
    return False


def test_models(tmp_path):
    path = model_file(tmp_path)
    kept = ModelCache(models=1)
    model = kept.model(path)
    assert kept.model(path) is model
    touch(path)
    fresh = kept.model(path)
    assert fresh is not model
    other = Path(shutil.copy(path, tmp_path / "other.safetensors"))
    kept.model(other)
    assert kept.model(path) is not fresh  # one only is kept
    assert ModelCache().model(path) is not ModelCache().model(path)


def test_slides(tmp_path):
    path = Path(shutil.copy(SLIDE, tmp_path / "a.svs"))
    kept = ModelCache(slides=1)
    with kept.slide(path) as slide:
        pass
    with kept.slide(path) as again:
        assert again is slide
        assert not closed(slide)
    with kept.slide(path, (1.0, 1.0)) as other:
        assert other.mpp == (1.0, 1.0)
    assert closed(slide)
    touch(path)
    with kept.slide(path, (1.0, 1.0)) as fresh:
        assert fresh is not other
    assert closed(other)
    kept.clear()
    assert closed(fresh)


def test_a_slide_that_failed_is_not_kept(tmp_path):
    kept = ModelCache(slides=1)

    def fail():
        with kept.slide(SLIDE) as slide:
            slides.append(slide)
            raise KeyError

    slides: list[Slide] = []
    with pytest.raises(KeyError):
        fail()
    assert closed(slides[0])


def test_nothing_is_kept_unless_asked():
    kept = ModelCache()
    with kept.slide(SLIDE) as slide:
        assert not closed(slide)
    assert closed(slide)

"""What a prediction covers: only that is ranked and accepted."""

import json

import numpy as np
import pytest
from review.making import add_run, hot

import napari_msunet as ms
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.review import state as covered
from napari_msunet.review import state as review_state
from napari_msunet.review.queue import survey

SHAPE = (2048, 2048)


@pytest.fixture
def store(tmp_path):
    with ms.LabelStore.create(tmp_path / "s.ome.zarr", shape=SHAPE, mpp=0.5, classes=("gland",)) as made:
        yield made


def in_view(store, part, key="r", finished=True):
    """A prediction of a part, as of what is in view: a gland everywhere."""
    arrays = {"labels": np.ones(SHAPE, np.uint8), "disagreement": hot(SHAPE, {(1, 1): 0.9, (0, 0): 0.5})}
    return add_run(store, key, arrays, part=part, finished=finished)


@pytest.mark.parametrize("finished", [True, False])
def test_accept_leaves_out_what_was_not_predicted(store, finished):
    in_view(store, Window(0, 0, 300, 320), finished=finished)
    accepted = review_state.accept(store, Window(256, 256, 256, 256))
    assert (accepted.pixels, accepted.left_out) == (44 * 64, 256 * 256 - 44 * 64)
    assert int(store.read_edited(Window(0, 0, *SHAPE)).sum()) == 44 * 64
    assert (store.read(Window(256, 256, 44, 64)) == 1).all()
    state = review_state.load_state(store)
    for level in range(len(store.info.shapes)):
        assert review_state.still_accepted(store, state, level) == [Window(256, 256, 256, 256)]
    store.undo()
    assert review_state.still_accepted(store, state, 1) == []
    store.redo()
    assert review_state.still_accepted(store, state, 1) == [Window(256, 256, 256, 256)]


def test_what_is_predicted_later_is_offered_again(store):
    in_view(store, Window(0, 0, 300, 320))
    review_state.accept(store, Window(256, 256, 256, 256))
    in_view(store, Window(0, 0, *SHAPE), "later")
    assert Window(256, 256, 256, 256) in [place.window for place in survey(store).candidates]
    assert review_state.accept(store, Window(256, 256, 256, 256)).left_out == 0


def test_nothing_predicted_nothing_accepted(store):
    in_view(store, Window(0, 0, 300, 320))
    with pytest.raises(StoreError, match=r"Nothing of this place \(256 x 256 pixels\) was predicted"):
        review_state.accept(store, Window(512, 512, 256, 256))
    assert not (store.path / review_state.FILE).exists()
    assert not store.read_edited(Window(0, 0, *SHAPE)).any()


def test_a_run_that_was_not_merged_covers_nothing(store):
    run = store.create_run("r", {}, store.classes, {"labels": "uint8"})
    with run.writing():
        run.write(Window(0, 0, 512, 512), {"labels": np.ones((512, 512), np.uint8)})
        run.finish(0, Window(0, 0, 512, 512))
    with pytest.raises(StoreError, match="Nothing of this place"):
        review_state.accept(store, Window(0, 0, 256, 256))
    store.write(Window(0, 0, 10, 10), 1)
    assert review_state.accept(store, Window(0, 0, 256, 256)).pixels == 100


@pytest.mark.parametrize("by", ["disagreement", "distance", "oddity"])
def test_only_what_is_covered_is_ranked(store, by):
    class All:
        def on(self, grid, window):
            return np.ones(window.shape, bool)

    in_view(store, Window(0, 0, 512, 768))
    for tissue in (None, All()):
        found = survey(store, by, tissue=tissue)
        assert all(p.window.y < 512 and p.window.x < 768 for p in found.candidates)
        assert found.total == 2 * 3
        assert found.unpredicted == (0 if tissue is None else 58)


def test_a_drawn_region_and_tissue_cover_less_than_their_tiles(tmp_path):
    """Outside of what was wanted a tile is background that nobody predicted."""
    import tifffile

    from napari_msunet.config import Drawn
    from napari_msunet.labels.area import where_mask
    from napari_msunet.slide import open_slide

    image = np.full((*SHAPE, 3), 240, np.uint8)
    image[200:600, 200:600] = (150, 60, 140)
    tifffile.imwrite(tmp_path / "s.tif", image, photometric="rgb")
    triangle = Drawn(polygons=(((0, 0), (0, 512), (512, 0)),))
    with open_slide(tmp_path / "s.tif", 0.5) as slide:
        keys = {where: where_mask(slide, value).key for where, value in (("drawn", triangle), ("tissue", "tissue"))}
    options = {"drawn": triangle.model_dump(mode="json"), "tissue": "tissue"}
    for where in options:
        description = {
            "settings": {"where": json.loads(json.dumps(keys[where]))},
            "options": {"where": options[where]},
            "slide": str(tmp_path / "s.tif"),
        }
        with ms.LabelStore.create(tmp_path / f"{where}.ome.zarr", shape=SHAPE, mpp=0.5, classes=("gland",)) as other:
            copied = other.create_run("run", description, other.classes, {"labels": "uint8"})
            with copied.writing():
                copied.write(Window(0, 0, *SHAPE), {"labels": np.zeros(SHAPE, np.uint8)})
                copied.finish(0, Window(0, 0, *SHAPE))
                copied.complete_run()
            other.merge(copied)
            known = covered.covered(other, Window(0, 0, *SHAPE))
            assert known.mean() == pytest.approx(
                512**2 / 2 / 2048**2 if where == "drawn" else (400 / 2048) ** 2, rel=0.2
            )
            assert not known[900, 900]
            assert known[210, 210]
            coarse = covered.covered(other, Window(0, 0, *other.info.shapes[-1]), len(other.info.shapes) - 1)
            assert coarse.mean() == pytest.approx(known.mean(), rel=0.2)


def test_where_the_mask_cannot_be_told_any_more_only_what_was_found_counts(store):
    description = {"settings": {"where": {"in": "gone"}}, "options": {"where": "tissue"}, "slide": "/nowhere.svs"}
    values = np.zeros(SHAPE, np.uint8)
    values[:100, :100] = 1
    run = store.create_run("r", description, store.classes, {"labels": "uint8"})
    with run.writing():
        run.write(Window(0, 0, *SHAPE), {"labels": values})
        run.finish(0, Window(0, 0, *SHAPE))
        run.complete_run()
    store.merge(run)
    assert int(covered.covered(store, Window(0, 0, *SHAPE)).sum()) == 100 * 100

"""The review queue: what is offered, in what order, and what is remembered."""

import csv
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review.making import add_run, hot, make_store

import napari_msunet as ms
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.review import queue, state
from napari_msunet.review.queue import review_queue, survey
from napari_msunet.review.scores import Cells, entropy, farthest

SHAPE = (2048, 1536)


@pytest.fixture
def store(tmp_path):
    with make_store(tmp_path, SHAPE) as made:
        yield made


def windows(places):
    return [(p.window.y // 256, p.window.x // 256) for p in places]


def with_scores(store, key="a", places=None, name="disagreement", **options):
    values = hot(SHAPE, places or {(2, 3): 0.8, (5, 1): 0.6, (0, 0): 0.4})
    return add_run(store, key, {"labels": np.ones(SHAPE, np.uint8), name: values}, **options)


@pytest.mark.parametrize("name", ["disagreement", "entropy"])
@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_the_highest_means_come_first(store, name, dtype):
    with_scores(store, name=name, dtypes={name: dtype})
    found = review_queue(store, by=name, limit=3)
    assert windows(found) == [(2, 3), (5, 1), (0, 0)]
    assert [p.score for p in found] == pytest.approx([0.8, 0.6, 0.4], abs=0.01)
    assert "0.80" in found[0].reason


def test_places_do_not_overlap_and_cover_everything(store):
    with_scores(store)
    found = review_queue(store, limit=None)
    seen = np.zeros(SHAPE, int)
    for place in found:
        seen[place.window.slices()] += 1
    assert (seen == 1).all()
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)


def test_a_stopped_run_without_coarse_levels_is_read_finely(store):
    with_scores(store, finished=False)
    assert windows(review_queue(store, limit=2)) == [(2, 3), (5, 1)]


def test_only_what_was_computed_is_offered_and_the_newest_run_counts(store):
    top = Window(0, 0, 1024, 1536)
    with_scores(store, "a", part=top)
    assert survey(store).total == 4 * 6
    assert all(row < 4 for row, _ in windows(review_queue(store)))
    with_scores(store, "b", {(1, 1): 0.9}, part=top)
    assert windows(review_queue(store, limit=1)) == [(1, 1)]


def test_entropy_comes_from_probabilities_where_only_these_were_kept(store):
    rng = np.random.default_rng(0)
    certain = np.zeros((3, *SHAPE), np.float32)
    # a border in every pixel: the mean is undecided, the pixels are not
    certain[rng.integers(0, 3, SHAPE), *np.indices(SHAPE)] = 1
    certain[:, 256:512, 512:768] = np.array([0.4, 0.3, 0.3], np.float32)[:, None, None]
    certain[:, 1024:1280, 0:256] = np.array([0.7, 0.2, 0.1], np.float32)[:, None, None]
    add_run(store, "p", {"labels": np.ones(SHAPE, np.uint8), "probabilities": certain})
    found = review_queue(store, by="entropy", limit=2)
    assert found[0].score == pytest.approx(float(entropy(certain[:, 300:301, 600:601])[0, 0]), abs=0.01)
    assert (1, 2) in windows(found)
    with pytest.raises(StoreError, match=r'outputs=\("labels", "disagreement"\), or rank by="entropy"'):
        review_queue(store)


def test_the_bound_finds_the_same_as_reading_everything(store):
    rng = np.random.default_rng(1)
    logits = np.repeat(np.repeat(rng.normal(0, 2, (3, 64, 48)), 32, 1), 32, 2)
    values = np.exp(logits)
    values = (values / values.sum(0)).astype(np.float32)
    add_run(store, "p", {"labels": np.ones(SHAPE, np.uint8), "probabilities": values})
    found = review_queue(store, by="entropy", limit=7)
    exact = entropy(values).reshape(8, 256, 6, 256).mean((1, 3))
    best = np.argsort(-exact.ravel())[:7]
    assert windows(found) == [divmod(int(b), 6) for b in best]
    assert [p.score for p in found] == pytest.approx(exact.ravel()[best].tolist(), abs=2e-3)


def test_with_nothing_kept_one_sentence_says_how(store):
    add_run(store, "l", {"labels": np.ones(SHAPE, np.uint8)})
    for by in ("disagreement", "entropy"):
        with pytest.raises(StoreError, match=rf'predict again with outputs=\("labels", "{by}"\)'):
            review_queue(store, by=by)
    assert queue.available(store) == ("distance", "oddity")


def test_tissue_alone_is_offered(store):
    with_scores(store)

    class Left:
        def on(self, grid, window):
            x = (np.arange(window.width) + window.x + 0.5) * grid.pixel[1]
            return np.broadcast_to(x < 512, window.shape)

    found = survey(store, tissue=Left())
    assert {column for _, column in windows(found.candidates)} == {0, 1}
    assert found.total == 8 * 2


def test_accepting_is_one_stroke_with_zeros_and_survives(store, tmp_path):
    with_scores(store)
    values = np.zeros(SHAPE, np.uint8)
    values[600:700, 800:900] = 2
    add_run(store, "v", {"labels": values, "disagreement": hot(SHAPE, {(2, 3): 0.8, (5, 1): 0.6})})
    place = review_queue(store, limit=1)[0]
    number = state.accept(store, place.window)
    assert number > 0
    assert store.read_edited(place.window).all()
    assert not store.read_edited(Window(0, 0, *SHAPE)).all()
    np.testing.assert_array_equal(store.read(place.window), values[place.window.slices()])
    found = survey(store)
    assert place.window not in [p.window for p in found.candidates]
    assert (found.reviewed, found.total) == (1, 48)
    assert found.share == pytest.approx(1 / 48)
    # another prediction changes neither the pixels nor what was accepted
    add_run(store, "w", {"labels": np.full(SHAPE, 1, np.uint8), "disagreement": hot(SHAPE, {(2, 3): 0.9, (7, 5): 0.7})})
    np.testing.assert_array_equal(store.read(place.window), values[place.window.slices()])
    assert windows(review_queue(store, limit=1)) == [(7, 5)]
    store.close()
    again = ms.open_labels(store.path)
    assert windows(review_queue(again, limit=1)) == [(7, 5)]
    # undone, it is offered again
    again.undo()
    assert windows(review_queue(again, limit=1)) == [(2, 3)]
    assert survey(again).reviewed == 0
    again.close()


def test_skipped_places_come_back_when_wanted(store):
    with_scores(store)
    first = review_queue(store)[0]
    state.skip(store, first.window)
    found = survey(store)
    assert found.candidates[0].window != first.window
    assert found.skipped == 1
    assert found.reviewed == 0
    assert not store.read_edited(first.window).any()
    state.forget_skipped(store)
    assert review_queue(store)[0].window == first.window


def test_mostly_edited_windows_are_reviewed(store):
    with_scores(store)
    store.write(Window(512, 768, 100, 256), 1)
    assert windows(review_queue(store, limit=1)) == [(2, 3)]
    store.write(Window(612, 768, 100, 256), 1)
    assert windows(review_queue(store, limit=1)) == [(5, 1)]
    # thin lines everywhere fill the coarse level, and are still not a review
    values = np.zeros((256, 256), bool)
    values[::32] = True
    store.write(Window(1280, 256, 256, 256), 1, values)
    assert windows(review_queue(store, limit=1)) == [(5, 1)]


def test_distance_covers_the_slide(store):
    state.accept(store, Window(0, 0, 256, 256))
    found = review_queue(store, by="distance", limit=3)
    assert windows(found)[0] == (7, 5)
    assert found[0].score == pytest.approx(0.5 * np.hypot(7 * 256, 5 * 256))
    assert "mm from what was reviewed" in found[0].reason
    assert found[0].score > found[1].score >= found[2].score


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 5))
def test_farthest_is_greedy(seed, count, already):
    rng = np.random.default_rng(seed)
    places, seen = rng.random((count, 2)), rng.random((already, 2))
    chosen, reach = farthest(places, seen, 7)
    assert len(set(chosen.tolist())) == len(chosen) == min(7, count)
    known = list(seen)
    for index, distance in zip(chosen, reach, strict=True):
        nearest = [min((np.hypot(*(p - k)) for k in known), default=np.inf) for p in places]
        if known:
            assert distance == pytest.approx(max(nearest))
            assert nearest[index] == pytest.approx(max(nearest))
        known.append(places[index])


def test_odd_objects(store):
    values = np.zeros(SHAPE, np.uint8)
    for y in range(40, 2000, 128):
        for x in range(40, 1500, 128):
            values[y : y + 30, x : x + 30] = 1
    values[1300:1500, 300:500] = 1
    add_run(store, "o", {"labels": values})
    found = review_queue(store, by="oddity", limit=1)[0]
    assert found.window == Window(1280, 256, 256, 256)
    assert "gland of" in found.reason
    assert "times the usual area" in found.reason


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 700))
def test_means_over_windows(height, width, size):
    from napari_msunet.geometry import pyramid_shapes

    cells = Cells.over(pyramid_shapes((height, width)), size)
    ones = cells.mean(np.ones(cells.coarse, np.float32))
    assert ones.shape == cells.counts
    np.testing.assert_allclose(ones, 1)
    area = sum(cells.window(r, c).height * cells.window(r, c).width for r, c in np.ndindex(*cells.counts))
    assert area == height * width
    noise = np.random.default_rng(0).random(cells.coarse, np.float32)
    banded = cells.means(lambda w: noise[w.slices()], lambda done, total: None)
    np.testing.assert_allclose(banded, cells.mean(noise), rtol=1e-4)
    middle = cells.centres()[-1, -1]
    last = cells.window(cells.counts[0] - 1, cells.counts[1] - 1)
    np.testing.assert_allclose(middle, (last.y + last.height / 2, last.x + last.width / 2))


def test_csv(store, tmp_path):
    with_scores(store)
    places = review_queue(store, limit=5)
    path = queue.write_queue(places, tmp_path / "q.csv", store)
    rows = list(csv.DictReader(path.read_text(encoding="utf8").splitlines()))
    assert len(rows) == 5
    assert (rows[0]["y"], rows[0]["x"], rows[0]["height"]) == ("512", "768", "256")
    assert float(rows[0]["centre_y_um"]) == 0.5 * 640
    with pytest.raises(OutputError, match=r"does not end in \.csv"):
        queue.write_queue(places, tmp_path / "q.txt", store)


def test_bad_input(store):
    with pytest.raises(StoreError, match="cannot be ranked by 'beauty'"):
        review_queue(store, by="beauty")
    with pytest.raises(StoreError, match="at least 32"):
        review_queue(store, by="distance", size=8)
    with pytest.raises(StoreError, match="limit above zero"):
        review_queue(store, by="distance", limit=0)
    with pytest.raises(StoreError, match="lies outside of"):
        state.accept(store, Window(5000, 5000, 10, 10))
    (store.path / state.FILE).write_text(json.dumps({"accepted": [[1, 2]]}))
    with pytest.raises(StoreError, match=r"review\.json is damaged"):
        review_queue(store, by="distance")


def test_another_process_reads_the_queue_and_may_not_accept(store):
    with_scores(store)
    store.flush()
    code = (
        "import sys, napari_msunet as ms\n"
        "from napari_msunet.geometry import Window\n"
        "from napari_msunet.review import state\n"
        "store = ms.open_labels(sys.argv[1])\n"
        "print(len(ms.review_queue(store)))\n"
        "try:\n"
        "    state.accept(store, Window(0, 0, 256, 256))\n"
        "except ms.StoreLockedError:\n"
        "    print('locked')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["48", "locked"]
    assert state.load_state(store).accepted == ()


def test_a_large_slide_is_ranked_at_once(tmp_path):
    shape = (100_000, 100_000)
    with ms.LabelStore.create(tmp_path / "big.ome.zarr", shape=shape, mpp=0.25, classes=("a",)) as store:
        run = store.create_run("r", {}, ("a",), {"labels": "uint8", "disagreement": "float16"})
        rng = np.random.default_rng(0)
        part = Window(40_960, 40_960, 2048, 2048)
        with run.writing():
            run.write(
                part, {"labels": np.ones(part.shape, np.uint8), "disagreement": rng.random(part.shape, np.float32)}
            )
            run.finish(0, part)
            run.complete_run()
        store.merge(run)
        started = time.perf_counter()
        found = survey(store)
        assert time.perf_counter() - started < 2
        assert found.total == len(found.candidates) == 64
        for by in ("distance", "oddity"):
            started = time.perf_counter()
            assert survey(store, by=by).total == 64
            assert time.perf_counter() - started < 2

"""Truth under review: confusion and regions against brute force, grids, what is kept, what is taken and undone."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review.making import add_run
from scipy import ndimage

import napari_msunet as ms
from napari_msunet import review
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.review import label_issues, truth_comparison

CLASSES = ("gland", "stroma")


def store_of(path, values, kind="annotation", mpp=0.5, classes=CLASSES, where=None):
    store = ms.LabelStore.create(path, shape=values.shape, mpp=mpp, classes=classes, kind=kind)
    store.write(Window(0, 0, *values.shape), values, where if where is not None else np.ones(values.shape, bool))
    return store


def probabilities(labels, sure=0.9, count=3):
    """Of the labels' classes as sure as said, the rest shared."""
    planes = np.full((count, *labels.shape), (1 - sure) / (count - 1), np.float32)
    np.put_along_axis(planes, labels[None].astype(int), sure, 0)
    return planes


def predicted(path, labels, sure=0.9, classes=CLASSES, mpp=0.5, planes=None, outputs=("labels", "probabilities")):
    store = ms.LabelStore.create(path, shape=labels.shape, mpp=mpp, classes=classes)
    planes = probabilities(labels, sure, len(classes) + 1) if planes is None else planes
    arrays = {"labels": labels.astype(np.uint8), "probabilities": planes}
    add_run(store, "r", {name: arrays[name] for name in outputs}, {"probabilities": "float32"})
    return store


def random_blobs(rng, shape, values, sigma=4):
    """Random connected areas of some values."""
    maps = [ndimage.gaussian_filter(rng.normal(size=shape), sigma) for _ in values]
    return np.asarray(values, np.uint8)[np.argmax(maps, 0)]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), mapped=st.booleans(), kind=st.sampled_from(["annotation", "labels"]))
def test_confusion_and_losses_are_those_of_brute_force(tmp_path_factory, seed, mapped, kind):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(40, 150, 2).tolist())
    folder = tmp_path_factory.mktemp("truth")
    known = rng.random(shape) < 0.7
    values = random_blobs(rng, shape, [1, 2, 255 if kind == "annotation" else 0])
    planes = rng.dirichlet([1, 1, 1], shape).transpose(2, 0, 1).astype(np.float32)
    said = planes.argmax(0)
    labels = store_of(folder / "t.ome.zarr", np.where(known, values, 0).astype(np.uint8), kind, where=known)
    names = ("stroma", "gland") if mapped else CLASSES  # the model may number them differently
    model = predicted(folder / "m.ome.zarr", said, classes=names, planes=planes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_issues, "TILE", 32)
        found = review.review_truth(labels, model, least=0, edge=0, doubt=0, limit=10_000)
    number = {0: 0, 255: 0, 1: names.index("gland") + 1, 2: names.index("stroma") + 1}
    true = np.vectorize(number.get)(values)
    wanted = np.zeros((3, 3), int)
    np.add.at(wanted, (true[known], said[known]), 1)
    np.testing.assert_array_equal(found.confusion.pixels, wanted)
    assert found.confusion.areas.sum() == pytest.approx(known.sum() * 0.25)
    assert found.pixels == known.sum()
    wrong = known & (true != said)
    assert sum(p.pixels for p in found.suspects) == wrong.sum()
    loss = -np.log(np.take_along_axis(planes, true[None], 0)[0].clip(1e-4, 1))
    total = sum(p.loss * p.pixels for p in found.suspects)
    assert total == pytest.approx(loss[wrong].sum(), rel=1e-4)
    assert [p.loss for p in found.suspects] == sorted((p.loss for p in found.suspects), reverse=True)
    labels.close()
    model.close()


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), edge=st.sampled_from([0, 3, 5]))
def test_regions_do_not_depend_on_the_tiles(tmp_path_factory, seed, edge):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(60, 140, 2).tolist())
    folder = tmp_path_factory.mktemp("regions")
    labels = store_of(folder / "t.ome.zarr", random_blobs(rng, shape, [0, 1, 2, 255]))
    model = predicted(folder / "m.ome.zarr", random_blobs(rng, shape, [0, 1, 2]))
    pair = review.Pair(labels, model)
    found = []
    for tile in (32, 1024):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(label_issues, "TILE", tile)
            found.append(review.review_truth(pair, least=20, edge=edge, limit=10_000))
    assert [(p.window, p.first, p.pixels, p.truth, p.model) for p in found[0].suspects] == [
        (p.window, p.first, p.pixels, p.truth, p.model) for p in found[1].suspects
    ]
    assert found[0].confusion.places.keys() == found[1].confusion.places.keys()
    for cell, places in found[0].confusion.places.items():
        assert [p.first for p in places] == [p.first for p in found[1].confusion.places[cell]]
        for place in places:  # and each place is found again from its name
            mask = review.place_mask(pair, place, edge)
            assert mask.sum() == place.pixels
            assert mask.any(0).all()
            assert mask.any(1).all()
    labels.close()
    model.close()


def test_a_region_larger_than_the_largest_comes_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(label_issues, "TILE", 32)
    monkeypatch.setattr(truth_comparison, "LARGEST", 64)
    labels = store_of(tmp_path / "t.ome.zarr", np.ones((150, 150), np.uint8))
    model = predicted(tmp_path / "m.ome.zarr", np.zeros((150, 150), np.uint8))
    found = review.review_truth(labels, model)
    assert len(found.suspects) > 4
    assert max(max(p.window.shape) for p in found.suspects) <= 64
    assert sum(p.pixels for p in found.suspects) == 150 * 150
    for place in found.suspects:
        assert review.take_answer(review.Pair(labels, model), place)
    assert (labels.read(Window(0, 0, 150, 150)) == 255).all()


def test_edges_are_counted_and_not_offered(tmp_path):
    values = np.full((200, 200), 255, np.uint8)
    values[50:100, 50:100] = 1
    values[150, 20:120] = 1  # a line with background on both sides is an edge, too
    said = np.zeros((200, 200), np.uint8)
    said[48:102, 48:102] = 1  # two pixels wider all around
    said[130:140, 130:140] = 2
    labels, model = store_of(tmp_path / "t.ome.zarr", values), predicted(tmp_path / "m.ome.zarr", said)
    (place,) = review.review_truth(labels, model).suspects
    assert (place.window, place.truth, place.model) == (Window(130, 130, 10, 10), "background", "stroma")
    assert place.loss == pytest.approx(-np.log(0.05), rel=1e-3)
    assert place.confidence == pytest.approx(0.9, abs=1e-3)
    confusion = review.review_truth(labels, model).confusion
    assert confusion.pixels[0, 1] == 54**2 - 50**2
    assert confusion.pixels[1, 0] == 100
    assert (0, 1) not in confusion.places
    assert len(review.review_truth(labels, model, edge=0).suspects) == 3


def test_a_thin_stroke_by_itself_is_offered(tmp_path):
    values = np.zeros((100, 100), np.uint8)
    values[50:52, 20:80] = 1
    labels = store_of(tmp_path / "t.ome.zarr", values, where=values > 0)
    model = predicted(tmp_path / "m.ome.zarr", np.zeros((100, 100), np.uint8))
    (place,) = review.review_truth(labels, model).suspects
    assert (place.window, place.pixels, place.area) == (Window(50, 20, 2, 60), 120, 30.0)


def test_truth_finer_than_the_prediction(tmp_path):
    said = np.zeros((60, 60), np.uint8)
    said[20:40, 20:40] = 1
    values = np.full((240, 240), 255, np.uint8)
    values[80:160, 80:160] = 1  # the same square
    values[200:232, 8:40] = 2  # and something the model does not see
    labels = store_of(tmp_path / "t.ome.zarr", values, mpp=0.25)
    store = ms.LabelStore.create(
        tmp_path / "m.ome.zarr",
        mpp=1.0,
        classes=CLASSES,
        slide=ms.slide_from_array(np.zeros((240, 240, 3), np.uint8), mpp=0.25),
    )
    add_run(store, "r", {"labels": said, "probabilities": probabilities(said)}, {"probabilities": "float32"})
    found = review.review_truth(labels, store)
    (place,) = found.suspects
    assert (place.window, place.truth, place.model) == (Window(200, 8, 32, 32), "stroma", "background")
    assert place.area == pytest.approx(64)
    outside = 240**2 - 80**2 - 32**2
    assert found.confusion.pixels.tolist() == [[outside, 0, 0], [0, 80**2, 0], [32**2, 0, 0]]
    pair = review.Pair(labels, store)
    loss = pair.read(Window(120, 60, 1, 40)).loss[0]  # across an edge of both, at 20
    sure, unsure = -np.log(0.9), loss[19:21]
    assert loss[[0, -1]] == pytest.approx(sure, rel=1e-4)
    assert (unsure > 3 * sure).all()  # bilinear between the centres of the run's pixels
    assert (np.diff(loss[17:20]) > 0).all()


def test_several_answers_are_one_stroke_and_places_are_grouped_by_their_change(tmp_path, monkeypatch):
    monkeypatch.setattr(label_issues, "TILE", 64)  # places and their windows lie across tiles
    rng = np.random.default_rng(3)
    values = random_blobs(rng, (160, 160), [0, 1, 255], 6)
    labels = store_of(tmp_path / "t.ome.zarr", values, where=values > 0)
    model = predicted(tmp_path / "m.ome.zarr", random_blobs(rng, (160, 160), [0, 1, 2], 6))
    pair = review.Pair(labels, model)
    whole = Window(0, 0, 160, 160)
    before = labels.read(whole)
    found = review.review_truth(pair).suspects
    counts = review.transitions(found)
    assert sum(counts.values()) == len(found)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    change = next(iter(counts))
    places = [place for place in found if (place.truth, place.model) == change]
    assert len(places) > 1
    expected = before.copy()
    for place in places:
        mask = review.place_mask(pair, place)
        said = pair.model(place.window)
        expected[place.window.slices()][mask] = np.where(said == 0, 255, said)[mask]
    assert review.take_answers(pair, places) > 0
    np.testing.assert_array_equal(labels.read(whole), expected)
    assert review.take_answers(pair, places) == 0
    labels.undo()
    np.testing.assert_array_equal(labels.read(whole), before)


def test_taking_the_answer_is_one_stroke_and_one_undo_restores(tmp_path):
    rng = np.random.default_rng(3)
    values = random_blobs(rng, (160, 160), [0, 1, 255], 6)
    labels = store_of(tmp_path / "t.ome.zarr", values, where=values > 0)
    model = predicted(tmp_path / "m.ome.zarr", random_blobs(rng, (160, 160), [0, 1, 2], 6))
    pair = review.Pair(labels, model)
    whole = Window(0, 0, 160, 160)
    before = labels.read(whole), labels.read_edited(whole)
    found = review.review_truth(pair).suspects
    assert len(found) > 3
    for place in found[:4]:
        mask = review.place_mask(pair, place)
        said = pair.model(place.window)
        assert review.take_answer(pair, place) > 0
        now = labels.read(whole)
        expected = before[0].copy()
        expected[place.window.slices()][mask] = np.where(said == 0, 255, said)[mask]
        np.testing.assert_array_equal(now, expected)
        assert review.take_answer(pair, place) == 0  # nothing differs any more
        labels.undo()
        np.testing.assert_array_equal(labels.read(whole), before[0])
        np.testing.assert_array_equal(labels.read_edited(whole), before[1])


def test_the_answer_in_a_lasso_changes_only_known_truth(tmp_path):
    values = np.zeros((100, 100), np.uint8)
    values[20:60, 20:60] = 1
    labels = store_of(tmp_path / "t.ome.zarr", values, where=values > 0)
    model = predicted(tmp_path / "m.ome.zarr", np.full((100, 100), 1, np.uint8), classes=("tumour",))
    with pytest.raises(StoreError, match="corners"):
        review.take_answer(review.Pair(labels, model), [(0, 0), (1, 1)])
    assert review.Pair(labels, model).ignored == CLASSES
    assert review.review_truth(labels, model).pixels == 0
    other = predicted(tmp_path / "o.ome.zarr", np.full((100, 100), 3, np.uint8), classes=(*CLASSES, "tumour"))
    lasso = [(10, 10), (10, 40), (40, 40), (40, 10)]
    assert review.take_answer(review.Pair(labels, other), lasso) > 0
    assert labels.classes == (*CLASSES, "tumour")
    expected = values.copy()
    expected[20:40, 20:40] = 3
    np.testing.assert_array_equal(labels.read(Window(0, 0, 100, 100)), expected)
    labels.undo()
    np.testing.assert_array_equal(labels.read(Window(0, 0, 100, 100)), values)


def test_accepted_and_edited_pixels_of_labels_are_a_truth(tmp_path):
    said = np.zeros((128, 128), np.uint8)
    said[10:60, 10:60] = 1
    store = predicted(tmp_path / "m.ome.zarr", said)
    assert review.review_truth(store, store).pixels == 0
    store.write(Window(20, 20, 20, 20), 2)
    store.write(Window(70, 70, 20, 20), 0)
    found = review.review_truth(store, store)
    assert found.pixels == 800
    (place,) = found.suspects
    assert (place.window, place.truth, place.model) == (Window(20, 20, 20, 20), "stroma", "gland")
    assert review.take_answer(review.Pair(store, store), place)
    np.testing.assert_array_equal(store.read(Window(0, 0, 128, 128)), said)
    everything = review.review_truth(store, store, edited_only=False)
    assert everything.pixels == 128 * 128
    assert not everything.suspects


def test_zeros_of_fully_annotated_regions_are_truth(tmp_path):
    labels = ms.LabelStore.create(tmp_path / "t.ome.zarr", (128, 128), 0.5, CLASSES, "annotation")
    labels.mark_annotated([(10, 10), (10, 60), (60, 60), (60, 10)])
    said = np.zeros((128, 128), np.uint8)
    said[20:30, 20:30] = 1
    said[80:90, 80:90] = 1
    found = review.review_truth(labels, predicted(tmp_path / "m.ome.zarr", said))
    assert found.pixels == 2500
    (place,) = found.suspects
    assert (place.window, place.truth) == (Window(20, 20, 10, 10), "background")


def test_specks_need_a_higher_loss_than_whole_objects(tmp_path):
    said = np.zeros((100, 100), np.uint8)
    said[10:18, 10:18] = said[40:80, 40:80] = 1
    planes = probabilities(said, 0.8)
    planes[:, 10:18, 10:18] = np.array([0.05, 0.9, 0.05])[:, None, None]  # surer, and small
    labels = store_of(tmp_path / "t.ome.zarr", np.full((100, 100), 255, np.uint8))
    model = predicted(tmp_path / "m.ome.zarr", said, planes=planes)
    large, small = review.review_truth(labels, model).suspects
    assert large.pixels == 1600
    assert small.loss > large.loss
    assert review.review_truth(labels, model, doubt=0).suspects == [small, large]
    assert review.review_truth(labels, model, doubt=0, limit=1).suspects == [small]


def test_labels_alone_rank_by_size(tmp_path):
    values = np.full((100, 100), 255, np.uint8)
    said = np.zeros((100, 100), np.uint8)
    said[10:20, 10:20] = 1
    said[40:80, 40:80] = 2
    labels = store_of(tmp_path / "t.ome.zarr", values)
    found = review.review_truth(labels, predicted(tmp_path / "m.ome.zarr", said, outputs=("labels",)))
    assert not found.scored
    assert [(p.model, p.loss) for p in found.suspects] == [("stroma", 1.0), ("gland", 1.0)]
    assert np.isnan(found.suspects[0].confidence)


def test_what_was_kept_is_offered_no_more(tmp_path):
    values = np.full((100, 100), 255, np.uint8)
    said = np.zeros((100, 100), np.uint8)
    said[10:30, 10:30] = 1
    said[60:80, 60:80] = 1
    labels, model = store_of(tmp_path / "t.ome.zarr", values), predicted(tmp_path / "m.ome.zarr", said)
    pair = review.Pair(labels, model)
    first, second = review.review_truth(pair).suspects
    review.keep_truth(pair, first)
    found = review.review_truth(pair)
    assert ([p.window for p in found.suspects], found.kept) == ([second.window], 1)
    assert len(found.confusion.places[0, 1]) == 2
    shifted = np.roll(said, 3, 0)  # a model trained again does not say quite the same
    again = predicted(tmp_path / "n.ome.zarr", shifted)
    assert len(review.review_truth(labels, again).suspects) == 1
    labels.write(first.window, 2)  # other truth: a new question
    assert len(review.review_truth(pair).suspects) == 2
    review.remove_kept(labels)
    assert review.review_truth(pair).kept == 0
    (labels.path / "truth_review.json").write_text('{"kept": [1]}')
    with pytest.raises(StoreError, match=r"truth_review\.json is damaged"):
        review.review_truth(pair)


def test_truth_where_the_model_was_not_run(tmp_path):
    labels = store_of(tmp_path / "t.ome.zarr", np.ones((128, 128), np.uint8))
    store = ms.LabelStore.create(tmp_path / "m.ome.zarr", (128, 128), 0.5, CLASSES)
    with pytest.raises(StoreError, match="shows no prediction: predict the slide"):
        review.review_truth(labels, store)
    said = np.ones((128, 128), np.uint8)
    arrays = {"labels": said, "probabilities": probabilities(said)}
    add_run(store, "r", arrays, part=Window(0, 0, 64, 128), finished=False)
    found = review.review_truth(labels, store)
    assert (found.pixels, found.unpredicted) == (64 * 128, 64 * 128)
    add_run(store, "s", {"labels": said * 2, "probabilities": probabilities(said * 2)}, part=Window(32, 0, 32, 128))
    found = review.review_truth(labels, store)  # the newer run counts where both were run
    assert found.confusion.pixels[1].tolist() == [0, 32 * 128, 32 * 128]


def test_bad_input_is_one_sentence(tmp_path):
    labels = store_of(tmp_path / "t.ome.zarr", np.ones((64, 64), np.uint8))
    other = predicted(tmp_path / "m.ome.zarr", np.ones((65, 64), np.uint8))
    with pytest.raises(StoreError, match="open the image these labels were made on"):
        review.review_truth(labels, other)
    with pytest.raises(StoreError, match="Give the prediction"):
        review.review_truth(labels)
    model = predicted(tmp_path / "n.ome.zarr", np.zeros((64, 64), np.uint8))
    with pytest.raises(StoreError, match="numbers from 0"):
        review.review_truth(labels, model, doubt=-1)
    with pytest.raises(StoreError, match="limit from 1"):
        review.review_truth(labels, model, limit=0)
    objects = ms.LabelStore.create(tmp_path / "o.ome.zarr", (64, 64), 0.5, kind="labels", dtype="uint32")
    with pytest.raises(StoreError, match="Numbers of objects"):
        review.review_truth(objects, model)
    found = review.review_truth(labels, model)
    with pytest.raises(OutputError, match=r"\.csv"):
        review.write_label_issues(found, tmp_path / "a.txt", labels)


def test_csv(tmp_path):
    labels = store_of(tmp_path / "t.ome.zarr", np.ones((64, 64), np.uint8))
    found = review.review_truth(labels, predicted(tmp_path / "n.ome.zarr", np.zeros((64, 64), np.uint8)))
    (row,) = csv.DictReader(review.write_label_issues(found, tmp_path / "s.csv", labels).read_text().splitlines())
    assert (row["truth"], row["model"], row["pixels"], row["area_um2"]) == ("gland", "background", "4096", "1024")
    assert (row["centre_y_um"], row["height"]) == ("16", "64")
    rows = list(csv.DictReader(review.write_confusion(found.confusion, tmp_path / "c.csv").read_text().splitlines()))
    assert len(rows) == 9
    assert [r for r in rows if int(r["pixels"])] == [
        {
            "truth": "gland",
            "model": "background",
            "pixels": "4096",
            "area_um2": "1024",
            "share_of_truth": "1",
            "places": "1",
        }
    ]

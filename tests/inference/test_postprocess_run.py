"""Post-processing of runs: by the job, after the tiles, again after a kill, in bounded memory."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from napari_msunet.cli import execute
from napari_msunet.config import Postprocess, PostprocessJob
from napari_msunet.constants import IGNORED
from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.events import Message, Result
from napari_msunet.geometry import Window
from napari_msunet.inference.postprocess import decide, finish, threshold_array
from napari_msunet.jobs.run import run as run_job
from napari_msunet.labels import LabelStore, open_labels

SHAPE = (700, 1100)
CLASSES = ("gland", "stroma")


def probabilities(shape=SHAPE) -> np.ndarray:
    """Smooth probabilities of three values, background first."""
    rng = np.random.default_rng(5)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 6) * 40 for _ in range(3)])
    p = np.exp(fields - fields.max(0))
    return (p / p.sum(0)).astype(np.float32)


P = probabilities()
TILES = [Window(y, x, 350, 550) for y in (0, 350) for x in (0, 550)]


@pytest.fixture
def store(tmp_path):
    made = LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, CLASSES)
    yield made
    made.close()


def kept(store: LabelStore, dtype: str = "float16", key: str = "p", tiles=TILES):
    """A run with probabilities."""
    run = store.create_run(key, {}, CLASSES, {"labels": "uint8", "probabilities": dtype})
    with run.writing():
        for number, window in enumerate(tiles):
            p = P[(slice(None), *window.slices())]
            run.write(window, {"labels": p.argmax(0).astype(np.uint8), "probabilities": p})
            run.finish(number, window)
        run.complete_run()
    store.merge(run)
    return run


def result(job: PostprocessJob) -> Result:
    return [event for event in run_job(job) if isinstance(event, Result)][-1]


def all_of(run, output: str = "labels"):
    return run.read(Window(0, 0, *run.info.shape), output=output)


def chunks(run) -> dict[str, str]:
    files = [f for f in run.path.rglob("c/**/*") if f.is_file()]
    return {str(f.relative_to(run.path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_thresholds_from_what_was_kept(store, dtype):
    run = kept(store, dtype)
    settings = Postprocess(thresholds={"gland": 0.6, "stroma": 0.45})
    made = store.run(result(PostprocessJob(labels=store.path, postprocess=settings)).values["run"])
    expected = decide(all_of(run, "probabilities").astype(np.float32), threshold_array(settings.thresholds, CLASSES))
    np.testing.assert_array_equal(all_of(made), expected)
    np.testing.assert_array_equal(store.read(Window(0, 0, *SHAPE)), expected)
    assert (expected != all_of(run)).mean() > 0.02
    assert made.complete
    assert made.done == run.done


def test_edits_stay_and_asked_again_nothing_is_computed(store):
    kept(store)
    place = Window(100, 100, 50, 60)
    store.write(place, np.full(place.shape, 2, np.uint8))
    job = PostprocessJob(labels=store.path, postprocess=Postprocess(thresholds={"gland": 0.9}, smoothing=1.0))
    first = result(job)
    assert (store.read(place) == 2).all()
    assert (store.read(Window(0, 0, *SHAPE)) == 1).mean() < 0.9 * (P.argmax(0) == 1).mean()
    events = list(run_job(job))
    assert isinstance(events[0], Message)
    assert "complete already" in events[0].text
    assert events[-1].values["run"] == first.values["run"]


def test_all_of_it_is_the_same_for_any_windows(store):
    source = kept(store)
    settings = Postprocess(thresholds={"gland": 0.4}, smoothing=1.5, smallest=40, holes=30)
    found = []
    for side in (512, 1024, 2048):
        outputs = {"labels": "uint8", "instances": "uint32"}
        run = store.create_run(f"side{side}", {}, CLASSES, outputs)
        with run.writing():
            for _ in finish(run, settings, source, side=side):
                pass
            run.complete_run()
        found.append((all_of(run), all_of(run, "instances"), chunks(run)))
        assert run.description["instances"] == all_of(run, "instances").max() > 20
    for labels, instances, files in found[1:]:
        np.testing.assert_array_equal(labels, found[0][0])
        np.testing.assert_array_equal(instances, found[0][1])
        assert files == found[0][2]


def test_after_the_tiles_and_again_after_a_kill(store):
    settings = Postprocess(smallest=60, holes=60)
    raw = P.argmax(0).astype(np.uint8)
    raw[200:300, 500:700] = IGNORED
    bytes_of = []
    for stop in (None, 3):
        run = store.create_run(f"raw{stop}", {}, CLASSES, {"labels": "uint8", "raw": "uint8", "instances": "uint32"})
        with run.writing():
            for number, window in enumerate(TILES):
                part = raw[window.slices()]
                run.write(window, {"labels": np.where(part == IGNORED, 0, part), "raw": part})
                run.finish(number, window)
            if stop is not None:
                for count, _ in enumerate(finish(run, settings, side=512)):
                    if count == stop + 6:
                        break
        with run.writing():
            for _ in finish(run, settings, side=512):
                pass
            run.complete_run()
        bytes_of.append(chunks(run))
        assert not all_of(run)[200:300, 500:700].any()
        assert (all_of(run) != np.where(raw == IGNORED, 0, raw)).any()
    assert bytes_of[0] == bytes_of[1]


def test_what_cannot_be_done_is_said(store, tmp_path):
    with pytest.raises(StoreError, match="kept no probabilities"):
        list(run_job(PostprocessJob(labels=store.path)))
    run = kept(store)
    with pytest.raises(MsunetError, match=r"tumour.*gland, stroma"):
        list(run_job(PostprocessJob(labels=store.path, postprocess=Postprocess(thresholds={"tumour": 0.5}))))
    edge = Postprocess(instances="boundary", boundary="edge")
    with pytest.raises(MsunetError, match="boundary class 'edge'"):
        list(run_job(PostprocessJob(labels=store.path, run=run.key, instances=True, postprocess=edge)))


def test_by_the_command(store, capsys):
    kept(store)
    store.close()
    given = [str(store.path), "--threshold", "gland=0.7", "--smallest", "20", "--part", "--json"]
    assert execute(["postprocess", *given]) == 0
    opened = open_labels(store.path)
    (made,) = [run for run in opened.runs if "instances" in run.outputs]
    np.testing.assert_array_equal(all_of(made) > 0, all_of(made, "instances") > 0)
    assert made.description["instances"] > 10
    opened.close()


@pytest.mark.slow
def test_a_large_sparse_slide_in_bounded_memory(tmp_path):
    store = LabelStore.create(tmp_path / "large.ome.zarr", (100_000, 100_000), 0.5, CLASSES)
    run = store.create_run("r", {}, CLASSES, {"labels": "uint8", "raw": "uint8", "instances": "uint32"})
    settings = Postprocess(smallest=20, holes=20)
    y, x = np.mgrid[:1024, :1024]
    discs = ((y % 40 - 20) ** 2 + (x % 40 - 20) ** 2 < 19**2).astype(np.uint8)
    peaks = {}
    for count in (1, 4):
        with run.writing():
            for number in range(count):
                window = Window(30_720 + 1024 * (number % 4), 50_176 + 1024 * (number // 4), 1024, 1024)
                run.write(window, {"labels": discs, "raw": discs})
                run.finish(number, window)
            tracemalloc.start()
            for _ in finish(run, settings):
                pass
            peaks[count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peaks[4] < 1.5 * peaks[1] < 1.5e9
    store.close()

"""Jobs: JSON and back, the one door, thin functions, and work in a thread as events."""

import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import napari_msunet as ms
from napari_msunet.config.jobs import Job
from napari_msunet.events import Progress, Result, reported
from napari_msunet.jobs.run import _EVENTS_OF, parse_job


def source() -> ms.FolderSource:
    return ms.FolderSource(images=Path("images"), masks=Path("masks"), values={255: "gland"}, mpp=0.5)


JOBS = (
    ms.TrainJob(
        model=ms.ModelConfig(
            classes=("gland",),
            mpp=0.5,
            scales=(1, 0.5, 1 / 3),
            branch=tuple(ms.UNetConfig(depth=d, width=4 * d) for d in (1, 2, 3)),
        ),
        sources=(source(), ms.SlideSource(slide=Path("a.svs"), labels=Path("a.ome.zarr"))),
        out=Path("run"),
    ),
    ms.EvaluateJob(model=Path("m"), sources=(source(),), roles=("test",)),
    ms.PredictJob(slide=Path("s"), model=Path("m"), out=Path("o"), region=(1, 2, 3, 4.5), margin=16),
    ms.MeasureJob(labels=Path("l"), out=Path("o.csv")),
    ms.ExportJob(labels=Path("l"), out=Path("o.png"), region=(0, 0, 5, 5)),
    ms.PyramidJob(image=Path("i"), out=Path("o"), mpp=(0.5, 0.25)),
)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.job)
def test_a_job_is_data(job: ms.TrainJob, tmp_path: Path):
    assert parse_job(job.model_dump_json()) == job
    (tmp_path / "job.json").write_text(job.model_dump_json(indent=1), encoding="utf8")
    assert ms.job_from_json(tmp_path / "job.json") == job


def test_json_that_is_no_job_is_said(tmp_path: Path):
    path = tmp_path / "job.json"
    with pytest.raises(ms.MsunetError, match="cannot be read"):
        ms.job_from_json(path)
    for text, words in (
        ("hello", "JSON"),
        ("{}", "job"),
        ('{"job": "dance"}', "dance"),
        ('{"job": "measure", "labels": "l"}', "out"),
        ('{"job": "measure", "labels": "l", "out": "o", "colour": 1}', "colour"),
        ('{"job": "measure", "labels": "l", "out": "o", "schema_version": 99}', "newer"),
    ):
        path.write_text(text)
        with pytest.raises(ms.MsunetError, match=words) as caught:
            ms.job_from_json(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_kind_of_job_can_be_run():
    kinds = {kind for kind in get_args(get_args(Job)[0]) if isinstance(kind, type)}
    assert kinds <= set(_EVENTS_OF)
    for place in _EVENTS_OF.values():
        module, function = place.split(":")
        assert callable(getattr(import_module(module), function))


def test_what_is_no_job_is_refused():
    with pytest.raises(ms.MsunetError, match="is no job"):
        list(ms.run({"job": "measure"}))


def test_pyramid_measure_and_export(tmp_path: Path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (1500, 1300, 3), np.uint8)
    path = ms.build_pyramid(image, tmp_path / "a.ome.zarr", mpp=0.5)
    *steps, result = ms.run(ms.PyramidJob(image=path, out=tmp_path / "b.ome.zarr", mpp=0.25))
    assert isinstance(result, Result)
    assert len(steps) > 1
    assert all(isinstance(step, Progress) for step in steps)
    assert [step.done for step in steps] == sorted({step.done for step in steps})
    assert steps[-1].done == steps[-1].total
    with ms.open_slide(result.files["pyramid"]) as slide:
        assert slide.mpp == (0.25, 0.25)
        np.testing.assert_array_equal(slide.read(ms.Region(0, 0, 1500, 1300)), image)

    store = ms.LabelStore.create(tmp_path / "l.ome.zarr", shape=(30, 40), mpp=0.5, classes=("gland",))
    store.write(ms.Region(3, 4, 10, 20), 1)
    heard = []
    measured = ms.measure(ms.MeasureJob(labels=store.path, out=tmp_path / "o.csv"), heard.append)
    (gland,) = measured.classes
    assert gland.pop("per_mm2") == pytest.approx(1 / (1200 * 0.25e-6))
    assert gland == {"class": "gland", "area_um2": 50.0, "share": 200 / 1200, "objects": 1}
    assert all(file.is_file() for file in measured.files.values())
    assert isinstance(heard[-1], Result)
    exported = ms.export(ms.ExportJob(labels=store.path, out=tmp_path / "o.png"))
    assert exported.path.is_file()
    store.close()


def test_train_evaluate_and_predict_from_python(tmp_path: Path):
    data = Path(ms.__file__).with_name("demo_data") / "nuclei"
    images = {"masks": data / "test" / "masks", "images": data / "test" / "images", "values": "instances"}
    source = ms.FolderSource(table=data / "nuclei.csv", role="auto", **images)
    model = ms.ModelConfig(
        classes=("nucleus",), mpp=1.0, scales=(1, 0.5), branch=ms.UNetConfig(depth=1, width=2), fusion="mean"
    )
    job = ms.TrainJob(model=model, sources=(source,), out=tmp_path / "run", size=64, steps=1, epochs=1, batch_size=1)
    trained = ms.train(job)
    assert trained.folder == tmp_path / "run"
    assert trained.model_path.is_file()
    assert trained.metrics["epochs"] == 1
    scores = ms.evaluate(ms.EvaluateJob(model=trained.model_path, sources=(source,), out=tmp_path / "scores"))
    assert set(scores.scores["pooled"]) == {"fused", "scale 1", "scale 1/2"}
    assert all(file.is_file() for file in scores.files.values())
    slide = Path(ms.__file__).with_name("demo_data") / "CMU-1-Small-Region.svs"
    labels = ms.predict(slide, trained.model_path, tmp_path / "l.ome.zarr", region=ms.Region(0, 0, 99, 50))
    assert labels.classes == ("nucleus",)
    labels.close()


def test_closing_stops_the_work_and_waits_for_it():
    cleaned = threading.Event()

    def work(report: Callable[[int, int], None]) -> None:
        try:
            for i in range(10_000):
                report(i, 10_000)
                time.sleep(0.001)
        finally:
            time.sleep(0.05)
            cleaned.set()

    events = reported(work, "things")
    assert next(events).unit == "things"
    events.close()
    assert cleaned.is_set()


def test_errors_and_values_of_the_work_come_through():
    def fail(report: Callable[[int, int], None]) -> int:
        report(1, 2)
        raise KeyError("here")

    events = reported(fail, "things")
    assert next(events).done == 1
    with pytest.raises(KeyError, match="here"):
        next(events)

    def outer():
        value = yield from reported(lambda report: 7, "things")
        yield value

    assert list(outer()) == [7]

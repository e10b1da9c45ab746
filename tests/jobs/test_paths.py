"""Paths of jobs mapped to another machine and back, and files that only one side sees."""

from pathlib import Path

import pytest
from worker_helpers import SLIDE, Heard, model_file, prediction

from napari_msunet.config import Drawn, FolderSource, InClasses, ModelConfig, PredictJob, TrainJob
from napari_msunet.events import Message, RegionDone, Result
from napari_msunet.jobs.client import WorkerClient
from napari_msunet.jobs.paths import PathMap, missing_here
from napari_msunet.jobs.settings import Settings

PAIRS = (("/data", "/mnt/d"), ("/data/slides", "/fast/slides/"), ("/home/ann", "C:\\ann"))


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("/data/a.svs", "/mnt/d/a.svs"),
        ("/data/slides/b/a.svs", "/fast/slides/b/a.svs"),
        ("/data", "/mnt/d"),
        ("/database/a.svs", "/database/a.svs"),
        ("/home/ann/x/y.svs", "C:\\ann\\x\\y.svs"),
        ("/elsewhere/a", "/elsewhere/a"),
    ],
)
def test_the_longest_prefix_counts(here: str, there: str):
    assert PathMap(PAIRS).there(Path(here)) == there


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("/mnt/d/a.svs is not there.", "/data/a.svs is not there."),
        ("wrote '/fast/slides/b/l.ome.zarr', '/mnt/d'.", "wrote '/data/slides/b/l.ome.zarr', '/data'."),
        ("/mnt/data/a and /x/mnt/d/a stay", "/mnt/data/a and /x/mnt/d/a stay"),
        ("C:\\ann\\x", "/home/ann\\x"),
    ],
)
def test_texts_come_back(said: str, heard: str):
    assert PathMap(PAIRS).here(said) == heard


def test_every_path_of_a_job_is_mapped_and_nothing_else():
    paths = PathMap((("/data", "/mnt/d"),))
    source = FolderSource(images=Path("/data/i"), masks=Path("/data/m"), mpp=1.0, group="/data/(.*)")
    job = TrainJob(model=ModelConfig(classes=("/data/a",), mpp=1), sources=(source,), out=Path("/data/run"))
    sent = paths.request({"id": 1, "run": job})["run"]
    assert (sent["out"], sent["sources"][0]["images"]) == ("/mnt/d/run", "/mnt/d/i")
    assert (sent["sources"][0]["group"], sent["model"]["classes"]) == ("/data/(.*)", ["/data/a"])
    job = PredictJob(slide="/data/s", model=("/data/a", "/x/b"), out="/data/o", where=InClasses(labels="/data/t"))
    sent = paths.request({"id": 1, "run": job})["run"]
    assert (sent["slide"], sent["model"], sent["where"]["labels"]) == ("/mnt/d/s", ["/mnt/d/a", "/x/b"], "/mnt/d/t")
    drawn = job.model_copy(update={"where": Drawn(polygons=(((0, 0), (1, 0), (1, 1)),))})
    sent = paths.request({"id": 1, "run": drawn})["run"]
    assert (
        PredictJob.model_validate({**sent, "slide": "/data/s", "model": ["/data/a", "/x/b"], "out": "/data/o"}) == drawn
    )


def test_what_must_be_there_is_what_is_here(tmp_path: Path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "s.svs").touch()
    paths = PathMap(((str(tmp_path / "here"), "/no/such/place"),))
    job = PredictJob(slide=tmp_path / "here/s.svs", model="/nowhere/m", out=tmp_path / "here/new/l.ome.zarr")
    expected = paths.request({"run": job})["expected"]
    assert expected == {
        "/no/such/place/s.svs": str(tmp_path / "here/s.svs"),
        "/no/such/place": str(tmp_path / "here"),  # the nearest folder above what is to be written
    }
    text = missing_here(expected)
    assert text.startswith(f"{tmp_path / 'here/s.svs'} is on your computer, but the worker on ")
    assert "does not see it (/no/such/place/s.svs there); put it where both see it" in text
    assert missing_here({str(tmp_path): "x"}) is None


def test_results_come_back_and_what_is_not_here_is_said(tmp_path: Path):
    paths = PathMap(((str(tmp_path), "/far"),))
    (tmp_path / "labels").touch()
    (result,) = paths.event({"event": "result", "values": {"a": ["/far/x", 3]}, "files": {"labels": "/far/labels"}})
    assert result == Result(values={"a": [f"{tmp_path}/x", 3]}, files={"labels": f"{tmp_path}/labels"})
    warning, result = paths.event({"event": "result", "files": {"labels": "/far/other"}})
    assert isinstance(warning, Message)
    assert warning.text.startswith(f"The worker has written {tmp_path}/other, but nothing is there on this computer")
    region = {"event": "region_done", "run": "/far/x", "y": 0, "x": 0, "height": 1, "width": 1}
    assert paths.event(region) == [RegionDone(**{k: v for k, v in region.items() if k != "event"})]


def test_the_settings_take_whole_paths_only():
    assert Settings(path_map=[["/a", "/b"], ["C:\\x", "/x"]]).path_map == (("/a", "/b"), ("C:\\x", "/x"))
    with pytest.raises(ValueError, match="'slides' in the path map is no whole path"):
        Settings(path_map=[["/a", "slides"]])


def test_a_worker_that_has_the_files_under_another_name(tmp_path: Path):
    real, other = tmp_path / "real", tmp_path / "other"
    real.mkdir()
    other.symlink_to(real)
    model = model_file(real)
    gone = tmp_path / "gone"
    gone.mkdir()
    with WorkerClient(paths=PathMap(((str(real), str(other)), (str(gone), str(tmp_path / "no"))))) as client:
        heard = Heard(client, prediction(real, model))
        assert heard.ended() == ("done", None, None)
        assert heard.events[-1].files["labels"] == str(real / "labels.ome.zarr")
        (gone / "model.safetensors").write_bytes(model.read_bytes())
        outcome, text, _ = Heard(client, prediction(real, gone / "model.safetensors", "b")).ended()
        assert outcome == "error"
        assert text.startswith(f"{gone / 'model.safetensors'} is on your computer, but the worker on ")
        missing = Heard(client, prediction(real, real / "none.safetensors", "c")).ended()[1]
        assert f"There is no model file at {real / 'none.safetensors'}" in missing  # as it is called here
        found = Heard(client, {"path": str(model)})
        assert found.ended()[0] == "done"
        assert found.events[0].values["path"] == str(model)
        assert Heard(client, {"path": str(SLIDE)}).ended()[0] == "done"

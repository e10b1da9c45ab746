"""Cross-validation: every group validates once, scores and their spread are kept, and it goes on after a stop."""

import csv
import json

import numpy as np
import pytest
from data.making import write_folder
from training.test_training import make

from napari_msunet.config import CrossValidateJob
from napari_msunet.errors import OutputError, SourceError
from napari_msunet.events import Message, Progress, Result
from napari_msunet.jobs.run import cross_validate
from napari_msunet.models import load_model
from napari_msunet.training.cross_validation import _all_folds, _training, crossval_events
from napari_msunet.training.record import RunFolder
from napari_msunet.training.setup import prepare


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("discs"), 6, (48, 48))


def crossval(folders, out, **options):
    training = make(folders, out, epochs=1, steps=2)
    return CrossValidateJob(**({"training": training, "folds": 3, "out": out} | options))


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("crossval") / "cv"
    return crossval(folders, out), cross_validate(crossval(folders, out))


def test_each_image_validates_once(finished):
    job, result = finished
    seen = [name for fold in result.scores["folds"] for name in fold["split"]["validate"]]
    assert sorted(seen) == [f"name{n}" for n in range(6)]
    for number, fold in enumerate(result.scores["folds"], start=1):
        assert [i["name"] for i in fold["images"]] == fold["split"]["validate"]
        trained = load_model(job.out / f"fold{number}" / "model.safetensors").summary["split"]
        assert sorted(trained["validate"]) == sorted(fold["split"]["validate"])
        assert not set(trained["train"]) & set(fold["split"]["validate"])
    assert len(result.models) == 3


def test_with_a_seed_of_the_split_what_is_scored_was_held_out(folders, tmp_path):
    for seed in range(3):
        job = crossval(folders, tmp_path / str(seed))
        job = job.model_copy(
            update={"training": job.training.model_copy(update={"validation": 0.0, "split_seed": seed})}
        )
        for number, scored in enumerate(_all_folds(job, []), start=1):
            training = _training(job, number)
            session = prepare(training, RunFolder(training))
            session.close()
            assert [i.name for i in session.sides.validate] == [i.name for i in scored.validate]


def test_mean_and_deviation(finished):
    job, result = finished
    dice = [fold["pooled"]["fused"]["dice"] for fold in result.scores["folds"]]
    assert result.scores["mean"]["fused"]["dice"] == pytest.approx(np.mean(dice))
    assert result.scores["std"]["fused"]["dice"] == pytest.approx(np.std(dice, ddof=1))
    with (job.out / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["fold"] for r in rows} == {"1", "2", "3", "mean", "std"}
    assert {r["output"] for r in rows} == {"fused", "scale 1", "scale 1/2"}
    (mean,) = (r for r in rows if (r["fold"], r["output"], r["class"]) == ("mean", "fused", "disc"))
    assert float(mean["dice"]) == pytest.approx(result.scores["mean"]["fused"]["classes"]["disc"]["dice"], abs=1e-6)
    assert json.loads((job.out / "report.json").read_bytes())["mean"] == result.scores["mean"]


def test_it_goes_on_where_it_stopped(folders, tmp_path):
    job = crossval(folders, tmp_path / "cv")
    events = crossval_events(job)
    for event in events:
        if isinstance(event, Progress) and event.unit == "folds":
            break
    events.close()
    first = (job.out / "fold1" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(OutputError, match="already holds a cross-validation"):
        list(crossval_events(job))
    with pytest.raises(OutputError, match="another folds"):
        list(crossval_events(job.model_copy(update={"folds": 2, "resume": True})))
    found = list(crossval_events(job.model_copy(update={"resume": True})))
    assert isinstance(found[-1], Result)
    told = [e.text for e in found if isinstance(e, Message)]
    assert not any("Fold 1 of 3" in t for t in told)
    assert any("Fold 2 of 3" in t for t in told)
    assert any(t.startswith("Over 3 folds") for t in told)
    assert (job.out / "fold1" / "model.safetensors").stat().st_mtime_ns == first


def test_what_cannot_work_is_said_before_the_first_training(folders, tmp_path):
    for folds, said in ((7, "6 groups cannot be cut into 7 folds"),):
        with pytest.raises(SourceError, match=said):
            list(crossval_events(crossval(folders, tmp_path / str(folds), folds=folds)))
        assert not (tmp_path / str(folds) / "fold1").exists()
    one = write_folder(tmp_path / "one", 1)
    with pytest.raises(SourceError, match="alone cannot be cut into 3 folds"):
        list(crossval_events(crossval(one, tmp_path / "x")))
    with pytest.raises(OutputError, match="no cross-validation in"):
        list(crossval_events(crossval(folders, tmp_path / "none", resume=True)))

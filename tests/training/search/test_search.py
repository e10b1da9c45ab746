"""The search: its table, its best job, what is held out, stopping and going on, rows for what cannot run, bad input."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import write_folder
from training.search.searches import RATE, search

from napari_msunet.config import FolderSource, TrainJob
from napari_msunet.errors import MsunetError, OutputError, SourceError, StoreLockedError
from napari_msunet.events import Cancelled, Message, Result, Stop, TrialDone, stoppable
from napari_msunet.jobs.run import job_from_json, tune
from napari_msunet.training.experiments import reason_of_failure
from napari_msunet.training.search import study as study_module
from napari_msunet.training.search import trials as trials_module
from napari_msunet.training.search.search import tune_events

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    images, masks = write_folder(tmp_path_factory.mktemp("discs"), 4, (48, 48))
    return FolderSource(images=images, masks=masks, mpp=1.0)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """A grid of four points, of which two leave nothing of a window to learn from."""
    space = {"border": [0, 40], "model.scales": [[1.0], [1.0, 0.5]]}
    job = search(source, tmp_path_factory.mktemp("search") / "one", space=space, sampler="grid", trials=10)
    events = []
    return job, tune(job, events.append), events


def table(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_trial_is_a_row(finished):
    job, result, events = finished
    rows = table(job.out)
    assert len(rows) == 4
    assert {(row["border"], row["model.scales"]) for row in rows} == {
        (border, scales) for border in ("0", "40") for scales in ("1", "1,0.5")
    }
    scored = [row for row in rows if row["outcome"] == "scored"]
    assert {row["border"] for row in scored} == {"0"}
    for row in scored:
        folds = [float(row["fold1"]), float(row["fold2"])]
        assert float(row["dice"]) == pytest.approx(np.mean(folds))
        assert int(row["steps"]) >= 2
    assert [event.row["trial"] for event in events if isinstance(event, TrialDone)] == [0, 1, 2, 3]
    assert result.report["counts"] == {"scored": 2, "pruned": 0, "failed": 2}
    assert any(isinstance(e, Message) and "no more trials than that" in e.text for e in events)


def test_what_cannot_run_is_a_row_with_its_sentence(finished):
    job, _, events = finished
    failed = [row for row in table(job.out) if row["outcome"] == "failed"]
    assert len(failed) == 2
    assert all("border of 40 pixels leaves nothing" in row["error"] and row["dice"] == "" for row in failed)
    warned = [e.text for e in events if isinstance(e, Message) and e.level == "warning"]
    assert sum("cannot run: A border of 40" in text for text in warned) == 2


def test_the_best_is_a_job_that_can_be_run(finished):
    job, result, _ = finished
    best = max((row for row in table(job.out) if row["outcome"] == "scored"), key=lambda row: float(row["dice"]))
    assert result.dice == pytest.approx(float(best["dice"]))
    assert str(result.report["best"]["trial"]) == best["trial"]
    found = job_from_json(job.out / "best.json")
    assert isinstance(found, TrainJob)
    assert found == result.best
    assert (found.border, found.model.scales) == (0, tuple(map(float, best["model.scales"].split(","))))
    assert (found.validation, found.fold, found.clock, found.out) == (None, None, "wall", job.out / "best")
    low, high = result.report["best"]["interval"]
    assert low <= high


def test_held_out_images_never_train_and_each_is_held_out_once(finished):
    job, result, _ = finished
    folder = job.out / "trials" / f"{result.report['best']['trial']:04d}"
    sides = [json.loads((folder / f"fold{n}" / "result.json").read_bytes())["split"] for n in (1, 2)]
    for side in sides:
        assert not set(side["validate"]) & set(side["train"])
    assert sorted(name for side in sides for name in side["validate"]) == [f"name{n}" for n in range(4)]
    groups = json.loads((folder / "trial.json").read_bytes())["groups"]
    assert sorted(groups) == [f"name{n}" for n in range(4)]


def test_only_the_models_of_the_best_are_kept(finished):
    job, result, _ = finished
    kept = {path.parents[1].name for path in job.out.glob("trials/*/fold*/model.safetensors")}
    assert kept == {f"{result.report['best']['trial']:04d}"}


def test_pictures(finished):
    _, result, _ = finished
    for name in ("history", "slices"):
        assert result.files[name].stat().st_size > 5000


def test_images_are_loaded_once(source, tmp_path, monkeypatch):
    loads = []
    real = trials_module.SharedImages.load

    def load(self, sources, config, say=None):
        before = {key: id(items) for key, items in self._items.items()}
        found = real(self, sources, config, say)
        loads.append({key: id(items) for key, items in self._items.items()} != before)
        return found

    monkeypatch.setattr(trials_module.SharedImages, "load", load)
    tune(search(source, tmp_path / "s"))
    assert len(loads) >= 5
    assert loads.count(True) == 1


def stop_at(job, words):
    """Close the search when it says this."""
    events = tune_events(job)
    for event in events:
        if isinstance(event, Message) and words in event.text:
            break
    events.close()


def test_it_goes_on_where_it_was_stopped_and_trials_can_be_added(source, tmp_path):
    job = search(source, tmp_path / "stopped")
    stop_at(job, "Trial 1:")
    before = (job.out / "trials" / "0000" / "trial.json").read_bytes()
    asked = table(job.out)
    assert len(asked) == 1
    with pytest.raises(OutputError, match="already holds a search"):
        next(tune_events(job))
    other = search(source, tmp_path / "stopped", resume=True, space={"batch_size": [2, 4]})
    with pytest.raises(OutputError, match="another space"):
        next(tune_events(other))
    more = job.model_copy(update={"resume": True, "trials": 3})
    result = tune(more)
    assert (job.out / "trials" / "0000" / "trial.json").read_bytes() == before
    rows = table(job.out)
    assert len(rows) == 3
    assert rows[0] == asked[0]
    rates = [float(row["optimiser.learning_rate"]) for row in rows]
    assert len(set(rates)) == 3
    assert result.report["counts"]["scored"] == 3
    assert len(result.report["importance"]) <= 1


@pytest.mark.slow
def test_a_stopped_trial_begins_again_with_the_same_values(source, tmp_path):
    job = search(source, tmp_path / "again", trials=1)
    said = []
    stop = Stop()

    def happened(event):
        if isinstance(event, Message):
            said.append(event.text)
            if event.text.startswith("Training on"):
                stop.ask()

    with pytest.raises(Cancelled), stoppable(stop):
        tune(job, happened)
    begun = next(text for text in said if text.startswith("Trial 0:"))
    events = []
    tune(job.model_copy(update={"resume": True}), events.append)
    again = next(e.text for e in events if isinstance(e, Message) and e.text.startswith("Trial 1:"))
    assert again.removeprefix("Trial 1:") == begun.removeprefix("Trial 0:")


def test_two_searches_in_one_folder(source, tmp_path):
    job = search(source, tmp_path / "twice")
    first = tune_events(job)
    next(first)
    with pytest.raises(StoreLockedError, match=r"The search in .*twice is being written by process"):
        next(tune_events(job.model_copy(update={"resume": True})))
    first.close()


@pytest.mark.slow
def test_two_searches_of_one_name_in_one_database(source, tmp_path):
    storage = f"sqlite:///{tmp_path / 'both.db'}"
    tune(search(source, tmp_path / "a" / "one", storage=storage, trials=1))
    other = search(source, tmp_path / "b" / "one", storage=storage, trials=1, space={"batch_size": [2, 4]})
    with pytest.raises(OutputError, match="holds another search called one, which differs in space"):
        list(tune_events(other))
    result = tune(other.model_copy(update={"study": "another", "out": tmp_path / "c"}))
    assert result.report["counts"]["scored"] == 1  # a study of one trial
    assert (tmp_path / "c" / "slices.png").exists()


@pytest.mark.slow
def test_the_gaussian_process_tells_what_it_expected(source, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "_STARTUP", 2)
    result = tune(search(source, tmp_path / "gp", sampler="gp", trials=4))
    rows = table(tmp_path / "gp")
    assert [row["predicted"] != "" for row in rows] == [False, False, True, True]
    for row in rows[2:]:
        assert 0 < float(row["predicted_deviation"]) < 1
        assert -1 < float(row["predicted"]) < 2
    assert "importance" not in result.files  # a few trials say nothing


def test_one_group_only(source, tmp_path):
    one = source.model_copy(update={"group": "name"})
    with pytest.raises(SourceError, match="All images are of the one group name, so no trial could be scored"):
        list(tune_events(search(one, tmp_path / "s")))


@pytest.mark.slow
def test_fewer_groups_than_folds_and_a_single_split(source, tmp_path):
    events = []
    tune(search(source, tmp_path / "s", folds=9, trials=1), events.append)
    assert any(
        "4 groups, so they are cut into 4 folds instead of 9" in e.text for e in events if isinstance(e, Message)
    )
    result = tune(search(source, tmp_path / "t", folds=1, trials=1))
    assert len(result.report["trials"][0]["folds"]) == 1
    split = json.loads((tmp_path / "t" / "trials" / "0000" / "fold1" / "result.json").read_bytes())["split"]
    assert len(split["validate"]) == 1


def test_no_trial_that_runs_is_one_sentence(source, tmp_path):
    with pytest.raises(MsunetError, match="None of the 2 trials could run; the first says: A border of 4"):
        tune(search(source, tmp_path / "s", space={"border": [40, 44]}))
    assert len(table(tmp_path / "s")) == 2


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("nonsense", "is no URL of a database"),
        ("oracle9://somewhere/else", "is no URL of a database"),
        ("sqlite:////nowhere/at/all.db", "cannot be used .*unable to open"),
    ],
)
def test_a_storage_that_cannot_be_used(source, tmp_path, storage, words):
    with pytest.raises(OutputError, match=words):
        list(tune_events(search(source, tmp_path / "s", storage=storage)))


def test_a_damaged_database(source, tmp_path):
    job = search(source, tmp_path / "s")
    stop_at(job, "Trial 0:")
    (job.out / "search.db").write_bytes(b"nothing of the kind" * 300)
    with pytest.raises(OutputError, match="file is not a database"):
        list(tune_events(job.model_copy(update={"resume": True})))


def test_a_trial_that_needs_more_memory_than_there_is(source, tmp_path):
    space = {"batch_size": [2, 50_000_000]}
    rows = tune(search(source, tmp_path / "s", space=space, sampler="grid")).report["trials"]
    assert sorted(row["outcome"] for row in rows) == ["failed", "scored"]
    (sentence,) = [row["error"] for row in rows if "error" in row]
    assert "needs about" in sentence
    assert "choose a smaller batch" in sentence


def test_memory_that_is_not_there_is_a_sentence():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert reason_of_failure(caught.value).startswith("There is not enough memory for it")


def test_the_password_of_a_database_is_kept_nowhere(source, tmp_path):
    job = search(source, tmp_path / "s", storage="postgresql://me:secret@127.0.0.1:9/none")
    with pytest.raises(OutputError) as caught:
        list(tune_events(job))
    assert "secret" not in str(caught.value)
    assert not any(b"secret" in path.read_bytes() for path in Path(job.out).rglob("*") if path.is_file())


def test_the_last_event_is_the_result(finished):
    _, result, events = finished
    assert isinstance(events[-1], Result)
    assert 0 <= result.report["between"] < 1
    assert RATE  # what the others vary

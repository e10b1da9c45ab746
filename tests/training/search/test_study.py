"""The study: which trials count, what each sampler is told, and trials whose process is gone. Nothing is trained."""

from pathlib import Path

import numpy as np
import pytest
from training.search.searches import search

from napari_msunet.config import FolderSource
from napari_msunet.training.search.results import importances
from napari_msunet.training.search.study import SearchStudy

SOURCE = FolderSource(images=Path("a"), masks=Path("b"), mpp=1.0)


@pytest.fixture
def made(tmp_path):
    """Gives studies of one job, as several processes would open them."""
    studies = []

    def make(worker=0, **options):
        studies.append(SearchStudy(search(SOURCE, tmp_path, **{"trials": 20} | options), "images", worker))
        return studies[-1]

    yield make
    for study in studies:
        study.close()


def scored(asked, dice, outcome="scored"):
    return {"trial": asked.number, "values": asked.point, "outcome": outcome, "dice": dice}


def run(study, dice, outcome="scored"):
    asked = study.ask()
    study.tell(asked.number, scored(asked, dice, outcome))
    return asked


def test_the_median_ends_what_is_clearly_worse(made):
    study = made(pruner="median")
    for number in range(6):
        asked = study.ask()
        study.is_bad(asked, 0.7 + number / 100, 1)
        study.tell(asked.number, scored(asked, 0.7 + number / 100))
    good, bad = study.ask(), study.ask()
    assert not study.is_bad(good, 0.9, 1)
    assert study.is_bad(bad, 0.2, 1)
    assert not study.is_bad(bad, 0.9, 2)  # no other came so far


@pytest.mark.parametrize("pruner", ["none", "hyperband"])
def test_other_pruners(made, pruner):
    study = made(pruner=pruner, folds=4)
    ended = []
    for number in range(12):
        asked = study.ask()
        ended.append(study.is_bad(asked, 0.9 - number / 20, 1))
        study.tell(asked.number, scored(asked, 0.9 - number / 20))
    assert any(ended) == (pruner == "hyperband")


def test_no_more_trials_than_wanted_however_many_processes_ask(made):
    one, other = made(trials=2), made(worker=1, trials=2)
    first, second = one.ask(), other.ask()
    assert {first.number, second.number} == {0, 1}
    assert one.ask() is None
    assert other.ask() is None
    more = made(trials=3)
    assert more.ask() is not None


def test_processes_and_later_starts_draw_other_points(made):
    rates = [made(worker=worker).ask().point["optimiser.learning_rate"] for worker in (0, 1)]
    rates.append(made().ask().point["optimiser.learning_rate"])
    assert len(set(rates)) == 3
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)


def test_a_trial_whose_process_is_gone_begins_again_once(made):
    first = made().ask()
    study = made()
    assert study.adopt(lambda number: None) == 1
    again = study.ask()
    assert (again.number, again.point) == (1, first.point)
    last = made()
    assert last.adopt(lambda number: None) == 0
    (row,) = last.rows()
    assert (row["trial"], row["outcome"]) == (1, "failed")
    assert "ended twice" in row["error"]


def test_a_row_that_could_not_be_told_is_told_at_the_next_start(made):
    asked = made().ask()
    study = made()
    assert study.adopt({0: scored(asked, 0.5)}.get) == 0
    assert [row["dice"] for row in study.rows()] == [0.5]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_what_cannot_run_is_as_bad_as_the_worst_to_a_sampler_that_models(made, sampler):
    study = made(sampler=sampler)
    run(study, 0.8)
    run(study, 0.6)
    run(study, None, "failed")
    run(study, 0.3, "pruned")
    _, _, failed, pruned = study.trials()
    assert failed.state.name == ("FAIL" if sampler == "random" else "COMPLETE")
    assert failed.value == (None if sampler == "random" else 0.6)
    assert pruned.state.name == ("COMPLETE" if sampler == "gp" else "PRUNED")
    assert [row["outcome"] for row in study.rows()] == ["scored", "scored", "failed", "pruned"]


def test_the_gaussian_process_expects_what_it_has_seen(made):
    study = made(sampler="gp", trials=40)
    for _ in range(16):
        asked = study.ask()
        height = -abs(np.log10(asked.point["optimiser.learning_rate"]) + 2)
        study.tell(asked.number, scored(asked, 0.9 + height / 5))
    asked = study.ask()
    height = -abs(np.log10(asked.point["optimiser.learning_rate"]) + 2)
    assert asked.predicted == pytest.approx(0.9 + height / 5, abs=max(0.02, 3 * asked.predicted_deviation))
    assert 0 < asked.predicted_deviation < 0.1
    assert 0.005 < asked.point["optimiser.learning_rate"] < 0.02  # near the top


def test_importance_names_the_field_that_decides(tmp_path):
    space = {
        "optimiser.learning_rate": {"low": 0.0, "high": 1.0},
        "batch_size": [2, 4, 8],
        "optimiser.momentum": [0.1, 0.2],
    }
    space["optimiser.learning_rate"]["low"] = 0.01
    job = search(SOURCE, tmp_path, space=space)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        rate = float(rng.uniform(0.01, 1))
        values = {
            "optimiser.learning_rate": rate,
            "batch_size": str(rng.choice([2, 4, 8])),
            "optimiser.momentum": str(rng.choice([0.1, 0.2])),
        }
        rows.append({"trial": number, "outcome": "scored", "dice": 1 - abs(rate - 0.3), "values": values})
    found = importances(job, rows)
    assert max(found, key=found.get) == "optimiser.learning_rate"
    assert found["optimiser.learning_rate"] > 0.5
    assert importances(job, rows[:9]) == {}

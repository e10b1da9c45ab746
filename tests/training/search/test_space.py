"""The space of a search: what it may name, the sentence about what it may not, and its points."""

import json
from itertools import islice
from pathlib import Path

import pytest
from pydantic import ValidationError

from napari_msunet.config import AutoModel, FolderSource, LinkNetConfig, ModelConfig, Optimiser, TrainJob, TuneJob
from napari_msunet.config.search import SearchRange, grid_points, grid_size, values_of
from napari_msunet.jobs.run import parse_job

SOURCE = FolderSource(images=Path("a"), masks=Path("b"), mpp=1.0)
OPEN = AutoModel(classes=("disc",))


def job(space=None, model=OPEN, **training):
    return TuneJob(
        training=TrainJob(model=model, sources=(SOURCE,), out=Path("o"), **training), space=space, out=Path("s")
    )


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"optimiser.learning_rat": [1]}, "did you mean optimiser.learning_rate"),
        ({"optimizer.learning_rate": [1]}, "no field of a training"),
        ({"model.branch.dept": [1]}, "did you mean model.branch.depth"),
        ({"model.classes": [["a"]]}, "model.classes is the same in all trials"),
        ({"seed": [1, 2]}, "seed is the same in all trials"),
        ({"optimiser.learning_rate": {"low": 1, "high": 0.1}}, "optimiser.learning_rate: give a low below the high"),
        ({"optimiser.learning_rate": {"low": 0, "high": 0.1, "log": True}}, "a low above zero"),
        ({"optimiser.learning_rate": {"low": -1, "high": 0.1}}, "cannot be -1: Input should be greater than 0"),
        ({"optimiser.learning_rate": {"low": 1e-3}}, "optimiser.learning_rate: high: Field required"),
        ({"optimiser.learning_rate": 0.1}, "give a range such as"),
        ({"model.fusion": {"low": 0, "high": 1}}, "model.fusion takes no numbers; give its choices"),
        ({"model.fusion": ["mean", "maen"]}, "model.fusion cannot be maen"),
        ({"model.branch.depth": {"low": 1, "high": 9}}, "model.branch.depth cannot be 9"),
        ({"model.branch.depth": {"low": 1.5, "high": 3}}, "takes whole numbers"),
        ({"batch_size": [4, 4]}, "give each choice once"),
        ({"batch_size": []}, "batch_size"),
        ({"loss": ["dice", "dise"]}, "the loss 'dise' cannot be read"),
        ({}, "a space names fields"),
        ([1], "a space names fields"),
    ],
)
def test_a_space_that_cannot_be_used_is_refused_with_the_name_of_its_field(space, words):
    with pytest.raises(ValidationError) as caught:
        job(space)
    assert words in str(caught.value)


def test_a_space_without_a_valid_point():
    space = {"optimiser.kind": ["lbfgs"], "optimiser.accumulate": [2, 3]}
    with pytest.raises(ValidationError, match="no point of the space is a training that can be made: L-BFGS has one"):
        job(space)
    job(space | {"optimiser.accumulate": [1, 2]})  # one of two is enough


def test_a_job_file_holds_the_whole_space():
    given = job({"model.scales": [[1], [1, 0.5]], "optimiser.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}})
    again = parse_job(given.model_dump_json())
    assert again == given
    assert json.loads(given.model_dump_json())["space"]["model.scales"] == {"choices": [[1], [1, 0.5]]}


def test_labels_stand_for_choices():
    space = job(
        {"model.scales": [[1], [1, 0.5]], "model.shared": [True, False], "loss": ["dice", {"focal": 1}]}
    ).searched
    point = {"model.scales": "1,0.5", "model.shared": "true", "loss": '{"focal": 1}'}
    assert values_of(space, point) == {"model.scales": [1, 0.5], "model.shared": True, "loss": {"focal": 1}}


@pytest.mark.parametrize(
    ("entry", "whole", "levels"),
    [
        (SearchRange(low=1, high=4), True, [1, 2, 3, 4]),
        (SearchRange(low=1, high=9), True, [1, 5, 9]),
        (SearchRange(low=0, high=1), False, [0, 0.5, 1]),
        (SearchRange(low=1e-4, high=1e-2, log=True), False, [1e-4, 1e-3, 1e-2]),
        (SearchRange(low=0, high=0.5, step=0.2), False, [0, 0.2, 0.4]),
        (SearchRange(low=2, high=8, step=3), True, [2, 5, 8]),
    ],
)
def test_levels_of_a_grid(entry, whole, levels):
    assert entry.levels(whole) == pytest.approx(levels)


def test_the_points_of_a_grid_come_each_once_and_in_the_same_order():
    space = job(
        {"batch_size": [4, 8], "model.branch.depth": {"low": 2, "high": 5}, "model.fusion": ["mean", "max"]}
    ).searched
    points = list(grid_points(space, TrainJob, 1))
    assert len(points) == grid_size(space, TrainJob) == 16
    assert len({json.dumps(point, sort_keys=True) for point in points}) == 16
    assert list(islice(grid_points(space, TrainJob, 1), 5)) == points[:5]
    assert list(grid_points(space, TrainJob, 2)) != points


def test_a_grid_too_large_to_list_has_different_points_too():
    names = (
        "learning_rate",
        "weight_decay",
        "average_decay",
        "average_from",
        "min_delta",
        "rise",
        "factor",
        "threshold",
    )
    space = {f"optimiser.{name}": {"low": 0.1, "high": 0.9, "step": 0.1} for name in names}
    found = list(islice(grid_points(job(space).searched, TrainJob, 0), 200))
    assert len({json.dumps(point, sort_keys=True) for point in found}) == 200


def test_without_a_space_what_is_left_open_varies():
    assert set(job().searched) == {
        *("model.scales", "model.fusion", "model.branch.depth", "model.branch.width", "model.branch.dropout"),
        *("optimiser.learning_rate", "optimiser.weight_decay", "loss", "batch_size"),
    }
    chosen = job(model=AutoModel(classes=("a",), scales=(1.0,)), batch_size=4, optimiser=Optimiser(learning_rate=0.1))
    assert not {"model.scales", "batch_size", "optimiser.learning_rate"} & set(chosen.searched)
    assert "optimiser.weight_decay" in chosen.searched
    whole = ModelConfig(classes=("a",), mpp=1.0)
    assert {"model.scales", "model.fusion", "model.branch.depth"} <= set(job(model=whole).searched)
    thin = job(model=AutoModel(classes=("a",), branch=LinkNetConfig()))
    assert not any(name.startswith("model.branch") for name in thin.searched)

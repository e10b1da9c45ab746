"""A training for which nothing was chosen: it trains, says why it is what it is, and ends when its time is up."""

import json

import numpy as np
import pytest
from data.making import write_folder
from PIL import Image

from napari_msunet.cli import execute
from napari_msunet.config import AutoModel, FolderSource, TrainJob, UNetConfig
from napari_msunet.events import Message, Result
from napari_msunet.models import load_model
from napari_msunet.training.fit import train_events

SMALL = AutoModel(classes=("disc",), branch=UNetConfig(depth=2, width=4))


def make(folders, out, **options) -> TrainJob:
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0, group=options.pop("group", "name(.)"))
    return TrainJob(**{"model": SMALL, "sources": (source,), "out": out, "time_limit": 2.0, "device": "cpu"} | options)


def finish(job) -> tuple[list[str], dict]:
    events = list(train_events(job))
    assert isinstance(events[-1], Result)
    return [e.text for e in events if isinstance(e, Message)], events[-1].values


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("discs"), 6, (96, 96))


def test_everything_trains_until_the_time_is_up(folders, tmp_path):
    job = make(folders, tmp_path / "run", time_limit=3.0, clock="processor")
    texts, result = finish(job)
    assert result["stopped"] == "time limit"
    assert sorted(result["split"]["train"]) == [f"name{n}" for n in range(6)]
    assert result["validation"] == {}
    assert result["choices"]
    assert all(any(choice in text for text in texts) for choice in result["choices"])
    assert load_model(job.out / "model.safetensors").summary["choices"] == result["choices"]
    rates = [float(row.split(",")[2]) for row in (job.out / "metrics.csv").read_text().splitlines()[1:]]
    assert rates[-1] < 0.2 * max(rates)  # the schedule came to its end with the time


def test_the_last_weights_are_kept_as_an_average(folders, tmp_path):
    job = make(folders, tmp_path / "run")
    finish(job)
    kept, last = (load_model(job.out / name) for name in ("model.safetensors", "last.safetensors"))
    pairs = zip(kept.parameters(), last.parameters(), strict=True)
    assert any(bool((a != b).any()) for a, b in pairs)


def test_without_a_limit_a_part_validates_and_says_how_sure_it_is(folders, tmp_path):
    _, result = finish(make(folders, tmp_path / "run", time_limit=None, epochs=2, steps=2))
    assert len(result["split"]["validate"]) == 1
    assert set(result["validation_groups"]["fused"]) == {result["split"]["validate"][0].removeprefix("name")}


def test_a_held_out_fold_takes_no_part(folders, tmp_path):
    _, result = finish(make(folders, tmp_path / "run", fold=(1, 3)))
    assert len(result["split"]["validate"]) == 2
    assert result["validation"] == {}


@pytest.mark.parametrize("limit", [0.01, 1.0])
def test_a_limit_too_short_for_an_epoch_still_gives_a_model(folders, tmp_path, limit):
    _, result = finish(make(folders, tmp_path / "run", time_limit=limit, steps=100_000))
    assert result["epochs"] == 1
    assert result["steps"] >= 1
    load_model(tmp_path / "run" / "model.safetensors")


def test_one_image_one_group_and_tiny_images(folders, tmp_path):
    one = write_folder(tmp_path / "one", 1, (96, 96))
    texts, result = finish(make(one, tmp_path / "a", group=None))
    assert result["split"]["train"] == ["name0"]
    _, result = finish(make(folders, tmp_path / "b", group="(name)"))
    assert len(result["split"]["train"]) == 6
    tiny = write_folder(tmp_path / "tiny", 3, (20, 24))
    texts, result = finish(make(tiny, tmp_path / "c"))
    assert any("the rest is background" in text for text in texts)


def test_the_bare_command_trains(folders, tmp_path, capsys):
    command = ["train", "--images", str(folders[0]), "--masks", str(folders[1]), "--mpp", "1", "--classes", "disc"]
    assert execute([*command, "--time-limit", "3", "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    assert "µm per pixel" in capsys.readouterr().err
    job = json.loads((tmp_path / "run" / "job.json").read_bytes())
    assert job["size"] <= 96
    assert job["model"]["scales"] == [1.0]
    again = [*command, "--time-limit", "3", "--device", "cpu", "--out", str(tmp_path / "run"), "--resume"]
    assert execute(again) == 0


def test_images_of_one_colour_are_no_obstacle(tmp_path):
    images, masks = write_folder(tmp_path / "flat", 2, (64, 64))
    for path in images.iterdir():
        Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(path)
    _, result = finish(make((images, masks), tmp_path / "run"))
    assert result["steps"] >= 1

"""What goes wrong in a training: it says so in one sentence, and the last good model is intact."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import array_item, plain_optimiser, write_folder
from PIL import Image

from napari_msunet.config import FolderSource, ModelConfig, Normalisation, Optimiser, TrainJob, UNetConfig
from napari_msunet.data import Split
from napari_msunet.errors import MsunetError, SourceError
from napari_msunet.events import Message, Metric, Result
from napari_msunet.jobs.run import job_from_json
from napari_msunet.models import build_model, load_model
from napari_msunet.training.callbacks import Paced
from napari_msunet.training.fit import train_events
from napari_msunet.training.module import DivergedError, LossCheck, Training
from napari_msunet.training.prepare import known_only
from napari_msunet.training.tuner import steepest

TINY = ModelConfig(classes=("disc",), mpp=1.0, scales=(1.0,), branch=UNetConfig(depth=1, width=2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return write_folder(tmp_path_factory.mktemp("discs"), 3, (40, 40))


def make(folders, out: Path, **options) -> TrainJob:
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0, group="name(.)")
    given = {"size": 16, "batch_size": 4, "epochs": 3, "steps": 2, "device": "cpu", "model": TINY}
    given |= {"optimiser": plain_optimiser()} | options
    return TrainJob(**({"sources": (source,), "out": out} | given))


def texts(events) -> list[str]:
    return [e.text for e in events if isinstance(e, Message)]


# ------------------------------------------------------------------------------------------------------------- images


def test_classes_without_a_pixel_are_said_and_nothing_known_is_refused():
    known = np.zeros((8, 8), np.uint8)
    known[:2], known[2:4] = 1, 255
    only_background, unknown = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    said = []
    sides = Split([array_item(known), array_item(unknown, "blank")], [array_item(only_background)], [], [])
    kept, pixels = known_only(sides, ("a", "b"), lambda level, text: said.append(text))
    assert [i.name for i in kept.train] == ["one"]
    assert pixels == (32, 16, 0)
    assert [t.split(".")[0][:45] for t in said] == [
        "Nothing is annotated in blank: left out",
        "The class b has no pixel in the training imag",
        "The class a has no pixel in the validation im",
    ]
    with pytest.raises(SourceError, match="All pixels of the 1 training images are ignored"):
        known_only(Split([array_item(unknown)], [], [], []), ("a",), lambda *_: None)


def test_one_image_and_a_class_that_nobody_has(folders, tmp_path):
    images, masks = tmp_path / "i", tmp_path / "m"
    for folder, old in ((images, folders[0]), (masks, folders[1])):
        folder.mkdir()
        Image.open(old / "name0.png").resize((200, 200), 0).save(folder / "name7.png")
    model = TINY.model_copy(update={"classes": ("disc", "ring")})
    events = list(train_events(make((images, masks), tmp_path / "run", model=model)))
    assert isinstance(events[-1], Result)
    assert any("The class ring has no pixel in the training images" in t for t in texts(events))


# ------------------------------------------------------------------------------------------------------------ the loss


def test_a_loss_that_is_no_number_keeps_the_last_good_model(folders, tmp_path, monkeypatch):
    calls = []
    step = Training._step

    def breaking(self, model, inputs, target, split, *more, **others):
        loss = step(self, model, inputs, target, split, *more, **others)
        calls.append(split)
        return loss * float("nan") if calls.count("train") == 4 else loss

    monkeypatch.setattr(Training, "_step", breaking)
    with pytest.raises(DivergedError, match=r"became nan at step 4 \(epoch 2\).*learning rate.*best model before"):
        list(train_events(make(folders, tmp_path / "run")))
    assert load_model(tmp_path / "run" / "model.safetensors").summary["best_epoch"] == 1


def test_why_a_loss_is_no_number():
    model = build_model(TINY)
    good, bad = torch.rand(1, 3, 8, 8), torch.full((1, 3, 8, 8), torch.nan)
    guard = LossCheck(model, Optimiser(learning_rate=0.5))
    guard.add(1, 1, torch.tensor(1.0), [good])
    with pytest.raises(DivergedError, match=r"step 2 .*an image of this batch"):
        guard.add(2, 1, torch.tensor(torch.inf), [bad])
    with pytest.raises(DivergedError, match=r"output is too large.*0.5"):
        guard.add(3, 1, torch.tensor(torch.nan), [good])
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(DivergedError, match="weights had stopped being numbers"):
        guard.add(4, 1, torch.tensor(torch.nan), [good])


# ----------------------------------------------------------------------------------------------------------- too large


@pytest.mark.parametrize("at", [1, 5])
def test_out_of_memory_halves_the_batch_and_goes_on(folders, tmp_path, monkeypatch, at):
    seen = []
    step = Training.training_step

    def hungry(self, batch, index):
        seen.append(len(batch.target))
        if len(seen) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return step(self, batch, index)

    monkeypatch.setattr(Training, "training_step", hungry)
    monkeypatch.setattr(Paced, "due", True)  # each epoch is saved, however long that takes here
    events = list(train_events(make(folders, tmp_path / "run")))
    result = events[-1].values
    where = "from the beginning" if at == 1 else "after epoch 2"
    assert any("too little memory for 4 windows" in t and where in t and "with 2 at a time" in t for t in texts(events))
    assert seen[:at] == [4] * at
    assert set(seen[at:]) == {2}
    assert len(seen) - at == 4 * (3 if at == 1 else 1)  # twice as many batches, of half as many windows
    assert (result["epochs"], result["batch_size"]) == (3, 2)
    epochs = [e.epoch for e in events if isinstance(e, Metric) and e.name == "learning_rate"]
    assert epochs == [1, 2, 3]
    more = list(train_events(make(folders, tmp_path / "run", epochs=4, resume=True)))
    assert set(seen[-4:]) == {2}
    assert more[-1].values["batch_size"] == 2


def test_one_window_that_does_not_fit_is_an_error(folders, tmp_path, monkeypatch):
    def hungry(self, batch, index):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "training_step", hungry)
    with pytest.raises(MsunetError, match="too little memory for 1 windows of 16 pixels"):
        list(train_events(make(folders, tmp_path / "run")))


def test_finding_the_batch_and_the_learning_rate(folders, tmp_path):
    job = make(
        folders, tmp_path / "run", epochs=1, steps=3, find_batch_size=True, find_learning_rate=True,
        optimiser=plain_optimiser(learning_rate=1e-9),
    )  # fmt: skip
    events = list(train_events(job))
    result = events[-1].values
    assert result["batch_size"] == 8  # of 12 windows
    assert any("8 windows at a time fit" in t for t in texts(events))
    assert 1e-5 < result["learning_rate"] < 1
    (rate,) = [e.value for e in events if isinstance(e, Metric) and e.name == "learning_rate"]
    assert rate == result["learning_rate"]


def test_the_steepest_descent():
    rates = np.geomspace(1e-6, 1, 61)
    losses = 1 - 1 / (1 + np.exp(-4 * (np.log10(rates) + 3))) + np.where(rates > 0.1, 100 * (rates - 0.1), 0)
    assert 5e-4 < steepest(list(rates), list(losses), 7.0) < 5e-3
    assert steepest(list(rates), list(rates), 7.0) == 7.0
    assert steepest([1e-6], [1.0], 7.0) == 7.0


# ------------------------------------------------------------------------------------------------------- files, disks


def test_a_job_file_of_a_newer_version(folders, tmp_path):
    job = json.loads(make(folders, tmp_path / "run").model_dump_json())
    (tmp_path / "job.json").write_text(json.dumps(job | {"schema_version": 99, "quantum": True}))
    with pytest.raises(MsunetError, match="newer napari-msunet") as error:
        job_from_json(tmp_path / "job.json")
    assert "quantum" not in str(error.value)


FULL = """
import resource, sys
from napari_msunet.errors import OutputError
from napari_msunet.jobs.run import job_from_json
from napari_msunet.training.fit import train_events
job = job_from_json(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    list(train_events(job))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_model(folders, tmp_path):
    normalisation = Normalisation(mean=(0.8,) * 3, std=(0.2,) * 3)
    model = TINY.model_copy(update={"normalisation": normalisation})
    job = make(folders, tmp_path / "run", model=model)
    list(train_events(job.model_copy(update={"epochs": 1})))
    before = {p.name: p.read_bytes() for p in job.out.iterdir()}
    assert len(before["model.safetensors"]) > 6000 > len(before["job.json"])
    (tmp_path / "job.json").write_text(job.model_copy(update={"resume": True}).model_dump_json())
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "job.json")], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in ended.stdout
    assert ended.stdout.count("\n") == 1
    for name in ("model.safetensors", "last.ckpt"):
        assert (job.out / name).read_bytes() == before[name]
    load_model(job.out / "model.safetensors")
    assert not list(job.out.glob(".*.partial"))
    events = list(train_events(job.model_copy(update={"resume": True})))
    assert events[-1].values["epochs"] == 3

"""Training from end to end on small images: it learns, can be stopped, goes on, and says what is wrong."""

import csv
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import CONFIG, plain_optimiser, write_folder

from napari_msunet.config import Augmentation, FolderSource, LossConfig, Normalisation, SlideSource, TrainJob
from napari_msunet.errors import ModelError, MsunetError, OutputError, SourceError
from napari_msunet.events import Event, Message, Metric, Progress, Result, in_background
from napari_msunet.models import load_model
from napari_msunet.training.fit import train_events

FAST = plain_optimiser()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return write_folder(tmp_path_factory.mktemp("discs"), 6)


def make(folders: tuple[Path, Path], out: Path, **options) -> TrainJob:
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0, group="name(.)")
    given = {"size": 32, "batch_size": 4, "epochs": 2, "steps": 4, "optimiser": FAST, "device": "cpu"}
    given |= {"validation": 0.2} | options
    return TrainJob(**({"model": CONFIG, "sources": (source,), "out": out} | given))


def run(job: TrainJob) -> list[Event]:
    return list(train_events(job))


def values(events: list[Event]) -> dict:
    assert isinstance(events[-1], Result)
    return events[-1].values


def metric(events: list[Event], name: str, split: str, output: str = "fused") -> list[float]:
    found = [e for e in events if isinstance(e, Metric)]
    return [e.value for e in found if (e.name, e.split, e.output) == (name, split, output)]


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory) -> tuple[TrainJob, list[Event]]:
    job = make(folders, tmp_path_factory.mktemp("trained") / "run", epochs=8)
    return job, run(job)


def test_it_learns(trained):
    _, events = trained
    losses = metric(events, "loss", "train")
    assert len(losses) == 8
    assert losses[-1] < 0.6 * losses[0]
    assert max(metric(events, "iou", "validation")) > 0.6


def test_events_and_files_agree(trained):
    job, events = trained
    result = values(events)
    with (job.out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for output in CONFIG.outputs:
        for split in ("train", "validation"):
            for name in ("loss", "iou"):
                written = [float(r[f"{split}_{name}_{output}"]) for r in rows]
                assert written == pytest.approx(metric(events, name, split, output), rel=1e-4)
    assert TrainJob.model_validate_json((job.out / "job.json").read_text()) == job
    assert json.loads((job.out / "result.json").read_text()) == result
    kinds = {"model", "last", "metrics", "steps", "curves", "panels", "job", "environment", "checkpoint"}
    assert set(events[-1].files) - {"scores"} == kinds  # all curves, on a slow machine
    assert all(Path(p).is_file() for p in events[-1].files.values())
    named = {Path(p).name for p in events[-1].files.values()}
    assert {p.name for p in job.out.iterdir()} == named | {"result.json"}
    assert (job.out / "curves.png").stat().st_size > 5000


def test_the_result_says_what_was_trained(trained):
    job, events = trained
    result = values(events)
    ious = metric(events, "iou", "validation")
    assert result["validation"]["fused"]["iou"] == pytest.approx(ious[result["best_epoch"] - 1])
    smoothed = [np.mean(ious[max(0, n - 4) : n + 1]) for n in range(len(ious))]
    assert smoothed[result["best_epoch"] - 1] >= max(smoothed) - 1e-3
    assert set(result["validation"]) == {*CONFIG.outputs, "mean of scales"}
    assert result["epochs"] == 8
    assert result["steps"] == 32
    assert result["stopped"] == "epochs"
    assert len(result["split"]["train"]) == 5
    assert len(result["split"]["validate"]) == 1
    assert result["seconds_per_step"] > 0
    assert result["peak_memory_mb"] > 50
    model = load_model(job.out / "model.safetensors")
    assert result["fingerprint"] == model.fingerprint
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert model.summary["best_epoch"] == result["best_epoch"]
    assert model.summary["split"]["validate"] == result["split"]["validate"]
    assert any(isinstance(e, Progress) and e.unit == "steps" and e.total == 32 for e in events)


def test_the_normalisation_is_fitted_and_kept(trained, folders, tmp_path):
    job, _ = trained
    fitted = load_model(job.out / "model.safetensors").config.normalisation
    assert fitted is not None
    # Mostly the background's 230, 200, 220 and some disc.
    assert np.allclose(fitted.mean, np.array([215, 170, 208]) / 255, atol=0.08)
    given = Normalisation(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    job = make(folders, tmp_path / "run", model=CONFIG.model_copy(update={"normalisation": given}), epochs=1, steps=1)
    run(job)
    assert load_model(tmp_path / "run" / "model.safetensors").config.normalisation == given


def test_a_run_goes_on_as_if_never_stopped(trained, folders, tmp_path):
    _, events = trained
    half = make(folders, tmp_path / "run", epochs=4)
    run(half)
    rest = run(half.model_copy(update={"epochs": 8, "resume": True}))
    assert metric(rest, "loss", "train") == pytest.approx(metric(events, "loss", "train")[4:], rel=1e-6)
    assert values(rest)["fingerprint"] == values(events)["fingerprint"]
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 9
    again = run(half.model_copy(update={"epochs": 8, "resume": True}))
    assert any("finished" in e.text for e in again if isinstance(e, Message))
    assert values(again) == values(rest)


def test_closing_keeps_the_best_model_and_can_go_on(folders, tmp_path):
    job = make(folders, tmp_path / "run", epochs=500)
    events = train_events(job)
    before = threading.active_count()
    for event in events:
        if isinstance(event, Metric) and event.epoch == 2 and event.split == "validation":
            break
    assert threading.active_count() > before
    events.close()
    assert threading.active_count() == before
    load_model(tmp_path / "run" / "model.safetensors")
    assert not (tmp_path / "run" / "result.json").exists()
    done = (tmp_path / "run" / "metrics.csv").read_text().count("\n") - 1
    rest = run(job.model_copy(update={"epochs": done + 1, "resume": True}))
    # Saving takes no more than a small share of the time, so the last short epochs may be done again.
    assert 1 <= len(metric(rest, "loss", "train")) <= done + 1
    assert values(rest)["epochs"] == done + 1
    assert values(rest)["epochs"] == done + 1


def test_the_time_limit_ends_inside_an_epoch_with_a_model(folders, tmp_path):
    events = run(make(folders, tmp_path / "run", steps=100_000, time_limit=2.0))
    result = values(events)
    assert result["stopped"] == "time limit"
    assert result["epochs"] == 1
    assert 0 < result["steps"] < 100_000
    assert result["seconds"] < 8
    assert len(metric(events, "iou", "validation")) == 1
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_early_stopping(folders, tmp_path):
    still = plain_optimiser(learning_rate=1e-12, stop_after=2)
    result = values(run(make(folders, tmp_path / "run", epochs=50, steps=1, optimiser=still)))
    assert result["stopped"] == "no better"
    assert result["epochs"] < 20


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant"])
def test_schedules(folders, tmp_path, schedule):
    # The plateau watches a training loss that goes up and down at random.
    optimiser = plain_optimiser(learning_rate=1e-6, schedule=schedule, patience=1)
    options = {"epochs": 8, "steps": 1, "optimiser": optimiser, "validation": 0.0}
    rates = metric(run(make(folders, tmp_path / "run", **options)), "learning_rate", "train")
    if schedule == "constant":
        assert rates == [1e-6] * 8
    else:
        assert rates[0] > rates[-1]
    if schedule == "cosine":
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 1e-7


def test_without_validation_the_last_model_is_kept(folders, tmp_path):
    events = run(make(folders, tmp_path / "run", validation=0.0, epochs=3, steps=2))
    assert any("no validation" in e.text for e in events if isinstance(e, Message))
    assert not metric(events, "loss", "validation")
    assert values(events)["best_epoch"] == values(events)["epochs"] == 3


def test_an_exploding_loss_stops_with_a_sentence(folders, tmp_path):
    model = CONFIG.model_copy(update={"normalisation": Normalisation(mean=(0.0,) * 3, std=(1e-38,) * 3)})
    with pytest.raises(MsunetError, match="learning rate"):
        run(make(folders, tmp_path / "run", model=model))
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"model": CONFIG.model_copy(update={"field": "concentric"})},
        {"model": CONFIG.model_copy(update={"shared": True, "fusion": "concat"})},
        {"model": CONFIG.model_copy(update={"scales": (0.75, 0.5), "fusion": "mean"}), "size": 20},
        {"loss": LossConfig(branch=0.0), "border": 4},
        {"augmentation": Augmentation(rotate=0, scale=0)},
    ],
)
def test_other_settings_train_too(folders, tmp_path, options):
    result = values(run(make(folders, tmp_path / "run", epochs=1, steps=2, **options)))
    assert all(np.isfinite(v["loss"]) for v in result["train"].values())
    assert result["size"] % load_model(tmp_path / "run" / "model.safetensors").config.size_multiple == 0


def test_the_border_carries_no_loss():
    from napari_msunet.models import build_model
    from napari_msunet.training.module import Training, Windows

    job = make((Path("i"), Path("m")), Path("o"), border=8)
    module = Training(build_model(CONFIG), job, Windows(CONFIG, 32, 8), lambda: 0.0)
    inputs = [torch.rand(1, 3, 32, 32), torch.rand(1, 3, 16, 16)]
    target = torch.zeros(1, 32, 32, dtype=torch.int64)
    module.model.eval()

    def loss(target):
        return module._step(module.model, inputs, target, "train")

    changed = target.clone()
    changed[:, :8] = 1
    assert torch.equal(loss(target), loss(changed))
    changed[:, 8] = 1
    assert not torch.equal(loss(target), loss(changed))
    assert module.tallies["train"].confusions["fused"].matrix.sum() == 4 * 16 * 16


def test_bad_input_is_one_sentence_and_leaves_nothing(folders, tmp_path):
    for options, error, words in (
        ({"border": 16}, MsunetError, "border of 16"),
        ({"device": "toaster"}, ModelError, "toaster"),
        ({"model": CONFIG.model_copy(update={"channels": 1})}, SourceError, "3 channels"),
        ({"sources": (FolderSource(images=tmp_path / "no", masks=tmp_path, mpp=1.0),)}, SourceError, "no folder"),
    ):
        with pytest.raises(error, match=words):
            run(make(folders, tmp_path / "run", **options))
        assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        run(make(folders, tmp_path / "file" / "run"))


def test_a_slide_with_an_annotation(tmp_path):
    from data.making import disc

    from napari_msunet.geometry import Region
    from napari_msunet.labels import LabelStore
    from napari_msunet.slide import build_pyramid, open_slide, slide_from_array

    image, mask = disc((400, 500), 0)
    build_pyramid(slide_from_array(image, mpp=0.5), tmp_path / "s.ome.zarr", mpp=0.5)
    with open_slide(tmp_path / "s.ome.zarr") as slide:
        store = LabelStore.create(tmp_path / "a.ome.zarr", slide=slide, kind="annotation", classes=("disc",))
    for y in range(20, 380, 50):
        part = np.where(mask[y : y + 10], 1, 255).astype(np.uint8)
        store.write(Region(y, 0, 10, 500), part)
    store.close()
    source = SlideSource(slide=tmp_path / "s.ome.zarr", labels=tmp_path / "a.ome.zarr")
    events = run(
        TrainJob(
            model=CONFIG, sources=(source,), out=tmp_path / "run", size=32, batch_size=4, epochs=6, steps=4,
            optimiser=FAST, device="cpu",
        )
    )  # fmt: skip
    assert any("judged on a part of it" in e.text for e in events if isinstance(e, Message))
    assert metric(events, "loss", "train")[-1] < 0.8 * metric(events, "loss", "train")[0]
    assert metric(events, "iou", "validation")


def test_errors_of_the_thread_travel_and_closing_waits():
    def work(say, stop):
        say(Message(text="one"))
        raise KeyError("two")

    events = in_background(work)
    assert next(events) == Message(text="one")
    with pytest.raises(KeyError, match="two"):
        next(events)

    ended = []

    def waiting(say, stop):
        say(Message(text="on"))
        while not stop.asked:
            pass
        ended.append(True)
        stop.check()

    events = in_background(waiting)
    next(events)
    events.close()
    assert ended == [True]

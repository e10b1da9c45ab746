"""Optimisers, schedules, averages and losses: against PyTorch's own, and each option in a real, tiny training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import plain_optimiser, write_folder
from PIL import Image
from pydantic import ValidationError

from napari_msunet.config import FolderSource, LossConfig, ModelConfig, Optimiser, TrainJob, UNetConfig
from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.events import Message, Metric, Result
from napari_msunet.inference.recalibration import recalibrate
from napari_msunet.models import build_model, load_model
from napari_msunet.training import fit, tuner
from napari_msunet.training.fit import train_events
from napari_msunet.training.optimisers import (
    Average,
    falling,
    make_optimiser,
    make_schedule,
    one_cycle,
    restarts,
    warm,
)

TINY = ModelConfig(classes=("disc",), mpp=1.0, scales=(1.0,), branch=UNetConfig(depth=1, width=2))
TWO = TINY.model_copy(update={"scales": (1.0, 0.5)})
COARSE = TINY.model_copy(update={"scales": (0.5, 0.25)})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    images, masks = write_folder(tmp_path_factory.mktemp("discs"), 3, (40, 40))
    for path in masks.iterdir():  # two objects, one beside the other
        mask = np.array(Image.open(path))
        mask[:, 19:21] = 0
        Image.fromarray(mask).save(path)
    return images, masks


def train(folders, out: Path, **options) -> tuple[str, list]:
    """The fingerprint of the model, and all events."""
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0, group="name(.)")
    given = {"size": 16, "batch_size": 2, "epochs": 2, "steps": 3, "device": "cpu", "model": TINY}
    given |= {"optimiser": plain_optimiser(learning_rate=2e-3)} | options
    events = list(train_events(TrainJob(sources=(source,), out=out, **given)))
    assert isinstance(events[-1], Result)
    return events[-1].values["fingerprint"], events


@pytest.fixture(scope="module")
def prints(folders, tmp_path_factory) -> dict[str, str]:
    """Fingerprints by option; those of the trainings that were run are added."""
    return {"default": train(folders, tmp_path_factory.mktemp("plain") / "run")[0]}


def optimiser(**options) -> dict:
    return {"optimiser": plain_optimiser(**{"learning_rate": 2e-3} | options)}


def loss(text: str = "ce+dice", **options) -> dict:
    return {"loss": LossConfig(**(LossConfig.model_validate(text).model_dump() | options))}


CHANGES = {
    "adam": optimiser(kind="adam"),
    "betas": optimiser(betas=(0.5, 0.9)),
    "sgd": optimiser(kind="sgd", momentum=0),
    "momentum": optimiser(kind="sgd"),
    "nesterov": optimiser(kind="sgd", nesterov=True),
    "rmsprop": optimiser(kind="rmsprop"),
    "rmsprop, shorter memory": optimiser(kind="rmsprop", memory=0.5),
    "rmsprop with momentum": optimiser(kind="rmsprop", momentum=0.5),
    "adagrad": optimiser(kind="adagrad"),
    "lbfgs": optimiser(kind="lbfgs", learning_rate=0.5),
    "lbfgs, more iterations": optimiser(kind="lbfgs", learning_rate=0.5, iterations=8),
    "lbfgs, more decay": optimiser(kind="lbfgs", learning_rate=0.5, weight_decay=1.0),
    "weight decay": optimiser(weight_decay=1.0),
    "cosine": optimiser(schedule="cosine"),
    "restarts": optimiser(schedule="restarts"),
    "one cycle": optimiser(schedule="one_cycle"),
    "warm-up": optimiser(warmup=4),
    "warm-up and cosine": optimiser(schedule="cosine", warmup=4),
    "clip": optimiser(kind="sgd", clip=1e-3),
    "accumulate": optimiser(accumulate=2),
    "bf16": optimiser(precision="bf16"),
    "ema": optimiser(average="ema"),
    "ema, shorter": optimiser(average="ema", average_decay=0.05),
    "swa": optimiser(average="swa", average_from=0.0),
    "recalibrate": optimiser(recalibrate=True),
    "bce": loss("bce"),
    "bce+jaccard+dice": loss("bce+jaccard+dice"),
    "tversky": loss("tversky"),
    "focal": loss("focal"),
    "boundary": loss("dice+0.01*boundary"),
    "edge": loss("dice+edge"),
    "border": loss(border=10.0),
    "class weights": loss(class_weights=(1, 3)),
    "balanced": loss(class_weights="balanced"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_trains_and_changes_the_weights(folders, prints, tmp_path, name):
    found, events = train(folders, tmp_path / "run", **CHANGES[name])
    losses = [
        e.value for e in events if isinstance(e, Metric) and (e.name, e.split, e.output) == ("loss", "train", "fused")
    ]
    assert len(losses) == 2
    assert all(np.isfinite(losses))
    assert found not in prints.values()
    prints[name] = found


def test_the_same_seed_gives_the_same_weights_and_another_others(folders, prints, tmp_path):
    assert train(folders, tmp_path / "again")[0] == prints["default"]
    assert train(folders, tmp_path / "other", seed=1)[0] != prints["default"]


@pytest.mark.parametrize(
    "options",
    [
        optimiser(kind="sgd", learning_rate=0.05),
        optimiser(kind="lbfgs", learning_rate=1.0),
        optimiser(kind="rmsprop", learning_rate=5e-3, schedule="one_cycle", average="ema", average_decay=0.8),
        optimiser(kind="adagrad", learning_rate=0.05) | loss("bce+jaccard+dice"),
        optimiser(learning_rate=1e-2, schedule="restarts", restart_epochs=3, precision="bf16") | loss("focal+tversky"),
    ],
    ids=lambda o: o["optimiser"].kind,
)
def test_the_loss_goes_down(folders, tmp_path, options):
    wider = TINY.model_copy(update={"branch": UNetConfig(depth=2, width=4)})
    _, events = train(folders, tmp_path / "run", model=wider, size=32, epochs=6, steps=6, **options)
    losses = [
        e.value for e in events if isinstance(e, Metric) and (e.name, e.split, e.output) == ("loss", "train", "fused")
    ]
    assert losses[-1] < 0.85 * losses[0]


# ---------------------------------------------------------------------------------------------------------- schedules


def rates(schedule, optimiser, steps) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def toy(rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "restarts"])
def test_schedules_are_pytorchs(name):
    theirs = toy()
    expected = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 40),
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
            theirs, 0.1, total_steps=41, pct_start=0.3 + 0.7 / 41, cycle_momentum=False
        ),
        "restarts": lambda: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 5, 2),
    }[name]()
    wanted = rates(expected, theirs, 40)
    ours = {
        "cosine": [0.1 * falling(i / 40) for i in range(40)],
        "one_cycle": [0.1 * one_cycle(i / 40, 0.3 * 41 / 40 + 0.7 / 40 - 1 / 40) for i in range(40)],
        "restarts": [0.1 * restarts(i, 5, 2) for i in range(40)],
    }[name]
    assert ours == pytest.approx(wanted, abs=1e-4)
    optimiser, step = toy(), [0]
    schedule = make_schedule(
        Optimiser(schedule=name, restart_epochs=5, warmup=3), optimiser, lambda: step[0] / 40, lambda: 1
    )
    for i in range(40):
        shape = {"cosine": falling(i / 40), "one_cycle": one_cycle(i / 40, 0.3), "restarts": restarts(i, 5, 2)}[name]
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.1 * shape * warm(i, 3))
        optimiser.step()
        step[0] += 1
        schedule.step()
    assert [warm(i, 3) for i in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_the_plateau_follows_its_fields():
    optimiser = toy()
    options = plain_optimiser(factor=0.1, patience=2, threshold=0.5, monitor="iou")
    schedule = make_schedule(options, optimiser, lambda: 0.0, lambda: 1)
    for value in (0.1, 0.7, 0.8, 0.9, 0.95):  # only 0.7 is better by 0.5
        assert optimiser.param_groups[0]["lr"] == 0.1
        optimiser.step()
        schedule.step(value)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.01)
    loss_schedule = make_schedule(plain_optimiser(monitor="loss", threshold=0.5), toy(), lambda: 0.0, lambda: 1)
    assert (loss_schedule.mode, loss_schedule.threshold_mode) == ("min", "rel")


def test_warming_up_before_a_plateau(folders, tmp_path):
    _, events = train(folders, tmp_path / "run", epochs=3, steps=2, **optimiser(learning_rate=0.4, warmup=4))
    found = [e.value for e in events if isinstance(e, Metric) and e.name == "learning_rate"]
    assert found == pytest.approx([0.2, 0.4, 0.4])


# ---------------------------------------------------------------------------------------- rates, averages, statistics


def test_a_learning_rate_per_branch(folders, tmp_path):
    torch.manual_seed(0)
    start = build_model(TWO)
    options = optimiser(branch_rates=(0.0, 2.0))
    fixed = TrainJob(model=TWO, sources=({"kind": "folder", "images": "i", "masks": "m"},), out="o", **options)
    groups = make_optimiser(start, fixed.optimiser).param_groups
    frozen = {id(p) for p in start.branches[0].parameters()}
    assert not any(p.requires_grad for p in start.branches[0].parameters())
    assert {g["lr"] for g in groups} == {2e-3, 4e-3}
    assert not frozen & {id(p) for g in groups for p in g["params"]}
    train(folders, tmp_path / "run", model=TWO, **options)
    trained = load_model(tmp_path / "run" / "model.safetensors").state_dict()
    for name, value in start.state_dict().items():
        if "running" not in name and "num_batches" not in name and "normalise" not in name:
            assert torch.equal(trained[name], value) == name.startswith("branches.0."), name


def test_sixteen_bits_on_a_processor_are_bfloat16(folders, tmp_path):
    sixteen, events = train(folders, tmp_path / "16", **optimiser(precision="16"))
    assert any("precision bf16" in e.text for e in events if isinstance(e, Message))
    assert sixteen == train(folders, tmp_path / "bf16", **optimiser(precision="bf16"))[0]


def test_the_precision_is_measured_where_time_counts(folders, prints, tmp_path, monkeypatch):
    assert train(folders, tmp_path / "none", **optimiser(precision="auto"))[0] == prints["default"]
    monkeypatch.setattr(fit, "_TRIAL_FROM", 1.0)
    for number, (threshold, precision) in enumerate(((0.0, "bf16"), (1e9, "32"))):
        monkeypatch.setattr(tuner, "_FASTER", threshold)
        out = tmp_path / str(number)
        found, events = train(folders, out, time_limit=60, **optimiser(precision="auto"))
        assert load_model(out / "model.safetensors").summary["precision"] == precision
        assert any("in bfloat16" in e.text for e in events if isinstance(e, Message)) == (precision == "bf16")
        assert found == train(folders, tmp_path / precision, time_limit=60, **optimiser(precision=precision))[0]


def test_branch_rates_must_fit():
    with pytest.raises(ModelError, match="1 branch rates were given for 2 scales"):
        make_optimiser(build_model(TWO), Optimiser(branch_rates=(1.0,)))
    with pytest.raises(ModelError, match="share one network"):
        make_optimiser(build_model(TWO.model_copy(update={"shared": True})), Optimiser(branch_rates=(1.0, 2.0)))


def moved(model, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_swa_is_the_mean_and_ema_follows():
    model = build_model(TINY)
    swa = Average(model, Optimiser(average="swa"))
    ema = Average(model, Optimiser(average="ema", average_decay=0.25))
    expected = 2.0
    for number, value in enumerate((2.0, 4.0, 9.0)):
        moved(model, value)
        swa.add(model)
        ema.add(model)
        decay = min(0.25, (1 + number) / (10 + number))
        expected = value if number == 0 else decay * expected + (1 - decay) * value
    assert all(torch.allclose(p, torch.tensor(5.0)) for p in swa.model.parameters())
    assert all(torch.allclose(p, torch.tensor(expected)) for p in ema.model.parameters())


def test_recalibrated_statistics_are_those_of_the_batches():
    torch.manual_seed(0)
    model = build_model(TINY)
    model.train()
    batches = [[torch.rand(2, 3, 16, 16)] for _ in range(3)]
    count = recalibrate(model, batches, lambda m, x: m(x))
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert count == len(layers) > 0
    first = layers[0][1]
    seen = []
    first.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    model.eval()
    with torch.no_grad():
        for inputs in batches:
            model(inputs)
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(first.running_mean, means, rtol=1e-4, atol=1e-5)
    assert first.momentum is not None


def test_a_model_that_is_kept_while_it_trains_has_statistics_of_its_own_weights(folders, tmp_path):
    """It is what the preview of a training shows, where nothing validates."""
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0, role="train")
    given = {"size": 16, "batch_size": 2, "epochs": 50, "steps": 5, "device": "cpu", "model": TINY}
    events = train_events(TrainJob(sources=(source,), out=tmp_path, **given, **optimiser(average="ema")))
    while not (tmp_path / "model.safetensors").exists():
        next(events)
    early = load_model(tmp_path / "model.safetensors")
    events.close()
    (tracked, *_) = (m.num_batches_tracked for m in early.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert int(tracked) == 2  # batches of the statistics, not steps of the training


# ------------------------------------------------------------------------------------------------ stopping, own grid


def test_early_stopping_by_loss_and_by_how_much(folders, tmp_path):
    for number, options in enumerate(({"stop_metric": "loss", "min_delta": 100.0}, {"min_delta": 2.0})):
        given = optimiser(stop_after=2, **options)
        _, events = train(folders, tmp_path / str(number), epochs=9, steps=1, **given)
        assert events[-1].values["stopped"] == "no better"
        assert events[-1].values["epochs"] == 3
        word = "loss" if number == 0 else "IoU"
        assert any(f"No better validation {word} for 2 epochs" in e.text for e in events if isinstance(e, Message))


def test_the_loss_on_the_finest_branchs_own_grid(folders, tmp_path):
    options = {"model": COARSE, "size": 32, "border": 2, "epochs": 1}
    one, events = train(folders, tmp_path / "own", **options, **loss(own_grid=True))
    other, _ = train(folders, tmp_path / "target", **options)
    assert one != other
    assert any("2 µm per pixel, the grid of scale 1/2" in e.text for e in events if isinstance(e, Message))
    assert events[-1].values["size"] == 16
    model = load_model(tmp_path / "own" / "model.safetensors")
    assert model.config.mpp == 1.0
    assert model.config.scales == (0.5, 0.25)
    with pytest.raises(MsunetError, match="none is above 1"):
        train(folders, tmp_path / "no", model=TINY.model_copy(update={"scales": (2.0,)}), **loss(own_grid=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nesterov": True}, "Nesterov"),
        ({"kind": "sgd", "nesterov": True, "momentum": 0}, "Nesterov"),
        ({"kind": "lbfgs", "precision": "16"}, "L-BFGS"),
        ({"kind": "lbfgs", "accumulate": 2}, "L-BFGS"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, says):
    with pytest.raises(ValidationError, match=says):
        Optimiser(**options)


def test_old_job_files_mean_what_they_meant():
    """A run's job file names every option, so other defaults change nothing in it."""
    old = json.loads(plain_optimiser(weight_decay=0.1, patience=3, stop_after=4).model_dump_json())
    options = Optimiser.model_validate(old)
    assert (options.schedule, options.patience, options.stop_after) == ("plateau", 3, 4)
    assert (options.kind, options.average, options.precision, options.accumulate) == ("adamw", "none", "32", 1)
    assert LossConfig.model_validate({"cross_entropy": 1, "dice": 0.5, "branch": 0.4}).terms == {
        "cross_entropy": 1.0,
        "dice": 0.5,
    }

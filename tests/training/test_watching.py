"""Every number of a training: by epoch and by step, and each as the one that stops, lowers the rate, or keeps."""

import csv
from pathlib import Path

import numpy as np
import pytest
from data.making import CONFIG, plain_optimiser, write_folder
from pydantic import ValidationError

from napari_msunet.config import FolderSource, Optimiser, TrainJob
from napari_msunet.config.training import METRICS, watched_metric
from napari_msunet.errors import ModelError
from napari_msunet.events import Message, Metric, Result, StepMetrics
from napari_msunet.training.callbacks import thinned
from napari_msunet.training.fit import train_events
from napari_msunet.training.prepare import check
from napari_msunet.training.record import RunFolder, column
from napari_msunet.training.scoring.metrics import class_scores, mean_score, mean_scores

OUTPUTS = ("fused", "scale 1", "scale 1/2", "mean of scales")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return write_folder(tmp_path_factory.mktemp("discs"), 4, (32, 32))


def make(folders, out: Path, optimiser: Optimiser | None = None, **options) -> TrainJob:
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0, group="name(.)")
    given = {"size": 32, "batch_size": 1, "epochs": 4, "steps": 3, "validation": 0.5, "augmentation": "none"}
    given |= {"model": CONFIG, "device": "cpu", "step_metrics": ("loss", "accuracy")}
    return TrainJob(sources=(source,), out=out, optimiser=optimiser or plain_optimiser(), **given | options)


def run(job: TrainJob) -> tuple[list, dict]:
    events = list(train_events(job))
    assert isinstance(events[-1], Result)
    return events, events[-1].values


def rows(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def usual(folders, tmp_path_factory):
    """A run whose best model is that of the best recall of a scale."""
    job = make(folders, tmp_path_factory.mktemp("run") / "run", plain_optimiser(best_metric="recall scale 1/2"))
    return job, *run(job)


def test_every_number_of_every_epoch(usual):
    job, events, _ = usual
    found = rows(job.out / "metrics.csv")
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    for row in found:
        assert row["memory_mb"] > 50
        for split in ("train", "validation"):
            for name in METRICS:
                own = [row.get(column(split, name, o), np.nan) for o in OUTPUTS]
                if np.isfinite(own[1:3]).all():
                    assert own[3] == pytest.approx(np.mean(own[1:3]), rel=1e-4)
            for output in OUTPUTS[:3]:
                dice, iou = (row[column(split, name, output)] for name in ("dice", "iou"))
                assert row[column(split, "f1", output)] == dice
                assert iou == pytest.approx(dice / (2 - dice), rel=1e-4)  # one class
                assert 0 < row[column(split, "accuracy", output)] <= 1
    told = {(e.name, e.split, e.output) for e in events if isinstance(e, Metric)}
    assert {(name, s, o) for name in ("iou", "accuracy") for s in ("train", "validation") for o in OUTPUTS} <= told
    assert ("memory_mb", "train", "fused") in told


def test_the_numbers_of_each_step(usual):
    """Windows are whole images of one size, so the numbers of an epoch are means over its steps."""
    job, events, _ = usual
    epochs, steps = rows(job.out / "metrics.csv"), rows(job.out / "steps.csv")
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert [row["epoch"] for row in steps] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    for name in ("loss", "accuracy"):
        for output in OUTPUTS:
            by_step = np.array([row[f"{name}_{output}"] for row in steps]).reshape(4, 3).mean(1)
            assert by_step == pytest.approx([row[column("train", name, output)] for row in epochs], rel=1e-4)
    told = [e for e in events if isinstance(e, StepMetrics)]
    assert [(e.epoch, e.name) for e in told] == [(n, m) for n in (1, 2, 3, 4) for m in ("loss", "accuracy")]
    assert told[0].values == pytest.approx([row["loss_fused"] for row in steps[:3]], rel=1e-4)


def test_the_best_model_is_by_the_given_number(usual):
    job, _, result = usual
    found = rows(job.out / "metrics.csv")
    height = [row.get("validation_recall_scale 1/2", 0.0) for row in found]
    loss = [row["validation_loss_fused"] for row in found]
    means = [(np.mean(height[: i + 1]), np.mean(loss[: i + 1])) for i in range(4)]  # over five epochs
    best, kept = means[0], 1
    for epoch, (value, lost) in enumerate(means[1:], start=2):
        if value > best[0] + 1e-4 or (value >= best[0] - 1e-4 and lost < best[1]):
            best, kept = (value, lost), epoch
    assert result["best_epoch"] == kept
    assert set(result["validation"]["mean of scales"]) <= set(METRICS)


def test_the_lowest_loss_keeps_too(folders, tmp_path):
    job = make(folders, tmp_path / "run", plain_optimiser(best_metric="train loss", learning_rate=3e-3))
    _, result = run(job)
    losses = [row["train_loss_fused"] for row in rows(job.out / "metrics.csv")]
    assert losses == sorted(losses, reverse=True)  # it learns, so the mean over epochs falls too
    assert result["best_epoch"] == 4


def test_a_low_loss_ends_it(folders, tmp_path):
    job = make(folders, tmp_path / "run", plain_optimiser(stop_loss=100.0))
    events, result = run(job)
    assert (result["stopped"], result["epochs"]) == ("low loss", 1)
    assert any("below 100: training ends here" in e.text for e in events if isinstance(e, Message))
    events, _ = run(job.model_copy(update={"resume": True}))
    assert "is finished after 1 epochs" in events[0].text
    _, result = run(make(folders, tmp_path / "other", plain_optimiser(stop_loss=-1.0)))
    assert (result["stopped"], result["epochs"]) == ("epochs", 4)


@pytest.mark.parametrize("metric", ["accuracy mean of scales", "train_accuracy_scale 1"])
def test_plateau_and_early_stopping_watch_any_number(folders, tmp_path, metric):
    """None of them can rise by 2, so the rate falls and the training ends after the patience."""
    options = plain_optimiser(
        monitor=metric, factor=0.5, patience=1, threshold=2.0, stop_metric=metric, stop_after=3, min_delta=2.0
    )
    job = make(folders, tmp_path / "run", options, epochs=9, steps=1)
    events, result = run(job)
    assert (result["stopped"], result["epochs"]) == ("no better", 4)
    rates = [row["learning_rate"] for row in rows(job.out / "metrics.csv")]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 5e-3])
    words = watched_metric(metric).words
    assert any(f"No better {words} for 3 epochs" in e.text for e in events if isinstance(e, Message))


# ------------------------------------------------------------------------------------------------------------ old runs


def test_a_run_begun_before_there_were_so_many_columns_keeps_its_own(tmp_path):
    job = make((Path("i"), Path("m")), tmp_path / "run")
    folder = RunFolder(job)
    folder.begin(job)
    folder.metrics.write_text("epoch,seconds,learning_rate,train_loss_fused\n1,2,0.01,0.5\n2,2,0.01,0.25\n")
    again = RunFolder(job.model_copy(update={"resume": True}))
    again.add({"epoch": 3, "train_loss_fused": 0.2, "memory_mb": 7.0})
    again.add({"epoch": 4, "train_loss_fused": 0.1})
    assert folder.metrics.read_text().splitlines()[0] == "epoch,seconds,learning_rate,train_loss_fused"
    assert [row["train_loss_fused"] for row in rows(folder.metrics)] == [0.5, 0.25, 0.2, 0.1]
    assert again.rows[2]["memory_mb"] == 7  # known, but not written
    numbers = {(m, o): [0.5, float("nan")] for m in ("loss", "accuracy") for o in OUTPUTS}
    for epoch, last in ((1, 2), (2, 4), (2, 4)):  # the second is done again
        again.add_steps(epoch, last, numbers)
    with folder.steps.open("a") as file:
        file.write("5,3,0.")  # killed in the middle of a line
    newer = RunFolder(job.model_copy(update={"resume": True}))
    newer.add_steps(3, 6, numbers)
    assert [(row["step"], row["epoch"]) for row in rows(folder.steps)] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 3),
        (6, 3),
    ]


# ------------------------------------------------------------------------------------------------------------- numbers


def test_scores_of_many_matrices_at_once():
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 50, (4, 2, 3, 3))
    matrices[0, 0, :, 2] = matrices[0, 0, 2] = 0  # a class that is nowhere
    matrices[1, 1] = 0
    together = mean_scores(matrices)
    for name, values in together.items():
        assert values.shape == (4, 2)
        for place in np.ndindex(4, 2):
            assert values[place] == pytest.approx(mean_score(name, matrices[place]), nan_ok=True)
    one = class_scores(matrices[2, 1])
    assert all(np.array_equal(v, class_scores(matrices)[n][2, 1]) for n, v in one.items())


def test_a_long_epoch_is_thinned():
    values = np.arange(1000.0)
    values[:10] = np.nan
    found = thinned(values)
    assert len(found) == 100
    assert found[0] is None
    assert found[1] == pytest.approx(14.5)
    assert thinned(np.array([1.0, 2.0])) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "split", "name", "output"),
    [
        ("iou", None, "iou", "fused"),
        ("dice scale 1/2", None, "dice", "scale 1/2"),
        ("train loss", "train", "loss", "fused"),
        ("validation_f1_mean of scales", "validation", "f1", "mean of scales"),
        ("Recall fused", None, "recall", "fused"),
    ],
)
def test_names_of_numbers(text, split, name, output):
    assert watched_metric(text) == (split, name, output)


@pytest.mark.parametrize("text", ["", "jaccard", "iou of scale 1", "test iou", "loss scale"])
def test_a_metric_that_does_not_exist_is_one_sentence(text):
    for field in ("monitor", "stop_metric", "best_metric"):
        with pytest.raises(ValidationError, match="is no metric of a training; give one of loss, iou") as error:
            Optimiser(**{field: text})
        assert error.value.error_count() == 1


def test_a_scale_that_the_model_does_not_have(folders, tmp_path):
    job = make(folders, tmp_path / "run", plain_optimiser(stop_metric="iou scale 1/4"))
    with pytest.raises(ModelError, match="stop metric 'iou scale 1/4' is of an output that this model does not have"):
        run(job)
    assert not job.out.exists()
    assert any("scale 1/4" in finding.text for finding in check(job, None, devices=False) if finding.level == "error")

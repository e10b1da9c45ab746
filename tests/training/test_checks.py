"""The sentences before and during a training."""

import json

import numpy as np
import pytest
from data.making import write_folder

from napari_msunet.config import (
    ClassicalConfig,
    FolderSource,
    ModelConfig,
    SettledTrainJob,
    TimeTrainingJob,
    UNetConfig,
)
from napari_msunet.events import Metric
from napari_msunet.jobs.run import run
from napari_msunet.training.prepare import (
    check,
    check_classes,
    check_memory,
    check_time,
    measured_rate,
    step_work,
    training_memory,
)
from napari_msunet.training.progress import TrainingHistory, check_progress, does_context_help

MODEL = ModelConfig(classes=("disc",), mpp=1.0, scales=(1.0, 0.5), branch=UNetConfig(depth=2, width=4))


def job(tmp_path, **options):
    images, masks = tmp_path / "images", tmp_path / "masks"
    source = FolderSource(images=images, masks=masks, mpp=1.0, group=options.pop("group", None))
    values = {"model": MODEL, "sources": (source,), "out": tmp_path / "run", "size": 64, "batch_size": 2}
    values |= {"epochs": 100, "validation": 0.2}
    return SettledTrainJob(**(values | options))


def history(**series):
    """Numbers by "name_split", one for each epoch."""
    made = TrainingHistory()
    for key, values in series.items():
        name, split = key.rsplit("_", 1)
        for epoch, value in enumerate(values, 1):
            made.add(Metric(epoch=epoch, name=name, split=split, value=value))
    return made


def test_a_check_reads_the_sources_as_training_will(tmp_path):
    write_folder(tmp_path)
    texts = {f.level: f.text for f in check(job(tmp_path))}
    assert "error" not in texts
    assert "split is by image" in texts["warning"]
    grouped = check(job(tmp_path, group=r"name(\d)"))
    assert all(f.level == "ok" for f in grouped)
    assert any("Every class has annotated pixels" in f.text for f in grouped)
    one_group = check(job(tmp_path, group="name"))
    assert any("cannot be split" in f.text for f in one_group)


def test_sources_that_cannot_be_used_are_an_error_not_an_exception(tmp_path):
    found = check(job(tmp_path))
    assert [f.level for f in found if f.level == "error"] == ["error"]
    assert any("There is no folder" in f.text for f in found)
    assert any("needs about" in f.text for f in found)


def test_classes_with_few_pixels():
    (found,) = check_classes(("a", "b"), (9000, 40, 9000))
    assert (found.level, found.text.split()[0]) == ("warning", "a")
    assert "40 annotated pixels" in found.text
    (found,) = check_classes(("a",), (9000, 1_200_000))
    assert (found.level, found.text.split(": ")[1]) == ("ok", "background 9 k, a 1.2 M.")
    assert check_classes(("a", "b"), (9000, 0, 9000)) == []  # the training warns of what lacks


def test_memory_grows_with_what_costs_memory(tmp_path):
    base = job(tmp_path)
    for more in ({"batch_size": 4}, {"size": 256}, {"model": MODEL.model_copy(update={"scales": (1.0, 0.5, 2.0)})}):
        assert training_memory(base.model_copy(update=more)) > training_memory(base)
    assert check_memory(base, available=1e12).level == "ok"
    tight = check_memory(base, available=1e8)
    assert tight.level == "warning"
    assert "smaller batch" in tight.text


def test_the_time_follows_from_a_measured_step(tmp_path):
    small = job(tmp_path, epochs=10)
    runs = tmp_path / "runs"
    assert "known after the first steps" in check_time(small, 5, None).text
    assert check_time(small, 5, None).about == "time unknown"
    assert measured_rate(runs) is None
    (runs / "damaged").mkdir(parents=True)
    (runs / "damaged" / "result.json").write_text("{")
    (runs / "one").mkdir()
    (runs / "one" / "job.json").write_text(small.model_dump_json())
    (runs / "one" / "result.json").write_text(json.dumps({"seconds_per_step": 0.5}))
    rate = measured_rate(runs)
    assert rate == pytest.approx(0.5 / step_work(small))
    assert check_time(small, 5, rate).text == "Takes at most 25 s: 10 epochs of 5 steps of about 0.5 s."
    twice = small.model_copy(update={"batch_size": 4})
    assert "about 1 s" in check_time(twice, 5, rate).text
    limited = check_time(small.model_copy(update={"time_limit": 5.0}), 5, rate)
    assert limited.level == "warning"
    assert limited.text == "Takes 5 s: about 10 steps of 0.5 s."


def test_some_steps_tell_how_long_a_training_takes(tmp_path):
    write_folder(tmp_path)
    training = job(tmp_path, time_limit=600.0)
    *events, result = run(TimeTrainingJob(training=training, steps=2))
    values = result.values
    assert values["seconds_per_step"] > 0
    assert values["preparing"] > 0
    assert not training.out.exists()
    (said,) = [event.text for event in events if event.text.startswith("Takes ")]
    known = check(training, rate=values["rate"])
    assert [finding.text for finding in known if finding.about == "time"] == [said]
    slower = check(training, rate=10 * values["rate"])
    assert next(finding.text for finding in slower if finding.about == "time") != said
    classical = ModelConfig(classes=("gland",), mpp=1.0, scales=(1.0,), fusion="mean", branch=ClassicalConfig())
    *_, result = run(TimeTrainingJob(training=training.model_copy(update={"model": classical})))
    assert list(result.values) == ["preparing"]


def test_a_training_that_goes_well_is_left_alone():
    falling = list(np.geomspace(1.5, 0.2, 20))
    good = history(loss_train=falling, loss_validation=falling, iou_train=[0.8] * 20, iou_validation=[0.78] * 20)
    assert check_progress(good, ("gland",)) == []


def test_problems_are_said_with_what_to_do():
    flat = history(loss_train=[1.2] * 12, iou_train=[0.1] * 12)
    (found,) = check_progress(flat, ("gland",))
    assert "not fallen" in found.text
    assert "learning rate" in found.text
    lost = history(
        **{"loss_validation": [1, 0.9, 0.8], "iou gland_validation": [0.0] * 3, "iou wall_validation": [0.3] * 3}
    )
    (found,) = check_progress(lost, ("gland", "wall"))
    assert "never finds gland " in found.text
    falling = list(np.geomspace(1.5, 0.2, 8))
    heart = history(loss_train=falling, iou_train=[0.95] * 8, iou_validation=[0.5] * 8)
    (found,) = check_progress(heart, ("gland",))
    assert "by heart" in found.text


def test_a_run_that_goes_on_replaces_what_it_repeats():
    made = history(iou_validation=[0.1, 0.5, 0.4])
    assert made.best_epoch == 2
    made.add(Metric(epoch=2, name="iou", split="validation", value=0.2))
    assert made.series["iou", "validation", "fused"] == [(1, 0.1), (2, 0.2)]
    assert made.epochs == 2


def test_whether_context_helps():
    def scores(fused, one, half):
        return {"fused": {"iou": fused}, "scale 1": {"iou": one}, "scale 1/2": {"iou": half}}

    def groups(difference, spread):
        """Patients that differ more than the outputs do."""
        alone = {f"patient {n}": 0.5 + n / 10 for n in range(4)}
        return {
            "scale 1/2": alone,
            "fused": {g: v + difference + spread * (-1) ** n for n, (g, v) in enumerate(alone.items())},
        }

    assert "help: +0.050 over" in does_context_help(scores(0.80, 0.70, 0.75), groups(0.05, 0.01))
    assert "worse than one" in does_context_help(scores(0.60, 0.70, 0.75), groups(-0.15, 0.01))
    # The same difference within the spread of the groups, or of too few of them: nothing is claimed.
    for known in (groups(0.05, 0.1), None, {"fused": {"a": 0.8, "b": 0.7}, "scale 1/2": {"a": 0.7, "b": 0.6}}):
        assert "cannot be told" in does_context_help(scores(0.80, 0.70, 0.75), known)
    assert does_context_help({"fused": {"iou": 0.5}, "scale 1": {"iou": 0.5}}) == ""

"""The check before a training says what the training will: the same sides, windows, steps, warnings and refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data.making import CONFIG, disc, write_folder
from PIL import Image

import napari_msunet as ms
from napari_msunet.config import FolderSource, LossConfig, SlideSource, TrainJob, UNetConfig
from napari_msunet.data import load_sources
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.training.held_out import hold_out, save_held_out
from napari_msunet.training.prepare import check
from napari_msunet.training.progress import Finding
from napari_msunet.training.record import RunFolder
from napari_msunet.training.setup import prepare

ADVICE = ("annotated pixels", "of memory", "Takes ")
"""What the check knows beside: how little there is of a class, memory, time."""


def make(root: Path, *sources, **options) -> TrainJob:
    given = {"model": CONFIG, "size": 32, "batch_size": 4, "epochs": 1, "validation": 0.25, "device": "cpu"}
    sources = sources or (discs(root / "discs"),)
    return TrainJob(**({"sources": sources, "out": root / "run"} | given | options))


def discs(root: Path, count: int = 8, **options) -> FolderSource:
    images, masks = write_folder(root, count, shape=options.pop("shape", (80, 96)), value=options.pop("value", 1))
    return FolderSource(images=images, masks=masks, mpp=1.0, **({"group": r"name(\d)"} | options))


def runs(root: Path, job: TrainJob) -> Path:
    """A folder with an earlier run, so that the check knows how long a step takes and says how many there are."""
    folder = root / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(job.model_copy(update={"epochs": 1}).model_dump_json())
    (folder / "result.json").write_text(json.dumps({"seconds_per_step": 0.5}))
    return folder.parent


def texts(findings: list[Finding], level: str) -> list[str]:
    return [f.text for f in findings if f.level == level and not any(words in f.text for words in ADVICE)]


# --------------------------------------------------------------------------------------------------------------- jobs


def test_share(root: Path) -> TrainJob:
    return make(root, test=0.25)


def fold(root: Path) -> TrainJob:
    return make(root, fold=(2, 5), split_seed=3)


def held_out_fold(root: Path) -> TrainJob:
    return make(root, fold=(1, 4), validation=0)


def own_grid(root: Path) -> TrainJob:
    model = CONFIG.model_copy(update={"scales": (0.5, 0.25)})
    return make(root, model=model, size=64, loss=LossConfig(own_grid=True))


def valid_padding(root: Path) -> TrainJob:
    return make(root, model=CONFIG.model_copy(update={"branch": UNetConfig(depth=2, width=4, padding="valid")}))


def class_that_only_validates(root: Path) -> TrainJob:
    model = CONFIG.model_copy(update={"classes": ("disc", "ring")})
    others = discs(root / "b", 2, value=2, role="validate", group=None, shape=(64, 64))
    return make(root, discs(root / "a", role="train"), others, model=model)


def one_group(root: Path) -> TrainJob:
    return make(root, discs(root, group="name"))


def no_group(root: Path) -> TrainJob:
    return make(root, discs(root, group=None))


def window_larger_than_images(root: Path) -> TrainJob:
    return make(root, size=250)


def nothing_known_of_one(root: Path) -> TrainJob:
    source = discs(root, role="train")
    Image.fromarray(np.full((80, 96), 255, np.uint8)).save(source.masks / "name3.png")
    return make(root, source)


def corrections(root: Path) -> TrainJob:
    image, mask = disc((96, 128), 7)
    Image.fromarray(image).save(root / "slide.png")
    with ms.open_slide(root / "slide.png", mpp=1.0) as slide:
        store = ms.LabelStore.create(root / "slide.ome.zarr", classes=("disc",), slide=slide, mpp=1.0)
    store.write(Window(16, 20, 40, 48), mask[16:56, 20:68].astype(np.uint8))
    store.close()
    corrected = SlideSource(
        slide=root / "slide.png", labels=root / "slide.ome.zarr", mpp=1.0, edited_only=True, role="train"
    )
    return make(root, discs(root / "before"), corrected, replay=0.5)


def replaced_model(root: Path) -> TrainJob:
    """Two images were frozen, one of them is among the corrections' folder now; the others keep their sides."""
    old, tests = discs(root / "old"), discs(root / "tests", 2, group=None, role="test", shape=(64, 64))
    (root / "first").mkdir()
    split = {"train": [f"name{n}" for n in range(7)], "validate": ["name7"]}
    model = ms.save_model(ms.build_model(CONFIG), root / "first" / "model.safetensors", {"split": split})
    frozen = load_sources((tests,), CONFIG)
    save_held_out(hold_out(frozen, (tests,)), model.parent)
    (tests.images / "name1.png").unlink()  # the other one is missing
    (tests.masks / "name1.png").unlink()
    return make(root, old, tests.model_copy(update={"role": "train"}), replaces=model, start=model)


def short_time(root: Path) -> TrainJob:
    return make(root, time_limit=5.0, epochs=None)


def several_devices(root: Path) -> TrainJob:
    return make(root, devices=2)


def resumed(root: Path) -> TrainJob:
    job = make(root, test=0.25)
    prepared = prepare(job, RunFolder(job))
    prepared.close()
    RunFolder(job).begin(prepared.job)
    return job.model_copy(update={"resume": True, "epochs": 5})


JOBS = [
    *(test_share, fold, held_out_fold, own_grid, valid_padding, class_that_only_validates, one_group, no_group),
    *(window_larger_than_images, nothing_known_of_one, corrections, replaced_model, short_time, several_devices),
    resumed,
]
test_share.__test__ = False  # a job, for all its name


@pytest.mark.parametrize("job_of", JOBS, ids=lambda f: f.__name__)
def test_the_check_says_what_the_training_finds(tmp_path, job_of):
    job = job_of(tmp_path)
    findings = check(job, runs(tmp_path, job))
    session = prepare(job, RunFolder(job))
    session.close()
    sides, said = session.sides, "\n".join(f.text for f in findings)
    assert texts(findings, "error") == []
    assert texts(findings, "warning") == [m.text for m in session.messages if m.level == "warning"]
    images = [len(side) for side in sides[:3]]
    assert f"Training on {images[0]} image" in said
    assert f"in {len(session.batches)} steps of {job.batch_size} windows" in said
    if session.validation:
        windows = len(session.validation.spots)
        assert f"validating on {windows} windows of {images[1]} image" in said
    else:
        assert "validating on" not in said.replace("validating on none", "")
    assert (f"with {images[2]} image" in said) == bool(images[2])
    assert f"A batch of {job.batch_size} windows of {session.windows.size} pixels" in said
    assert len(said.splitlines()) == len(set(said.splitlines()))  # nothing is said twice


def test_jobs_are_what_they_are_called(tmp_path):
    """Else the test above would agree about nothing."""

    def of(job_of):
        job = job_of(tmp_path / job_of.__name__)
        session = prepare(job, RunFolder(job))
        session.close()
        return session

    for job_of in (test_share, fold, own_grid, short_time, replaced_model):
        (tmp_path / job_of.__name__).mkdir()
    assert [len(s) for s in of(test_share).sides[:3]] == [4, 2, 2]
    assert [len(s) for s in of(fold).sides[:3]] == [6, 2, 0]
    assert of(own_grid).windows.size == 32
    assert of(short_time).batches.steps == 20
    replaced = of(replaced_model)
    assert [i.name for i in replaced.sides.test] == ["name0"]
    assert any("1 of the 2 frozen test images are not there" in m.text for m in replaced.messages)


# ------------------------------------------------------------------------------------------------------------ refusals


def missing_folder(root: Path) -> TrainJob:
    return make(root, FolderSource(images=root / "none", masks=root / "none", mpp=1.0))


def too_many_folds(root: Path) -> TrainJob:
    return make(root, fold=(1, 20))


def nothing_known(root: Path) -> TrainJob:
    source = discs(root)
    for mask in source.masks.glob("*.png"):
        Image.fromarray(np.full((80, 96), 255, np.uint8)).save(mask)
    return make(root, source, model=CONFIG.model_copy(update={"classes": ("disc", "ring")}))


def wide_border(root: Path) -> TrainJob:
    return make(root, border=40)


def own_grid_of_larger_scales(root: Path) -> TrainJob:
    return make(root, model=CONFIG.model_copy(update={"scales": (2.0, 1.0)}), loss=LossConfig(own_grid=True))


def class_weights(root: Path) -> TrainJob:
    return make(root, loss=LossConfig(class_weights=(1, 1, 1)))


def bad_names(root: Path) -> TrainJob:
    return make(root, model=CONFIG.model_copy(update={"classes": ("disc", "not annotated")}))


def image_on_two_sides(root: Path) -> TrainJob:
    return make(root, discs(root / "a", role="train"), discs(root / "b", role="validate"))


def no_such_start(root: Path) -> TrainJob:
    return make(root, start=root / "none.safetensors")


def cut_start(root: Path) -> TrainJob:
    model = ms.save_model(ms.build_model(CONFIG), root / "old.safetensors")
    model.write_bytes(model.read_bytes()[:-100])
    return make(root, start=model)


def another_start(root: Path) -> TrainJob:
    other = CONFIG.model_copy(update={"scales": (1.0, 0.25)})
    return make(root, start=ms.save_model(ms.build_model(other), root / "old.safetensors"))


def damaged_frozen_set(root: Path) -> TrainJob:
    model = ms.save_model(ms.build_model(CONFIG), root / "old.safetensors")
    (root / "test_set.json").write_text('{"images": 3}')
    return make(root, replaces=model)


def finding_on_several(root: Path) -> TrainJob:
    return make(root, devices=2, find_batch_size=True)


def another_run(root: Path) -> TrainJob:
    (root / "run").mkdir()
    (root / "run" / "job.json").write_text("{}")
    return make(root)


def no_such_device(root: Path) -> TrainJob:
    return make(root, device="cuda:99")


REFUSED = [
    *(missing_folder, too_many_folds, nothing_known, wide_border, own_grid_of_larger_scales, class_weights, bad_names),
    *(no_such_start, cut_start, another_start, damaged_frozen_set, finding_on_several, another_run, no_such_device),
    image_on_two_sides,
]


@pytest.mark.parametrize("job_of", REFUSED, ids=lambda f: f.__name__)
def test_what_the_training_refuses_is_an_error_of_the_check(tmp_path, job_of):
    job = job_of(tmp_path)
    findings = check(job)
    with pytest.raises(MsunetError) as refused:
        prepare(job, RunFolder(job))
    assert [f.text for f in findings if f.level == "error"] == [str(refused.value)]


def test_the_loss_of_branches_is_refused_before_the_training_begins(tmp_path):
    (error,) = [f.text for f in check(make(tmp_path, loss=LossConfig(branch=(1, 1, 1)))) if f.level == "error"]
    assert "3 branch weights for 2 scales" in error


def test_the_window_checks_without_torch(tmp_path):
    job = replaced_model(tmp_path)
    code = (
        "import sys; from napari_msunet.config import TrainJob; from napari_msunet.training.prepare import check\n"
        "found = check(TrainJob.model_validate_json(sys.stdin.read()), devices=False)\n"
        "assert any(f.text.startswith('Training on') for f in found), found\n"
        "assert not {'torch', 'lightning', 'qtpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], input=job.model_dump_json(), text=True, check=True, timeout=60)

"""Going on from a model, learning from corrections beside what was used before, and the frozen test set."""

from pathlib import Path

import numpy as np
import pytest
from data.making import CONFIG, array_item, disc, plain_optimiser, write_folder
from PIL import Image

import napari_msunet as ms
from napari_msunet.app.retraining import corrections, retraining_job
from napari_msunet.config import FolderSource, SlideSource, TrainJob
from napari_msunet.data.sampling import Sampler
from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.events import Cancelled, Event, Message, Result, Stop
from napari_msunet.geometry import Window
from napari_msunet.review import state
from napari_msunet.training.fit import train_events
from napari_msunet.training.held_out import FILE, HeldOut, load_held_out
from napari_msunet.training.model_comparison import compare_models, compared, paired_bootstrap
from napari_msunet.training.record import RunFolder
from napari_msunet.training.setup import prepare


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return write_folder(tmp_path_factory.mktemp("discs"), 5)


@pytest.fixture(scope="module")
def tests(tmp_path_factory) -> tuple[Path, Path]:
    images, masks = write_folder(tmp_path_factory.mktemp("tests"), 9)
    for folder in (images, masks):  # other names and other discs than those that train
        for number in range(9):
            path = folder / f"name{number}.png"
            path.unlink() if number < 5 else path.rename(folder / f"test{number}.png")
    return images, masks


def source(folders: tuple[Path, Path], **options) -> FolderSource:
    return FolderSource(images=folders[0], masks=folders[1], mpp=1.0, **options)


def make(out: Path, *sources, **options) -> TrainJob:
    given = {"size": 32, "batch_size": 4, "epochs": 1, "steps": 1, "validation": 0, "device": "cpu"}
    learning = {"optimiser": plain_optimiser(learning_rate=1e-2)}
    return TrainJob(**({"model": CONFIG, "sources": sources, "out": out} | given | learning | options))


def run(job: TrainJob) -> list[Event]:
    return list(train_events(job))


def texts(events: list[Event]) -> str:
    return "\n".join(e.text for e in events if isinstance(e, Message))


def sides(job: TrainJob) -> tuple[dict[str, list[str]], str]:
    """Who would train, validate and test, and what is said about it; without training."""
    session = prepare(job, RunFolder(job))
    session.close()
    found = {side: [i.name for i in getattr(session.sides, side)] for side in ("train", "validate", "test")}
    return found, texts(session.messages)


def result(events: list[Event]) -> dict:
    assert isinstance(events[-1], Result)
    return events[-1].values


@pytest.fixture(scope="module")
def first(folders, tests, tmp_path_factory) -> TrainJob:
    """A good model, trained with test images put aside."""
    job = make(
        tmp_path_factory.mktemp("first") / "run", source(folders), source(tests, role="test"), epochs=4, steps=12
    )
    run(job)
    return job


def corrected_slide(
    folder: Path, name: str = "slide", seed: int = 50, shape=(96, 128)
) -> tuple[Path, Path, np.ndarray]:
    """An image, labels that are all background, corrected in one window and accepted in another; and the truth."""
    image, mask = disc(shape, seed)
    Image.fromarray(image).save(folder / f"{name}.png")
    with ms.open_slide(folder / f"{name}.png", mpp=1.0) as slide:
        store = ms.LabelStore.create(folder / f"{name}.ome.zarr", classes=("disc",), slide=slide, mpp=1.0)
    store.write(Window(16, 20, 40, 48), mask[16:56, 20:68].astype(np.uint8))
    state.accept(store, Window(64, 0, 32, 32))
    store.close()
    return folder / f"{name}.png", folder / f"{name}.ome.zarr", mask


# ------------------------------------------------------------------------------------------------------------- start


def test_a_start_begins_where_the_other_ended(first, folders, tmp_path):
    model = first.out / "model.safetensors"
    options = {"optimiser": plain_optimiser(learning_rate=1e-5), "seed": 3}
    ahead = run(make(tmp_path / "on", source(folders), start=model, **options))
    anew = run(make(tmp_path / "new", source(folders), **options))
    assert f"Starting from the weights of {model}" in texts(ahead)
    assert result(ahead)["train"]["fused"]["iou"] > 0.6 > result(anew)["train"]["fused"]["iou"]
    one, other = (ms.load_model(p / "model.safetensors").config for p in (first.out, tmp_path / "on"))
    assert one.normalisation == other.normalisation is not None


def test_a_run_that_started_from_a_model_goes_on_without_it(first, folders, tmp_path):
    copy = tmp_path / "start.safetensors"
    copy.write_bytes((first.out / "model.safetensors").read_bytes())
    job = make(tmp_path / "run", source(folders), start=copy)
    run(job)
    copy.unlink()
    events = run(job.model_copy(update={"resume": True, "epochs": 2}))
    assert result(events)["epochs"] == 2


def test_another_architecture_is_refused_before_anything_is_written(first, folders, tmp_path):
    other = CONFIG.model_copy(update={"scales": (1.0, 0.25)})
    with pytest.raises(MsunetError, match="checkpoint of another architecture: scales"):
        run(make(tmp_path / "run", source(folders), model=other, start=first.out / "model.safetensors"))
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------------- corrections


def test_accepted_regions_are_true_zeros_included(tmp_path):
    from napari_msunet.constants import IGNORED
    from napari_msunet.data import load_sources

    slide, labels, mask = corrected_slide(tmp_path)
    (item,) = load_sources((corrections(slide, labels, mpp=1.0),), CONFIG)
    truth = item.truth.read(Window(0, 0, 96, 128))
    expected = np.full((96, 128), IGNORED)
    expected[16:56, 20:68] = mask[16:56, 20:68]
    expected[64:96, :32] = 0
    assert np.array_equal(truth, expected)
    store = ms.open_labels(labels)
    store.undo()  # what is not accepted any more is not true
    assert (item.truth.read(Window(64, 0, 32, 32)) == IGNORED).all()
    store.close()
    item.release()


@pytest.mark.parametrize(("replay", "before"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_each_batch_has_its_share_of_what_was_before(replay, before):
    values = np.zeros((64, 64), np.uint8)
    items = [array_item(values, f"old{n}") for n in range(9)] + [array_item(values, "new", corrected=True)]
    spots = list(Sampler(items, 32, 1, 0, replay).epoch(0, 80))
    for batch in range(20):
        names = [s.item.name for s in spots[4 * batch : 4 * batch + 4]]
        assert sum(n.startswith("old") for n in names) == before
    if replay == 0.5:
        assert {s.item.name for s in spots} == {f"old{n}" for n in range(9)} | {"new"}


def test_replay_changes_nothing_without_corrections():
    items = [array_item(np.zeros((64, 64), np.uint8), f"old{n}") for n in range(3)]
    a, b = (list(Sampler(items, 32, 1, 0, replay).epoch(1, 20)) for replay in (None, 0.5))
    assert a == b


def test_the_retraining_job_has_what_was_used_before_and_the_corrections(first, tmp_path):
    slide, labels, _ = corrected_slide(tmp_path)
    job = retraining_job(first.out, [corrections(slide, labels, mpp=1.0)], tmp_path / "next", epochs=2, steps=6)
    assert job.sources == (*first.sources, corrections(slide, labels, mpp=1.0))
    assert job.start == job.replaces == first.out / "model.safetensors"
    assert (job.replay, job.epochs, job.resume) == (0.5, 2, False)
    assert retraining_job(first, [], tmp_path / "x", start=False).start is None
    events = run(job)
    assert "slide" in result(events)["split"]["train"]
    # corrected again: the same store once
    again = retraining_job(job.out, [corrections(slide, labels, mpp=1.0)], tmp_path / "third")
    assert again.sources == job.sources
    assert again.start == job.out / "model.safetensors"
    for store in (labels,):
        ms.open_labels(store).close()


@pytest.mark.slow
def test_a_new_class_is_learned_beside_the_old_one(first, tmp_path):
    slide, labels, _ = corrected_slide(tmp_path)
    store = ms.open_labels(labels)
    store.add_classes(("spot",))
    store.write(Window(70, 90, 20, 30), 2)
    store.close()
    job = retraining_job(first.out, [corrections(slide, labels, mpp=1.0)], tmp_path / "next", classes=("disc", "spot"))
    assert "spot begins anew" in texts(run(job))
    assert ms.load_model(job.out / "model.safetensors").config.classes == ("disc", "spot")


def test_no_run_is_said_in_one_sentence(tmp_path):
    with pytest.raises(MsunetError, match=r"There is no job.json of a training"):
        retraining_job(tmp_path, [], tmp_path / "out")


def test_validation_images_stay_validation_images(folders, tmp_path):
    job = make(tmp_path / "a", source(folders), validation=0.4, seed=1)
    before = result(run(job))["split"]
    assert len(before["validate"]) == 2
    for seed in (2, 3, 4):
        assert sides(retraining_job(job, [], tmp_path / "b", seed=seed))[0] == before
    drawn = [sides(make(tmp_path / "c", source(folders), validation=0.4, seed=seed))[0] for seed in (2, 3, 4)]
    assert any(other != before for other in drawn)


# ---------------------------------------------------------------------------------------------------- frozen test set


def test_the_test_set_is_frozen_and_handed_on(first, tmp_path):
    frozen = load_held_out(first.out / "model.safetensors")
    assert frozen is not None
    assert [i.name for i in frozen.images] == ["test5", "test6", "test7", "test8"]
    job = retraining_job(first.out, [], tmp_path / "next")
    events = run(job)
    assert (job.out / FILE).read_text() == (first.out / FILE).read_text()
    guard = result(events)["guard"]
    assert guard["images"] == 4
    assert guard["old_model"] == str(first.out / "model.safetensors")
    assert guard["text"] in texts(events)


def test_getting_worse_is_said_and_the_old_model_stays(first, tmp_path):
    bad = plain_optimiser(learning_rate=0.5)  # forgets everything
    job = retraining_job(first.out, [], tmp_path / "worse", steps=4, optimiser=bad)
    found = ms.train(job)
    guard = found.metrics["guard"]
    assert guard["verdict"] == "worse"
    assert guard["interval"][1] < 0
    assert "the old model stays the chosen one" in guard["text"]
    assert found.chosen_path == first.out / "model.safetensors"
    assert found.model_path == job.out / "model.safetensors"


def test_frozen_images_never_train_under_any_role(first, folders, tests, tmp_path):
    job = make(tmp_path / "run", source(folders), source(tests, role="train"), replaces=first.out / "model.safetensors")
    found, said = sides(job)
    assert not [n for n in found["train"] if n.startswith("test")]
    assert "test5 is in the frozen test set, so it does not train." in said


def test_corrections_on_a_test_image_do_not_train(first, folders, tests, tmp_path):
    image = tests[0] / "test5.png"
    with ms.open_slide(image, mpp=1.0) as slide:
        store = ms.LabelStore.create(tmp_path / "l.ome.zarr", classes=("disc",), slide=slide, mpp=1.0)
    store.write(Window(10, 10, 40, 40), 1)
    store.close()
    moved = tmp_path / "another name.png"  # it is known by its content
    moved.write_bytes(image.read_bytes())
    found, said = sides(retraining_job(first.out, [corrections(moved, store.path, mpp=1.0)], tmp_path / "next"))
    assert "another name is a test image, so what was corrected on it is not trained on." in said
    assert "another name" not in (*found["train"], *found["validate"], *found["test"])


def test_a_test_slide_that_was_never_frozen_is_kept_out_too(folders, tmp_path):
    slide, labels, mask = corrected_slide(tmp_path)
    with ms.open_slide(slide, mpp=1.0) as opened:
        truth = ms.LabelStore.create(tmp_path / "t.ome.zarr", classes=("disc",), kind="annotation", slide=opened)
    truth.write(Window(0, 0, 96, 128), np.where(mask, 1, 255))
    truth.close()
    test = SlideSource(slide=slide, labels=truth.path, mpp=1.0, role="test")
    found, said = sides(make(tmp_path / "run", source(folders), test, corrections(slide, labels, mpp=1.0)))
    assert "slide is a test image, so what was corrected on it is not trained on." in said
    assert found["test"] == ["slide"]


def test_stopping_while_it_scores_keeps_the_training(first, tests, tmp_path):
    import torch

    from napari_msunet.data import load_sources

    model, said, stop = first.out / "model.safetensors", [], Stop()
    aside = HeldOut(None, load_sources((source(tests),), CONFIG), model)
    stop.ask()
    assert compared(aside, model, torch.device("cpu"), said.append, stop) == {}
    assert "Stopped before" in said[-1].text
    away = Stop()
    away.ask("none")
    with pytest.raises(Cancelled):
        compared(aside, model, torch.device("cpu"), said.append, away)


def test_a_damaged_list_stops_the_training(first, folders, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes((first.out / "model.safetensors").read_bytes())
    (tmp_path / FILE).write_text('{"images": 3}')
    with pytest.raises(StoreError, match="list of frozen test images, is damaged"):
        run(make(tmp_path / "run", source(folders), replaces=model))


# -------------------------------------------------------------------------------------------------------------- noise


def test_the_bootstrap_tells_noise_from_a_difference():
    rng = np.random.default_rng(0)
    hits = rng.integers(300, 900, 12)
    old = np.array([[[9000, 50], [1000 - h, h]] for h in hits])
    slightly = np.array([[[9000, 50], [1000 - h, h]] for h in hits + rng.integers(-90, 90, 12)])
    worse = np.array([[[9000, 50], [1000 - h, h]] for h in hits - 100])
    (a, b), low, high = paired_bootstrap(old, slightly, [1])
    assert low < 0 < high
    assert low < b - a < high
    (a, b), low, high = paired_bootstrap(old, worse, [1])
    assert high < 0
    total = old.sum(0)
    assert a == pytest.approx(2 * total[1, 1] / (2 * total[1, 1] + total[0, 1] + total[1, 0]))


def test_models_of_other_classes_are_compared_on_what_both_know(first, tests):
    from napari_msunet.data import load_sources

    config = CONFIG.model_copy(update={"classes": ("other", "disc")})
    items = load_sources((source(tests, values={1: "disc", 0: "background"}),), config)
    model = ms.build_model(config).eval()
    verdict = compare_models(first.out / "model.safetensors", model, items, "cpu")
    assert verdict.old > 0.7
    assert verdict.worse
    with pytest.raises(MsunetError, match="no class in common"):
        compare_models(
            first.out / "model.safetensors", ms.build_model(config.model_copy(update={"classes": ("a", "b")})), items
        )

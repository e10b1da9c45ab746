"""Names that stand for 0 or for what is not known are no classes, wherever a person can give them."""

import json

import numpy as np
import pytest
from cli.given import command
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from napari_msunet.config import ModelConfig, TrainJob, UNetConfig
from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.inference.predict import predict
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.models import build_model, load_model, save_model
from napari_msunet.slide import slide_from_array

NAMES = (
    "background",
    "Background",
    " BACKGROUND ",
    "ignored",
    "Ignore",
    "not annotated",
    "Not_Annotated",
    "unlabelled",
)
SENTENCE = "background is not one"
SMALL = {"mpp": 0.5, "scales": (1.0,), "fusion": "mean", "branch": UNetConfig(depth=1, width=4)}


@pytest.mark.parametrize("name", NAMES)
def test_no_new_model_and_no_new_store_has_such_a_class(tmp_path, name):
    with pytest.raises(ValueError, match=SENTENCE):
        ModelConfig(classes=(name, "nucleus"), **SMALL)
    with pytest.raises(StoreError, match=SENTENCE):
        LabelStore.create(tmp_path / "a.ome.zarr", shape=(5, 5), mpp=0.5, classes=("nucleus", name))
    assert not (tmp_path / "a.ome.zarr").exists()
    with LabelStore.create(tmp_path / "b.ome.zarr", shape=(5, 5), mpp=0.5, classes=("nucleus",)) as store:
        with pytest.raises(StoreError, match=SENTENCE):
            store.add_classes([name])
        with pytest.raises(StoreError, match=SENTENCE):
            store.rename_classes([name])
        assert store.classes == ("nucleus",)


def test_a_name_that_only_contains_such_a_word_is_a_class():
    assert ModelConfig(classes=("background stroma", "ignored gland"), **SMALL)


def images(folder):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
        mask = np.zeros((70, 80), np.uint8)
        mask[20:60, 30:70] = 1
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


@pytest.mark.parametrize("name", ["background", "Ignored"])
def test_the_command_line_and_a_job_from_a_file_refuse_it(tmp_path, name):
    images(tmp_path)
    given = ["train", "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--mpp", "0.5", "--scales", "1"]
    given += ["--depth", "1", "--width", "4", "--size", "32", "--batch-size", "2", "--epochs", "1", "--steps", "1"]
    refused = command(*given, "--classes", f"{name},nucleus", "--out", tmp_path / "run")
    assert refused.returncode == 2
    assert SENTENCE in refused.stderr
    assert not (tmp_path / "run").exists()
    job = command(*given, "--classes", "tissue,nucleus", "--out", tmp_path / "run", "--print-job")
    values = json.loads(job.stdout)
    values["model"]["classes"] = [name, "nucleus"]
    (tmp_path / "job.json").write_text(json.dumps(values))
    refused = command("run", tmp_path / "job.json")
    assert refused.returncode == 2
    assert SENTENCE in refused.stderr


def test_a_file_made_before_still_opens_and_works(tmp_path):
    model = build_model(ModelConfig(classes=("tissue", "nucleus"), **SMALL))
    save_model(model, tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["checksum"]  # files of then had none
    header["config"] = header["config"].replace("tissue", "background")
    save_file(tensors, tmp_path / "old.safetensors", header)
    old = load_model(tmp_path / "old.safetensors")
    assert old.config.classes == ("background", "nucleus")
    slide = slide_from_array(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), mpp=0.5)
    with predict(slide, old, out=tmp_path / "labels.ome.zarr") as labels:
        assert labels.classes == ("background", "nucleus")
    assert open_labels(tmp_path / "labels.ome.zarr").add_classes(["gland"]) == {"gland": 3}


def test_an_old_job_is_read(tmp_path):
    job = TrainJob.model_validate(
        {
            "model": {"classes": ["background", "a"], "mpp": 0.5},
            "sources": [{"kind": "folder", "images": "i", "masks": "m"}],
            "out": str(tmp_path),
        }
    )
    assert job.model.classes == ("background", "a")


def test_the_dock_refuses_it(tmp_path):
    pytest.importorskip("napari")
    from napari_msunet.widgets.dock.class_table import ClassEdits
    from napari_msunet.widgets.state import State

    edits = ClassEdits.__new__(ClassEdits)  # what it asks for is not needed before the name is looked at
    edits.state = State()
    for change in (lambda: edits.add("Background"), lambda: edits.rename("class 1", "ignored")):
        with pytest.raises(MsunetError, match=SENTENCE):
            change()
    assert edits.state.classes == ("class 1",)

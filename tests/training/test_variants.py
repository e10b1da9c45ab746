"""Variants that differ in one field, from values as a person types them."""

import pytest

import napari_msunet as ms
from napari_msunet.config import ExperimentJob
from napari_msunet.config.variants import VARIED, one_field


@pytest.fixture
def training(tmp_path):
    source = ms.FolderSource(images=tmp_path, masks=tmp_path, mpp=1.0)
    return ms.TrainJob(model=ms.AutoModel(classes=("a",)), sources=(source,), out=tmp_path)


@pytest.mark.parametrize(
    ("field", "text", "found"),
    [
        ("optimiser.learning_rate", "0.001, 0.003", [0.001, 0.003]),
        ("model.scales", "1; 1, 1/2", [[1], [1, 0.5]]),
        ("model.fusion", "mean,attention", ["mean", "attention"]),
        ("loss", "ce+dice, focal+0.5*dice", ["ce+dice", "focal+0.5*dice"]),
        ("size", "128, automatic", [128, None]),
        ("augmentation", "none; elastic=8,flip=no", ["none", "elastic=8,flip=no"]),
        ("find_learning_rate", "no, yes", [False, True]),
    ],
)
def test_values_are_read_as_the_field_takes_them(training, field, text, found):
    assert [changes[field] for changes in one_field(training, field, text).values()] == found


def test_every_suggested_field_can_be_varied_by_its_example(training, tmp_path):
    for field, (label, example) in VARIED.items():
        variants = one_field(training, field, example)
        assert all(name.startswith(label) for name in variants)
        job = ExperimentJob(training=training, variants=variants, seconds=1, out=tmp_path)
        assert len({job.variant(name).model_dump_json() for name in variants}) == len(variants)


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("size", "128", "Window has one value"),
        ("size", "128, 128", "Window has one value"),
        ("size", "", "no value"),
        ("size", "128, 5", "size cannot be 5"),
        ("optimiser.kind", "adamw, foo", "optimiser.kind cannot be foo"),
        ("optimiser.learning_rat", "1, 2", "did you mean optimiser.learning_rate"),
        ("seed", "1, 2", "same in all trials"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(training, field, text, sentence):
    with pytest.raises(ms.MsunetError, match=sentence):
        one_field(training, field, text)


def test_names_that_would_share_a_folder_are_refused(training, tmp_path):
    with pytest.raises(ValueError, match="would share a folder"):
        ExperimentJob(training=training, variants={"a b": {}, "a_b": {}}, seconds=1, out=tmp_path)

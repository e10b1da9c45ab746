"""The model that comes with the package: its path, or one sentence."""

import pytest

from napari_msunet.app import shipped
from napari_msunet.errors import ModelError


def test_it_is_a_file_or_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped.napari_msunet, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ModelError, match="train one first, or load a model file"):
        shipped.shipped_model()
    (tmp_path / "shipped").mkdir()
    model = tmp_path / "shipped" / "nuclei.safetensors"
    model.write_bytes(b"")
    assert shipped.shipped_model() == model

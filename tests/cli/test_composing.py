"""The verbs `model split`, `model combine` and `model scales`, and what `train` takes for them."""

import json

import torch

from napari_msunet.cli import execute
from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.models import build_model, load_model, save_model


def test_a_model_is_split_combined_and_given_other_scales(tmp_path, capsys):
    torch.manual_seed(0)
    config = ModelConfig(classes=("a",), mpp=0.5, scales=(1, 0.5), fusion="mean", branch=UNetConfig(depth=1, width=4))
    model = build_model(config)
    file = save_model(model, tmp_path / "m.safetensors")
    assert execute(["model", "split", str(file), str(tmp_path / "parts")]) == 0
    assert "scale-1-2.safetensors: scales 1/2, fusion mean" in capsys.readouterr().out
    parts = [str(tmp_path / "parts" / f"scale-{name}.safetensors") for name in ("1", "1-2")]
    out = tmp_path / "again.safetensors"
    assert execute(["model", "combine", *parts, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "models": [{"path": str(out), "scales": ["1", "1/2"], "fusion": "mean"}]
    }
    assert load_model(out).fingerprint == model.fingerprint
    more = tmp_path / "more.safetensors"
    assert execute(["model", "scales", str(file), "--scales", "1,1/2,1/4", "--out", str(more)]) == 0
    kept = load_model(more).branches[1].state_dict()
    assert all(torch.equal(t, kept[name]) for name, t in model.branches[1].state_dict().items())


def test_what_cannot_be_done_is_one_sentence(tmp_path, capsys):
    config = ModelConfig(classes=("a",), mpp=0.5, fusion="pyramid", branch=UNetConfig(depth=2, width=2))
    file = save_model(build_model(config), tmp_path / "m.safetensors")
    assert execute(["model", "split", str(file), str(tmp_path / "parts")]) != 0
    assert "no output of its own" in capsys.readouterr().err
    assert execute(["model", "combine", str(file), "--out", str(tmp_path / "x.safetensors")]) != 0
    assert "branch_model" in capsys.readouterr().err


def test_train_takes_the_options_of_scales(tmp_path, capsys):
    given = ["train", "--images", ".", "--masks", ".", "--mpp", "1", "--classes", "a", "--out", str(tmp_path / "run")]
    given += ["--scales", "2,1", "--finest-scale", "1", "--upscale", "2", "--fusion", "inject", "--branch-rates", "0,0"]
    assert execute([*given, "--print-job"]) == 0
    job = json.loads(capsys.readouterr().out)
    assert (job["model"]["upscale"], job["model"]["finest_scale"], job["model"]["fusion"]) == (2, 1.0, "inject")
    assert job["optimiser"]["branch_rates"] == [0.0, 0.0]
    assert execute([*given[:-1], "fast", "--print-job"]) != 0
    assert "--branch-rates" in capsys.readouterr().err

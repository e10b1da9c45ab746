"""The options of the command come from the configs, and none that there was has gone."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from napari_msunet.cli import app, execute
from napari_msunet.cli.options import options_of
from napari_msunet.cli.running import _in_todays_names
from napari_msunet.config import (
    Augmentation,
    EvaluateJob,
    ExportJob,
    LossConfig,
    ModelConfig,
    PredictJob,
    TrainJob,
    UNetConfig,
)
from napari_msunet.config.base import Option, fields_of, options_table, read_text

BEFORE = json.loads((Path(__file__).parent / "options_before.json").read_text())
DOCS = Path(__file__).parents[2] / "docs"
FOLDERS = ("--images", "a", "--masks", "b")


def options(verb):
    found = app
    for word in verb.split():
        found = found[word]
    return {name for argument in found.assemble_argument_collection(parse_docstring=True) for name in argument.names}


@pytest.mark.parametrize("verb", BEFORE)
def test_no_option_has_gone(verb):
    renamed = {"--augment", "--no-augment"}
    assert set(BEFORE[verb]) - options(verb) - renamed == set()


def test_renamed_options_still_work():
    assert _in_todays_names(["train", "--no-augment"]) == ["train", "--augmentation", "none"]
    both = ["train", "--no-augment", "--augmentation", "blur=1", "--augment"]
    assert _in_todays_names(both) == ["train", "--augmentation", "none,blur=1"]


@pytest.mark.parametrize("config", [TrainJob, ModelConfig, PredictJob, EvaluateJob, ExportJob, UNetConfig])
def test_every_option_says_what_it_is_for(config):
    assert [one.path for one in fields_of(config) if not one.help] == []


def test_flags_are_used_once():
    flags = [one.flag for config in (TrainJob, ModelConfig) for one in fields_of(config) if one.flag]
    assert sorted(set(flags)) == sorted(flags)


def job(capsys, *words):
    assert execute(["train", "--classes", "a", "--out", "o", *FOLDERS, "--print-job", *words]) == 0
    return json.loads(capsys.readouterr().out)


def error(capsys, *words):
    assert execute(["train", "--classes", "a", "--out", "o", *FOLDERS, "--print-job", *words]) == 2
    return capsys.readouterr().err


def test_networks_for_each_scale(capsys):
    words = "--network linknet,unet --scales 1,1/2 --depth 2,3 --norm renorm --gates"
    linknet, unet = job(capsys, *words.split())["model"]["branch"]
    assert (linknet["kind"], linknet["depth"], linknet["norm"]) == ("linknet", 2, "renorm")
    assert (unet["kind"], unet["depth"], unet["norm"], unet["gates"]) == ("unet", 3, "renorm", True)


def test_every_option_of_a_network_arrives(capsys):
    words = "--gates --residual --separable --nested-skips --feature-pyramid --dilated-context --skip-attention self"
    more = "--attention-window 4 --down stride --up resize --stem space_to_depth --padding valid --norm slide"
    more += " --block-dropout 0.2"
    made = job(capsys, *words.split(), *more.split())["model"]["branch"]
    usual = UNetConfig().model_dump()
    assert {name for name in made if made[name] == usual[name]} == {"kind", "depth", "width", "dropout"}


def test_encoders(capsys):
    words = "--network encoder --encoder resnet18 --decoder fpn --encoder-weights imagenet --frozen-encoder"
    made = job(capsys, *words.split())["model"]["branch"]
    assert [made[n] for n in ("encoder", "decoder", "weights", "frozen")] == ["resnet18", "fpn", "imagenet", True]


def test_a_sum_of_losses_and_weights_beside_it(capsys):
    loss = job(capsys, "--loss", "bce+dice", "--dice", "2", "--border-weight", "3")["loss"]
    assert (loss["cross_entropy"], loss["bce"], loss["dice"], loss["border"]) == (0, 1, 2, 3)


def test_changes_one_by_one(capsys):
    made = job(capsys, "--no-flip", "--zoom", "0.3", "--augmentation", "none")["augmentation"]
    assert made == Augmentation.none().model_dump() | {"scale": 0.3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--network linknet --gates", "--gates is no option of the network linknet"),
        ("--network foo", "give unet, linknet, hrnet, encoder"),
        ("--depth 9", "less than or equal to 6"),
        ("--depth x", "valid integer"),
        ("--dropout 0,5", "give one value for the one scale"),
        ("--betas 0.9", "two numbers"),
        ("--fold 1/0", "such as 2/5"),
        ("--model-mpp far", "give µm per pixel"),
    ],
)
def test_mistakes(capsys, words, said):
    text = error(capsys, *words.split())
    assert said in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "name", "text", "value"),
    [
        (ModelConfig, "scales", "1, 1/2,0.25", (1.0, 0.5, 0.25)),
        (ModelConfig, "finest_scale", "1/2", 0.5),
        (TrainJob, "fold", "2/5", (2, 5)),
        (TrainJob, "track", "mlflow", ("mlflow",)),
        (LossConfig, "class_weights", "balanced", "balanced"),
        (LossConfig, "class_weights", "1,0.5", (1.0, 0.5)),
        (LossConfig, "branch", "0.2", 0.2),
        (PredictJob, "channels", "DAPI,2", ("DAPI", 2)),
        (PredictJob, "margin", "32", 32),
        (PredictJob, "slide_mpp", "0.5,0.25", (0.5, 0.25)),
        (PredictJob, "slide_mpp", "px", "px"),
    ],
)
def test_texts_are_read_as_the_field_takes_them(config, name, text, value):
    assert read_text(config.model_fields[name], text) == value


def test_a_text_that_means_nothing_is_refused():
    with pytest.raises(ValidationError):
        read_text(TrainJob.model_fields["fold"], "two")


class Louder(LossConfig):
    loudness: Annotated[float, Field(ge=0), Option("Loudness", "Loss", step=0.5)] = 0.25
    """How loud the loss is."""


def test_a_new_field_is_in_the_help_and_in_the_table(capsys):
    made = options_of(Louder)
    nothing = made()
    command = app["doctor"].__class__(name="try")

    @command.default
    def verb(*, given: made = nothing) -> None:
        print(given.values())

    command(["--loudness", "2"], result_action="return_value")
    assert capsys.readouterr().out.strip() == "{'loudness': 2.0}"
    command(["--help"], result_action="return_value")
    text = capsys.readouterr().out
    assert "--loudness" in text
    assert "How loud the loss is." in text
    assert "default: 0.25" in text
    assert "| `loudness` | `--loudness` | 0.25 | How loud the loss is. |" in options_table(Louder)


def test_the_docs_have_the_tables():
    spec = spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((DOCS / "options.md").read_text(encoding="utf8"))
    assert "<!-- options of" not in page
    for flag in ("--border-weight", "--frozen-encoder", "--model-mpp", "--cluster-threads", "--edited-only"):
        assert f"`{flag}`" in page

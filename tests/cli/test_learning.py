"""The options of `train` about losses, optimisers and devices reach the job."""

import json
import shlex

import pytest

from napari_msunet.cli import execute
from napari_msunet.config import LossConfig, Optimiser
from napari_msunet.config.presets import with_preset
from napari_msunet.errors import MsunetError

TRAIN = "train --classes x --images a --masks b --mpp 0.5 --out o --print-job "


def job(capsys: pytest.CaptureFixture[str], words: str) -> dict:
    assert execute(shlex.split(TRAIN + words)) == 0
    return json.loads(capsys.readouterr().out)


def test_the_defaults_are_those_of_the_jobs(capsys):
    found = job(capsys, "")
    assert LossConfig(**found["loss"]) == LossConfig()
    assert Optimiser(**found["optimiser"]) == Optimiser()
    assert (found["devices"], found["nodes"], found["find_batch_size"]) == (1, 1, False)


def test_losses(capsys):
    words = "--loss focal+0.5*dice+0.01*boundary --class-weights 1,3 --focal-gamma 1.5 --border-weight 10 --own-grid"
    found = LossConfig(**job(capsys, words + " --branch-loss 0.1,0,0.2")["loss"])
    assert found.terms == {"focal": 1, "dice": 0.5, "boundary": 0.01}
    assert (found.class_weights, found.focal_gamma, found.border, found.own_grid) == ((1, 3), 1.5, 10, True)
    assert found.branch == (0.1, 0, 0.2)


def test_optimisers_and_devices(capsys):
    words = (
        "--optimiser sgd --nesterov --momentum 0.8 --schedule one_cycle --warmup 10 --clip 1 --accumulate 2 "
        "--average ema --precision bf16 --stop-metric loss --min-delta 0.1 --branch-rates 1,0.5,0 --devices 4 "
        "--nodes 2 --find-batch-size --find-learning-rate --track tensorboard,mlflow --track-uri runs"
    )
    found = job(capsys, words)
    assert Optimiser(**found["optimiser"]) == Optimiser(
        kind="sgd", nesterov=True, momentum=0.8, schedule="one_cycle", warmup=10, clip=1, accumulate=2, average="ema",
        precision="bf16", stop_metric="loss", min_delta=0.1, branch_rates=(1, 0.5, 0),
    )  # fmt: skip
    names = ("devices", "nodes", "strategy", "find_batch_size", "find_learning_rate", "track_uri")
    assert [found[name] for name in names] == [4, 2, "auto", True, True, "runs"]
    assert found["track"] == ["tensorboard", "mlflow"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--loss bce+oops", "a sum such as bce+dice"),
        ("--class-weights a,b", "--class-weights 'a,b' cannot be read; give balanced"),
        ("--optimiser lbfgs --precision 16", "L-BFGS"),
        ("--branch-loss of", "--branch-loss 'of' cannot be read; give off, separate, or numbers with commas"),
        ("--stop-metric jaccard", "--stop-metric 'jaccard' cannot be read; give one of loss, iou, dice"),
        ("--step-metrics loss,oops", "--step-metrics 'loss,oops' cannot be read; give metrics with commas"),
        ("--scales 1,1/2 --fusion weighted --scale-weights 1", "1 scale_weights for 2 scales"),
        ("--scale-weights 1,1", "scale_weights need scales"),
        ("--preset none", "method"),
    ],
)
def test_mistakes_are_one_sentence(capsys, words, says):
    assert execute(shlex.split(TRAIN + words)) != 0
    assert says in " ".join(capsys.readouterr().err.split())


def test_how_several_scales_are_trained(capsys):
    for text, found in (("off", "off"), ("separate", "separate"), ("joint", 0.4), ("0", 0), ("1,0.5", [1, 0.5])):
        assert job(capsys, f"--branch-loss {text}")["loss"]["branch"] == found


def test_metrics_that_decide_and_numbers_of_steps(capsys):
    words = (
        '--monitor "train loss" --stop-metric "dice scale 1/2" --best-metric f1 --stop-loss 0.05 --rmsprop-memory 0.9 '
        "--step-metrics loss,iou"
    )
    found = job(capsys, words)
    assert Optimiser(**found["optimiser"]) == Optimiser(
        monitor="train loss", stop_metric="dice scale 1/2", best_metric="f1", stop_loss=0.05, memory=0.9
    )
    assert found["step_metrics"] == ["loss", "iou"]


def test_the_preset_of_the_method_and_what_is_given_beside_it(capsys):
    found = job(capsys, "--preset method")
    assert (found["model"]["scales"], found["model"]["fusion"]) == ([0.5, 1, 2], "mean")
    assert (found["model"]["enlarge"], found["model"]["field"]) == ("bilinear", "same")
    loss, options = LossConfig(**found["loss"]), Optimiser(**found["optimiser"])
    assert (loss.terms, loss.branch) == ({"bce": 1}, "off")
    assert (options.kind, options.learning_rate, options.betas) == ("adam", 1e-4, (0.9, 0.999))
    assert (options.schedule, options.average, options.weight_decay) == ("constant", "none", 0)
    other = job(capsys, "--preset method --fusion max --loss bce+dice --learning-rate 0.01 --scales 1,2")
    assert (other["model"]["fusion"], other["model"]["scales"], other["model"]["enlarge"]) == (
        "max",
        [1, 2],
        "bilinear",
    )
    loss = LossConfig(**other["loss"])
    assert (loss.terms, loss.branch) == ({"bce": 1, "dice": 1}, "off")
    assert (other["optimiser"]["learning_rate"], other["optimiser"]["kind"]) == (0.01, "adam")


def test_the_preset_in_python():
    values = with_preset("method", {"loss": "bce+jaccard", "optimiser": Optimiser(clip=1.0), "seed": 3})
    assert LossConfig(**values["loss"]) == LossConfig(cross_entropy=0, dice=0, bce=1, jaccard=1, branch="off")
    assert Optimiser(**values["optimiser"]).clip == 1
    assert (values["optimiser"]["learning_rate"], values["seed"]) == (1e-4, 3)
    with pytest.raises(MsunetError, match="The loss cannot be used"):
        with_preset("method", {"loss": "oops"})

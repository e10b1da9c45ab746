"""The options of `train` about losses, optimisers and devices reach the job."""

import json
import shlex

import pytest

from napari_msunet.cli import execute
from napari_msunet.config import LossConfig, Optimiser

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
    ],
)
def test_mistakes_are_one_sentence(capsys, words, says):
    assert execute(shlex.split(TRAIN + words)) != 0
    assert says in " ".join(capsys.readouterr().err.split())

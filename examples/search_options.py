"""Search for the options of a training that score best on images it has not seen.

python search_options.py           # add --quick for two trials of a few seconds
"""

from train_from_folder import OUT, arguments, model_settings, nuclei

import napari_msunet as ms


def main():
    """Try some learning rates and losses, and print the best."""
    quick = arguments(__doc__).quick
    training = ms.TrainJob(
        model=model_settings(),
        sources=(nuclei("test" if quick else "train"),),
        out=OUT / "unused",
        time_limit=2 if quick else 15,
    )
    job = ms.TuneJob(
        training=training,
        space={
            "optimiser.learning_rate": {"low": 0.0005, "high": 0.02, "log": True},
            "loss": {"choices": ["bce+dice", "cross_entropy+dice"]},
        },
        sampler="random" if quick else "tpe",
        trials=2 if quick else 8,
        folds=2,
        out=OUT / "search",
    )
    result = ms.tune(job)
    print((OUT / "search" / "trials.csv").read_text(encoding="utf8"))
    print(f"Best: Dice {result.dice:.3f} with a learning rate of {result.best.optimiser.learning_rate:.4f}.")
    # ms.train(result.best) trains it on all images


if __name__ == "__main__":
    main()

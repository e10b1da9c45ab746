"""Predict a slide, correct the prediction by a few strokes, train again from them, and predict again.

    python correct_and_retrain.py      # add --quick for networks of 5 seconds

The corrected pixels stay as they are, whatever the new network finds there.
"""

import numpy as np
from predict_batch import make_slides
from train_from_folder import OUT, arguments, train

import napari_msunet as ms
from napari_msunet.app.retraining import corrections


def correct(labels):
    """Paint a disc of nucleus and one of background, as a person would with napari's brush."""
    y, x = np.mgrid[-20:21, -20:21]
    disc = np.hypot(y, x) <= 20
    labels.write(ms.Region(100, 150, 41, 41), np.ones(disc.shape, labels.dtype), mask=disc)
    labels.write(ms.Region(300, 400, 41, 41), np.zeros(disc.shape, labels.dtype), mask=disc)
    labels.flush()


def main():
    """Go round once: predict, correct, retrain, predict."""
    seconds = 5 if arguments(__doc__).quick else 30
    run = OUT / "first-run"
    model = train(seconds, run)
    slide = make_slides(OUT / "slides", 1)[0]
    store = OUT / "corrected.ome.zarr"

    labels = ms.predict(slide, model, out=store)
    correct(labels)
    labels.close()

    job = ms.retraining_job(run, [corrections(slide, store)], OUT / "second-run", time_limit=seconds)
    better = ms.train(job).chosen_path

    with ms.predict(slide, better, out=store) as labels:
        kept = labels.read(ms.Region(120, 170, 1, 1))[0, 0] == 1 and labels.read(ms.Region(320, 420, 1, 1))[0, 0] == 0
        print(f"{int(labels.edited.sum().compute())} corrected pixels; they stayed: {bool(kept)}")


if __name__ == "__main__":
    main()

"""Train a network from folders of images and masks, and score it on images that it has not seen.

    python train_from_folder.py            # 30 seconds of training
    python train_from_folder.py --quick    # 5 seconds: to see that it works

The images are the nuclei that come with the package (CC0). For your own, change the paths in `nuclei`.
"""

import argparse
from pathlib import Path

import napari_msunet as ms

DATA = Path(ms.__file__).parent / "demo_data"
SLIDE = DATA / "CMU-1-Small-Region.svs"
OUT = Path("examples-output")


def nuclei(part):
    """The images of a part, "train" or "test", with their masks: each value above 0 is one nucleus."""
    folder = DATA / "nuclei" / part
    return ms.FolderSource(
        images=folder / "images",
        masks=folder / "masks",
        values="instances",
        table=DATA / "nuclei" / "nuclei.csv",  # the µm per pixel of each image
    )


def model_settings():
    """Two scales, 0.5 and 1 µm per pixel, and a small U-Net at each."""
    return ms.ModelConfig(
        classes=("nucleus",), mpp=0.5, scales=(1.0, 0.5), fusion="attention", branch=ms.UNetConfig(depth=3, width=8)
    )


def train(seconds, out=OUT / "run"):
    """Train for some seconds, and give the path of the model."""
    job = ms.TrainJob(model=model_settings(), sources=(nuclei("train"),), out=out, time_limit=seconds)
    return ms.train(job).model_path


def main():
    """Train, then print the scores of the fusion and of each scale."""
    quick = arguments(__doc__).quick
    model = train(5 if quick else 30)
    scores = ms.evaluate(ms.EvaluateJob(model=model, sources=(nuclei("test"),), out=OUT / "evaluation")).scores
    for output, values in scores["pooled"].items():
        print(f"{output:10} Dice {values['dice']:.3f}, IoU {values['iou']:.3f}")
    print(f"The model is {model}; what the training did is in {model.parent}.")


def arguments(text):
    """The options of an example: --quick."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for a few seconds only")
    return parser.parse_args()


if __name__ == "__main__":
    main()

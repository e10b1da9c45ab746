"""Ask whether several scales help on these images: one scale against two, in equal time, on images not trained on.

python context_study.py            # add --quick for a few seconds each; such an answer means nothing
"""

from train_from_folder import OUT, arguments, nuclei

import napari_msunet as ms
from napari_msunet.config import ContextJob


def main():
    """Run the study and print its answer with the table."""
    quick = arguments(__doc__).quick
    training = ms.TrainJob(
        model=ms.ModelConfig(classes=("nucleus",), mpp=0.5, branch=ms.UNetConfig(depth=3, width=8)),
        sources=(nuclei("test" if quick else "train"),),
        out=OUT / "unused",
    )
    job = ContextJob(
        training=training,
        resolutions=(1.0,) if quick else (0.67, 1.0, 1.5),  # for one scale: finer, the same, coarser
        scales=((1.0, 0.5),),
        folds=2 if quick else 3,
        seconds=2 if quick else 60,
        out=OUT / "context",
    )
    result = ms.context_study(job)
    print((OUT / "context" / "answer.md").read_text(encoding="utf8"))
    print(f"Answer: {result.answer}.")


if __name__ == "__main__":
    main()

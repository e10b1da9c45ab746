"""Predict several slides with one model: a label store for each, one table for all.

    python predict_batch.py            # add --quick for a network of 5 seconds

A slide that cannot be read is reported and stops no other. Started again, it goes on where it stopped.
"""

from train_from_folder import OUT, SLIDE, arguments, train

import napari_msunet as ms
from napari_msunet.config import GivenSlide, PredictManyJob, PredictSettings


def make_slides(folder, count=2):
    """Cut pieces out of the slide of the package and write them as OME-Zarr pyramids, to have several slides."""
    paths = []
    with ms.open_slide(SLIDE) as slide:
        for number in range(count):
            path = folder / f"piece{number + 1}.ome.zarr"
            if not path.exists():
                piece = slide.read(ms.Region(900 + 500 * number, 700, 500, 600))
                ms.build_pyramid(piece, path, mpp=slide.mpp[0])
            paths.append(path)
    return paths


def main():
    """Train a small network, predict all slides, print the table."""
    quick = arguments(__doc__).quick
    model = train(5 if quick else 30, OUT / "batch-run")
    slides = make_slides(OUT / "slides")
    out = OUT / "predictions"
    job = PredictManyJob(
        slides=tuple(GivenSlide(slide=path, out=out / path.name) for path in slides),
        out=out,
        settings=PredictSettings(model=model),
    )
    for _ in ms.run(job):  # each event says how far it is
        pass
    print((out / "results.csv").read_text(encoding="utf8"))


if __name__ == "__main__":
    main()

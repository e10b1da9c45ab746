"""Measure the objects of a label store and work on the table with pandas.

    python results_in_pandas.py

Needs pandas, which comes with napari. No network is trained here: a threshold on the stain finds the nuclei.
"""

import pandas as pd
from predict_batch import make_slides
from train_from_folder import OUT, arguments

import napari_msunet as ms


def main():
    """Find nuclei, measure them, and print how large they are and how dark they are stained."""
    arguments(__doc__)
    slide = make_slides(OUT / "slides", 1)[0]
    branch = ms.ClassicalConfig(method="otsu", look="haematoxylin", smooth=1.0)
    config = ms.ModelConfig(classes=("nucleus",), mpp=0.5, scales=(1.0,), fusion="mean", branch=branch)
    ms.predict(slide, ms.build_model(config), out=OUT / "measured.ome.zarr").close()

    job = ms.MeasureJob(
        labels=OUT / "measured.ome.zarr", out=OUT / "objects.csv", slide=slide, stain="haematoxylin-eosin"
    )
    files = ms.measure(job).files
    objects = pd.read_csv(OUT / "objects.csv")
    print("Files:", ", ".join(path.name for path in files.values()))
    nuclei = objects[objects["area_um2"] >= 10]  # smaller ones are dust
    print(nuclei.groupby("class")["area_um2"].agg(["count", "mean", "median"]).round(1))
    print(nuclei[["area_um2", "eccentricity", "haematoxylin_od", "nearest_um"]].describe().round(2))


if __name__ == "__main__":
    main()

"""Open a slide and the dock in napari, ready to paint.

    python open_in_napari.py           # add --quick to close the window again

The methods of the dock do what its buttons do; each step's "Copy as Python" shows more of them.
"""

import shutil

import napari
from train_from_folder import OUT, SLIDE, arguments


def main():
    """Open the window; what is painted is kept in a project folder."""
    quick = arguments(__doc__).quick
    OUT.mkdir(exist_ok=True)
    slide = OUT / SLIDE.name
    if not slide.exists():
        shutil.copyfile(SLIDE, slide)

    viewer = napari.Viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-msunet", "Multi-scale U-Net")
    dock.open_project(OUT / "painted.msunet")
    dock.open_slide(slide)
    layer = dock.start_annotating(("nucleus",))
    print(f"Paint on the layer {layer.name!r}, then press Train.")
    if quick:
        viewer.close()
    else:
        napari.run()


if __name__ == "__main__":
    main()

"""``python -m napari_msunet``: the command, where the script is not on the path."""

from napari_msunet.cli import main

main()

"""The verb `truth`: the likely errors of an annotation, and a confusion matrix, as CSV."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path

from napari_msunet.cli.options import DamageOptions
from napari_msunet.cli.running import app, warn_of

_DAMAGE = DamageOptions()


@app.command
def truth(
    annotation: Path,
    labels: Path,
    *,
    out: Path,
    confusion: Path | None = None,
    limit: int = 200,
    least: float | None = None,
    edge: float = 3.0,
    doubt: float = 250.0,
    everything: bool = False,
    json: bool = False,
    options: DamageOptions = _DAMAGE,
) -> None:
    """Rank the regions of a truth by a model's loss on them: the likely annotation errors. Nothing is changed.

    Parameters
    ----------
    annotation : Path
        The truth: an annotation, or a label store with accepted and corrected pixels (also `labels` itself).
    labels : Path
        The label store with the prediction, made with --outputs labels probabilities; without probabilities places are
        ranked by size.
    out : Path
        CSV of the suspects, likeliest error first; y, x, height, width in level-0 pixels of the slide.
    confusion : Path
        CSV of the confusion matrix, in pixels and µm².
    limit : int
        At most so many suspects.
    least : float
        Smallest region in µm²; without it 25 pixels of the coarser of truth and prediction.
    edge : float
        Regions this thin, in the same pixels, are differences of an edge: counted, not listed.
    doubt : float
        Ranked is the mean loss over the region and so many pixels more without any, so that specks do not come first.
    everything : bool
        Of a label store, all pixels are true, not only what a person edited: for a mask made elsewhere.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.labels import open_labels
    from napari_msunet.labels.truth import review_truth, write_confusion, write_suspects

    store = open_labels(annotation)
    with store, open_labels(labels) as prediction:
        found = review_truth(
            store, prediction, limit, least, edge, doubt, edited_only=not everything, damaged=options.damaged
        )
        warn_of(found.left_out)
        files = {"suspects": str(write_suspects(found, out, store))}
        if confusion is not None:
            files["confusion"] = str(write_confusion(found.confusion, confusion))
    values = {
        "suspects": len(found.suspects),
        "pixels": found.pixels,
        "unpredicted": found.unpredicted,
        "kept": found.kept,
        "scored": found.scored,
        "ignored": list(found.ignored),
    }
    if json:
        print(jsonlib.dumps({"values": values, "files": files}, indent=1))  # noqa: T201
        return
    agreed = int(found.confusion.pixels.trace())
    share = f"{100 * agreed / found.pixels:.1f} %" if found.pixels else "none"
    missing = f" {found.unpredicted:,} pixels of truth were not predicted." if found.unpredicted else ""
    print(  # noqa: T201
        f"The model agrees with {share} of {found.pixels:,} pixels of truth.{missing}\n"
        f"Wrote {len(found.suspects)} suspects to {files['suspects']}."
    )

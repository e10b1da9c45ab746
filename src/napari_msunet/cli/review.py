"""The verb `review`: the places of a slide that most deserve to be looked at, as CSV."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from napari_msunet.cli.options import DamageOptions
from napari_msunet.cli.running import app, warn_of

_DAMAGE = DamageOptions()


@app.command
def review(
    labels: Path,
    *,
    out: Path,
    by: Literal["disagreement", "entropy", "distance", "oddity"] = "disagreement",
    size: int = 256,
    limit: int = 200,
    tissue: Path | None = None,
    json: bool = False,
    options: DamageOptions = _DAMAGE,
) -> None:
    """Rank the places of a prediction that most deserve to be looked at, and write them as CSV.

    Places that were accepted, corrected or skipped in the window are left out.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        CSV of the places, best first, such as review.csv; y, x, height, width in level-0 pixels of the slide.
    by : str
        disagreement (between the scales), entropy, distance (to what was reviewed), or oddity (of objects).
    size : int
        Side of a place in pixels of the label store.
    limit : int
        At most so many places.
    tissue : Path
        The slide, to keep to its tissue; only what was predicted is ranked in any case.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.labels import open_labels
    from napari_msunet.labels.review import survey, write_queue
    from napari_msunet.slide import open_slide, tissue_mask

    with open_labels(labels) as store:
        mask = None
        if tissue is not None:
            with open_slide(tissue) as slide:
                mask = tissue_mask(slide)
        found = survey(store, by, size, limit, mask, damaged=options.damaged)
        warn_of(found.left_out)
        written = write_queue(found.candidates, out, store)
    kept = {k: v for k, v in asdict(found).items() if v or k not in ("left_out", "unpredicted")}
    values = {k: v for k, v in kept.items() if k != "candidates"} | {"places": len(found.candidates)}
    if found.unpredicted and not json:
        print(f"{found.unpredicted} windows of tissue were not predicted and are left out.")  # noqa: T201
    if json:
        print(jsonlib.dumps({"values": values, "files": {"queue": str(written)}}, indent=1))  # noqa: T201
        return
    print(  # noqa: T201
        f"Reviewed {found.reviewed} of {found.total} windows, {100 * found.share:.1f} % of what is predicted.\n"
        f"Wrote {len(found.candidates)} places to {written}."
    )

"""What is missing, what is done and what comes next, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.state import SlideRecord, State, StepName

NO_SLIDE = "Choose a slide: a file, or an image layer that is open."
NO_MODEL = "Train a model first, or load a model file in the Model step."

_RUNNING = {
    "predict": "Predicting.",
    "export": "Working.",
    "train": "Training. Everything else can be used meanwhile.",
}

FINEST_SUGGESTION = 0.45
"""µm per pixel below which nuclei gain little and everything costs four times as much."""


def suggested_mpp(slide_mpp: float) -> float:
    """A model resolution for a slide: its own, halved until nuclei still have about ten pixels across."""
    mpp = slide_mpp
    while mpp < FINEST_SUGGESTION:
        mpp *= 2
    return float(f"{mpp:.3g}")


def missing(state: State, step: StepName) -> str | None:
    """See `State.missing`."""
    if step in ("slide", "model"):
        return None
    if step == "annotate":
        return _no_slide(state)
    if step == "train":
        return _no_truth(state)
    if step == "predict":
        return _no_slide(state) or _gone(state.active) or _no_model(state)
    return _no_labels(state)


def done(state: State, step: StepName) -> bool:
    """See `State.done`."""
    if step == "slide":
        return bool(state.slides or state.sets) and _unknown_size(state) is None
    if step == "annotate":
        return _no_truth(state) is None or _model_is_there(state)
    if step == "model":
        return True  # it is chosen from the images unless the person chooses it
    if step == "train":
        return _model_is_there(state)
    if step == "predict":
        return any(record.labels in state.predicted for record in state.slides)
    if step == "correct":
        return state.corrected or any(record.edited for record in state.slides)
    if step == "review":
        return state.reviewed
    return bool(state.exported)


def advice(state: State) -> str:
    """See `State.advice`."""
    step = state.next_step()
    for running, sentence in _RUNNING.items():
        if running in state.running:
            return sentence
    if step == "slide":
        return _unknown_size(state) or NO_SLIDE
    if step == "annotate":
        return missing(state, "annotate") or _no_truth(state) or ""
    return (
        missing(state, step)
        or {
            "train": "Everything is there: press Train.",
            "predict": "The model is ready: predict what is in view, or the whole slide.",
            "correct": "Look at the labels, paint over what is wrong, then train again; or go on and export.",
            "review": _go_on_reviewing(left_to_review(state)),
            "export": "Export the labels or measure them."
            if not state.exported
            else "Done. Go on with any step you like.",
        }[step]
    )


def left_to_review(state: State) -> int:
    """How many places of the active slide's review are open."""
    record, queue = state.active, state.to_review
    if record is None or record.labels is None or queue is None or record.labels.resolve() != queue[0]:
        return 0
    return queue[1]


def kind(name: str) -> str:
    """A kind of slide as people write it."""
    return "bright-field" if name == "brightfield" else name


def pixel_size(record: SlideRecord | None) -> str:
    """Where the size of a slide's pixels comes from, or how to find it out."""
    if record is None:
        return ""
    if record.in_pixels:
        return "Its own pixels count, not µm: for models that work in pixels. Scales are relative to them."
    if record.mpp is None:
        missing = record.mpp_note or "The file does not say how large a pixel is."
        return (
            f"{missing} Give it in µm: about 0.25 for a scan at 40×, 0.5 at 20×, 1 at 10×; the scanner's report has it "
            "exactly. For an image that has no size in µm, such as a photograph or an X-ray, choose pixels."
        )
    if record.mpp_given:
        return "As given here; it is kept in the project."
    return "From the file."


def _go_on_reviewing(left: int) -> str:
    places = "1 place is" if left == 1 else f"{left:,} places are"
    return f"Go on with the review: {places} left. Or export, if you have seen enough."


def _no_slide(state: State) -> str | None:
    return (NO_SLIDE if not state.slides else None) or _unknown_size(state)


def _unknown_size(state: State) -> str | None:
    record = next((r for r in state.slides if not r.sized), None)
    if record is None:
        return None
    return f"{record.path.name} does not say how many µm a pixel has: give it in the Slide step, or choose pixels."


def _gone(record: SlideRecord | None) -> str | None:
    if record is None or record.path.exists():
        return None
    return f"{record.path} is no longer there: put it back, or choose where it is now in the Slide step."


def _model_is_there(state: State) -> bool:
    return state.model_path is not None and state.model_path.is_file()


def _no_model(state: State) -> str | None:
    if state.model_path is not None and not state.model_path.is_file():
        return f"The model {state.model_path} is no longer there: load another, or train again."
    return NO_MODEL if state.model_path is None else None


def _no_truth(state: State) -> str | None:
    """What of the truth is missing for a training."""
    unreadable = next((r.unreadable for r in state.slides if r.annotation and r.unreadable), None)
    if unreadable:
        return unreadable
    if any(r.annotation and not r.counted for r in state.slides):
        return "What is annotated is being counted."
    if state.sets:
        return next((text for r in state.slides if r.annotated and (text := _gone(r))), None)
    if not state.slides:
        return "Open a slide and annotate it, or add labelled images under Sources."
    gone = next((text for r in state.slides if (text := _gone(r))), None) or _unknown_size(state)
    if gone:
        return gone
    if any(record.corrections and record.labels for record in state.slides):
        return None
    if not any(record.annotation for record in state.slides):
        return "Press Start annotating, then paint a few strokes of each class."
    from napari_msunet.widgets.dock.state import BACKGROUND

    empty = [name for value, name in enumerate(state.classes, 1) if not state.count(value)]
    if not (state.count(BACKGROUND) or any(record.marked for record in state.slides)):
        empty.append("background")
    if not empty:
        return None
    have = "has none yet" if len(empty) == 1 else "have none yet"
    return f"Paint a few strokes of each class and of background: {_and(empty)} {have}."


def _no_labels(state: State) -> str | None:
    if state.active is not None and state.active.labels is not None and state.active.labels.exists():
        return None
    return _no_slide(state) or "Predict first: this slide has no labels yet."


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

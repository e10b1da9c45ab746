"""What follows from a state: over all that a person can do, the advice can be followed, and leads to an export."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from subprocess import run

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from napari_msunet.config import FolderSource, PredictJob, TrainJob
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.widgets.resolve import missing, predict_job, resolve, train_job
from napari_msunet.widgets.state import STEPS, SlideRecord, State

NAMES = st.sampled_from(("a", "b", "c"))


class Dock(RuleBasedStateMachine):
    """What a person does in the dock, as far as the state knows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.state = State()

    def teardown(self) -> None:
        self.folder.cleanup()

    # ------------------------------------------------------------------------------------------------- open and close

    @rule(name=NAMES, sized=st.booleans())
    def open_slide(self, name, sized=True):
        path = self.path / f"{name}.svs"
        path.touch()
        self.state.add_slide(SlideRecord(path, (3000, 2000), mpp=(0.5, 0.5) if sized else None))

    @precondition(lambda self: self.state.active)
    @rule(size=st.sampled_from((0.25, "px")))
    def give_size(self, size=0.5):
        self.state.active.give_size(size)
        self.state.emit("slides")

    @precondition(lambda self: self.state.active)
    @rule()
    def close_slide(self):
        self.state.remove_slide(self.state.active)

    @precondition(lambda self: self.state.active)
    @rule()
    def lose_the_file(self):
        self.state.active.path.unlink(missing_ok=True)

    @precondition(lambda self: self.state.slides)
    @rule(data=st.data())
    def choose_slide(self, data):
        self.state.activate(data.draw(st.sampled_from(self.state.slides)))

    @rule()
    def add_folder(self):
        self.state.set_sets([FolderSource(images=self.path, masks=self.path)])

    # --------------------------------------------------------------------------------------------------------- paint

    @rule(names=st.sampled_from((("x",), ("x", "y"))))
    def name_classes(self, names):
        self.state.set_classes(names)

    @precondition(lambda self: self.state.active)
    @rule()
    def start_annotating(self):
        record = self.state.active
        if record.annotation is None:
            record.annotation = self.path / f"{record.name}.annotation.ome.zarr"
            record.annotation.mkdir(exist_ok=True)
            self.state.set_counts(record, {}, 0)

    @precondition(lambda self: self.state.active and self.state.active.annotation)
    @rule(value=st.sampled_from((1, 2, ANNOTATED_BACKGROUND)))
    def paint(self, value):
        record = self.state.active
        self.state.set_counts(record, record.counts | {value: 100}, record.marked)

    @precondition(lambda self: self.state.active and self.state.active.annotation)
    @rule()
    def reopen(self):
        self.state.active.counted = False  # until it is counted, it may hold anything

    # ------------------------------------------------------------------------------------------------ choose and train

    @rule(chosen=st.booleans())
    def choose_model(self, chosen):
        self.state.set_model(self.state.model) if chosen else self.state.leave_model_open()

    @precondition(lambda self: resolve(self.state).steps["train"].ready)
    @rule()
    def begin_training(self):
        self.state.set_running("train", True)

    @precondition(lambda self: "train" in self.state.running)
    @rule(cancelled=st.booleans())
    def end_training(self, cancelled=False):
        self.state.set_running("train", False)
        if not cancelled:
            (self.path / "model.safetensors").touch()
            self.state.use_model(self.path / "model.safetensors")

    @precondition(lambda self: self.state.model_path)
    @rule()
    def lose_the_model(self):
        self.state.model_path.unlink(missing_ok=True)

    # ---------------------------------------------------------------------------------------------- predict and export

    @precondition(lambda self: resolve(self.state).steps["predict"].ready)
    @rule()
    def begin_predicting(self):
        self.predicting = self.state.active
        self.state.set_running("predict", True)

    @precondition(lambda self: "predict" in self.state.running)
    @rule(cancelled=st.booleans())
    def end_predicting(self, cancelled=False):
        self.state.set_running("predict", False)
        if not cancelled:
            labels = self.path / f"{self.predicting.name}.labels.ome.zarr"
            labels.mkdir(exist_ok=True)
            self.predicting.labels = labels
            self.state.predicted.add(labels)

    @precondition(lambda self: self.state.active and self.state.active.labels)
    @rule(trained_on=st.booleans())
    def correct(self, trained_on=False):
        self.state.active.edited += 10
        self.state.active.corrections = trained_on

    @precondition(lambda self: self.state.active and self.state.active.labels)
    @rule(places=st.sampled_from((0, 3)))
    def review(self, places):
        self.state.set_to_review(self.state.active.labels, places)

    @precondition(lambda self: resolve(self.state).steps["export"].ready)
    @rule()
    def export(self):
        self.state.exported.append(self.path / "labels.geojson")

    # ------------------------------------------------------------------------------------------------- what must hold

    @invariant()
    def nothing_contradicts(self):
        before = sorted(self.path.rglob("*"))
        found = resolve(self.state)
        assert found.advice
        assert set(found.steps) == set(STEPS)
        for name, kind in (("train", TrainJob), ("predict", PredictJob)):
            step = found.steps[name]
            assert (step.job is None) == (step.missing is not None or step.problem is not None)
            assert step.problem is None, step.problem
            assert step.job is None or isinstance(step.job, kind)
        for name, step in found.steps.items():
            assert step.missing == missing(self.state, name)
            assert step.ready == (step.missing is None and step.waits_for is None)
            assert step.waits_for is None or step.waits_for in self.state.running
        assert sorted(self.path.rglob("*")) == before  # it only looks

    def follow(self, step):
        """Do what the advice asks for."""
        state = self.state
        for record in state.slides:
            record.path.touch()
            if not record.sized:
                record.give_size(0.5)
            if record.annotation and not record.counted:
                state.set_counts(record, record.counts, record.marked)
        if not state.slides and (step != "train" or not state.sets):
            self.open_slide("a", True)
        elif step == "annotate":
            self.start_annotating()
            for value in (*range(1, len(state.classes) + 1), ANNOTATED_BACKGROUND):
                self.paint(value)
        elif step == "train":
            assert resolve(state).steps["train"].ready
            assert train_job(state, self.path / "run").sources
            self.begin_training()
            self.end_training(False)
        elif step == "predict" or (step in ("export", "correct") and missing(state, "export")):
            assert resolve(state).steps["predict"].ready or missing(state, "predict")
            if missing(state, "predict"):  # its model has gone: another is trained
                self.follow("annotate")
                self.follow("train")
            assert predict_job(state, draft=True).slide == state.active.path
            self.begin_predicting()
            self.end_predicting(False)
        elif step == "correct":
            self.correct(False)
        elif step == "review":
            state.set_to_review(state.active.labels, 0)
            state.reviewed = True
        else:
            self.export()

    @rule()
    def the_advice_leads_to_an_export(self):
        self.state.exported.clear()
        for _ in range(20):
            for step in tuple(self.state.running):
                self.state.set_running(step, False)
            found = resolve(self.state)
            if self.state.exported:
                return
            self.follow(found.next_step)
        raise AssertionError(f"No export after 20 times: {found.next_step}, {found.advice}")


TestDock = Dock.TestCase
TestDock.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_state_and_resolve_need_no_window():
    code = (
        "import sys, napari_msunet.widgets.resolve; "
        "print([m for m in ('qtpy', 'napari', 'torch', 'PyQt6') if m in sys.modules])"
    )
    found = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

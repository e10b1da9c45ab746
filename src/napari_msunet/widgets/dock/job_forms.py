"""The editor of what a training can be told; that of a prediction is in `predicting.forms`."""

from __future__ import annotations

from napari_msunet.config import Augmentation, LossConfig, Optimiser, TrainJob
from napari_msunet.config.sampling import Sampling
from napari_msunet.widgets.dock.every_field import AnyField
from napari_msunet.widgets.dock.fields import (
    CheckField,
    ChoiceField,
    MinutesField,
    NumberField,
    NumbersField,
    WholeField,
)
from napari_msunet.widgets.dock.forms import DEVICE_TIP, DEVICES, Form
from napari_msunet.widgets.dock.options import TrainOptions


class TrainForm(Form):
    """Edits the options of a training."""

    def __init__(self, value: TrainOptions | None = None) -> None:
        super().__init__(value or TrainOptions())
        self.add(
            "time_limit",
            "Time limit",
            MinutesField("none"),
            "Minutes that training takes. With a limit everything that is annotated trains until the time is up. "
            "Without one a part validates, and training ends when that gets no better.",
        )
        self.add(
            "epochs",
            "At most",
            WholeField(1, 100_000, "epochs", none="automatic"),
            "Epochs (looks at all the training data) before it ends; it ends sooner when nothing improves any more.",
        )
        self.add("device", "Compute on", ChoiceField(DEVICES), DEVICE_TIP)
        self._windows()
        self._learning()
        self._losses()
        self._changes()
        self._everything()
        self._show(self._value)

    def _windows(self) -> None:
        self.add(
            "size",
            "Window",
            WholeField(16, 8192, "px", none="automatic", step=32),
            "Side of a training picture in pixels of the model. Larger shows more surroundings and needs more memory. "
            "Automatic fits it to the images.",
            advanced=True,
        )
        self.add(
            "batch_size",
            "Batch",
            WholeField(1, 1024, "windows", none="automatic"),
            "Windows that are learned from at once. Lower it when memory runs out.",
            advanced=True,
        )
        self.add(
            "steps",
            "Epoch",
            WholeField(1, 1_000_000, "batches", none="automatic"),
            "Batches in an epoch; automatic is about one look at each annotated window.",
            advanced=True,
        )
        self.add(
            "border",
            "Ignored edge",
            WholeField(0, 4096, "px"),
            "Pixels of the model at a window's edge that do not count, because the network sees nothing beyond. "
            "Raise it for networks that see far.",
            advanced=True,
        )
        self.add(
            "validation",
            "Validation",
            AnyField(TrainJob.model_fields["validation"]),
            "Share (0 to 0.9) of the data with the role auto that is not trained on but measures how well it works. "
            "Empty: nothing with a time limit, else 0.2.",
            advanced=True,
        )
        self.add("seed", "Seed", WholeField(0, 2**31 - 1), "Number that makes chance repeatable.", advanced=True)

    def _everything(self) -> None:
        """All that is left, in groups under headings of their own."""
        rows = self.folded("More losses", "What else can be made small, and how much each counts.")
        self.add_every("loss", LossConfig, rows)
        rows = self.folded("More of the optimiser", "Which one, its schedule, averages of weights, when to stop.")
        self.add_every("optimiser", Optimiser, rows)
        rows = self.folded("More changes of the images", "Random changes that make the model see more than there is.")
        self.add_every("augmentation", Augmentation, rows)
        rows = self.folded("Windows, splits, tracking", "Where windows are taken, what is held out, who else is told.")
        self.add_every("sampling", Sampling, rows)
        self.add_every("", type(self._value), rows, left_out=("loss", "optimiser", "augmentation", "sampling"))

    def _learning(self) -> None:
        self.add(
            "optimiser.learning_rate",
            "Learning rate",
            NumberField(1e-6, 1, 1e-3, 6),
            "Size of a learning step. Lower it (to a third) when the loss jumps; raise it when it hardly falls.",
            advanced=True,
        )
        self.add(
            "optimiser.weight_decay",
            "Weight decay",
            NumberField(0, 1, 0.01, 4),
            "Pull of the weights towards zero, against learning by heart. Raise it with very little data.",
            advanced=True,
        )
        schedules = {
            "plateau": "lower when it stalls",
            "cosine": "fall slowly to zero",
            "restarts": "fall, again and again",
            "one_cycle": "rise, then fall",
            "constant": "constant",
        }
        self.add(
            "optimiser.schedule", "Schedule", ChoiceField(schedules), "How the learning rate falls.", advanced=True
        )
        self.add(
            "optimiser.patience",
            "Stalled after",
            WholeField(1, 10_000, "epochs"),
            "Epochs without a lower validation loss before the learning rate is halved.",
            advanced=True,
        )
        self.add(
            "optimiser.stop_after",
            "Stop after",
            WholeField(1, 10_000, "epochs", none="automatic"),
            "Epochs without a better validation IoU before training ends. Automatic: never with a time limit, else 25.",
            advanced=True,
        )

    def _losses(self) -> None:
        self.add(
            "loss.cross_entropy",
            "Cross-entropy",
            NumberField(0, 100, 0.1),
            "Weight of the loss that counts each pixel.",
            advanced=True,
        )
        self.add(
            "loss.dice",
            "Dice",
            NumberField(0, 100, 0.1),
            "Weight of the loss that counts overlap. Raise it for rare, small objects.",
            advanced=True,
        )
        self.add(
            "loss.branch",
            "Loss per scale",
            NumbersField(),
            "Weight of each scale's own loss: one number for all, or one each with commas. "
            "At 0 a scale learns only through the fusion.",
            advanced=True,
        )

    def _changes(self) -> None:
        self.add(
            "augmentation.flip",
            "",
            CheckField("Mirror and turn by quarters"),
            "Shows each window mirrored and turned at random. Off only where up and down differ.",
            advanced=True,
        )
        tips = {
            "rotate": ("Rotate", 180, 5, "°", "Largest random rotation in degrees."),
            "scale": ("Zoom", 1, 0.05, "", "Largest random change of size: 0.2 is from 1/1.2 to 1.2."),
            "brightness": ("Brightness", 1, 0.05, "", "Largest random change, 0 to 1. Raise it for uneven scanners."),
            "contrast": ("Contrast", 1, 0.05, "", "Largest random change, 0 to 1. Raise it for uneven scanners."),
            "stain": ("Stain", 1, 0.05, "", "Largest random change of H&E colours, 0 to 1. Raise it for other labs."),
        }
        for name, (label, high, step, unit, tip) in tips.items():
            self.add(f"augmentation.{name}", label, NumberField(0, high, step, 2, unit), tip, advanced=True)

"""Editors of how a prediction is computed, and of what becomes of its probabilities."""

from __future__ import annotations

from napari_msunet.config import Postprocess
from napari_msunet.widgets.dock.fields import CheckField, ChoiceField, NumberField, TextField, WholeField
from napari_msunet.widgets.dock.forms import DEVICES, Form
from napari_msunet.widgets.dock.options import PredictOptions
from napari_msunet.widgets.dock.predicting.fields import DeviceField, MarginField, OutputsField

ALL_DEVICES = {**DEVICES, "cuda:all": "all graphics cards (CUDA)"}


class PredictForm(Form):
    """Edits the options of a prediction: what comes out, and folded away how it is computed."""

    def __init__(self, value: PredictOptions | None = None) -> None:
        super().__init__(value or PredictOptions())
        self.fold.button.setText("More: exactness, memory, device…")
        self.outputs = OutputsField()
        self.add("outputs", "Also show", self.outputs, "What comes out beside the labels, each as a layer of its own.")
        self._exactness()
        self._computing()
        self._show(self._value)

    def _exactness(self) -> None:
        self.add(
            "margin",
            "Margin",
            MarginField(),
            "What is read around each tile. Exact: what the whole slide in one piece would give. Less is faster, may "
            "show the tiles, and then says how much.",
            advanced=True,
        )
        turns = {"none": "none", "flips": "4 mirror images", "dihedral": "8: mirrored and turned"}
        self.add(
            "tta",
            "Averaged copies",
            ChoiceField(turns),
            "The mean over mirrored and turned copies (test-time augmentation): often a little better, 4 or 8 times "
            "the time.",
            advanced=True,
        )
        types = {"float16": "half precision", "float32": "full precision", "uint8": "256 steps"}
        self.add(
            "probability_dtype",
            "Probabilities as",
            ChoiceField(types),
            "How probabilities are kept, where they are; 256 steps take least space.",
            advanced=True,
        )

    def _computing(self) -> None:
        self.add(
            "device",
            "Compute on",
            DeviceField(ALL_DEVICES),
            "Where it computes. Automatic takes a graphics card if there is one; a name such as cuda:1 can be typed.",
            advanced=True,
        )
        self.add(
            "memory",
            "Memory",
            NumberField(0.5, 1000, 0.5, 1, "GB"),
            "What the prediction may take beside the programs themselves. More allows larger tiles, so less work.",
            advanced=True,
        )
        self.add(
            "tile",
            "Tile",
            WholeField(1, 65_536, "px", none="automatic", step=256),
            "Side of a tile in pixels of the model; automatic is the fastest that the memory allows.",
            advanced=True,
        )
        self.add(
            "batch_size",
            "Tiles at once",
            WholeField(1, 256),
            "Tiles computed together. More than one pays on graphics cards only.",
            advanced=True,
        )
        precisions = {"float32": "full", "bfloat16": "half (bfloat16)", "float16": "half (float16)"}
        self.add(
            "precision",
            "Precision",
            ChoiceField(precisions),
            "Of the network's arithmetic. The half ones are for graphics cards and no longer exact.",
            advanced=True,
        )
        self.add(
            "engine",
            "Engine",
            ChoiceField({"torch": "PyTorch", "onnx": "ONNX Runtime"}),
            "What runs the network. ONNX Runtime is a package of its own (the extra onnx).",
            advanced=True,
        )
        self.add(
            "compile",
            "",
            CheckField("Compile the network first"),
            "Takes a minute at the beginning and pays on long predictions.",
            advanced=True,
        )


class CleaningForm(Form):
    """Edits what becomes of the probabilities: small objects, holes, smoothing, how objects are parted."""

    def __init__(self, value: Postprocess | None = None) -> None:
        super().__init__(value or Postprocess())
        areas = {
            "smallest": ("Drop objects under", "Objects under this area become background; 0 keeps all."),
            "holes": ("Fill holes under", "Holes under this area get the class around them; 0 fills none."),
        }
        for name, (label, tip) in areas.items():
            self.add(name, label, NumberField(0, 1e9, 10, 1, "µm²"), tip)
        self.add(
            "smoothing",
            "Smooth by",
            NumberField(0, 1000, 0.5, 2, "µm"),
            "Width of a blur over the probabilities before the labels are made; 0: none.",
        )
        self.add(
            "instances",
            "Part objects by",
            ChoiceField({"distance": "their shape", "boundary": "a class of edges"}),
            "How objects that touch are parted, where Objects is ticked: at their necks, or along a class that was "
            "annotated for the edges between them.",
        )
        self.add(
            "boundary",
            "Class of edges",
            TextField("name of the class"),
            "The class that marks the edges between objects, for parting by it.",
        )
        self.add(
            "spacing",
            "Centres apart by",
            NumberField(0, 10_000, 1, 1, "µm"),
            "Least distance between the centres of two objects; 0: chosen from their size.",
        )
        self._show(self._value)

"""Live curves of a training: loss and IoU by epoch, for the fused output and each scale."""

from __future__ import annotations

from collections.abc import Sequence

import pyqtgraph as pg
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_msunet.constants import output_colour
from napari_msunet.events import Metric
from napari_msunet.train.progress import History

_REDRAW_MS = 150
_TITLES = {"loss": "Loss", "iou": "IoU"}
_TIPS = {
    "loss": "Cross-entropy and Dice loss: lower is better. Solid: validation; dashed: training.",
    "iou": "Overlap with the truth, mean over classes, 0 to 1: higher is better. Solid: validation; dashed: training.",
}


class Curves(QWidget):
    """Two plots, loss above IoU; training dashed, validation solid, the best epoch marked.

    Numbers are taken in by `add` at no cost; the plots follow a moment later, once for all numbers of an epoch.

    Parameters
    ----------
    theme : str
        napari's theme, whose colours the plots take.

    Attributes
    ----------
    outputs : tuple of str
        "fused", then one for each scale.
    history : History
        The numbers.
    """

    def __init__(self, theme: str = "dark") -> None:
        super().__init__()
        self.outputs: tuple[str, ...] = ()
        self.history = History()
        self.plots: dict[str, pg.PlotWidget] = {}
        self.lines: dict[tuple[str, str, str], pg.PlotDataItem] = {}
        self.best: dict[str, pg.InfiniteLine] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REDRAW_MS)
        self._timer.timeout.connect(self.redraw)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        self.legend = QLabel()
        self.legend.setWordWrap(True)
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        for name in _TITLES:
            self.plots[name] = self._plot(name)
            layout.addWidget(self.plots[name])
        layout.addWidget(self.legend)
        self.set_theme(theme)

    def _plot(self, name: str) -> pg.PlotWidget:
        """An empty plot with its lines."""
        plot = pg.PlotWidget()
        plot.setFixedHeight(135)
        plot.setToolTip(_TIPS[name])
        plot.setMenuEnabled(False)
        plot.hideButtons()
        plot.setMouseEnabled(x=False, y=False)
        plot.showGrid(x=False, y=True, alpha=0.15)
        item = plot.getPlotItem()
        item.getAxis("left").setWidth(34)
        item.getAxis("bottom").setHeight(20)
        item.getAxis("bottom").setTickPen(None)
        if name == "iou":
            plot.setYRange(0, 1, padding=0.02)
        else:
            plot.setLimits(yMin=0)
        self.best[name] = pg.InfiniteLine(angle=90)
        self.best[name].hide()
        plot.addItem(self.best[name])
        return plot

    def restart(self, outputs: Sequence[str], history: History) -> None:
        """Show another training, with what is known of it so far."""
        self.history = history
        if tuple(outputs) != self.outputs:
            for (name, _, _), line in self.lines.items():
                self.plots[name].removeItem(line)
            self.outputs, self.lines = tuple(outputs), {}
            for name, plot in self.plots.items():
                for index, output in enumerate(self.outputs):
                    for split in ("train", "validation"):
                        line = pg.PlotDataItem(connect="finite", symbolSize=5, antialias=True)
                        line.setZValue(10 - index + (split == "validation"))  # the fused one on top
                        plot.addItem(line)
                        self.lines[name, split, output] = line
            self._colour_lines()
        self.redraw()

    def set_theme(self, theme: str) -> None:
        """Take the colours of a theme of napari's."""
        colours = get_theme(theme)
        ground, text = colours.background.as_hex(), colours.text.as_hex()
        self._dark = sum(colours.background.as_rgb_tuple()[:3]) < 384
        for name, plot in self.plots.items():
            plot.setBackground(ground)
            for side in ("left", "bottom"):
                axis = plot.getPlotItem().getAxis(side)
                axis.setPen(text)
                axis.setTextPen(text)
            plot.setTitle(_TITLES[name], color=text, size="9pt")
            self.best[name].setPen(pg.mkPen("#999999", width=1, style=Qt.PenStyle.DashLine))
        self._colour_lines()
        self.redraw()

    def _colour_lines(self) -> None:
        """The fused output's line is the thickest."""
        for (_, split, output), line in self.lines.items():
            index = self.outputs.index(output)
            dashed = Qt.PenStyle.DashLine if split == "train" else Qt.PenStyle.SolidLine
            width = (2 if index == 0 else 1.3) * (0.8 if split == "train" else 1)
            line.setPen(pg.mkPen(output_colour(index, self._dark), width=width, style=dashed))

    def add(self, metric: Metric) -> None:
        """Take in a number of an epoch."""
        self.history.add(metric)
        if not self._timer.isActive():
            self._timer.start()

    def redraw(self) -> None:
        """Bring the plots up to date."""
        for key, line in self.lines.items():
            points = self.history.series.get(key, [])
            line.setData([e for e, _ in points], [v for _, v in points])
            line.setSymbol("o" if len(points) == 1 else None)
            if len(points) == 1:
                line.setSymbolBrush(output_colour(self.outputs.index(key[2]), self._dark))
                line.setSymbolPen(None)
        best, epochs = self.history.best_epoch, self.history.epochs
        for name, plot in self.plots.items():
            plot.setXRange(0.5, max(epochs, 5) + 0.5, padding=0)
            self.best[name].setVisible(best is not None)
            if best is not None:
                self.best[name].setValue(best)
        self.legend.setText(self._legend(best))

    def _legend(self, best: int | None) -> str:
        """What the colours and lines mean, in a line or two."""
        parts = [
            f'<span style="color:{output_colour(i, self._dark)}">&#9644;</span>&nbsp;{o.replace(" ", "&nbsp;")}'
            for i, o in enumerate(self.outputs)
        ]
        parts += ["&mdash;&nbsp;validation", "&#8209;&#8209;&nbsp;training"]
        if best is not None:
            parts.append(f"&#166;&nbsp;best:&nbsp;epoch&nbsp;{best}")
        return "<small>" + " &nbsp; ".join(parts) + "</small>"

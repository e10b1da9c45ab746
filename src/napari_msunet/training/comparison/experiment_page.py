"""The page of an experiment: its sentence, its tables, bars, learning curves, and the best and worst images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet._io import aside, read_rows, table_text, write_json, write_text
from napari_msunet.config.training import MEAN_OF_SCALES
from napari_msunet.constants import IGNORED, MEAN_COLOUR, OUTPUT_COLOURS, output_colour
from napari_msunet.training.record import column
from napari_msunet.training.scoring.metrics import SCORES
from napari_msunet.training.scoring.panels import Panel, class_colour, figure_of, save

# ----------------------------------------------------------------------------------------------------------------------
# Text.

_SHOWN_SCORES = tuple(name for name in SCORES if name != "f1")  # which is the Dice of pixels
_NAMES = {"iou": "IoU", "f1": "F1"}


def _text(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _between(interval: Sequence[float] | None, sign: str = "") -> str:
    return "–" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def table(report: dict[str, Any]) -> str:
    """The report as a table in Markdown."""
    lines = [
        f"| variant | trials | {named(report)} | its deviation | 95 % over groups | minus the first | 95 % over groups "
        "| steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, own in report["variants"].items():
        if not own["trials"]:
            lines.append(f"| {name} | 0 | {own['error']} | | | | | |")
            continue
        difference = report["differences"].get(name, {})
        cells = [
            *(
                name,
                str(own["trials"]),
                _text(own[report["metric"]]),
                _text(own["deviation"]),
                _between(own["interval"]),
            ),
            *(
                _text(difference.get(report["metric"]), "+"),
                _between(difference.get("interval"), "+"),
                str(own["steps"]),
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_all_numbers(report)]) + "\n"


def named(report: dict[str, Any]) -> str:
    """The metric of a report as a heading."""
    return heading(str(report["metric"]))


def heading(score: str) -> str:
    """A score as a heading, such as IoU."""
    return _NAMES.get(score, score.capitalize())


def _all_numbers(report: dict[str, Any]) -> Iterator[str]:
    """Lines of a second table: what each variant reached in training and on the held-out images."""
    names = ("iou", "f1", "accuracy")
    yield "In training (changed windows, last epoch) and on held-out images; the log loss is comparable between losses."
    yield ""
    yield "| variant | loss, IoU, F1, accuracy in training | log loss, IoU, F1, accuracy held out | epochs | seconds |"
    yield "|---|---|---|---|---|"
    for name, own in report["variants"].items():
        if own["trials"]:
            trained = ", ".join(_text(own["train"].get(key)) for key in ("loss", *names))
            held = ", ".join(_text(own["held_out"].get(key)) for key in ("log_loss", *names))
            epochs = "–" if own["epochs"] is None else f"{own['epochs']:.0f}"
            yield f"| {name} | {trained} | {held} | {epochs} | {own['processor_seconds']} |"


def _every_score(report: dict[str, Any]) -> Iterator[str]:
    """Lines of a third table: every score with its interval, and its difference to the first variant."""
    yield "Every score on held-out images: the mean over trials, its 95 % interval over groups, and the difference to"
    yield f"{report['first']}, paired by group."
    yield ""
    yield f"| variant | {' | '.join(heading(name) for name in _SHOWN_SCORES)} |"
    yield f"|---|{'---|' * len(_SHOWN_SCORES)}"
    for name, own in report["scores"].items():
        cells = []
        for score in _SHOWN_SCORES:
            found = own[score]
            text = f"{_text(found['value'])} ({_between(found['interval'])})"
            if "difference" in found:
                text += f"; {_text(found['difference'], '+')} ({_between(found['difference_interval'], '+')})"
            cells.append(text)
        yield f"| {name} | {' | '.join(cells)} |"


def sentence(report: dict[str, Any]) -> str:
    """The main result as a sentence, which claims no difference that lies within the noise."""
    first, metric = report["first"], report["metric"]
    parts = []
    for name, found in report["differences"].items():
        interval = found["interval"]
        if interval is None:
            parts.append(f"{name} {_text(found[metric], '+')} (one group: nothing is known of its spread)")
        elif interval[0] <= 0 <= interval[1]:
            parts.append(f"{name} is not told apart ({_text(found[metric], '+')}, {_between(interval, '+')})")
        else:
            word = "better" if found[metric] > 0 else "worse"
            parts.append(f"{name} is {word} by {abs(found[metric]):.3f} ({_between(interval, '+')})")
    if not parts:
        return f"{first}: {named(report)} {_text(report['variants'][first].get(metric))}."
    return f"Compared with {first}: {'; '.join(parts)}."


def write_tables(out: Path, report: dict[str, Any]) -> dict[str, str]:
    """Write report.json, bars.png, and table.csv with a row for each trial."""
    columns = ("variant", "fold", "seed", report["metric"], "log_loss", "steps", "epochs", "processor_seconds", "error")
    write_text(out / "table.csv", table_text(report["trials"], columns))
    write_json(out / "report.json", report)
    draw_bars(out / "bars.png", report)
    return {
        name: str(out / file)
        for name, file in (("table", "table.csv"), ("report", "report.json"), ("bars", "bars.png"))
    }


def write_page(out: Path, report: dict[str, Any]) -> str:
    """Write report.md, with the pictures that are beside it, and return its path."""
    parts = [sentence(report), table(report).rstrip(), _picture(out, "bars", "Bars with intervals", _BARS)]
    if "scores" in report:
        parts.append("\n".join(_every_score(report)))
    if "scales" in report:
        parts.append("\n".join(_by_scale(report["scales"])))
        parts.append(_picture(out, "scales", "Training scale by test scale", ""))
    parts.append(_picture(out, "curves", "Learning curves", _CURVES))
    parts.append(_picture(out, "images", "Held-out images", _IMAGES))
    write_text(out / "report.md", "\n\n".join(part for part in parts if part) + "\n")
    return str(out / "report.md")


_BARS = "The bar of a variant is its mean over trials, its line the 95 % interval over groups, a dot each scale alone."
_CURVES = (
    "Curves of each variant: each scale, the mean over its scales and the fused output, mean over trials, in training "
    "(on changed windows). The band is the 95 % interval of that mean over trials."
)
_IMAGES = (
    "The best, the median and the worst held-out image of the first and of the best variant: the image, with the "
    "outlines of the truth, and with those of the prediction."
)


def _picture(out: Path, name: str, title: str, text: str) -> str:
    """A picture in Markdown below what it shows; empty where it was not drawn."""
    if not (out / f"{name}.png").is_file():
        return ""
    return f"{text}\n\n![{title}]({name}.png)" if text else f"![{title}]({name}.png)"


def _by_scale(matrix: dict[str, Any]) -> Iterator[str]:
    """Lines of a table: the Dice of each variant at each test scale."""
    yield "Dice on held-out images that are shown at other scales (100 % is the first variant's resolution)."
    yield ""
    yield f"| trained | {' | '.join(f'tested at {scale:.0%}' for scale in matrix['test'])} |"
    yield f"|---|{'---|' * len(matrix['test'])}"
    for name, cells in zip(matrix["train"], matrix["dice"], strict=True):
        yield f"| {name} | {' | '.join(_text(value) for value in cells)} |"


# ----------------------------------------------------------------------------------------------------------------------
# Pictures.


def draw_bars(path: Path, report: dict[str, Any]) -> None:
    """Draw a bar with its interval for each variant, and a dot for each scale alone."""
    shown = {name: own for name, own in report["variants"].items() if own["trials"]}
    figure = figure_of(7.5, 0.9 + 0.42 * max(1, len(shown)))
    axes = figure.subplots()
    for place, own in enumerate(shown.values()):
        value = own[report["metric"]]
        if value is None:
            continue
        low, high = own["interval"] or (value, value)
        axes.barh(place, value, color=OUTPUT_COLOURS[1], alpha=0.75)
        axes.plot([low, high], [place, place], color="black", linewidth=1.4)
        scales = [v for name, v in own["outputs"].items() if name != "fused" and v is not None]
        axes.plot(scales, [place] * len(scales), "o", color="white", markeredgecolor="black", markersize=4)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.invert_yaxis()
    axes.set(xlabel=f"{named(report)} on held-out groups, 95 % interval; dots: each scale alone", xlim=(0, 1))
    save(figure, path)


def draw_curves(path: Path, runs: Mapping[str, Sequence[Path]], metric: str) -> bool:
    """Draw loss and score over the epochs of training, for each output of each variant, with intervals over trials.

    Parameters
    ----------
    path : Path
        The picture; it is not drawn where no run has two epochs.
    runs : mapping of str to sequence of Path
        The folders of the training runs of each variant.
    metric : str
        The score, as in metrics.csv.
    """
    tables = {name: [read_rows(run / "metrics.csv")[1] for run in folders] for name, folders in runs.items()}
    shown = {name: rows for name, rows in tables.items() if rows and min(map(len, rows)) > 1}
    if not shown:
        return False
    figure = figure_of(7.5, 0.4 + 2.3 * len(shown))
    grid = figure.subplots(len(shown), 2, squeeze=False)
    known: dict[str, Any] = {}
    for axes, (name, rows) in zip(grid, shown.items(), strict=True):
        for place, score in zip(axes, ("loss", metric), strict=True):
            known |= _curves_of(place, rows, score)
            place.set_title(f"{name}: {'loss' if score == 'loss' else heading(score)}", fontsize=9)
            place.set_ylim(bottom=0, top=None if score == "loss" else 1)
            place.grid(color="#e6e6e6", linewidth=0.7)
            place.spines[["top", "right"]].set_visible(False)
            place.tick_params(labelsize=8)
    for place in grid.ravel():
        place.xaxis.get_major_locator().set_params(integer=True)
    for place in grid[-1]:
        place.set_xlabel("epoch", fontsize=9)
    names = sorted(known, key=lambda name: (name != "fused", name == MEAN_OF_SCALES))
    figure.legend(
        [known[name] for name in names], names, loc="outside lower center", ncols=5, frameon=False, fontsize=9
    )
    save(figure, path)
    return True


def _curves_of(axes: Any, runs: Sequence[Sequence[Mapping[str, str]]], score: str) -> dict[str, Any]:
    """Draw a score of all outputs, and return their lines by name. Trials of one variant have about as many epochs."""
    start, epochs = column("train", score, ""), min(map(len, runs))
    outputs = [key.removeprefix(start) for key, value in runs[0][0].items() if key.startswith(start) and value]
    if len(outputs) == 2:
        outputs.remove("fused")  # which is the only scale
    lines = {}
    scales = [name for name in outputs if name not in ("fused", MEAN_OF_SCALES)]
    for name in outputs:
        values = np.array([[float(row[start + name] or "nan") for row in rows[:epochs]] for rows in runs])
        x, mean = np.arange(1, epochs + 1), values.mean(0)
        mixed = name == MEAN_OF_SCALES
        colour = MEAN_COLOUR if mixed else output_colour(0 if name == "fused" else 1 + scales.index(name))
        (lines[name],) = axes.plot(x, mean, color=colour, linewidth=1.5, linestyle=(0, (4, 2)) if mixed else "-")
        if len(values) > 1:
            low, high = _mean_between(values)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    return lines


def _mean_between(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The 95 % interval of the mean over the first axis, by Student's t."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(0, ddof=1) / len(values) ** 0.5
    return values.mean(0) - half, values.mean(0) + half


class Example(NamedTuple):
    """The images of one variant: its name, and the panel of each image."""

    variant: str
    panels: list[Panel]


_SIDE, _GAP, _LINE = 200, 6, 20
"""Pixels of a small picture's width, between pictures, and of a line of text."""


def draw_examples(path: Path, examples: Sequence[Example], classes: Sequence[str]) -> None:
    """Draw a column of images for each variant: the image, with the truth's outlines, with the prediction's."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(12)
    blocks = [[(panel[0], _outlined(panel)) for panel in example.panels] for example in examples]
    width = 3 * (_SIDE + _GAP)
    height = max(sum(picture.shape[0] + _LINE + _GAP for _, picture in block) for block in blocks)
    canvas = Image.new("RGB", (len(blocks) * (width + 3 * _GAP), height + 3 * _LINE), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (example, block) in enumerate(zip(examples, blocks, strict=True)):
        left, y = number * (width + 3 * _GAP) + _GAP, _LINE + 4
        pen.text((left, 4), f"{example.variant}: image, truth, prediction"[:90], "black", ImageFont.load_default(13))
        for title, picture in block:
            pen.text((left, y + 3), title.replace("\n", ": ")[:80], "black", font)
            canvas.paste(Image.fromarray(picture), (left, y + _LINE))
            y += _LINE + picture.shape[0] + _GAP
    x, y = float(_GAP), canvas.height - _LINE
    for number, name in enumerate(classes, start=1):
        pen.rectangle((x, y + 3, x + 18, y + 13), class_colour(number))
        pen.text((x + 24, y + 1), name, "black", font)
        x += 40 + pen.textlength(name, font)
    with aside(path) as file:
        canvas.save(file, format="png")


def _outlined(panel: Panel) -> npt.NDArray[np.uint8]:
    """The image, and the image with the outlines of truth and prediction, side by side, `(h, w, 3)` uint8."""
    from PIL import Image, ImageColor
    from scipy.ndimage import maximum_filter
    from skimage.segmentation import find_boundaries

    _, image, truth, predicted = panel
    height = max(1, round(_SIDE * truth.shape[0] / truth.shape[1]))
    pixels = image if image.dtype == np.uint8 else (np.asarray(image) * 255).round().astype(np.uint8)
    how = Image.Resampling.BOX if pixels.shape[1] > _SIDE else Image.Resampling.NEAREST
    small = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((_SIDE, height), how))
    row = np.full((height, 3 * (_SIDE + _GAP), 3), 255, np.uint8)
    for place, labels in enumerate((None, truth, predicted)):
        cell = small.copy()
        if labels is not None:
            labels = np.asarray(Image.fromarray(labels).resize((_SIDE, height), Image.Resampling.NEAREST))
            edges = find_boundaries(labels, mode="thick")  # type: ignore[no-untyped-call]
            grown = maximum_filter(np.where(labels == IGNORED, 0, labels), 3)
            for number in np.unique(labels):
                if number not in (0, IGNORED):
                    cell[edges & (grown == number)] = ImageColor.getrgb(class_colour(int(number)))
            cell[labels == IGNORED] //= 2
        row[:, place * (_SIDE + _GAP) : place * (_SIDE + _GAP) + _SIDE] = cell
    return row

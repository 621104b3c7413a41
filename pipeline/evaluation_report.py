"""The page on how good a model is: confusion, calibration, what rejecting buys, and the worst mistakes as pictures."""

import base64
import html
import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..classify.runtime import Model, Verdicts
from ..classify.scores import calibration_curve, risk_coverage
from ..data.collections import Collection

_MISTAKES, _PER_ROW = 24, 8


def evaluation_page(figures: dict[str, Any], collection: Collection, verdicts: Verdicts, model: Model) -> bytes:
    """The page, as HTML in one file.

    Parameters
    ----------
    figures, collection, verdicts
        As ``classification.evaluate_model`` gives them.
    model : Model
    """
    labels = np.array([model.card.classes.index(collection.classes[label]) for label in collection.labels])
    pictures = "".join(
        f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        for title, picture in (
            ("Confusion, calibration, rejection", _curves(figures, labels, verdicts)),
            ("Worst mistakes", _mistakes(collection, labels, verdicts)),
        )
        if picture
    )
    header = "<tr><th>class</th><th>n</th><th>precision</th><th>recall</th><th>F1</th></tr>"
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{one['n']}</td>"
        + "".join(f"<td>{_with_interval(one, key)}</td>" for key in ("precision", "recall", "f1"))
        + "</tr>"
        for name, one in figures["per_class"].items()
    )
    summary = {
        "images": str(figures["n"]),
        "accuracy": _with_interval(figures, "accuracy"),
        "balanced accuracy": _with_interval(figures, "balanced_accuracy"),
        "expected calibration error": f"{figures['ece']:.3f}",
        "called unknown": f"{100 * figures['rejected_fraction']:.1f} %",
    }
    if "unknown" in figures:
        strange = figures["unknown"]
        summary["called unknown, of what is none of the classes"] = (
            f"{100 * strange['rejected_fraction']:.1f} % of {strange['n']}"
        )
    listed = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in summary.items())
    name = html.escape(model.where)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<style>
body {{ font: 15px/1.4 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; }} table {{ border-collapse: collapse; }}
td, th {{ border: 1px solid #ccc; padding: 0.2rem 0.6rem; text-align: right; font-weight: normal; }}
</style>
<h1>{name}</h1>
<p>In brackets: 95 % intervals, by drawing the images of each class anew. Accuracies take each image for its most
probable class; which ones are called unknown is counted apart.</p>
<table>{listed}</table><h2>Classes</h2><table>{header}{rows}</table>{pictures}
</html>
""".encode()


def _with_interval(figures: dict[str, Any], key: str) -> str:
    interval = figures.get(f"{key}_interval")
    return f"{figures[key]:.3f}" + (f" ({interval[0]:.3f} … {interval[1]:.3f})" if interval else "")


def _curves(figures: dict[str, Any], labels: np.ndarray, verdicts: Verdicts) -> bytes:
    figure = Figure(figsize=(15, 6), layout="constrained")
    FigureCanvasAgg(figure)
    confusion, calibration, risk = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    _draw_confusion(confusion, np.array(figures["confusion"]), verdicts.classes)
    confidence, right = verdicts.probability, verdicts.best == labels
    mean, share, count = zip(*calibration_curve(confidence, right), strict=True)
    calibration.plot([0, 1], [0, 1], color="0.7")
    calibration.scatter(mean, share, s=20 + 300 * np.array(count) / max(count), alpha=0.6)
    calibration.set(
        title=f"calibration, expected error {figures['ece']:.3f}", xlabel="probability of the class chosen",
        ylabel="share that is right", xlim=(0, 1), ylim=(0, 1), aspect="equal",
    )  # fmt: skip
    kept, wrong = risk_coverage(confidence, right)
    risk.plot(kept, wrong)
    risk.set(
        title="what leaving out the least probable buys", xlabel="share kept", ylabel="share of them wrong",
        xlim=(0, 1), ylim=(0, None),
    )  # fmt: skip
    return _png(figure)


def _draw_confusion(axes: Axes, confusion: np.ndarray, classes: tuple[str, ...]) -> None:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=90)
    axes.set_yticks(ticks, classes)
    axes.set(title="confusion: share of each class", xlabel="taken for", ylabel="is")
    if len(classes) <= 20:
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=7, color=colour)


def _mistakes(collection: Collection, labels: np.ndarray, verdicts: Verdicts) -> bytes:
    """The mistakes that the model was surest of; empty without any."""
    found = verdicts.best
    wrong = np.flatnonzero(found != labels)
    worst = wrong[np.argsort(-verdicts.probability[wrong], kind="stable")][:_MISTAKES]
    if not worst.size:
        return b""
    rows = -(-worst.size // _PER_ROW)
    figure = Figure(figsize=(15, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes in figure.subplots(rows, _PER_ROW, squeeze=False).ravel():
        axes.set_axis_off()
    for axes, index in zip(figure.axes, worst.tolist(), strict=False):
        axes.imshow(collection.read(index), cmap="gray", vmin=0, vmax=1.2)
        axes.set_title(
            f"{verdicts.classes[labels[index]]}\ntaken for {verdicts.classes[found[index]]}\n"
            f"with {verdicts.probability[index]:.2f}",
            fontsize=7,
        )
    return _png(figure)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90, metadata={"Software": None})
    return content.getvalue()

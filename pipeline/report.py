"""What a person looks at after a run: one overview picture, and a page with it and the numbers."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..sr.fourier_ring import ONE_SEVENTH
from ..sr.quality import half_bit
from ..sr.reconstruct import Grid
from .cells import Job, image_lines, raw_lines
from .crops import choose_crop_px, crop_cell
from .measure import Cell

_UNKNOWN = "#d8c8e8"
# Rows of the table that the page shows; the whole table is in the CSV.
_ROWS_SHOWN = 50
_COLUMNS_SHOWN = ("line_first", "line_last", "time_s", "significance")
_CLASS_COLUMNS = ("label", "probability")
_CLASSES_SHOWN = 24


def make_documents(
    job: Job,
    grid: Grid,
    record: dict[str, Any],
    best: list[Cell],
    rows: Iterable[dict[str, str]],
    examples: Mapping[str, list[Cell]],
) -> dict[str, bytes]:
    """Overview picture and report page, by file suffix.

    Parameters
    ----------
    job, grid
        The run.
    record : dict
        The run record.
    best : list of Cell
        The most significant cells, the first of them first.
    rows : iterable of dict
        Rows of the table; only the first ones are shown.
    examples : mapping of str to list of Cell
        Some cells of each class; none without a model.
    """
    picture = _overview(job, grid, record, best)
    page = _page(record, picture, _curves(record["quality"]), rows, _classes(record, examples))
    return {".png": picture, ".html": page.encode()}


def _overview(job: Job, grid: Grid, record: dict[str, Any], best: list[Cell]) -> bytes:
    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    signal, accounting = record["signal"], record["accounting"]
    figure.suptitle(
        f"{record['capture']['file']}: {accounting['cells']} cells in {accounting['lines']} lines, "
        f"line period {signal['line_period_samples']:.6f} ± {signal['line_period_uncertainty_samples']:.1g} samples"
    )
    shown = max(1, -(-len(best) // 8))
    figure.set_figheight(5.2 + 1.5 * shown)
    top, bottom = figure.subfigures(2, 1, height_ratios=(5, 1.5 * shown), squeeze=False).ravel()
    before, after, profile = top.subplots(1, 3)
    _draw_profile(profile, job)
    if best:
        _draw_before_and_after(before, after, job, grid, best[0])
        _draw_gallery(bottom, best)
    else:
        for axes in (before, after):
            axes.set_axis_off()
        before.text(0, 0.5, "no cells were found", transform=before.transAxes)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90, metadata={"Software": None})
    return content.getvalue()


def _draw_profile(axes: Axes, job: Job) -> None:
    background = job.survey.background
    period = background.period_samples
    tau = np.arange(-0.05 * period, 0.95 * period, 1 / 8)
    light = background.profile.light(tau)
    axes.plot(tau, light, color="0.6", linewidth=0.8)
    axes.plot(tau, np.where(background.usable(tau), light, np.nan), color="C0", linewidth=1.2)
    axes.set(title="empty line (usable part blue)", xlabel="position on the line [samples]", ylabel="light [codes]")
    margin = 0.15 * background.lit_samples
    axes.set_xlim(max(tau[0], -margin), min(tau[-1], background.lit_samples + margin))


def _draw_before_and_after(before: Axes, after: Axes, job: Job, grid: Grid, cell: Cell) -> None:
    first, last, left, right = cell.box
    lines, width = last - first, right - left
    segment, clock = next(
        (segment, clock)
        for segment, clock in zip(job.survey.segments, job.survey.clock.segments, strict=True)
        if first < clock.first_line + clock.lines
    )
    rows = (
        max(float(clock.first_line), first - lines / 3),
        min(float(clock.first_line + clock.lines - 1), last + lines / 3),
    )
    tau = (max(0.0, left - width / 3), min(job.survey.background.lit_samples, right + width / 3))
    image = image_lines(job, grid, segment, clock, rows, tau)
    raw = raw_lines(job, segment, clock, rows, tau)
    extent = (tau[0], tau[1], rows[1], rows[0])
    top = float(np.nanquantile(image.transmission, 0.995)) if image.known.any() else 1.0
    for axes, picture, title in (
        (before, raw, "samples as they are ÷ empty line"),
        (after, image.transmission, "pixel super-resolution (violet: unknown)"),
    ):
        axes.set_facecolor(_UNKNOWN)
        axes.imshow(
            picture, cmap="gray", vmin=0, vmax=max(1.2, top), extent=extent, aspect="auto", interpolation="nearest"
        )
        axes.set(title=title, xlabel="position on the line [samples]", ylabel="line")


def _draw_gallery(figure: Any, best: list[Cell]) -> None:
    axes = figure.subplots(max(1, -(-len(best) // 8)), 8, squeeze=False).ravel()
    side = choose_crop_px(best)
    for ax in axes:
        ax.set_axis_off()
    for ax, cell in zip(axes, best, strict=False):
        ax.set_facecolor(_UNKNOWN)
        crop, mask = crop_cell(cell, side)
        ax.imshow(crop, cmap="gray", vmin=0, vmax=1.4, interpolation="nearest")
        ax.contour(mask, levels=[0.5], colors="C1", linewidths=0.7)
        ax.set_title(f"line {cell.row['line_first']}", fontsize=7)


def _curves(quality: dict[str, Any]) -> bytes | None:
    """Correlation between two halves of the lines, along both axes; None where no cell allowed it."""
    if not quality["along_line"]["correlation"] or not quality["along_flow"]["correlation"]:
        return None
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name, unit in zip(
        figure.subplots(1, 2, sharey=True), ("along_line", "along_flow"), ("sample", "line"), strict=True
    ):
        axis = quality[name]
        frequency = np.array(axis[f"frequency_per_{unit}"])
        um = axis["kernel_fwhm_um"]
        scale = 1.0 if um is None else axis[f"kernel_fwhm_{unit}s"] / um
        axes.plot(frequency * scale, axis["correlation"], color="C0", label="two halves of the lines")
        axes.plot(frequency * scale, half_bit(axis["independent"]), color="C1", linewidth=0.8, label="half-bit")
        axes.axhline(ONE_SEVENTH, color="0.5", linewidth=0.8, linestyle=":", label="1/7")
        axes.axvline(scale / axis[f"kernel_fwhm_{unit}s"], color="C2", linewidth=0.8, label="1 / kernel's width")
        axes.set(
            title=name.replace("_", " the "),
            xlabel=f"spatial frequency [cycles per {'µm' if um is not None else unit}]",
            xlim=(0, None),
            ylim=(-0.2, 1.05),
        )
    figure.axes[0].set_ylabel("correlation")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90, metadata={"Software": None})
    return content.getvalue()


def _quality(quality: dict[str, Any], curves: bytes | None) -> str:
    """The part of the page that says how good the images are."""
    coverage = quality["coverage"]

    def length(axis: str, name: str, unit: str) -> str:
        value, um = quality[axis][f"{name}_{unit}"], quality[axis][f"{name}_um"]
        if value is None:
            return "unknown"
        return f"{value:.3g} {unit}" + (f" = {um:.3g} µm" if um is not None else "")

    names = {
        "resolution": "resolution",
        "kernel_fwhm": "kernel, full width at half maximum",
        "period_half_bit": "finest period that two halves of the lines agree on (half-bit)",
        "period_one_seventh": "the same, at a correlation of 1/7",
        "finest_period_of_halves": "finest period that half of the lines can show",
    }
    lines = "".join(
        f"<tr><th>{label}</th><td>{length('along_line', name, 'samples')}</td>"
        f"<td>{length('along_flow', name, 'lines')}</td></tr>"
        for name, label in names.items()
    )
    poor = coverage["poorly_covered_fraction"]
    text = (
        f"<p>Resolution is the coarser of the next two rows, or the kernel's width where the halves agree up to the "
        f"finest period they can show. Measured on {quality['cells']} of the most significant cells; of each "
        f"{len(quality['halves'])} lines, the halves have {quality['halves']}. Lines within the kernel: "
        f"{coverage['kernel_lines']}, largest gap between their phases {coverage['largest_gap_samples']:.3g} samples "
        f"(gaps below {coverage['widest_allowed_gap_samples']:.3g} do not show); "
        f"{'unknown' if poor is None else f'{100 * poor:.1f} %'} of the pixels have a larger gap.</p>"
    )
    image = ""
    if curves is not None:
        image = f'<img alt="correlation curves" src="data:image/png;base64,{base64.b64encode(curves).decode()}">'
    return (
        "<h2>Image quality</h2><table><tr><th></th><th>along the line</th><th>along the flow</th></tr>"
        f"{lines}</table>{text}{image}"
    )


def _classes(record: dict[str, Any], examples: Mapping[str, list[Cell]]) -> str:
    """The part of the page that says how many cells of each class there are, with examples; empty without a model."""
    counts = record["classes"]
    if counts is None:
        return ""
    ordered = sorted(counts, key=lambda name: -counts[name])
    total = max(sum(counts.values()), 1)
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{counts[name]}</td><td>{100 * counts[name] / total:.1f} %</td>"
        f"<td>{_picture_of(examples.get(name, []))}</td></tr>"
        for name in ordered[:_CLASSES_SHOWN]
    )
    left = f"<p>and {len(ordered) - _CLASSES_SHOWN} classes more</p>" if len(ordered) > _CLASSES_SHOWN else ""
    model = record["model"]
    text = (
        f"<p>By {html.escape(model['file'])} (SHA-256 {model['sha256'][:16]}…), which takes "
        f"{100 * model['false_reject_rate']:.3g} % of what it knows for unknown.</p>"
    )
    header = "<tr><th>class</th><th>cells</th><th>share</th><th>the most significant</th></tr>"
    return f"<h2>Classes</h2><table>{header}{lines}</table>{left}{text}"


def _picture_of(cells: list[Cell]) -> str:
    """Some cells side by side."""
    if not cells:
        return ""
    side = choose_crop_px(cells)
    row = np.nan_to_num(np.concatenate([crop_cell(cell, side)[0] for cell in cells], axis=1), nan=1.0)
    content = io.BytesIO()
    Image.fromarray(np.clip(np.rint(row * 150), 0, 255).astype(np.uint8)).save(content, format="png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'


def _page(
    record: dict[str, Any], picture: bytes, curves: bytes | None, rows: Iterable[dict[str, str]], classes: str
) -> str:
    signal, accounting = record["signal"], record["accounting"]
    shown = [row for row, _ in zip(rows, range(_ROWS_SHOWN), strict=False)]
    wanted = _COLUMNS_SHOWN if record["classes"] is None else (*_COLUMNS_SHOWN, *_CLASS_COLUMNS)
    columns = [c for c in (shown[0] if shown else {}) if c in wanted or c.startswith(("area_", "deform"))]
    header = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_short(c, row[c]))}</td>" for c in columns) + "</tr>" for row in shown
    )
    facts = {**{k: v for k, v in signal.items() if k != "warnings"}, **accounting}
    facts |= {f"samples_dropped_{why}": count for why, count in facts.pop("samples_dropped").items()}
    listed = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(_value(v))}</td></tr>" for k, v in facts.items())
    warnings = "".join(f"<p class=warning>{html.escape(w)}</p>" for w in signal["warnings"])
    more = f"<p>The first {_ROWS_SHOWN} rows; the CSV and Parquet files hold all {accounting['cells']}.</p>"
    name = html.escape(record["capture"]["file"])
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<style>
body {{ font: 15px/1.4 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; }} table {{ border-collapse: collapse; }} .warning {{ color: #a40; }}
td, th {{ border: 1px solid #ccc; padding: 0.2rem 0.6rem; text-align: right; font-weight: normal; }}
</style>
<h1>{name}</h1>{warnings}
<img alt="overview" src="data:image/png;base64,{base64.b64encode(picture).decode()}">
<h2>Cells</h2><table><tr>{header}</tr>{body}</table>{more if accounting["cells"] > _ROWS_SHOWN else ""}
{classes}
{_quality(record["quality"], curves)}
<h2>Signal and accounting</h2><table>{listed}</table>
<p>stretchscope {html.escape(record["stretchscope"])}, capture digest {record["capture"]["digest"][:16]}…</p>
</html>
"""


def _short(column: str, text: str) -> str:
    return text if column == "label" or "." not in text else f"{float(text):.5g}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, list):
        return ", ".join(_value(v) for v in value)
    return "unknown" if value is None else str(value)

"""Our features, and our segmentation, against those of an instrument: 982 particles of a FlowCam.

    python benchmarks/flowcam_features.py [FLOWCAM]

FLOWCAM holds `particles.csv`, `images` and `masks`; by default it is looked for below STRETCHSCOPE_DATA, or in
../shared/data beside the checkout. Features are measured on the instrument's own masks, segmentation on its images.
Writes the JSON, and the tables in docs/features.md from it.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import DATA, write_result
from scipy import ndimage

from stretchscope.classify.features import measure_cell
from stretchscope.classify.segment import segment_cell
from stretchscope.data.images import read_grey, transmission_of

UM_PER_PX, SHORTER_PX = 0.5517, 4.5  # the instrument takes 4.5 pixels off a length, but not more than half of it
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "features.md"

Table = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Pair:
    """A quantity of the instrument, and what we have for it.

    theirs : str
        Column of `particles.csv`.
    ours : str
        Our features, as the documentation writes them.
    value : callable
        Ours, made from our features [pixels].
    from_px : callable, optional
        Theirs in pixels.
    whole : bool
        Whether masks of several parts can be compared too.
    """

    theirs: str
    ours: str
    value: Callable[[Table], NDArray[np.float64]]
    from_px: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda values: values
    whole: bool = False


def convex_perimeter(f: Table) -> NDArray[np.float64]:
    return 2 * np.sqrt(np.pi * f["convex_area_px2"]) / f["circularity"]


def rectangle_ratio(f: Table) -> NDArray[np.float64]:
    """Sides of the rectangle of the same area and perimeter; 1 where there is none."""
    half = f["outline_perimeter_px"] / 2
    root = np.sqrt(np.maximum(half**2 - 4 * f["area_px2"], 0))
    return (half + root) / (half - root)


PAIRS = (
    Pair("raw_area", "`area`", lambda f: f["area_px2"], whole=True),
    Pair(
        "abd_diameter", "`equivalent_diameter`", lambda f: f["equivalent_diameter_px"],
        lambda v: v / UM_PER_PX + np.minimum(v / UM_PER_PX, SHORTER_PX), whole=True,
    ),
    Pair("raw_convex_hull_area", "`convex_area`", lambda f: f["convex_area_px2"]),
    Pair("raw_perimeter", "`outline_perimeter`", lambda f: f["outline_perimeter_px"]),
    Pair("raw_convex_perimeter", "2 √(π `convex_area`) / `circularity`", convex_perimeter),
    Pair("raw_legendre_major", "`major_axis`", lambda f: f["major_axis_px"]),
    Pair("raw_legendre_minor", "`minor_axis`", lambda f: f["minor_axis_px"]),
    Pair("raw_feret_max", "`feret_max`", lambda f: f["feret_max_px"]),
    Pair("raw_feret_min", "`feret_min`", lambda f: f["feret_min_px"]),
    Pair(
        "roughness", "`outline_perimeter` / (convex perimeter - 4.5)",
        lambda f: f["outline_perimeter_px"] / (convex_perimeter(f) - SHORTER_PX),
    ),
    Pair(
        "compactness", "`outline_perimeter`² / (4 π `area`)",
        lambda f: f["outline_perimeter_px"] ** 2 / (4 * np.pi * f["area_px2"]),
    ),
    Pair("elongation", "rectangle of that `area` and `outline_perimeter`", rectangle_ratio),
    Pair(
        "circularity_hu", "8 `area` / (π (`major_axis`² + `minor_axis`²))",
        lambda f: 8 * f["area_px2"] / (np.pi * (f["major_axis_px"] ** 2 + f["minor_axis_px"] ** 2)),
    ),
    Pair("raw_perimeter", "`perimeter` (Crofton)", lambda f: f["perimeter_px"]),
)  # fmt: skip


def particles(folder: Path) -> list[dict[str, str]]:
    """Rows of the instrument's table that have a mask."""
    with (folder / "particles.csv").open() as table:
        return [row for row in csv.DictReader(table) if row["label"] != "unidentified"]


def mask_of(folder: Path, row: dict[str, str]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = read_grey(folder / "masks" / row["file"]) > 0
    return mask


def features_of(masks: list[NDArray[np.bool_]]) -> Table:
    """Features of masks [pixels], a column each."""
    cells = [measure_cell(m, np.ones(m.shape, np.float32), np.ones(m.shape, bool), pixel_um=None) for m in masks]
    return {name: np.array([cell[name] for cell in cells]) for name in cells[0]}


def compared(pair: Pair, ours: Table, theirs: Table, use: NDArray[np.bool_]) -> dict[str, Any]:
    """Ratio of ours to theirs, where both are above zero, and how far it is from 1."""
    a, b = pair.value(ours), pair.from_px(theirs[pair.theirs])
    use = use & (a > 0) & (b > 0)
    a, b = a[use], b[use]
    off = np.abs(a / b - 1)
    return {
        "theirs": pair.theirs,
        "ours": pair.ours,
        "n": int(use.sum()),
        "median_ratio": float(np.median(a / b)),
        "off_median": float(np.median(off)),
        "off_95": float(np.percentile(off, 95)),
        "equal_share": float(np.mean(np.abs(a - b) <= np.maximum(1e-4 * b, 2e-4))),
    }


def segmented(folder: Path, row: dict[str, str], mask: NDArray[np.bool_], *, seeded: bool) -> tuple[float, float]:
    """Area of our mask over the instrument's, and area of their intersection over their union; holes filled."""
    image = transmission_of(read_grey(folder / "images" / row["file"]))
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    noise = max(1.4826 * float(np.median(np.abs(border - np.median(border)))), 1e-3)
    ours = segment_cell(image, np.ones(image.shape, bool), noise, seed_mask=mask if seeded else None)
    filled = ndimage.binary_fill_holes(mask)
    return float(ours.sum() / filled.sum()), float((ours & filled).sum() / (ours | filled).sum())


def compare_features(folder: Path) -> list[dict[str, Any]]:
    """Every pair on masks of one part (a cell of ours is one), as they are and with their holes filled."""
    rows = particles(folder)
    masks = [mask_of(folder, row) for row in rows]
    theirs = {name: np.array([float(row[name]) for row in rows]) for name in {pair.theirs for pair in PAIRS}}
    ours, filled = features_of(masks), features_of([ndimage.binary_fill_holes(mask) for mask in masks])
    one = np.array([ndimage.label(mask, np.ones((3, 3)))[1] == 1 for mask in masks])
    results = []
    for pair in PAIRS:
        result = compared(pair, ours, theirs, np.ones_like(one) if pair.whole else one)
        result["filled"] = compared(pair, filled, theirs, np.ones_like(one) if pair.whole else one)
        results.append(result)
    return results


def compare_segmentation(folder: Path) -> list[dict[str, Any]]:
    """Quantiles over the particles of each class, without a seed and with the instrument's mask as one."""
    rows = particles(folder)
    masks = [mask_of(folder, row) for row in rows]
    labels = np.array([row["label"] for row in rows])
    results = []
    for seeded in (False, True):
        found = np.array([segmented(folder, row, m, seeded=seeded) for row, m in zip(rows, masks, strict=True)])
        for label in [*sorted(set(labels)), "all"]:
            some = found[labels == label] if label != "all" else found
            if len(some) >= 10:
                ratio, overlap = np.percentile(some, (10, 50, 90), axis=0).T.tolist()
                missed = int((some[:, 0] == 0).sum())
                results.append(
                    {
                        "class": label,
                        "seeded": seeded,
                        "n": len(some),
                        "area_ratio": ratio,
                        "iou": overlap,
                        "none": missed,
                    }
                )
    return results


def tables(result: dict[str, Any]) -> str:
    """The result as the tables of the documentation."""
    lines = [
        "| the instrument's | ours | n | median ratio | 95 % within | equal | equal, holes filled |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in result["features"]:
        lines.append(
            f"| `{r['theirs']}` | {r['ours']} | {r['n']} | {r['median_ratio']:.4f} | {100 * r['off_95']:.2g} % | "
            f"{100 * r['equal_share']:.0f} % | {100 * r['filled']['equal_share']:.0f} % |"
        )
    lines += [
        "",
        "| class | n | area ratio, 10 / 50 / 90 % | overlap, 10 / 50 / 90 % | seeded: area ratio | seeded: overlap |",
        "|---|---|---|---|---|---|",
    ]
    alone = [r for r in result["segmentation"] if not r["seeded"]]
    seeded = {r["class"]: r for r in result["segmentation"] if r["seeded"]}
    for r in alone:
        cells = [" / ".join(f"{v:.2f}" for v in values) for values in (
            r["area_ratio"], r["iou"], seeded[r["class"]]["area_ratio"], seeded[r["class"]]["iou"]
        )]  # fmt: skip
        lines.append(f"| {r['class'].replace('_', ' ')} | {r['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("flowcam", type=Path, nargs="?", default=DATA / "flowcam")
    folder = parser.parse_args().flowcam
    result = {"features": compare_features(folder), "segmentation": compare_segmentation(folder)}
    write_result("flowcam_features", result)
    text = DOCUMENT.read_text()
    begin, end = "<!-- by benchmarks/flowcam_features.py -->\n", "\n<!-- end -->"
    before, rest = text.split(begin)
    DOCUMENT.write_text(before + begin + tables(result) + end + rest.split(end, 1)[1])
    print(tables(result))


if __name__ == "__main__":
    main()

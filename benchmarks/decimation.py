"""Resolution recovered from fewer samples of the real capture: every D-th sample against an image of the others.

For each D the decimated capture is processed on its own (own line clock, own empty line), and its transmission image is
compared with one made from the samples that were left out, registered with the clock of the full record. Peers in the
same run, from the same samples: each line interpolated by itself, and lines registered and averaged.

    python benchmarks/decimation.py [capture.hdf5]
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import DATA, write_result

from stretchscope.acquisition import open_capture
from stretchscope.sr.calibrate import Span, measure_background
from stretchscope.sr.line_clock import LineClock, measure_segment_clocks
from stretchscope.sr.line_fit import line_fits, line_tables
from stretchscope.sr.reconstruct import Grid, reconstruct

DIVISORS = (1, 2, 4, 5)
# The region and kernel of the comparison, in lines and samples of the full record (not tuned per D).
ROWS = (220.0, 729.0)
TAU = (3.9, 12.8)
SIGMA_SAMPLES, SIGMA_LINES = 0.15, 8.0
ROWS_STEP_LINES, COLUMNS_PER_SAMPLE = 6.875, 8.0


def survey(samples: np.ndarray) -> tuple[Any, Any, Any]:
    background = measure_background([Span(0, samples)])
    tables = line_tables(background)
    (clock,) = measure_segment_clocks(lambda first, stop: samples[first:stop], 0, samples.size, background, tables)
    return background, tables, clock


def compare(samples: np.ndarray, divisor: int, offset: int = 0) -> dict[str, float]:
    """Errors of the decimated capture's image, rms of transmission over the pixels known in both images."""
    full_background, full_tables, full_clock = survey(samples)
    kept = np.ascontiguousarray(samples[offset::divisor])
    background, tables, clock = survey(kept)
    lines = np.arange(int(ROWS[0]) - 40, int(ROWS[1]) + 41)
    full_starts, starts = full_clock.line_start(lines), clock.line_start(lines)
    # where the decimated line begins, on the full record's line
    middle = lines.size // 2
    shift = starts[middle] * divisor + offset - full_starts[middle]
    tau = ((TAU[0] - shift) / divisor, (TAU[1] - shift) / divisor)
    grid = Grid(COLUMNS_PER_SAMPLE * divisor, ROWS_STEP_LINES, SIGMA_SAMPLES / divisor, SIGMA_LINES)
    image = reconstruct(kept, 0, starts, lines[0], background, tables, grid, rows=ROWS, tau=tau)
    # the lines are registered with all samples, the image is made of those that were left out
    left_out = samples.copy()
    if divisor > 1:
        left_out[offset::divisor] = np.iinfo(samples.dtype).max  # beyond the rail: not used
    fits = line_fits(
        samples, 0, full_starts, full_tables,
        gain_std=full_background.gain_std, delay_std=full_background.delay_std_samples,
    )  # fmt: skip
    full_grid = Grid(COLUMNS_PER_SAMPLE, ROWS_STEP_LINES, SIGMA_SAMPLES, SIGMA_LINES)
    reference = reconstruct(
        left_out, 0, full_starts, lines[0], full_background, full_tables, full_grid, rows=ROWS, tau=TAU, fits=fits
    )
    columns = min(image.transmission.shape[1], reference.transmission.shape[1])
    ours, other = image.transmission[:, :columns], reference.transmission[:, :columns]
    known = np.isfinite(ours) & np.isfinite(other)
    peers = per_line(kept, starts, background, tau, image, columns)
    return {
        "rate_gsa_per_s": 5.0 / divisor,
        "period_error_original_samples": LineClock((clock,)).period_samples * divisor - 275.519503,
        "pixel_super_resolution": rms(ours - other, known),
        "per_line_interpolation": rms(peers[0][:, :columns] - other, known),
        "registered_and_averaged": rms(peers[1][:, :columns] - other, known),
        "compared_fraction": float(known.mean()),
    }


def per_line(
    samples: np.ndarray, starts: np.ndarray, background: Any, tau: tuple[float, float], image: Any, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Peers: each line interpolated linearly in itself; the same averaged over the lines of the kernel."""
    places = tau[0] + np.arange(columns) / image.columns_per_sample
    converters = np.arange(samples.size) % len(background.interleave_gain)
    light = (samples - np.array(background.interleave_offset_codes)[converters]) / np.array(background.interleave_gain)[
        converters
    ]
    rows = []
    for start in starts:
        index = np.arange(int(start + tau[0]) - 1, int(start + tau[1]) + 3)
        own = light[index] / np.maximum(background.profile.light(index - start), 0.05 * background.peak())
        rows.append(np.interp(start + places, index, own))
    lines = np.array(rows)
    first = int(ROWS[0]) - 40
    centres = image.first_line + np.arange(image.transmission.shape[0]) * image.lines_per_row
    nearest = lines[np.clip(np.round(centres).astype(int) - first, 0, len(lines) - 1)]
    weights = np.exp(-0.5 * ((centres[:, None] - first - np.arange(len(lines))) / SIGMA_LINES) ** 2)
    return nearest, weights @ lines / weights.sum(axis=1, keepdims=True)


def rms(difference: np.ndarray, known: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference[known] ** 2)))


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "oil_emulsion.hdf5"
    with open_capture(path) as capture:
        samples = capture.read(0, capture.samples)
    rows = [compare(samples, divisor) for divisor in DIVISORS]
    print("GSa/s  pixel-SR  per line  averaged  period error [samples]")
    for row in rows:
        print(
            f"{row['rate_gsa_per_s']:5.2f}  {row['pixel_super_resolution']:8.4f}  {row['per_line_interpolation']:8.4f}"
            f"  {row['registered_and_averaged']:8.4f}  {row['period_error_original_samples']:+.1e}"
        )
    write_result("decimation", {"rows": rows})


if __name__ == "__main__":
    main()

"""Fit single lines with the empty line: baseline, pulse energy and delay of each, on its empty positions."""

from dataclasses import dataclass

import numpy as np

from . import _kernels
from .background import Background


@dataclass(frozen=True)
class LineTables:
    """A :class:`Background` laid out for the kernels: one row per sub-sample phase of the line's first sample."""

    arrays: tuple  # scale, shift, light, slope, weight, dark, gram, reach; see _kernels.fit_line
    limits: tuple[float, float]
    chi2_limit: float
    width: int

    @property
    def phases(self) -> int:
        return self.arrays[2].shape[0] - 1


def line_tables(background: Background) -> LineTables:
    """Tables of light, slope and weight of the empty line over (phase, sample)."""
    profile = background.profile
    width = int(np.floor(profile.period_samples))
    grid = np.arange(profile.knots) * (profile.period_samples / profile.knots) - profile.origin_samples
    slope = profile.slope(grid)
    curvature = np.abs(np.diff(slope)).max() * profile.knots / profile.period_samples
    # half a phase step off, the line may miss its second-order term by a tenth of the noise
    phases = int(2 ** np.ceil(np.log2(np.sqrt(curvature / max(0.8 * background.noise_std_codes, 1e-9)) + 1)))
    phases = int(np.clip(phases, 8, 128))
    tau = np.arange(phases + 1)[:, None] / phases + np.arange(width)
    light = profile.light(tau)
    weight = np.where(background.is_censored(tau), 0.0, 1 / background.variance(tau))
    dark = (tau >= background.lit_samples) & ~background.is_censored(tau)
    slope_rows = profile.slope(tau)
    columns = np.stack([np.ones_like(light), light, slope_rows])
    gram = np.einsum("ipj,pj,kpj->pik", columns, weight, columns)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    n = background.interleave_gain
    converter = np.arange(_kernels.CONVERTERS + width) % len(n)
    scale = 1 / np.array(n)[converter]
    shift = np.array(background.interleave_offset_codes)[converter] * scale
    arrays = tuple(
        np.ascontiguousarray(a, dtype=t)
        for a, t in (
            (scale, np.float32),
            (shift, np.float32),
            (light, np.float32),
            (slope_rows, np.float32),
            (weight, np.float32),
            (dark, np.bool_),
            (gram, np.float64),
        )
    )
    # a cell's faint skirt goes on beyond what is seen to differ; objects are some fraction of the line
    reach = max(2, round(background.lit_samples / 40))
    limit = 1.15 * width + 6 * np.sqrt(2 * width)
    return LineTables(
        (*arrays, reach), (float(background.code_limits[0]), float(background.code_limits[1])), limit, width
    )


def line_fits(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    tables: LineTables,
    *,
    gain_std: float,
    delay_std: float,
) -> np.ndarray:
    """Fit baseline, gain and delay of lines; see :func:`_kernels.fit_lines` for the columns of the result (N, 9)."""
    out = np.empty((starts.size, 9))
    priors = (1 / gain_std**2, 1 / delay_std**2)
    _kernels.fit_lines(samples, origin, starts, tables.arrays, tables.limits, priors, tables.chi2_limit, out)
    return out

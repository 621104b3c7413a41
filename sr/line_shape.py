"""What the shape of an empty line tells: where the line starts, which way the light points, whether it repeats."""

from dataclasses import replace

import numpy as np

from .background import LIT_SHARE, Background


def repeats_within(background: Background) -> int:
    """Whole number of times the found line repeats within itself (1 when the period is the true one)."""
    profile = background.profile
    tau = np.arange(profile.knots) * (profile.period_samples / profile.knots)
    light = profile.light(tau)
    contrast = float(np.var(light))
    for divisor in (6, 5, 4, 3, 2):
        shifted = profile.light(tau + profile.period_samples / divisor)
        if float(np.mean((light - shifted) ** 2)) < 0.02 * contrast and profile.period_samples / divisor > 8:
            return divisor
    return 1


def points_down(background: Background, dark_level_codes: float | None) -> bool:
    """Whether light lowers the code: flat at the top and not at the bottom; or neither, and below the stated level."""
    profile = background.profile
    light = profile.light(np.arange(0.0, profile.period_samples, 1 / 16))
    gaps = _dark_gap(light), _dark_gap(-light)
    if gaps == (None, None) and dark_level_codes is not None:
        offset, gain = background.interleave_offset_codes[0], background.interleave_gain[0]
        return (offset + gain * float(light.mean()) < dark_level_codes) == (gain > 0)
    return gaps[0] is None and gaps[1] is not None


def upside_down(background: Background) -> Background:
    """The same empty line with the sign of light and gains turned round."""
    return replace(
        background,
        profile=replace(background.profile, coefficients=-background.profile.coefficients),
        interleave_gain=tuple(-g for g in background.interleave_gain),
    )


def _dark_gap(light: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Level of the dark floor of a line on a fine grid, and which grid points belong to it; None where there is none.

    A dark gap is flat, a valley between overlapping pulses is curved: the stretch within 1 % of the line's range of
    the floor must be nearly as long as the stretch within 10 %.
    """
    span = float(np.ptp(light))
    ordered = np.sort(light)
    lower = ordered[: max(4, np.searchsorted(ordered, ordered[0] + 0.5 * span))]
    width = max(2, lower.size // 3)
    first = int(np.argmin(lower[width - 1 :] - lower[: lower.size - width + 1]))
    floor = float(np.median(lower[first : first + width]))
    near = np.abs(light - floor) <= 0.012 * span
    around = light <= floor + 0.1 * span
    if near.sum() < max(3, 0.02 * light.size) or near.sum() < 0.4 * around.sum():
        return None
    return floor, near


def place_line_start(background: Background, dark_level_codes: float | None) -> Background:
    """Put τ = 0 at the leading edge of the lit part (at the minimum where all is lit) and dark at zero light."""
    profile = background.profile
    step = 1 / 16
    tau = np.arange(0.0, profile.period_samples, step)
    light = profile.light(tau)
    gap = _dark_gap(light)
    mean_offset = float(np.mean(background.interleave_offset_codes))
    if gap is not None:
        floor = gap[0]
    elif dark_level_codes is not None:
        floor = (dark_level_codes - mean_offset) * np.sign(background.interleave_gain[0])
    else:
        floor = 0.0
    if gap is None:
        begin, length = float(tau[np.argmin(light)]), profile.period_samples
    else:
        visible = light[~background.is_censored(tau)]
        lit = light - floor > LIT_SHARE * (visible.max() - floor)
        # the longest dark run decides where one line ends and the next begins
        turned = np.concatenate([lit, lit])
        edges = np.flatnonzero(np.diff(turned.astype(np.int8)))
        rises = edges[turned[edges + 1]]
        runs = [(rise - max(edges[edges < rise], default=rise), rise) for rise in rises if (edges < rise).any()]
        length_dark, rise = max(runs, key=lambda run: run[0])
        below, above = light[rise % tau.size] - floor, light[(rise + 1) % tau.size] - floor
        level = LIT_SHARE * (visible.max() - floor)
        begin = (rise + (level - below) / (above - below)) % tau.size * step
        length = (tau.size - length_dark) * step
    offsets = tuple(
        o + floor * g for o, g in zip(background.interleave_offset_codes, background.interleave_gain, strict=True)
    )
    known_dark = dark_level_codes is not None or gap is not None
    return replace(
        background,
        profile=replace(
            profile, coefficients=profile.coefficients - floor, origin_samples=profile.origin_samples + begin
        ),
        interleave_offset_codes=offsets,
        lit_samples=float(length),
        dark_level_codes=float(np.mean(offsets)) if known_dark else None,
    )

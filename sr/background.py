"""What an empty line looks like: profile, dark level, noise, and the mismatch of interleaved converters.

Positions τ in samples from the line start, light in codes. How it is measured: calibrate.py.
"""

from dataclasses import dataclass

import numpy as np

from .profile import Profile

# Below this share of the profile's peak the light is too weak to divide by.
LIT_SHARE = 0.08


@dataclass(frozen=True)
class Background:
    """The empty line of a capture.

    profile : Profile
        Light of the empty line above the dark level [codes]; τ = 0 at the leading edge of the lit part.
    dark_level_codes : float or None
        Code without light, mean over the converters; None where the line has no dark gap and nobody stated it.
    lit_samples : float
        Length of the lit part, 0 ≤ τ < lit_samples; the whole period where there is no dark gap.
    censored : ndarray of shape (K,), bool
        Knot intervals of the profile that lie on a rail in empty lines: unknown there.
    noise : tuple of 3 floats
        Variance of a sample = noise[0] + noise[1]·light + noise[2]·slope² [codes²]: thermal, shot, and timing.
    interleave_offset_codes, interleave_gain : tuple of C floats
        Dark code and relative gain of each interleaved converter; sample k belongs to converter k mod C. The gains
        are negative where pulses lower the code.
    code_limits : tuple of 2 ints
        The rails; samples at or beyond them are saturated.
    gain_std, delay_std_samples : float
        Scatter of pulse energy and of line starts from line to line, beyond what noise explains.
    """

    profile: Profile
    dark_level_codes: float | None
    lit_samples: float
    censored: np.ndarray
    noise: tuple[float, float, float]
    interleave_offset_codes: tuple[float, ...]
    interleave_gain: tuple[float, ...]
    code_limits: tuple[int, int]
    gain_std: float
    delay_std_samples: float

    @property
    def period_samples(self) -> float:
        return self.profile.period_samples

    @property
    def noise_std_codes(self) -> float:
        """Noise of a sample without light [codes]."""
        return float(np.sqrt(self.noise[0]))

    def peak(self) -> float:
        """Highest known light of the empty line [codes]."""
        tau = np.arange(0.0, self.period_samples, 1 / 8)
        return float(self.profile.light(tau)[~self.is_censored(tau)].max())

    def is_censored(self, tau: np.ndarray) -> np.ndarray:
        return self.censored[self.profile.cell(tau)]

    def variance(self, tau: np.ndarray) -> np.ndarray:
        """Variance of a sample of an empty line at τ [codes²]."""
        return self.variance_of(*self.profile.light_and_slope(tau))

    def variance_of(self, light: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Variance of a sample of given light [codes] and slope [codes per sample], in codes²."""
        return self.noise[0] + self.noise[1] * np.maximum(light, 0) + self.noise[2] * slope**2

    def usable(self, tau: np.ndarray) -> np.ndarray:
        """Where the transmission can be measured: lit, not censored; bool, the shape of ``tau``."""
        inside = (np.asarray(tau) >= 0) & (np.asarray(tau) < self.lit_samples)
        return inside & ~self.is_censored(tau) & (self.profile.light(tau) >= LIT_SHARE * self.peak())

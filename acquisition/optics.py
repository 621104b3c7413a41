"""Settings of a simulated time-stretch microscope: light, line clock, digitiser.

Before ``simulate``, which turns them into samples. Physical units are in the names; amplitudes are in ADC
codes, times on the line in samples from its start (τ).
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Half of a Gaussian detector's impulse response that is kept, in its standard deviations.
RESPONSE_REACH = 6.0


def _check(settings: object, *, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = ()) -> None:
    """ValueError where a named field is not a finite number above (or, not_negative, at least) zero."""
    for name in (*positive, *not_negative):
        value = getattr(settings, name)
        try:
            sound = math.isfinite(value) and (value > 0 or (value == 0 and name in not_negative))
        except TypeError:
            sound = False
        if not sound:
            wanted = "a finite number above zero" if name in positive else "a finite number, zero or more"
            raise ValueError(f"{name} must be {wanted}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Illumination:
    """Spectrum of the source as it lies on the line: a Gaussian with ripple and smooth ends.

    Attributes
    ----------
    edge : float
        Part of the line over which the light rises at its start and falls at its end, 0 < edge ≤ 0.5.
    spectral_width : float
        Standard deviation of the Gaussian, in lengths of the line; large for a flat top.
    ripple : float
        Relative amplitude of the ripple, 0 ≤ ripple < 1.
    ripple_periods : float
        Ripple periods along the line.
    """

    edge: float = 0.12
    spectral_width: float = 0.6
    ripple: float = 0.06
    ripple_periods: float = 5.3

    def __post_init__(self) -> None:
        _check(self, positive=("edge", "spectral_width"), not_negative=("ripple", "ripple_periods"))
        if self.edge > 0.5 or self.ripple >= 1:
            raise ValueError(f"edge must be 0.5 or less and ripple below 1, got {self.edge} and {self.ripple}")

    def intensity(self, u: ArrayLike) -> NDArray[np.float64]:
        """Light at the fraction u of the line, about 1 at most; zero outside 0 < u < 1."""
        u = np.asarray(u, dtype=float)
        ends = np.clip(np.minimum(u, 1 - u) / self.edge, 0, 1)
        bell = np.exp(-0.5 * ((u - 0.5) / self.spectral_width) ** 2)
        ripple = 1 + self.ripple * np.cos(2 * np.pi * self.ripple_periods * u)
        return np.sin(np.pi / 2 * ends) ** 2 * bell * ripple / (1 + self.ripple)


@dataclass(frozen=True, kw_only=True)
class Optics:
    """Laser, line and flow.

    Attributes
    ----------
    line_rate_hz : float
        Laser pulses, hence lines, per second.
    pulse_duration_s : float
        Duration of a stretched pulse, at most the time between two pulses [s].
    field_of_view_um : float
        Length of the imaged line [µm].
    flow_speed_m_per_s : float
        Speed of the cells across the line.
    illumination : Illumination
        Light along the line.
    pulse_energy_noise : float
        Standard deviation of the pulses' relative energy g, white from line to line.
    """

    line_rate_hz: float = 11.6e6
    pulse_duration_s: float = 45e-9
    field_of_view_um: float = 48.0
    flow_speed_m_per_s: float = 2.0
    illumination: Illumination = Illumination()
    pulse_energy_noise: float = 0.004

    def __post_init__(self) -> None:
        _check(
            self,
            positive=("line_rate_hz", "pulse_duration_s", "field_of_view_um", "flow_speed_m_per_s"),
            not_negative=("pulse_energy_noise",),
        )
        if self.pulse_duration_s * self.line_rate_hz > 1 + 1e-9:
            raise ValueError(
                f"pulses of {self.pulse_duration_s:g} s overlap at {self.line_rate_hz:g} lines per second; "
                f"use at most {1 / self.line_rate_hz:.4g} s"
            )

    @property
    def um_per_line(self) -> float:
        """Way of the flow from one line to the next [µm]."""
        return 1e6 * self.flow_speed_m_per_s / self.line_rate_hz


@dataclass(frozen=True, kw_only=True)
class LineClock:
    """How the laser's lines fall on the digitiser's clock, which is free-running and taken as perfect.

    t_n = t_0 + n·T + drift·(n·T)²/2 + random walk + jitter.

    Attributes
    ----------
    start_s : float, optional
        t_0, when line 0 starts: before the first period is over [s]. None: drawn from the seed.
    frequency_offset : float
        Relative error of the nominal line rate; T = sample rate / (line rate·(1 + offset)).
    drift_per_s : float
        Relative change of the line period per second.
    walk_s_per_root_s : float
        Random walk of the line starts: its standard deviation after one second.
    jitter_s : float
        Standard deviation of each line's own, independent delay [s].
    """

    start_s: float | None = None
    frequency_offset: float = 1.3e-5
    drift_per_s: float = 2e-7
    walk_s_per_root_s: float = 8e-11
    jitter_s: float = 1.5e-12

    def __post_init__(self) -> None:
        _check(self, not_negative=("walk_s_per_root_s", "jitter_s"))
        if not (abs(self.frequency_offset) < 0.01 and abs(self.drift_per_s) < 1):
            raise ValueError(
                "frequency_offset must be below 0.01 and drift_per_s below 1 in size, "
                f"got {self.frequency_offset} and {self.drift_per_s}"
            )

    @classmethod
    def perfect(cls, start_s: float = 0.0) -> "LineClock":
        """A clock without offset, drift, walk or jitter."""
        return cls(start_s=start_s, frequency_offset=0, drift_per_s=0, walk_s_per_root_s=0, jitter_s=0)


@dataclass(frozen=True, kw_only=True)
class Interleave:
    """Mismatch of the C interleaved converters; sample k is made by converter k mod C.

    Attributes
    ----------
    offset_codes, gain, skew_s : tuple of float, each of length C
        Offset from the dark level [codes], gain, and delay of the sampling instant [s].
    """

    offset_codes: tuple[float, ...] = (0.0,)
    gain: tuple[float, ...] = (1.0,)
    skew_s: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        for field in fields(self):
            values = tuple(float(value) for value in getattr(self, field.name))
            object.__setattr__(self, field.name, values)
            if not values or not all(map(math.isfinite, values)):
                raise ValueError(f"{field.name} must hold one finite number per converter, got {values}")
        if not len(self.offset_codes) == len(self.gain) == len(self.skew_s):
            raise ValueError(
                "offset_codes, gain and skew_s must have one entry per converter, got "
                f"{len(self.offset_codes)}, {len(self.gain)} and {len(self.skew_s)}"
            )

    @property
    def converters(self) -> int:
        """Number C of converters."""
        return len(self.gain)


@dataclass(frozen=True, kw_only=True)
class Digitiser:
    """Detector, amplifier and converter.

    Attributes
    ----------
    sample_rate_hz : float
        Samples per second.
    bits : int
        Bits of the converter, 8 to 16.
    signed : bool
        Codes from −2^(bits−1), or from 0.
    bandwidth_hz : float
        −3 dB bandwidth of detector and amplifier: a Gaussian impulse response without delay, whose 10-90 %
        rise time is 0.34 / bandwidth. It acts before sampling: above half the sample rate, detail aliases.
    light_level : float
        Peak of the illumination of an empty line before the detector, as a fraction of the converter's range.
    dark_level : float
        Output without light, as a fraction of the range from its bottom; with AC coupling, its mean among
        empty lines.
    thermal_noise_codes : float
        Standard deviation of the noise without light [codes].
    shot_noise_codes : float
        Standard deviation of the shot noise at the illumination's peak [codes]; it grows as the root of the
        light.
    ac_coupling_hz : float
        −3 dB corner of the first-order high-pass; 0 for a DC-coupled digitiser.
    interleave : Interleave
        Mismatch of the interleaved converters.
    """

    sample_rate_hz: float = 5e9
    bits: int = 8
    signed: bool = True
    bandwidth_hz: float = 3e9
    light_level: float = 0.75
    dark_level: float = 0.1
    thermal_noise_codes: float = 0.5
    shot_noise_codes: float = 0.7
    ac_coupling_hz: float = 2e4
    interleave: Interleave = Interleave()

    def __post_init__(self) -> None:
        _check(
            self,
            positive=("sample_rate_hz", "bandwidth_hz", "light_level"),
            not_negative=("thermal_noise_codes", "shot_noise_codes", "ac_coupling_hz"),
        )
        if self.bits not in range(8, 17):
            raise ValueError(f"bits must be a whole number from 8 to 16, got {self.bits!r}")
        if not math.isfinite(self.dark_level):
            raise ValueError(f"dark_level must be finite, got {self.dark_level}")
        if not 0.02 <= self.bandwidth_hz / self.sample_rate_hz <= 100:
            raise ValueError(
                f"bandwidth_hz must lie between 0.02 and 100 times the sample rate of "
                f"{self.sample_rate_hz:g} Sa/s, got {self.bandwidth_hz:g}"
            )
        if self.ac_coupling_hz > self.sample_rate_hz / 100:
            raise ValueError(
                f"ac_coupling_hz must be at most a hundredth of the sample rate, got {self.ac_coupling_hz:g}"
            )

    @property
    def code_range(self) -> tuple[int, int]:
        """Lowest and highest code."""
        low = -(2 ** (self.bits - 1)) if self.signed else 0
        return low, low + 2**self.bits - 1

    @property
    def dtype(self) -> np.dtype:
        """Smallest integer type that holds the codes."""
        return np.dtype(f"{'i' if self.signed else 'u'}{1 if self.bits == 8 else 2}")

    @property
    def light_codes(self) -> float:
        """``light_level`` in codes."""
        return self.light_level * (2**self.bits - 1)

    @property
    def dark_codes(self) -> float:
        """``dark_level`` as a code."""
        return self.code_range[0] + self.dark_level * (2**self.bits - 1)

    @property
    def response_samples(self) -> float:
        """Standard deviation of the impulse response [samples]; |H| = 1/√2 at the bandwidth."""
        return math.sqrt(math.log(2)) / (2 * math.pi) * self.sample_rate_hz / self.bandwidth_hz


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """The whole microscope, with the numbers that follow from its parts."""

    optics: Optics = Optics()
    clock: LineClock = LineClock()
    digitiser: Digitiser = Digitiser()

    def __post_init__(self) -> None:
        if self.pulse_samples < 4:
            raise ValueError(
                f"a pulse of {self.optics.pulse_duration_s:g} s has {self.pulse_samples:.3g} samples at "
                f"{self.digitiser.sample_rate_hz:g} Sa/s; raise the sample rate until it has 4 or more"
            )
        if self.clock.jitter_s * self.optics.line_rate_hz > 0.01:
            raise ValueError(f"jitter_s must be at most a hundredth of the line period, got {self.clock.jitter_s:g}")
        start = self.clock.start_s
        if start is not None and not 0 <= start * self.digitiser.sample_rate_hz < self.line_period_samples:
            raise ValueError(f"start_s must lie within the first line period, got {start!r}")

    @property
    def line_period_samples(self) -> float:
        """T at the start of the capture [samples]."""
        rate = self.optics.line_rate_hz * (1 + self.clock.frequency_offset)
        return self.digitiser.sample_rate_hz / rate

    @property
    def pulse_samples(self) -> float:
        """Duration of the pulse, from τ = 0 on [samples]."""
        return self.optics.pulse_duration_s * self.digitiser.sample_rate_hz

    @property
    def um_per_sample(self) -> float:
        """Way along the line from one sample to the next [µm]."""
        return self.optics.field_of_view_um / self.pulse_samples

    def illumination_codes(self, tau: ArrayLike) -> NDArray[np.float64]:
        """Empty line before the detector, p(τ) [codes above dark], τ in samples from the line's start."""
        u = np.asarray(tau, dtype=float) / self.pulse_samples
        return self.digitiser.light_codes * self.optics.illumination.intensity(u)

    def profile(self, step: float) -> tuple[float, NDArray[np.float64]]:
        """Empty line after the detector, (p ⊗ h)(τ), on a regular grid.

        Parameters
        ----------
        step : float
            Grid step [samples]; of use up to about half of ``response_samples``.

        Returns
        -------
        first : float
            τ of the first value [samples]; negative, a whole number of steps.
        codes : ndarray of shape (N,), float64
            Codes above the dark level; zero, to 1e-8 of the peak, at both ends.
        """
        sigma = self.digitiser.response_samples / step
        reach = math.ceil(RESPONSE_REACH * sigma)
        length = math.ceil(self.pulse_samples / step)
        illumination = self.illumination_codes(np.arange(-2 * reach, length + 2 * reach + 1) * step)
        response = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        return -reach * step, np.convolve(illumination, response / response.sum(), "valid")

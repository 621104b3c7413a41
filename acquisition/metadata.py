"""What is known about a capture besides its samples: instrument, clock, gaps.

The first step of every other module here. Amplitudes in ADC codes, positions in samples.
"""

import math
from dataclasses import dataclass, fields
from datetime import datetime
from numbers import Integral, Real

import numpy as np

SAMPLE_DTYPES = (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.uint16))

# Bounds that no instrument leaves: they catch a wrong unit or a damaged file, and judge no experiment.
_PLAUSIBLE = {
    "sample_rate_hz": (1e3, 1e12, "Hz"),
    "nominal_line_period_samples": (2.0, 1e9, "samples"),
    "flow_speed_m_per_s": (1e-6, 1e3, "m/s"),
    "field_of_view_um": (1e-2, 1e6, "µm"),
    "pulse_duration_s": (1e-12, 1.0, "s"),
    "lines_per_sample": (1e-6, 1e6, "lines"),
    "dark_level_codes": (-65536.0, 65536.0, "codes"),
}


class CaptureError(ValueError):
    """A capture that cannot be read or written; the message says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A gap-free stretch of a capture.

    Attributes
    ----------
    first_sample : int
        Position of its first sample in the capture's samples.
    samples : int
        Number of samples.
    device_index : int
        Index of its first sample on the digitiser's own sample clock, which runs on through gaps: that
        sample was taken at ``device_index / sample_rate_hz`` seconds.
    """

    first_sample: int
    samples: int
    device_index: int


@dataclass(frozen=True, kw_only=True)
class CaptureMetadata:
    """What a capture says about itself. Only the sample rate is required; None means not stated.

    Attributes
    ----------
    sample_rate_hz : float
        Rate of the digitiser [samples/s], 1e3 to 1e12.
    bits : int, optional
        Bits of the converter, right-justified in the samples; sets where the rails are.
    nominal_line_period_samples : float, optional
        Line period as set or noted by the operator [samples]; a starting guess, never trusted.
    flow_speed_m_per_s, field_of_view_um, pulse_duration_s : float, optional
        Flow speed [m/s], length of the imaged line [µm], duration of the stretched pulse [s].
    lines_per_sample : float, optional
        How many line pitches along the flow equal one sample's width along the line.
    dark_level_codes : float, optional
        ADC output without light [codes]; needed where the whole line period is lit.
    instrument, sample : str, optional
        Names of the instrument and of the specimen.
    start_time : str, optional
        When the sample of device index 0 was taken, ISO 8601.

    Raises
    ------
    CaptureError
        If a value has the wrong type, is not finite or lies outside what any instrument does.
    """

    sample_rate_hz: float
    bits: int | None = None
    nominal_line_period_samples: float | None = None
    flow_speed_m_per_s: float | None = None
    field_of_view_um: float | None = None
    pulse_duration_s: float | None = None
    lines_per_sample: float | None = None
    dark_level_codes: float | None = None
    instrument: str | None = None
    start_time: str | None = None
    sample: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name != "sample_rate_hz":
                continue
            if field.name in _PLAUSIBLE:
                value = _plausible_number(field.name, value)
            elif field.name == "bits":
                value = _plausible_bits(value)
            elif not isinstance(value, str):
                raise CaptureError(f"{field.name} must be text, got {value!r}")
            object.__setattr__(self, field.name, value)
        if self.start_time is not None:
            try:
                datetime.fromisoformat(self.start_time)
            except ValueError:
                raise CaptureError(
                    f"start_time must be ISO 8601, such as 2024-05-31T14:02:11Z, got {self.start_time!r}"
                ) from None


def _plausible_number(name: str, value: object) -> float:
    low, high, unit = _PLAUSIBLE[name]
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise CaptureError(f"{name} must be a number [{unit}], got {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise CaptureError(f"{name} must be finite, got {number}")
    if not low <= number <= high:
        raise CaptureError(f"{name} must lie between {low:g} and {high:g} {unit}, got {number:g}")
    return number


def _plausible_bits(value: object) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        raise CaptureError(f"bits must be a whole number, got {value!r}")
    if not 1 <= int(value) <= 16:
        raise CaptureError(f"bits must lie between 1 and 16, got {value}")
    return int(value)


def sample_dtype(dtype: object) -> np.dtype:
    """Native-endian dtype of samples; CaptureError unless it is an integer of 8 or 16 bits."""
    try:
        native = np.dtype(dtype).newbyteorder("=")  # type: ignore[call-overload]
    except TypeError:
        raise CaptureError(f"samples must be int8, uint8, int16 or uint16, got {dtype!r}") from None
    if native not in SAMPLE_DTYPES:
        raise CaptureError(f"samples must be int8, uint8, int16 or uint16, got {native}")
    return native

"""Settings of a run: one frozen tree, read from TOML, every field with its unit in its name.

Settings define the result; what does not (worker count, progress, where to write) is not here.
"""

import difflib
import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from ..sr.methods import METHODS


class SettingsError(ValueError):
    """A setting that is unknown, of the wrong type or out of range; the message says which and what is allowed."""


@dataclass(frozen=True)
class CaptureSettings:
    """What is known about the instrument beyond the file; each value given replaces the file's.

    Attributes
    ----------
    sample_rate_hz, flow_speed_m_per_s, field_of_view_um, pulse_duration_s, dark_level_codes
        As in the capture's metadata.
    detector_bandwidth_hz : float, optional
        −3 dB bandwidth of detector and digitiser together, a Gaussian response; the regularised method takes its blur
        out as far as the noise allows.
    um_per_sample, um_per_line : float, optional
        Size on the specimen of one sample along the line and of one line along the flow [µm], as ``calibrate``
        measures them; they go before flow speed and field of view.
    """

    sample_rate_hz: float | None = None
    flow_speed_m_per_s: float | None = None
    field_of_view_um: float | None = None
    pulse_duration_s: float | None = None
    dark_level_codes: float | None = None
    detector_bandwidth_hz: float | None = None
    um_per_sample: float | None = None
    um_per_line: float | None = None


@dataclass(frozen=True)
class ImageSettings:
    """How images are made.

    Attributes
    ----------
    method : str, optional
        How samples become pixels, a name in ``sr.methods.METHODS``. By default "regularised", the sharpest, where a
        capture is processed, and "gridding", the fastest, in a live stream.
    oversampling : int, optional
        Pixels per sample along the line; chosen from the capture when not given.
    crop_px : int, optional
        Side of the square crops in the .rtdc file [pixels]; by default it holds the first cells with some room.
    """

    method: str | None = None
    oversampling: int | None = None
    crop_px: int | None = None


@dataclass(frozen=True)
class CellSettings:
    """What counts as a cell.

    Attributes
    ----------
    min_significance : float
        Deviation from the empty line that starts an event [standard deviations of the noise].
    min_deviation : float
        Least deviation of a cell's pixel from transmission 1.
    min_area_px : int
        Parts with fewer pixels are specks.
    """

    min_significance: float = 7.0
    min_deviation: float = 0.03
    min_area_px: int = 12


@dataclass(frozen=True)
class Settings:
    """All settings of a run, one table each in the TOML file: ``[capture]``, ``[image]``, ``[cells]``."""

    capture: CaptureSettings = field(default_factory=CaptureSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    cells: CellSettings = field(default_factory=CellSettings)

    def with_capture(self, **values: float | None) -> "Settings":
        """The same settings with the given capture values that are not None."""
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, capture=_table(CaptureSettings, asdict(self.capture) | given, "[capture]"))

    def with_method(self, usual: str) -> "Settings":
        """The same settings with a method for images, ``usual`` where none is given."""
        return replace(self, image=replace(self.image, method=self.image.method or usual))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        return asdict(self)


_CHOICES = {"method": tuple(METHODS)}
_RANGES = {
    "sample_rate_hz": (1e3, 1e12),
    "flow_speed_m_per_s": (1e-6, 1e3),
    "field_of_view_um": (1e-2, 1e6),
    "pulse_duration_s": (1e-12, 1.0),
    "dark_level_codes": (-65536.0, 65536.0),
    "detector_bandwidth_hz": (1e3, 1e12),
    "um_per_sample": (1e-6, 1e6),
    "um_per_line": (1e-6, 1e6),
    "oversampling": (1, 32),
    "crop_px": (16, 1024),
    "min_significance": (5.0, 1e6),
    "min_deviation": (1e-4, 1.0),
    "min_area_px": (1, 100_000),
}


def read_settings(path: Path) -> Settings:
    """Settings from a TOML file; what it does not name keeps its default.

    Raises
    ------
    SettingsError
        If the file cannot be read, or a table or key is unknown (the nearest known one is named), of the wrong
        type or out of range.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML file: {error}") from error
    tables = {f.name: f.default_factory for f in fields(Settings)}
    for name in document:
        _known(name, list(tables), f"{path}: table [{name}]")
        if not isinstance(document[name], dict):
            raise SettingsError(f"{path}: '{name}' must be a table: write [{name}] and its keys below")
    return Settings(
        **{name: _table(type_, document.get(name, {}), f"{path}: [{name}]") for name, type_ in tables.items()}  # type: ignore[arg-type]
    )


def _known(name: str, known: list[str], where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise SettingsError(f"{where} is unknown; the nearest known one is '{near[0]}' (known: {', '.join(known)})")


def _table(type_: type, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(type_)
    checked = {}
    for name, value in values.items():
        _known(name, list(hints), f"{where}: key '{name}'")
        if value is None:
            continue
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise SettingsError(f"{where}: {name} must be one of {', '.join(_CHOICES[name])}, got {value!r}")
            checked[name] = value
            continue
        whole = int in (hints[name], *getattr(hints[name], "__args__", ()))
        low, high = _RANGES[name]
        kind = "a whole number" if whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not math.isfinite(value):
            raise SettingsError(f"{where}: {name} must be {kind}, got {value!r}")
        if not low <= value <= high:
            raise SettingsError(f"{where}: {name} must lie between {low:g} and {high:g}, got {value:g}")
        checked[name] = value if whole else float(value)
    return type_(**checked)

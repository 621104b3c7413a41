"""Layouts of capture files: how each is recognised, and what it says about its samples.

Between the file and ``open_capture``. A new layout is one function and one row of ``DIALECTS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import h5py
import numpy as np

from .hdf5_safety import has_link, link_names, plain_dataset, read_flag, read_number, read_text, stored_length
from .metadata import CaptureError, CaptureMetadata
from .writer import FORMAT_NAME, FORMAT_VERSION, SEGMENT_DTYPE

_PROXIMAL_SAMPLE_RATE_HZ = 5e9
_TEXT_FIELDS = ("instrument", "start_time", "sample")


@dataclass(frozen=True)
class Layout:
    """What a dialect finds in a file.

    Attributes
    ----------
    dataset : str
        Name of the samples, in the root group.
    metadata : CaptureMetadata
        As far as the layout states it.
    segments : ndarray of shape (G,), fields first_sample and device_index, or None
        Where gaps are; None for one stretch. Not yet checked.
    complete : bool
        Whether the writer said that it finished, or says nothing about it.
    warnings : tuple of str
        What the user should know, in words that stand alone.
    """

    dataset: str
    metadata: CaptureMetadata
    segments: np.ndarray | None = None
    complete: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dialect:
    """A layout of files: its name, what to look for, and how to read it.

    ``read(file, sample_rate_hz)`` takes the caller's sample rate, which goes before the file's, or None.
    """

    name: str
    description: str
    recognise: Callable[[h5py.File], bool]
    read: Callable[[h5py.File, float | None], Layout]


def find_dialect(file: h5py.File) -> Dialect:
    """The first dialect that recognises the file; CaptureError, with what was found, if none does."""
    for dialect in DIALECTS:
        if dialect.recognise(file):
            return dialect
    found = ", ".join(link_names(file)) or "nothing"
    known = "; ".join(f"{dialect.name}: {dialect.description}" for dialect in DIALECTS)
    raise CaptureError(f"{file.filename}: no known layout; its root holds {found}. Known layouts are {known}")


def _is_stretchscope(file: h5py.File) -> bool:
    return h5py.h5a.exists(file.id, b"format") and read_text(file, "format") == FORMAT_NAME


def _read_stretchscope(file: h5py.File, sample_rate_hz: float | None) -> Layout:
    version = read_number(file, "format_version")
    if version != FORMAT_VERSION:
        raise CaptureError(
            f"{file.filename}: attribute 'format_version' is {version}, only {FORMAT_VERSION} is known here; "
            "a newer stretchscope may read it"
        )
    stated = {
        field.name: (read_text if field.name in _TEXT_FIELDS else read_number)(file, field.name)
        for field in fields(CaptureMetadata)
    }
    metadata, warnings = _metadata(file, stated, sample_rate_hz)
    segments = _read_segments(file) if has_link(file, "segments") else None
    return Layout("samples", metadata, segments, read_flag(file, "complete") is not False, warnings)


def _read_segments(file: h5py.File) -> np.ndarray | None:
    table = plain_dataset(file, "segments")
    where = f"{file.filename}: dataset 'segments'"
    names = table.dtype.names or ()
    if any(name not in names or table.dtype[name].kind not in "iu" for name in SEGMENT_DTYPE.names or ()):
        raise CaptureError(f"{where} must have the integer fields first_sample and device_index, got {table.dtype}")
    if stored_length(table) < len(table):
        raise CaptureError(f"{where} declares {len(table)} rows but does not hold them; the file is damaged")
    rows = table.fields(SEGMENT_DTYPE.names)[:]
    if rows.size == 0:
        return None
    segments = np.empty(rows.size, dtype=SEGMENT_DTYPE)
    for name in SEGMENT_DTYPE.names or ():
        if rows[name].max() > np.iinfo(np.int64).max // 2:
            raise CaptureError(f"{where} has an absurdly large {name}, {rows[name].max()}")
        segments[name] = rows[name]
    return segments


def _is_proximal(file: h5py.File) -> bool:
    return has_link(file, "raw")


def _read_proximal(file: h5py.File, sample_rate_hz: float | None) -> Layout:
    """ProxImaL's example capture. ``shear_factor`` is left alone: the line clock is measured."""
    stated = {
        name: read_number(file, name)
        for name in ("sample_rate_hz", "sample_rate", "pulse_interval", "horizontal_scaling_factor")
    }
    rate_name = "sample_rate" if stated["sample_rate_hz"] is None else "sample_rate_hz"
    assumed: tuple[str, ...] = ()
    if stated[rate_name] is None and sample_rate_hz is None:
        stated[rate_name] = _PROXIMAL_SAMPLE_RATE_HZ
        assumed = (
            f"the file states no sample rate; {_PROXIMAL_SAMPLE_RATE_HZ:g} samples/s is assumed, as "
            "published for this layout; give another with --sample-rate",
        )
    sources = {
        "sample_rate_hz": rate_name,
        "nominal_line_period_samples": "pulse_interval",
        "lines_per_sample": "horizontal_scaling_factor",
    }
    metadata, warnings = _metadata(file, stated, sample_rate_hz, sources)
    return Layout("raw", metadata, warnings=assumed + warnings)


def _metadata(
    file: h5py.File,
    stated: Mapping[str, float | str | None],
    sample_rate_hz: float | None,
    sources: Mapping[str, str] | None = None,
) -> tuple[CaptureMetadata, tuple[str, ...]]:
    """Metadata of the attributes ``stated``; the caller's sample rate goes before theirs, with a warning.

    ``sources`` names the attribute each field comes from; None where attributes are named as the fields.
    """
    sources = sources or {name: name for name in stated}
    values = {field: stated[name] for field, name in sources.items()}
    stated_rate = values["sample_rate_hz"]
    if sample_rate_hz is not None:
        values["sample_rate_hz"] = sample_rate_hz
    if values["sample_rate_hz"] is None:
        raise CaptureError(f"{file.filename}: attribute 'sample_rate_hz' is missing; give it with --sample-rate")
    try:
        metadata = CaptureMetadata(**values)  # type: ignore[arg-type]
    except CaptureError as error:
        field, _, fault = str(error).partition(" ")
        if field == "sample_rate_hz" and sample_rate_hz is not None:
            raise CaptureError(f"the sample rate asked for {fault}") from error
        raise CaptureError(f"{file.filename}: attribute '{sources[field]}' {fault}") from error
    if sample_rate_hz is None or stated_rate is None or stated_rate == sample_rate_hz:
        return metadata, ()
    return metadata, (f"the file states {stated_rate:g} samples/s; {sample_rate_hz:g} is used, as asked",)


DIALECTS = (
    Dialect(
        "stretchscope-1",
        "attribute 'format' = 'stretchscope' and dataset 'samples' (docs/capture-format.md)",
        _is_stretchscope,
        _read_stretchscope,
    ),
    Dialect(
        "proximal",
        "dataset 'raw' (1-D integers), with attribute 'pulse_interval' or without",
        _is_proximal,
        _read_proximal,
    ),
)

"""Samples in: capture files of any known layout, raw dumps, and simulated captures."""

from .capture import Capture, open_capture
from .metadata import CaptureError, CaptureMetadata, Segment
from .raw import RAW_ENCODINGS, convert_raw
from .writer import CaptureWriter

__all__ = [
    "RAW_ENCODINGS",
    "Capture",
    "CaptureError",
    "CaptureMetadata",
    "CaptureWriter",
    "Segment",
    "convert_raw",
    "open_capture",
]

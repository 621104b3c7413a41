"""Samples in: capture files of any known layout, raw dumps, simulated captures, and live sources."""

from .capture import Capture, open_capture
from .metadata import CaptureError, CaptureMetadata, Segment
from .raw import RAW_ENCODINGS, convert_raw
from .source import Block, EndOfStream, LoopSource, ReplaySource, Source, SourceError
from .writer import CaptureWriter

__all__ = [
    "RAW_ENCODINGS",
    "Block",
    "Capture",
    "CaptureError",
    "CaptureMetadata",
    "CaptureWriter",
    "EndOfStream",
    "LoopSource",
    "ReplaySource",
    "Segment",
    "Source",
    "SourceError",
    "convert_raw",
    "open_capture",
]

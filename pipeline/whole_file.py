"""Small files that are written at once or not at all."""

import os
from pathlib import Path

from .results import OutputError


def check_new(path: Path, *, overwrite: bool) -> None:
    """OutputError where a file cannot be made: it exists, or its folder does not."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: give --overwrite to replace it")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent}: no such folder")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once, or not at all; OutputError where that fails."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error

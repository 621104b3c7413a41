"""Raw bins of the Imaging FlowCytobot: `.adc`, `.hdr` and `.roi` of one sample.

Under `collections`. The `.adc` has a line for each trigger, or for each picture where a trigger gave several; the
`.roi` has the grey levels of all pictures, one after another. The size of a pixel is not in the files.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .images import MOST_IMAGE_PIXELS, CollectionError, transmission_of

IFCB_SUFFIXES = frozenset({".adc", ".hdr", ".roi"})

_MOST_TEXT_BYTES = 1 << 28
# Columns of trigger, width, height and first byte, counted from 0, and what the byte counts from, by the number of
# columns: the older instruments write 14 or 15, the newer ones 24.
_OLD_COLUMNS, _NEW_COLUMNS = (0, 11, 12, 13), (0, 15, 16, 17)
_NEW_LEAST_COLUMNS = 18
_NAMES = ("trigger", "roiwidth", "roiheight", "startbyte")


@dataclass(frozen=True)
class IfcbBin:
    """The pictures of a bin.

    Attributes
    ----------
    path : Path
        Its `.roi` file.
    numbers : tuple of int
        Number of each picture: the line of the `.adc`, from 1.
    triggers : tuple of int
        Number of each one's trigger. Pictures of one trigger are parts of one camera frame.
    shapes : tuple of (int, int)
        Rows and columns.
    offsets : tuple of int
        First byte, from 0.
    """

    path: Path
    numbers: tuple[int, ...]
    triggers: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    offsets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int) -> NDArray[np.float32]:
        rows, columns = self.shapes[index]
        grey = np.frombuffer(self.content(index), dtype=np.uint8).reshape(rows, columns)
        try:
            return transmission_of(grey.astype(np.float32))
        except CollectionError as error:
            raise CollectionError(f"{self.path}, picture {self.numbers[index]}: {error}") from error

    def mask(self, index: int) -> None:
        return None

    def content(self, index: int) -> bytes:
        rows, columns = self.shapes[index]
        try:
            with self.path.open("rb") as file:
                file.seek(self.offsets[index])
                pixels = file.read(rows * columns)
        except OSError as error:
            raise CollectionError(f"{self.path}: cannot be read: {error.strerror}") from error
        if len(pixels) < rows * columns:
            raise CollectionError(f"{self.path}: ends before picture {self.numbers[index]} does; copy it again")
        return pixels

    def cell(self, index: int) -> str:
        return f"{self.path.stem} trigger {self.triggers[index]}"


def open_ifcb(path: Path) -> IfcbBin:
    """Open a bin by any of its three files; no picture is read.

    Raises
    ------
    CollectionError
        If one of `.adc` and `.roi` is missing or cannot be read, a line is not as it should be, a picture is larger
        than 2^24 pixels, or the `.roi` is shorter than the `.adc` says.
    """
    adc, roi, hdr = (path.with_suffix(suffix) for suffix in (".adc", ".roi", ".hdr"))
    for file in (adc, roi):
        if not file.is_file():
            raise CollectionError(f"{file}: is missing; a bin has an .adc and a .roi beside each other")
    stated = _stated_columns(hdr)
    stored = roi.stat().st_size
    numbers, triggers, shapes, offsets = [], [], [], []
    for number, line in enumerate(_text(adc).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{adc}, line {number}"
        fields = line.split(",")
        newer = len(fields) >= _NEW_LEAST_COLUMNS
        trigger, width, height, offset = _integers(fields, stated or (_NEW_COLUMNS if newer else _OLD_COLUMNS), where)
        if width == 0 or height == 0:
            continue  # the trigger has no picture
        offset -= not newer  # the older instruments count bytes from 1
        if width < 0 or height < 0 or offset < 0:
            raise CollectionError(f"{where}: a picture of {width} x {height} pixels from byte {offset} cannot be")
        if width * height > MOST_IMAGE_PIXELS:
            raise CollectionError(f"{where}: {width} x {height} pixels are more than the {MOST_IMAGE_PIXELS} allowed")
        if offset + width * height > stored:
            raise CollectionError(
                f"{roi}: has {stored} bytes, but its picture {number} of {width} x {height} pixels ends at byte "
                f"{offset + width * height} by {adc.name}; copy it again"
            )
        numbers.append(number)
        triggers.append(trigger)
        shapes.append((height, width))
        offsets.append(offset)
    return IfcbBin(roi, tuple(numbers), tuple(triggers), tuple(shapes), tuple(offsets))


def _stated_columns(hdr: Path) -> tuple[int, ...] | None:
    """Columns by the header of newer instruments; None where it names none."""
    if not hdr.is_file():
        return None
    found = re.search(r"^ADCFileFormat:(.*)$", _text(hdr), flags=re.MULTILINE)
    if found is None:
        return None
    names = [re.sub(r"[^a-z]", "", name.lower()) for name in found[1].split(",")]
    missing = [name for name in _NAMES if name not in names]
    if missing:
        raise CollectionError(f"{hdr}: ADCFileFormat names no column {missing[0]}")
    return tuple(names.index(name) for name in _NAMES)


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _MOST_TEXT_BYTES:
            raise CollectionError(f"{path}: {size} bytes are more than the {_MOST_TEXT_BYTES} allowed")
        return path.read_text(encoding="latin-1")
    except OSError as error:
        raise CollectionError(f"{path}: cannot be read: {error.strerror}") from error


def _integers(fields: list[str], columns: tuple[int, ...], where: str) -> list[int]:
    if len(fields) <= max(columns):
        raise CollectionError(f"{where}: has {len(fields)} columns, must have {max(columns) + 1} or more")
    values = []
    for column in columns:
        try:
            value = float(fields[column])
        except ValueError:
            value = float("nan")
        if not value.is_integer():
            raise CollectionError(f"{where}: column {column + 1} must be a whole number, is {fields[column][:40]!r}")
        values.append(int(value))
    return values

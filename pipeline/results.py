"""The files of one capture's results: written batch by batch under ``.part`` names, resumable, renamed when complete.

The CSV is the record: rows are appended and flushed, and the Parquet file is made from it at the end, so the two
cannot differ. A checkpoint says how far each file is good; what a killed run wrote beyond it is cut off.
"""

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from .. import __version__
from ..acquisition import CaptureMetadata
from ..classify import FEATURES
from ..sr.reconstruct import Grid
from .crops import grey_crops, images_of
from .labels import CellModel, score_columns
from .measure import Cell, Setup
from .rtdc import RtdcMetadata, RtdcWriter

SUFFIXES = (".rtdc", ".parquet", ".csv", ".png", ".html", ".run.json")
IMAGE_SUFFIXES = (".image.h5", ".image.ome.tif")
_ALL = (*SUFFIXES, *IMAGE_SUFFIXES)
_CHECKPOINT = ".checkpoint.part"
_INTEGERS = (
    "line_first",
    "line_last",
    "sample_first",
    "sample_last",
    "saturated_samples",
    "crop_cut",
    "touches_border",
    "ml_class",
)


class OutputError(ValueError):
    """Results that cannot be written where they should; the message says where and what to do."""


def rtdc_metadata(
    setup: Setup,
    grid: Grid,
    known: CaptureMetadata,
    *,
    line_rate_hz: float,
    sample: str,
    run_identifier: str,
    start: datetime | None,
    model: CellModel | None = None,
) -> RtdcMetadata:
    """What the .rtdc files of a run say of it; ``sample`` is used where the instrument's metadata name none."""
    settings = setup.settings.capture
    return RtdcMetadata(
        sample=known.sample or sample,
        run_identifier=run_identifier,
        software_version=f"stretchscope {__version__}",
        line_rate_hz=line_rate_hz,
        sample_rate_hz=setup.sample_rate_hz,
        start=start,
        pixel_um=setup.pixel_um(grid),
        field_of_view_um=settings.field_of_view_um or known.field_of_view_um,
        flow_speed_m_s=settings.flow_speed_m_per_s or known.flow_speed_m_per_s,
        instrument=known.instrument,
        model=None if model is None else model.name,
        model_sha256=None if model is None else model.sha256,
        classes={} if model is None else model.classes,
    )


def columns_of(*, calibrated: bool, position_um: bool, model: CellModel | None = None) -> tuple[str, ...]:
    """Columns of the table, in order; the last ones are those that a model fills."""
    return (
        "line_first",
        "line_last",
        "sample_first",
        "sample_last",
        "time_s",
        "line_centre",
        "position_samples",
        *(("position_um",) if position_um else ()),
        "significance",
        *(f.column(calibrated) for f in FEATURES),
        "saturated_samples",
        "crop_cut",
        "label",
        "probability",
        *score_columns(model),
    )


def table_schema(columns: tuple[str, ...]) -> pa.Schema:
    """Types of the columns in the Parquet file."""
    types = {name: pa.int64() if name in _INTEGERS else pa.float64() for name in columns}
    return pa.schema(list((types | {"label": pa.string()}).items()))


@dataclass
class Progress:
    """How far a run is: the checkpoint.

    recipe : str
        Fingerprint of capture, settings and version; a checkpoint of another recipe is not gone on with.
    stretch : int
        Next stretch to look at.
    cells, csv_bytes : int
        Good rows of the .rtdc file, and good length of the CSV file.
    counts : dict
        Accounting so far.
    kernel : list of 2 floats
        Kernel size, once chosen.
    crop_px : int
        Side of the crops, once chosen [pixels].
    labels : dict
        Cells of each class so far.
    recent : list of lists of 4 floats
        Boxes of the last cells, to tell one found twice.
    candidates : list of lists of 6 numbers
        Cells to measure quality on: blemished, insignificance, and box.
    carry_line : int
        First line of ``carry``.
    carry : ndarray of shape (rows, columns), float32
        End of the significance map that was not used up.
    """

    recipe: str
    stretch: int
    cells: int
    csv_bytes: int
    counts: dict[str, int]
    kernel: list[float]
    crop_px: int
    labels: dict[str, int]
    recent: list[list[float]]
    candidates: list[list[float]]
    carry_line: int
    carry: np.ndarray


@dataclass(frozen=True)
class _Growing:
    """The files that grow with every batch."""

    metadata: RtdcMetadata
    crop_px: int
    rtdc: RtdcWriter
    csv: io.BufferedRandom


class ResultFiles:
    """Results of one capture in a folder, under the capture's stem.

    Parameters
    ----------
    folder : Path
        Where to write; it exists.
    stem : str
        Name without suffix.
    columns : tuple of str
        Columns of the table.
    model : CellModel, optional
        What tells the cells' classes.
    """

    def __init__(self, folder: Path, stem: str, columns: tuple[str, ...], model: CellModel | None = None) -> None:
        self.folder, self.stem, self.columns, self.model = folder, stem, columns, model
        self._growing: _Growing | None = None

    def _opened(self) -> "_Growing":
        if self._growing is None:
            raise RuntimeError("start or resume the files first")
        return self._growing

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}{suffix}"

    def part(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}{suffix}.part"

    def existing(self) -> list[Path]:
        """Files of an earlier run, finished or not."""
        names = [self.path(s) for s in _ALL] + [self.part(s) for s in _ALL] + [self.path(_CHECKPOINT)]
        return [path for path in names if path.exists()]

    def complete(self, *, full_image: bool) -> bool:
        """Whether a finished run's files are all there."""
        return all(self.path(s).exists() for s in (_ALL if full_image else SUFFIXES))

    def start(self, metadata: RtdcMetadata, crop_px: int) -> None:
        """Open the files for a new run."""
        rtdc = RtdcWriter(self.path(".rtdc"), metadata, (crop_px, crop_px))
        self._growing = _Growing(metadata, crop_px, rtdc, self.part(".csv").open("w+b"))
        self._growing.csv.write((",".join(self.columns) + "\n").encode())

    def resume(self, metadata: RtdcMetadata, progress: Progress) -> bool:
        """Open the files of a broken run and cut them to its checkpoint; False if they cannot be gone on with."""
        path = self.part(".csv")
        if not path.exists() or path.stat().st_size < progress.csv_bytes:
            return False
        try:
            rtdc = RtdcWriter.resume(self.path(".rtdc"), progress.cells)
        except (OSError, ValueError):
            return False
        self._growing = _Growing(metadata, progress.crop_px, rtdc, path.open("r+b"))
        self._growing.csv.truncate(progress.csv_bytes)
        self._growing.csv.seek(0, os.SEEK_END)
        return True

    def append(self, cells: list[Cell]) -> list[Cell]:
        """Write a batch of cells to all growing files; gives them with all that was written, the class among it."""
        if not cells:
            return []
        growing = self._opened()
        known = growing.metadata
        crops, masks, cut = grey_crops(
            images_of(cells), growing.crop_px, known.transmission_at_0, known.transmission_at_255
        )
        table = {name: np.array([cell.row[name] for cell in cells]) for name in cells[0].row}
        table["crop_cut"] = cut.astype(np.int64)
        if self.model is not None:
            table |= self.model.columns(crops, masks, table, pixel_um=known.pixel_um)
        else:
            table["label"] = table["probability"] = np.full(len(cells), "", object)
        rows = [
            dict(zip(table, values, strict=True)) for values in zip(*(v.tolist() for v in table.values()), strict=True)
        ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            writer.writerow([_text(row[name], name in _INTEGERS) for name in self.columns])
        growing.csv.write(text.getvalue().encode())
        growing.rtdc.append(crops, masks, table)
        return [replace(cell, row=row) for cell, row in zip(cells, rows, strict=True)]

    def position(self) -> tuple[int, int]:
        """Cells and CSV bytes written, flushed."""
        growing = self._opened()
        growing.csv.flush()
        return growing.rtdc.events, growing.csv.tell()

    def checkpoint(self, progress: Progress) -> None:
        """Record how far the files are good; atomic."""
        state = {name: value for name, value in vars(progress).items() if name != "carry"}
        temporary = self.folder / f"{self.stem}{_CHECKPOINT}.new"
        with temporary.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(state)), carry=progress.carry)
        os.replace(temporary, self.path(_CHECKPOINT))

    def read_checkpoint(self) -> Progress | None:
        """The checkpoint of a broken run; None where there is none, or none that can be read."""
        try:
            with np.load(self.path(_CHECKPOINT)) as arrays:
                return Progress(**json.loads(str(arrays["state"])), carry=arrays["carry"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def finish(self, documents: dict[str, bytes], record: dict[str, Any], *, full_image: bool) -> None:
        """Make the Parquet file, write the documents and the run record, and give all files their names.

        The run record is the last to appear: where it stands, the run is complete. An image that this run did not make
        is removed: it would be that of other settings.
        """
        growing = self._opened()
        growing.csv.close()
        self._to_parquet()
        for suffix, content in documents.items():
            self.part(suffix).write_bytes(content)
        self._write_record(record)
        growing.rtdc.close()
        if not full_image:
            for suffix in IMAGE_SUFFIXES:
                self.path(suffix).unlink(missing_ok=True)
                self.part(suffix).unlink(missing_ok=True)
        images = IMAGE_SUFFIXES if full_image else ()
        for suffix in (".csv", ".parquet", *documents, *images, ".run.json"):
            os.replace(self.part(suffix), self.path(suffix))
        self.path(_CHECKPOINT).unlink(missing_ok=True)

    def finish_image(self, record: dict[str, Any]) -> None:
        """Give the image of a run that is finished otherwise its names, and renew the run record."""
        self._write_record(record)
        for suffix in (*IMAGE_SUFFIXES, ".run.json"):
            os.replace(self.part(suffix), self.path(suffix))

    def _write_record(self, record: dict[str, Any]) -> None:
        self.part(".run.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def close_parts(self) -> None:
        """Close what is open and keep the ``.part`` files, for a later resume."""
        if self._growing is not None:
            self._growing.csv.close()
            self._growing.rtdc.abandon()
        self._growing = None

    def remove_parts(self) -> None:
        """Close and remove all that is not complete."""
        self.close_parts()
        for path in [self.part(suffix) for suffix in _ALL] + [self.path(_CHECKPOINT)]:
            path.unlink(missing_ok=True)

    def rows(self) -> Iterable[dict[str, str]]:
        """Rows written so far, as text; from the growing file or the finished one."""
        part = self.part(".csv")
        with (part if part.exists() else self.path(".csv")).open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)

    def _to_parquet(self) -> None:
        schema = table_schema(self.columns)
        types = dict(zip(schema.names, schema.types, strict=True))
        options = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        with (
            pq.ParquetWriter(self.part(".parquet"), schema) as writer,
            pyarrow.csv.open_csv(self.part(".csv"), convert_options=options) as reader,
        ):
            for batch in reader:
                writer.write_batch(batch)


def _text(value: str | float, whole: bool) -> str:
    """A value as CSV text that reads back to the same bits; NaN is empty."""
    if isinstance(value, str):
        return value
    if whole:
        return str(int(value))
    number = float(value)
    return "" if np.isnan(number) else repr(number)

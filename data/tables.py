"""Tables that name images and their classes: CSV and Parquet.

Under `collections`.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from .images import CollectionError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
MOST_ROWS = 1 << 24

_MOST_BYTES = 1 << 30
_REQUIRED, _OPTIONAL = ("path", "label"), ("event", "cell")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class LabelTable:
    """Rows of a table.

    Attributes
    ----------
    path : Path
        The table.
    images : tuple of str
        Column ``path``: the image's file.
    events : tuple of int or None
        Column ``event``: number of the image in its file, None where the file is meant as a whole.
    labels, cells : tuple of str or None
        Columns ``label`` and ``cell``, None where empty: the image's class, and the cell that it shows.
    """

    path: Path
    images: tuple[str, ...]
    events: tuple[int | None, ...]
    labels: tuple[str | None, ...]
    cells: tuple[str | None, ...]

    def where(self, row: int) -> str:
        """A row as messages name it, numbered from 1 without the header."""
        return f"{self.path}, row {row + 1}"


def read_label_table(path: Path) -> LabelTable:
    """Read the columns ``path`` and ``label``, and ``event`` and ``cell`` where they are there.

    Raises
    ------
    CollectionError
        If the table cannot be read, is too large, has no rows or lacks a column, or a row has no path or an event
        that is no whole number.
    """
    try:
        table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise CollectionError(f"{path}: cannot be read as a table: {error}") from error
    if table.num_rows == 0:
        raise CollectionError(f"{path}: has no rows")
    if table.num_rows > MOST_ROWS:
        raise CollectionError(f"{path}: {table.num_rows} rows are more than the {MOST_ROWS} allowed")
    columns = {name: _texts(path, table, name) for name in (*_REQUIRED, *_OPTIONAL)}
    events: list[int | None] = []
    for row, (image, event) in enumerate(zip(columns["path"], columns["event"], strict=True)):
        if image is None:
            raise CollectionError(f"{path}, row {row + 1}: has no path")
        if event is not None and not event.isdecimal():
            raise CollectionError(f"{path}, row {row + 1}: event must be a whole number, is {event[:40]!r}")
        events.append(None if event is None else int(event))
    return LabelTable(
        path,
        tuple(image or "" for image in columns["path"]),
        tuple(events),
        tuple(columns["label"]),
        tuple(columns["cell"]),
    )


def _csv(path: Path) -> pa.Table:
    if path.stat().st_size > _MOST_BYTES:
        raise CollectionError(f"{path}: {path.stat().st_size} bytes are more than the {_MOST_BYTES} allowed")
    with path.open("rb") as file:
        header = file.readline(1 << 16).decode("utf-8-sig")
    delimiter = max(_DELIMITERS, key=header.count)
    names = [name.strip().strip('"') for name in header.rstrip("\r\n").split(delimiter)]
    _require_columns(path, names)
    wanted = [name for name in (*_REQUIRED, *_OPTIONAL) if name in names]
    return pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
        ),
    )


def _parquet(path: Path) -> pa.Table:
    with pyarrow.parquet.ParquetFile(path) as file:
        metadata = file.metadata
        _require_columns(path, file.schema_arrow.names)
        size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        if metadata.num_rows > MOST_ROWS or size > _MOST_BYTES:
            raise CollectionError(f"{path}: {metadata.num_rows} rows of {size} bytes are too many to be read")
        return file.read([name for name in (*_REQUIRED, *_OPTIONAL) if name in file.schema_arrow.names])


def _require_columns(path: Path, names: list[str]) -> None:
    for name in _REQUIRED:
        if name not in names:
            found = ", ".join(names[:20]) or "none"
            raise CollectionError(f"{path}: has no column {name!r}, only {found[:400]}; name the column so")


def _texts(path: Path, table: pa.Table, name: str) -> list[str | None]:
    """A column as text, None where it is empty or missing."""
    if name not in table.column_names:
        return [None] * table.num_rows
    try:
        values = pc.cast(table[name], pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise CollectionError(f"{path}: column {name!r} must be text or numbers, is {table[name].type}") from error
    return [value.strip() or None if value is not None else None for value in values]

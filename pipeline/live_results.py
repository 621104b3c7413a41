"""The files of a live run: written while it runs, so that a kill costs about a second of cells.

While it runs, pictured cells go to ``<stem>_0001.rtdc.part``, ``<stem>_0002.rtdc.part``, … of which each is closed
and named when it is large or old enough, and the rows of all cells to ``<stem>.table.arrow.part``, an Arrow stream. At
the end the stream, whose rows come nearly in order, is sorted into ``<stem>.parquet``; ``<stem>.run.json`` is the last
to appear: where it stands, the run is complete. `prepare_folder` names what a killed run left.

Where cells come faster than `WRITE_ROWS` in `WRITE_S`, their pictures are packed lightly: a sixth of the work, and
about twice the size.

HDF5 does not survive a full disk: a write that fails costs the whole file, and ends the process with a segmentation
fault. So the room left is asked for before each write; and where that is not the whole truth, as under a quota, a spare
file holds some, which is removed when a write fails: the open file can then be closed, and loses few pictures.
"""

import errno
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ._pack_kernels import all_marked
from .results import OutputError, table_schema
from .rtdc import RtdcMetadata, RtdcWriter, copy_events, whole_events

try:
    import fcntl
except ImportError:  # not on Windows, where nothing tells that a run still writes
    fcntl = None  # type: ignore[assignment]

#: Columns that the live run may leave out; they are then present and empty.
OPTIONAL_COLUMNS = ("crop_cut", "label", "probability")
#: Rows are written when there are so many, or when the oldest has waited so long [s]. A write of few rows is dear:
#: thirty columns cost 3 ms, mostly with the GIL held, and each leaves a chunk of pictures that is packed twice.
WRITE_ROWS, WRITE_S = 2048, 1.0
#: Room held on the disk to close the files in when it is full [bytes].
SPARE_BYTES = 64 << 20

_TABLE, _SPARE = ".table.arrow.part", ".spare.part"
_ROW_GROUP = 1 << 16
_MARGIN_BYTES = 4 << 20  # for what HDF5 adds to the data, and for others who write there
# h5py raises RuntimeError for much that is a failed write.
_WRITE_ERRORS = (OSError, RuntimeError)


@dataclass(frozen=True)
class CellBatch:
    """Some cells, in columns.

    Attributes
    ----------
    columns : mapping of str to ndarray of shape (N,), int64 or float64
        Column of the table to values; `OPTIONAL_COLUMNS` may be missing.
    crops : ndarray of shape (M, side, side), uint8
        Grey levels, as `grey_levels` makes them, of the cells that have a picture.
    masks : ndarray of shape (M, side, side), bool
        Their pixels; none empty.
    pictured : ndarray of shape (N,), bool
        Which rows have a picture; M of them, in order.
    """

    columns: Mapping[str, np.ndarray]
    crops: np.ndarray
    masks: np.ndarray
    pictured: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.pictured)

    @property
    def nbytes(self) -> int:
        """Memory that the batch takes [bytes]."""
        return int(self.crops.nbytes + self.masks.nbytes + sum(values.nbytes for values in self.columns.values()))


class LiveResults:
    """Results of one live run in a folder that `prepare_folder` has seen.

    Parameters
    ----------
    folder : Path
        Where to write; it exists.
    stem : str
        Name of the run.
    columns : tuple of str
        Columns of the table, as `columns_of` gives them.
    metadata : RtdcMetadata
        For the .rtdc files; `run_index` is that of the first file, and counts on.
    crop_px : int
        Side of the crops [pixels].
    rotate_bytes, rotate_s : float, optional
        Size [bytes] and age [s] at which an .rtdc file is closed and the next one begun.
    clock : callable, optional
        Time [s], of any origin.

    Attributes
    ----------
    rows_written, pictures_written : int
        Rows in the table and pictures in the .rtdc files, flushed.
    rtdc_files : list of str
        Names of the .rtdc files closed so far.

    Raises
    ------
    OutputError
        If the files cannot be made.

    Notes
    -----
    An .rtdc file is begun with the first pictured cell that belongs into it, so none is empty: dclab objects to empty
    ones. Its cells are in order of arrival; the Parquet file is in order of ``line_first``.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        columns: tuple[str, ...],
        metadata: RtdcMetadata,
        crop_px: int,
        *,
        rotate_bytes: float = 1 << 30,
        rotate_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.stem, self.columns = folder, stem, columns
        self.rows_written = self.pictures_written = 0
        self.rtdc_files: list[str] = []
        self._metadata, self._crop_px, self._clock = metadata, crop_px, clock
        self._rotate_bytes, self._rotate_s = rotate_bytes, rotate_s
        self._schema = table_schema(columns)
        self._required = frozenset(columns) - set(OPTIONAL_COLUMNS)
        self._waiting: list[CellBatch] = []
        self._waiting_rows, self._waiting_since = 0, 0.0
        self._fast = False  # whether the last rows were written because there were so many
        self._no_pictures = np.empty((0, crop_px, crop_px), dtype=np.uint8)
        self._rtdc: RtdcWriter | None = None
        self._rtdc_since, self._rtdc_grown = 0.0, False
        self._reason: str | None = None
        self._spare = self._path(_SPARE)
        try:
            self._table = _TableStream(self._path(_TABLE), self._schema)
        except FileExistsError as error:
            raise OutputError(
                f"{error.filename} exists: a run writes there or was broken; prepare the folder"
            ) from error
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        try:
            _hold_room(self._spare, SPARE_BYTES)
        except OSError as error:
            self._table.release()
            for path in (self._table.path, self._spare):
                path.unlink(missing_ok=True)
            raise OutputError(f"{folder}: no room for {SPARE_BYTES >> 20} MiB: {error.strerror or error}") from error

    def append(self, batch: CellBatch) -> None:
        """Take some cells; they are written when there are enough, or when they have waited long enough.

        Raises
        ------
        OutputError
            If a write fails, or has failed; the files are then closed and keep their ``.part`` names. The table holds
            all rows counted as written; `prepare_folder` makes of them what it makes of a killed run's.
        ValueError
            If the batch is not what `CellBatch` says; nothing of it is taken.
        """
        if self._reason is not None:
            raise OutputError(self._reason)
        self._check(batch)
        if batch.rows:
            if not self._waiting:
                self._waiting_since = self._clock()
            with _OutputErrors(self):
                self._waiting.append(self._packed(batch))
            self._waiting_rows += batch.rows
        self.write_due()

    def write_due(self) -> None:
        """Write what has waited long enough and close the file that is old enough; to be called about once a second."""
        if self._reason is not None:
            raise OutputError(self._reason)
        due = self._waiting_rows >= WRITE_ROWS or self._clock() - self._waiting_since >= WRITE_S
        with _OutputErrors(self):
            if self._waiting and due:
                self._write()
            self._rotate()

    def write(self) -> None:
        """Write all that waits."""
        if self._reason is not None:
            raise OutputError(self._reason)
        with _OutputErrors(self):
            if self._waiting:
                self._write()

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write what waits, close all files, make the Parquet file, and write the run record last.

        Parameters
        ----------
        record : mapping
            What the run record holds; ``outputs``, the files and what they hold, is added to it.

        Raises
        ------
        OutputError
            If a write fails; what `prepare_folder` makes of a killed run can then be made of this one.
        """
        self.write()
        parquet, run_record = self._path(".parquet"), self._path(".run.json")
        with _OutputErrors(self):
            self._close_rtdc()
            self._table.close()
            self._spare.unlink(missing_ok=True)
            table_to_parquet(self._table.path, _part(parquet))
            outputs = {
                "table": parquet.name,
                "rtdc": self.rtdc_files,
                "cells": self.rows_written,
                "pictures": self.pictures_written,
            }
            _part(run_record).write_text(_record_text({**record, "outputs": outputs}), encoding="utf-8")
            os.replace(_part(parquet), parquet)
            os.replace(_part(run_record), run_record)
            self._table.path.unlink()
        self.abandon()  # there is nothing left to close but the table's lock

    def leave(self, record: Mapping[str, Any]) -> None:
        """`abandon`, with the run record beside the ``.part`` files, under such a name: it says why they are left."""
        self.abandon()
        with suppress(OSError):  # there is room where the spare file was, unless others took it
            _part(self._path(".run.json")).write_text(_record_text(record), encoding="utf-8")

    def abandon(self) -> None:
        """Close what is open and keep the ``.part`` files. May be called twice."""
        self._waiting, self._waiting_rows = [], 0
        self._reason = self._reason or f"{self.folder}: the files of {self.stem} are closed"
        with suppress(OSError):
            self._spare.unlink(missing_ok=True)
        if self._rtdc is not None:
            with suppress(*_WRITE_ERRORS):
                self._rtdc.abandon()  # cutting it after a failed write loses more than the cut
        self._rtdc = None
        with suppress(OSError):
            self._table.close()
        self._table.release()

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}{suffix}"

    def _check(self, batch: CellBatch) -> None:
        n, m = batch.rows, int(np.count_nonzero(batch.pictured))
        missing = self._required.difference(batch.columns)
        if missing:
            raise ValueError(f"the batch lacks the columns {', '.join(c for c in self.columns if c in missing)}")
        for name, values in batch.columns.items():
            if values.shape != (n,):
                raise ValueError(f"{name} must have shape ({n},), got {values.shape}")
        crops = (m, self._crop_px, self._crop_px)
        for name, array, dtype in (("crops", batch.crops, np.uint8), ("masks", batch.masks, np.bool_)):
            if array.shape != crops or array.dtype != dtype:
                raise ValueError(f"{name} must be {dtype.__name__} of shape {crops}, got {array.dtype} {array.shape}")
        if not all_marked(np.ascontiguousarray(batch.masks)):
            raise ValueError("a mask is empty")

    def _packed(self, batch: CellBatch) -> CellBatch:
        """The batch, without its pictures if they come fast: the file packs those at once, while they are at hand."""
        if not (self._fast and self._rtdc and len(batch.crops)):
            return batch
        self._rtdc.pack(batch.crops, batch.masks)
        return replace(batch, crops=self._no_pictures, masks=self._no_pictures)

    def _write(self) -> None:
        batches, rows = self._waiting, self._waiting_rows
        self._waiting, self._waiting_rows = [], 0
        self._fast = rows >= WRITE_ROWS
        size = sum(batch.nbytes for batch in batches) + (self._rtdc.packed_bytes if self._rtdc else 0)
        _require_room(self.folder, 2 * size + _MARGIN_BYTES)
        names = [name for name in self.columns if all(name in batch.columns for batch in batches)]
        columns = {name: _joined([batch.columns[name] for batch in batches]) for name in names}
        self._table.append(_record_batch(self._schema, columns, rows))
        self.rows_written += rows
        pictured = _joined([batch.pictured for batch in batches])
        pictures = int(np.count_nonzero(pictured))
        if not pictures:
            return
        rtdc = self._rtdc = self._rtdc or self._next_rtdc()
        own = columns if pictures == rows else {name: values[pictured] for name, values in columns.items()}
        if self._fast or rtdc.packed:
            for batch in batches:
                if len(batch.crops):
                    rtdc.pack(batch.crops, batch.masks)
            rtdc.append_packed(own)
        else:
            crops, masks = _joined([batch.crops for batch in batches]), _joined([batch.masks for batch in batches])
            rtdc.append(crops, masks, own)
        self.pictures_written += pictures
        self._rtdc_grown = True

    def _next_rtdc(self) -> RtdcWriter:
        number = len(self.rtdc_files)
        path = _rtdc_path(self.folder, self.stem, number + 1)
        if path.exists():
            raise FileExistsError(None, "exists", str(path))
        metadata = replace(self._metadata, run_index=self._metadata.run_index + number)
        self._rtdc_since = self._clock()
        return RtdcWriter(path, metadata, (self._crop_px, self._crop_px))

    def _rotate(self) -> None:
        if self._rtdc is None:
            return
        full = False
        if self._rtdc_grown:  # to ask at each batch would cost more than to take it
            path = _part(_rtdc_path(self.folder, self.stem, len(self.rtdc_files) + 1))
            full, self._rtdc_grown = path.stat().st_size >= self._rotate_bytes, False
        if full or self._clock() - self._rtdc_since >= self._rotate_s:
            if self._rtdc.packed:  # for this file
                self._write()
            self._close_rtdc()

    def _close_rtdc(self) -> None:
        if self._rtdc is not None:
            self.rtdc_files.append(self._rtdc.close().name)
            self._rtdc = None

    def _fail(self, error: BaseException) -> str:
        """Close the files after a failed write, and say why it failed."""
        number = re.search(r"errno = (\d+)", str(error))  # somewhere in what HDF5 says
        reason = os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or str(error)
        self._reason = f"{self.folder}: cannot be written: {reason}"
        self.abandon()
        return self._reason


def warm_up_files(columns: tuple[str, ...], metadata: RtdcMetadata, crop_px: int) -> None:
    """Write a cell both ways to files that are thrown away: what compiles, compiles before the clock starts."""
    one = np.zeros(1, dtype=np.int64)
    crop = np.ones((1, crop_px, crop_px), dtype=np.uint8)
    batch = CellBatch(
        {name: one for name in columns if name not in OPTIONAL_COLUMNS}, crop, crop > 0, np.ones(1, dtype=np.bool_)
    )
    with tempfile.TemporaryDirectory(prefix="stretchscope-") as folder:
        results = LiveResults(Path(folder), "warm_up", columns, metadata, crop_px)
        try:
            for fast in (False, True):
                results._fast = fast
                results.append(batch)
                results.write()
        finally:
            results.abandon()


class _OutputErrors:
    """A failed write within the block closes the files and becomes an `OutputError`."""

    def __init__(self, results: LiveResults) -> None:
        self._results = results

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _WRITE_ERRORS):
            raise OutputError(self._results._fail(error)) from error
        if error is not None:
            self._results.abandon()


class _TableStream:
    """A growing Arrow stream, flushed batch by batch: readable to its last whole batch, whatever happens.

    The file is locked while it is open, so that another run does not take it for one that was left behind.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._file = path.open("xb", buffering=0)
        _lock(self._file.fileno())
        self._good = 0
        self._write(schema.serialize())

    def append(self, batch: pa.RecordBatch) -> None:
        self._write(batch.serialize())

    def close(self) -> None:
        """Cut what a failed write left; the file stays locked."""
        if not self._file.closed:
            self._file.truncate(self._good)

    def release(self) -> None:
        self._file.close()

    def _write(self, content: pa.Buffer) -> None:
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]
        self._good += content.size


def _lock(descriptor: int) -> bool:
    """Lock a file; False if another process holds it. Where files cannot be locked, all is taken to be well."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _hold_room(path: Path, size: int) -> None:
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))


def _require_room(folder: Path, size: int) -> None:
    """Fail before HDF5 does, where the room left can be known."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _record_text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _rtdc_path(folder: Path, stem: str, number: int) -> Path:
    return folder / f"{stem}_{number:04d}.rtdc"


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays one after the other; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _record_batch(schema: pa.Schema, columns: Mapping[str, np.ndarray], rows: int) -> pa.RecordBatch:
    """Columns in the schema's types; missing ones are empty, and so is NaN, as in the batch path."""
    arrays = []
    for field in schema:
        if field.name not in columns:
            arrays.append(pa.nulls(rows, field.type))
            continue
        try:
            arrays.append(pa.array(columns[field.name], from_pandas=True).cast(field.type))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{field.name}: {error}") from error
    return pa.record_batch(arrays, schema=schema)


def table_to_parquet(stream: Path, parquet: Path) -> tuple[int, int]:
    """Sort an Arrow stream of cells by ``line_first``, then position, into a Parquet file.

    Parameters
    ----------
    stream : Path
        As `LiveResults` writes it, whole or broken off.
    parquet : Path
        File to write; one of that name is replaced, and removed if it cannot be completed.

    Returns
    -------
    rows : int
        Rows written.
    torn_bytes : int
        Length of a last batch that is not whole, and is left out [bytes].

    Raises
    ------
    ValueError
        If the stream cannot be read at all.
    OSError
        If the Parquet file cannot be written.

    Notes
    -----
    Two passes: the first finds the least line of each batch, so the second knows which rows no later batch can
    precede. Memory holds those that are not yet settled and one row group, however long the stream is.
    """
    try:
        with _StreamReader(stream) as reader:
            schema = reader.schema
            least = [pc.min(batch["line_first"]).as_py() for batch in reader]
            torn_bytes = reader.torn_bytes
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise ValueError(f"{stream}: not a table: {error}") from error
    # of the batches after each
    to_come = np.minimum.accumulate(np.array([np.inf, *least[:0:-1]]))[::-1] if least else ()
    rows = 0
    try:
        with _StreamReader(stream) as reader, pq.ParquetWriter(parquet, schema) as writer:
            waiting, settled = schema.empty_table(), [schema.empty_table()]
            for batch, bound in zip(reader, to_come, strict=True):
                waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
                line = waiting["line_first"].to_numpy()
                order = np.lexsort((waiting["position_samples"].to_numpy(), line))
                done = int(np.searchsorted(line[order], bound))
                settled.append(waiting.take(order[:done]))
                waiting = waiting.take(order[done:])
                rows += done
                if sum(map(len, settled)) >= _ROW_GROUP:
                    writer.write_table(pa.concat_tables(settled))
                    settled = [schema.empty_table()]
            if rest := pa.concat_tables(settled):
                writer.write_table(rest)
    except BaseException:
        parquet.unlink(missing_ok=True)
        raise
    return rows, torn_bytes


class _StreamReader:
    """The whole batches of an Arrow stream that may be broken off; afterwards `torn_bytes` is what follows them."""

    def __init__(self, path: Path) -> None:
        # read, not mapped: pages of a mapped file would count as the process's memory
        self._file = pa.OSFile(str(path))
        self._reader = pa.ipc.open_stream(self._file)
        self.schema = self._reader.schema
        self.torn_bytes = 0

    def __enter__(self) -> "_StreamReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while True:
            good = self._file.tell()
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowInvalid, pa.ArrowMemoryError, OSError):
                self.torn_bytes = self._file.size() - good
                return
            yield batch


def check_folder(folder: Path, stem: str, overwrite: bool = False) -> list[Path]:
    """Make the folder and see that nothing is in the way of a run; what is there stays as it is.

    Returns
    -------
    rolled : list of Path
        The .rtdc files of a run of that name, growing ones included.

    Raises
    ------
    OutputError
        As in :func:`prepare_folder`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{stem}.probe"
        probe.touch()
        probe.unlink()
        rolled = _refuse_what_is_not_ours(folder, stem)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    record = folder / f"{stem}.run.json"
    if record.exists() and not overwrite:
        raise OutputError(f"{record} exists: give --overwrite to replace that run, or another folder")
    return rolled


def prepare_folder(folder: Path, stem: str, overwrite: bool = False) -> list[str]:
    """:func:`check_folder`, and complete what a killed run left.

    Parameters
    ----------
    folder : Path
        Where the run is to write; made when missing.
    stem : str
        Name of the run.
    overwrite : bool, optional
        Remove a finished run of that name. Never what a killed run left.

    Returns
    -------
    messages : list of str
        What was done, one line each.

    Raises
    ------
    OutputError
        If a finished run is there and is not to be overwritten, a run is writing there, files of that name belong
        to something else, or the folder cannot be written.

    Notes
    -----
    A run without its run record was killed, or could write no more. Its files get the name ``<stem>.interrupted-1``,
    or the next number that is free: ``.parquet`` with the rows of all whole batches, ``_0001.rtdc``, … with the
    pictures, and ``.run.json`` where it left a record. A kill within a
    write, or a failed one, may tear the pictures of that batch, and up to 512 before it whose chunk was being written
    anew: the file is copied up to there. What cannot be read whole is kept with ``.broken`` after its name.
    """
    rolled = check_folder(folder, stem, overwrite)
    try:
        record = folder / f"{stem}.run.json"
        if not record.exists():
            return _complete_killed_run(folder, stem, rolled)
        for path in (record, *rolled, *(folder / f"{stem}{suffix}" for suffix in (".parquet", _TABLE, _SPARE))):
            path.unlink(missing_ok=True)
        return [f"{record}: the run is replaced"]
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _refuse_what_is_not_ours(folder: Path, stem: str) -> list[Path]:
    """The .rtdc files of the run, growing ones included; an error where names belong to another run."""
    for suffix in (".rtdc", ".csv", ".rtdc.part", ".csv.part", ".checkpoint.part"):
        if (path := folder / f"{stem}{suffix}").exists():
            raise OutputError(f"{path} is of a processed capture: give another folder")
    pattern = re.compile(re.escape(stem) + r"_\d{4,}\.rtdc(\.part)?")
    rolled = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
    for path in rolled:
        name = path.name.split(".rtdc")[0]
        if any((folder / f"{name}{suffix}").exists() for suffix in (".run.json", ".csv", ".csv.part")):
            raise OutputError(f"{path} is of another run, {name}: give another folder")
    table = folder / f"{stem}{_TABLE}"
    if table.exists():
        with table.open("rb") as file:
            if not _lock(file.fileno()):
                raise OutputError(f"{table}: a run is writing there; wait for its end, or give another folder")
    return rolled


def _complete_killed_run(folder: Path, stem: str, rolled: list[Path]) -> list[str]:
    table, parquet = folder / f"{stem}{_TABLE}", folder / f"{stem}.parquet"
    (folder / f"{stem}{_SPARE}").unlink(missing_ok=True)
    messages = []
    if parquet.exists():  # killed in its last moment; the stream, still there, holds the same rows
        os.replace(parquet, aside := folder / f"{_free_name(folder, stem)}.parquet")
        messages.append(f"{aside}: table without run record")
    name = _free_name(folder, stem)
    if table.exists():
        messages += _complete_table(table, folder, stem, name)
    record = _part(folder / f"{stem}.run.json")
    if record.exists():
        os.replace(record, folder / f"{name}.run.json")
    for path in rolled:
        target = folder / (name + path.name[len(stem) :].removesuffix(".part"))
        if path.suffix == ".part":
            messages.append(_complete_rtdc(path, target))
        else:
            os.replace(path, target)
            messages.append(f"{target}: pictures of a killed run")
    return messages


def _free_name(folder: Path, stem: str) -> str:
    taken = [path.name for path in folder.iterdir()]
    number = 1
    while any(re.match(re.escape(f"{stem}.interrupted-{number}") + r"[._]", name) for name in taken):
        number += 1
    return f"{stem}.interrupted-{number}"


def _complete_table(table: Path, folder: Path, stem: str, name: str) -> list[str]:
    """Make a Parquet file of a killed run's table, if that has any row; what was done, at most one line."""
    parquet, broken = folder / f"{name}.parquet", folder / f"{name}.table.arrow.broken"
    unfinished = folder / f"{stem}.parquet.part"  # the name that the killed run may have left one under
    try:
        rows, torn_bytes = table_to_parquet(table, unfinished)
    except ValueError as error:
        os.replace(table, broken)
        return [f"{broken}: table of a killed run, cannot be read: {error}"]
    if not rows and not torn_bytes:  # killed before its first write
        unfinished.unlink()
        table.unlink()
        return []
    os.replace(unfinished, parquet)
    message = f"{parquet}: the {rows} rows of a killed run"
    if torn_bytes:
        os.replace(table, broken)
        return [f"{message}; the batch it was writing is torn, {torn_bytes} bytes, and kept in {broken.name}"]
    table.unlink()
    return [message]


def _complete_rtdc(path: Path, target: Path) -> str:
    """Give an .rtdc file its name; of one that was broken within a write, a copy of the events that are whole."""
    broken = target.with_name(target.name + ".broken")
    try:
        events, intact = whole_events(path)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        os.replace(path, broken)
        return f"{broken}: pictures of a killed run, cannot be read: {error}"
    if not events:
        os.replace(path, broken)
        return f"{broken}: pictures of a killed run, no whole batch"
    message = f"{target}: the {events} pictures of a killed run"
    if intact:
        os.replace(path, target)
        return message
    _require_room(path.parent, path.stat().st_size + _MARGIN_BYTES)
    copy_events(path, _part(target), events)
    os.replace(_part(target), target)
    os.replace(path, broken)
    return f"{message}; what it was writing is torn, and kept in {broken.name}"


class OutputThread:
    """The one thread that writes: takes batches from a bounded queue, so that nobody waits for the disk.

    Parameters
    ----------
    results : LiveResults
        Where they go; nobody else may touch it until `close` or `abandon` returns.
    most_bytes : int, optional
        Most that the queue holds [bytes].

    Attributes
    ----------
    error : Exception or None
        Why writing has stopped; an `OutputError` where the disk is the reason. Batches are refused from then on.
    rows_lost : int
        Rows that were taken, but are not in the table since writing stopped.
    queued_bytes, most_queued_bytes : int
        What waits in the queue now, and the most that ever did [bytes].
    """

    def __init__(self, results: LiveResults, *, most_bytes: int = 256 << 20) -> None:
        self.error: Exception | None = None
        self.most_bytes = most_bytes
        self.queued_bytes = self.most_queued_bytes = 0
        self._results = results
        self._queue: deque[CellBatch] = deque()
        self._taken = 0
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    @property
    def rows_lost(self) -> int:
        return self._taken - self._results.rows_written if self.error is not None else 0

    def put(self, batch: CellBatch) -> bool:
        """Queue a batch; never waits for the disk.

        Returns
        -------
        taken : bool
            False if the queue is full or writing has stopped: the caller counts the loss.
        """
        size = batch.nbytes
        with self._changed:
            full = self._queue and self.queued_bytes + size > self.most_bytes
            if full or not self._open or self.error is not None:
                return False
            self._queue.append(batch)
            self._taken += batch.rows
            self.queued_bytes += size
            self.most_queued_bytes = max(self.most_queued_bytes, self.queued_bytes)
            self._changed.notify_all()
        return True

    def drain(self) -> None:
        """Take no more, and wait until all rows are written, or writing has stopped; see `error`."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join()

    def close(self, record: Mapping[str, Any]) -> None:
        """`drain`, and finish the results with their run record.

        Raises
        ------
        OutputError or other
            `error`, if writing has stopped; the ``.part`` files are then kept.
        """
        self.drain()
        if self.error is not None:
            raise self.error
        self._results.finish(record)

    def leave(self, record: Mapping[str, Any]) -> None:
        """`drain`, and leave the files under their ``.part`` names, with a record that says why."""
        self.drain()
        self._results.leave(record)

    def abandon(self) -> None:
        """`drain`, and leave the files under their ``.part`` names."""
        self.drain()
        self._results.abandon()

    def _run(self) -> None:
        _step_back()
        try:
            while self._write_one():
                pass
        except Exception as error:
            self._results.abandon()
            with self._changed:
                self.error = error
                self._queue.clear()
                self.queued_bytes = 0

    def _write_one(self) -> bool:
        with self._changed:
            if not self._queue and self._open:
                self._changed.wait(timeout=WRITE_S / 4)
            batch = self._queue.popleft() if self._queue else None
            last = batch is None and not self._open
        if batch is not None:
            self._results.append(batch)
            with self._changed:  # only now: what is being written takes memory as well
                self.queued_bytes -= batch.nbytes
        elif last:
            self._results.write()
        else:
            self._results.write_due()
        return not last


def _step_back() -> None:
    """Let the threads that measure go first, where threads have a priority of their own: on Linux."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)

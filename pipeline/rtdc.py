"""Write cells as an .rtdc file, the HDF5 format of RT-DC that dclab and DCscope open.

After `classify.features`: the table of a batch of cells with its crops goes in, one file per capture comes
out. In .rtdc images x, the flow, runs along the columns and y along the rows; stretchscope's crops have the
flow along the rows. The writer transposes, so nobody else needs to know. The format demands
some physical values that a line scanner may not know: see `rtdc_attributes`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import hdf5plugin
import numpy as np

from ..classify.features import FEATURES
from . import _pack_kernels as kernels

#: Columns of the results that have a place in the file beside the features, and their names there.
_INTEGER_COLUMNS = {
    "line_first": "userdef0",
    "line_last": "userdef1",
    "sample_first": "userdef2",
    "sample_last": "userdef3",
}
#: What a model says of an event: the number of its class, and a score for each class.
_CLASS, _SCORE = "ml_class", "ml_score_"
#: Scalars that the writer itself makes.
_OWN_INTEGERS = ("index", "index_online", "frame")
_OWN_FLOATS = ("time", "area_cvx", "area_msd", "bright_avg", "bright_sd")

_IMAGE_ATTRIBUTES = {"CLASS": b"IMAGE", "IMAGE_VERSION": b"1.2", "IMAGE_SUBCLASS": b"IMAGE_GRAYSCALE"}
_LOG_LINE_LENGTH = 100
_SCALAR_CHUNK = 512
_IMAGE_CHUNK_BYTES = 2**20  # HDF5's chunk cache holds one such chunk


@dataclass(frozen=True)
class RtdcMetadata:
    """What is known about a capture. None means unknown: nothing is guessed.

    Attributes
    ----------
    sample : str
        Name of the sample, not empty.
    run_identifier : str
        What tells this capture from all others, such as its digest.
    software_version : str
        Version of stretchscope.
    line_rate_hz, sample_rate_hz : float
        Laser line rate and ADC sample rate [Hz].
    run_index : int
        Number of the capture within its run, from 1.
    start : datetime or None
        When the capture started; naive times are taken as UTC.
    pixel_um : float or None
        Side of the crops' square pixels [µm].
    field_of_view_um : float or None
        Width of the line in the channel [µm].
    flow_speed_m_s : float or None
        Flow speed [m/s].
    instrument : str or None
        Identifier of the instrument.
    transmission_at_0, transmission_at_255 : float
        Transmission of grey level 0 and of level 255; between them the scale is linear. By default an empty
        pixel has level 150.
    model, model_sha256 : str or None
        Name and digest of the model that told the cells' classes.
    classes : mapping of str to str
        Column of each class's score (``ml_score_`` and three characters) to the class; empty without a model.
    """

    sample: str
    run_identifier: str
    software_version: str
    line_rate_hz: float
    sample_rate_hz: float
    run_index: int = 1
    start: datetime | None = None
    pixel_um: float | None = None
    field_of_view_um: float | None = None
    flow_speed_m_s: float | None = None
    instrument: str | None = None
    transmission_at_0: float = 0.0
    transmission_at_255: float = 1.7
    model: str | None = None
    model_sha256: str | None = None
    classes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("sample", "run_identifier", "software_version"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        for name in ("line_rate_hz", "sample_rate_hz", "pixel_um", "field_of_view_um", "flow_speed_m_s"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if self.run_index < 1:
            raise ValueError(f"run_index counts from 1, got {self.run_index}")
        if not self.transmission_at_0 < self.transmission_at_255:
            raise ValueError(
                f"transmission_at_0 must lie below transmission_at_255, "
                f"got {self.transmission_at_0:g} and {self.transmission_at_255:g}"
            )


def grey_levels(transmission: np.ndarray, metadata: RtdcMetadata) -> np.ndarray:
    """Grey levels (uint8) of a transmission image of any shape; NaN, not known, is drawn as empty (1)."""
    span = metadata.transmission_at_255 - metadata.transmission_at_0
    filled = np.where(np.isnan(transmission), 1.0, transmission)
    return np.clip(np.rint((filled - metadata.transmission_at_0) * (255 / span)), 0, 255).astype(np.uint8)


def rtdc_attributes(metadata: RtdcMetadata, crop_shape: tuple[int, int]) -> dict[str, str | int | float]:
    """Root attributes of the file, `section:key` to value.

    Parameters
    ----------
    metadata : RtdcMetadata
        What is known about the capture.
    crop_shape : (int, int)
        Rows (along the flow) and columns of every crop.

    Returns
    -------
    attributes : dict
        Every key that dclab's check demands or misses. A demanded value that is unknown gets a placeholder
        (1 for quantities, 1970-01-01 for the date); `user:placeholders` names those keys, separated by
        ", ". Lengths are then in pixels where the format says µm. All else we know is under `user:`.
    """
    start = metadata.start
    if start is not None:
        start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    known: dict[str, str | int | float | None] = {
        "experiment:date": f"{start:%Y-%m-%d}" if start else None,
        "experiment:time": f"{start:%H:%M:%S}" if start else None,
        "imaging:pixel size": metadata.pixel_um,
        "imaging:flash duration": None,  # of the pulse before it is stretched
        "setup:channel width": metadata.field_of_view_um,
        "setup:flow rate": None,  # volume per time: the channel's height is not known either
        "setup:flow rate sample": None,
        "setup:medium": None,
        "setup:identifier": metadata.instrument,
    }
    placeholder = {
        "experiment:date": "1970-01-01",
        "experiment:time": "00:00:00",
        "setup:medium": "other",
        "setup:identifier": "unknown",
    }
    rows, columns = crop_shape
    attributes = {key: placeholder.get(key, 1.0) if value is None else value for key, value in known.items()} | {
        "experiment:run identifier": metadata.run_identifier,
        "experiment:run index": int(metadata.run_index),
        "experiment:sample": metadata.sample,
        "imaging:flash device": "pulsed laser (time-stretch)",
        "imaging:frame rate": float(metadata.line_rate_hz),
        "imaging:roi position x": 0,
        "imaging:roi position y": 0,
        "imaging:roi size x": int(rows),
        "imaging:roi size y": int(columns),
        "setup:chip region": "channel",
        "setup:flow rate sheath": 0.0,
        "setup:module composition": "TimeStretch",
        "setup:software version": f"stretchscope {metadata.software_version}",
        "user:line rate": float(metadata.line_rate_hz),
        "user:sample rate": float(metadata.sample_rate_hz),
        "user:transmission at 0": float(metadata.transmission_at_0),
        "user:transmission at 255": float(metadata.transmission_at_255),
        "user:placeholders": ", ".join(key for key, value in known.items() if value is None),
    }
    if start is not None:
        attributes["experiment:timestamp"] = start.timestamp()
    if metadata.field_of_view_um is not None:
        attributes["user:field of view"] = float(metadata.field_of_view_um)
    if metadata.flow_speed_m_s is not None:
        attributes["user:flow speed"] = float(metadata.flow_speed_m_s)
    if metadata.model is not None and metadata.model_sha256 is not None:
        attributes |= {"user:model": metadata.model, "user:model sha256": metadata.model_sha256}
    return attributes


class RtdcWriter:
    """Writes `<name>.part` batch by batch, and gives it its name when closed.

    Parameters
    ----------
    path : path-like
        Final name of the file. Until `close`, `<path>.part` is written; one left there is replaced.
    metadata : RtdcMetadata
        What is known about the capture.
    crop_shape : (int, int)
        Rows (along the flow) and columns of every crop.

    Notes
    -----
    After each batch the event count is set and the file flushed, so what a killed writer leaves opens with
    every whole batch in it; `resume` goes on from there. The same input in the same batches gives the same
    bytes; a resumed file has the same content, but not the same bytes. As a context manager the writer
    closes at the end of the block, or leaves the `.part` file after an exception.
    """

    def __init__(self, path: str | os.PathLike[str], metadata: RtdcMetadata, crop_shape: tuple[int, int]) -> None:
        attributes = rtdc_attributes(metadata, crop_shape)
        self._open(Path(path), "w")
        self._file.attrs.update(attributes)
        self._file.attrs["experiment:event count"] = 0
        self._write_log("stretchscope", _log_lines(attributes))
        if metadata.classes:
            named = enumerate(sorted(metadata.classes.items()))
            self._write_log("classes", [f"{number} {column}: {name}" for number, (column, name) in named])

        self._events: dict[str, h5py.Dataset] = {}
        self._light: _LightEvents | None = None
        group = self._file.create_group("events")
        integers = {*_OWN_INTEGERS, *_INTEGER_COLUMNS.values()}
        told = {_CLASS, *metadata.classes} if metadata.classes else set()
        for name in sorted(integers | {*_OWN_FLOATS} | {f.rtdc for f in FEATURES if f.rtdc} | told):
            dtype = np.int64 if name in integers else np.float64
            self._events[name] = _create(group, name, dtype, (), _SCALAR_CHUNK)
        rows, columns = crop_shape
        for name in ("image", "mask"):
            chunk = int(np.clip(_IMAGE_CHUNK_BYTES // (rows * columns), 1, 128))
            self._events[name] = _create(group, name, np.uint8, (columns, rows), chunk)
            self._events[name].attrs.update({key: np.bytes_(text) for key, text in _IMAGE_ATTRIBUTES.items()})
        self._file.flush()

    @classmethod
    def resume(cls, path: str | os.PathLike[str], events: int) -> Self:
        """Open `<path>.part`, as a killed writer left it, and cut it to its first events.

        Parameters
        ----------
        path : path-like
            Final name of the file.
        events : int
            Number of events to keep, those known to be complete.

        Raises
        ------
        FileNotFoundError
            If there is no `.part` file.
        ValueError
            If the file cannot be read, or holds fewer than `events` events.
        """
        writer = cls.__new__(cls)
        try:
            writer._open(Path(path), "r+")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValueError(f"{path}.part cannot be read, start afresh: {error}") from error
        writer._events = dict(writer._file.get("events", {}).items())
        writer._light = None
        held = min(map(len, writer._events.values()), default=0)
        if not (writer._events and 0 <= events <= held):
            writer._file.close()
            raise ValueError(f"{path}.part holds {held} events, cannot go on after {events}")
        writer._resize(events)
        return writer

    @property
    def _calibrated(self) -> bool:
        return "imaging:pixel size" not in self._file.attrs["user:placeholders"].split(", ")

    @property
    def events(self) -> int:
        """Number of events written."""
        return int(self._file.attrs["experiment:event count"])

    def append(self, images: np.ndarray, masks: np.ndarray, table: Mapping[str, np.ndarray]) -> None:
        """Write one batch of n events and flush it. Larger batches (hundreds) are faster.

        Parameters
        ----------
        images : ndarray of shape (n, rows, columns), uint8
            Crops as `grey_levels` makes them, rows along the flow.
        masks : ndarray of shape (n, rows, columns), bool
            Pixels of each cell; none empty, since a viewer cannot read a file with an empty mask.
        table : mapping of str to ndarray of shape (n,)
            Columns of the results: integers `line_first`, `line_last`, `sample_first`, `sample_last`;
            `time_s` since the start of the capture [s]; every feature with an RT-DC name, in µm if the pixel
            size is known and in pixels if not; ``ml_class`` and the scores of the classes, where the metadata name
            any. Other columns are left out.

        Raises
        ------
        ValueError
            If a shape, a type or a column is not as above, or pictures are packed that wait for their table; then
            nothing is written.
        """
        if self.packed:
            raise ValueError(f"{self.packed} pictures are packed, and wait for append_packed")
        first, n = self.events, len(images)
        self._check_pictures(images, masks, n)
        sums = np.empty((n, 3), dtype=np.int64)
        kernels.sum_pictures(np.ascontiguousarray(images), np.ascontiguousarray(masks), sums)
        scalars = self._scalars(sums, table, first)
        if n == 0:
            return
        self._light = None
        self._resize(first + n)
        for name, values in scalars.items():
            self._events[name][first:] = values
        self._events["image"][first:] = images.transpose(0, 2, 1)
        self._events["mask"][first:] = masks.transpose(0, 2, 1) * np.uint8(255)
        self._file.flush()

    def pack(self, images: np.ndarray, masks: np.ndarray) -> None:
        """Take pictures, as `append` does, for the next `append_packed`: a sixth of the work for about twice the size.

        What is empty about a cell is packed, the rest is kept as it is. `append` and these may take turns in a file.

        Raises
        ------
        ValueError
            If a shape or a type is not as `append` says; then nothing is taken.
        """
        self._check_pictures(images, masks, len(images))
        self._light = self._light or _LightEvents(self._events, self.events)
        self._light.add(images, masks)

    @property
    def packed(self) -> int:
        """Number of pictures taken by `pack` that wait for their table."""
        return self._light.added if self._light else 0

    @property
    def packed_bytes(self) -> int:
        """Size of what `pack` has taken [bytes]."""
        return self._light.added_bytes if self._light else 0

    def append_packed(self, table: Mapping[str, np.ndarray]) -> None:
        """Write the pictures that `pack` has taken as one batch, with a table as `append` takes it, and flush.

        Raises
        ------
        ValueError
            If a mask is empty, or a column is not as `append` says; the pictures are dropped and nothing is written.
        """
        light, self._light = self._light, None  # unless all goes well
        if light is None or not light.added:
            return
        first = self.events
        scalars = self._scalars(light.sums(), table, first)
        self._resize(first + light.added)
        light.write(scalars, first)
        self._file.flush()
        self._light = light

    def close(self) -> Path:
        """Close the file and give it its final name, which is returned; a file of that name is replaced."""
        if self._file:
            self._file.close()
            os.replace(self._part, self._path)
        return self._path

    def abandon(self) -> None:
        """Close the file and leave it under its ``.part`` name."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _open(self, path: Path, mode: str) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._file = h5py.File(self._part, mode)

    def _write_log(self, name: str, lines: list[str]) -> None:
        # cut where it is too long, but not within a character
        cut = [line.encode()[:_LOG_LINE_LENGTH].decode(errors="ignore").encode() for line in lines]
        self._file.require_group("logs").create_dataset(name, data=np.array(cut, dtype=f"S{_LOG_LINE_LENGTH}"))

    def _resize(self, events: int) -> None:
        self._file.attrs["experiment:event count"] = events
        for dataset in self._events.values():
            dataset.resize(events, axis=0)

    def _check_pictures(self, images: np.ndarray, masks: np.ndarray, n: int) -> None:
        crops = (n, *self._events["image"].shape[:0:-1])
        for name, array, dtype in (("images", images, np.uint8), ("masks", masks, np.bool_)):
            if array.dtype != dtype or array.shape != crops:
                raise ValueError(
                    f"{name} must be {dtype.__name__} of shape {crops}, got {array.dtype} of shape {array.shape}"
                )

    def _scalars(self, sums: np.ndarray, table: Mapping[str, np.ndarray], first: int) -> dict[str, np.ndarray]:
        """The batch's columns under their names in the file, checked.

        sums int64 (n, 3): pixels of each mask, and sum and sum of squares of the grey levels under it.
        """
        n, area = len(sums), sums[:, 0]
        if not area.all():
            raise ValueError(f"event {first + int(area.argmin())}: the mask is empty")

        calibrated = self._calibrated
        columns = {f.column(calibrated): f.rtdc for f in FEATURES if f.rtdc}
        columns |= {name: name for name in self._events if name == _CLASS or name.startswith(_SCORE)}
        missing = sorted({"time_s", *columns, *_INTEGER_COLUMNS} - set(table))
        if missing:
            raise ValueError(f"the table lacks the columns {', '.join(missing)}")
        scalars = {}
        for column, name in (columns | _INTEGER_COLUMNS | {"time_s": "time"}).items():
            values = np.asarray(table[column])
            integer = column in _INTEGER_COLUMNS
            if values.shape != (n,) or values.dtype.kind not in ("iu" if integer else "iuf"):
                kind = "integers" if integer else "numbers"
                raise ValueError(f"{column} must be {n} {kind}, got {values.dtype} of shape {values.shape}")
            scalars[name] = values

        index = np.arange(first + 1, first + n + 1)
        mean, square = sums[:, 1:].T / area
        pixel_area = self._file.attrs["imaging:pixel size"] ** 2
        return scalars | {
            "index": index,
            "index_online": index,
            "frame": scalars["userdef0"],
            "area_cvx": scalars["area_um"] / pixel_area,
            "area_msd": scalars["area_um_raw"] / pixel_area,
            "bright_avg": mean,
            "bright_sd": np.sqrt(np.maximum(square - mean**2, 0)),
        }


class _LightEvents:
    """Chunks of events that our own kernels pack; they are written past HDF5's filters, whose work is done.

    Of chunks that are not full, what is packed is kept, to go on from there.

    Parameters
    ----------
    datasets : mapping of str to h5py.Dataset
        What the file holds of each event.
    events : int
        How many it holds; what fills no chunk is read.

    Attributes
    ----------
    added : int
        Pictures that were added and are not written.
    """

    def __init__(self, datasets: Mapping[str, h5py.Dataset], events: int) -> None:
        self._image, self._mask = datasets["image"], datasets["mask"]
        self._scalars = {name: dataset for name, dataset in datasets.items() if name not in ("image", "mask")}
        self._per_chunk, columns, rows = self._image.chunks
        self._per_scalar_chunk = next(iter(self._scalars.values())).chunks[0]
        self._picture = rows * columns
        self._room = kernels.room(self._per_chunk, rows, columns)
        self._scratch = np.empty((3, columns), dtype=np.min_scalar_type(rows))
        self._buffers: list[np.ndarray] = []  # kept: to ask for memory costs more than to use it
        self._chunks = [_Chunk()]  # one for each buffer in use; the first holds pictures already written
        first = events // self._per_chunk * self._per_chunk
        stored = (dataset[first:events].transpose(0, 2, 1) for dataset in (self._image, self._mask))
        self._sums: list[np.ndarray] = []
        self.added = 0
        self.add(next(stored), next(stored) != 0)
        self._settle()
        first = events // self._per_scalar_chunk * self._per_scalar_chunk
        self._values = self._stacked({name: dataset[first:events] for name, dataset in self._scalars.items()})

    @property
    def added_bytes(self) -> int:
        """Size of what was added, and of what is written with it [bytes]."""
        return sum(chunk.image_end + chunk.mask_end for chunk in self._chunks)

    def add(self, images: np.ndarray, masks: np.ndarray) -> None:
        """Pack pictures."""
        images, masks = np.ascontiguousarray(images), np.ascontiguousarray(masks)
        sums = np.empty((len(images), 3), dtype=np.int64)
        first = 0
        while first < len(images):
            if self._chunks[-1].pictures == self._per_chunk:
                self._chunks.append(_Chunk())
            chunk, (image_out, mask_out) = self._chunks[-1], self._buffer(len(self._chunks) - 1)
            some = slice(first, first + self._per_chunk - chunk.pictures)
            chunk.image_end, chunk.mask_end = kernels.pack_pictures(
                images[some], masks[some], self._scratch, image_out, chunk.image_end, mask_out, chunk.mask_end,
                sums[some],
            )  # fmt: skip
            chunk.pictures += len(images[some])
            first += len(images[some])
        self._sums.append(sums)
        self.added += len(images)

    def sums(self) -> np.ndarray:
        """Of each picture added (n, 3) int64: pixels of its mask, sum and sum of squares of the grey levels there."""
        return np.concatenate(self._sums)

    def write(self, scalars: Mapping[str, np.ndarray], events: int) -> None:
        """Write what was added after so many events, and its scalars."""
        self._write_scalars(scalars, events)
        place = events // self._per_chunk * self._per_chunk
        for chunk, (image_out, mask_out) in zip(self._chunks, self._buffers, strict=False):
            missing = (self._per_chunk - chunk.pictures) * self._picture
            image_size = kernels.end_chunk(missing, image_out, chunk.image_end)
            self._image.id.write_direct_chunk((place, 0, 0), image_out[:image_size])
            mask_size = kernels.end_chunk(missing, mask_out, chunk.mask_end)
            self._mask.id.write_direct_chunk((place, 0, 0), mask_out[:mask_size])
            place += self._per_chunk
        self._settle()

    def _settle(self) -> None:
        """Keep the last chunk, if it is not full."""
        last = len(self._chunks) - 1
        if self._chunks[last].pictures == self._per_chunk:
            self._chunks = [_Chunk()]
        elif last:
            self._chunks = self._chunks[-1:]
            self._buffers[0], self._buffers[last] = self._buffers[last], self._buffers[0]
        self._sums, self.added = [], 0

    def _buffer(self, number: int) -> np.ndarray:
        while len(self._buffers) <= number:
            buffer = np.empty((2, self._room), dtype=np.uint8)
            for out in buffer:
                kernels.write_header(self._per_chunk * self._picture, out)
            self._buffers.append(buffer)
        return self._buffers[number]

    def _write_scalars(self, scalars: Mapping[str, np.ndarray], events: int) -> None:
        per_chunk = self._per_scalar_chunk
        values = np.concatenate([self._values, self._stacked(scalars)], axis=1)
        n_chunks = -(-values.shape[1] // per_chunk)
        frames = np.empty((len(values), n_chunks, 8 * per_chunk + kernels.FRAME_BYTES), dtype=np.uint8)
        size = kernels.frame_columns(values.view(np.uint8), per_chunk, frames)
        first = events // per_chunk * per_chunk
        for dataset, own in zip(self._scalars.values(), frames, strict=True):
            for number, frame in enumerate(own):
                dataset.id.write_direct_chunk((first + number * per_chunk,), frame[:size])
        self._values = values[:, values.shape[1] // per_chunk * per_chunk :].copy()

    def _stacked(self, scalars: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scalars as rows of one int64 array, floats bit by bit; in the order of the datasets."""
        values = np.empty((len(self._scalars), len(next(iter(scalars.values())))), dtype=np.int64)
        for row, (name, dataset) in zip(values, self._scalars.items(), strict=True):
            row.view(dataset.dtype)[:] = scalars[name]
        return values


@dataclass
class _Chunk:
    """A chunk that grows: its pictures, and where the packed images and masks end."""

    pictures: int = 0
    image_end: int = kernels.HEADER_BYTES
    mask_end: int = kernels.HEADER_BYTES


def whole_events(path: str | os.PathLike[str]) -> tuple[int, bool]:
    """How many of the first events of a file are whole, and whether they are all it holds; all of it is read.

    A writer killed within a batch, or stopped by a full disk, may leave chunks unwritten, or torn so that their
    checksum fails.

    Raises
    ------
    OSError, RuntimeError, KeyError
        If the file cannot be read.
    """
    with h5py.File(path, "r") as file:
        datasets = list(file["events"].values())
        sizes = {int(file.attrs["experiment:event count"]), *map(len, datasets)}
        whole = min(sizes)
        for dataset in datasets:
            whole = _whole_rows(dataset, whole)
    return whole, sizes == {whole}


def copy_events(source: str | os.PathLike[str], target: str | os.PathLike[str], events: int) -> None:
    """Copy a file with its first events only. To cut the file itself fails where its index is damaged."""
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)
        new.attrs["experiment:event count"] = events
        old.copy("logs", new)
        group = new.create_group("events")
        for name, values in old["events"].items():
            step = values.chunks[0]
            dataset = _create(group, name, values.dtype, values.shape[1:], step)
            dataset.attrs.update(values.attrs)
            dataset.resize(events, axis=0)
            for first in range(0, events, step):
                dataset[first : first + step] = values[first : min(first + step, events)]


def _create(group: h5py.Group, name: str, dtype: type, shape: tuple[int, ...], chunk: int) -> h5py.Dataset:
    """An empty dataset that grows along its first axis, in chunks of so many events."""
    return group.create_dataset(
        name,
        shape=(0, *shape),
        maxshape=(None, *shape),
        chunks=(chunk, *shape),
        dtype=dtype,
        fletcher32=True,
        **hdf5plugin.Zstd(clevel=1),
    )


def _whole_rows(dataset: h5py.Dataset, rows: int) -> int:
    """How many of the first rows of a dataset can be read."""
    step = dataset.chunks[0]
    for first in range(0, rows, step):
        place = (first, *(0 for _ in dataset.shape[1:]))
        try:
            if dataset.id.get_chunk_info_by_coord(place).byte_offset is None:
                return first  # would read as zeros
            dataset[first : first + step]
        except (OSError, RuntimeError):
            return first
    return rows


def _log_lines(attributes: Mapping[str, str | int | float]) -> list[str]:
    """Lines for the file's log that say what is not what it seems."""
    lines = [
        f"Written by {attributes['setup:software version']}.",
        "frame is the first line of an event; frame rate is the line rate.",
        "userdef0 to userdef3: first line, last line, first sample, last sample of the event.",
        f"Grey level 0 is transmission {attributes['user:transmission at 0']:g}, "
        f"level 255 is {attributes['user:transmission at 255']:g}.",
    ]
    placeholders = [key for key in str(attributes["user:placeholders"]).split(", ") if key]
    lines += [f"Placeholder, not a measured value: {key} = {attributes[key]}" for key in placeholders]
    if "imaging:pixel size" in placeholders:
        lines.append("The pixel size is not known: lengths, areas and volumes are in pixels, not in um.")
    return lines

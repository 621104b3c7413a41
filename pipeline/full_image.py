"""The super-resolved image of every line of a capture as one HDF5 file, made in parallel and written piece by piece.

Rows of all segments follow each other. They are cut into chunks at multiples of a number of rows that the grid alone
fixes, and a chunk is imaged, packed and forgotten: neither memory nor any byte depends on the length of the capture, on
the number of workers, or on the samples of a task.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

from .. import __version__
from ..sr.reconstruct import Grid
from .cells import Job, image_lines
from .ome_tiff import frames_of

FORMAT, FORMAT_VERSION = "stretchscope image", 1
# Pixels of a chunk, which is what one task makes: 1 MiB of float32, as much as an HDF5 reader keeps at hand.
_CHUNK_PIXELS = 1 << 18
# Samples that the lines of a chunk may have: where rows are far apart, they are what takes memory.
_CHUNK_SAMPLES = 1 << 23
# Chunks of a task, which reads their samples at once, and tasks whose chunks are made before they are written.
_TASK_CHUNKS, _TASKS = 8, 8
# Bytes of a float32, from the highest on, that are worth packing: the rest is noise, for which packing costs time only.
_PACKED_BYTES = {"transmission": 2, "weight": 1}


@dataclass(frozen=True)
class Layout:
    """Where the rows of a capture's image lie.

    row_ends : ndarray of shape (segments,), int64
        Rows of the image up to the end of each segment.
    columns : int
    chunk_rows : int
        Rows of a chunk.
    """

    row_ends: np.ndarray
    columns: int
    chunk_rows: int

    @property
    def rows(self) -> int:
        return int(self.row_ends[-1])

    def pieces(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Segment, first row and last row + 1 in it, of each segment that has some of the rows first … stop - 1."""
        number = int(np.searchsorted(self.row_ends, first, side="right"))
        while first < stop:
            begin = int(self.row_ends[number - 1]) if number else 0
            end = min(stop, int(self.row_ends[number]))
            yield number, first - begin, end - begin
            first, number = end, number + 1


def layout_of(job: Job, grid: Grid) -> Layout:
    """Rows and columns of the image of all lines, and how it is cut."""
    background, segments = job.survey.background, job.survey.clock.segments
    rows = np.array([int((clock.lines - 1) / grid.lines_per_row) + 1 for clock in segments], dtype=np.int64)
    columns = max(2, int(np.floor(background.lit_samples * grid.columns_per_sample)) + 1)
    within = min(_CHUNK_PIXELS // columns, int(_CHUNK_SAMPLES / (grid.lines_per_row * background.period_samples)))
    ends = np.cumsum(rows)
    return Layout(ends, columns, min(max(within, 1), int(ends[-1])))


@dataclass(frozen=True)
class _Made:
    """What one task made: packed chunks that follow each other, and which rows they are.

    transmission, weight : list of bytes
        One chunk each.
    known : int
        Pixels that are known.
    row_line : ndarray of shape (rows,), float64
    segment : ndarray of shape (rows,), int32
    """

    transmission: list[bytes]
    weight: list[bytes]
    known: int
    row_line: np.ndarray
    segment: np.ndarray


def image_chunks(job: Job, grid: Grid, layout: Layout, first: int) -> _Made:
    """The next :data:`_TASK_CHUNKS` chunks from row ``first`` on, as far as there are any."""
    stop = min(first + _TASK_CHUNKS * layout.chunk_rows, layout.rows)
    parts = [_image_rows(job, grid, layout, *piece) for piece in layout.pieces(first, stop)]
    transmission, weight, row_line, segment = (
        arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for arrays in zip(*parts, strict=True)
    )
    known = int(np.count_nonzero(weight))
    chunks = [slice(begin, begin + layout.chunk_rows) for begin in range(0, stop - first, layout.chunk_rows)]
    return _Made(
        [_packed(transmission[c], layout.chunk_rows, np.nan, _PACKED_BYTES["transmission"]) for c in chunks],
        [_packed(weight[c], layout.chunk_rows, 0.0, _PACKED_BYTES["weight"]) for c in chunks],
        known,
        row_line,
        segment,
    )


def _image_rows(
    job: Job, grid: Grid, layout: Layout, number: int, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Transmission, weight, line and segment number of rows ``begin`` … ``end - 1`` of a segment."""
    clock = job.survey.clock.segments[number]
    # half a row and half a column more, so that rounding cannot drop the last one
    rows = float(clock.first_line), clock.first_line + (end - 0.5) * grid.lines_per_row
    tau = 0.0, (layout.columns - 0.5) / grid.columns_per_sample
    image = image_lines(job, grid, job.survey.segments[number], clock, rows, tau, begin)
    weight = image.std[: end - begin]
    np.multiply(weight, weight, out=weight)
    np.divide(np.float32(1), weight, out=weight)  # 0 where the standard deviation is infinite
    row_line = clock.first_line + np.arange(begin, end) * grid.lines_per_row
    return image.transmission[: end - begin], weight, row_line, np.full(end - begin, number, np.int32)


def _packed(values: np.ndarray, rows: int, fill: float, high_bytes: int) -> bytes:
    """A chunk of float32 as HDF5's filters shuffle and deflate would pack it; any HDF5 library reads it.

    The last chunk is filled up to ``rows``. All first bytes come first, then all second ones and so on. Only the last
    of these planes are squeezed: in the others noise is all there is, and a deflate stream may hold them as they are.
    """
    if len(values) < rows:
        values = np.pad(values, ((0, rows - len(values)), (0, 0)), constant_values=fill)
    planes = np.ascontiguousarray(values.astype("<f4", copy=False).view(np.uint8).reshape(-1, 4).T)
    stored = zlib.compressobj(0, zlib.DEFLATED, -15)
    squeezed = zlib.compressobj(1, zlib.DEFLATED, -15, 8, zlib.Z_RLE)
    split = 4 - high_bytes
    return b"".join(
        (
            b"\x78\x01",
            stored.compress(planes[:split].data),
            stored.flush(zlib.Z_FULL_FLUSH),
            squeezed.compress(planes[split:].data),
            squeezed.flush(),
            zlib.adler32(planes.data).to_bytes(4, "big"),
        )
    )


def write_full_image(job: Job, grid: Grid, path: Path, recipe: str, run: Callable[..., list[Any]]) -> dict[str, int]:
    """Write the image of all lines.

    Parameters
    ----------
    job, grid
        The run.
    path : Path
        File to write; removed again if that fails.
    recipe : str
        Fingerprint of capture, settings and version.
    run : callable
        ``run(function, calls)`` gives the results of calls, in order.

    Returns
    -------
    size : dict
        Rows, columns and known pixels of the image.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    layout, known = layout_of(job, grid), 0
    step = _TASK_CHUNKS * layout.chunk_rows
    calls = ((job, grid, layout, first) for first in range(0, layout.rows, step))
    try:
        with h5py.File(path, "w", track_order=True) as file:
            _prepare(file, job, grid, layout, recipe)
            first = 0
            while batch := list(islice(calls, _TASKS)):
                for made in run(image_chunks, batch):
                    for name in ("transmission", "weight"):
                        for i, chunk in enumerate(getattr(made, name)):
                            file[name].id.write_direct_chunk((first + i * layout.chunk_rows, 0), chunk)
                    stop = first + made.row_line.size
                    file["row_line"][first:stop], file["segment"][first:stop] = made.row_line, made.segment
                    if "row_um" in file:
                        file["row_um"][first:stop] = made.row_line * job.survey.geometry.um_per_line
                    known += made.known
                    first = stop
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # h5py's word for a disk that is full when a file is closed
            raise OSError(f"{path.name} cannot be written: {error}") from error
        raise
    return {"rows": layout.rows, "columns": layout.columns, "known_pixels": known}


def is_whole(image: Path, tiff: Path, recipe: str) -> bool:
    """Whether a finished image can be read, is of this recipe, and its TIFF was written to the end."""
    try:
        with h5py.File(image, "r") as file:  # fails where the file is cut off
            rows, columns = file["transmission"].shape
            if file.attrs["recipe"] != recipe:
                return False
        count, height = frames_of(rows)
        if tiff.stat().st_size < 4 * count * height * columns:
            return False
        with tifffile.TiffFile(tiff) as written:
            return written.ome_metadata is not None  # which is written last, behind all pixels
    except Exception:  # what the readers make of a broken file is theirs
        return False


def _prepare(file: h5py.File, job: Job, grid: Grid, layout: Layout, recipe: str) -> None:
    """Datasets without their rows, and what a reader must know of them."""
    survey, geometry = job.survey, job.survey.geometry
    file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, "software": f"stretchscope {__version__}"})
    file.attrs.update({"method": job.setup.method, "capture": job.path.name, "recipe": recipe} | asdict(grid))
    file.attrs.update({"sample_rate_hz": survey.sample_rate_hz, "line_rate_hz": survey.line_rate_hz})
    file.attrs["line_period_samples"] = survey.clock.period_samples
    for name in ("um_per_sample", "um_per_line"):
        if (value := getattr(geometry, name)) is not None:
            file.attrs[name] = value

    def add(name: str, units: str, meaning: str, **kind: Any) -> None:
        file.create_dataset(name, **kind).attrs.update({"units": units, "meaning": meaning})

    packed = {"shuffle": True, "compression": "gzip", "compression_opts": 1}
    pixels = {"shape": (layout.rows, layout.columns), "dtype": "<f4", "chunks": (layout.chunk_rows, layout.columns)}
    rows = {"shape": (layout.rows,), "chunks": (min(layout.rows, 1 << 14),), **packed}
    column_sample = np.arange(layout.columns) / grid.columns_per_sample
    add("transmission", "1", "light over that of an empty line; NaN unknown", fillvalue=np.nan, **pixels, **packed)
    add("weight", "1", "1 / variance of the transmission by the samples' noise; 0 unknown", **pixels, **packed)
    add("row_line", "lines", "line number of each row's centre", dtype="<f8", **rows)
    add("segment", "1", "number of the line clock that each row belongs to", dtype="<i4", **rows)
    add("column_sample", "samples", "centre of each column, after the start of the line", data=column_sample)
    if geometry.um_per_line is not None:
        add("row_um", "µm", "centre of each row along the flow, after line 0", dtype="<f8", **rows)
    if geometry.um_per_sample is not None:
        data = column_sample * geometry.um_per_sample
        add("column_um", "µm", "centre of each column, after the start of the line", data=data)

"""The image of a capture as OME-TIFF, for napari and Fiji; made from the HDF5 file, frame by frame."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

# Rows of a frame: no longer than what any graphics card shows at once, and of far fewer pixels than Java's arrays hold.
MOST_FRAME_ROWS = 4096
# Bytes of a strip, about.
_STRIP_BYTES = 1 << 18


def frames_of(rows: int) -> tuple[int, int]:
    """Number of frames, and rows of each; the last one may have fewer, by less than the number of frames."""
    count = -(-rows // MOST_FRAME_ROWS)
    return count, -(-rows // count)


def write_ome_tiff(image: Path, path: Path) -> None:
    """Write the transmission of an image as frames that follow each other in time.

    Parameters
    ----------
    image : Path
        Complete file of :func:`full_image.write_full_image`.
    path : Path
        File to write; removed again if that fails.

    Raises
    ------
    OSError
        If a file cannot be read or written.

    Notes
    -----
    A capture's image is a strip without end. Viewers want planes: Fiji's hold at most 2³¹ bytes, napari shows up to
    some thousand rows in full. So the strip is cut into frames, its time axis; row y of frame t is row
    ``t · frame rows + y`` of the HDF5 file, to the last bit. What the last frame lacks is NaN. Not compressed: frames
    lie one behind the other, so that viewers map them into memory and open captures of any length at once.
    """
    try:
        with h5py.File(image, "r") as file, tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=True) as tiff:
            transmission = file["transmission"]
            rows, columns = transmission.shape
            count, height = frames_of(rows)
            tiff.write(
                _frames(transmission, height),
                shape=(count, height, columns),
                dtype="<f4",
                photometric="minisblack",
                rowsperstrip=max(1, _STRIP_BYTES // (4 * columns)),
                software=file.attrs["software"],
                metadata=_metadata(file, height),
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _frames(transmission: h5py.Dataset, height: int) -> Iterator[np.ndarray]:
    for first in range(0, transmission.shape[0], height):
        frame = transmission[first : first + height]
        missing = height - frame.shape[0]
        yield np.pad(frame, ((0, missing), (0, 0)), constant_values=np.nan) if missing else frame


def _metadata(file: h5py.File, height: int) -> dict[str, Any]:
    """What goes into the OME-XML; lengths only where they are known, times only where no gap lies between."""
    known = dict(file.attrs)
    metadata: dict[str, Any] = {
        "axes": "TYX",
        "Name": Path(known["capture"]).stem,
        "Description": f"Transmission, 1 where empty, NaN unknown; rows along the flow; {known['method']}",
        "Channel": {"Name": ["transmission"]},
        "Creator": known["software"],
        # the same for the same pixels
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, known["recipe"])),
    }
    if "um_per_sample" in known:
        width = float(known["um_per_sample"] / known["columns_per_sample"])
        metadata |= {"PhysicalSizeX": width, "PhysicalSizeXUnit": "µm"}
    if "um_per_line" in known:
        metadata |= {"PhysicalSizeY": float(known["um_per_line"] * known["lines_per_row"]), "PhysicalSizeYUnit": "µm"}
    if file["segment"][-1] == 0:
        seconds = float(height * known["lines_per_row"] / known["line_rate_hz"])
        metadata |= {"TimeIncrement": seconds, "TimeIncrementUnit": "s"}
    return metadata

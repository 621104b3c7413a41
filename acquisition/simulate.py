"""Simulate the sample stream of a time-stretch microscope, of any length, in constant memory.

The first step where no instrument is at hand: a scene and an ``Instrument`` become samples, with the truth
beside them. The model, for sample k made by converter c = k mod C:

    x[k] = clip(round(dark + o_c + G_c·(b(k) + Σ_n g_n·[(s_n·p) ⊗ h](k + δ_c − t_n)) + w_k))

t_n is the real-valued instant [samples] at which the stretched pulse of line n begins (τ = k − t_n = 0): the
light of x = 0 arrives then, and that of x = field of view one pulse duration later; h, a Gaussian, adds no
delay. Line n sees the scene at y = n·(flow speed / line rate). Line 0 is the first whole line; empty ones lie
before it. b(k) is AC coupling's baseline, zero on average over empty lines; w_k is white noise, thermal and
shot noise in one.

Everything is made on tiles fixed to the sample index or the line index, whose random numbers are seeded by
the index of the tile: the samples do not depend on how the stream is cut (``_simulate_tiles`` is the engine).
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.phantoms import OBJECT_DTYPE, Scene, random_scene
from ..data.plankton import foreign_stamps, plankton_stamps
from ..data.stamps import Stamps, cell_stamps, image_stamps, label_of
from ._simulate_tiles import TILE_SAMPLES, check_count, tiles
from .metadata import CaptureMetadata
from .optics import Digitiser, Instrument, Interleave, LineClock, Optics
from .writer import CaptureWriter

#: What cells look like where no images are given.
PHANTOMS: dict[str, Callable[[int], Stamps]] = {
    "cells": cell_stamps,
    "plankton": plankton_stamps,
    "foreign": foreign_stamps,
}
MOST_LINE_STARTS = 2_000_000  # line starts stored as truth; of longer captures every so manieth

Progress = Callable[[int, int], None]


def blocks(
    scene: Scene,
    instrument: Instrument,
    *,
    seed: int,
    lines: int | None = None,
    block_samples: int = TILE_SAMPLES,
) -> Iterator[NDArray[np.integer]]:
    """Samples of a simulated capture, block by block; without end if ``lines`` is None.

    Parameters
    ----------
    scene : Scene
        Anything with ``transmission(x_um, y_um)``; see ``stretchscope.data.phantoms``.
    instrument : Instrument
        Optics, line clock and digitiser.
    seed : int
        Of all random numbers but the scene's own, 0 or more.
    lines : int, optional
        Whole lines of the capture, which ends where line number ``lines`` would start.
    block_samples : int, optional
        Samples per block; the last one may be shorter. It changes no sample.

    Yields
    ------
    ndarray of shape (block_samples,), the digitiser's dtype
        ADC codes.

    Raises
    ------
    ValueError
        If an argument makes no sense, or the scene's transmission has the wrong shape or is not finite.

    Notes
    -----
    One thread. Memory: some 10 MB, and what the scene needs. Line starts are float64: their resolution is
    1.5e-5 samples after 1e11 samples (20 s at 5 GSa/s).
    """
    check_count("block_samples", block_samples)
    waiting: list[NDArray[np.integer]] = []
    held = 0
    for tile in tiles(scene, instrument, seed, lines):
        waiting.append(tile.samples)
        held += tile.samples.size
        if held >= block_samples:
            whole = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            end = held - held % block_samples
            for first in range(0, end, block_samples):
                yield whole[first : first + block_samples]
            waiting, held = [whole[end:]], held - end
    if held:
        yield np.concatenate(waiting)


def simulate_capture(
    path: str | os.PathLike[str],
    scene: Scene,
    instrument: Instrument,
    *,
    lines: int,
    seed: int,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a simulated capture in stretchscope's format, with the truth in its group ``truth``.

    Parameters
    ----------
    path : path-like
        File to write.
    scene, instrument, lines, seed
        As for ``blocks``.
    overwrite : bool, optional
        Replace a file of that name.
    progress : callable, optional
        Called with (samples written, samples expected in all) now and then.

    Returns
    -------
    int
        Number of samples written.

    Raises
    ------
    ValueError
        As for ``blocks``; CaptureError, which is one, if the file cannot be written.

    Notes
    -----
    Datasets of ``truth``: ``line_start_samples`` (t_n of every line, or of every ``line_step``-th), ``cells``
    (the scene's objects, with the first and last line that sees each of them), ``kinds`` (what the cells'
    field ``kind`` numbers), ``labels`` (the label of each of these, empty where it has none), ``profile`` (empty
    line, codes above dark, at ``first_tau_samples + i·step_samples``), ``interleave_offset_codes``,
    ``interleave_gain``, ``interleave_skew_samples``. Scalars are attributes.
    Memory does not grow with the capture but for the truth: at most 16 MB of line starts, 92 bytes per cell.
    """
    check_count("lines", lines)
    step = math.ceil(lines / MOST_LINE_STARTS)
    expected = round((lines + 0.5) * instrument.line_period_samples)
    starts: list[NDArray[np.float64]] = []
    digitiser = instrument.digitiser
    with CaptureWriter(path, operator_metadata(instrument), digitiser.dtype, overwrite=overwrite) as writer:
        for tile in tiles(scene, instrument, seed, lines):
            writer.append(tile.samples)
            if tile.line_starts.size:
                starts.append(tile.line_starts[-tile.first_line % step :: step])
                last = tile.line_starts[-1]
            if progress is not None:
                progress(writer.samples, max(expected, writer.samples))
        samples = writer.samples
        period = instrument.line_period_samples
        writer.write_truth(
            "line_start_samples",
            np.concatenate(starts),
            line_step=step,
            lines=lines,
            line_period_samples=period,
            mean_line_period_samples=(last - starts[0][0]) / (lines - 1) if lines > 1 else period,
            um_per_sample=instrument.um_per_sample,
            um_per_line=instrument.optics.um_per_line,
            seed=seed,
        )
        _write_truth_of_signal(writer, instrument)
        writer.write_truth("cells", seen_cells(scene, instrument, lines))
        kinds = getattr(scene, "kinds", ())
        writer.write_truth("kinds", np.array(kinds, dtype="U"))
        writer.write_truth("labels", np.array([label_of(kind) for kind in kinds], dtype="U"))
    return samples


def simulate(
    path: str | os.PathLike[str],
    *,
    sample_rate_hz: float = 5e9,
    lines: int = 200_000,
    cells: int = 500,
    seed: int = 1,
    phantoms: str = "cells",
    images: str | os.PathLike[str] | None = None,
    line_rate_hz: float = 11.6e6,
    pulse_duration_s: float = 45e-9,
    flow_speed_m_per_s: float = 2.0,
    field_of_view_um: float = 48.0,
    bits: int = 8,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a capture of random cells in flow, by an ordinary instrument with all its faults.

    Parameters
    ----------
    path : path-like
        File to write.
    sample_rate_hz, line_rate_hz, pulse_duration_s, flow_speed_m_per_s, field_of_view_um, bits
        As in ``Optics`` and ``Digitiser``.
    lines, cells : int, optional
        Whole lines of the capture, and cells in it.
    seed : int, optional
        The same seed gives the same samples.
    phantoms : str, optional
        What the cells look like: "cells", roundish ones without label, or "plankton", labelled shapes of phytoplankton.
    images : path-like, optional
        Folder of images (dark object on white) to take the cells from instead, sub-folders included. Where these are
        classes, the truth says of which each cell is. Of more images than cells, as many spread evenly are taken.
    overwrite, progress
        As for ``simulate_capture``.

    Returns
    -------
    int
        Number of samples written.

    Raises
    ------
    ValueError
        If an argument makes no sense, the cells have no room, the folder holds no image, or the disk has no room.
    """
    check_count("lines", lines)
    check_count("cells", cells, least=0)
    check_count("seed", seed, least=0)
    if phantoms not in PHANTOMS:
        raise ValueError(f"phantoms must be one of {', '.join(PHANTOMS)}, got {phantoms!r}")
    instrument = ordinary_instrument(
        sample_rate_hz=sample_rate_hz,
        line_rate_hz=line_rate_hz,
        pulse_duration_s=pulse_duration_s,
        flow_speed_m_per_s=flow_speed_m_per_s,
        field_of_view_um=field_of_view_um,
        bits=bits,
    )
    folder = Path(path).absolute().parent
    size = lines * instrument.line_period_samples * instrument.digitiser.dtype.itemsize
    if folder.is_dir() and size > (free := shutil.disk_usage(folder).free):
        raise ValueError(f"{path}: {lines} lines take {size / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free there")
    length_um = lines * instrument.optics.um_per_line
    scene = random_scene(
        PHANTOMS[phantoms](seed) if images is None else image_stamps(images, most=max(cells, 1)),
        field_of_view_um=field_of_view_um,
        per_mm=1000 * cells / length_um,
        length_um=length_um,
        seed=seed,
    )
    return simulate_capture(path, scene, instrument, lines=lines, seed=seed, overwrite=overwrite, progress=progress)


def ordinary_instrument(
    *,
    sample_rate_hz: float,
    line_rate_hz: float,
    pulse_duration_s: float,
    flow_speed_m_per_s: float,
    field_of_view_um: float,
    bits: int,
    clock: LineClock | None = None,
) -> Instrument:
    """An instrument with the faults of an ordinary one: noise, four mismatched converters, a wandering line clock.

    Arguments as in ``Optics`` and ``Digitiser``; ``clock`` replaces the ordinary line clock. ValueError if one
    makes no sense.
    """
    return Instrument(
        optics=Optics(
            line_rate_hz=line_rate_hz,
            pulse_duration_s=pulse_duration_s,
            field_of_view_um=field_of_view_um,
            flow_speed_m_per_s=flow_speed_m_per_s,
        ),
        clock=LineClock() if clock is None else clock,
        digitiser=Digitiser(
            sample_rate_hz=sample_rate_hz,
            bits=bits,
            thermal_noise_codes=0.5 * 2.0 ** (bits - 8),
            shot_noise_codes=0.7 * 2.0 ** (bits - 8),
            interleave=Interleave(
                offset_codes=(0.6, -1.1, 0.4, 0.1),
                gain=(0.996, 0.992, 1.012, 1.0),
                skew_s=(0.0, 0.2e-12, -0.4e-12, 0.3e-12),
            ),
        ),
    )


def operator_metadata(instrument: Instrument) -> CaptureMetadata:
    """What an operator would note: the line period roughly, the dark level only where no gap shows it."""
    optics, digitiser = instrument.optics, instrument.digitiser
    lit = optics.pulse_duration_s * optics.line_rate_hz
    return CaptureMetadata(
        sample_rate_hz=digitiser.sample_rate_hz,
        bits=digitiser.bits,
        nominal_line_period_samples=round(instrument.line_period_samples),
        flow_speed_m_per_s=optics.flow_speed_m_per_s,
        field_of_view_um=optics.field_of_view_um,
        pulse_duration_s=optics.pulse_duration_s,
        lines_per_sample=instrument.um_per_sample / optics.um_per_line,
        dark_level_codes=digitiser.dark_codes if lit > 0.9 else None,
        instrument="stretchscope simulator",
    )


def _write_truth_of_signal(writer: CaptureWriter, instrument: Instrument) -> None:
    digitiser, interleave = instrument.digitiser, instrument.digitiser.interleave
    step = min(2.0 ** math.floor(math.log2(digitiser.response_samples / 4)), 1 / 16)
    first, profile = instrument.profile(step)
    writer.write_truth(
        "profile",
        profile,
        first_tau_samples=first,
        step_samples=step,
        dark_level_codes=digitiser.dark_codes,
        thermal_noise_codes=digitiser.thermal_noise_codes,
        shot_noise_codes_at_peak=digitiser.shot_noise_codes,
        noise_std_codes=math.sqrt(digitiser.thermal_noise_codes**2 + 1 / 12),  # dark, rounding included
        jitter_samples=instrument.clock.jitter_s * digitiser.sample_rate_hz,
    )
    writer.write_truth("interleave_offset_codes", interleave.offset_codes)
    writer.write_truth("interleave_gain", interleave.gain)
    writer.write_truth("interleave_skew_samples", np.array(interleave.skew_s) * digitiser.sample_rate_hz)


def seen_cells(scene: Scene, instrument: Instrument, lines: int) -> NDArray[np.void]:
    """The scene's objects, with fields line_first and line_last: the lines that see each of them."""
    pitch = instrument.optics.um_per_line
    listed = getattr(scene, "objects", None)
    objects = np.empty(0, OBJECT_DTYPE) if listed is None else listed(0.0, (lines - 1) * pitch)
    cells = np.empty(objects.shape, dtype=[*OBJECT_DTYPE.descr, ("line_first", "i8"), ("line_last", "i8")])
    for name in OBJECT_DTYPE.names or ():
        cells[name] = objects[name]
    cells["line_first"] = np.maximum(np.ceil(objects["y_first_um"] / pitch), 0)
    cells["line_last"] = np.minimum(np.floor(objects["y_last_um"] / pitch), lines - 1)
    return cells[cells["line_first"] <= cells["line_last"]]

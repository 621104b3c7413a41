"""A live run from start to end: calibrate, prepare the files, run, close, and say what was seen."""

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..acquisition.source import LoopSource, Source, SourceError
from ..sr._kernels import CONVERTERS
from ..sr._screen_kernels import widest_gap
from ._crop_kernels import most_alike
from .labels import CellModel
from .live import LivePipeline
from .live_display import LiveDisplay, LiveStatus
from .live_results import LiveResults, OutputThread, prepare_folder, warm_up_files
from .live_setup import Calibration
from .results import OutputError, columns_of, rtdc_metadata
from .rtdc import RtdcMetadata

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

# A ring that suits Python: each block costs some fixed time, however long it is, so they are long; but cells wait for a
# block's end [s, samples]. The ring holds a multiple of what the slowest reader is ever late by [s].
_BLOCK_S, _LONGEST_BLOCK, _RING_S = 0.006, 1 << 25, 0.107
# Lines on which the kernels are compiled, or loaded from the cache, before the clock starts.
_WARM_UP_LINES = 4000


def ring_for(rate_hz: float) -> tuple[int, int]:
    """Samples of a block, a power of two, and blocks of the ring for a sample rate."""
    block = min(1 << max(round(math.log2(rate_hz * _BLOCK_S)), 16), _LONGEST_BLOCK)
    return block, max(round(_RING_S * rate_hz / block), 8)


def run_stream(
    source: Source,
    calibration: Calibration,
    *,
    folder: Path | None = None,
    stem: str = "stream",
    duration_s: float | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    image_share: float = 1.0,
    model: CellModel | None = None,
    display: LiveDisplay | None = None,
    on_start: Callable[[LivePipeline], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a source to its end, for ``duration_s`` seconds of signal, or until it is stopped.

    Parameters
    ----------
    source : Source
        Not started.
    calibration : Calibration
        Of that source; its grid and empty line.
    folder : Path, optional
        Where the results go; None: cells are counted only.
    stem : str, optional
        Name of the run's files.
    duration_s : float, optional
        Seconds of signal (samples / rate) after which the run ends.
    overwrite : bool, optional
        Replace a finished run of that name.
    workers : int, optional
        Threads; one per core by default.
    image_share : float, optional
        Share of the cells that get an image and all features.
    model : CellModel, optional
        What tells the class of cells with an image.
    display : LiveDisplay, optional
        Shown meanwhile.
    on_start : callable, optional
        Given the pipeline before it starts, for who wants to stop it.
    say : callable, optional
        Takes messages, one line each.

    Returns
    -------
    record : dict
        The run record, as written; ``error`` in it is None or why the run ended early.

    Raises
    ------
    OutputError
        If the results cannot be written at the start.
    ModelError
        If the model takes sizes in µm, and the source does not tell them.
    """
    if model is not None:
        model.check_scale(calibration.setup.pixel_um(calibration.grid), stem)
    metadata = stream_metadata(source, calibration, model)
    output = None
    if folder is not None:
        for message in prepare_folder(folder, stem, overwrite):
            say(message)
        output = OutputThread(LiveResults(folder, stem, _columns(calibration, model), metadata, calibration.crop_px))
    try:
        pipeline = LivePipeline(
            source, calibration, output, metadata, workers=workers, image_share=image_share, model=model
        )
        if on_start is not None:
            on_start(pipeline)
        most = None if duration_s is None else round(duration_s * source.sample_rate_hz)
        watch = _Watch(pipeline, display) if display is not None else None
        begin = time.perf_counter()
        with display if display is not None else nullcontext():
            pipeline.run(most_samples=most, watch=watch)
            if output is not None:
                output.drain()
    except BaseException:
        if output is not None:
            output.abandon()
        raise
    wall_s = time.perf_counter() - begin
    errors = [pipeline.error, output.error if output is not None else None]
    error = next((str(e) or type(e).__name__ for e in errors if e is not None), None)
    record = _record(source, calibration, pipeline, wall_s, error, model)
    if output is not None:
        try:
            output.close(record)
        except Exception as failed:  # it may well be the first, where the table finds no room at the end
            record["error"] = record["summary"]["error"] = error or str(failed) or type(failed).__name__
            output.leave(record)
            say(
                f"{folder}: {record['summary']['cells_written']} cells are kept under .part names; the next run into "
                "that folder completes them"
            )
            if not isinstance(failed, OutputError):
                raise
    if pipeline.error is not None and not isinstance(pipeline.error, SourceError):
        raise pipeline.error
    return record


class _Watch:
    """Makes the display's status of a pipeline, when it is due."""

    def __init__(self, pipeline: LivePipeline, display: LiveDisplay) -> None:
        self._display = display
        self._begin = self._last_time = time.perf_counter()
        self._last_samples = self._last_cells = 0

    def __call__(self, pipeline: LivePipeline) -> None:
        if not self._display.due():
            return
        now, account, output = time.perf_counter(), pipeline.account, pipeline.output
        step = max(now - self._last_time, 1e-9)
        processed = account.processed
        recent = (processed - self._last_samples) / step
        status = LiveStatus(
            elapsed_s=now - self._begin,
            rate_sa_s=recent,
            realtime_factor=realtime_factor(pipeline, now - self._begin),
            cells=account.cells,
            cells_per_s=(account.cells - self._last_cells) / step,
            queue_mib=0.0 if output is None else output.queued_bytes / (1 << 20),
            queue_most_mib=0.0 if output is None else output.most_queued_bytes / (1 << 20),
            ring=pipeline.fill,
            ring_most=account.most_fill,
            lock="locked" if pipeline.clock.locked else "searching",
            latency_p50_ms=pipeline.latency.quantile_ms(0.5),
            latency_p99_ms=pipeline.latency.quantile_ms(0.99),
            dropped={f"samples {reason}": count for reason, count in account.dropped.items()}
            | {"rows refused by the output": account.rows_refused},
        )
        self._last_time, self._last_samples, self._last_cells = now, processed, account.cells
        self._display.update(status)


def realtime_factor(pipeline: LivePipeline, wall_s: float) -> float:
    """Seconds of the signal that was processed, per second of work.

    Of all seconds unpaced, of those that some worker was busy in when paced; then a second of signal is what comes in
    one. What is dropped counts as work, but not as signal.
    """
    rate_hz = pipeline.source.sample_rate_hz
    if pipeline.paced:
        rate_hz = pipeline.pace_hz
        wall_s -= pipeline.idleness.seconds
    return pipeline.account.processed / rate_hz / max(wall_s, 1e-9)


def peak_memory_mib() -> float | None:
    """Most memory that the process ever held [MiB]; None where the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What ``stream --json`` prints."""
    return dict(record["summary"])


def _record(
    source: Source,
    calibration: Calibration,
    pipeline: LivePipeline,
    wall_s: float,
    error: str | None,
    model: CellModel | None,
) -> dict[str, Any]:
    account, output = pipeline.account, pipeline.output
    not_written = account.rows_refused + (output.rows_lost if output is not None else 0)
    return {
        "stretchscope": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "source": {"kind": type(source).__name__, **asdict(source.metadata)},
        "settings": calibration.setup.settings.as_dict(),
        "model": None if model is None else model.as_dict(),
        "signal": {
            "line_period_samples": pipeline.clock.period_samples,
            "line_rate_hz": source.sample_rate_hz / pipeline.clock.period_samples,
            "warnings": list(calibration.warnings),
        },
        "grid": asdict(calibration.grid) | {"pixel_um": calibration.setup.pixel_um(calibration.grid)},
        "error": error,
        "summary": {
            "samples_offered": account.offered,
            "samples_processed": account.processed,
            "samples_dropped": sum(account.dropped.values()),
            "realtime_factor": realtime_factor(pipeline, wall_s),
            "sample_rate_hz": source.sample_rate_hz,
            "lines": account.lines,
            "cells_found": account.cells,
            "cells_written": None if output is None else account.cells - not_written,
            "cells_not_written": not_written,
            "images": account.images,
            "classes": None if model is None else model.all_counts(account.labels),
            "cells_per_second": account.cells / max(wall_s, 1e-9),
            "latency_ms": pipeline.latency.as_dict(),
            "cpu_count": os.cpu_count(),
            "peak_memory_mib": peak_memory_mib(),
            "error": error,
        },
        "accounting": {
            "samples_dropped": dict(account.dropped),
            "samples_lost_estimated": account.lost_estimated,
            "source_restarts": account.restarts,
            "samples_saturated": account.saturated,
            "blocks": account.blocks,
            "pieces_dropped": account.pieces_dropped,
            "cells_refused_by_output": account.rows_refused,
            "line_clock_losses": pipeline.clock.losses,
            "recalibrations": pipeline.recalibrations,
            "recalibration_error": pipeline.recalibration_error,
            "most_ring_fill": account.most_fill,
            "most_bytes_waiting": 0 if pipeline.output is None else pipeline.output.most_queued_bytes,
        },
        "timings_s": {"wall": wall_s, "all_workers_waited": pipeline.idleness.seconds},
    }


def stream_metadata(source: Source, calibration: Calibration, model: CellModel | None = None) -> RtdcMetadata:
    return rtdc_metadata(
        calibration.setup,
        calibration.grid,
        source.metadata,
        line_rate_hz=calibration.line_rate_hz,
        sample="stream",
        run_identifier=f"{time.time_ns():x}",
        start=datetime.now(UTC),
        model=model,
    )


def _columns(calibration: Calibration, model: CellModel | None) -> tuple[str, ...]:
    geometry = calibration.setup.geometry
    return columns_of(calibrated=geometry.calibrated, position_um=geometry.um_per_sample is not None, model=model)


def warm_up(source: Source, calibration: Calibration, *, files: bool, model: CellModel | None = None) -> None:
    """Compile the kernels, or load them, for exactly the arrays that will come: read-only blocks among them.

    ``files``: those that write results, too.
    """
    background = calibration.setup.empty_line.background
    period = background.period_samples
    lines = _WARM_UP_LINES
    tau = np.arange(int(lines * period), dtype=np.float64) % period
    light = background.profile.light(tau)
    first_line = np.floor(np.arange(tau.size) / period)
    # a dark square every 500 lines, so that there are events to measure
    inside = (first_line % 500 < 60) & (np.abs(tau - 0.5 * background.lit_samples) < 0.1 * background.lit_samples)
    gains = np.array(background.interleave_gain)
    converter = np.arange(tau.size) % CONVERTERS % gains.size
    codes = np.array(background.interleave_offset_codes)[converter] + gains[converter] * light * (1 - 0.4 * inside)
    noise = np.random.default_rng(0).normal(0, background.noise_std_codes, tau.size)
    info = np.iinfo(source.dtype)
    samples = np.clip(np.rint(codes + noise), info.min, info.max).astype(source.dtype)
    once = LoopSource(samples, source.sample_rate_hz, metadata=source.metadata, block_samples=samples.size, paced=False)
    metadata = stream_metadata(source, calibration, model)
    pipeline = LivePipeline(once, calibration, None, metadata, workers=1, model=model)
    pipeline.run(most_samples=samples.size)
    few = LivePipeline(once, calibration, None, metadata, workers=1, image_share=0.5, model=model)
    few.run(most_samples=samples.size)
    for error in (pipeline.error, few.error):
        if error is not None:
            raise error
    # only where rows are flagged without end
    widest_gap(np.zeros(1, np.bool_), 0, 0, 0)
    most_alike(np.zeros((1, 4)), np.zeros((1, 4)))
    if files:
        warm_up_files(_columns(calibration, model), metadata, calibration.crop_px)

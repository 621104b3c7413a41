"""The command line: thin shells that read arguments, call one function each and say what happened.

What is computed elsewhere is imported where it is used, so that ``stretchscope --help`` starts at once. Results for
programs go to standard output, everything else to standard error.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from .execution import Execution
    from .labels import CellModel
    from .settings import Settings


class _Commands(TyperGroup):
    """The commands; an interruption of any says so and ends with status 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            kept = "; --resume goes on with what was complete" if ctx.invoked_subcommand == "process" else ""
            _say(f"interrupted{kept}")
            raise SystemExit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Time-stretch microscopy in software: from ADC samples to super-resolved, measured cells.",
)

CaptureFile = Annotated[Path, typer.Argument(metavar="CAPTURE", help="HDF5 capture of any known layout.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", metavar="TOML", help="Settings; flags go before them.")
]
SampleRate = Annotated[
    float | None, typer.Option("--sample-rate", metavar="HZ", help="Sample rate, in place of the file's.")
]
DarkLevel = Annotated[
    float | None, typer.Option("--dark-level", metavar="CODES", help="Code without light, where no gap shows it.")
]
FlowSpeed = Annotated[float | None, typer.Option("--flow-speed", metavar="M_PER_S", help="Flow speed.")]
FieldOfView = Annotated[float | None, typer.Option("--field-of-view", metavar="UM", help="Length of the imaged line.")]
ModelFile = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="ONNX", help="Model that tells each cell's class; 'phantoms': the one that comes along."
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=256, help="Threads; default: one per core.")]


def main() -> None:
    """Entry point: errors in the input become one line and exit status 2."""
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except ValueError as error:
        if not _is_input_error(error):
            raise
        _say(f"error: {error}")
        raise SystemExit(2) from None


def _is_input_error(error: ValueError) -> bool:
    from ..acquisition import CaptureError
    from ..acquisition.source import SourceError
    from ..classify.model import ModelError
    from ..data.collections import CollectionError
    from .results import OutputError
    from .settings import SettingsError
    from .training import TrainingError

    known = CaptureError | SourceError | CollectionError | ModelError | OutputError | SettingsError | TrainingError
    return isinstance(error, known | typer.BadParameter)


def _say(text: str) -> None:
    with suppress(OSError):  # whoever listened is gone
        typer.echo(text, err=True)


def _print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on standard output; OutputError where that takes none."""
    from .results import OutputError

    try:
        typer.echo(json.dumps(values, allow_nan=False))
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it fails again at the exit
        raise OutputError(f"standard output: cannot be written: {error.strerror}") from error


@contextmanager
def _progress(what: str, unit: str = "samples") -> Iterator[Callable[..., None]]:
    """A progress bar with rate and remaining time on a terminal; silent elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def update(done: int, total: int, cells: int | None = None) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed or 0.0
            rate = f"{speed / 1e6:.0f} M{unit}/s" + (f", {cells} cells" if cells is not None else "")
            bar.update(task, total=total, completed=done, rate=rate)

        yield update


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Capture to write.")],
    rate: Annotated[float, typer.Option(metavar="HZ", help="Sample rate.")] = 5e9,
    lines: Annotated[int, typer.Option(min=1, help="Whole lines.")] = 200_000,
    cells: Annotated[int, typer.Option(min=0, help="Cells among them.")] = 500,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same samples.")] = 1,
    phantoms: Annotated[str, typer.Option(help="What cells look like: cells, plankton, or foreign to both.")] = "cells",
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of images to take cells from; its folders are labels.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a capture, with the truth stored beside the samples."""
    from ..acquisition import CaptureError
    from ..acquisition.simulate import simulate as run

    with _progress("simulating") as progress:
        try:
            samples = run(
                output, sample_rate_hz=rate, lines=lines, cells=cells, seed=seed, phantoms=phantoms, images=images,
                overwrite=overwrite, progress=progress,
            )  # fmt: skip
        except ValueError as error:
            raise CaptureError(str(error)) from error
    _say(f"{output}: {samples} samples, {lines} lines, {cells} cells")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SAMPLES", help="Raw dump of one channel.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Capture to write.")],
    sample_rate: Annotated[float, typer.Option(metavar="HZ", help="Sample rate.")],
    dtype: Annotated[str, typer.Option(help="int8 uint8 int16 uint16 >i2 >u2 <i2 <u2, or packed12le/be[-signed].")],
    header_bytes: Annotated[int, typer.Option(min=0, help="Bytes before the first sample.")] = 0,
    bits: Annotated[int | None, typer.Option(min=1, max=16, help="Bits of the converter.")] = None,
    flow_speed: FlowSpeed = None,
    field_of_view: FieldOfView = None,
    pulse_duration: Annotated[float | None, typer.Option(metavar="S", help="Length of the stretched pulse.")] = None,
    dark_level: DarkLevel = None,
    instrument: Annotated[str | None, typer.Option(help="Name of the instrument.")] = None,
    start_time: Annotated[str | None, typer.Option(help="ISO 8601 time of the first sample.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn the raw binary dump of a digitiser into a capture."""
    from ..acquisition import convert_raw

    with _progress("converting") as progress:
        samples = convert_raw(
            source, output, sample_rate_hz=sample_rate, dtype=dtype, header_bytes=header_bytes, overwrite=overwrite,
            progress=progress, bits=bits, flow_speed_m_per_s=flow_speed, field_of_view_um=field_of_view,
            pulse_duration_s=pulse_duration, dark_level_codes=dark_level, instrument=instrument, start_time=start_time,
        )  # fmt: skip
    _say(f"{output}: {samples} samples")


@app.command()
def info(
    capture: CaptureFile, as_json: AsJson = False, sample_rate: SampleRate = None, dark_level: DarkLevel = None
) -> None:
    """Measure a capture: line period, lines, pulse, noise, saturation, converters."""
    from ..acquisition import open_capture
    from .settings import Settings
    from .survey import count_saturated, describe, survey_capture

    settings = Settings().with_capture(sample_rate_hz=sample_rate, dark_level_codes=dark_level)
    with open_capture(capture, sample_rate_hz=sample_rate) as opened:
        survey = survey_capture(opened, settings.capture)
        facts = describe(opened, survey, count_saturated(opened, survey.background.code_limits))
    for warning in facts["warnings"]:
        _say(f"warning: {capture}: {warning}")
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        if name != "warnings":
            typer.echo(f"{name:34} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(v) for v in value)
    return "unknown" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


@app.command()
def process(
    captures: Annotated[list[Path], typer.Argument(metavar="CAPTURE...", help="HDF5 captures.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    workers: Workers = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers see the files.")
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a broken run, keep a finished one.")] = False,
    settings_file: SettingsFile = None,
    model_file: ModelFile = None,
    full_image: Annotated[
        bool, typer.Option("--full-image", help="Also write the image of every line, for Python, napari and Fiji.")
    ] = False,
    sample_rate: SampleRate = None,
    dark_level: DarkLevel = None,
    flow_speed: FlowSpeed = None,
    field_of_view: FieldOfView = None,
    chunk_samples: Annotated[
        int | None, typer.Option(min=1 << 16, help="Samples of one task; changes memory and speed, no result.")
    ] = None,
) -> None:
    """Process captures: super-resolved images and a table of cells."""
    from .settings import Settings, SettingsError, read_settings

    if overwrite and resume:
        raise SettingsError("--overwrite and --resume exclude each other")
    if workers is not None and scheduler is not None:
        raise SettingsError("--workers and --scheduler exclude each other: the scheduler's workers do the work")
    stems: dict[str, Path] = {}
    for path in captures:
        if path.stem in stems:
            raise SettingsError(
                f"{stems[path.stem]} and {path} have one stem, so their results would have one name: "
                "process them into different folders"
            )
        stems[path.stem] = path
    settings = (read_settings(settings_file) if settings_file else Settings()).with_capture(
        sample_rate_hz=sample_rate,
        dark_level_codes=dark_level,
        flow_speed_m_per_s=flow_speed,
        field_of_view_um=field_of_view,
    )
    model = _model(model_file)
    with _execution(workers, scheduler, chunk_samples) as execution:
        failed = sum(
            not _process_one(
                path, output, settings, execution, model, overwrite=overwrite, resume=resume, full_image=full_image
            )
            for path in captures
        )
    if failed:
        raise typer.Exit(2 if failed == len(captures) else 1)


def _model(path: Path | None) -> "CellModel | None":
    from .labels import load_cell_model

    return None if path is None else load_cell_model(path)


@contextmanager
def _execution(workers: int | None, scheduler: str | None, chunk_samples: int | None) -> Iterator["Execution"]:
    from .execution import CHUNK_SAMPLES, Execution
    from .settings import SettingsError

    execution = Execution(workers=workers, scheduler=scheduler, chunk_samples=chunk_samples or CHUNK_SAMPLES)
    if scheduler is None:
        yield execution
        return
    from distributed import Client

    try:
        client = Client(scheduler, timeout="10s", set_as_default=True)
    except (OSError, ValueError, TimeoutError) as error:
        raise SettingsError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client:
        yield execution


def _process_one(
    path: Path,
    output: Path,
    settings: "Settings",
    execution: "Execution",
    model: "CellModel | None",
    *,
    overwrite: bool,
    resume: bool,
    full_image: bool,
) -> bool:
    """Process one capture and say what came of it; False if it failed."""
    from dataclasses import replace

    from .batch import process_capture

    try:
        with _progress(path.name) as progress:
            record = process_capture(
                path, output, settings, overwrite=overwrite, resume=resume, full_image=full_image, model=model,
                execution=replace(execution, progress=progress),
            )  # fmt: skip
    except ValueError as error:
        if not _is_input_error(error):
            raise
        _say(f"error: {error}")
        return False
    for warning in record["signal"]["warnings"]:
        _say(f"warning: {path}: {warning}")
    signal, counted = record["signal"], record["accounting"]
    _say(
        f"{path}: {counted['cells']} cells in {counted['lines']} lines, line period "
        f"{signal['line_period_samples']:.7g} samples; see {output / path.stem}.html"
    )
    _say_classes(record["classes"])
    return True


def _say_classes(counts: dict[str, int] | None) -> None:
    if counts is not None:
        found = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
        _say("classes: " + (", ".join(f"{counts[name]} {name}" for name in found) or "none"))


@app.command()
def calibrate(
    capture: CaptureFile,
    bead_diameter: Annotated[float, typer.Option("--bead-diameter-um", metavar="UM", help="Diameter of the beads.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="TOML", help="Settings file to write for later runs.")
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    settings_file: SettingsFile = None,
    sample_rate: SampleRate = None,
    dark_level: DarkLevel = None,
    workers: Workers = None,
) -> None:
    """Measure beads of known size: µm per sample and per line, for later runs' --settings."""
    from dataclasses import asdict

    from .calibrate import calibrate_beads
    from .results import OutputError
    from .settings import Settings, SettingsError, read_settings
    from .whole_file import write_whole

    if not 0.01 <= bead_diameter <= 10_000:
        raise SettingsError(f"--bead-diameter-um must lie between 0.01 and 10000, got {bead_diameter:g}")
    if output is not None and output.exists():
        if capture.exists() and output.samefile(capture):
            raise OutputError(f"{output} is the capture itself: give another output")
        if not overwrite:
            raise OutputError(f"{output} exists: give --overwrite to replace it")
    settings = (read_settings(settings_file) if settings_file else Settings()).with_capture(
        sample_rate_hz=sample_rate, dark_level_codes=dark_level
    )
    with _execution(workers, None, None) as execution:
        result = calibrate_beads(capture, bead_diameter, settings, execution)
    spread = max(result.size_spread_along_line, result.size_spread_along_flow)
    if spread > 0.1:
        _say(f"warning: {capture}: the beads' sizes scatter by {100 * spread:.0f} %: are they beads of one size?")
    if output is not None:
        write_whole(output, result.as_toml(capture.name, bead_diameter).encode())
    if as_json:
        _print_json(asdict(result))
        return
    for name, value in asdict(result).items():
        typer.echo(f"{name:26} {_shown(value)}")
    if output is not None:
        _say(f"{output}: give it to later runs with --settings")


@app.command()
def plan(
    rate: Annotated[float, typer.Option(metavar="HZ", help="Sample rate of the digitiser.")] = 5e9,
    line_rate: Annotated[float, typer.Option(metavar="HZ", help="Lines, hence laser pulses, per second.")] = 11.6e6,
    flow_speed: Annotated[float, typer.Option(metavar="M_PER_S", help="Flow speed.")] = 2.0,
    field_of_view: Annotated[float, typer.Option(metavar="UM", help="Length of the imaged line.")] = 48.0,
    pulse_duration: Annotated[
        float | None,
        typer.Option(metavar="S", help="Length of the stretched pulse; default: 45 ns, or the line's period."),
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(metavar="HZ", help="-3 dB bandwidth of detector and digitiser.")
    ] = None,
    optical_resolution: Annotated[
        float | None, typer.Option(metavar="UM", help="Resolution of the optics, full width at half maximum.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a sample rate and a line rate let one see: phases, lines needed, resolution on both axes."""
    from .plan import as_text, plan_run

    planned = plan_run(
        sample_rate_hz=rate, line_rate_hz=line_rate, flow_speed_m_per_s=flow_speed, field_of_view_um=field_of_view,
        pulse_duration_s=pulse_duration, bandwidth_hz=bandwidth, optical_resolution_um=optical_resolution,
    )  # fmt: skip
    for warning in planned["warnings"]:
        _say(f"warning: {warning}")
    if as_json:
        _print_json(planned)
    else:
        typer.echo("\n".join(as_text(planned)))


@app.command()
def stream(
    context: typer.Context,
    rate: Annotated[float, typer.Option(metavar="HZ", help="Sample rate; of a file, the pace of its replay.")] = 5e9,
    duration: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds of signal; until the end or Ctrl-C by default.")
    ] = None,
    source: Annotated[str, typer.Option(metavar="simulated|FILE", help="Where the samples come from.")] = "simulated",
    unpaced: Annotated[bool, typer.Option("--unpaced", help="As fast as it goes, instead of at the rate.")] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for results; else cells are counted."),
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    settings_file: SettingsFile = None,
    model_file: ModelFile = None,
    images: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the cells with an image; the others get fewer features.")
    ] = 1.0,
    cells_per_second: Annotated[
        float, typer.Option(min=0, max=1e6, help="Simulated: cells per second of signal.")
    ] = 5000.0,
    flow_speed: FlowSpeed = None,
    loop_samples: Annotated[
        int,
        typer.Option(
            min=1 << 22, max=1 << 34, help="Simulated: samples of the loop that is replayed, rounded up to blocks."
        ),
    ] = 1 << 30,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Simulated: the same seed, the same samples.")] = 1,
) -> None:
    """Process a stream as it comes: cells as images and rows within milliseconds."""
    from contextlib import ExitStack

    from .ending import Ending
    from .live_display import LiveDisplay
    from .live_results import check_folder
    from .settings import Settings, SettingsError, read_settings
    from .stream import run_stream, summary, warm_up

    simulated = source == "simulated"
    slowest, fastest = (1e8, 1e11) if simulated else (1e6, 1e12)
    if not slowest <= rate <= fastest:
        raise SettingsError(
            f"--rate must lie between {slowest:g} and {fastest:g} samples per second"
            f"{' where they are simulated' if simulated else ''}, got {rate:g}"
        )
    if flow_speed is not None and not 1e-6 <= flow_speed <= 1e3:
        raise SettingsError(f"--flow-speed must lie between 1e-6 and 1e3 m/s, got {flow_speed:g}")
    for name in ("cells_per_second", "loop_samples", "seed"):
        given = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if given and not simulated:
            raise SettingsError(f"--{name.replace('_', '-')} is for the simulated stream, not for a file")
    if output == "":
        raise SettingsError("--output is empty: name a folder, . for this one")
    folder, stem = None if output is None else Path(output), "stream" if simulated else Path(source).stem
    if duration is not None and not 0 < duration < 1e7:
        raise SettingsError(f"--duration must lie between 0 and 1e7 seconds, got {duration:g}")
    settings = (read_settings(settings_file) if settings_file else Settings()).with_capture(
        flow_speed_m_per_s=None if simulated else flow_speed
    )
    with ExitStack() as stack, Ending() as ending:
        if folder is not None:
            check_folder(folder, stem, overwrite)  # before all that takes long
        model = _model(model_file)
        if simulated:
            opened, calibration = _simulated_stream(
                rate, cells_per_second, flow_speed or 2.0, loop_samples, seed, settings, paced=not unpaced
            )
        else:
            opened, calibration = _replayed_stream(stack, Path(source), rate, settings, paced=not unpaced)
        if model is not None:
            model.check_scale(calibration.setup.pixel_um(calibration.grid), source)
        _say("compiling the kernels (kept for the next start)")
        warm_up(opened, calibration, files=folder is not None, model=model)
        for warning in calibration.warnings:
            _say(f"warning: {warning}")
        record = run_stream(
            opened, calibration, folder=folder, stem=stem, duration_s=duration, overwrite=overwrite, workers=workers,
            image_share=images, model=model, display=LiveDisplay(), on_start=ending.watch, say=_say,
        )  # fmt: skip
    result = summary(record)
    if as_json:
        _print_json(result)
    lost = {reason: n for reason, n in record["accounting"]["samples_dropped"].items() if n}
    _say(
        f"{result['cells_found']} cells in {result['samples_offered'] / result['sample_rate_hz']:.3g} s of signal, "
        f"realtime factor {result['realtime_factor']:.2f}, samples dropped: "
        + (", ".join(f"{n} {reason}" for reason, n in lost.items()) or "none")
    )
    _say_classes(result["classes"])
    if record["error"] is not None:
        _say(f"error: {record['error']}")
    if result["cells_not_written"]:
        _say(f"error: {result['cells_not_written']} cells were found and not written")
    if record["error"] is not None or result["cells_not_written"]:
        raise typer.Exit(1)
    if ending.caught:
        _say("interrupted; what was seen is written")
        raise typer.Exit(130)


def _simulated_stream(
    rate: float,
    cells_per_s: float,
    flow_speed: float,
    loop_samples: int,
    seed: int,
    settings: "Settings",
    *,
    paced: bool,
) -> Any:
    """A source that replays a simulated loop, and its calibration."""
    from functools import partial

    from ..acquisition import CaptureError
    from ..acquisition.simulated_loop import simulated_loop
    from ..acquisition.source import LoopSource
    from .live_setup import calibrate_on_source
    from .settings import SettingsError
    from .stream import ring_for

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 62
    if loop_samples > memory // 2:
        raise SettingsError(f"--loop-samples must be {memory // 2} or less on this machine, half of its memory")
    block_samples, depth = ring_for(rate)
    with _progress("simulating") as progress:
        try:
            loop = simulated_loop(
                loop_samples=loop_samples, block_samples=block_samples, sample_rate_hz=rate, cells_per_s=cells_per_s,
                flow_speed_m_per_s=flow_speed, seed=seed, progress=progress,
            )  # fmt: skip
        except ValueError as error:
            raise CaptureError(str(error)) from error
        except MemoryError as error:
            raise CaptureError(f"no memory for a loop of --loop-samples {loop_samples}: make it shorter") from error
    _say("measuring the empty line")
    source = partial(LoopSource, loop.samples, rate, metadata=loop.metadata, block_samples=block_samples, depth=depth)
    return source(paced=paced), calibrate_on_source(source(paced=False), settings)


def _replayed_stream(stack: Any, path: Path, rate: float, settings: "Settings", *, paced: bool) -> Any:
    """A source that replays a capture, and its calibration."""
    from ..acquisition import open_capture
    from ..acquisition.source import ReplaySource
    from .live_setup import calibrate_on_capture
    from .stream import ring_for

    block_samples, depth = ring_for(rate)
    _say(f"{path}: measuring the empty line")
    calibration = calibrate_on_capture(path, settings)
    capture = stack.enter_context(open_capture(path, sample_rate_hz=settings.capture.sample_rate_hz))
    source = ReplaySource(capture, rate_hz=rate, paced=paced, block_samples=block_samples, depth=depth)
    return source, calibration


Images = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="Folder of class folders, table, .rtdc, IFCB bin or stack of images.")
]
NeededModel = Annotated[Path, typer.Option("--model", metavar="M", help="Model file, made by 'train', or 'phantoms'.")]
Labels = Annotated[
    Path | None, typer.Option("--labels", metavar="TABLE", help="CSV or Parquet table of path and label.")
]
Polarity = Annotated[str, typer.Option(metavar="dark|bright", help="Whether objects are darker than the ground.")]
PixelUm = Annotated[
    float | None, typer.Option("--pixel-um", metavar="UM", min=1e-4, max=1e4, help="Side of the images' pixels.")
]


@app.command()
def train(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Model file to write.")],
    classifier: Annotated[
        str, typer.Option(metavar="network|ensemble", help="Network over pictures, or trees over features.")
    ] = "network",
    network: Annotated[str, typer.Option(metavar="accurate|fast", help="Size of the network.")] = "accurate",
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Passes over the images, at most.")] = 120,
    turn: Annotated[
        bool, typer.Option("--turn/--no-turn", help="Whether cells lie at any angle, and may be turned in training.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed gives the same model.")] = 0,
    labels: Labels = None,
    polarity: Polarity = "dark",
    pixel_um: PixelUm = None,
    sample_rate: Annotated[
        float | None,
        typer.Option(
            metavar="HZ", min=1e9, max=1e11, help="Train on the images as a digitiser of this rate would give them."
        ),
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training broken off.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier on labelled images: one model file, for process, stream and classify."""
    from .digitise import digitised_collection
    from .settings import SettingsError
    from .training import TrainingPlan, train_model

    for name, given, allowed in (
        ("classifier", classifier, ("network", "ensemble")), ("network", network, ("accurate", "fast"))
    ):  # fmt: skip
        if given not in allowed:
            raise SettingsError(f"--{name} must be {' or '.join(allowed)}, got {given!r}")
    if overwrite and resume:
        raise SettingsError("--overwrite and --resume exclude each other")
    plan = TrainingPlan(classifier=classifier, network=network, epochs=epochs, turn=turn, seed=seed)
    collection = _open_images(images, labels, polarity, pixel_um)
    with _steps() as progress:
        if sample_rate is not None:
            collection = digitised_collection(collection, sample_rate, progress)
        summary = train_model(collection, output, plan, overwrite=overwrite, resume=resume, progress=progress, say=_say)
    if as_json:
        _print_json(summary)
    found = summary["validation"]
    _say(
        f"{output}: {len(summary['classes'])} classes, balanced accuracy {found['balanced_accuracy']:.3f} on "
        f"{found['n']} images kept aside, {summary['bytes'] / 1e6:.2g} MB, {summary['seconds']:.0f} s"
    )


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Collections of images, or single ones.")],
    model: NeededModel,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CSV", help="Table to write.")],
    polarity: Polarity = "dark",
    pixel_um: PixelUm = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Classify images: a class for each, its probability, or 'unknown'."""
    from collections import Counter

    from ..classify.runtime import Verdicts, load_model
    from .classification import classify_collection, write_predictions
    from .whole_file import check_new

    check_new(output, overwrite=overwrite)
    loaded = load_model(model)
    names: list[str] = []
    parts: list[Verdicts] = []
    with _steps() as progress:
        for path in images:
            collection = _open_images(path, None, polarity, pixel_um)
            parts.append(classify_collection(collection, loaded, progress))
            names += [name if path.is_file() else f"{path}/{name}" for name in collection.names]
    verdicts = Verdicts.joined(parts)
    write_predictions(output, names, verdicts, overwrite=overwrite)
    counts = Counter(verdicts.labels.tolist())
    if as_json:
        rejected = int(verdicts.rejected.sum())
        _print_json(
            {"n": len(names), "labels": dict(sorted(counts.items())), "rejected": rejected, "output": str(output)}
        )
    _say(f"{output}: {len(names)} images, " + ", ".join(f"{n} {label}" for label, n in counts.most_common()))


@app.command()
def evaluate(
    images: Images,
    model: NeededModel,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="HTML", help="Report page to write.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only what was kept aside when the model was trained on these images.")
    ] = False,
    unknown: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Class that the model should call unknown; may be repeated."),
    ] = None,
    labels: Labels = None,
    polarity: Polarity = "dark",
    pixel_um: PixelUm = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure how good a model is on labelled images: accuracies with intervals, calibration, rejection."""
    from ..classify.runtime import load_model
    from .classification import evaluate_model
    from .classification import held_out as kept_aside
    from .evaluation_report import evaluation_page
    from .whole_file import check_new, write_whole

    if output is not None:
        check_new(output, overwrite=overwrite)
    loaded = load_model(model)
    collection = _open_images(images, labels, polarity, pixel_um)
    if held_out:
        collection = kept_aside(collection, loaded)
    with _steps() as progress:
        figures, known, verdicts = evaluate_model(collection, loaded, unknown=unknown or (), progress=progress)
    if output is not None:
        write_whole(output, evaluation_page(figures, known, verdicts, loaded))
    if as_json:
        _print_json(figures)
        return
    for name in ("n", "accuracy", "balanced_accuracy", "ece", "rejected_fraction"):
        typer.echo(f"{name:20} {_shown(figures[name])}")
    for name, one in figures["per_class"].items():
        typer.echo(f"{name:30} n {one['n']:5}  precision {one['precision']:.3f}  recall {one['recall']:.3f}")
    if "unknown" in figures:
        typer.echo(
            f"unknown: {100 * figures['unknown']['rejected_fraction']:.1f} % of {figures['unknown']['n']} rejected"
        )


def _open_images(path: Path, labels: Path | None, polarity: str, pixel_um: float | None) -> Any:
    """A collection of images, with the size of a pixel where it is given."""
    from dataclasses import replace

    from ..data.collections import open_collection

    collection = open_collection(path, labels=labels, polarity=polarity)
    return collection if pixel_um is None else replace(collection, pixel_um=pixel_um)


@contextmanager
def _steps() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar of one step after the other on a terminal, with what is left of each; silent elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], total=total, completed=done)

        yield update


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for capture and results.")
    ] = Path("demo"),
) -> None:
    """Simulate a capture, process it, and compare what was found with the truth."""
    from .demo import run_demo

    with _execution(None, None, None) as execution:
        for line in run_demo(output, execution):
            typer.echo(line)

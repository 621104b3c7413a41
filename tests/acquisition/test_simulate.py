"""The simulator against its own model, evaluated slowly, and against the physics that must come out."""

import dataclasses
import itertools
import tracemalloc

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
from scipy import signal

from stretchscope.acquisition import _simulate_tiles as engine
from stretchscope.acquisition.capture import CaptureError, open_capture
from stretchscope.acquisition.optics import (
    Digitiser,
    Instrument,
    Interleave,
    LineClock,
    Optics,
)
from stretchscope.acquisition.simulate import blocks, simulate, simulate_capture
from stretchscope.data.phantoms import EmptyScene, StampScene, place, random_scene
from stretchscope.data.stamps import bead_stamps, cell_stamps

QUIET = Digitiser(thermal_noise_codes=0, shot_noise_codes=0, ac_coupling_hz=0)
STEADY = Optics(pulse_energy_noise=0)


def quiet(**changes: object) -> Digitiser:
    return dataclasses.replace(QUIET, **changes)


def stream(scene: object, instrument: Instrument, *, lines: int, seed: int = 1) -> np.ndarray:
    return np.concatenate(list(blocks(scene, instrument, seed=seed, lines=lines)))


def line_starts(instrument: Instrument, *, lines: int, seed: int = 1) -> np.ndarray:
    tiles = itertools.islice(engine.line_tiles(instrument, seed), 1, 2 + lines // engine.TILE_LINES)
    return np.concatenate([tile.starts for tile in tiles])[:lines]


def beads(*, optics: Optics) -> StampScene:
    stamps = bead_stamps()
    placed = place(stamps, x_um=[20, 33], y_um=[8, 10], diameter_um=[9, 6], contrast=[0.7, 0.9])
    assert optics.um_per_line < 2
    return StampScene.of(stamps, placed)


def reference(scene: object, instrument: Instrument, starts: np.ndarray, samples: int) -> np.ndarray:
    """The model as it is written, in float64: every sample an integral over the detector's response."""
    digitiser, interleave = instrument.digitiser, instrument.digitiser.interleave
    k = np.arange(samples)
    converter = k % interleave.converters
    instant = k + np.array(interleave.skew_s)[converter] * digitiser.sample_rate_hz
    sigma = digitiser.response_samples
    delay, step = np.linspace(-7 * sigma, 7 * sigma, 281, retstep=True)
    response = np.exp(-0.5 * (delay / sigma) ** 2) / np.sqrt(2 * np.pi) / sigma * step
    half = instrument.pulse_samples / 2
    light = np.zeros(samples)
    for line, start in enumerate(starts):
        near = np.abs(instant - start - half) < half + 7 * sigma
        tau = instant[near, None] - start - delay
        y = np.full(tau.shape, line * instrument.optics.um_per_line)
        seen = scene.transmission(tau * instrument.um_per_sample, y) * instrument.illumination_codes(tau)
        light[near] += seen @ response
    offset, gain = np.array(interleave.offset_codes)[converter], np.array(interleave.gain)[converter]
    return digitiser.dark_codes + offset + gain * light


THREE = Interleave(gain=(1, 0.98, 1.03), offset_codes=(0, 90, -40), skew_s=(0, 20e-12, -35e-12))


@pytest.mark.parametrize("tile_samples", [1 << 18, 1000])
@pytest.mark.parametrize(
    "digitiser",
    [
        quiet(bits=16),
        quiet(bits=12, signed=False, sample_rate_hz=2e9, bandwidth_hz=4e9),
        quiet(bits=16, bandwidth_hz=0.5e9, interleave=THREE),
        quiet(sample_rate_hz=20e9),
    ],
)
def test_samples_are_the_model_at_their_true_instants(
    digitiser: Digitiser, tile_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: direct integration in float64, also where tiles cut lines and cells."""
    monkeypatch.setattr(engine, "TILE_SAMPLES", tile_samples)
    optics = dataclasses.replace(STEADY, flow_speed_m_per_s=17.0)
    instrument = Instrument(optics=optics, clock=LineClock(jitter_s=30e-12), digitiser=digitiser)
    scene = beads(optics=optics)
    samples = stream(scene, instrument, lines=14)
    starts = line_starts(instrument, lines=15)
    expected = reference(scene, instrument, starts, samples.size)
    whole = np.arange(samples.size) > starts[0] - instrument.line_period_samples + instrument.pulse_samples + 20
    difference = (samples - expected)[whole]  # without the rest of the line before line 0
    assert difference.size > 14 * instrument.line_period_samples - 1
    assert np.abs(difference).max() < 0.5 + 2**digitiser.bits * 4e-6
    empty = stream(EmptyScene(), instrument, lines=14)
    assert np.abs(empty.astype(int) - samples).max() > 0.3 * digitiser.light_codes  # the beads are there


def test_empty_lines_before_line_0() -> None:
    """The stream may begin within a line: its rest is there, an empty line like any other."""
    instrument = Instrument(optics=STEADY, clock=LineClock.perfect(start_s=60e-9), digitiser=QUIET)
    samples = stream(EmptyScene(), instrument, lines=3)
    rest = 45e-9 - (1 / 11.6e6 - 60e-9)
    first = int(rest * 5e9)
    assert samples[: first - 30].mean() > samples[first + 10 : 290].mean() + 50
    assert samples.size == np.ceil(60e-9 * 5e9 + 3 * instrument.line_period_samples)


def test_fold_of_empty_lines_is_the_profile() -> None:
    """Oracle: equivalent-time averages over all phases, with all noise on; bins of half a sample."""
    digitiser = Digitiser(ac_coupling_hz=0)
    instrument = Instrument(digitiser=digitiser)
    samples = stream(EmptyScene(), instrument, lines=5000)
    starts = line_starts(instrument, lines=5000)
    k = np.arange(int(starts[0]) + 1, samples.size)
    tau = k - starts[np.searchsorted(starts, k, side="right") - 1]
    first, profile = instrument.profile(1 / 16)
    expected = np.interp(tau, first + np.arange(profile.size) / 16, profile, left=0, right=0)
    residual = samples[k] - digitiser.dark_codes - expected
    bins = (tau * 2).astype(int)
    count = np.bincount(bins)
    mean = np.bincount(bins, residual) / count
    assert np.abs(mean).max() < 6 * 1.0 / np.sqrt(count.min())
    assert profile.max() == pytest.approx(digitiser.light_codes, rel=0.05)


def test_noise_is_thermal_plus_shot_plus_rounding() -> None:
    """Variance grows with the light: thermal² + 1/12 in the dark, + shot² at the illumination's peak."""
    digitiser = Digitiser(bits=12, thermal_noise_codes=3, shot_noise_codes=5, ac_coupling_hz=0)
    noisy = Instrument(optics=STEADY, clock=LineClock.perfect(), digitiser=digitiser)
    without = dataclasses.replace(noisy, digitiser=quiet(bits=12))
    lines = 3000
    light = stream(EmptyScene(), without, lines=lines) - digitiser.dark_codes
    noise = stream(EmptyScene(), noisy, lines=lines) - digitiser.dark_codes - light
    for low, high in ((-1, 1), (0.2, 0.3), (0.7, 0.75), (0.9, 1)):
        inside = (light > low * digitiser.light_codes) & (light <= high * digitiser.light_codes)
        rounding = 1 / 12 if low < 0 else 2 / 12  # of the noisy samples, and of bright ones without noise
        if low < 0:
            inside = np.abs(light) <= 1
        expected = 9 + 25 * light[inside].mean() / digitiser.light_codes + rounding
        assert noise[inside].var() == pytest.approx(expected, rel=5 * np.sqrt(2 / inside.sum()))
    white = noise[np.abs(light) <= 1]
    assert abs(np.corrcoef(white[:-1], white[1:])[0, 1]) < 5 / np.sqrt(white.size)


def test_line_clock_statistics() -> None:
    """Jitter, random walk, drift and period of 100 000 lines, each apart."""
    lines = 100_000
    n = np.arange(lines)

    def clock(**changes: float) -> tuple[Instrument, np.ndarray]:
        instrument = Instrument(clock=dataclasses.replace(LineClock.perfect(3e-9), **changes))
        return instrument, line_starts(instrument, lines=lines) - 15

    instrument, starts = clock(frequency_offset=1e-4)
    np.testing.assert_allclose(starts, n * 5e9 / (11.6e6 * 1.0001), atol=1e-6)
    assert instrument.line_period_samples % 1 != 0
    period = 5e9 / 11.6e6

    _, starts = clock(jitter_s=2e-12)
    jitter = starts - n * period
    assert jitter.std() == pytest.approx(0.01, rel=0.02)
    assert abs(np.corrcoef(jitter[1:], jitter[:-1])[0, 1]) < 0.015

    _, starts = clock(walk_s_per_root_s=1e-10)
    steps = np.diff(starts) - period
    assert steps.std() == pytest.approx(1e-10 * np.sqrt(period / 5e9) * 5e9, rel=0.02)
    assert abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 0.015
    assert np.abs(steps[engine.TILE_LINES - 1 :: engine.TILE_LINES]).max() < 5 * steps.std()  # tiles join

    _, starts = clock(drift_per_s=1e-5)
    instantaneous = np.diff(starts) / period - 1
    seconds = (n[1:] - 0.5) / 11.6e6
    np.testing.assert_allclose(instantaneous, 1e-5 * seconds, atol=1e-12 + 3e-11)


def test_start_is_drawn_from_the_seed() -> None:
    starts = [line_starts(Instrument(), lines=1, seed=seed)[0] for seed in range(20)]
    assert 0 <= min(starts) < 100
    assert 330 < max(starts) < Instrument().line_period_samples
    assert line_starts(Instrument(), lines=1, seed=3)[0] == starts[3]


class Wall:
    """Opaque from some y on."""

    def __init__(self, y_um: float) -> None:
        self.y_um = y_um

    def transmission(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        return np.where(y_um < self.y_um, 1.0, 0.0) * np.ones_like(x_um)


def test_ac_coupling_is_a_first_order_high_pass() -> None:
    """Oracle: scipy's filter on the same stream without coupling, and the step's exponential return."""
    corner = 2e5
    optics, clock = STEADY, LineClock.perfect(20e-9)
    direct = Instrument(optics=optics, clock=clock, digitiser=quiet(bits=14, light_level=0.5, dark_level=0.4))
    coupled = dataclasses.replace(direct, digitiser=dataclasses.replace(direct.digitiser, ac_coupling_hz=corner))
    wall = Wall(100 * optics.um_per_line)
    light = stream(wall, direct, lines=200) - direct.digitiser.dark_codes
    dark = stream(wall, coupled, lines=200) - direct.digitiser.dark_codes - light  # the baseline
    edge = int(20e-9 * 5e9 + 100 * direct.line_period_samples)

    keep = np.exp(-2 * np.pi * corner / 5e9)
    mean = light[: int(90 * direct.line_period_samples)].mean()
    slow, _ = signal.lfilter([1 - keep], [1, -keep], light, zi=[keep * (mean - dark[0])])
    np.testing.assert_allclose(dark, mean - slow, atol=0.012 * mean)

    periods = dark[: int(90 * direct.line_period_samples)]
    assert periods.mean() == pytest.approx(0, abs=0.004 * mean)  # in equilibrium from the first sample on
    assert periods[: periods.size // 9].mean() == pytest.approx(periods[-periods.size // 9 :].mean(), abs=0.004 * mean)
    later = np.arange(edge + 500, edge + 500 + int(2.5 * 5e9 / (2 * np.pi * corner)))
    decay = -np.polyfit(later, np.log(mean - dark[later]), 1)[0]
    assert decay == pytest.approx(2 * np.pi * corner / 5e9, rel=0.01)


def test_interleaved_converters_repeat_over_tiles() -> None:
    """Means of the dark and of the bright samples by k mod C, where C does not divide a tile."""
    interleave = Interleave(offset_codes=(2.2, -1.7, 0.4), gain=(1.0, 0.97, 1.04), skew_s=(0, 0, 0))
    digitiser = Digitiser(bits=10, thermal_noise_codes=1, ac_coupling_hz=0, interleave=interleave)
    instrument = Instrument(digitiser=digitiser, clock=LineClock(start_s=0))
    samples = stream(EmptyScene(), instrument, lines=2500)
    assert samples.size > 4 * engine.TILE_SAMPLES
    starts = line_starts(instrument, lines=2500)
    k = np.arange(samples.size)
    tau = k - starts[np.searchsorted(starts, k, side="right") - 1]
    for c in range(3):
        dark = samples[(k % 3 == c) & (tau > 240) & (tau < 425)]
        bright = samples[(k % 3 == c) & (np.abs(tau - 112.5) < 40)]
        assert dark.mean() - digitiser.dark_codes == pytest.approx(interleave.offset_codes[c], abs=0.02)
        level = bright.mean() - dark.mean()
        reference_level = samples[np.abs(tau - 112.5) < 40].mean() - samples[(tau > 240) & (tau < 425)].mean()
        gain = interleave.gain[c] / np.mean(interleave.gain)
        assert level / reference_level == pytest.approx(gain, abs=0.002)


@pytest.mark.parametrize(
    ("bits", "signed", "dtype"), [(8, True, "i1"), (8, False, "u1"), (12, True, "i2"), (16, False, "u2")]
)
def test_clipping_at_both_rails(bits: int, signed: bool, dtype: str) -> None:
    digitiser = Digitiser(bits=bits, signed=signed, light_level=1.5, dark_level=-0.2, ac_coupling_hz=0)
    samples = stream(EmptyScene(), Instrument(digitiser=digitiser), lines=50)
    low, high = digitiser.code_range
    assert samples.dtype == np.dtype(dtype)
    assert (samples.min(), samples.max()) == (low, high)
    assert high - low == 2**bits - 1
    assert np.mean(samples == low) > 0.4
    assert np.mean(samples == high) > 0.05


@pytest.mark.parametrize("block_samples", [1, 4097, engine.TILE_SAMPLES + 1, 10**9])
def test_blocks_do_not_change_the_samples(block_samples: int) -> None:
    scene = random_scene(cell_stamps(1, 3), field_of_view_um=48, per_mm=20, seed=1)
    lines = 20 if block_samples == 1 else 2000
    whole = stream(scene, Instrument(), lines=lines)
    cut = list(blocks(scene, Instrument(), seed=1, lines=lines, block_samples=block_samples))
    assert {block.size for block in cut[:-1]} <= {block_samples}
    np.testing.assert_array_equal(np.concatenate(cut), whole)


def test_longer_stream_begins_with_the_shorter_one() -> None:
    scene = random_scene(cell_stamps(1, 3), field_of_view_um=48, per_mm=20, seed=1)
    short = stream(scene, Instrument(), lines=700)
    endless = blocks(scene, Instrument(), seed=1, block_samples=short.size)
    np.testing.assert_array_equal(next(endless), short)
    assert next(endless).size == short.size
    assert not np.array_equal(stream(scene, Instrument(), lines=700, seed=2)[:1000], short[:1000])


def test_memory_does_not_grow_with_the_stream() -> None:
    scene = random_scene(cell_stamps(1, 3), field_of_view_um=48, per_mm=15, seed=1)

    def peak(lines: int) -> int:
        tracemalloc.start()
        for _ in blocks(scene, Instrument(), seed=1, lines=lines):
            pass
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(100)  # compiles
    small, large = peak(20_000), peak(120_000)
    assert large < small + 2e6
    assert large < 60e6


def test_truth_boxes_hold_the_cells_and_nothing_else(tmp_path) -> None:
    """Beside the same capture without cells: no sample differs outside the boxes; in each box many do."""
    instrument = Instrument(optics=STEADY, digitiser=QUIET)
    lines = 6000
    length_um = lines * instrument.optics.um_per_line
    scene = random_scene(cell_stamps(4), field_of_view_um=48, per_mm=15, length_um=length_um, seed=5)
    simulate_capture(tmp_path / "cells.h5", scene, instrument, lines=lines, seed=1)
    empty = stream(EmptyScene(), instrument, lines=lines)
    with h5py.File(tmp_path / "cells.h5") as file:
        samples, cells = file["samples"][:], file["truth/cells"][:]
        starts, truth = file["truth/line_start_samples"][:], file["truth/line_start_samples"].attrs
        um_per_sample, um_per_line = truth["um_per_sample"], truth["um_per_line"]
    assert len(cells) == round(15 * length_um / 1000)
    assert samples.size == empty.size
    darker = empty.astype(int) - samples
    reach = int(6 * instrument.digitiser.response_samples) + 2
    depth = np.zeros(len(cells))
    for number, cell in enumerate(cells):
        assert cell["line_first"] * um_per_line >= cell["y_first_um"] > (cell["line_first"] - 1) * um_per_line
        assert cell["line_last"] * um_per_line <= cell["y_last_um"] < (cell["line_last"] + 1) * um_per_line
        for line in range(cell["line_first"], cell["line_last"] + 1):
            first = int(starts[line] + cell["x_first_um"] / um_per_sample) - reach
            last = int(starts[line] + cell["x_last_um"] / um_per_sample) + reach
            depth[number] = max(depth[number], darker[first : last + 1].max())
            darker[first : last + 1] = 0
        height = cell["y_last_um"] - cell["y_first_um"]
        assert 0.8 * cell["diameter_um"] < height < 1.6 * cell["diameter_um"]
    assert not darker.any()
    expected = cells["contrast"] * instrument.digitiser.light_codes
    assert (depth > 0.5 * expected).all()
    assert (depth < 1.05 * expected + 1).all()


def test_scene_without_boxes_gives_the_same_samples() -> None:
    class Plain:
        def __init__(self, scene: StampScene) -> None:
            self.transmission = scene.transmission

    instrument = Instrument(optics=dataclasses.replace(STEADY, flow_speed_m_per_s=17.0), digitiser=quiet(bits=16))
    scene = beads(optics=instrument.optics)
    with_boxes, without = (stream(s, instrument, lines=14) for s in (scene, Plain(scene)))
    assert np.abs(with_boxes.astype(int) - without).max() <= 1


def test_capture_file_and_truth(tmp_path) -> None:
    """Metadata as an operator would note it; the truth exact; the line starts where the light rises."""
    path = tmp_path / "capture.h5"
    reports: list[tuple[int, int]] = []
    samples = simulate(path, lines=3000, cells=6, seed=7, progress=lambda done, total: reports.append((done, total)))
    with open_capture(path) as capture:
        assert capture.samples == samples
        assert capture.dtype == np.int8
        metadata = capture.metadata
    assert metadata.sample_rate_hz == 5e9
    assert metadata.nominal_line_period_samples == 431
    assert (metadata.flow_speed_m_per_s, metadata.field_of_view_um, metadata.bits) == (2, 48, 8)
    assert metadata.dark_level_codes is None  # there is a gap that shows it
    assert reports[-1][0] == samples
    assert all(abs(total - samples) < 431 for _, total in reports)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    with h5py.File(path) as file:
        truth = file["truth"]
        starts = truth["line_start_samples"][:]
        attributes = dict(truth["line_start_samples"].attrs)
        profile, profile_attributes = truth["profile"][:], dict(truth["profile"].attrs)
        assert len(truth["cells"]) == 6
        assert len(truth["kinds"]) == 24
        assert truth["interleave_gain"].shape == (4,)
        codes = file["samples"][:].astype(float)
    np.testing.assert_array_equal(starts, line_starts(Instrument(), lines=3000, seed=7))
    slope = np.polyfit(np.arange(3000), starts, 1)[0]
    assert attributes["mean_line_period_samples"] == pytest.approx(slope, abs=1e-4)
    tau = profile_attributes["first_tau_samples"] + np.arange(profile.size) * profile_attributes["step_samples"]
    centroid = np.sum(tau * profile) / profile.sum()
    found = [
        np.sum(np.arange(int(t), int(t) + 300) * (codes[int(t) : int(t) + 300] + 102.5))
        / np.sum(codes[int(t) : int(t) + 300] + 102.5)
        for t in starts[:200]
    ]
    assert np.median(found - starts[:200]) == pytest.approx(centroid, abs=0.6)


def test_truth_says_of_which_class_each_cell_is(tmp_path) -> None:
    """Bars along the line, bars across it and, outside the classes' folders, a block: their widths tell them apart."""
    for name, (height, width) in {"flat/a.png": (8, 40), "tall/b.png": (40, 8), "c.png": (24, 24)}.items():
        image = np.full((60, 60), 240, dtype=np.uint8)
        image[5 : 5 + height, 5 : 5 + width] = 30
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(tmp_path / "images" / name, image)
    simulate(tmp_path / "c.h5", lines=6000, cells=20, seed=2, images=tmp_path / "images")
    with h5py.File(tmp_path / "c.h5") as file:
        cells, kinds = file["truth/cells"][:], file["truth/kinds"].asstr()[:]
        labels = file["truth/labels"].asstr()[:]
    assert list(kinds) == ["c.png", "flat/a.png", "tall/b.png"]
    assert list(labels) == ["", "flat", "tall"]
    assert len(cells) == 20
    assert set(labels[cells["kind"]]) == {"", "flat", "tall"}
    along = (
        np.hypot(cells["x_last_um"] - cells["x_first_um"], cells["y_last_um"] - cells["y_first_um"])
        / cells["diameter_um"]
    )
    assert along[labels[cells["kind"]] == ""].max() < along[labels[cells["kind"]] != ""].min()


def test_phantoms_may_be_plankton(tmp_path) -> None:
    simulate(tmp_path / "c.h5", lines=2000, cells=6, seed=2, phantoms="plankton")
    with h5py.File(tmp_path / "c.h5") as file:
        assert set(file["truth/labels"].asstr()[:]) >= {"chain_diatom", "colony"}
        assert len(file["truth/cells"]) == 6
    with pytest.raises(ValueError, match="phantoms must be one of cells, plankton, foreign, got 'fish'"):
        simulate(tmp_path / "d.h5", lines=2000, cells=6, phantoms="fish")


def test_many_lines_store_some_starts(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stretchscope.acquisition.simulate.MOST_LINE_STARTS", 1000)
    simulate_capture(tmp_path / "c.h5", EmptyScene(), Instrument(), lines=2600, seed=1)
    with h5py.File(tmp_path / "c.h5") as file:
        stored = file["truth/line_start_samples"]
        assert stored.attrs["line_step"] == 3
        np.testing.assert_array_equal(stored[:], line_starts(Instrument(), lines=2600)[::3])
        assert len(file["truth/cells"]) == 0


def test_wholly_lit_line_states_its_dark_level(tmp_path) -> None:
    instrument = Instrument(optics=Optics(line_rate_hz=1 / 55e-9, pulse_duration_s=55e-9))
    simulate_capture(tmp_path / "c.h5", EmptyScene(), instrument, lines=100, seed=1)
    with open_capture(tmp_path / "c.h5") as capture:
        assert capture.metadata.dark_level_codes == pytest.approx(-102.5)


def test_bad_scenes_and_counts_leave_no_file(tmp_path) -> None:
    class Wrong:
        def __init__(self, value: object) -> None:
            self.value = value

        def transmission(self, x_um: np.ndarray, y_um: np.ndarray) -> object:
            return self.value

    path = tmp_path / "c.h5"
    for value in (1.0, np.nan):
        with pytest.raises(ValueError, match="return one value per position"):
            simulate_capture(path, Wrong(value), Instrument(), lines=10, seed=1)
    with pytest.raises(ValueError, match="cells must be a whole number, 0 or more"):
        simulate(path, lines=100, cells=-1)
    with pytest.raises(ValueError, match="have no room"):
        simulate(path, lines=20, cells=3)
    with pytest.raises(ValueError, match="no room for 500 objects"):
        simulate(path, lines=2000, cells=500)
    with pytest.raises(ValueError, match="no such folder"):
        simulate(path, lines=2000, cells=5, images=tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
    simulate(path, lines=10, cells=0)
    with pytest.raises(CaptureError, match="exists"):
        simulate(path, lines=10, cells=0)
    simulate(path, lines=10, cells=0, overwrite=True)

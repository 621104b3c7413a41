"""Segmentation against drawn cells whose outline is known: absorbing, phase objects, cut, hidden, faint."""

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.classify.segment import segment_cell

SHAPE = (100, 96)


def draw(radii, *, depth=0.9, rim=None, blur=2.0, shape=SHAPE, centre=(50.3, 47.8), angle=0.0):
    """Noiseless transmission of an ellipse (or of its rim, that wide), blurred; and the ellipse's pixels."""
    x, y = np.mgrid[: shape[0], : shape[1]]
    x, y = x - centre[0], y - centre[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    def cover(a, b):  # area-weighted to a fraction of a pixel
        distance = (1 - np.hypot(u / a, v / b)) * np.sqrt(a * b)
        return np.clip(distance + 0.5, 0, 1)

    a, b = radii
    opaque = cover(a, b) - (cover(a - rim, b - rim) if rim else 0)
    return 1 - depth * ndimage.gaussian_filter(opaque, blur), cover(a, b) >= 0.5


def noisy(transmission, noise, seed=0, correlation=0.0):
    white = np.random.default_rng(seed).normal(size=transmission.shape)
    if correlation:
        white = ndimage.gaussian_filter(white, correlation, mode="wrap")
        white /= white.std()
    return (transmission + noise * white).astype(np.float32)


def overlap(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def hide(transmission, *bands):
    """Known pixels once those columns are not; what they hold is worthless."""
    known = np.ones(transmission.shape, dtype=bool)
    for first, last in bands:
        known[:, first:last] = False
    transmission[~known] = np.nan
    return known


@pytest.mark.parametrize("contrast", [5, 15, 45])
@pytest.mark.parametrize("radii", [(5, 5), (10, 7), (24, 17), (33, 33)])
def test_outline_of_an_absorbing_cell_is_true_to_a_pixel(radii, contrast):
    """Oracle: the drawn ellipse. Half a pixel of mean radius; overlap as a shell of 0.8 pixels allows."""
    noise = 0.02
    for seed in range(3):
        transmission, truth = draw(radii, depth=contrast * noise, blur=1.2, angle=0.5 + seed)
        transmission = noisy(transmission, noise, seed)
        mask = segment_cell(transmission, np.ones(SHAPE, dtype=bool), noise)
        mean = np.sqrt(radii[0] * radii[1])
        assert abs(np.sqrt(mask.sum() / np.pi) - mean) < 0.5
        assert overlap(mask, truth) > 1 - 2 * 0.8 / mean


@pytest.mark.parametrize(("noise", "correlation"), [(0.005, 0), (0.05, 0), (0.15, 0), (0.05, 1.2)])
@pytest.mark.parametrize("bands", [(), ((43, 53),), ((68, 78),), ((10, 14), (25, 27), (43, 53), (86, 96))])
def test_phase_object_is_the_filled_disc(noise, correlation, bands):
    """A droplet's dark rim around a core as bright as the background, cut by columns that are not known.

    The blurred rim is less deep, which moves its half level outwards by half a pixel.
    """
    transmission, truth = draw((35, 33), rim=8, blur=2.5)
    transmission = noisy(transmission, noise, 3, correlation)
    known = hide(transmission, *bands)
    mask = segment_cell(transmission, known, noise)
    assert overlap(mask, truth) > 0.94
    assert ndimage.label(mask)[1] == 1
    assert np.array_equal(mask, ndimage.binary_fill_holes(mask))


def test_hidden_rim_is_cut_not_guessed():
    transmission, truth = draw((33, 33), rim=8, blur=2.5)
    transmission = noisy(transmission, 0.02)
    known = hide(transmission, (76, 90))
    mask = segment_cell(transmission, known, 0.02)
    assert not mask[:, 77:].any()
    assert overlap(mask[:, :76], truth[:, :76]) > 0.95


def test_faint_flank_across_a_notch_stays_out():
    """Shading of an eighth of the rim's depth beyond a notch: significant, but no part of the droplet."""
    transmission, truth = draw((33, 33), rim=8, blur=2.5)
    transmission[20:80, 88:] -= 0.12
    transmission = noisy(transmission, 0.01)
    known = hide(transmission, (76, 88))
    mask = segment_cell(transmission, known, 0.01)
    assert not mask[:, 77:].any()
    assert overlap(mask[:, :76], truth[:, :76]) > 0.95


def test_faint_flank_aslant_of_a_hidden_rim_is_no_cell():
    """Whether it hangs together with the droplet behind the unknown columns cannot be seen: it counts as halo."""
    transmission, truth = draw((33, 33), rim=8, blur=2.5)
    transmission[76:96, 84:] -= 0.1
    transmission = noisy(transmission, 0.01)
    known = hide(transmission, (70, 84))
    mask = segment_cell(transmission, known, 0.01, seed_mask=np.ones(SHAPE, dtype=bool))
    assert not mask[:, 84:].any()
    assert overlap(mask[:, :70], truth[:, :70]) > 0.95


def test_bright_and_dark_cells_alike():
    transmission, truth = draw((15, 12), depth=0.3)
    dark = noisy(transmission, 0.02)
    known = np.ones(SHAPE, dtype=bool)
    mask = segment_cell(dark, known, 0.02)
    assert np.array_equal(segment_cell(2 - dark, known, 0.02), mask)
    assert overlap(mask, truth) > 0.9


def test_seed_tells_the_cell_from_its_neighbours():
    cell, truth = draw((10, 9), depth=0.3, centre=(30, 40))
    neighbour, other = draw((16, 14), depth=0.8, centre=(70, 52))
    transmission = noisy(cell * neighbour, 0.02)
    known = np.ones(SHAPE, dtype=bool)
    for wanted in (truth, other):
        rows, columns = (np.array(ndimage.center_of_mass(wanted)) // 8 * 8).astype(int)
        seed = np.zeros(SHAPE, dtype=bool)
        seed[rows : rows + 8, columns : columns + 8] = True
        mask = segment_cell(transmission, known, 0.02, seed_mask=seed)
        assert overlap(mask, wanted) > 0.85
    assert overlap(segment_cell(transmission, known, 0.02), other) > 0.9  # without a seed, the weightiest
    seed = np.zeros(SHAPE, dtype=bool)
    seed[:8, :8] = True
    assert not segment_cell(transmission, known, 0.02, seed_mask=seed).any()


@pytest.mark.parametrize("gap", [10, 20])
@pytest.mark.parametrize("bright", [0.3, 0.85])
def test_dim_cell_beside_a_bright_one_is_no_halo(bright, gap):
    """One event of two cells, the dim one an eighth as deep as the other: each has its own outline."""
    strong, truth = draw((18, 16), depth=bright, blur=1.5, centre=(25, 45))
    weak, other = draw((20, 14), depth=max(0.05, bright / 8), blur=1.5, centre=(25 + 38 + gap, 55))
    transmission = noisy(strong * weak, 0.005)
    everywhere = np.ones(SHAPE, dtype=bool)
    mask = segment_cell(transmission, everywhere, 0.005, seed_mask=everywhere)
    label, n = ndimage.label(mask)
    assert n == 2
    for cell in (truth, other):
        found = label == np.bincount(label[cell & mask]).argmax()
        assert overlap(found, cell) > 0.88


@pytest.mark.parametrize("halo", ["skirt", "fringe", "knob"])
def test_halo_of_a_bright_cell_stays_out(halo):
    """A wide skirt, a fringe of the other sign, and a skirt with a rise in it are neither outline nor cells."""
    transmission, truth = draw((20, 18), depth=0.85, blur=1.5)
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array([50.3, 47.8])[:, None, None]
    radius = 19 * np.hypot(x / 20, y / 18)
    skirt = 0.1 * np.exp(-np.maximum(radius - 19, 0) / 8) * (radius > 19)
    transmission += {
        "skirt": -skirt,
        "fringe": 0.1 * np.sin(np.pi * np.clip((radius - 19) / 8, 0, 1)),
        "knob": -skirt * (1 + 0.5 * np.exp(-0.5 * ((x - 27) ** 2 + y**2) / 9)),
    }[halo]
    transmission = noisy(transmission, 0.003)
    mask = segment_cell(transmission, np.ones(SHAPE, dtype=bool), 0.003, seed_mask=np.ones(SHAPE, dtype=bool))
    assert ndimage.label(mask)[1] == 1
    assert overlap(mask, truth) > 0.9


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
def test_textured_faint_cell_is_one(phase):
    """Texture carries parts of a cell of 5 % contrast below the floor; what stays above is not several cells."""
    flat, truth = draw((35, 30), depth=1.0, blur=1.5)
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array([50.3, 47.8])[:, None, None]
    texture = 0.75 + 0.25 * np.cos(2 * np.pi * (1.2 * x / 35 + phase)) * np.cos(2 * np.pi * (0.9 * y / 30 + phase))
    core = 0.6 + 0.4 * np.clip(np.hypot(x / 35, y / 30), 0, 1) ** 2  # a cell is thinner optically in its middle
    transmission = noisy(1 - 0.05 * texture * core * (1 - flat), 0.004)
    mask = segment_cell(transmission, np.ones(SHAPE, dtype=bool), 0.004)
    assert ndimage.label(mask)[1] == 1
    assert overlap(mask, truth) > 0.85


@pytest.mark.parametrize(
    ("centre", "rim"),
    [((3, 47), 8), ((97, 47), 8), ((50, 2), 8), ((50, 95), 8), ((50, 2), None), ((4, 3), None)],
)
def test_cell_cut_by_the_border_is_filled_up_to_it(centre, rim):
    transmission, truth = draw((33, 33), rim=rim, blur=2.0, centre=centre)
    mask = segment_cell(noisy(transmission, 0.02), np.ones(SHAPE, dtype=bool), 0.02)
    assert overlap(mask, truth) > 0.94


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.2])
def test_nothing_is_found_in_noise(correlation):
    """Also where neighbouring pixels' noise is correlated, which the caller need not know."""
    known = np.ones((60, 50), dtype=bool)
    known[:, 20:28] = False
    found = sum(
        segment_cell(noisy(np.ones(known.shape), 0.1, seed, correlation), known, 0.1).any() for seed in range(150)
    )
    assert found == 0


def test_noise_may_differ_between_pixels():
    """Columns ten times noisier than the rest, as beside a notch, neither hide the cell nor imitate one."""
    transmission, truth = draw((20, 20), depth=0.3)
    noise = np.full(SHAPE, 0.01)
    noise[:, 20:26] = noise[:, 60:64] = 0.2
    transmission = (transmission + noise * np.random.default_rng(5).normal(size=SHAPE)).astype(np.float32)
    mask = segment_cell(transmission, np.ones(SHAPE, dtype=bool), noise)
    assert overlap(mask, truth) > 0.9
    assert not mask[:, 20:26].any()


def test_floor_keeps_shading_out():
    transmission = np.ones(SHAPE, dtype=np.float32)
    transmission[20:60, 20:60] -= 0.025
    known = np.ones(SHAPE, dtype=bool)
    transmission = noisy(transmission, 0.001)
    assert not segment_cell(transmission, known, 0.001).any()
    assert segment_cell(transmission, known, 0.001, floor=0.01).sum() == pytest.approx(1600, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 3), (5, 90)])
@pytest.mark.parametrize("level", [1.0, 0.2])
def test_any_window_gives_an_answer(shape, level):
    """All empty, or all cell; nothing known is nothing found."""
    transmission = np.full(shape, level, dtype=np.float32)
    mask = segment_cell(transmission, np.ones(shape, dtype=bool), 0.01, min_area_px=1)
    assert mask.all() == mask.any() == (level < 1)
    assert not segment_cell(transmission * np.nan, np.zeros(shape, dtype=bool), np.nan).any()


def test_input_is_left_as_it_was():
    transmission, _ = draw((10, 10))
    known = np.ones(SHAPE, dtype=bool)
    before = transmission.copy()
    segment_cell(transmission, known, 0.02, seed_mask=known)
    assert np.array_equal(transmission, before)
    assert known.all()


def test_bad_input_is_refused():
    image, known = np.ones((8, 9)), np.ones((8, 9), dtype=bool)
    with pytest.raises(ValueError, match="must have one shape"):
        segment_cell(image, known[1:], 0.1)
    with pytest.raises(ValueError, match="must have one shape"):
        segment_cell(image, known, 0.1, seed_mask=known[1:])
    with pytest.raises(ValueError, match="transmission is not finite"):
        segment_cell(image * np.nan, known, 0.1)
    for noise in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="noise_std must be positive"):
            segment_cell(image, known, noise)

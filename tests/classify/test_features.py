"""Features against closed forms, against dclab, and against instruments' own measurements."""

import csv
import math

import dclab
import numpy as np
import pytest
from dclab.features import inert_ratio, volume
from dclab.features.contour import get_contour
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.io import imread

from stretchscope.classify.features import FEATURES, TEXTURE_LEVELS, TEXTURE_TOP, measure_cell

SHAPE_ONLY = [f for f in FEATURES if not f.name.startswith(("transmission_", "optical", "gradient", "texture"))]


def ellipse(a, b, angle=0.0, shape=(96, 96), centre=(47.7, 48.2)):
    """Pixels whose centre lies in an ellipse; angle from x (rows) towards y (columns)."""
    x, y = np.mgrid[: shape[0], : shape[1]]
    x, y = x - centre[0], y - centre[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def measure(mask, transmission=None, known=None, pixel_um=None):
    transmission = np.full(mask.shape, 0.8, dtype=np.float32) if transmission is None else transmission
    known = np.ones(mask.shape, dtype=bool) if known is None else known
    return measure_cell(mask, transmission, known, pixel_um=pixel_um)


def ellipse_perimeter(a, b):
    """Ramanujan's second formula, exact to 1e-5 for these axis ratios."""
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, 1.3, np.pi / 2, 2.0, 2.9])
@pytest.mark.parametrize(("a", "b"), [(6, 6), (12, 7), (20, 10), (30, 29), (40, 25)])
def test_ellipse_of_any_size_and_angle(a, b, angle):
    f = measure(ellipse(a, b, angle))
    perimeter = ellipse_perimeter(a, b)
    # along the edge each pixel is in or out by chance: the sum deviates by sqrt(P / 12), taken 4 times
    assert f["area_px2"] == pytest.approx(np.pi * a * b, abs=4 * np.sqrt(perimeter / 12))
    assert f["perimeter_px"] == pytest.approx(perimeter, rel=0.01, abs=1)
    assert f["major_axis_px"] == pytest.approx(2 * a, abs=0.35)
    assert f["minor_axis_px"] == pytest.approx(2 * b, abs=0.35)
    assert f["centroid_x_px"] == pytest.approx(47.7, abs=0.15)
    assert f["centroid_y_px"] == pytest.approx(48.2, abs=0.15)
    assert f["position_x_px"] == pytest.approx(47.7, abs=0.25)
    assert f["position_y_px"] == pytest.approx(48.2, abs=0.25)
    extent_x = 2 * np.hypot(a * np.cos(angle), b * np.sin(angle))
    extent_y = 2 * np.hypot(a * np.sin(angle), b * np.cos(angle))
    assert f["size_x_px"] == pytest.approx(extent_x, abs=1.01)
    assert f["size_y_px"] == pytest.approx(extent_y, abs=1.01)
    assert f["unknown_fraction"] == f["touches_border"] == 0

    # centres lie within the ellipse, and the farthest of them less than a pixel and a half from its ends, both together
    for name, axis in (("feret_max_px", a), ("feret_min_px", b)):
        assert 2 * axis - 0.5 < f[name] <= 2 * axis + 1

    # the outline through pixel centres lies between the ellipse and one a pixel inside
    assert np.pi * (a - 1) * (b - 1) < f["outline_area_px2"] <= f["convex_area_px2"] < np.pi * a * b
    inner_a, inner_b = a - 0.4, b - 0.4
    circularity = 2 * np.pi * np.sqrt(inner_a * inner_b) / ellipse_perimeter(inner_a, inner_b)
    assert f["circularity"] == pytest.approx(circularity, abs=0.15 / b)
    assert f["deformation"] == 1 - f["circularity"]
    assert f["inertia_ratio_principal"] == pytest.approx(inner_a / inner_b, rel=0.7 / b)
    assert f["solidity"] > 1 - 0.6 / b
    assert f["lobes_2"] == pytest.approx((a - b) / (a + b), abs=0.25 / b)
    assert max(f[f"lobes_{n}"] for n in (3, 5, 7)) < 0.25 / b
    if a - b > 2:
        axis = angle if angle <= np.pi / 2 else angle - np.pi
        assert abs(np.sin(f["orientation_rad"] - axis)) < 0.3 / (a - b)
        assert abs(f["tilt_rad"] - abs(axis)) < 0.5 / (a - b)
        eccentricity = np.sqrt(1 - (inner_b / inner_a) ** 2)
        assert f["eccentricity"] == pytest.approx(eccentricity, abs=0.3 / b)


@pytest.mark.parametrize(("a", "b"), [(8, 8), (20, 10), (10, 20), (40, 40)])
def test_volume_is_that_of_the_revolved_ellipse(a, b):
    """Oracle: 4/3 pi a b², a along the flow, for an ellipse somewhat inside the pixels' outer edge."""
    found = measure(ellipse(a, b))["volume_px3"]
    assert 4 / 3 * np.pi * (a - 0.9) * (b - 0.9) ** 2 < found < 4 / 3 * np.pi * a * b**2


@pytest.mark.parametrize("lobes", [2, 3, 4, 5, 6, 7])
def test_lobes_are_told_apart(lobes):
    """Oracle: r = R (1 + e cos n phi) has e in the n-th descriptor and, to first order, nothing in others."""
    x, y = np.mgrid[:121, :121] - 60.3
    mask = np.hypot(x, y) <= 45 * (1 + 0.08 * np.cos(lobes * np.arctan2(y, x) + 0.7))
    f = measure(mask)
    assert f[f"lobes_{lobes}"] == pytest.approx(0.08, rel=0.1)
    assert max(f[f"lobes_{n}"] for n in range(2, 8) if n != lobes) < 0.3 * 0.08


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    quarter_turns=st.integers(0, 3),
    mirrored=st.booleans(),
    scale=st.integers(1, 3),
    pixel_um=st.floats(0.05, 5),
)
def test_turned_enlarged_and_recalibrated(seed, quarter_turns, mirrored, scale, pixel_um):
    """A quarter turn changes no shape, k times finer pixels scale it, and µm scale exactly."""
    mask = blob(np.random.default_rng(seed))
    f = measure(mask)
    turned = np.rot90(mask[::-1] if mirrored else mask, quarter_turns)
    g = measure(turned)
    invariant = ["area_px2", "perimeter_px", "outline_area_px2", "convex_area_px2", "outline_perimeter_px"]
    invariant += ["deformation", "solidity", "major_axis_px", "minor_axis_px", "eccentricity"]
    invariant += ["feret_max_px", "feret_min_px"]
    for name in [*invariant, "inertia_ratio_principal"]:
        assert g[name] == pytest.approx(f[name], rel=1e-6, abs=1e-6)
    for n in range(2, 8):  # the outline starts elsewhere
        assert g[f"lobes_{n}"] == pytest.approx(f[f"lobes_{n}"], abs=0.01)

    h = measure(np.kron(mask, np.ones((scale, scale), dtype=bool)))
    assert h["area_px2"] == f["area_px2"] * scale**2
    assert h["major_axis_px"] == pytest.approx(f["major_axis_px"] * scale, rel=0.01)
    assert h["lobes_2"] == pytest.approx(f["lobes_2"], abs=0.02)

    calibrated = measure(mask, pixel_um=pixel_um)
    power = {"um": 1, "um2": 2, "um3": 3, "per_um": -1}
    for feature in FEATURES:
        scaled = f[feature.column(False)] * pixel_um ** power.get(feature.unit, 0)
        assert calibrated[feature.column(True)] == pytest.approx(scaled, rel=1e-12)


def blob(rng, size=40, radius=11.0):
    """A smooth star-shaped cell of random outline, inside its frame."""
    x, y = np.mgrid[:size, :size] - size / 2 + rng.uniform(-1, 1, (2, 1, 1))
    phi, n = np.arctan2(y, x), np.arange(1, 6)[:, None, None]
    wave = rng.uniform(-0.12, 0.12, (5, 1, 1)) * np.cos(n * phi + rng.uniform(0, 2 * np.pi, (5, 1, 1)))
    return ndimage.binary_fill_holes(np.hypot(x, y) <= radius * (1 + wave.sum(axis=0)))


@pytest.mark.parametrize("seed", range(20))
def test_dclab_agrees_on_random_outlines(seed):
    """Oracle: dclab's functions, which know only the mask (columns along the flow)."""
    mask = blob(np.random.default_rng(seed))
    f = measure(mask)
    contour = get_contour(mask.T)
    assert f["inertia_ratio"] == pytest.approx(inert_ratio.get_inert_ratio_raw(contour), rel=1e-9)
    assert f["inertia_ratio_convex"] == pytest.approx(inert_ratio.get_inert_ratio_cvx(contour), rel=1e-9)
    assert f["inertia_ratio_principal"] == pytest.approx(inert_ratio.get_inert_ratio_prnc(contour), rel=1e-6)
    assert f["tilt_rad"] == pytest.approx(inert_ratio.get_tilt(contour), abs=1e-9)
    assert f["outline_area_px2"] == pytest.approx(inert_ratio.cont_moments_cv(contour)["m00"], rel=1e-9)
    found = volume.get_volume(contour, f["position_x_px"], f["position_y_px"], 1.0, fix_orientation=True)
    assert f["volume_px3"] == pytest.approx(found, rel=1e-9)


def test_instrument_measured_the_same(data_dir):
    """Oracle: what a deformability cytometer stored beside its masks."""
    with dclab.new_dataset(data_dir / "rtdc" / "example_video.rtdc") as ds:
        pixel_um = ds.config["imaging"]["pixel size"]
        stored = [feature for feature in FEATURES if feature.rtdc in ds.features_innate]
        assert len(stored) == 9
        for i in range(len(ds)):
            mask = ds["mask"][i].astype(bool).T
            f = measure_cell(mask, np.ones(mask.shape), np.ones(mask.shape, dtype=bool), pixel_um=pixel_um)
            for feature in stored:
                value = ds[feature.rtdc][i]
                assert f[feature.column(True)] == pytest.approx(value, rel=2e-5, abs=2e-6), feature.rtdc


def test_flowcam_pixel_counts(data_dir):
    """Oracle: the instrument's own `raw_area`, the number of true pixels of each mask."""
    with (data_dir / "flowcam" / "particles.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["label"] != "unidentified"]
    chosen = rows[::20]
    assert len(chosen) > 40
    for row in chosen:
        mask = imread(data_dir / "flowcam" / "masks" / row["file"]) > 0
        f = measure(mask)
        assert f["area_px2"] == float(row["raw_area"])
        assert all(np.isfinite(f[feature.column(False)]) for feature in SHAPE_ONLY)


def odd_masks():
    frame = np.zeros((9, 12), dtype=bool)

    def of(*index):
        mask = frame.copy()
        for i in index:
            mask[i] = True
        return mask

    hole = of(np.s_[2:8, 2:9])
    hole[4:6, 4:6] = False
    return {
        "pixel": of((4, 5)),
        "corner": of((0, 0)),
        "line along": of(np.s_[2:8, 5]),
        "line across": of(np.s_[4, :]),
        "diagonal": of(*[(i, i) for i in range(8)]),
        "tee": of(np.s_[4, 2:9], np.s_[4:8, 5]),
        "two pixels": of((4, 5), (6, 5)),
        "two parts": of(np.s_[2:4, 2:4], np.s_[6:8, 8:11]),
        "hole": hole,
        "full": ~frame,
        "single": np.ones((1, 1), dtype=bool),
        "column": np.ones((5, 1), dtype=bool),
        "noise": np.random.default_rng(2).random((9, 12)) < 0.4,
    }


@pytest.mark.parametrize("name", odd_masks())
def test_any_mask_is_measured(name):
    mask = odd_masks()[name]
    f = measure(mask)
    undefined = {column for column, value in f.items() if not np.isfinite(value)}
    neighbours = (mask[1:] & mask[:-1]).any() or (mask[:, 1:] & mask[:, :-1]).any()
    assert not (undefined and neighbours)
    assert all(column.startswith(("gradient_", "texture_")) for column in undefined)
    assert f["area_px2"] == mask.sum()
    assert 0 < f["circularity"] <= 1
    assert 0 < f["solidity"] <= 1
    assert f["volume_px3"] > 0


@pytest.mark.parametrize(
    ("mask", "greatest", "least"),
    [
        (np.ones((1, 1)), 1, 0.5**0.5),  # the half-level outline of a pixel is a square on its corner
        (np.ones((1, 7)), 7, 1),
        (np.ones((4, 9)), np.hypot(3, 8) + 1, 4),
        (np.tri(8), 7 * 2**0.5 + 1, 7 * 0.5**0.5 + 1),
    ],
)
def test_feret_diameters(mask, greatest, least):
    """Oracle: pencil and paper."""
    f = measure(mask > 0)
    assert (f["feret_max_px"], f["feret_min_px"]) == pytest.approx((greatest, least))


def test_border_is_reported():
    assert measure(ellipse(8, 8, centre=(20, 20), shape=(40, 40)))["touches_border"] == 0
    for centre in [(8, 20), (31, 20), (20, 8), (20, 31)]:
        assert measure(ellipse(8.5, 8.5, centre=centre, shape=(40, 40)))["touches_border"] == 1


def test_transmission_of_known_pixels_only():
    """Oracle: a mask of two halves at 0.1 and 1.0, a quarter of it unknown and worthless."""
    mask = np.zeros((30, 30), dtype=bool)
    mask[5:25, 5:25] = True
    transmission, known = np.full(mask.shape, 1.0), np.ones(mask.shape, dtype=bool)
    transmission[:, :15] = 0.1
    known[5:15, 5:10] = known[5:15, 20:25] = False
    transmission[~known] = np.nan
    f = measure(mask, transmission, known, pixel_um=0.5)
    assert f["unknown_fraction"] == 0.25
    assert f["transmission_mean"] == pytest.approx(0.55)
    assert f["transmission_sd"] == pytest.approx(0.45)
    assert (f["transmission_min"], f["transmission_max"]) == (0.1, 1.0)
    assert (f["transmission_q10"], f["transmission_q90"]) == (0.1, 1.0)
    assert f["optical_density_mean"] == pytest.approx(0.5)
    assert f["optical_density_integral_um2"] == pytest.approx(0.5 * 400 * 0.25)
    # columns step by 0.9 in 20 rows' worth of 340 neighbouring pairs along y; 0.5 µm per pixel
    pairs = 10 * 9 + 10 * 19
    assert f["gradient_rms_per_um"] == pytest.approx(np.sqrt(0.9**2 * 20 / pairs) / 0.5)


def test_texture_of_a_grating():
    """Oracle: alternate columns at two levels: all pairs differ but those along the columns."""
    mask = np.zeros((40, 40), dtype=bool)
    mask[4:36, 4:36] = True
    step = TEXTURE_TOP / TEXTURE_LEVELS
    low, high = 10.5 * step, 14.5 * step
    grating = np.where(np.arange(40) % 2, low, high) * np.ones((40, 1))
    f = measure(mask, grating)
    along, across, diagonal = 31 * 32, 31 * 32, 2 * 31 * 31
    differing = (across + diagonal) / (along + across + diagonal)
    assert f["texture_contrast"] == pytest.approx(differing * (high - low) ** 2)
    assert f["texture_homogeneity"] == pytest.approx((1 - differing) + differing / (1 + 4**2))
    assert f["texture_correlation"] == pytest.approx(1 - 2 * differing, abs=0.01)
    flat = measure(mask, np.full(mask.shape, 0.8))
    assert (flat["texture_contrast"], flat["texture_energy"], flat["gradient_rms_per_px"]) == (0, 1, 0)


def test_nothing_known_is_nan_and_shape_stays():
    mask = ellipse(8, 6)
    f = measure(mask, known=np.zeros(mask.shape, dtype=bool))
    assert f["unknown_fraction"] == 1
    undefined = {column for column, value in f.items() if np.isnan(value)}
    assert undefined == {x.column(False) for x in FEATURES} - {x.column(False) for x in SHAPE_ONLY}


def test_names_carry_their_unit_and_are_known_to_dclab():
    for calibrated in (True, False):
        columns = [f.column(calibrated) for f in FEATURES]
        assert len(set(columns)) == len(columns)
        assert calibrated or not any("um" in column.split("_")[-1] for column in columns)
    assert list(measure(ellipse(5, 5), pixel_um=1.0)) == [f.column(True) for f in FEATURES]
    names = [f.rtdc for f in FEATURES if f.rtdc]
    assert len(set(names)) == len(names)
    assert all(dclab.dfn.scalar_feature_exists(name) for name in names)


def test_bad_input_is_refused():
    mask, image = ellipse(5, 5), np.ones((96, 96))
    known = image > 0
    with pytest.raises(ValueError, match="the mask is empty"):
        measure_cell(np.zeros_like(mask), image, known, pixel_um=None)
    with pytest.raises(ValueError, match="must have one shape"):
        measure_cell(mask, image[1:], known, pixel_um=None)
    for pixel_um in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="pixel_um must be a positive number"):
            measure_cell(mask, image, known, pixel_um=pixel_um)

"""Features and masks against an instrument's own: particles of a FlowCam."""

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="module")
def flowcam(load_benchmark):
    """The benchmark, which knows the instrument's definitions."""
    return load_benchmark("flowcam_features")


@pytest.fixture(scope="module")
def measured(flowcam, data_dir):
    """Every third particle of one part: its row, our features of its mask, and of its mask with holes filled."""
    folder = data_dir / "flowcam"
    rows, masks = [], []
    for row in flowcam.particles(folder)[::3]:
        mask = flowcam.mask_of(folder, row)
        if ndimage.label(mask, np.ones((3, 3)))[1] == 1:
            rows.append(row)
            masks.append(mask)
    assert len(rows) > 200
    names = {pair.theirs for pair in flowcam.PAIRS}
    theirs = {name: np.array([float(row[name]) for row in rows]) for name in names}
    filled = flowcam.features_of([ndimage.binary_fill_holes(mask) for mask in masks])
    return theirs, flowcam.features_of(masks), filled


def test_what_is_defined_alike_is_equal(flowcam, measured):
    """To the four digits of the instrument's table, or of its micrometres."""
    theirs, ours, filled = measured
    of_filled = {"raw_legendre_major", "raw_legendre_minor", "compactness", "elongation", "circularity_hu"}
    for pair in flowcam.PAIRS:
        if pair.theirs in ("raw_feret_max", "raw_feret_min") or "Crofton" in pair.ours:
            continue
        found = pair.value(filled if pair.theirs in of_filled else ours)
        expected = pair.from_px(theirs[pair.theirs])
        use = expected > 0
        # the instrument's digits are worth more in a ratio of small differences: elongations near 1
        tolerance = 2e-3 if pair.theirs == "elongation" else 1e-5
        np.testing.assert_allclose(found[use], expected[use], rtol=tolerance, atol=2.1e-4, err_msg=pair.theirs)


def test_feret_diameters_differ_by_the_instruments_rounding(measured):
    """It turns the mask in steps of 5° and counts whole pixels: at most 2.5° off the true direction."""
    theirs, ours, _ = measured
    longest, shortest = ours["feret_max_px"], ours["feret_min_px"]
    off = theirs["raw_feret_max"] - longest
    assert (off >= -1 - (1 - np.cos(np.deg2rad(2.5))) * longest).all()
    assert (off <= 1).all()
    assert 0 < off.mean() < 0.5  # the greatest of several whole numbers is one that was rounded up
    off = theirs["raw_feret_min"] - shortest
    assert (off >= -1).all()
    assert (off <= 1 + np.sin(np.deg2rad(2.5)) * longest).all()


def test_segmentation_finds_the_instruments_particles(flowcam, data_dir):
    """With the instrument's mask as the seed; its outline lies at the foot of the edge, ours half-way up."""
    folder = data_dir / "flowcam"
    rows = [row for row in flowcam.particles(folder) if row["label"] != "detritus"][::6]
    found = np.array([flowcam.segmented(folder, row, flowcam.mask_of(folder, row), seeded=True) for row in rows])
    assert (found[:, 0] > 0).mean() > 0.97
    assert np.median(found[:, 1]) > 0.7
    assert 0.75 < np.median(found[:, 0]) < 1.05

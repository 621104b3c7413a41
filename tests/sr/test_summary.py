"""Objects from the screen's sums, against the sums written out and labelled by scipy."""

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.sr import _summary_kernels as kernels
from stretchscope.sr.screen import ScreenTables
from stretchscope.sr.summary import sum_up, summary_of


@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(6))
def test_sums_are_those_of_labelled_boxes(seed: int) -> None:
    """Objects of any form, rows that are not wanted, positions that are not searched."""
    rng = np.random.default_rng(seed)
    period, rows, width, box, doublings, limit = 60.0, 24, 48, 4, 2, 160
    starts = 5.0 + np.arange(4 * rows + 1) * period
    offsets = np.tile(np.arange(4) * int(period), (2, 1)).astype(np.int64)
    blobs = ndimage.gaussian_filter(rng.normal(size=(rows, width // box)), 1.2)
    depth = np.repeat(np.where(blobs > 0.25, 20, 0), box, axis=1)
    samples = np.full(int(starts[-1]) + 200, 30, dtype=np.int8)
    for row in range(rows):
        for line in range(4):
            first = int(starts[4 * row + line])
            samples[first : first + width] -= depth[row].astype(np.int8)
    # boxes overlap by half, box k ends before sample 2·(k + 1)
    limits = np.full((2, width // 2), limit, dtype=np.int16)
    inverse = np.full((2, width // 2), 1 / (4 * box * 40.0), dtype=np.float32)
    inverse[:, 40 // 2 :] = 0  # not searched
    # the baseline is told by samples beyond the line, which are never darkened
    expected = np.full((1, 2, width // 2), 120 * box, dtype=np.int16)
    arrays = offsets, expected, limits, doublings, width, width + 12, np.full((1, 2), 120.0 * 12)
    tables = ScreenTables(arrays, (-128, 127), 270, inverse)
    wanted = rng.random(rows) < 0.9
    sums = sum_up(samples, 0, starts, wanted, tables)

    near = (depth[:, ::box] > 0) & wanted[:, None]
    near[:, 40 // box :] = False
    labels, _ = ndimage.label(near, np.ones((3, 3)))
    expected_sums = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        count = int((labels == number).sum())
        if count >= 3:  # fewer are noise
            top, left = place[0], place[1]
            expected_sums.append((top.start, top.stop - 1, left.start, left.stop - 1, count, count * 0.5))
    columns = [
        kernels.ROW_FIRST, kernels.ROW_LAST, kernels.BOX_FIRST, kernels.BOX_LAST, kernels.BOXES, kernels.LOSS,
    ]  # fmt: skip
    np.testing.assert_allclose(
        sorted(map(tuple, sums[:, columns].tolist())), sorted(expected_sums), rtol=1e-5, atol=1e-6
    )
    summary = summary_of(sums, np.full(len(sums), 400), box)
    np.testing.assert_allclose(summary.transmission_mean, 0.5, rtol=1e-5)
    assert (summary.line_first == 400 + 4 * sums[:, kernels.ROW_FIRST]).all()
    assert (summary.tau_last_samples > summary.tau_first_samples).all()

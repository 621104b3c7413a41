"""Image quality in the run record and the report."""

import json
from pathlib import Path

import numpy as np
import pytest

from stretchscope.acquisition.simulate import simulate
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.quality import MOST_CELLS, Candidate, best_candidates
from stretchscope.pipeline.settings import Settings
from stretchscope.sr.refine import RESPONSE_WIDTH


@pytest.fixture(scope="module")
def results(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    process_capture(simulated, folder, execution=Execution(workers=2))
    return folder


def test_record_says_how_good_the_images_are(results: Path) -> None:
    record = json.loads((results / "simulated.run.json").read_text())
    quality, grid = record["quality"], record["grid"]
    assert quality["cells"] == MOST_CELLS
    for axis, unit, sigma, um in (
        ("along_line", "sample", grid["sigma_samples"], record["signal"]["um_per_sample"]),
        ("along_flow", "line", grid["sigma_lines"], record["signal"]["um_per_line"]),
    ):
        found = quality[axis]
        assert found[f"kernel_fwhm_{unit}s"] == pytest.approx(RESPONSE_WIDTH * sigma)
        assert found["kernel_fwhm_um"] == pytest.approx(RESPONSE_WIDTH * sigma * um)
        assert found[f"finest_period_of_halves_{unit}s"] <= found[f"period_half_bit_{unit}s"]
        assert found["kernel_fwhm_um"] <= found["resolution_um"] < 1.0
        frequency, correlation = found[f"frequency_per_{unit}"], found["correlation"]
        assert len(frequency) == len(correlation) == len(found["independent"]) > 10
        assert np.all(np.diff(frequency) > 0)
        assert frequency[-1] * found[f"finest_period_of_halves_{unit}s"] == pytest.approx(1, rel=1e-4)
        assert np.mean(correlation[:5]) > 0.99  # cells stand far out of the noise
    coverage = quality["coverage"]
    # 1.24 lines pass while the flow moves by a sample: so few hold no second phase, and the record says so
    assert coverage["largest_gap_samples"] > coverage["widest_allowed_gap_samples"]
    assert coverage["poorly_covered_fraction"] > 0.9
    assert 1 <= coverage["pixel_samples_median"] <= RESPONSE_WIDTH * grid["sigma_lines"] + 1


def test_gridding_takes_kernels_that_are_covered(simulated: Path, tmp_path: Path) -> None:
    coverage = process_capture(simulated, tmp_path, Settings().with_method("gridding"))["quality"]["coverage"]
    assert coverage["largest_gap_samples"] <= coverage["widest_allowed_gap_samples"]
    assert coverage["poorly_covered_fraction"] < 0.05


def test_report_shows_it(results: Path) -> None:
    page = (results / "simulated.html").read_text()
    assert "<h2>Image quality</h2>" in page
    assert page.count("data:image/png;base64,") == 2
    assert "finest period that two halves of the lines agree on" in page


def test_a_capture_without_cells_has_no_curves(tmp_path: Path) -> None:
    capture = tmp_path / "empty.h5"
    simulate(capture, lines=2_000, cells=0, seed=4)
    quality = process_capture(capture, tmp_path / "out")["quality"]
    assert quality["cells"] == 0
    assert quality["along_line"]["resolution_um"] is None
    assert quality["along_line"]["correlation"] == []
    assert quality["coverage"]["poorly_covered_fraction"] is None
    assert quality["coverage"]["largest_gap_samples"] > 0
    page = (tmp_path / "out" / "empty.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "unknown" in page


def test_candidates_are_whole_and_significant() -> None:
    some = [Candidate(False, -10.0, (0.0, 9.0, 0.0, 5.0)), Candidate(True, -90.0, (20.0, 29.0, 0.0, 5.0))]
    assert best_candidates(some[::-1], []) == some
    many = [Candidate(False, -float(i), (100.0 * i, 100.0 * i + 9, 0.0, 5.0)) for i in range(20)]
    assert [c.insignificance for c in best_candidates(many, [])] == [-19.0, -18.0, -17.0, -16.0, -15.0, -14.0]
    for candidate in some:
        assert Candidate.of(json.loads(json.dumps(candidate.numbers()))) == candidate

"""The .rtdc writer against dclab, the format's own reader and checker."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone

import dclab
import h5py
import numpy as np
import pytest
from dclab.cli import verify_dataset

from stretchscope.classify.features import FEATURES, measure_cell
from stretchscope.pipeline.rtdc import RtdcMetadata, RtdcWriter, grey_levels, rtdc_attributes

CROP = (48, 36)
METADATA = RtdcMetadata(
    sample="oil in water",
    run_identifier="3f2c9a",
    software_version="0.1.0",
    line_rate_hz=18.1475e6,
    sample_rate_hz=5e9,
)
CALIBRATED = RtdcMetadata(
    sample="Scenedesmus sp. · 2",
    run_identifier="77aa01",
    software_version="0.1.0",
    line_rate_hz=11.6e6,
    sample_rate_hz=4e9,
    run_index=3,
    start=datetime(2026, 1, 2, 1, 30, tzinfo=timezone(timedelta(hours=2))),
    pixel_um=0.25,
    field_of_view_um=48.0,
    flow_speed_m_s=2.1,
    instrument="ATOM-1",
)


def ellipses(n, pixel_um, seed=0):
    """Crops, masks and results table of n tilted, noisy ellipses, rows along the flow."""
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[: CROP[0], : CROP[1]]
    x, y = x - rng.uniform(20, 28, (n, 1, 1)), y - rng.uniform(15, 21, (n, 1, 1))
    a, b, angle = (
        rng.uniform(9, 13, (n, 1, 1)),
        rng.uniform(5, 9, (n, 1, 1)),
        rng.uniform(0, np.pi, (n, 1, 1)),
    )
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    masks = (u / a) ** 2 + (v / b) ** 2 <= 1
    transmission = (1 - 0.4 * masks + rng.normal(0, 0.02, masks.shape)).astype(np.float32)
    known = np.ones(CROP, dtype=bool)
    cells = [measure_cell(m, t, known, pixel_um=pixel_um) for m, t in zip(masks, transmission, strict=True)]
    names = [f.column(pixel_um is not None) for f in FEATURES]
    table = {name: np.array([cell[name] for cell in cells]) for name in names}
    line = np.arange(n, dtype=np.int64) * 1000 + 2**40  # beyond what float32 could keep
    table |= {"line_first": line, "line_last": line + 47, "time_s": line / 1e7}
    table |= {"sample_first": line * 275, "sample_last": (line + 48) * 275, "label": np.array(["x"] * n)}
    return grey_levels(transmission, METADATA), masks, table


def write(path, metadata, batch, cuts=()):
    images, masks, table = batch
    with RtdcWriter(path, metadata, CROP) as writer:
        for part in np.split(np.arange(len(images)), cuts):
            writer.append(images[part], masks[part], {name: column[part] for name, column in table.items()})
    return path


def exit_status(path):
    with pytest.raises(SystemExit, match=r"\d") as stop:
        verify_dataset(path)
    return stop.value.code


@pytest.mark.parametrize("metadata", [METADATA, CALIBRATED], ids=["unknown", "calibrated"])
@pytest.mark.parametrize("n", [1, 1000])
def test_dclab_accepts_the_file_and_reads_every_event(tmp_path, metadata, n):
    images, masks, table = ellipses(min(n, 50), metadata.pixel_um)
    again = np.arange(n) % len(images)
    images, masks, table = batch = images[again], masks[again], {k: v[again] for k, v in table.items()}
    path = write(tmp_path / "cells.rtdc", metadata, batch, cuts=[n // 3, n // 3])
    assert exit_status(path) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["cells.rtdc"]
    with dclab.new_dataset(path) as ds:
        assert len(ds) == n
        for i in range(n):
            assert np.array_equal(ds["image"][i], images[i].T)
            assert np.array_equal(ds["mask"][i], masks[i].T)
        for name in ds.features_innate:
            assert len(ds[name]) == n
        for column, name in {"line_first": 0, "line_last": 1, "sample_first": 2, "sample_last": 3}.items():
            np.testing.assert_array_equal(ds[f"userdef{name}"], table[column])
        np.testing.assert_array_equal(ds["frame"], table["line_first"])
        np.testing.assert_array_equal(ds["time"], table["time_s"])
        np.testing.assert_array_equal(ds["index"], np.arange(1, n + 1))
        for feature in FEATURES:
            if feature.rtdc:
                np.testing.assert_array_equal(ds[feature.rtdc], table[feature.column(metadata.pixel_um is not None)])
        assert ds.config["experiment"]["sample"] == metadata.sample
        assert ds.config["imaging"]["frame rate"] == metadata.line_rate_hz


def test_dclab_computes_the_same_from_the_masks(tmp_path):
    """Oracle: dclab's own features, computed from image and mask once the stored ones are gone."""
    path = write(tmp_path / "cells.rtdc", CALIBRATED, ellipses(40, 0.25))
    derived = [
        "inert_ratio_raw",
        "inert_ratio_cvx",
        "inert_ratio_prnc",
        "tilt",
        "volume",
        "bright_avg",
        "bright_sd",
    ]
    derived += ["area_um", "deform", "aspect"]
    with dclab.new_dataset(path) as ds:
        ours = {name: ds[name][:] for name in derived}
    with h5py.File(path, "a") as file:
        for name in derived:
            del file["events"][name]
    with dclab.new_dataset(path) as ds:
        for name in derived:
            np.testing.assert_allclose(ours[name], ds[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_an_empty_file_opens_and_is_called_empty(tmp_path):
    """dclab has one objection to a file without events, an alert that it is empty: exit status 1."""
    path = write(tmp_path / "none.rtdc", METADATA, ellipses(0, None))
    violations, alerts, _ = dclab.rtdc_dataset.check_dataset(path)
    assert violations == []
    assert alerts == ["The dataset does not contain any events"]
    assert exit_status(path) == 1


def test_same_input_same_bytes(tmp_path):
    batch = ellipses(30, None)
    first = write(tmp_path / "a.rtdc", METADATA, batch, cuts=[10, 20]).read_bytes()
    time.sleep(1.1)  # a second, the unit of HDF5's time stamps
    assert write(tmp_path / "b.rtdc", METADATA, batch, cuts=[10, 20]).read_bytes() == first


def contents(path):
    with h5py.File(path) as file:
        return dict(file.attrs), {name: data[:] for name, data in file["events"].items()}


def test_killed_writer_leaves_whole_batches_and_goes_on(tmp_path):
    """A process that dies without closing: what it flushed opens, is cut and completed."""
    images, masks, table = batch = ellipses(30, None)
    np.savez(tmp_path / "batch.npz", images=images, masks=masks, **{k: v for k, v in table.items() if k != "label"})
    script = f"""
import os, numpy as np
import stretchscope.pipeline.rtdc as rtdc
batch = dict(np.load({str(tmp_path / "batch.npz")!r}))
images, masks = batch.pop("images"), batch.pop("masks")
writer = rtdc.RtdcWriter({str(tmp_path / "cells.rtdc")!r}, rtdc.{METADATA!r}, {CROP})
for part in (slice(0, 10), slice(10, 20)):
    writer.append(images[part], masks[part], {{name: column[part] for name, column in batch.items()}})
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert not (tmp_path / "cells.rtdc").exists()
    with dclab.new_dataset(tmp_path / "cells.rtdc.part") as ds:
        assert len(ds) == 20

    with RtdcWriter.resume(tmp_path / "cells.rtdc", 15) as writer:
        assert writer.events == 15
        writer.append(images[15:], masks[15:], {name: column[15:] for name, column in table.items()})
    assert exit_status(tmp_path / "cells.rtdc") == 0
    attributes, events = contents(tmp_path / "cells.rtdc")
    whole_attributes, whole_events = contents(write(tmp_path / "whole.rtdc", METADATA, batch))
    assert attributes == whole_attributes
    assert events.keys() == whole_events.keys()
    for name, values in whole_events.items():
        np.testing.assert_array_equal(events[name], values, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_packed_lightly_it_is_the_same(tmp_path, seed):
    """Batches of any size, written either way in turns, and after `resume`; also masks with holes and in parts."""
    rng = np.random.default_rng(seed)
    images, masks, table = ellipses(60, 0.25, seed)
    masks &= (rng.random(masks.shape) < 0.9) | (np.arange(60) % 2 == 0)[:, None, None]
    which = rng.integers(0, 60, 900)
    line = np.arange(900)
    images, masks, table = images[which], masks[which], {k: v[which] for k, v in table.items()} | {"line_first": line}
    expected = contents(write(tmp_path / "whole.rtdc", CALIBRATED, (images, masks, table)))

    path = tmp_path / "cells.rtdc"
    writer = RtdcWriter(path, CALIBRATED, CROP)
    stop = 0
    for step in [*rng.integers(0, 300, 9), 900]:
        rows = slice(stop, min(stop + step, 900))
        own = {name: column[rows] for name, column in table.items()}
        if rng.random() < 0.3:
            writer.append(images[rows], masks[rows], own)
        else:
            for part in np.split(np.arange(rows.start, rows.stop), [(rows.stop - rows.start) // 3]):
                writer.pack(images[part], masks[part])
            assert writer.packed == rows.stop - rows.start
            writer.append_packed(own)
        assert writer.packed == 0
        stop = rows.stop
        if stop == 900:
            break
        if rng.random() < 0.3:
            writer.abandon()
            stop = max(stop - 50, 0)
            writer = RtdcWriter.resume(path, stop)
    writer.close()
    assert exit_status(path) == 0
    attributes, events = contents(path)
    assert attributes == expected[0]
    for name, values in expected[1].items():
        np.testing.assert_array_equal(events[name], values, err_msg=name)


def test_packed_pictures_are_refused_like_others(tmp_path):
    images, masks, table = ellipses(3, None)
    with RtdcWriter(tmp_path / "cells.rtdc", METADATA, CROP) as writer:
        with pytest.raises(ValueError, match="masks must be bool"):
            writer.pack(images, masks.astype(np.uint8))
        for bad_masks, bad_table, message in [
            (masks & (np.arange(3) != 1)[:, None, None], table, "event 1: the mask is empty"),
            (masks, table | {"time_s": table["time_s"][:2]}, "time_s must be 3 numbers"),
        ]:
            writer.pack(images, bad_masks)
            with pytest.raises(ValueError, match=message):
                writer.append_packed(bad_table)
            assert writer.events == writer.packed == 0
        writer.pack(images, masks)
        with pytest.raises(ValueError, match="3 pictures are packed"):
            writer.append(images, masks, table)
        writer.append_packed(table)
        writer.append_packed({})  # nothing to write
    assert exit_status(tmp_path / "cells.rtdc") == 0


def test_resume_refuses_what_it_cannot_continue(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cells\.rtdc\.part"):
        RtdcWriter.resume(tmp_path / "cells.rtdc", 0)
    (tmp_path / "cells.rtdc.part").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    with pytest.raises(ValueError, match="cannot be read, start afresh"):
        RtdcWriter.resume(tmp_path / "cells.rtdc", 0)
    writer = RtdcWriter(tmp_path / "cells.rtdc", METADATA, CROP)
    writer.append(*ellipses(4, None))
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not (tmp_path / "cells.rtdc").exists()
    with pytest.raises(ValueError, match="holds 4 events, cannot go on after 5"):
        RtdcWriter.resume(tmp_path / "cells.rtdc", 5)


def test_append_refuses_wrong_types_and_writes_nothing(tmp_path):
    """dclab lets wrong types pass unseen and later corrupts them, so the writer must not."""
    images, masks, table = ellipses(3, None)
    wrong = [
        (images.astype(np.uint16), masks, table, "images must be uint8"),
        (images[:, 1:], masks, table, "images must be uint8 of shape"),
        (images, masks.astype(np.uint8), table, "masks must be bool"),
        (images, masks & (np.arange(3) != 1)[:, None, None], table, "event 1: the mask is empty"),
        (images, masks, table | {"line_first": table["line_first"] + 0.0}, "line_first must be 3 integers"),
        (images, masks, table | {"time_s": table["time_s"][:2]}, "time_s must be 3 numbers"),
        (images, masks, table | {"deformation": np.array(["a"] * 3)}, "deformation must be 3 numbers"),
        (
            images,
            masks,
            {k: v for k, v in table.items() if k != "volume_px3"},
            "lacks the columns volume_px3",
        ),
        (images, masks, ellipses(3, 0.25)[2], "lacks the columns .*convex_area_px2"),
    ]
    with RtdcWriter(tmp_path / "cells.rtdc", METADATA, CROP) as writer:
        for *batch, message in wrong:
            with pytest.raises(ValueError, match=message):
                writer.append(*batch)
        assert writer.events == 0
        writer.append(images, masks, table)
    assert exit_status(tmp_path / "cells.rtdc") == 0


def test_placeholders_are_named_and_the_rest_is_not():
    unknown, known = rtdc_attributes(METADATA, CROP), rtdc_attributes(CALIBRATED, CROP)
    assert unknown["user:placeholders"].split(", ") == [
        "experiment:date",
        "experiment:time",
        "imaging:pixel size",
        "imaging:flash duration",
        "setup:channel width",
        "setup:flow rate",
        "setup:flow rate sample",
        "setup:medium",
        "setup:identifier",
    ]
    assert unknown["imaging:pixel size"] == 1.0
    assert (unknown["experiment:date"], unknown["experiment:time"]) == ("1970-01-01", "00:00:00")
    assert "imaging:pixel size" not in known["user:placeholders"]
    assert known["imaging:pixel size"] == 0.25
    assert (known["experiment:date"], known["experiment:time"]) == ("2026-01-01", "23:30:00")  # UTC
    assert known["experiment:timestamp"] == datetime(2026, 1, 1, 23, 30, tzinfo=UTC).timestamp()
    assert (known["imaging:roi size x"], known["imaging:roi size y"]) == CROP


def test_log_says_what_is_a_placeholder(tmp_path):
    with dclab.new_dataset(write(tmp_path / "cells.rtdc", METADATA, ellipses(1, None))) as ds:
        log = ds.logs["stretchscope"]
    assert "Placeholder, not a measured value: setup:flow rate = 1.0" in log
    assert any("pixel size is not known" in line for line in log)
    assert max(map(len, log)) <= 100


def test_grey_levels_follow_the_scale_in_the_file():
    attributes = rtdc_attributes(METADATA, CROP)
    low, high = attributes["user:transmission at 0"], attributes["user:transmission at 255"]
    transmission = np.linspace(low, high, 1001)
    back = low + grey_levels(transmission, METADATA) / 255 * (high - low)
    np.testing.assert_allclose(back, transmission, atol=(high - low) / 510 * 1.0001)
    assert grey_levels(np.array([-1, 9, np.nan, 1.0]), METADATA).tolist() == [0, 255, 150, 150]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": ""}, "sample must not be empty"),
        ({"pixel_um": 0.0}, "pixel_um must be positive"),
        ({"line_rate_hz": float("nan")}, "line_rate_hz must be positive"),
        ({"run_index": 0}, "run_index counts from 1"),
        ({"transmission_at_255": 0.0}, "transmission_at_0 must lie below"),
    ],
)
def test_metadata_refuses_what_the_format_cannot_hold(change, message):
    known = {
        "sample": "s",
        "run_identifier": "r",
        "software_version": "0",
        "line_rate_hz": 1e7,
        "sample_rate_hz": 5e9,
    }
    with pytest.raises(ValueError, match=message):
        RtdcMetadata(**(known | change))

"""Raw IFCB bins: real ones of both layouts, and damaged ones."""

import shutil

import numpy as np
import pytest

from stretchscope.data.collections import CollectionError, open_collection
from stretchscope.data.ifcb import open_ifcb

NEW, OLD = "D20220519T124533_IFCB134", "IFCB5_2012_028_081515"
BINS = {NEW: (18, 17), OLD: (7, 6), "D20130526T095207_IFCB013": (118, 19), "D20220522T003051_IFCB134": (3, 2)}


def write_bin(folder, lines, pixels, name="x"):
    (folder / f"{name}.adc").write_text("\n".join(lines))
    (folder / f"{name}.roi").write_bytes(bytes(pixels))
    return folder / f"{name}.adc"


def line(trigger, width, height, start, *, columns=24):
    fields = ["0.5"] * columns
    fields[0] = str(trigger)
    first = 15 if columns >= 18 else 11
    fields[first : first + 3] = str(width), str(height), str(start)
    return ",".join(fields)


@pytest.mark.parametrize("name", BINS)
@pytest.mark.parametrize("suffix", [".adc", ".hdr", ".roi"])
def test_real_bins(data_dir, name, suffix):
    triggers, pictures = BINS[name]
    adc = (data_dir / "ifcb" / f"{name}.adc").read_text()
    assert adc.count("\n") == triggers
    collection = open_collection(data_dir / "ifcb" / f"{name}{suffix}")
    assert len(collection) == pictures
    assert collection.classes == ()
    assert collection.pixel_um is None
    for index in range(pictures):
        image = collection.read(index)
        assert 0.9 < np.median(np.r_[image[0], image[-1]]) < 1.1
        # neighbouring rows are alike: the width is right
        assert np.abs(np.diff(image, axis=0)).mean() < 0.1


def test_a_bin_agrees_with_the_picture_that_its_owner_saved(data_dir):
    """Oracle: the grey PNG of picture 3 that comes with the bin, its contrast stretched."""
    folder = data_dir / "ifcb"
    raw = open_collection(folder / "D20220522T003051_IFCB134.adc")
    saved = open_collection(folder / "labelled" / "Mesodinium_rubrum" / "D20220522T003051_IFCB134_00003.png")
    assert raw.names[1] == "D20220522T003051_IFCB134#3"
    assert raw.read(1).shape == saved.read(0).shape
    assert np.corrcoef(raw.read(1).ravel(), saved.read(0).ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("columns", [24, 15])
def test_both_layouts(tmp_path, columns):
    """Older bins count bytes from 1 and have the sizes in other columns."""
    random = np.random.default_rng(0)
    pictures = [random.integers(100, 200, shape).astype(np.uint8) for shape in ((5, 8), (7, 6), (4, 4))]
    starts = np.cumsum([0, 40, 42]) + (columns == 15)
    lines = [
        line(t, p.shape[1], p.shape[0], s, columns=columns) for t, p, s in zip((1, 3, 3), pictures, starts, strict=True)
    ]
    lines.insert(1, line(2, 0, 0, 40, columns=columns))
    opened = open_ifcb(write_bin(tmp_path, lines, b"".join(p.tobytes() for p in pictures)))
    assert opened.numbers == (1, 3, 4)
    assert [opened.content(i) for i in range(3)] == [p.tobytes() for p in pictures]
    collection = open_collection(tmp_path)
    assert collection.names == ("x#1", "x#3", "x#4")
    assert collection.groups[1] == collection.groups[2] != collection.groups[0]  # of one trigger


def test_classes_and_tables(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_bin(tmp_path / name, [line(1, 5, 5, 0), line(2, 5, 5, 25)], range(100, 150), name=f"bin{name}")
    collection = open_collection(tmp_path)
    assert collection.names == ("a/bina#1", "a/bina#2", "b/binb#1", "b/binb#2")
    assert collection.labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "t.csv").write_text("path,event,label\na/bina.roi,2,x\nb/binb.adc,,y\n")
    collection = open_collection(tmp_path / "t.csv")
    assert collection.names == ("a/bina#2", "b/binb#1", "b/binb#2")
    assert collection.labels.tolist() == [0, 1, 1]
    collection = open_collection(tmp_path / "a", labels=_table(tmp_path, "bina.hdr", 1))
    assert collection.labels.tolist() == [0, -1]
    with pytest.raises(CollectionError, match=r"row 1: .*bina\.adc has no image of number 7"):
        open_collection(_table(tmp_path, "a/bina.adc", 7))


def _table(folder, path, event):
    (folder / "t.csv").write_text(f"path,event,label\n{path},{event},x\n")
    return folder / "t.csv"


def test_columns_by_the_header(tmp_path):
    """Where the header names the columns, they are taken from there."""
    fields = ["0.5"] * 24
    fields[:4] = "1", "0", "5", "4"
    path = write_bin(tmp_path, [",".join(fields)], range(20))
    names = ["trigger#", "start_byte", "ROIwidth", "RoiHeight", *["other"] * 20]
    path.with_suffix(".hdr").write_text(f"softwareVersion: 1\nADCFileFormat: {', '.join(names)}\nx: 1\n")
    assert open_ifcb(path).shapes == ((4, 5),)
    path.with_suffix(".hdr").write_text("ADCFileFormat: trigger#, ROIwidth, ROIheight\n")
    with pytest.raises(CollectionError, match=r"x.hdr: ADCFileFormat names no column startbyte"):
        open_ifcb(path)


def test_truncated_bin_says_so(tmp_path, data_dir):
    for suffix in (".adc", ".hdr", ".roi"):
        shutil.copy(data_dir / "ifcb" / f"{NEW}{suffix}", tmp_path)
    roi = tmp_path / f"{NEW}.roi"
    roi.write_bytes(roi.read_bytes()[:-1])
    with pytest.raises(
        CollectionError, match=r"\.roi: has 279919 bytes, but its picture 18 of 176 x 130 pixels ends at"
    ):
        open_collection(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,2,3"], "x.adc, line 1: has 3 columns, must have 14 or more"),
        (["\x00\xff\x00"], "line 1: has 1 columns"),
        ([line(1, 5, 5, 0), line(2, "wide", 5, 0)], "line 2: column 16 must be a whole number, is 'wide'"),
        ([line(1, 5.5, 5, 0)], "column 16 must be a whole number"),
        ([line(1, "nan", 5, 0)], "column 16 must be a whole number"),
        ([line(1, "1e400", 5, 0)], "column 16 must be a whole number"),
        ([line(1, -5, 5, 0)], "a picture of -5 x 5 pixels from byte 0 cannot be"),
        ([line(1, 5, 5, 0, columns=15)], "a picture of 5 x 5 pixels from byte -1 cannot be"),
        ([line(1, 10_000, 5_000, 0)], "10000 x 5000 pixels are more than the 16777216 allowed"),
        ([line(1, 5, 5, 10**15)], "x.roi: has 50 bytes, but its picture 1"),
        ([line(1, 0, 0, 0)], "holds no images"),
        ([], "holds no images"),
    ],
)
def test_bad_bins_say_so(tmp_path, lines, message):
    path = write_bin(tmp_path, lines, range(50))
    with pytest.raises(CollectionError, match=message):
        open_collection(path)


def test_missing_part_says_so(tmp_path):
    path = write_bin(tmp_path, [line(1, 5, 5, 0)], range(50))
    path.with_suffix(".roi").unlink()
    with pytest.raises(CollectionError, match=r"x.roi: is missing; a bin has an .adc and a .roi"):
        open_collection(path)


def test_black_ground_says_so(tmp_path):
    path = write_bin(tmp_path, [line(1, 5, 5, 0)], [0] * 25)
    with pytest.raises(CollectionError, match=r"x.roi, picture 1: its ground is dark"):
        open_collection(path).read(0)

"""Collections of images: what is found, how it is read and split, and that bad input says so."""

import contextlib
import pickle
import struct
import zlib
from datetime import UTC, datetime

import h5py
import hdf5plugin
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from stretchscope.data.collections import (
    CollectionError,
    check_for_training,
    class_weights,
    collection_of,
    fold,
    open_collection,
    split,
)
from stretchscope.data.duplicates import MOST_ALIKE, near_duplicates
from stretchscope.data.images import read_grey, transmission_of
from stretchscope.pipeline.rtdc import RtdcMetadata, rtdc_attributes


def picture(seed=0, shape=(24, 30), ground=200.0):
    """A dark blob on an even ground; uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    middle, size = random.uniform(0.4, 0.6, 2) * shape, random.uniform(0.1, 0.25, 2) * shape
    r2 = ((y - middle[0]) / size[0]) ** 2 + ((x - middle[1]) / size[1]) ** 2
    texture = random.uniform(0.3, 0.7, (4, 4)).repeat(-(-shape[0] // 4), 0).repeat(-(-shape[1] // 4), 1)
    return np.rint(ground * (1 - texture[: shape[0], : shape[1]] * (r2 < 1))).astype(np.uint8)


def write_classes(folder, counts, first=0):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed = first + sum(map(ord, name)) * 1000 + number
            Image.fromarray(picture(seed)).save(folder / name / f"{seed}.png")


def test_class_folders(tmp_path):
    write_classes(tmp_path, {"b": 3, "a/deep": 2})
    Image.fromarray(picture(5)).save(tmp_path / "z.tif")
    (tmp_path / "b" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    collection = open_collection(tmp_path)
    assert collection.classes == ("a", "b")
    assert collection.labels.tolist() == [0, 0, 1, 1, 1, -1]
    assert collection.names[-1] == "z.tif"
    assert list(collection.names) == sorted(collection.names)
    assert len(collection) == 6
    image = collection.read(5)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, picture(5) / 200, atol=1e-6)


def test_split_moves_nothing_when_images_are_added_or_renamed(tmp_path):
    write_classes(tmp_path, {"a": 30, "b": 20})
    before = open_collection(tmp_path)
    parts, folds = split(before, (0.6, 0.2, 0.2)), fold(before)
    assert sorted(np.concatenate(parts)) == list(range(50))
    for number, path in enumerate(sorted((tmp_path / "a").iterdir())):
        path.rename(path.with_name(f"renamed{29 - number:02d}.png"))
    write_classes(tmp_path, {"a": 10, "c": 10}, first=500)
    after = open_collection(tmp_path)
    place = {key: index for index, key in enumerate(after.groups.tolist())}
    moved = [place[key] for key in before.groups.tolist()]
    new_parts = split(after, (0.6, 0.2, 0.2))
    for old, new in zip(parts, new_parts, strict=True):
        assert {moved[i] for i in old} <= set(new.tolist())
    assert (fold(after)[moved] == folds).all()


def test_subsets_keep_keys():
    images = [picture(seed) / 200 for seed in range(12)]
    whole = collection_of(images, ["a", "b", "c", None] * 3)
    part = whole.with_classes(["c", "a"])
    assert part.classes == ("a", "c")
    assert part.labels.tolist() == [0, 1] * 3
    assert part.groups.tolist() == whole.groups[whole.labels % 2 == 0].tolist()
    np.testing.assert_array_equal(part.read(3), whole.read(6))
    with pytest.raises(CollectionError, match="no class 'x'; there are a, b, c"):
        whole.with_classes("x")


def test_class_weights_make_all_classes_count_alike():
    labels = np.array([0] * 30 + [1] * 10 + [3] * 5 + [-1] * 7)
    weights = class_weights(labels)
    assert weights[2] == 0
    np.testing.assert_allclose(weights[[0, 1, 3]] * [30, 10, 5], 15)


def test_what_cannot_be_trained_on_says_so():
    images = [picture(seed) / 200 for seed in range(4)]
    for labels, message in (
        ([None] * 4, "no labels"),
        (["a"] * 4, r"one class only \(a\)"),
        (["a", "a", "a", "b"], "class 'b' has 1 image"),
    ):
        with pytest.raises(CollectionError, match=message):
            check_for_training(collection_of(images, labels))
    collection = collection_of(images, ["a", "a", "b", "b"])
    check_for_training(collection)
    with pytest.raises(CollectionError, match="no image of class 'b' fell into the part"):
        check_for_training(collection, np.array([0, 1]))
    twins = collection_of([*images[:3], images[2]], ["a", "a", "b", "b"])
    with pytest.raises(CollectionError, match="all images of class 'b' are duplicates"):
        check_for_training(twins)


# --- image files -----------------------------------------------------------------------------------------------------


def as_palette(grey):
    image = Image.fromarray(255 - grey)
    image = image.convert("P")
    image.putpalette(np.repeat(np.arange(255, -1, -1), 3).astype(np.uint8).tobytes())
    return image


def as_rgba(grey):
    return Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, 255)]))


GREY = picture(3)
WRITERS = {
    "grey.png": lambda path: Image.fromarray(GREY).save(path),
    "grey16.png": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "colour.png": lambda path: Image.fromarray(np.dstack([GREY] * 3)).save(path),
    "alpha.png": lambda path: as_rgba(GREY).save(path),
    "grey-alpha.png": lambda path: as_rgba(GREY).convert("LA").save(path),
    "palette.png": lambda path: as_palette(GREY).save(path),
    "grey.tif": lambda path: tifffile.imwrite(path, GREY),
    "grey16.tiff": lambda path: tifffile.imwrite(path, GREY.astype(np.uint16) * 300),
    "big-endian.tif": lambda path: tifffile.imwrite(path, GREY.astype(np.uint16) * 300, byteorder=">"),
    "int32.tif": lambda path: tifffile.imwrite(path, GREY.astype(np.int32) * 1000),
    "float.tif": lambda path: tifffile.imwrite(path, GREY.astype(np.float32) / 77),
    "double.tif": lambda path: tifffile.imwrite(path, GREY.astype(np.float64) / 77),
    "half.tif": lambda path: tifffile.imwrite(path, (GREY / 200).astype(np.float16)),
    "colour16.tif": lambda path: tifffile.imwrite(path, np.dstack([GREY.astype(np.uint16) * 257] * 3)),
    "deflate.tif": lambda path: Image.fromarray(GREY).save(path, compression="tiff_adobe_deflate"),
    "UPPER.PNG": lambda path: Image.fromarray(GREY).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_image_gives_the_same_transmission(tmp_path, name):
    WRITERS[name](tmp_path / name)
    collection = open_collection(tmp_path)
    np.testing.assert_allclose(collection.read(0), GREY / 200, atol=5e-4 if name == "half.tif" else 2e-5)
    assert collection.labels.tolist() == [-1]


def test_jpeg_and_one_bit(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(np.dstack([GREY] * 3)).convert("CMYK").save(tmp_path / "b.jpeg", quality=95)
    bits = GREY > 150
    Image.fromarray(bits).save(tmp_path / "c.png")
    collection = open_collection(tmp_path)
    assert np.abs(collection.read(0) - GREY / 200).mean() < 0.02
    assert np.abs(collection.read(1) - GREY / 200).mean() < 0.02
    np.testing.assert_array_equal(collection.read(2), bits)


def test_luminance_and_transparency(tmp_path):
    """Oracle: BT.601 of one colour; half transparent black on white is mid-grey."""
    Image.fromarray(np.full((5, 6, 3), (10, 200, 90), dtype=np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_grey(tmp_path / "a.png"), 0.299 * 10 + 0.587 * 200 + 0.114 * 90, rtol=1e-6)
    Image.fromarray(np.full((5, 6, 4), (0, 0, 0, 51), dtype=np.uint8)).save(tmp_path / "b.png")
    np.testing.assert_allclose(read_grey(tmp_path / "b.png"), 204, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    scale=st.floats(1e-3, 1e4),
    ground=st.floats(0.3, 1.0),
    seed=st.integers(0, 1000),
)
def test_transmission_does_not_depend_on_the_scale_of_grey_levels(shape, scale, ground, seed):
    """Oracle: 1 on the ground, and what the object lets through, at any scale and ground level."""
    true = np.ones(shape)
    true[1:-1, 1:-1] = np.random.default_rng(seed).uniform(0, 1, (shape[0] - 2, shape[1] - 2))
    np.testing.assert_allclose(transmission_of(true * ground * scale), true, atol=1e-5)
    turned = (1 - true) * scale + ground
    if true.min() < 1 - 1e-3:
        expected = 1 - (1 - true) / (1 - true).max()
        np.testing.assert_allclose(transmission_of(turned, polarity="bright"), expected, atol=2e-3 / (1 - true).max())


def test_polarity_is_asked_for_and_checked(tmp_path):
    Image.fromarray(255 - picture(1, ground=255)).save(tmp_path / "bright.png")
    with pytest.raises(CollectionError, match=r"bright.png: its ground is dark, .* give polarity 'bright'"):
        open_collection(tmp_path).read(0)
    turned = open_collection(tmp_path, polarity="bright").read(0)
    assert (turned[0, 0], turned.min()) == (1, 0)
    Image.fromarray(picture(1)).save(tmp_path / "bright.png")
    with pytest.raises(CollectionError, match="dark object on a bright ground; give polarity 'dark'"):
        open_collection(tmp_path, polarity="bright").read(0)
    with pytest.raises(CollectionError, match="polarity must be"):
        open_collection(tmp_path, polarity="inverted")
    fluorescent = np.full((20, 20), 100, dtype=np.uint16)
    fluorescent[5:15, 5:15] = 2000
    tifffile.imwrite(tmp_path / "bright.tif", fluorescent)
    with pytest.raises(CollectionError, match="give polarity 'bright'"):
        open_collection(tmp_path).read(1)


def test_what_is_not_finite_is_taken_for_ground(tmp_path):
    image = GREY.astype(np.float32)
    image[0, :20] = np.nan
    image[3, 3] = np.inf
    tifffile.imwrite(tmp_path / "a.tif", image)
    np.testing.assert_allclose(open_collection(tmp_path).read(0), GREY / 200, atol=1e-5)
    tifffile.imwrite(tmp_path / "a.tif", np.full((9, 9), np.nan, dtype=np.float32))
    with pytest.raises(CollectionError, match="has no finite pixel"):
        open_collection(tmp_path).read(0)


def png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x.png: is empty \(0 bytes\)"),
        (b"no image at all", "x.png: cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n and no more", "cannot be read as an image"),
        (b"GIF89a\x05\x00\x05\x00\x00\x00\x00;", "cannot be read as an image"),
        (png_that_claims(10_000, 5_000), "50000000 pixels are too many; cut it"),
        (png_that_claims(10_000, 12_000), "more pixels than the 16777216 allowed"),
        (png_that_claims(2_000_000_000, 2_000_000_000), "more pixels than the 16777216 allowed"),
        (png_that_claims(0, 10), "x.png: "),
        (png_that_claims(3, 10), "must have 4 x 4 pixels or more, has 3 x 10"),
    ],
)
def test_bad_image_is_refused_by_its_header(tmp_path, content, message):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(CollectionError, match=message):
        open_collection(tmp_path)


def test_damaged_pixels_say_so_when_they_are_read(tmp_path):
    random = np.random.default_rng(0).integers(0, 255, (60, 60), dtype=np.uint8)
    for name in ("a.png", "b.jpg", "c.tif"):
        Image.fromarray(random).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] if name != "c.tif" else whole[:-1000])
        with pytest.raises(CollectionError, match=f"{name}: cannot be read as an image"):
            open_collection(tmp_path / name).read(0)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["grey.png", "palette.png", "a.jpg", "deflate.tif", "grey.tif"]), data=st.data())
def test_damage_anywhere_raises_nothing_else(tmp_path_factory, kind, data):
    path = tmp_path_factory.mktemp("damaged") / kind
    WRITERS.get(kind, lambda p: Image.fromarray(GREY).save(p))(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content)
    with contextlib.suppress(CollectionError):
        assert np.isfinite(open_collection(path).read(0)).all()


def test_pages_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    with pytest.raises(CollectionError, match="has 3 pages; give a file for each image"):
        open_collection(tmp_path)


def test_nothing_to_read_says_so(tmp_path):
    with pytest.raises(CollectionError, match="no such folder or file"):
        open_collection(tmp_path / "nowhere")
    with pytest.raises(CollectionError, match="holds no images; name a folder"):
        open_collection(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(CollectionError, match=r"x.txt: is no image \(PNG"):
        open_collection(tmp_path / "x.txt")


def test_folders_that_contain_themselves_are_read_once(tmp_path):
    write_classes(tmp_path, {"a": 1})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(open_collection(tmp_path)) == 1


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tables(tmp_path):
    write_classes(tmp_path / "images", {"x": 3})
    names = sorted(path.name for path in (tmp_path / "images" / "x").iterdir())
    absolute = str(tmp_path / "images" / "x" / names[2])
    lines = ["label,path,other", f"b,images/x/{names[1]},1", f"a,images/x/{names[0]},2", f",{absolute},3"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    columns = {"path": [f"images/x/{n}" for n in names[:2]], "label": [7, 12], "cell": ["one", "one"]}
    pa.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    (tmp_path / "t.tsv").write_text("\ufeff" + "\n".join(lines).replace(",", "\t"), encoding="utf-8")

    for name in ("t.csv", "t.tsv"):
        collection = open_collection(tmp_path / name)
        assert collection.names == (f"images/x/{names[1]}", f"images/x/{names[0]}", absolute)
        assert (collection.classes, collection.labels.tolist()) == (("a", "b"), [1, 0, -1])
    numbered = open_collection(tmp_path / "t.parquet")
    assert (numbered.classes, numbered.labels.tolist()) == (("12", "7"), [1, 0])
    assert np.unique(numbered.groups).size == 1  # of one cell
    np.testing.assert_array_equal(numbered.read(0), collection.read(1))


def test_a_table_gives_labels_to_what_is_there(tmp_path):
    write_classes(tmp_path / "images", {"x": 2})
    Image.fromarray(picture(1)).save(tmp_path / "images" / "y.png")
    (tmp_path / "t.csv").write_text("path,label\ny.png,new\n")
    collection = open_collection(tmp_path / "images", labels=tmp_path / "t.csv")
    assert (collection.classes, collection.labels.tolist()) == (("new", "x"), [1, 1, 0])
    (tmp_path / "t.csv").write_text("path,label\nz.png,new\n")
    with pytest.raises(CollectionError, match=r"t.csv, row 1: the collection has no image z.png"):
        open_collection(tmp_path / "images", labels=tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.csv: "),
        (b"path,label\n", "has no rows"),
        (b"path,class\nx.png,a\n", "has no column 'label', only path, class"),
        (b"file,label\nx.png,a\n", "has no column 'path'"),
        (b"path,label\nx.png,a\ny.png\n", "cannot be read as a table"),
        (b"path,label\nx.png,a\ny.png,b\n", "t.csv, row 2: there is no file .*y.png"),
        (b"path,label\n,a\n", "row 1: has no path"),
        (b"path,label\nx.png,a\nx.png,b\n", "row 2: x.png is there already, in row 1"),
        (b"path,label,event\nx.png,a,first\n", "row 1: event must be a whole number, is 'first'"),
        (b"path,label,event\nx.png,a,0\n", "x.png has one image; leave the column 'event' empty"),
        (b"path,label\n\xff\xfe,a\n", "cannot be read as a table"),
        (b"\xff\xfe\x00,\n", "cannot be read as a table"),
        (b"path,label\nt.csv,a\n", "is no image"),
    ],
)
def test_bad_table_says_so(tmp_path, content, message):
    Image.fromarray(picture(1)).save(tmp_path / "x.png")
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(CollectionError, match=message):
        open_collection(tmp_path / "t.csv")


def test_bad_parquet_says_so(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    with pytest.raises(CollectionError, match="cannot be read as a table"):
        open_collection(tmp_path / "t.parquet")
    pa.parquet.write_table(pa.table({"path": [["a"]], "label": ["b"]}), tmp_path / "t.parquet")
    with pytest.raises(CollectionError, match="column 'path' must be text or numbers"):
        open_collection(tmp_path / "t.parquet")


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def write_rtdc(path, images, attributes=None, **datasets):
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes or {"imaging:pixel size": 0.34})
        file.create_dataset("events/image", data=images, chunks=(2, 20, 20), **hdf5plugin.Zstd())
        for name, values in datasets.items():
            file[f"events/{name}"] = values


def test_our_own_events_have_their_stated_transmission(tmp_path):
    """Rows are along the flow again, and a level is within half a step of what was written."""
    metadata = RtdcMetadata("s", "r", "0", 1e7, 5e9, start=datetime(2026, 1, 1, tzinfo=UTC), pixel_um=0.25)
    true = np.stack([picture(seed, (24, 30)) / 200 for seed in range(5)])
    levels = np.rint(true * 150).astype(np.uint8)
    write_rtdc(tmp_path / "run.rtdc", levels.transpose(0, 2, 1), rtdc_attributes(metadata, (24, 30)))
    Image.fromarray(levels[0]).save(tmp_path / "run.png")  # the overview beside it
    for path in (tmp_path / "run.rtdc", tmp_path):
        collection = open_collection(path)
        assert collection.names == tuple(f"run.rtdc#{i}" for i in range(5))
        assert collection.pixel_um == 0.25
        for i in range(5):
            np.testing.assert_allclose(collection.read(i), true[i], atol=0.5 / 150 + 1e-6)
    unknown = RtdcMetadata("s", "r", "0", 1e7, 5e9)
    write_rtdc(tmp_path / "run.rtdc", levels.transpose(0, 2, 1), rtdc_attributes(unknown, (24, 30)))
    assert open_collection(tmp_path / "run.rtdc").pixel_um is None
    (tmp_path / "t.csv").write_text("path,event,label\nrun.rtdc,3,a\nrun.rtdc,0,b\n")
    for collection in (open_collection(tmp_path / "t.csv"), open_collection(tmp_path, labels=tmp_path / "t.csv")):
        labels = dict(zip(collection.names, collection.labels.tolist(), strict=True))
        assert {name: collection.classes[i] for name, i in labels.items() if i >= 0} == {
            "run.rtdc#3": "a",
            "run.rtdc#0": "b",
        }
    again = pickle.loads(pickle.dumps(collection))  # to read in other processes
    np.testing.assert_array_equal(again.read(2), collection.read(2))


def test_frames_are_divided_by_what_lies_behind(tmp_path):
    """Oracle: one cell painted on a channel with walls as it flows by; its frames stay on one side."""
    channel = np.full((40, 80), 180.0)
    channel[:6] = channel[-6:] = 60
    true = np.ones((9, 40, 80))
    for i in range(9):
        true[i, 15:25, 8 * i : 8 * i + 9] = 0.5
    frames = np.rint(true * channel).astype(np.uint8)
    write_rtdc(tmp_path / "a.rtdc", frames)
    write_rtdc(tmp_path / "b.rtdc", frames, image_bg=np.broadcast_to(channel.astype(np.uint8), frames.shape))
    for name in ("a.rtdc", "b.rtdc"):
        collection = open_collection(tmp_path / name)
        assert collection.pixel_um == 0.34
        for i in range(9):
            np.testing.assert_allclose(collection.read(i), true[i].T, atol=0.01)
        assert np.unique(collection.groups).size == 1


def test_labels_of_events(tmp_path):
    frames = np.stack([picture(seed) for seed in range(4)])
    scores = {"ml_score_abc": [0.1, 0.9, np.nan, 0.3], "ml_score_xyz": [0.8, 0.1, np.nan, np.nan]}
    write_rtdc(tmp_path / "a.rtdc", frames, **scores)
    collection = open_collection(tmp_path / "a.rtdc")
    assert (collection.classes, collection.labels.tolist()) == (("abc", "xyz"), [1, 0, -1, 0])
    write_rtdc(tmp_path / "a.rtdc", frames, ml_class=[2.0, np.nan, 0, 2])
    collection = open_collection(tmp_path / "a.rtdc")
    assert (collection.classes, collection.labels.tolist()) == (("0", "2"), [1, -1, 0, 1])
    (tmp_path / "dots").mkdir()
    (tmp_path / "a.rtdc").rename(tmp_path / "dots" / "a.rtdc")
    assert open_collection(tmp_path).classes == ("dots",)


def test_stacks(tmp_path):
    images = np.stack([picture(seed) for seed in range(4)])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = images
        file["labels"] = ["b", "a", "", "b"]
        file.attrs["pixel_um"] = 0.5
    collection = open_collection(tmp_path / "a.h5")
    assert (collection.classes, collection.labels.tolist(), collection.pixel_um) == (("a", "b"), [1, 0, -1, 1], 0.5)
    np.testing.assert_allclose(collection.read(2), images[2] / 200, atol=1e-6)


def hdf5_of(**members):
    def write(path):
        with h5py.File(path, "w") as file:
            for name, value in members.items():
                file[name] = value

    return write


def with_external_link(path):
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["image"] = np.zeros((3, 8, 8), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_group("events")["image"] = h5py.ExternalLink("other.h5", "image")


def with_external_storage(path):
    path.with_name("raw").write_bytes(bytes(192))
    with h5py.File(path, "w") as file:
        file.create_dataset("events/image", (3, 8, 8), "u1", external=[(path.with_name("raw"), 0, 192)])


def with_terabytes(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("events/image", (10**9, 80, 250), "u1", chunks=(1, 80, 250))


def with_large_images(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (1, 5000, 10000), "u1", chunks=(1, 100, 100))


def full_image(path):
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "stretchscope image"
        file["transmission"] = np.zeros((10, 10))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda path: path.write_bytes(b"none"), "is not an HDF5 file"),
        (full_image, "is the image of every line, not of single cells; name the .rtdc file beside it"),
        (
            hdf5_of(samples=np.zeros(9)),
            "holds no images, its root holds samples; if it is a capture, run `stretchscope",
        ),
        (hdf5_of(events=np.zeros(9)), "group 'events' is not a group"),
        (hdf5_of(**{"events/area_um": np.zeros(9)}), "has no images of its events"),
        (hdf5_of(**{"events/image": np.zeros((9, 9), np.uint8)}), r"must be three-dimensional, got shape \(9, 9\)"),
        (hdf5_of(**{"events/image": np.zeros((2, 9, 9))}), "must be uint8, uint16, float32, is float64"),
        (hdf5_of(**{"events/image": np.zeros((0, 9, 9), np.uint8)}), "holds no image"),
        (hdf5_of(**{"events/image": np.zeros((2, 9, 3), np.uint8)}), "images of 9 x 3 pixels; must have 4 x 4 or more"),
        (hdf5_of(images=np.ones((2, 9, 9), np.uint8), labels=["a"]), "has 2 images, but 1 labels"),
        (hdf5_of(images=np.ones((2, 9, 9), np.uint8), labels=[0.5, 1.5]), "labels must be text or whole numbers"),
        (with_external_link, "is an external link, which is not followed"),
        (with_external_storage, "is kept in external files, which are not followed"),
        (with_terabytes, "declares 1000000000 images, but only 0 are stored"),
        (with_large_images, "images of 5000 x 10000 pixels; must have"),
    ],
)
def test_bad_hdf5_says_so(tmp_path, write, message):
    write(tmp_path / "x.h5")
    with pytest.raises(CollectionError, match=message):
        open_collection(tmp_path / "x.h5")


def test_damaged_events_say_so(tmp_path):
    frames = np.random.default_rng(0).integers(100, 200, (8, 40, 40)).astype(np.uint8)
    with h5py.File(tmp_path / "a.rtdc", "w") as file:
        file.create_dataset("events/image", data=frames, chunks=(4, 40, 40), fletcher32=True)
        offset = file["events/image"].id.get_chunk_info(1).byte_offset
    content = bytearray((tmp_path / "a.rtdc").read_bytes())
    content[offset + 100] ^= 0xFF
    (tmp_path / "a.rtdc").write_bytes(content)
    with pytest.raises(CollectionError, match=r"a.rtdc: cannot be read, the file seems damaged"):
        open_collection(tmp_path / "a.rtdc").read(5)


# --- near-duplicates -------------------------------------------------------------------------------------------------


def grains(seed, shape=(60, 70), noise=0.01):
    """A grainy cell of its own shape on a noisy ground."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = y - random.uniform(0.42, 0.58) * shape[0], x - random.uniform(0.42, 0.58) * shape[1]
    angle = np.arctan2(y, x)
    lobes = sum(random.uniform(-0.2, 0.2) * np.cos(m * angle + random.uniform(0, 6)) for m in (2, 3, 4, 5))
    inside = np.hypot(y, x) < random.uniform(13, 19) * (1 + lobes)
    texture = ndimage.gaussian_filter(random.standard_normal(shape), 2)
    image = 1 - inside * (0.4 + 0.12 * texture / texture.std())
    return (ndimage.gaussian_filter(image, 0.8) + random.normal(0, noise, shape)).astype(np.float32)


CHANGES = {
    "dimmed": lambda image: 1 - 0.7 * (1 - image),
    "cut": lambda image: image[3:-1, 2:-4],
    "padded": lambda image: np.pad(image, 5, constant_values=1),
    "smaller": lambda image: ndimage.zoom(image, 0.9, order=1),
    "noisier": lambda image: image + np.random.default_rng(9).normal(0, 0.01, image.shape),
    "moved": lambda image: ndimage.shift(image, (4.3, -5.6), order=1, cval=1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_pictures_are_recognised_and_others_are_not(change):
    images = [grains(seed) for seed in range(40)]
    images += [CHANGES[change](image).astype(np.float32) for image in images[:20]]
    group = near_duplicates(lambda i: images[i], len(images))
    assert group.tolist() == [*range(40), *range(20)]


def test_objects_that_all_look_alike_are_no_duplicates():
    bead = (1 - 0.5 * (np.hypot(*(np.mgrid[:30, :30] - 14.5)) < 8)).astype(np.float32)
    random = np.random.default_rng(0)
    beads = [bead + random.normal(0, 0.005, bead.shape).astype(np.float32) for _ in range(MOST_ALIKE + 3)]
    assert np.unique(near_duplicates(lambda i: beads[i], MOST_ALIKE + 1)).size == 1
    assert np.unique(near_duplicates(lambda i: beads[i], MOST_ALIKE + 2)).size == MOST_ALIKE + 2


def test_empty_pictures_are_no_duplicates_unless_they_are_the_same():
    images = [np.ones((20, 20), np.float32), np.ones((20, 20), np.float32), np.ones((21, 20), np.float32)]
    assert near_duplicates(lambda i: images[i], 3).tolist() == [0, 1, 2]
    keys = collection_of(images, [None] * 3).groups
    assert keys[0] == keys[1] != keys[2]


def test_near_duplicates_stay_on_one_side(tmp_path):
    """An added near-duplicate joins its original, wherever it lies, and moves none but perhaps that one."""
    for seed in range(30):
        (tmp_path / "ab"[seed % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.rint(np.clip(grains(seed), 0, 1.2) * 200).astype(np.uint8)).save(
            tmp_path / "ab"[seed % 2] / f"{seed}.png"
        )
    before = open_collection(tmp_path)
    for name in before.names[:10]:
        Image.open(tmp_path / name).save(tmp_path / "b" / f"again{name.replace('/', '')}.jpg", quality=80)
    after = open_collection(tmp_path)
    key = dict(zip(after.names, after.groups.tolist(), strict=True))
    for name in before.names[:10]:
        assert key[name] == key[f"b/again{name.replace('/', '')}.jpg"]
    assert np.unique(after.groups).size == 30
    kept = [key[name] == old for name, old in zip(before.names, before.groups.tolist(), strict=True)]
    assert all(kept[10:])
    assert any(kept[:10])


def test_cells_named_by_the_caller_are_split_alike_however_they_are_imaged():
    cells = [f"cell {i // 2}" for i in range(60)]
    sharp = collection_of([grains(i) for i in range(60)], ["a"] * 60, cells=cells)
    blurred = collection_of([ndimage.gaussian_filter(grains(i), 2) for i in range(60)], ["a"] * 60, cells=cells)
    assert (fold(sharp) == fold(blurred)).all()
    assert (fold(sharp)[::2] == fold(sharp)[1::2]).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), folds=st.integers(2, 10), shares=st.lists(st.floats(0.05, 1), min_size=1, max_size=5))
def test_parts_have_their_shares(seed, folds, shares):
    """Oracle: binomial counts; folds and parts are independent of each other."""
    images = [np.full((4, 4), i, dtype=np.float32) for i in range(2000)]
    collection = collection_of(images, ["a"] * 2000, cells=[str(i) for i in range(2000)])
    collection.__dict__["groups"] = np.random.default_rng(seed).integers(0, 2**63, 2000).astype(np.uint64)
    fractions = np.array(shares) / np.sum(shares)
    parts, number = split(collection, fractions, seed=seed), fold(collection, folds, seed=seed)
    assert sorted(np.concatenate(parts)) == list(range(2000))
    for part, share in zip(parts, fractions, strict=True):
        assert abs(part.size - 2000 * share) < 5 * np.sqrt(2000 * share * (1 - share)) + 1
        for n in range(folds):
            expected = part.size / folds
            assert abs(np.count_nonzero(number[part] == n) - expected) < 5.5 * np.sqrt(expected) + 1


def test_bad_splits_say_so():
    collection = collection_of([grains(0), grains(1)], ["a", "b"])
    for fractions in ((0.5, 0.4), (1.2, -0.2), ()):
        with pytest.raises(CollectionError, match="fractions must be above zero and sum to 1"):
            split(collection, fractions)
    with pytest.raises(CollectionError, match="folds must be 2 or more"):
        fold(collection, 1)
    with pytest.raises(CollectionError, match="must be of one length"):
        collection_of([grains(0)], ["a", "b"])


# --- real images -----------------------------------------------------------------------------------------------------


def test_phytoplankton(data_dir):
    """No two of the images are near-duplicates (looked at: the most alike are different organisms)."""
    collection = open_collection(data_dir / "phytoplankton")
    assert len(collection) == 6173
    assert len(collection.classes) == 15
    assert np.bincount(collection.labels)[collection.classes.index("trichodesmium_puff")] == 1484
    some = collection.select(np.arange(0, 6173, 8))
    for i in range(len(some)):
        assert np.median(some.read(i)[0]) > 0.9  # clear ground
    check_for_training(collection)
    assert np.unique(collection.groups).size == 6173


def test_a_real_picture_kept_twice_is_found(data_dir):
    """The IFCB picture of Mesodinium rubrum is there raw and as a labelled PNG."""
    collection = open_collection(data_dir / "ifcb")
    keys = dict(zip(collection.names, collection.groups.tolist(), strict=True))
    raw = keys["D20220522T003051_IFCB134#3"]
    assert [name for name, key in keys.items() if key == raw] == [
        "D20220522T003051_IFCB134#3",
        "labelled/Mesodinium_rubrum/D20220522T003051_IFCB134_00003.png",
    ]
    assert collection.labels[list(keys).index("D20220522T003051_IFCB134#3")] == -1


def test_real_events(data_dir):
    for name, count in (("example_video", 10), ("calibration_beads", 7), ("image_bg_2020", 5)):
        collection = open_collection(data_dir / "rtdc" / f"{name}.rtdc")
        assert len(collection) == count
        for i in range(count):
            image = collection.read(i)
            assert image.shape == (250, 80)
            assert abs(np.median(image) - 1) < 0.02

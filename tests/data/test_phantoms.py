"""Scenes: where their objects are, how dark, and that they stay what they are however they are asked."""

import imageio.v3 as iio
import numpy as np
import pytest
from scipy import ndimage

from stretchscope.data._phantom_kernels import stamp_transmission
from stretchscope.data.phantoms import (
    OBJECT_DTYPE,
    BarTarget,
    EmptyScene,
    StampScene,
    place,
    random_scene,
)
from stretchscope.data.stamps import bead_stamps, cell_stamps, disc_stamps, image_stamps, label_of


def picture(scene: object, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return scene.transmission(x[None, :], y[:, None])


def test_disc_has_the_area_of_its_diameter() -> None:
    """Oracle: absorbing area of an even disc, contrast·π/4·d², whatever its place, size and angle."""
    stamps = disc_stamps()
    x = y = np.arange(0, 40, 0.1)
    for diameter, angle in ((6.0, 0.0), (20.0, 1.0)):
        objects = place(stamps, x_um=21.3, y_um=18.7, diameter_um=diameter, contrast=0.6, angle_rad=angle)
        darkness = 1 - picture(StampScene.of(stamps, objects), x, y)
        assert darkness.sum() * 0.01 == pytest.approx(0.6 * np.pi / 4 * diameter**2, rel=0.1)
        assert darkness.max() == pytest.approx(0.6, rel=0.01)
        rows, columns = darkness.sum(axis=1), darkness.sum(axis=0)
        assert (x @ columns) / columns.sum() == pytest.approx(21.3, abs=0.01)
        assert (y @ rows) / rows.sum() == pytest.approx(18.7, abs=0.01)
        dark_area = (darkness > 0.05 * 0.6).sum() * 0.01
        assert np.sqrt(4 * dark_area / np.pi) == pytest.approx(diameter, rel=0.02)


@pytest.mark.kernel
def test_stamp_is_a_turned_cubic_spline() -> None:
    """Oracle: scipy's spline through the same coefficients, at coordinates turned by hand."""
    stamp = np.zeros((1, 24, 24), dtype=np.float32)
    random = np.random.default_rng(1)
    stamp[0, 4:-4, 4:-4] = random.uniform(0, 1, (16, 16))
    angle, pixels_per_um = 0.7, 3.0
    x, y = random.uniform(-3, 7, 200), random.uniform(-4, 6, 200)
    frame = np.array([[2.0, 1.0, pixels_per_um * np.cos(angle), pixels_per_um * np.sin(angle)]])
    box = np.array([[-2.0, 6.0, -3.0, 5.0]])
    seen = np.ones(x.size)
    stamp_transmission(x, y, box, frame, np.zeros(1, dtype=np.int32), np.array([0.6]), stamp, seen)
    along, across = (x - 2) * pixels_per_um, (y - 1) * pixels_per_um
    columns = 11.5 + along * np.cos(angle) + across * np.sin(angle)
    rows = 11.5 - along * np.sin(angle) + across * np.cos(angle)
    spline = ndimage.map_coordinates(stamp[0].astype(float), [rows, columns], order=3, prefilter=False)
    inside = (x >= -2) & (x <= 6) & (y >= -3) & (y <= 5)
    np.testing.assert_allclose(seen, 1 - 0.6 * spline * inside, atol=1e-6)


def test_bead_has_a_dark_rim_and_a_bright_core() -> None:
    stamps = bead_stamps()
    scene = StampScene.of(stamps, place(stamps, x_um=10, y_um=10, diameter_um=8, contrast=0.9))
    along = scene.transmission(np.linspace(4, 16, 600), 10.0)
    assert along.min() == pytest.approx(0.1, abs=0.02)
    assert scene.transmission(10.0, 10.0) > 0.9
    assert np.abs(10 - np.linspace(4, 16, 600)[np.argmin(along)]) == pytest.approx(0.8 * 4, rel=0.08)
    turned = scene.transmission(10.0, np.linspace(4, 16, 600))
    np.testing.assert_allclose(along, turned, atol=1e-6)  # round


def test_objects_are_clear_outside_their_limits_and_not_far_inside() -> None:
    """For turned, elongated objects: the limits hold all the darkness and are tight to 12 %."""
    stamps = cell_stamps(3, 8)
    n = 24
    random = np.random.default_rng(0)
    for angle, kind in zip(random.uniform(-7, 7, n), np.arange(n) % 8, strict=True):
        box = place(stamps, x_um=0, y_um=0, diameter_um=10, contrast=1, angle_rad=angle, kind=kind)[0]
        x = y = np.linspace(-12, 12, 481)
        darkness = 1 - picture(StampScene.of(stamps, np.array([box])), x, y)
        outside = (x < box["x_first_um"]) | (x > box["x_last_um"])
        assert not darkness[:, outside].any()
        dark = np.nonzero((darkness > 0.02).any(axis=0))[0]
        assert x[dark[-1]] - x[dark[0]] > 0.88 * (box["x_last_um"] - box["x_first_um"])
        dark = np.nonzero((darkness > 0.02).any(axis=1))[0]
        assert y[dark[0]] >= box["y_first_um"]
        assert y[dark[-1]] <= box["y_last_um"]
        assert y[dark[-1]] - y[dark[0]] > 0.88 * (box["y_last_um"] - box["y_first_um"])


def test_transmission_broadcasts_and_is_smooth() -> None:
    stamps = cell_stamps(1, 2)
    scene = StampScene.of(stamps, place(stamps, x_um=5, y_um=5, diameter_um=8, contrast=0.7))
    x, y = np.meshgrid(np.linspace(0, 10, 40), np.linspace(0, 10, 30))
    assert scene.transmission(x, y).shape == (30, 40)
    np.testing.assert_array_equal(scene.transmission(x[:1], y[:, :1]), scene.transmission(x, y))
    fine = scene.transmission(np.linspace(0, 10, 100_001), 5.3)
    assert np.abs(np.diff(fine)).max() < 5e-4  # steps of 0.1 nm: no jump anywhere
    assert fine.min() >= 0.3
    assert fine.max() == 1


def test_random_scene_holds_the_number_asked_for_apart_and_inside() -> None:
    stamps = cell_stamps(1, 6)
    scene = random_scene(stamps, field_of_view_um=48, per_mm=20, length_um=5500, seed=3)
    cells = scene.objects(0, 5500)
    assert len(cells) == 110
    assert cells.dtype == OBJECT_DTYPE
    assert (cells["x_first_um"] >= 6 - 1e-9).all()
    assert (cells["x_last_um"] <= 42 + 1e-9).all()
    assert (cells["y_first_um"] >= 0).all()
    assert (cells["y_last_um"] <= 5500).all()
    assert (cells["diameter_um"] >= 8).all()
    assert (cells["diameter_um"] <= 16).all()
    apart = np.hypot(*(cells[axis][:, None] - cells[axis] for axis in ("x_um", "y_um")))
    touch = 0.5 * (cells["diameter_um"][:, None] + cells["diameter_um"])
    np.fill_diagonal(apart, np.inf)
    assert (apart > touch + 2).all()


def test_random_scene_is_the_same_however_it_is_asked() -> None:
    stamps = cell_stamps(1, 2)
    scene = random_scene(stamps, field_of_view_um=48, per_mm=17.3, seed=3)  # without end
    whole = scene.objects(0, 40_000)
    assert len(whole) == pytest.approx(17.3 * 40, abs=2)
    fresh = random_scene(stamps, field_of_view_um=48, per_mm=17.3, seed=3)
    far = fresh.objects(37_100, 37_900)
    inside = (whole["y_last_um"] >= 37_100) & (whole["y_first_um"] <= 37_900)
    np.testing.assert_array_equal(far, whole[inside])
    np.testing.assert_array_equal(fresh.occupied(37_100, 37_900)[:, 2], far["y_first_um"])
    other = random_scene(stamps, field_of_view_um=48, per_mm=17.3, seed=4).objects(0, 900)
    assert not np.isin(other["x_um"], whole["x_um"]).any()


def test_bar_target_has_the_contrast_and_pitch_it_states() -> None:
    target = BarTarget([4.0, 2.0], field_of_view_um=48, contrast=0.8)
    groups = target.objects(0, 1000)
    assert [target.kinds[k] for k in groups["kind"]] == ["across", "along", "across", "along"]
    for group in groups:
        x = np.linspace(group["x_first_um"], group["x_last_um"], 2001)
        y = np.linspace(group["y_first_um"], group["y_last_um"], 2001)
        across = target.kinds[group["kind"]] == "across"
        cut = target.transmission(x, group["y_um"]) if across else target.transmission(group["x_um"], y)
        assert cut.min() == pytest.approx(0.2, abs=1e-3)
        assert cut.max() == pytest.approx(1, abs=1e-3)
        length = np.ptp(x) if across else np.ptp(y)
        bars = np.count_nonzero(np.diff(np.sign(cut - 0.6)) < 0)
        assert bars == round(length / group["diameter_um"])
        assert target.transmission(group["x_first_um"] - 0.01, group["y_um"]) == 1
    assert len(target.occupied(0, 5)) == 0


def test_empty_scene_is_clear() -> None:
    assert (EmptyScene().transmission(np.zeros((3, 1)), np.zeros(4)) == np.ones((3, 4))).all()
    assert EmptyScene().occupied(0, 1e9).shape == (0, 4)


def test_images_become_objects_of_their_shape(tmp_path) -> None:
    """A bar three times as long as wide, off centre, on uneven grounds and in several formats."""
    (tmp_path / "sub").mkdir()
    grey = np.full((60, 90), 220, dtype=np.uint8)
    grey[10:22, 30:66] = 60
    iio.imwrite(tmp_path / "a.png", grey)
    iio.imwrite(tmp_path / "sub" / "b.jpg", np.stack([grey] * 3, axis=-1), quality=95)
    iio.imwrite(tmp_path / "sub" / "c.tif", grey.astype(np.uint16) * 200)
    (tmp_path / "notes.txt").write_text("not an image")
    stamps = image_stamps(tmp_path)
    assert stamps.kinds == ("a.png", "sub/b.jpg", "sub/c.tif")
    objects = place(stamps, x_um=0, y_um=0, diameter_um=10, contrast=0.8, kind=[0, 1, 2])
    x = y = np.linspace(-15, 15, 301)
    for item in objects:
        darkness = 1 - picture(StampScene.of(stamps, np.array([item])), x, y)
        assert darkness.max() == pytest.approx(0.8, rel=0.05)
        width, height = (np.ptp(x[(darkness > 0.4).any(axis=axis)]) for axis in (0, 1))
        assert width / height == pytest.approx(3, rel=0.1)
        assert np.sqrt(4 / np.pi * (darkness > 0.05 * 0.8).sum() * 0.01) == pytest.approx(10, rel=0.03)


def test_of_many_images_some_of_every_folder_are_taken(tmp_path) -> None:
    for folder, count in (("rare", 2), ("usual", 20)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            image = np.full((30, 30), 250, dtype=np.uint8)
            image[8 : 12 + i % 10, 8:20] = 50
            iio.imwrite(tmp_path / folder / f"{i:02d}.png", image)
    every = image_stamps(tmp_path)
    assert [label_of(kind) for kind in every.kinds] == ["rare"] * 2 + ["usual"] * 20
    some = image_stamps(tmp_path, most=8)
    assert len(some.kinds) == 8
    assert {label_of(kind) for kind in some.kinds} == {"rare", "usual"}
    np.testing.assert_array_equal(some.darkness[3], every.darkness[every.kinds.index(some.kinds[3])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no PNG"),
        (b"\x89PNG nothing more", "cannot be read as an image"),
        (np.full((20, 20), 200, dtype=np.uint8), "nothing darker than its border"),
        (np.zeros((20, 20), dtype=np.uint8), "nothing darker than its border"),
        (np.full((2, 2), 200, dtype=np.uint8), "4 x 4 pixels or more"),
    ],
)
def test_bad_images_say_so(tmp_path, content: object, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / "x.png").write_bytes(content)
    elif content is not None:
        iio.imwrite(tmp_path / "x.png", content)
    with pytest.raises(ValueError, match=message):
        image_stamps(tmp_path)


def test_image_of_absurd_size_is_refused_unread(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stretchscope.data.images.MOST_IMAGE_PIXELS", 50)
    iio.imwrite(tmp_path / "x.png", np.full((20, 20), 200, dtype=np.uint8))
    with pytest.raises(ValueError, match="400 pixels are too many"):
        image_stamps(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_mm": -1}, "per_mm must be zero or more"),
        ({"per_mm": 2000}, "no room for 2000 objects"),
        ({"diameter_um": (0, 4)}, "diameter_um must be a pair"),
        ({"contrast": (0.5, 1.5)}, "contrast must lie between 0 and 1"),
        ({"field_of_view_um": 2.0}, "have no room"),
    ],
)
def test_bad_random_scenes_say_so(changes: dict, message: str) -> None:
    settings = {"field_of_view_um": 48.0, "per_mm": 10.0, "seed": 1} | changes
    with pytest.raises(ValueError, match=message):
        random_scene(disc_stamps(), **settings)


def test_bad_places_and_bars_say_so() -> None:
    with pytest.raises(ValueError, match="diameter_um must be above zero"):
        place(disc_stamps(), x_um=0, y_um=0, diameter_um=0, contrast=0.5)
    with pytest.raises(ValueError, match="contrast must lie between 0 and 1"):
        place(disc_stamps(), x_um=0, y_um=0, diameter_um=5, contrast=1.5)
    with pytest.raises(ValueError, match="pitches_um must be finite"):
        BarTarget([1.0, -2.0], field_of_view_um=48)

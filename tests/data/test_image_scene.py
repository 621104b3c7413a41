"""Scenes of given images: every pixel where it is said to be, nothing elsewhere, however the scene is asked."""

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.data._image_kernels import image_transmission
from stretchscope.data.image_scene import ImageScene

PIXEL_UM, FIELD_UM = 0.1, 48.0


def pictures(count: int = 5) -> list[np.ndarray]:
    """Smooth noise of several shapes and contrasts; the first with dark pixels up to its border."""
    random = np.random.default_rng(0)
    made = [0.3 + 0.7 * random.random((20 + 3 * i, 35 - 4 * i)) for i in range(count)]
    return [image if i == 0 else 1 - (1 - image) * i / count for i, image in enumerate(made)]


def scene_of(images: list[np.ndarray], **changes: float) -> ImageScene:
    names = [f"class{i % 2}/{i}" for i in range(len(images))]
    return ImageScene(images.__getitem__, names, **({"pixel_um": PIXEL_UM, "field_of_view_um": FIELD_UM} | changes))


def at_pixels(scene: ImageScene, index: int, shape: tuple[int, int]) -> np.ndarray:
    x, y = scene.first_pixel_um(index)
    return scene.transmission(x + np.arange(shape[1]) * PIXEL_UM, (y + np.arange(shape[0]) * PIXEL_UM)[:, None])


def test_pixels_are_the_images_own() -> None:
    images = pictures()
    scene = scene_of(images)
    for index, image in enumerate(images):
        np.testing.assert_allclose(at_pixels(scene, index, image.shape), image, atol=1e-6)


def test_images_lie_in_the_middle_a_gap_apart() -> None:
    images = pictures()
    scene = scene_of(images, gap_um=2.5)
    objects = scene.objects(0, scene.length_um)
    assert [scene.kinds[kind] for kind in objects["kind"]] == [f"class{i % 2}/{i}" for i in range(5)]
    for item, image, number in zip(objects, images, range(5), strict=True):
        x, y = scene.first_pixel_um(number)
        assert x + 0.5 * (image.shape[1] - 1) * PIXEL_UM == pytest.approx(FIELD_UM / 2)
        assert item["x_um"] == pytest.approx(FIELD_UM / 2)
        assert item["y_um"] == pytest.approx(y + 0.5 * (image.shape[0] - 1) * PIXEL_UM)
        assert item["contrast"] == pytest.approx(1 - image.min())
        dark = np.count_nonzero(image < 0.95) * PIXEL_UM**2
        assert np.pi / 4 * item["diameter_um"] ** 2 == pytest.approx(dark)
    first = np.array([scene.first_pixel_um(i)[1] for i in range(5)]) - 0.5 * PIXEL_UM
    last = first + [image.shape[0] * PIXEL_UM for image in images]
    np.testing.assert_allclose(first - np.append(0, last[:-1]), 2.5)
    assert scene.length_um == pytest.approx(last[-1] + 2.5)


def test_all_darkness_lies_in_the_boxes() -> None:
    scene = scene_of(pictures())
    x, y = np.arange(21, 27, 0.03), np.arange(0, scene.length_um, 0.03)
    darkness = 1 - scene.transmission(x, y[:, None])
    assert darkness.min() >= 0
    assert darkness.max() <= 1
    for box in scene.occupied(0, scene.length_um):
        inside = np.outer((y >= box[2]) & (y <= box[3]), (x >= box[0]) & (x <= box[1]))
        assert darkness[inside].max() > 0
        darkness[inside] = 0
    assert darkness.max() < 1e-3


@pytest.mark.kernel
def test_between_pixels_it_is_the_cubic_spline() -> None:
    """Oracle: scipy's spline through the same coefficients, at points in any order."""
    random = np.random.default_rng(1)
    shapes = [(20, 24), (18, 15)]
    darkness = [random.uniform(0, 1, shape).astype(np.float32) for shape in shapes]
    places = np.array([[10.0, 3.0], [11.0, 30.0]])
    x, y = random.uniform(8, 40, 500), random.uniform(0, 55, 500)
    seen = np.empty(500)
    image_transmission(
        x,
        y,
        1.0,
        places,
        np.array([0, 480]),
        np.array(shapes),
        np.concatenate([image.ravel() for image in darkness]),
        seen,
    )
    expected = np.ones(500)
    for place, image in zip(places, darkness, strict=True):
        row, column = y - place[1], x - place[0]
        inside = (row >= 1) & (row < image.shape[0] - 2) & (column >= 1) & (column < image.shape[1] - 2)
        spline = ndimage.map_coordinates(image.astype(float), [row, column], order=3, prefilter=False)
        expected[inside] = 1 - np.clip(spline, 0, 1)[inside]
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_images_are_read_when_they_come_near_and_not_kept() -> None:
    """Ten thousand images: looked at one after the other, each is read once, none ahead of its time."""
    reads: list[int] = []

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return np.full((8 + index % 5, 9), 0.5)

    scene = ImageScene(read, [str(i) for i in range(10_000)], pixel_um=PIXEL_UM, field_of_view_um=FIELD_UM)
    for y in np.arange(0, 250, 0.7):
        scene.occupied(y, y + 1.0)
        scene.transmission(24.0, np.array([y, y + 0.5]))
    assert reads == list(range(len(reads)))
    assert len(reads) == pytest.approx(250 / (26 * PIXEL_UM), rel=0.05)
    fresh = ImageScene(read, scene.kinds, pixel_um=PIXEL_UM, field_of_view_um=FIELD_UM)
    np.testing.assert_array_equal(fresh.objects(200, 210), scene.objects(200, 210))
    y = np.linspace(200, 210, 300)
    np.testing.assert_array_equal(fresh.transmission(24.0, y), scene.transmission(24.0, y))


def test_scene_without_images_is_clear() -> None:
    scene = scene_of([])
    assert scene.objects(0, 1e9).shape == (0,)
    assert scene.occupied(0, 1e9).shape == (0, 4)
    assert scene.transmission(np.zeros(3), 5.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((4, 4, 3)), r"image class0/0: must have shape \(rows, columns\), got \(4, 4, 3\)"),
        (np.ones((0, 4)), "must have shape"),
        (np.full((4, 4), 255.0), "must be transmission, 0 opaque to 1 clear, got 255 to 255; divide"),
        (np.full((4, 4), np.nan), "must be transmission"),
        (np.ones((4, 361)), "361 columns of 0.1 µm are wider than the 36 µm"),
    ],
)
def test_bad_images_say_so(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scene_of([image]).objects(0, 100)


def test_bad_sizes_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="pixel_um must be finite and above zero"):
        scene_of(pictures(), pixel_um=0.0)
    with pytest.raises(ValueError, match=r"gap_um must be finite and 16 pixels, 1\.6 µm, or more"):
        scene_of(pictures(), gap_um=1.0)
    monkeypatch.setattr("stretchscope.data.image_scene.MOST_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match="64 pixels are too many"):
        scene_of([np.ones((8, 8))]).objects(0, 100)

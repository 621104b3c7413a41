"""How fast cells are classified on one core: pictures' drawing, networks, and features with an ensemble of trees.

    python benchmarks/classify_speed.py [--cells 1024] [--seconds 2]

Needs the extra ``train``, to make the models: they are trained for a moment only, on made-up cells, since speed does
not depend on what a model has learnt. The ensemble's cells are timed from the image on: segmentation and features
count. Figures are cells per second of processor time of the one thread that works, so that what else the machine does
matters less.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from record import machine, write_result

from stretchscope.classify import feature_columns, measure_images, segment_images
from stretchscope.classify.calibration import Familiar
from stretchscope.classify.estimator import FeatureClassifier, NetworkClassifier
from stretchscope.classify.export import ensemble_to_onnx, network_to_onnx
from stretchscope.classify.feature_table import feature_names, feature_table
from stretchscope.classify.model import ModelCard
from stretchscope.classify.networks import NETWORKS
from stretchscope.classify.pictures import SIDE_PX, pictures_of_crops
from stretchscope.classify.runtime import Model
from stretchscope.classify.training import score_pictures

BATCHES = (1, 8, 64, 256)
CROP_PX = 64
CLASSES = tuple(f"class {n}" for n in range(15))


def made_up_cells(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Textured ellipses: transmission, float32 (N, side, side), masks, and a class of each by its size and shape."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:CROP_PX, :CROP_PX] - (CROP_PX - 1) / 2
    labels = np.arange(count) % len(CLASSES)
    long = 9 + labels % 5 * 3.5 + random.uniform(-1, 1, count)
    wide = long * (0.45 + labels // 5 * 0.25)
    masks = (y / long[:, None, None]) ** 2 + (x / wide[:, None, None]) ** 2 < 1
    inside = random.uniform(0.4, 0.7, count)[:, None, None] + random.normal(0, 0.05, masks.shape)
    transmission = np.where(masks, inside, 1) + random.normal(0, 0.005, masks.shape)
    return transmission.astype(np.float32), masks, labels


def per_second(work: Callable[[], object], items: int, seconds: float) -> float:
    """Items per second of processor time: the best of the runs in some seconds, after one that does not count."""
    work()
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return items / best


def measured(transmission: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of features of the cells, one to an image, found again in it."""
    count = len(transmission)
    place = np.column_stack([np.arange(count) * CROP_PX**2, np.full((count, 2), CROP_PX)]).astype(np.int64)
    flat = np.ascontiguousarray(transmission).ravel()
    known, std = np.ones(flat.size, np.bool_), np.full(flat.size, 0.005, np.float32)
    seeds, labels = masks.ravel().copy(), np.empty(flat.size, np.int32)
    cells, extents = segment_images(place, flat, known, std, seeds, labels, floor=0.03, min_area_px=12)
    values = measure_images(place, cells, extents, labels, flat, known, pixel_um=None)
    return dict(zip(feature_columns(calibrated=False), values.T, strict=True))


def network(name: str, pictures: np.ndarray, labels: np.ndarray) -> Model:
    """A network, hardly trained."""
    trained = NetworkClassifier(network=name, epochs=1, sized=False).fit(pictures, labels).trained_
    _, embeddings = score_pictures(trained.module(), pictures)
    card = ModelCard("network", CLASSES, SIDE_PX, False, None, "dark", 1.0, 1e9, 0.05)
    return Model(network_to_onnx(trained, Familiar.of(embeddings, labels, len(CLASSES)), card), name)


def ensemble(columns: dict[str, np.ndarray], labels: np.ndarray) -> Model:
    """Trees over features, as ``train`` makes them."""
    names = feature_names(in_um=False)
    trees = FeatureClassifier().fit(feature_table(columns, names), labels)
    card = ModelCard("ensemble", CLASSES, 0, False, None, "dark", 1.0, 1e9, 0.05, names)
    return Model(ensemble_to_onnx(trees, card), "ensemble")


def time_of_crops(model: Model, crops: np.ndarray, masks: np.ndarray, columns: dict[str, Any], seconds: float) -> dict:
    """Cells per second of ``Model.of_crops`` by the cells of a call."""
    rates = {}
    for batch in BATCHES:
        parts = [slice(first, first + batch) for first in range(0, max(batch, 64), batch)]
        own = [(crops[p], masks[p], {n: v[p] for n, v in columns.items()}) for p in parts]

        def work(own: list = own) -> None:
            for part in own:
                model.of_crops(*part, pixel_um=None)

        rates[batch] = per_second(work, batch * len(parts), seconds)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1024, help="made-up cells to train on and to classify")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each figure is measured")
    given = parser.parse_args()
    transmission, masks, labels = made_up_cells(max(given.cells, 256))
    crops = np.clip(np.rint(transmission * 150), 0, 255).astype(np.uint8)
    columns = measured(transmission, masks)
    pictures = pictures_of_crops(crops, masks)
    few, few_masks = transmission[:256], masks[:256]
    result: dict[str, Any] = {
        "crop_px": CROP_PX,
        "classes": len(CLASSES),
        "pictures_per_s": per_second(lambda: pictures_of_crops(crops[:256], few_masks), 256, given.seconds),
        "features_per_s": per_second(lambda: measured(few, few_masks), 256, given.seconds),
        "of_crops_cells_per_s": {},
        "of_pictures_cells_per_s": {},
    }
    models = {name: network(name, pictures, labels) for name in NETWORKS}
    models["ensemble"] = ensemble(columns, labels)
    for name, model in models.items():
        result["of_crops_cells_per_s"][name] = time_of_crops(model, crops, masks, columns, given.seconds)
        if name in NETWORKS:
            rate = per_second(lambda model=model: model.of_pictures(pictures[:256]), 256, given.seconds)
            result["of_pictures_cells_per_s"][name] = rate
    trees = models["ensemble"]

    def from_image_to_class() -> None:
        trees.of_features(feature_table(measured(few, few_masks), trees.card.features))

    result["ensemble_from_image_cells_per_s"] = per_second(from_image_to_class, 256, given.seconds)
    print(f"{machine()['cpu']}, one thread; cells per second of processor time")
    print(f"{'pictures drawn':24} {result['pictures_per_s']:9.0f}")
    print(f"{'segmented, measured':24} {result['features_per_s']:9.0f}")
    for name, rates in result["of_crops_cells_per_s"].items():
        print(f"{name + ', from crops':24} " + ", ".join(f"{rate:.0f} by {batch}" for batch, rate in rates.items()))
    for name, rate in result["of_pictures_cells_per_s"].items():
        print(f"{name + ', from pictures':24} {rate:9.0f}")
    print(f"{'ensemble, from images':24} {result['ensemble_from_image_cells_per_s']:9.0f}")
    write_result("classify_speed", result)


if __name__ == "__main__":
    main()

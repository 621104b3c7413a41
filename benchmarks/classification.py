"""What a sample rate costs a classifier: the same cells digitised at 20, 5, 3 and 2 GSa/s, super-resolved or raw.

Photographs of phytoplankton (the folder ``phytoplankton`` of the shared data) flow past a simulated microscope, one
source pixel as wide as 1, 2 or 4 samples at 20 GSa/s (``pipeline.digitise`` says with which instrument). Classifiers
are trained on what comes out, once for each rate, form and seed, and tested on images that they have not seen; a seed
sets the split as well. Differences are paired: the same test images, digitised otherwise.

A study of hours, kept part by part; digitised pictures are kept in ``--cache``:

    python benchmarks/classification.py [--cache DIR] [--samples 1 2 4] [--rates 20 5 3 2] [--seeds 5] [--epochs 40]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from record import DATA, RESULTS, as_digits, from_digits, write_result

from stretchscope.classify.estimator import FeatureClassifier
from stretchscope.classify.feature_table import feature_names, feature_table
from stretchscope.classify.photographs import measure_photographs
from stretchscope.classify.pictures import pictures_of_images
from stretchscope.classify.scores import balanced_accuracy
from stretchscope.classify.training import TrainingSettings, score_pictures, train_network
from stretchscope.data.collections import Collection, open_collection, split
from stretchscope.pipeline.digitise import digitise, pixel_of_samples_um, slow_flow_instrument

FORMS = ("super_resolved", "raw_lines")
_NAMES = feature_names(in_um=True)


def digitised(collection: Collection, samples: float, rate_gsa: float, cache: Path) -> dict[str, np.ndarray]:
    """Pictures and features of all images, digitised, in both forms; ``there`` says which ones came through."""
    path = cache / f"{samples:g}_{rate_gsa:g}.npz"
    if path.exists():
        with np.load(path) as kept:
            return dict(kept)
    instrument = slow_flow_instrument(rate_gsa * 1e9)
    images: dict[str, list[np.ndarray]] = {form: [] for form in FORMS}
    there = np.ones(len(collection), dtype=bool)
    pixel_um = pixel_of_samples_um(instrument, samples)
    # what is brighter than the ground is noise of its camera
    for one in digitise(
        lambda index: collection.read(index).clip(0, 1), len(collection), instrument, pixel_um=pixel_um
    ):
        there[one.index] = one.missing is None
        for form in FORMS:
            image = getattr(one, form)
            images[form].append(np.ones((8, 8), np.float32) if image is None else np.nan_to_num(image, nan=1.0))
        if one.index % 500 == 0:
            print(f"\r{samples:g} samples, {rate_gsa:g} GSa/s: {one.index}", end="", flush=True)
    print()
    made = {"there": there}
    for form, some in images.items():
        made[f"{form}_network"] = pictures_of_images(some)
        made[f"{form}_ensemble"] = feature_table(measure_photographs(some, pixel_um=1.0), _NAMES)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(path, **made)
    return made


def found_by(
    classifier: str, seen: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int, epochs: int
) -> np.ndarray:
    """What a classifier trained on some of the images takes others for."""
    if classifier == "ensemble":
        found: np.ndarray = FeatureClassifier(random_state=seed).fit(seen[train], labels[train]).predict(seen[test])
        return found
    settings = TrainingSettings(epochs=epochs, patience=epochs, seed=seed)
    # the last weights count: nothing is chosen by what is tested on
    aside = train[:: max(len(train) // 64, 1)]
    trained = train_network(seen[train], labels[train], (seen[aside], labels[aside]), int(labels.max()) + 1, settings)
    return score_pictures(trained.module(), seen[test])[0].argmax(axis=1)


def summary(kept: dict[str, str], labels: np.ndarray, tests: dict[str, list[np.ndarray]]) -> dict[str, dict]:
    """Balanced accuracies, mean over seeds, and differences from 20 GSa/s super-resolved, paired, with intervals."""
    cases: dict[str, dict[int, np.ndarray]] = {}
    for key, found in kept.items():
        case, seed = key.rsplit("/", 1)
        cases.setdefault(case, {})[int(seed)] = from_digits(found)
    result: dict[str, dict] = {}
    for case, by_seed in cases.items():
        samples, _, _, classifier = case.split("/")
        reference = cases.get(f"{samples}/20/super_resolved/{classifier}", {})
        raw = cases.get(f"{samples}/2/raw_lines/{classifier}", {})
        if samples not in tests:
            continue
        own = tests[samples]
        accuracy = [balanced_accuracy(labels[own[seed]], found) for seed, found in by_seed.items()]
        result[case] = {
            "seeds": len(by_seed),
            "balanced_accuracy": float(np.mean(accuracy)),
            "below_20_gsa": _difference(reference, by_seed, labels, own),
            "above_raw_2_gsa": _difference(by_seed, raw, labels, own),
        }
    return result


def _difference(
    first: dict[int, np.ndarray], second: dict[int, np.ndarray], labels: np.ndarray, tests: list[np.ndarray]
) -> dict[str, object] | None:
    """Mean difference in balanced accuracy of two cases and its 95 % interval: seeds and images drawn anew, paired."""
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    random = np.random.default_rng(0)

    def one(seed: int, draw: bool) -> float:
        truth = labels[tests[seed]]
        chosen = np.arange(truth.size)
        if draw:
            chosen = np.concatenate(
                [random.choice(of, of.size) for of in (np.flatnonzero(truth == c) for c in np.unique(truth))]
            )
        return balanced_accuracy(truth[chosen], first[seed][chosen]) - balanced_accuracy(
            truth[chosen], second[seed][chosen]
        )

    draws = [np.mean([one(seed, True) for seed in random.choice(seeds, len(seeds))]) for _ in range(1000)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return {"mean": float(np.mean([one(seed, False) for seed in seeds])), "interval": [float(low), float(high)]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cache", type=Path, default=Path("build/digitised"))
    options.add_argument("--samples", nargs="+", type=float, default=(1, 2, 4))
    options.add_argument("--rates", nargs="+", type=float, default=(20, 5, 3, 2))
    options.add_argument("--classifiers", nargs="+", choices=("ensemble", "network"), default=("ensemble", "network"))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = options.parse_args()
    torch.set_num_threads(given.threads)

    collection = open_collection(DATA / "phytoplankton")
    labels = collection.labels.astype(np.int64)
    trains: dict[str, list[np.ndarray]] = {}
    tests: dict[str, list[np.ndarray]] = {}
    for samples in given.samples:  # the same images at all rates of a magnification
        there = np.ones(len(collection), dtype=bool)
        for rate in given.rates:
            there &= digitised(collection, samples, rate, given.cache)["there"]
        for seed in range(given.seeds):
            for parts, part in zip((trains, tests), split(collection, (0.8, 0.2), seed=seed), strict=True):
                parts.setdefault(f"{samples:g}", []).append(part[there[part]])
    path = RESULTS / "classification.json"
    for seed in range(given.seeds):
        for samples in given.samples:
            for rate in given.rates:
                made = digitised(collection, samples, rate, given.cache)
                for form in FORMS:
                    for classifier in given.classifiers:
                        kept = json.loads(path.read_text())["kept"] if path.exists() else {}
                        key = f"{samples:g}/{rate:g}/{form}/{classifier}/{seed}"
                        if key in kept:
                            continue
                        seen = made[f"{form}_{classifier}"]
                        train, test = trains[f"{samples:g}"][seed], tests[f"{samples:g}"][seed]
                        found = found_by(classifier, seen, labels, train, test, seed, given.epochs)
                        kept = json.loads(path.read_text())["kept"] if path.exists() else {}
                        kept[key] = as_digits(found)
                        print(key, f"{balanced_accuracy(labels[test], found):.4f}", flush=True)
                        write_result(
                            "classification",
                            {
                                "epochs": given.epochs,
                                "summary": summary(kept, labels, tests),
                                "kept": kept,
                            },
                        )


if __name__ == "__main__":
    main()

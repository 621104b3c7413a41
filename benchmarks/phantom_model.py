"""The built-in model: trained on phantoms of phytoplankton as the whole pipeline sees them, and how good it is.

Captures of phantoms are simulated at several sample rates and processed; their cells, labelled by the truth, are what
the model is trained on. Captures with other phantoms test it, and captures of shapes that it has never seen.
``--write`` puts the model where the package takes it from.

    python benchmarks/phantom_model.py [--captures 12] [--cells 300] [--epochs 60] [--write]
"""

import argparse
import tempfile
from pathlib import Path

import h5py
import numpy as np
from record import write_result

from stretchscope.acquisition.simulate import simulate
from stretchscope.classify.pictures import pictures_of_crops
from stretchscope.classify.runtime import Model
from stretchscope.classify.scores import evaluate
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.training import TrainingPlan, network_file

RATES_HZ = (5e9, 3e9, 2e9)
LINES_PER_CELL = 600
FOREIGN_SEED, TEST_SEED, VALIDATION_SEED, TRAINING_SEED = 900, 700, 500, 100
MODELS = Path(__file__).resolve().parents[1] / "data" / "models"


def cells_of(folder: Path, phantoms: str, seed: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of the cells found in a simulated capture, and the labels of the phantoms that they are."""
    capture = folder / f"{phantoms}{seed}.h5"
    rate = RATES_HZ[seed % len(RATES_HZ)]
    simulate(capture, lines=cells * LINES_PER_CELL, cells=cells, seed=seed, phantoms=phantoms, sample_rate_hz=rate)
    process_capture(capture, folder, overwrite=True, execution=Execution())
    with h5py.File(capture) as file:
        truth, labels = file["truth/cells"][:], file["truth/labels"].asstr()[:]
    with h5py.File(folder / f"{capture.stem}.rtdc") as file:
        events = file["events"]
        crops = events["image"][:].transpose(0, 2, 1)
        masks = events["mask"][:].transpose(0, 2, 1) > 0
        first, last = events["userdef0"][:], events["userdef1"][:]
    with capture.with_suffix(".csv").open(encoding="utf-8") as file:
        names = file.readline().strip().split(",")
        x_um = np.array([float(row.split(",")[names.index("position_um")]) for row in file])
    line = (first + last) / 2
    # what was found belongs to the true cell whose middle is nearest, if that is nearer than its radius
    along = (truth["line_first"] + truth["line_last"]) / 2
    um_per_line = float(
        np.median((truth["y_last_um"] - truth["y_first_um"]) / (truth["line_last"] - truth["line_first"]))
    )
    distance = np.hypot((line[:, None] - along) * um_per_line, x_um[:, None] - truth["x_um"])
    nearest = distance.argmin(axis=1)
    found = distance.min(axis=1) < truth["diameter_um"][nearest] / 2
    capture.unlink()
    return pictures_of_crops(crops[found], masks[found]), labels[truth["kind"][nearest[found]]]


def gather(phantoms: str, seed: int, captures: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of several captures."""
    with tempfile.TemporaryDirectory() as folder:
        some = [cells_of(Path(folder), phantoms, seed + number, cells) for number in range(captures)]
    pictures, labels = zip(*some, strict=True)
    return np.concatenate(pictures), np.concatenate(labels)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", type=int, default=12)
    options.add_argument("--cells", type=int, default=300, help="per capture")
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--write", action="store_true", help="replace the built-in model")
    given = options.parse_args()

    some = max(given.captures // 4, 1)
    known = [
        gather("plankton", seed, count, given.cells)
        for seed, count in ((TRAINING_SEED, given.captures), (VALIDATION_SEED, some), (TEST_SEED, some))
    ]
    foreign, _ = gather("foreign", FOREIGN_SEED, some, given.cells)
    classes = tuple(sorted(set(known[0][1].tolist())))
    numbers = [np.searchsorted(classes, labels) for _, labels in known]
    pictures = np.concatenate([known[0][0], known[1][0]])
    train = np.arange(len(known[0][0]))
    aside = np.arange(train.size, len(pictures))
    results: dict[str, object] = {"training_cells": train.size, "validation_cells": aside.size}
    for network in ("fast", "accurate"):
        plan = TrainingPlan(network=network, epochs=given.epochs)
        content, counts = network_file(pictures, np.concatenate(numbers[:2]), classes, (train, aside), plan, say=print)
        model = Model(content, network)
        verdicts = model.of_pictures(known[2][0])
        figures = evaluate(numbers[2], verdicts.probabilities, verdicts.rejected, classes)
        rejected = float(model.of_pictures(foreign).rejected.mean())
        print(
            f"{network}: balanced accuracy {figures['balanced_accuracy']:.3f}, expected calibration error "
            f"{figures['ece']:.3f}, known cells rejected {figures['rejected_fraction']:.3f} (asked: 0.05), "
            f"never seen rejected {rejected:.3f} of {len(foreign)}"
        )
        results[network] = figures | counts | {"foreign": {"n": len(foreign), "rejected_fraction": rejected}}
        if given.write and network == "accurate":
            MODELS.mkdir(exist_ok=True)
            (MODELS / "phantoms.onnx").write_bytes(content)
    write_result("phantom_model", results)


if __name__ == "__main__":
    main()

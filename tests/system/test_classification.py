"""Training, classifying and evaluating as a user does, on folders of images."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of discs, rings and bars, 40 images each."""
    folder = tmp_path_factory.mktemp("shapes")
    random = np.random.default_rng(0)
    for name in ("bar", "disc", "ring"):
        (folder / name).mkdir()
        for index in range(40):
            side = int(random.integers(30, 70))
            y, x = np.mgrid[:side, :side] - side / 2
            angle, radius = random.uniform(0, np.pi), side / random.uniform(2.8, 4)
            across = np.abs(x * np.sin(angle) + y * np.cos(angle))
            along = np.abs(x * np.cos(angle) - y * np.sin(angle))
            r = np.hypot(x, y)
            dark = {"bar": (across < 3) & (along < radius), "disc": r < radius, "ring": np.abs(r - radius) < 3}[name]
            texture = ndimage.gaussian_filter(random.normal(size=dark.shape), 2) * 7  # no two are alike
            grey = 230 * (1 - dark * (0.6 + 0.15 * texture).clip(0.2, 1)) + 2 * random.normal(size=dark.shape)
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def ensemble(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble trained on the shapes."""
    pytest.importorskip("onnx", reason="training needs onnx: make test-all")
    from stretchscope.data.collections import open_collection
    from stretchscope.pipeline.training import TrainingPlan, train_model

    model = tmp_path_factory.mktemp("model") / "shapes.onnx"
    train_model(open_collection(shapes), model, TrainingPlan(classifier="ensemble"))
    return model


@pytest.mark.train
def test_a_network_is_trained_applied_and_evaluated(run: Run, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs torch: make test-all")
    model, table, page = (tmp_path / name for name in ("m.onnx", "p.csv", "r.html"))
    status, out, err = run("train", shapes, "-o", model, "--network", "fast", "--epochs", 12, "--json")
    assert status == 0, err
    summary = json.loads(out)
    assert set(summary) == {"model", "classes", "parameters", "macs", "bytes", "validation", "seconds"}
    assert summary["classes"] == ["bar", "disc", "ring"]
    assert summary["bytes"] == model.stat().st_size
    assert not list(tmp_path.glob("*.part"))

    assert run("classify", shapes, "--model", model, "-o", table)[0] == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "probability", "rejected", "bar", "disc", "ring"]
    assert len(rows) == 120
    assert all(sum(float(row[name]) for name in ("bar", "disc", "ring")) == pytest.approx(1, abs=1e-5) for row in rows)

    status, out, _ = run("evaluate", shapes, "--model", model, "--held-out", "-o", page, "--json")
    assert status == 0
    figures = json.loads(out)
    assert figures["balanced_accuracy"] > 0.8
    assert {"n", "accuracy", "balanced_accuracy", "per_class", "ece", "rejected_fraction"} <= set(figures)
    assert figures["n"] == summary["validation"]["n"]
    assert b"Worst mistakes" in page.read_bytes() or figures["accuracy"] == 1


@pytest.mark.train
def test_an_ensemble_knows_what_it_was_trained_on(run: Run, shapes: Path, ensemble: Path) -> None:
    status, out, err = run("evaluate", shapes, "--model", ensemble, "--held-out", "--json")
    assert status == 0, err
    assert json.loads(out)["balanced_accuracy"] > 0.9


@pytest.mark.train
def test_a_class_that_the_model_does_not_know_is_named(run: Run, shapes: Path, ensemble: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("disc", "ring"):
        (other / name).symlink_to(shapes / name)
    (other / "star").symlink_to(shapes / "bar")
    status, _, err = run("evaluate", other, "--model", ensemble)
    assert status == 2
    assert "does not know the class star" in err
    status, out, _ = run("evaluate", other, "--model", ensemble, "--unknown", "star", "--json")
    assert status == 0
    assert json.loads(out)["unknown"]["n"] == 40


@pytest.mark.train
def test_bright_objects_are_refused_by_a_model_of_dark_ones(run: Run, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs torch: make test-all")
    model = tmp_path / "m.onnx"
    assert run("train", shapes, "-o", model, "--network", "fast", "--epochs", 1)[0] == 0
    bright = tmp_path / "bright"
    bright.mkdir()
    for path in (shapes / "disc").iterdir():
        grey = np.asarray(Image.open(path)).astype(int)
        Image.fromarray((350 - grey).clip(0, 255).astype(np.uint8)).save(bright / path.name)
    status, _, err = run("classify", bright, "--model", model, "-o", tmp_path / "p.csv")
    assert status == 2
    assert "brighter" in err
    assert not (tmp_path / "p.csv").exists()


def test_what_cannot_be_trained_on_is_said_in_one_line(run: Run, shapes: Path, tmp_path: Path) -> None:
    empty, one, single, damaged = (tmp_path / name for name in ("empty", "one", "single", "damaged"))
    for folder in (empty, one, single, damaged):
        folder.mkdir()
    for folder in (one, single, damaged):
        (folder / "disc").symlink_to(shapes / "disc")
    (single / "ring").mkdir()
    (single / "ring" / "a.png").write_bytes((shapes / "ring" / "00.png").read_bytes())
    (damaged / "ring").mkdir()
    for index in range(9):
        content = (shapes / "ring" / f"{index:02}.png").read_bytes()
        (damaged / "ring" / f"{index}.png").write_bytes(content[: len(content) // 2] if index == 4 else content)
    for folder, said in (
        (empty, "holds no images"),
        (one, "one class only"),
        (single, "'ring' has 1 image"),
        (damaged, "ring/4.png"),
        (tmp_path / "none", "no such folder"),
    ):
        status, _, err = run("train", folder, "-o", tmp_path / "m.onnx", "--classifier", "ensemble")
        assert status == 2, folder
        assert said in err
        assert err.count("\n") == 1
    assert not list(tmp_path.glob("m.onnx*"))


def test_outputs_are_looked_at_before_the_work(run: Run, shapes: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.onnx"
    there.write_bytes(b"mine")
    assert run("train", shapes, "-o", there)[0] == 2
    assert there.read_bytes() == b"mine"
    assert run("train", shapes, "-o", tmp_path / "no" / "m.onnx")[0] == 2
    status, _, err = run("classify", shapes, "--model", there, "-o", tmp_path / "p.csv")
    assert status == 2
    assert "not an ONNX model" in err


@pytest.mark.train
@pytest.mark.slow
def test_a_model_is_trained_on_what_a_digitiser_would_give(run: Run, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="training needs onnx: make test-all")
    model = tmp_path / "m.onnx"
    given = ("train", shapes, "-o", model, "--classifier", "ensemble", "--sample-rate", "5e9")
    status, _, err = run(*given)
    assert status == 2
    assert "--pixel-um" in err
    status, out, err = run(*given, "--pixel-um", 0.2, "--json")
    assert status == 0, err
    assert json.loads(out)["validation"]["balanced_accuracy"] > 0.8

"""Classes of cells: the same for a cell in a capture, in its stream and in its files, read by dclab, counted once."""

import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dclab
import numpy as np
import pyarrow.parquet as pq
import pytest
from dclab.cli import verify_dataset
from handmade_models import features_model, pixels_model

from stretchscope.acquisition import open_capture
from stretchscope.acquisition.source import ReplaySource
from stretchscope.classify.model import ModelCard
from stretchscope.classify.onnx_file import ModelError
from stretchscope.classify.runtime import UNKNOWN
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.labels import CellModel, class_codes, load_cell_model
from stretchscope.pipeline.live_setup import Calibration, calibrate_on_capture
from stretchscope.pipeline.results import OutputError
from stretchscope.pipeline.settings import ImageSettings, Settings
from stretchscope.pipeline.stream import run_stream

# The names sort otherwise than their codes, one is no ASCII, one would break a CSV that does not quote.
CLASSES = ("Zygnema, round", "Ähnlich", "middling")
SETTINGS = Settings(image=ImageSettings(method="gridding", crop_px=96))


def model_file(path: Path, **card: object) -> Path:
    """A model of size, darkness and shape: some cells unknown, the others of more than one class."""
    weights = {"area": (0.02, 0.0, 0.01), "transmission_min": (0.0, 6.0, 1.0), "aspect_ratio": (0.0, 0.0, 1.5)}
    usual = {"classes": CLASSES, "in_um": True, "novelty_limit": -3.05, "temperature": 0.7}
    path.write_bytes(features_model(weights, **(usual | card)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CellModel:
    return load_cell_model(model_file(tmp_path_factory.mktemp("model") / "size.onnx"))


@pytest.fixture(scope="module")
def processed(simulated: Path, model: CellModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processed")
    process_capture(simulated, folder, SETTINGS, model=model, execution=Execution(workers=2))
    return folder


@pytest.fixture(scope="module")
def calibrated(simulated: Path) -> Calibration:
    return calibrate_on_capture(simulated, SETTINGS)


def stream(simulated: Path, calibrated: Calibration, model: CellModel, folder: Path, **options: float) -> dict:
    with open_capture(simulated) as capture:
        source = ReplaySource(capture, paced=False, block_samples=1 << 19, depth=8)
        return run_stream(source, calibrated, folder=folder, stem="live", workers=2, model=model, **options)


@pytest.fixture(scope="module")
def streamed(
    simulated: Path, calibrated: Calibration, model: CellModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    stream(simulated, calibrated, model, folder)
    return folder


def rows_of(path: Path) -> list[dict[str, object]]:
    return pq.read_table(path).to_pylist()


def test_each_cell_has_a_class_that_its_row_and_its_scores_tell(processed: Path, model: CellModel) -> None:
    rows = rows_of(processed / "simulated.parquet")
    seen = Counter(row["label"] for row in rows)
    assert seen[UNKNOWN] > 0  # the test would test little if all were one
    assert len(seen) > 2
    for row in rows:
        scores = {name: row[column] for column, name in model.classes.items()}
        best = max(scores, key=lambda name: scores[name])
        assert row["label"] in (best, UNKNOWN)
        assert row["probability"] == max(scores.values())
        assert sum(scores.values()) == pytest.approx(1)
        alphabetical = [model.classes[column] for column in sorted(model.classes)]
        assert row["ml_class"] == (-1 if row["label"] == UNKNOWN else alphabetical.index(row["label"]))


def test_the_csv_says_the_same_as_the_parquet_file(processed: Path) -> None:
    with (processed / "simulated.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    for text, row in zip(written, rows_of(processed / "simulated.parquet"), strict=True):
        assert text["label"] == row["label"]
        assert float(text["probability"]) == row["probability"]


@pytest.mark.parametrize("which", ["processed", "streamed"])
def test_dclab_reads_the_classes_and_finds_no_fault(
    which: str, model: CellModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = request.getfixturevalue(which)
    path, table = {
        "processed": (folder / "simulated.rtdc", folder / "simulated.parquet"),
        "streamed": (folder / "live_0001.rtdc", folder / "live.parquet"),
    }[which]
    rows = {row["line_first"]: row for row in rows_of(table)}
    with dclab.new_dataset(path) as ds:
        assert len(ds) == len(rows)
        own = [rows[line] for line in ds["userdef0"]]
        for column in model.classes:
            np.testing.assert_array_equal(ds[column], [row[column] for row in own])
        np.testing.assert_array_equal(ds["ml_class"], [row["ml_class"] for row in own])
        log = ds.logs["classes"]
        assert [line.split(" ", 2)[2] for line in log] == [model.classes[c] for c in sorted(model.classes)]
        assert [line.split(" ", 2)[1] for line in log] == [f"{column}:" for column in sorted(model.classes)]
        assert ds.config["user"]["model sha256"] == model.sha256
        # what a user of the viewer does: the cells of one class
        number = int(log[0].split()[0])
        ds.config["filtering"]["ml_class min"], ds.config["filtering"]["ml_class max"] = number - 0.5, number + 0.5
        ds.apply_filter()
        name = log[0].split(" ", 2)[2]
        assert ds.filter.all.sum() == sum(row["label"] == name for row in own)
    monkeypatch.setattr(sys, "argv", ["dclab-verify-dataset", str(path)])
    with pytest.raises(SystemExit) as ended:
        verify_dataset()
    assert ended.value.code == 0


def test_a_cell_has_one_class_in_a_capture_and_in_its_stream(processed: Path, streamed: Path) -> None:
    """Probabilities agree as far as features do: the two line clocks differ by some 0.002 samples."""
    batch, live = rows_of(processed / "simulated.parquet"), rows_of(streamed / "live.parquet")
    assert len(batch) == len(live)
    for a, b in zip(batch, live, strict=True):
        assert abs(a["line_centre"] - b["line_centre"]) < 1
        assert a["label"] == b["label"]
        assert a["probability"] == pytest.approx(b["probability"], abs=1e-3)


def test_a_network_sees_the_same_in_a_capture_and_in_its_stream(
    simulated: Path, calibrated: Calibration, tmp_path: Path
) -> None:
    """Its scores are two levels of the picture; where the two clocks part, they may differ by one level."""
    (tmp_path / "pixels.onnx").write_bytes(pixels_model(temperature=100.0))
    model = load_cell_model(tmp_path / "pixels.onnx")
    process_capture(simulated, tmp_path / "p", SETTINGS, model=model)
    stream(simulated, calibrated, model, tmp_path / "l")
    batch, live = rows_of(tmp_path / "p" / "simulated.parquet"), rows_of(tmp_path / "l" / "live.parquet")
    assert len(batch) == len(live) > 10
    for a, b in zip(batch, live, strict=True):
        assert a["label"] == b["label"]
        assert a["probability"] == pytest.approx(b["probability"], abs=0.25 / 100)


@pytest.mark.parametrize("kind", ["ensemble", "network"])
def test_the_classes_follow_from_what_the_files_hold(
    processed: Path, model: CellModel, tmp_path: Path, kind: str
) -> None:
    """Crops, masks and columns of the .rtdc file and the table, given to the model again: the same bits."""
    if kind == "network":
        (tmp_path / "pixels.onnx").write_bytes(pixels_model())
        model = load_cell_model(tmp_path / "pixels.onnx")
    table = pq.read_table(processed / "simulated.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "label"}
    record = json.loads((processed / "simulated.run.json").read_text())
    with dclab.new_dataset(processed / "simulated.rtdc") as ds:
        crops, masks = (np.stack([ds[name][i].T for i in range(len(ds))]) for name in ("image", "mask"))
    told = model.columns(crops, masks.astype(bool), columns, pixel_um=record["grid"]["pixel_um"])
    if kind == "ensemble":
        np.testing.assert_array_equal(told["label"], table["label"].to_pylist())
        np.testing.assert_array_equal(told["probability"], columns["probability"])
    again = model.columns(crops[3:5], masks[3:5] > 0, {n: v[3:5] for n, v in columns.items()}, pixel_um=1.0)
    if kind == "network":
        np.testing.assert_array_equal(told["probability"][3:5], again["probability"])


def test_records_and_report_count_the_classes(processed: Path, streamed: Path, model: CellModel) -> None:
    record = json.loads((processed / "simulated.run.json").read_text())
    expected = Counter(row["label"] for row in rows_of(processed / "simulated.parquet"))
    assert record["classes"] == {name: expected[name] for name in (*CLASSES, UNKNOWN)}
    assert record["model"]["sha256"] == model.sha256
    assert record["model"]["classes"] == list(CLASSES)
    assert record["model"]["score_columns"] == model.classes
    page = (processed / "simulated.html").read_text()
    for name in (*CLASSES, UNKNOWN):
        assert f"<tr><th>{name}</th><td>{expected[name]}</td>" in page
    live = json.loads((streamed / "live.run.json").read_text())
    assert live["summary"]["classes"] == record["classes"]
    assert live["model"] == record["model"]


def test_rows_of_a_stream_without_an_image_have_no_class(
    simulated: Path, calibrated: Calibration, model: CellModel, tmp_path: Path
) -> None:
    record = stream(simulated, calibrated, model, tmp_path, image_share=0.5)
    rows = rows_of(tmp_path / "live.parquet")
    named = [row for row in rows if row["label"] is not None]
    assert 0 < len(named) < len(rows)
    assert len(named) == record["summary"]["images"] == sum(record["summary"]["classes"].values())
    for row in rows:
        empty = [row[name] is None for name in ("label", "probability", "ml_class", *model.classes)]
        assert all(empty) == (row["label"] is None) == any(empty)


def test_another_model_is_another_run(simulated: Path, processed: Path, model: CellModel, tmp_path: Path) -> None:
    """Not only another file: the same name with other bytes. And no model is another one, too."""
    other = load_cell_model(model_file(tmp_path / "size.onnx", temperature=0.8))
    assert other.name == model.name
    for wrong in (other, None):
        with pytest.raises(OutputError, match="another capture, settings, model or version"):
            process_capture(simulated, processed, SETTINGS, resume=True, model=wrong)
    before = (processed / "simulated.run.json").read_bytes()
    process_capture(simulated, processed, SETTINGS, resume=True, model=replace(model, name="renamed.onnx"))
    assert (processed / "simulated.run.json").read_bytes() == before


def without_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    from stretchscope.pipeline.survey import Geometry

    monkeypatch.setattr(Geometry, "calibrated", property(lambda _: False))


def test_a_model_that_takes_um_is_refused_where_they_are_not_known(
    simulated: Path, calibrated: Calibration, model: CellModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_scale(monkeypatch)
    with pytest.raises(ModelError, match=r"simulated\.h5: .*size\.onnx: takes sizes in µm"):
        process_capture(simulated, tmp_path / "p", SETTINGS, model=model)
    assert not (tmp_path / "p").exists()
    with pytest.raises(ModelError, match="takes sizes in µm"):
        stream(simulated, calibrated, model, tmp_path / "l")
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize("command", ["process", "stream"])
@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read: No such file"), (b"\x08\x09", "no graph")])
def test_a_model_that_cannot_be_used_ends_in_a_line_and_status_2(
    command: str, content: bytes | None, reason: str, simulated: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    given = [str(simulated)] if command == "process" else ["--source", str(simulated)]
    code = "from stretchscope.pipeline.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, command, *given, "-o", str(tmp_path / "out"), "--model", str(path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert reason in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        (("Chaetoceros", "Chain diatom", "Ciliate"), ("cha", "chi", "cil")),
        (("a", "b", "ab"), ("a00", "b00", "ab0")),
        (("aaa", "aaaa", "AAA", "a.a.a"), ("aaa", "000", "001", "002")),
        (("硅藻", "甲藻"), ("000", "001")),
        (("Émile", "4 cells"), ("emi", "4ce")),
    ],
)
def test_codes_of_classes(names: tuple[str, ...], codes: tuple[str, ...]) -> None:
    assert class_codes(names) == codes


def test_codes_are_unique_for_as_many_classes_as_a_model_may_have() -> None:
    codes = class_codes([f"species {n}" for n in range(4096)])
    assert len(set(codes)) == 4096
    assert all(len(code) == 3 and code.isascii() and code.isalnum() and code == code.lower() for code in codes)


@pytest.mark.train
def test_a_network_that_was_just_trained_works_at_once(simulated: Path, processed: Path, tmp_path: Path) -> None:
    """On the cells of the capture itself, large and small ones."""
    pytest.importorskip("torch", reason="training needs torch: install stretchscope[train]")
    pytest.importorskip("onnx", reason="model files are made with onnx: install stretchscope[train]")
    from stretchscope.classify.calibration import Familiar
    from stretchscope.classify.estimator import NetworkClassifier
    from stretchscope.classify.export import network_to_onnx
    from stretchscope.classify.pictures import SIDE_PX, pictures_of_crops
    from stretchscope.classify.training import score_pictures

    with dclab.new_dataset(processed / "simulated.rtdc") as ds:
        crops, masks = (np.stack([ds[name][i].T for i in range(len(ds))]) for name in ("image", "mask"))
        large = ds["area_um"][:] > np.median(ds["area_um"][:])
    pictures = np.repeat(pictures_of_crops(crops, masks > 0, pixel_um=0.2), 4)
    labels = np.repeat(large.astype(int), 4)
    trained = NetworkClassifier(network="fast", epochs=1).fit(pictures, labels).trained_
    _, embeddings = score_pictures(trained.module(), pictures)
    card = ModelCard("network", ("small", "large"), SIDE_PX, True, 0.2, "dark", 1.0, 1e9, 0.01)
    path = tmp_path / "fresh.onnx"
    path.write_bytes(network_to_onnx(trained, Familiar.of(embeddings, labels, 2), card))
    record = process_capture(simulated, tmp_path / "out", SETTINGS, model=load_cell_model(path))
    assert sum(record["classes"].values()) == record["accounting"]["cells"] > 0
    assert record["classes"][UNKNOWN] == 0

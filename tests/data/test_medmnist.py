"""The MedMNIST layout: parts, channels, labels, and cases that an npz should not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from consilia.core.errors import DataError
from consilia.data.loading import load_new_cases, load_site


def make_npz(path: Path, colour: bool = False, classes: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 40), ("val", 10), ("test", 12)):
        shape = (count, 28, 28, 3) if colour else (count, 28, 28)
        arrays[f"{part}_images"] = rng.integers(0, 256, size=shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    np.savez_compressed(path, **arrays)
    return arrays


def make_site(folder: Path, classes: int = 2, **changes: object) -> Path:
    names = [f"class-{i}" for i in range(classes)]
    spec = {"format": "medmnist", "file": "m.npz", "classes": names, **changes}
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"diagnosis": spec}}))
    return path


def test_official_splits_and_half(tmp_path: Path) -> None:
    arrays = make_npz(tmp_path / "m.npz")
    data = load_site(make_site(tmp_path, official_splits=True), "diagnosis")
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 10, 12]
    assert data.validation.case_ids[3] == "val-00003"
    expected = arrays["test_images"][5] / 255 * 2 - 1
    assert data.test.inputs[5, 0].numpy() == pytest.approx(expected, abs=1e-6)
    assert data.test.labels.tolist() == [0, 1] * 6


def test_colour_is_channels_first(tmp_path: Path) -> None:
    arrays = make_npz(tmp_path / "m.npz", colour=True)
    data = load_site(make_site(tmp_path, parts=["test"], test_only=True), "diagnosis")
    assert data.test.inputs.shape == (12, 3, 28, 28)
    expected = (arrays["test_images"][7, :, :, 2] / 255 - 0.5) / 0.5
    assert data.test.inputs[7, 2].numpy() == pytest.approx(expected, abs=1e-6)


def test_training_statistics(tmp_path: Path) -> None:
    arrays = make_npz(tmp_path / "m.npz", colour=True)
    data = load_site(make_site(tmp_path, official_splits=True, normalise="train"), "diagnosis")
    train = arrays["train_images"] / 255
    expected = (train - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2))
    assert data.train.inputs.numpy() == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-5)


def test_selected_cases(tmp_path: Path) -> None:
    make_npz(tmp_path / "m.npz")
    (tmp_path / "cases.txt").write_text("train-00003\ntrain-00001\nval-00002\n")
    path = make_site(tmp_path, parts=["train", "val"], select={"file": "cases.txt"}, test_only=True)
    assert load_site(path, "diagnosis").test.case_ids == ("train-00001", "train-00003", "val-00002")
    (tmp_path / "cases.txt").write_text("train-99999\n")
    with pytest.raises(DataError, match=r"1 listed case\(s\) are not in .*m.npz, e.g. 'train-99999'"):
        load_site(path, "diagnosis")


def test_another_order_of_the_file_is_refused(tmp_path: Path) -> None:
    arrays = make_npz(tmp_path / "m.npz", colour=True)
    path = make_site(tmp_path)
    first = load_site(path, "diagnosis")
    assert load_site(path, "diagnosis").fingerprint() == first.fingerprint()
    order = np.r_[3, 1, 2, 0, 4:40]  # two images change places
    shuffled = {name: values[order] if name.startswith("train") else values for name, values in arrays.items()}
    np.savez(tmp_path / "m.npz", **shuffled)
    with pytest.raises(DataError, match=r"2 of 40 case\(s\) hold other values or labels"):
        load_site(path, "diagnosis")
    arrays["train_labels"][7] = 1 - arrays["train_labels"][7]
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(DataError, match=r"1 of 40 case\(s\) hold other values or labels"):
        load_site(path, "diagnosis")


def test_wrong_files(tmp_path: Path) -> None:
    path = make_site(tmp_path, test_only=True)
    (tmp_path / "m.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="expected an npz archive"):
        load_site(path, "diagnosis")
    np.savez(tmp_path / "m.npz", train_images=np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(DataError, match=r"expected arrays \['train_labels'\]"):
        load_site(path, "diagnosis")
    np.savez(tmp_path / "m.npz", train_images=np.zeros((2, 28, 28)), train_labels=np.array([0, 1]))
    with pytest.raises(DataError, match=r"train_images: expected uint8 .* got float64"):
        load_site(path, "diagnosis")
    np.savez(tmp_path / "m.npz", train_images=np.zeros((2, 28, 28), np.uint8), train_labels=np.array([0, 5]))
    with pytest.raises(DataError, match=r"train-00001: expected a label in 0..1, got 5"):
        load_site(path, "diagnosis")
    np.savez(tmp_path / "m.npz", train_images=np.array([{}], dtype=object), train_labels=np.array([0]))
    with pytest.raises(DataError, match="expected an npz archive"):  # objects would need pickle
        load_site(path, "diagnosis")


def test_new_cases(tmp_path: Path) -> None:
    make_npz(tmp_path / "m.npz")
    path = make_site(tmp_path, official_splits=True, normalise="train")
    data = load_site(path, "diagnosis")
    with np.load(tmp_path / "m.npz") as arrays:
        np.savez(tmp_path / "new.npz", test_images=arrays["test_images"][:4])
    new = load_new_cases(path, "diagnosis", tmp_path / "new.npz")
    ids, inputs = list(new.ids), new.inputs
    assert ids == ["test-00000", "test-00001", "test-00002", "test-00003"]
    assert (inputs == data.test.inputs[:4]).all()

"""Image files: resizing and normalising against Pillow and NumPy, masks, unreadable files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from consilia.core.errors import DataError
from consilia.data.check import check_site
from consilia.data.loading import load_new_cases, load_site

COUNT = 10


def pixels(index: int, channels: int | None = None) -> np.ndarray:
    shape = (24, 32) if channels is None else (24, 32, channels)
    return np.random.default_rng(index).integers(0, 256, size=shape, dtype=np.uint8)


def make_site(root: Path, channels: int | None = None, **changes: object) -> Path:
    rows = ["name,pat,path"]
    for kind in ("images", "masks"):
        (root / kind).mkdir(exist_ok=True)
    for i in range(COUNT):
        Image.fromarray(pixels(i, channels)).save(root / "images" / f"im-{i}.png")
        Image.fromarray(((pixels(i) > 128) * 255).astype(np.uint8)).save(root / "masks" / f"im-{i}_m.png")
        rows.append(f"im-{i},p{i},{'malignant' if i % 2 else 'benign'}")
    (root / "meta.csv").write_text("\n".join(rows) + "\n")
    spec = {
        "format": "images",
        "file": "meta.csv",
        "folder": "images",
        "image": "{name}.png",
        "patient": "pat",
        "classes": ["benign", "malignant"],
        "label": {"column": "path"},
        "size": [12, 16],
        **changes,
    }
    path = root / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"diagnosis": spec}}))
    return path


MASK = {"folder": "masks", "name": "{name}_m.png"}


def test_size_and_training_statistics(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path), "diagnosis")
    assert data.train.inputs.shape == (7, 1, 12, 16)
    assert data.train.inputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert data.train.inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    case = data.test.case_ids[0]
    resized = Image.fromarray(pixels(int(case.split("-")[1]))).resize((16, 12), Image.Resampling.BILINEAR)
    train = [
        np.asarray(Image.fromarray(pixels(int(i.split("-")[1]))).resize((16, 12), Image.Resampling.BILINEAR)) / 255
        for i in data.train.case_ids
    ]
    expected = (np.asarray(resized) / 255 - np.mean(train)) / np.std(train)
    assert data.test.inputs[0, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_rgb_by_half(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path, channels=3, mode="rgb", normalise="half", size=[24, 32]), "diagnosis")
    index = int(data.train.case_ids[0].split("-")[1])
    expected = (pixels(index, 3).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    assert data.train.inputs[0].numpy() == pytest.approx(expected, abs=1e-6)


def test_labels_follow_the_class_order(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path), "diagnosis")
    for case, label in zip(data.train.case_ids, data.train.labels.tolist(), strict=True):
        assert label == int(case.split("-")[1]) % 2


def test_every_bad_file_is_reported(tmp_path: Path) -> None:
    path = make_site(tmp_path, mask=MASK)
    (tmp_path / "images" / "im-1.png").write_bytes(b"not a picture")
    (tmp_path / "images" / "im-2.png").unlink()
    Image.fromarray(np.zeros((24, 32), dtype=np.uint16)).save(tmp_path / "images" / "im-3.png")
    Image.fromarray(np.zeros((5, 6), dtype=np.uint8)).save(tmp_path / "masks" / "im-4_m.png")
    (tmp_path / "masks" / "im-5_m.png").unlink()
    errors = check_site(path)[0].errors
    assert len(errors) == 5
    for name, reason in [
        ("im-1.png", "expected a readable image"),
        ("im-2.png", "no such file"),
        ("im-3.png", "expected 8 bits per channel, got mode I"),
        ("im-4_m.png", "expected a mask of 24 x 32 as its image im-4.png, got 5 x 6"),
        ("im-5_m.png", "expected a readable mask: no such file"),
    ]:
        assert any(name in error and reason in error for error in errors), (name, errors)
    with pytest.raises(DataError, match=r"5 problem\(s\)"):
        load_site(path, "diagnosis")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="elsewhere: no such folder"):
        load_site(make_site(tmp_path, folder="elsewhere"), "diagnosis")


def test_new_cases_from_a_folder_and_a_file(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    data = load_site(path, "diagnosis")
    new = load_new_cases(path, "diagnosis", tmp_path / "images")
    ids, inputs = list(new.ids), new.inputs
    assert ids == [f"im-{i}" for i in range(COUNT)]
    case = data.test.case_ids[0]
    assert (inputs[ids.index(case)] == data.test.inputs[0]).all()
    new = load_new_cases(path, "diagnosis", tmp_path / "images" / f"{case}.png")
    ids, one = list(new.ids), new.inputs
    assert ids == [case]
    assert (one[0] == data.test.inputs[0]).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder or below it"):
        load_new_cases(path, "diagnosis", tmp_path / "empty")

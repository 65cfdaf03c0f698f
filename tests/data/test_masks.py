"""Segmentation from PNG files made with NumPy: masks read, resized, refused, counted, and written back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from consilia.core.errors import ConfigError, DataError
from consilia.data.check import check_site
from consilia.data.check_view import render
from consilia.data.dataset import SPLITS, SiteData
from consilia.data.loading import load_new_cases, load_site
from consilia.data.readers.base import Source
from consilia.data.readers.masks import write_masks
from consilia.data.readers.pictures import open_scan, read_header

COUNT = 10
ROWS, COLUMNS = 24, 32


def drawn(index: int) -> np.ndarray:
    """A rectangle whose place and size depend on the case; case 9 has none."""
    mask = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    if index < 9:
        mask[2 : 8 + index, 3 : 12 + 2 * index] = 255
    return mask


def make_site(root: Path, *, mask: dict[str, object] | None = None, **changes: object) -> Path:
    rows = ["name,pat"]
    for kind in ("images", "masks"):
        (root / kind).mkdir(exist_ok=True)
    for i in range(COUNT):
        pixels = np.random.default_rng(i).integers(0, 256, size=(ROWS, COLUMNS), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"im-{i}.png")
        Image.fromarray(drawn(i)).save(root / "masks" / f"im-{i}.png")
        rows.append(f"im-{i},p{i}")
    (root / "meta.csv").write_text("\n".join(rows) + "\n")
    spec = {
        "format": "images",
        "task": "segmentation",
        "file": "meta.csv",
        "folder": "images",
        "image": "{name}.png",
        "mask": {"folder": "masks", "name": "{name}.png", **(mask or {})},
        "patient": "pat",
        "classes": ["background", "lesion"],
        "size": [12, 16],
        "normalise": "half",
        **changes,
    }
    path = root / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"structure": spec}}))
    return path


def by_case(data: SiteData) -> dict[str, np.ndarray]:
    splits = [data.split(name) for name in SPLITS]
    return {case: split.labels[i].numpy() for split in splits for i, case in enumerate(split.case_ids)}


def test_masks_are_the_labels_at_the_models_size(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path), "structure")
    assert (data.task, data.class_names) == ("segmentation", ("background", "lesion"))
    assert data.train.labels.dtype == torch.uint8
    assert data.train.labels.shape == (7, 12, 16)
    assert data.train.spacing is None
    for case, mask in by_case(data).items():
        # Half the size: pixel i has its centre at 2 i + 1, which is in source pixel 2 i + 1.
        expected = drawn(int(case.split("-")[1]))[1::2, 1::2] // 255
        assert (mask == expected).all(), case


def test_nearest_at_an_odd_size_against_the_formula(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path, size=[7, 45]), "structure")
    rows = np.floor((np.arange(7) + 0.5) * ROWS / 7).astype(int)
    columns = np.floor((np.arange(45) + 0.5) * COLUMNS / 45).astype(int)
    for case, mask in by_case(data).items():
        assert (mask == drawn(int(case.split("-")[1]))[np.ix_(rows, columns)] // 255).all(), case


def test_given_spacing_is_scaled_by_the_resize(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path, size=[12, 8], spacing=[0.5, 0.2]), "structure")
    assert data.test.spacing is not None
    # 24 rows of 0.5 mm are 12 of 1 mm, 32 columns of 0.2 mm are 8 of 0.8 mm.
    assert data.test.spacing.numpy() == pytest.approx(np.tile([1.0, 0.8], (2, 1)))
    assert data.test.spacing.dtype == torch.float64


def test_one_bit_palette_and_other_gray_values(tmp_path: Path) -> None:
    expected = by_case(load_site(make_site(tmp_path), "structure"))
    for i in range(COUNT):
        image = Image.fromarray(drawn(i))
        path = tmp_path / "masks" / f"im-{i}.png"
        image.convert(("1", "P", "RGB", "RGBA", "L")[i % 5]).save(path)
    assert all(
        (mask == expected[case]).all() for case, mask in by_case(load_site(tmp_path / "site.yaml", "structure")).items()
    )
    for i in range(COUNT):
        Image.fromarray(np.where(drawn(i) > 0, 7 + i % 2, 3).astype(np.uint8)).save(tmp_path / "masks" / f"im-{i}.png")
    path = make_site(tmp_path / "again" if (tmp_path / "again").mkdir() is None else tmp_path)
    for i in range(COUNT):
        (path.parent / "masks" / f"im-{i}.png").write_bytes((tmp_path / "masks" / f"im-{i}.png").read_bytes())
    content = yaml.safe_load(path.read_text())
    content["datasets"]["structure"]["mask"] |= {"foreground": [7, 8], "background": [3]}
    path.write_text(yaml.safe_dump(content))
    assert all((mask == expected[case]).all() for case, mask in by_case(load_site(path, "structure")).items())


def test_every_wrong_mask_is_reported(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    masks = tmp_path / "masks"
    gray = drawn(0)
    gray[0, :5] = 17
    gray[1, :2] = 99
    Image.fromarray(gray).save(masks / "im-0.png")
    (masks / "im-1.png").unlink()
    (masks / "im-2.png").write_bytes(b"no picture")
    Image.fromarray(drawn(3)[:5, :6]).save(masks / "im-3.png")
    colour = np.stack([drawn(4), drawn(4), 255 - drawn(4)], axis=-1)
    Image.fromarray(colour).save(masks / "im-4.png")
    errors = check_site(path)[0].errors
    assert len(errors) == 5
    for name, reason in [
        ("im-0.png (row 1)", "foreground [255] and background [0], got 17 in 5 pixel(s) and 1 other value(s)"),
        ("im-1.png (row 2)", "expected a readable mask: no such file"),
        ("im-2.png (row 3)", "expected a readable mask: cannot identify"),
        ("im-3.png (row 4)", "expected a mask of 24 x 32 as its image im-3.png, got 5 x 6"),
        ("im-4.png (row 5)", "expected gray values, got mode RGB"),
    ]:
        assert any(name in error and reason in error for error in errors), (name, errors)
    with pytest.raises(DataError, match=r"5 problem\(s\)"):
        load_site(path, "structure")


def test_empty_masks(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    assert check_site(path)[0].errors == []
    content = yaml.safe_load(path.read_text())
    content["datasets"]["structure"]["mask"]["empty"] = "refuse"
    path.write_text(yaml.safe_dump(content))
    (error,) = check_site(path)[0].errors
    assert "im-9.png (row 10): the mask is empty" in error


def test_check_counts_masks(tmp_path: Path) -> None:
    path = make_site(tmp_path, size=[ROWS, COLUMNS], spacing=[0.5, 0.25])
    data = load_site(path, "structure")
    (report,) = check_site(path)
    assert report.errors == []
    assert report.counts == {}
    assert (report.spacing, report.input_shape) == ((0.5, 0.25), (1, ROWS, COLUMNS))
    assert sum(masks.empty for masks in report.masks.values()) == 1
    for name, masks in report.masks.items():
        cases = [int(case.split("-")[1]) for case in data.split(name).case_ids]
        full = [(6 + i) * (9 + 2 * i) / (ROWS * COLUMNS) for i in cases if i < 9]
        assert masks.cases == len(cases)
        assert masks.foreground == (pytest.approx(np.mean(full)) if full else None)
    console = Console(width=160, record=True, file=(tmp_path / "out.txt").open("w"))
    console.print(render(report))
    shown = console.export_text()
    for text in ("h / structure (images, segmentation)", "empty masks", "lesion: mean share", "0.5 x 0.25", "ready"):
        assert text in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": None}, "a segmentation needs mask"),
        ({"label": {"column": "pat"}}, "takes no label"),
        ({"classes": ["background", "a", "b"]}, "two classes, the background first"),
        ({"task": "classification"}, "a classification needs label"),
        ({"patient": None, "splits": {"scheme": "class_balanced"}}, "class_balanced goes by label"),
        ({"window": [10, 10]}, r"\[low, high\] with low below high"),
        ({"mask": {"folder": "masks", "name": "{name}.png", "foreground": [0]}}, r"not both: \[0\]"),
        ({"mask": {"folder": "masks", "name": "{name}.png", "empty": "skip"}}, "mask.empty"),
        ({"train_cases": 1.0}, "expected a whole number of cases from 1, or a fraction"),
        ({"train_cases": 0}, "expected a whole number of cases from 1, or a fraction"),
        ({"train_cases": True}, "expected a whole number of cases from 1, or a fraction"),
    ],
)
def test_wrong_specifications(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = make_site(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["datasets"]["structure"] |= changes
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        load_site(path, "structure")


def test_new_cases_and_their_masks_in_the_pictures_own_size(tmp_path: Path) -> None:
    path = make_site(tmp_path, spacing=[0.5, 0.2])
    data = load_site(path, "structure")
    new = load_new_cases(path, "structure", tmp_path / "images")
    assert new.ids == tuple(f"im-{i}" for i in range(COUNT))
    assert new.sources[3] == Source(tmp_path / "images" / "im-3.png", (ROWS, COLUMNS), (0.5, 0.2))
    case = data.test.case_ids[0]
    assert (new.inputs[new.ids.index(case)] == data.test.inputs[0]).all()
    masks = np.zeros((COUNT, 12, 16), dtype=bool)
    masks[3, 2:5, 7:9] = True
    written = write_masks(masks, new.sources, tmp_path / "out")
    assert written[3] == tmp_path / "out" / "im-3_mask.png"
    expected = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    expected[4:10, 14:18] = 255
    assert (np.asarray(Image.open(written[3])) == expected).all()
    assert not np.asarray(Image.open(written[4])).any()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    load_site(path, "structure")
    Image.fromarray(drawn(0)).save(tmp_path / "images" / "im-0.bmp")
    with pytest.raises(DataError, match=r"im-0.png: expected a case id of its own, got that of im-0.bmp"):
        load_new_cases(path, "structure", tmp_path / "images")
    sources = [Source(Path("a.png"), (4, 4)), Source(Path("a.bmp"), (4, 4))]
    with pytest.raises(DataError, match="would have the same mask file"):
        write_masks(np.zeros((2, 2, 2), dtype=bool), sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_imagenet_normalisation(tmp_path: Path) -> None:
    data = load_site(make_site(tmp_path, size=[ROWS, COLUMNS], normalise="imagenet"), "structure")
    index = int(data.test.case_ids[0].split("-")[1])
    pixels = np.random.default_rng(index).integers(0, 256, size=(ROWS, COLUMNS), dtype=np.uint8)
    assert data.test.inputs[0, 0].numpy() == pytest.approx((pixels / 255 - 0.449) / 0.226, abs=1e-5)
    (tmp_path / "rgb").mkdir()
    colour = load_site(make_site(tmp_path / "rgb", size=[ROWS, COLUMNS], normalise="imagenet", mode="rgb"), "structure")
    index = int(colour.test.case_ids[0].split("-")[1])
    pixels = np.random.default_rng(index).integers(0, 256, size=(ROWS, COLUMNS), dtype=np.uint8) / 255
    expected = np.stack([(pixels - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))])
    assert colour.test.inputs[0].numpy() == pytest.approx(expected, abs=1e-5)


def test_a_folder_of_pages(tmp_path: Path) -> None:
    path = make_site(tmp_path, image="{name}.tif")
    for i in range(COUNT):
        pages = [Image.fromarray(np.full((ROWS, COLUMNS), value, dtype=np.uint8)) for value in (1, 2)]
        pages[0].save(tmp_path / "images" / f"im-{i}.tif", save_all=i == 4, append_images=pages[1:])
    (error,) = [error for error in check_site(path)[0].errors if "pages" in error]
    assert "im-4.tif (row 5): expected a readable image: it has 2 pages" in error


def test_a_picture_that_only_its_viewer_turns(tmp_path: Path) -> None:
    """A photograph stored sideways: masks and boxes drawn in a viewer would not fit its pixels."""
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "photo.jpg"
    Image.new("L", (10, 6)).save(path, exif=turned)
    for read in (read_header, open_scan):
        with pytest.raises(DataError, match="its EXIF orientation is 6: save it upright first"):
            read(path)
    Image.new("L", (10, 6)).save(path)
    assert read_header(path).size == (6, 10)

"""DICOM and NIfTI files made with pydicom and nibabel: known pixels, spacing, orientation, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from consilia.core.errors import DataError
from consilia.data.check import check_site
from consilia.data.dataset import SPLITS
from consilia.data.loading import load_new_cases, load_site
from consilia.data.readers.masks import fits, write_masks
from consilia.data.readers.volumes import eight_bits, open_volume, read_header

nibabel: Any = pytest.importorskip("nibabel")
pydicom: Any = pytest.importorskip("pydicom")
pytest.importorskip("monai")

COUNT = 6


def write_dicom(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", **tags: object) -> None:
    """A secondary capture: ``pixels`` (rows, columns) uint16 or (rows, columns, 3) uint8."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if kind == "RGB" else 1
    if kind == "RGB":
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = kind
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)


def write_nifti(path: Path, stored: np.ndarray, affine: np.ndarray | None) -> None:
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)


def site(root: Path, rows: list[str], **changes: object) -> Path:
    (root / "meta.csv").write_text("\n".join(rows) + "\n")
    spec = {
        "format": "images",
        "task": "segmentation",
        "file": "meta.csv",
        "folder": ".",
        "image": "{name}",
        "mask": {"folder": ".", "name": "{mask}", "foreground": [1]},
        "classes": ["background", "gland"],
        "size": [6, 8],
        "normalise": "half",
        **changes,
    }
    path = root / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"structure": spec}}))
    return path


def test_eight_bits_by_hand() -> None:
    values = np.array([[-50.0, 0.0, 50.0, 100.0, 900.0]])
    assert eight_bits(values, (0.0, 100.0)).tolist() == [[0, 0, 128, 255, 255]]  # 127.5 to the even
    assert eight_bits(np.full((2, 2), 7), None).tolist() == [[0, 0], [0, 0]]
    ramp = np.arange(1001.0)[None]
    # 0.5 and 99.5 percent of 0..1000 are 5 and 995.
    expected = np.rint(np.clip((ramp - 5) / 990, 0, 1) * 255)
    assert (eight_bits(ramp, None) == expected).all()
    with pytest.raises(DataError, match="expected finite intensities, got 1 that are not"):
        eight_bits(np.array([[np.nan, 1.0]]), None)


def test_dicom_lies_as_stored_with_rescaling_and_spacing(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    write_dicom(tmp_path / "a.dcm", pixels, PixelSpacing=[0.5, 0.25], RescaleSlope=2, RescaleIntercept=-10)
    volume = open_volume(tmp_path / "a.dcm")
    assert (volume.header.size, volume.header.slices, volume.header.spacing) == ((3, 4), 1, (0.5, 0.25))
    assert volume.gray_values(0).tolist() == (pixels * 2.0 - 10).tolist()
    window = (-10.0, 12.0)
    assert volume.picture(0, window).tolist() == np.rint(pixels / 11 * 255).tolist()
    write_dicom(tmp_path / "b.dcm", pixels, "MONOCHROME1")
    inverted = open_volume(tmp_path / "b.dcm")
    assert inverted.header.spacing is None
    assert inverted.picture(0, (0.0, 11.0)).tolist() == (255 - np.rint(pixels / 11 * 255)).tolist()


def test_colour_dicom_stays_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
    write_dicom(tmp_path / "a.dcm", pixels, "RGB")
    assert (open_volume(tmp_path / "a.dcm").picture(0, None) == pixels).all()


@pytest.mark.parametrize(
    ("axes", "turn"),
    [
        ("LPS", lambda stored: stored),  # left, back: as a DICOM picture
        ("RPS", lambda stored: stored[::-1]),
        ("LAS", lambda stored: stored[:, ::-1]),
        ("RAS", lambda stored: stored[::-1, ::-1]),
        ("PIR", lambda stored: stored),  # a sagittal stack: back to the right, feet down
        ("ASR", lambda stored: stored[::-1, ::-1]),
    ],
)
def test_nifti_slices_are_shown_as_viewers_do(tmp_path: Path, axes: str, turn: Any) -> None:
    stored = np.arange(4 * 3 * 2, dtype=np.int16).reshape(4, 3, 2)
    affine = np.eye(4)
    for axis, (letter, size) in enumerate(zip(axes, (0.7, 0.3, 2.0), strict=True)):
        world = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter]
        affine[:3, axis] = 0
        affine[world, axis] = size * (1 if letter in "RAS" else -1)
    write_nifti(tmp_path / "a.nii.gz", stored, affine)
    volume = open_volume(tmp_path / "a.nii.gz")
    assert volume.header == read_header(tmp_path / "a.nii.gz")
    assert (volume.header.size, volume.header.slices, volume.header.axes) == ((3, 4), 2, axes)
    assert volume.header.spacing == pytest.approx((0.3, 0.7))
    for index in range(2):
        # As written: rows are the second stored axis, columns the first.
        assert (volume.gray_values(index) == turn(stored[:, :, index]).T).all()


def test_nifti_without_a_place_lies_as_stored(tmp_path: Path) -> None:
    stored = np.arange(12, dtype=np.float32).reshape(4, 3)
    write_nifti(tmp_path / "a.nii", stored, None)
    volume = open_volume(tmp_path / "a.nii")
    assert (volume.header.size, volume.header.slices, volume.header.axes) == ((3, 4), 1, "")
    assert (volume.gray_values(0) == stored.T).all()


AFFINE = np.diag([-0.5, 0.25, 3.0, 1.0])  # LAS: the second axis is turned


def prostate(root: Path) -> Path:
    """Two volumes of 8 x 6 voxels and three slices each; the mask of slice k of volume v holds k + v + 1 voxels."""
    rows = ["name,mask,k,pat"]
    for v in range(2):
        values = np.random.default_rng(v).normal(size=(8, 6, 3)).astype(np.float32)
        mask = np.zeros((8, 6, 3), dtype=np.uint8)
        for k in range(3):
            mask[: k + v + 1, 1, k] = 1
            rows.append(f"v{v}.nii.gz,m{v}.nii.gz,{k},p{v}{k}")
        write_nifti(root / f"v{v}.nii.gz", values, AFFINE)
        write_nifti(root / f"m{v}.nii.gz", mask, AFFINE)
    return site(root, rows, slice="k", patient="pat")


def test_slices_of_volumes_are_cases(tmp_path: Path) -> None:
    data = load_site(prostate(tmp_path), "structure")
    found = {case: (split, i) for split in map(data.split, SPLITS) for i, case in enumerate(split.case_ids)}
    assert sorted(found) == [f"v{v}-{k}" for v in range(2) for k in range(3)]
    for case, (split, i) in found.items():
        v, k = int(case[1]), int(case[3])
        # Stored column 1 of the second axis is row 4 of 6 once the axis is turned; the first axis is the columns.
        mask = split.labels[i].numpy()
        assert mask[4].tolist() == [1] * (k + v + 1) + [0] * (7 - k - v)
        assert mask.sum() == k + v + 1
        assert split.spacing is not None
        assert split.spacing[i].tolist() == [0.25, 0.5]
        slice_ = np.random.default_rng(v).normal(size=(8, 6, 3)).astype(np.float32)[:, ::-1, k].T
        low, high = np.percentile(slice_, (0.5, 99.5))
        expected = np.rint(np.clip((slice_ - low) / (high - low), 0, 1) * 255) / 255 * 2 - 1
        assert split.inputs[i, 0].numpy() == pytest.approx(expected, abs=2 / 255 + 1e-6)  # float32 percentiles


def test_window_and_the_resized_spacing(tmp_path: Path) -> None:
    path = prostate(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["datasets"]["structure"] |= {"window": [-1, 1], "size": [12, 4]}
    path.write_text(yaml.safe_dump(content))
    data = load_site(path, "structure")
    assert data.train.spacing is not None
    assert data.train.spacing[0].tolist() == [0.125, 1.0]
    case = data.train.case_ids[0]
    slice_ = np.random.default_rng(int(case[1])).normal(size=(8, 6, 3)).astype(np.float32)[:, ::-1, int(case[3])].T
    pixels = np.rint((np.clip(slice_, -1, 1) + 1) / 2 * 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((4, 12), Image.Resampling.BILINEAR)) / 255 * 2 - 1
    assert data.train.inputs[0, 0].numpy() == pytest.approx(expected, abs=1e-6)


def test_predicted_slices_go_into_one_file_of_the_volumes_geometry(tmp_path: Path) -> None:
    path = prostate(tmp_path)
    data = load_site(path, "structure")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "v1.nii.gz").write_bytes((tmp_path / "v1.nii.gz").read_bytes())
    write_nifti(tmp_path / "new" / "flat.nii", np.zeros((5, 4), dtype=np.int16), AFFINE)
    new = load_new_cases(path, "structure", tmp_path / "new")
    assert new.ids == ("flat", "v1-0", "v1-1", "v1-2")
    assert [(s.size, s.spacing, s.slice) for s in new.sources[:2]] == [
        ((4, 5), (0.25, 0.5), 0),
        ((6, 8), (0.25, 0.5), 0),
    ]
    where = {case: (split, i) for split in map(data.split, SPLITS) for i, case in enumerate(split.case_ids)}
    truth = np.zeros((4, 6, 8), dtype=bool)
    for n, case in enumerate(new.ids[1:], start=1):
        split, i = where[case]
        assert (new.inputs[n] == split.inputs[i]).all()
        truth[n] = split.labels[i].numpy()
    files = write_masks(truth, new.sources, tmp_path / "out")
    assert files[1] == files[3] == tmp_path / "out" / "v1_mask.nii.gz"
    written, drawn = nibabel.load(files[1]), nibabel.load(tmp_path / "m1.nii.gz")
    assert (np.asarray(written.dataobj) == np.asarray(drawn.dataobj)).all()
    assert (written.affine == AFFINE).all()
    assert written.get_data_dtype() == np.uint8
    assert nibabel.load(files[0]).shape == (5, 4)


def test_dicom_site_with_png_masks(tmp_path: Path) -> None:
    rows = ["name,mask"]
    for i in range(COUNT):
        pixels = np.random.default_rng(i).integers(0, 4096, size=(6, 8), dtype=np.uint16)
        write_dicom(tmp_path / f"d{i}.dcm", pixels, PixelSpacing=[1.5, 0.75])
        Image.fromarray((pixels > 2000).astype(np.uint8)).save(tmp_path / f"d{i}.png")
        rows.append(f"d{i}.dcm,d{i}.png")
    path = site(tmp_path, rows, window=[0, 4080])
    data = load_site(path, "structure")
    index = int(data.train.case_ids[0][1])
    pixels = np.random.default_rng(index).integers(0, 4096, size=(6, 8), dtype=np.uint16)
    expected = np.rint(np.clip(pixels / 4080, 0, 1) * 255) / 255 * 2 - 1
    assert data.train.inputs[0, 0].numpy() == pytest.approx(expected, abs=1e-6)
    assert (data.train.labels[0].numpy() == (pixels > 2000)).all()
    assert data.train.spacing is not None
    assert data.train.spacing[0].tolist() == [1.5, 0.75]
    new = load_new_cases(path, "structure", tmp_path / "d3.dcm")
    (file,) = write_masks(np.ones((1, 6, 8), dtype=bool), new.sources, tmp_path / "out")
    assert file.name == "d3_mask.png"
    assert (np.asarray(Image.open(file)) == np.full((6, 8), 255)).all()


def test_every_unfit_file_is_reported(tmp_path: Path) -> None:
    rows = ["name,mask,k,pat"]
    stack, flat = np.zeros((8, 6, 3), dtype=np.int16), np.zeros((8, 6), dtype=np.uint8)
    write_nifti(tmp_path / "v.nii.gz", stack, AFFINE)
    write_nifti(tmp_path / "m.nii.gz", stack.astype(np.uint8), AFFINE)
    write_nifti(tmp_path / "other.nii.gz", stack.astype(np.uint8), np.diag([-0.5, -0.25, 3.0, 1.0]))
    write_nifti(tmp_path / "five.nii.gz", np.zeros((8, 6, 3, 5), dtype=np.int16), AFFINE)
    write_nifti(tmp_path / "deep.nii.gz", np.zeros((8, 6, 4), dtype=np.uint8), AFFINE)
    write_nifti(tmp_path / "flat.nii.gz", flat, AFFINE)
    (tmp_path / "broken.nii.gz").write_bytes(b"no volume")
    frames = np.zeros((2, 3, 4), dtype=np.uint16)
    write_dicom(tmp_path / "film.dcm", frames.reshape(6, 4), NumberOfFrames=2, Rows=3, Columns=4)
    (tmp_path / "broken.dcm").write_bytes(b"no dicom")
    cases = [
        ("v.nii.gz,m.nii.gz,3", "v.nii.gz (row 1): slice 3 is out of range: the file has 3 slice(s)"),
        ("v.nii.gz,m.nii.gz,two", "row 2: column 'k': expected a slice from 0, got 'two'"),
        (
            "v.nii.gz,other.nii.gz,0",
            "other.nii.gz (row 3): expected a mask that lies as its image v.nii.gz, LAS, got LPS",
        ),
        ("five.nii.gz,m.nii.gz,0", "five.nii.gz (row 4): expected a readable image: it is neither a picture nor"),
        ("v.nii.gz,deep.nii.gz,1", "deep.nii.gz (row 5): expected a mask of 3 slice(s) as its image v.nii.gz, got 4"),
        ("v.nii.gz,flat.nii.gz,1", "flat.nii.gz (row 6): 2 slices name this mask, which is a single picture"),
        ("v.nii.gz,flat.nii.gz,2", "flat.nii.gz (row 7): 2 slices name this mask, which is a single picture"),
        ("broken.nii.gz,m.nii.gz,0", "broken.nii.gz (row 8): expected a readable image"),
        ("film.dcm,m.nii.gz,0", "film.dcm (row 9): expected a readable image: it has 2 frames"),
        ("broken.dcm,m.nii.gz,0", "broken.dcm (row 10): expected a readable image"),
        ("none.dcm,m.nii.gz,0", "none.dcm (row 11): expected a readable image: no such file"),
    ]
    path = site(
        tmp_path, [*rows, *(f"{line},p{i}" for i, (line, _) in enumerate(cases))], slice="k", patient="pat", case="pat"
    )
    errors = check_site(path)[0].errors
    for _, message in cases:
        assert any(message in error for error in errors), (message, errors)
    assert not any("row 2)" in error for error in errors)  # said once, where the table is wrong


def test_a_volume_without_a_slice_column(tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii.gz", np.zeros((8, 6, 3), dtype=np.int16), AFFINE)
    write_nifti(tmp_path / "m.nii.gz", np.zeros((8, 6, 3), dtype=np.uint8), AFFINE)
    path = site(tmp_path, ["name,mask", "v.nii.gz,m.nii.gz"])
    assert any("a volume of 3 slices: `slice` must name the column" in error for error in check_site(path)[0].errors)


def test_dicom_spacing_of_zeros_is_not_known(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.zeros((4, 6), dtype=np.uint16), PixelSpacing=[0, 0])
    assert read_header(tmp_path / "a.dcm").spacing is None


def test_a_mask_without_a_place_does_not_fit_an_image_with_one(tmp_path: Path) -> None:
    """The image is turned as its affine says, the mask cannot be: the same voxel would lie elsewhere."""
    write_nifti(tmp_path / "image.nii.gz", np.zeros((8, 6, 2), dtype=np.int16), np.diag([1.0, 1.0, 1.0, 1.0]))
    write_nifti(tmp_path / "mask.nii.gz", np.zeros((8, 6, 2), dtype=np.uint8), None)
    image, mask = (read_header(tmp_path / name) for name in ("image.nii.gz", "mask.nii.gz"))
    with pytest.raises(DataError, match="expected a mask that lies as its image"):
        fits(mask, (tmp_path / "image.nii.gz", image))
    fits(image, (tmp_path / "image.nii.gz", image))
